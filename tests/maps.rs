//! `agent maps` against a program that says what it has mapped, against the kernel's own text, and against pmap(1).
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

#[path = "maps/classic.rs"]
mod classic;
mod common;
#[path = "maps/figures.rs"]
mod figures;
#[path = "maps/recorded.rs"]
mod recorded;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use classic::hex;
use common::{Answer, Child, Installed, agent, bytes, gaps_at, has_tool, is_root, json, rows, run, skip, stop, unhex};
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
    let program = directory.join("maps_truth-O2-static");
    // Its pages are dirty until they are on disk.
    let written = Command::new("sync").arg(&program).status().expect("sync");
    assert!(written.success());
    Child::ready(Command::new(program).args(arguments).env("TMPDIR", directory))
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

#[test]
fn without_smaps_the_mappings_are_the_same() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = alone(directory.path(), &[]);
    stop(target.pid());
    let (full, bare) = (maps(target.pid(), &[]), maps(target.pid(), &["--no-smaps"]));
    assert_eq!(bare["gaps"], json!([]));
    for (full, bare) in common::pairs(rows(&full), rows(&bare)) {
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
    // Line by line: the envelope as one value would be large for this test.
    let listed = |options: &[&str], status: i32| {
        let fixed = ["maps", "--pid", &pid, "-o", "ndjson", "--session", "same"];
        let answer = run(fixed.iter().chain(options));
        assert_eq!(answer.status, status, "{}", answer.stderr);
        let mut lines: Vec<String> = answer.text().lines().map(str::to_owned).collect();
        let last: Value = serde_json::from_str(&lines.pop().expect("the end")).expect("JSON");
        (lines, last["end"].clone())
    };
    let (all, whole) = listed(&[], 0);
    assert_eq!(all.len(), classic::text(target.pid(), "maps").lines().count());
    assert!(all.len() >= 60_000);
    // Beside what the program itself takes, which is much in a build for tests.
    let peak = |envelope: &Value| envelope["cost"]["peak_rss_kib"].as_u64().expect("a figure");
    let taken = peak(&whole) - peak(&json(["version"]));
    assert!(taken <= 12 << 10, "{taken} KiB");

    let (some, cut) = listed(&["--max-rows", "1000"], 4);
    // With whom pages are shared is the other tests' doing as well.
    let own = |lines: &[String]| {
        let rows = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let own = rows.map(|mut line| {
            let row = line.as_object_mut().expect("a row");
            row.retain(|key, _| !["pss", "shared", "private", "referenced"].iter().any(|part| key.starts_with(part)));
            line
        });
        own.collect::<Vec<_>>()
    };
    assert_eq!(some.len(), 1000);
    assert!(own(&some) == own(&all[..1000]));
    assert_eq!(gaps_at(&cut, "/rows")[0]["reason"], "limit_reached");
    for key in ["mappings", "size_bytes", "rss_bytes", "private_dirty_bytes", "hardening"] {
        assert_eq!(cut["data"]["summary"][key], whole["data"]["summary"][key], "{key}");
    }
    // What is in no row is in the totals of its kind and file all the same.
    let shares = |envelope: &Value, list: &str| {
        let mut shares = envelope["data"]["summary"][list].as_array().expect("a list").clone();
        for share in &mut shares {
            share.as_object_mut().expect("a share").retain(|key, _| key != "pss_bytes" && key != "private_clean_bytes");
        }
        shares.sort_by_key(ToString::to_string);
        shares
    };
    for list in ["kinds", "files"] {
        let cut = shares(&cut, list);
        assert!(cut.iter().filter_map(|share| share["mappings"].as_u64()).sum::<u64>() > 1000 || list == "files");
        assert_eq!(cut, shares(&whole, list), "{list}");
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

#[test]
fn a_watch_tells_by_how_much_each_mapping_grows() {
    // It maps a region, and touches 4 MiB more of it for each line that it is told.
    let source = r#"
        #include <stdio.h>
        #include <string.h>
        #include <sys/mman.h>
        int main(void) {
            char line[16], *at = mmap(0, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            madvise(at, 64 << 20, MADV_NOHUGEPAGE);
            printf("{\"start\": \"%p\"}\n\"ready\"\n", (void *)at);
            fflush(stdout);
            for (size_t grown = 0; fgets(line, sizeof line, stdin); grown += 4 << 20) {
                memset(at + grown, 1, 4 << 20);
                mmap(0, 12288, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
                puts("\"ready\"");
                fflush(stdout);
            }
        }
    "#;
    let mut target = Child::ready(&mut Command::new(common::compile_c(source, &["-O1"])));
    let start = target.truth[0]["start"].clone();
    let pid = target.pid().to_string();
    let args = ["maps", "--pid", &pid, "--watch", "1000", "--interval", "100ms", "-o", "json"];
    let mut watch = Child::start(common::agent().args(args));
    let grows = |envelope: &Value| {
        let row = common::rows(envelope).iter().find(|row| row["start"] == start).expect("the region").clone();
        row["rss_growth_bytes"].as_i64().expect("a growth")
    };
    let mut next = || -> Value { serde_json::from_str(&watch.line()).expect("an envelope") };
    let still = common::wait_for("a look at which nothing grew", common::SOON, || {
        let envelope = next();
        (grows(&envelope) == 0).then_some(envelope)
    });
    common::assert_valid(&still);
    assert_eq!(still["data"]["summary"]["changes"]["mapped"], serde_json::json!([]));
    target.tell("grow");
    target.answer();
    // The page faults may lie on both sides of a look.
    let (mut grown, mut mapped) = (0, 0);
    common::wait_until("4 MiB more", common::SOON, || {
        let envelope = next();
        grown += grows(&envelope);
        let changes = &envelope["data"]["summary"]["changes"];
        let new = changes["mapped"].as_array().expect("a list").iter().filter(|one| one["size_bytes"] == 12288);
        mapped += new.count();
        assert!(changes["rss_growth_bytes"].as_i64().expect("a sum") >= grows(&envelope), "{changes}");
        grown >= 4 << 20 && mapped > 0
    });
    assert_eq!((grown, mapped), (4 << 20, 1));
}
