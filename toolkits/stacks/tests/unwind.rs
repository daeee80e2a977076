//! The unwinder on real processes, against eu-stack and gdb, address by address.
//!
//! Needs gcc, elfutils, gdb, and the right to trace one's own children.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

use std::process::Command;

use agent_stacks::unwind::{EndReason, FoundBy, FrameKind, Registers, Unwound};

mod support;

use support::{Image, Stopped, Target, Workshop, eu_stack, gdb};

/// The frames of `deep.c` from `bottom` to `main`.
const DEEP: [&str; 15] =
    ["bottom", "f12", "f11", "f10", "f9", "f8", "f7", "f6", "f5", "compare", "f4", "f3", "f2", "f1", "main"];

/// Every way to build a program that changes its frames.
const BUILDS: [(&str, &[&str]); 8] = [
    ("O0", &["-O0"]),
    ("O2", &["-O2"]),
    ("O2-omit", &["-O2", "-fomit-frame-pointer"]),
    ("O2-keep", &["-O2", "-fno-omit-frame-pointer"]),
    ("O3-avx", &["-O3", "-mavx2"]),
    ("static", &["-O2", "-static"]),
    ("static-pie", &["-O2", "-static-pie"]),
    ("no-pie", &["-O2", "-no-pie"]),
];

fn addresses(stack: &Unwound) -> Vec<u64> {
    stack.frames.iter().map(|frame| frame.avma).collect()
}

/// `stack` has the frames of `eu-stack` and of gdb, all of them.
#[track_caller]
fn same_as_peers(target: &Target, tid: i32, stack: &Unwound, image: &Image) {
    let found = addresses(stack);
    let peers = (eu_stack(target.pid()).remove(&tid).unwrap(), gdb(target.pid()).remove(&tid).unwrap());
    let hex = |list: &[u64]| list.iter().map(|a| format!("{a:x} {}", image.name(*a))).collect::<Vec<_>>();
    assert_eq!(hex(&found), hex(&peers.0), "eu-stack");
    let by_gdb: Vec<u64> = peers.1.iter().map(|frame| frame.0).collect();
    assert_eq!(hex(&found), hex(&by_gdb), "gdb");
    let signals: Vec<bool> = stack.frames.iter().map(|frame| frame.kind == FrameKind::Signal).collect();
    assert_eq!(signals, peers.1.iter().map(|frame| frame.2).collect::<Vec<_>>());
}

/// Unwinds a thread that ptrace holds.
fn unwind_stopped(target: &Target, tid: i32, image: &Image) -> Unwound {
    let stopped = Stopped::seize(tid);
    let memory = target.memory();
    image.unwinder().unwind(stopped.registers(), |address| memory.read(address), 256)
}

#[track_caller]
fn contains_in_order(names: &[String], expected: &[&str]) {
    let mut rest = names.iter();
    for name in expected {
        assert!(rest.any(|found| found == name), "{name} is missing in {names:?}");
    }
}

#[test]
fn unwinds_every_build_as_eu_stack_and_gdb_do() {
    let workshop = Workshop::new();
    for (build, flags) in BUILDS {
        for how in ["read", "signal", "altstack"] {
            let program = workshop.compile("deep.c", build, flags);
            let target = Target::start(Command::new(&program).arg(how));
            target.blocked(target.pid());
            let image = Image::of(&target);
            let stack = unwind_stopped(&target, target.pid(), &image);
            let names = image.names(&stack);
            assert!(stack.is_complete(), "{build} {how}: {} {names:?}", stack.end);
            contains_in_order(&names, &DEEP);
            assert_eq!(names.last().unwrap(), "_start");
            let signal = stack.frames.iter().position(|frame| frame.kind == FrameKind::Signal);
            assert_eq!(signal.is_some(), how != "read", "{build} {how}");
            if let Some(at) = signal {
                assert_eq!(stack.frames[at + 1].kind, FrameKind::Pc);
                assert_eq!(&names[at - 2..at], ["handler_inner", "handler"]);
                assert_eq!(stack.frames[at].found_by, FoundBy::CallFrameInfo);
            }
            same_as_peers(&target, target.pid(), &stack, &image);
        }
    }
}

