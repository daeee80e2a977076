//! Bundles that were changed, or made to do harm.

use std::fs;
use std::process::Command;

use agent_scenario::bundle::{self, Entry};
use serde_json::{Value, json};

use super::common::{self, Answer, Child, agent};
use super::{change, entries, faults, made, rewrite, state, verified, write};

#[test]
fn whatever_was_changed_in_a_bundle_is_found_out() {
    let target = Child::target("faults", &["-O2"], ["leak-files"]);
    let (directory, path, answer) =
        made(&["run", "fd-leak", "--param=interval=50ms", "--pid", &target.pid().to_string()]);
    let original = fs::read(&path).unwrap();
    let back = || fs::write(&path, &original).unwrap();
    // As good as new.
    rewrite(&path, &entries(&path));
    assert_eq!(state(&path), "whole");

    // An artifact with a manifest that says the same: its digest, then the audit.
    change(&path, "fds[1]", |bytes| String::from_utf8_lossy(bytes).replace("\"fd\":0", "\"fd\":9").into_bytes());
    assert_eq!(faults(&path), ["digest", "audit"]);
    let judged = Answer::of(agent().arg("judge").arg(&path));
    assert_eq!(judged.status, 1, "evidence that was changed is not judged");

    back();
    change(&path, "fds[1]", |bytes| {
        let mut envelope: Value = serde_json::from_slice(bytes).unwrap();
        envelope["data"]["rows"][0]["fd"] = "a string".into();
        envelope["digest"] = agent_model::digest(&envelope["data"]).unwrap().into();
        envelope.to_string().into_bytes()
    });
    assert_eq!(faults(&path), ["schema", "audit"]);
    let envelope = verified(&path);
    assert!(
        envelope["data"]["summary"]["problems"][0]["why"].as_str().unwrap().contains("/data/rows/0/fd"),
        "{envelope}"
    );

    // One that is left out, its line in the audit, and both.
    back();
    let without =
        |entries: Vec<Entry>| entries.into_iter().filter(|entry| !entry.path.contains("fds[1]")).collect::<Vec<_>>();
    rewrite(&path, &without(entries(&path)));
    assert_eq!(faults(&path), ["audit"]);
    back();
    let cut = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines()
            .filter(|line| !line.contains("fds[1]"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
            .into_bytes()
    };
    change(&path, bundle::AUDIT, cut);
    assert_eq!(faults(&path), ["audit"]);
    rewrite(&path, &without(entries(&path)));
    assert_eq!(faults(&path), ["audit"]);

    // What was touched, and the whole audit, and what was written of both on the way.
    for piece in ["so-far/000-audit", "so-far/001-access"] {
        back();
        change(&path, piece, |bytes| [bytes, b"{}\n"].concat());
        assert_eq!(faults(&path), ["audit"], "{piece}");
    }
    back();
    change(&path, bundle::ACCESS, |bytes| [bytes, b"{}\n"].concat());
    assert_eq!(faults(&path), ["audit"]);
    back();
    rewrite(&path, &entries(&path).into_iter().filter(|entry| entry.path != bundle::AUDIT).collect::<Vec<_>>());
    assert_eq!(faults(&path), ["audit"]);

    // Another good one in its place: the witness tells.
    back();
    let records: Vec<Value> = answer.audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = records.last().unwrap();
    let head = json!({"count": records.len(), "head": last["hash"], "key": records[0]["data"]["key"]});
    let witness = directory.path().join("head.json");
    let with_witness = |head: &Value| {
        fs::write(&witness, json!({"session": "S", "audit": head}).to_string()).unwrap();
        let mut command = agent();
        command.args(["bundle", "verify"]).arg(&path).arg("--witness").arg(&witness);
        Answer::of(&mut command).json()["data"]["summary"]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(with_witness(&head), "whole");
    let mut other = head.clone();
    other["count"] = (records.len() + 1).into();
    assert_eq!(with_witness(&other), "tampered");

    // Two bundles, one behind the other.
    fs::write(&path, [&original[..], &original[..]].concat()).unwrap();
    assert_eq!(faults(&path), ["after_the_end"]);
}

#[test]
fn a_hostile_bundle_costs_little_and_prints_nothing_of_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.dbg.tar.zst");
    let about = || json!({"argv": ["agent", "\u{1b}[2Jrun"]});
    // 300 MiB of nothing.
    write(&path, [("artifacts/000-x.json", &vec![b' '; 300 << 20][..])], about());
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    assert_eq!(faults(&path), ["too_large"]);
    for command in [&["judge"][..], &["bundle", "show"], &["bundle", "list"]] {
        let answer = Answer::of(agent().args(command).arg(&path));
        assert!(matches!(answer.status, 1 | 3), "{command:?} {} {}", answer.status, answer.stderr);
    }
    // As deep as a stack, and words for a terminal.
    let deep = [b"{\"data\":".as_slice(), &vec![b'['; 100_000]].concat();
    let findings = br#"{"data":{"rows":[{"level":"\u001b[31m","message":"\u001b]0;x"}]}}"#;
    write(&path, [("artifacts/000-x.json", &deep[..]), ("findings.json", findings)], about());
    for arguments in [&["show"][..], &["list"], &["verify"]] {
        let answer = Answer::of(agent().args(["bundle", arguments[0]]).arg(&path).args(["-o", "table"]));
        assert_eq!(answer.status, 3, "{}", answer.stderr);
        assert!(!answer.stdout.contains(&0x1b), "{}", answer.text());
    }
    let answer = Answer::of(agent().args(["bundle", "cat"]).arg(&path).args(["findings.json", "-o", "table"]));
    assert!(!answer.stdout.contains(&0x1b), "{}", answer.text());
    // No bundle at all.
    for bytes in [
        &b""[..],
        b"{}",
        b"\x28\xb5\x2f\xfd",
        b"\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff",
        b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
    ] {
        fs::write(&path, bytes).unwrap();
        for command in [&["judge"][..], &["bundle", "verify"]] {
            let answer = Answer::of(agent().args(command).arg(&path));
            assert!(matches!(answer.status, 1 | 3), "{bytes:?} {command:?} {} {}", answer.status, answer.stderr);
        }
    }
    let mut pipe = Command::new(common::AGENT);
    pipe.args(["bundle", "verify", "-"]);
    assert_eq!(Answer::of(&mut pipe).status, 1, "nothing came");
}

#[test]
fn a_large_bundle_is_read_within_what_commands_may_take() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.dbg.tar.zst");
    let row =
        |fd: u64| json!({"fd": fd, "type": "socket", "inode": fd.to_string(), "target": format!("socket:[{fd}]")});
    let rows: Vec<Value> = (0..60_000).map(row).collect();
    let envelope = json!({"schema": "agent.fds/1", "data": {"rows": rows}, "gaps": []}).to_string();
    let paths: Vec<String> = (0..3).map(|number| bundle::artifact_path(number, "fds")).collect();
    write(&path, paths.iter().map(|path| (path.as_str(), envelope.as_bytes())), json!({}));
    assert_eq!(faults(&path), ["schema"; 3], "an envelope has more than that");
    // Where that is not allowed it is told, and the agent does not end in the middle.
    let small = Answer::of(agent().args(["bundle", "verify", "--limit", "rss=16M"]).arg(&path));
    let is_told = small.text().contains("too_large") || small.stderr.contains("larger than");
    assert!(is_told, "{} {} {}", small.status, small.stderr, small.text());
}
