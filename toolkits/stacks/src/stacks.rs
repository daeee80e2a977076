//! `stacks`: what each thread does, and where it is.

mod after;
mod group;
mod row;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agent_model::{Gap, Gathered, Hex, Listing, Noted, Reason, Text};
use agent_system::memory::Memory;
use agent_system::parallel::in_halves;
use agent_system::parse::{self, Call, Doing};
use agent_system::{Capability, Collector, Directory, Failure, Need, Process, Run};
use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use syscalls::Sysno;

use crate::code::CodeMap;
use crate::frame::frames;
use crate::glimpse::{Glimpse, Inner, Stillness, Waits};
use crate::locks;
use crate::look::{Looker, Method, Seen, StopPolicy, can_stop};
use crate::unwind::{EndReason, Frame, Unwound};

pub use row::{Row, Summary, Thread};

use after::{After, join_sockets, put_words};
use group::grouped;

/// The collector of stacks.
pub struct Stacks;

/// When a thread of the target may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Stop {
    /// Never: a running thread then has no stack
    Never,
    /// A running thread, or one whose stack cannot be read otherwise and whose system
    /// call goes on by itself
    Auto,
    /// All threads, until all of them are held: the stacks are of one instant
    Consistent,
}

/// Options of `stacks`.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub struct Options {
    /// When a thread may be held for a moment
    #[arg(long, value_enum, default_value_t = Stop::Auto)]
    stop: Stop,
    /// For how long threads may be held in all; one alone for 50 ms at most
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String", extend("x-class" = "id"))]
    stop_budget: Duration,
    /// Only threads that wait for a lock or hold one, and who waits for whom
    #[arg(long)]
    locks: bool,
    /// The stacks in the kernel as well (needs CAP_SYS_ADMIN)
    #[arg(long)]
    kernel: bool,
    /// Do not join descriptors with their sockets
    #[arg(long)]
    no_sockets: bool,
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

/// A time as it is written on the command line.
pub(crate) fn as_text<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*time))
}

impl Collector for Stacks {
    const NAME: &'static str = "stacks";
    const ABOUT: &'static str = "What each thread does and where it is, without stopping it where possible";
    const MANUAL: &'static str = "\
A thread that is blocked in a system call is read without a stop. A running one is held
for some tens of microseconds, unless --stop=never; what that cost stands in
cost.target_stopped_us. Threads with equal stacks are one row, those with the most
threads first, then by thread ID. With --stop=consistent every thread is held, so
that some of its system calls return EINTR: use it only where one instant matters.

Threads that wait for each other in a circle are a finding in summary.findings, after
a second look has shown that none of them has moved. The holder of a lock is known
for pthread mutexes and write locks (so for C++ and most runtimes) and for
pthread_join.

  agent stacks                       what is everybody waiting for
  agent stacks --locks               who waits for whom; deadlocks
  agent stacks --stop never          without holding any thread";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    const WITH_OPTION: &'static [(&'static str, Capability)] = &[("kernel", Capability::SYS_ADMIN)];
    const NEEDS: &'static [Need] = &[Need::Stops, Need::SocketDiagnostics];
    type Options = Options;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let process = run.target_process()?;
        let mut gaps = Vec::new();
        let mut stills = HashMap::new();
        let links = process.directory("fd").ok();
        let dump = Dump {
            run,
            process: &process,
            options,
            links: links.as_ref(),
            has_kernel: options.kernel,
            stills: &mut stills,
            gaps: &mut gaps,
        };
        let rows = match dump.rows() {
            Ok(rows) => rows,
            Err(failure) if failure.is_exited() => return Err(failure),
            Err(failure) => {
                gaps.push(run.gap("/rows", &failure));
                Vec::new()
            }
        };
        let mut contended = None;
        let mut findings = Vec::new();
        let rows = {
            let mut rows = rows;
            let after = After { run, process: &process, stills };
            after.identify(&mut rows);
            if !options.no_sockets {
                join_sockets(run, &mut rows, &mut gaps);
            }
            let waiters = after.waiters(&rows);
            findings.extend(after.deadlocks(&rows, &waiters));
            if options.locks {
                rows.retain(|row| after.is_about_locks(&row.value, &waiters));
                contended = Some(locks::contended(&waiters));
            }
            rows.iter_mut().for_each(|row| put_words(&mut row.value));
            rows
        };
        let rows = if options.flat { rows } else { grouped(rows) };
        Ok(Gathered::rows(rows, gaps, |rows| Summary { locks: contended, findings, ..summarize(rows) }))
    }
}

