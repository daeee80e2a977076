//! Every `kubectl debug` profile against every kind of target: what can be had must be there, and what cannot must be
//! a gap that names the gate and the remedy.
//!
//! The rows are what was measured on a real cluster (see `tests/pod/README.md`); the pod emulator starts the containers
//! as the kubelet does, from the archive that `scripts/image` writes: `USER 65532`, every capability permitted only.
#![allow(clippy::disallowed_methods, reason = "a test: it writes the image to a file")]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use agent_pod::{CapSet, DebugSpec, Image, Output, Pod, PodSpec, Profile};
use common::{AGENT, assert_valid, is_root, skip};
use serde_json::Value;

const PROFILES: [Profile; 6] =
    [Profile::Legacy, Profile::Baseline, Profile::General, Profile::Netadmin, Profile::Restricted, Profile::Sysadmin];

/// Kinds of evidence that need no key at all.
const OPEN: [&str; 4] = ["arguments", "network_tables", "processes", "socket_diagnostics"];

/// Kinds that a look into the process needs.
const INSIDE: [&str; 11] = [
    "descriptor_details",
    "descriptors",
    "environment",
    "executable",
    "files",
    "io",
    "maps",
    "memory",
    "smaps",
    "stops",
    "system_calls",
];

/// How far a profile comes with a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Everything, by the capabilities that were raised or the same uid.
    AsIs,
    /// Everything, with the target's IDs taken on.
    AsTarget,
    /// World-readable files only.
    Outside,
}

/// The image as it is shipped, made once.
static IMAGE: LazyLock<(Image, PathBuf)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory").keep();
    let path = directory.join("agent.oci.tar");
    let binary = std::fs::read(AGENT).expect("the agent");
    let description = agent_oci::Description { reference: "agent:test".to_owned(), ..Default::default() };
    let archive = agent_oci::archive(&binary, &description).expect("a static binary");
    std::fs::write(&path, &archive.bytes).expect("the archive");
    let image = Image::from_oci_archive(&path).expect("an image");
    (image, directory)
});

/// A pod whose only container sleeps.
fn sleeper(name: &str) -> PodSpec {
    PodSpec::new(name, ["sh", "-c", "echo ready; exec sleep infinity"])
}

fn start(spec: PodSpec) -> Pod {
    let pod = Pod::start(spec).expect("a pod");
    pod.wait_for_output("ready", Duration::from_secs(30)).expect("a target that is ready");
    pod
}

fn debug(pod: &Pod, profile: Profile, arguments: &[&str]) -> Output {
    let argv = std::iter::once("agent").chain(arguments.iter().copied());
    pod.debug(DebugSpec::new(&IMAGE.0, profile, argv).target()).expect("an ephemeral container")
}

/// The envelope of a run that must have ended with 0 or 3, and left its verdict with the pod.
fn envelope(output: &Output, what: &str) -> Value {
    assert!(matches!(output.exit_code, 0 | 3), "{what}: exit {}: {}", output.exit_code, output.stderr_text());
    let envelope = output.json().unwrap_or_else(|error| panic!("{what}: {error}: {}", output.stdout_text()));
    assert_valid(&envelope);
    let verdict: Value = serde_json::from_slice(&output.termination_message)
        .unwrap_or_else(|error| panic!("{what}: the termination message: {error}"));
    assert_eq!(verdict["session"], envelope["session"]["id"], "{what}");
    // The receipt: all of it in a few hundred bytes, wherever the file can be written.
    assert!(output.termination_message.len() <= 400, "{what}: {verdict}");
    assert_eq!(verdict["commands"], 1, "{what}");
    assert!(verdict["audit"]["count"].as_u64().is_some_and(|count| count >= 5), "{what}: {verdict}");
    for word in ["head", "key"] {
        let hex = verdict["audit"][word].as_str().expect("hex");
        assert!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{what}: {verdict}");
    }
    assert_eq!(verdict["verdicts"], serde_json::json!({output.exit_code.to_string(): 1}), "{what}");
    assert_eq!(verdict["exit"], output.exit_code, "{what}");
    assert_eq!(verdict["digest"], envelope["digest"], "{what}");
    assert_eq!(verdict["gaps"], envelope["gaps"].as_array().map_or(0, Vec::len), "{what}");
    envelope
}

