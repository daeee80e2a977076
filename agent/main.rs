//! The front door: argv to run to collector to envelope to output to exit status.
//!
//! Nothing is decided here that a crate behind it could decide; see
//! ARCHITECTURE.md for one command's way through it.

mod audit;
mod bundles;
mod cli;
mod console;
mod fit;
mod hold;
mod look;
mod opening;
mod printer;
#[cfg(test)]
mod privileges;
mod resource;
mod scenarios;
mod schemas;
mod scrub;
mod snapshot;
mod stream;
mod verdict;
mod verify;
mod version;
#[cfg(debug_assertions)]
mod violate;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};

use agent_model::Gap;
use agent_output::{Ended, Format};
use agent_session::Session;
use agent_session::audit::Witness;
use agent_session::redact::{self, Redactor};
use agent_system::collector::TargetUse;
use agent_system::{Collector as _, Command, Plan, own};
use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};

use crate::audit::Audit;
use crate::hold::Link;
use crate::look::{Began, Look, Stopped};
use crate::opening::open_session;
use crate::printer::Printer;
use crate::verdict::{Status, Verdict};

/// Counts what the agent uses, so that it stops before the pod's limit does it.
#[global_allocator]
static ALLOCATOR: agent_system::allocator::Counting = agent_system::allocator::Counting;

/// The commands of all toolkits, in the order of the help.
pub(crate) fn commands() -> impl Iterator<Item = &'static Command> + Clone {
    const OWN: &[Command] = &[
        agent_system::command::<snapshot::Snapshot>(),
        agent_system::command::<verify::Audit>(),
        agent_system::command::<verify::Redact>(),
        agent_system::command::<version::Version>(),
    ];
    // Only test builds try what must be refused.
    #[cfg(debug_assertions)]
    const VIOLATIONS: &[Command] =
        &[agent_system::command::<violate::Violate<true>>(), agent_system::command::<violate::Violate<false>>()];
    #[cfg(not(debug_assertions))]
    const VIOLATIONS: &[Command] = &[];
    [
        agent_process::COMMANDS,
        agent_memory::COMMANDS,
        agent_stacks::COMMANDS,
        agent_binaries::COMMANDS,
        agent_network::COMMANDS,
        scenarios::COMMANDS,
        bundles::COMMANDS,
        hold::COMMANDS,
        OWN,
        VIOLATIONS,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    agent_system::confine::begin();
    perform(bundles::as_tar(std::env::args_os().collect())).into()
}

/// The command line that is performed.
static ARGV: RwLock<Vec<OsString>> = RwLock::new(Vec::new());

/// Performs one command line.
pub(crate) fn perform(argv: Vec<OsString>) -> Status {
    ARGV.write().unwrap_or_else(PoisonError::into_inner).clone_from(&argv);
    let argv = &argv;
    let matches = match cli::parse(commands(), argv) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let Some((name, matches_of)) = matches.subcommand() else {
        // Where nobody sits there the container is to stay.
        return if std::io::stdin().is_terminal() { console::run(&matches) } else { hold::run(&matches) };
    };
    if matches.value_source(hold::TTL) == Some(ValueSource::CommandLine) {
        agent_output::tell(
            "a command has no --ttl of its own: agent hold --ttl, or a console or hold without a command",
        );
        return Status::Usage;
    }
    let matches = matches_of;
    if name == hold::NAME {
        return hold::run(matches);
    }
    if name == "schema" {
        agent_system::confine::alone(&[]);
        return print_schema(matches);
    }
    let Some(command) = commands().find(|command| command.name == name) else { return Status::Usage };
    match answer(command, matches) {
        Ok(status) => status,
        Err(error) => {
            agent_output::tell(&format!("{error:#}"));
            Status::Failed
        }
    }
}

/// Help and version go to standard output and are no error.
pub(crate) fn usage(error: &clap::Error) -> Status {
    if error.use_stderr() {
        agent_output::tell(error.to_string().trim_start_matches("error: ").trim_end());
        return Status::Usage;
    }
    printed(agent_output::print_text(&error.to_string()))
}

