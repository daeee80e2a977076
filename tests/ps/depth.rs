//! `--details`, `--threads` and `--watch`, against ps(1) and proc(5).

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::target;
use crate::common::{self, Answer, Child, Installed, gaps_at, json, row, rows, skip};

/// What ps(1) says in `columns` of one process.
fn classic(pid: u64, columns: &[&'static str]) -> BTreeMap<&'static str, String> {
    let format: Vec<String> = columns.iter().map(|column| format!("{column}:32=")).collect();
    let output = Command::new("ps")
        .args(["-ww", "-o", &format.join(","), "-p", &pid.to_string()])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words.len(), columns.len(), "{pid}: {text}");
    columns.iter().copied().zip(words.into_iter().map(str::to_owned)).collect()
}

/// A value as ps(1) prints it.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn details_are_those_of_ps() {
    const NAME: &str = "details_are_those_of_ps";
    const COLUMNS: [&str; 23] = [
        "pgid", "sess", "ni", "ruid", "euid", "suid", "fuid", "rgid", "egid", "sgid", "fgid", "ruser", "euser",
        "egroup", "maj_flt", "min_flt", "vsz", "cls", "rtprio", "netns", "mntns", "userns", "tname",
    ];
    if !common::has_tool("ps") {
        return skip(NAME, "ps (procps) is not installed");
    }
    let steady = target("sleeper", &["10"]);
    let mut pids = vec![u64::from(steady.pid())];
    let setuid = common::is_root().then(|| target("setuid", &[]));
    pids.extend(setuid.iter().flat_map(|parent| parent.truth.iter().map(|truth| truth["pid"].as_u64().unwrap())));
    let seen = json(["ps", "--details"]);
    for pid in pids {
        let ours = row(&seen, "pid", pid);
        let theirs = classic(pid, &COLUMNS);
        let details = &ours["details"];
        let namespace = |kind: &str| {
            let list = details["namespaces"].as_array().unwrap();
            let one = list.iter().find(|one| one["kind"] == kind).unwrap_or_else(|| panic!("{kind} in {list:?}"));
            assert_eq!(one["ours"], true, "{one}");
            one["inode"].clone()
        };
        // A user without a name is shown by its number.
        let named = |id: &Value| if id["name"].is_null() { word(&id["id"]) } else { word(&id["name"]) };
        let (uids, gids) = (&details["uids"], &details["gids"]);
        let expected = [
            ("pgid", word(&ours["pgid"])),
            ("sess", word(&ours["session"])),
            ("ni", word(&ours["nice"])),
            ("ruid", word(&uids["real"]["id"])),
            ("euid", word(&uids["effective"]["id"])),
            ("suid", word(&uids["saved"]["id"])),
            ("fuid", word(&uids["fs"]["id"])),
            ("rgid", word(&gids["real"]["id"])),
            ("egid", word(&gids["effective"]["id"])),
            ("sgid", word(&gids["saved"]["id"])),
            ("fgid", word(&gids["fs"]["id"])),
            ("ruser", named(&uids["real"])),
            ("euser", named(&uids["effective"])),
            ("egroup", named(&gids["effective"])),
            ("maj_flt", word(&details["major_faults"])),
            ("min_flt", word(&details["minor_faults"])),
            ("vsz", (details["virtual_bytes"].as_u64().unwrap() / 1024).to_string()),
            ("cls", if details["policy"] == "other" { "TS".to_owned() } else { word(&details["policy"]) }),
            ("rtprio", "-".to_owned()),
            ("netns", word(&namespace("net"))),
            ("mntns", word(&namespace("mnt"))),
            ("userns", word(&namespace("user"))),
            ("tname", ours.get("tty").map_or_else(|| "?".to_owned(), |tty| word(&tty["name"]))),
        ];
        for (column, ours) in expected {
            assert_eq!(ours, theirs[column], "{column} of {pid}");
        }
    }
}

/// The value of `key` in a file of lines `key: value`.
fn line(pid: u32, file: &str, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("{key} in {text}")).trim().to_owned()
}

