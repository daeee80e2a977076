//! What all end-to-end tests share: running the agent, holding a target, and waiting for conditions.
//!
//! Every JSON answer that goes through here is checked against `agent schema`.
#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

pub(crate) mod namespace;
pub(crate) mod packages;
pub(crate) mod recording;
pub(crate) mod servers;
pub(crate) mod strace;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

/// The agent under test.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// How long a condition may take that should come at once: long, for a machine where other tests run too.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What a command printed.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its exit status; -1 if a signal ended it.
    pub(crate) status: i32,
    /// All of its standard output.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error, which the agent keeps printable, without the audit.
    pub(crate) stderr: String,
    /// The records of the audit on its standard error.
    pub(crate) audit: String,
}

/// Standard error of the agent, parted into what it says and the records of the audit.
pub(crate) fn part(stderr: &str) -> (String, String) {
    let is_record = |line: &&str| line.starts_with("{\"data\":") && line.contains("\"prev\":\"");
    let (records, words): (Vec<&str>, Vec<&str>) = stderr.split_inclusive('\n').partition(is_record);
    (words.concat(), records.concat())
}

impl Answer {
    /// Runs `command` to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output();
        output.unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
    }

    /// Standard output as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("standard output is UTF-8")
    }

    /// The one envelope on standard output, checked against its schema. The agent may have ended with gaps.
    pub(crate) fn json(&self) -> Value {
        assert!(matches!(self.status, 0 | 3), "exit status {}: {}", self.status, self.stderr);
        let value: Value = serde_json::from_slice(&self.stdout).expect("standard output is one JSON value");
        assert_valid(&value);
        value
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let (stderr, audit) = part(&String::from_utf8(output.stderr).expect("standard error is UTF-8"));
        Self { status: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr, audit }
    }
}

/// The agent, without the environment that would change what it prints.
pub(crate) fn agent() -> Command {
    plain(AGENT)
}

fn plain(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    let names = ["OUTPUT", "SESSION_ID", "INCIDENT", "ACTOR", "TIMEOUT", "TRACEPARENT"];
    for name in names {
        command.env_remove(format!("AGENT_{name}"));
    }
    command.env_remove("TRACEPARENT");
    command
}

/// Runs the agent with `args`.
pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Answer {
    Answer::of(agent().args(args))
}

/// The envelope that the agent prints for `args`, checked against its schema; it must end with 0 or 3.
pub(crate) fn json<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Value {
    run(args).json()
}

/// The agent where every user may start it: the build directory may be closed to others.
pub(crate) struct Installed {
    directory: tempfile::TempDir,
}

impl Installed {
    /// Copies the agent.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Not by this process: a thread that forks meanwhile would keep the copy open for writing (ETXTBSY).
        let copied = Command::new("cp").arg(AGENT).arg(directory.path()).status().expect("cp");
        assert!(copied.success());
        let open = Command::new("chmod").arg("-R").arg("a+rX").arg(directory.path()).status().expect("chmod");
        assert!(open.success());
        Self { directory }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    /// It, started as `uid` and `gid` without other groups and thereby without capabilities. Only root can do that.
    pub(crate) fn as_user(&self, uid: u32, gid: u32) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = plain(self.path());
        // The standard library also drops the supplementary groups when root sets a uid.
        command.uid(uid).gid(gid);
        command
    }
}

/// Whether this process is root in the file system and for setuid.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `agent schema` of `command`, as a validator.
fn validator(command: &str) -> Arc<jsonschema::Validator> {
    static KNOWN: LazyLock<Mutex<BTreeMap<String, Arc<jsonschema::Validator>>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let make = || {
        let answer = run(["schema", command]);
        assert_eq!(answer.status, 0, "agent schema {command}: {}", answer.stderr);
        let schema: Value = serde_json::from_slice(&answer.stdout).expect("a schema is JSON");
        Arc::new(jsonschema::validator_for(&schema).expect("a schema that is one"))
    };
    Arc::clone(known.entry(command.to_owned()).or_insert_with(make))
}

