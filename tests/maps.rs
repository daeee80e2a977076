//! `agent maps` against a program that says what it has mapped, against the kernel's own text, and against pmap(1).
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

#[path = "maps/classic.rs"]
mod classic;
mod common;
#[path = "maps/recorded.rs"]
mod recorded;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use classic::{FIGURES, hex};
use common::{
    Answer, Child, Installed, SOON, agent, bytes, gaps_at, has_tool, is_root, json, rows, run, skip, stop, unhex,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

pub(crate) fn maps(pid: u32, options: &[&str]) -> Value {
    json(["maps", "--pid", &pid.to_string()].iter().chain(options))
}

/// The one row that `address` lies in.
fn row_at(envelope: &Value, address: u64) -> &Value {
    let holds = |row: &&Value| (number(&row["start"])..number(&row["end"])).contains(&address);
    let mut found = rows(envelope).iter().filter(holds);
    let first = found.next().unwrap_or_else(|| panic!("no mapping at {address:#x}"));
    assert!(found.next().is_none(), "two mappings at {address:#x}");
    first
}

fn number(text: &Value) -> u64 {
    hex(text.as_str().unwrap_or_else(|| panic!("{text} is no address")))
}

/// The entry of `list` whose `key` is `value`.
fn entry<'a>(list: &'a Value, key: &str, value: &str) -> Option<&'a Value> {
    list.as_array().expect("a list").iter().find(|entry| entry[key] == value)
}

/// A program of tests/targets that nobody else runs from the same file, so that what it shares stays as it is.
pub(crate) fn alone(directory: &Path, arguments: &[&str]) -> Child {
    let built = agent_targets::build("maps_truth", &["-O2", "-static"]);
    let copied = Command::new("cp").arg(built).arg(directory).status().expect("cp");
    assert!(copied.success());
    Child::ready(Command::new(directory.join("maps_truth-O2-static")).args(arguments).env("TMPDIR", directory))
}

#[test]
fn says_what_each_mapping_is() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = agent_targets::build("maps_truth", &["-O2"]);
    let target = Child::ready(Command::new(program).env("TMPDIR", directory.path()));
    let seen = maps(target.pid(), &[]);
    assert_eq!(seen["gaps"], json!([]));
    for said in &target.truth {
        if let Some(kind) = said["missing"].as_str() {
            skip(&format!("says_what_each_mapping_is: {kind}"), &format!("errno {}", said["errno"]));
            continue;
        }
        check_truth(&seen, said);
    }
    let kinds = &seen["data"]["summary"]["kinds"];
    let stacks = entry(kinds, "kind", "thread_stack").expect("thread stacks");
    assert_eq!(stacks["mappings"], 4, "{stacks}");
    let levels = ["writable_executable", "executable_memfd", "modified_code", "executable_deleted", "executable_stack"]
        .map(|id| {
            entry(&seen["data"]["summary"]["hardening"], "id", id).expect("each check is listed")["level"].clone()
        });
    assert_eq!(json!(levels), json!(["warn", "warn", "warn", "info", "pass"]));
}

fn check_truth(seen: &Value, said: &Value) {
    let at = if said["address"].is_null() { &said["start"] } else { &said["address"] };
    let row = row_at(seen, number(at));
    let what = format!("{said}\n{row}");
    if said["address"].is_null() {
        assert_eq!((&row["start"], &row["end"]), (&said["start"], &said["end"]), "{what}");
    }
    for key in ["kind", "permissions", "name", "deleted", "tids", "locked_bytes"] {
        if !said[key].is_null() {
            assert_eq!(row[key], said[key], "{key}: {what}");
        }
    }
    if !said["path_hex"].is_null() {
        assert_eq!(bytes(&row["path"]), unhex(&said["path_hex"]), "{what}");
        assert!(!row["inode"].is_null() && !row["device"].is_null() && !row["offset"].is_null(), "{what}");
    } else if said["kind"] != "code" {
        assert!(row["path"].is_null() && row["inode"].is_null() && row["offset"].is_null(), "{what}");
    }
    if !said["hardening"].is_null() {
        let none = json!([]);
        assert_eq!(row.get("hardening").unwrap_or(&none), &said["hardening"], "{what}");
    }
    for flag in said["flags"].as_array().into_iter().flatten() {
        assert!(row["vm_flags"].as_array().expect("flags").contains(flag), "{flag}: {what}");
    }
    if !said["touched_bytes"].is_null() {
        for key in ["rss_bytes", "private_dirty_bytes", "anonymous_bytes", "pss_bytes", "referenced_bytes"] {
            assert_eq!(row[key], said["touched_bytes"], "{key}: {what}");
        }
    }
    if said["kind"] == "thread_stack" {
        let guard = row_at(seen, number(&row["start"]) - 1);
        assert_eq!((&guard["kind"], &guard["size_bytes"]), (&json!("guard"), &said["guard_bytes"]), "{what}\n{guard}");
    }
}

