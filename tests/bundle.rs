//! Bundles: what a run leaves, whole or cut off, and what is found out about one that was changed.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;
#[path = "bundle/forged.rs"]
mod forged;
#[path = "bundle/kept.rs"]
mod kept;
#[path = "bundle/pod.rs"]
mod pod;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agent_scenario::bundle::{self, Entry, Writer};
use common::{Answer, Child, SOON, agent, rows, wait_for, wait_until};
use serde_json::{Value, json};

/// A directory, and a bundle in it that `agent` with `arguments` has written to its standard output.
fn made(arguments: &[&str]) -> (tempfile::TempDir, PathBuf, Answer) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.dbg.tar.zst");
    let mut command = agent();
    command.args(arguments).args(["-o", "bundle"]).stdout(File::create(&path).expect("a file"));
    let answer =
        Answer::from(command.stderr(Stdio::piped()).spawn().expect("starts").wait_with_output().expect("ends"));
    (directory, path, answer)
}

fn verified(path: &Path) -> Value {
    let answer = Answer::of(agent().args(["bundle", "verify"]).arg(path));
    let envelope = answer.json();
    assert_eq!(answer.status, if envelope["data"]["summary"]["state"] == "whole" { 0 } else { 3 });
    envelope
}

fn state(path: &Path) -> String {
    verified(path)["data"]["summary"]["state"].as_str().expect("a state").to_owned()
}

/// The faults that are found.
fn faults(path: &Path) -> Vec<String> {
    let envelope = verified(path);
    let problems = envelope["data"]["summary"]["problems"].as_array().expect("problems");
    problems.iter().map(|problem| problem["fault"].as_str().expect("a fault").to_owned()).collect()
}

fn entries(path: &Path) -> Vec<Entry> {
    bundle::read(&fs::read(path).expect("the bundle"), 64 << 20).entries
}

/// Writes a bundle of `files`, with a manifest that names them and says `about` of the whole.
fn write<'a>(path: &Path, files: impl IntoIterator<Item = (&'a str, &'a [u8])>, about: Value) {
    let mut writer = Writer::new(Box::new(File::create(path).expect("a file")), u64::MAX);
    for (name, bytes) in files {
        writer.add(name, "application/json", bytes).expect("added");
    }
    writer.end(about).expect("ended");
}

/// The same of these files, with what the manifest of before said.
fn rewrite(path: &Path, entries: &[Entry]) {
    let (manifest, files): (Vec<&Entry>, _) = entries.iter().partition(|entry| entry.path == bundle::MANIFEST);
    let about = manifest.last().map_or_else(|| json!({}), |manifest| manifest.json().expect("a manifest"));
    write(path, files.into_iter().map(|entry| (entry.path.as_str(), entry.bytes.as_slice())), about);
}

/// Changes the file `name` of the bundle at `path`.
fn change(path: &Path, name: &str, change: impl FnOnce(&[u8]) -> Vec<u8>) {
    let mut entries = entries(path);
    let is_it =
        |entry: &&mut Entry| entry.path.contains(name) && name.contains("so-far/") == bundle::is_piece(&entry.path);
    let entry = entries.iter_mut().find(is_it).unwrap_or_else(|| panic!("no {name}"));
    entry.bytes = change(&entry.bytes);
    rewrite(path, &entries);
}

