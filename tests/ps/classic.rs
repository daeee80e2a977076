//! Field by field against ps(1), in the same run.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::{by_pid, target};
use crate::common::{self, bytes, json, skip};

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

/// What ps(1) says in columns whose values are words, by pid.
fn words(columns: &[&'static str]) -> BTreeMap<u64, BTreeMap<&'static str, String>> {
    let format: String = ["pid"].iter().chain(columns).map(|column| format!("{column}=,")).collect();
    let mut ps = Command::new("ps");
    let output = ps.args(["-ww", "-eo", format.trim_end_matches(',')]).env("LC_ALL", "C").output().unwrap();
    let text = String::from_utf8(output.stdout).expect("words");
    let rows = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    // What ps leaves empty would shift the rest.
    let whole = rows.filter(|row| row.len() == columns.len() + 1);
    whole
        .map(|row| (row[0].parse().unwrap(), columns.iter().copied().zip(row[1..].iter().cloned()).collect()))
        .collect()
}

/// As ps(1) prints it in the C locale: a dot for a control character, a question mark for what is not ASCII.
fn as_ps_prints(bytes: &[u8]) -> String {
    let printed = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        0x80.. => '?',
        _ => '.',
    };
    bytes.iter().map(printed).collect()
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
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).expect("a directory");
        path
    };
    let postgres = common::servers::Postgres::start();
    let real = [
        common::servers::java(&at("java")),
        common::servers::nginx(&at("nginx"), 2),
        common::servers::python(&at("python"), common::servers::free_port()),
        common::servers::redis(&at("redis")),
    ];
    let missing = real.iter().map(|started| started.as_ref().err()).chain([postgres.as_ref().err()]);
    missing.flatten().for_each(|reason| skip(NAME, reason));
    let stopped = target("sleeper", &["10"]);
    common::stop(stopped.pid());
    targets.push(stopped);

    for differences_from_ps in [differences_from_ps, differences_in_details] {
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
    }
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

/// Each field as we saw it, and as ps did. What changed between our two looks is left out.
fn fields(ours: &Value, later: &Value, theirs: &BTreeMap<&str, String>) -> Vec<(&'static str, String, String)> {
    let number = |column: &str| theirs[column].trim().parse::<u64>().unwrap();
    let mut fields = Vec::new();
    for (key, column) in [("ppid", "ppid"), ("uid", "euid"), ("gid", "egid"), ("threads", "nlwp")] {
        fields.push((key, ours[key].to_string(), number(column).to_string()));
    }
    // ps counts in KiB, and from the same `status`.
    fields.push(("rss_bytes", ours["rss_bytes"].to_string(), (number("rss") * 1024).to_string()));
    fields.push(("state", letter(&ours["state"]).to_string(), theirs["stat"].trim()[..1].to_owned()));
    let name = as_ps_prints(&bytes(&ours["name"]));
    fields.push(("name", name.trim().to_owned(), theirs["comm"].trim().to_owned()));
    fields.push(("args", args_of_ps(ours, &name), theirs["args"].trim().to_owned()));
    fields.retain(|(key, ..)| ours[key] == later[key]);

    // ps adds up user and system time and cuts that to seconds: it is between what we saw before and after.
    let cpu = |row: &Value| (row["cpu_user_us"].as_u64().unwrap() + row["cpu_system_us"].as_u64().unwrap()) / 1_000_000;
    let cpu_then = number("cputimes").clamp(cpu(ours), cpu(later));
    fields.push(("cpu", cpu_then.to_string(), number("cputimes").to_string()));
    // ps reckons the start from the time since boot, which it rounds: it may be off by a second.
    let start = seconds(ours["start_time"].as_str().unwrap());
    let their_start = seconds(&format!("{} UTC", theirs["lstart"]));
    fields.push(("start_time", start.clamp(their_start - 1, their_start + 1).to_string(), start.to_string()));
    fields
}