/// Checks an envelope against the schema of the command that it names.
pub(crate) fn assert_valid(envelope: &Value) {
    let name = envelope["schema"].as_str().expect("an envelope names its schema");
    let command = name.strip_prefix("agent.").and_then(|name| name.split('/').next()).expect("agent.NAME/VERSION");
    let errors: Vec<String> = validator(command)
        .iter_errors(envelope)
        .take(5)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {}", errors.join("\n"));
}

/// The members of `data.rows`.
pub(crate) fn rows(envelope: &Value) -> &[Value] {
    envelope["data"]["rows"].as_array().expect("data.rows")
}

/// Each of `one` with its like of `other`: there are as many.
pub(crate) fn pairs<'a, A, B>(one: &'a [A], other: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    assert_eq!(one.len(), other.len(), "so many are to be compared with so many");
    one.iter().zip(other)
}

/// The row whose `key` is `value`; panics if there is none, or more than one.
pub(crate) fn row<'a>(envelope: &'a Value, key: &str, value: impl Into<Value>) -> &'a Value {
    let value = value.into();
    let mut found = rows(envelope).iter().filter(|row| row[key] == value);
    let first = found.next().unwrap_or_else(|| panic!("no row with {key} {value}"));
    assert!(found.next().is_none(), "two rows with {key} {value}");
    first
}

/// The gaps whose place begins with `prefix`.
pub(crate) fn gaps_at<'a>(envelope: &'a Value, prefix: &str) -> Vec<&'a Value> {
    let gaps = envelope["gaps"].as_array().expect("gaps");
    gaps.iter().filter(|gap| gap["at"].as_str().is_some_and(|at| at.starts_with(prefix))).collect()
}

/// The bytes that a text of the agent stands for.
pub(crate) fn bytes(text: &Value) -> Vec<u8> {
    agent_model::text::unescape(text.as_str().unwrap_or_else(|| panic!("{text} is no string")))
}

/// The bytes that a target's truth gives in hex, since JSON cannot hold them as they are.
pub(crate) fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap_or_else(|| panic!("{text} is no string"));
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
}

/// Says that a test did not run: on standard error, past the harness, which keeps what a passing test prints to
/// itself, and in the file that `AGENT_SKIP_LOG` names.
pub(crate) fn skip(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}\n");
    io::stderr().write_all(line.as_bytes()).expect("standard error");
    if let Some(path) = std::env::var_os("AGENT_SKIP_LOG") {
        let mut log = fs::OpenOptions::new().append(true).create(true).open(&path).expect("AGENT_SKIP_LOG");
        log.write_all(line.as_bytes()).expect("AGENT_SKIP_LOG");
    }
}

/// Whether the program `name` is on PATH.
pub(crate) fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// Waits until `condition` gives a value; panics with `what` when it has not after `timeout`.
pub(crate) fn wait_for<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + timeout;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited {timeout:?} for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `condition` holds; panics with `what` when it does not after `timeout`.
pub(crate) fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, timeout, || condition().then_some(()));
}

/// The state letter of a process or thread, from the `stat` file in `directory`; `None` when it is gone.
pub(crate) fn state_in(directory: &Path) -> Option<char> {
    let stat = fs::read(directory.join("stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).map(|byte| char::from(*byte))
}

/// The state letter of `pid`.
pub(crate) fn state(pid: u32) -> Option<char> {
    state_in(Path::new(&format!("/proc/{pid}")))
}

/// The thread IDs of `pid`, sorted.
pub(crate) fn threads(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut tids: Vec<u32> = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
    tids.sort_unstable();
    tids
}

/// The processes in the pid namespace of `pid`: their numbers in it, and ours.
pub(crate) fn beside(pid: u32) -> Vec<(u64, u32)> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(pid);
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let numbers = entries.filter_map(|entry| {
        let outer: u32 = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let inner = numbers.split_whitespace().last()?.parse().ok()?;
        (namespace(outer).is_some() && namespace(outer) == own).then_some((inner, outer))
    });
    numbers.collect()
}

/// Sends SIGSTOP to `pid` and waits until each of its threads has stopped.
pub(crate) fn stop(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    let stopped = |tid: &u32| {
        let state = state_in(Path::new(&format!("/proc/{pid}/task/{tid}")));
        matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
    };
    wait_until(&format!("{pid} to stop"), SOON, || threads(pid).iter().all(stopped));
}

/// Sends SIGCONT to `pid` and waits until none of its threads is stopped.
pub(crate) fn cont(pid: u32) {
    signal(pid, Signal::SIGCONT);
    let stopped = |tid: &u32| state_in(Path::new(&format!("/proc/{pid}/task/{tid}"))) == Some('T');
    wait_until(&format!("{pid} to go on"), SOON, || !threads(pid).iter().any(stopped));
}

/// Sends a signal to `pid`, which must be there.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
}

