//! `agent fds` against a program that opened one descriptor of each type and says what they are, against lsof, and
//! without the rights to look.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;
#[path = "fds/joins.rs"]
mod joins;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use common::servers::Postgres;
use common::{Answer, Child, SOON, bytes, gaps_at, has_tool, json, row, rows, run, skip, stop, unhex, wait_until};
use serde_json::{Value, json};

fn fds(pid: u32) -> Value {
    json(["fds", "--pid", &pid.to_string()])
}

/// Whether `ours` has all that `said` has; lists element by element.
fn covers(ours: &Value, said: &Value) -> bool {
    match (ours, said) {
        (Value::Object(ours), Value::Object(said)) => {
            said.iter().all(|(key, value)| ours.get(key).is_some_and(|mine| covers(mine, value)))
        }
        (Value::Array(ours), Value::Array(said)) => {
            ours.len() == said.len() && ours.iter().zip(said).all(|(mine, value)| covers(mine, value))
        }
        _ => ours == said,
    }
}

/// The key of `sockets` by which our row has what the truth calls `key`.
fn socket_value<'a>(row: &'a Value, key: &str) -> &'a Value {
    let socket = &row["socket"];
    match key {
        "socket_type" => &socket["type"],
        key => &socket[key],
    }
}

#[test]
fn every_type_of_descriptor_is_what_its_owner_says() {
    let target = Child::target("descriptors", &["-O2"], [""; 0]);
    let seen = fds(target.pid());
    let mut types = BTreeSet::new();
    for said in &target.truth {
        if let Some(missing) = said["missing"].as_str() {
            skip(&format!("descriptor {missing}"), "this machine does not allow it");
            continue;
        }
        let row = row(&seen, "fd", said["fd"].clone());
        types.insert(said["type"].as_str().expect("a type").to_owned());
        for (key, value) in said.as_object().expect("an object") {
            let what = format!("{key} of {said}\n{row}");
            match key.as_str() {
                "flags" => {
                    let set = |list: &Value| -> BTreeSet<String> {
                        list.as_array()
                            .expect("a list")
                            .iter()
                            .map(|f| f.as_str().expect("a name").to_owned())
                            .collect()
                    };
                    assert_eq!(set(&row["flags"]), set(value), "{what}");
                }
                "target_hex" => assert_eq!(bytes(&row["target"]), unhex(value), "{what}"),
                "deleted" => assert_eq!(row["deleted"].as_bool().unwrap_or(false), *value, "{what}"),
                "path_hex" => assert_eq!(bytes(&row["socket"]["path"]), unhex(value), "{what}"),
                "abstract_hex" => assert_eq!(bytes(&row["socket"]["abstract_name"]), unhex(value), "{what}"),
                "protocol"
                | "state"
                | "local_address"
                | "local_port"
                | "remote_address"
                | "remote_port"
                | "socket_type"
                | "peer_inode"
                | "receive_queue_bytes" => check_socket(row, key, value, &what),
                // Which descriptor holds the other end is `sockets`' and `snapshot`'s to say.
                "dup_of" | "peer_fd" => {}
                "fd" => {}
                key => assert!(covers(&row[key], value), "{what}"),
            }
        }
    }
    assert!(types.len() >= 15, "{types:?}");
    let unknown: Vec<&Value> = rows(&seen).iter().filter(|row| row["type"] == "unknown").collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(seen["gaps"], json!([]));
}

fn check_socket(row: &Value, key: &str, value: &Value, what: &str) {
    let ours = socket_value(row, key);
    match (key, value.as_str()) {
        // A TCP socket that was never bound is in no table of the kernel's.
        ("protocol" | "state", _) if row["socket"].is_null() => assert!(what.contains("\"close\""), "{what}"),
        ("socket_type", Some("dgram")) => assert_eq!(ours, "datagram", "{what}"),
        _ => assert_eq!(ours, value, "{what}"),
    }
}

