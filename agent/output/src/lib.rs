//! JSON, NDJSON and tables: the only crate that prints.
//!
//! What it prints it knows by its JSON alone: nothing here is about one command.
//! A table follows from the schema ([`agent_model::COLUMN`]).
#![allow(clippy::print_stdout, clippy::print_stderr)] // this is the crate that prints

mod stream;
mod table;

use std::cell::Cell;
use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use agent_model::{Envelope, Shown};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use schemars::Schema;
use serde::Serialize;
pub use stream::Streamed;

/// An envelope of any command.
pub type Printed<'a> = Envelope<&'a dyn erased_serde::Serialize, &'a dyn Shown>;

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The envelope as one JSON object.
    Json,
    /// A JSON object a row, and one with all the rest at the end.
    Ndjson,
    /// For people.
    Table,
}

/// How printing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All of it was written.
    Whole,
    /// Whoever reads it has closed the pipe: that is no error.
    Closed,
}

/// The last line of NDJSON: the envelope without its rows.
#[derive(Serialize)]
struct End<'a> {
    schema: &'a str,
    session_id: &'a agent_model::Text,
    end: Envelope<&'a dyn erased_serde::Serialize, Rest<'a>>,
}

/// The data without its rows.
#[derive(Serialize)]
#[serde(untagged)]
enum Rest<'a> {
    /// What is no listing, or is not there.
    Whole(&'a dyn Shown),
    Listing {
        #[serde(skip_serializing_if = "Option::is_none")]
        summary: Option<Box<dyn erased_serde::Serialize + 'a>>,
    },
}

/// A row of NDJSON.
#[derive(Serialize)]
struct Row<'a> {
    schema: &'a str,
    session_id: &'a agent_model::Text,
    #[serde(flatten)]
    row: &'a dyn erased_serde::Serialize,
}

/// Prints `envelope` to standard output. `schema` is that of the envelope, and
/// `width` the terminal's, if there is one.
///
/// # Errors
///
/// When it cannot be written: a full disk, say. A closed pipe is no error.
pub fn print(
    envelope: &Printed<'_>,
    format: Format,
    schema: impl FnOnce() -> Schema,
    width: Option<usize>,
) -> io::Result<Ended> {
    ended(|out| match format {
        Format::Json if width.is_none() => whole(out, envelope),
        Format::Json => json(out, envelope, true),
        Format::Ndjson => ndjson(out, envelope),
        Format::Table => table::write(out, envelope, &schema(), width),
    })
}

/// The numbers of standard output and error (stdio(3)).
pub const STDOUT: i32 = 1;
/// As [`STDOUT`].
pub const STDERR: i32 = 2;

/// What [`print`] would print of `envelope`, which has no data; a line of JSON where `format` is none of these.
pub fn printed(envelope: &Printed<'_>, format: Option<Format>, width: Option<usize>) -> Vec<u8> {
    let mut out = Vec::new();
    let written = match format {
        Some(Format::Json) => json(&mut out, envelope, width.is_some()),
        Some(Format::Ndjson) => ndjson(&mut out, envelope),
        Some(Format::Table) => table::write(&mut out, envelope, &Schema::default(), width),
        None => json(&mut out, envelope, false),
    };
    // Memory takes all that is written to it.
    written.map_or_else(|_| Vec::new(), |()| out)
}

/// Prints one JSON value and a newline to standard output.
///
/// # Errors
///
/// As [`print`].
pub fn print_value(value: &impl Serialize, pretty: bool) -> io::Result<Ended> {
    ended(|out| json(out, value, pretty))
}