/// What is needed to unwind and to name.
struct Inside<'r> {
    memory: Arc<Memory<'r>>,
    code: CodeMap<'r>,
}

/// Threads that are looked at before the first of them is unwound: their stacks are held
/// until then.
const AT_ONCE: usize = 128;
/// Below this many threads a second one of ours costs more than it gives.
const WORTH_A_THREAD: usize = 32;

/// What a first look at a thread has shown.
enum Near<'r> {
    There(Box<First<'r>>),
    /// It is gone.
    Ended,
    /// There was no time left for it.
    NotLooked,
}

struct First<'r> {
    thread: Directory<'r>,
    stat: parse::Stat,
    /// `None` where memory may not be read.
    glimpse: Option<Glimpse<Inner>>,
    wait_channel: Option<Vec<u8>>,
}

/// The function of the kernel that `thread` waits in (`wchan`).
fn wait_channel(thread: &Directory<'_>) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(512);
    thread.read_piece("wchan", &mut text).ok().map(|()| text.trim_ascii().to_vec())
}

struct Dump<'a, 'r> {
    run: &'a Run,
    process: &'a Process<'r>,
    options: &'a Options,
    /// `/proc/PID/fd`, where it may be looked at.
    links: Option<&'a Directory<'r>>,
    /// Whether the kernel's stacks are wanted, and may be read.
    has_kernel: bool,
    /// By which each thread can be told not to have run since.
    stills: &'a mut HashMap<u32, Stillness>,
    gaps: &'a mut Vec<Gap>,
}

