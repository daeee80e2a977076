//! What strace(1) saw, against the list of what may be called.

use std::collections::BTreeSet;
use std::fs;

/// The system calls on the golden list that `command` may make.
fn listed(command: &str) -> BTreeSet<String> {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/privileges.txt")).expect("the list");
    let section = |title: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| *line != format!("[{title}]")).skip(1);
        lines.take_while(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let own = section(&format!("agent {command}"));
    let parts = own.iter().find_map(|line| line.strip_prefix("system calls: ")).expect("its system calls");
    parts
        .split(" + ")
        .flat_map(|part| section(&format!("system calls: {part}")))
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect()
}

/// The system calls that strace saw of a command after it was confined, by all its threads.
fn called(trace: &str) -> BTreeSet<String> {
    let mut confined = false;
    let mut calls = BTreeSet::new();
    for line in trace.lines() {
        let line = line.split_once(' ').map_or(line, |(_, rest)| rest.trim_start());
        let Some((name, _)) = line.split_once('(').filter(|(name, _)| !name.contains(' ')) else { continue };
        if confined {
            calls.insert(name.to_owned());
        }
        // The last of the filters is the list itself.
        confined |= name == "seccomp" && line.contains("SECCOMP_SET_MODE_FILTER");
    }
    // The filters themselves.
    for name in ["seccomp", "prctl"] {
        calls.remove(name);
    }
    calls
}

/// What `command` has called after it was confined, and may not.
pub(crate) fn unlisted(command: &str, trace: &str) -> Vec<String> {
    let mut unknown: Vec<String> = called(trace).difference(&listed(command)).cloned().collect();
    // Answered as if it were missing.
    unknown.retain(|call| call != "clone3");
    unknown
}
