//! Performs the steps of a scenario: each is a command with a session of its own within that of the run.

use std::ffi::OsString;
use std::time::Duration;

use agent_model::Gap;
use agent_scenario::diff::Schemas;
use agent_scenario::{Action, Artifact, Failed, Host, InBundle, Plan, Progress};
use agent_session::redact::Class;
use agent_session::{Allowance, Refusal};
use agent_system::collector::TargetUse;
use agent_system::interrupt::{self, Interrupted, Interrupts};
use agent_system::{Cause, Collector, Command, Failure, Kept, Run, clock};
use clap::ArgMatches;
use serde_json::Value;

use super::run::RunScenario;
use crate::look::{Began, Look, Stopped};
use crate::{bundles, cli};

/// What performs the steps.
pub(crate) struct Performer<'a> {
    run: &'a Run,
    interrupts: Interrupts,
    bytes: u64,
    stops: u64,
}

impl<'a> Performer<'a> {
    /// For a run with so many bytes and stops to spend.
    ///
    /// # Errors
    ///
    /// When signals cannot be watched for.
    pub(crate) fn new(run: &'a Run, plan: &Plan) -> Result<Self, Failure> {
        Ok(Self { run, interrupts: Interrupts::watch(run)?, bytes: plan.bytes, stops: plan.stops })
    }

    /// Whether the run must end.
    fn ended(&mut self, patience: Duration) -> Option<Failed> {
        let signal = |name: &str| ends("limit_reached", &format!("{name} ended the run"));
        if let Some(name) = interrupt::has_come() {
            return Some(signal(name));
        }
        match self.interrupts.pause(patience) {
            None => None,
            Some(Interrupted::Signal(name)) => Some(signal(name)),
            Some(Interrupted::TargetExited) => Some(ends("exited", "the target has ended")),
        }
    }
}

fn ends(reason: &str, words: &str) -> Failed {
    Failed { reason: reason.to_owned(), words: words.to_owned(), remedy: None, ends: true }
}

/// The command `name` with `arguments`, as if on a command line of its own; `target` is that of the run.
///
/// # Errors
///
/// When there is no such command, or its options are others.
pub(crate) fn command(
    name: &str,
    arguments: &[String],
    target: Option<u32>,
) -> Result<(&'static Command, ArgMatches), Failure> {
    let wrong = |words: String| Failure::new(format!("agent {name}").as_str(), Cause::Invalid(words));
    let found = crate::commands().find(|command| command.name == name);
    // A scenario within a scenario would have a budget beside that of the first.
    let found = found.filter(|_| !super::COMMANDS.iter().any(|own| own.name == name));
    let found = found.ok_or_else(|| wrong("there is no such command for a step".to_owned()))?;
    let mut argv: Vec<OsString> = vec!["agent".into(), name.into()];
    argv.extend(arguments.iter().map(OsString::from));
    argv.push("--output=json".into());
    if let Some(target) = target.filter(|_| found.target != TargetUse::None) {
        argv.push(format!("--pid={target}").into());
    }
    let mut matches = cli::parse(crate::commands(), &argv).map_err(|error| {
        let text = error.to_string();
        wrong(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
    })?;
    match matches.remove_subcommand() {
        Some((_, matches)) => Ok((found, matches)),
        None => Err(wrong("it is no command".to_owned())),
    }
}

/// That every step is a command with options that it has.
///
/// # Errors
///
/// When one is not.
pub(crate) fn check(plan: &Plan) -> Result<(), Failure> {
    for step in &plan.steps {
        if let Action::Collect { command: name, arguments, .. } = &step.action {
            command(name, arguments, Some(1)).map_err(|failure| {
                Failure::new(format!("step {}: {}", step.name, failure.path).as_str(), failure.cause)
            })?;
        }
    }
    Ok(())
}

impl Host for Performer<'_> {
    fn now_us(&mut self) -> u64 {
        clock::boot_us()
    }

    fn collect(&mut self, name: &str, arguments: &[String], deadline_us: u64) -> Result<Value, Failed> {
        if let Some(ended) = self.ended(Duration::ZERO) {
            return Err(ended);
        }
        if self.run.is_over() {
            return Err(ends("limit_reached", "the time limit of this command was reached"));
        }
        let target = self.run.target();
        let looked = self.look(name, arguments, deadline_us);
        let same = |envelope: &Value| {
            let start = envelope["target"]["start_ticks"].as_u64();
            start.is_none() || target.is_none_or(|target| start == Some(target.start_ticks))
        };
        match looked {
            Ok(envelope) if !same(&envelope) => Err(ends("exited", "the target has ended, and its ID is another's")),
            Ok(envelope) => Ok(envelope),
            Err(failed) => Err(failed),
        }
    }

    fn wait(&mut self, time_us: u64) -> Result<(), Failed> {
        if !self.run.is_live() && time_us > 0 {
            return Err(Failed { ends: false, ..ends("unsupported", "in a recorded tree no time goes by") });
        }
        let until_us = clock::boot_us().saturating_add(time_us);
        if self.run.session().ends_by(until_us) {
            return Err(ends("limit_reached", "the time limit of this command was reached"));
        }
        loop {
            let left_us = until_us.saturating_sub(clock::boot_us());
            if let Some(ended) = self.ended(Duration::from_micros(left_us)) {
                return Err(ended);
            }
            if clock::boot_us() >= until_us {
                return Ok(());
            }
        }
    }

    fn schemas(&self) -> Schemas {
        bundles::schemas()
    }

    fn keep(&mut self, artifact: &mut Artifact) -> Result<(), Failed> {
        let Some(keep) = self.run.keep() else { return Ok(()) };
        let unkept = |error: std::io::Error| {
            self.run.session().reach(Refusal::Output);
            ends("limit_reached", &format!("the bundle: {error}"))
        };
        let Kept { path, sha256 } = keep.artifact(&artifact.name, &artifact.envelope).map_err(unkept)?;
        artifact.file = Some(InBundle { path, sha256 });
        Ok(())
    }

    fn tell(&mut self, progress: &Progress<'_>) {
        let look = match progress.look {
            Some((look, Some(of))) => format!(" ({look} of {of})"),
            Some((look, None)) => format!(" (look {look})"),
            None => String::new(),
        };
        let text = format!("{}: {}{look}", progress.name, progress.does);
        // One line a step where lines stay: its later looks only move the bar.
        agent_output::progress(progress.step - 1, progress.of, &text, progress.look.is_none_or(|look| look.0 == 1));
    }
}