#[test]
fn a_run_leaves_a_bundle_that_verifies_and_gives_the_same_findings_again() {
    let target = Child::target("faults", &["-O2"], ["leak-files"]);
    let pid = target.pid().to_string();
    let (_directory, path, answer) =
        made(&["run", "fd-leak", "--param=interval=100ms", "--pid", &pid, "--session", "S1", "--incident", "INC-7"]);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    let envelope = verified(&path);
    assert_eq!(envelope["data"]["summary"]["state"], "whole", "{envelope}");
    let paths: Vec<&str> = rows(&envelope).iter().map(|row| row["path"].as_str().unwrap()).collect();
    let expected = [
        "open.json",
        "scenario.json",
        "artifacts/000-limits.json",
        "artifacts/001-fds[0].json",
        "artifacts/002-fds[1].json",
        "artifacts/003-fds[2].json",
        "artifacts/004-fds[3].json",
        "findings.json",
        "redaction.json",
        "access.ndjson",
        "audit.ndjson",
        "manifest.json",
    ];
    let (pieces, paths): (Vec<&str>, Vec<&str>) = paths.into_iter().partition(|path| bundle::is_piece(path));
    assert_eq!(paths, expected);
    assert_eq!(pieces[..2], ["so-far/000-audit.ndjson", "so-far/001-access.ndjson"]);
    assert!(rows(&envelope).iter().all(|row| row["good"] == true));
    let about = &envelope["data"]["summary"]["about"];
    assert_eq!((&about["scenario"]["name"], &about["redaction"]["level"]), (&json!("fd-leak"), &json!("default")));
    assert!(about["scenario"]["sha256"].as_str().is_some_and(|hash| hash.len() == 64), "{about}");
    assert_eq!(
        (&about["session"]["incident"], &about["command"], &about["exit"]),
        (&json!("INC-7"), &json!("run"), &json!(0))
    );
    assert_eq!(about["target"]["pid"], target.pid());

    let cat = |file: &str| Answer::of(agent().args(["bundle", "cat"]).arg(&path).args([file, "-o", "raw"])).stdout;
    let found: Value = serde_json::from_slice(&cat("findings.json")).expect("JSON");
    common::assert_valid(&found);
    assert_eq!(rows(&found)[0]["level"], "fail");
    let judged = Answer::of(agent().arg("judge").arg(&path)).json();
    assert_eq!(judged["data"]["rows"].to_string(), found["data"]["rows"].to_string());
    assert_eq!(judged["data"]["summary"]["same_scenario"], true);

    // What it says it has touched, and has done, is what its audit says, which is what was on standard error.
    assert_eq!(String::from_utf8(cat("audit.ndjson")).unwrap(), answer.audit);
    assert!(answer.audit.contains("\"type\":\"artifact.add\""));
    let shown = Answer::of(agent().args(["bundle", "show"]).arg(&path).args(["-o", "table"]));
    let files = format!("whole: {} files", rows(&envelope).len());
    for word in [files.as_str(), "INC-7", "fail", "descriptors pile up", "fd-leak"] {
        assert!(shown.text().contains(word), "{word} is not in {}", shown.text());
    }
}

#[test]
fn a_bundle_with_pseudonyms_says_what_is_wrong_and_names_nothing_of_the_target() {
    let target = Child::target("faults", &["-O2"], ["leak-files"]);
    let pid = target.pid().to_string();
    let arguments =
        ["run", "fd-leak", "--param=interval=100ms", "--pid", &pid, "--redact", "strict", "--incident", "I"];
    let (_directory, path, answer) = made(&arguments);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    assert_eq!(state(&path), "whole");
    let places: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|link| Some(fs::read_link(link.ok()?.path()).ok()?.display().to_string()))
        .filter(|place| place.starts_with("/tmp"))
        .collect();
    assert!(!places.is_empty());
    for entry in entries(&path) {
        let text = String::from_utf8_lossy(&entry.bytes).into_owned();
        assert!(!places.iter().any(|place| text.contains(place)), "{}", entry.path);
    }
    let found = entries(&path).into_iter().find(|entry| entry.path == bundle::FINDINGS).unwrap().json().unwrap();
    assert!(rows(&found)[0]["message"].as_str().unwrap().contains("descriptors pile up"), "{found}");
    let judged = Answer::of(agent().arg("judge").arg(&path)).json();
    assert_eq!(judged["data"]["rows"].to_string(), found["data"]["rows"].to_string());
}

/// The bundle at `path` without what tells one look at an unchanged target from another: what its manifest calls volatile, its
/// audit, the time, the order of accesses, and the digest of data that names other files by their hashes.
fn without_volatile(path: &Path) -> Vec<u8> {
    let mut entries = entries(path);
    let manifest = entries.last().and_then(Entry::json).expect("a manifest");
    let volatile = manifest["volatile"].as_array().expect("a list");
    let mut hashes: Vec<(String, String)> = Vec::new();
    for entry in &mut entries {
        if entry.path.ends_with("access.ndjson") {
            // Two threads look at sockets: who comes first is chance.
            let before = bundle::sha256(&entry.bytes);
            let mut lines: Vec<&[u8]> = entry.bytes.split_inclusive(|byte| *byte == b'\n').collect();
            lines.sort_unstable();
            entry.bytes = lines.concat();
            hashes.push((before, bundle::sha256(&entry.bytes)));
        } else if let Some(mut value) = entry.json() {
            let names = volatile.iter().map(|name| name.as_str().expect("a pointer").trim_start_matches('/'));
            for name in names.chain(["window", "audit", "argv", "digest"]) {
                value.as_object_mut().map(|members| members.remove(name));
            }
            // The findings name the artifacts by their hashes.
            let mut text = value.to_string();
            for (before, after) in &hashes {
                text = text.replace(before, after);
            }
            hashes.push((bundle::sha256(&entry.bytes), bundle::sha256(text.as_bytes())));
            entry.bytes = text.into_bytes();
        }
    }
    entries.retain(|entry| !entry.path.ends_with("audit.ndjson"));
    rewrite(path, &entries);
    fs::read(path).expect("a bundle")
}

