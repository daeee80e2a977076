//! The agent beside the classic tools, in one run: `cargo bench --bench peers`.
//!
//! Each pair runs alternately, output discarded for both, and the medians are compared. Only the ratios carry over to
//! another machine. The floor is what the bare system calls of the same work cost in this process.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a bench: it runs programs and prints")]

use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// Address families of sock_diag(7).
const INET: u8 = 2;
const INET6: u8 = 10;

/// Pairs of runs.
const PAIRS: usize = 7;

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("agent binary: {} KiB", fs::metadata(AGENT).map_or(0, |file| file.len() / 1024));
    println!();
    println!("{:<44} {:>10} {:>10} {:>10} {:>7} {:>9}", "work", "agent", "peer", "floor", "ratio", "peak RSS");
    start();
    processes();
    descriptors();
    mappings();
    connections();
}

/// From the start to the first byte of JSON, beside a static program that writes one byte.
fn start() {
    let source = "#include <unistd.h>\nint main(void) { return write(1, \"{\", 1) != 1; }\n";
    let peer = agent_targets::compile(source, &["-static", "-O2"]);
    let first_byte = |program: &Path, arguments: &[&str]| {
        let begin = Instant::now();
        let mut child =
            Command::new(program).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
        child.stdout.take().expect("piped").read_exact(&mut [0]).expect("a byte");
        let took = begin.elapsed();
        let _ = child.wait();
        took
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        ours.push(first_byte(Path::new(AGENT), &["version", "-o", "json"]));
        theirs.push(first_byte(&peer, &[]));
    }
    row("start to first byte: agent version | static C", (median(ours), median(theirs), None), &["version"]);
}

fn processes() {
    let source = "#include <stdio.h>\n#include <stdlib.h>\n#include <sys/prctl.h>\n#include <unistd.h>\n\
        int main(int c, char **v) { (void)c; for (int n = atoi(v[1]); n > 0; n--) if (fork() == 0) {\n\
        prctl(PR_SET_PDEATHSIG, 9); for (;;) pause(); }\n\
        puts(\"\\\"ready\\\"\"); fflush(stdout); getchar(); }\n";
    let _many = ready(Command::new(agent_targets::compile(source, &["-O2"])).arg("2000"));
    let mut peer = Command::new("ps");
    peer.args(["-eo", "pid,ppid,uid,gid,stat,nlwp,cputime,rss,lstart,comm,args"]);
    compare(
        "2,000 processes: agent ps | ps -eo",
        &["ps"],
        &mut peer,
        Some(&mut || {
            for pid in numbers("/proc") {
                for file in ["stat", "status", "cmdline"] {
                    let _ = fs::read(format!("/proc/{pid}/{file}"));
                }
            }
        }),
    );
}

fn descriptors() {
    let source = "#include <fcntl.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <sys/resource.h>\n\
        int main(int c, char **v) { (void)c; struct rlimit all; getrlimit(RLIMIT_NOFILE, &all);\n\
        all.rlim_cur = all.rlim_max; setrlimit(RLIMIT_NOFILE, &all);\n\
        for (int n = atoi(v[1]); n > 0; n--) if (open(\"/dev/null\", O_RDONLY) < 0) break;\n\
        puts(\"\\\"ready\\\"\"); fflush(stdout); getchar(); }\n";
    let many = ready(Command::new(agent_targets::compile(source, &["-O2"])).arg("19900"));
    let pid = many.0.id().to_string();
    let mut peer = Command::new("lsof");
    peer.args(["-nPw", "-p", &pid]);
    let directory = format!("/proc/{pid}/fd");
    compare(
        "19,900 descriptors: agent fds | lsof",
        &["fds", "--pid", &pid],
        &mut peer,
        Some(&mut || {
            for fd in numbers(&directory) {
                let _ = fs::read_link(format!("{directory}/{fd}"));
            }
        }),
    );
}

fn mappings() {
    let source = "#include <stdio.h>\n#include <stdlib.h>\n#include <sys/mman.h>\n\
        int main(int c, char **v) { (void)c; for (int n = atoi(v[1]); n > 0; n--) {\n\
        char *at = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n\
        if (at == MAP_FAILED) break;\n at[0] = 1; mprotect(at + 4096, 4096, PROT_NONE); }\n\
        puts(\"\\\"ready\\\"\"); fflush(stdout); getchar(); }\n";
    let many = ready(Command::new(agent_targets::compile(source, &["-O2"])).arg("2500"));
    let pid = many.0.id().to_string();
    let mut peer = Command::new("pmap");
    peer.args(["-X", &pid]);
    let smaps = format!("/proc/{pid}/smaps");
    compare(
        "5,000 mappings: agent maps | pmap -X",
        &["maps", "--pid", &pid],
        &mut peer,
        Some(&mut || {
            let _ = fs::read(&smaps);
        }),
    );
}