#[test]
fn details_are_those_of_proc() {
    let child = target("sleeper", &["10"]);
    let pid = child.pid();
    let seen = json(["ps", "--details", "--pss"]);
    let ours = row(&seen, "pid", pid);
    let details = &ours["details"];
    for (set, key) in
        [("effective", "CapEff"), ("permitted", "CapPrm"), ("inheritable", "CapInh"), ("bounding", "CapBnd")]
    {
        let mask = u64::from_str_radix(&line(pid, "status", key), 16).unwrap();
        assert_eq!(details["capabilities"][set]["mask"], format!("{mask:#x}"));
        let names = details["capabilities"][set]["names"].as_array().unwrap();
        assert_eq!(names.contains(&json!("CAP_NET_RAW")), mask & (1 << 13) != 0);
        assert_eq!(names.len(), mask.count_ones() as usize);
    }
    assert_eq!(details["no_new_privs"], line(pid, "status", "NoNewPrivs") == "1");
    assert_eq!(word(&details["voluntary_switches"]), line(pid, "status", "voluntary_ctxt_switches"));
    assert_eq!(details["nspid"][0], pid);
    for (key, file) in [("oom_score", "oom_score"), ("oom_score_adj", "oom_score_adj")] {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        assert_eq!(word(&details[key]), text.trim(), "{key}");
    }
    for key in ["cwd", "root"] {
        let link = fs::read_link(format!("/proc/{pid}/{key}")).unwrap();
        assert_eq!(common::bytes(&details[key]), link.as_os_str().as_encoded_bytes());
    }
    for (key, name) in [("read_bytes", "rchar"), ("written_bytes", "wchar"), ("storage_read_bytes", "read_bytes")] {
        assert_eq!(word(&ours["io"][key]), line(pid, "io", name), "{key}");
    }
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let paths: Vec<&str> = cgroups.lines().map(|line| line.splitn(3, ':').nth(2).unwrap()).collect();
    let ours_paths: Vec<String> = details["cgroups"].as_array().unwrap().iter().map(|one| word(&one["path"])).collect();
    assert_eq!(ours_paths, paths);
    let pss = line(pid, "smaps_rollup", "Pss").trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024;
    // Others who share its pages come and go.
    let ours_pss = ours["pss_bytes"].as_u64().unwrap();
    assert!(ours_pss.abs_diff(pss) < 1 << 20 && ours_pss > 0, "{ours_pss} {pss}");
    let plain = json(["ps", "--details", "--no-names"]);
    assert_eq!(row(&plain, "pid", pid)["details"]["uids"]["real"].get("name"), None);
}

#[test]
fn without_rights_details_are_gaps_and_what_is_public_is_there() {
    if !common::is_root() {
        return skip("without_rights_details_are_gaps_and_what_is_public_is_there", "giving up rights needs root");
    }
    let child = target("sleeper", &["10"]);
    let seen = Answer::of(Installed::new().as_user(65534, 65534).args(["ps", "--details"])).json();
    let at = rows(&seen).iter().position(|row| row["pid"] == child.pid()).unwrap();
    let details = &rows(&seen)[at]["details"];
    assert_eq!((details.get("cwd"), details.get("namespaces")), (None, None));
    assert_eq!(details["uids"]["real"]["id"], 0);
    for place in ["io", "details/cwd"] {
        let gaps = gaps_at(&seen, &format!("/rows/{at}/{place}"));
        assert_eq!(gaps.len(), 1, "{place}");
        assert_eq!(gaps[0]["reason"], "permission_denied");
        assert!(gaps[0]["needs"].as_array().unwrap().contains(&json!("same_uid")), "{}", gaps[0]);
    }
}

#[test]
fn says_who_is_not_dumpable() {
    if !common::is_root() {
        return skip("says_who_is_not_dumpable", "changing IDs needs root");
    }
    let parent = target("setuid", &[]);
    let seen = json(["ps", "--details"]);
    for truth in &parent.truth {
        let ours = row(&seen, "pid", truth["pid"].clone());
        assert_eq!(ours["details"]["dumpable"], truth["dumpable"], "{truth}");
    }
}

