//! `stacks`: what each thread does, and where it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use agent_model::{Gap, Gathered, Hex, Listing, Noted, Reason, Text};
use agent_system::memory::Memory;
use agent_system::parse::{self, Call, Doing};
use agent_system::{Capability, Collector, Directory, Failure, Process, Run};
use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use syscalls::Sysno;

use crate::code::CodeMap;
use crate::look::{Looker, Method, Seen, StopPolicy};
use crate::unwind::{EndReason, Unwound};

/// The collector of stacks.
pub struct Stacks;

/// When a thread of the target may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Stop {
    /// Never: a running thread then has no stack
    Never,
    /// A running thread, or one whose stack cannot be read otherwise
    Auto,
}

/// Options of `stacks`.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub struct Options {
    /// When a thread may be held for a moment
    #[arg(long, value_enum, default_value_t = Stop::Auto)]
    stop: Stop,
    /// List each thread by itself, also those with equal stacks
    #[arg(long)]
    flat: bool,
    /// Only this thread
    #[arg(long, value_name = "TID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u32>,
    /// The most frames of one stack
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_frames: u32,
}

/// Threads that do the same thing at the same place.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Row {
    /// How many threads.
    #[schemars(extend("x-column" = "COUNT"))]
    pub count: u64,
    /// `running`, `sleeping`, `disk_sleep`, `stopped`, …: as in `ps`.
    #[schemars(extend("x-column" = "STATE"))]
    pub state: &'static str,
    /// The system call that they wait in; absent outside of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SYSTEM CALL"))]
    pub system_call: Option<Text>,
    /// The threads, by thread ID.
    #[schemars(extend("x-column" = "THREADS"))]
    pub threads: Vec<Thread>,
    /// How the stack was read: `no_stop`, `stopped`, or `syscall_only`, without any.
    #[schemars(extend("x-column" = "METHOD"))]
    pub method: &'static str,
    /// Whether it reaches the outermost frame, with no frame guessed.
    #[schemars(extend("x-column" = "COMPLETE"))]
    pub complete: bool,
    /// Why there are no more frames: `root`, `truncated`, `needs_register`,
    /// `no_unwind_info`, `malformed_unwind_info`, `not_code`, `unreadable_stack`,
    /// `no_progress`; absent without a stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<&'static str>,
    /// The frames, innermost first.
    #[schemars(extend("x-lines" = true))]
    pub frames: Vec<Frame>,
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Thread {
    /// Thread ID.
    #[schemars(extend("x-column" = "TID"))]
    pub tid: u32,
    /// Its name (`comm`).
    #[schemars(extend("x-column" = "NAME"))]
    pub name: Text,
    /// The arguments of the system call, as its six registers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<[Hex; 6]>,
    /// The kernel function that it sleeps in (`wchan`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_channel: Option<Text>,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Frame {
    /// The address in the process (AVMA): of the instruction that is next, or of
    /// that behind the call.
    #[schemars(extend("x-column" = "ADDRESS"))]
    pub address: Hex,
    /// The function, demangled; absent where it has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "FUNCTION"))]
    pub function: Option<Text>,
    /// How far into the function the address is, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_offset: Option<Hex>,
    /// The module that the code is of; absent for code that a runtime has made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "MODULE"))]
    pub module: Option<Text>,
    /// The address as linked (SVMA): with the build ID this is enough to find its
    /// line later, elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<Hex>,
    /// The module's build ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// `pc` for the innermost frame and one that a signal interrupted, `signal` for
    /// the frame of a signal, else `return_address`.
    pub kind: &'static str,
    /// How it was found: `registers`, `call_frame_info` (exact), `frame_pointer` (a
    /// guess that fits), …
    pub found_by: &'static str,
}

/// Totals over the threads.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// Threads seen.
    pub threads: u64,
    /// Threads with a complete stack.
    pub complete: u64,
    /// Threads by how their stack was read.
    pub methods: BTreeMap<&'static str, u64>,
    /// Threads by the system call that they wait in.
    pub system_calls: BTreeMap<String, u64>,
}

impl Collector for Stacks {
    const NAME: &'static str = "stacks";
    const ABOUT: &'static str = "What each thread does and where it is, without stopping it where possible";
    const MANUAL: &'static str = "\
A thread that is blocked in a system call is read without a stop. A running one is held
for some tens of microseconds, unless --stop=never; what that cost stands in
cost.target_stopped_us. Threads with equal stacks are one row, those with the most
threads first, then by thread ID.

