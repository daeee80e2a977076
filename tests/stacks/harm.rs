//! What must not happen to a target, and targets in odd states.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::common::{self, Child, SOON, agent, cont, gaps_at, json, run, state_in, stop, wait_until};
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
    // How long it takes to begin, and some more, tells how long to let the others live.
    let started = std::time::Instant::now();
    run(["ps", "--pid", &busy_pid]);
    let window = 3 * started.elapsed() + Duration::from_millis(60);
    let mut seed = 7_u64;
    let mut killed = 0;
    while killed < 200 {
        let mut doomed = agent();
        let command = if killed % 4 == 3 { holding_all } else { holding_one };
        doomed.args(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut doomed = doomed.spawn().expect("the agent");
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let share = (seed >> 33) as f64 / f64::from(1_u32 << 31);
        // The moment is what is tested: it comes by chance, not by a condition.
        std::thread::sleep(window.mul_f64(share));
        killed += u32::from(doomed.try_wait().expect("its state").is_none());
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
