//! The one value through which a command touches the world.

use std::collections::HashMap;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_model::{Gap, Reason, Target, Text};
use agent_session::{Access, Ledger, Refusal, Session, Usage};

use crate::format::Stream;
use crate::gate::{self, Subject};
use crate::memo::Memo;
use crate::parse;
use crate::patience::Remote;
use crate::rights::{Approach, Rights};
use crate::{Capabilities, Directory, Failure, Keep, Need, Process, allocator, clock, confine, own, proc, stop};

/// The CPU time is looked at once in so many times that the session is asked.
const ASKED_BEFORE_CPU: u32 = 64;

/// The memory without which the agent can say nothing, in bytes.
const LEAST_MEMORY: u64 = 16 << 20;

/// The longest wait at once, in microseconds: meanwhile the time of the command may be over.
const LONGEST_PAUSE_US: u64 = 200_000;

/// Where a run looks.
#[derive(Debug, Default)]
pub struct Plan {
    /// A recorded tree of `/proc` instead of the live one.
    pub proc: Option<String>,
    /// Capabilities to raise where they are permitted.
    pub capabilities: Capabilities,
    /// What the command does beyond reading ([`crate::Collector::NEEDS`]). Whoever performs
    /// several commands in one process gives what all of them need, and all their
    /// capabilities, to each: the first run confines the process for good.
    pub needs: Vec<Need>,
    /// The [`crate::ExtraFormat`] that the answer is for, by its name.
    pub format: Option<&'static str>,
    /// What the collector writes as it goes.
    pub stream: Option<Stream>,
    /// Where evidence is kept beside the answer.
    pub keep: Option<Arc<dyn Keep>>,
    /// Whether files of the target are read as well that lie on network and FUSE file systems, which may never answer.
    pub remote_files: bool,
}

/// The one value through which a command touches the world.
///
/// It belongs to one command. What it opens is checked against the session,
/// counted and recorded.
#[derive(Debug)]
pub struct Run {
    session: Session,
    proc: Arc<OwnedFd>,
    proc_path: String,
    live: bool,
    format: Option<&'static str>,
    stream: Mutex<Option<Stream>>,
    keep: Option<Arc<dyn Keep>>,
    /// Capabilities to raise: those of the plan that were granted.
    wanted: Capabilities,
    /// Whether the command looks into processes at all.
    looks_in: bool,
    needs: Vec<Need>,
    rights: Mutex<Option<Rights>>,
    subjects: Mutex<HashMap<u32, Option<Subject>>>,
    target: Option<Target>,
    approach: Mutex<Approach>,
    /// CPU time of the process when the run began, in microseconds.
    cpu_began_us: u64,
    /// How often the session was asked.
    asked: AtomicU32,
    /// How many threads are held, and since when one is, in microseconds.
    held: AtomicU32,
    held_since_us: AtomicU64,
    memo: Memo,
    /// By pid: what its mounts are.
    remotes: Mutex<HashMap<u32, Arc<Remote>>>,
    remote_files: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    /// Begins a run in `session`.
    ///
    /// # Errors
    ///
    /// When the tree of proc(5) cannot be opened.
    pub fn begin(session: Session, plan: Plan) -> Result<Self, Failure> {
        allocator::limit(session.limits().rss_bytes);
        let live = plan.proc.is_none();
        let proc_path = plan.proc.unwrap_or_else(|| "/proc".to_owned());
        let proc = proc::open_root(&proc_path).map_err(|errno| Failure::new(proc_path.as_str(), errno))?;
        let mut run = Self {
            session,
            proc: Arc::new(proc),
            proc_path,
            live,
            format: plan.format,
            stream: Mutex::new(plan.stream),
            keep: plan.keep,
            wanted: plan.capabilities,
            looks_in: live && plan.capabilities != Capabilities::default(),
            needs: plan.needs,
            rights: Mutex::new(None),
            subjects: Mutex::default(),
            target: None,
            approach: Mutex::new(Approach::AsWeAre),
            cpu_began_us: clock::cpu_us(),
            asked: AtomicU32::new(0),
            held: AtomicU32::new(0),
            held_since_us: AtomicU64::new(0),
            memo: Memo::default(),
            remotes: Mutex::default(),
            remote_files: plan.remote_files,
        };
        if run.looks_in {
            let mut rights = Rights::now()?;
            if confine::state().is_none() {
                run.wanted = rights.least(run.wanted);
                rights.raise(run.wanted)?;
            }
            *lock(&run.rights) = Some(rights);
        }
        Ok(run)
    }