  agent stacks                       what is everybody waiting for
  agent stacks --stop never          without holding any thread";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    type Options = Options;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let process = run.target_process()?;
        let mut gaps = Vec::new();
        let rows = match (Dump { run, process: &process, options, gaps: &mut gaps }).rows() {
            Ok(rows) => rows,
            Err(failure) if failure.is_exited() => return Err(failure),
            Err(failure) => {
                gaps.push(run.gap("/rows", &failure));
                Vec::new()
            }
        };
        let rows = if options.flat { rows } else { grouped(rows) };
        Ok(Gathered::rows(rows, gaps, summarize))
    }
}

/// What is needed to unwind and to name.
struct Inside<'r> {
    memory: Arc<Memory<'r>>,
    code: CodeMap<'r>,
}

struct Dump<'a, 'r> {
    run: &'a Run,
    process: &'a Process<'r>,
    options: &'a Options,
    gaps: &'a mut Vec<Gap>,
}

impl<'r> Dump<'_, 'r> {
    /// A row a thread, by thread ID.
    fn rows(&mut self) -> Result<Vec<Noted<Row>>, Failure> {
        let mut tids = self.process.threads()?;
        if let Some(only) = self.options.tid {
            tids.retain(|tid| *tid == only);
            if tids.is_empty() {
                let detail = format!("thread {only} is not one of the target's");
                self.gaps.push(Gap::new("/rows", Reason::NotFound).detail(detail));
            }
        }
        let mut inside = match self.inside() {
            Ok(inside) => Some(inside),
            Err(failure) => {
                self.gaps.push(self.run.gap("/rows/-/frames", &failure));
                None
            }
        };
        let mut rows = Vec::with_capacity(tids.len());
        for (done, tid) in tids.iter().enumerate() {
            if self.run.is_over() {
                let detail = format!("{} threads of {} were not looked at", tids.len() - done, tids.len());
                self.gaps.push(Gap::new("/rows", Reason::LimitReached).detail(detail));
                break;
            }
            let Ok(thread) = self.process.thread(*tid) else { continue };
            rows.extend(self.thread(*tid, &thread, inside.as_mut()));
        }
        Ok(rows)
    }

    fn inside(&mut self) -> Result<Inside<'r>, Failure> {
        let memory = Arc::new(self.process.memory()?);
        let code = CodeMap::of(self.run, self.process, &memory, self.gaps)?;
        Ok(Inside { memory, code })
    }

    /// The row of one thread; `None` if it has ended before anything was read.
    fn thread(&self, tid: u32, thread: &Directory<'r>, inside: Option<&mut Inside<'r>>) -> Option<Noted<Row>> {
        let mut buffer = Vec::with_capacity(512);
        thread.read_piece("stat", &mut buffer).ok()?;
        let stat = parse::stat(&buffer)?;
        let policy = match self.options.stop {
            // What sleeps uninterruptibly does not stop, and a zombie has nothing to.
            Stop::Auto if !matches!(stat.state, b'D' | b'Z' | b'X') => StopPolicy::Auto,
            _ => StopPolicy::Never,
        };
        let mut named = Vec::new();
        let seen = match inside {
            Some(Inside { memory, code }) => {
                let max_frames = self.options.max_frames as usize;
                let seen = Looker { process: self.process, memory, code, policy, max_frames }.look(tid, thread);
                named = frames(seen.stack.as_ref(), code);
                seen
            }
            None => without_memory(thread),
        };
        let mut gaps = Vec::new();
        if let Some(failure) = &seen.failure {
            let at = if seen.doing.is_none() { "/system_call" } else { "/frames" };
            gaps.push(self.run.gap(at, failure));
        }
        gaps.extend(why_incomplete(&seen, stat.state));
        let call = match seen.doing {
            Some(Doing::Blocked(blocked)) => blocked.call,
            _ => None,
        };
        let wait_channel = thread.read_piece("wchan", &mut buffer).ok().map(|()| buffer.trim_ascii().to_vec());
        let row = Row {
            count: 1,
            state: parse::state_name(stat.state),
            system_call: call.map(call_name),
            threads: vec![Thread {
                tid,
                name: Text::from_bytes(&stat.name),
                arguments: call.map(|call| call.arguments.map(Hex)),
                wait_channel: wait_channel
                    .filter(|name| name != b"0" && !name.is_empty())
                    .map(|name| Text::from_bytes(&name)),
            }],
            method: seen.method.as_str(),
            complete: seen.stack.as_ref().is_some_and(Unwound::is_complete),
            end: seen.stack.as_ref().map(|stack| stack.end.as_str()),
            frames: named,
        };
        Some(Noted { value: row, gaps })
    }
}

