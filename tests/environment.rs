//! `agent env` against programs whose environment is known. No value is ever printed.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

use std::process::Command;

use common::{Answer, Child, Installed, agent, gaps_at, is_root, json, rows, run, skip};
use serde_json::{Value, json};

const SECRET: &str = "hunter2-correct-horse";

/// A program with these variables and no others.
fn with(variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(agent_targets::build("sleeper", &["-O2"]));
    Child::ready(command.arg("10").env_clear().envs(variables.iter().copied()))
}

/// Name and length of each row of `pid`.
fn seen(envelope: &Value, pid: u32) -> Vec<(Value, u64)> {
    let of = rows(envelope).iter().filter(|row| row["pid"] == pid);
    of.map(|row| (row["name"].clone(), row["value_bytes"].as_u64().unwrap())).collect()
}

#[test]
fn names_are_told_and_values_are_not() {
    let url = format!("postgres://u:{SECRET}@db/x?sslmode=require");
    let target = with(&[("PASSWORD", SECRET), ("DATABASE_URL", &url), ("EMPTY", ""), ("_x.y-z", "1")]);
    let pid = target.pid().to_string();
    let mut names = seen(&json(["env", "--pid", &pid]), target.pid());
    names.sort_by_key(|(name, _)| name.to_string());
    let expected = [("DATABASE_URL", url.len()), ("EMPTY", 0), ("PASSWORD", SECRET.len()), ("_x.y-z", 1)];
    assert_eq!(names, expected.map(|(name, bytes)| (json!(name), bytes as u64)));
    for format in ["json", "ndjson", "table"] {
        let answer = run(["env", "--pid", &pid, "-o", format, "--access-log"]);
        assert_eq!(answer.status, 0, "{}", answer.stderr);
        assert!(answer.text().contains("DATABASE_URL"), "{format}");
        for part in ["hunter2", "sslmode", "postgres"] {
            assert!(!answer.text().contains(part) && !answer.stderr.contains(part), "{part} in {format}");
        }
    }
}

#[test]
fn several_processes_come_by_pid_and_one_that_is_gone_is_a_gap() {
    let (a, b, gone) = (with(&[("A", "1")]), with(&[("B", "22")]), with(&[]));
    let gone_pid = gone.pid();
    assert!(gone.end().success());
    let list = format!("{},{},{gone_pid},{}", b.pid(), a.pid(), a.pid());
    let envelope = json(["env", "--pid", &a.pid().to_string(), "--process", &list]);
    let order: Vec<&Value> = rows(&envelope).iter().map(|row| &row["name"]).collect();
    let expected = if a.pid() < b.pid() { ["A", "B"] } else { ["B", "A"] };
    assert_eq!(order, [&json!(expected[0]), &json!(expected[1])]);
    assert_eq!(envelope["data"]["summary"]["variables"], 2);
    let gaps = gaps_at(&envelope, "/rows");
    assert_eq!((gaps.len(), &gaps[0]["reason"]), (1, &json!("exited")));
}

/// It writes a title over its arguments and on into its environment, in the middle of
/// the secret.
const OVERWRITES: &str = "#include <stdio.h>\n#include <string.h>\n\
    int main(int count, char **arguments, char **environment) {\n\
    char *end = strstr(environment[0], \"correct\"); (void)count;\n\
    memset(arguments[0], 'T', end - arguments[0]);\n\
    puts(\"\\\"ready\\\"\"); fflush(stdout); return getchar() != -1; }\n";

#[test]
fn of_an_environment_that_was_written_over_no_piece_is_printed() {
    let program = agent_targets::compile(OVERWRITES, &["-O1"]);
    let secret = format!("{SECRET}=");
    let target = Child::ready(Command::new(program).env_clear().env("PASSWORD", &secret));
    let answer = run(["env", "--pid", &target.pid().to_string()]);
    let all = seen(&answer.json(), target.pid());
    // The kernel still shows the place: it is the rest of the secret, and so long.
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].0, Value::Null);
    assert!(!answer.text().contains("correct") && !answer.text().contains("horse"), "{}", answer.text());
}

#[test]
fn without_rights_it_is_a_gap() {
    if !is_root() {
        return skip("without_rights_it_is_a_gap", "giving up rights needs root");
    }
    let target = with(&[("PASSWORD", SECRET)]);
    let installed = Installed::new();
    let answer = Answer::of(installed.as_user(65534, 65534).args(["env", "--pid", &target.pid().to_string()]));
    assert_eq!(answer.status, 3);
    let envelope = answer.json();
    assert!(rows(&envelope).is_empty());
    let gaps = gaps_at(&envelope, "/rows");
    assert_eq!((gaps.len(), &gaps[0]["reason"]), (1, &json!("permission_denied")));
    assert!(!gaps[0]["needs"].as_array().unwrap().is_empty());
}

#[test]
fn a_recorded_tree_gives_the_same() {
    let target = with(&[("PASSWORD", SECRET), ("B", "x")]);
    let pid = target.pid().to_string();
    let recorded = tempfile::tempdir().unwrap();
    let into = recorded.path().join(&pid);
    std::fs::create_dir(&into).unwrap();
    for file in ["stat", "status", "cgroup", "environ", "cmdline"] {
        std::fs::write(into.join(file), std::fs::read(format!("/proc/{pid}/{file}")).unwrap()).unwrap();
    }
    let live = json(["env", "--pid", &pid]);
    let replayed = Answer::of(agent().args(["env", "--pid", &pid, "--proc"]).arg(recorded.path())).json();
    assert_eq!((&live["data"], &live["digest"]), (&replayed["data"], &replayed["digest"]));
}
