//! `diff`: what a program does between two looks, and what two of a kind have in common.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and writes files")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::{Answer, Child, agent, rows};
use serde_json::{Value, json};

/// Looks of several commands, kept in files.
struct Looks {
    directory: tempfile::TempDir,
}

impl Looks {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    /// Looks with `command`, and keeps it as `name`.
    fn keep(&self, name: &str, command: &[&str], pid: u32) -> PathBuf {
        let answer = Answer::of(agent().args(command).args(["--pid", &pid.to_string(), "-o", "json"]));
        assert!(matches!(answer.status, 0 | 3), "{}", answer.stderr);
        self.write(name, &answer.stdout)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    }
}

fn diff(before: &PathBuf, after: &PathBuf) -> Value {
    Answer::of(agent().arg("diff").arg(before).arg(after)).json()
}

/// The rows of `what` in the list at `at`.
fn of<'a>(diff: &'a Value, what: &str, at: &str) -> Vec<&'a Value> {
    rows(diff).iter().filter(|row| row["what"] == what && row["at"] == at).collect()
}

#[test]
fn what_a_program_opens_and_closes_between_two_looks_is_told_by_its_number() {
    // It opens and closes what it is told to.
    let script = "import os, sys\nprint('\"ready\"', flush=True)\nopen_ = []\n\
                  for line in sys.stdin:\n    open_.append(os.open('/etc/passwd', 0)); os.close(0) if line == 'x' else None\n    \
                  os.close(open_.pop(0)) if len(open_) > 3 else None\n    print('\"ready\"', flush=True)";
    if !common::has_tool("python3") {
        return common::skip(
            "what_a_program_opens_and_closes_between_two_looks_is_told_by_its_number",
            "there is no python3",
        );
    }
    let mut child = Child::ready(std::process::Command::new("python3").args(["-c", script]));
    let open = |child: &mut Child| {
        child.tell("open");
        child.answer();
    };
    open(&mut child);
    let looks = Looks::new();
    let before = looks.keep("before.json", &["fds"], child.pid());
    assert_eq!(rows(&diff(&before, &before)), [] as [Value; 0]);
    (0..3).for_each(|_| open(&mut child));
    let after = looks.keep("after.json", &["fds"], child.pid());
    let told = diff(&before, &after);
    assert_eq!(told["data"]["summary"]["same_life"], true);
    // Of four the first was closed.
    let (appeared, went) = (of(&told, "appeared", "/rows"), of(&told, "went", "/rows"));
    assert_eq!((appeared.len(), went.len()), (3, 1), "{told}");
    assert_eq!(appeared[0]["is"]["target"], "/etc/passwd");
    assert_eq!(went[0]["row"]["target"], "/etc/passwd");
    let totals = of(&told, "changed", "")[0];
    let member = totals["members"].as_array().unwrap().iter().find(|member| member["member"] == "summary/types/file");
    assert_eq!(member.unwrap()["delta"], 2, "{totals}");
    let back = diff(&after, &before);
    assert_eq!((of(&back, "appeared", "/rows").len(), of(&back, "went", "/rows").len()), (1, 3));
    let table = Answer::of(agent().arg("diff").arg(&before).arg(&after).args(["-o", "table"]));
    assert!(table.text().contains("target=/etc/passwd"), "{}", table.text());
}

#[test]
fn two_of_a_kind_are_compared_by_what_they_have_and_not_by_numbers() {
    let (one, other) =
        (Child::target("faults", &["-O2"], ["healthy"]), Child::target("faults", &["-O2"], ["leak-files"]));
    let healthy = Child::target("faults", &["-O2"], ["healthy"]);
    let looks = Looks::new();
    for command in ["fds", "maps", "modules"] {
        let of_one = looks.keep("one.json", &[command], one.pid());
        let of_other = looks.keep("other.json", &[command], healthy.pid());
        let told = diff(&of_one, &of_other);
        assert_eq!(told["data"]["summary"]["same_life"], false);
        // Where the heap begins, and how large a guard is, is chance.
        let list =
            |what| of(&told, what, "/rows").into_iter().filter(|row| !row["key"]["path"].is_null() || command == "fds");
        assert_eq!(list("appeared").count() + list("went").count(), 0, "{command}: {told}");
    }
    let before = looks.keep("one.json", &["fds"], one.pid());
    let after = looks.keep("other.json", &["fds"], other.pid());
    let told = diff(&before, &after);
    let appeared: u64 = of(&told, "appeared", "/rows").iter().map(|row| row["count"].as_u64().unwrap_or(1)).sum();
    assert!(appeared > 0 && of(&told, "went", "/rows").is_empty(), "{told}");
}

/// A server with five clients, who are in the same process, on loopback of a network namespace of its own.
const SERVER: &str = "
import socket, sys, time
listener = socket.create_server(('127.0.0.1', 18080))
kept = []
for _ in range(5):
    kept.append(socket.create_connection(('127.0.0.1', 18080)))
    kept.append(listener.accept()[0])
print('\"ready\"', flush=True)
time.sleep(1000)";