/// What holds a redis-server: no file, no port, a socket in `directory`.
fn redis(directory: &Path) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--daemonize", "no", "--unixsocket"]);
    let socket = directory.join("redis");
    let child = Child::start(command.arg(&socket).current_dir(directory));
    common::wait_until("redis", SOON, || socket.exists());
    child
}

fn python() -> Child {
    let program = "import json, sqlite3, sys, threading\nblock = threading.Event()\n\
        [threading.Thread(target=block.wait, daemon=True).start() for _ in range(3)]\n\
        print('\"ready\"', flush=True)\nsys.stdin.read()";
    Child::ready(Command::new("python3").args(["-c", program]))
}

/// The agent's answer for `pid`, which is stopped, and `other`'s at a time when nothing changed between the two: pages
/// of files are shared with whatever else runs on this machine.
fn same_time<T: PartialEq>(pid: u32, options: &[&str], other: impl Fn() -> T) -> (Value, T) {
    let end = Instant::now() + SOON;
    loop {
        let before = other();
        let seen = maps(pid, options);
        let after = other();
        if before == after {
            return (seen, after);
        }
        assert!(Instant::now() < end, "the mappings of {pid} never stood still");
    }
}

fn targets(directory: &Path) -> Vec<(&'static str, Child)> {
    let mut targets =
        vec![("sleep", Child::start(Command::new("sleep").arg("600"))), ("maps_truth", alone(directory, &[]))];
    for (name, tool) in [("redis", "redis-server"), ("python", "python3")] {
        match has_tool(tool) {
            true if name == "redis" => targets.push((name, redis(directory))),
            true => targets.push((name, python())),
            false => skip(name, &format!("no {tool}")),
        }
    }
    for (name, target) in &targets {
        common::wait_until(name, SOON, || classic::text(target.pid(), "maps").contains("[stack]"));
        stop(target.pid());
    }
    targets
}

/// Puts the agent's figures in place of those that the observer changes, where they can be of the same state.
fn allow_for_an_observer(row: &Value, mapping: &mut classic::Mapping) {
    let kib = |key: &str| row[key].as_u64().expect("a figure") / 1024;
    let pages = ["Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty"];
    let keys = ["shared_clean_bytes", "shared_dirty_bytes", "private_clean_bytes", "private_dirty_bytes"];
    let sum: u64 = pages.iter().map(|name| mapping.figures[*name]).sum();
    let own_sum: u64 = keys.map(kib).iter().sum();
    assert_eq!(sum, own_sum, "{row}\n{mapping:?}");
    assert!(mapping.figures["Pss"] <= kib("pss_bytes"), "{row}\n{mapping:?}");
    for (name, key) in pages.into_iter().zip(keys).chain([("Pss", "pss_bytes"), ("Pss_Dirty", "pss_dirty_bytes")]) {
        mapping.figures.insert(name.to_owned(), kib(key));
    }
}

