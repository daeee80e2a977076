//! A session that lasts, in pods: the hold in an ephemeral container, and commands that `kubectl exec` starts there.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;
#[path = "hold/console.rs"]
mod console;
#[path = "hold/intruder.rs"]
mod intruder;
#[path = "hold/killed.rs"]
mod killed;

use std::sync::LazyLock;

use agent_pod::{DebugContainer, DebugSpec, FileCaps, Image, Output, Pod, PodSpec, Profile};
use agent_session::audit::{Verdict, verify};
use common::{SOON, assert_valid, is_root, rows, skip, wait_until};
use serde_json::{Value, json};

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    Image::from_binary(common::AGENT, "65532:65532", FileCaps::AllPermitted).expect("an image of the agent")
});

/// A pod with a session held in it; `None` where there can be none, and that is said.
fn held(name: &str, arguments: &[&str]) -> Option<(Pod, DebugContainer)> {
    if !is_root() {
        skip(name, "a pod needs root");
        return None;
    }
    let pod =
        Pod::start(PodSpec::new(&name[..name.len().min(30)], ["sh", "-c", "echo ready; sleep 1000"])).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    let hold = hold(&pod, Profile::General, arguments);
    Some((pod, hold))
}

fn hold(pod: &Pod, profile: Profile, arguments: &[&str]) -> DebugContainer {
    let argv = ["hold"].iter().chain(arguments).copied();
    let spec = DebugSpec::new(&IMAGE, profile, argv).target().arguments_only().read_only_root();
    let hold = pod.debug_spawn(spec).expect("a hold");
    hold.stdout().wait_for("session.open", SOON).expect("an open session");
    hold
}

fn exec(pod: &Pod, hold: &DebugContainer, arguments: &[&str]) -> Output {
    pod.exec(hold, ["agent"].iter().chain(arguments).copied()).expect("kubectl exec")
}

fn answer(output: &Output) -> Value {
    let envelope =
        output.json().unwrap_or_else(|error| panic!("{error}: {} {}", output.stdout_text(), output.stderr_text()));
    assert_valid(&envelope);
    envelope
}

fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a record a line")).collect()
}

fn of_kind<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["type"] == kind).collect()
}

/// What is left of the session: how it ended, the records in the container's log, and the receipt.
fn ended(hold: DebugContainer) -> (i32, Vec<Value>, String, Value) {
    let output = hold.wait(SOON).expect("the end of the hold");
    let text = output.stdout_text();
    let receipt = serde_json::from_slice(&output.termination_log).unwrap_or(Value::Null);
    (output.exit_code, records(&text), text, receipt)
}

