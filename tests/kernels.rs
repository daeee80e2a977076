//! Kernels that this machine does not run: of a newer one every file of proc(5) has more than is known, of an older one
//! less. The one changes nothing, and of the other only what is missing is missing.
//!
//! What is added and taken away is written into a recording of real processes. When each field came is in proc(5) and the
//! pages that it names.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and changes recorded files")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use common::recording::Recording;
use common::{Answer, Child, gaps_at, rows, stop};
use serde_json::{Value, json};

/// Every command that looks at a recording.
const LOOKS: [&[&str]; 9] = [
    &["ps", "--details", "--threads"],
    &["fds"],
    &["fds", "--peers"],
    &["sockets"],
    &["maps"],
    &["maps", "--no-smaps"],
    &["maps", "--summary"],
    &["limits"],
    &["env"],
];

/// What was recorded of a process with descriptors of every type, and of one with threads.
static ORIGINAL: LazyLock<(Recording, [u32; 2])> = LazyLock::new(|| {
    let descriptors = Child::target("descriptors", &["-O2"], [""; 0]);
    let threads = Child::target("threads", &["-O2"], ["3"]);
    let pids = [descriptors.pid(), threads.pid()];
    pids.iter().for_each(|pid| stop(*pid));
    let recording = Recording::of(pids);
    // No environment is recorded.
    pids.iter().for_each(|pid| recording.write(*pid, "environ", "A=1\0B=22\0"));
    (recording, pids)
});

/// A copy of it, to be changed.
struct Recorded {
    recording: Recording,
    pid: u32,
    pids: [u32; 2],
}

impl Recorded {
    fn new() -> Self {
        let (original, pids) = &*ORIGINAL;
        Self { recording: original.copy(), pid: pids[0], pids: *pids }
    }

    fn look(&self, command: &[&str]) -> Value {
        let pid = self.pid.to_string();
        Answer::of(self.recording.agent().args(command).args(["--pid", &pid, "--allow-gaps", "-o", "json"])).json()
    }

    /// The files called `name` of all processes and their threads.
    fn files(&self, name: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = self.pids.iter().map(|pid| self.recording.file(*pid, name)).collect();
        for pid in self.pids {
            let threads = fs::read_dir(self.recording.file(pid, "task")).expect("threads").flatten();
            found.extend(threads.map(|thread| thread.path().join(name)));
        }
        found.retain(|path| path.exists());
        assert!(!found.is_empty(), "no {name} is recorded");
        found
    }

    fn below(&self, name: &str) -> Vec<PathBuf> {
        let listed = |pid: &u32| fs::read_dir(self.recording.file(*pid, name)).expect("a directory");
        self.pids.iter().flat_map(listed).map(|entry| entry.expect("an entry").path()).collect()
    }
}

/// Changes the text of a file.
fn edit(path: &Path, change: impl Fn(&str) -> String) {
    // A name may have any bytes: those of these programs are text.
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::write(path, change(&text)).expect("writes");
}

fn each_line(text: &str, change: impl Fn(&str) -> String) -> String {
    text.lines().map(|line| change(line) + "\n").collect()
}