fn available(envelope: &Value) -> BTreeSet<String> {
    let rows = common::rows(envelope).iter().filter(|row| row["available"] == true);
    rows.map(|row| row["evidence"].as_str().expect("a name").to_owned()).collect()
}

/// What `access` must say, and that every gate that is shut is named with its remedy.
fn check_access(pod: &Pod, profile: Profile, reach: Reach, what: &str) {
    let access = envelope(&debug(pod, profile, &["access"]), what);
    let mut expected: BTreeSet<String> = OPEN.map(str::to_owned).into();
    if reach != Reach::Outside {
        expected.extend(INSIDE.map(str::to_owned));
    }
    if profile != Profile::Restricted {
        expected.insert("packets".to_owned());
    }
    if profile == Profile::Sysadmin {
        expected.insert("kernel_stacks".to_owned());
    }
    assert_eq!(available(&access), expected, "{what}");
    // Where the target's IDs are not enough they have been taken on all the same.
    let taken_on = match reach {
        Reach::AsIs => false,
        Reach::AsTarget => true,
        Reach::Outside => profile != Profile::Restricted,
    };
    let approach = if taken_on { "as_target" } else { "as_is" };
    assert_eq!(access["data"]["summary"]["agent"]["approach"], approach, "{what}");
    let profiles = access["data"]["summary"]["agent"]["profiles"].as_array().expect("profiles");
    assert!(profiles.iter().any(|name| name == profile.name()), "{what}: {profiles:?}");
    for row in common::rows(&access).iter().filter(|row| row["available"] == false) {
        let gate = row["gate"].as_str().unwrap_or_default();
        assert!(!gate.is_empty() && gate != "missing" && gate != "lsm", "{what}: {row}");
        assert!(!row["needs"].as_array().expect("needs").is_empty(), "{what}: {row}");
        assert!(row["remedy"].as_str().expect("a remedy").starts_with("kubectl debug --profile="), "{what}: {row}");
    }
}

/// What `ps`, `fds`, `maps`, `stacks` and `modules` must return, or report as gaps.
fn check_collectors(pod: &Pod, profile: Profile, reach: Reach, what: &str) {
    let ps = envelope(&debug(pod, profile, &["ps"]), what);
    let init = common::row(&ps, "pid", 1);
    assert_eq!(init["name"], "sleep", "{what}");
    assert_eq!(init["args"], serde_json::json!(["sleep", "infinity"]), "{what}");
    assert_eq!(ps["target"]["pid"], 1, "{what}");
    assert_eq!(ps["resource"]["k8s.pod.uid"], pod.uid(), "{what}");
    assert_eq!(ps["resource"]["container.id"], pod.target_id(), "{what}");
    assert!(common::rows(&ps).iter().all(|row| row["name"] != "agent"), "{what}: the agent lists itself");
    if reach == Reach::Outside {
        assert!(init.get("executable").is_none(), "{what}");
        assert_denied(&ps, "/rows/0/executable", what);
    } else {
        assert!(init["executable"].as_str().is_some_and(|path| path.ends_with("/sleep")), "{what}: {init}");
        assert_eq!(ps["gaps"], serde_json::json!([]), "{what}");
    }
    for command in ["fds", "maps", "stacks", "modules"] {
        let what = format!("{what}: {command}");
        let output = debug(pod, profile, &[command]);
        let seen = envelope(&output, &what);
        if reach == Reach::Outside {
            assert_eq!(output.exit_code, 3, "{what}");
            assert_denied(&seen, "/rows", &what);
        } else {
            assert_eq!(seen["gaps"], serde_json::json!([]), "{what}");
            assert!(!common::rows(&seen).is_empty(), "{what}");
        }
        if command == "stacks" && reach != Reach::Outside {
            let thread = &common::rows(&seen)[0];
            assert_eq!(thread["complete"], true, "{what}: {thread}");
            assert_eq!(thread["method"], "no_stop", "{what}: {thread}");
            assert_eq!(seen["cost"]["stops"], 0, "{what}");
        }
    }
}

