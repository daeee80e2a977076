//! What the container sees around it: namespaces, mounts, cgroups, limits.

use agent_pod::{DebugSpec, PodSpec, Profile};

use crate::{debug, root_image, sample, shipped_image, start};

#[test]
fn target_is_pid_one_of_its_namespaces() {
    let (pod, image) = (start(sample()), root_image());
    let report = debug(&pod, &image, Profile::General, []).json().unwrap();
    assert_eq!(report["pid1"]["comm"], "sleep");
    assert_ne!(report["self"]["pid"], 1);
    for namespace in ["pid", "net", "ipc", "uts", "user", "mnt"] {
        let hold = pod.debug_spawn(DebugSpec::new(&image, Profile::General, ["agent", "target"]).target()).unwrap();
        let link = |pid: agent_pod::Pid| std::fs::read_link(format!("/proc/{}/ns/{namespace}", pid.as_raw_nonzero()));
        let (ours, theirs) = (link(hold.pid()).unwrap(), link(pod.target_pid()).unwrap());
        assert_eq!(ours == theirs, namespace != "mnt", "{namespace}");
    }
}

#[test]
fn without_target_the_container_is_its_own_pid_one() {
    let pod = start(sample());
    let out = pod.debug(DebugSpec::new(&root_image(), Profile::General, ["agent"])).unwrap();
    let report = out.json().unwrap();
    assert_eq!((&report["self"]["pid"], &report["pid1"]["comm"]), (&1.into(), &"agent".into()));
}

#[test]
fn shared_process_namespace_has_pause_as_pid_one() {
    let pod = start(sample().share_process_namespace());
    let image = root_image();
    for spec in [
        DebugSpec::new(&image, Profile::General, ["agent"]),
        DebugSpec::new(&image, Profile::General, ["agent"]).target(),
    ] {
        let report = pod.debug(spec).unwrap().json().unwrap();
        assert_eq!(report["pid1"]["comm"], "pause");
    }
    let inner = pod.target_pid_in_pod().unwrap().as_raw_nonzero().to_string();
    let comm = format!("/proc/{inner}/comm");
    let out = pod.debug(DebugSpec::new(&image, Profile::General, ["agent", "cat", &comm])).unwrap();
    assert_eq!(out.stdout_text(), "sleep\n");
}

#[test]
fn mounts_and_cgroup_name_the_pod_and_the_container() {
    let pod = start(sample());
    let spec = DebugSpec::new(&shipped_image(), Profile::General, ["agent", "cat", "/proc/self/mountinfo"]);
    let mounts = pod.debug(spec.container_name("looking").target()).unwrap().stdout_text();
    let root_of = |destination: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(destination));
        line.and_then(|line| line.split(' ').nth(3)).unwrap_or_else(|| panic!("no {destination} in\n{mounts}"))
    };
    let pods = format!("/var/lib/kubelet/pods/{}", pod.uid());
    assert!(root_of("/etc/hosts").ends_with(&format!("{pods}/etc-hosts")));
    assert!(root_of("/dev/termination-log").contains(&format!("{pods}/containers/looking/")));
    assert!(root_of("/etc/resolv.conf").contains("/sandboxes/"));
    assert!(mounts.contains(" / / ") && mounts.contains(" - overlay "), "{mounts}");

    let cgroups = debug(&pod, &root_image(), Profile::General, ["cat", "/proc/1/cgroup"]).stdout_text();
    // With a cgroup namespace of its own, as on cgroup v2 alone, the reader sees the target beside itself.
    let place = format!("/kubepods/burstable/pod{}/{}", pod.uid(), pod.target_id());
    assert!(cgroups.contains(&place) || cgroups.contains(&format!("/../{}", pod.target_id())), "{cgroups}");
    assert_eq!(pod.target_id().len(), 64);
}

