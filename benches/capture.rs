//! `agent capture -o pcapng` beside `tcpdump -w`: CPU time and drops for the same traffic, ring and snapshot length.
//!
//! Both capture the same kind of burst from loopback, alternating, and write to /dev/null. The agent makes its summary
//! meanwhile. The goal: no more drops, and at most twice the CPU time. Root only.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a bench: it starts programs and prints")]

use std::fs::{self, File};
use std::io::Read as _;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_agent");
const PORT: u16 = 47_823;
const PACKETS: u64 = 300_000;
const FLOWS: u16 = 50;
const ROUNDS: usize = 5;

/// CPU time of all children that have ended.
fn cpu_of_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    let time = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec().unsigned_abs(), time.tv_usec().unsigned_abs() as u32 * 1000)
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// Waits until `child` has a ring.
fn wait_for_ring(child: &Child) {
    let maps = format!("/proc/{}/maps", child.id());
    let until = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("socket:[")) {
        assert!(Instant::now() < until, "no packet socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(700));
}

/// Sends the burst, at about `rate` packets a second.
fn burst(sockets: &[UdpSocket], rate: u64) {
    let began = Instant::now();
    for number in 0..PACKETS {
        let _ = sockets[(number % u64::from(FLOWS)) as usize].send_to(&[7; 300], ("127.0.0.1", PORT));
        if number % 64 == 0 {
            let due = Duration::from_nanos(number * 1_000_000_000 / rate);
            while began.elapsed() < due {
                std::hint::spin_loop();
            }
        }
    }
}

/// CPU time and the dropped packets of one capture of the burst.
fn measure(command: &mut Command, rate: u64, dropped: impl Fn(&str) -> u64) -> (Duration, u64) {
    let sockets: Vec<UdpSocket> = (0..FLOWS).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a socket")).collect();
    let before = cpu_of_children();
    let mut child = command.stderr(Stdio::piped()).spawn().expect("a capture");
    wait_for_ring(&child);
    burst(&sockets, rate);
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("SIGINT");
    let mut text = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut text).expect("standard error");
    child.wait().expect("wait");
    (cpu_of_children() - before, dropped(&text))
}

fn median<T: Ord + Copy>(mut all: Vec<T>) -> T {
    all.sort_unstable();
    all[all.len() / 2]
}

fn main() {
    if !nix::unistd::geteuid().is_root() || Command::new("tcpdump").arg("--version").output().is_err() {
        println!("SKIP capture: needs root and tcpdump");
        return;
    }
    // Nobody reads: the packets end here, without ICMP.
    let _sink = UdpSocket::bind(("127.0.0.1", PORT)).expect("the port");
    let filter = format!("udp port {PORT}");
    println!("{PACKETS} packets of {FLOWS} flows on loopback, ring 4 MiB, snapshot 2048, median of {ROUNDS}");
    println!(
        "{:>10} {:>12} {:>12} {:>12} {:>12} {:>8}",
        "packets/s", "agent CPU", "tcpdump CPU", "agent lost", "tcpdump lost", "CPU"
    );
    for rate in [50_000, 100_000, 200_000] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let null = || File::options().write(true).open("/dev/null").expect("/dev/null");
            let mut agent = Command::new(AGENT);
            agent.args([
                "capture",
                "-i",
                "lo",
                "--for",
                "60s",
                "--max-bytes",
                "2G",
                "-o",
                "pcapng",
                "--filter",
                &filter,
            ]);
            ours.push(measure(agent.stdout(null()), rate, |text| {
                // Beside it stand the records of the audit.
                let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let envelope = lines.into_iter().find(|line| line["schema"].is_string()).expect("an envelope");
                let summary = &envelope["data"]["summary"];
                PACKETS.saturating_sub(summary["packets"].as_u64().expect("packets"))
            }));
            let mut tcpdump = Command::new("tcpdump");
            tcpdump.args(["-i", "lo", "-n", "-Z", "root", "-s", "2048", "-B", "4096", "-w", "/dev/null", &filter]);
            theirs.push(measure(&mut tcpdump, rate, |text| {
                let line = text.lines().find(|line| line.ends_with("packets captured")).expect("a count");
                let seen = line.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
                PACKETS.saturating_sub(seen)
            }));
        }
        let (our_cpu, their_cpu) =
            (median(ours.iter().map(|m| m.0).collect()), median(theirs.iter().map(|m| m.0).collect()));
        let (our_lost, their_lost) =
            (median(ours.iter().map(|m| m.1).collect()), median(theirs.iter().map(|m| m.1).collect()));
        println!(
            "{rate:>10} {our_cpu:>12.1?} {their_cpu:>12.1?} {our_lost:>12} {their_lost:>12} {:>7.2}x",
            our_cpu.as_secs_f64() / their_cpu.as_secs_f64()
        );
    }
}