fn print_schema(matches: &ArgMatches) -> Status {
    let pretty = std::io::stdout().is_terminal();
    let result = match matches.get_one::<String>("command") {
        Some(name) => {
            let schema = commands().find(|command| command.name == *name).map(schemas::of);
            agent_output::print_value(&schema, pretty)
        }
        None => {
            let all: serde_json::Map<String, serde_json::Value> =
                commands().map(|command| (command.schema_name(), schemas::of(command).into())).collect();
            agent_output::print_value(&all, pretty)
        }
    };
    printed(result)
}

/// How what has no envelope ends.
fn printed(result: std::io::Result<Ended>) -> Status {
    match result {
        Ok(_) => Status::Complete,
        Err(error) => {
            agent_output::tell(&format!("standard output: {error}"));
            Status::Failed
        }
    }
}

/// Answers one command: everything from here on is tagged with its session.
fn answer(command: &Command, matches: &ArgMatches) -> anyhow::Result<Status> {
    let global = cli::Global::from_arg_matches(matches)?;
    let began = Began::now();
    let lasts = (command.lasts)(matches);
    let is_of_session =
        command.target != TargetUse::None || hold::has_standing(command) || bundles::brings_out(command.name);
    // As it was asked for: the hold decides.
    let link = match is_of_session.then(|| hold::join(command.name, global.redact.level())).transpose() {
        Ok(link) => link.flatten(),
        Err(error) => {
            agent_output::tell(&error.0);
            return Ok(Status::Refused);
        }
    };
    let words = link.as_ref().and_then(|link| link.contradicts(global.session.as_deref(), global.incident.as_deref()));
    if let Some(words) = words {
        agent_output::tell(&words);
        return Ok(Status::Usage);
    }
    let session = match open_session(&global, Some(command), (began.boot_us, lasts), link.as_ref()) {
        Ok((session, _)) => session,
        Err(error) => {
            agent_output::tell(&format!("{error:#}"));
            return Ok(Status::Usage);
        }
    };
    let usual = command.usual.filter(|_| !std::io::stdout().is_terminal());
    let chosen = match global.output.as_deref().or(usual).map(|name| cli::Chosen::of(name, command)).transpose() {
        Ok(chosen) => chosen,
        Err(text) => {
            agent_output::tell(&text);
            return Ok(Status::Usage);
        }
    };
    if let (Some(cli::Chosen::Extra(name)), cli::Redact::Strict) = (chosen, global.redact) {
        agent_output::tell(&format!(
            "{name} knows no pseudonyms: with --redact strict there are json, ndjson and table"
        ));
        return Ok(Status::Usage);
    }
    if bundles::reads_kept(command) {
        hold::take();
    }
    let shown = argv(command, session.redactor());
    let opened = bundles::open(&global, chosen, command, (&session, link.as_ref()), (&shown, began.wall_us));
    let bundles::Opened { bundle, gap: unkept } = match opened {
        Ok(opened) => opened,
        Err(error) => {
            agent_output::tell(&format!("{error:#}"));
            return Ok(Status::Usage);
        }
    };
    // Where a session is held its hold alone writes there, and is found there, also by what is none of its commands.
    let is_held = link.is_some() || (!is_of_session && hold::is_held());
    let mut verdict = if is_held { Verdict::of_hold(session.info()) } else { Verdict::new(session.info(), command) };
    let level = session.redactor().level().as_str();
    let number = link.as_ref().map_or(1, Link::action);
    let denied = link.as_ref().and_then(Link::denied);
    let opened = match link {
        // The hold has recorded it already; what is in a bundle has a chain as well.
        Some(_) if denied.is_some() => Ok(Audit::Alone(Box::new(audit::Lines::silent(session.info(), level, None)))),
        Some(link) => Ok(Audit::Held(Box::new(audit::Joined::new(link, session.info(), level, bundle.is_some())))),
        None => audit::Lines::open(session.info(), level, (global.audit, bundle.is_some()))
            .map(|lines| Audit::Alone(Box::new(lines))),
    };
    let mut audit = match opened {
        Ok(audit) => audit,
        Err(error) => {
            agent_output::tell(&error.to_string());
            verdict.leave(Status::Refused, None);
            return Ok(Status::Refused);
        }
    };
    if let (Some(bundle), Some(kept)) = (&bundle, audit.kept()) {
        bundle.follow(Arc::clone(kept), session.share_ledger());
    }
    let how = How { global: &global, chosen, bundle, denied, unkept };
    let status = recorded(command, matches, &how, session, began, (&mut verdict, audit.witness(), number));
    let mut status = match audit.close(status) {
        Ok(()) => status,
        Err(_) => Status::Refused,
    };
    let head = audit.head();
    match how.bundle.map(|bundle| bundle.close(head.as_ref(), status)) {
        Some(Ok(bundle)) => {
            if let Err(error) = audit.bundled(bundle) {
                agent_output::tell(&error.to_string());
                status = Status::Refused;
            }
        }
        Some(Err(error)) => {
            agent_output::tell(&format!("the bundle: {error}"));
            status = status.max(Status::Failed);
        }
        None => {}
    }
    verdict.leave(status, head);
    Ok(status)
}

