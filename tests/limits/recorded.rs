//! Recorded trees: kernels that this machine does not run (cgroup v2 alone, an old v1), and trees that mean harm.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{self, assert_valid, gaps_at};

const STAT: &str = "1 (nginx) S 0 1 1 0 -1 4194560 95 0 0 0 12000 3400 0 0 20 0 3 0 8123 11894784 851 \
                    18446744073709551615 1 1 0 0 0 0 0 1073746048 402745863 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
const STATUS: &str = "Name:\tnginx\nState:\tS (sleeping)\nUid:\t101\t101\t101\t101\nGid:\t101\t101\t101\t101\n\
                      VmSize:\t   11616 kB\nVmLck:\t       0 kB\nVmRSS:\t    3404 kB\nVmData:\t    1024 kB\n\
                      VmStk:\t     132 kB\nThreads:\t3\nSigQ:\t1/100\nCapPrm:\t0000000000000000\n\
                      CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCpus_allowed_list:\t0-3\n";
const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     \n\
Max cpu time              unlimited            unlimited            seconds   \n\
Max processes             100                  200                  processes \n\
Max open files            10                   1048576              files     \n\
Max pending signals       100                  100                  signals   \n";

/// A node of cgroup v2 alone.
const V2: &str = "30 20 0:25 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n";

/// A tree of one process, with five open descriptors.
struct Tree(TempDir);

