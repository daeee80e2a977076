//! `agent ps` against programs whose truth is known, and against ps(1) in the same run.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

#[path = "ps/classic.rs"]
mod classic;
mod common;
#[path = "ps/depth.rs"]
mod depth;
#[path = "ps/output.rs"]
mod output;
#[path = "ps/rights.rs"]
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::namespace::Namespace;
use common::{Answer, Child, Installed, bytes, gaps_at, json, row, rows, run, skip, unhex};
use serde_json::{Value, json};

/// A program of tests/targets, built as most are.
fn target(name: &str, args: &[&str]) -> Child {
    Child::target(name, &["-O2"], args)
}

/// The rows by pid. Each envelope on the way is a tree in order.
fn by_pid(envelope: &Value) -> BTreeMap<u64, &Value> {
    assert_tree(envelope);
    rows(envelope).iter().map(|row| (row["pid"].as_u64().unwrap(), row)).collect()
}

/// Rows are in tree order: each below its parent, at the parent's depth and one more, siblings by pid.
fn assert_tree(envelope: &Value) {
    let pids: BTreeSet<u64> = rows(envelope).iter().map(|row| row["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids.len(), rows(envelope).len(), "a pid stands twice");
    // The row that the next one may be below, and its ancestors, with the child that each had last.
    let mut path: Vec<(u64, u64)> = Vec::new();
    let mut last_root = 0;
    for row in rows(envelope) {
        let [pid, ppid, depth] = ["pid", "ppid", "depth"].map(|key| row[key].as_u64().unwrap());
        let depth = usize::try_from(depth).unwrap();
        assert!(depth <= path.len(), "{pid} is deeper than its parent could be");
        path.truncate(depth);
        let last = match path.last_mut() {
            None => {
                assert!(!pids.contains(&ppid), "{pid} is listed as a root, and its parent {ppid} is there");
                &mut last_root
            }
            Some((parent, last_child)) => {
                assert_eq!(ppid, *parent, "the parent of {pid}");
                last_child
            }
        };
        assert!(*last < pid, "{pid} comes after its sibling {last}");
        *last = pid;
        path.push((pid, 0));
    }
    let summary = &envelope["data"]["summary"];
    assert_eq!(summary["processes"], rows(envelope).len());
    assert_eq!(summary["threads"], rows(envelope).iter().map(|row| row["threads"].as_u64().unwrap()).sum::<u64>());
}

/// A namespace with a target, or `None` and a line that says why not.
fn namespace(test: &str, name: &str, args: &[&str]) -> Option<Namespace> {
    match Namespace::lacks() {
        Some(reason) => {
            skip(test, reason);
            None
        }
        None => Some(Namespace::of(name, args)),
    }
}

#[test]
fn hostile_names_and_arguments_come_back_byte_for_byte() {
    let names = target("names", &[]);
    let seen = json(["ps"]);
    let rows = by_pid(&seen);
    for truth in &names.truth {
        let case = &truth["case"];
        let row = rows[&truth["pid"].as_u64().unwrap()];
        assert_eq!(bytes(&row["name"]), unhex(&truth["name_hex"]), "{case}");
        let args: Vec<Vec<u8>> = row["args"].as_array().unwrap().iter().map(bytes).collect();
        let true_args: Vec<Vec<u8>> = truth["args_hex"].as_array().unwrap().iter().map(unhex).collect();
        assert_eq!(args, true_args, "{case}");
        assert_eq!(
            (&row["ppid"], &row["depth"]),
            (&json!(names.pid()), &json!(rows[&u64::from(names.pid())]["depth"].as_u64().unwrap() + 1))
        );
    }
}

#[test]
fn a_table_of_hostile_names_is_safe_to_print_and_has_a_line_a_row() {
    let Some(space) = namespace("a_table_of_hostile_names_is_safe_to_print_and_has_a_line_a_row", "names", &[]) else {
        return;
    };
    let table = Answer::of(space.agent().args(["ps", "-o", "table"]));
    assert_eq!((table.status, table.stderr.as_str()), (0, ""));
    let text = table.text();
    let is_bad = |c: &char| (*c < ' ' && *c != '\n') || ('\u{7f}'..='\u{9f}').contains(c);
    assert_eq!(text.chars().find(is_bad), None);
    assert!(
        !text.contains(['\u{202e}', '\u{200b}', '\u{feff}', '\u{2028}']),
        "characters that change how text is shown"
    );
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("target 1 names"), "{}", lines[0]);
    assert_eq!(lines[1].split_whitespace().next(), Some("PID"));
    let end = lines.iter().position(|line| line.is_empty()).expect("a line between the rows and the summary");
    let pids: Vec<u64> =
        lines[2..end].iter().map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
    let listed = Answer::of(space.agent().arg("ps")).json();
    assert_eq!(pids, by_pid(&listed).into_keys().collect::<Vec<_>>(), "one level of children: by pid");
    assert_eq!(pids.len(), space.target.truth.len() + 1);
    // What the table shows of a name is what finds its process.
    for name in rows(&listed).iter().map(|row| row["name"].as_str().unwrap()) {
        let found = Answer::of(space.agent().args(["ps", "--name", name])).json();
        assert_eq!(found["target"]["name"], name);
    }
}

#[test]
fn says_whether_the_executable_is_still_there() {
    let directory = tempfile::tempdir().unwrap();
    let program = agent_targets::build("deleted_exe", &["-O2"]);
    for how in ["unlinked", "replaced", "linked", "lookalike"] {
        let child = Child::ready(Command::new(&program).arg(how).env("TMPDIR", directory.path()));
        let seen = json(["ps"]);
        let row = row(&seen, "pid", child.pid());
        let truth = &child.truth[0];
        assert_eq!(row["executable_deleted"], truth["deleted"], "{how}");
        assert_eq!(bytes(&row["executable"]), unhex(&truth["executable_hex"]), "{how}");
        assert!(child.end().success());
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "the targets have cleaned up");
}

#[test]
fn shows_zombies_as_what_they_are() {
    let parent = target("zombie", &[]);
    let seen = json(["ps"]);
    let rows = by_pid(&seen);
    for truth in &parent.truth {
        let pid = truth["pid"].as_u64().unwrap();
        for key in ["pid", "ppid", "name", "state", "threads"] {
            assert_eq!(rows[&pid][key], truth[key], "{key} of {truth}");
        }
        assert_eq!((&rows[&pid]["args"], rows[&pid].get("executable")), (&json!([]), None));
    }
    assert!(seen["data"]["summary"]["states"]["zombie"].as_u64().unwrap() >= 2);
    let gaps = seen["gaps"].to_string();
    assert!(!parent.truth.iter().any(|truth| gaps.contains(&format!("/proc/{}/", truth["pid"]))), "{gaps}");
}

#[test]
fn shows_the_effective_ids_of_setuid_processes() {
    if !common::is_root() {
        return skip("shows_the_effective_ids_of_setuid_processes", "changing IDs needs root");
    }
    let parent = target("setuid", &[]);
    let seen = json(["ps"]);
    for truth in &parent.truth {
        let row = row(&seen, "pid", truth["pid"].clone());
        assert_eq!((&row["uid"], &row["gid"]), (&truth["uid"]["effective"], &truth["gid"]["effective"]), "{truth}");
        assert!(row.get("executable").is_some(), "root sees those that are not dumpable, too");
    }
}

#[test]
fn counts_the_threads_of_a_process_that_has_500() {
    let child = target("threads", &["500"]);
    let seen = json(["ps"]);
    // The first thread is not in its truth.
    assert_eq!(row(&seen, "pid", child.pid())["threads"], child.truth.len() + 1);
}

#[test]
fn no_row_is_lost_while_processes_come_and_go() {
    let forker = target("forker", &["200", "100"]);
    let steady = target("sleeper", &["10"]);
    let mut seen = 0;
    for _ in 0..30 {
        let envelope = json(["ps"]);
        let rows = by_pid(&envelope);
        assert_eq!(rows[&u64::from(steady.pid())]["state"], "sleeping");
        let parent = rows[&u64::from(forker.pid())];
        assert!(!envelope["gaps"].to_string().contains("exited"), "who has ended is left out: {}", envelope["gaps"]);
        for child in rows.values().filter(|row| row["ppid"] == parent["pid"]) {
            seen += 1;
            if child.get("executable").is_none() {
                assert_eq!(child["args"], json!([]), "half of a process: {child}");
            } else {
                assert_eq!(child["executable"], parent["executable"]);
                assert_eq!(child["args"], parent["args"]);
            }
        }
    }
    assert!(seen > 30, "children that were seen: {seen}");
}

#[test]
fn two_looks_at_a_stopped_table_give_the_same_bytes() {
    let Some(space) = namespace("two_looks_at_a_stopped_table_give_the_same_bytes", "names", &[]) else { return };
    space.stop();
    let [first, second] = [(); 2].map(|()| Answer::of(space.agent().arg("ps")).json());
    assert_eq!(first["data"].to_string(), second["data"].to_string());
    assert_eq!(first["digest"], second["digest"]);
    assert_eq!(first["data"]["summary"]["states"], json!({"stopped": space.target.truth.len() + 1}));
    assert_ne!(first["session"]["id"], second["session"]["id"]);
}

/// Records what `ps` reads of the proc(5) at `from`: regular files, and the links as links.
fn record(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("sys/kernel/random")).unwrap();
    for file in ["stat", "sys/kernel/random/boot_id"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (source, name) = (entry.path(), entry.file_name());
        if name.to_str().is_none_or(|name| name.parse::<u32>().is_err()) {
            continue;
        }
        let into = to.join(name);
        fs::create_dir(&into).unwrap();
        for file in ["stat", "status", "cmdline", "cgroup"] {
            // Not fs::copy: the kernel says that these are empty.
            fs::write(into.join(file), fs::read(source.join(file)).unwrap()).unwrap();
        }
        if let Ok(executable) = fs::read_link(source.join("exe")) {
            symlink(executable, into.join("exe")).unwrap();
        }
    }
}

