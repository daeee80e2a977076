//! A recorded tree of /proc gives what the live one gave, and a broken one costs no more than what is broken.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::common::{gaps_at, rows, run, stop, threads};
use super::{alone, maps};

/// Copies what `maps` reads of `pid` to `to`.
fn record(pid: u32, to: &Path) {
    let from = Path::new("/proc").join(pid.to_string());
    let to = to.join(pid.to_string());
    let copy = |name: &str| {
        let target = to.join(name);
        fs::create_dir_all(target.parent().expect("below a directory")).expect("a directory");
        let content = fs::read(from.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        fs::write(target, content).expect("a copy");
    };
    for name in ["stat", "status", "statm", "cmdline", "cgroup", "maps", "smaps", "smaps_rollup"] {
        copy(name);
    }
    for tid in threads(pid) {
        copy(&format!("task/{tid}/stat"));
        copy(&format!("task/{tid}/syscall"));
    }
}

fn read(tree: &Path, pid: u32, options: &[&str]) -> Value {
    let (tree, pid) = (tree.to_str().expect("UTF-8"), pid.to_string());
    run(["--proc", tree, "maps", "--pid", &pid].iter().chain(options)).json()
}

#[test]
fn a_recorded_tree_gives_the_same_data() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = alone(directory.path(), &[]);
    stop(target.pid());
    record(target.pid(), directory.path());
    for options in [&[][..], &["--no-smaps"], &["--summary"]] {
        let (live, recorded) = (maps(target.pid(), options), read(directory.path(), target.pid(), options));
        assert_eq!(live["digest"], recorded["digest"], "{options:?}");
        assert_eq!(recorded["gaps"], json!([]), "{options:?}");
    }
}

#[test]
fn a_broken_record_loses_only_what_is_broken() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = alone(directory.path(), &[]);
    stop(target.pid());
    let (pid, tree) = (target.pid(), directory.path());
    record(pid, tree);
    let own = tree.join(pid.to_string());
    let whole = read(tree, pid, &[]);
    let text = fs::read(own.join("smaps")).expect("recorded");

    // Cut off in the middle of a mapping's figures.
    let half = &text[..text.len() / 2];
    fs::write(own.join("smaps"), half).expect("writes");
    let cut = read(tree, pid, &[]);
    let count = rows(&cut).len();
    assert!(count > 3 && count < rows(&whole).len());
    for (at, (cut, whole)) in rows(&cut).iter().zip(rows(&whole)).enumerate().take(count - 1) {
        // A guard or a file's kind may hang on what comes after.
        assert_eq!((&cut["start"], &cut["rss_bytes"]), (&whole["start"], &whole["rss_bytes"]), "{at}");
    }
    assert!(gaps_at(&cut, "/rows").iter().any(|gap| gap["reason"] == "incomplete"), "{}", cut["gaps"]);

    // Bytes that are none of the kernel's.
    let mut torn = text.clone();
    let figures = text.windows(5).position(|window| window == b"\nRss:").expect("figures") + 1;
    torn[figures..figures + 300].fill(0xff);
    fs::write(own.join("smaps"), torn).expect("writes");
    let torn = read(tree, pid, &[]);
    assert!(gaps_at(&torn, "/rows").iter().any(|gap| gap["reason"] == "malformed"), "{}", torn["gaps"]);
    assert_eq!(rows(&torn).last(), rows(&whole).last());

    // No smaps: what maps has.
    fs::remove_file(own.join("smaps")).expect("removes");
    let bare = read(tree, pid, &[]);
    assert_eq!(rows(&bare).len(), rows(&whole).len());
    assert_eq!(gaps_at(&bare, "/summary/rss_bytes")[0]["reason"], "not_found", "{}", bare["gaps"]);
    assert_eq!(rows(&bare), rows(&read(tree, pid, &["--no-smaps"])));

    // No threads: no stack is anybody's.
    fs::remove_dir_all(own.join("task")).expect("removes");
    let threadless = read(tree, pid, &["--no-smaps"]);
    assert_eq!(gaps_at(&threadless, "/rows")[0]["reason"], "not_found", "{}", threadless["gaps"]);
    assert!(rows(&threadless).iter().all(|row| row["kind"] != "thread_stack"));

    // Nothing at all.
    fs::remove_file(own.join("maps")).expect("removes");
    let none = read(tree, pid, &["--no-smaps"]);
    assert!(none["data"]["rows"].is_null());
    assert_eq!(gaps_at(&none, "/rows")[0]["reason"], "not_found");
}
