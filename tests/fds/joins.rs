//! `--peers`, `--shared`, and a recorded tree.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Child, gaps_at, json, pairs, row, rows, run, stop};

#[test]
fn names_who_is_at_the_other_end() {
    let target = Child::target("peers", &["-O2"], [""; 0]);
    let seen = json(["fds", "--peers", "--pid", &target.pid().to_string()]);
    let peers = |case: &str| row(&seen, "fd", target.said("case", case)["fd"].clone())["peers"].clone();
    let read_end = target.said("case", "read_end");
    assert_eq!(
        peers("read_end"),
        json!([{"pid": read_end["peer_pid"], "fd": read_end["peer_fd"], "access": "write", "name": "other end"}])
    );
    for (case, access) in [("own_write", "read"), ("own_read", "write")] {
        let said = target.said("case", case);
        let name = fs::read_to_string(format!("/proc/{}/comm", target.pid())).unwrap();
        let expected = json!([{"pid": target.pid(), "fd": said["peer_fd"], "access": access, "name": name.trim_end()}]);
        assert_eq!(peers(case), expected, "{case}");
    }
    // Nobody, and that is known; where somebody could not be asked it is not.
    if gaps_at(&seen, "/rows/-/peers").is_empty() {
        assert_eq!(peers("alone"), json!([]));
    }
    let socket = target.said("case", "socket");
    assert_eq!(peers("socket"), json!([{"pid": socket["peer_pid"], "fd": socket["peer_fd"], "name": "other end"}]));
    let plain = json(["fds", "--pid", &target.pid().to_string()]);
    assert!(rows(&plain).iter().all(|row| row.get("peers").is_none() && row.get("description").is_none()));
}

#[test]
fn tells_which_descriptors_are_one_description() {
    let target = Child::target("peers", &["-O2"], [""; 0]);
    let seen = json(["fds", "--shared", "--pid", &target.pid().to_string()]);
    let gaps = gaps_at(&seen, "/rows/-/description");
    if let Some(gap) = gaps.first() {
        assert!(matches!(gap["reason"].as_str(), Some("permission_denied" | "unsupported")), "{gap}");
        return crate::common::skip("tells_which_descriptors_are_one_description", "kcmp(2) is not to be had here");
    }
    let same = target.said("case", "same");
    assert_eq!(row(&seen, "fd", same["fd"].clone())["description"], same["dup_of"]);
    assert_eq!(row(&seen, "fd", same["dup_of"].clone())["description"], same["dup_of"]);
    // The same file and position, but opened by itself.
    assert_eq!(row(&seen, "fd", target.said("case", "other")["fd"].clone()).get("description"), None);
}

/// Records `pid` with the script that is there for it.
fn record(pid: u32, to: &std::path::Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/record");
    let recorded = Command::new(script).arg(to).arg(pid.to_string()).status().expect("sh");
    assert!(recorded.success());
}

#[test]
fn a_recorded_tree_gives_what_the_live_one_did() {
    let directory = tempfile::tempdir().unwrap();
    // The log of the tests, which would be its standard error, grows.
    let mut command = Command::new(agent_targets::build("descriptors", &["-O2"]));
    let target = Child::ready(command.env("TMPDIR", directory.path()).stderr(Stdio::null()));
    stop(target.pid());
    let recorded = tempfile::tempdir().unwrap();
    record(target.pid(), recorded.path());
    let pid = target.pid().to_string();
    let tree = recorded.path().to_str().unwrap();
    for (command, options) in [
        ("fds", &["--no-sockets"][..]),
        // How pages are shared depends on other processes: the figures have a test of their own.
        ("maps", &["--no-smaps"]),
        ("sockets", &["--process", &pid, "--protocol", "tcp"]),
    ] {
        let live = run([command, "--allow-gaps", "--pid", &pid].iter().chain(options)).json();
        let replay = run([command, "--allow-gaps", "--pid", &pid, "--proc", tree].iter().chain(options)).json();
        if command == "sockets" {
            // What only sock_diag(7) tells is not in proc(5).
            let ends = |envelope: &Value| -> Vec<Value> {
                let keys = ["local_address", "local_port", "remote_address", "remote_port", "state", "owners", "inode"];
                rows(envelope).iter().map(|row| keys.iter().map(|key| row[*key].clone()).collect()).collect()
            };
            assert!(!rows(&live).is_empty());
            assert_eq!(ends(&live), ends(&replay));
            continue;
        }
        for (live, replayed) in pairs(rows(&live), rows(&replay)) {
            assert_eq!(live, replayed, "{command} {options:?}");
        }
        assert_eq!(live["digest"], replay["digest"], "{command} {options:?}");
        assert_eq!(replay["gaps"], json!([]), "{command} {options:?}");
    }
    // Without what stat(1) said, the kind of a file is a gap.
    fs::remove_dir_all(recorded.path().join(&pid).join("fdstat")).unwrap();
    let replay = run(["fds", "--no-sockets", "--allow-gaps", "--pid", &pid, "--proc", tree]).json();
    let at = rows(&replay).iter().position(|row| row["type"] == "unknown").expect("a file");
    assert_eq!(gaps_at(&replay, &format!("/rows/{at}/type"))[0]["reason"], "unsupported");
}
