//! What must not happen to a target, and targets in odd states.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::common::{self, Child, SOON, agent, cont, gaps_at, json, rows, run, state_in, stop, wait_until};
use super::peers::wait_blocked;
use super::{contains_chain, functions, stacks, thread};

/// Every thread of the target is there, runs or waits by itself, and has no tracer.
pub(super) fn assert_unharmed(pid: u32) {
    for tid in common::threads(pid) {
        let directory = format!("/proc/{pid}/task/{tid}");
        let status = fs::read_to_string(format!("{directory}/status")).expect("status");
        assert!(status.contains("TracerPid:\t0\n"), "thread {tid} has a tracer");
        let letter = state_in(directory.as_ref());
        assert!(matches!(letter, Some('R' | 'S' | 'D')), "thread {tid} is {letter:?}");
    }
}

/// How often each system call of `eintr_counter` was interrupted, by now.
fn interrupted(target: &mut Child) -> Vec<(String, u64)> {
    target.tell("");
    let said = target.answer().into_iter();
    said.map(|line| (line["syscall"].to_string(), line["eintr"].as_u64().expect("a count"))).collect()
}

/// Builds whose stacks are whole without a stop, and builds whose stacks are not: a blocked thread may be held only where
/// its system call does not notice.
#[test]
fn no_system_call_of_a_blocked_thread_is_interrupted() {
    let builds: [(&[&str], bool); 5] = [
        (&["-O2"], true),
        (&["-O0"], true),
        (&["-O2", "-fno-omit-frame-pointer"], false),
        (&["-O0", "-static"], true),
        (&["-O1", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"], false),
    ];
    for (flags, is_whole) in builds {
        let mut target = Child::target("eintr_counter", flags, [""; 0]);
        for options in [&["--stop", "never"][..], &[], &[], &["--stop", "never"]] {
            let seen = stacks(target.pid(), options);
            if is_whole || !options.is_empty() {
                assert_eq!(seen["cost"]["stops"], 0, "{flags:?}");
            }
        }
        for (call, count) in interrupted(&mut target) {
            assert_eq!(count, 0, "{flags:?}: {call}");
        }
        assert_unharmed(target.pid());
    }
}

/// What the test above would see: a look that holds every thread interrupts calls.
#[test]
fn a_consistent_look_does_interrupt_system_calls() {
    let mut target = Child::target("eintr_counter", &["-O2"], [""; 0]);
    stacks(target.pid(), &["--stop", "consistent"]);
    let all: u64 = interrupted(&mut target).into_iter().map(|(_, count)| count).sum();
    assert!(all >= 4, "{all}");
    assert_unharmed(target.pid());
}

/// What `signals` says of the signals so far: all that were sent have come, once each and in order.
fn assert_no_signal_is_lost(target: &mut Child) {
    target.tell("");
    let said = target.answer().pop().expect("a line");
    assert!(said["sent"].as_u64() > Some(0), "{said}");
    assert_eq!(said["received"], said["sent"], "{said}");
    assert_eq!(said["received_usr1"], said["sent_usr1"], "{said}");
    assert_eq!(said["out_of_order"], 0, "{said}");
}

/// A thread that stops because a signal is on its way to it, often a real-time one.
#[test]
fn a_signal_that_comes_while_a_thread_is_held_is_neither_lost_nor_doubled() {
    let mut target = Child::target("signals", &["-O2"], [""; 0]);
    let mut held = 0;
    for _ in 0..4 {
        let pid = target.pid().to_string();
        let options = ["--for", "250ms", "--hz", "1000", "--budget", "100", "--stop-budget", "100"];
        let seen = json(["profile", "--pid", &pid].iter().chain(&options));
        held += seen["cost"]["stops"].as_u64().expect("a count");
        assert_unharmed(target.pid());
        assert_no_signal_is_lost(&mut target);
    }
    assert!(held > 20, "{held} stops");
}

/// SIGKILL cannot be handled: what is held then is the kernel's to let go of. Most agents are killed while they hold one
/// thread after the other, and some while they hold all threads at once.
#[test]
fn killed_at_any_of_200_moments_it_leaves_the_target_running_and_no_signal_is_lost() {
    let mut busy = Child::target("signals", &["-O2"], [""; 0]);
    let blocked = Child::target("threads", &["-O2"], ["20"]);
    let (busy_pid, blocked_pid) = (busy.pid().to_string(), blocked.pid().to_string());
    let holding_one: &[&str] =
        &["profile", "--for", "60s", "--hz", "1000", "--budget", "100", "--stop-budget", "100", "--pid", &busy_pid];
    let holding_all: &[&str] = &["stacks", "--stop", "consistent", "--pid", &blocked_pid];
    let (mut begins, mut shorter) = (Duration::MAX, 1.0);
    let mut seed = 7_u64;
    let mut killed = 0;
    while killed < 200 {
        // How long it takes to begin, and some more, tells how long to let the others live. Once may be beside much else.
        if killed % 10 == 0 {
            let started = std::time::Instant::now();
            run(["ps", "--pid", &busy_pid]);
            begins = begins.min(started.elapsed());
        }
        let is_short = killed % 4 == 3;
        let window = (3 * begins + Duration::from_millis(60)).mul_f64(if is_short { shorter } else { 1.0 });
        let mut doomed = agent();
        let command = if is_short { holding_all } else { holding_one };
        doomed.args(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut doomed = doomed.spawn().expect("the agent");
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let share = (seed >> 33) as f64 / f64::from(1_u32 << 31);
        // The moment is what is tested: it comes by chance, not by a condition.
        std::thread::sleep(window.mul_f64(share));
        if doomed.try_wait().expect("its state").is_none() {
            killed += 1;
        } else {
            // It had ended by itself: the next ones are given less time.
            shorter *= 0.9;
        }
        let _ = doomed.kill();
        doomed.wait().expect("its end");
        for pid in [busy.pid(), blocked.pid()] {
            wait_until("a target without a tracer", SOON, || {
                common::threads(pid)
                    .iter()
                    .all(|tid| !matches!(state_in(format!("/proc/{pid}/task/{tid}").as_ref()), Some('t' | 'T')))
            });
            assert_unharmed(pid);
        }
        if killed % 20 == 0 {
            assert_no_signal_is_lost(&mut busy);
        }
    }
    assert_no_signal_is_lost(&mut busy);
}

#[test]
fn a_stopped_target_stays_stopped_and_gives_the_same_bytes() {
    let target = Child::target("threads", &["-O2"], ["30"]);
    stop(target.pid());
    let first = stacks(target.pid(), &[]);
    let second = stacks(target.pid(), &[]);
    assert_eq!(first["digest"], second["digest"]);
    for tid in common::threads(target.pid()) {
        assert_eq!(state_in(format!("/proc/{}/task/{tid}", target.pid()).as_ref()), Some('T'));
    }
    cont(target.pid());
    let row = thread(&first, &target.truth[0]["tid"]);
    assert_eq!(row["state"], "stopped");
    assert!(contains_chain(&functions(&row), &target.truth[0]["chain"]), "{row}");
}

#[test]
fn a_target_with_a_tracer_is_read_as_far_as_it_can_be() {
    let target = Child::target("spinner", &["-O2"], [""; 0]);
    let tid = target.truth[0]["tid"].as_i64().expect("a tid");
    let pid = Pid::from_raw(i32::try_from(tid).expect("a tid"));
    ptrace::seize(pid, ptrace::Options::empty()).expect("a tracer");
    let answer = run(["stacks", "--flat", "--pid", &target.pid().to_string()]);
    assert_eq!(answer.status, 3, "{}", answer.stderr);
    let seen = answer.json();
    let row = thread(&seen, &target.truth[0]["tid"]);
    assert_eq!(row["method"], "syscall_only");
    assert!(gaps_at(&seen, "/rows/").iter().any(|gap| gap["errno"] == "EPERM"), "{}", seen["gaps"]);
    ptrace::interrupt(pid).expect("an interrupt");
    waitpid(pid, Some(WaitPidFlag::__WALL)).expect("a stop");
    ptrace::detach(pid, None).expect("detached");
}

#[test]
fn a_zombie_and_a_dead_process_have_their_answers() {
    let target = Child::target("zombie", &[], [""; 0]);
    let zombie = target.truth.iter().find_map(|line| line["zombie"].as_u64().or(line["pid"].as_u64()));
    let Some(zombie) = zombie else { panic!("no zombie in {:?}", target.truth) };
    let answer = run(["stacks", "--pid", &zombie.to_string()]);
    assert!(matches!(answer.status, 3 | 5), "{}: {}", answer.status, answer.stderr);
    let gone = {
        let mut child = Command::new("true").spawn().expect("true");
        let pid = child.id();
        child.wait().expect("its end");
        pid
    };
    assert_eq!(run(["stacks", "--pid", &gone.to_string()]).status, 5);
}

#[test]
fn a_thread_in_vfork_is_told_without_a_stop() {
    let target = Child::target("odd", &["-O2"], ["vfork"]);
    wait_until("vfork", SOON, || common::state(target.pid()) == Some('D'));
    for options in [&[][..], &["--stop", "consistent"]] {
        let answer = run(["stacks", "--flat", "--pid", &target.pid().to_string()].iter().chain(options));
        assert!(matches!(answer.status, 0 | 3), "{}", answer.stderr);
        let seen = answer.json();
        let row = &rows(&seen)[0];
        assert_eq!(row["system_call"], "vfork", "{row}");
        assert!(contains_chain(&functions(row), &json!(["vfork_here", "main"])), "{row}");
        assert_eq!((&row["method"], &seen["cost"]["stops"]), (&json!("no_stop"), &json!(0)), "{row}");
        assert_eq!(common::state(target.pid()), Some('D'));
    }
}

#[test]
fn a_process_without_its_main_thread_shows_the_others() {
    let target = Child::target("odd", &["-O2"], ["exited"]);
    assert_eq!(common::state(target.pid()), Some('Z'), "the main thread has ended");
    let answer = run(["stacks", "--flat", "--pid", &target.pid().to_string()]);
    assert!(matches!(answer.status, 0 | 3), "{}", answer.stderr);
    let seen = answer.json();
    for said in target.truth.iter().filter(|said| said["tid"].is_u64()) {
        let row = thread(&seen, &said["tid"]);
        assert_eq!(row["threads"][0]["name"], said["name"]);
        assert_eq!(row["complete"], true, "{row}");
        assert!(contains_chain(&functions(&row), &json!(["wait_here", "waiter"])), "{row}");
    }
    let main = thread(&seen, &json!(target.pid()));
    assert_eq!((&main["state"], &main["frames"]), (&json!("zombie"), &json!([])), "{main}");
    // Its memory and descriptors are those of the threads that go on.
    assert!(seen["target"]["executable"].as_str().is_some_and(|path| path.contains("/odd-")), "{}", seen["target"]);
    for command in ["maps", "fds", "env"] {
        let seen = json([command, "--pid", &target.pid().to_string()]);
        assert!(!rows(&seen).is_empty(), "{command}: {seen}");
    }
}

/// No thread that ends meanwhile may take the answer with it, and none may be left with a tracer.
#[test]
fn threads_that_come_and_go_take_nothing_with_them() {
    let target = Child::target("odd", &["-O2"], ["churn"]);
    let pid = target.pid().to_string();
    for options in [&["--stop", "never"][..], &["--stop", "auto"], &["--stop", "consistent"]] {
        for _ in 0..10 {
            let answer = run(["stacks", "--flat", "--stop-budget", "30s", "--limit", "stop=5s/60s", "--pid", &pid]
                .iter()
                .chain(options));
            assert!(matches!(answer.status, 0 | 3), "{options:?}: {}", answer.stderr);
            let seen = answer.json();
            // The five that stay.
            assert!(rows(&seen).len() >= 5, "{options:?}: {seen}");
            let row = thread(&seen, &json!(target.pid()));
            assert!(contains_chain(&functions(&row), &json!(["main"])), "{row}");
        }
    }
    let answer = run(["profile", "--for", "500ms", "--hz", "99", "--pid", &pid]);
    assert!(matches!(answer.status, 0 | 3), "{}", answer.stderr);
    let seen = answer.json();
    assert!(rows(&seen).iter().any(|row| row.to_string().contains("churn")), "{seen}");
    let traced = |tid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
        status.contains("TracerPid:") && !status.contains("TracerPid:\t0\n")
    };
    assert!(!common::threads(target.pid()).iter().any(traced));
}

/// What was read of the program before says nothing of the one after.
#[test]
fn a_program_that_replaces_itself_is_not_mixed_up() {
    let target = Child::target("odd", &["-O2"], ["execs"]);
    let pid = target.pid().to_string();
    for _ in 0..30 {
        let answer = run(["stacks", "--flat", "--stop-budget", "30s", "--limit", "stop=5s/60s", "--pid", &pid]);
        // 3: most moments are in execve(2), where there is little to see.
        assert!(matches!(answer.status, 0 | 3), "{}: {}", answer.status, answer.stderr);
        for row in rows(&answer.json()) {
            let names = functions(row);
            let at = names.iter().position(|name| name == "main");
            let is_whole = row["complete"] == true && at.is_some();
            assert!(!is_whole || names.last().is_some_and(|name| name == "_start"), "{row}");
        }
    }
    assert_eq!(common::state(target.pid()).map(|letter| matches!(letter, 'R' | 'S' | 'D')), Some(true));
}

#[test]
fn the_agent_s_own_parent_and_the_agent_itself_have_their_answers() {
    let mut parent = Command::new(agent_targets::build("odd", &["-O2"]));
    parent.args(["own", common::AGENT, "stacks", "--flat", "-o", "json", "--pid"]);
    let seen: Value = serde_json::from_slice(&parent.output().expect("its output").stdout).expect("JSON");
    let row = &rows(&seen)[0];
    assert_eq!(row["system_call"], "wait4", "{row}");
    assert!(contains_chain(&functions(row), &json!(["look_at_own"])), "{row}");
    assert_eq!(seen["cost"]["stops"], 0);

    let mut own = Command::new("sh");
    own.args(["-c", "exec \"$0\" stacks --flat -o json --pid $$", common::AGENT]);
    let own = own.output().expect("its output");
    assert_eq!(own.status.code(), Some(3), "{}", String::from_utf8_lossy(&own.stderr));
    let seen: Value = serde_json::from_slice(&own.stdout).expect("JSON");
    assert_eq!(rows(&seen).len(), 1);
    assert!(!gaps_at(&seen, "/rows/").is_empty(), "{seen}");
}

/// A stack is what the target says it is: nothing there may be taken on trust, go on for ever, or be called whole.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_stack_that_lies_ends_with_a_reason() {
    let target = Child::target("liar", &["-O2"], [""; 0]);
    let pid = target.pid().to_string();
    for options in [&["--stop", "never"][..], &[], &["--stop", "consistent"]] {
        let answer = run(["stacks", "--flat", "--stop-budget", "30s", "--limit", "stop=5s/60s", "--pid", &pid]
            .iter()
            .chain(options));
        assert!(matches!(answer.status, 3 | 4), "{}: {}", answer.status, answer.stderr);
        let seen: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
        for (at, row) in rows(&seen).iter().enumerate() {
            let name = row["threads"][0]["name"].as_str().expect("a name");
            if name == "liar" {
                assert_eq!(row["complete"], true, "{row}");
                continue;
            }
            assert!(row["frames"].as_array().is_none_or(|frames| frames.len() <= 256), "{row}");
            let said = |said: &&Value| said["name"] == name;
            if target.truth.iter().any(|line| said(&line)) {
                assert_ne!(row["complete"], true, "{options:?}: {row}");
                let gaps = gaps_at(&seen, &format!("/rows/{at}"));
                assert!(!gaps.is_empty(), "{options:?}: {row}");
            }
        }
        assert!(rows(&seen).len() >= target.truth.len() + 2);
    }
    assert_unharmed(target.pid());
}

/// Threads that wait in code which nothing describes, and which leads from page to page for ever.
#[cfg(target_arch = "x86_64")]
const LEADS_NOWHERE: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
extern char waits[];
__asm__(".text\n.globl waits\n.balign 16\nwaits:\n.rept 200\nmov $34, %eax\nsyscall\njmp hops\n.balign 16\n.endr\n"
        ".balign 4096\nhops:\n.rept 2500\njmp 1f\n.balign 4096\n1:\n.endr\njmp hops\n");
static void *begins(void *at) { ((void (*)(void))at)(); return at; }
int main(void) {
    pthread_t thread;
    char byte;
    for (int n = 0; n < 200; n++) pthread_create(&thread, 0, begins, waits + 16 * n);
    puts("\"ready\"");
    fflush(stdout);
    return (int)read(0, &byte, 1);
}
"#;

#[cfg(target_arch = "x86_64")]
#[test]
fn code_that_leads_nowhere_is_followed_for_a_while() {
    let target = Child::ready(&mut Command::new(common::compile_c(LEADS_NOWHERE, &["-O1"])));
    wait_blocked(target.pid());
    let begin = std::time::Instant::now();
    let answer = run(["stacks", "--flat", "--stop", "never", "--pid", &target.pid().to_string()]);
    assert_eq!(answer.status, 3, "{}", answer.stderr);
    // Two seconds of this build, on a machine that does nothing else.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    let seen = answer.json();
    let main = thread(&seen, &json!(target.pid()));
    assert_eq!(main["complete"], true, "{main}");
    let lost: Vec<&Value> = rows(&seen).iter().filter(|row| row["threads"][0]["tid"] != target.pid()).collect();
    assert_eq!(lost.len(), 200);
    assert!(lost.iter().all(|row| row["complete"] == false), "{lost:?}");
    assert!(lost.iter().any(|row| row["end"] == "not_followed"), "{lost:?}");
    assert_eq!(gaps_at(&seen, "/rows/").len(), 200, "{}", seen["gaps"]);
}