fn assert_denied(envelope: &Value, prefix: &str, what: &str) {
    let gaps = common::gaps_at(envelope, prefix);
    let gap = gaps.first().unwrap_or_else(|| panic!("{what}: no gap at {prefix}: {}", envelope["gaps"]));
    assert_eq!(gap["reason"], "permission_denied", "{what}: {gap}");
    assert!(!gap["needs"].as_array().expect("needs").is_empty(), "{what}: {gap}");
    assert!(gap["remedy"].as_str().is_some_and(|text| text.starts_with("kubectl debug")), "{what}: {gap}");
}

/// Each profile against the pod of `spec`, with what it must reach.
fn check(spec: PodSpec, reach: impl Fn(Profile) -> Reach) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    if !is_root() {
        return skip(&name, "the pod emulator needs root");
    }
    let pod = start(spec);
    for profile in PROFILES {
        let what = format!("{name}, {}", profile.name());
        check_access(&pod, profile, reach(profile), &what);
        check_collectors(&pod, profile, reach(profile), &what);
    }
}

/// Without the target's uid: the capability, or else the target's own IDs, and neither under restricted.
fn by_capability(profile: Profile) -> Reach {
    match profile {
        Profile::General | Profile::Sysadmin => Reach::AsIs,
        Profile::Restricted => Reach::Outside,
        _ => Reach::AsTarget,
    }
}

#[test]
fn a_root_target() {
    check(sleeper("root"), by_capability);
}

#[test]
fn a_root_target_in_a_pod_with_seccomp() {
    check(sleeper("root-seccomp").seccomp_runtime_default(), by_capability);
}

#[test]
fn a_target_with_its_own_uid() {
    check(sleeper("uid").container_user(1000, 1000), by_capability);
}

#[test]
fn a_pod_with_its_own_uid() {
    check(sleeper("pod-uid").pod_user(1000, 1000), |_| Reach::AsIs);
}

#[test]
fn a_pod_under_pod_security_restricted() {
    check(sleeper("pss").pod_security_restricted(1000, 1000), |_| Reach::AsIs);
}

#[test]
fn a_target_with_more_capabilities_than_usual() {
    // NET_ADMIN is not in the default set: only who holds it too, or may look into everything, gets in.
    let Some(net_admin) = CapSet::named("CAP_NET_ADMIN") else { panic!("a capability") };
    let spec = sleeper("more").capabilities(CapSet(Profile::Legacy.capabilities().0 | net_admin.0));
    check(spec, |profile| match profile {
        Profile::Netadmin => Reach::AsTarget,
        Profile::General | Profile::Sysadmin => Reach::AsIs,
        _ => Reach::Outside,
    });
}

#[test]
fn a_target_that_is_not_dumpable() {
    let source = r#"
        #include <stdio.h>
        #include <sys/prctl.h>
        #include <unistd.h>
        int main(void) { prctl(PR_SET_DUMPABLE, 0); puts("ready"); fflush(stdout); for (;;) pause(); }
    "#;
    if !is_root() {
        return skip("a_target_that_is_not_dumpable", "the pod emulator needs root");
    }
    let program = agent_targets::compile(source, &["-static"]);
    let spec = PodSpec::new("undumpable", ["/program"]).pod_user(1000, 1000).mount_read_only(program, "/program");
    let pod = start(spec);
    for profile in [Profile::Restricted, Profile::Legacy] {
        let access = envelope(&debug(&pod, profile, &["access"]), profile.name());
        let memory = common::row(&access, "evidence", "memory");
        assert_eq!(memory["available"], false, "{}", profile.name());
        assert_eq!(memory["gate"], "dumpable", "{}: {memory}", profile.name());
    }
    let access = envelope(&debug(&pod, Profile::General, &["access"]), "general");
    assert_eq!(common::row(&access, "evidence", "memory")["available"], true);
}