#[test]
fn totals_are_those_of_the_rows_and_the_limit_is_the_targets() {
    let target = Child::target("descriptors", &["-O2"], [""; 0]);
    let seen = fds(target.pid());
    let mut types: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows(&seen) {
        *types.entry(row["type"].as_str().expect("a type").to_owned()).or_default() += 1;
    }
    let summary = &seen["data"]["summary"];
    assert_eq!(summary["types"], json!(types));
    assert_eq!(summary["descriptors"], rows(&seen).len());
    // One deleted file of 12,345 bytes, and one that never had a name, empty.
    assert_eq!(summary["deleted_bytes"], 12_345);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", target.pid())).expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!([&summary["soft_limit"], &summary["hard_limit"]].map(Value::to_string), [words[3], words[4]]);
}

#[test]
fn the_same_state_gives_the_same_bytes() {
    // Not our own standard error: a log that others write to grows meanwhile.
    let mut command = Command::new(agent_targets::build("descriptors", &["-O2"]));
    let target = Child::ready(command.stderr(std::process::Stdio::null()));
    stop(target.pid());
    let (first, second) = (fds(target.pid()), fds(target.pid()));
    assert_eq!(first["data"], second["data"]);
    assert_eq!(first["digest"], second["digest"]);
}

/// Numbers, types and names as lsof prints them with -F, by descriptor.
fn lsof(pid: u32) -> BTreeMap<u64, (String, String)> {
    let output = Command::new("lsof").args(["-nP", "-F", "ftn", "-p", &pid.to_string()]).output().expect("lsof");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found = BTreeMap::new();
    let mut fd = None;
    let mut kind = String::new();
    for line in text.lines() {
        match line.split_at_checked(1) {
            Some(("f", number)) => fd = number.parse::<u64>().ok(),
            Some(("t", name)) => kind = name.to_owned(),
            Some(("n", name)) => {
                found.extend(fd.map(|fd| (fd, (kind.clone(), name.to_owned()))));
            }
            _ => {}
        }
    }
    found
}

fn compare_with_lsof(name: &str, pid: u32) {
    if !has_tool("lsof") {
        return skip(name, "lsof is not installed");
    }
    stop(pid);
    let theirs = lsof(pid);
    let seen = fds(pid);
    common::cont(pid);
    let ours: BTreeMap<u64, &Value> =
        rows(&seen).iter().map(|row| (row["fd"].as_u64().expect("a number"), row)).collect();
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{name}");
    for (fd, (kind, their_name)) in &theirs {
        let row = ours[fd];
        let expected: &[&str] = match kind.as_str() {
            "REG" => &["file", "memfd"],
            "DIR" => &["directory"],
            "CHR" => &["character_device"],
            // lsof calls pipes and FIFOs the same.
            "FIFO" => &["pipe", "fifo"],
            "IPv4" | "IPv6" | "unix" | "sock" | "netlink" | "pack" => &["socket"],
            "a_inode" => &["epoll", "eventfd", "inotify", "timerfd", "signalfd", "io_uring", "anon_inode", "pidfd"],
            other => panic!("{name}: lsof says {other} of {fd}"),
        };
        assert!(expected.contains(&row["type"].as_str().expect("a type")), "{name}: {kind} {their_name}: {row}");
        if kind == "REG" || kind == "DIR" {
            let target = row["target"].as_str().expect("a path");
            assert!(their_name.starts_with(target), "{name}: {their_name} and {target}");
        }
        if kind == "IPv4" && their_name.contains("->") {
            let socket = &row["socket"];
            let shown = format!(
                "{}:{}->{}:{}",
                socket["local_address"].as_str().unwrap_or("*"),
                socket["local_port"],
                socket["remote_address"].as_str().unwrap_or("*"),
                socket["remote_port"],
            );
            assert_eq!(shown, *their_name, "{name}: {row}");
        }
    }
}