#[test]
fn commands_are_part_of_the_session_that_is_held() {
    let arguments = ["--ttl", "5m", "--incident", "INC-42", "--actor", "ada"];
    let Some((pod, hold)) = held("commands_are_part_of_the_session", &arguments) else { return };
    let ps = exec(&pod, &hold, &["ps"]);
    assert_eq!(ps.exit_code, 0, "{}", ps.stderr_text());
    assert!(!ps.stderr_text().contains("session.open"), "the audit is the hold's: {}", ps.stderr_text());
    // Somebody else may look.
    let other = answer(&exec(&pod, &hold, &["ps", "--actor", "grace"]));
    assert_eq!((&other["session"]["actor"], &other["session"]["id"]), (&json!("grace"), &answer(&ps)["session"]["id"]));
    let fds = exec(&pod, &hold, &["fds"]);
    let (ps, fds) = (answer(&ps), answer(&fds));
    let session = &ps["session"];
    assert_eq!((session, &session["incident"], &session["actor"]), (&fds["session"], &json!("INC-42"), &json!("ada")));
    assert!(session["expires"].is_string());
    // Another session cannot be asked for.
    let other = exec(&pod, &hold, &["ps", "--session", "another"]);
    assert_eq!((other.exit_code, other.stdout_text().is_empty()), (2, true), "{}", other.stderr_text());
    let status = answer(&exec(&pod, &hold, &["status"]));
    let summary = &status["data"]["summary"];
    assert_eq!((&summary["commands"], &summary["running"], &summary["strangers"]), (&json!(5), &json!(1), &json!(0)));
    assert!(summary["left_us"].as_u64().is_some_and(|left| left < 300_000_000 && left > 100_000_000), "{summary}");
    let states: Vec<&Value> = rows(&status).iter().map(|row| &row["state"]).collect();
    assert_eq!(states, ["exit 0", "exit 0", "exit 0", "lost", "running"]);
    let actors: Vec<&Value> = rows(&status).iter().map(|row| &row["actor"]).collect();
    assert_eq!(actors, ["ada", "grace", "ada", "ada", "ada"]);
    assert_eq!(rows(&status)[0]["argv"], json!(["ps"]));
    let end = exec(&pod, &hold, &["end"]);
    assert_eq!(end.exit_code, 0, "{}", end.stderr_text());
    let (code, records, text, receipt) = ended(hold);
    assert_eq!(code, 0);
    // One chain, and the receipt is its witness.
    let found = verify(text.as_bytes(), None);
    assert_eq!((found.chains.len(), found.chains[0].verdict), (1, Verdict::Whole));
    assert_eq!(receipt["audit"]["count"], records.len());
    assert_eq!(receipt["audit"]["head"], records.last().expect("records")["hash"]);
    assert_eq!((&receipt["session"], &receipt["commands"]), (&session["id"], &json!(6)));
    assert!(records.iter().all(|record| record["session"] == session["id"]));
    let started: Vec<&Value> =
        of_kind(&records, "action.start").iter().map(|record| &record["data"]["command"]).collect();
    assert_eq!(started, ["ps", "ps", "fds", "status", "end"]);
    let digests: Vec<&Value> = of_kind(&records, "action.end").iter().map(|record| &record["data"]["digest"]).collect();
    assert_eq!([digests[0], digests[2]], [&ps["digest"], &fds["digest"]]);
    assert_eq!(of_kind(&records, "session.close")[0]["data"]["why"], "agent end");
}

