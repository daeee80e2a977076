//! Bundles that are kept in the agent's container, and how they get out of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use agent_scenario::bundle;
use serde_json::{Value, json};

use super::common::{self, Answer, Child, agent};
use super::state;

#[test]
fn a_bundle_is_kept_beside_what_is_printed() {
    use std::os::unix::fs::PermissionsExt as _;
    let target = Child::target("sleeper", &["-O2"], ["10"]);
    let pid = target.pid().to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let inside = directory.path().join("session");
    let keep = format!("--keep={}", inside.display());
    let mut command = agent();
    command.env("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,k8s.namespace.name=shop,k8s.deployment.name=web");
    let answer = Answer::of(command.args(["ps", "--pid", &pid, &keep, "--incident", "INC/../7"]));
    assert_eq!(answer.json()["resource"]["k8s.namespace.name"], "shop");
    let names: Vec<_> =
        fs::read_dir(&inside).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), 1);
    assert!(names[0].starts_with("INC-..-7__shop__web__") && names[0].ends_with(".dbg.tar.zst"), "{names:?}");
    assert!(answer.stderr.contains(&format!("kept: agent fetch {}", names[0])), "{}", answer.stderr);
    assert_eq!(state(&inside.join(&names[0])), "whole");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&inside), mode(&inside.join(&names[0]))), (0o700, 0o600));

    // Where others could put something else in its place, nothing is written.
    let open = directory.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&inside, &link).unwrap();
    for place in [&open, &link, &directory.path().join("no/such"), Path::new("/proc")] {
        let answer = common::run(["ps", "--pid", &pid, &format!("--keep={}", place.display())]);
        assert_eq!(answer.status, 2, "{} {}", place.display(), answer.stderr);
        assert!(answer.stdout.is_empty());
    }
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
}

/// A bundle that was kept in a directory of its own: that, and its name.
fn kept() -> (tempfile::TempDir, String) {
    let target = Child::target("sleeper", &["-O2"], ["10"]);
    let directory = tempfile::tempdir().expect("a directory");
    let keep = format!("--keep={}", directory.path().display());
    assert_eq!(common::run(["fds", "--pid", &target.pid().to_string(), &keep]).status, 0);
    let name = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    (directory, name)
}

#[test]
fn what_was_kept_is_fetched_whole_or_from_where_it_was_cut_off() {
    let (directory, name) = kept();
    let bytes = fs::read(directory.path().join(&name)).unwrap();
    let fetch =
        |arguments: &[&str]| Answer::of(agent().arg("fetch").args(arguments).env("AGENT_DIR", directory.path()));
    let whole = fetch(&[&name]);
    assert_eq!((whole.status, &whole.stdout), (0, &bytes), "{}", whole.stderr);
    let told: Value = serde_json::from_str(whole.stderr.trim()).expect("an envelope");
    common::assert_valid(&told);
    assert_eq!(told["data"], json!({"name": name, "bytes": bytes.len(), "sha256": bundle::sha256(&bytes), "from": 0}));
    let rest = fetch(&[&name, "--from", "1000"]);
    assert_eq!(rest.stdout, bytes[1000..]);
    let told: Value = serde_json::from_str(rest.stderr.trim()).expect("an envelope");
    assert_eq!(told["data"]["sha256"], bundle::sha256(&bytes), "of the whole");
    assert_eq!(fetch(&[&name, "--from", &bytes.len().to_string()]).stdout, b"");
    assert_eq!(fetch(&[&name, "--from", &(bytes.len() + 1).to_string()]).status, 1);
    let table = fetch(&[&name, "-o", "json"]).json();
    assert_eq!(table["data"]["bytes"], bytes.len());

    // Nothing else can be named.
    let missing = fetch(&["other.dbg.tar.zst"]);
    assert!(missing.status == 1 && missing.stderr.contains(&name), "{}", missing.stderr);
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
    for other in ["../x", "/etc/passwd", "link", "..", ""] {
        let answer = fetch(&[other]);
        assert!(answer.status != 0 && answer.stdout.is_empty(), "{other:?} {}", answer.stderr);
    }
}

#[test]
fn started_as_tar_it_answers_kubectl_cp_and_nobody_else() {
    let (directory, name) = kept();
    let bytes = fs::read(directory.path().join(&name)).unwrap();
    let program = directory.path().join("tar");
    std::os::unix::fs::symlink(common::AGENT, &program).unwrap();
    let tar = |words: &[&str]| Answer::of(Command::new(&program).args(words).env("AGENT_DIR", directory.path()));
    let path = directory.path().join(&name).display().to_string();
    // What kubectl runs, and what it asks of the names in the archive.
    for path in [path.as_str(), path.trim_start_matches('/')] {
        let answer = tar(&["cf", "-", path]);
        assert_eq!(answer.status, 0, "{}", answer.stderr);
        let mut archive = tar::Archive::new(&answer.stdout[..]);
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some(path.trim_start_matches('/')));
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        assert_eq!(content, bytes);
        assert!(entries.next().is_none());
        assert_eq!(answer.stdout.len() % 512, 0);
    }
    let outside = directory.path().parent().unwrap().join("x").display().to_string();
    for words in [
        &["cf", "-", "/etc/passwd"][..],
        &["cf", "-", &outside],
        &["-xmf", "-", "-C", "/tmp"],
        &["cf", "out.tar", &path],
        &["--help"],
    ] {
        let answer = tar(words);
        assert!(
            !answer.stdout.starts_with(b"etc") && (answer.status != 0 || words == ["--help"]),
            "{words:?} {}",
            answer.stderr
        );
    }
    assert!(tar(&["-xmf", "-", "-C", "/tmp"]).stderr.contains("none in"));
}
