//! A prompt, since the image has no shell: `kubectl debug -it` without a command ends here.
//!
//! Each line is performed in a process of its own, which confines itself as if it had been started alone; all are of one
//! session. The console itself looks at nothing.

use std::ffi::OsString;
use std::time::Duration;

use agent_system::keep::{OwnFile, SESSION_DIRECTORY};
use agent_system::{child, clock};
use clap::{ArgMatches, Args as _, FromArgMatches as _};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};

use crate::verdict::Status;
use crate::{cli, commands};

/// How long a console is open.
const TTL: Duration = Duration::from_secs(15 * 60);

/// Lines that are remembered.
const REMEMBERED: usize = 500;

const HELP: &str = "\
ps                         what the target runs            stacks                     what its threads wait for
fds --pid 7                descriptors of process 7        sockets                    connections, and whose
run triage                 what is wrong, in sentences     access                     what can be seen here
ps | json                  as JSON instead of a table      fds --peers > fds.json     into /session of this container
help fds                   options of a command            exit                       or Ctrl-D

Tab completes commands, their options and process IDs. Ctrl-C ends what runs.
";

/// Reads lines and performs each, until there are no more or the time is over.
pub(crate) fn run(matches: &ArgMatches) -> Status {
    let global = match cli::Global::from_arg_matches(matches) {
        Ok(global) => global,
        Err(error) => return crate::usage(&error),
    };
    let session = global.session.clone().unwrap_or_else(crate::new_session_id);
    let config = Config::builder().auto_add_history(true).max_history_size(REMEMBERED);
    let config = match config.map(|config| config.build()) {
        Ok(config) => config,
        Err(error) => {
            agent_output::tell(&error.to_string());
            return Status::Failed;
        }
    };
    let history = MemHistory::with_config(&config);
    let mut editor: Editor<Words, MemHistory> = match Editor::with_history(config, history) {
        Ok(editor) => editor,
        Err(error) => {
            agent_output::tell(&format!("the terminal cannot be used: {error}"));
            return Status::Failed;
        }
    };
    editor.set_helper(Some(Words));
    let ends_us = clock::boot_us().saturating_add(u64::try_from(TTL.as_micros()).unwrap_or(u64::MAX));
    child::leave_interrupts();
    child::end_after(u32::try_from(TTL.as_secs()).unwrap_or(u32::MAX));
    let _ = agent_output::print_text(&format!(
        "session {session}, for {} minutes; help shows examples\n",
        TTL.as_secs() / 60
    ));
    let mut last = Status::Complete;
    loop {
        let left = ends_us.saturating_sub(clock::boot_us()) / 1_000_000;
        let target = child::name_of(1).map_or_else(|| "-".to_owned(), |name| name.to_string());
        match editor.readline(&format!("agent {target}(1) {}m{:02}s> ", left / 60, left % 60)) {
            Ok(line) => match read(&line) {
                Ok(Read::Nothing) => {}
                Ok(Read::Exit) => return last,
                Ok(Read::Help) => {
                    let _ = agent_output::print_text(HELP);
                }
                Ok(Read::Command(words, file)) => last = perform(&session, words, file.as_deref()),
                Err(words) => agent_output::tell(&words),
            },
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return last,
            Err(error) => {
                agent_output::tell(&format!("the terminal cannot be read: {error}"));
                return Status::Failed;
            }
        }
    }
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Nothing,
    Exit,
    Help,
    /// A command with its options, and the file that its answer goes to.
    Command(Vec<String>, Option<String>),
}

/// Reads a line: words as a shell has them, `| FORMAT` and `> FILE` at the end.
fn read(line: &str) -> Result<Read, String> {
    let mut words = shlex::split(line).ok_or("a quotation mark is not closed")?;
    let mut file = None;
    if let Some(at) = words.iter().position(|word| word.starts_with('>')) {
        let mut rest = words.split_off(at);
        let first = rest.remove(0);
        let name = Some(first.trim_start_matches('>').to_owned()).filter(|name| !name.is_empty());
        let name = name.or_else(|| if rest.is_empty() { None } else { Some(rest.remove(0)) });
        let is_plain = |name: &String| !name.contains('/') && !name.starts_with('.') && !name.is_empty();
        file = Some(name.filter(is_plain).ok_or("after > stands the name of a new file, without a path")?);
        if !rest.is_empty() {
            return Err("nothing comes after the name of the file".to_owned());
        }
    }
    if let Some(at) = words.iter().position(|word| word == "|") {
        match &words[at + 1..] {
            [format] if ["json", "ndjson", "table"].contains(&format.as_str()) => {
                let format = format.clone();
                words.truncate(at);
                words.extend(["--output".to_owned(), format]);
            }
            _ => return Err("after | stands json, ndjson or table: there are no other programs here".to_owned()),
        }
    }
    Ok(match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Read::Nothing,
        ["exit" | "quit"] => Read::Exit,
        ["help"] => Read::Help,
        ["help", command] => Read::Command(vec![command.to_owned(), "--help".to_owned()], file),
        // Without a command it would be a console within the console.
        [first, ..] if first.starts_with('-') => {
            return Err("a line begins with a command: help shows examples".to_owned());
        }
        [crate::hold::NAME, ..] => return Err("the console is a session already".to_owned()),
        _ => Read::Command(words, file),
    })
}