#[test]
fn what_one_command_takes_the_others_of_the_session_have_not() {
    let Some((pod, hold)) = held("what_one_command_takes", &["--ttl", "5m", "--limit", "out=32K,cpu=50%/60s"]) else {
        return;
    };
    let summary = |status: &Output| answer(status)["data"]["summary"].clone();
    let first = summary(&exec(&pod, &hold, &["status"]));
    assert_eq!((&first["written_bytes"], &first["written_limit_bytes"]), (&json!(0), &json!(32 << 10)));
    assert_eq!((&first["cpu_limit_us"], &first["stopped_limit_us"]), (&json!(60_000_000), &json!(6_000_000)));
    assert_eq!(first["wall_limit_us"], Value::Null);
    // Each of these has room alone.
    let looks: Vec<Output> = (0..10).map(|_| exec(&pod, &hold, &["access", "-o", "json"])).collect();
    let is_refused = |look: &&Output| look.stderr_text().contains("limit_reached: the out that all commands");
    let (refused, told): (Vec<&Output>, Vec<&Output>) = looks.iter().partition(is_refused);
    let printed: usize = told.iter().map(|look| look.stdout_text().len()).sum();
    assert!(!refused.is_empty() && refused.len() < 10 && printed <= 32 << 10, "{} {printed}", refused.len());
    for look in &refused {
        turned_away(look, "limit_reached", "--limit out=");
    }
    // In every format.
    let ndjson = exec(&pod, &hold, &["access", "-o", "ndjson"]);
    let end: Value = serde_json::from_str(ndjson.stdout_text().trim()).expect("one line");
    assert_eq!((ndjson.exit_code, &end["end"]["data"]), (4, &Value::Null));
    let table = exec(&pod, &hold, &["access", "-o", "table"]);
    assert!(table.exit_code == 4 && table.stdout_text().contains("limit_reached"), "{}", table.stdout_text());
    let pprof = exec(&pod, &hold, &["profile", "-o", "pprof"]);
    assert!(pprof.exit_code == 4 && pprof.stdout.is_empty(), "{}", pprof.stderr_text());
    let envelope = pprof.stderr_text().lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
    assert_eq!(envelope.expect("an envelope")["gaps"][0]["reason"], "limit_reached");
    let bundle = exec(&pod, &hold, &["ps", "-o", "bundle"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &bundle.stdout).expect("a file");
    assert!(!bundle.stdout.is_empty(), "{}", bundle.stderr_text());
    let verified = common::json(["bundle", "verify", file.path().to_str().expect("UTF-8")]);
    assert_eq!((bundle.exit_code, &verified["data"]["summary"]["state"]), (4, &json!("whole")), "{verified}");
    let refused = refused.len() + 4;
    // Whoever wants to know, or to end it, may.
    let last = summary(&exec(&pod, &hold, &["status"]));
    let used = |key: &str| last[key].as_u64().expect("a number");
    assert!(used("written_bytes") >= printed as u64 && used("written_bytes") > 16 << 10, "{last}");
    assert!(used("cpu_us") > 0 && used("wall_us") > 0, "{last}");
    assert_eq!(exec(&pod, &hold, &["end"]).exit_code, 0);
    let (_, records, text, _) = ended(hold);
    assert_eq!(verify(text.as_bytes(), None).chains[0].verdict, Verdict::Whole);
    let hits = of_kind(&records, "limit.hit");
    assert_eq!(hits.iter().filter(|hit| hit["data"]["limit"] == "out").count(), refused);
    assert!(records[0]["data"]["limits"].as_str().is_some_and(|limits| limits.contains("out=32768")));
}

/// Commands that look at nothing are sessions of their own, and leave what the others find the hold by.
#[test]
fn a_command_that_is_none_of_the_session_does_not_hide_the_hold() {
    let Some((pod, hold)) = held("a_command_that_is_none", &["--ttl", "5m", "--session", "whole"]) else { return };
    for _ in 0..5 {
        assert_eq!(exec(&pod, &hold, &["version"]).exit_code, 0);
        let ps = exec(&pod, &hold, &["ps"]);
        assert_eq!(answer(&ps)["session"]["id"], "whole", "{}", ps.stderr_text());
    }
    assert_eq!(exec(&pod, &hold, &["end"]).exit_code, 0);
    assert_eq!(ended(hold).3["commands"], 6);
}

/// The envelope of a command that the hold has not let begin.
fn turned_away(output: &Output, reason: &str, remedy: &str) -> Value {
    assert_eq!(output.exit_code, 4, "{}", output.stderr_text());
    let envelope = answer(output);
    let gap = &envelope["gaps"][0];
    assert_eq!((&envelope["data"], &gap["reason"]), (&Value::Null, &json!(reason)), "{envelope}");
    assert!(gap["remedy"].as_str().is_some_and(|words| words.contains(remedy)), "{gap}");
    assert!(envelope["session"]["expires"].is_string(), "it is tagged with the session: {envelope}");
    envelope
}

#[test]
fn cpu_time_that_one_command_has_used_is_gone() {
    let Some((pod, hold)) = held("cpu_time_that_one_command", &["--ttl", "5m", "--limit", "cpu=50%/1s"]) else {
        return;
    };
    let looks: Vec<Output> = (0..200).map(|_| exec(&pod, &hold, &["ps"])).take_while(|ps| ps.exit_code == 0).collect();
    assert!(!looks.is_empty() && looks.len() < 200, "{} commands within a second of CPU time", looks.len());
    let status = answer(&exec(&pod, &hold, &["status"]))["data"]["summary"].clone();
    let used = status["cpu_us"].as_u64().expect("a number");
    let told: u64 = looks.iter().map(|ps| answer(ps)["cost"]["cpu_us"].as_u64().expect("a number")).sum();
    assert!(used >= told && used > 500_000, "{used} {told}");
    // What was cut off in the middle, or is not let begin at all, ends alike.
    let refused = exec(&pod, &hold, &["ps"]);
    turned_away(&refused, "limit_reached", "--limit cpu=");
}

#[test]
fn the_record_of_a_bundle_leads_from_the_receipt_to_its_own_chain() {
    let Some((pod, hold)) = held("the_record_of_a_bundle", &["--ttl", "5m"]) else { return };
    let bundle = exec(&pod, &hold, &["fds", "-o", "bundle"]);
    assert_eq!(bundle.exit_code, 0, "{}", bundle.stderr_text());
    let kept = exec(&pod, &hold, &["ps", "--keep=/tmp"]);
    assert_eq!(exec(&pod, &hold, &["end"]).exit_code, 0);
    let (_, records, text, receipt) = ended(hold);
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).expect("a file");
    write("b", &bundle.stdout);
    write("log", text.as_bytes());
    write("receipt", receipt.to_string().as_bytes());
    // The record is that of these bytes, and of the chain within.
    let added: Vec<&Value> =
        of_kind(&records, "artifact.add").into_iter().filter(|one| one["data"]["audit"].is_object()).collect();
    let [streamed, ..] = added[..] else { panic!("{records:?}") };
    assert_eq!(added.len(), if kept.exit_code == 0 { 2 } else { 1 }, "{}", kept.stderr_text());
    assert_eq!(streamed["data"]["sha256"], agent_scenario_sha256(&bundle.stdout));
    assert_eq!(streamed["data"]["bytes"], bundle.stdout.len());
    let verified = common::json(["bundle", "verify", &path("b"), "--log", &path("log"), "--witness", &path("receipt")]);
    let audit = &verified["data"]["summary"]["audit"];
    assert_eq!(
        (&audit["head"], &audit["records"]),
        (&streamed["data"]["audit"]["head"], &streamed["data"]["audit"]["count"])
    );
    assert_eq!((&verified["data"]["summary"]["state"], &verified["gaps"]), (&json!("whole"), &json!([])));
    // Another bundle, the log of another session, a log that was cut: each is told.
    let cut: String =
        text.lines().filter(|line| !line.contains("\"artifact.add\"")).map(|line| format!("{line}\n")).collect();
    write("cut", cut.as_bytes());
    let other = common::run(["fds", "-o", "bundle", "--pid", &std::process::id().to_string()]);
    write("other", &other.stdout);
    for (file, log, witness) in
        [("other", "log", "receipt"), ("b", "cut", "receipt"), ("b", "cut", ""), ("other", "log", "")]
    {
        let mut arguments = vec!["bundle".to_owned(), "verify".to_owned(), path(file), "--log".to_owned(), path(log)];
        if !witness.is_empty() {
            arguments.extend(["--witness".to_owned(), path(witness)]);
        }
        let verified = common::json(arguments);
        assert_eq!(verified["data"]["summary"]["state"], "tampered", "{file} {log} {witness}");
    }
}

