//! One command in one session: find the target, look, and put what was seen into an envelope.
//!
//! Nothing is printed here. The front door, a console and a scenario all look through this, and
//! each does with the envelope what it is for.

mod ready;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use agent_model::data::was_refused;
use agent_model::{Cost, Data, Envelope, Gap, Kept, Observed, Reason, Seal, Shown};
use agent_output::{Ended, Printed};
use agent_session::redact::{Class, Classes, Redacted};
use agent_session::{Entry, Refusal, Session};
use agent_system::allocator::Last;
use agent_system::collector::TargetUse;
use agent_system::{Answer, Capabilities, Command, Failure, Plan, Run, TargetError, allocator, clock, own, target};
use anyhow::Context;
use clap::{ArgMatches, FromArgMatches};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::fit::fit;
use crate::verdict::Status;
use crate::{cli, resource, version};

/// When a look began: on the clock that only goes on, and on the one on the wall, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Began {
    /// [`clock::boot_us`].
    pub(crate) boot_us: u64,
    /// [`clock::wall_us`].
    pub(crate) wall_us: u64,
}

impl Began {
    /// Now.
    pub(crate) fn now() -> Self {
        Self { boot_us: clock::boot_us(), wall_us: clock::wall_us() }
    }
}

/// Why there is no envelope.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// How the command ends.
    pub(crate) status: Status,
    /// Why, for a person.
    pub(crate) words: String,
    /// What went wrong, where it was one access.
    pub(crate) gap: Option<Box<Gap>>,
    /// Whether an envelope without data has said so.
    pub(crate) is_told: bool,
}

impl Stopped {
    /// Why the command ends with `status`.
    pub(crate) fn new(status: Status, words: impl Into<String>, gap: Option<Gap>) -> Self {
        Self { status, words: words.into(), gap: gap.map(Box::new), is_told: false }
    }

    /// Whether a limit, a rule or a denial is why: that is told in an envelope, whatever was seen.
    fn has_envelope(&self) -> bool {
        let is_denied = |gap: &Gap| self.status == Status::NoTarget && gap.reason == Reason::PermissionDenied;
        self.gap.as_deref().is_some_and(|gap| was_refused(std::slice::from_ref(gap)) || is_denied(gap))
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::new(Status::Failed, failure.to_string(), Some(failure.gap("")))
    }
}

impl From<anyhow::Error> for Stopped {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Status::Failed, format!("{error:#}"), None)
    }
}

/// One command that is aimed and ready to look, once or again and again.
pub(crate) struct Look<'a> {
    command: &'a Command,
    matches: &'a ArgMatches,
    run: Run,
    /// What each string of its envelope is; from its schema, when there is one to print.
    classes: Option<Arc<Classes>>,
    /// How many envelopes there were.
    sequence: u64,
    since: Began,
    /// Gaps that are not the collector's: they go into the next envelope.
    noted: Vec<Gap>,
    /// What was written so far, in bytes.
    written_bytes: u64,
    /// What is kept of what may be written for an envelope without data behind all others, in bytes.
    kept_back_bytes: u64,
    /// Whether what is serialized for the digest is kept for whoever prints it.
    keeps_json: bool,
    /// Set where what the collector writes itself has come to its limit.
    is_stream_full: Arc<AtomicBool>,
    /// Why nothing is looked at.
    refused: Option<Stopped>,
    /// Makes the bytes of an envelope without data, and says to which file they go.
    render: Option<ready::Render<'a>>,
}

/// So much memory an answer may take as JSON between the digest and the printing of it, compressed; else it is serialized twice.
const MOST_KEPT: u64 = 4 << 20;

/// And only where the agent has no more memory than this with it, in bytes.
const WITHIN: u64 = 12 << 20;

/// Data as it may be shown, and its JSON where that was kept.
struct Known<'a> {
    data: Redacted<'a, dyn Data>,
    json: Option<Kept>,
}

impl Serialize for Known<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.data.serialize(serializer)
    }
}

impl Shown for Known<'_> {
    fn row_count(&self) -> Option<usize> {
        self.data.row_count()
    }

    fn row(&self, index: usize) -> Option<Box<dyn erased_serde::Serialize + '_>> {
        self.data.row(index)
    }

    fn summary(&self) -> Option<Box<dyn erased_serde::Serialize + '_>> {
        self.data.summary()
    }

    fn page(&self, width: usize) -> Option<String> {
        self.data.page(width)
    }

    fn is_absent(&self) -> bool {
        self.data.is_absent()
    }

    fn write_json(&self, to: &mut dyn std::io::Write) -> std::io::Result<()> {
        match &self.json {
            Some(json) => json.write_to(to),
            None => self.data.write_json(to),
        }
    }
}

