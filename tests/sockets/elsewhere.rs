//! Where sock_diag(7) cannot be asked, or the processes cannot: another network namespace, a recorded tree, a seccomp
//! filter, another user.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{AGENT, Answer, Child, Installed, bytes, compile_c, gaps_at, is_root, rows, skip};
use crate::holder::{Holder, owners, tools};

/// Whether `ours` has all that `other` has.
fn covers(ours: &Value, other: &Value) -> bool {
    match (ours, other) {
        (Value::Object(ours), Value::Object(other)) => {
            other.iter().all(|(key, value)| ours.get(key).is_some_and(|mine| covers(mine, value)))
        }
        _ => ours == other,
    }
}

#[test]
fn another_network_namespace_is_read_from_proc_and_says_the_same() {
    let test = "another_network_namespace_is_read_from_proc_and_says_the_same";
    let Some(holder) = Holder::start(test, &["quiet"]) else { return };
    let ours = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let (inside, outside) = (holder.inside(&[]), holder.outside(&[]));
    let port = ours.local_addr().expect("an address").port();
    assert!(rows(&outside).iter().all(|row| row["local_port"] != port), "a socket of our namespace");
    let summary = &outside["data"]["summary"];
    assert_eq!((&summary["own_namespace"], &summary["sources"]["tcp"]), (&json!(false), &json!("proc")));
    assert_eq!(summary["network_namespace"], inside["data"]["summary"]["network_namespace"]);
    let gaps = gaps_at(&outside, "/rows");
    let said = gaps
        .iter()
        .any(|gap| gap["reason"] == "unsupported" && gap["detail"].as_str().is_some_and(|d| d.contains("tcp_info")));
    assert!(said, "{gaps:?}");
    let mut compared = 0;
    for row in rows(&outside).iter().filter(|row| row.get("inode").is_some()) {
        let found: Vec<&Value> = rows(&inside)
            .iter()
            .filter(|one| {
                one["inode"] == row["inode"] && (one["protocol"] == row["protocol"] || row["protocol"] == "other")
            })
            .collect();
        let [same] = found[..] else { panic!("{row} has {found:?}") };
        // Bound and no more: in no table of proc.
        if row["protocol"] == "other" {
            assert!(same["protocol"] == "other" || same["state"] == "unconnected", "{row}\n{same}");
            continue;
        }
        let mut row = row.clone();
        // NUL bytes in a name are written as @.
        if row.get("abstract_name").is_some() {
            let said = bytes(&same["abstract_name"]);
            let said: Vec<u8> = said.iter().map(|byte| if *byte == 0 { b'@' } else { *byte }).collect();
            assert_eq!(bytes(&row["abstract_name"]), said);
            row["abstract_name"] = same["abstract_name"].clone();
        }
        // Of a UDP socket proc and sock_diag count the same memory; of a listener proc has no limit.
        assert!(covers(same, &row), "{row}\n{same}");
        compared += 1;
    }
    assert!(compared >= 35, "{compared}");
}

#[test]
fn a_recorded_tree_gives_what_the_live_one_did() {
    let Some(holder) = Holder::start("a_recorded_tree_gives_what_the_live_one_did", &["quiet"]) else { return };
    let recorded = tempfile::tempdir().expect("a temporary directory");
    let child = holder.said("child")["pid"].as_u64().expect("a pid");
    for pid in [u64::from(holder.pid()), child] {
        let (from, to) = (format!("/proc/{pid}"), recorded.path().join(pid.to_string()));
        fs::create_dir_all(to.join("net")).expect("creates");
        fs::create_dir_all(to.join("fd")).expect("creates");
        fs::create_dir_all(to.join("ns")).expect("creates");
        for file in ["stat", "status", "comm", "cgroup", "cmdline"] {
            fs::write(to.join(file), fs::read(format!("{from}/{file}")).expect("reads")).expect("writes");
        }
        for file in fs::read_dir(format!("{from}/net")).expect("lists").flatten() {
            if file.file_type().is_ok_and(|kind| kind.is_file())
                && let Ok(text) = fs::read(file.path())
            {
                fs::write(to.join("net").join(file.file_name()), text).expect("writes");
            }
        }
        for link in fs::read_dir(format!("{from}/fd")).expect("lists").flatten() {
            let target = fs::read_link(link.path()).expect("a link");
            std::os::unix::fs::symlink(target, to.join("fd").join(link.file_name())).expect("links");
        }
        let namespace = fs::read_link(format!("{from}/ns/net")).expect("a link");
        std::os::unix::fs::symlink(namespace, to.join("ns/net")).expect("links");
    }
    let pid = holder.pid().to_string();
    let arguments = ["sockets", "--proc", recorded.path().to_str().expect("UTF-8"), "--pid", &pid];
    // Without privilege.
    let open = Command::new("chmod").args(["-R", "a+rX"]).arg(recorded.path()).status().expect("chmod");
    assert!(open.success());
    let installed = Installed::new();
    let seen = Answer::of(installed.as_user(65534, 65534).args(arguments)).json();
    // What the kernel would have to be asked for.
    let plain = |envelope: &Value| -> Vec<Value> {
        let mut rows = rows(envelope).to_vec();
        for row in &mut rows {
            row.as_object_mut().expect("a row").remove("kernel_name");
        }
        rows
    };
    assert_eq!(plain(&seen), plain(&holder.outside(&[])));
    assert_eq!(
        seen["data"]["summary"]["network_namespace"],
        holder.outside(&[])["data"]["summary"]["network_namespace"]
    );
}