/// How the answer is to be told.
struct How<'a> {
    global: &'a cli::Global,
    chosen: Option<cli::Chosen>,
    bundle: Option<Arc<bundles::Bundle>>,
    /// Why the hold does not let the command begin.
    denied: Option<(String, Gap)>,
    /// Why no bundle is kept.
    unkept: Option<Gap>,
}

impl How<'_> {
    /// Takes what was touched: for the access log, and for the bundle.
    fn touched(&self, session: &agent_model::Text, entries: &[agent_session::Entry]) {
        if self.global.access_log {
            log_accesses(session, entries);
        }
        if let Some(bundle) = &self.bundle {
            bundle.touched(entries);
        }
    }
}

/// The command line as it may be shown.
fn argv(command: &Command, redactor: &Redactor) -> Vec<String> {
    let words = ARGV.read().unwrap_or_else(PoisonError::into_inner);
    let argv: Vec<String> =
        words.iter().map(|word| agent_model::Text::from_bytes(word.as_encoded_bytes()).to_string()).collect();
    // What redaction is tried with is nobody's business.
    let shown = if command.name == verify::Redact::NAME { argv.len().min(3) } else { argv.len() };
    redactor.argv(&argv[..shown])
}

/// Looks, with a record before and after it.
fn recorded(
    command: &Command,
    matches: &ArgMatches,
    how: &How<'_>,
    session: Session,
    began: Began,
    (verdict, audit, number): (&mut Verdict, &mut dyn Witness, u64),
) -> Status {
    let (id, ledger) = (session.info().id.clone(), session.share_ledger());
    let redactor = std::sync::Arc::clone(session.redactor());
    let argv = argv(command, &redactor);
    let bundle = how.bundle.as_ref().map(|bundle| bundle.path());
    let who = (how.global.actor.as_deref(), &argv[1.min(argv.len())..], bundle);
    let mut action = match audit::Action::start(audit, number, command.name, who, &redactor) {
        Ok(action) => action,
        Err(error) => {
            agent_output::tell(&error.to_string());
            return Status::Refused;
        }
    };
    // Cut off at any time, it says what was about to be done.
    if let Some(bundle) = &how.bundle {
        bundle.write_so_far();
    }
    let status = look(command, matches, how, session, began, (verdict, &mut action)).unwrap_or_else(|error| {
        agent_output::tell(&redactor.text(redact::Class::Text, &format!("{error:#}")));
        Status::Failed
    });
    for (access, path) in own::take_opened() {
        ledger.record(access, &path, &redactor);
    }
    how.touched(&id, &ledger.take_entries());
    for file in how.bundle.iter().flat_map(|bundle| bundle.added()) {
        if let Err(error) = action.added(file) {
            agent_output::tell(&error.to_string());
            return Status::Refused;
        }
    }
    let kept_bytes = how.bundle.as_ref().map_or(0, |bundle| bundle.kept_bytes());
    match action.end(status, &ledger, kept_bytes) {
        Ok(()) => status,
        Err(error) => {
            agent_output::tell(&error.to_string());
            Status::Refused
        }
    }
}

