//! `agent profile` against a program that knows how it spends its time, and its formats against each other.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Command, Stdio};

use common::{Answer, Child, SOON, agent, rows, run, skip, wait_until};
use flate2::read::GzDecoder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Runs a profile; one with incomplete stacks is no failure here.
fn profile(pid: u32, options: &[&str]) -> Value {
    let pid = pid.to_string();
    run(["profile", "--pid", &pid, "-o", "json"].iter().chain(options)).json()
}

fn functions(row: &Value) -> Vec<&str> {
    let frames = row["frames"].as_array().expect("frames");
    frames.iter().map(|frame| frame["function"].as_str().unwrap_or("?")).collect()
}

fn time(row: &Value) -> u64 {
    row["time_us"].as_u64().expect("a time")
}

/// Time of the rows of a thread in one state, by the first of `names` that stands in the stack.
fn shares<'a>(seen: &Value, thread: &str, state: &str, names: &[&'a str]) -> BTreeMap<&'a str, u64> {
    let mut shares = BTreeMap::new();
    for row in rows(seen).iter().filter(|row| row["thread"]["name"] == thread && row["state"] == state) {
        let stack = functions(row);
        let name = names.iter().find(|name| stack.contains(name)).copied().unwrap_or("elsewhere");
        *shares.entry(name).or_default() += time(row);
    }
    shares
}

/// What `shares` says that it has spent up to now.
fn spent(target: &mut Child) -> Value {
    target.tell("");
    target.answer().pop().expect("a line")
}

fn between(before: &Value, after: &Value, key: &str) -> u64 {
    after[key].as_u64().expect("a number") - before[key].as_u64().expect("a number")
}

/// Where other programs want the processors as well, a thread that waits in the queue is seen at one place for long: what
/// counts is for how long it ran, so it is looked at until that is enough for three points.
#[test]
fn known_shares_are_reported_within_three_points() {
    let mut target = Child::target("shares", &["-O2"], ["w"]);
    let names = ["burn_a", "burn_b", "burn_c", "burn_d"];
    let before = spent(&mut target);
    let mut shares_us: BTreeMap<&str, u64> = BTreeMap::new();
    let mut processor_us = 0;
    for _ in 0..10 {
        let options = ["--for", "6s", "--hz", "400", "--budget", "100", "--stop-budget", "100", "--threads"];
        let options = [&options[..], &["--limit", "stop=10s/60s"]].concat();
        let seen = profile(target.pid(), &options);
        let mut all = 0;
        for (name, time) in shares(&seen, "worker", "on_cpu", &names) {
            *shares_us.entry(name).or_default() += time;
            all += time;
        }
        // It never sleeps: all of its time is on a processor, or waiting for one.
        let number = |key: &str| seen["data"]["summary"][key].as_u64().expect("a number");
        let duration = number("duration_us");
        assert!(all * 100 > duration * 99, "{all} of {duration}");
        let kernel = number("processor_us") + number("run_queue_us");
        // While it was held it was neither, and that was its time all the same.
        let (least, most) = (kernel, kernel + number("stopped_us"));
        let (on_cpu, slack) = (number("on_cpu_us"), duration / 20);
        assert!(on_cpu + slack > least && on_cpu < most + slack, "{}", seen["data"]["summary"]);
        processor_us += number("processor_us");
        if processor_us > 3_000_000 {
            break;
        }
    }
    let after = spent(&mut target);
    if processor_us < 1_500_000 {
        return skip("known_shares_are_reported_within_three_points", "the machine is too busy");
    }
    let all: u64 = shares_us.values().sum();
    let keys = ["ns_a", "ns_b", "ns_c", "ns_d"];
    let true_all: u64 = keys.iter().map(|key| between(&before, &after, key)).sum();
    for (name, key) in names.iter().zip(keys) {
        let ours = 100.0 * shares_us.get(name).copied().unwrap_or(0) as f64 / all as f64;
        let truth = 100.0 * between(&before, &after, key) as f64 / true_all as f64;
        assert!((ours - truth).abs() < 3.0, "{name}: {ours:.1} % and not {truth:.1} %: {shares_us:?}");
    }
}