/// Leaves out the lines that begin with one of `keys`.
fn without(text: &str, keys: &[&str]) -> String {
    text.lines().filter(|line| !keys.iter().any(|key| line.starts_with(key))).map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_a_newer_kernel_adds_changes_nothing() {
    let recorded = Recorded::new();
    let before = LOOKS.map(|command| recorded.look(command));
    let all = |name: &str, change: &dyn Fn(&str) -> String| {
        recorded.files(name).iter().for_each(|path| edit(path, change));
    };
    for name in ["stat", "statm", "schedstat"] {
        all(name, &|text| format!("{} 7 -1 18446744073709551615\n", text.trim_end()));
    }
    // At the beginning, in the middle and at the end; a number, a word, and nothing.
    all("status", &|text| {
        let (first, rest) = text.split_once('\n').expect("lines");
        let (middle, last) = rest.split_at(rest.find("VmPeak").unwrap_or(0));
        format!(
            "{first}\nUmber:\t1\n{middle}VmNova:\t   12 kB\nx86_Thing_features:\tshstk\n{last}Wobble:\t\nNSwob:\t1\t2\n"
        )
    });
    all("io", &|text| format!("new_bytes: 7\n{text}"));
    all("smaps_rollup", &|text| format!("{text}Pss_Nova:      4 kB\nWobbly:\n"));
    let figures = |text: &str| {
        let line = |line: &str| match line.split_once(':') {
            Some(("Rss", _)) => format!("{line}\nNovaRss:        4 kB\nTHPwobble:       1"),
            Some(("VmFlags", _)) => format!("{line} zz qq \nProtectionKey2:   0"),
            _ => line.to_owned(),
        };
        each_line(text, line)
    };
    all("smaps", &figures);
    // Tags before the hyphen, and options behind it.
    all("mountinfo", &|text| each_line(text, |line| line.replacen(" - ", " wobble:7 nova - ", 1) + ",nova=1"));
    all("cgroup", &|text| format!("{text}77:nova:/wobble\n"));
    for path in recorded.below("fdinfo") {
        edit(&path, |text| {
            let (first, rest) = text.split_once('\n').expect("lines");
            format!("{first}\nnova:\t0x7\n{rest}wobble-count:\t1\nwobble: 1 2 3\n\n")
        });
    }
    for path in recorded.below("net") {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        match name.as_str() {
            "tcp" | "tcp6" | "udp" | "udp6" | "udplite" | "udplite6" | "raw" | "raw6" => {
                edit(&path, |text| each_line(text, |line| format!("{} 7 nova", line.trim_end())));
            }
            "snmp" | "netstat" => edit(&path, |text| {
                let pairs: Vec<&str> = text.lines().collect();
                let longer = |pair: &[&str]| format!("{} NovaDrops\n{} 7\n", pair[0], pair[1]);
                pairs.chunks(2).map(longer).collect::<String>() + "NovaExt: A B\nNovaExt: 1 2\n"
            }),
            "snmp6" | "sockstat" | "sockstat6" => edit(&path, |text| format!("{text}NOVA: inuse 7 wobble 1\n")),
            _ => {}
        }
    }
    for pid in recorded.pids {
        symlink("nova:[4026539999]", recorded.recording.file(pid, "ns/nova")).expect("a link");
        fs::write(recorded.recording.file(pid, "nova"), "7\n").expect("writes");
    }
    for (command, before) in LOOKS.iter().zip(before) {
        let mut now = recorded.look(command);
        // A namespace or a hierarchy of control groups of a new kind is one more, and so is a flag of a mapping.
        forget(&mut now["data"]);
        for (now, before) in now["data"]["rows"].as_array().into_iter().flatten().zip(rows_or_none(&before)) {
            assert_eq!(now, before, "{command:?}");
        }
        assert_eq!(now["data"], before["data"], "{command:?}");
        assert_eq!(now["gaps"], before["gaps"], "{command:?}");
    }
    // And all of it at once.
    let everything = recorded.look(&["snapshot"]);
    for part in ["processes", "descriptors", "sockets", "mappings", "modules", "limits"] {
        assert!(everything["data"][part].is_object(), "{part}: {}", everything["gaps"]);
    }
}

/// Leaves out of lists what is called `nova`, and flags that have no name yet.
fn forget(value: &mut Value) {
    match value {
        Value::Array(all) => {
            all.retain(|one| one["kind"] != "nova" && one["controllers"] != json!(["nova"]) && one != "unknown");
            all.iter_mut().for_each(forget);
        }
        Value::Object(all) => all.values_mut().for_each(forget),
        _ => {}
    }
}

fn rows_or_none(envelope: &Value) -> &[Value] {
    envelope["data"]["rows"].as_array().map_or(&[], Vec::as_slice)
}

/// Descriptors, mappings and limits of kinds that are not known are listed as what they are called.
#[test]
fn what_only_a_newer_kernel_has_is_listed_all_the_same() {
    let recorded = Recorded::new();
    let (recording, pid) = (&recorded.recording, recorded.pid);
    let before = recorded.look(&["fds"]);
    symlink("anon_inode:[nova]", recording.file(pid, "fd/77777")).expect("a link");
    fs::write(recording.file(pid, "fdinfo/77777"), "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t7\nnova-id:\t3\n")
        .expect("writes");
    let fds = recorded.look(&["fds"]);
    assert_eq!(rows(&fds).len(), rows(&before).len() + 1);
    assert_eq!(common::row(&fds, "fd", 77777)["target"], "anon_inode:[nova]");

    let line = "7ffffffff000-800000000000 r--p 00000000 00:00 0                          [nova_wobble]\n";
    for name in ["maps", "smaps"] {
        edit(&recording.file(pid, name), |text| text.to_owned() + line);
    }
    for options in [&["maps"][..], &["maps", "--no-smaps"]] {
        let maps = recorded.look(options);
        assert_eq!(common::row(&maps, "start", "0x7ffffffff000")["kind"], "special");
    }

    edit(&recording.file(pid, "limits"), |text| {
        format!("{text}{:<25} {:<20} {:<20} {:<10}\n", "Max nova wobbles", 7, "unlimited", "wobbles")
    });
    let limits = recorded.look(&["limits"]);
    assert!(limits["data"]["limits"].as_array().is_some_and(|limits| limits.len() >= 16), "{limits}");
    assert!(gaps_at(&limits, "/limits").iter().all(|gap| gap["reason"] != "malformed"), "{}", limits["gaps"]);
}

#[test]
fn of_an_older_kernel_only_what_it_lacks_is_missing() {
    let recorded = Recorded::new();
    let before = LOOKS.map(|command| recorded.look(command));
    let all = |name: &str, change: &dyn Fn(&str) -> String| {
        recorded.files(name).iter().for_each(|path| edit(path, change));
    };
    // 3.2: without the addresses of arguments and environment, and the exit code (3.3, 3.5).
    all("stat", &|text| {
        let end = text.rfind(')').expect("a name");
        let fields: Vec<&str> = text[end + 2..].split_whitespace().take(44 - 2).collect();
        format!("{} {}\n", &text[..=end], fields.join(" "))
    });
    all("status", &|text| {
        let keys = [
            "Ngid",
            "NStgid",
            "NSpid",
            "NSpgid",
            "NSsid",
            "Kthread",
            "VmPMD",
            "VmPin",
            "RssAnon",
            "RssFile",
            "RssShmem",
            "HugetlbPages",
            "CoreDumping",
            "THP_enabled",
            "untag_mask",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "Speculation",
            "SpeculationIndirectBranch",
            "x86_Thread",
        ];
        without(text, &keys)
    });
    all("smaps", &|text| {
        let keys = [
            "Pss_Dirty",
            "Pss_Anon",
            "Pss_File",
            "Pss_Shmem",
            "KSM",
            "LazyFree",
            "AnonHugePages",
            "ShmemPmdMapped",
            "FilePmdMapped",
            "Shared_Hugetlb",
            "Private_Hugetlb",
            "SwapPss",
            "THPeligible",
            "ProtectionKey",
            "VmFlags",
        ];
        without(text, &keys)
    });
    for path in recorded.below("fdinfo") {
        edit(&path, |text| without(text, &["mnt_id", "ino", "eventfd-id", "inotify wd", "fanotify"]));
    }
    for pid in recorded.pids {
        for name in
            ["smaps_rollup", "ns/cgroup", "ns/time", "ns/time_for_children", "ns/pid_for_children", "net/netstat"]
        {
            let path = recorded.recording.file(pid, name);
            if path.symlink_metadata().is_ok() {
                fs::remove_file(path).expect("removes");
            }
        }
    }
    for (command, before) in LOOKS.iter().zip(before) {
        let now = recorded.look(command);
        if command[0] == "env" {
            // Without the place of the arguments it cannot be known whether they were written over.
            assert!(rows(&now).iter().all(|row| row.get("name").is_none()), "{now}");
            continue;
        }
        let count = |envelope: &Value| rows_or_none(envelope).len();
        assert_eq!(count(&now), count(&before), "{command:?}");
        for (now, before) in rows_or_none(&now).iter().zip(rows_or_none(&before)) {
            assert_less(now, before, &format!("{command:?}"));
        }
        // What is missing is no malformed answer.
        let gaps = now["gaps"].as_array().expect("gaps");
        let is_known = |gap: &Value| before["gaps"].as_array().is_some_and(|known| known.contains(gap));
        for gap in gaps.iter().filter(|gap| !is_known(gap)) {
            let reason = gap["reason"].as_str().expect("a reason");
            assert!(matches!(reason, "not_found" | "unsupported"), "{command:?}: {gap}");
        }
    }
}

/// `now` says what `before` did, or less, and nothing else.
fn assert_less(now: &Value, before: &Value, what: &str) {
    match (now, before) {
        (Value::Object(now), Value::Object(all)) => {
            for (key, value) in now {
                assert!(all.contains_key(key), "{what}: {key} is new: {value}");
                assert_less(value, &all[key], &format!("{what} {key}"));
            }
        }
        // Of a list some may be missing, and each of the others is what it was.
        (Value::Array(now), Value::Array(all)) if now.len() < all.len() => {
            assert!(now.iter().all(|one| all.contains(one)), "{what}: {now:?} of {all:?}");
        }
        (Value::Array(now), Value::Array(all)) => {
            assert_eq!(now.len(), all.len(), "{what}");
            now.iter().zip(all).for_each(|(now, all)| assert_less(now, all, what));
        }
        (now, before) => assert_eq!(now, before, "{what}"),
    }
}