/// An envelope without data has about so many bytes.
const WITHOUT_DATA: u64 = 3 << 10;

/// What each string of an envelope of `command` is.
fn classes_of(command: &Command) -> Arc<Classes> {
    Arc::new(crate::schemas::classes(command))
}

/// The gap for a limit that was reached.
fn reached(refusal: Refusal) -> Gap {
    Gap::new("", refusal.reason()).detail(refusal.to_string()).remedy(refusal.remedy())
}

impl<'a> Look<'a> {
    /// Begins `command` with the options in `matches`, and finds its target.
    ///
    /// # Errors
    ///
    /// When there is no such target, or proc(5) cannot be opened.
    pub(crate) fn begin(
        command: &'a Command,
        matches: &'a ArgMatches,
        session: Session,
        plan: Plan,
        since: Began,
    ) -> Result<Self, Stopped> {
        let mut run = Run::begin(session, plan)?;
        let refused = match command.target {
            TargetUse::None => None,
            _ => aim(&mut run, command, matches).err().map(|error| no_target(&run, &error)),
        };
        match refused {
            Some(stopped) if !stopped.has_envelope() => Err(stopped),
            refused => Ok(Self::confined((command, matches), run, since, refused)),
        }
    }

    /// Begins `command`, of which nothing is looked at because of `why`.
    ///
    /// # Errors
    ///
    /// When proc(5) cannot be opened.
    pub(crate) fn refused(
        command: &'a Command,
        matches: &'a ArgMatches,
        session: Session,
        (plan, since): (Plan, Began),
        why: Stopped,
    ) -> Result<Self, Stopped> {
        let run = Run::begin(session, Plan { capabilities: Capabilities::default(), needs: Vec::new(), ..plan })?;
        Ok(Self::confined((command, matches), run, since, Some(why)))
    }

    fn confined(
        (command, matches): (&'a Command, &'a ArgMatches),
        run: Run,
        since: Began,
        refused: Option<Stopped>,
    ) -> Self {
        run.confine();
        Self {
            command,
            matches,
            run,
            classes: None,
            sequence: 0,
            since,
            noted: Vec::new(),
            written_bytes: 0,
            kept_back_bytes: 0,
            keeps_json: false,
            is_stream_full: Arc::default(),
            refused,
            render: None,
        }
    }

    /// From now on `is_full` says that what the collector writes itself was cut off.
    pub(crate) fn watch_stream(&mut self, is_full: Arc<AtomicBool>) {
        self.is_stream_full = is_full;
    }

    /// The data of its envelopes is printed as JSON.
    pub(crate) fn keep_json(&mut self) {
        self.keeps_json = true;
    }

    /// Puts `gap`, if there is one, into the next envelope.
    pub(crate) fn note(&mut self, gap: Option<Gap>) {
        self.noted.extend(gap);
    }