fn agent_scenario_sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_session_ends_at_its_deadline_and_what_runs_is_told() {
    let Some((pod, hold)) = held("a_session_ends_at_its_deadline", &["--ttl", "4s"]) else { return };
    let capture = exec(&pod, &hold, &["profile", "--for", "60s"]);
    // What was seen by then is there, with a gap for the rest.
    let envelope = answer(&capture);
    assert_eq!(capture.exit_code, 4, "{}", capture.stderr_text());
    let gaps = envelope["gaps"].as_array().expect("gaps");
    assert!(gaps.iter().any(|gap| gap["reason"] == "limit_reached"), "{gaps:?}");
    let (code, records, text, _) = ended(hold);
    assert_eq!((code, verify(text.as_bytes(), None).chains[0].verdict), (0, Verdict::Whole));
    assert_eq!(of_kind(&records, "session.close")[0]["data"]["why"], "its time is over");
    // What it had no time for is in its own record.
    assert_eq!(of_kind(&records, "limit.hit")[0]["data"]["action"], 1);
    assert_eq!(of_kind(&records, "action.end").len(), 1);
}

#[test]
fn there_is_one_hold_in_a_container_and_no_session_without_end() {
    let Some((pod, hold)) = held("there_is_one_hold_in_a_container", &["--ttl", "5m"]) else { return };
    let second = exec(&pod, &hold, &["hold"]);
    assert_eq!(second.exit_code, 4, "{}", second.stderr_text());
    assert!(second.stderr_text().contains("is held in this container already"), "{}", second.stderr_text());
    for ttl in ["0s", "1y", "soon"] {
        assert_eq!(exec(&pod, &hold, &["hold", "--ttl", ttl]).exit_code, 2, "{ttl}");
    }
    // A command has no time of its own.
    let ps = exec(&pod, &hold, &["--ttl", "5m", "ps"]);
    assert_eq!((ps.exit_code, ps.stdout_text().is_empty()), (2, true), "{}", ps.stderr_text());
    // The session is as it was.
    assert_eq!(answer(&exec(&pod, &hold, &["status"]))["data"]["summary"]["strangers"], 0);
}