    /// The session it belongs to.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The counts of what was done.
    pub fn ledger(&self) -> &Ledger {
        self.session.ledger()
    }

    /// Where it looks: as [`Plan::proc`].
    pub fn recorded(&self) -> Option<&str> {
        (!self.live).then_some(self.proc_path.as_str())
    }

    /// True when it looks at the live system, and not at a recorded tree.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The [`crate::ExtraFormat`] that the answer is for, by its name: a collector
    /// may have to look at more for it.
    pub fn format(&self) -> Option<&'static str> {
        self.format
    }

    /// Takes the stream that is to be written as the look goes on; `None` where the
    /// answer is printed at the end, or it was taken already.
    pub fn take_stream(&self) -> Option<Stream> {
        lock(&self.stream).take()
    }

    /// Where evidence is kept beside the answer, if it is: who makes several artifacts keeps each as it is made.
    pub fn keep(&self) -> Option<&dyn Keep> {
        self.keep.as_deref()
    }

    /// True when nothing more may be done: the time of this command is over, or the agent
    /// has as much memory as it may.
    pub fn is_over(&self) -> bool {
        self.refusal().is_some()
    }

    /// Why nothing more may be done; `None` while it may.
    pub fn refusal(&self) -> Option<Refusal> {
        self.keep_to_share();
        self.session.refusal(self.usage())
    }

    /// Asks whether `bytes` more may be taken at once.
    ///
    /// # Errors
    ///
    /// When that is more memory than the session allows.
    pub(crate) fn has_room(&self, bytes: u64) -> Result<(), Refusal> {
        let Usage { now_us, memory_bytes } = self.usage();
        let with = Usage { now_us, memory_bytes: memory_bytes.saturating_add(bytes) };
        self.session.refusal(with).map_or(Ok(()), Err)
    }

    /// Asks the session whether `path` may be touched, and records it.
    pub(crate) fn permit(&self, access: Access, path: &dyn Display) -> Result<(), Refusal> {
        stop::settle();
        self.keep_to_share();
        self.session.permit(access, path, self.usage())
    }

    fn usage(&self) -> Usage {
        Usage { now_us: clock::boot_us(), memory_bytes: allocator::live_bytes() }
    }

    /// Waits where more CPU time was used than the session's share; not while a thread is
    /// held, which would wait as well.
    fn keep_to_share(&self) {
        if !self.asked.fetch_add(1, Relaxed).is_multiple_of(ASKED_BEFORE_CPU) || self.held.load(Relaxed) > 0 {
            return;
        }
        // That of the whole process: a step of a scenario has no more.
        if clock::cpu_us() >= self.session.limits().cpu_us {
            self.session.reach(Refusal::Cpu);
        }
        self.rest();
    }

    /// Waits until no more CPU time was used than the session's share, or its time is over.
    pub fn rest(&self) {
        loop {
            let cpu_us = clock::cpu_us().saturating_sub(self.cpu_began_us);
            let now_us = clock::boot_us();
            let elapsed_us = now_us.saturating_sub(self.session.began_us());
            let pause_us = self.session.limits().pause_us(elapsed_us, cpu_us);
            if pause_us == 0 || self.session.is_over(now_us) || cpu_us >= self.session.limits().cpu_us {
                return;
            }
            stop::sleep(Duration::from_micros(pause_us.min(LONGEST_PAUSE_US)));
        }
    }

    /// Notes that a thread is held since `since_us`.
    pub(crate) fn hold_begins(&self, since_us: u64) {
        self.held.fetch_add(1, Relaxed);
        let _ = self.held_since_us.compare_exchange(0, since_us, Relaxed, Relaxed);
    }

    /// Notes that a thread that was held for `held_us` goes on, with a signal or without.
    pub(crate) fn hold_ends(&self, held_us: u64, has_signal: bool) {
        self.ledger().stopped(held_us, has_signal);
        if held_us > self.session.limits().stop_us {
            self.session.reach(Refusal::Stop);
        }
        if self.held.fetch_sub(1, Relaxed) == 1 {
            self.held_since_us.store(0, Relaxed);
        }
    }

    /// The refusal to read on while a thread is held for longer than one may be.
    pub(crate) fn held_too_long(&self) -> Option<Refusal> {
        let since_us = self.held_since_us.load(Relaxed);
        let is_over = since_us > 0 && clock::boot_us().saturating_sub(since_us) > self.session.limits().stop_us;
        is_over.then(|| self.session.reach(Refusal::Stop))
    }

    /// The root of proc(5).
    pub fn proc(&self) -> Directory<'_> {
        Directory::root(self, Arc::clone(&self.proc), self.proc_path.clone())
    }

    /// The IDs of all processes of the pid namespace, sorted.
    ///
    /// # Errors
    ///
    /// When proc(5) cannot be listed.
    pub fn pids(&self) -> Result<Vec<u32>, Failure> {
        if let Some(pids) = self.memo.pids() {
            return Ok(pids.to_vec());
        }
        let pids = self.proc().ids()?;
        self.memo.keep_pids(&pids);
        Ok(pids)
    }

    /// From now on lists the processes once, and reads files once that tell several
    /// collectors the same: what these answer is then about one instant, as near as
    /// can be. What tells whether something has changed is always read again.
    pub fn read_once(&self) {
        self.memo.start();
    }

    pub(crate) fn memo(&self) -> &Memo {
        &self.memo
    }

    /// The process `pid`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn process(&self, pid: u32) -> Result<Process<'_>, Failure> {
        Process::open(&self.proc(), pid)
    }

    /// The target, once [`Run::aim`] has set it.
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// The target's process.
    ///
    /// # Errors
    ///
    /// When it has ended, or its pid is now another's; or when the command has no
    /// target.
    pub fn target_process(&self) -> Result<Process<'_>, Failure> {
        let Some(target) = &self.target else {
            return Err(Failure::new("target", crate::Cause::Unsupported("this command has no target")));
        };
        let process = self.process(target.pid)?;
        let stat = process.stat(&mut Vec::with_capacity(1024))?;
        if stat.start_ticks == target.start_ticks {
            Ok(process.of_the_living(stat.state))
        } else {
            Err(process.failure("stat", crate::Cause::Exited))
        }
    }

    /// Makes `pid` the target: raises what the command needs, or takes on the
    /// target's IDs where that is the missing key.
    ///
    /// # Errors
    ///
    /// When the process is gone or its `stat` cannot be read.
    pub fn aim(&mut self, pid: u32) -> Result<(), Failure> {
        if self.looks_in
            && let Some(subject) = self.subject(pid)
        {
            let mut rights = match *lock(&self.rights) {
                Some(rights) => rights,
                None => Rights::now()?,
            };
            let approach = match confine::state() {
                None => rights.approach(&subject, self.wanted)?,
                // An earlier run of this process has decided it for good.
                Some(_) => rights.approached(),
            };
            *lock(&self.rights) = Some(rights);
            *lock(&self.approach) = approach;
            if approach == Approach::AsTarget {
                lock(&self.subjects).clear();
            }
        }
        let mut buffer = Vec::with_capacity(4096);
        let process = self.process(pid)?;
        let stat = process.stat(&mut buffer)?;
        let process = process.of_the_living(stat.state);
        let executable = process.link("exe").ok().map(|path| Text::from_bytes(&path));
        let container_id =
            process.read_piece("cgroup", &mut buffer).ok().and_then(|()| parse::container_id(&buffer)).map(Text::from);
        self.keep_to_headroom(&process);
        let boot_id = match self.live {
            true => own::boot_id(),
            false => self.recorded_boot_id(),
        };
        self.target = Some(Target {
            pid,
            start_ticks: stat.start_ticks,
            boot_id: boot_id.as_deref().map(Text::from),
            name: Text::from_bytes(&stat.name),
            executable,
            container_id,
        });
        Ok(())
    }

    /// Takes no more memory than three quarters of what the target's control group has left:
    /// the pod's limit covers us as well, and ends the application.
    fn keep_to_headroom(&self, process: &Process<'_>) {
        if let Some(headroom) = process.memory_headroom().filter(|_| self.looks_in) {
            let most = (headroom / 4 * 3).max(LEAST_MEMORY);
            allocator::limit(most);
            self.session.lower_memory(most);
        }
    }

    fn recorded_boot_id(&self) -> Option<String> {
        let mut buffer = Vec::new();
        self.proc().read_piece("sys/kernel/random/boot_id", &mut buffer).ok()?;
        String::from_utf8(buffer).ok().map(|text| text.trim().to_owned())
    }

    /// Our own rights; `None` where `/proc/self/status` cannot be read.
    pub fn rights(&self) -> Option<Rights> {
        let mut rights = lock(&self.rights);
        if rights.is_none() {
            *rights = Rights::now().ok();
        }
        *rights
    }

    /// Gives up for good what the command does not need ([`crate::confine`]). Before it
    /// starts to look, and after the target is aimed at.
    pub fn confine(&self) {
        let Some(rights) = self.rights() else { return };
        let keep = if self.looks_in { rights.effective } else { Capabilities::default() };
        confine::enter(&rights, keep, &self.needs);
    }

    fn may_trace(&self) -> bool {
        self.rights().is_some_and(|rights| rights.effective.has(crate::Capability::SYS_PTRACE))
    }

    /// As [`Plan::remote_files`].
    pub fn remote_files(&self) -> bool {
        self.remote_files
    }

    /// The file systems of `process` that may not answer.
    pub(crate) fn remote(&self, process: &Process<'_>) -> Arc<Remote> {
        if !self.live {
            return Arc::default();
        }
        if let Some(known) = lock(&self.remotes).get(&process.pid()) {
            return Arc::clone(known);
        }
        let remote = Arc::new(Remote::of(process, self.remote_files));
        lock(&self.remotes).insert(process.pid(), Arc::clone(&remote));
        remote
    }

    /// What is known of `pid` as the other side of an access check.
    pub fn subject(&self, pid: u32) -> Option<Subject> {
        if let Some(known) = lock(&self.subjects).get(&pid) {
            return *known;
        }
        let subject = self.process(pid).ok().and_then(|process| {
            let status = process.status(&mut Vec::with_capacity(4096)).ok()?;
            let owner = process.owner("stat").ok().map(|(uid, _)| uid);
            let foreign = match process.namespace("user") {
                Ok(theirs) => own::namespace("user").map(|ours| theirs != ours),
                // CAP_SYS_PTRACE opens that link, unless it is one of a user namespace that is not the target's.
                Err(denied) if denied.is_denied() && self.may_trace() && own::is_in_child_user_namespace() => {
                    Some(true)
                }
                Err(_) => None,
            };
            Some(Subject::new(&status, owner, foreign))
        });
        lock(&self.subjects).insert(pid, subject);
        subject
    }

    /// The gap for `failure` at `at`, a JSON Pointer, with the keys that would have
    /// opened what was denied.
    pub fn gap(&self, at: impl Into<String>, failure: &Failure) -> Gap {
        gate::gap(self, at.into(), failure)
    }

    /// Which gate denied `failure`, and what opens it; `None` where it was no
    /// denial.
    pub fn explain(&self, failure: &Failure) -> Option<gate::Verdict> {
        gate::verdict(self, failure)
    }

    /// A gap for each kind of system call that was tried and refused by the agent's own
    /// filter since the last time: the answer may lack what they were for.
    pub fn refused(&self) -> Vec<Gap> {
        let gap = |call: confine::RefusedCall| {
            let argument = call.argument.map(|argument| format!("{argument:#x}")).unwrap_or_default();
            Gap::new("", Reason::RefusedByPolicy)
                .path(format!("{}({argument})", call.name).as_str())
                .detail(format!("the agent's own filter of system calls refused it, {} times", call.times))
        };
        confine::refused_calls().into_iter().map(gap).collect()
    }

    /// How the target is reached.
    pub fn approach(&self) -> Approach {
        *lock(&self.approach)
    }
}