fn assert_row(row: &Value, mapping: &classic::Mapping, what: &str) {
    let what = format!("{what}: {row}\n{mapping:?}");
    assert_eq!(number(&row["start"]), mapping.start, "{what}");
    assert_eq!(row["permissions"], mapping.permissions, "{what}");
    for (key, name) in FIGURES {
        let expected = mapping.figures.get(name).map(|kib| kib * 1024);
        assert_eq!(row[key].as_u64(), expected, "{key}: {what}");
    }
    assert_eq!(row["size_bytes"].as_u64(), mapping.figures.get("Size").map(|kib| kib * 1024), "{what}");
    assert_eq!(row["thp_eligible"].as_bool(), mapping.figures.get("THPeligible").map(|flag| *flag == 1), "{what}");
    assert_eq!(row["protection_key"].as_u64(), mapping.figures.get("ProtectionKey").copied(), "{what}");
    assert_eq!(row["vm_flags"].as_array().expect("flags").len(), mapping.flags.len(), "{what}");
    assert!(!row["vm_flags"].to_string().contains("unknown"), "{what}");
    if mapping.inode == "0" {
        assert!(row["path"].is_null() && row["inode"].is_null(), "{what}");
        let name = mapping.path.trim_start_matches("[anon:").trim_matches(['[', ']']);
        assert_eq!(row["name"].as_str().unwrap_or_default(), name, "{what}");
    } else {
        let device: Vec<String> = mapping.device.split(':').map(|part| hex(part).to_string()).collect();
        assert_eq!(row["device"], device.join(":"), "{what}");
        assert_eq!(row["inode"], mapping.inode.as_str(), "{what}");
        assert_eq!(number(&row["offset"]), mapping.offset, "{what}");
        let suffix = if row["deleted"] == true { " (deleted)" } else { "" };
        assert_eq!(format!("{}{suffix}", row["path"].as_str().expect("a path")), mapping.path, "{what}");
    }
}

#[test]
fn every_figure_is_that_of_smaps_and_of_pmap() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, target) in targets(directory.path()) {
        let pid = target.pid();
        let (seen, text) = same_time(pid, &[], || classic::text(pid, "smaps"));
        assert_eq!(seen["gaps"], json!([]), "{name}");
        let mappings = classic::smaps(&text);
        assert_eq!(rows(&seen).len(), mappings.len(), "{name}");
        for (row, mapping) in rows(&seen).iter().zip(&mappings) {
            assert_row(row, mapping, name);
            assert_eq!(number(&row["end"]), mapping.end, "{name}: {row}");
        }
        assert_sums(&seen, &mappings, name);
        if !has_tool("pmap") {
            skip("every_figure_is_that_of_smaps_and_of_pmap", "no pmap");
            continue;
        }
        let (seen, mut mappings) = same_time(pid, &[], || classic::pmap_all(pid));
        assert_eq!(rows(&seen).len(), mappings.len(), "{name}");
        for (row, mapping) in rows(&seen).iter().zip(&mut mappings) {
            // pmap itself maps libc and the locale while it looks, so it sees them shared by one more than they are
            // without it. The agent shares nothing.
            if row["private_dirty_bytes"] != row["rss_bytes"] {
                allow_for_an_observer(row, mapping);
            }
            assert_row(row, mapping, name);
        }
        let (seen, [size, resident, dirty]) = same_time(pid, &[], || classic::pmap_totals(pid));
        let summary = &seen["data"]["summary"];
        // pmap counts the kernel's [vsyscall] as the process's, and VmSize does not.
        let gate: u64 = mappings.iter().filter(|m| m.path == "[vsyscall]").map(|m| m.figures["Size"]).sum();
        assert_eq!(summary["size_bytes"], (size - gate) * 1024, "{name}");
        assert_eq!(summary["rss_bytes"], resident * 1024, "{name}");
        let dirty_bytes = summary["private_dirty_bytes"].as_u64().zip(summary["shared_dirty_bytes"].as_u64());
        assert_eq!(dirty_bytes.map(|(private, shared)| private + shared), Some(dirty * 1024), "{name}");
    }
}

