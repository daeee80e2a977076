//! `agent limits` against programs whose truth is known, prlimit(1), /proc and the files of the control groups
//! themselves: live processes here, pods in `limits/pod.rs`, trees of other kernels in `limits/recorded.rs`.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;
#[path = "limits/pod.rs"]
mod pod;
#[path = "limits/recorded.rs"]
mod recorded;

use std::fs;
use std::process::Command;

use common::{Child, Installed, SOON, gaps_at, has_tool, is_root, skip, wait_until};
use serde_json::{Value, json};

/// The row of the resource limit `name`.
fn limit<'a>(envelope: &'a Value, name: &str) -> &'a Value {
    let rows = envelope["data"]["limits"].as_array().expect("data.limits");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no limit {name}"))
}

fn of(pid: u32) -> Value {
    common::json(["limits", "--pid", &pid.to_string()])
}

/// The number after `key` in a file of proc(5).
fn number_after(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    let digits: String = line.trim().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{key} {line}"))
}

/// A limit as the agent prints it, from the word of `/proc/PID/limits` or prlimit(1).
fn printed(word: &str) -> Value {
    match word {
        "unlimited" => json!("unlimited"),
        digits => match digits.parse::<u64>().expect("a number") {
            small @ 0..=0x0020_0000_0000_0000 => json!(small),
            wide => json!(wide.to_string()),
        },
    }
}

#[test]
fn every_limit_is_what_the_process_itself_says() {
    let target = Child::target("limits", &[], ["500", "90", "128"]);
    let envelope = of(target.pid());
    let short = |row: &Value| row["rlimit"].as_str().expect("known")["RLIMIT_".len()..].to_lowercase();
    let rows = envelope["data"]["limits"].as_array().expect("data.limits");
    assert_eq!(rows.len(), 16);
    for row in rows {
        let truth = target.said("limit", short(row));
        let word = |value: &Value| if value.is_null() { "unlimited".to_owned() } else { value.to_string() };
        assert_eq!(row["soft"], printed(&word(&truth["soft"])), "{row}");
        assert_eq!(row["hard"], printed(&word(&truth["hard"])), "{row}");
    }
    let truth = target.said("pid", target.pid());
    assert_eq!(truth["descriptors"], 450);
    assert_eq!(limit(&envelope, "open_files")["used"], truth["descriptors"]);
    assert_eq!(limit(&envelope, "open_files")["used_permille"], 900);
    assert_eq!(limit(&envelope, "locked_memory")["used"], truth["locked_bytes"]);
    assert_eq!(envelope["data"]["nearest"][0]["name"], "open_files");
    assert_eq!(envelope["data"]["nearest"][0]["used_permille"], 900);
    assert_eq!(envelope["gaps"], json!([]));
}

