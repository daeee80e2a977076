//! One profile of a real program, in every format: each stack has the same time in all of them.
#![allow(clippy::disallowed_methods, reason = "a test: it starts a program")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent_model::{AgentInfo, Cost, Data, Envelope, Observed, Redaction, SessionInfo};
use agent_session::redact::{Classes, Redacted, Redactor};
use agent_session::{Identity, Limits, Session};
use agent_system::{Collector as _, Plan, Run, clock};
use flate2::read::GzDecoder;
use protos::Message as _;

use super::super::{Options, Profile, Stop};
use super::*;

/// Microseconds by stack, outermost function first, with the state before it.
type Times = BTreeMap<Vec<String>, u64>;

struct Target(Child);

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn recorded() -> Listing<Row, Summary> {
    let mut command = Command::new(agent_targets::build("shares", &["-O2", "-g"]));
    let mut target = Target(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts"));
    let lines = BufReader::new(target.0.stdout.take().expect("piped")).lines();
    let is_ready = lines.map_while(Result::ok).any(|line| line == "\"ready\"");
    assert!(is_ready);
    let session = Session::open(Identity::new("s").expect("an ID"), Limits::default(), clock::boot_us(), false);
    let mut run = Run::begin(session, Plan::default()).expect("a run");
    run.aim(target.0.id()).expect("the target");
    let options = Options {
        duration: Duration::from_millis(1500),
        hz: 200,
        budget: "50".parse().expect("a share"),
        stop: Stop::Auto,
        stop_budget: "50".parse().expect("a share"),
        threads: false,
        max_frames: 256,
    };
    Profile::collect(&run, &options).expect("a profile").data
}

fn written(
    data: &Listing<Row, Summary>,
    write: fn(&Enveloped<'_>, &Listing<Row, Summary>, &mut dyn io::Write) -> io::Result<()>,
) -> Vec<u8> {
    let (redactor, classes) = (Redactor::new(agent_model::RedactionLevel::Off, [0; 32]), Classes::default());
    let shown: Redacted<'_, dyn Data> = Redacted::new(data, &redactor, &classes, None);
    let session = SessionInfo { id: Text::from("s"), incident: None, actor: None, traceparent: None, expires: None };
    let envelope: Enveloped<'_> = Envelope {
        schema: String::new(),
        session,
        sequence: 1,
        agent: AgentInfo { version: "0", build_id: None },
        resource: BTreeMap::new(),
        target: None,
        observed: Observed { start: String::new(), end: String::new() },
        cost: Cost::default(),
        options: &(),
        data: &shown,
        gaps: Vec::new(),
        redaction: Redaction::default(),
        digest: String::new(),
    };
    let mut out = Vec::new();
    write(&envelope, data, &mut out).expect("written");
    out
}

fn add(times: &mut Times, stack: impl IntoIterator<Item = String>, time_us: u64) {
    *times.entry(stack.into_iter().collect()).or_default() += time_us;
}

fn of_rows(data: &Listing<Row, Summary>) -> Times {
    let mut times = Times::new();
    for row in &data.rows {
        let mut names: Vec<String> = row.frames.iter().rev().flat_map(functions).map(|(name, _, _)| name).collect();
        if names.is_empty() {
            names.push("[no stack]".to_owned());
        }
        add(&mut times, std::iter::once(state_words(row).to_owned()).chain(names), row.time_us);
    }
    times
}

fn of_folded(bytes: &[u8]) -> Times {
    let mut times = Times::new();
    for line in std::str::from_utf8(bytes).expect("UTF-8").lines() {
        let (stack, time) = line.rsplit_once(' ').expect("a time");
        add(&mut times, stack.split(';').map(str::to_owned), time.parse().expect("a number"));
    }
    times
}

fn of_speedscope(bytes: &[u8]) -> Times {
    let file: Value = serde_json::from_slice(bytes).expect("JSON");
    let mut times = Times::new();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    for profile in list(&file["profiles"]) {
        let state = profile["name"].as_str().expect("a name");
        for (sample, weight) in list(&profile["samples"]).iter().zip(list(&profile["weights"])) {
            let name = |at: &Value| &file["shared"]["frames"][at.as_u64().expect("an index") as usize]["name"];
            let names = list(sample).iter().map(|at| name(at).as_str().expect("a name").to_owned()).collect::<Vec<_>>();
            let stack = std::iter::once(state.to_owned()).chain(names);
            add(&mut times, stack, weight.as_u64().expect("a number"));
        }
    }
    times
}

fn of_pprof(bytes: &[u8]) -> Times {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip");
    let profile = protos::Profile::decode(&plain[..]).expect("profile.proto");
    let mut times = Times::new();
    for sample in &profile.sample {
        let (state, nanoseconds) =
            if sample.value[1] > 0 { ("on-CPU", sample.value[1]) } else { ("off-CPU", sample.value[2]) };
        let location = |id: &u64| profile.location.iter().find(|one| one.id == *id).expect("a location");
        let name = |line: &protos::Line| {
            let function = profile.function.iter().find(|one| one.id == line.function_id).expect("a function");
            profile.string_table[function.name as usize].clone()
        };
        let mut names: Vec<String> =
            sample.location_id.iter().flat_map(|id| location(id).line.iter().map(name)).collect();
        names.reverse();
        if names.is_empty() {
            names.push("[no stack]".to_owned());
        }
        add(&mut times, std::iter::once(state.to_owned()).chain(names), nanoseconds as u64 / 1000);
    }
    times
}

#[test]
fn one_profile_says_the_same_in_every_format() {
    let data = recorded();
    let rows = of_rows(&data);
    let total: u64 = rows.values().sum();
    assert_eq!(total, data.summary.on_cpu_us + data.summary.off_cpu_us);
    // Four threads, for a second and a half.
    assert!(total >= 4 * 1_450_000 && rows.len() > 5, "{total}: {:?}", rows.keys());
    assert!(rows.keys().any(|stack| stack[0] == "on-CPU") && rows.keys().any(|stack| stack[0] == "off-CPU"));
    assert_eq!(of_folded(&written(&data, folded)), rows);
    assert_eq!(of_speedscope(&written(&data, speedscope)), rows);
    assert_eq!(of_pprof(&written(&data, pprof)), rows);
    let svg = String::from_utf8(written(&data, svg)).expect("UTF-8");
    let all = svg.split("<title>all (").nth(1).and_then(|rest| rest.split(' ').next()).expect("the total");
    assert_eq!(all.replace(',', "").parse::<u64>().expect("a number"), total);
}