#[test]
fn unwinds_a_stripped_program_by_what_it_exports() {
    let workshop = Workshop::new();
    let program = workshop.compile("deep.c", "stripped", &["-O2", "-rdynamic"]);
    workshop.strip(&program);
    let target = Target::start(&mut Command::new(&program));
    target.blocked(target.pid());
    let image = Image::of(&target);
    let stack = unwind_stopped(&target, target.pid(), &image);
    assert!(stack.is_complete(), "{}", stack.end);
    // `compare` is static: it has a frame and no name.
    let exported: Vec<&str> = DEEP.into_iter().filter(|name| *name != "compare").collect();
    contains_in_order(&image.names(&stack), &exported);
    same_as_peers(&target, target.pid(), &stack, &image);
}

#[test]
fn unwinds_a_spinning_thread() {
    let workshop = Workshop::new();
    for (build, flags) in BUILDS {
        let program = workshop.compile("deep.c", build, flags);
        let target = Target::start(Command::new(&program).arg("spin"));
        let image = Image::of(&target);
        let mut samples = 0;
        while samples < 5 {
            let stack = unwind_stopped(&target, target.pid(), &image);
            // It may still be saying that it is ready.
            if image.names(&stack).contains(&"write".to_owned()) {
                continue;
            }
            samples += 1;
            assert!(stack.is_complete(), "{build}: {}", stack.end);
            let names = image.names(&stack);
            assert_eq!(names[..DEEP.len() - 6], DEEP[..DEEP.len() - 6], "{build}");
            contains_in_order(&names, &DEEP);
        }
    }
}

#[test]
fn unwinds_without_a_stop_what_the_stop_would_show() {
    let workshop = Workshop::new();
    for (build, flags) in BUILDS {
        let program = workshop.compile("deep.c", build, flags);
        for how in ["read", "altstack"] {
            let target = Target::start(Command::new(&program).arg(how));
            let blocked = target.blocked(target.pid());
            let image = Image::of(&target);
            let memory = target.memory();
            let blind = image.unwinder().unwind(blocked, |address| memory.read(address), 256);
            let seen = unwind_stopped(&target, target.pid(), &image);
            assert_same(&blind, &seen, &format!("{build} {how}"));
            assert!(blind.is_complete(), "{build} {how}: {}", blind.end);
            assert_eq!(blind.frames.len(), seen.frames.len());
        }
    }
}

/// Never wrong: what was found without a stop is what the stop shows.
fn assert_same(blind: &Unwound, seen: &Unwound, what: &str) {
    let place = |frame: &agent_stacks::unwind::Frame| (frame.avma, frame.sp, frame.kind);
    let (blind, seen): (Vec<_>, Vec<_>) =
        (blind.frames.iter().map(place).collect(), seen.frames.iter().map(place).collect());
    assert!(seen.starts_with(&blind), "{what}:\n{blind:x?}\n{seen:x?}");
}