#[test]
fn two_bundles_of_the_same_recorded_evidence_are_the_same_bytes() {
    let target = Child::target("faults", &["-O2"], ["leak-files"]);
    let pid = target.pid().to_string();
    let record = tempfile::tempdir().expect("a directory");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/record");
    let recorded = Command::new(script).arg(record.path()).arg(&pid).output().expect("the recorder");
    assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
    let proc = record.path().to_str().expect("UTF-8");
    let made = || made(&["run", "what-runs-here", "--proc", proc, "--pid", &pid, "--allow-gaps"]);
    let ((_a, one, first), (_b, other, second)) = (made(), made());
    assert_eq!((first.status, second.status), (0, 0), "{}", first.stderr);
    assert_eq!((state(&one), state(&other)), ("whole".to_owned(), "whole".to_owned()));
    assert!(entries(&one).iter().filter(|entry| bundle::artifact_name(&entry.path).is_some()).count() > 2);
    let (bytes, others) = (without_volatile(&one), without_volatile(&other));
    for (entry, other) in common::pairs(&entries(&one), &entries(&other)) {
        let (text, others) = (String::from_utf8_lossy(&entry.bytes), String::from_utf8_lossy(&other.bytes));
        let at = text.bytes().zip(others.bytes()).take_while(|(a, b)| a == b).count();
        let near = |text: &str| text.chars().skip(at.saturating_sub(80)).take(200).collect::<String>();
        assert!(entry == other, "{}: {}\nand {}", entry.path, near(&text), near(&others));
    }
    assert!(bytes == others, "what is around the files differs");
}

#[test]
fn a_single_command_leaves_a_bundle_too() {
    let target = Child::target("sleeper", &["-O2"], ["10"]);
    let (_directory, path, answer) = made(&["fds", "--pid", &target.pid().to_string()]);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    assert_eq!(state(&path), "whole");
    let content =
        common::json(["bundle", "cat", path.to_str().unwrap(), "artifacts/000-fds.json"])["data"]["content"].take();
    common::assert_valid(&content);
    assert_eq!(content["target"]["pid"], target.pid());
    let judged = Answer::of(agent().arg("judge").arg(&path));
    assert_eq!(judged.status, 1);
    assert!(judged.stderr.contains("no scenario was run"), "{}", judged.stderr);
    // It needs no bundle of what looks at nothing.
    assert_eq!(common::run(["version", "-o", "bundle"]).status, 2);
}

#[test]
fn a_command_that_is_killed_leaves_a_bundle_that_says_what_it_was_about_to_do() {
    let target = Child::start(Command::new("sleep").arg("600"));
    let pid = target.pid().to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.dbg.tar.zst");
    let mut command = agent();
    command.args(["profile", "--for", "60s", "--pid", &pid, "-o", "bundle"]);
    let mut profile = command.stdout(File::create(&path).unwrap()).stderr(Stdio::null()).spawn().expect("starts");
    wait_until("its beginning", SOON, || entries(&path).len() >= 2);
    profile.kill().unwrap();
    profile.wait().unwrap();
    let envelope = verified(&path);
    let summary = &envelope["data"]["summary"];
    assert_eq!(
        (&summary["state"], &summary["audit"]["verdict"]),
        (&json!("cut_off"), &json!("truncated")),
        "{envelope}"
    );
    assert!(summary["missing"].to_string().contains("the answer of profile"), "{}", summary["missing"]);
    // The intent, before anything was looked at.
    let audit = bundle::read(&fs::read(&path).unwrap(), 64 << 20).pieces(bundle::AUDIT);
    let records = String::from_utf8(audit).unwrap();
    let records: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let started = records.iter().find(|record| record["type"] == "action.start").expect("its beginning");
    assert_eq!((&started["data"]["command"], &started["data"]["bundle"]), (&json!("profile"), &json!("-")));
}

