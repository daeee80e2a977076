//! The front door: argv to run to collector to envelope to output to exit status.
//!
//! Nothing is decided here that a crate behind it could decide; see
//! ARCHITECTURE.md for one command's way through it.

mod cli;
mod resource;
mod snapshot;
mod stream;
mod verdict;
mod version;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use agent_model::{Cost, Envelope, Observed};
use agent_output::{Ended, Format};
use agent_session::{Identity, Limits, Session};
use agent_system::collector::TargetUse;
use agent_system::{Command, Plan, Run, TargetError, clock, own, target};
use anyhow::Context;
use clap::{ArgMatches, FromArgMatches};

use crate::verdict::{Status, Verdict};

/// The commands of all toolkits, in the order of the help.
fn commands() -> impl Iterator<Item = &'static Command> {
    const OWN: &[Command] =
        &[agent_system::command::<snapshot::Snapshot>(), agent_system::command::<version::Version>()];
    [
        agent_process::COMMANDS,
        agent_memory::COMMANDS,
        agent_stacks::COMMANDS,
        agent_binaries::COMMANDS,
        agent_network::COMMANDS,
        OWN,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let matches = match cli::command_line(commands(), &argv).try_get_matches_from(&argv) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let Some((name, matches)) = matches.subcommand() else { return Status::Usage.into() };
    if name == "schema" {
        return print_schema(matches);
    }
    let Some(command) = commands().find(|command| command.name == name) else { return Status::Usage.into() };
    match answer(command, matches) {
        Ok(status) => status.into(),
        Err(error) => {
            agent_output::tell(&format!("{error:#}"));
            Status::Failed.into()
        }
    }
}

/// Help and version go to standard output and are no error.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        agent_output::tell(error.to_string().trim_start_matches("error: ").trim_end());
        return Status::Usage.into();
    }
    printed(agent_output::print_text(&error.to_string()))
}

fn print_schema(matches: &ArgMatches) -> ExitCode {
    let pretty = std::io::stdout().is_terminal();
    let result = match matches.get_one::<String>("command") {
        Some(name) => {
            let schema = commands().find(|command| command.name == *name).map(|command| (command.schema)());
            agent_output::print_value(&schema, pretty)
        }
        None => {
            let all: serde_json::Map<String, serde_json::Value> =
                commands().map(|command| (command.schema_name(), (command.schema)().into())).collect();
            agent_output::print_value(&all, pretty)
        }
    };
    printed(result)
}

/// The exit status of what has no envelope.
fn printed(result: std::io::Result<Ended>) -> ExitCode {
    match result {
        Ok(_) => Status::Complete.into(),
        Err(error) => {
            agent_output::tell(&format!("standard output: {error}"));
            Status::Failed.into()
        }
    }
}

/// Answers one command: everything from here on is tagged with its session.
fn answer(command: &Command, matches: &ArgMatches) -> anyhow::Result<Status> {
    let global = cli::Global::from_arg_matches(matches)?;
    let began_us = clock::boot_us();
    let lasts = (command.lasts)(matches);
    let (session, start) = match open_session(&global, began_us, lasts) {
        Ok(session) => (session, clock::wall_us()),
        Err(error) => {
            agent_output::tell(&format!("{error:#}"));
            return Ok(Status::Usage);
        }
    };
    let chosen = match global.output.as_deref().map(|name| cli::Chosen::of(name, command)).transpose() {
        Ok(chosen) => chosen,
        Err(text) => {
            agent_output::tell(&text);
            return Ok(Status::Usage);
        }
    };
    let mut verdict = Verdict::new(session.info(), command);
    let status = look(command, matches, (&global, chosen), session, (began_us, start), &mut verdict)?;
    verdict.leave(status);
    Ok(status)
}

fn open_session(global: &cli::Global, now_us: u64, lasts: Duration) -> anyhow::Result<Session> {
    let id = global.session.clone().unwrap_or_else(new_session_id);
    let identity = Identity::new(&id)?
        .incident(global.incident.as_deref())?
        .actor(global.actor.as_deref())?
        .traceparent(global.traceparent.as_deref())?;
    let timeout_us = u64::try_from(global.timeout.saturating_add(lasts).as_micros()).unwrap_or(u64::MAX);
    let limits = Limits { deadline_us: now_us.saturating_add(timeout_us) };
    Ok(Session::open(identity, limits, global.access_log))
}