#[test]
fn threads_stand_below_their_process_with_their_own_figures() {
    let child = target("threads", &["20"]);
    let seen = json(["ps", "--threads", "--details"]);
    let all = rows(&seen);
    let first = all.iter().position(|row| row["pid"] == child.pid()).unwrap();
    let threads = &all[first + 1..=first + 21];
    let tids: Vec<u64> = threads.iter().map(|row| row["tid"].as_u64().unwrap()).collect();
    assert_eq!(tids, common::threads(child.pid()).into_iter().map(u64::from).collect::<Vec<_>>());
    let depth = all[first]["depth"].as_u64().unwrap() + 1;
    for row in threads {
        assert_eq!((&row["pid"], &row["depth"], &row["args"]), (&json!(child.pid()), &json!(depth), &json!([])));
        let comm = fs::read_to_string(format!("/proc/{}/task/{}/comm", child.pid(), row["tid"])).unwrap();
        assert_eq!(common::bytes(&row["name"]), comm.trim_end_matches('\n').as_bytes());
        assert_eq!(row["details"]["nspid"][0], row["tid"]);
        assert_eq!(row["rss_bytes"], all[first]["rss_bytes"]);
    }
    let processes = all.iter().filter(|row| row.get("tid").is_none()).count();
    assert_eq!(seen["data"]["summary"]["processes"], processes);
}

#[test]
fn a_watch_tells_who_works_who_came_and_who_went() {
    let spinner = target("spinner", &[]);
    let idle = target("sleeper", &["10"]);
    let ends = target("sleeper", &["11"]);
    let ends_pid = ends.pid();
    let mut watch = Child::start(common::agent().args(["ps", "--watch", "1000", "--interval", "50ms"]));
    let mut next = || {
        let envelope: Value = serde_json::from_str(&watch.line()).unwrap();
        common::assert_valid(&envelope);
        envelope
    };
    let first = next();
    assert_eq!((&first["sequence"], &first["options"]["interval_us"]), (&json!(1), &json!(50_000)));
    assert_eq!(row(&first, "pid", idle.pid())["cpu_permille"], 0);
    // The time between two looks, as it was: one that comes late is followed by a shorter one.
    assert!(first["data"]["summary"]["changes"]["interval_us"].as_u64() > Some(0));
    let busy = |envelope: &Value| row(envelope, "pid", spinner.pid())["cpu_permille"].as_u64().unwrap() > 0;
    let mut was_busy = busy(&first);
    assert!(ends.end().success());
    let started = target("sleeper", &["12"]);
    let listed = |envelope: &Value, key: &str, pid: u32| {
        envelope["data"]["summary"]["changes"][key].as_array().unwrap().iter().any(|one| one["pid"] == pid)
    };
    let (mut came, mut went, mut sequence) = (0, 0, 1);
    while came == 0 || went == 0 || !was_busy {
        let envelope = next();
        sequence += 1;
        assert_eq!(envelope["sequence"], sequence);
        assert!(sequence < 1000, "came {came}, went {went}, busy {was_busy}");
        came += u32::from(listed(&envelope, "started", started.pid()));
        went += u32::from(listed(&envelope, "ended", ends_pid));
        was_busy |= busy(&envelope);
    }
    assert_eq!((came, went), (1, 1));
}

#[test]
fn a_watch_prints_as_many_envelopes_as_were_asked_for() {
    for (format, lines_with_sequence) in [("json", 3), ("ndjson", 3)] {
        let answer = common::run(["ps", "--watch", "3", "--interval", "20ms", "-o", format, "--allow-gaps"]);
        assert_eq!(answer.status, 0, "{}", answer.stderr);
        assert_eq!(answer.text().lines().filter(|line| line.contains("\"sequence\":")).count(), lines_with_sequence);
    }
    // Its time comes on top of the time limit.
    let answer = common::run(["ps", "--watch", "2", "--interval", "700ms", "--timeout", "1s", "--allow-gaps"]);
    assert_eq!((answer.status, answer.text().lines().count()), (0, 2), "{}", answer.stderr);
    for args in [&["--interval", "1s"][..], &["--watch", "0"], &["--watch", "1", "--interval", "0s"]] {
        assert_eq!(common::run([&["ps"], args].concat()).status, 2, "{args:?}");
    }
    let recorded = tempfile::tempdir().unwrap();
    let answer = common::run(["ps", "--watch", "1", "--proc", recorded.path().to_str().unwrap()]);
    assert_ne!(answer.status, 0);
}