#[test]
fn a_second_off_the_processor_is_one() {
    let mut target = Child::target("shares", &["-O2"], ["sh"]);
    let options =
        ["--for", "5s", "--hz", "300", "--budget", "50", "--stop-budget", "50", "--threads", "--limit", "stop=2s/60s"];
    // On a busy machine who has slept long enough waits for a processor: its own clock calls that rest.
    let quiet = (0..5).find_map(|_| {
        let before = spent(&mut target);
        let seen = profile(target.pid(), &options);
        let truth_us = between(&before, &spent(&mut target), "rest_ns") / 1000;
        let number = |key: &str| seen["data"]["summary"][key].as_u64().expect("a number");
        let waited = 100.0 * number("run_queue_us") as f64 / number("duration_us") as f64;
        (waited < 25.0).then_some((seen, truth_us, waited))
    });
    let Some((seen, truth, waited)) = quiet else {
        return skip("a_second_off_the_processor_is_one", "the machine is too busy");
    };
    let duration = seen["data"]["summary"]["duration_us"].as_u64().expect("a time");
    assert!((5_000_000..5_500_000).contains(&duration), "{duration}");
    let blocked = shares(&seen, "sleeper", "off_cpu", &["block_here"]);
    let got = blocked["block_here"];
    assert!(got.abs_diff(duration) < duration / 100, "{got} of {duration}: {blocked:?}");
    let rest = shares(&seen, "half", "off_cpu", &["rest_here"]);
    // What it rested before the first look and after the last one is in the truth alone: compare the shares.
    let ours = 100.0 * rest["rest_here"] as f64 / duration as f64;
    let wall = seen["cost"]["wall_us"].as_u64().expect("a time").max(duration);
    let (low, high) = (100.0 * truth as f64 / wall as f64, 100.0 * truth as f64 / duration as f64);
    let slack = 4.0 + waited;
    assert!(
        ours > low - slack && ours < high + slack,
        "{ours:.1} % and not {low:.1} to {high:.1} %, {waited:.1} % in the queue: {rest:?}"
    );
    // A thread that does not run is not looked at again, and nobody is held for it.
    let sleeper = rows(&seen).iter().find(|row| row["thread"]["name"] == "sleeper").expect("the sleeper");
    assert_eq!(
        (&sleeper["method"], &sleeper["system_call"], &sleeper["complete"]),
        (&json!("no_stop"), &json!("read"), &json!(true))
    );
}

#[test]
fn blocked_threads_are_profiled_without_a_stop_and_an_interrupted_call() {
    let mut target = Child::target("eintr_counter", &["-O0"], [""; 0]);
    let seen = profile(target.pid(), &["--for", "2s"]);
    assert_eq!(seen["cost"]["stops"], 0);
    assert_eq!(seen["data"]["summary"]["on_cpu_us"], 0, "{}", seen["data"]["rows"]);
    target.tell("");
    for said in target.answer() {
        assert_eq!(said["eintr"], 0, "{said}");
    }
}

#[test]
fn never_holds_no_thread_and_says_what_is_missing() {
    let target = Child::target("spinner", &["-O2"], [""; 0]);
    let answer = run(["profile", "--pid", &target.pid().to_string(), "--for", "1s", "--stop", "never", "-o", "json"]);
    assert_eq!(answer.status, 3, "{}", answer.stderr);
    let seen = answer.json();
    assert_eq!(seen["cost"]["stops"], 0);
    let running = rows(&seen).iter().find(|row| row["state"] == "on_cpu").expect("a running thread");
    assert_eq!((&running["method"], &running["frames"]), (&json!("syscall_only"), &json!([])));
}

