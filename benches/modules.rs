//! `agent modules` beside eu-readelf and ldd over the same files, in one run: `cargo bench --bench modules`.
//!
//! The target has about 300 libraries of this machine mapped. Each pair runs alternately, output discarded for both,
//! and the medians are compared: only the ratios carry over to another machine. The floor is what the system calls of
//! the least that has to be read cost in this process: `maps` once, and of each file the open and its first 4 KiB.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a bench: it runs programs and prints")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// Pairs of runs.
const PAIRS: usize = 7;

const LOADER: &str = "#include <dlfcn.h>\n#include <stdio.h>\n#include <unistd.h>\n\
    int main(int c, char **v) { for (int i = 1; i < c; i++) dlopen(v[i], RTLD_NOW);\n\
    puts(\"ready\"); fflush(stdout); getchar(); return 0; }\n";

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let libraries = libraries(300);
    let mut child = ready(&libraries);
    let pid = child.id().to_string();
    let files = mapped(&pid);
    println!("{} ELF files mapped", files.len());
    println!("{:<52} {:>10} {:>10} {:>10} {:>7} {:>9}", "work", "agent", "peer", "floor", "ratio", "peak RSS");

    let mut floor = || {
        let _ = fs::read(format!("/proc/{pid}/maps"));
        let mut head = [0; 4096];
        for file in &files {
            let _ = File::open(file).and_then(|file| file.read_at(&mut head, 0));
        }
    };
    let mut readelf = Command::new("eu-readelf");
    readelf.args(["-h", "-l", "-d", "-n", "-V", "-S", "--symbols=.dynsym", "-p.comment"]).args(&files);
    compare("modules | eu-readelf -hldnVS -p.comment, symbols", &["modules", "--pid", &pid], &mut readelf, &mut floor);
    let mut ldd = Command::new("ldd");
    ldd.args(files.iter().filter(|file| file.to_string_lossy().contains(".so")));
    compare("modules | ldd", &["modules", "--pid", &pid], &mut ldd, &mut floor);
    let mut sums = Command::new("sha256sum");
    sums.args(&files);
    compare("modules --hash | sha256sum", &["modules", "--pid", &pid, "--hash"], &mut sums, &mut floor);
    let mut owners = Command::new("dpkg-query");
    owners.arg("-S").args(files.iter().flat_map(|file| {
        let plain = file.clone();
        let merged = file.strip_prefix("/usr").ok().map(|rest| PathBuf::from("/").join(rest));
        [Some(plain), merged].into_iter().flatten()
    }));
    compare("modules --packages | dpkg-query -S", &["modules", "--pid", &pid, "--packages"], &mut owners, &mut floor);
    let _ = child.kill();
    let _ = child.wait();
}

/// Libraries of this machine that can be loaded together.
fn libraries(count: usize) -> Vec<PathBuf> {
    let directory = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    // These want to be first, or replace what others need.
    let apart = ["asan", "tsan", "lsan", "ubsan", "memusage", "pcprofile", "ld-linux", "hwasan", "libc_malloc_debug"];
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .filter(|path| {
            path.to_string_lossy().contains(".so") && !apart.iter().any(|name| path.to_string_lossy().contains(name))
        })
        .collect();
    files.sort();
    files.truncate(count);
    files
}

fn ready(libraries: &[PathBuf]) -> Child {
    let program = agent_targets::compile(LOADER, &["-O1", "-ldl"]);
    let mut command = Command::new(program);
    command.args(libraries).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the target starts");
    let mut line = String::new();
    let read = BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line);
    assert!(read.is_ok() && line.contains("ready"), "the target is ready: {line}");
    child
}

/// The ELF files in the maps of a process.
fn mapped(pid: &str) -> Vec<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let paths: BTreeSet<PathBuf> =
        maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..]))).collect();
    let mut magic = [0; 4];
    let mut is_elf = |path: &PathBuf| {
        File::open(path).and_then(|file| file.read_exact_at(&mut magic, 0)).is_ok() && magic == *b"\x7fELF"
    };
    paths.into_iter().filter(|path| is_elf(path)).collect()
}

fn compare(work: &str, args: &[&str], peer: &mut Command, floor: &mut dyn FnMut()) {
    let mut agent = Command::new(AGENT);
    agent.args(args).args(["-o", "json", "--allow-gaps"]);
    let answer = agent.output().expect("the agent runs").stdout;
    let envelope: serde_json::Value = serde_json::from_slice(&answer).expect("an envelope");
    let (mut ours, mut theirs, mut least) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        ours.push(timed(|| discard(&mut agent)));
        theirs.push(timed(|| discard(peer)));
        least.push(timed(&mut *floor));
    }
    let (ours, theirs, least) = (median(ours), median(theirs), median(least));
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    let rss = envelope["cost"]["peak_rss_kib"].as_u64().unwrap_or(0);
    println!("{work:<52} {:>10} {:>10} {:>10} {ratio:>7.2} {rss:>5} KiB", ms(ours), ms(theirs), ms(least));
}

fn discard(command: &mut Command) {
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
