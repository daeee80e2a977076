//! `agent ps` against programs whose truth is known, and against ps(1) in the same run.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

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

// --- Truth --------------------------------------------------------------------------------------

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
}

#[test]
fn of_very_long_arguments_the_beginning_is_kept() {
    let argument = "x".repeat(100_000);
    let child = target("sleeper", &["1", &argument, &argument]);
    let answer = run(["ps"]);
    // Cut off by a limit.
    assert_eq!(answer.status, 4);
    let seen: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let at = rows(&seen).iter().position(|row| row["pid"] == child.pid()).unwrap();
    let args: Vec<Vec<u8>> = rows(&seen)[at]["args"].as_array().unwrap().iter().map(bytes).collect();
    assert_eq!((args.len(), args[2].len(), args.join(&0).len()), (4, 100_000, 128 << 10));
    let gaps = gaps_at(&seen, &format!("/rows/{at}/"));
    assert_eq!((&gaps[0]["at"], &gaps[0]["reason"]), (&json!(format!("/rows/{at}/args")), &json!("limit_reached")));
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

// --- The classic tool ---------------------------------------------------------------------------

/// What ps(1) says: each of `columns` by pid. One call a column, since names and arguments may hold anything.
fn classic(columns: &[&'static str]) -> BTreeMap<u64, BTreeMap<&'static str, String>> {
    let mut table: BTreeMap<u64, BTreeMap<&str, String>> = BTreeMap::new();
    for column in columns {
        let format = format!("pid=,{column}=");
        let output =
            Command::new("ps").args(["-ww", "-eo", &format]).env("LC_ALL", "C").env("TZ", "UTC").output().unwrap();
        for line in String::from_utf8(output.stdout).expect("ps prints ? for what it does not know").lines() {
            let (pid, value) = line.trim_start().split_once(' ').unwrap_or((line.trim(), ""));
            table.entry(pid.parse().unwrap()).or_default().insert(column, value.to_owned());
        }
    }
    table
}

/// As ps(1) prints it in the C locale: a question mark for each byte that is not printable ASCII.
fn as_ps_prints(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' }).collect()
}

#[test]
fn agrees_with_ps_in_every_field() {
    const NAME: &str = "agrees_with_ps_in_every_field";
    if !common::has_tool("ps") {
        return skip(NAME, "ps (procps) is not installed");
    }
    let mut targets =
        vec![target("names", &[]), target("zombie", &[]), target("threads", &["50"]), target("sleeper", &["500"])];
    if common::is_root() {
        targets.push(target("setuid", &[]));
    }
    let stopped = target("sleeper", &["10"]);
    common::stop(stopped.pid());
    targets.push(stopped);

    let mut differences = differences_from_ps();
    // What changes while we look may differ: what is wrong differs each time.
    for _ in 0..5 {
        if differences.is_empty() {
            break;
        }
        let again = differences_from_ps();
        differences.retain(|place, _| again.contains_key(place));
    }
    assert!(differences.is_empty(), "{differences:#?}");
    let pids = by_pid(&json(["ps"])).into_keys().collect::<BTreeSet<_>>();
    for target in &targets {
        assert!(pids.contains(&u64::from(target.pid())));
        assert!(target.truth.iter().filter_map(|line| line["pid"].as_u64()).all(|pid| pids.contains(&pid)));
    }
}

/// In what ps and we differ, of processes that were there before and after: by pid and field.
fn differences_from_ps() -> BTreeMap<(u64, &'static str), String> {
    const COLUMNS: [&str; 10] = ["ppid", "euid", "egid", "stat", "nlwp", "rss", "cputimes", "lstart", "comm", "args"];
    let before = json(["ps"]);
    let classic = classic(&COLUMNS);
    let after = json(["ps"]);
    let (before, after) = (by_pid(&before), by_pid(&after));
    let mut differences = BTreeMap::new();
    for (pid, ours) in &before {
        // A process that lived through all of it, and is no other one by now.
        let Some(later) = after.get(pid).filter(|later| later["start_ticks"] == ours["start_ticks"]) else { continue };
        let Some(theirs) = classic.get(pid).filter(|row| row.len() == COLUMNS.len()) else {
            differences.insert((*pid, "all"), format!("ps has not seen it: {ours}"));
            continue;
        };
        for (field, our_value, their_value) in fields(ours, later, theirs) {
            if our_value != their_value {
                differences.insert((*pid, field), format!("ours {our_value:?}, of ps {their_value:?}"));
            }
        }
    }
    for pid in classic.keys().filter(|pid| !before.contains_key(pid)) {
        // ps itself, and what was started since.
        if after.contains_key(pid) {
            differences.insert((*pid, "all"), "we have not seen it".to_owned());
        }
    }
    differences
}

/// Each field as we saw it, and as ps did.
fn fields(ours: &Value, later: &Value, theirs: &BTreeMap<&str, String>) -> Vec<(&'static str, String, String)> {
    let number = |column: &str| theirs[column].trim().parse::<u64>().unwrap();
    let mut fields: Vec<(&str, String, String)> =
        [("ppid", "ppid"), ("uid", "euid"), ("gid", "egid"), ("threads", "nlwp")]
            .into_iter()
            .map(|(key, column)| (key, ours[key].to_string(), number(column).to_string()))
            .collect();
    // ps counts in KiB, and from the same `status`.
    fields.push(("rss_bytes", ours["rss_bytes"].to_string(), (number("rss") * 1024).to_string()));
    // ps adds up user and system time and cuts that to seconds: it is between what we saw before and after.
    let cpu = |row: &Value| (row["cpu_user_us"].as_u64().unwrap() + row["cpu_system_us"].as_u64().unwrap()) / 1_000_000;
    let cpu_then = number("cputimes").clamp(cpu(ours), cpu(later));
    fields.push(("cpu", cpu_then.to_string(), number("cputimes").to_string()));
    fields.push(("state", letter(&ours["state"]).to_string(), theirs["stat"].trim()[..1].to_owned()));
    // ps reckons the start from the time since boot, which it rounds: it may be off by a second.
    let start = seconds(ours["start_time"].as_str().unwrap());
    let their_start = seconds(&format!("{} UTC", theirs["lstart"]));
    fields.push(("start_time", start.clamp(their_start - 1, their_start + 1).to_string(), start.to_string()));
    // ps marks a zombie, and puts the name in brackets where there are no arguments.
    let mark = if ours["state"] == "zombie" { " <defunct>" } else { "" };
    let name = as_ps_prints(&bytes(&ours["name"]));
    fields.push(("name", format!("{name}{mark}").trim().to_owned(), theirs["comm"].trim().to_owned()));
    let args: Vec<Vec<u8>> = ours["args"].as_array().unwrap().iter().map(bytes).collect();
    let line = if args.is_empty() { format!("[{name}]{mark}") } else { as_ps_prints(&args.join(&b' ')) };
    // Both trimmed: ps leaves out empty arguments at the end.
    fields.push(("args", line.trim().to_owned(), theirs["args"].trim().to_owned()));
    fields
}

/// The letter that ps has for a state.
fn letter(state: &Value) -> char {
    match state.as_str() {
        Some("running") => 'R',
        Some("sleeping") => 'S',
        Some("disk_sleep") => 'D',
        Some("stopped") => 'T',
        Some("tracing_stop") => 't',
        Some("zombie") => 'Z',
        Some("idle") => 'I',
        other => panic!("a state that ps has not: {other:?}"),
    }
}

/// Seconds since 1970, by date(1).
fn seconds(time: &str) -> i64 {
    let output = Command::new("date").args(["-u", "-d", time, "+%s"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap_or_else(|_| panic!("no time: {time}"))
}

// --- A table that changes -----------------------------------------------------------------------

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
        if !name.to_str().is_some_and(|name| name.parse::<u32>().is_ok()) {
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

// --- Rights -------------------------------------------------------------------------------------

#[test]
fn without_rights_the_rows_are_there_and_gaps_say_what_would_open_the_rest() {
    const NAME: &str = "without_rights_the_rows_are_there_and_gaps_say_what_would_open_the_rest";
    if !common::is_root() {
        return skip(NAME, "giving up rights needs root");
    }
    let parent = target("setuid", &[]);
    let installed = Installed::new();
    let answer = Answer::of(installed.as_user(65534, 65534).arg("ps"));
    assert_eq!(answer.status, 3);
    let seen = answer.json();
    let rows = by_pid(&seen);
    let full = json(["ps"]);
    let gap_of = |pid: &Value| {
        let index = common::rows(&seen).iter().position(|row| row["pid"] == *pid).unwrap();
        let gaps = gaps_at(&seen, &format!("/rows/{index}/"));
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert_eq!(gaps[0]["at"], format!("/rows/{index}/executable"));
        assert_eq!((&gaps[0]["reason"], &gaps[0]["errno"]), (&json!("permission_denied"), &json!("EACCES")));
        assert_eq!(gaps[0]["path"], format!("/proc/{pid}/exe"));
        (gaps[0]["needs"].clone(), gaps[0]["remedy"].as_str().unwrap().to_owned())
    };
    let by_case = |case: &str| gap_of(&parent.said("case", case)["pid"]);

    let (needs, remedy) = gap_of(&json!(parent.pid()));
    assert_eq!(needs, json!(["same_uid", "CAP_SYS_PTRACE"]), "a root process");
    assert_eq!(remedy, "kubectl debug --profile=general");
    let (needs, remedy) = by_case("dropped");
    assert_eq!(needs, json!(["same_uid", "CAP_SYS_PTRACE"]));
    assert!(remedy.contains("\"runAsUser\":1000,\"runAsGroup\":1000"), "{remedy}");
    let (needs, _) = by_case("undumpable");
    assert_eq!(needs, json!(["CAP_SYS_PTRACE", "dumpable"]));

    for truth in &parent.truth {
        let (mine, all) = (rows[&truth["pid"].as_u64().unwrap()], row(&full, "pid", truth["pid"].clone()));
        for key in ["ppid", "depth", "uid", "gid", "state", "threads", "rss_bytes", "start_ticks", "name", "args"] {
            assert_eq!(mine[key], all[key], "{key} of {truth}");
        }
    }
    // A kernel thread has no executable to be denied.
    for gap in seen["gaps"].as_array().unwrap() {
        let index: usize = gap["at"].as_str().unwrap().split('/').nth(2).unwrap().parse().unwrap();
        assert_ne!(common::rows(&seen)[index]["args"], json!([]), "{gap}");
    }
    let allowed = Answer::of(installed.as_user(65534, 65534).args(["ps", "--allow-gaps"]));
    assert_eq!(allowed.status, 0);
}

/// The agent as uid 1000 in `space`, where proc(5) is mounted with `hidepid=level`.
fn hidden(space: &Namespace, installed: &Installed, level: &str, args: &[&str]) -> Option<Answer> {
    const SCRIPT: &str = "mount -t proc -o hidepid=$1 proc /proc || exit 99; shift; \
                          exec setpriv --reuid=1000 --regid=1000 --clear-groups \"$@\"";
    let mut command = space.enter();
    command.args(["unshare", "--mount", "sh", "-c", SCRIPT, "sh", level]).arg(installed.path()).args(args);
    Some(Answer::of(&mut command)).filter(|answer| answer.status != 99)
}

#[test]
fn hidepid_is_told_and_is_no_empty_list() {
    const NAME: &str = "hidepid_is_told_and_is_no_empty_list";
    let Some(space) = namespace(NAME, "setuid", &[]) else { return };
    let installed = Installed::new();
    let ours = space.target.said("case", "dropped");
    // 1 hides what is in the directories of other users' processes, 2 the directories, too.
    for (level, detail) in [("1", "this and 2 more processes"), ("2", "processes of other users")] {
        let Some(answer) = hidden(&space, &installed, level, &["ps"]) else {
            return skip(NAME, "proc cannot be mounted with hidepid here");
        };
        assert_eq!(answer.status, 3, "{}", answer.stderr);
        let seen = answer.json();
        assert_eq!(rows(&seen).len(), 1);
        assert_eq!((&rows(&seen)[0]["pid"], &rows(&seen)[0]["uid"]), (&ours["pid"], &json!(1000)));
        let gaps = seen["gaps"].as_array().unwrap();
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert_eq!((&gaps[0]["at"], &gaps[0]["reason"]), (&json!("/rows/-"), &json!("permission_denied")));
        assert_eq!((&gaps[0]["needs"], &gaps[0]["detail"]), (&json!(["hidepid"]), &json!(detail)));
        assert!(gaps[0]["remedy"].as_str().unwrap().contains("--profile=general"));

        let answer = hidden(&space, &installed, level, &["ps", "--pid", "1"]).unwrap();
        assert_eq!((answer.status, answer.stdout.as_slice()), (5, &b""[..]));
        assert!(answer.stderr.contains("hidepid"), "{}", answer.stderr);
    }
    // Root sees all of them through it.
    let script = "mount -t proc -o hidepid=2 proc /proc; exec \"$@\"";
    let all = Answer::of(
        space.enter().args(["unshare", "--mount", "sh", "-c", script, "sh"]).arg(installed.path()).arg("ps"),
    );
    assert_eq!(rows(&all.json()).len(), 4);
}

// --- Output -------------------------------------------------------------------------------------

#[test]
fn ndjson_is_the_same_rows_and_an_end() {
    let Some(space) = namespace("ndjson_is_the_same_rows_and_an_end", "names", &[]) else { return };
    space.stop();
    let whole = Answer::of(space.agent().arg("ps")).json();
    let lines = Answer::of(space.agent().args(["ps", "-o", "ndjson", "--session", "S-1"]));
    assert_eq!(lines.status, 0);
    let mut lines: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.pop().unwrap();
    assert_eq!(lines.len(), rows(&whole).len());
    for (line, row) in lines.iter_mut().zip(rows(&whole)) {
        let line = line.as_object_mut().unwrap();
        assert_eq!(line.shift_remove("schema"), Some(json!("agent.ps/1")));
        assert_eq!(line.shift_remove("session_id"), Some(json!("S-1")));
        assert_eq!(Value::Object(line.clone()).to_string(), row.to_string());
    }
    assert_eq!((&end["schema"], &end["session_id"]), (&json!("agent.ps/1"), &json!("S-1")));
    assert_eq!(end["end"]["data"], json!({"summary": whole["data"]["summary"]}));
    assert_eq!((&end["end"]["digest"], &end["end"]["gaps"]), (&whole["digest"], &json!([])));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    for format in ["json", "ndjson", "table"] {
        let mut child = common::agent()
            .args(["ps", "-o", format])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody reads: not even what would fit into the pipe.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{format}");
    }
}

#[test]
fn a_full_disk_is_an_error_that_says_so() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in
        [&["ps", "-o", "json"][..], &["ps", "-o", "ndjson"], &["ps", "-o", "table"], &["schema", "ps"], &["--help"]]
    {
        let output = common::agent().args(args).stdout(full.try_clone().unwrap()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.starts_with("agent: standard output: No space left on device"), "{args:?}: {stderr}");
    }
}

#[test]
fn leaves_itself_out_unless_asked() {
    let child = common::agent().args(["ps", "--self"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = Answer::from(child.wait_with_output().unwrap());
    let seen = output.json();
    let own: Vec<&Value> = rows(&seen).iter().filter(|row| row["self"] == true).collect();
    assert_eq!(own.len(), 1);
    assert_eq!((&own[0]["pid"], &own[0]["name"], &own[0]["args"][1]), (&json!(pid), &json!("agent"), &json!("ps")));
    assert_eq!(seen["options"], json!({"self": true}));
    assert!(rows(&json(["ps"])).iter().all(|row| row["self"] == false));
}

// --- Bad input ----------------------------------------------------------------------------------

#[test]
fn wrong_flags_are_usage_errors() {
    for args in [
        &["ps", "--bogus"][..],
        &["ps", "--pid", "x"],
        &["ps", "--pid", "0"],
        &["ps", "-o", "xml"],
        &["pss"],
        &[],
        &["ps", "--pid", "1", "--name", "x"],
        &["ps", "--timeout", "soon"],
        &["ps", "--session", ""],
    ] {
        let answer = run(args);
        assert_eq!((answer.status, answer.stdout.as_slice()), (2, &b""[..]), "{args:?}");
        assert!(answer.stderr.len() > 10, "{args:?}: {}", answer.stderr);
    }
}

#[test]
fn a_process_that_is_not_there_is_no_target() {
    let child = target("sleeper", &["1"]);
    let pid = child.pid().to_string();
    assert_eq!(run(["ps", "--pid", &pid]).json()["target"]["pid"], child.pid());
    assert!(child.end().success());
    for args in [
        &["--pid", &pid][..],
        &["--pid", "4194304"],
        &["--name", "nobody-is-called-so"],
        &["--container", "0123456789ab"],
    ] {
        let answer = run([&["ps"], args].concat());
        assert_eq!((answer.status, answer.stdout.as_slice()), (5, &b""[..]), "{args:?}");
        assert!(answer.stderr.contains("there is no process"), "{args:?}: {}", answer.stderr);
    }
}

#[test]
fn an_unreadable_proc_is_an_error_that_says_so() {
    let empty = tempfile::tempdir().unwrap();
    for directory in ["/nonexistent", "/dev/null", empty.path().to_str().unwrap()] {
        let answer = run(["ps", "--proc", directory]);
        assert!(matches!(answer.status, 1 | 5), "{directory}: {}", answer.status);
        assert_eq!(answer.stdout, b"");
        assert!(answer.stderr.starts_with("agent: "), "{directory}: {}", answer.stderr);
    }
}

#[test]
fn a_look_that_was_cut_off_says_so() {
    // A process that is listed after most others.
    let last = target("sleeper", &["1"]);
    let mut cut = 0;
    for timeout in ["0s", "1us", "500us", "1ms", "2ms", "3ms", "5ms", "8ms", "20ms"] {
        let answer = run(["ps", "--timeout", timeout]);
        if answer.status == 4 {
            cut += 1;
            let reason = if answer.stdout.is_empty() { answer.stderr } else { answer.text().to_owned() };
            assert!(reason.contains("limit"), "{timeout}: {reason}");
        } else {
            row(&answer.json(), "pid", last.pid());
        }
    }
    assert!(cut >= 2, "nothing can be seen in no time");
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
