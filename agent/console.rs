//! A prompt, since the image has no shell: `kubectl debug -it` without a command ends here.
//!
//! Each line is performed in a process of its own, which confines itself as if it had been started alone; all are of one
//! session. The console itself looks at nothing.

use std::ffi::OsString;
use std::time::Duration;

use agent_scenario::built_in;
use agent_system::keep::{OwnFile, SESSION_DIRECTORY};
use agent_system::{child, clock};
use clap::ArgMatches;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};

use crate::hold::Front;
use crate::verdict::Status;
use crate::{cli, commands};

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

/// Reads lines and performs each, until there are no more or the session is over.
pub(crate) fn run(matches: &ArgMatches) -> Status {
    crate::hold::with_console(matches, talk)
}

/// Talks to a person in the session of `front`.
fn talk(front: &Front) -> Status {
    let config = Config::builder().auto_add_history(true).max_history_size(REMEMBERED);
    let editor = config.map(|config| config.build()).and_then(|config| {
        let history = MemHistory::with_config(&config);
        Editor::<Words, MemHistory>::with_history(config, history)
    });
    let mut editor = match editor {
        Ok(editor) => editor,
        Err(error) => {
            agent_output::tell(&format!("the terminal cannot be used: {error}"));
            return Status::Failed;
        }
    };
    editor.set_helper(Some(Words));
    let left_s = || front.ends_us.map(|ends_us| ends_us.saturating_sub(clock::boot_us()).div_ceil(1_000_000));
    let time = left_s().map(|left| format!(", for {}", humantime::format_duration(Duration::from_secs(left))));
    let _ = agent_output::print_text(&format!(
        "session {}{}; help shows examples\naudit: {}\n",
        front.session,
        time.unwrap_or_default(),
        front.audit
    ));
    loop {
        let target = child::name_of(1).map_or_else(|| "-".to_owned(), |name| name.to_string());
        let left = left_s().map(|left| format!(" {}m{:02}s", left / 60, left % 60)).unwrap_or_default();
        match editor.readline(&format!("agent {} {target}(1){left}> ", brief(&front.session))) {
            Ok(line) => match read(&line) {
                Ok(Read::Nothing) => {}
                Ok(Read::Exit) => return Status::Complete,
                Ok(Read::Help) => {
                    let _ = agent_output::print_text(HELP);
                }
                Ok(Read::Command(words, file)) => perform(words, file.as_deref()),
                Err(words) => agent_output::tell(&words),
            },
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Status::Complete,
            Err(error) => {
                agent_output::tell(&format!("the terminal cannot be read: {error}"));
                return Status::Failed;
            }
        }
    }
}

/// As much of the ID of a session as tells it from others of its day: of a ULID what is random at its end.
fn brief(session: &str) -> String {
    let count = session.chars().count();
    if count <= LONGEST {
        session.to_owned()
    } else {
        format!("…{}", session.chars().skip(count - 6).collect::<String>())
    }
}

/// The longest session ID that is in the prompt as it is, in characters.
const LONGEST: usize = 16;

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
fn perform(words: Vec<String>, file: Option<&str>) {
    let file = match file.map(|name| OwnFile::create(SESSION_DIRECTORY, name)).transpose() {
        Ok(file) => file,
        Err(error) => {
            let words =
                "another name, or --keep for a bundle, which the session keeps in memory where no file can be written";
            return agent_output::tell(&format!("{SESSION_DIRECTORY}: {error} ({words})"));
        }
    };
    // What the console was started with is for each of its commands; theirs comes last and counts.
    let own = ["agent".into()].into_iter().chain(for_each_line(std::env::args_os().skip(1)));
    let argv: Vec<OsString> = own.chain(words.into_iter().map(OsString::from)).collect();
    match child::perform(file.as_ref(), || crate::perform(argv) as u8) {
        Ok(0) => {}
        Ok(code) => agent_output::tell(&format!("exit status {code}")),
        Err(error) => agent_output::tell(&format!("no process for it: {error}")),
    }
}