/// The totals, and the roll-ups by kind and by file, are the sums of the rows.
fn assert_sums(seen: &Value, mappings: &[classic::Mapping], what: &str) {
    let summary = &seen["data"]["summary"];
    assert_eq!(summary["mappings"], mappings.len(), "{what}");
    for (key, name) in FIGURES.iter().skip(2) {
        let sum: u64 = mappings.iter().map(|mapping| mapping.figures[*name]).sum();
        assert_eq!(summary[key], sum * 1024, "{key}: {what}");
    }
    let sum = |rows: &[Value], key: &str| -> u64 { rows.iter().filter_map(|row| row[key].as_u64()).sum() };
    let keys = ["size_bytes", "rss_bytes", "pss_bytes", "private_clean_bytes", "private_dirty_bytes", "swap_bytes"];
    let kinds = summary["kinds"].as_array().expect("kinds");
    let files = summary["files"].as_array().expect("files");
    for key in keys {
        assert_eq!(sum(kinds, key), sum(rows(seen), key), "{key}: {what}");
        let of_files: Vec<Value> = rows(seen).iter().filter(|row| !row["inode"].is_null()).cloned().collect();
        assert_eq!(sum(files, key), sum(&of_files, key), "{key}: {what}");
    }
    for file in files {
        let same = |row: &&Value| ["path", "inode", "device"].iter().all(|key| row[*key] == file[*key]);
        let own: Vec<Value> = rows(seen).iter().filter(same).cloned().collect();
        assert_eq!(file["mappings"], own.len(), "{what}: {file}");
        assert_eq!(sum(&own, "pss_bytes"), file["pss_bytes"].as_u64().expect("a figure"), "{what}: {file}");
        let is_module = own.iter().any(|row| row["permissions"].as_str().is_some_and(|letters| letters.contains('x')));
        assert_eq!(file["module"], is_module, "{what}: {file}");
    }
}

#[test]
fn the_summary_is_the_kernels_own() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, target) in targets(directory.path()) {
        let pid = target.pid();
        let (seen, text) = same_time(pid, &["--summary"], || classic::text(pid, "smaps_rollup"));
        let rollup = &classic::smaps(&text)[0];
        let summary = &seen["data"]["summary"];
        assert!(seen["data"]["rows"].is_null() && summary["kinds"].is_null(), "{name}");
        for (key, kernel) in FIGURES.iter().skip(2) {
            assert_eq!(summary[key].as_u64(), rollup.figures.get(*kernel).map(|kib| kib * 1024), "{key}: {name}");
        }
        for (key, kernel) in [
            ("pss_anonymous_bytes", "Pss_Anon"),
            ("pss_file_bytes", "Pss_File"),
            ("pss_shared_memory_bytes", "Pss_Shmem"),
        ] {
            assert_eq!(summary[key].as_u64(), rollup.figures.get(kernel).map(|kib| kib * 1024), "{key}: {name}");
        }
        // The rows' figures are cut to KiB, each by less than one.
        let (whole, _) = same_time(pid, &[], || classic::text(pid, "smaps_rollup"));
        let whole = &whole["data"]["summary"];
        assert_eq!(whole["size_bytes"], summary["size_bytes"], "{name}");
        let (rolled, summed) = (rollup.figures["Pss"] * 1024, whole["pss_bytes"].as_u64().expect("a figure"));
        let lost = rolled.abs_diff(summed);
        assert!(lost <= 1024 * whole["mappings"].as_u64().expect("a count"), "{name}: {rolled} and {summed}");
    }
}

#[test]
fn without_smaps_the_mappings_are_the_same() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = alone(directory.path(), &[]);
    stop(target.pid());
    let (full, bare) = (maps(target.pid(), &[]), maps(target.pid(), &["--no-smaps"]));
    assert_eq!(bare["gaps"], json!([]));
    assert_eq!(rows(&full).len(), rows(&bare).len());
    for (full, bare) in rows(&full).iter().zip(rows(&bare)) {
        assert!(bare["rss_bytes"].is_null() && bare["vm_flags"].is_null(), "{bare}");
        for (key, value) in bare.as_object().expect("an object") {
            // That one takes the figures.
            if key != "hardening" {
                assert_eq!(&full[key], value, "{key}: {full}");
            }
        }
    }
    let hardening = &bare["data"]["summary"]["hardening"];
    assert_eq!(entry(hardening, "id", "modified_code").expect("listed")["level"], "unknown");
    assert!(bare["data"]["summary"]["rss_bytes"].is_null());
}

