//! What the agent gives up: the kernel refuses each thing that it must never do, and it calls nothing that is not on
//! its list.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

use common::{AGENT, Answer, Child, agent, has_tool, json, rows, skip};
use serde_json::Value;

/// A program that sleeps, and an address on its stack.
fn sleeper() -> (Child, u64) {
    let child = Child::start(Command::new("sleep").arg("600"));
    let pid = child.pid();
    let mut stack = None;
    common::wait_until("the target", common::SOON, || {
        // Until execve(2) is over it is a copy of this process.
        let is_there = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        stack = maps.lines().find(|line| line.ends_with("[stack]")).and_then(|line| {
            let end = line.split([' ', '-']).nth(1)?;
            u64::from_str_radix(end, 16).ok()
        });
        is_there && stack.is_some()
    });
    // The last words of the stack are zeros that nobody uses.
    (child, stack.expect("a stack") - 8)
}

fn word_at(pid: u32, address: u64) -> [u8; 8] {
    let mut word = [0; 8];
    let mem = fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    mem.read_exact_at(&mut word, address).expect("its stack");
    word
}

/// Runs `violate` or `violate-base`, which must change nothing.
fn violate(command: &str) -> (Value, String) {
    let (target, address) = sleeper();
    let before = word_at(target.pid(), address);
    let answer = common::run([command, "--pid", &target.pid().to_string(), "--address", &address.to_string()]);
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    let envelope: Value = serde_json::from_slice(&answer.stdout).expect("an envelope");
    assert_eq!(word_at(target.pid(), address), before, "the target's memory was written");
    assert_eq!(common::state(target.pid()), Some('S'), "the target is not as it was");
    assert!(!std::path::Path::new("/tmp/agent-violation").exists());
    (envelope, answer.audit)
}

