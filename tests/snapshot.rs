//! `agent snapshot`: each part is as its own command has it, and no reference dangles.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use common::namespace::Namespace;
use common::recording::Recording;
use common::{Answer, Child, json, skip};
use serde_json::{Value, json};

/// All references: whose they are, from where, and where to.
fn references(envelope: &Value) -> Vec<(&str, &str, Vec<&str>)> {
    let kinds = envelope["data"]["references"].as_object().expect("references");
    let of = |kind: &'static str| kinds[kind].as_array().expect("a list").iter().map(move |one| (kind, one));
    let all = ["descriptors", "sockets", "mappings", "stacks"].into_iter().flat_map(of);
    all.map(|(kind, one)| {
        let to = one["to"].as_array().expect("a list").iter().map(|to| to.as_str().expect("a pointer"));
        (kind, one["from"].as_str().expect("a pointer"), to.collect())
    })
    .collect()
}

/// Every reference leads from a row to a row.
fn assert_none_dangles(envelope: &Value) {
    for (_, from, to) in references(envelope) {
        for pointer in to.iter().chain([&from]) {
            assert!(envelope["data"].pointer(pointer).is_some_and(Value::is_object), "{from} leads to {pointer}");
        }
        assert_eq!(to.iter().collect::<BTreeSet<_>>().len(), to.len(), "{from} leads to one row twice");
    }
    assert_containers_lead_to_their_processes(envelope);
}

/// Each container leads to all processes with its ID, and to no other.
fn assert_containers_lead_to_their_processes(envelope: &Value) {
    let mut expected: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let processes = envelope["data"]["processes"]["rows"].as_array().into_iter().flatten().enumerate();
    for (at, row) in processes.filter(|(_, row)| row["tid"].is_null()) {
        let Some(id) = row["container_id"].as_str() else { continue };
        expected.entry(id).or_default().push(format!("/processes/rows/{at}"));
    }
    let containers = envelope["data"]["references"]["containers"].as_array().expect("a list").iter();
    let containers: Vec<Value> = containers.cloned().collect();
    let expected = expected.iter().map(|(id, to)| json!({"container_id": id, "to": to}));
    assert_eq!(containers, expected.collect::<Vec<_>>());
}

/// Where the row at `from` leads to.
fn to<'a>(envelope: &'a Value, from: &str) -> Vec<&'a Value> {
    let found = references(envelope).into_iter().find(|one| one.1 == from);
    found.map(|one| one.2).unwrap_or_default().iter().filter_map(|to| envelope["data"].pointer(to)).collect()
}

fn at(envelope: &Value, part: &str, key: &str, value: &Value) -> String {
    let rows = envelope["data"][part]["rows"].as_array().unwrap_or_else(|| panic!("{part} has rows"));
    let at = rows.iter().position(|row| row[key] == *value);
    format!("/{part}/rows/{}", at.unwrap_or_else(|| panic!("no row of {part} with {key} {value}")))
}

#[test]
fn pipes_and_sockets_lead_to_both_ends() {
    const NAME: &str = "pipes_and_sockets_lead_to_both_ends";
    if let Some(reason) = Namespace::lacks() {
        return skip(NAME, reason);
    }
    let space = Namespace::of("peers", [""; 0]);
    space.stop();
    let seen = Answer::of(space.agent().args(["snapshot", "--pid", "1"])).json();
    assert_none_dangles(&seen);
    // Nothing in there has changed meanwhile.
    let gaps = seen["gaps"].as_array().unwrap();
    assert!(!gaps.iter().any(|gap| gap["reason"] == "incomplete"), "{gaps:?}");

    let said = space.target.said("case", "own_write");
    let from = at(&seen, "descriptors", "fd", &said["fd"]);
    let leads = to(&seen, &from);
    assert!(leads.iter().any(|row| row["pid"] == 1), "to its own process: {leads:?}");
    assert!(leads.iter().any(|row| row["fd"] == said["peer_fd"]), "to the other end: {leads:?}");

    let socket = space.target.said("case", "socket");
    let leads = to(&seen, &at(&seen, "descriptors", "fd", &socket["fd"]));
    let row = leads.iter().find(|row| row["protocol"] == "unix").expect("its row in the table of sockets");
    assert!(leads.iter().any(|row| row["name"] == "other end"), "to who holds the other: {leads:?}");
    let leads = to(&seen, &at(&seen, "sockets", "inode", &row["inode"]));
    assert!(leads.iter().any(|row| row["fd"] == socket["fd"]), "and back: {leads:?}");
}

