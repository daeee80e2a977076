//! What a frame costs, here and in framehop, on the same registers and the same
//! copy of the same stack: `cargo bench -p agent-stacks`.
//!
//! Warm is the second and later unwinds of one unwinder; cold is a new one each
//! time, its modules added, as one dump of one process pays.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::process::Command;
use std::time::{Duration, Instant};

use framehop::Unwinder as _;
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};

#[path = "../tests/support/mod.rs"]
mod support;

use support::{Image, Stopped, Target, Workshop, framehop_of};

fn main() {
    let workshop = Workshop::new();
    println!("                       frames   warm ns/frame    cold us/stack");
    println!("                              agent  framehop   agent  framehop");
    for (name, flags) in [("C -O2", &["-O2"][..]), ("C -O0", &["-O0"]), ("C -O2 static", &["-O2", "-static"])] {
        let program = workshop.compile("deep.c", "deep", flags);
        measure(name, &Target::start(&mut Command::new(&program)));
    }
    let script = "import time\nprint('ready', flush=True)\ntime.sleep(1000)";
    let python = Target::start(Command::new("/usr/bin/python3").arg("-c").arg(script));
    measure("CPython", &python);
}

fn measure(name: &str, target: &Target) {
    target.blocked(target.pid());
    let image = Image::of(target);
    let stopped = Stopped::seize(target.pid());
    let registers = stopped.registers();
    let (pc, sp, bp) = stopped.pc_sp_bp();
    let stack = target.memory().copy(sp, 64 * 1024);
    let read = |address: u64| {
        let at = address.wrapping_sub(sp) as usize;
        let bytes = stack.get(at..at.wrapping_add(8)).ok_or(())?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| ())?))
    };

    let mut ours = image.unwinder();
    let frames = ours.unwind(registers, read, 256).frames.len();
    let mut theirs = framehop_of(&image);
    let mut cache = CacheX86_64::new();
    let by_framehop = |unwinder: &UnwinderX86_64<Vec<u8>>, cache: &mut CacheX86_64| {
        let mut read = read;
        let registers = UnwindRegsX86_64::new(pc, sp, bp);
        let mut iterator = unwinder.iter_frames(pc, registers, cache, &mut read);
        let mut count = 0;
        while let Ok(Some(_)) = iterator.next() {
            count += 1;
        }
        count
    };
    let same = by_framehop(&theirs, &mut cache);

    // Side by side, alternating; the median of each.
    let (mut warm, mut cold) = (Pair::default(), Pair::default());
    for _ in 0..31 {
        warm.ours.push(time(2000, || ours.unwind(registers, read, 256).frames.len()));
        warm.theirs.push(time(2000, || by_framehop(&theirs, &mut cache)));
        cold.ours.push(time(20, || {
            ours = image.unwinder();
            ours.unwind(registers, read, 256).frames.len()
        }));
        cold.theirs.push(time(20, || {
            theirs = framehop_of(&image);
            cache = CacheX86_64::new();
            by_framehop(&theirs, &mut cache)
        }));
    }
    let per_frame = |times: &mut Vec<Duration>, count: usize| median(times).as_nanos() as f64 / count as f64;
    println!(
        "{name:20} {frames:3} / {same:3} {:7.1} {:9.1} {:7.1} {:9.1}",
        per_frame(&mut warm.ours, frames),
        per_frame(&mut warm.theirs, same),
        median(&mut cold.ours).as_nanos() as f64 / 1e3,
        median(&mut cold.theirs).as_nanos() as f64 / 1e3,
    );
}

#[derive(Default)]
struct Pair {
    ours: Vec<Duration>,
    theirs: Vec<Duration>,
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn time(rounds: u32, mut work: impl FnMut() -> usize) -> Duration {
    let started = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(work());
    }
    started.elapsed() / rounds
}