#[test]
fn without_a_target_the_command_that_would_work_is_told() {
    if !is_root() {
        return skip("without_a_target_the_command_that_would_work_is_told", "the pod emulator needs root");
    }
    let pod = start(sleeper("alone"));
    let output = pod.debug(DebugSpec::new(&IMAGE.0, Profile::General, ["agent", "fds"])).expect("a container");
    assert_eq!(output.exit_code, 5, "{}", output.stderr_text());
    assert!(output.stdout.is_empty());
    let told = output.stderr_text();
    assert!(told.contains("--target=") && told.contains("agent fds"), "{told}");
}

#[test]
fn in_a_shared_pid_namespace_the_only_other_container_is_the_target() {
    if !is_root() {
        return skip("in_a_shared_pid_namespace_the_only_other_container_is_the_target", "the pod emulator needs root");
    }
    let pod = start(sleeper("shared").share_process_namespace());
    let output = pod.debug(DebugSpec::new(&IMAGE.0, Profile::General, ["agent", "ps"])).expect("a container");
    let ps = envelope(&output, "shared");
    assert_eq!(ps["target"]["name"], "sleep");
    assert_eq!(ps["target"]["container_id"], pod.target_id());
    let by_id = &pod.target_id()[..12];
    let argv = ["agent", "fds", "--container", by_id];
    let output = pod.debug(DebugSpec::new(&IMAGE.0, Profile::General, argv)).expect("a container");
    assert_eq!(envelope(&output, "shared, by container")["target"]["name"], "sleep");
}

#[test]
fn the_session_tags_what_is_printed_in_a_pod() {
    if !is_root() {
        return skip("the_session_tags_what_is_printed_in_a_pod", "the pod emulator needs root");
    }
    let pod = start(sleeper("tagged").container_user(1000, 1000));
    let spec = DebugSpec::new(&IMAGE.0, Profile::Restricted, ["agent", "ps", "--incident", "INC-42"]);
    let output = pod.debug(spec.target().env("AGENT_SESSION_ID", "S-1")).expect("a container");
    let ps = envelope(&output, "tagged");
    assert_eq!(ps["session"]["id"], "S-1");
    assert_eq!(ps["session"]["incident"], "INC-42");
}

#[test]
fn takes_no_more_memory_than_the_pod_has_left() {
    if !is_root() {
        return skip("takes_no_more_memory_than_the_pod_has_left", "the pod emulator needs root");
    }
    // Read whole: it is less than the agent may take by itself, and more than this pod has left.
    let large = vec![b' '; 40 << 20];
    for (name, memory, expected) in [("roomy", 512 << 20, 3), ("narrow", 48 << 20, 4)] {
        let pod = start(sleeper(name).memory_limit(memory));
        let argv = ["agent", "modules", "--compare", "-"];
        let spec = DebugSpec::new(&IMAGE.0, Profile::General, argv).target();
        let output = pod.debug(spec.stdin(agent_pod::Stdin::Bytes(large.clone()))).expect("a container");
        let told = output.stderr_text();
        assert_eq!(output.exit_code, expected, "{name}: {told}");
        if expected == 4 {
            assert!(told.contains("memory limit"), "{told}");
            let receipt: Value = serde_json::from_slice(&output.termination_message).expect("a receipt");
            assert_eq!((&receipt["exit"], &receipt["commands"]), (&4.into(), &1.into()), "{receipt}");
        }
        assert!(
            !pod.debug(DebugSpec::new(&IMAGE.0, Profile::General, ["agent", "ps"]).target())
                .expect("ps")
                .stdout
                .is_empty()
        );
    }
}

