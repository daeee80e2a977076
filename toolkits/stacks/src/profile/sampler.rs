//! Looking at all threads again and again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agent_model::{Gap, Hex, Reason, Text};
use agent_system::interrupt::{Interrupted, Interrupts};
use agent_system::kept::KeptFile;
use agent_system::memory::Memory;
use agent_system::parse::{self, Doing};
use agent_system::{Directory, Failure, Process, Run, clock};

use super::budget::{Allowance, time_of};
use super::gather::{Key, Places};
use super::{Module, Options, Row, Stop, Summary, Thread};
use crate::code::CodeMap;
use crate::frame::named;
use crate::look::{Looker, Method, Seen, StopPolicy};
use crate::stacks::call_name;
use crate::unwind::EndReason;

/// Threads whose `schedstat` is kept open. The rest is opened each time: the number of
/// files that may be open is limited.
const KEPT: usize = 400;
/// Code that a stack leads to and that is not known is looked for at most this often.
const RELOAD_US: u64 = 1_000_000;
/// Time that is left of the command's for the answer.
const RESERVE_US: u64 = 500_000;

/// A thread, from one look to the next.
struct Watched<'r> {
    directory: Directory<'r>,
    schedstat: Option<KeptFile<'r>>,
    /// What `schedstat` said at first and last: time on a processor, time in the
    /// queue, turns.
    first: Vec<u8>,
    last: Vec<u8>,
    /// When it was looked at last.
    at_us: u64,
    /// Its place then, if it was blocked.
    blocked_at: Option<usize>,
    /// The tick that it was looked at last.
    tick: u64,
}

/// A profile that is being taken.
pub(super) struct Sampler<'a, 'r> {
    run: &'r Run,
    process: &'a Process<'r>,
    options: &'a Options,
    memory: Arc<Memory<'r>>,
    code: CodeMap<'r>,
    interrupts: Interrupts,
    threads: BTreeMap<u32, Watched<'r>>,
    places: Places,
    kept: usize,
    reloaded_us: u64,
    /// Sums over threads that have ended.
    counted: (u64, u64),
    names: BTreeMap<u32, Text>,
    summary: Summary,
    gaps: Vec<Gap>,
}

impl<'a, 'r> Sampler<'a, 'r> {
    pub(super) fn open(run: &'r Run, process: &'a Process<'r>, options: &'a Options) -> Result<Self, Failure> {
        let interrupts = Interrupts::watch(run)?;
        let memory = Arc::new(process.memory()?);
        let mut gaps = Vec::new();
        let code = CodeMap::of(run, process, &memory, &mut gaps)?;
        Ok(Self {
            run,
            process,
            options,
            memory,
            code,
            interrupts,
            threads: BTreeMap::new(),
            places: Places::default(),
            kept: 0,
            reloaded_us: 0,
            counted: (0, 0),
            names: BTreeMap::new(),
            summary: Summary { ended: "time", ..Summary::default() },
            gaps,
        })
    }

