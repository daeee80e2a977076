//! The command line.

use std::ffi::OsString;
use std::time::Duration;

use agent_output::Format;
use agent_session::Wanted;
use agent_system::collector::TargetUse;
use agent_system::{Command, Selector};
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Session and output")]
pub(crate) struct Global {
    /// How to print: json in a pipe and table on a terminal by default
    #[arg(short, long, global = true, env = "AGENT_OUTPUT", value_name = "FORMAT")]
    pub(crate) output: Option<String>,
    /// ID of the debug session, which tags all that is printed [default: a new ULID]
    #[arg(long, global = true, env = "AGENT_SESSION_ID", value_name = "ID")]
    pub(crate) session: Option<String>,
    /// The incident this belongs to
    #[arg(long, global = true, env = "AGENT_INCIDENT", value_name = "ID")]
    pub(crate) incident: Option<String>,
    /// Who looks
    #[arg(long, global = true, env = "AGENT_ACTOR", value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// W3C trace context to join [env also: TRACEPARENT]
    #[arg(long, global = true, env = "AGENT_TRACEPARENT", value_name = "00-…")]
    pub(crate) traceparent: Option<String>,
    /// Stop looking after this long, with what was seen by then
    #[arg(long, global = true, env = "AGENT_TIMEOUT", default_value = "60s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// What the agent may take, as NAME=VALUE separated by commas: wall=60s (all of its time),
    /// cpu=50%/30s (of one core, after the first second, and CPU time in all), rss=128M (its
    /// memory), out=64M (what it writes), stop=250ms/2s (how long it may hold one thread, and
    /// all). Those of a hold are for all commands of its session together, but cpu=50% and
    /// rss, which each has; it takes commands=8 (so many at once) and kept=64M (bundles in its
    /// memory) as well
    #[arg(long, global = true, env = "AGENT_LIMIT", value_name = "LIMITS")]
    pub(crate) limit: Option<Wanted>,
    /// Exit with 0 although something could not be seen
    #[arg(long, global = true)]
    pub(crate) allow_gaps: bool,
    /// Write a line to standard error for each file, process and socket touched
    #[arg(long, global = true)]
    pub(crate) access_log: bool,
    /// Write the audit to standard error although that is a terminal
    #[arg(long, global = true)]
    pub(crate) audit: bool,
    /// How much of what was seen is shown
    #[arg(long, global = true, env = "AGENT_REDACT", value_name = "LEVEL", default_value = "default")]
    pub(crate) redact: Redact,
    /// Keep a bundle of all that was seen and done in the session's directory, or in the memory of
    /// the hold where no file can be written, beside what is printed
    #[arg(long, global = true, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = agent_system::keep::SESSION_DIRECTORY)]
    pub(crate) keep: Option<String>,
    /// Read files of the target on network and FUSE file systems too, which may never answer
    #[arg(long, global = true)]
    pub(crate) remote_files: bool,
    /// Look at a recorded tree of /proc
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) proc: Option<String>,
}

/// How much of what was seen is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Redact {
    /// Nothing that is secret by its place or its look
    Default,
    /// Nor names of the target's own: pseudonyms stand in their place
    Strict,
    /// Everything
    Off,
}

impl Redact {
    /// As the session takes it.
    pub(crate) fn level(self) -> agent_model::RedactionLevel {
        match self {
            Self::Default => agent_model::RedactionLevel::Default,
            Self::Strict => agent_model::RedactionLevel::Strict,
            Self::Off => agent_model::RedactionLevel::Off,
        }
    }
}

/// Which process is meant; by default PID 1, or else the only other process tree.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetOptions {
    /// The target's process ID
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..), group = "which")]
    pid: Option<u32>,
    /// The target's process name
    #[arg(long, value_name = "COMM", group = "which")]
    name: Option<String>,
    /// The target's container ID, or its first 12 digits
    #[arg(long, value_name = "ID", group = "which")]
    container: Option<String>,
}

impl TargetOptions {
    /// As the system crate takes it.
    pub(crate) fn selector(self) -> Selector {
        Selector { pid: self.pid, name: self.name, container: self.container }
    }
}

/// The formats that every command has.
const FORMATS: [(&str, &str, Format); 3] = [
    ("json", "the envelope as one JSON object", Format::Json),
    ("ndjson", "a JSON object a row, the rest of the envelope last", Format::Ndjson),
    ("table", "for people", Format::Table),
];

/// How one command is to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// In a way that every command has.
    Common(Format),
    /// Not at all: in a bundle.
    Bundle,
    /// In a way of its own.
    Extra(&'static str),
}

/// The format of all commands that look at something.
const BUNDLE: (&str, &str) = ("bundle", "an archive with the envelopes, the audit and what was touched");