/// A new ULID: its time first, so that sessions sort by when they began.
fn new_session_id() -> String {
    let mut random = [0_u8; 16];
    own::random(&mut random);
    ulid::Ulid::from_parts(clock::wall_us() / 1000, u128::from_ne_bytes(random)).to_string()
}

fn look(
    command: &Command,
    matches: &ArgMatches,
    (global, chosen): (&cli::Global, Option<cli::Chosen>),
    session: Session,
    (began_us, start_us): (u64, u64),
    verdict: &mut Verdict,
) -> anyhow::Result<Status> {
    let extra = match chosen {
        Some(cli::Chosen::Extra(name)) => Some(name),
        _ => None,
    };
    let streamed = chosen.and_then(|chosen| chosen.streamed(command)).map(|format| {
        let stream = agent_output::Streamed::new(command.schema_name(), session.info().id.clone());
        (format, stream)
    });
    let plan = Plan {
        proc: global.proc.clone(),
        capabilities: command.capabilities.iter().copied().collect(),
        format: extra,
        stream: streamed.as_ref().map(|(format, stream)| stream::to(format, stream)),
    };
    let mut run = Run::begin(session, plan)?;
    if command.target != TargetUse::None
        && let Err(error) = aim(&mut run, command, matches)
    {
        return no_target(&error);
    }
    let mut teller = Teller { command, global, chosen, streamed, sequence: 0, since: (began_us, start_us), verdict };
    let watch = (command.watch)(matches);
    let Some(looks) = watch.looks() else {
        return match gather(&run, command, matches)? {
            Ok(answer) => Ok(teller.tell(&run, &answer)?.0),
            Err(status) => Ok(status),
        };
    };
    // Each look is compared with the one before; the first is for that only.
    let mut before: Option<(u64, agent_system::Answer)> = None;
    let mut worst = Status::Complete;
    for look in 0..=u64::from(looks) {
        let due_us = began_us.saturating_add(u64::try_from(watch.interval().as_micros()).unwrap_or(u64::MAX) * look);
        if let Err(failure) = run.wait(Duration::from_micros(due_us.saturating_sub(clock::boot_us()))) {
            agent_output::tell(&format!("after {} looks: {failure}", teller.sequence));
            return Ok(if failure.is_refused() { Status::Refused } else { Status::Failed });
        }
        let at_us = clock::boot_us();
        let mut answer = match gather(&run, command, matches)? {
            Ok(answer) => answer,
            Err(status) => return Ok(status),
        };
        if let Some((before_us, earlier)) = &before {
            let elapsed = Duration::from_micros(at_us.saturating_sub(*before_us));
            (command.compare)(&*earlier.data, &mut *answer.data, elapsed);
            let (status, ended) = teller.tell(&run, &answer)?;
            worst = worst.max(status);
            if ended == Ended::Closed {
                return Ok(Status::Complete);
            }
        }
        before = Some((at_us, answer));
    }
    Ok(worst)
}

/// Looks once; the exit status where there is nothing to print.
fn gather(run: &Run, command: &Command, matches: &ArgMatches) -> anyhow::Result<Result<agent_system::Answer, Status>> {
    let collected = (command.collect)(run, matches);
    run.settle();
    match collected {
        Ok(answer) => Ok(Ok(answer)),
        // The target went away before anything could be seen of it.
        Err(failure) if failure.is_exited() => {
            agent_output::tell(&format!("the target has ended: {failure}"));
            Ok(Err(Status::NoTarget))
        }
        Err(failure) if failure.is_refused() => {
            agent_output::tell(&failure.to_string());
            Ok(Err(Status::Refused))
        }
        Err(failure) => {
            let gap = run.gap("", &failure);
            let remedy = gap.remedy.map(|remedy| format!("\n  {remedy}")).unwrap_or_default();
            Err(anyhow::anyhow!("{failure}{remedy}"))
        }
    }
}

/// Puts answers into envelopes and prints them.
struct Teller<'a> {
    command: &'a Command,
    global: &'a cli::Global,
    chosen: Option<cli::Chosen>,
    streamed: Option<(&'static str, agent_output::Streamed)>,
    /// How many were printed.
    sequence: u64,
    /// When the look began, on the clock that only goes on and on the one on the wall.
    since: (u64, u64),
    verdict: &'a mut Verdict,
}

