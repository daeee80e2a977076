//! A bundle that is kept in an ephemeral container, and brought out as kubectl does it.

use std::fs;
use std::path::Path;

use agent_oci::Description;
use agent_pod::{DebugSpec, Image, Output, Pod, PodSpec, Profile};
use agent_scenario::bundle;
use serde_json::{Value, json};

use crate::common::{self, AGENT, SOON, is_root, skip, wait_for};

#[test]
fn what_is_kept_in_a_pod_comes_out_over_exec_and_cp_under_every_profile() {
    if !is_root() {
        return skip("what_is_kept_in_a_pod_comes_out_over_exec_and_cp_under_every_profile", "a pod needs root");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let image = image(directory.path());
    let spec = PodSpec::new("bundle-kept", ["sh", "-c", "echo ready; exec sleep 300"]).pod_user(1000, 1000);
    let pod = Pod::start(spec).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target that is ready");
    for profile in [Profile::General, Profile::Restricted] {
        let argv = ["agent", "hold", "--ttl", "10m"];
        let hold = pod.debug_spawn(DebugSpec::new(&image, profile, argv).target()).expect("an ephemeral container");
        let exec = |argv: &[&str]| pod.exec(&hold, argv.iter().copied()).expect("exec");
        let kept = wait_for("a bundle", SOON, || {
            let run = exec(&["agent", "run", "fd-leak", "--param=interval=50ms", "--keep"]);
            let stderr = run.stderr_text();
            let name = stderr.lines().find_map(|line| line.strip_prefix("agent: kept: agent fetch "))?.to_owned();
            Some((name, run))
        });
        let (name, run) = kept;
        assert_eq!(run.exit_code, 0, "{}", run.stderr_text());
        let fetched = exec(&["agent", "fetch", &name]);
        assert_eq!(fetched.exit_code, 0, "{}", fetched.stderr_text());
        let read = bundle::read(&fetched.stdout, 64 << 20);
        assert_eq!(read.problems, [], "{profile:?}");
        let copy = directory.path().join("copy.dbg.tar.zst");
        fs::write(&copy, &fetched.stdout).expect("written");
        // In the session of a hold too it has an audit of its own.
        assert_eq!(super::state(&copy), "whole", "{profile:?} {}", super::verified(&copy));
        assert!(read.entries.iter().any(|entry| entry.path == bundle::AUDIT));
        let path = format!("/session/{name}");
        let copied = exec(&["tar", "cf", "-", &path]);
        assert_eq!(copied.exit_code, 0, "{}", copied.stderr_text());
        let mut archive = tar::Archive::new(&copied.stdout[..]);
        let mut entry = archive.entries().expect("entries").next().expect("one").expect("whole");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).expect("read");
        assert_eq!(bytes, fetched.stdout, "{profile:?}");
        // The findings stand on standard output all the same, and refer to the bundle.
        let envelope = run.json().expect("an envelope");
        common::assert_valid(&envelope);
        assert!(envelope["data"]["summary"]["artifacts"][0]["file"]["path"].is_string(), "{envelope}");
    }
}

/// The image that is shipped, made in `directory`.
fn image(directory: &Path) -> Image {
    let about = Description {
        reference: "agent:test".to_owned(),
        created: None,
        title: None,
        description: None,
        version: None,
        revision: None,
        source: None,
        licenses: None,
    };
    let archive = directory.join("agent.oci.tar");
    fs::write(&archive, agent_oci::archive(&fs::read(AGENT).expect("the agent"), &about).expect("an image").bytes)
        .expect("written");
    Image::from_oci_archive(&archive).expect("an image")
}

/// The name of a bundle, as the command has told it that kept it.
fn kept(output: &Output) -> String {
    let stderr = output.stderr_text();
    let name = stderr.lines().find_map(|line| line.strip_prefix("agent: kept: agent fetch "));
    name.unwrap_or_else(|| panic!("nothing was kept: {stderr}")).to_owned()
}