/// Two containers that share a pid namespace, and a process of none.
#[test]
fn a_container_id_leads_to_its_processes() {
    let [first, second] = ["a", "b"].map(|digit| digit.repeat(64));
    let threads = Child::target("threads", &["-O2"], ["3"]);
    let others: Vec<Child> = (0..3).map(|_| Child::start(Command::new("sleep").arg("600"))).collect();
    let recording = Recording::of([threads.pid()].into_iter().chain(others.iter().map(Child::pid)));
    let group = |pid, path: &str| recording.write(pid, "cgroup", format!("0::{path}\n"));
    group(threads.pid(), &format!("/kubepods/pod1/{first}"));
    group(others[0].pid(), &format!("/kubepods.slice/cri-containerd-{second}.scope"));
    group(others[1].pid(), &format!("/kubepods/pod1/{first}/nested"));
    group(others[2].pid(), "/");
    let seen = Answer::of(recording.agent().args(["snapshot", "--pid", &threads.pid().to_string()])).json();
    assert_none_dangles(&seen);
    let containers = seen["data"]["references"]["containers"].as_array().expect("containers");
    let pids: Vec<(&Value, BTreeSet<u64>)> = containers
        .iter()
        .map(|one| {
            let to = one["to"].as_array().expect("a list").iter().filter_map(|to| seen["data"].pointer(to.as_str()?));
            (&one["container_id"], to.filter_map(|row| row["pid"].as_u64()).collect())
        })
        .collect();
    let expected = |pids: &[&Child]| pids.iter().map(|child| child.pid().into()).collect::<BTreeSet<u64>>();
    assert_eq!(pids, [(&json!(first), expected(&[&threads, &others[1]])), (&json!(second), expected(&[&others[0]]))]);
}

#[test]
fn mappings_lead_to_modules_and_threads() {
    let child = Child::target("threads", &["-O2"], ["5"]);
    let seen = json(["snapshot", "--pid", &child.pid().to_string()]);
    assert_none_dangles(&seen);
    let mappings = seen["data"]["mappings"]["rows"].as_array().unwrap();
    let mut stacks = 0;
    let mut modules = BTreeSet::new();
    let all: BTreeMap<&str, Vec<&str>> = references(&seen).into_iter().map(|(_, from, to)| (from, to)).collect();
    for (index, mapping) in mappings.iter().enumerate() {
        let pointers = all.get(format!("/mappings/rows/{index}").as_str()).map(Vec::as_slice).unwrap_or_default();
        let leads: Vec<&Value> = pointers.iter().filter_map(|to| seen["data"].pointer(to)).collect();
        if mapping["kind"] == "code" {
            let module = leads.iter().find(|row| row.get("loaded").is_some()).expect("its module");
            assert_eq!((&module["path"], &module["inode"]), (&mapping["path"], &mapping["inode"]));
            assert!(module["build_id"].is_string(), "{module}");
            modules.insert(module["path"].to_string());
        }
        for tid in mapping["tids"].as_array().into_iter().flatten() {
            let thread = leads.iter().find(|row| row["tid"] == *tid).expect("its thread");
            assert_eq!(thread["pid"], child.pid());
            stacks += 1;
        }
    }
    assert!(stacks >= 5 && modules.len() >= 2, "{stacks} stacks, {modules:?}");
    // A stack leads to its thread.
    let leads = to(&seen, "/stacks/rows/0");
    assert!(leads[0]["tid"].is_u64(), "{leads:?}");
}

#[test]
fn parts_are_what_their_own_commands_say() {
    const NAME: &str = "parts_are_what_their_own_commands_say";
    if let Some(reason) = Namespace::lacks() {
        return skip(NAME, reason);
    }
    let space = Namespace::of("sleeper", ["10"]);
    space.stop();
    let seen = Answer::of(space.agent().args(["snapshot", "--no-smaps", "--pid", "1"])).json();
    for (part, args) in [
        ("descriptors", &["fds", "--peers", "--shared"][..]),
        ("mappings", &["maps", "--no-smaps"]),
        ("modules", &["modules"]),
    ] {
        let alone = Answer::of(space.agent().args(args).args(["--pid", "1"])).json();
        assert_eq!(seen["data"][part]["rows"], alone["data"]["rows"], "{part}");
    }
    let own = seen["data"]["processes"]["rows"].as_array().unwrap().iter().filter(|row| row["self"] == true);
    assert!(own.count() >= 1, "the agent is in it: it may hold a pipe of the target");
}

#[test]
fn reads_what_is_shared_once() {
    let child = Child::target("sleeper", &["-O2"], ["10"]);
    let pid = child.pid().to_string();
    let answer = common::run(["snapshot", "--pid", &pid, "--access-log"]);
    let log: Vec<Value> = answer.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    // `cgroup` once more, to find the target.
    for (file, times) in [("maps", 1), ("mountinfo", 1), ("limits", 1), ("cgroup", 2), ("cmdline", 1)] {
        let path = json!(format!("/proc/{pid}/{file}"));
        let reads = log.iter().filter(|entry| entry["access"] == "open" && entry["path"] == path).count();
        assert_eq!(reads, times, "{file}");
    }
    let lists = log.iter().filter(|entry| entry["access"] == "list" && entry["path"] == "/proc/.").count();
    assert!(lists <= 2, "the processes are listed to find the target, and once: {lists}");
}

