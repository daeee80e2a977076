//! Why threads wait, and who waits for whom, against a program that says it.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};

use common::{Child, SOON, json, rows, wait_until};
use serde_json::{Value, json};

fn stacks(pid: u32, options: &[&str]) -> Value {
    json(
        ["stacks", "--flat", "--stop-budget", "30s", "--limit", "stop=5s/60s", "--pid", &pid.to_string()]
            .iter()
            .chain(options),
    )
}

/// The row of one thread of a flat listing, and what stands in it of the thread.
fn thread<'a>(envelope: &'a Value, tid: &Value) -> (&'a Value, &'a Value) {
    let found = rows(envelope).iter().find(|row| row["threads"][0]["tid"] == *tid);
    let row = found.unwrap_or_else(|| panic!("no thread {tid} in {}", envelope["data"]));
    (row, &row["threads"][0])
}

fn functions(frames: &Value) -> Vec<&str> {
    frames.as_array().expect("frames").iter().map(|frame| frame["function"].as_str().unwrap_or("?")).collect()
}

/// Compares every waiting thread of `deadlock` with its truth, and returns the findings.
fn compare(mode: &str, flags: &[&str], options: &[&str]) -> Vec<Value> {
    let target = Child::target("deadlock", flags, [mode]);
    let seen = stacks(target.pid(), options);
    let said: Vec<&Value> = target.truth.iter().filter(|line| line["tid"].is_u64()).collect();
    assert!(!said.is_empty());
    for said in said {
        let (row, one) = thread(&seen, &said["tid"]);
        let futex = &one["wait"]["futex"];
        assert_eq!(one["wait"]["type"], "futex", "{mode}: {row}");
        assert_eq!(futex["lock"]["type"], said["kind"], "{mode}: {row}");
        assert_eq!(futex["lock"]["owner"]["tid"], said["owner"], "{mode}: {row}");
        if let Some(address) = said["lock"].as_str() {
            assert_eq!(futex["lock"]["address"], address, "{mode}: {row}");
        }
        let names = functions(&row["frames"]);
        let chain: Vec<&str> = said["chain"].as_array().expect("a chain").iter().filter_map(Value::as_str).collect();
        assert!(names.windows(chain.len()).any(|window| window == chain), "{mode}: {chain:?} is not in {names:?}");
    }
    let cycle = &target.truth.last().expect("the cycle")["deadlock"];
    let findings = seen["data"]["summary"]["findings"].as_array().cloned().unwrap_or_default();
    if *cycle == json!([]) {
        assert!(findings.is_empty(), "{mode}: {findings:?}");
    } else {
        assert_eq!(findings.len(), 1, "{mode}: {seen}");
        let evidence = findings[0]["evidence"].as_array().expect("evidence");
        let tids: Vec<&Value> = evidence.iter().map(|party| &party["tid"]).collect();
        assert_eq!(json!(tids), *cycle, "{mode}");
        for party in evidence {
            assert!(functions(&party["frames"]).contains(&"work"), "{mode}: {party}");
        }
    }
    findings
}

#[test]
fn deadlocks_of_two_and_three_threads_are_found_with_their_stacks() {
    for flags in [&["-O2"][..], &["-O2", "-static"], &["-O0"]] {
        for mode in ["two", "three"] {
            let findings = compare(mode, flags, &[]);
            assert_eq!((&findings[0]["id"], &findings[0]["level"]), (&json!("deadlock"), &json!("fail")));
        }
    }
}

#[test]
fn a_thread_that_waits_for_itself_is_a_deadlock() {
    let findings = compare("self", &["-O2"], &["--stop", "never"]);
    assert_eq!(findings[0]["evidence"].as_array().map(Vec::len), Some(1));
}

#[test]
fn rwlocks_and_joins_can_be_in_a_deadlock_too() {
    compare("rwlock", &["-O2"], &[]);
    compare("join", &["-O2"], &[]);
}

#[test]
fn a_deadlock_that_ends_by_itself_is_a_warning() {
    assert_eq!(compare("timed", &["-O2"], &[])[0]["level"], "warn");
}

#[test]
fn every_kind_of_mutex_names_its_holder() {
    for mode in ["recursive", "error_check", "adaptive", "inherit", "robust", "shared"] {
        compare(mode, &["-O2"], &["--stop", "never"]);
    }
}

#[test]
fn readers_are_counted_and_conditions_have_no_holder() {
    compare("readers", &["-O2"], &[]);
    compare("condition", &["-O2"], &[]);
}

#[test]
fn the_locks_of_a_stripped_program_are_known_by_their_memory() {
    let target = Child::target("deadlock", &["-O2", "-s", "-static"], ["two"]);
    let seen = stacks(target.pid(), &[]);
    let findings = seen["data"]["summary"]["findings"].as_array().expect("findings");
    let tids: Vec<&Value> = findings[0]["evidence"].as_array().expect("two").iter().map(|one| &one["tid"]).collect();
    assert_eq!(json!(tids), target.truth.last().expect("the cycle")["deadlock"]);
}