/// Performs one line of the session.
fn perform(session: &str, words: Vec<String>, file: Option<&str>) -> Status {
    let file = match file.map(|name| OwnFile::create(SESSION_DIRECTORY, name)).transpose() {
        Ok(file) => file,
        Err(error) => {
            agent_output::tell(&format!("{SESSION_DIRECTORY}: {error}"));
            return Status::Failed;
        }
    };
    let own = ["agent".to_owned()].into_iter().chain(words);
    let mut argv: Vec<OsString> = own.map(OsString::from).collect();
    // What the console was started with is for each of its commands; theirs comes last and counts.
    argv.splice(1..1, std::env::args_os().skip(1));
    if !argv.iter().any(|word| word.as_encoded_bytes().starts_with(b"--session")) {
        argv.splice(1..1, ["--session".into(), session.into()]);
    }
    match child::perform(file.as_ref(), || crate::perform(argv) as u8) {
        Ok(0) => Status::Complete,
        Ok(code) => {
            agent_output::tell(&format!("exit status {code}"));
            Status::Failed
        }
        Err(error) => {
            agent_output::tell(&format!("no process for it: {error}"));
            Status::Failed
        }
    }
}

/// Completes words.
struct Words;

impl Helper for Words {}
impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..at).unwrap_or(line);
        let start = before.rfind(char::is_whitespace).map_or(0, |space| space + 1);
        let (done, word) = before.split_at(start);
        let mut found = candidates(&done.split_whitespace().collect::<Vec<_>>(), word);
        found.retain(|one| one.starts_with(word));
        found.sort();
        found.dedup();
        Ok((start, found))
    }
}

/// What may stand after `done`.
fn candidates(done: &[&str], word: &str) -> Vec<String> {
    match done {
        [] | ["help"] => {
            let own = ["exit", "help"].into_iter().filter(|_| done.is_empty()).map(str::to_owned);
            commands().map(|command| command.name.to_owned()).chain(own).collect()
        }
        [.., "|"] => ["json", "ndjson", "table"].map(str::to_owned).to_vec(),
        [.., "--pid"] => child::pids().iter().map(ToString::to_string).collect(),
        [name, ..] if word.starts_with('-') => {
            let Some(command) = commands().find(|command| command.name == *name) else { return Vec::new() };
            let line = cli::TargetOptions::augment_args(cli::Global::augment_args((command.arguments)()));
            line.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_with_a_format_and_a_file() {
        let command = |words: &[&str], file: Option<&str>| {
            Ok(Read::Command(words.iter().map(|word| (*word).to_owned()).collect(), file.map(str::to_owned)))
        };
        assert_eq!(read("  "), Ok(Read::Nothing));
        assert_eq!(read("quit"), Ok(Read::Exit));
        assert_eq!(read("help"), Ok(Read::Help));
        assert_eq!(read("help ps"), command(&["ps", "--help"], None));
        assert_eq!(read("modules --symbols 'a b*'"), command(&["modules", "--symbols", "a b*"], None));
        assert_eq!(read("ps | json"), command(&["ps", "--output", "json"], None));
        assert_eq!(read("ps | ndjson > a.json"), command(&["ps", "--output", "ndjson"], Some("a.json")));
        assert_eq!(read("ps >a.json"), command(&["ps"], Some("a.json")));
        for bad in
            ["ps | grep x", "ps > /etc/passwd", "ps > ../x", "ps > .x", "ps >", "ps > a b", "ps 'x", "--pid 1", "hold"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_are_completed() {
        assert!(candidates(&[], "p").contains(&"ps".to_owned()));
        assert!(candidates(&["ps"], "--").contains(&"--threads".to_owned()));
        assert!(candidates(&["fds"], "--p").contains(&"--pid".to_owned()));
        assert!(candidates(&["fds", "--pid"], "").contains(&std::process::id().to_string()));
        assert_eq!(candidates(&["ps", "|"], ""), ["json", "ndjson", "table"]);
        assert!(candidates(&["nothing"], "--").is_empty());
    }
}
