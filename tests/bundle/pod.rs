//! A bundle that is kept in an ephemeral container, and brought out as kubectl does it.

use std::fs;

use agent_oci::Description;
use agent_pod::{DebugSpec, Image, Pod, PodSpec, Profile};
use agent_scenario::bundle;

use crate::common::{self, AGENT, SOON, is_root, skip, wait_for};

#[test]
fn what_is_kept_in_a_pod_comes_out_over_exec_and_cp_under_every_profile() {
    if !is_root() {
        return skip("what_is_kept_in_a_pod_comes_out_over_exec_and_cp_under_every_profile", "a pod needs root");
    }
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
    let directory = tempfile::tempdir().expect("a directory");
    let archive = directory.path().join("agent.oci.tar");
    fs::write(&archive, agent_oci::archive(&fs::read(AGENT).expect("the agent"), &about).expect("an image").bytes)
        .expect("written");
    let image = Image::from_oci_archive(&archive).expect("an image");
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