#[test]
fn agrees_with_lsof_on_redis_with_a_client() {
    let name = "agrees_with_lsof_on_redis_with_a_client";
    if !has_tool("redis-server") {
        return skip(name, "redis-server is not installed");
    }
    let directory = tempfile::tempdir().expect("a directory");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let mut command = Command::new("redis-server");
    command.args(["--save", "", "--bind", "127.0.0.1", "--port", &port.to_string()]).current_dir(directory.path());
    let target = Child::start(&mut command);
    let mut client = None;
    wait_until("redis to listen", SOON, || {
        client = std::net::TcpStream::connect(("127.0.0.1", port)).ok();
        client.is_some()
    });
    wait_until("redis to accept", SOON, || {
        rows(&fds(target.pid())).iter().any(|row| row["socket"]["state"] == "established")
    });
    compare_with_lsof(name, target.pid());
    let seen = fds(target.pid());
    let states: BTreeSet<&str> = rows(&seen).iter().filter_map(|row| row["socket"]["state"].as_str()).collect();
    assert!(states.contains("listen") && states.contains("established"), "{states:?}");
}

#[test]
fn agrees_with_lsof_on_postgres_and_its_children() {
    let name = "agrees_with_lsof_on_postgres_and_its_children";
    let postgres = match Postgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip(name, reason),
    };
    let before = postgres.children().len();
    let _client = postgres.connect();
    wait_until("a backend", SOON, || postgres.children().len() > before);
    compare_with_lsof(name, postgres.server.pid());
    for child in postgres.children() {
        wait_until("a child to wait", SOON, || common::state(child) == Some('S'));
        compare_with_lsof(name, child);
    }
}

#[test]
fn agrees_with_lsof_on_java() {
    let directory = tempfile::tempdir().expect("a directory");
    match common::servers::java(directory.path()) {
        Ok(java) => compare_with_lsof("agrees_with_lsof_on_java", java.pid()),
        Err(reason) => skip("agrees_with_lsof_on_java", reason),
    }
}

#[test]
fn agrees_with_lsof_on_python() {
    let directory = tempfile::tempdir().expect("a directory");
    let port = common::servers::free_port();
    let python = match common::servers::python(directory.path(), port) {
        Ok(python) => python,
        Err(reason) => return skip("agrees_with_lsof_on_python", reason),
    };
    let _client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connects");
    wait_until("python to accept", SOON, || {
        rows(&fds(python.pid())).iter().any(|row| row["socket"]["state"] == "established")
    });
    compare_with_lsof("agrees_with_lsof_on_python", python.pid());
    let seen = fds(python.pid());
    let types: BTreeSet<&str> = rows(&seen).iter().filter_map(|row| row["type"].as_str()).collect();
    assert!(["socket", "epoll", "pipe", "file"].iter().all(|kind| types.contains(kind)), "{types:?}");
    for child in common::servers::children(python.pid()) {
        common::signal(child, nix::sys::signal::Signal::SIGKILL);
    }
}

#[test]
fn agrees_with_lsof_on_nginx_and_its_worker() {
    let name = "agrees_with_lsof_on_nginx_and_its_worker";
    let directory = tempfile::tempdir().expect("a directory");
    let target = match common::servers::nginx(directory.path(), 1) {
        Ok(server) => server,
        Err(reason) => return skip(name, reason),
    };
    let worker = common::servers::children(target.pid())[0];
    wait_until("the worker to wait", SOON, || {
        rows(&fds(worker)).iter().any(|row| row["type"] == "epoll") && common::state(worker) == Some('S')
    });
    compare_with_lsof(name, target.pid());
    compare_with_lsof(name, worker);
}