#[test]
fn a_run_that_is_killed_leaves_a_bundle_that_opens_and_says_what_is_missing() {
    let target = Child::target("faults", &["-O2"], ["leak-files"]);
    let pid = target.pid().to_string();
    for files in [1, 4, 16] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.dbg.tar.zst");
        let mut command = agent();
        command.args(["run", "fd-leak", "--param=interval=50ms", "--param=looks=1000", "--pid", &pid, "-o", "bundle"]);
        let mut run = command.stdout(File::create(&path).unwrap()).stderr(Stdio::null()).spawn().expect("starts");
        wait_until("the bundle to grow", SOON, || entries(&path).len() >= files);
        run.kill().unwrap();
        run.wait().unwrap();
        let envelope = verified(&path);
        let summary = &envelope["data"]["summary"];
        assert_eq!(summary["state"], "cut_off", "{envelope}");
        let missing = summary["missing"].to_string();
        assert!(missing.contains("findings.json") && missing.contains("manifest.json"), "{missing}");
        if files > 1 {
            assert!(missing.contains("step fds: "), "{missing}");
            // The audit and the access log are there, as far as it had come.
            assert!(
                missing.contains("audit.ndjson: what came after") && missing.contains("access.ndjson: what"),
                "{missing}"
            );
            let chain = &summary["audit"];
            assert_eq!((&chain["verdict"], &chain["fault"]), (&json!("truncated"), &Value::Null), "{chain}");
            assert!(chain["records"].as_u64().is_some_and(|records| records >= 2), "{chain}");
            let bundle = bundle::read(&fs::read(&path).unwrap(), 64 << 20);
            let audit = String::from_utf8(bundle.pieces(bundle::AUDIT)).unwrap();
            assert!(audit.contains("\"action.start\"") && audit.contains("\"argv\":[\"run\",\"fd-leak\""), "{audit}");
            let accesses = String::from_utf8(bundle.pieces(bundle::ACCESS)).unwrap();
            let listed = format!("{{\"access\":\"list\",\"path\":\"/proc/{pid}/fd\"}}\n");
            let looks = bundle.entries.iter().filter(|entry| entry.path.contains("-fds[")).count();
            let lists = accesses.matches(&listed).count();
            assert!(lists == looks || lists + 1 == looks, "{lists} of {looks}: {accesses}");
            let judged = Answer::of(agent().arg("judge").arg(&path)).json();
            assert!(rows(&judged).iter().any(|row| row["id"] == "fd-leak/grows"), "{judged}");
        }
        // Every file that was begun is whole or not there, whatever the moment.
        let bytes = fs::read(&path).unwrap();
        for length in (0..bytes.len()).step_by(97) {
            let cut = bundle::read(&bytes[..length], 64 << 20);
            assert!(cut.is_cut_off(), "{length}: {:?}", cut.problems);
        }
    }
}

#[test]
fn a_signal_the_end_of_the_target_and_a_limit_leave_a_bundle_that_is_closed() {
    let target = Child::target("faults", &["-O2"], ["healthy"]);
    let pid = target.pid().to_string();
    // More may not be written.
    let arguments =
        ["run", "fd-leak", "--param=interval=10ms", "--param=looks=200", "--pid", &pid, "--limit", "out=80K"];
    let (_directory, path, answer) = made(&arguments);
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    let envelope = verified(&path);
    assert_eq!(envelope["data"]["summary"]["state"], "whole", "{envelope}");
    assert_eq!(envelope["data"]["summary"]["about"]["complete"], false);

    for ends_target in [false, true] {
        let target = Child::target("faults", &["-O2"], ["healthy"]);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.dbg.tar.zst");
        let mut command = agent();
        command.args(["run", "fd-leak", "--param=interval=20s", "--pid", &target.pid().to_string(), "-o", "bundle"]);
        let run = command.stdout(File::create(&path).unwrap()).stderr(Stdio::null()).spawn().expect("starts");
        wait_for("the first look", SOON, || {
            entries(&path).iter().any(|entry| entry.path.contains("fds[0]")).then_some(())
        });
        if ends_target {
            drop(target);
        } else {
            common::signal(run.id(), nix::sys::signal::Signal::SIGTERM);
        }
        let status = run.wait_with_output().unwrap().status.code();
        assert!(matches!(status, Some(3 | 4)), "{status:?}");
        let envelope = verified(&path);
        assert_eq!(envelope["data"]["summary"]["state"], "whole", "{envelope}");
        let found = entries(&path).into_iter().find(|entry| entry.path == bundle::FINDINGS).unwrap().json().unwrap();
        let steps = found["data"]["summary"]["steps"].as_array().unwrap();
        assert_eq!(steps.last().unwrap()["end"], "cut_off", "{steps:?}");
        let judged = Answer::of(agent().arg("judge").arg(&path));
        assert_eq!(judged.status, 3, "{}", judged.stderr);
        assert_eq!(judged.json()["data"]["rows"].to_string(), found["data"]["rows"].to_string());
    }
}