#[test]
fn what_comes_and_goes_is_a_gap_and_never_dangles() {
    let forker = Child::target("forker", &["-O2"], ["200", "100"]);
    for _ in 0..5 {
        let seen = json(["snapshot", "--no-smaps", "--pid", &forker.pid().to_string()]);
        assert_none_dangles(&seen);
    }
}

#[test]
fn without_rights_the_parts_that_are_public_are_there() {
    if !common::is_root() {
        return skip("without_rights_the_parts_that_are_public_are_there", "giving up rights needs root");
    }
    let child = Child::target("sleeper", &["-O2"], ["10"]);
    let installed = common::Installed::new();
    let answer = Answer::of(installed.as_user(65534, 65534).args(["snapshot", "--pid", &child.pid().to_string()]));
    assert_eq!(answer.status, 3, "{}", answer.stderr);
    let seen = answer.json();
    assert_none_dangles(&seen);
    let row = at(&seen, "processes", "pid", &json!(child.pid()));
    let comm = fs::read_to_string(format!("/proc/{}/comm", child.pid())).unwrap();
    assert_eq!(seen["data"].pointer(&row).unwrap()["name"], comm.trim_end());
    for part in ["/descriptors", "/mappings"] {
        assert!(!common::gaps_at(&seen, part).is_empty(), "{part} is denied, and that is said");
    }
}

/// Rows by `keys`, with those members alone.
fn picked(data: &Value, keys: &[&str]) -> Vec<Vec<Value>> {
    let rows = data["rows"].as_array().expect("rows");
    rows.iter().map(|row| keys.iter().map(|key| row[key].clone()).collect()).collect()
}

/// What scripts/record has taken of a process says the same as the process, as far as that stands in files.
#[test]
fn a_recording_says_the_same_as_the_process() {
    let target = Child::target("descriptors", &["-O2"], [""; 0]);
    common::stop(target.pid());
    let pid = target.pid().to_string();
    let recording = Recording::of([target.pid()]);
    let both = |arguments: &[&str]| {
        let live = json(arguments.iter().copied().chain(["--pid", &pid, "--allow-gaps"]));
        let mut replay = recording.agent();
        (live, Answer::of(replay.args(arguments).args(["--pid", &pid, "--allow-gaps", "-o", "json"])).json())
    };
    // Of each command what does not change with all the rest of the machine.
    let stable: [(&[&str], &[&str]); 4] = [
        (
            &["ps", "--details"],
            &["pid", "ppid", "name", "args", "executable", "state", "start_ticks", "threads", "nice"],
        ),
        (&["fds"], &["fd", "type", "target", "flags", "access", "inode", "device"]),
        (&["maps"], &["start", "end", "permissions", "kind", "path", "offset", "inode", "device", "rss_bytes"]),
        (&["maps", "--no-smaps"], &["start", "end", "permissions", "kind", "path"]),
    ];
    for (arguments, keys) in stable {
        let (live, replayed) = both(arguments);
        let own = |data: &Value| {
            let rows = picked(data, keys);
            rows.into_iter().filter(|row| keys[0] != "pid" || row[0] == target.pid()).collect::<Vec<_>>()
        };
        let (live, replayed) = (own(&live["data"]), own(&replayed["data"]));
        assert!(!live.is_empty(), "{arguments:?}");
        assert_eq!(live, replayed, "{arguments:?}");
    }
    let (live, replayed) = both(&["limits"]);
    let limits = |envelope: &Value| {
        let rows = envelope["data"]["limits"].as_array().expect("limits").clone();
        let own = |row: &Value| row["name"] != "processes" && row["name"] != "pending_signals";
        rows.into_iter().filter(own).collect::<Vec<_>>()
    };
    assert!(limits(&live).len() > 10, "{live}");
    assert_eq!(limits(&live), limits(&replayed));
    // The hierarchies that are mounted are not recorded, but which groups it is in.
    let groups = |envelope: &Value| {
        let groups = envelope["data"]["cgroup"]["groups"].as_array().expect("groups");
        groups.iter().map(|group| (group["controllers"].clone(), group["path"].clone())).collect::<Vec<_>>()
    };
    assert!(!groups(&live).is_empty());
    assert_eq!(groups(&live), groups(&replayed));

    let (whole, everything) = both(&["snapshot"]);
    assert_none_dangles(&everything);
    for part in ["processes", "descriptors", "sockets", "mappings", "modules", "stacks", "limits"] {
        assert!(everything["data"][part].is_object(), "{part}: {}", everything["gaps"]);
    }
    for (part, keys) in
        [("descriptors", stable[1].1), ("mappings", stable[3].1), ("modules", &["path", "device", "inode"])]
    {
        let rows = picked(&whole["data"][part], keys);
        assert!(!rows.is_empty(), "{part}");
        assert_eq!(rows, picked(&everything["data"][part], keys), "{part}");
    }
    // Memory is not recorded, and that is all that is said of stacks.
    let gaps = common::gaps_at(&everything, "/stacks");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(gaps[0]["reason"], "unsupported");
    common::cont(target.pid());
}