#[test]
fn every_violation_is_refused_by_the_kernel_and_told() {
    let (envelope, audit) = violate("violate");
    assert!(rows(&envelope).len() >= 50, "{}", rows(&envelope).len());
    for row in rows(&envelope) {
        // Missing, for glibc's sake, and not denied.
        let expected = if row["violation"] == "fork by clone3" { "ENOSYS" } else { "EPERM" };
        assert_eq!(row["errno"], expected, "{row}");
    }
    let gaps = envelope["gaps"].as_array().expect("gaps");
    let told: BTreeSet<&str> = gaps.iter().filter_map(|gap| gap["path"].as_str()).collect();
    for call in [
        "openat(0x1)",
        "openat(0x2)",
        "openat(0x42)",
        "openat2()",
        "process_vm_writev()",
        "ptrace(0x5)",
        "ptrace(0xd)",
        "ptrace(0x11)",
        "kill(0x9)",
        "tgkill(0x9)",
        "execve()",
        "connect()",
        "socket(0x2)",
        "write()",
    ] {
        assert!(told.contains(call), "{call} is not among {told:?}");
    }
    assert!(gaps.iter().all(|gap| gap["reason"] == "refused_by_policy"), "{gaps:?}");
    // Each of them is in the audit.
    let records = audit.lines().map(|line| serde_json::from_str::<Value>(line).expect("a record"));
    let denied: BTreeSet<String> = records
        .filter(|record| record["type"] == "authz.deny")
        .filter_map(|record| record["data"]["path"].as_str().map(str::to_owned))
        .collect();
    let missing: Vec<&&str> = told.iter().filter(|call| !denied.contains(**call)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in the audit");
}

#[test]
fn what_a_command_does_not_declare_is_refused_too() {
    let (envelope, _) = violate("violate-base");
    let undeclared: Vec<&Value> = rows(&envelope)
        .iter()
        .filter(|row| row["violation"].as_str().is_some_and(|name| name.contains(": ")))
        .collect();
    assert!(undeclared.len() >= 10, "{undeclared:?}");
    for row in undeclared {
        assert_eq!(row["errno"], "EPERM", "{row}");
    }
}

#[test]
fn gives_up_its_privileges_before_it_looks() {
    let (target, _) = sleeper();
    // A profile lasts long enough to look at the agent itself.
    let mut looking = agent()
        .args(["profile", "--pid", &target.pid().to_string(), "--for", "30s"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the agent");
    let status = || fs::read_to_string(format!("/proc/{}/status", looking.id())).unwrap_or_default();
    let is = |key: &str, value: &str| status().lines().any(|line| line == format!("{key}:\t{value}"));
    common::wait_until("the filter", common::SOON, || is("Seccomp", "2"));
    assert!(is("NoNewPrivs", "1"));
    if common::is_root() {
        // SYS_PTRACE and DAC_READ_SEARCH.
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert!(is(set, "0000000000080004"), "{set}: {}", status());
        }
    }
    for set in ["CapInh", "CapAmb"] {
        assert!(is(set, "0000000000000000"), "{set}: {}", status());
    }
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", looking.id())).expect("its score");
    assert_eq!(score.trim(), "1000");
    looking.kill().expect("kill");
    looking.wait().expect("its end");
}

#[test]
fn nobody_with_the_same_uid_reads_the_agent() {
    if !common::is_root() {
        return skip("nobody_with_the_same_uid_reads_the_agent", "needs root, to be two others");
    }
    let installed = common::Installed::new();
    let mut target = installed.as_user(64_321, 64_321);
    let mut looking = target
        .args(["capture", "--dry-run"])
        .args(["--pid", &std::process::id().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .expect("the agent");
    looking.wait().expect("its end");
    let mut looking =
        installed.as_user(64_321, 64_321).args(["ps", "--watch", "1", "--interval", "30s"]).spawn().expect("the agent");
    let pid = looking.id();
    common::wait_until("the filter", common::SOON, || {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("\nSeccomp:\t2\n"))
    });
    let read = Command::new("setpriv")
        .args(["--reuid=64321", "--regid=64321", "--clear-groups", "cat"])
        .arg(format!("/proc/{pid}/environ"))
        .output()
        .expect("setpriv");
    looking.kill().expect("kill");
    looking.wait().expect("its end");
    assert!(!read.status.success() && read.stdout.is_empty(), "{read:?}");
}

#[test]
fn strace_sees_no_call_that_is_not_listed() {
    if !has_tool("strace") {
        return skip("strace_sees_no_call_that_is_not_listed", "there is no strace");
    }
    let (target, _) = sleeper();
    let pid = target.pid().to_string();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let help = common::run(["--help"]);
    let names: Vec<&str> = help
        .text()
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // What is indented more goes on from the line before.
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        // A hold, and what is about one, is tried beside sessions.
        .filter(|name| !["schema", "help", "violate", "violate-base", "hold", "status", "end"].contains(name))
        .collect();
    assert!(names.len() >= 13, "{names:?}");
    let evidence = directory.path().join("evidence.dbg.tar.zst");
    fs::write(&evidence, common::run(["run", "what-runs-here", "--pid", &pid, "-o", "bundle"]).stdout)
        .expect("evidence");
    let evidence = evidence.to_str().expect("UTF-8");
    for name in names {
        let mut arguments = vec![name];
        match name {
            "version" | "scenarios" => {}
            "plan" => arguments.push("triage"),
            "run" => arguments.extend(["triage", "--param=for=100ms", "--pid", &pid]),
            "judge" => arguments.push(evidence),
            "bundle" => arguments.extend(["verify", evidence]),
            "fetch" | "tar" => continue,
            "report" => arguments.extend([evidence, "-o", "html"]),
            "diff" => arguments.extend([evidence, evidence]),
            "audit" => arguments.extend(["verify", "-"]),
            "files" => arguments.extend(["/etc/passwd", "--pid", &pid]),
            "redact" => arguments.extend(["test", "x"]),
            "capture" => arguments.extend(["-i", "lo", "--for", "100ms"]),
            "profile" => arguments.extend(["--pid", &pid, "--for", "300ms"]),
            "fds" => arguments.extend(["--pid", &pid, "--peers", "--shared"]),
            "ps" => arguments.extend(["--details", "--threads", "--self"]),
            _ => arguments.extend(["--pid", &pid]),
        }
        let trace = directory.path().join(name);
        let mut strace = Command::new("strace");
        let answer = Answer::of(strace.args(["-f", "-o"]).arg(&trace).arg(AGENT).args(&arguments));
        assert!(matches!(answer.status, 0 | 3), "{name}: {} {}", answer.status, answer.stderr);
        let trace = fs::read_to_string(&trace).expect("a trace");
        assert!(trace.contains("SECCOMP_SET_MODE_FILTER"), "{name} has no filter");
        assert!(
            !trace.contains("--- SIGSYS"),
            "{name}: {}",
            trace.lines().find(|line| line.contains("--- SIGSYS")).unwrap_or("")
        );
        let unknown = common::strace::unlisted(name, &trace);
        assert!(unknown.is_empty(), "{name} calls {unknown:?}, which its list does not have");
    }
}

#[test]
fn a_kernel_without_seccomp_is_said_and_no_failure() {
    // A filter around the agent that refuses to add another: what an old runtime's profile does.
    if !common::is_root() || !has_tool("strace") {
        return skip("a_kernel_without_seccomp_is_said_and_no_failure", "needs root and strace");
    }
    let (target, _) = sleeper();
    let pid = target.pid().to_string();
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=seccomp",
        "-e",
        "inject=seccomp:error=EINVAL",
        AGENT,
        "access",
        "--pid",
        &pid,
    ]);
    let answer = Answer::of(&mut strace).json();
    let agent = &answer["data"]["summary"]["agent"];
    assert_eq!(agent["confined"], "capabilities", "{agent}");
    let answer = json(["access", "--pid", &pid]);
    assert_eq!(answer["data"]["summary"]["agent"]["confined"], "system_calls");
}