    /// Looks until the time is over, or something ends it.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        let start_us = clock::boot_us();
        let start_cpu_us = clock::cpu_us();
        let before = self.run.ledger().spent();
        let duration_us = u64::try_from(self.options.duration.as_micros()).unwrap_or(u64::MAX).max(1);
        let period_us = 1_000_000 / u64::from(self.options.hz);
        let whole = Allowance::new(self.options.budget, duration_us);
        let stops = Allowance::new(self.options.stop_budget, duration_us);
        self.list(start_us)?;
        let mut turn = 0;
        // What a look takes: the next one, and the last, which comes at the end whatever was spent, are within the allowance.
        let (mut used_us, mut look_us) = (0, 0);
        loop {
            let spent = self.run.ledger().spent();
            let stopped_us = spent.stopped_us - before.stopped_us;
            let cpu_us = clock::cpu_us().saturating_sub(start_cpu_us);
            self.summary.agent_cpu_us = cpu_us;
            self.summary.stopped_us = stopped_us;
            self.summary.stops = spent.stops - before.stops;
            if self.summary.ticks > 1 {
                look_us = cpu_us + stopped_us - used_us;
            }
            used_us = cpu_us + stopped_us;
            let allowed_us = whole.allowed_at_us(used_us + 2 * look_us).max(stops.allowed_at_us(stopped_us));
            let passed_us = clock::boot_us() - start_us;
            // Turns that have gone by are not made up for: the next look counts their time.
            let earliest = passed_us.max(allowed_us);
            let asked = turn;
            while time_of(turn, period_us) < earliest {
                turn += 1;
            }
            if turn > asked && asked > 0 {
                self.summary.delayed_ticks += 1;
            }
            let next_us = time_of(turn, period_us);
            turn += 1;
            // The last look is at the very end, so that all of the time is counted.
            let is_last = next_us >= duration_us;
            let until_us = next_us.min(duration_us);
            if self.run.session().ends_by(start_us + until_us + RESERVE_US) || self.run.is_over() {
                self.summary.ended = "timeout";
                self.tick(start_us, turn);
                break;
            }
            let pause = Duration::from_micros((start_us + until_us).saturating_sub(clock::boot_us()));
            match self.interrupts.pause(pause) {
                Some(Interrupted::TargetExited) => {
                    self.summary.ended = "target_exited";
                    break;
                }
                Some(Interrupted::Signal(_)) => {
                    self.summary.ended = "signal";
                    self.tick(start_us, turn);
                    break;
                }
                None => {}
            }
            self.tick(start_us, turn);
            if is_last || self.threads.is_empty() {
                break;
            }
        }
        if self.threads.is_empty() {
            self.summary.ended = "target_exited";
        }
        Ok(())
    }

    /// Looks at every thread once.
    fn tick(&mut self, start_us: u64, tick: u64) {
        self.summary.ticks += 1;
        let before_us = clock::boot_us();
        // To list them costs a third of a look. As long as there are as many, and none of them has ended, they are the same.
        let known = self.threads.len();
        let is_same = self.process.thread_count().is_ok_and(|count| count == known as u64);
        if is_same {
            for tid in self.threads.keys().copied().collect::<Vec<_>>() {
                self.sample(tid, tick);
            }
        }
        if !is_same || known != self.threads.len() {
            self.sample_listed(before_us, tick);
        }
        self.summary.duration_us = clock::boot_us() - start_us;
    }

    /// Looks at those that are listed and were not looked at in this tick, and forgets those that are not.
    fn sample_listed(&mut self, before_us: u64, tick: u64) {
        let Ok(tids) = self.process.threads() else {
            self.threads.clear();
            return;
        };
        for tid in tids {
            match self.threads.get(&tid) {
                Some(watched) if watched.tick == tick => continue,
                Some(_) => {}
                None => {
                    if let Some(mut watched) = self.watch(tid) {
                        // It began somewhere between the last look and now.
                        watched.at_us = before_us;
                        self.threads.insert(tid, watched);
                    }
                }
            }
            self.sample(tid, tick);
        }
        let gone: Vec<u32> =
            self.threads.iter().filter(|(_, watched)| watched.tick != tick).map(|(tid, _)| *tid).collect();
        for tid in gone {
            self.forget(tid);
        }
    }

    /// The threads that are there at the start.
    fn list(&mut self, start_us: u64) -> Result<(), Failure> {
        for tid in self.process.threads()? {
            if let Some(mut watched) = self.watch(tid) {
                watched.at_us = start_us;
                self.threads.insert(tid, watched);
            }
        }
        Ok(())
    }

    fn watch(&mut self, tid: u32) -> Option<Watched<'r>> {
        let directory = self.process.thread(tid).ok()?;
        let mut text = Vec::with_capacity(128);
        directory.read_piece("comm", &mut text).ok()?;
        let name = Text::from_bytes(text.strip_suffix(b"\n").unwrap_or(&text));
        let schedstat = if self.kept < KEPT { directory.keep("schedstat").ok() } else { None };
        self.kept += usize::from(schedstat.is_some());
        let mut watched =
            Watched { directory, schedstat, first: Vec::new(), last: Vec::new(), at_us: 0, blocked_at: None, tick: 0 };
        watched.first = watched.turns().unwrap_or_default();
        watched.last.clone_from(&watched.first);
        self.names.entry(tid).or_insert(name);
        Some(watched)
    }

    /// The thread has ended.
    fn forget(&mut self, tid: u32) {
        if let Some(watched) = self.threads.remove(&tid) {
            self.kept -= usize::from(watched.schedstat.is_some());
            let (processor, queue) = watched.counted();
            self.counted.0 += processor;
            self.counted.1 += queue;
        }
    }

    /// Counts the time since the last look for the place where the thread is now.
    fn sample(&mut self, tid: u32, tick: u64) {
        let Some(watched) = self.threads.get_mut(&tid) else { return };
        watched.tick = tick;
        let Some(turns) = watched.turns() else { return self.forget(tid) };
        let now_us = clock::boot_us();
        let time_us = now_us.saturating_sub(watched.at_us);
        watched.at_us = now_us;
        let has_rested = is_counted(&turns) && turns == watched.last;
        watched.last = turns;
        if let Some(place) = watched.blocked_at
            && has_rested
        {
            self.places.add(place, tid, time_us);
            return;
        }
        let directory = watched.directory.clone();
        let seen = self.look_at(tid, &directory);
        if seen.failure.as_ref().is_some_and(Failure::is_exited) && seen.doing.is_none() {
            return self.forget(tid);
        }
        if let Some(failure) = &seen.failure
            && self.gaps.len() < 8
            && !failure.is_exited()
            && seen.stack.is_none()
        {
            let gap = self.run.gap("/rows/-/frames", failure);
            if !self.gaps.iter().any(|known| known.reason == gap.reason && known.errno == gap.errno) {
                self.gaps.push(gap);
            }
        }
        let (on_cpu, call) = match seen.doing {
            Some(Doing::Blocked(blocked)) => (false, blocked.call.map(|call| call.number)),
            _ => (true, None),
        };
        let owner = if self.options.threads { tid } else { 0 };
        let key = Key::new(owner, on_cpu, call, seen.method, seen.stack.as_ref());
        let place = self.places.find(key, seen.stack);
        self.places.add(place, tid, time_us);
        if let Some(watched) = self.threads.get_mut(&tid) {
            // Without a stack it is worth another look.
            watched.blocked_at = (!on_cpu && seen.method == Method::NoStop).then_some(place);
        }
    }

    fn look_at(&mut self, tid: u32, thread: &Directory<'r>) -> Seen {
        let seen = self.looker().look(tid, thread);
        let leads_to_new_code = seen
            .stack
            .as_ref()
            .is_some_and(|stack| matches!(stack.end, EndReason::NotCode { .. } | EndReason::NoUnwindInfo { .. }));
        let now_us = clock::boot_us();
        if !leads_to_new_code || now_us < self.reloaded_us + RELOAD_US {
            return seen;
        }
        // A library was loaded, or a runtime has compiled something.
        self.reloaded_us = now_us;
        match CodeMap::of(self.run, self.process, &self.memory, &mut Vec::new()) {
            Ok(code) => {
                self.code = code;
                self.looker().look(tid, thread)
            }
            Err(_) => seen,
        }
    }

    fn looker(&mut self) -> Looker<'_, 'r> {
        Looker {
            process: self.process,
            memory: &self.memory,
            code: &mut self.code,
            policy: match self.options.stop {
                Stop::Never => StopPolicy::Never,
                Stop::Auto => StopPolicy::OnlyRunning,
            },
            max_frames: self.options.max_frames as usize,
            waits: None,
            // The budget of a profile makes looks rarer; it does not leave stacks out.
            stop_budget_us: u64::MAX,
        }
    }

    /// The rows, by time, and all that is said about them.
    pub(super) fn finish(mut self) -> (Vec<Row>, Summary, Vec<Gap>) {
        for tid in self.threads.keys().copied().collect::<Vec<_>>() {
            self.forget(tid);
        }
        if self.counted.0 > 0 {
            self.summary.processor_us = Some(self.counted.0 / 1000);
            self.summary.run_queue_us = Some(self.counted.1 / 1000);
        }
        if self.places.without_room > 0 {
            let detail = format!("{} samples had a stack for which there was no room", self.places.without_room);
            self.gaps.push(Gap::new("/rows", Reason::LimitReached).detail(detail));
        }
        self.summary.threads = self.names.len() as u64;
        let mut known = HashMap::new();
        let mut rows = Vec::with_capacity(self.places.list.len());
        for place in std::mem::take(&mut self.places.list) {
            let frames = place.frames.iter().map(|frame| {
                let key = (frame.avma, frame.kind, frame.found_by);
                known.entry(key).or_insert_with(|| named(frame, &mut self.code)).clone()
            });
            let row = Row {
                state: if place.key.on_cpu { "on_cpu" } else { "off_cpu" },
                time_us: place.time_us,
                samples: place.samples,
                thread: self
                    .names
                    .get(&place.key.tid)
                    .filter(|_| self.options.threads)
                    .map(|name| Thread { tid: place.key.tid, name: name.clone() }),
                threads: place.tids.len() as u64,
                system_call: place.key.call.map(|number| call_name(parse::Call { number, arguments: [0; 6] })),
                method: place.key.method.as_str(),
                complete: place.key.complete,
                frames: frames.collect(),
            };
            self.summary.samples += row.samples;
            match row.state {
                "on_cpu" => self.summary.on_cpu_us += row.time_us,
                _ => self.summary.off_cpu_us += row.time_us,
            }
            rows.push(row);
        }
        let addresses = |row: &Row| row.frames.iter().map(|frame| frame.address).collect::<Vec<_>>();
        rows.sort_by_cached_key(|row| {
            (std::cmp::Reverse(row.time_us), row.state, row.thread.as_ref().map(|thread| thread.tid), addresses(row))
        });
        self.gaps.extend(self.code.take_limits());
        let is_used = |start: u64, end: u64| {
            rows.iter().flat_map(|row| &row.frames).any(|frame| (start..=end).contains(&frame.address.0))
        };
        let modules = self.code.modules().filter(|module| is_used(module.avma.start, module.avma.end));
        self.summary.modules = modules
            .map(|module| Module {
                path: module.path,
                start: Hex(module.avma.start),
                end: Hex(module.avma.end),
                file_offset: Hex(module.file_offset),
                build_id: module.build_id,
            })
            .collect();
        (rows, self.summary, self.gaps)
    }
}

impl Watched<'_> {
    /// What `schedstat` says now; empty where this kernel has none, `None` when the
    /// thread has ended.
    fn turns(&self) -> Option<Vec<u8>> {
        let mut text = Vec::with_capacity(512);
        let read = match &self.schedstat {
            Some(kept) => kept.read(&mut text),
            None => self.directory.read_piece("schedstat", &mut text),
        };
        match read {
            Ok(()) => Some(text.trim_ascii().to_vec()),
            Err(failure) if failure.is_not_found() => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// Time on a processor and in the queue since the start, in nanoseconds.
    fn counted(&self) -> (u64, u64) {
        let words = |text: &[u8]| {
            let mut numbers = text.split(|byte| *byte == b' ').map(|word| parse::number::<u64>(word).unwrap_or(0));
            (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
        };
        let (first, last) = (words(&self.first), words(&self.last));
        (last.0.saturating_sub(first.0), last.1.saturating_sub(first.1))
    }
}

/// Whether the kernel counts at all: a thread that we see has had a turn.
fn is_counted(turns: &[u8]) -> bool {
    !turns.is_empty() && turns != b"0 0 0"
}