impl Chosen {
    /// Its name, if `command` writes it as it goes.
    pub(crate) fn streamed(self, command: &Command) -> Option<&'static str> {
        let name = match self {
            Self::Common(format) => FORMATS.iter().find(|known| known.2 == format).map(|known| known.0)?,
            Self::Bundle => return None,
            Self::Extra(name) => name,
        };
        command.streams.contains(&name).then_some(name)
    }

    /// The format `name` of `command`.
    ///
    /// # Errors
    ///
    /// When it has none of that name: which it has.
    pub(crate) fn of(name: &str, command: &Command) -> Result<Self, String> {
        let common = FORMATS.iter().find(|format| format.0 == name).map(|format| Self::Common(format.2));
        let is_bundle = name == BUNDLE.0 && has_bundle(command);
        let common = common.or(is_bundle.then_some(Self::Bundle));
        let extra =
            || (command.formats)().into_iter().find(|format| format.0 == name).map(|format| Self::Extra(format.0));
        common.or_else(extra).ok_or_else(|| {
            let names: Vec<&str> = FORMATS
                .iter()
                .map(|format| format.0)
                .chain(has_bundle(command).then_some(BUNDLE.0))
                .chain((command.formats)().iter().map(|format| format.0))
                .collect();
            format!("{} cannot be printed as {name}: only as {}", command.name, names.join(", "))
        })
    }
}

/// Whether `command` gathers evidence.
fn has_bundle(command: &Command) -> bool {
    command.target != TargetUse::None
}

/// `--output` with the formats of every command and `extra`, which `hidden` keeps out of the help.
fn with_formats(output: clap::Arg, extra: &[(&'static str, &'static str)], hidden: bool) -> clap::Arg {
    let common = FORMATS.iter().map(|(name, about, _)| PossibleValue::new(*name).help(*about));
    let extra = extra.iter().map(|(name, about)| PossibleValue::new(*name).help(*about).hide(hidden));
    output.value_parser(PossibleValuesParser::new(common.chain(extra)))
}

/// What `argv` says to one of `commands`.
///
/// # Errors
///
/// When it is none of theirs; help is an error too.
pub(crate) fn parse<'a>(
    commands: impl Iterator<Item = &'a Command> + Clone,
    argv: &[OsString],
) -> Result<clap::ArgMatches, clap::Error> {
    let is_named = |command: &&Command| argv.iter().any(|argument| argument == command.name);
    // Each subcommand gets a copy of the options that all have, which takes as long as all the rest of
    // `agent version`: so those that are not meant are only there for help and errors.
    let named = command_line(commands.clone().filter(is_named), argv);
    named.try_get_matches_from(argv).or_else(|_| command_line(commands, argv).try_get_matches_from(argv))
}

/// The whole command line: that of each of `commands`, and `schema`.
///
/// Options are put together only for the commands that `argv` names: no other can be meant.
pub(crate) fn command_line<'a>(commands: impl Iterator<Item = &'a Command>, argv: &[OsString]) -> clap::Command {
    let mut names = Vec::new();
    let mut line = Global::augment_args(clap::Command::new("agent"))
        .about("Looks into a live process from its own pod, without touching it")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(
            "Exit status: 0 complete, 1 nothing could be printed, 2 usage, 3 printed with gaps,\n\
             4 refused by policy or cut off by a limit, 5 no such target.",
        );
    let output = line.get_arguments().find(|arg| arg.get_id() == "output").cloned();
    let mut extra = Vec::new();
    for command in commands {
        names.push(PossibleValue::new(command.name));
        let mut formats = (command.formats)();
        formats.extend(has_bundle(command).then_some(BUNDLE));
        if !argv.iter().any(|argument| argument == command.name) {
            line = line.subcommand(clap::Command::new(command.name).about(command.about));
            extra.extend(formats);
            continue;
        }
        let mut arguments = (command.arguments)();
        if let Some(output) = output.clone().filter(|_| !formats.is_empty()) {
            arguments = arguments.arg(with_formats(output, &formats, false));
            extra.extend(formats);
        }
        line = line.subcommand(match command.target {
            TargetUse::None => arguments,
            TargetUse::Optional | TargetUse::Required => {
                let about = arguments.get_about().cloned().unwrap_or_default();
                TargetOptions::augment_args(arguments).about(about).long_about(None)
            }
        });
    }
    let line = line.args(crate::hold::ttl_argument()).subcommand(crate::hold::arguments());
    line.mut_arg("output", |output| with_formats(output, &extra, true)).subcommand(
        clap::Command::new("schema").about("JSON Schema of a command's envelope").arg(
            clap::Arg::new("command")
                .value_name("NAME")
                .value_parser(PossibleValuesParser::new(names))
                .help("The command; without it, all of them in one object"),
        ),
    )
}