#[test]
fn no_more_is_shown_and_no_more_commands_run_than_the_session_allows() {
    let arguments = ["--ttl", "5m", "--redact", "strict", "--limit", "commands=1,rss=64M"];
    let Some((pod, hold)) = held("no_more_is_shown", &arguments) else { return };
    let lax = exec(&pod, &hold, &["ps"]);
    let envelope = turned_away(&lax, "refused_by_policy", "--redact strict");
    assert_eq!(
        envelope["session"]["id"],
        answer(&exec(&pod, &hold, &["status", "--redact", "strict"]))["session"]["id"]
    );
    let (one, other) =
        (exec(&pod, &hold, &["ps", "--redact", "strict"]), exec(&pod, &hold, &["ps", "--redact", "strict"]));
    let script = |output: &Output| answer(output)["data"]["rows"][0]["args"][2].as_str().map(str::to_owned);
    // The same pseudonyms in all of it.
    assert!(script(&one).is_some_and(|script| script.starts_with("~arg.")), "{:?}", script(&one));
    assert_eq!(script(&one), script(&other));
    std::thread::scope(|scope| {
        let profile = scope.spawn(|| exec(&pod, &hold, &["profile", "--for", "50s", "--redact", "strict"]));
        hold.stdout().wait_for("\"command\":\"profile\"", SOON).expect("its beginning");
        let more = exec(&pod, &hold, &["ps", "--redact", "strict"]);
        turned_away(&more, "limit_reached", "--limit commands=");
        // Whoever wants to know, or to end it, may.
        assert_eq!(exec(&pod, &hold, &["status", "--redact", "strict"]).exit_code, 0);
        assert_eq!(exec(&pod, &hold, &["end", "--redact", "strict"]).exit_code, 0);
        assert_eq!(profile.join().expect("a thread").exit_code, 4);
    });
    let (_, records, text, _) = ended(hold);
    assert_eq!(verify(text.as_bytes(), None).chains[0].verdict, Verdict::Whole);
    assert_eq!(of_kind(&records, "authz.deny").len(), 1);
    assert_eq!(of_kind(&records, "limit.hit")[0]["data"]["limit"], "commands");
    // The profile, which the end has cut off, and told.
    let close = &of_kind(&records, "session.close")[0]["data"];
    assert_eq!((&close["why"], &close["cut_off"], &close["undone"]), (&json!("agent end"), &json!([4]), &json!([])));
}

#[test]
fn without_a_command_and_a_terminal_the_agent_holds() {
    let name = "without_a_command_and_a_terminal";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    // Under the tightest profile, with nothing that can be written but its termination message.
    let spec =
        PodSpec::new("holds-by-default", ["sh", "-c", "echo ready; sleep 1000"]).pod_security_restricted(1000, 1000);
    let pod = Pod::start(spec).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    let spec = DebugSpec::new(&IMAGE, Profile::Restricted, [""; 0]).target().arguments_only().read_only_root();
    let hold = pod.debug_spawn(spec).expect("a hold");
    hold.stdout().wait_for("session.open", SOON).expect("an open session");
    assert_eq!(exec(&pod, &hold, &["ps", "--allow-gaps"]).exit_code, 0);
    assert_eq!(exec(&pod, &hold, &["end"]).exit_code, 0);
    let (code, _, text, _) = ended(hold);
    assert_eq!((code, verify(text.as_bytes(), None).chains[0].verdict), (0, Verdict::Whole));
}

