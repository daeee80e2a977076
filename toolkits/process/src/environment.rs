//! `env`: the names of environment variables. Their values are never printed.
//!
//! A value may be a password, and so may any part of it: what does not look like the
//! name of a variable, because the process has written over its environment, is
//! not printed either.

use std::collections::{BTreeMap, BTreeSet};

use agent_model::{Gap, Gathered, Listing, Noted, Text};
use agent_system::{Capability, Cause, Collector, Failure, Process, Run, parse};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

/// The collector of environment variables.
pub struct Environment;

/// Options of `env`.
#[derive(Debug, Clone, Default, Args, Serialize, JsonSchema)]
pub struct Options {
    /// Look at these processes instead of the target
    #[arg(long = "process", value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    #[serde(rename = "process", skip_serializing_if = "Vec::is_empty")]
    processes: Vec<u32>,
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["pid", "name"], "x-alike" = ["name"]))]
pub struct Row {
    /// The process.
    #[schemars(extend("x-column" = "PID"))]
    pub pid: u32,
    /// Its name; absent where the process has written something else there, which may
    /// be a part of a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "NAME"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Option<Text>,
    /// How long its value is, in bytes; without a name, how long all of it is. The
    /// value itself is never printed.
    #[schemars(extend("x-column" = "BYTES"))]
    pub value_bytes: u64,
    /// Whether an earlier variable of the process has the same name: getenv(3) finds
    /// that one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(extend("x-column" = "HIDDEN"))]
    pub hidden: bool,
}

/// Totals over the variables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Summary {
    /// How many there are, with a name or without.
    pub variables: u64,
    /// How many each process has, by pid.
    pub processes: BTreeMap<u32, u64>,
}

/// The bytes of one environment that are read: it may take a quarter of the stack's
/// limit (execve(2)).
const MOST_BYTES: usize = 2 << 20;

impl Collector for Environment {
    const NAME: &'static str = "env";
    const ABOUT: &'static str = "Names of environment variables; values are never printed, only their length";
    const MANUAL: &'static str = "\
Rows come by pid, and then as the process got them. It is the environment that the
process was started with: what it has set since (setenv(3)) is in its memory alone,
unless it has written over the old one. A name that is no usual one (letters, digits,
and _ . - behind the first letter or _) is left out, since it may be a piece of a value.

  agent env                                     what the target was given
  agent env --process 7,8 -o ndjson | jq -r .name
  agent env | jq '.data.rows[] | select(.name == \"DATABASE_URL\") | .value_bytes'";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    type Options = Options;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let mut rows = Vec::new();
        let mut gaps = Vec::new();
        if options.processes.is_empty() {
            let process = run.target_process()?;
            look(run, &process, &mut rows, &mut gaps)?;
        }
        // Each once, by pid.
        for pid in options.processes.iter().collect::<BTreeSet<_>>() {
            let looked = run.process(*pid).and_then(|process| look(run, &process, &mut rows, &mut gaps));
            if let Err(failure) = looked {
                gaps.push(run.gap("/rows", &failure));
            }
        }
        Ok(Gathered::rows(rows, gaps, summarize))
    }
}

/// Adds the variables of `process`. The failure is that it has ended.
fn look(run: &Run, process: &Process<'_>, rows: &mut Vec<Noted<Row>>, gaps: &mut Vec<Gap>) -> Result<(), Failure> {
    let mut text = Vec::with_capacity(8192);
    match process.read_head("environ", &mut text, MOST_BYTES) {
        Ok(true) => {}
        Ok(false) => {
            // What was cut off in the middle is neither a name nor a length.
            let end = text.iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
            text.truncate(end);
            gaps.push(run.gap("/rows", &process.failure("environ", Cause::TooLarge(MOST_BYTES))));
        }
        Err(failure) if failure.is_exited() => return Err(failure),
        Err(failure) => {
            gaps.push(run.gap("/rows", &failure));
            return Ok(());
        }
    }
    if text.is_empty() && has_room_for_variables(process) {
        let unread = Cause::Unsupported("the kernel gives no environment that is in a mapped file");
        gaps.push(run.gap("/rows", &process.failure("environ", unread)));
    }
    let found = variables(&text, is_overwritten(process));
    rows.extend(found.into_iter().map(|variable| {
        let Variable { name, value_bytes, hidden } = variable;
        let name = name.map(Text::from_bytes);
        Noted::new(Row { pid: process.pid(), name, value_bytes, hidden })
    }));
    Ok(())
}

/// Whether the process has written over its arguments and on into its environment
/// (setproctitle): what the kernel then shows as arguments is longer than these were
/// (get_mm_cmdline in fs/proc/base.c).
fn is_overwritten(process: &Process<'_>) -> bool {
    let mut text = Vec::with_capacity(4096);
    let room = process.read_piece("stat", &mut text).ok().and_then(|()| room(&text, ARGUMENTS));
    match (process.read("cmdline", &mut text), room) {
        (Ok(()), Some(room)) => text.len() as u64 > room || text.last().is_some_and(|last| *last != 0),
        // Not known: as if it had.
        _ => true,
    }
}

/// Whether there was something to show when the process was started, or now that it has moved it (PR_SET_MM_MAP in
/// prctl(2)). The kernel reads neither arguments nor environment from a mapped file, whose server may never answer
/// (Linux 4.17, FOLL_ANON).
fn has_room_for_variables(process: &Process<'_>) -> bool {
    let mut text = Vec::with_capacity(1024);
    let room = process.read_piece("stat", &mut text).ok().and_then(|()| room(&text, VARIABLES));
    room.is_some_and(|room| room > 0)
}

