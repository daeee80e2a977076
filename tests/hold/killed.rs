//! What is killed: a command, the hold, and what the next session says of it.

use std::time::Duration;

use agent_pod::{DebugSpec, Pod, PodSpec, Profile};
use agent_session::audit::{Verdict, verify};
use serde_json::json;

use crate::common::{self, SOON, is_root, rows, skip, wait_until};
use crate::{IMAGE, answer, ended, exec, held, of_kind, records};

#[test]
fn a_command_that_is_killed_is_lost_and_the_session_goes_on() {
    let Some((pod, hold)) = held("a_command_that_is_killed_is_lost", &["--ttl", "5m"]) else { return };
    std::thread::scope(|scope| {
        let profile = scope.spawn(|| exec(&pod, &hold, &["profile", "--for", "50s"]));
        hold.stdout().wait_for("\"command\":\"profile\"", SOON).expect("its beginning");
        let status = answer(&exec(&pod, &hold, &["status"]));
        let pid = rows(&status)[0]["pid"].as_u64().expect("a pid");
        kill_in(&pod, pid);
        let ended = profile.join().expect("a thread");
        assert_ne!(ended.exit_code, 0);
    });
    wait_until("the hold to notice", SOON, || hold.stdout().text().contains("\"lost\":true"));
    let ps = exec(&pod, &hold, &["ps"]);
    assert_eq!(ps.exit_code, 0, "{}", ps.stderr_text());
    hold.signal(agent_pod::Signal::TERM);
    let (code, records, text, receipt) = ended(hold);
    assert_eq!((code, verify(text.as_bytes(), None).chains[0].verdict), (0, Verdict::Whole));
    assert_eq!(of_kind(&records, "session.close")[0]["data"]["why"], "it was ended by SIGTERM");
    assert_eq!(receipt["verdicts"], json!({"0": 2, "1": 1}));
}

/// Kills the process with the number `pid` in the pod's pid namespace.
fn kill_in(pod: &Pod, pid: u64) {
    let (_, outer) = processes(pod)
        .into_iter()
        .find(|(inner, _)| *inner == pid)
        .unwrap_or_else(|| panic!("no process has the number {pid} in the pod"));
    common::signal(outer, nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn where_the_hold_is_killed_its_commands_end_and_its_chain_is_cut_short() {
    let Some((pod, hold)) = held("where_the_hold_is_killed", &["--ttl", "5m"]) else { return };
    assert_eq!(exec(&pod, &hold, &["ps"]).exit_code, 0);
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        let profile = scope.spawn(|| exec(&pod, &hold, &["profile", "--for", "50s"]));
        hold.stdout().wait_for("\"command\":\"profile\"", SOON).expect("its beginning");
        hold.signal(agent_pod::Signal::KILL);
        let _ = profile.join().expect("a thread");
    });
    assert!(began.elapsed() < Duration::from_secs(40), "the command ends with the hold");
    let (_, _, text, left) = ended(hold);
    assert_eq!(verify(text.as_bytes(), None).chains[0].verdict, Verdict::Truncated);
    // What is left says how far it came, but for a record that was just written.
    assert!(left["hold"]["count"].as_u64().is_some_and(|count| count >= 4), "{left}");
}
#[test]
fn a_command_that_began_before_the_hold_does_not_hide_it() {
    let name = "a_command_that_began_before";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    let pod = Pod::start(PodSpec::new(name, ["sh", "-c", "echo ready; sleep 1000"])).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    let spec = DebugSpec::new(&IMAGE, Profile::General, ["agent", "profile", "--for", "10m"]).target();
    let container = pod.debug_spawn(spec).expect("a container");
    container.stderr().wait_for("action.start", SOON).expect("its beginning");
    std::thread::scope(|scope| {
        let early = scope.spawn(|| exec(&pod, &container, &["profile", "--for", "3s"]));
        let is_there = |outer: u32| {
            std::fs::read(format!("/proc/{outer}/status"))
                .is_ok_and(|text| text.windows(11).any(|w| w == b"Seccomp:\t2\n"))
                && std::fs::read(format!("/proc/{outer}/cmdline")).is_ok_and(|line| line.ends_with(b"--for\x003s\0"))
        };
        wait_until("its confinement", SOON, || processes(&pod).into_iter().any(|(_, outer)| is_there(outer)));
        let hold = scope.spawn(|| exec(&pod, &container, &["hold", "--ttl", "5m"]));
        wait_until("the hold", SOON, || exec(&pod, &container, &["status"]).exit_code == 0);
        // It ends alone, and leaves its receipt in the place of the hold.
        assert!(early.join().expect("a thread").stderr_text().contains("session.close"));
        wait_until("the hold to be found", SOON, || exec(&pod, &container, &["end"]).exit_code == 0);
        hold.join().expect("a thread");
    });
}

#[test]
fn a_session_after_one_that_was_killed_says_so() {
    let name = "a_session_after_one_that_was_killed";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    let pod = Pod::start(PodSpec::new("after-a-crash", ["sh", "-c", "echo ready; sleep 1000"])).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    // Something else keeps the container.
    let spec = DebugSpec::new(&IMAGE, Profile::General, ["agent", "profile", "--for", "10m"]).target();
    let container = pod.debug_spawn(spec).expect("a container");
    container.stderr().wait_for("action.start", SOON).expect("its beginning");
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| exec(&pod, &container, &["hold", "--ttl", "5m", "--session", "first"]));
        wait_until("the hold", SOON, || exec(&pod, &container, &["status"]).exit_code == 0);
        let is_hold = |outer: u32| {
            std::fs::read(format!("/proc/{outer}/cmdline")).is_ok_and(|line| line.starts_with(b"agent\0hold\0"))
        };
        let hold = processes(&pod).into_iter().find(|(_, outer)| is_hold(*outer)).expect("the hold");
        common::signal(hold.1, nix::sys::signal::Signal::SIGKILL);
        first.join().expect("a thread")
    });
    let first = records(&first.stdout_text());
    let second = exec(&pod, &container, &["hold", "--ttl", "1s", "--session", "second"]);
    let second = records(&second.stdout_text());
    let after = &second[0]["data"]["after"];
    let last = first.last().expect("records");
    assert_eq!(
        (&after["session"], &after["count"], &after["head"]),
        (&json!("first"), &json!(first.len()), &last["hash"])
    );
    assert_eq!(second[0]["seq"], 0, "a chain of its own");
}

/// The processes of the pod: their numbers in it, and outside.
fn processes(pod: &Pod) -> Vec<(u64, u32)> {
    common::beside(pod.target_pid().as_raw_nonzero().get().cast_unsigned())
}