#[test]
fn agent_and_stops_stay_below_the_budget() {
    let busy = Child::target("shares", &["-O2"], ["w"]);
    let idle = Child::target("threads", &["-O2"], ["50"]);
    for pid in [busy.pid(), idle.pid()] {
        let seen = profile(pid, &["--for", "8s"]);
        let summary = &seen["data"]["summary"];
        let number = |key: &str| summary[key].as_u64().expect("a number");
        let spent = number("agent_cpu_us") + number("stopped_us");
        // One look may still be within the allowance when it begins and not when it ends; where others want the processors
        // too, that can be by the longest stop.
        let longest = seen["cost"]["longest_stop_us"].as_u64().expect("a number");
        let most = number("duration_us") / 100 + longest + spent / number("ticks").max(1) * 4;
        assert!(spent <= most, "{spent} of {most}: {summary}");
        // The rate sinks where that is needed, and only there.
        assert!(number("ticks") > 300 || 2 * spent > number("duration_us") / 100, "{summary}");
    }
}

/// The sum of what each format says of a run of its own. That they say the same of one profile, stack by stack, is
/// tested where they are written.
#[test]
fn each_format_has_all_of_the_time() {
    let target = Child::target("shares", &["-O2"], ["wsh"]);
    let pid = target.pid().to_string();
    let get = |format: &str| {
        let answer = run([
            "profile",
            "--pid",
            &pid,
            "--for",
            "2s",
            "--hz",
            "200",
            "--budget",
            "50",
            "--stop-budget",
            "50",
            "--limit",
            "stop=10s/60s",
            "-o",
            format,
        ]);
        assert!(matches!(answer.status, 0 | 3), "{}", answer.stderr);
        answer
    };
    // Three threads of the program and main: four times the duration, whichever way it is told.
    let is_whole = |total_us: u64, what: &str| {
        assert!((7_900_000..8_800_000).contains(&total_us), "{what}: {total_us}");
    };
    let json = get("json").json();
    let total: u64 = rows(&json).iter().map(time).sum();
    let summary = &json["data"]["summary"];
    assert_eq!(total, summary["on_cpu_us"].as_u64().unwrap() + summary["off_cpu_us"].as_u64().unwrap());
    is_whole(total, "json");

    let folded = get("folded");
    let mut sum = 0;
    for line in folded.text().lines() {
        let (stack, count) = line.rsplit_once(' ').expect("a count");
        assert!(stack.starts_with("on-CPU;") || stack.starts_with("off-CPU;"), "{line}");
        sum += count.parse::<u64>().expect("a number");
    }
    is_whole(sum, "folded");
    let sleeps = folded.text().lines().find(|line| line.contains(";sleeper_main;block_here;")).expect("the sleeper");
    assert!(sleeps.starts_with("off-CPU;"), "{sleeps}");

    let speedscope: Value = serde_json::from_slice(&get("speedscope").stdout).expect("JSON");
    let frames = speedscope["shared"]["frames"].as_array().expect("frames").len() as u64;
    let mut sum = 0;
    for profile in speedscope["profiles"].as_array().expect("profiles") {
        let weights: Vec<u64> = profile["weights"].as_array().unwrap().iter().map(|w| w.as_u64().unwrap()).collect();
        let samples = profile["samples"].as_array().unwrap();
        assert_eq!(samples.len(), weights.len());
        assert!(samples.iter().flat_map(|s| s.as_array().unwrap()).all(|at| at.as_u64().unwrap() < frames));
        assert_eq!(profile["endValue"], weights.iter().sum::<u64>());
        sum += weights.iter().sum::<u64>();
    }
    is_whole(sum, "speedscope");

    let svg = get("svg");
    assert!(svg.text().contains("burn_a") && svg.text().contains("</svg>"));
    let all = svg.text().split("<title>all (").nth(1).and_then(|rest| rest.split(' ').next()).expect("the total");
    is_whole(all.replace(',', "").parse().expect("a number"), "svg");

    let proto = get("pprof");
    let mut bytes = Vec::new();
    GzDecoder::new(&proto.stdout[..]).read_to_end(&mut bytes).expect("gzip");
    let values = proto_samples(&bytes);
    is_whole(values.iter().map(|value| value[1] + value[2]).sum::<u64>() / 1000, "pprof");
    assert!(values.iter().all(|value| value[0] > 0 && (value[1] == 0 || value[2] == 0)));
}