#[test]
fn a_recorded_proc_gives_the_same_data_as_the_live_one() {
    let Some(space) = namespace("a_recorded_proc_gives_the_same_data_as_the_live_one", "names", &[]) else { return };
    space.stop();
    let recorded = tempfile::tempdir().unwrap();
    record(&space.proc(), recorded.path());
    let live = Answer::of(space.agent().arg("ps")).json();
    let replayed = json(["ps", "--proc", recorded.path().to_str().unwrap()]);
    assert_eq!(live["data"], replayed["data"]);
    assert_eq!(live["digest"], replayed["digest"]);
    assert_eq!(live["target"], replayed["target"]);
    // Without privilege, too.
    let open = Command::new("chmod").args(["-R", "a+rX"]).arg(recorded.path()).status().unwrap();
    assert!(open.success());
    let installed = Installed::new();
    let plain = Answer::of(installed.as_user(65534, 65534).args(["ps", "--proc"]).arg(recorded.path())).json();
    assert_eq!((&plain["digest"], &plain["gaps"]), (&live["digest"], &json!([])));
}

/// Recorded, so that no other test sees a process that exceeds a limit.
#[test]
fn of_very_long_arguments_the_beginning_is_kept() {
    let Some(space) = namespace("of_very_long_arguments_the_beginning_is_kept", "sleeper", &["1"]) else { return };
    let recorded = tempfile::tempdir().unwrap();
    record(&space.proc(), recorded.path());
    let long = "x".repeat(100_000);
    fs::write(recorded.path().join("1/cmdline"), format!("sleeper\0{long}\0{long}\0")).unwrap();
    let answer = run(["ps", "--proc", recorded.path().to_str().unwrap()]);
    assert_eq!(answer.status, 4, "cut off by a limit");
    let seen: Value = serde_json::from_slice(&answer.stdout).unwrap();
    common::assert_valid(&seen);
    let args: Vec<Vec<u8>> = rows(&seen)[0]["args"].as_array().unwrap().iter().map(bytes).collect();
    assert_eq!((args.len(), args[1].len(), args.join(&0).len()), (3, 100_000, 128 << 10));
    let gaps = seen["gaps"].as_array().unwrap();
    assert_eq!((&gaps[0]["at"], &gaps[0]["reason"]), (&json!("/rows/0/args"), &json!("limit_reached")));
    assert_eq!(gaps.len(), 1);
}

