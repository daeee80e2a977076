//! Stacks and profiles beside eu-stack, gdb and py-spy, in one run: `cargo bench --bench stacks`.
//!
//! Agent and peer run alternately on the same threads, output discarded for both; medians are compared, and only the
//! ratios carry over to another machine. A profile is measured by what it says that it cost, and by what a busy target
//! gets done with it and without it, in pairs.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a bench: it runs programs and prints")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// Pairs of runs.
const PAIRS: usize = 5;

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("{:<36} {:>10} {:>10} {:>7} {:>7} {:>11}", "dump", "agent", "peer", "ratio", "stops", "stopped");
    for threads in ["50", "500"] {
        let mut command = Command::new(agent_targets::build("threads", &["-O2"]));
        let target = Target::new(command.arg(threads));
        let pid = target.pid();
        compare(&format!("{threads} blocked: eu-stack"), &pid, &[], Command::new("eu-stack").args(["-p", &pid]));
        let mut gdb = Command::new("gdb");
        gdb.args(["-p", &pid, "-batch", "-nx", "-ex", "set pagination off", "-ex", "thread apply all bt"]);
        compare(&format!("{threads} blocked: gdb"), &pid, &[], &mut gdb);
        compare(
            &format!("{threads} at one instant: eu-stack"),
            &pid,
            &["--stop", "consistent", "--stop-budget", "10s"],
            Command::new("eu-stack").args(["-p", &pid]),
        );
    }
    // Without the debug information of the C library, which is decompressed for lines where it is installed.
    for threads in ["50", "500"] {
        let mut command = Command::new(agent_targets::build("threads", &["-O2", "-static"]));
        let target = Target::new(command.arg(threads));
        let pid = target.pid();
        let name = format!("{threads} blocked, static: eu-stack");
        compare(&name, &pid, &[], Command::new("eu-stack").args(["-p", &pid]));
        warm(&format!("{threads} blocked, static, warm: eu-stack"), &pid);
    }
    let py_spy = py_spy();
    for threads in [50, 500] {
        let script = format!(
            "import threading, time\n\
             for n in range({}): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n\
             print('\"ready\"', flush=True)\ntime.sleep(600)\n",
            threads - 1
        );
        let python = Target::new(Command::new("python3").args(["-c", &script]));
        let pid = python.pid();
        let name = |peer: &str| format!("CPython, {threads} threads: {peer}");
        compare(&name("eu-stack"), &pid, &[], Command::new("eu-stack").args(["-p", &pid]));
        compare(&name("py-spy"), &pid, &[], Command::new(&py_spy).args(["dump", "--pid", &pid]));
    }
    single_stops();
    profiles();
}

/// What each further dump of one command takes: a scenario of eleven looks beside one of a single look. What is found is
/// kept as evidence, digested and printed, which is a part of it.
fn warm(name: &str, pid: &str) {
    let scenario = |looks: usize| {
        let path = std::env::temp_dir().join(format!("bench-{}-{looks}.yaml", std::process::id()));
        let mut text = "name: warm\ntitle: Looks at all threads again and again\nsteps:\n".to_owned();
        (0..looks).for_each(|n| text += &format!("  - {{name: look{n}, collect: stacks, options: {{flat: true}}}}\n"));
        text += "judge:\n  - {id: none, asks: nothing, level: info, when: \"false\", message: none, otherwise: none}\n";
        std::fs::write(&path, text).expect("a file");
        path
    };
    let (few, many) = (scenario(1), scenario(11));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let run = |path: &Path| time(Command::new(AGENT).arg("run").arg(path).args(["--pid", pid, "-o", "json"]));
        let one = run(&few);
        ours.push(run(&many).saturating_sub(one) / 10);
        theirs.push(time(Command::new("eu-stack").args(["-p", pid])));
    }
    [few, many].iter().for_each(|path| _ = std::fs::remove_file(path));
    if let (Some(ours), Some(theirs)) = (median(ours), median(theirs)) {
        let [a, b] = [ours, theirs].map(|time| time.as_secs_f64() * 1e3);
        println!("{name:<36} {a:>7.2} ms {b:>7.2} ms {:>7.1} {:>7} {:>8} us", b / a, "-", "-");
    }
}