#[test]
fn every_limit_is_what_prlimit_and_proc_say() {
    if !has_tool("prlimit") {
        return skip("every_limit_is_what_prlimit_and_proc_say", "no prlimit(1)");
    }
    // One that passes 2^53, one of 0, one that is lowered below what is in use.
    let limits = ["--fsize=9223372036854775807:9223372036854775807", "--core=0:7", "--data=4096:unlimited"];
    let sleeper = Child::target("limits", &[], ["100", "50", "64"]);
    let pid = sleeper.pid().to_string();
    let set = Command::new("prlimit").args(["--pid", &pid]).args(limits).status().expect("prlimit");
    assert!(set.success());
    let envelope = of(sleeper.pid());
    let columns = ["--raw", "--noheadings", "--output", "RESOURCE,SOFT,HARD"];
    let told = Command::new("prlimit").args(["--pid", &pid]).args(columns).output().expect("prlimit");
    let told = String::from_utf8(told.stdout).expect("UTF-8");
    let rows = envelope["data"]["limits"].as_array().expect("data.limits");
    assert_eq!(told.lines().count(), rows.len(), "{told}");
    for line in told.lines() {
        let mut words = line.split_whitespace();
        let mut next = || words.next().expect("three words");
        let (name, soft, hard) = (format!("RLIMIT_{}", next()), next(), next());
        let row = rows.iter().find(|row| row["rlimit"] == *name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!((&row["soft"], &row["hard"]), (&printed(soft), &printed(hard)), "{line}");
    }
    // The names and units, and the order, are those of /proc/PID/limits.
    let proc = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    for (line, row) in common::pairs(&proc.lines().skip(1).collect::<Vec<_>>(), rows) {
        let name = line[4..26].trim().replace(' ', "_");
        assert_eq!(row["name"], *name);
        let unit = line.get(68..).unwrap_or_default().trim();
        assert_eq!(row.get("unit").and_then(Value::as_str).unwrap_or_default(), unit, "{line}");
    }
    assert_eq!(limit(&envelope, "file_size")["soft"], "9223372036854775807");
    let data = limit(&envelope, "data_size");
    assert!(data["used_permille"].as_u64() > Some(1000), "{data}");
    assert_eq!(envelope["data"]["nearest"][0]["name"], "data_size");
    assert!(limit(&envelope, "core_file_size").get("used").is_none());
}

#[test]
fn the_use_is_what_proc_counts() {
    let target = Child::target("limits", &[], ["100", "50", "64"]);
    common::stop(target.pid());
    let envelope = of(target.pid());
    let status = fs::read_to_string(format!("/proc/{}/status", target.pid())).expect("status");
    for (name, key) in [
        ("address_space", "VmSize:"),
        ("data_size", "VmData:"),
        ("stack_size", "VmStk:"),
        ("resident_set", "VmRSS:"),
        ("locked_memory", "VmLck:"),
    ] {
        assert_eq!(limit(&envelope, name)["used"], number_after(&status, key) * 1024, "{name}");
    }
    // Of root they are everybody's.
    assert_eq!(limit(&envelope, "pending_signals").get("used").is_some(), !is_root());
    let listed = fs::read_dir(format!("/proc/{}/fd", target.pid())).expect("fd").count();
    assert_eq!(limit(&envelope, "open_files")["used"], listed);
    assert_eq!(limit(&envelope, "cpu_time")["used"], 0);
    assert_eq!(limit(&envelope, "resident_set")["exempt"], "ignored");
    for name in ["file_size", "core_file_size", "msgqueue_size", "nice_priority"] {
        assert!(limit(&envelope, name).get("used").is_none(), "{name}");
    }
}

/// Five threads and three queued signals of a user that has nothing else.
const ALONE: &str = r#"
    #include "truth.h"
    #include <pthread.h>
    #include <signal.h>
    static void *wait_here(void *unused) { for (;;) pause(); return unused; }
    int main(void)
    {
        sigset_t set;
        pthread_t thread;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) fail("sigprocmask");
        for (int i = 0; i < 4; i++)
            if (pthread_create(&thread, NULL, wait_here, NULL) != 0) fail("pthread_create");
        for (int i = 0; i < 3; i++)
            if (sigqueue(getpid(), SIGRTMIN, (union sigval){0}) != 0) fail("sigqueue");
        stay();
    }
"#;

#[test]
fn threads_and_signals_of_the_user_are_counted() {
    if !is_root() {
        return skip("threads_and_signals_of_the_user_are_counted", "only root can start a user that has nothing else");
    }
    use std::os::unix::process::CommandExt as _;
    let installed = tempfile::tempdir().expect("a temporary directory");
    let program = installed.path().join("alone");
    let copied = Command::new("cp").arg(common::compile_c(ALONE, &[])).arg(&program).status().expect("cp");
    let open = Command::new("chmod").arg("-R").arg("a+rX").arg(installed.path()).status().expect("chmod");
    assert!(copied.success() && open.success());
    let target = Child::ready(Command::new(&program).uid(48_211).gid(48_211));
    let envelope = of(target.pid());
    let processes = limit(&envelope, "processes");
    assert_eq!(processes["used"], 5);
    assert_eq!(processes["used_is"], "lower_bound");
    assert!(processes.get("exempt").is_none(), "{processes}");
    assert_eq!(limit(&envelope, "pending_signals")["used"], 3);
    // Root is not held to it, and IPC_LOCK frees from the other.
    let root = Child::start(Command::new("sleep").arg("1000"));
    let envelope = of(root.pid());
    assert_eq!(limit(&envelope, "processes")["exempt"], "root");
    assert_eq!(limit(&envelope, "locked_memory")["exempt"], "CAP_IPC_LOCK");
}