impl<'r> Dump<'_, 'r> {
    /// A row a thread, by thread ID.
    fn rows(mut self) -> Result<Vec<Noted<Row>>, Failure> {
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
        if self.options.stop == Stop::Consistent
            && let Some(inside) = &mut inside
        {
            return Ok(self.rows_of_one_instant(&tids, inside));
        }
        let mut rows = Vec::with_capacity(tids.len());
        for (done, some) in tids.chunks(AT_ONCE).enumerate() {
            let near = self.near(some, inside.as_ref());
            let mut looked = Vec::with_capacity(some.len());
            let mut not_looked = None;
            for (at, (tid, near)) in some.iter().zip(near).enumerate() {
                match near {
                    Near::There(mut near) => {
                        let seen = self.thread(*tid, &mut near, inside.as_mut());
                        looked.push((*tid, near, seen));
                    }
                    Near::Ended => {}
                    Near::NotLooked => {
                        let left = tids.len() - done * AT_ONCE - at;
                        not_looked = Some(format!("{left} threads of {} were not looked at", tids.len()));
                        break;
                    }
                }
            }
            if let Some(inside) = &mut inside {
                let stacks = looked.iter().filter_map(|(.., seen)| seen.stack.as_ref());
                inside.code.prepare(stacks.flat_map(|stack| &stack.frames).map(Frame::lookup_avma));
            }
            for (tid, near, seen) in looked {
                let First { thread, stat, wait_channel, .. } = *near;
                rows.push(self.row(tid, &thread, &stat, wait_channel, seen, inside.as_mut()));
            }
            if let Some(detail) = not_looked {
                self.gaps.push(Gap::new("/rows", Reason::LimitReached).detail(detail));
                break;
            }
        }
        if let Some(inside) = &mut inside {
            self.gaps.extend(inside.code.take_limits());
        }
        Ok(rows)
    }

    /// All threads while all of them are held.
    fn rows_of_one_instant(&mut self, tids: &[u32], inside: &mut Inside<'r>) -> Vec<Noted<Row>> {
        let mut buffer = Vec::with_capacity(512);
        let mut stats = Vec::new();
        let mut threads = Vec::new();
        for tid in tids {
            let Ok(thread) = self.process.thread(*tid) else { continue };
            if thread.read_piece("stat", &mut buffer).is_ok()
                && let Some(stat) = parse::stat(&buffer)
            {
                stats.push(stat);
                threads.push((*tid, thread));
            }
        }
        let all = self.looker(inside, StopPolicy::Auto).look_at_all(&threads, &stats);
        let seen = threads.iter().zip(stats).zip(all);
        let rows = seen.map(|(((tid, thread), stat), seen)| {
            self.row(*tid, thread, &stat, wait_channel(thread), seen, Some(inside))
        });
        let rows = rows.collect();
        self.gaps.extend(inside.code.take_limits());
        rows
    }

    fn looker<'b>(&'b self, inside: &'b mut Inside<'r>, policy: StopPolicy) -> Looker<'b, 'r> {
        let Inside { memory, code } = inside;
        Looker {
            process: self.process,
            memory,
            code,
            policy,
            max_frames: self.options.max_frames as usize,
            waits: Some(Waits { memory: Some(memory), links: self.links }),
            stop_budget_us: u64::try_from(self.options.stop_budget.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn inside(&mut self) -> Result<Inside<'r>, Failure> {
        let memory = Arc::new(self.process.memory()?);
        let code = CodeMap::of(self.run, self.process, &memory, self.gaps)?;
        Ok(Inside { memory, code })
    }

    /// A first look at each of `tids`: what the kernel says, and the inner part of the stacks of those that are blocked.
    fn near(&self, tids: &[u32], inside: Option<&Inside<'r>>) -> Vec<Near<'r>> {
        let (run, process, links) = (self.run, self.process, self.links);
        // The tables that stacks are unwound with are not for two threads; these are.
        let inside = inside.map(|inside| (&*inside.memory, &**inside.code.stacks()));
        in_halves(tids, WORTH_A_THREAD, |tids| {
            let look = |tid: &u32| {
                if run.is_over() {
                    return Near::NotLooked;
                }
                let Ok(thread) = process.thread(*tid) else { return Near::Ended };
                let mut buffer = Vec::with_capacity(512);
                let stat = thread.read_piece("stat", &mut buffer).ok().and_then(|()| parse::stat(&buffer));
                let Some(stat) = stat else { return Near::Ended };
                let glimpse = inside.map(|(memory, stacks)| {
                    Inner::of(&thread, memory, stacks, Some(Waits { memory: Some(memory), links }))
                });
                let wait_channel = wait_channel(&thread);
                Near::There(Box::new(First { thread, stat, glimpse, wait_channel }))
            };
            tids.iter().map(look).collect()
        })
    }

    /// The whole look at one thread.
    fn thread(&mut self, tid: u32, near: &mut First<'r>, inside: Option<&mut Inside<'r>>) -> Seen {
        let policy = match self.options.stop {
            Stop::Auto | Stop::Consistent if can_stop(near.stat.state) => StopPolicy::Auto,
            _ => StopPolicy::Never,
        };
        match inside.zip(near.glimpse.take()) {
            Some((inside, glimpse)) => self.looker(inside, policy).look_again(tid, &near.thread, glimpse),
            None => self.without_memory(&near.thread),
        }
    }

    fn row(
        &mut self,
        tid: u32,
        thread: &Directory<'r>,
        stat: &parse::Stat,
        wait_channel: Option<Vec<u8>>,
        mut seen: Seen,
        inside: Option<&mut Inside<'r>>,
    ) -> Noted<Row> {
        // Where there is none, a gap of the whole says so.
        let has_memory = inside.is_some();
        let frames = inside.map_or_else(Vec::new, |inside| frames(seen.stack.as_ref(), &mut inside.code));
        if let Some(still) = seen.still.take() {
            self.stills.insert(tid, still);
        }
        let mut gaps = Vec::new();
        if let Some(failure) = &seen.failure {
            let at = if seen.doing.is_none() { "/system_call" } else { "/frames" };
            gaps.push(self.run.gap(at, failure));
        }
        if has_memory {
            gaps.extend(why_incomplete(&seen, stat.state));
        }
        let call = match seen.doing {
            Some(Doing::Blocked(blocked)) => blocked.call,
            _ => None,
        };
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
                wait: seen.wait.take().map(Box::new),
                waits_for: None,
            }],
            method: seen.method.as_str(),
            complete: seen.stack.as_ref().is_some_and(Unwound::is_complete),
            end: seen.stack.as_ref().map(|stack| stack.end.as_str()),
            frames,
            kernel_frames: self.kernel_frames(thread),
        };
        Noted { value: row, gaps }
    }

    /// `/proc/PID/task/TID/stack`. Where it may not be read for one thread, it may not
    /// for any.
    fn kernel_frames(&mut self, thread: &Directory<'r>) -> Vec<Text> {
        if !self.has_kernel {
            return Vec::new();
        }
        let mut text = Vec::with_capacity(1024);
        match thread.read_piece("stack", &mut text) {
            Ok(()) => kernel_frames(&text),
            Err(failure) => {
                if failure.is_denied() {
                    self.has_kernel = false;
                }
                if !failure.is_exited() {
                    self.gaps.push(self.run.gap("/rows/-/kernel_frames", &failure));
                }
                Vec::new()
            }
        }
    }

    /// What can still be told of a thread whose memory may not be read.
    fn without_memory(&self, thread: &Directory<'_>) -> Seen {
        let mut text = Vec::with_capacity(256);
        let read = thread.read_piece("syscall", &mut text);
        let doing = read.as_ref().ok().and_then(|()| parse::doing(&text));
        let waits = Waits { memory: None, links: self.links };
        let wait = match doing {
            Some(Doing::Blocked(blocked)) => waits.of(blocked),
            _ => None,
        };
        Seen { doing, stack: None, method: Method::SyscallOnly, failure: read.err(), wait, still: None }
    }
}