/// Each command, with the formats that it alone has.
fn commands_and_formats() -> Vec<(String, Vec<String>)> {
    let help = common::run(["--help"]);
    let names = help.text().lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    names
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| {
            // They need something that is not here: a bundle, a session that is held.
            !["help", "bundle", "diff", "fetch", "judge", "report", "tar", "violate", "violate-base", "status", "end"]
                .contains(name)
        })
        .filter(|name| common::run(["schema", *name]).status == 0)
        .map(|name| {
            let help = common::run([name, "--help"]);
            let formats = help.text().lines().skip_while(|line| !line.contains("--output <FORMAT>")).skip(1);
            let formats = formats.take_while(|line| !line.contains("--session"));
            let formats = formats.filter_map(|line| line.trim().strip_prefix("- ")?.split(':').next());
            let own = formats.filter(|format| !["json", "ndjson", "table"].contains(format)).map(str::to_owned);
            (name.to_owned(), own.collect())
        })
        .collect()
}

#[test]
fn no_command_tries_a_system_call_that_its_own_filter_refuses() {
    if !is_root() {
        return skip("no_command_tries_a_system_call_that_its_own_filter_refuses", "the pod emulator needs root");
    }
    let commands = commands_and_formats();
    assert!(commands.len() >= 13 && commands.iter().any(|(_, formats)| !formats.is_empty()), "{commands:?}");
    let root = start(sleeper("confined"));
    let own = start(sleeper("confined-pss").pod_security_restricted(1000, 1000));
    let try_one = |pod: &Pod, profile: Profile, command: &str, format: &str| {
        let mut arguments = vec![command, "-o", format];
        match command {
            "profile" => arguments.extend(["--for", "300ms"]),
            "capture" => arguments.extend(["-i", "lo", "--for", "200ms"]),
            "run" => arguments.extend(["triage", "--param=for=100ms"]),
            "plan" => arguments.push("triage"),
            "files" => arguments.push("/etc/passwd"),
            "redact" => arguments.extend(["test", "a value"]),
            // It needs the log of a container: tests/audit.rs runs it.
            "audit" => return,
            _ => {}
        }
        let output = debug(pod, profile, &arguments);
        let what = format!("{command} -o {format}, {}", profile.name());
        let told = output.stdout_text() + &output.stderr_text();
        // In the envelope, or where a format has no place for gaps, in the audit.
        let is_refused = told.contains("refused_by_policy") || told.contains("authz.deny");
        assert!(!is_refused, "{what}: {told}");
        // Without NET_RAW there are no packets.
        let is_denied = command == "capture" && profile == Profile::Restricted;
        assert!(is_denied || matches!(output.exit_code, 0 | 3), "{what}: exit {}: {told}", output.exit_code);
    };
    for (command, formats) in &commands {
        try_one(&root, Profile::General, command, "json");
        try_one(&own, Profile::Restricted, command, "json");
        for format in formats.iter().map(String::as_str).chain((command == "ps").then_some("table")) {
            try_one(&root, Profile::Legacy, command, format);
        }
    }
    try_one(&root, Profile::Legacy, "capture", "ndjson");
}

#[test]
fn access_says_for_each_command_what_it_wants() {
    let looks = ["capture", "env", "fds", "limits", "maps", "modules", "profile", "ps", "sockets", "stacks"];
    let access = common::json(["access", "--pid", &std::process::id().to_string()]);
    let wanted: BTreeSet<&str> = common::rows(&access)
        .iter()
        .flat_map(|row| row["commands"].as_array().expect("commands"))
        .map(|name| name.as_str().expect("a name"))
        .collect();
    assert_eq!(wanted, BTreeSet::from(looks));
}