fn connections() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut held = Vec::new();
    for _ in 0..9_000 {
        let Ok(one) = TcpStream::connect(address) else { break };
        let Ok((other, _)) = listener.accept() else { break };
        held.push((one, other));
    }
    let mut peer = Command::new("ss");
    peer.arg("-tanp");
    let name = format!("{} TCP sockets: agent sockets | ss -tanp", held.len() * 2);
    compare(
        &name,
        &["sockets", "--protocol", "tcp"],
        &mut peer,
        Some(&mut || {
            [INET, INET6].into_iter().for_each(dump);
            for pid in numbers("/proc") {
                let directory = format!("/proc/{pid}/fd");
                for fd in fs::read_dir(&directory).into_iter().flatten().flatten() {
                    let _ = fs::read_link(fd.path());
                }
            }
        }),
    );
}

/// Asks sock_diag(7) for all TCP sockets of `family` with their `tcp_info`, and reads the answer.
fn dump(family: u8) {
    let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC);
    let diag = socket(kind.0, kind.1, kind.2, SockProtocol::NetlinkSockDiag).expect("a socket");
    // struct nlmsghdr: SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP. struct inet_diag_req_v2: IPPROTO_TCP, INET_DIAG_INFO,
    // all states, any sockets.
    let mut request = Vec::new();
    request.extend(72_u32.to_ne_bytes());
    request.extend(20_u16.to_ne_bytes());
    request.extend(0x301_u16.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, 6, 1 << 1, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.resize(72, 0);
    send(diag.as_raw_fd(), &request, MsgFlags::empty()).expect("sent");
    // The kernel makes the next part as one is taken, so when none is there it was the last.
    let mut answer = vec![0; 32 << 10];
    while recv(diag.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).is_ok() {}
}

/// A program that has printed `"ready"`; it ends with its standard input.
struct Target(Child);

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ready(command: &mut Command) -> Target {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a target");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "\"ready\"");
    Target(child)
}

fn numbers(directory: &str) -> Vec<u32> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn compare(name: &str, arguments: &[&str], peer: &mut Command, floor: Option<&mut dyn FnMut()>) {
    let mut agent = Command::new(AGENT);
    agent.args(arguments);
    let (mut ours, mut theirs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let mut floor = floor;
    for _ in 0..PAIRS {
        ours.push(time(|| run(&mut agent)));
        if peer_exists(peer) {
            theirs.push(time(|| run(peer)));
        }
        if let Some(floor) = &mut floor {
            bare.push(time(floor));
        }
    }
    row(name, (median(ours), median(theirs), median(bare)), arguments);
}

/// A line of the table: the medians of the agent, the peer and the floor.
fn row(name: &str, (ours, theirs, bare): (Option<Duration>, Option<Duration>, Option<Duration>), arguments: &[&str]) {
    let show =
        |time: Option<Duration>| time.map_or("-".to_owned(), |time| format!("{:.2} ms", time.as_secs_f64() * 1e3));
    let ratio = ours.zip(theirs).map_or("-".to_owned(), |(a, b)| format!("{:.2}", a.as_secs_f64() / b.as_secs_f64()));
    println!(
        "{name:<44} {:>10} {:>10} {:>10} {ratio:>7} {:>5} KiB",
        show(ours),
        show(theirs),
        show(bare),
        peak_rss(arguments)
    );
}

fn peer_exists(peer: &Command) -> bool {
    let program = Path::new(peer.get_program());
    program.is_absolute()
        || std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|at| at.join(program).is_file())
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.expect("a program that starts");
    // 3: the agent has printed, with gaps; 1: lsof warns.
    let ended = matches!(output.status.code(), Some(0 | 1 | 3));
    assert!(ended, "{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

fn time(mut work: impl FnMut()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// What the agent says of its own peak, in KiB.
fn peak_rss(arguments: &[&str]) -> String {
    let output = Command::new(AGENT).args(arguments).output().expect("the agent");
    let envelope: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    envelope["cost"]["peak_rss_kib"].to_string()
}