#[test]
fn the_same_state_gives_the_same_digest() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = alone(directory.path(), &[]);
    stop(target.pid());
    for options in [&[][..], &["--no-smaps"], &["--summary"]] {
        let (first, second) = (maps(target.pid(), options), maps(target.pid(), options));
        assert_eq!(first["digest"], second["digest"], "{options:?}");
        assert_eq!(first["gaps"], json!([]), "{options:?}");
    }
}

#[test]
fn lists_60_000_mappings_in_16_mib() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = alone(directory.path(), &["many", "60000"]);
    let pid = target.pid().to_string();
    let answer = run(["maps", "--pid", &pid]);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    let seen: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    let count = classic::text(target.pid(), "maps").lines().count();
    assert_eq!(rows(&seen).len(), count);
    assert!(count >= 60_000);
    let peak = seen["cost"]["peak_rss_kib"].as_u64().expect("a figure");
    assert!(peak <= 16 << 10, "{peak} KiB");

    let answer = run(["maps", "--pid", &pid, "--max-rows", "1000"]);
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    let cut: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    common::assert_valid(&cut);
    assert!(rows(&cut) == &rows(&seen)[..1000]);
    assert_eq!(gaps_at(&cut, "/rows")[0]["reason"], "limit_reached");
    for key in ["mappings", "size_bytes", "rss_bytes", "private_dirty_bytes"] {
        assert_eq!(cut["data"]["summary"][key], seen["data"]["summary"][key], "{key}");
    }
}

#[test]
fn mappings_that_come_and_go_are_a_gap_at_worst() {
    let target = Child::target("maps_truth", &["-O2"], ["churn"]);
    for _ in 0..30 {
        let seen = maps(target.pid(), &[]);
        assert!(rows(&seen).is_sorted_by_key(|row| number(&row["start"])));
        row_at(
            &seen,
            rows(&seen).iter().find(|row| row["kind"] == "stack").map(|row| number(&row["start"])).expect("one"),
        );
        for gap in seen["gaps"].as_array().expect("gaps") {
            // The thread that churns mostly runs, and has no stack pointer then.
            assert_eq!(gap["reason"], "incomplete", "{gap}");
        }
    }
}

#[test]
fn what_was_read_stays_when_the_process_dies() {
    let mut cut_short = 0;
    for attempt in 0..12_u64 {
        let target = Child::target("maps_truth", &["-O2"], ["many", "20000"]);
        let pid = target.pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(attempt * 8));
            common::signal(pid, Signal::SIGKILL);
        });
        let answer = run(["maps", "--pid", &pid.to_string()]);
        killer.join().expect("the killer");
        match answer.status {
            0 => assert!(answer.json()["gaps"] == json!([])),
            3 => {
                let seen = answer.json();
                let gaps = gaps_at(&seen, "/rows");
                assert!(gaps.iter().all(|gap| ["exited", "not_found"].contains(&gap["reason"].as_str().expect("one"))));
                cut_short += usize::from(!rows(&seen).is_empty());
            }
            status => assert_eq!(status, 5, "{}", answer.stderr),
        }
    }
    if cut_short == 0 {
        skip("what_was_read_stays_when_the_process_dies", "no process died at the right time");
    }
}

#[test]
fn mappings_outlive_the_first_thread() {
    let target = Child::target("maps_truth", &["-O2"], ["leaderless"]);
    let seen = maps(target.pid(), &[]);
    assert!(classic::text(target.pid(), "maps").is_empty());
    assert_eq!(seen["gaps"], json!([]));
    let stack = rows(&seen).iter().find(|row| row["kind"] == "thread_stack").expect("its stack");
    assert_eq!(stack["tids"], json!([target.truth[0]["tid"]]));
    let main = rows(&seen).iter().find(|row| row["kind"] == "stack").expect("the main stack");
    assert!(main["tids"].is_null(), "{main}");
}

#[test]
fn a_kernel_thread_has_no_mappings_and_that_is_a_gap() {
    if std::fs::read_to_string("/proc/2/comm").ok().as_deref() != Some("kthreadd\n") {
        return skip("a_kernel_thread_has_no_mappings_and_that_is_a_gap", "no kernel threads in this pid namespace");
    }
    let seen = maps(2, &[]);
    assert_eq!(gaps_at(&seen, "/rows")[0]["reason"], "not_found", "{}", seen["gaps"]);
}