/// The formats of one and the same data: `go tool pprof` reads what was written, where there is one.
#[test]
fn go_s_pprof_reads_it() {
    let target = Child::target("shares", &["-O2"], ["w"]);
    let pid = target.pid().to_string();
    let answer = run(["profile", "--pid", &pid, "--for", "2s", "--hz", "200", "--budget", "50", "-o", "pprof"]);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("p.pb.gz");
    std::fs::write(&file, &answer.stdout).expect("written");
    let Some(mut go) = common::packages::go_command(common::packages::GO, directory.path()) else {
        return skip("go_s_pprof_reads_it", "no Go, and none from the registry");
    };
    let read = Answer::of(go.args(["tool", "pprof", "-top", "-sample_index=on_cpu"]).arg(&file));
    assert_eq!(read.status, 0, "{}", read.stderr);
    assert!(read.text().contains("burn_a"), "{}", read.text());
}

#[test]
fn a_signal_ends_it_with_what_was_seen() {
    let target = Child::target("threads", &["-O2"], ["5"]);
    let child = agent()
        .args(["profile", "--for", "50s", "-o", "json", "--pid", &target.pid().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the agent");
    let pid = Pid::from_raw(child.id() as i32);
    // It blocks the signal before it looks at anything.
    wait_until("the agent to block SIGINT", SOON, || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 2 != 0)
    });
    kill(pid, Signal::SIGINT).expect("a signal");
    let seen = Answer::from(child.wait_with_output().expect("its end")).json();
    assert_eq!(seen["data"]["summary"]["ended"], "signal");
    assert_eq!(rows(&seen).iter().map(|row| row["threads"].as_u64().unwrap()).sum::<u64>(), 6);
}

#[test]
fn a_target_that_ends_is_told_of() {
    let source = "#include <time.h>\nint main(void) { struct timespec t = {1, 0}; nanosleep(&t, 0); return 0; }\n";
    let target = Child::start(&mut Command::new(common::compile_c(source, &["-O2"])));
    let seen = profile(target.pid(), &["--for", "30s", "--hz", "100"]);
    assert_eq!(seen["data"]["summary"]["ended"], "target_exited");
    assert!(!rows(&seen).is_empty());
}

/// A varint of protobuf, and the rest.
fn varint(bytes: &[u8]) -> (u64, &[u8]) {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).expect("an end") + 1;
    let value = bytes[..length].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    (value, &bytes[length..])
}

/// The fields of a message: number and content, or value.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Result<&[u8], u64>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (tag, rest) = varint(bytes);
        let (value, rest) = varint(rest);
        match tag & 7 {
            0 => {
                fields.push((tag >> 3, Err(value)));
                bytes = rest;
            }
            2 => {
                let (content, rest) = rest.split_at(value as usize);
                fields.push((tag >> 3, Ok(content)));
                bytes = rest;
            }
            other => panic!("wire type {other}"),
        }
    }
    fields
}

/// The values of each sample of a profile.proto: read by its specification, not by the library that wrote it.
fn proto_samples(bytes: &[u8]) -> Vec<Vec<u64>> {
    let samples = fields(bytes).into_iter().filter(|field| field.0 == 2);
    samples
        .map(|sample| {
            let mut values = Vec::new();
            for (number, content) in fields(sample.1.expect("a message")) {
                match content {
                    Ok(mut packed) if number == 2 => {
                        while !packed.is_empty() {
                            let (value, rest) = varint(packed);
                            values.push(value);
                            packed = rest;
                        }
                    }
                    Err(value) if number == 2 => values.push(value),
                    _ => {}
                }
            }
            values
        })
        .collect()
}