/// py-spy: that of this machine, or PyPI's, which its ordinary client installs beside this bench.
fn py_spy() -> PathBuf {
    if exists(&Command::new("py-spy")) {
        return PathBuf::from("py-spy");
    }
    let place = Path::new(AGENT).with_file_name("py-spy");
    let program = place.join("bin/py-spy");
    if !program.is_file() {
        let args = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"];
        let _ = Command::new("python3").args(args).arg(&place).arg("py-spy").status();
    }
    program
}

/// How long a running thread is held.
fn single_stops() {
    let target = Target::new(&mut Command::new(agent_targets::build("spinner", &["-O2"])));
    let mut stops: Vec<u64> = (0..200)
        .filter_map(|_| answer(&["stacks", "--pid", &target.pid()])["cost"]["longest_stop_us"].as_u64())
        .collect();
    stops.sort_unstable();
    println!("\none stop of a running thread: median {} us, p99 {} us", stops[100], stops[197]);
}

/// What a profile costs the agent, and the target.
fn profiles() {
    println!("\n{:<36} {:>8} {:>12} {:>16}", "profile, 5 s at 49 Hz", "ticks", "agent + stops", "slow-down");
    let mut idle = Command::new(agent_targets::build("threads", &["-O2"]));
    let idle = Target::new(idle.arg("50"));
    profile("50 blocked threads", &idle.pid(), &[]);
    let mut command = Command::new(agent_targets::build("shares", &["-O2"]));
    let mut busy = Target::new(command.arg("w"));
    let mut ratios: Vec<f64> = Vec::new();
    for _ in 0..PAIRS {
        let alone = busy.work_during(|_| std::thread::sleep(Duration::from_secs(5)));
        let watched = busy.work_during(|pid| {
            answer(&["profile", "--for", "5s", "--pid", pid]);
        });
        ratios.push(watched / alone);
    }
    let pid = busy.pid();
    profile("a thread that computes", &pid, &ratios);
    drop(busy);
    redis();
}