#[test]
fn what_is_denied_is_a_gap_and_no_empty_list() {
    if !is_root() {
        return skip("what_is_denied_is_a_gap_and_no_empty_list", "only root can become another user");
    }
    let target = Child::target("maps_truth", &["-O2"], ["many", "10"]);
    let installed = Installed::new();
    for options in [&[][..], &["--no-smaps"]] {
        let mut command = installed.as_user(65_532, 65_532);
        let seen = Answer::of(command.args(["maps", "--pid", &target.pid().to_string()]).args(options)).json();
        assert!(seen["data"]["rows"].is_null() && seen["data"]["summary"]["mappings"].is_null(), "{}", seen["data"]);
        let gaps = gaps_at(&seen, "/rows");
        assert_eq!(gaps[0]["reason"], "permission_denied", "{}", seen["gaps"]);
        assert!(gaps[0]["needs"].as_array().expect("needs").contains(&json!("CAP_SYS_PTRACE")), "{}", gaps[0]);
    }
}

#[test]
fn stacks_of_threads_are_a_gap_where_only_their_mappings_may_be_read() {
    let name = "stacks_of_threads_are_a_gap_where_only_their_mappings_may_be_read";
    if !is_root() || !has_tool("setpriv") {
        return skip(name, "needs root and setpriv");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = alone(directory.path(), &[]);
    let installed = Installed::new();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65532", "--regid=65532", "--clear-groups", "--inh-caps=-all,+sys_ptrace"]);
    command.args(["--ambient-caps=-all,+sys_ptrace", "--bounding-set=-all,+sys_ptrace"]);
    command.arg(installed.path()).args(["maps", "--pid", &target.pid().to_string()]);
    let seen = Answer::of(&mut command).json();
    let gap = gaps_at(&seen, "/rows")[0];
    assert_eq!(
        (&gap["reason"], seen["gaps"].as_array().map(Vec::len)),
        (&json!("permission_denied"), Some(1)),
        "{gap}"
    );
    assert!(gap["path"].as_str().is_some_and(|path| path.ends_with("/syscall")), "{gap}");
    assert!(rows(&seen).iter().all(|row| row["kind"] != "thread_stack"));
    let whole = maps(target.pid(), &[]);
    assert_eq!(rows(&whole).len(), rows(&seen).len());
    assert_eq!(whole["data"]["summary"]["rss_bytes"], seen["data"]["summary"]["rss_bytes"]);
}

#[test]
fn memory_is_told_by_node() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = alone(directory.path(), &[]);
    stop(target.pid());
    if !Path::new(&format!("/proc/{}/numa_maps", target.pid())).exists() {
        let seen = maps(target.pid(), &["--numa"]);
        assert_eq!(gaps_at(&seen, "/rows")[0]["reason"], "not_found");
        return skip("memory_is_told_by_node", "a kernel without NUMA");
    }
    let seen = maps(target.pid(), &["--numa"]);
    for said in target.truth.iter().filter(|said| !said["touched_bytes"].is_null()) {
        let row = row_at(&seen, number(&said["start"]));
        let nodes = row["numa_nodes"].as_array().unwrap_or_else(|| panic!("{row}"));
        let sum: u64 = nodes.iter().map(|node| node["rss_bytes"].as_u64().expect("a figure")).sum();
        assert_eq!(json!(sum), said["touched_bytes"], "{row}");
        assert_eq!(row["numa_policy"], "default", "{row}");
    }
}

#[test]
fn tables_and_lines_have_every_mapping() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = alone(directory.path(), &[]);
    stop(target.pid());
    let pid = target.pid().to_string();
    let count = rows(&maps(target.pid(), &[])).len();
    let lines = run(["maps", "--pid", &pid, "-o", "ndjson"]);
    assert_eq!((lines.status, lines.text().lines().count()), (0, count + 1));
    for args in [&["maps", "-o", "table", "--pid", &pid][..], &["maps", "-o", "table", "--summary", "--pid", &pid]] {
        let table = Answer::of(agent().args(args));
        assert_eq!(table.status, 0, "{}", table.stderr);
        assert!(table.text().contains("rss_bytes"), "{}", table.text());
    }
}
