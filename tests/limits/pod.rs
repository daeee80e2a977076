//! Pods with limits: what the agent says from the node and from within the pod, against the files of the control
//! groups as the node shows them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use agent_pod::{DebugSpec, FileCaps, Image, Output, Pod, PodSpec, Profile};
use serde_json::{Value, json};

use crate::common::{self, SOON, assert_valid, gaps_at, is_root, skip, wait_for, wait_until};

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    Image::from_binary(common::AGENT, "65532:65532", FileCaps::AllPermitted).expect("an image of the agent")
});

const MEMORY: u64 = 64 << 20;

/// A pod of 200 millicores, 64 MiB and 40 processes that runs `script`.
fn spec(name: &str, script: &str) -> PodSpec {
    PodSpec::new(name, ["sh", "-c", script]).memory_limit(MEMORY).cpu_limit_millis(200).pids_limit(40)
}

fn start(spec: PodSpec) -> Pod {
    let pod = Pod::start(spec).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target that is ready");
    pod
}

fn target_pid(pod: &Pod) -> u32 {
    u32::try_from(pod.target_pid().as_raw_nonzero().get()).expect("a pid")
}

/// What the agent says from the node.
fn outside(pod: &Pod, more: &[&str]) -> Value {
    let pid = target_pid(pod).to_string();
    common::json(["limits", "--pid", &pid].iter().chain(more))
}

fn debug(pod: &Pod, profile: Profile, more: &[&str]) -> Output {
    let argv = ["agent", "limits"].iter().chain(more).copied();
    pod.debug(DebugSpec::new(&IMAGE, profile, argv).target()).expect("an ephemeral container")
}

/// What it says from an ephemeral container.
fn inside(pod: &Pod, profile: Profile, more: &[&str]) -> Value {
    let output = debug(pod, profile, more);
    assert!(matches!(output.exit_code, 0 | 3), "exit {}: {}", output.exit_code, output.stderr_text());
    let envelope = output.json().expect("standard output is one JSON value");
    assert_valid(&envelope);
    envelope
}

/// The files of a control group on this machine, whichever version has the controller.
struct Files {
    directory: PathBuf,
    v2: bool,
}

impl Files {
    fn of(controller: &str, path: &str) -> Self {
        let v1 = Path::new("/sys/fs/cgroup").join(controller);
        let (mount, v2) = if v1.is_dir() { (v1, false) } else { (PathBuf::from("/sys/fs/cgroup"), true) };
        Self { directory: mount.join(path.trim_start_matches('/')), v2 }
    }

