//! Secrets planted in real processes reach no output in any format; the audit is checked as a person would.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and writes files")]

mod common;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::sync::LazyLock;

use common::Child;
use serde_json::Value;

/// No part of it may be seen; another one each time, since whoever looks for it has it in their arguments too.
static CANARY: LazyLock<String> = LazyLock::new(|| format!("Ca{}NaRy{}", std::process::id(), std::process::id()));

/// A process with the secret in its arguments, in 12 shapes, in its environment, and in the name of a file.
fn planted() -> (Child, tempfile::TempDir) {
    let canary = CANARY.as_str();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let key = format!("eyJhbGciOiJIUzI1NiJ9.{canary}.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U");
    let file = directory.path().join(&key);
    std::fs::write(&file, "x").expect("a file");
    let mut command = Command::new("sh");
    // The shell keeps its arguments, and the file open.
    command.args(["-c", "exec 7<\"$FILE\"; echo '\"ready\"'; read line", "sh"]);
    command.args(["--password", canary, &format!("--token={canary}"), &format!("-Ddb.password={canary}")]);
    command.args([&format!("postgres://app:{canary}@db/shop"), &format!("https://h/?key={canary}")]);
    command.args(["-H", &format!("Authorization: Bearer {canary}"), &format!("{{\"apiKey\":\"{canary}\"}}")]);
    command.args([&format!("app:{canary}@tcp(db:3306)/shop"), &format!("Server=db;Password={canary};")]);
    command.args(["--api-key", canary, &key, &format!("DB_PASSWORD={canary}"), "--secret-key", canary]);
    command.env("DB_PASSWORD", canary).env("FILE", &file);
    (Child::ready(&mut command), directory)
}

#[test]
fn planted_secrets_reach_no_output() {
    let (child, directory) = planted();
    // Names of sockets are the target's as well: one in the file system, one without.
    let named = format!("token={}", CANARY.as_str());
    let _at_path = UnixListener::bind(directory.path().join(&named)).expect("a socket");
    let abstract_name = SocketAddr::from_abstract_name(format!("{named} {}", std::process::id())).expect("a name");
    let _abstract = UnixListener::bind_addr(&abstract_name).expect("a socket");
    let pid = child.pid().to_string();
    let commands: [&[&str]; 9] = [
        &["sockets", "--pid", &pid, "--protocol", "unix"],
        &["ps", "--pid", &pid],
        &["env", "--pid", &pid],
        &["fds", "--pid", &pid],
        &["maps", "--pid", &pid],
        &["modules", "--pid", &pid],
        &["stacks", "--pid", &pid],
        &["snapshot", "--pid", &pid],
        &["modules", "--pid", &pid, "-o", "cyclonedx"],
    ];
    for command in commands {
        for format in ["json", "ndjson", "table"] {
            for level in ["default", "strict"] {
                let mut arguments = command.to_vec();
                if !command.contains(&"-o") {
                    arguments.extend(["-o", format]);
                }
                if command.contains(&"-o") && level == "strict" {
                    assert_eq!(common::run(command.iter().chain(&["--redact", level])).status, 2);
                    continue;
                }
                arguments.extend(["--redact", level, "--access-log"]);
                let answer = common::run(&arguments);
                assert!(matches!(answer.status, 0 | 3), "{arguments:?}: {}", answer.stderr);
                for out in [answer.text(), &answer.stderr, &answer.audit] {
                    assert!(!out.contains(CANARY.as_str()), "{arguments:?}: {out}");
                }
            }
        }
    }
    let sockets = common::json(["sockets", "--pid", &pid, "--protocol", "unix", "--allow-gaps"]);
    assert!(sockets.to_string().contains("token=‹redacted:value›"), "the names were there to be seen");
    let ps = common::json(["ps", "--pid", &pid]);
    let row = common::row(&ps, "pid", child.pid());
    assert_eq!(row["args"][4], "--password");
    assert_eq!(row["args"][5], "‹redacted:flag›");
    assert_eq!(ps["redaction"]["level"], "default");
    assert!(ps["redaction"]["removed"]["flag"].as_u64().is_some_and(|count| count >= 3), "{}", ps["redaction"]);
    // Shown when it is asked for, and the audit says so.
    let off = common::run(["ps", "--pid", &pid, "--redact", "off"]);
    assert!(off.text().contains(CANARY.as_str()) && !off.audit.contains(CANARY.as_str()));
    assert!(off.audit.contains("authz.allow"), "{}", off.audit);
    let off = common::json(["ps", "--pid", &pid, "--redact", "off", "-o", "json"]);
    assert_eq!((&off["redaction"]["level"], &off["redaction"]["removed"]), (&"off".into(), &serde_json::json!({})));
}