#[test]
fn where_no_file_can_be_written_the_hold_keeps_bundles_in_memory() {
    let name = "where_no_file_can_be_written_the_hold_keeps_bundles_in_memory";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let image = image(directory.path());
    let spec = PodSpec::new("bundle-memory", ["sh", "-c", "echo ready; exec sleep 300"]).pod_user(1000, 1000);
    let pod = Pod::start(spec).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target that is ready");
    let argv = ["agent", "hold", "--ttl", "10m", "--limit", "kept=512K"];
    let spec = DebugSpec::new(&image, Profile::Restricted, argv).target().read_only_root();
    let hold = pod.debug_spawn(spec).expect("an ephemeral container");
    hold.stdout().wait_for("session.open", SOON).expect("an open session");
    let exec = |argv: &[&str]| pod.exec(&hold, ["agent"].iter().chain(argv).copied()).expect("exec");
    let status = || exec(&["status"]).json().expect("an envelope")["data"]["summary"].clone();
    let run = exec(&["run", "fd-leak", "--param=interval=50ms", "--keep", "--allow-gaps"]);
    assert_eq!(run.exit_code, 0, "{}", run.stderr_text());
    let first = kept(&run);
    // It comes out whole, from where it was cut off, and as kubectl cp has it.
    let fetched = exec(&["fetch", &first]);
    let copy = directory.path().join("copy.dbg.tar.zst");
    fs::write(&copy, &fetched.stdout).expect("written");
    assert_eq!(super::state(&copy), "whole", "{}", super::verified(&copy));
    let lines: Vec<Value> = fetched.stderr_text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let told = lines.iter().find(|line| line["schema"] == "agent.fetch/1").expect("an envelope");
    assert_eq!(told["data"]["sha256"], bundle::sha256(&fetched.stdout));
    let rest = exec(&["fetch", &first, "--from", "1000"]);
    assert!(rest.stdout == fetched.stdout[1000..], "{} {}", rest.stdout.len(), rest.stderr_text());
    let copied = exec(&["tar", "cf", "-", &format!("/session/{first}")]);
    let mut archive = tar::Archive::new(&copied.stdout[..]);
    let mut bytes = Vec::new();
    let mut entry = archive.entries().expect("entries").next().expect("one").expect("whole");
    std::io::Read::read_to_end(&mut entry, &mut bytes).expect("read");
    assert_eq!(bytes, fetched.stdout);
    // It can be looked at where it is.
    let list = exec(&["bundle", "list", &first]).json().expect("an envelope");
    common::assert_valid(&list);
    assert_eq!(list["data"]["summary"]["state"], "whole", "{list}");
    let summary = status();
    assert_eq!(summary["kept"], json!([first]));
    assert_eq!((&summary["kept_bytes"], &summary["kept_limit_bytes"]), (&json!(bytes.len()), &json!(512 << 10)));
    // What one has written that was killed is there as well.
    std::thread::scope(|scope| {
        let profile = scope.spawn(|| exec(&["profile", "--for", "50s", "--keep"]));
        hold.stdout().wait_for("\"command\":\"profile\"", SOON).expect("its beginning");
        let commands = exec(&["status"]).json().expect("an envelope");
        let running = common::rows(&commands).iter().find(|row| row["argv"][0] == "profile").expect("it");
        let target = pod.target_pid().as_raw_nonzero().get().cast_unsigned();
        let known = common::beside(target).into_iter().find(|(inner, _)| running["pid"] == *inner);
        common::signal(known.expect("a process").1, nix::sys::signal::Signal::SIGKILL);
        assert_ne!(profile.join().expect("a thread").exit_code, 0);
    });
    let summary = status();
    let [_, cut] = &summary["kept"].as_array().expect("names")[..] else { panic!("{summary}") };
    fs::write(&copy, exec(&["fetch", cut.as_str().expect("a name")]).stdout).expect("written");
    assert_eq!(super::state(&copy), "cut_off", "{}", super::verified(&copy));
    // Nothing is thrown away for another: where there is no room it is told, and the answer is there all the same.
    let before = summary["kept"].as_array().expect("names").len();
    let mut names = vec![first.clone()];
    let full = loop {
        let ps = exec(&["ps", "--keep", "--allow-gaps"]);
        if ps.exit_code != 0 {
            break ps;
        }
        let name = kept(&ps);
        assert!(!names.contains(&name), "{name} is the name of two");
        names.push(name);
        assert!(names.len() < 100, "there is always room");
    };
    let envelope = full.json().expect("an envelope");
    assert_eq!(full.exit_code, 4, "{envelope}");
    assert!(!common::rows(&envelope).is_empty(), "{envelope}");
    let gap = common::gaps_at(&envelope, "").into_iter().find(|gap| gap["reason"] == "limit_reached");
    assert!(gap.is_some_and(|gap| gap["remedy"].to_string().contains("--limit kept=")), "{envelope}");
    assert!(exec(&["fetch", &first]).stdout == fetched.stdout, "the first is what it was");
    let end = exec(&["end"]);
    assert_eq!(end.exit_code, 0, "{}", end.stderr_text());
    let log = hold.wait(SOON).expect("its end").stdout_text();
    assert!(log.contains("\"limit\":\"kept\""), "{log}");
    // What ends with the hold is named.
    let records: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let close = records.iter().find(|record| record["type"] == "session.close").expect("its end");
    assert_eq!(close["data"]["gone"]["names"][0], first.as_str(), "{close}");
    assert_eq!(close["data"]["gone"]["count"], before + names.len() - 1, "{close}");
}