impl Performer<'_> {
    fn look(&mut self, name: &str, arguments: &[String], deadline_us: u64) -> Result<Value, Failed> {
        let (command, matches) = command(name, arguments, self.run.target().map(|target| target.pid))
            .map_err(|failure| Failed { ends: false, ..ends("malformed", &failure.to_string()) })?;
        let session = self.run.session().step(Allowance { deadline_us, bytes: self.bytes, stops: self.stops });
        let plan = agent_system::Plan {
            proc: self.run.recorded().map(str::to_owned),
            // The process was confined to these for good when the run began.
            capabilities: RunScenario::CAPABILITIES.iter().copied().collect(),
            needs: RunScenario::NEEDS.to_vec(),
            remote_files: self.run.remote_files(),
            ..agent_system::Plan::default()
        };
        // It gets into sentences, and these are shown as they are.
        let redactor = self.run.session().redactor();
        let failed = |stopped: Stopped| {
            let failed = failed(stopped);
            Failed { words: redactor.text(Class::Text, &failed.words).into_owned(), ..failed }
        };
        let mut look = Look::begin(command, &matches, session, plan, Began::now()).map_err(failed)?;
        let value = look.value().map_err(failed);
        let spent = look.run().ledger().spent();
        self.bytes = self.bytes.saturating_sub(spent.bytes);
        self.stops = self.stops.saturating_sub(spent.stops);
        // That a step came to its deadline is the script's own affair; all else is the run's.
        for limit in look.run().session().reached().filter(|limit| *limit != Refusal::Deadline) {
            self.run.session().reach(limit);
        }
        value
    }
}

fn failed(stopped: Stopped) -> Failed {
    let gap: Option<Gap> = stopped.gap.map(|gap| *gap);
    let reason = gap.as_ref().and_then(|gap| serde_json::to_value(gap.reason).ok());
    let reason = reason.as_ref().and_then(Value::as_str).unwrap_or("incomplete").to_owned();
    let words = stopped.words.lines().next().unwrap_or_default().to_owned();
    Failed { ends: reason == "exited", reason, words, remedy: gap.and_then(|gap| gap.remedy) }
}