/// Those of the console's own options that its commands have as well: all but how long it lasts.
fn for_each_line(options: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let ttl = format!("--{}", crate::hold::TTL);
    let mut is_value = false;
    let is_other = |option: &OsString| {
        let is_ttl = *option == *ttl || option.as_encoded_bytes().starts_with(format!("{ttl}=").as_bytes());
        let is_other = !is_ttl && !is_value;
        is_value = *option == *ttl;
        is_other
    };
    options.filter(is_other).collect()
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

/// What may stand after `done`, where `word` has begun.
fn candidates(done: &[&str], word: &str) -> Vec<String> {
    let [name, rest @ ..] = done else {
        let own = ["exit", "help"].map(str::to_owned);
        return commands().map(|command| command.name.to_owned()).chain(own).collect();
    };
    if *name == "help" {
        return commands().map(|command| command.name.to_owned()).collect();
    }
    match rest {
        [.., "|"] => return ["json", "ndjson", "table"].map(str::to_owned).to_vec(),
        [.., "--pid"] => return child::pids().iter().map(ToString::to_string).collect(),
        _ => {}
    }
    let line = cli::command_line(commands(), &["agent".into(), name.into()]);
    let Some(command) = line.find_subcommand(name) else { return Vec::new() };
    // Those of the command come first: they know more than what all have.
    let all = || command.get_arguments().chain(line.get_arguments().filter(|argument| argument.is_global_set()));
    let named = |option: &str| {
        let long = option.strip_prefix("--");
        let short = option.strip_prefix('-').and_then(|short| short.chars().next());
        all().find(|one| long.map_or(one.get_short() == short && short.is_some(), |long| one.get_long() == Some(long)))
    };
    let takes_value = |argument: &&clap::Arg| argument.get_action().takes_values();
    if let Some(argument) = rest.last().and_then(|last| named(last)).filter(takes_value) {
        return values(argument);
    }
    if let Some((option, _)) = word.split_once('=') {
        let found = named(option).map(values).unwrap_or_default();
        return found.into_iter().map(|value| format!("{option}={value}")).collect();
    }
    if word.starts_with('-') {
        return all().filter_map(|argument| Some(format!("--{}", argument.get_long()?))).collect();
    }
    // What is no option, and no value of one.
    let is_value = |at: usize| at > 0 && named(rest[at - 1]).is_some_and(|argument| takes_value(&argument));
    let before = (0..rest.len()).filter(|at| !rest[*at].starts_with('-') && !is_value(*at)).count();
    command.get_positionals().nth(before).map(values).unwrap_or_default()
}

/// The values that `argument` may have, as far as they are known.
fn values(argument: &clap::Arg) -> Vec<String> {
    let names = argument.get_value_names().unwrap_or_default();
    if names.iter().any(|name| name.starts_with(crate::scenarios::NAME_OR_FILE)) {
        return built_in::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    }
    argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
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
    fn the_prompt_has_room_for_a_session() {
        assert_eq!([brief("INC-42"), brief("01M8DYRX0R157Q43EB83M0WA9M")], ["INC-42", "…M0WA9M"]);
    }

    #[test]
    fn words_are_completed() {
        assert!(candidates(&[], "p").contains(&"ps".to_owned()));
        assert!(candidates(&["ps"], "--").contains(&"--threads".to_owned()));
        assert!(candidates(&["fds"], "--p").contains(&"--pid".to_owned()));
        assert!(candidates(&["fds", "--pid"], "").contains(&std::process::id().to_string()));
        assert_eq!(candidates(&["ps", "|"], ""), ["json", "ndjson", "table"]);
        assert!(candidates(&["nothing"], "--").is_empty());
        assert!(candidates(&["stacks", "--stop"], "").contains(&"never".to_owned()));
        assert!(candidates(&["stacks"], "--stop=").contains(&"--stop=never".to_owned()));
        assert!(candidates(&["profile", "-o"], "").contains(&"folded".to_owned()));
        assert!(candidates(&["ps", "--output"], "").contains(&"bundle".to_owned()));
        assert_eq!(candidates(&["ps", "--redact"], ""), ["default", "strict", "off"]);
        assert!(candidates(&["run"], "").contains(&"fd-leak".to_owned()));
        assert!(candidates(&["run", "--redact", "strict"], "").contains(&"fd-leak".to_owned()));
        assert!(candidates(&["run", "fd-leak"], "").is_empty());
        assert!(candidates(&["schema"], "").contains(&"maps".to_owned()));
        assert_eq!(candidates(&["bundle"], ""), ["verify", "list", "show", "cat"]);
        assert!(candidates(&["ps", "--incident"], "").is_empty());
    }

    #[test]
    fn what_the_console_was_started_with_is_for_each_line_but_its_time() {
        let of = |words: &[&str]| for_each_line(words.iter().map(OsString::from));
        assert_eq!(of(&["--ttl", "5m", "--redact", "strict"]), ["--redact", "strict"]);
        assert_eq!(of(&["--incident=a", "--ttl=5m"]), ["--incident=a"]);
    }
}
