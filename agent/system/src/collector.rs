//! What a toolkit gives to the front door.

use std::any::Any;
use std::io;
use std::time::Duration;

#[cfg(debug_assertions)]
use agent_model::Envelope;
use agent_model::{Data, Gap, Gathered};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches};
use schemars::JsonSchema;
#[cfg(debug_assertions)]
use schemars::Schema;
use serde::Serialize;

use crate::format::{Enveloped, ExtraFormat};
use crate::{Capabilities, Capability, Failure, Need, Run, Watch};

/// Whether a command looks at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetUse {
    /// It does not.
    None,
    /// It looks at a whole namespace, which has a target if just one was meant.
    Optional,
    /// It cannot do without.
    Required,
}

/// One kind of evidence: a subcommand of the agent.
///
/// Its options and its data are declared once, as Rust types; the command line,
/// the JSON Schema and the table follow from them.
pub trait Collector {
    /// The subcommand, and the name in `schema`.
    const NAME: &'static str;
    /// The version of its data: raised when a field is renamed, retyped or
    /// removed, never when one is added.
    const VERSION: u32 = 1;
    /// One line for people.
    const ABOUT: &'static str;
    /// What to know before using it: the order of rows, costs, examples.
    const MANUAL: &'static str;
    /// Capabilities that it is worth raising for it, where they were granted.
    const CAPABILITIES: &'static [Capability] = &[];
    /// Capabilities that one of its options alone needs, by the option's ID.
    const WITH_OPTION: &'static [(&'static str, Capability)] = &[];
    /// What it does beyond reading files: any other system call is refused
    /// ([`crate::confine`]).
    const NEEDS: &'static [Need] = &[];
    /// Whether it looks at a target.
    const TARGET: TargetUse = TargetUse::Required;
    /// How its answer can be printed beside JSON, NDJSON and a table.
    const FORMATS: &'static [ExtraFormat<Self::Data>] = &[];
    /// The formats, by their names, that it writes itself as it goes, through
    /// [`Run::take_stream`]. The envelope then comes last: at the end of `ndjson`, on
    /// standard error after any other.
    const STREAMS: &'static [&'static str] = &[];
    /// The format in a pipe, by its name, where that is not JSON.
    const USUAL: Option<&'static str> = None;
    /// Its options.
    type Options: Args + Serialize + JsonSchema + Send + 'static;
    /// Its answer.
    type Data: Data + Serialize + JsonSchema + 'static;

    /// For how long it was asked to look: the time limit of the command comes on top.
    fn lasts(_options: &Self::Options) -> Duration {
        Duration::ZERO
    }

    /// The options of a look that is repeated, where it can be.
    fn watch(_options: &Self::Options) -> Watch {
        Watch::default()
    }

    /// Says in `now` what has changed since `before`, a look of `elapsed` earlier with
    /// the same options. Only for a collector that has [`Collector::watch`].
    fn compare(_before: &Self::Data, _now: &mut Self::Data, _elapsed: Duration) {}

    /// Looks. Everything goes through `run`.
    ///
    /// # Errors
    ///
    /// Only where no answer is possible at all; what could not be seen is a gap.
    fn collect(run: &Run, options: &Self::Options) -> Result<Gathered<Self::Data>, Failure>;
}

/// A collector without options of its own.
#[derive(Debug, Clone, Copy, Default, Args, Serialize, JsonSchema)]
pub struct NoOptions {}

/// An answer, whatever its types.
pub struct Answer {
    /// The options, defaults filled in.
    pub options: Box<dyn erased_serde::Serialize + Send>,
    /// What was seen.
    pub data: Box<dyn Data>,
    /// What was not.
    pub gaps: Vec<Gap>,
}

/// A collector as the front door holds it: [`Collector`] without its types.
#[derive(Clone, Copy)]
pub struct Command {
    /// [`Collector::NAME`].
    pub name: &'static str,
    /// [`Collector::VERSION`].
    pub version: u32,
    /// [`Collector::ABOUT`].
    pub about: &'static str,
    /// [`Collector::CAPABILITIES`].
    pub capabilities: &'static [Capability],
    /// [`Collector::WITH_OPTION`].
    pub with_option: &'static [(&'static str, Capability)],
    /// [`Collector::NEEDS`].
    pub needs: &'static [Need],
    /// [`Collector::TARGET`].
    pub target: TargetUse,
    /// Its part of the command line.
    pub arguments: fn() -> clap::Command,
    /// The JSON Schema of its envelope, as the types say it. A release build has the schemas as data: what
    /// makes them takes more than a megabyte of code.
    #[cfg(debug_assertions)]
    pub schema: fn() -> Schema,
    /// Name and meaning of each of [`Collector::FORMATS`].
    pub formats: fn() -> Vec<(&'static str, &'static str)>,
    /// [`Collector::STREAMS`].
    pub streams: &'static [&'static str],
    /// [`Collector::USUAL`].
    pub usual: Option<&'static str>,
    /// [`Collector::lasts`], and the time that [`Collector::watch`] takes.
    pub lasts: fn(&ArgMatches) -> Duration,
    /// [`Collector::watch`].
    pub watch: fn(&ArgMatches) -> Watch,
    /// [`Collector::compare`].
    pub compare: fn(&(dyn Data + 'static), &mut (dyn Data + 'static), Duration),
    /// Writes its data in one of these formats.
    pub write: fn(&str, &Enveloped<'_>, &(dyn Data + 'static), &mut dyn io::Write) -> io::Result<()>,
    /// Its options, defaults filled in.
    pub options: fn(&ArgMatches) -> Result<Box<dyn erased_serde::Serialize + Send>, Failure>,
    /// [`Collector::collect`].
    pub collect: fn(&Run, &ArgMatches) -> Result<Answer, Failure>,
}

