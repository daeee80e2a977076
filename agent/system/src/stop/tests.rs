#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use agent_session::{Identity, Limits, Session};

use super::*;
use crate::Run;
use crate::run::Plan;

/// A program that is ended and reaped with the test.
struct Target(Child);

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn letter(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn a_stop_by_a_real_time_signal_is_one_and_the_signal_is_passed_on() {
    let mut target = Target(Command::new("sleep").arg("600").spawn().expect("sleep"));
    let pid = Pid::from_raw(target.0.id().cast_signed());
    wait_until("it to sleep", || letter(target.0.id()) == Some('S'));
    ptrace::seize(pid, ptrace::Options::empty()).expect("seized");
    let signal = libc::SIGRTMIN() + 3;
    // SAFETY: a signal to a process that this test has started and not yet reaped.
    assert_eq!(unsafe { libc::kill(pid.as_raw(), signal) }, 0);
    let now = clock::boot_us();
    match wait_for_stop(pid, now, now + 30_000_000) {
        Waited::Stopped(seen, _) => assert_eq!(seen, signal),
        Waited::Gone | Waited::Late => panic!("no stop"),
    }
    detach(pid, signal);
    // Nothing handles it, so it comes to its end by it.
    assert_eq!(target.0.wait().expect("its end").signal(), Some(signal));
}

/// A wait that takes the stop takes the signal from a target whose tracer is then killed.
#[test]
fn a_tracer_that_ends_while_a_signal_is_on_its_way_takes_nothing_away() {
    let mut target = Target(Command::new("sleep").arg("600").spawn().expect("sleep"));
    let pid = Pid::from_raw(target.0.id().cast_signed());
    wait_until("it to sleep", || letter(target.0.id()) == Some('S'));
    let signal = libc::SIGRTMIN() + 3;
    // A tracer is a thread: the kernel lets go of its tracees when it ends.
    let tracer = std::thread::spawn(move || {
        ptrace::seize(pid, ptrace::Options::empty()).expect("seized");
        // SAFETY: a signal to a process that this test has started and not yet reaped.
        assert_eq!(unsafe { libc::kill(pid.as_raw(), signal) }, 0);
        let now = clock::boot_us();
        assert!(matches!(wait_for_stop(pid, now, now + 30_000_000), Waited::Stopped(seen, _) if seen == signal));
    });
    tracer.join().expect("a stop");
    let mut end = None;
    wait_until("its end by the signal", || {
        end = target.0.try_wait().expect("its state");
        end.is_some()
    });
    assert_eq!(end.and_then(|end| end.signal()), Some(signal));
}

/// A parent that vfork(2) keeps in uninterruptible sleep until its child is told to end.
const VFORK: &str = "#include <stdio.h>\n#include <unistd.h>\n#include <sys/wait.h>\n\
    int main(void)\n{\n    puts(\"ready\");\n    fflush(stdout);\n\
    if (vfork() == 0) { char c; read(0, &c, 1); _exit(0); }\n\
    for (;;) pause();\n}\n";

#[test]
fn a_thread_that_stops_too_late_is_let_go_of_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, program) = (directory.path().join("v.c"), directory.path().join("v"));
    std::fs::write(&source, VFORK).expect("written");
    let built = Command::new("cc").arg("-w").arg("-o").arg(&program).arg(&source).status().expect("cc");
    assert!(built.success());
    let mut command = Command::new(&program);
    let mut target = Target(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts"));
    let mut line = String::new();
    BufReader::new(target.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    wait_until("vfork", || letter(target.0.id()) == Some('D'));

    let session = Session::open(Identity::new("s").expect("an ID"), Limits::default(), clock::boot_us(), false);
    let run = Run::begin(session, Plan::default()).expect("a run");
    let process = run.process(target.0.id()).expect("the target");
    let failure = process.stop(target.0.id(), Duration::from_millis(20)).map(|_| ()).expect_err("no stop");
    assert!(matches!(failure.cause, Cause::Timeout(_)), "{failure:?}");
    assert_eq!(letter(target.0.id()), Some('D'));
    drop(target.0.stdin.take());
    wait_until("it to stop, now that it can", || letter(target.0.id()) == Some('t'));
    // Any access will do, and none of a command's end.
    let _ = run.process(std::process::id());
    wait_until("it to go on", || letter(target.0.id()) == Some('S'));
    let status = std::fs::read_to_string(format!("/proc/{}/status", target.0.id())).expect("status");
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
    assert!(OWED.with_borrow(Vec::is_empty));
}