#[test]
fn many_commands_at_once_and_one_after_another_leave_nothing_behind() {
    let Some((pod, hold)) = held("many_commands_at_once", &["--ttl", "10m"]) else { return };
    let rss = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", hold.pid().as_raw_nonzero())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("KiB")
    };
    let run = |count: usize| -> Vec<i32> {
        let one = || (0..count).map(|_| exec(&pod, &hold, &["limits", "--allow-gaps"]).exit_code).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..10).map(|_| scope.spawn(one)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
        })
    };
    // More than are remembered for `status`; by default eight may run at once.
    let first = run(12);
    let before = rss();
    let second = run(12);
    let grown = rss().saturating_sub(before);
    assert!(grown < 512, "{grown} KiB more after as many commands again");
    assert!(first.iter().chain(&second).all(|code| matches!(code, 0 | 4)), "{first:?} {second:?}");
    let done = first.iter().chain(&second).filter(|code| **code == 0).count();
    let status = answer(&exec(&pod, &hold, &["status"]));
    let summary = &status["data"]["summary"];
    assert_eq!((&summary["commands"], &summary["running"]), (&json!(done + 1), &json!(1)));
    assert_eq!(rows(&status).len(), 100);
    assert_eq!(exec(&pod, &hold, &["end"]).exit_code, 0);
    let (_, records, text, receipt) = ended(hold);
    assert_eq!(verify(text.as_bytes(), None).chains[0].verdict, Verdict::Whole);
    assert_eq!(of_kind(&records, "action.start").len(), done + 2);
    assert_eq!(of_kind(&records, "action.end").len(), done + 2);
    assert_eq!(of_kind(&records, "limit.hit").len(), 240 - done);
    assert_eq!(receipt["commands"], json!(done + 2));
}

#[test]
fn long_arguments_leave_room_for_the_next_command() {
    let Some((pod, hold)) = held("long_arguments", &["--ttl", "5m"]) else { return };
    let words: Vec<String> = (0..20).map(|at| format!("--param=p{at}={}", "x".repeat(400))).collect();
    let arguments: Vec<&str> = ["run", "triage"].into_iter().chain(words.iter().map(String::as_str)).collect();
    // Together far more than one message of the channel may hold.
    for _ in 0..25 {
        let output = exec(&pod, &hold, &arguments);
        assert!(!output.stderr_text().contains("the hold"), "{}", output.stderr_text());
    }
    assert_eq!(exec(&pod, &hold, &["ps"]).exit_code, 0);
    let status = answer(&exec(&pod, &hold, &["status"]));
    assert_eq!(status["data"]["summary"]["commands"], 27);
    let shown = rows(&status);
    assert!((2..27).contains(&shown.len()), "as many as have room: {}", shown.len());
    assert_eq!(shown.last().expect("itself")["action"], 27, "the newest");
}

#[test]
fn where_nobody_reads_the_log_nothing_more_is_done() {
    let name = "where_nobody_reads_the_log";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    let pod = Pod::start(PodSpec::new(name, ["sh", "-c", "echo ready; sleep 1000"])).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    let spec = DebugSpec::new(&IMAGE, Profile::General, ["hold", "--ttl", "5m"]).target().arguments_only();
    let mut hold = pod.debug_spawn(spec.raw_stdout()).expect("a hold");
    let mut log = hold.take_stdout().expect("its log");
    std::io::Read::read_exact(&mut log, &mut [0; 64]).expect("an open session");
    // A pipe holds 64 KiB of records.
    let mut done = 0;
    let refused = loop {
        let ps = exec(&pod, &hold, &["ps"]);
        if ps.exit_code != 0 {
            break ps;
        }
        done += 1;
        assert!(done < 200, "nobody reads the log, and it goes on");
    };
    assert!(done > 3 && refused.exit_code == 4, "{done} {}: {}", refused.exit_code, refused.stderr_text());
    let pid = hold.pid().as_raw_nonzero().get().cast_unsigned();
    wait_until("the end of the hold", SOON, || matches!(common::state(pid), None | Some('Z')));
    // The runtime passes the log on, and waits for who reads it.
    std::io::Read::read_to_end(&mut log, &mut Vec::new()).expect("the rest of the log");
    assert_eq!(hold.wait(SOON).expect("its end").exit_code, 4);
}