/// `arg_start` and `env_start` in proc_pid_stat(5); behind each stands where it ends.
const ARGUMENTS: usize = 48;
const VARIABLES: usize = 50;

/// The bytes from the address in field `first` to that in the next one. `None` for who may not know.
fn room(stat: &[u8], first: usize) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat[end + 1..].split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).skip(first - 3);
    let start: u64 = parse::number(fields.next()?)?;
    let end: u64 = parse::number(fields.next()?)?;
    end.checked_sub(start).filter(|_| start != 0)
}

#[derive(Debug, PartialEq, Eq)]
struct Variable<'a> {
    name: Option<&'a [u8]>,
    value_bytes: u64,
    hidden: bool,
}

/// Parses `environ` (proc_pid_environ(5)): `NAME=value` each, ended by NUL bytes. If
/// the process has written over the beginning, the first may be the end of what it has
/// written, and the second the rest of what stood there.
fn variables(text: &[u8], is_overwritten: bool) -> Vec<Variable<'_>> {
    let mut known = BTreeSet::new();
    let mut found = Vec::new();
    // NUL bytes fill up what was written over.
    let entries = text.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    for (at, entry) in entries.enumerate() {
        let halves = entry.iter().position(|byte| *byte == b'=').map(|equals| (&entry[..equals], &entry[equals + 1..]));
        let halves = halves.filter(|(name, _)| is_name(name) && !(is_overwritten && at < 2));
        found.push(match halves {
            Some((name, value)) => {
                Variable { name: Some(name), value_bytes: value.len() as u64, hidden: !known.insert(name) }
            }
            None => Variable { name: None, value_bytes: entry.len() as u64, hidden: false },
        });
    }
    found
}

/// A name as programs and Kubernetes use it, or a function that bash exports.
fn is_name(name: &[u8]) -> bool {
    let function = name.strip_prefix(b"BASH_FUNC_").and_then(|rest| rest.strip_suffix(b"%%"));
    let name = function.unwrap_or(name);
    let [first, rest @ ..] = name else { return false };
    let is_rest = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (first.is_ascii_alphabetic() || *first == b'_') && rest.iter().all(is_rest) && name.len() <= LONGEST_NAME
}

/// Nothing longer is taken for a name.
const LONGEST_NAME: usize = 256;

fn summarize(rows: &[Row]) -> Summary {
    let mut summary = Summary { variables: rows.len() as u64, ..Summary::default() };
    for row in rows {
        *summary.processes.entry(row.pid).or_default() += 1;
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &[u8], is_overwritten: bool) -> Vec<(Option<String>, u64, bool)> {
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        variables(text, is_overwritten)
            .into_iter()
            .map(|one| (one.name.map(name), one.value_bytes, one.hidden))
            .collect()
    }

    fn named(name: &str, value_bytes: u64) -> (Option<String>, u64, bool) {
        (Some(name.to_owned()), value_bytes, false)
    }

    #[test]
    fn names_and_lengths_are_told_and_values_are_not() {
        let text = b"PATH=/bin:/sbin\0EMPTY=\0URL=postgres://u:secret@h/?a=b\0my.key-1=x\0BASH_FUNC_f%%=() { x; }\0";
        let expected =
            [named("PATH", 10), named("EMPTY", 0), named("URL", 26), named("my.key-1", 1), named("BASH_FUNC_f%%", 9)];
        assert_eq!(shape(text, false), expected);
    }

    #[test]
    fn what_may_be_a_piece_of_a_value_is_no_name() {
        let text = b"ecret@host/db?sslmode=require\0no equals sign\0=x\x001A=2\0\xff\xfe=z\0A B=1\0";
        assert!(shape(text, false).iter().all(|(name, ..)| name.is_none()));
        // Base64 looks like a name: what may be the rest of something is not trusted.
        let text = b"tail of a title\0\0\0c2VjcmV0=\0A=1\0";
        assert_eq!(shape(text, true), [(None, 15, false), (None, 9, false), named("A", 1)]);
        let long = [b"x".repeat(300), b"=1\0".to_vec()].concat();
        assert_eq!(shape(&long, false), [(None, 302, false)]);
    }

    #[test]
    fn of_two_with_one_name_the_second_is_hidden() {
        assert_eq!(shape(b"A=1\0\0\0A=22\0", false), [named("A", 1), (Some("A".to_owned()), 2, true)]);
        assert!(shape(b"", false).is_empty());
        assert!(shape(b"\0\0\0", true).is_empty());
    }

    #[test]
    fn the_room_for_arguments_stands_in_stat() {
        let fields: Vec<String> = (4..=52).map(|field| (field * 100).to_string()).collect();
        let text = format!("7 (a) b) S {}", fields.join(" "));
        assert_eq!((room(text.as_bytes(), ARGUMENTS), room(text.as_bytes(), VARIABLES)), (Some(100), Some(100)));
        let hidden = text.replace(" 4800 ", " 0 ");
        assert_eq!(room(hidden.as_bytes(), ARGUMENTS), None);
        assert_eq!(room(b"7 (a) S 1", ARGUMENTS), None);
    }
}