#[test]
fn connections_of_two_pods_are_compared_by_the_ports_that_are_listened_on() {
    let name = "connections_of_two_pods_are_compared";
    if !common::is_root() {
        return common::skip(name, "a network namespace needs root");
    }
    if !common::has_tool("python3") || !common::has_tool("ip") {
        return common::skip(name, "there is no python3, or no ip");
    }
    let pod = || {
        let mut command = Command::new("unshare");
        let script = "ip link set lo up; exec python3 -c \"$S\"";
        Child::ready(command.args(["-n", "sh", "-c", script]).env("S", SERVER))
    };
    let looks = Looks::new();
    let look = |name: &str, pod: &Child| {
        let pid = pod.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n", common::AGENT, "sockets", "--pid", &pid, "-o", "json", "--allow-gaps"]);
        looks.write(name, &Answer::of(&mut command).stdout)
    };
    let (one, other) = (pod(), pod());
    let told = diff(&look("one.json", &one), &look("other.json", &other));
    assert_eq!(told["data"]["summary"]["same_life"], false);
    // Ten connections, of whose ports nine are not the same.
    for what in ["appeared", "went", "changed"] {
        assert!(of(&told, what, "/rows").is_empty(), "{what}: {}", told["data"]["rows"]);
    }
}

#[test]
fn bundles_are_compared_step_by_step_and_what_is_alone_is_told() {
    let target = Child::target("faults", &["-O2"], ["leak-files"]);
    let looks = Looks::new();
    let bundle = |name: &str, scenario: &str, parameter: &str| {
        let pid = target.pid().to_string();
        let mut command = agent();
        command.args(["run", scenario, parameter, "--pid", &pid, "-o", "bundle"]);
        looks.write(name, &Answer::of(&mut command).stdout)
    };
    let before = bundle("a.dbg.tar.zst", "fd-leak", "--param=interval=50ms");
    let after = bundle("b.dbg.tar.zst", "fd-leak", "--param=interval=50ms");
    let told = diff(&before, &after);
    let compared: Vec<&Value> =
        told["data"]["summary"]["compared"].as_array().unwrap().iter().map(|row| &row["artifact"]).collect();
    assert_eq!(compared, ["limits", "fds"]);
    assert!(of(&told, "appeared", "/rows").iter().all(|row| row["artifact"] == "fds"), "{told}");
    assert!(!of(&told, "appeared", "/rows").is_empty(), "it leaks: {told}");
    // The evidence of a run as JSON has the same steps.
    let pid = target.pid().to_string();
    let run = Answer::of(agent().args(["run", "fd-leak", "--param=interval=50ms", "--pid", &pid, "-o", "json"]));
    let json = looks.write("c.json", &run.stdout);
    assert_eq!(diff(&before, &json)["data"]["summary"]["compared"].as_array().unwrap().len(), 2);

    let other = bundle("d.dbg.tar.zst", "high-cpu", "--param=for=200ms");
    let answer = Answer::of(agent().arg("diff").arg(&before).arg(&other));
    assert!(answer.stderr.contains("nothing in common") || answer.status == 3, "{}", answer.stderr);
    let sockets = looks.keep("sockets.json", &["sockets"], target.pid());
    let fds = looks.keep("fds.json", &["fds"], target.pid());
    let answer = Answer::of(agent().arg("diff").arg(&sockets).arg(&fds));
    assert_eq!(answer.status, 1);
    assert!(answer.stderr.contains("nothing in common"), "{}", answer.stderr);
}

#[test]
fn what_was_not_seen_is_no_difference_without_a_word() {
    let looks = Looks::new();
    let envelope =
        |rows: Value, gaps: Value| json!({"schema": "agent.fds/1", "data": {"rows": rows}, "gaps": gaps}).to_string();
    let gap = json!([{"at": "/rows", "reason": "permission_denied"}]);
    let before = looks.write("a.json", envelope(json!([]), gap).as_bytes());
    let after = looks.write("b.json", envelope(json!([{"fd": 1}]), json!([])).as_bytes());
    let answer = Answer::of(agent().arg("diff").arg(&before).arg(&after));
    assert_eq!(answer.status, 3);
    let told = answer.json();
    assert!(told["gaps"][0]["detail"].as_str().unwrap().contains("may only not have been seen"), "{told}");
}

/// Every list that a table shows is one whose rows can be told apart.
#[test]
fn rows_that_are_compared_say_by_what_they_are_known() {
    for (command, key) in [
        ("ps", "start_ticks"),
        ("fds", "fd"),
        ("sockets", "inode"),
        ("maps", "start"),
        ("modules", "path"),
        ("stacks", "frames.function"),
        ("profile", "frames.function"),
        ("limits", "name"),
        ("env", "name"),
        ("access", "evidence"),
        ("capture", "server_port"),
        ("snapshot", "start_ticks"),
    ] {
        let schema = common::run(["schema", command]).stdout;
        let schema: Value = serde_json::from_slice(&schema).expect("a schema");
        let text = schema.to_string();
        assert!(text.contains("\"x-key\"") && text.contains(&format!("\"{key}\"")), "{command}");
    }
}

/// What a limit has kept from being seen has not gone.
#[test]
fn what_was_not_seen_at_all_is_not_compared() {
    let target = Child::start(Command::new("sleep").arg("600"));
    let pid = target.pid().to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, limit: &str| {
        let answer = common::run(["env", "--pid", &pid, "--limit", limit]);
        let path = directory.path().join(name);
        fs::write(&path, answer.stdout).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (seen, unseen) = (write("seen", "wall=60s"), write("unseen", "wall=1us"));
    for files in [[&seen, &unseen], [&unseen, &seen]] {
        let diff = common::json(["diff", files[0], files[1]]);
        let (rows, compared) = (&diff["data"]["rows"], &diff["data"]["summary"]["compared"]);
        assert_eq!((rows, compared), (&serde_json::json!([]), &serde_json::json!([])), "{diff}");
        assert!(diff["gaps"].to_string().contains("the time limit of this command was reached"), "{diff}");
    }
}
