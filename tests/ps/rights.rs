//! What is seen without rights, and behind `hidepid`.

use serde_json::{Value, json};

use super::{by_pid, namespace, target};
use crate::common::namespace::Namespace;
use crate::common::{self, Answer, Installed, gaps_at, json, row, rows, skip};

#[test]
fn without_rights_the_rows_are_there_and_gaps_say_what_would_open_the_rest() {
    const NAME: &str = "without_rights_the_rows_are_there_and_gaps_say_what_would_open_the_rest";
    if !common::is_root() {
        return skip(NAME, "giving up rights needs root");
    }
    let parent = target("setuid", &[]);
    let installed = Installed::new();
    let answer = Answer::of(installed.as_user(65534, 65534).arg("ps"));
    assert_eq!(answer.status, 3);
    let seen = answer.json();
    let rows = by_pid(&seen);
    let full = json(["ps"]);
    let gap_of = |pid: &Value| {
        let index = common::rows(&seen).iter().position(|row| row["pid"] == *pid).unwrap();
        let gaps = gaps_at(&seen, &format!("/rows/{index}/"));
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert_eq!(gaps[0]["at"], format!("/rows/{index}/executable"));
        assert_eq!((&gaps[0]["reason"], &gaps[0]["errno"]), (&json!("permission_denied"), &json!("EACCES")));
        assert_eq!(gaps[0]["path"], format!("/proc/{pid}/exe"));
        (gaps[0]["needs"].clone(), gaps[0]["remedy"].as_str().unwrap().to_owned())
    };
    let by_case = |case: &str| gap_of(&parent.said("case", case)["pid"]);

    let (needs, remedy) = gap_of(&json!(parent.pid()));
    assert_eq!(needs, json!(["same_uid", "CAP_SYS_PTRACE"]), "a root process");
    assert_eq!(remedy, "kubectl debug --profile=general");
    let (needs, remedy) = by_case("dropped");
    assert_eq!(needs, json!(["same_uid", "CAP_SYS_PTRACE"]));
    assert!(remedy.contains("\"runAsUser\":1000,\"runAsGroup\":1000"), "{remedy}");
    let (needs, _) = by_case("undumpable");
    assert_eq!(needs, json!(["CAP_SYS_PTRACE", "dumpable"]));

    for truth in &parent.truth {
        let (mine, all) = (rows[&truth["pid"].as_u64().unwrap()], row(&full, "pid", truth["pid"].clone()));
        for key in ["ppid", "depth", "uid", "gid", "state", "threads", "rss_bytes", "start_ticks", "name", "args"] {
            assert_eq!(mine[key], all[key], "{key} of {truth}");
        }
    }
    // A kernel thread has no executable to be denied.
    let is_kernel = |row: &Value| {
        row["name"] == "kthreadd" || rows.get(&2).is_some_and(|two| two["name"] == "kthreadd") && row["ppid"] == 2
    };
    for gap in seen["gaps"].as_array().unwrap() {
        let index: usize = gap["at"].as_str().unwrap().split('/').nth(2).unwrap().parse().unwrap();
        assert!(!is_kernel(&common::rows(&seen)[index]), "{gap}");
    }
    let allowed = Answer::of(installed.as_user(65534, 65534).args(["ps", "--allow-gaps"]));
    assert_eq!(allowed.status, 0);
}

/// The agent as uid 1000 in `space`, where proc(5) is mounted with `hidepid=level`.
fn hidden(space: &Namespace, installed: &Installed, level: &str, args: &[&str]) -> Option<Answer> {
    const SCRIPT: &str = "mount -t proc -o hidepid=$1 proc /proc || exit 99; shift; \
                          exec setpriv --reuid=1000 --regid=1000 --clear-groups \"$@\"";
    let mut command = space.enter();
    command.args(["unshare", "--mount", "sh", "-c", SCRIPT, "sh", level]).arg(installed.path()).args(args);
    Some(Answer::of(&mut command)).filter(|answer| answer.status != 99)
}

#[test]
fn hidepid_is_told_and_is_no_empty_list() {
    const NAME: &str = "hidepid_is_told_and_is_no_empty_list";
    let Some(space) = namespace(NAME, "setuid", &[]) else { return };
    let installed = Installed::new();
    let ours = space.target.said("case", "dropped");
    // 1 hides what is in the directories of other users' processes, 2 the directories, too.
    for (level, detail) in [("1", "this and 2 more processes"), ("2", "processes of other users")] {
        let Some(answer) = hidden(&space, &installed, level, &["ps"]) else {
            return skip(NAME, "proc cannot be mounted with hidepid here");
        };
        assert_eq!(answer.status, 3, "{}", answer.stderr);
        let seen = answer.json();
        assert_eq!(rows(&seen).len(), 1);
        assert_eq!((&rows(&seen)[0]["pid"], &rows(&seen)[0]["uid"]), (&ours["pid"], &json!(1000)));
        let gaps = seen["gaps"].as_array().unwrap();
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert_eq!((&gaps[0]["at"], &gaps[0]["reason"]), (&json!("/rows/-"), &json!("permission_denied")));
        assert_eq!((&gaps[0]["needs"], &gaps[0]["detail"]), (&json!(["hidepid"]), &json!(detail)));
        assert!(gaps[0]["remedy"].as_str().unwrap().contains("--profile=general"));

        // No command takes a hidden target for one that is not there, or for one without anything.
        for command in ["ps", "fds", "maps", "limits", "env", "stacks", "modules", "snapshot", "profile"] {
            let answer = hidden(&space, &installed, level, &[command, "--pid", "1"]).unwrap();
            assert_eq!(answer.status, 5, "{command}: {}", answer.stderr);
            assert!(answer.stderr.contains("hidepid"), "{command}: {}", answer.stderr);
            let seen: Value = serde_json::from_slice(&answer.stdout).expect("an envelope");
            common::assert_valid(&seen);
            let gaps = seen["gaps"].as_array().unwrap();
            assert_eq!((&seen["data"], gaps.len()), (&json!(null), 1), "{seen}");
            assert_eq!((&gaps[0]["at"], &gaps[0]["reason"]), (&json!(""), &json!("permission_denied")));
            assert_eq!(gaps[0]["needs"], json!(["hidepid"]));
            assert!(gaps[0]["remedy"].as_str().unwrap().contains("--profile=general"), "{seen}");
        }
        // Its own user's processes are there.
        let own = ours["pid"].as_u64().unwrap().to_string();
        for command in ["fds", "maps", "limits", "env"] {
            let answer = hidden(&space, &installed, level, &[command, "--pid", &own]).unwrap();
            assert!(matches!(answer.status, 0 | 3), "{command}: {}", answer.stderr);
        }
    }
    // Root sees all of them through it.
    let script = "mount -t proc -o hidepid=2 proc /proc; exec \"$@\"";
    let all = Answer::of(
        space.enter().args(["unshare", "--mount", "sh", "-c", script, "sh"]).arg(installed.path()).arg("ps"),
    );
    assert_eq!(rows(&all.json()).len(), 4);
}