    /// Looks as often as the options ask, and hands each envelope to `tell`, which says whether anybody
    /// still listens. Where a limit, a rule or a denial comes before anything can be told, the last one has no data.
    ///
    /// # Errors
    ///
    /// When a look gave no envelope or one without data, or `tell` failed.
    pub(crate) fn each(
        &mut self,
        mut tell: impl FnMut(&Printed<'_>, &Answer, &[Entry]) -> anyhow::Result<Ended>,
    ) -> Result<(), Stopped> {
        match self.look_on(&mut tell) {
            Err(stopped) if stopped.has_envelope() && !stopped.is_told => {
                let options = (self.command.options)(self.matches)?;
                let gaps = stopped.gap.iter().map(|gap| (**gap).clone()).chain(std::mem::take(&mut self.noted));
                let mut answer = Answer { options, data: Box::new(()), gaps: gaps.collect() };
                self.tell(&mut answer, &mut tell)?;
                let status = if stopped.status == Status::NoTarget { Status::NoTarget } else { Status::Refused };
                Err(Stopped { status, is_told: true, ..stopped })
            }
            ended => ended,
        }
    }

    fn look_on(
        &mut self,
        mut tell: &mut impl FnMut(&Printed<'_>, &Answer, &[Entry]) -> anyhow::Result<Ended>,
    ) -> Result<(), Stopped> {
        let began_us = self.since.boot_us;
        let watch = (self.command.watch)(self.matches);
        let Some(looks) = watch.looks() else {
            let mut answer = self.gather()?;
            self.tell(&mut answer, &mut tell)?;
            return Ok(());
        };
        self.kept_back_bytes = WITHOUT_DATA;
        // Each look is compared with the one before; the first is for that only.
        let mut before: Option<(u64, Answer)> = None;
        for look in 0..=u64::from(looks) {
            let interval_us = u64::try_from(watch.interval().as_micros()).unwrap_or(u64::MAX);
            let due_us = began_us.saturating_add(interval_us * look);
            if let Err(failure) = self.run.wait(Duration::from_micros(due_us.saturating_sub(clock::boot_us()))) {
                let status = if failure.is_refused() { Status::Refused } else { Status::Failed };
                let words = format!("after {} looks: {failure}", self.sequence);
                return Err(Stopped::new(status, words, Some(self.run.gap("", &failure))));
            }
            // Putting together and printing the last one has used CPU time as well.
            self.run.rest();
            let at_us = clock::boot_us();
            let mut answer = self.gather()?;
            if let Some((before_us, earlier)) = &before {
                let elapsed = Duration::from_micros(at_us.saturating_sub(*before_us));
                (self.command.compare)(&*earlier.data, &mut *answer.data, elapsed);
                let ended = self.tell(&mut answer, &mut tell)?;
                // What was left out cannot be compared with what comes next.
                if ended == Ended::Closed || self.run.session().reached().any(|limit| limit == Refusal::Output) {
                    return Ok(());
                }
            }
            before = Some((at_us, answer));
        }
        Ok(())
    }

    /// Looks once, and gives the envelope as JSON.
    ///
    /// # Errors
    ///
    /// When no envelope is possible.
    pub(crate) fn value(&mut self) -> Result<Value, Stopped> {
        let mut answer = self.gather()?;
        let mut value = Value::Null;
        self.tell(&mut answer, &mut |envelope, _, _| {
            value = serde_json::to_value(envelope).context("the envelope has no JSON")?;
            Ok(Ended::Whole)
        })?;
        Ok(value)
    }

    /// The run that it looks through.
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// Looks once.
    fn gather(&mut self) -> Result<Answer, Stopped> {
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        self.get_ready();
        let collected = (self.command.collect)(&self.run, self.matches);
        agent_system::stop::settle();
        let mut gaps = std::mem::take(&mut self.noted);
        gaps.extend(self.run.refused());
        if self.is_stream_full.load(Relaxed) {
            self.run.session().reach(Refusal::Output);
        }
        let mut answer = match collected {
            Ok(answer) => answer,
            Err(failure) => {
                self.noted = gaps;
                return Err(self.failed(&failure));
            }
        };
        answer.gaps.extend(gaps);
        // Whatever a collector made of it: that a limit was reached is told.
        if !was_refused(&answer.gaps) {
            answer.gaps.extend(self.run.session().reached().map(reached));
        }
        Ok(answer)
    }

    /// Why there is nothing to tell where a collector has failed.
    fn failed(&mut self, failure: &Failure) -> Stopped {
        let gap = self.run.gap("", failure);
        // What has failed thereafter is not why.
        if let Some(limit) = self.run.session().reached().next().filter(|_| !failure.is_refused()) {
            self.noted.push(gap);
            return Stopped::new(Status::Refused, failure.to_string(), Some(reached(limit)));
        }
        let (status, words) = match failure {
            // The target went away before anything could be seen of it.
            failure if failure.is_exited() => (Status::NoTarget, format!("the target has ended: {failure}")),
            failure if failure.is_refused() => (Status::Refused, failure.to_string()),
            failure => {
                let remedy = gap.remedy.as_ref().map(|remedy| format!("\n  {remedy}")).unwrap_or_default();
                (Status::Failed, format!("{failure}{remedy}"))
            }
        };
        Stopped::new(status, words, Some(gap))
    }

    /// Puts `answer` into the next envelope and hands it to `tell`.
    fn tell(
        &mut self,
        answer: &mut Answer,
        tell: &mut impl FnMut(&Printed<'_>, &Answer, &[Entry]) -> anyhow::Result<Ended>,
    ) -> Result<Ended, Stopped> {
        let run = &self.run;
        let kept_back = if answer.data.is_absent() { 0 } else { self.kept_back_bytes };
        let most = run.session().limits().out_bytes.saturating_sub(self.written_bytes + kept_back);
        let (redactor, command) = (run.session().redactor(), self.command);
        let classes = &**self.classes.get_or_insert_with(|| classes_of(command));
        let place = |field| classes.field(Some(classes.root()), field);
        // Where memory is short, time is not.
        let room = WITHIN.min(run.session().limits().rss_bytes / 2).saturating_sub(allocator::live_bytes());
        let is_short = run.session().reached().any(|limit| limit == Refusal::Memory);
        let kept = if self.keeps_json && !is_short { MOST_KEPT.min(room) as usize } else { 0 };
        // It counts anew what is removed.
        let sealed = |answer: &Answer| {
            let data = Redacted::new(&*answer.data, redactor, classes, place("data"));
            data.seal(kept).context("the answer has no canonical form")
        };
        let mut seal = sealed(answer)?;
        let is_less = match fit(answer, most, seal.bytes) {
            Ok((bytes, is_less)) => {
                self.written_bytes += bytes;
                is_less
            }
            // It must be told: it is as long as the command line makes it.
            Err(bytes) if answer.data.is_absent() => {
                self.written_bytes += bytes;
                false
            }
            Err(bytes) => {
                let refusal = run.session().reach(Refusal::Output);
                let words = format!("{refusal}: the answer has {bytes} bytes of {most}\n  {}", refusal.remedy());
                return Err(Stopped::new(Status::Refused, words, Some(reached(refusal))));
            }
        };
        if is_less {
            run.session().reach(Refusal::Output);
            seal = sealed(answer)?;
        }
        self.sequence += 1;
        let end_us = clock::wall_us();
        let since = std::mem::replace(&mut self.since, Began { boot_us: clock::boot_us(), wall_us: end_us });
        let spent = run.ledger().spent();
        let Seal { digest, json, .. } = seal;
        let data = Known { data: Redacted::new(&*answer.data, redactor, classes, place("data")), json };
        let options = Redacted::new(&*answer.options, redactor, classes, place("options"));
        let options = serde_json::to_value(&options).context("the options have no JSON")?;
        let resource = resource::attributes(run);
        let resource = resource.into_iter().map(|(key, value)| (key, redactor.shown(Class::Text, &value))).collect();
        let envelope = Envelope {
            schema: self.command.schema_name(),
            session: run.session().info().clone(),
            sequence: self.sequence,
            agent: version::info(),
            resource,
            target: run.target().map(|target| redactor.target(target)),
            observed: Observed { start: clock::rfc3339(since.wall_us), end: clock::rfc3339(end_us) },
            cost: Cost {
                wall_us: clock::boot_us().saturating_sub(since.boot_us),
                cpu_us: clock::cpu_us(),
                peak_rss_kib: own::peak_rss_kib(),
                target_stopped_us: spent.stopped_us,
                stops: spent.stops,
                longest_stop_us: spent.longest_stop_us,
                signals_seen: spent.signals_seen,
                files_opened: spent.opened,
                bytes_read: spent.bytes,
            },
            options: &options as &dyn erased_serde::Serialize,
            digest,
            data: &data as &dyn agent_model::Shown,
            gaps: answer.gaps.iter().map(|gap| redactor.gap(gap)).collect(),
            redaction: redactor.take_report(),
        };
        if self.render.is_some() {
            // What is begun cannot be begun again.
            allocator::forget(Last::Answer);
        }
        Ok(tell(&envelope, &*answer, &run.ledger().take_entries())?)
    }
}

/// Finds the target that the command line means, and aims at it.
fn aim(run: &mut Run, command: &Command, matches: &ArgMatches) -> Result<(), TargetError> {
    let options = cli::TargetOptions::from_arg_matches(matches).unwrap_or_default();
    match target::find(run, &options.selector(), command.name) {
        Ok(pid) => Ok(run.aim(pid)?),
        // A whole namespace can be looked at although nobody said which container.
        Err(TargetError::Ambiguous { .. } | TargetError::Hidden(_)) if command.target == TargetUse::Optional => Ok(()),
        Err(error) => Err(error),
    }
}

fn no_target(run: &Run, error: &TargetError) -> Stopped {
    let mut words = error.to_string();
    let mut gap = None;
    let status = match error {
        TargetError::Failed(failure) => {
            gap = Some(run.gap("", failure));
            match failure {
                failure if failure.is_refused() => Status::Refused,
                failure if failure.is_exited() || failure.is_not_found() => Status::NoTarget,
                _ => Status::Failed,
            }
        }
        TargetError::Ambiguous { candidates, .. } => {
            for candidate in candidates {
                let container = candidate.container_id.as_deref().unwrap_or("-");
                words.push_str(&format!("\n  --pid {}  {}  container {container}", candidate.pid, candidate.name));
            }
            Status::NoTarget
        }
        // Whether it is there cannot be told, and why is.
        TargetError::Hidden(hidden) | TargetError::NotVisible(_, hidden) => {
            gap = Some(run.gap("", hidden));
            Status::NoTarget
        }
        TargetError::NotFound(_) | TargetError::Alone(_) => Status::NoTarget,
    };
    Stopped::new(status, words, gap)
}
