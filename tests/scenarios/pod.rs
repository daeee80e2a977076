//! Faults that take the limits of a container, seen from the node and from an ephemeral container.

use std::sync::LazyLock;
use std::time::Duration;

use agent_pod::{DebugSpec, FileCaps, Image, Pod, PodSpec, Profile};
use serde_json::Value;

use crate::common::{self, SOON, assert_valid, is_root, rows, skip, wait_for, wait_until};

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    Image::from_binary(common::AGENT, "65532:65532", FileCaps::AllPermitted).expect("an image of the agent")
});

/// The agent's own container has its share of the pod's 100 millicores, on a busy machine still less.
const LATE: Duration = Duration::from_secs(150);

/// A pod of 100 millicores, which it has used up at once on a busy machine too, and 64 MiB, that runs `script`.
fn pod(name: &str, script: &str) -> Pod {
    let spec = PodSpec::new(name, ["sh", "-c", script]).memory_limit(64 << 20).cpu_limit_millis(100);
    let pod = Pod::start(spec).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target that is ready");
    pod
}

fn pid(pod: &Pod) -> String {
    pod.target_pid().as_raw_nonzero().get().to_string()
}

/// What a scenario says from an ephemeral container.
fn inside(pod: &Pod, arguments: &[&str]) -> Value {
    let argv = ["agent", "run"].iter().chain(arguments).copied();
    let output = pod.debug(DebugSpec::new(&IMAGE, Profile::General, argv).target()).expect("an ephemeral container");
    assert!(matches!(output.exit_code, 0 | 3), "exit {}: {}", output.exit_code, output.stderr_text());
    let envelope = output.json().expect("standard output is one JSON value");
    assert_valid(&envelope);
    envelope
}

#[test]
fn a_container_that_is_throttled_is_found_and_its_limit_is_named() {
    if !is_root() {
        return skip("a_container_that_is_throttled_is_found_and_its_limit_is_named", "a pod needs root");
    }
    let pod = pod("scenario-throttled", "echo ready; while :; do :; done & while :; do :; done");
    // A busy machine may not let it have even that much for a moment: then nothing holds it back.
    let throttled = |look: &dyn Fn() -> Value, id: &str| {
        let found = |envelope: &Value| rows(envelope).iter().any(|row| row["id"] == id && row["level"] == "fail");
        wait_for(id, LATE, || Some(look()).filter(found))
    };
    let arguments = ["cpu-throttled", "--param=for=1s", "--param=much=100"];
    let outside = || common::json(["run"].iter().chain(&arguments).chain(&["--pid", &pid(&pod)]));
    for envelope in [
        throttled(&outside, "cpu-throttled/throttled"),
        throttled(&|| inside(&pod, &arguments), "cpu-throttled/throttled"),
    ] {
        let finding = super::bad(&envelope, "cpu-throttled/throttled");
        let message = finding["message"].as_str().unwrap();
        assert!(message.contains("100 m") && message.contains("periods"), "{message}");
    }
    let triage = throttled(&|| inside(&pod, &["triage", "--param=for=1s"]), "triage/throttled");
    super::bad(&triage, "triage/throttled");
}

#[test]
fn a_container_near_its_memory_limit_is_found_with_what_uses_it() {
    if !is_root() {
        return skip("a_container_near_its_memory_limit_is_found_with_what_uses_it", "a pod needs root");
    }
    let pod = pod("scenario-memory", "echo ready; dd if=/dev/zero bs=60M count=1 2>/dev/null | sleep 1000");
    let used = || {
        let limits = common::json(["limits", "--pid", &pid(&pod)]);
        limits["data"]["cgroup"]["memory"]["used_permille"].as_u64().is_some_and(|used| used >= 910)
    };
    wait_until("the memory to be filled", SOON, used);
    let envelope = common::json(["run", "oom-risk", "--pid", &pid(&pod)]);
    let message = super::bad(&envelope, "oom-risk/near")["message"].as_str().unwrap();
    assert!(message.contains("of 64 MiB of memory") && message.contains("dd ("), "{message}");
    // It stays within what is left, and says what it left out for that.
    let triage = common::json(["run", "triage", "--param=for=100ms", "--pid", &pid(&pod)]);
    super::bad(&triage, "triage/memory");
    assert_eq!(common::row(&triage, "id", "triage/deadlock")["level"], "unknown");
}
