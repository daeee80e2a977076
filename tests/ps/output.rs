//! Formats, closed pipes, full disks, and input that is wrong.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{namespace, target};
use crate::common::{self, Answer, json, row, rows, run};

#[test]
fn ndjson_is_the_same_rows_and_an_end() {
    let Some(space) = namespace("ndjson_is_the_same_rows_and_an_end", "names", &[]) else { return };
    space.stop();
    let whole = Answer::of(space.agent().arg("ps")).json();
    let lines = Answer::of(space.agent().args(["ps", "-o", "ndjson", "--session", "S-1"]));
    assert_eq!(lines.status, 0);
    let mut lines: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.pop().unwrap();
    assert_eq!(lines.len(), rows(&whole).len());
    for (line, row) in lines.iter_mut().zip(rows(&whole)) {
        let line = line.as_object_mut().unwrap();
        assert_eq!(line.shift_remove("schema"), Some(json!("agent.ps/1")));
        assert_eq!(line.shift_remove("session_id"), Some(json!("S-1")));
        assert_eq!(Value::Object(line.clone()).to_string(), row.to_string());
    }
    assert_eq!((&end["schema"], &end["session_id"]), (&json!("agent.ps/1"), &json!("S-1")));
    assert_eq!(end["end"]["data"], json!({"summary": whole["data"]["summary"]}));
    assert_eq!((&end["end"]["digest"], &end["end"]["gaps"]), (&whole["digest"], &json!([])));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    for format in ["json", "ndjson", "table"] {
        let mut child = common::agent()
            .args(["ps", "-o", format])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody reads: not even what would fit into the pipe.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let answer = common::Answer::from(output);
        assert_eq!((answer.status, answer.stderr.as_str()), (0, ""), "{format}");
    }
}

#[test]
fn a_full_disk_is_an_error_that_says_so() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in
        [&["ps", "-o", "json"][..], &["ps", "-o", "ndjson"], &["ps", "-o", "table"], &["schema", "ps"], &["--help"]]
    {
        let output = common::agent().args(args).stdout(full.try_clone().unwrap()).output().unwrap();
        let common::Answer { status, stderr, .. } = output.into();
        assert_eq!(status, 1, "{args:?}: {stderr}");
        assert!(stderr.starts_with("agent: standard output: No space left on device"), "{args:?}: {stderr}");
    }
}

#[test]
fn leaves_itself_out_unless_asked() {
    let child = common::agent().args(["ps", "--self"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = Answer::from(child.wait_with_output().unwrap());
    let seen = output.json();
    let own: Vec<&Value> = rows(&seen).iter().filter(|row| row["self"] == true).collect();
    assert_eq!(own.len(), 1);
    assert_eq!((&own[0]["pid"], &own[0]["name"], &own[0]["args"][1]), (&json!(pid), &json!("agent"), &json!("ps")));
    assert_eq!(seen["options"]["self"], true);
    assert!(rows(&json(["ps"])).iter().all(|row| row["self"] == false));
}

#[test]
fn wrong_flags_are_usage_errors() {
    for args in [
        &["ps", "--bogus"][..],
        &["ps", "--pid", "x"],
        &["ps", "--pid", "0"],
        &["ps", "-o", "xml"],
        &["pss"],
        &["ps", "--pid", "1", "--name", "x"],
        &["ps", "--timeout", "soon"],
        &["ps", "--session", ""],
    ] {
        let answer = run(args);
        assert_eq!((answer.status, answer.stdout.as_slice()), (2, &b""[..]), "{args:?}");
        assert!(answer.stderr.len() > 10, "{args:?}: {}", answer.stderr);
    }
}

#[test]
fn without_a_command_and_outside_of_a_container_there_is_nothing_to_hold() {
    let answer = run([""; 0]);
    assert_eq!((answer.status, answer.stdout.as_slice()), (1, &b""[..]));
    assert!(answer.stderr.contains("run each command alone"), "{}", answer.stderr);
}

#[test]
fn a_process_that_is_not_there_is_no_target() {
    let child = target("sleeper", &["1"]);
    let pid = child.pid().to_string();
    assert_eq!(run(["ps", "--pid", &pid]).json()["target"]["pid"], child.pid());
    assert!(child.end().success());
    for args in [
        &["--pid", &pid][..],
        &["--pid", "4194304"],
        &["--name", "nobody-is-called-so"],
        &["--container", "0123456789ab"],
    ] {
        let answer = run([&["ps"], args].concat());
        assert_eq!((answer.status, answer.stdout.as_slice()), (5, &b""[..]), "{args:?}");
        assert!(answer.stderr.contains("there is no process"), "{args:?}: {}", answer.stderr);
    }
}

#[test]
fn an_unreadable_proc_is_an_error_that_says_so() {
    let empty = tempfile::tempdir().unwrap();
    for directory in ["/nonexistent", "/dev/null", empty.path().to_str().unwrap()] {
        let answer = run(["ps", "--proc", directory]);
        assert!(matches!(answer.status, 1 | 5), "{directory}: {}", answer.status);
        assert_eq!(answer.stdout, b"");
        assert!(answer.stderr.starts_with("agent: "), "{directory}: {}", answer.stderr);
    }
}

#[test]
fn a_look_that_was_cut_off_says_so() {
    // A process that is listed after most others.
    let last = target("sleeper", &["1"]);
    let mut cut = 0;
    for timeout in ["0s", "1us", "500us", "1ms", "2ms", "3ms", "5ms", "8ms", "20ms"] {
        let answer = run(["ps", "--timeout", timeout]);
        if answer.status == 4 {
            cut += 1;
            let reason = if answer.stdout.is_empty() { answer.stderr } else { answer.text().to_owned() };
            assert!(reason.contains("limit"), "{timeout}: {reason}");
        } else {
            row(&answer.json(), "pid", last.pid());
        }
    }
    assert!(cut >= 2, "nothing can be seen in no time");
}