/// The name of a system call; its number where this build does not know it.
fn call_name(call: Call) -> Text {
    let known = usize::try_from(call.number).ok().and_then(Sysno::new);
    match known {
        Some(known) => Text::from(known.name()),
        None => Text::from(call.number.to_string().as_str()),
    }
}

/// What can still be told of a thread whose memory may not be read.
fn without_memory(thread: &Directory<'_>) -> Seen {
    let mut text = Vec::with_capacity(256);
    let read = thread.read_piece("syscall", &mut text);
    Seen {
        doing: read.as_ref().ok().and_then(|()| parse::doing(&text)),
        stack: None,
        method: Method::SyscallOnly,
        failure: read.err(),
    }
}

fn frames(stack: Option<&Unwound>, code: &mut CodeMap<'_>) -> Vec<Frame> {
    let found = stack.map_or(&[][..], |stack| &stack.frames);
    found
        .iter()
        .map(|frame| {
            let name = code.name(frame.lookup_avma());
            // The name is that of the call; the offsets are those of the address.
            let behind = frame.avma.wrapping_sub(frame.lookup_avma());
            Frame {
                address: Hex(frame.avma),
                function: name.function,
                function_offset: name.function_offset.map(|offset| Hex(offset.wrapping_add(behind))),
                module: name.module,
                offset: name.offset.map(|svma| Hex(svma.wrapping_add(behind))),
                build_id: name.build_id,
                kind: frame.kind.as_str(),
                found_by: frame.found_by.as_str(),
            }
        })
        .collect()
}

/// The gap for a stack that does not reach its outermost frame.
fn why_incomplete(seen: &Seen, state: u8) -> Option<Gap> {
    let Some(stack) = &seen.stack else {
        let is_running = seen.doing == Some(Doing::Running) || state == b'R';
        return (is_running && seen.failure.is_none()).then(|| {
            Gap::new("/frames", Reason::Incomplete)
                .detail("the thread runs, and was not to be held")
                .remedy("allow it with --stop=auto")
        });
    };
    let (reason, remedy) = match stack.end {
        EndReason::Root if stack.is_complete() => return None,
        EndReason::Truncated => (Reason::LimitReached, Some("ask for more with --max-frames")),
        EndReason::NeedsRegister { .. } => (Reason::Incomplete, Some("allow a short stop with --stop=auto")),
        _ => (Reason::Incomplete, None),
    };
    let mut gap = Gap::new("/frames", reason).detail(match stack.end {
        EndReason::Root => "some frames were found by the frame pointer, which may skip others".to_owned(),
        other => other.to_string(),
    });
    gap.remedy = remedy.map(str::to_owned);
    Some(gap)
}

/// Joins the rows that tell the same: those with the most threads first, then by
/// their first thread. A row with other gaps is not the same.
fn grouped(rows: Vec<Noted<Row>>) -> Vec<Noted<Row>> {
    let mut groups: Vec<Noted<Row>> = Vec::new();
    let mut index: HashMap<Key, usize> = HashMap::new();
    for row in rows {
        let key = Key::of(&row);
        match index.get(&key) {
            Some(&at) => {
                groups[at].value.count += row.value.count;
                groups[at].value.threads.extend(row.value.threads);
            }
            None => {
                index.insert(key, groups.len());
                groups.push(row);
            }
        }
    }
    groups.sort_by_key(|row| (std::cmp::Reverse(row.value.count), row.value.threads.first().map(|thread| thread.tid)));
    groups
}

/// What two threads have in common that are one row.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    state: &'static str,
    system_call: Option<Text>,
    method: &'static str,
    end: Option<&'static str>,
    addresses: Vec<u64>,
    gaps: Vec<(String, Reason, Option<String>)>,
}

impl Key {
    fn of(row: &Noted<Row>) -> Self {
        // Gaps name the thread's own files; what they say is what counts.
        let gaps = row.gaps.iter().map(|gap| (gap.at.clone(), gap.reason, gap.errno.clone())).collect();
        Self {
            state: row.value.state,
            system_call: row.value.system_call.clone(),
            method: row.value.method,
            end: row.value.end,
            addresses: row.value.frames.iter().map(|frame| frame.address.0).collect(),
            gaps,
        }
    }
}

fn summarize(rows: &[Row]) -> Summary {
    let mut summary = Summary::default();
    for row in rows {
        summary.threads += row.count;
        if row.complete {
            summary.complete += row.count;
        }
        *summary.methods.entry(row.method).or_default() += row.count;
        if let Some(call) = &row.system_call {
            *summary.system_calls.entry(call.as_str().to_owned()).or_default() += row.count;
        }
    }
    summary
}