    fn text(&self, v1: &str, v2: &str) -> String {
        let path = self.directory.join(if self.v2 { v2 } else { v1 });
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn number(&self, v1: &str, v2: &str) -> u64 {
        let text = self.text(v1, v2);
        text.trim().parse().unwrap_or_else(|_| panic!("{v1} {text}"))
    }

    /// The number of a key, in a file of both versions.
    fn keyed(&self, v1: (&str, &str), v2: (&str, &str)) -> u64 {
        let (file, key) = if self.v2 { v2 } else { v1 };
        let text = fs::read_to_string(self.directory.join(file)).expect(file);
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {key} in {text}"))
    }

    fn nr_throttled(&self) -> u64 {
        self.keyed(("cpu.stat", "nr_throttled"), ("cpu.stat", "nr_throttled"))
    }

    fn limit_hits(&self) -> u64 {
        match self.v2 {
            true => self.keyed(("", ""), ("memory.events", "max")),
            false => self.number("memory.failcnt", ""),
        }
    }

    fn oom_kills(&self) -> u64 {
        self.keyed(("memory.oom_control", "oom_kill"), ("memory.events", "oom_kill"))
    }
}

/// Memory, CPU and pids of the target's own group as the node's files have them: what the agent must say of them.
fn truth(pod: &Pod) -> Value {
    let path = pod.target_cgroup();
    let (cpu, memory, pids) = (Files::of("cpu", &path), Files::of("memory", &path), Files::of("pids", &path));
    let usage = memory.number("memory.usage_in_bytes", "memory.current");
    let inactive = memory.keyed(("memory.stat", "total_inactive_file"), ("memory.stat", "inactive_file"));
    let of = |key| cpu.keyed(("cpu.stat", key), ("cpu.stat", key));
    let account = Files::of("cpuacct", &path);
    let mut truth = json!({
        "memory": {
            "limit_bytes": MEMORY,
            "usage_bytes": usage,
            "used_permille": usage * 1000 / MEMORY,
            "working_set_bytes": usage.saturating_sub(inactive),
            "peak_bytes": memory.number("memory.max_usage_in_bytes", "memory.peak"),
            "stat": {"anon_bytes": memory.keyed(("memory.stat", "total_rss"), ("memory.stat", "anon"))},
            "events": {"oom_kill": memory.oom_kills()},
        },
        "cpu": {
            "quota_us": 20_000,
            "period_us": 100_000,
            "limit_millicores": 200,
            "nr_periods": of("nr_periods"),
            "nr_throttled": of("nr_throttled"),
            "throttled_us": if cpu.v2 { of("throttled_usec") } else { of("throttled_time") / 1000 },
            "usage_us": if account.v2 { of("usage_usec") } else { account.number("cpuacct.usage", "") / 1000 },
        },
        // The limit is the pod's.
        "pids": {"current": pids.number("pids.current", "pids.current"), "limit": "unlimited"},
    });
    if !memory.v2 {
        truth["memory"]["failcnt"] = json!(memory.limit_hits());
        truth["memory"]["hierarchical_limit_bytes"] = json!(MEMORY);
    }
    truth
}

/// That all that is in `expected` is in `seen`.
fn assert_holds(seen: &Value, expected: &Value, what: &str) {
    match expected.as_object() {
        Some(members) => {
            members.iter().for_each(|(key, value)| assert_holds(&seen[key], value, &format!("{what}: {key}")))
        }
        None => assert_eq!(seen, expected, "{what}"),
    }
}

/// Looks at a stopped target until the truth was the same before and after: the kernel hands out memory in batches to
/// each CPU and counts some of it late, so that a group at rest is not still at once.
fn at_rest<T, U: PartialEq>(truth: impl Fn() -> U, mut look: impl FnMut() -> T) -> (T, U) {
    wait_for("a group at rest", SOON, || {
        let (before, seen, after) = (truth(), look(), truth());
        (before == after).then_some((seen, after))
    })
}

/// What all containers of the pod have in memory, in bytes.
fn pod_memory(pod: &Pod) -> u64 {
    let own = pod.target_cgroup();
    let above = own.rsplit_once('/').expect("a path").0;
    Files::of("memory", above).number("memory.usage_in_bytes", "memory.current")
}

/// Compares the target's own group with the node's files, field by field.
fn compare(pod: &Pod, what: &str, look: impl FnMut() -> Value) -> Value {
    let (seen, truth) = at_rest(|| truth(pod), look);
    assert_holds(&seen["data"]["cgroup"], &truth, what);
    seen
}

/// Stops the target, and waits until its group has come to rest: a throttled thread stops when it may run again.
fn stop(pod: &Pod) {
    common::stop(target_pid(pod));
    let path = pod.target_cgroup();
    let cpu = Files::of("cpu", &path);
    let state = || (cpu.text("cpu.stat", "cpu.stat"), Files::of("cpuacct", &path).text("cpuacct.usage", "cpu.stat"));
    let mut last = state();
    wait_until("a group at rest", SOON, || {
        std::thread::sleep(Duration::from_millis(250));
        std::mem::replace(&mut last, state()) == last
    });
}

/// A script that burns CPU for ever.
const BURN: &str = "echo ready; while :; do :; done";

#[test]
fn a_throttled_pod_from_the_node_and_from_within() {
    if !is_root() {
        return skip("a_throttled_pod_from_the_node_and_from_within", "the pod emulator needs root");
    }
    let pod = start(spec("throttled", BURN));
    let cpu = Files::of("cpu", &pod.target_cgroup());
    wait_until("throttling", SOON, || cpu.nr_throttled() > 5);
    // While it runs. How much of its quota it gets depends on who else runs.
    let (before, running, after) = (cpu.nr_throttled(), outside(&pod, &["--for", "1500ms"]), cpu.nr_throttled());
    let interval = &running["data"]["interval"];
    let own = &interval["throttled"][0];
    assert_eq!(own["path"], *pod.target_cgroup());
    let number = |key: &str| own[key].as_u64().unwrap_or_else(|| panic!("{key} in {own}"));
    assert!((1..=after - before).contains(&number("nr_throttled")), "{own}");
    assert_eq!(number("throttled_permille"), number("nr_throttled") * 1000 / number("nr_periods"));
    assert!(number("throttled_us") > 0 && number("nr_periods") <= 30, "{own}");
    let used = interval["cpu"]["usage_millicores"].as_u64().expect("a number");
    assert!((1..=300).contains(&used), "{interval}");
    assert_eq!(interval["cpu"]["used_permille"], used * 1000 / 200);
    let nearest = running["data"]["nearest"].as_array().expect("nearest");
    assert!(nearest.iter().any(|near| near["name"] == "cpu" && near["limit"] == 200), "{nearest:?}");
    stop(&pod);
    let node = compare(&pod, "from the node", || outside(&pod, &[]));
    let (seen, used) = at_rest(|| pod_memory(&pod), || outside(&pod, &[]));
    assert_eq!(seen["data"]["cgroup"]["memory"]["ancestors"][0]["usage_bytes"], used);
    assert_eq!(node["gaps"], json!([]));
    assert!(node["data"]["cgroup"]["cpu"]["throttled_permille"].as_u64() > Some(0));
    ancestors(&pod, &node);
    // From within there is the container's group alone, and the same in it.
    for profile in [Profile::General, Profile::Legacy, Profile::Sysadmin] {
        let pod_view = compare(&pod, profile.name(), || inside(&pod, profile, &[]));
        assert_eq!(pod_view["gaps"], json!([]), "{}", profile.name());
        for controller in ["cpu", "memory", "pids"] {
            let own = &pod_view["data"]["cgroup"][controller];
            assert_eq!(own["ancestors"], json!([]), "{controller}");
            assert_eq!(own["path"], node["data"]["cgroup"][controller]["path"], "{controller}");
        }
        let ((first, second), _) = at_rest(|| truth(&pod), || (inside(&pod, profile, &[]), inside(&pod, profile, &[])));
        assert_eq!(first["digest"], second["digest"], "{}: {} {}", profile.name(), first["data"], second["data"]);
    }
    // A stopped target uses nothing.
    let idle = inside(&pod, Profile::General, &["--for", "300ms"]);
    assert_eq!(idle["data"]["interval"]["cpu"], json!({"usage_us": 0, "usage_millicores": 0, "used_permille": 0}));
    assert_eq!(idle["data"]["interval"]["throttled"][0]["throttled_permille"], 0);
}

/// From the node every group above the container shows, and the pod's limits are the tightest.
fn ancestors(pod: &Pod, node: &Value) {
    let own = pod.target_cgroup();
    let above: Vec<&str> = Path::new(&own).ancestors().skip(1).map(|path| path.to_str().expect("UTF-8")).collect();
    let cgroup = &node["data"]["cgroup"];
    for controller in ["cpu", "memory", "pids"] {
        let seen: Vec<&str> = cgroup[controller]["ancestors"]
            .as_array()
            .expect("ancestors")
            .iter()
            .map(|one| one["path"].as_str().expect("a path"))
            .collect();
        assert_eq!(seen, above, "{controller}");
        assert_eq!(cgroup[controller]["ancestors"][0]["view"], "agent", "{controller}");
    }
    let group = Files::of("pids", above[0]);
    assert_eq!(group.text("pids.max", "pids.max").trim(), "40");
    let current = group.number("pids.current", "pids.current");
    let tightest = json!({"path": above[0], "limit": 40, "current": current, "left": 40 - current});
    assert_eq!(cgroup["pids"]["tightest"], tightest);
    let nearest = node["data"]["nearest"].as_array().expect("nearest");
    let pids = nearest.iter().find(|near| near["name"] == "pids").expect("a pids limit is near");
    assert_eq!((&pids["path"], &pids["used_permille"]), (&json!(above[0]), &json!(current * 25)));
    // The pod's group holds as much, and what its other containers left behind.
    let memory = &cgroup["memory"];
    let used = memory["ancestors"][0]["usage_bytes"].as_u64().expect("a number");
    assert_eq!(memory["ancestors"][0]["limit_bytes"], MEMORY);
    let (tightest, own_use) = (&memory["tightest"], memory["usage_bytes"].as_u64().expect("a number"));
    let holder = if used > own_use { above[0] } else { own.as_str() };
    assert_eq!(tightest["path"], holder);
    assert_eq!(tightest["left_bytes"], MEMORY - used.max(own_use));
    assert_eq!(cgroup["cpu"]["tightest"], json!({"path": own, "limit_millicores": 200}));
}

#[test]
fn a_cgroup_namespace_of_its_own_changes_nothing_but_the_paths() {
    if !is_root() {
        return skip("a_cgroup_namespace_of_its_own_changes_nothing_but_the_paths", "the pod emulator needs root");
    }
    let pod = start(spec("namespaced", "echo ready; exec sleep infinity").cgroup_namespace(true));
    common::stop(target_pid(&pod));
    compare(&pod, "from the node", || outside(&pod, &[]));
    let envelope = compare(&pod, "from within", || inside(&pod, Profile::General, &[]));
    assert_eq!(envelope["gaps"], json!([]));
    let path = format!("/../{}", pod.target_id());
    assert_eq!(envelope["data"]["cgroup"]["memory"]["path"], *path);
    assert_eq!(envelope["data"]["cgroup"]["memory"]["ancestors"], json!([]));
}

/// Takes memory in a child until the kernel kills that.
const HOG: &str = r#"
    #include "truth.h"
    int main(void)
    {
        int status;
        pid_t child = fork();
        if (child == 0) {
            size_t size = 256UL << 20;
            char *all = malloc(size);
            if (all == NULL) fail("malloc");
            memset(all, 1, size);
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child) fail("child");
        say("{'killed':%d}", WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        ready();
        for (;;) pause();
    }
"#;

#[test]
fn an_oom_kill_is_counted() {
    if !is_root() {
        return skip("an_oom_kill_is_counted", "the pod emulator needs root");
    }
    let program = common::compile_c(HOG, &["-static"]);
    let spec = PodSpec::new("oom", ["/program"]).memory_limit(MEMORY).mount_read_only(program, "/program");
    let pod = start(spec);
    assert!(pod.stdout().text().contains("{\"killed\":1}"), "{}", pod.stdout().text());
    let memory = Files::of("memory", &pod.target_cgroup());
    assert!(memory.oom_kills() >= 1);
    for envelope in [outside(&pod, &[]), inside(&pod, Profile::General, &[])] {
        let seen = &envelope["data"]["cgroup"]["memory"];
        assert_eq!(seen["events"]["oom_kill"], memory.oom_kills());
        assert_eq!(seen["peak_bytes"], memory.number("memory.max_usage_in_bytes", "memory.peak"));
        assert!(seen["peak_bytes"].as_u64() >= Some(MEMORY - (1 << 20)), "{seen}");
        let own = if memory.v2 { &seen["events"]["max"] } else { &seen["failcnt"] };
        assert_eq!(*own, memory.limit_hits());
        // The limit of the pod is as high: which of the two was hit is chance.
        if let Some(above) = seen["ancestors"].as_array().and_then(|above| above.first()) {
            assert!(own.as_u64() > Some(0) || above["limit_hits"].as_u64() > Some(0), "{seen}");
        }
    }
}

/// Forks until that fails.
const FORKS: &str = r#"
    #include "truth.h"
    int main(void)
    {
        int children = 0;
        for (;; children++) {
            pid_t child = fork();
            if (child == 0)
                for (;;) pause();
            if (child < 0)
                break;
        }
        say("{'children':%d,'again':%d}", children, errno == EAGAIN);
        ready();
        for (;;) pause();
    }
"#;

#[test]
fn a_pod_that_cannot_fork_any_more_is_at_its_limit() {
    if !is_root() {
        return skip("a_pod_that_cannot_fork_any_more_is_at_its_limit", "the pod emulator needs root");
    }
    let program = common::compile_c(FORKS, &["-static"]);
    let spec = PodSpec::new("forks", ["/program"]).pids_limit(30).mount_read_only(program, "/program");
    let pod = start(spec);
    assert!(pod.stdout().text().contains("\"again\":1"), "{}", pod.stdout().text());
    // What the runtime started has ended by then.
    let group = Files::of("pids", &pod.target_cgroup());
    let truth = pod.stdout().text();
    let children: u64 = truth.split(['{', ':', ',']).find_map(|word| word.parse().ok()).expect("a number of children");
    wait_for("the runtime to end", SOON, || {
        (group.number("pids.current", "pids.current") == children + 1).then_some(())
    });
    let envelope = outside(&pod, &[]);
    let pids = &envelope["data"]["cgroup"]["pids"];
    assert_eq!(pids["current"], children + 1);
    assert_eq!(pids["ancestors"][0]["limit"], 30);
    assert_eq!(pids["ancestors"][0]["current"], children + 1);
    assert_eq!(pids["tightest"]["left"], 29 - children);
    let nearest = &envelope["data"]["nearest"][0];
    assert_eq!((&nearest["name"], &nearest["limit"]), (&json!("pids"), &json!(30)), "{nearest}");
    let rows = envelope["data"]["limits"].as_array().expect("limits");
    let processes = rows.iter().find(|row| row["name"] == "processes").expect("there");
    assert!(processes["used"].as_u64() > Some(children));
}

#[test]
fn descriptors_near_their_limit() {
    if !is_root() {
        return skip("descriptors_near_their_limit", "the pod emulator needs root");
    }
    let script = "ulimit -Sn 64; i=3; while [ $i -lt 60 ]; do eval \"exec $i</dev/null\"; i=$((i+1)); done; \
                  echo ready; kill -STOP $$; sleep 1000";
    let pod = start(PodSpec::new("descriptors", ["bash", "-c", script]).container_user(1000, 1000));
    let pid = target_pid(&pod);
    let listed = fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count();
    for (profile, envelope) in [Profile::General, Profile::Legacy, Profile::Restricted]
        .map(|profile| (profile.name(), inside(&pod, profile, &[])))
        .into_iter()
        .chain([("from the node", outside(&pod, &[]))])
    {
        let rows = envelope["data"]["limits"].as_array().expect("limits");
        let files = rows.iter().find(|row| row["name"] == "open_files").expect("there");
        assert_eq!((&files["soft"], &files["used"]), (&json!(64), &json!(listed)), "{profile}");
        assert_eq!(files["used_permille"], listed * 1000 / 64, "{profile}");
        assert_eq!(envelope["data"]["nearest"][0]["name"], "open_files", "{profile}");
    }
}

#[test]
fn what_is_denied_is_a_gap_with_its_remedy() {
    if !is_root() {
        return skip("what_is_denied_is_a_gap_with_its_remedy", "the pod emulator needs root");
    }
    // Under restricted our own mounts show our own container's groups: these are not the target's.
    let pod = start(spec("denied", "echo ready; exec sleep infinity"));
    let output = debug(&pod, Profile::Restricted, &[]);
    assert_eq!(output.exit_code, 3, "{}", output.stderr_text());
    let envelope = output.json().expect("JSON");
    assert_valid(&envelope);
    for controller in ["cpu", "memory", "pids", "io"] {
        let at = format!("/cgroup/{controller}");
        let gaps = gaps_at(&envelope, &at);
        assert_eq!(gaps.len(), 1, "{at}");
        assert_eq!(gaps[0]["reason"], "permission_denied", "{at}");
        assert!(!gaps[0]["needs"].as_array().expect("needs").is_empty(), "{at}");
        assert!(gaps[0]["remedy"].as_str().is_some_and(|text| text.starts_with("kubectl debug")), "{at}");
        assert!(envelope["data"]["cgroup"].get(controller).is_none(), "{at}");
    }
    assert_eq!(envelope["data"]["limits"].as_array().map(Vec::len), Some(16));
    assert!(envelope["data"]["cgroup"]["groups"].as_array().is_some_and(|groups| !groups.is_empty()));
}

#[test]
fn pressure_is_that_of_the_group() {
    if !is_root() {
        return skip("pressure_is_that_of_the_group", "the pod emulator needs root");
    }
    let pod = start(spec("pressure", BURN));
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new).into_iter().find_map(|mount| {
        let directory = mount.join(pod.target_cgroup().trim_start_matches('/'));
        directory.join("cpu.pressure").exists().then_some(directory)
    });
    let Some(directory) = unified else {
        return skip("pressure_is_that_of_the_group", "this kernel counts no pressure");
    };
    stop(&pod);
    let total = |file: &str, line: &str| -> u64 {
        let text = fs::read_to_string(directory.join(file)).expect(file);
        let line = text.lines().find(|one| one.starts_with(line)).expect("a line");
        line.rsplit_once("total=").and_then(|(_, total)| total.parse().ok()).expect("a total")
    };
    let envelope = outside(&pod, &[]);
    for resource in ["cpu", "memory", "io"] {
        for line in ["some", "full"] {
            let seen = &envelope["data"]["cgroup"]["pressure"][resource][line];
            assert_eq!(*seen, json!({"total_us": total(&format!("{resource}.pressure"), line)}), "{resource} {line}");
        }
    }
    let averages = outside(&pod, &["--pressure-averages"]);
    let some = &averages["data"]["cgroup"]["pressure"]["cpu"]["some"];
    for key in ["avg10_basis_points", "avg60_basis_points", "avg300_basis_points"] {
        assert!(some[key].as_u64().is_some_and(|share| share <= 10_000), "{some}");
    }
}