/// The lines of `stack`: `[<0>] futex_wait_queue+0x6e/0xa0`.
fn kernel_frames(text: &[u8]) -> Vec<Text> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let behind = line.windows(2).position(|pair| pair == b"] ").map_or(line, |at| &line[at + 2..]);
            Text::from_bytes(behind.trim_ascii())
        })
        .collect()
}

/// The name of a system call; its number where this build does not know it.
pub(crate) fn call_name(call: Call) -> Text {
    let known = usize::try_from(call.number).ok().and_then(Sysno::new);
    match known {
        Some(known) => Text::from(known.name()),
        None => Text::from(call.number.to_string().as_str()),
    }
}

/// What would give a blocked thread all of its registers, and at what price.
const HOLD_IT: &str = "hold it for a moment, which may make its system call return EINTR: --stop=consistent --tid";

/// What would give all of a stack that is deeper than what is copied of a thread that is held.
const LEAVE_IT: &str = "if it is blocked all of it can be read while it is not held: --stop=never --tid";

/// The gap for a stack that does not reach its outermost frame.
fn why_incomplete(seen: &Seen, state: u8) -> Option<Gap> {
    let Some(stack) = &seen.stack else {
        if seen.failure.is_some() || seen.doing.is_none() {
            return None;
        }
        let gap = Gap::new("/frames", Reason::Incomplete);
        return Some(if seen.doing == Some(Doing::Running) || state == b'R' {
            gap.detail("the thread runs, and was not to be held").remedy("allow it with --stop=auto")
        } else {
            gap.detail("the thread went from one system call to the next while it was read").remedy(HOLD_IT)
        });
    };
    let (reason, remedy) = match stack.end {
        EndReason::Root if stack.is_complete() => return None,
        EndReason::Truncated => (Reason::LimitReached, Some("ask for more with --max-frames")),
        EndReason::Root | EndReason::MalformedUnwindInfo { .. } => (Reason::Incomplete, None),
        EndReason::NotCopied => (Reason::Incomplete, Some(LEAVE_IT)),
        _ if seen.method == Method::NoStop => (Reason::Incomplete, Some(HOLD_IT)),
        _ => (Reason::Incomplete, None),
    };
    let mut gap = Gap::new("/frames", reason).detail(match stack.end {
        EndReason::Root => "some frames were found by the frame pointer, which may skip others".to_owned(),
        other => other.to_string(),
    });
    gap.remedy = remedy.map(str::to_owned);
    Some(gap)
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