#[test]
fn without_rights_the_limits_and_groups_are_still_there() {
    if !is_root() {
        return skip("without_rights_the_limits_and_groups_are_still_there", "only root can become another user");
    }
    let target = Child::target("limits", &[], ["100", "50", "64"]);
    common::stop(target.pid());
    let whole = of(target.pid());
    let agent = Installed::new();
    let mut other = agent.as_user(48_212, 48_212);
    let seen = common::Answer::of(other.args(["limits", "--pid", &target.pid().to_string()])).json();
    // All of it is world-readable; the target's mounts are not to be entered, but ours show the same groups.
    // But for the processes of root, which come and go.
    let rows = |envelope: &Value| -> Vec<Value> {
        let rows = envelope["data"]["limits"].as_array().expect("limits").iter();
        rows.filter(|row| row["name"] != "processes").cloned().collect()
    };
    assert_eq!(rows(&seen), rows(&whole));
    assert_eq!(limit(&seen, "open_files")["used"], 50);
    assert_eq!(seen["gaps"], json!([]));
    let views = |envelope: &Value| -> Vec<Value> {
        let groups = envelope["data"]["cgroup"]["groups"].as_array().expect("groups");
        groups.iter().map(|group| group["view"].clone()).collect()
    };
    assert!(views(&seen).iter().all(|view| view == "agent"), "{:?}", views(&seen));
    assert!(views(&whole).iter().all(|view| view == "target"), "{:?}", views(&whole));
    assert_eq!(seen["data"]["cgroup"]["cpu"]["path"], whole["data"]["cgroup"]["cpu"]["path"]);
}

#[test]
fn a_file_system_over_the_groups_is_not_taken_for_them() {
    if !is_root() || !has_tool("unshare") {
        return skip("a_file_system_over_the_groups_is_not_taken_for_them", "needs root and unshare(1)");
    }
    // A mount namespace in which /sys/fs/cgroup is the target's own invention.
    let script = "mount -t tmpfs none /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/cpu /sys/fs/cgroup/memory \
                  && echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes && echo 1 > /sys/fs/cgroup/memory.max \
                  && mkfifo /sys/fs/cgroup/cpu/cpu.stat && echo '\"ready\"' && exec sleep 1000";
    let target =
        Child::ready(Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script]));
    let envelope = of(target.pid());
    let memory = &envelope["data"]["cgroup"]["memory"];
    assert_eq!(memory["limit_bytes"], of(std::process::id())["data"]["cgroup"]["memory"]["limit_bytes"]);
    let groups = envelope["data"]["cgroup"]["groups"].as_array().expect("groups");
    assert!(groups.iter().all(|group| group["view"] == "agent"), "{groups:?}");
}

#[test]
fn a_zombie_has_limits_and_no_files() {
    let target = Child::target("zombie", &[], [""; 0]);
    for case in ["child", "leader"] {
        let pid = target.said("case", case)["pid"].as_u64().expect("a pid");
        let envelope = of(u32::try_from(pid).expect("a pid"));
        let soft = limit(&of(target.pid()), "open_files")["soft"].clone();
        assert_eq!(limit(&envelope, "open_files")["soft"], soft, "{case}");
    }
    let pid = target.said("case", "child")["pid"].as_u64().expect("a pid");
    let envelope = of(u32::try_from(pid).expect("a pid"));
    assert!(limit(&envelope, "address_space").get("used").is_none());
}

#[test]
fn an_interval_longer_than_the_session_is_refused_and_the_rest_told() {
    let mut sleeper = Command::new("sleep");
    let sleeper = Child::start(sleeper.arg("1000"));
    let answer = common::run(["limits", "--pid", &sleeper.pid().to_string(), "--for", "90s", "--timeout", "20s"]);
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    let envelope: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    common::assert_valid(&envelope);
    assert_eq!(gaps_at(&envelope, "/interval")[0]["reason"], "limit_reached");
    assert!(envelope["data"]["limits"].is_array() && envelope["data"]["cgroup"].is_object());
    assert_eq!(common::run(["limits", "--for", "0s"]).status, 2);
    assert_eq!(common::run(["limits", "--for", "soon"]).status, 2);
}

#[test]
fn a_process_that_ends_in_the_interval_leaves_what_was_seen() {
    let target = Child::target("limits", &[], ["100", "50", "64"]);
    let pid = target.pid();
    let looking = std::thread::spawn(move || common::run(["limits", "--pid", &pid.to_string(), "--for", "1s"]));
    // The agent has opened the target once it holds its directory.
    let opened = || {
        let links = fs::read_dir("/proc").expect("proc").flatten();
        let agents =
            links.filter(|entry| fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm == "agent\n"));
        agents.flat_map(|entry| fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten()).any(|link| {
            fs::read_link(link.path()).is_ok_and(|path| path.as_os_str() == format!("/proc/{pid}").as_str())
        })
    };
    wait_until("the agent to look", SOON, opened);
    drop(target);
    let answer = looking.join().expect("the agent");
    // Gone before anything of it was told, or told with gaps: never a panic, never a hang.
    assert!(matches!(answer.status, 3 | 5), "{} {}", answer.status, answer.stderr);
}