#[test]
fn the_same_state_has_the_same_digest_redacted_and_it_is_that_of_what_is_printed() {
    let (child, _directory) = planted();
    let pid = child.pid().to_string();
    let (one, two) = (common::json(["fds", "--pid", &pid]), common::json(["fds", "--pid", &pid]));
    assert_eq!(one["digest"], two["digest"]);
    assert_eq!(agent_model::digest(&one["data"]).expect("canonical"), one["digest"]);
    let strict = |incident| common::json(["fds", "--pid", &pid, "--redact", "strict", "--incident", incident]);
    assert_eq!(strict("INC-1")["digest"], strict("INC-1")["digest"]);
    assert_ne!(strict("INC-1")["digest"], strict("INC-2")["digest"]);
}

#[test]
fn redact_test_shows_what_would_be_left() {
    let answer = common::run(["redact", "test", "mysql", "-uroot", "-pswordfish", "shop"]);
    let value = answer.json();
    assert_eq!(value["data"]["levels"][0]["shown"][2], "-p‹redacted:flag›");
    for out in [answer.text(), &answer.stderr, &answer.audit] {
        assert!(!out.contains("swordfish"), "{out}");
    }
}

#[test]
fn audit_verify_tells_whole_from_truncated_from_tampered() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = directory.path().join("log");
    let verify = |text: &str, witness: Option<&str>| -> (i32, Value) {
        std::fs::write(&log, text).expect("a file");
        let mut arguments = vec!["audit".to_owned(), "verify".to_owned(), log.display().to_string()];
        if let Some(witness) = witness {
            let path = directory.path().join("witness");
            std::fs::write(&path, witness).expect("a file");
            arguments.extend(["--witness".to_owned(), path.display().to_string()]);
        }
        let answer = common::run(&arguments);
        (answer.status, answer.json())
    };
    let records = common::run(["version"]).audit;
    let last: Value = serde_json::from_str(records.lines().last().expect("a record")).expect("JSON");
    let first: Value = serde_json::from_str(records.lines().next().expect("a record")).expect("JSON");
    let witness = serde_json::json!({
        "session": "x",
        "audit": {"count": records.lines().count(), "head": last["hash"], "key": first["data"]["key"]},
    })
    .to_string();
    let prefixed: String =
        records.lines().map(|line| format!("2026-11-26T12:00:00.123456789Z {line}\nsomething else\n")).collect();
    let (status, whole) = verify(&prefixed, Some(&witness));
    assert_eq!((status, &whole["data"]["rows"][0]["verdict"]), (0, &"whole".into()), "{whole}");
    assert_eq!(whole["data"]["rows"][0]["witnessed"], true);

    let kept: Vec<&str> = records.lines().collect();
    let (status, cut) = verify(&kept[..3].join("\n"), None);
    assert_eq!((status, &cut["data"]["rows"][0]["verdict"]), (3, &"truncated".into()), "{cut}");
    let (status, edited) = verify(&records.replacen("\"version\"", "\"ps\"", 1), None);
    let row = &edited["data"]["rows"][0];
    assert_eq!(
        (status, &row["verdict"], &row["fault"], &row["line"]),
        (3, &"tampered".into(), &"edited".into(), &2.into())
    );
    let other = common::run(["version"]).audit;
    let (status, replaced) = verify(&other, Some(&witness));
    assert_eq!((status, &replaced["data"]["rows"][0]["fault"]), (3, &"witness".into()), "{replaced}");
    let (status, none) = verify("no records here\n", None);
    assert_eq!((status, none["data"]["rows"].as_array().map(Vec::len)), (3, Some(0)));
}
