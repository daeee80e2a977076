//! What can a container reach? Prints as JSON what the emulator's test compares with the measured facts.
//!
//! - `probe` asks as it was started, about PID 1 or the process after `--pid`; with `--raise` it first makes its
//!   permitted capabilities effective; with `--become` it also takes the target's group and user
//! - `probe target [--undumpable]` is something to look at: it says `ready` and sleeps
//! - `probe cat FILE…`, `probe echo` (its input), `probe exit STATUS`, `probe tty`, `probe eat MIB`, `probe threads N`,
//!   `probe log N` do one thing that shows what kind of container this is

// A test program: it prints, and it opens what the agent opens through its own floor.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::fs::{self, File};
use std::io::{self, IoSliceMut, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use nix::sys::uio::RemoteIoVec;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::process::{DumpableBehavior, PidfdFlags, PidfdGetfdFlags};
use rustix::thread::LinkNameSpaceType;
use serde_json::{Map, Value, json};

/// The files and links of `/proc/PID` that the facts call "proc", and those that everybody may read.
const FILES: [&str; 14] = [
    "maps",
    "smaps",
    "environ",
    "auxv",
    "io",
    "syscall",
    "stack",
    "status",
    "stat",
    "cmdline",
    "cgroup",
    "mountinfo",
    "net/tcp",
    "limits",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let number = || arguments.get(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    match arguments.first().map(String::as_str) {
        Some("target") => be_a_target(has("--undumpable")),
        Some("cat") => arguments[1..].iter().for_each(|file| cat(file)),
        Some("echo") => drop(io::copy(&mut io::stdin(), &mut io::stdout())),
        Some("exit") => return ExitCode::from(number() as u8),
        Some("tty") => println!("{}", io::stdout().is_terminal()),
        Some("eat") => eat(number()),
        Some("threads") => threads(number()),
        Some("log") => fs::write("/dev/termination-log", numbers(number())).expect("the log can be written"),
        _ => report(&arguments),
    }
    ExitCode::SUCCESS
}

fn report(arguments: &[String]) {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let position = arguments.iter().position(|argument| argument == "--pid");
    let pid = position.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(1);
    let prepared = match (has("--raise"), has("--become")) {
        (_, true) => raise().and_then(|()| take_ids(pid)).and_then(|()| raise()),
        (true, false) => raise(),
        (false, false) => Ok(()),
    };
    let report = json!({
        "prepared": verdict(prepared.map_err(io::Error::from)),
        "self": identity(),
        "pid1": {"comm": fs::read_to_string("/proc/1/comm").unwrap_or_default().trim_end()},
        "proc": proc_files(pid),
        "writes": writes(),
        "calls": calls(pid),
    });
    println!("{report}");
}

fn cat(file: &str) {
    match fs::read_to_string(file) {
        Ok(text) => print!("{text}"),
        Err(error) => println!("{file}: {error}"),
    }
}

/// `1 2 3 …`
fn numbers(count: usize) -> String {
    (1..=count).map(|number| format!("{number} ")).collect()
}

/// Touches so much memory, 1 MiB at a time.
fn eat(mebibytes: usize) {
    let eaten: Vec<Vec<u8>> = (0..mebibytes).map(|_| vec![1; 1 << 20]).collect();
    println!("ate {} MiB", std::hint::black_box(&eaten).len());
}

/// Starts threads until there are so many or one cannot be started.
fn threads(wanted: usize) {
    let sleep = || std::thread::Builder::new().spawn(|| std::thread::sleep(Duration::from_secs(60)));
    let started = (0..wanted).take_while(|_| sleep().is_ok()).count();
    println!("{started}");
}

fn be_a_target(undumpable: bool) -> ! {
    if undumpable {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).expect("PR_SET_DUMPABLE always works");
    }
    println!("ready");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// `ok`, or the name of the errno.
fn verdict<T>(result: io::Result<T>) -> Value {
    match result {
        Ok(_) => json!("ok"),
        Err(error) => match error.raw_os_error() {
            Some(number) => json!(format!("{:?}", nix::errno::Errno::from_raw(number))),
            None => json!(error.to_string()),
        },
    }
}

/// Makes every permitted capability effective.
fn raise() -> rustix::io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets)
}

/// Takes the target's group and user and keeps the permitted capabilities.
fn take_ids(pid: i32) -> rustix::io::Result<()> {
    let uid = rustix::process::Uid::from_raw(id_of(pid, "Uid:"));
    let gid = rustix::process::Gid::from_raw(id_of(pid, "Gid:"));
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn id_of(pid: i32, key: &str) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|id| id.parse().ok()).unwrap_or(u32::MAX)
}