#[test]
fn only_those_that_wait_or_hold_are_listed_with_locks() {
    let target = Child::target("deadlock", &["-O2"], ["three"]);
    let seen = stacks(target.pid(), &["--locks"]);
    // The main thread reads standard input.
    assert_eq!(rows(&seen).len(), 3);
    let locks = seen["data"]["summary"]["locks"].as_array().expect("locks");
    assert_eq!(locks.len(), 3);
    for lock in locks {
        let said = target.said("lock", lock["address"].clone());
        assert_eq!((&lock["owner"]["tid"], &lock["waiters"][0]["tid"]), (&said["owner"], &said["tid"]));
    }
    let holder = Child::target("deadlock", &["-O2"], ["recursive"]);
    let seen = stacks(holder.pid(), &["--locks"]);
    assert_eq!(rows(&seen).len(), 2);
    assert_eq!(seen["data"]["summary"].get("findings"), None);
}

#[test]
fn a_consistent_look_finds_the_same() {
    let findings = compare("two", &["-O0"], &["--stop", "consistent"]);
    assert_eq!(findings[0]["level"], "fail");
}

#[test]
fn every_kind_of_wait_is_said() {
    let target = Child::target("threads", &["-O2"], ["36"]);
    let seen = stacks(target.pid(), &["--stop", "never"]);
    for said in &target.truth {
        let (_, one) = thread(&seen, &said["tid"]);
        let wait = &one["wait"];
        let kind = match said["syscall"].as_str().expect("a name") {
            "futex" => "futex",
            "nanosleep" | "clock_nanosleep" => "sleep",
            "wait4" => "child",
            "rt_sigtimedwait" | "rt_sigsuspend" => "signal",
            "flock" | "fcntl" => "file_lock",
            "openat" => "path",
            _ => "descriptor",
        };
        assert_eq!(wait["type"], kind, "{one}");
        if matches!(kind, "descriptor" | "file_lock") {
            let fd = &wait["descriptors"][0]["fd"];
            let link = std::fs::read_link(format!("/proc/{}/fd/{fd}", target.pid())).expect("a descriptor");
            assert_eq!(wait["descriptors"][0]["target"], link.to_str().expect("UTF-8"), "{one}");
        }
        if kind == "sleep" {
            assert_eq!(wait["timeout"]["time_us"], 1_000_000_000_000_u64, "{one}");
        }
    }
}

#[test]
fn a_descriptor_is_joined_with_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let source = "#include <arpa/inet.h>\n#include <stdlib.h>\n#include <sys/socket.h>\n\
        int main(int c, char **v) { (void)c; char b; int s = socket(AF_INET, SOCK_STREAM, 0);\n\
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(v[1])),\n\
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};\n\
        if (connect(s, (void *)&to, sizeof to) != 0) return 1;\n\
        return (int)recv(s, &b, 1, 0); }\n";
    let mut command = std::process::Command::new(common::compile_c(source, &["-O2"]));
    let target = Child::start(command.arg(port.to_string()));
    let (mut peer, from): (TcpStream, _) = listener.accept().expect("a connection");
    wait_until("it to receive", SOON, || {
        std::fs::read_to_string(format!("/proc/{}/syscall", target.pid())).is_ok_and(|text| text.starts_with("45 "))
    });
    let seen = stacks(target.pid(), &[]);
    let (_, one) = thread(&seen, &json!(target.pid()));
    let socket = &one["wait"]["descriptors"][0]["socket"];
    assert_eq!((&socket["protocol"], &socket["state"]), (&json!("tcp"), &json!("established")), "{one}");
    assert_eq!((&socket["local_port"], &socket["remote_port"]), (&json!(from.port()), &json!(port)));
    let words = one["waits_for"].as_str().expect("words");
    assert!(words.contains(&format!("-> 127.0.0.1:{port}")), "{words}");
    drop(target);
    let _ = peer.read(&mut [0]);
}

#[test]
fn kernel_stacks_are_shown_where_they_may_be_read() {
    let target = Child::target("deadlock", &["-O2"], ["two"]);
    let tid = &target.truth[0]["tid"];
    let Ok(truth) = std::fs::read_to_string(format!("/proc/{}/task/{tid}/stack", target.pid())) else {
        return common::skip("kernel_stacks_are_shown_where_they_may_be_read", "the kernel's stacks may not be read");
    };
    let seen = stacks(target.pid(), &["--kernel"]);
    let (row, _) = thread(&seen, tid);
    let lines: Vec<&str> = truth.lines().filter_map(|line| line.split("] ").nth(1)).collect();
    assert_eq!(row["kernel_frames"], json!(lines));
    assert!(lines.iter().any(|line| line.contains("futex")), "{truth}");
}