/// Lets `write` print to standard output: a format that only one command has.
///
/// # Errors
///
/// As [`print`].
pub fn print_with(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Ended> {
    ended(write)
}

/// Prints text to standard output.
///
/// # Errors
///
/// As [`print`].
pub fn print_text(text: &str) -> io::Result<Ended> {
    ended(|out| out.write_all(text.as_bytes()))
}

/// Tells a person something, on standard error. `text` is printed as it is:
/// whoever puts the target's words into it has escaped them.
pub fn tell(text: &str) {
    // There is nobody left to tell if this fails.
    let _ = record(format!("agent: {text}\n").as_bytes());
}

/// Tells a person how far something is, on standard error: a bar on a terminal, else a line for what `is_new`.
pub fn progress(done: usize, of: usize, text: &str, is_new: bool) {
    let line = if io::stderr().is_terminal() {
        let long = done.min(of) * BAR / of.max(1);
        let text: String = text.chars().take(TEXT).collect();
        let bar = "█".repeat(long) + &"░".repeat(BAR - long);
        if done >= of { "\r\x1b[K".to_owned() } else { format!("\r\x1b[K{bar} {done}/{of} {text}") }
    } else if done < of && is_new {
        format!("agent: step {} of {of}: {text}\n", done + 1)
    } else {
        return;
    };
    // There is nobody left to tell if this fails.
    let _ = record(line.as_bytes());
}

/// The length of a bar, and the most of the text behind it, in columns.
const BAR: usize = 20;
const TEXT: usize = 50;

/// Writes one line of JSON to standard error: the access log.
pub fn log(value: &impl Serialize) {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    let _ = record(&line);
}

/// So long whoever reads standard error may let us wait.
const PATIENCE: Duration = Duration::from_millis(1500);

/// No pipe that says that it can be written to blocks for so many bytes.
const PIECE: usize = 4096;

/// Writes whole lines to standard error: all of them within 1.5 s, or an error.
///
/// # Errors
///
/// When nobody reads it, or it cannot be written; and thereafter at once.
pub fn record(lines: &[u8]) -> io::Result<()> {
    static STUCK: AtomicBool = AtomicBool::new(false);
    patiently(&mut io::stderr().lock(), lines, &STUCK)
}

/// Writes whole lines to standard output, as [`record`] does to standard error.
///
/// # Errors
///
/// As [`record`].
pub fn record_out(lines: &[u8]) -> io::Result<()> {
    static STUCK: AtomicBool = AtomicBool::new(false);
    patiently(&mut Direct, lines, &STUCK)
}

/// Bytes that are written at once.
const BUFFER: usize = 64 << 10;

/// Standard output without the standard library's buffer: that copies all once more to look for ends of lines, and
/// would write when nobody has asked whether that blocks.
#[derive(Debug)]
struct Direct;

impl Write for Direct {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Direct {
    fn as_fd(&self) -> BorrowedFd<'_> {
        rustix::stdio::stdout()
    }
}

fn patiently<W: Write + AsFd>(out: &mut W, lines: &[u8], stuck: &AtomicBool) -> io::Result<()> {
    if stuck.load(Relaxed) {
        return Err(ErrorKind::TimedOut.into());
    }
    let end = Instant::now() + PATIENCE;
    let mut rest = lines;
    while !rest.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).ok();
        let is_ready = poll(&mut [PollFd::new(out, PollFlags::OUT)], wait.as_ref());
        match is_ready {
            Err(Errno::INTR) => continue,
            Ok(0) => {
                stuck.store(true, Relaxed);
                return Err(io::Error::new(ErrorKind::TimedOut, "nobody reads it"));
            }
            // What poll(2) cannot say, the write does.
            _ => {}
        }
        match out.write(&rest[..rest.len().min(PIECE)]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What was written to standard output, in bytes.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// How many bytes were written to standard output so far, by whatever prints answers.
pub fn written_bytes() -> u64 {
    WRITTEN.load(Relaxed)
}

/// Standard output, counted.
#[derive(Debug)]
pub(crate) struct Counted<W>(pub(crate) W);

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        WRITTEN.fetch_add(written as u64, Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn ended(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Ended> {
    let mut out = BufWriter::with_capacity(BUFFER, Counted(Direct));
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => Ok(Ended::Whole),
        Err(error) => {
            // Do not try again in drop.
            let _ = out.into_parts();
            if error.kind() == ErrorKind::BrokenPipe { Ok(Ended::Closed) } else { Err(error) }
        }
    }
}

fn json(out: &mut dyn Write, value: &impl Serialize, pretty: bool) -> io::Result<()> {
    if pretty {
        serde_json::to_writer_pretty(&mut *out, value)?;
    } else {
        serde_json::to_writer(&mut *out, value)?;
    }
    out.write_all(b"\n")
}

fn ndjson(out: &mut dyn Write, envelope: &Printed<'_>) -> io::Result<()> {
    let (schema, session_id) = (envelope.schema.as_str(), &envelope.session.id);
    let count = envelope.data.row_count();
    for index in 0..count.unwrap_or(0) {
        if let Some(row) = envelope.data.row(index) {
            json(out, &Row { schema, session_id, row: &*row }, false)?;
        }
    }
    let rest = match count {
        Some(_) => Rest::Listing { summary: envelope.data.summary() },
        None => Rest::Whole(envelope.data),
    };
    let end = End { schema, session_id, end: around(envelope, rest) };
    json(out, &end, false)
}

/// Writes `envelope`, whose data writes itself.
fn whole(out: &mut dyn Write, envelope: &Printed<'_>) -> io::Result<()> {
    let is_next = Cell::new(false);
    let filled = Filled { data: envelope.data, is_next: &is_next };
    around(envelope, Hole(&is_next)).serialize(&mut serde_json::Serializer::with_formatter(&mut *out, filled))?;
    out.write_all(b"\n")
}

/// Stands for data that writes itself: the next null is no null.
struct Hole<'a>(&'a Cell<bool>);

impl Serialize for Hole<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.set(true);
        serializer.serialize_unit()
    }
}

/// Writes JSON without white space, and data in the place of a [`Hole`].
struct Filled<'a> {
    data: &'a dyn Shown,
    is_next: &'a Cell<bool>,
}

impl serde_json::ser::Formatter for Filled<'_> {
    fn write_null<W: ?Sized + Write>(&mut self, mut writer: &mut W) -> io::Result<()> {
        if self.is_next.take() { self.data.write_json(&mut writer) } else { writer.write_all(b"null") }
    }
}

/// `envelope` around other data.
fn around<'a, D>(envelope: &Printed<'a>, data: D) -> Envelope<&'a dyn erased_serde::Serialize, D> {
    Envelope {
        schema: envelope.schema.clone(),
        session: envelope.session.clone(),
        sequence: envelope.sequence,
        agent: envelope.agent.clone(),
        resource: envelope.resource.clone(),
        target: envelope.target.clone(),
        observed: envelope.observed.clone(),
        cost: envelope.cost,
        options: envelope.options,
        data,
        gaps: envelope.gaps.clone(),
        redaction: envelope.redaction.clone(),
        digest: envelope.digest.clone(),
    }
}

/// The last line of NDJSON whose rows were written before: the envelope, with all
/// of its data.
fn ndjson_end(out: &mut dyn Write, envelope: &Printed<'_>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Whole<'a> {
        schema: &'a str,
        session_id: &'a agent_model::Text,
        end: &'a Printed<'a>,
    }
    json(out, &Whole { schema: &envelope.schema, session_id: &envelope.session.id, end: envelope }, false)
}