impl Tree {
    fn new(cgroup: &str, mountinfo: &str) -> Self {
        let tree = Self(tempfile::tempdir().expect("a temporary directory"));
        for (name, text) in
            [("stat", STAT), ("status", STATUS), ("limits", LIMITS), ("cgroup", cgroup), ("mountinfo", mountinfo)]
        {
            tree.write(&format!("1/{name}"), text);
        }
        for fd in 0..5 {
            tree.write(&format!("1/fd/{fd}"), "");
        }
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    /// Writes files of a control group, below the target's /sys/fs/cgroup.
    fn group(&self, path: &str, files: &[(&str, &str)]) {
        for (name, text) in files {
            self.write(&format!("1/root/sys/fs/cgroup/{path}/{name}"), text);
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn look(&self) -> Value {
        common::json(["limits", "--proc", self.path().to_str().expect("UTF-8")])
    }
}

/// The files of a container as cgroup-v2.rst describes them, on Linux 6.8.
const CONTAINER: [(&str, &str); 22] = [
    ("cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n"),
    ("memory.current", "50331648\n"),
    ("memory.max", "67108864\n"),
    ("memory.high", "60000000\n"),
    ("memory.low", "0\n"),
    ("memory.min", "0\n"),
    ("memory.peak", "67108864\n"),
    ("memory.oom.group", "1\n"),
    ("memory.events", "low 0\nhigh 7\nmax 55\noom 2\noom_kill 1\noom_group_kill 0\nsock_throttled 4\n"),
    ("memory.swap.current", "1048576\n"),
    ("memory.swap.max", "4194304\n"),
    ("memory.swap.peak", "2097152\n"),
    ("memory.swap.events", "high 0\nmax 3\nfail 4\n"),
    (
        "memory.stat",
        "anon 20000000\nfile 25000000\nkernel 5331648\nkernel_stack 49152\npagetables 200704\nsock 4096\nvmalloc 0\n\
         shmem 8192\nfile_mapped 12288\nfile_dirty 16384\ninactive_anon 1\ninactive_file 10331648\nactive_file 14668352\n\
         slab 3000000\nworkingset_refault_anon 11\nworkingset_refault_file 13\npgfault 1700\npgmajfault 19\n",
    ),
    ("cpu.max", "20000 100000\n"),
    ("cpu.max.burst", "5000\n"),
    ("cpu.weight", "8\n"),
    (
        "cpu.stat",
        "usage_usec 9000000\nuser_usec 6000000\nsystem_usec 3000000\nnr_periods 400\nnr_throttled 100\n\
         throttled_usec 2500000\nnr_bursts 3\nburst_usec 4000\n",
    ),
    (
        "cpu.pressure",
        "some avg10=12.34 avg60=5.00 avg300=1.00 total=777\nfull avg10=1.00 avg60=0.50 avg300=0.10 total=77\n",
    ),
    ("pids.current", "9\n"),
    ("pids.max", "10\n"),
    (
        "io.stat",
        "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n8:0 rbytes=90430464 wbytes=0 rios=8950 wios=0 dbytes=0 dios=0\n",
    ),
];

#[test]
fn a_container_of_cgroup_v2_in_its_own_namespace() {
    let tree = Tree::new("0::/\n", V2);
    tree.group("", &CONTAINER);
    tree.group("", &[("io.max", "8:16 rbps=2097152 wbps=max riops=max wiops=120\n"), ("pids.events", "max 6\n")]);
    let envelope = tree.look();
    assert_eq!(envelope["gaps"], json!([]));
    let cgroup = &envelope["data"]["cgroup"];
    assert_eq!(cgroup["mode"], "v2");
    let groups = json!([{"version": 2, "path": "/", "mount_point": "/sys/fs/cgroup", "view": "target"}]);
    assert_eq!(cgroup["groups"], groups);
    let memory = json!({
        "path": "/", "version": 2, "usage_bytes": 50_331_648, "limit_bytes": 67_108_864, "used_permille": 750,
        "working_set_bytes": 40_000_000, "peak_bytes": 67_108_864, "high_bytes": 60_000_000, "low_bytes": 0, "min_bytes": 0,
        "oom_group": true,
        "events": {"low": 0, "high": 7, "max": 55, "oom": 2, "oom_kill": 1, "oom_group_kill": 0},
        "swap": {"usage_bytes": 1_048_576, "limit_bytes": 4_194_304, "used_permille": 250, "peak_bytes": 2_097_152, "failcnt": 3},
        "stat": {"anon_bytes": 20_000_000, "file_bytes": 25_000_000, "shmem_bytes": 8192, "mapped_file_bytes": 12_288,
                 "dirty_bytes": 16_384, "inactive_file_bytes": 10_331_648, "active_file_bytes": 14_668_352,
                 "kernel_bytes": 5_331_648, "slab_bytes": 3_000_000, "sock_bytes": 4096, "faults": 1700, "major_faults": 19,
                 "refaults_file": 13, "refaults_anon": 11},
        "ancestors": [],
        "tightest": {"path": "/", "limit_bytes": 67_108_864, "usage_bytes": 50_331_648, "left_bytes": 16_777_216},
    });
    assert_eq!(cgroup["memory"], memory);
    let cpu = json!({
        "path": "/", "version": 2, "quota_us": 20_000, "period_us": 100_000, "limit_millicores": 200, "burst_us": 5000,
        "weight": 8, "allowed_cpus": "0-3", "allowed_cpu_count": 4, "usage_us": 9_000_000, "user_us": 6_000_000,
        "system_us": 3_000_000, "nr_periods": 400, "nr_throttled": 100, "throttled_us": 2_500_000,
        "throttled_permille": 250, "nr_bursts": 3, "burst_used_us": 4000, "ancestors": [],
        "tightest": {"path": "/", "limit_millicores": 200},
    });
    assert_eq!(cgroup["cpu"], cpu);
    let pids = json!({
        "path": "/", "version": 2, "current": 9, "limit": 10, "used_permille": 900, "failures": 6, "ancestors": [],
        "tightest": {"path": "/", "limit": 10, "current": 9, "left": 1},
    });
    assert_eq!(cgroup["pids"], pids);
    // By device number, whatever the order of the file.
    let devices = json!([
        {"device": "8:0", "read_bytes": 90_430_464, "write_bytes": 0, "reads": 8950, "writes": 0, "discard_bytes": 0, "discards": 0},
        {"device": "8:16", "read_bytes": 1_459_200, "write_bytes": 314_773_504, "reads": 192, "writes": 353, "discard_bytes": 0,
         "discards": 0, "read_limit_bytes_per_s": 2_097_152, "write_limit_bytes_per_s": "unlimited",
         "read_limit_per_s": "unlimited", "write_limit_per_s": 120},
    ]);
    assert_eq!(cgroup["io"]["devices"], devices);
    // Of memory and I/O this kernel counts no pressure: absent, and no gap.
    assert_eq!(cgroup["pressure"], json!({"path": "/", "cpu": {"some": {"total_us": 777}, "full": {"total_us": 77}}}));
    // 9 of 10 threads; 50331648 of the 60000000 where it is throttled; then the limit of memory.
    let near: Vec<(&str, u64)> = envelope["data"]["nearest"]
        .as_array()
        .expect("nearest")
        .iter()
        .map(|one| (one["name"].as_str().expect("a name"), one["used_permille"].as_u64().expect("a number")))
        .collect();
    let expected = [("pids", 900), ("memory_high", 838), ("memory", 750), ("open_files", 500), ("swap", 250)];
    assert_eq!(near[..5], expected);
    assert_eq!(near[5..], [("processes", 30), ("pending_signals", 10)]);
}

#[test]
fn averages_of_pressure_are_given_when_asked_for() {
    let tree = Tree::new("0::/\n", V2);
    tree.group("", &CONTAINER);
    let envelope = common::json(["limits", "--pressure-averages", "--proc", tree.path().to_str().expect("UTF-8")]);
    let some =
        json!({"total_us": 777, "avg10_basis_points": 1234, "avg60_basis_points": 500, "avg300_basis_points": 100});
    assert_eq!(envelope["data"]["cgroup"]["pressure"]["cpu"]["some"], some);
}

#[test]
fn nested_groups_of_a_node_with_the_tightest_named() {
    let pod = "kubepods.slice/kubepods-pod1.slice";
    let tree = Tree::new(&format!("0::/{pod}/cri-containerd-1.scope\n"), V2);
    tree.group(&format!("{pod}/cri-containerd-1.scope"), &CONTAINER);
    let above = [
        ("memory.current", "66000000\n"),
        ("memory.max", "67108864\n"),
        ("memory.high", "max\n"),
        ("memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 3\noom_group_kill 0\n"),
        ("cpu.max", "15000 100000\n"),
        (
            "cpu.stat",
            "usage_usec 9500000\nuser_usec 1\nsystem_usec 1\nnr_periods 10\nnr_throttled 9\nthrottled_usec 8\n",
        ),
        ("pids.current", "12\n"),
        ("pids.max", "max\n"),
    ];
    tree.group(pod, &above);
    tree.group(
        "kubepods.slice",
        &[
            ("memory.current", "1\n"),
            ("memory.max", "max\n"),
            ("cpu.max", "max 100000\n"),
            ("cpu.stat", "usage_usec 1\n"),
        ],
    );
    let envelope = tree.look();
    assert_eq!(envelope["gaps"], json!([]));
    let cgroup = &envelope["data"]["cgroup"];
    let pod = format!("/{pod}");
    let ancestors = json!([
        {"path": pod, "view": "target", "usage_bytes": 66_000_000, "limit_bytes": 67_108_864, "used_permille": 983,
         "high_bytes": "unlimited", "limit_hits": 9, "oom_kill": 3},
        {"path": "/kubepods.slice", "view": "target", "usage_bytes": 1, "limit_bytes": "unlimited"},
        // The root group has no such files.
        {"path": "/", "view": "target"},
    ]);
    assert_eq!(cgroup["memory"]["ancestors"], ancestors);
    let tightest = json!({"path": pod, "limit_bytes": 67_108_864, "usage_bytes": 66_000_000, "left_bytes": 1_108_864});
    assert_eq!(cgroup["memory"]["tightest"], tightest);
    assert_eq!(cgroup["cpu"]["tightest"], json!({"path": pod, "limit_millicores": 150}));
    assert_eq!(cgroup["cpu"]["ancestors"][0]["throttled_permille"], 900);
    assert_eq!(cgroup["pids"]["tightest"]["left"], 1);
    let nearest = &envelope["data"]["nearest"][0];
    assert_eq!((&nearest["name"], &nearest["path"]), (&json!("memory"), &json!(pod)));
}

#[test]
fn a_controller_that_was_not_handed_down_is_absent() {
    let tree = Tree::new("0::/user.slice/app\n", V2);
    tree.group("user.slice/app", &[("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n")]);
    tree.group("user.slice", &[("memory.current", "10\n"), ("memory.max", "40\n")]);
    let envelope = tree.look();
    assert_eq!(envelope["gaps"], json!([]));
    let cgroup = &envelope["data"]["cgroup"];
    assert!(cgroup["memory"].get("usage_bytes").is_none() && cgroup["memory"].get("events").is_none());
    // The limit of the group above still holds.
    let tightest = json!({"path": "/user.slice", "limit_bytes": 40, "usage_bytes": 10, "left_bytes": 30});
    assert_eq!(cgroup["memory"]["tightest"], tightest);
    assert_eq!(cgroup["cpu"]["usage_us"], 5);
    assert!(cgroup["cpu"].get("quota_us").is_none() && cgroup["cpu"].get("nr_periods").is_none());
    assert!(cgroup["pids"].get("tightest").is_none());
    assert!(cgroup.get("pressure").is_none());
}

#[test]
fn an_old_cgroup_v1_with_joint_controllers_and_a_hidden_tighter_limit() {
    let mounts = "31 30 0:26 /docker/c /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
                  32 30 0:27 /docker/c /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let tree = Tree::new("3:cpu,cpuacct:/docker/c\n2:memory:/docker/c\n1:name=systemd:/docker/c\n", mounts);
    // Linux 4.9: no total_ lines without use_hierarchy, no oom_kill, no swap accounting, ticks.
    tree.group(
        "cpu,cpuacct",
        &[
            ("cpu.cfs_quota_us", "-1\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.shares", "2\n"),
            ("cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n"),
            ("cpuacct.usage", "5000000123\n"),
        ],
    );
    tree.group(
        "memory",
        &[
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
            ("memory.max_usage_in_bytes", "2000\n"),
            ("memory.failcnt", "0\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n"),
            ("memory.stat", "cache 600\nrss 400\ninactive_file 100\nhierarchical_memory_limit 4096\n"),
        ],
    );
    let envelope = tree.look();
    assert_eq!(envelope["gaps"], json!([]));
    let cgroup = &envelope["data"]["cgroup"];
    assert_eq!(cgroup["mode"], "v1");
    let memory = json!({
        "path": "/docker/c", "version": 1, "usage_bytes": 1000, "limit_bytes": "unlimited", "working_set_bytes": 900,
        "peak_bytes": 2000, "soft_limit_bytes": "unlimited", "hierarchical_limit_bytes": 4096, "failcnt": 0,
        "under_oom": false, "oom_kill_disabled": false,
        "stat": {"anon_bytes": 400, "file_bytes": 600, "inactive_file_bytes": 100},
        "ancestors": [], "tightest": {"limit_bytes": 4096},
    });
    assert_eq!(cgroup["memory"], memory);
    assert_eq!(cgroup["cpu"]["limit_millicores"], "unlimited");
    assert_eq!(cgroup["cpu"]["usage_us"], 5_000_000);
    assert!(cgroup["cpu"].get("user_us").is_none() && cgroup["cpu"].get("throttled_permille").is_none());
    assert!(cgroup.get("pids").is_none() && cgroup.get("io").is_none() && cgroup.get("pressure").is_none());
    let unseen = json!({"version": 1, "controllers": ["name=systemd"], "path": "/docker/c"});
    assert_eq!(cgroup["groups"][2], unseen);
}

#[test]
fn what_a_mount_table_does_not_show_is_a_gap() {
    for (cgroup, mounts) in [
        // Seen from a container with a namespace of its own: a target that shows more than that.
        ("0::/../c\n", "30 20 0:25 /../../.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
        ("0::/c\n", "30 20 0:25 /other /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
        ("0::/c (deleted)\n", "30 20 0:25 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
        ("0::/c\n", "30 20 0:25 / /sys ro - fuse.sshfs x rw\n31 30 0:25 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
        ("0::/c\n", ""),
    ] {
        let tree = Tree::new(cgroup, mounts);
        let envelope = tree.look();
        for controller in ["cpu", "memory", "pids", "io"] {
            assert_eq!(gaps_at(&envelope, &format!("/cgroup/{controller}")).len(), 1, "{cgroup} {mounts}");
            assert!(envelope["data"]["cgroup"].get(controller).is_none(), "{cgroup} {mounts}");
        }
        assert!(envelope["data"]["limits"].is_array());
    }
}

#[test]
fn a_bottomless_nest_of_groups_is_cut_off() {
    let tree = Tree::new(&format!("0::{}\n", "/g".repeat(200)), V2);
    tree.group(&"g/".repeat(200), &[("memory.current", "1\n"), ("memory.max", "8\n")]);
    let answer = common::run(["limits", "--proc", tree.path().to_str().expect("UTF-8")]);
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    let envelope: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    let memory = &envelope["data"]["cgroup"]["memory"];
    assert_eq!(memory["ancestors"].as_array().map(Vec::len), Some(31));
    assert_eq!(memory["tightest"]["left_bytes"], 7);
    assert_eq!(gaps_at(&envelope, "/cgroup/memory/ancestors")[0]["reason"], "limit_reached");
}

#[test]
fn a_tree_that_means_harm_is_not_followed_and_does_not_hang() {
    let tree = Tree::new("0::/\n", V2);
    tree.group("", &[("memory.max", "max\n"), ("cpu.stat", "usage_usec 5\n"), ("pids.current", "many\n")]);
    let root = tree.path().join("1/root");
    let secret = tree.path().join("secret");
    fs::write(&secret, "12345678\n").expect("a file");
    symlink(&secret, root.join("sys/fs/cgroup/memory.current")).expect("a link");
    let fifo = Command::new("mkfifo").arg(root.join("sys/fs/cgroup/cpu.max")).status().expect("mkfifo");
    assert!(fifo.success());
    fs::write(root.join("sys/fs/cgroup/io.stat"), vec![b'x'; 2 << 20]).expect("a large file");
    let start = Instant::now();
    let answer = common::run(["limits", "--proc", tree.path().to_str().expect("UTF-8")]);
    assert!(start.elapsed() < Duration::from_secs(20));
    // Cut off by a limit of the agent: the large file.
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    let envelope: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_valid(&envelope);
    let reason = |at: &str| gaps_at(&envelope, at).first().map(|gap| gap["reason"].clone());
    assert_eq!(reason("/cgroup/memory"), Some(json!("incomplete")));
    assert_eq!(reason("/cgroup/cpu"), Some(json!("malformed")));
    assert_eq!(reason("/cgroup/pids"), Some(json!("malformed")));
    assert_eq!(reason("/cgroup/io"), Some(json!("limit_reached")));
    let cgroup = &envelope["data"]["cgroup"];
    assert!(cgroup["memory"].get("usage_bytes").is_none(), "{}", cgroup["memory"]);
    assert_eq!(cgroup["memory"]["limit_bytes"], "unlimited");
    assert_eq!(cgroup["cpu"]["usage_us"], 5);
    // A root that leads out of the tree is no root, and a mount point that does is not followed.
    fs::remove_dir_all(&root).expect("removes");
    symlink("/", &root).expect("a link");
    assert_eq!(gaps_at(&tree.look(), "/cgroup/memory")[0]["reason"], "unsupported");
    fs::remove_file(&root).expect("removes");
    fs::create_dir_all(root.join("sys/fs")).expect("a directory");
    symlink("/sys/fs/cgroup", root.join("sys/fs/cgroup")).expect("a link");
    assert_eq!(gaps_at(&tree.look(), "/cgroup/memory").len(), 1);
}

#[test]
fn a_tree_without_the_rest_has_gaps_for_it() {
    let tree = Tree::new("0::/\n", V2);
    for name in ["limits", "status", "cgroup"] {
        fs::remove_file(tree.path().join("1").join(name)).expect("removes");
    }
    fs::remove_dir_all(tree.path().join("1/fd")).expect("removes");
    let envelope = tree.look();
    assert_eq!(envelope["data"], json!({"nearest": []}));
    for at in ["/limits", "/cgroup"] {
        assert_eq!(gaps_at(&envelope, at).first().map(|gap| &gap["reason"]), Some(&json!("not_found")), "{at}");
    }
    let tree = Tree::new("0::/\n", V2);
    fs::remove_file(tree.path().join("1/status")).expect("removes");
    fs::remove_dir_all(tree.path().join("1/fd")).expect("removes");
    let envelope = tree.look();
    // cpu_time comes from stat; processes, open_files and pending_signals have no source.
    let rows = envelope["data"]["limits"].as_array().expect("limits");
    assert_eq!(rows[0]["used"], 154);
    for (index, row) in rows.iter().enumerate().skip(1) {
        assert!(row.get("used").is_none(), "{row}");
        assert_eq!(gaps_at(&envelope, &format!("/limits/{index}/used")).len(), 1);
    }
    // In a recorded tree no time goes by.
    let answer = common::run(["limits", "--for", "1s", "--proc", tree.path().to_str().expect("UTF-8")]);
    assert_eq!(answer.status, 3);
    assert_eq!(gaps_at(&answer.json(), "/interval")[0]["reason"], "unsupported");
}
