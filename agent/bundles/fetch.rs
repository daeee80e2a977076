//! `fetch` and `tar`: bringing out what was kept, over `kubectl exec` and `kubectl cp`.

use agent_model::{Data, Gathered, Text};
use agent_system::collector::TargetUse;
use agent_system::format::Stream;
use agent_system::keep::SESSION_DIRECTORY;
use agent_system::{Cause, Collector, Enveloped, ExtraFormat, Failure, Run};
use schemars::JsonSchema;
use serde::Serialize;

use agent_scenario::bundle::sha256;

use crate::hold;

/// The largest file that is brought out, in bytes: as large as one can become.
const LARGEST: usize = 80 << 20;

/// So many bytes are written at once.
const PIECE: usize = 64 << 10;

/// The collector of files that were kept.
pub(crate) struct Fetch;

/// Where they are.
#[derive(Debug, Clone, clap::Args, Serialize, JsonSchema)]
pub(crate) struct Kept {
    /// The session's directory
    #[arg(long, env = "AGENT_DIR", default_value = SESSION_DIRECTORY, value_name = "DIR")]
    #[schemars(extend("x-class" = "path"))]
    dir: String,
}

/// Options of `fetch`.
#[derive(Debug, Clone, clap::Args, Serialize, JsonSchema)]
pub(crate) struct FetchOptions {
    /// The name of the file, as `--keep` told it
    #[arg(value_name = "NAME")]
    #[schemars(extend("x-class" = "path"))]
    name: String,
    /// Leave out so many bytes at its start: they were brought out already
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    from: u64,
    #[command(flatten)]
    #[serde(flatten)]
    kept: Kept,
}

/// What was brought out.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Fetched {
    /// Its name.
    #[schemars(extend("x-class" = "path"))]
    name: Text,
    /// Its size.
    bytes: u64,
    /// SHA-256 of all of it, in hex.
    #[schemars(extend("x-class" = "id"))]
    sha256: String,
    /// Where what was written begins.
    from: u64,
}

impl Data for Fetched {}

const RAW: &str = "raw";

impl Collector for Fetch {
    const NAME: &'static str = "fetch";
    const ABOUT: &'static str = "Bring out a bundle that was kept";
    const MANUAL: &'static str = "\
The file goes to standard output, and an envelope with its SHA-256 to standard error when it is out. Where it
was cut off, --from goes on: the hash is that of the whole.

  kubectl exec POD -c agent -- agent fetch NAME > NAME
  kubectl exec POD -c agent -- agent fetch NAME --from $(stat -c %s NAME) >> NAME; sha256sum NAME
  kubectl cp -c agent POD:/session/NAME NAME";
    const TARGET: TargetUse = TargetUse::None;
    const FORMATS: &'static [ExtraFormat<Fetched>] =
        &[ExtraFormat { name: RAW, about: "the file as it is; the usual one in a pipe", write: nothing }];
    const STREAMS: &'static [&'static str] = &[RAW];
    const USUAL: Option<&'static str> = Some(RAW);
    type Options = FetchOptions;
    type Data = Fetched;

    fn collect(run: &Run, options: &FetchOptions) -> Result<Gathered<Fetched>, Failure> {
        let bytes = file(run, &options.kept.dir, &options.name)?;
        let from = usize::try_from(options.from).ok().filter(|from| *from <= bytes.len()).ok_or_else(|| {
            Failure::new(options.name.as_str(), Cause::Invalid(format!("it has {} bytes, and not more", bytes.len())))
        })?;
        if let Some(mut stream) = run.take_stream() {
            write(&mut stream, &options.name, &bytes[from..])?;
        }
        let (name, sha256) = (Text::from(options.name.as_str()), sha256(&bytes));
        Ok(Gathered::complete(Fetched { name, bytes: bytes.len() as u64, sha256, from: options.from }))
    }
}

/// It was written as it was read.
fn nothing<D>(_: &Enveloped<'_>, _: &D, _: &mut dyn std::io::Write) -> std::io::Result<()> {
    Ok(())
}