fn look(
    command: &Command,
    matches: &ArgMatches,
    how: &How<'_>,
    session: Session,
    began: Began,
    (verdict, action): (&mut Verdict, &mut audit::Action<'_>),
) -> anyhow::Result<Status> {
    let (global, chosen) = (how.global, how.chosen);
    let extra = match chosen {
        Some(cli::Chosen::Extra(name)) => Some(name),
        _ => None,
    };
    let streamed = chosen.and_then(|chosen| chosen.streamed(command)).map(|format| {
        let stream = agent_output::Streamed::new(command.schema_name(), session.info().id.clone());
        (format, stream)
    });
    let redactor = std::sync::Arc::clone(session.redactor());
    let is_full = Arc::default();
    let most = session.limits().out_bytes;
    let plan = Plan {
        proc: global.proc.clone(),
        capabilities: command.wants(matches),
        needs: command.needs.to_vec(),
        format: extra,
        keep: how.bundle.clone().map(|bundle| bundle as Arc<dyn agent_system::Keep>),
        stream: streamed
            .as_ref()
            .map(|(format, stream)| stream::to(format, stream, (most, &is_full), session.redactor(), command)),
        remote_files: global.remote_files,
    };
    let mut printer = Printer { command, chosen, streamed };
    let is_json = printer.streamed.is_none() && printer.format() == cli::Chosen::Common(Format::Json);
    let mut worst = Status::Complete;
    let look = match how.denied.clone() {
        Some((words, gap)) => {
            let why = Stopped::new(Status::Refused, words, Some(gap));
            Look::refused(command, matches, session, (plan, began), why)
        }
        None => Look::begin(command, matches, session, plan, began),
    };
    let looked = look.and_then(|mut look| {
        action.confined();
        look.note(verdict.gap());
        look.note(how.unkept.clone());
        look.watch_stream(is_full);
        look.get_ready_with(printer.without_data());
        if is_json {
            look.keep_json();
        }
        look.each(|envelope, answer, entries| {
            verdict.saw(envelope);
            action.saw(envelope)?;
            let kept = how.bundle.as_ref().map_or(Ok(()), |bundle| bundle.saw(command, envelope));
            let printed = printer.print(envelope, answer);
            how.touched(&envelope.session.id, entries);
            kept.context("the bundle")?;
            let ended = printed.context("standard output")?;
            worst = match ended {
                Ended::Closed => Status::Complete,
                Ended::Whole => worst.max(Status::of(&envelope.gaps, global.allow_gaps)),
            };
            Ok(ended)
        })
    });
    match looked {
        Ok(()) => Ok(worst),
        Err(Stopped { status: Status::Failed, words, .. }) => Err(anyhow::anyhow!(words)),
        Err(Stopped { status, words, gap, is_told }) => {
            // Where there is no envelope to say so.
            if let Some(gap) = gap.filter(|_| !is_told) {
                action.refused(&[redactor.gap(&gap)])?;
            }
            agent_output::tell(&redactor.text(redact::Class::Text, &words));
            Ok(status)
        }
    }
}

/// Writes the access log, where it is kept.
fn log_accesses(session: &agent_model::Text, entries: &[agent_session::Entry]) {
    for entry in entries {
        let path = agent_model::Text::from(entry.path.as_str());
        agent_output::log(&serde_json::json!({"session": session, "access": entry.access.as_str(), "path": path}));
    }
}

#[cfg(test)]
mod tests {
    /// A string that no class is named for would be shown as it is thought to be harmless: say what it is,
    /// `#[schemars(extend("x-class" = "…"))]` ([`agent_model::CLASS`]).
    #[test]
    fn every_string_that_is_printed_has_a_class() {
        let mut without = Vec::new();
        for command in super::commands() {
            let schema = super::schemas::of(command);
            let places = agent_session::redact::unclassified(schema.as_value());
            without.extend(places.into_iter().map(|place| format!("{}: {place}", command.name)));
        }
        without.sort();
        assert!(without.is_empty(), "{} strings without a class:\n{}", without.len(), without.join("\n"));
    }
}
