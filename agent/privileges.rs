//! What each command may do, against `tests/golden/privileges.txt`: whoever widens it shows that in the
//! diff of this file.
#![allow(clippy::disallowed_methods, reason = "a test: it reads the file that it checks")]

use std::fmt::Write as _;
use std::path::PathBuf;

use agent_system::{Command, Need, confine};

/// Where it is.
fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/privileges.txt")
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    let _ = writeln!(text, "\n[{title}]");
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
}

fn of_command(command: &Command) -> Vec<String> {
    let names = |capabilities: &[agent_system::Capability]| {
        let names: Vec<&str> = capabilities.iter().map(|capability| capability.name()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(" ") }
    };
    let mut lines = vec![format!("capabilities: {}", names(command.capabilities))];
    for (option, capability) in command.with_option {
        lines.push(format!("capabilities with --{option}: {}", names(&[*capability])));
    }
    let needs: Vec<&str> = command.needs.iter().map(|need| need.name()).collect();
    lines.push(format!("system calls: base{}", needs.iter().map(|need| format!(" + {need}")).collect::<String>()));
    lines
}

fn privileges() -> String {
    let mut text = String::from(
        "# What each command may do, at the most: of the capabilities those that were granted, and these system calls.\n\
         # Everything else is given up before the command looks. Written by `agent/privileges.rs`.\n",
    );
    section(&mut text, "system calls: base", &confine::base_in_words());
    for need in Need::ALL {
        section(&mut text, &format!("system calls: {}", need.name()), &need.in_words());
    }
    for command in crate::commands().filter(|command| !command.name.starts_with("violate")) {
        section(&mut text, &format!("agent {}", command.name), &of_command(command));
    }
    let needs: String = crate::hold::NEEDS.iter().map(|need| format!(" + {}", need.name())).collect();
    let of_hold = ["capabilities: none".to_owned(), format!("system calls: base{needs}")];
    section(&mut text, &format!("agent {}", crate::hold::NAME), &of_hold);
    text
}

#[test]
fn are_those_of_the_golden_file() {
    let now = privileges();
    if std::env::var_os("AGENT_WRITE_GOLDEN").is_some() {
        std::fs::write(golden(), &now).expect("the golden file");
    }
    let before = std::fs::read_to_string(golden()).unwrap_or_default();
    let changed: Vec<String> = now
        .lines()
        .filter(|line| !before.lines().any(|old| old == *line))
        .map(|line| format!("+ {line}"))
        .chain(before.lines().filter(|line| !now.lines().any(|new| new == *line)).map(|line| format!("- {line}")))
        .collect();
    assert!(
        now == before,
        "what a command may do has changed:\n{}\nIf that is meant, write it down: AGENT_WRITE_GOLDEN=1 cargo test --bin agent privileges",
        changed.join("\n")
    );
}

#[test]
fn options_with_a_capability_of_their_own_exist() {
    for command in crate::commands() {
        let arguments = (command.arguments)();
        for (option, _) in command.with_option {
            assert!(
                arguments.get_arguments().any(|argument| argument.get_id() == option),
                "{} --{option}",
                command.name
            );
        }
    }
}