fn identity() -> Value {
    const KEYS: [&str; 9] = ["Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut fields = Map::new();
    for line in status.lines() {
        if let Some((key, value)) = line.split_once(':').filter(|(key, _)| KEYS.contains(key)) {
            let value = value.split_whitespace().next().unwrap_or_default();
            let value = if key.starts_with("Cap") { value.trim_start_matches('0') } else { value };
            fields.insert(key.to_owned(), json!(value));
        }
    }
    fields.insert("pid".to_owned(), json!(std::process::id()));
    Value::Object(fields)
}

fn proc_files(pid: i32) -> Value {
    let mut files = Map::new();
    for name in FILES {
        let mut first = [0; 64];
        let read = File::open(format!("/proc/{pid}/{name}")).and_then(|mut file| file.read(&mut first));
        files.insert(name.to_owned(), verdict(read));
    }
    for name in ["exe", "cwd"] {
        files.insert(name.to_owned(), verdict(fs::read_link(format!("/proc/{pid}/{name}"))));
    }
    files.insert("fd".to_owned(), verdict(fs::read_dir(format!("/proc/{pid}/fd"))));
    files.insert("fd/1".to_owned(), verdict(fs::read_link(format!("/proc/{pid}/fd/1"))));
    files.insert("root".to_owned(), verdict(fs::read_dir(format!("/proc/{pid}/root/"))));
    files.insert("mem".to_owned(), verdict(read_mem(pid)));
    Value::Object(files)
}

/// The start of the target's first mapping, its own program; any page where maps cannot be read.
fn first_address(pid: i32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.split_once('-').and_then(|(start, _)| u64::from_str_radix(start, 16).ok()).unwrap_or(0x1000)
}

fn read_mem(pid: i32) -> io::Result<()> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    memory.read_exact_at(&mut [0; 16], first_address(pid))
}

fn calls(pid: i32) -> Value {
    let address = first_address(pid);
    // setns last: when it succeeds, /proc is another one.
    json!({
        "ptrace": verdict(seize(pid)),
        "process_vm_readv": verdict(process_vm_readv(pid, address)),
        "pidfd_open": verdict(pidfd(pid)),
        "pidfd_getfd": verdict(pidfd(pid).and_then(|fd| {
            Ok(rustix::process::pidfd_getfd(fd, 0, PidfdGetfdFlags::empty())?)
        })),
        "af_packet": verdict(nix::sys::socket::socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        ).map_err(io::Error::from)),
        "sock_diag": verdict(sock_diag()),
        "perf_event_open": verdict(
            perf_event::Builder::new().kind(perf_event::events::Software::TASK_CLOCK).observe_pid(pid).build()
        ),
        "setns": verdict(setns(pid)),
    })
}

/// Attaches without stopping, then stops and lets go, so that the target is as before.
fn seize(pid: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid);
    ptrace::seize(pid, ptrace::Options::empty())?;
    ptrace::interrupt(pid)?;
    waitpid(pid, Some(WaitPidFlag::__WALL))?;
    Ok(ptrace::detach(pid, None)?)
}

fn process_vm_readv(pid: i32, address: u64) -> io::Result<usize> {
    let mut bytes = [0; 16];
    let remote = RemoteIoVec { base: address as usize, len: bytes.len() };
    Ok(nix::sys::uio::process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(&mut bytes)], &[remote])?)
}

fn pidfd(pid: i32) -> io::Result<std::os::fd::OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Dumps the TCP sockets of the network namespace (sock_diag(7)).
fn sock_diag() -> io::Result<()> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST_DUMP: u16 = 0x301;
    const NLMSG_ERROR: u16 = 2;
    const REQUEST: u32 = 72;
    let protocol = SockProtocol::NetlinkSockDiag;
    let socket =
        nix::sys::socket::socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    let mut request = [REQUEST.to_ne_bytes().as_slice(), &SOCK_DIAG_BY_FAMILY.to_ne_bytes()].concat();
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.resize(16, 0);
    // struct inet_diag_req_v2: AF_INET, IPPROTO_TCP, no extensions, all states.
    request.extend_from_slice(&[2, 6, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    request.resize(REQUEST as usize, 0);
    nix::sys::socket::send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0; 8192];
    nix::sys::socket::recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    if u16::from_ne_bytes([answer[4], answer[5]]) == NLMSG_ERROR {
        let negative = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        return Err(io::Error::from_raw_os_error(-negative));
    }
    Ok(())
}

fn setns(pid: i32) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?)
}

/// Where the agent leaves its results: the termination log, and the shared memory of the pod.
fn writes() -> Value {
    let shared = format!("/dev/shm/probe-{}-{}", std::process::id(), rustix::process::getuid().as_raw());
    let written = File::create(&shared);
    let _ = fs::remove_file(&shared);
    let log = File::options().write(true).open("/dev/termination-log");
    json!({
        "termination_log": verdict(log.and_then(|mut log| log.write_all(b"probed"))),
        "dev_shm": verdict(written),
        "root": verdict(File::create("/probe")),
    })
}