/// A program that is ended and reaped when this is dropped, whatever state it is in.
///
/// A program of tests/targets states its truth on standard output: one JSON object a line, and `"ready"` when it is
/// as it said. It ends when its standard input is closed.
#[derive(Debug)]
pub(crate) struct Child {
    child: std::process::Child,
    lines: Receiver<String>,
    /// The lines before `"ready"`.
    pub(crate) truth: Vec<Value>,
    /// Where it makes its files; removed after it has ended.
    directory: Option<tempfile::TempDir>,
}

impl Child {
    /// Starts the program of tests/targets called `name`, built with `flags`, and waits until it is ready.
    pub(crate) fn target<S: AsRef<OsStr>>(name: &str, flags: &[&str], args: impl IntoIterator<Item = S>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(agent_targets::build(name, flags));
        let mut child = Self::ready(command.args(args).env("TMPDIR", directory.path()));
        child.directory = Some(directory);
        child
    }

    /// Starts a program that states its truth, and waits until it is ready.
    pub(crate) fn ready(command: &mut Command) -> Self {
        let mut child = Self::start(command);
        child.truth = child.answer();
        child
    }

    /// Starts any program; its standard output is read line by line with [`Child::line`].
    pub(crate) fn start(command: &mut Command) -> Self {
        let spawned = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().expect("piped");
        let (send, lines) = mpsc::channel();
        // Ends with the program, or when nobody listens any more.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, truth: Vec::new(), directory: None }
    }

    /// Its process ID.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(SOON) {
            Ok(line) => line,
            Err(error) => panic!("no line from {}: {error}; it ended with {:?}", self.pid(), self.child.try_wait()),
        }
    }

    /// The JSON values that it prints before the next `"ready"`.
    pub(crate) fn answer(&mut self) -> Vec<Value> {
        let mut values = Vec::new();
        loop {
            let line = self.line();
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
            match value.as_str() {
                Some("ready") => return values,
                _ => values.push(value),
            }
        }
    }

    /// Writes a line to its standard input.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("standard input is open");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("standard input of a target");
    }

    /// The one line of its truth in which `key` is `value`.
    pub(crate) fn said(&self, key: &str, value: impl Into<Value>) -> &Value {
        let value = value.into();
        let mut found = self.truth.iter().filter(|line| line[key] == value);
        let first = found.next().unwrap_or_else(|| panic!("no truth with {key} {value}"));
        assert!(found.next().is_none(), "two truths with {key} {value}");
        first
    }

    /// Closes its standard input and waits for its end.
    pub(crate) fn end(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        wait_for("the end of a target", SOON, || self.child.try_wait().expect("wait"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SIGKILL also ends a stopped process. With it goes its group: the workers of a server outlive a killed master.
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compiles a C program with `flags`, and returns where it is; the same text is compiled once.
pub(crate) fn compile_c(source: &str, flags: &[&str]) -> PathBuf {
    agent_targets::compile(source, flags)
}

/// All that is left to read.
pub(crate) fn drain(mut reader: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    reader.read_to_end(&mut all).expect("reads");
    all
}