#[test]
fn environment_and_hostname_are_the_pods() {
    let spec = sample().env("GREETING", "hello");
    let pod = start(spec);
    let files = ["cat", "/proc/self/environ", "/proc/sys/kernel/hostname", "/etc/hostname", "/proc/1/environ"];
    let text = debug(&pod, &root_image(), Profile::General, files).stdout_text();
    assert!(text.contains("HOSTNAME=web\0") && text.contains("web\nweb\n"), "{text:?}");
    assert!(text.contains("KUBERNETES_SERVICE_HOST=") && text.contains("GREETING=hello\0"), "{text:?}");
}

#[test]
fn target_root_is_an_overlay_of_this_machine() {
    let pod = start(PodSpec::new("py", ["sh", "-c", "echo made > /made; cat /made; echo ready; exec sleep infinity"]));
    assert_eq!(pod.stdout().text(), "made\nready\n");
    assert!(!std::path::Path::new("/made").exists(), "what the target writes stays in its own layer");
    let out = debug(&pod, &root_image(), Profile::General, ["cat", "/proc/1/root/made", "/made"]);
    assert_eq!(out.stdout_text(), "made\n/made: No such file or directory (os error 2)\n");
}

#[test]
fn read_only_roots_cannot_be_written() {
    let pod = start(sample().read_only_root());
    let spec = DebugSpec::new(&root_image(), Profile::General, ["agent"]).target();
    let report = pod.debug(spec.read_only_root()).unwrap().json().unwrap();
    assert_eq!(report["writes"]["root"], "EROFS");
    assert_eq!(report["writes"]["termination_log"], "ok");
    assert_eq!(report["writes"]["dev_shm"], "ok");
}

#[test]
fn masked_paths_are_empty_unless_privileged() {
    let pod = start(sample());
    let image = root_image();
    let keys = |profile| debug(&pod, &image, profile, ["cat", "/proc/timer_list"]).stdout.len();
    assert_eq!(keys(Profile::General), 0);
    assert!(keys(Profile::Sysadmin) > 0);
}

#[test]
fn memory_limit_of_the_pod_covers_the_ephemeral_container() {
    let pod = start(sample().memory_limit(64 << 20));
    let image = root_image();
    assert_eq!(debug(&pod, &image, Profile::General, ["eat", "16"]).stdout_text(), "ate 16 MiB\n");
    let limit = |root: &str| {
        let file = |name: &str| format!("{root}/sys/fs/cgroup/{name}");
        let files = [file("memory/memory.limit_in_bytes"), file("memory.max")];
        debug(&pod, &image, Profile::General, ["cat", &files[0], &files[1]]).stdout_text()
    };
    let bytes = (64 << 20).to_string();
    assert!(limit("/proc/1/root").contains(&bytes), "the target's own cgroup, seen through its root");
    assert!(!limit("").contains(&bytes), "our own cgroup, whose limit is its parent's");
    let out = debug(&pod, &image, Profile::General, ["eat", "256"]);
    assert_eq!((out.exit_code, out.timed_out), (137, false), "{out:?}");
    assert!(pod.target_runs(), "the larger process is the one that is killed");
}

#[test]
fn pids_limit_of_the_pod_covers_the_ephemeral_container() {
    let pod = start(sample().pids_limit(30));
    let out = debug(&pod, &root_image(), Profile::General, ["threads", "100"]);
    let started: usize = out.stdout_text().trim().parse().unwrap();
    assert!((5..30).contains(&started), "{started}");
}

#[test]
fn cpu_limit_is_the_pods() {
    let pod = start(sample().cpu_limit_millis(250));
    let cgroup = pod.target_cgroup();
    let parent = cgroup.rsplit_once('/').unwrap().0;
    let files = [format!("/sys/fs/cgroup/cpu{parent}/cpu.cfs_quota_us"), format!("/sys/fs/cgroup{parent}/cpu.max")];
    let found = files.iter().find_map(|file| std::fs::read_to_string(file).ok()).expect("a CPU controller");
    assert_eq!(found.split_whitespace().next(), Some("25000"));
}