/// A file of the session's directory, or of the hold's memory: no other can be named.
fn file(run: &Run, directory: &str, name: &str) -> Result<Vec<u8>, Failure> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(Failure::new(name, Cause::Malformed("it is no name of a file that was kept")));
    }
    if let Some(file) = hold::kept(name) {
        return run.kept_file(name, file, LARGEST);
    }
    run.own_file_in(directory, name, LARGEST).map_err(|failure| {
        let in_memory = hold::kept_names().map(str::to_owned);
        let names: Vec<String> =
            run.own_directory(directory).unwrap_or_default().into_iter().chain(in_memory).collect();
        match &names[..] {
            _ if !failure.is_not_found() => failure,
            [] => Failure::new(name, Cause::Invalid(format!("it is not there, and nothing is kept in {directory}"))),
            names => Failure::new(name, Cause::Invalid(format!("it is not there; kept is {}", names.join(", ")))),
        }
    })
}

fn write(stream: &mut Stream, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let fail = |error: std::io::Error| Failure::new(name, Cause::Invalid(format!("standard output: {error}")));
    for piece in bytes.chunks(PIECE) {
        stream.sink.bytes(piece).map_err(fail)?;
    }
    stream.sink.flush().map_err(fail)
}

/// What `kubectl cp` runs.
pub(crate) struct Tar;

/// Options of `tar`.
#[derive(Debug, Clone, clap::Args, Serialize, JsonSchema)]
pub(crate) struct TarOptions {
    /// `cf - PATH`, as kubectl cp has it
    #[arg(value_name = "WORD", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    #[schemars(extend("x-class" = "path"))]
    words: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    kept: Kept,
}

impl Collector for Tar {
    const NAME: &'static str = "tar";
    const ABOUT: &'static str = "What kubectl cp asks for: a file that was kept, as a tar archive";
    const MANUAL: &'static str = "\
The image has this as /bin/tar, so that `kubectl cp` brings out what is in the session's directory, and nothing
else. Nothing can be brought in.

  kubectl cp -c agent POD:/session/NAME NAME";
    const TARGET: TargetUse = TargetUse::None;
    const FORMATS: &'static [ExtraFormat<Fetched>] =
        &[ExtraFormat { name: RAW, about: "the archive; the usual one in a pipe", write: nothing }];
    const STREAMS: &'static [&'static str] = &[RAW];
    const USUAL: Option<&'static str> = Some(RAW);
    type Options = TarOptions;
    type Data = Fetched;

    fn collect(run: &Run, options: &TarOptions) -> Result<Gathered<Fetched>, Failure> {
        let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
        let ["cf" | "-cf", "-", path] = words[..] else {
            let words = "only `tar cf - PATH` is known here: files are brought out, and none in";
            return Err(Failure::new("tar", Cause::Invalid(words.to_owned())));
        };
        // As tar has it, and kubectl expects: without the slash at the start.
        let member = path.trim_start_matches('/');
        let directory = options.kept.dir.trim_matches('/');
        let name = member.strip_prefix(directory).and_then(|name| name.strip_prefix('/'));
        let name = name.ok_or_else(|| {
            let words = format!("only what is in {} is brought out", options.kept.dir);
            Failure::new(path, Cause::Invalid(words))
        })?;
        let bytes = file(run, &options.kept.dir, name)?;
        if let Some(mut stream) = run.take_stream() {
            let archive = agent_scenario::bundle::archive(member, &bytes);
            let archive = archive.map_err(|_| Failure::new(path, Cause::Malformed("its name is too long")))?;
            write(&mut stream, name, &archive)?;
        }
        let (name, sha256) = (Text::from(name), sha256(&bytes));
        Ok(Gathered::complete(Fetched { name, bytes: bytes.len() as u64, sha256, from: 0 }))
    }
}

/// The command line, where the agent was started as `tar`.
pub(crate) fn as_tar(argv: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let is_tar =
        argv.first().is_some_and(|name| std::path::Path::new(name).file_name().is_some_and(|name| name == Tar::NAME));
    if !is_tar {
        return argv;
    }
    ["agent", Tar::NAME].into_iter().map(Into::into).chain(argv.into_iter().skip(1)).collect()
}