#[test]
fn without_rights_the_descriptors_are_a_gap_and_not_an_empty_list() {
    let name = "without_rights_the_descriptors_are_a_gap_and_not_an_empty_list";
    if !common::is_root() {
        return skip(name, "needs root to be another user");
    }
    let target = Child::target("descriptors", &["-O2"], [""; 0]);
    let installed = common::Installed::new();
    let answer = Answer::of(installed.as_user(65534, 65534).args(["fds", "--pid", &target.pid().to_string()]));
    assert_eq!(answer.status, 3, "{}", answer.stderr);
    let seen = answer.json();
    let gap = gaps_at(&seen, "/rows")[0];
    assert_eq!((&gap["reason"], &gap["errno"]), (&json!("permission_denied"), &json!("EACCES")));
    assert!(gap["needs"].as_array().is_some_and(|needs| needs.contains(&json!("CAP_SYS_PTRACE"))), "{gap}");
    assert_eq!(run(["fds", "--pid", &target.pid().to_string(), "--allow-gaps"]).status, 0);
    let allowed =
        Answer::of(installed.as_user(65534, 65534).args(["fds", "--allow-gaps", "--pid", &target.pid().to_string()]));
    assert_eq!(allowed.status, 0, "{}", allowed.stderr);
}

#[test]
fn a_process_that_opens_and_closes_all_the_time_is_no_failure() {
    let text = "import os\nprint('\"ready\"', flush=True)\nwhile True:\n  fds = [os.open('/dev/null', 0) for _ in range(200)]\n  [os.close(fd) for fd in fds]\n";
    if !has_tool("python3") {
        return skip("a_process_that_opens_and_closes_all_the_time_is_no_failure", "python3 is not installed");
    }
    let target = Child::ready(Command::new("python3").args(["-c", text]));
    for _ in 0..20 {
        let answer = run(["fds", "--pid", &target.pid().to_string()]);
        assert!(matches!(answer.status, 0 | 3), "{}: {}", answer.status, answer.stderr);
        let seen = answer.json();
        let numbers: Vec<u64> = rows(&seen).iter().filter_map(|row| row["fd"].as_u64()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert!(numbers.starts_with(&[0, 1, 2]));
    }
}

/// Beside what the program itself takes, which is much in a build for tests: as it is released, less than 16 MiB in all.
#[test]
fn twenty_thousand_descriptors_need_little_memory() {
    // Of each type as many: what is alike must not be what makes it small.
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/epoll.h>
        #include <sys/eventfd.h>
        #include <sys/resource.h>
        #include <sys/socket.h>
        #include <unistd.h>
        int main(int c, char **v) {
            struct rlimit all;
            char name[64];
            int count = 0, pair[2];
            (void)c;
            getrlimit(RLIMIT_NOFILE, &all);
            all.rlim_cur = all.rlim_max;
            setrlimit(RLIMIT_NOFILE, &all);
            if (chdir(v[1])) return 1;
            for (int turn = 0; count < 19900; turn++) {
                snprintf(name, sizeof name, "file-%d", turn);
                if (open(name, O_RDWR | O_CREAT, 0600) < 0) break;
                unlink(name);
                if (eventfd(turn, 0) < 0 || epoll_create1(0) < 0 || pipe(pair) || socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
                    break;
                count += 7;
            }
            printf("{\"count\": %d}\n\"ready\"\n", count);
            fflush(stdout);
            getchar();
        }
    "#;
    let directory = tempfile::tempdir().expect("a directory");
    let target = Child::ready(Command::new(common::compile_c(source, &["-O1"])).arg(directory.path()));
    let count = target.truth[0]["count"].as_u64().expect("a number");
    if count < 19_900 {
        return skip("twenty_thousand_descriptors_need_little_memory", "the hard limit of descriptors is too low");
    }
    let peak = |envelope: &Value| envelope["cost"]["peak_rss_kib"].as_u64().expect("a figure");
    let seen = fds(target.pid());
    assert!(rows(&seen).len() as u64 >= count);
    let taken = peak(&seen) - peak(&json(["version"]));
    assert!(taken <= 12 << 10, "{taken} KiB");
}