/// Where `ps --details` has what ps has in a column.
const DETAILS: [(&str, &str); 24] = [
    ("/pgid", "pgid"),
    ("/session", "sess"),
    ("/tty/name", "tname"),
    ("/nice", "ni"),
    ("/details/uids/real/id", "ruid"),
    ("/details/uids/saved/id", "suid"),
    ("/details/uids/fs/id", "fuid"),
    ("/details/gids/real/id", "rgid"),
    ("/details/gids/saved/id", "sgid"),
    ("/details/gids/fs/id", "fgid"),
    ("/details/virtual_bytes", "vsz"),
    ("/details/minor_faults", "min_flt"),
    ("/details/major_faults", "maj_flt"),
    ("/details/policy", "cls"),
    ("/details/rt_priority", "rtprio"),
    ("/details/wait_channel", "wchan:64"),
    ("cgroup", "cgroupns"),
    ("ipc", "ipcns"),
    ("mnt", "mntns"),
    ("net", "netns"),
    ("pid", "pidns"),
    ("time", "timens"),
    ("user", "userns"),
    ("uts", "utsns"),
];

/// As [`differences_from_ps`], of the details.
fn differences_in_details() -> BTreeMap<(u64, &'static str), String> {
    let look = || json(["ps", "--details", "--self"]);
    let (before, classic, after) = (look(), words(&DETAILS.map(|(_, column)| column)), look());
    let (before, after) = (by_pid(&before), by_pid(&after));
    let mut differences = BTreeMap::new();
    let mut compared = 0;
    for (pid, ours) in &before {
        let Some(later) = after.get(pid).filter(|later| later["start_ticks"] == ours["start_ticks"]) else { continue };
        let Some(theirs) = classic.get(pid) else { continue };
        for (place, column) in DETAILS {
            let (our_value, our_later) = (detail(ours, place), detail(later, place));
            let their_value = as_detail(column, &theirs[column]);
            // Of a class without a nice value ps has none; the kernel keeps the one that comes back with another class.
            if column == "ni" && their_value == "-" && !matches!(theirs["cls"].as_str(), "TS" | "B" | "IDL") {
                continue;
            }
            if our_value == our_later && our_value != their_value {
                differences.insert((*pid, column), format!("ours {our_value:?}, of ps {their_value:?}"));
            }
            compared += 1;
        }
    }
    assert!(compared > 10 * DETAILS.len(), "{compared}");
    differences
}

/// A value of ours as a word; `-` for none.
fn detail(row: &Value, place: &str) -> String {
    let value = match row.pointer(place) {
        Some(value) => Some(value),
        None => {
            let namespaces = row.pointer("/details/namespaces").and_then(Value::as_array).into_iter().flatten();
            namespaces.filter(|namespace| namespace["kind"] == place).map(|namespace| &namespace["inode"]).next()
        }
    };
    match value {
        // ps leaves out what a name begins with.
        Some(Value::String(text)) if place.ends_with("wait_channel") => text.trim_start_matches('_').to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "-".to_owned(),
    }
}

/// A value of ps as ours are.
fn as_detail(column: &str, value: &str) -> String {
    match (column, value) {
        // In KiB.
        ("vsz", kib) => (kib.parse::<u64>().unwrap() * 1024).to_string(),
        ("tname", "?") => "-".to_owned(),
        ("cls", class) => match class {
            "TS" => "other",
            "FF" => "fifo",
            "RR" => "rr",
            "B" => "batch",
            "IDL" => "idle",
            "DLN" => "deadline",
            other => other,
        }
        .to_owned(),
        _ => value.to_owned(),
    }
}

/// The arguments as ps prints them: the name in brackets where there are none, a question mark where they are all
/// empty, a space for a newline, and nothing for empty ones at the end.
fn args_of_ps(row: &Value, name: &str) -> String {
    let args: Vec<Vec<u8>> = row["args"].as_array().unwrap().iter().map(bytes).collect();
    let line: Vec<u8> = args.join(&b' ').iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect();
    match (args.is_empty(), args.concat().is_empty()) {
        (true, _) if row["state"] == "zombie" => format!("[{name}] <defunct>"),
        (true, _) => format!("[{name}]"),
        (_, true) => "?".to_owned(),
        _ => as_ps_prints(&line).trim().to_owned(),
    }
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