/// The row of `listener`, and all else that the agent says.
fn of_listener<'a>(seen: &'a Value, listener: &TcpListener) -> &'a Value {
    let port = listener.local_addr().expect("an address").port();
    let mut found = rows(seen).iter().filter(|row| row["local_port"] == port && row["state"] == "listen");
    let row = found.next().unwrap_or_else(|| panic!("no listener on {port}"));
    assert_eq!(found.next(), None);
    row
}

fn ours(listener: &TcpListener) -> BTreeSet<(u64, u64)> {
    BTreeSet::from([(std::process::id().into(), u64::try_from(listener.as_raw_fd()).expect("a descriptor"))])
}

#[test]
fn a_seccomp_filter_that_refuses_sock_diag_is_a_gap_and_proc_answers() {
    // Ends socket(AF_NETLINK, …) with EPERM for the program that it becomes.
    let program = compile_c(include_str!("no_netlink.c"), &["-O1"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let mut command = Command::new(program);
    command.args([AGENT, "sockets", "-o", "json", "--pid", &std::process::id().to_string()]);
    let seen = Answer::of(&mut command).json();
    for table in ["tcp", "udp", "unix"] {
        assert_eq!(seen["data"]["summary"]["sources"][table], "proc", "{table}");
    }
    let gaps = gaps_at(&seen, "/rows");
    let gap = gaps.iter().find(|gap| gap["path"] == "sock_diag").unwrap_or_else(|| panic!("{gaps:?}"));
    assert_eq!((&gap["reason"], &gap["errno"]), (&json!("permission_denied"), &json!("EPERM")));
    assert_eq!(gap["needs"][0], "seccomp");
    let row = of_listener(&seen, &listener);
    assert_eq!((owners(row), row.get("backlog_limit")), (ours(&listener), None));
}

#[test]
fn an_owner_who_cannot_be_seen_is_a_gap_and_never_nobody() {
    if !is_root() {
        skip("an_owner_who_cannot_be_seen_is_a_gap_and_never_nobody", "not root");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let installed = Installed::new();
    let port = listener.local_addr().expect("an address").port().to_string();
    let pid = std::process::id().to_string();
    let look = |more: &[&str]| {
        let mut command = installed.as_user(65534, 65534);
        command.args(["sockets", "-o", "json", "--pid", &pid, "--port", &port]).args(more);
        Answer::of(&mut command).json()
    };
    let seen = look(&[]);
    assert_eq!(of_listener(&seen, &listener).get("owners"), None);
    // One gap for all processes that the same key would open, and the key.
    let gaps = gaps_at(&seen, "/rows");
    assert!((1..=5).contains(&gaps.len()), "{gaps:?}");
    for gap in &gaps {
        assert_eq!(gap["reason"], "permission_denied");
        assert!(gap["needs"].as_array().is_some_and(|needs| !needs.is_empty()) && gap["remedy"].is_string(), "{gap}");
    }
    // A socket that nobody can have has no owner, whoever cannot be asked.
    for row in rows(&seen).iter().filter(|row| row.get("inode").is_none()) {
        assert_eq!(row["owners"], json!([]));
    }
    // Who does not ask for owners misses nothing.
    let seen = look(&["--no-owners"]);
    assert_eq!((of_listener(&seen, &listener).get("owners"), &seen["gaps"]), (None, &json!([])));
    // And root sees it.
    let seen = crate::common::json(["sockets", "--pid", &pid, "--port", &port]);
    assert_eq!(owners(of_listener(&seen, &listener)), ours(&listener));
}

#[test]
fn a_process_whose_first_thread_has_ended_still_owns_its_sockets() {
    let target = Child::ready(&mut Command::new(compile_c(include_str!("leaderless.c"), &["-O1"])));
    let said = &target.truth[0];
    let pid = target.pid().to_string();
    let seen = crate::common::json(["sockets", "--pid", &std::process::id().to_string(), "--process", &pid]);
    let row = crate::common::row(&seen, "inode", said["inode"].clone());
    assert_eq!(owners(row), BTreeSet::from([(target.pid().into(), said["fd"].as_u64().expect("fd"))]));
}

#[test]
fn processes_that_proc_hides_are_a_gap() {
    let name = "processes_that_proc_hides_are_a_gap";
    if !tools(name, &["unshare", "setpriv", "mount"]) {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let installed = Installed::new();
    let port = listener.local_addr().expect("an address").port().to_string();
    // Of a pid namespace of its own, whose first process is hidden as well.
    let script = "mount -t proc -o hidepid=2 proc /proc || exit 99\n\
        setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"\nexit $?";
    let mut command = Command::new("unshare");
    command.args(["-m", "-p", "--fork", "--", "sh", "-c", script, "sh"]).arg(installed.path());
    let answer = Answer::of(command.args(["sockets", "-o", "json", "--port", &port]));
    if !matches!(answer.status, 0 | 3) {
        skip(name, &format!("no such mount here: {}", answer.stderr));
        return;
    }
    let seen = answer.json();
    assert_eq!(of_listener(&seen, &listener).get("owners"), None);
    let gaps = gaps_at(&seen, "/rows");
    assert!(gaps.iter().any(|gap| gap["needs"] == json!(["hidepid"])), "{gaps:?}");
}