#[test]
fn a_recorded_proc_that_is_cut_off_loses_what_is_cut_and_no_more() {
    let Some(space) = namespace("a_recorded_proc_that_is_cut_off_loses_what_is_cut_and_no_more", "sleeper", &["1"])
    else {
        return;
    };
    let recorded = tempfile::tempdir().unwrap();
    record(&space.proc(), recorded.path());
    let one = recorded.path().join("1");
    let args = ["ps", "--proc", recorded.path().to_str().unwrap()];
    fs::remove_file(one.join("exe")).unwrap();
    fs::remove_file(one.join("cgroup")).unwrap();
    fs::write(one.join("status"), "Name:\tsleeper\nUid:\t0\t0").unwrap();
    let seen = json(args);
    let row = &rows(&seen)[0];
    assert_eq!((row.get("uid"), row.get("executable")), (None, None));
    assert_eq!(row["name"], "sleeper-O2");
    assert_eq!(gaps_at(&seen, "/rows/0/uid")[0]["reason"], "malformed");
    assert_eq!(gaps_at(&seen, "/rows/0/container_id")[0]["reason"], "not_found");
    fs::create_dir(recorded.path().join("2")).unwrap();
    fs::write(recorded.path().join("2/stat"), "2 (cut").unwrap();
    let seen = json(args);
    assert_eq!(rows(&seen).len(), 1);
    assert_eq!(gaps_at(&seen, "/rows/-")[0]["reason"], "malformed");
}
