//! The access log against what strace(1) saw opened: nothing is missing in it, and nothing is made up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::{AGENT, Answer, Child, has_tool, skip};

/// What strace(1) saw.
#[derive(Debug, Default)]
struct Seen {
    /// Files and directories that were opened to be read, or tried.
    read: BTreeSet<PathBuf>,
    /// These, and what was only passed on the way there.
    tried: BTreeSet<PathBuf>,
    /// What was tried and is not there, or may not be opened.
    failed: BTreeSet<PathBuf>,
    sockets: usize,
}

/// A path as both say it: what is below a process's root is where it is for us, since it is the same root.
fn place(path: &str) -> PathBuf {
    let rest = path.strip_prefix("/proc/").and_then(|rest| rest.split_once("/root"));
    let path = match rest {
        Some((pid, rest)) if pid.bytes().all(|byte| byte.is_ascii_digit()) && rest.is_empty() => "/",
        Some((pid, rest)) if pid.bytes().all(|byte| byte.is_ascii_digit()) && rest.starts_with('/') => rest,
        _ => path,
    };
    // Normalized: without `.` at the end.
    Path::new(path).components().collect()
}

/// The calls in a trace by `strace -y`: descriptors have their paths behind them.
fn seen(trace: &str) -> Seen {
    let mut seen = Seen::default();
    let (mut unfinished, mut by_number) = (BTreeMap::new(), BTreeMap::new());
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').map_or(("", line), |(thread, call)| (thread, call.trim_start()));
        // Another thread came between.
        if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, begun);
            continue;
        }
        let resumed = call.strip_prefix("<... ").and_then(|call| call.split_once(" resumed>"));
        let call = match resumed {
            Some((_, rest)) => format!("{}{rest}", unfinished.remove(thread).unwrap_or_default()),
            None => call.to_owned(),
        };
        seen.sockets += usize::from(call.starts_with("socket("));
        let Some((directory, rest)) = call.strip_prefix("openat(").and_then(|rest| rest.split_once(", \"")) else {
            continue;
        };
        let Some((name, rest)) = rest.split_once("\", ") else { continue };
        let result = rest.rsplit_once("= ").map_or("", |(_, result)| result);
        let path = match directory.split_once('<') {
            // A file is looked at before it is opened, and then opened by its descriptor.
            _ if name.starts_with("/proc/self/fd/") => {
                let number = name.trim_start_matches("/proc/self/fd/");
                by_number.get(number).cloned().unwrap_or_else(|| name.to_owned())
            }
            _ if name.starts_with('/') => name.to_owned(),
            Some((_, at)) => format!("{}/{name}", at.trim_end_matches('>')),
            None => name.to_owned(),
        };
        if let Some((number, _)) = result.split_once('<') {
            by_number.insert(number.to_owned(), path.clone());
        }
        let path = place(&path);
        if result.starts_with('-') {
            seen.failed.insert(path.clone());
        }
        if !rest.contains("O_PATH") {
            seen.read.insert(path.clone());
        }
        seen.tried.insert(path);
    }
    seen
}

#[test]
fn the_access_log_is_what_strace_sees_opened() {
    let name = "the_access_log_is_what_strace_sees_opened";
    if !has_tool("strace") {
        return skip(name, "there is no strace");
    }
    let child = Child::target("sleeper", &["-O2"], ["60"]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pid = child.pid().to_string();
    for line in ["ps --details --threads", "fds --peers --shared", "sockets", "maps", "stacks", "limits", "snapshot"] {
        let trace = directory.path().join("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-s", "4096", "-e", "trace=open,openat,openat2,creat,socket", "-o"]).arg(&trace);
        strace.arg(AGENT).args(line.split(' ')).args(["--pid", &pid, "--access-log", "--allow-gaps"]);
        let answer = Answer::of(&mut strace);
        assert_eq!(answer.status, 0, "{line}: {}", answer.stderr);
        let seen = seen(&fs::read_to_string(&trace).expect("a trace"));
        let entries: Vec<Value> = answer.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_kind = |wanted: &'static [&'static str]| {
            entries.iter().filter(move |entry| entry["access"].as_str().is_some_and(|kind| wanted.contains(&kind)))
        };
        let logged: BTreeSet<PathBuf> =
            of_kind(&["open", "list", "memory"]).map(|entry| place(entry["path"].as_str().expect("a path"))).collect();
        assert!(logged.len() > 5, "{line}: {logged:?}");
        // A path that leads through a link is logged as it was asked for, and strace says where it leads.
        let led: BTreeSet<PathBuf> = logged.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        let unlogged: Vec<_> = seen
            .read
            .iter()
            // The C library's, before there is a session.
            .filter(|path| *path != Path::new("/proc/self/maps"))
            .filter(|path| !logged.contains(*path) && !led.contains(*path))
            .collect();
        assert!(unlogged.is_empty(), "{line}: opened and not logged: {unlogged:?}");
        let unseen: Vec<_> = logged
            .iter()
            .filter(|path| !seen.tried.contains(*path))
            // The way there ended before.
            .filter(|path| !path.ancestors().any(|before| seen.failed.contains(before)))
            .filter(|path| fs::canonicalize(path).map_or(true, |led| !seen.tried.contains(&led)))
            .collect();
        assert!(unseen.is_empty(), "{line}: logged and not opened: {unseen:?}");
        assert_eq!(of_kind(&["socket"]).count(), seen.sockets, "{line}");
    }
}