/// Requests a second of redis-server, with a profile and without one.
fn redis() {
    if !exists(&Command::new("redis-server")) || !exists(&Command::new("redis-benchmark")) {
        return;
    }
    let socket = std::env::temp_dir().join(format!("bench-{}.socket", std::process::id()));
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--logfile", "/dev/null", "--unixsocket"]).arg(&socket);
    let mut server = Ended(command.stdout(Stdio::null()).spawn().expect("redis-server"));
    while !socket.exists() && server.0.try_wait().is_ok_and(|ended| ended.is_none()) {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Requests that take some two seconds: the machine is not the same from one to the next, so there are many.
    let requests = || {
        let mut command = Command::new("redis-benchmark");
        command.args(["-q", "-t", "get", "-c", "20", "-n", "150000", "--csv", "-s"]).arg(&socket);
        let begin = Instant::now();
        let output = command.stderr(Stdio::null()).output().expect("redis-benchmark");
        assert!(output.status.success());
        150_000.0 / begin.elapsed().as_secs_f64()
    };
    let pid = server.0.id().to_string();
    requests();
    let mut ratios: Vec<f64> = Vec::new();
    let mut alone = requests();
    for _ in 0..4 * PAIRS {
        let mut agent = Command::new(AGENT);
        agent
            .args(["profile", "--for", "60s", "--pid", &pid, "-o", "json"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let agent = Ended(agent.spawn().expect("the agent"));
        let watched = requests();
        drop(agent);
        // Between two without it, since the machine drifts.
        let after = requests();
        ratios.push(watched / ((alone + after) / 2.0));
        alone = after;
    }
    profile("redis-server, requests a second", &pid, &ratios);
    let _ = std::fs::remove_file(&socket);
}

/// A program that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One profile by what it says of itself, and what the target got done beside it: the mean and its standard error.
fn profile(name: &str, pid: &str, ratios: &[f64]) {
    let seen = answer(&["profile", "--for", "5s", "--pid", pid]);
    let summary = &seen["data"]["summary"];
    let number = |key: &str| summary[key].as_f64().unwrap_or(f64::NAN);
    let share = 100.0 * (number("agent_cpu_us") + number("stopped_us")) / number("duration_us");
    let count = ratios.len() as f64;
    let mean = ratios.iter().sum::<f64>() / count;
    let squares = ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>();
    let error = (squares / (count - 1.0) / count).sqrt();
    let slow_down = match ratios {
        [] => "-".to_owned(),
        _ => format!("{:.2} ± {:.2} %", 100.0 * (1.0 - mean), 100.0 * error),
    };
    println!("{name:<36} {:>8} {share:>10.2} % {slow_down:>16}", summary["ticks"]);
}

/// A program that has printed `"ready"`; it ends with its standard input.
struct Target {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target {
    fn new(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a target");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut target = Self { child, lines };
        target.answer();
        target
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// What it says before the next `"ready"`.
    fn answer(&mut self) -> Vec<Value> {
        let mut values = Vec::new();
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("a line");
            let value: Value = serde_json::from_str(&line).expect("JSON");
            match value.as_str() {
                Some("ready") => return values,
                _ => values.push(value),
            }
        }
    }

    /// Processor time that `shares` has used so far.
    fn spent(&mut self) -> f64 {
        writeln!(self.child.stdin.as_mut().expect("piped")).expect("standard input");
        let said = self.answer().pop().expect("a line");
        ["ns_a", "ns_b", "ns_c", "ns_d"].iter().filter_map(|key| said[key].as_f64()).sum()
    }

    /// How much it works a second while `work` is done.
    fn work_during(&mut self, work: impl FnOnce(&str)) -> f64 {
        let (before, begin) = (self.spent(), Instant::now());
        work(&self.pid());
        (self.spent() - before) / begin.elapsed().as_secs_f64()
    }
}

fn answer(arguments: &[&str]) -> Value {
    let output = Command::new(AGENT).args(arguments).args(["-o", "json"]).stderr(Stdio::null()).output();
    serde_json::from_slice(&output.expect("the agent").stdout).unwrap_or_default()
}

fn compare(name: &str, pid: &str, options: &[&str], peer: &mut Command) {
    let mut agent = Command::new(AGENT);
    agent.args(["stacks", "--flat", "--pid", pid]).args(options);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let has_peer = exists(peer);
    for _ in 0..PAIRS {
        ours.push(time(&mut agent));
        if has_peer {
            theirs.push(time(peer));
        }
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let show =
        |time: Option<Duration>| time.map_or("-".to_owned(), |time| format!("{:.2} ms", time.as_secs_f64() * 1e3));
    let ratio = ours.zip(theirs).map_or("-".to_owned(), |(a, b)| format!("{:.1}", b.as_secs_f64() / a.as_secs_f64()));
    let arguments = ["stacks", "--flat", "--pid", pid].iter().chain(options).copied().collect::<Vec<_>>();
    let cost = &answer(&arguments)["cost"];
    println!(
        "{name:<36} {:>10} {:>10} {ratio:>7} {:>7} {:>8} us",
        show(ours),
        show(theirs),
        cost["stops"].to_string(),
        cost["target_stopped_us"].to_string()
    );
}

fn exists(command: &Command) -> bool {
    if Path::new(command.get_program()).is_absolute() {
        return Path::new(command.get_program()).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(command.get_program()).is_file())
}

fn time(command: &mut Command) -> Duration {
    let begin = Instant::now();
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.expect("a program that starts");
    begin.elapsed()
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}