/// Where a frame pointer is needed and not known, the size of the frame gives it, or nothing does.
#[test]
fn frame_pointers_are_worked_out_or_left_alone() {
    let workshop = Workshop::new();
    let builds: [(&str, &[&str]); 4] = [
        ("f-O0", &["-O0"]),
        ("f-O2", &["-O2", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"]),
        ("f-clash", &["-O2", "-fno-omit-frame-pointer", "-fstack-clash-protection"]),
        ("f-cet", &["-O1", "-fno-omit-frame-pointer", "-fcf-protection", "-fno-plt"]),
    ];
    for (build, flags) in builds {
        let program = workshop.compile("frames.c", build, flags);
        for kind in ["small", "large", "with_arguments", "computed", "variable", "by_pointer", "aligned"] {
            let target = Target::start(Command::new(&program).arg(kind));
            let blocked = target.blocked(target.pid());
            let image = Image::of(&target);
            let memory = target.memory();
            let blind = image.unwinder().unwind(blocked, |address| memory.read(address), 256);
            let seen = unwind_stopped(&target, target.pid(), &image);
            let what = format!("{build} {kind}");
            assert_same(&blind, &seen, &what);
            if blind.is_complete() {
                assert_eq!(blind.frames.len(), seen.frames.len(), "{what}");
            } else {
                assert!(blind.end.needs_frame_pointer(), "{what}: {}", blind.end);
            }
            let is_plain = !["computed", "variable", "aligned", "with_arguments"].contains(&kind);
            assert!(blind.is_complete() || !is_plain, "{what}: {}", blind.end);
        }
    }
}

#[test]
fn unwinds_every_way_to_wait_without_a_stop() {
    let workshop = Workshop::new();
    let waits = [
        ("wait_nanosleep", "nanosleep"),
        ("wait_condition", "pthread_cond_wait"),
        ("wait_mutex", "pthread_mutex_lock"),
        ("wait_semaphore", "?"),
        ("wait_poll", "poll"),
        ("wait_select", "select"),
        ("wait_epoll", "epoll_wait"),
        ("wait_receive", "recv"),
        ("wait_pause", "pause"),
    ];
    for (build, flags) in [("waits", &["-O2", "-pthread"][..]), ("waits-static", &["-O2", "-pthread", "-static"])] {
        let program = workshop.compile("waits.c", build, flags);
        let target = Target::start(&mut Command::new(&program));
        let image = Image::of(&target);
        let memory = target.memory();
        let mut unwinder = image.unwinder();
        let (by_eu, by_gdb) = (eu_stack(target.pid()), gdb(target.pid()));
        let threads = target.threads();
        assert_eq!(threads.len(), waits.len() + 1);
        for (tid, (caller, call)) in threads.iter().skip(1).zip(waits) {
            let blocked = target.blocked(*tid);
            let stack = unwinder.unwind(blocked, |address| memory.read(address), 256);
            let names = image.names(&stack);
            assert!(stack.is_complete(), "{build} {caller}: {} {names:?}", stack.end);
            contains_in_order(&names, &[caller, "middle", "start"]);
            let at = names.iter().position(|name| name == caller).unwrap();
            if build == "waits" && call != "?" {
                assert_eq!(names[at - 1], call);
            }
            assert_eq!(addresses(&stack), by_eu[tid], "eu-stack, {names:?}");
            let gdb: Vec<u64> = by_gdb[tid].iter().map(|frame| frame.0).collect();
            assert_eq!(addresses(&stack), gdb, "gdb, {names:?}");
        }
    }
}

#[test]
fn unwinds_python() {
    let script = "import time\ndef f(n):\n  if n: f(n - 1)\n  else:\n    print('ready', flush=True)\n    time.sleep(1000)\nf(10)\n";
    let target = Target::start(Command::new("/usr/bin/python3").arg("-c").arg(script));
    let blocked = target.blocked(target.pid());
    let image = Image::of(&target);
    let seen = unwind_stopped(&target, target.pid(), &image);
    let names = image.names(&seen);
    assert!(seen.is_complete(), "{} {names:?}", seen.end);
    contains_in_order(&names, &["clock_nanosleep", "Py_BytesMain", "_start"]);
    same_as_peers(&target, target.pid(), &seen, &image);
    let memory = target.memory();
    let blind = image.unwinder().unwind(blocked, |address| memory.read(address), 256);
    assert_eq!(blind, seen, "python is built without frame pointers here");
}

#[test]
fn unwinds_the_vdso() {
    let workshop = Workshop::new();
    let program = workshop.compile("clock.c", "clock", &["-O2"]);
    let target = Target::start(&mut Command::new(&program));
    let image = Image::of(&target);
    let vdso = image.modules.iter().find(|module| module.name == "[vdso]").unwrap();
    let mut inside = 0;
    for _ in 0..100 {
        let stack = unwind_stopped(&target, target.pid(), &image);
        let names = image.names(&stack);
        assert!(stack.is_complete(), "{} {names:?}", stack.end);
        if names[0] == "write" {
            continue;
        }
        contains_in_order(&names, &["ask", "main", "_start"]);
        inside += usize::from(vdso.avma.contains(&stack.frames[0].avma));
    }
    assert!(inside > 20, "only {inside} of 100 samples were in the vDSO");
}

#[test]
fn unwinds_at_every_instruction_of_a_lazily_bound_call() {
    let workshop = Workshop::new();
    let library = workshop.compile("library.c", "libsteps.so", &["-O2", "-shared", "-fPIC", "-Wl,-z,lazy"]);
    let folder = library.parent().unwrap().display().to_string();
    let run_path = format!("-Wl,-rpath,{folder}");
    let flags = ["-O2", "-Wl,-z,lazy", "-L", &folder, "-lsteps", &run_path];
    let program = workshop.compile("steps.c", "steps", &flags);
    // The library behind the source on the command line, as a linker wants it.
    let mut target = Target::start(&mut Command::new(&program));
    target.blocked(target.pid());
    let image = Image::of(&target);
    let (mut unwinder, memory) = (image.unwinder(), target.memory());
    let stopped = Stopped::seize(target.pid());
    drop(std::io::Write::write_all(target.stdin.as_mut().unwrap(), b"x"));

    let mut seen = std::collections::BTreeSet::new();
    let (mut inside, mut left) = (false, false);
    for step in 0..60_000 {
        stopped.step();
        let stack = unwinder.unwind(stopped.registers(), |address| memory.read(address), 256);
        let names = image.names(&stack);
        assert!(stack.is_complete(), "step {step}: {} {names:?} {:x?}", stack.end, stack.frames);
        let ends = names.iter().rev().take(5).map(String::as_str).collect::<Vec<_>>();
        assert_eq!(ends[0], "_start", "step {step}: {names:?}");
        let main = names.iter().position(|name| name == "main");
        assert!(main.is_some(), "step {step}: {names:?}");
        inside |= names[0] == "stepped";
        if names.contains(&"stepped".to_owned()) {
            seen.extend(names);
        } else if inside && names[0] == "main" {
            left = true;
            break;
        }
    }
    assert!(left, "stepped() did not return: {seen:?}");
    // `resolved` is the resolver too: both names have its address.
    for name in ["library_outer", "library_leaf", "resolved", "chosen"] {
        assert!(seen.contains(name), "{name} was not stepped through: {seen:?}");
    }
}

#[test]
fn says_why_a_stack_ends() {
    let workshop = Workshop::new();
    let program = workshop.compile("deep.c", "O2", &["-O2"]);
    let target = Target::start(&mut Command::new(&program));
    let blocked = target.blocked(target.pid());
    let image = Image::of(&target);
    let memory = target.memory();
    let mut unwinder = image.unwinder();
    let mut unwind = |registers, limit| unwinder.unwind(registers, |address| memory.read(address), limit);

    let stack = unwind(blocked, 5);
    assert_eq!((stack.frames.len(), stack.end), (5, EndReason::Truncated));

    let read = unwind(blocked, 1).frames[0];
    let unmapped = unwind(Registers::new(read.avma, 64), 256);
    assert!(matches!(unmapped.end, EndReason::UnreadableStack { .. }), "{}", unmapped.end);

    let nowhere = unwind(Registers::new(0x1000, read.sp), 256);
    assert_eq!(nowhere.end, EndReason::NotCode { avma: 0x1000 });
    assert_eq!(nowhere.frames.len(), 1);
}
