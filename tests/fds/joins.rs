//! `--peers`, `--shared`, and a recorded tree.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::common::{Answer, Child, agent, gaps_at, json, row, rows, stop};

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

/// Records what `fds` reads of `pid`.
fn record(pid: u32, to: &std::path::Path) {
    let (from, into) = (format!("/proc/{pid}"), to.join(pid.to_string()));
    fs::create_dir_all(into.join("fd")).unwrap();
    fs::create_dir_all(into.join("fdinfo")).unwrap();
    for file in ["stat", "status", "cgroup", "mountinfo", "limits", "comm"] {
        fs::write(into.join(file), fs::read(format!("{from}/{file}")).unwrap()).unwrap();
    }
    for entry in fs::read_dir(format!("{from}/fd")).unwrap().flatten() {
        symlink(fs::read_link(entry.path()).unwrap(), into.join("fd").join(entry.file_name())).unwrap();
        let info = fs::read(format!("{from}/fdinfo/{}", entry.file_name().to_str().unwrap())).unwrap();
        fs::write(into.join("fdinfo").join(entry.file_name()), info).unwrap();
    }
}

#[test]
fn a_recorded_tree_gives_what_it_holds_and_says_what_it_does_not() {
    let target = Child::target("descriptors", &["-O2"], [""; 0]);
    stop(target.pid());
    let recorded = tempfile::tempdir().unwrap();
    record(target.pid(), recorded.path());
    let pid = target.pid().to_string();
    let live = json(["fds", "--no-sockets", "--pid", &pid]);
    let replay =
        || Answer::of(agent().args(["fds", "--no-sockets", "--pid", &pid, "--proc"]).arg(recorded.path())).json();
    let replayed = replay();
    assert_eq!(rows(&live).len(), rows(&replayed).len());
    for (index, (live, replayed)) in rows(&live).iter().zip(rows(&replayed)).enumerate() {
        assert_eq!(live["fd"], replayed["fd"]);
        for key in ["access", "flags", "mount_id", "mount_point", "fs_type"] {
            assert_eq!(live[key], replayed[key], "{key} of {live}");
        }
        if replayed["type"] == "unknown" && live["type"] != "unknown" {
            // What kind of file a path leads to is not in proc(5).
            assert_eq!(gaps_at(&replay(), &format!("/rows/{index}/type"))[0]["reason"], "unsupported");
        } else {
            let differs = |key: &&String| live[key.as_str()] != replayed[key.as_str()];
            let keys: Vec<&String> = live.as_object().unwrap().keys().filter(differs).collect();
            assert_eq!(keys, Vec::<&String>::new(), "{live}\n{replayed}");
        }
    }
    for key in ["soft_limit", "hard_limit", "descriptors"] {
        assert_eq!(live["data"]["summary"][key], replayed["data"]["summary"][key]);
    }
    let again: Value = replay();
    assert_eq!(again["digest"], replayed["digest"]);
}
