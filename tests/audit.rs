//! The audit of real commands: what it says, that it verifies, and that nothing is done without it.

#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and opens files")]

mod common;
#[path = "audit/strace.rs"]
mod strace;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Answer, Child};
use serde_json::Value;

/// The records on standard error of `answer`, each as JSON.
fn records(answer: &Answer) -> Vec<Value> {
    answer.audit.lines().map(|line| serde_json::from_str(line).expect("a record is JSON")).collect()
}

fn kinds(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["type"].as_str().expect("a type")).collect()
}

#[test]
fn a_command_leaves_its_records_and_they_verify() {
    let child = Child::target("sleeper", &["-O2"], ["10"]);
    let answer = common::run(["ps", "--pid", &child.pid().to_string(), "--session", "S1", "--incident", "INC-42"]);
    let records = records(&answer);
    let expected = ["session.open", "action.start", "access", "action.end", "session.close", "checkpoint"];
    assert_eq!(kinds(&records), expected);
    let envelope = answer.json();
    assert_eq!(records[0]["data"]["incident"], "INC-42");
    assert_eq!(records[1]["data"]["command"], "ps");
    let end = &records[3]["data"];
    assert_eq!((&end["digest"], &end["exit"]), (&envelope["digest"], &answer.status.into()));
    assert!(end["access"]["count"].as_u64().is_some_and(|count| count > 10), "{end}");
    let found = agent_session::audit::verify(answer.audit.as_bytes(), None);
    assert_eq!(found.chains[0].verdict, agent_session::audit::Verdict::Whole);
}

#[test]
fn the_access_log_is_what_the_audit_says_it_is() {
    use sha2::{Digest as _, Sha256};
    let child = Child::target("sleeper", &["-O2"], ["10"]);
    let answer = common::run(["fds", "--pid", &child.pid().to_string(), "--access-log"]);
    let mut hash = Sha256::new();
    let mut count = 0;
    for line in answer.stderr.lines() {
        let entry: Value = serde_json::from_str(line).expect("a line of the access log");
        hash.update(serde_json::json!({"access": entry["access"], "path": entry["path"]}).to_string());
        hash.update("\n");
        count += 1;
    }
    let records = records(&answer);
    let end = records.iter().find(|record| record["type"] == "action.end").expect("an end");
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(end["data"]["access"], serde_json::json!({"count": count, "sha256": digest}));
}

#[test]
fn an_action_that_finds_no_target_has_an_end_too() {
    let answer = common::run(["maps", "--name", "no-such-program"]);
    assert_eq!(answer.status, 5);
    let records = records(&answer);
    let end = records.iter().find(|record| record["type"] == "action.end").expect("an end");
    assert_eq!(end["data"]["exit"], 5);
    assert_eq!(records.last().map(|last| &last["type"]), Some(&"checkpoint".into()));
}

#[test]
fn a_limit_is_recorded() {
    let child = Child::target("sleeper", &["-O2"], ["10"]);
    let answer = common::run(["ps", "--pid", &child.pid().to_string(), "--timeout", "0s"]);
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    assert!(answer.audit.contains("\"exit\":4"), "{}", answer.audit);
    // Also where nothing was seen at all.
    let answer = common::run(["ps", "--limit", "wall=1us"]);
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    assert!(kinds(&records(&answer)).contains(&"limit.hit"), "{}", answer.audit);
}

#[test]
fn nothing_is_done_where_it_cannot_be_recorded() {
    // A pipe that is full and that nobody reads.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let filler = common::Child::start(std::process::Command::new("sleep").arg("60"));
    let full = {
        use std::os::fd::AsFd as _;
        nix::fcntl::fcntl(writer.as_fd(), nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("fcntl");
        while nix::unistd::write(writer.as_fd(), &[b'x'; 4096]).is_ok() {}
        nix::fcntl::fcntl(writer.as_fd(), nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).expect("fcntl");
        writer
    };
    let began = Instant::now();
    let mut command = common::agent();
    command.args(["ps", "--pid", &filler.pid().to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
    let output = command.stderr(full).spawn().expect("the agent").wait_with_output().expect("the agent");
    // 2 s are promised; a loaded machine gets more.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!((output.status.code(), output.stdout.len()), (Some(4), 0));
    drop(reader);
    assert_eq!(common::state(filler.pid()), Some('S'));

    // A full disk.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let mut command = common::agent();
    command.args(["ps", "--pid", &filler.pid().to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
    let output = command.stderr(full).spawn().expect("the agent").wait_with_output().expect("the agent");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(4), 0));
}

#[test]
fn the_trace_of_the_environment_is_joined_and_the_agents_own_variable_comes_first() {
    let (theirs, ours) = (
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    );
    let of = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut agent = common::agent();
        let answer = Answer::of(agent.args(["version"]).args(arguments).envs(variables.iter().copied()));
        answer.json()["session"]["traceparent"].clone()
    };
    assert_eq!(of(&[("TRACEPARENT", theirs)], &[]), theirs);
    assert_eq!(of(&[("TRACEPARENT", theirs), ("AGENT_TRACEPARENT", ours)], &[]), ours);
    assert_eq!(of(&[("AGENT_TRACEPARENT", ours)], &["--traceparent", theirs]), theirs);
    assert_eq!(of(&[], &[]), Value::Null);
}