impl Command {
    /// The `schema` of its envelopes: `agent.NAME/VERSION`.
    pub fn schema_name(&self) -> String {
        format!("agent.{}/{}", self.name, self.version)
    }

    /// The capabilities that it is worth raising for it with the options in `matches`.
    pub fn wants(&self, matches: &ArgMatches) -> Capabilities {
        let is_given = |option: &str| !matches!(matches.value_source(option), None | Some(ValueSource::DefaultValue));
        let with = self.with_option.iter().filter(|(option, _)| is_given(option));
        self.capabilities.iter().chain(with.map(|(_, capability)| capability)).copied().collect()
    }
}

/// The command of a collector: the one line by which a toolkit lists it.
pub const fn command<C: Collector>() -> Command {
    Command {
        name: C::NAME,
        version: C::VERSION,
        about: C::ABOUT,
        capabilities: C::CAPABILITIES,
        with_option: C::WITH_OPTION,
        needs: C::NEEDS,
        target: C::TARGET,
        arguments: arguments::<C>,
        #[cfg(debug_assertions)]
        schema: schema::<C>,
        formats: formats::<C>,
        streams: C::STREAMS,
        usual: C::USUAL,
        lasts: lasts::<C>,
        watch: watch::<C>,
        compare: compare::<C>,
        write: write::<C>,
        options: options::<C>,
        collect: collect::<C>,
    }
}

fn arguments<C: Collector>() -> clap::Command {
    C::Options::augment_args(clap::Command::new(C::NAME)).about(C::ABOUT).long_about(None).after_long_help(C::MANUAL)
}

#[cfg(debug_assertions)]
fn schema<C: Collector>() -> Schema {
    // Of what is written: a member that may be left out is not required.
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<Envelope<C::Options, Option<C::Data>>>()
}

fn formats<C: Collector>() -> Vec<(&'static str, &'static str)> {
    C::FORMATS.iter().map(|format| (format.name, format.about)).collect()
}

fn lasts<C: Collector>(matches: &ArgMatches) -> Duration {
    let of = |options| C::lasts(&options).saturating_add(C::watch(&options).lasts());
    C::Options::from_arg_matches(matches).map(of).unwrap_or_default()
}

fn watch<C: Collector>(matches: &ArgMatches) -> Watch {
    C::Options::from_arg_matches(matches).map(|options| C::watch(&options)).unwrap_or_default()
}

fn compare<C: Collector>(before: &(dyn Data + 'static), now: &mut (dyn Data + 'static), elapsed: Duration) {
    let before = (before as &dyn Any).downcast_ref::<C::Data>();
    if let Some((before, now)) = before.zip((now as &mut dyn Any).downcast_mut::<C::Data>()) {
        C::compare(before, now, elapsed);
    }
}

fn write<C: Collector>(
    name: &str,
    envelope: &Enveloped<'_>,
    data: &(dyn Data + 'static),
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let format = C::FORMATS.iter().find(|format| format.name == name);
    match format.zip((data as &dyn Any).downcast_ref::<C::Data>()) {
        Some((format, data)) => (format.write)(envelope, data, out),
        None => Err(io::Error::new(io::ErrorKind::Unsupported, "this command has no such format")),
    }
}

fn parsed<C: Collector>(matches: &ArgMatches) -> Result<C::Options, Failure> {
    C::Options::from_arg_matches(matches)
        .map_err(|_| Failure::new("options", crate::Cause::Malformed("options were not those of this command")))
}

fn options<C: Collector>(matches: &ArgMatches) -> Result<Box<dyn erased_serde::Serialize + Send>, Failure> {
    Ok(Box::new(parsed::<C>(matches)?))
}

fn collect<C: Collector>(run: &Run, matches: &ArgMatches) -> Result<Answer, Failure> {
    let options = parsed::<C>(matches)?;
    let Gathered { data, gaps } = C::collect(run, &options)?;
    Ok(Answer { options: Box::new(options), data: Box::new(data), gaps })
}