impl Teller<'_> {
    /// Prints `answer` as the next envelope.
    fn tell(&mut self, run: &Run, answer: &agent_system::Answer) -> anyhow::Result<(Status, Ended)> {
        self.sequence += 1;
        let end_us = clock::wall_us();
        let (began_us, start_us) = std::mem::replace(&mut self.since, (clock::boot_us(), end_us));
        let spent = run.ledger().spent();
        let envelope = Envelope {
            schema: self.command.schema_name(),
            session: run.session().info().clone(),
            sequence: self.sequence,
            agent: version::info(),
            resource: resource::attributes(run),
            target: run.target().cloned(),
            observed: Observed { start: clock::rfc3339(start_us), end: clock::rfc3339(end_us) },
            cost: Cost {
                wall_us: clock::boot_us().saturating_sub(began_us),
                cpu_us: clock::cpu_us(),
                peak_rss_kib: own::peak_rss_kib(),
                target_stopped_us: spent.stopped_us,
                stops: spent.stops,
                files_opened: spent.opened,
                bytes_read: spent.bytes,
            },
            options: &*answer.options as &dyn erased_serde::Serialize,
            digest: agent_model::digest(&*answer.data).context("the answer has no canonical form")?,
            data: &*answer.data,
            gaps: answer.gaps.clone(),
        };
        self.verdict.saw(&envelope);
        let printed = self.print(&envelope, answer);
        for entry in run.ledger().take_entries() {
            agent_output::log(&serde_json::json!({
                "session": run.session().info().id, "access": entry.access.as_str(), "path": agent_model::Text::from(entry.path.as_str()),
            }));
        }
        match printed.context("standard output")? {
            Ended::Closed => Ok((Status::Complete, Ended::Closed)),
            Ended::Whole => Ok((Status::of(&envelope.gaps, self.global.allow_gaps), Ended::Whole)),
        }
    }

    fn print(&mut self, envelope: &agent_output::Printed<'_>, answer: &agent_system::Answer) -> std::io::Result<Ended> {
        let is_terminal = std::io::stdout().is_terminal();
        let width = if is_terminal { own::terminal_width() } else { None };
        let usual = if is_terminal { Format::Table } else { Format::Json };
        match self.chosen.unwrap_or(cli::Chosen::Common(usual)) {
            _ if self.streamed.is_some() => self
                .streamed
                .take()
                .map_or(Ok(Ended::Whole), |(format, stream)| stream.end(envelope, format == "ndjson")),
            cli::Chosen::Common(format) => agent_output::print(envelope, format, &(self.command.schema)(), width),
            cli::Chosen::Extra(name) => {
                agent_output::print_with(|out| (self.command.write)(name, envelope, &*answer.data, out))
            }
        }
    }
}

/// Finds the target that the command line means, and aims at it.
fn aim(run: &mut Run, command: &Command, matches: &ArgMatches) -> Result<(), TargetError> {
    let options = cli::TargetOptions::from_arg_matches(matches).unwrap_or_default();
    match target::find(run, &options.selector(), command.name) {
        Ok(pid) => Ok(run.aim(pid)?),
        // A whole namespace can be looked at although nobody said which container.
        Err(TargetError::Ambiguous { .. } | TargetError::Hidden) if command.target == TargetUse::Optional => Ok(()),
        Err(error) => Err(error),
    }
}

fn no_target(error: &TargetError) -> anyhow::Result<Status> {
    let mut text = error.to_string();
    match error {
        TargetError::Failed(failure) if failure.is_refused() => {
            agent_output::tell(&text);
            return Ok(Status::Refused);
        }
        TargetError::Failed(failure) if !failure.is_exited() && !failure.is_not_found() => {
            return Err(anyhow::anyhow!("{failure}"));
        }
        TargetError::Ambiguous { candidates, .. } => {
            for candidate in candidates {
                let container = candidate.container_id.as_deref().unwrap_or("-");
                text.push_str(&format!("\n  --pid {}  {}  container {container}", candidate.pid, candidate.name));
            }
        }
        _ => {}
    }
    agent_output::tell(&text);
    Ok(Status::NoTarget)
}
