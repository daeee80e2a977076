//! What a container may do to its target, by profile, users and seccomp: both tables of the facts.
//!
//! "The facts" are what `kubectl debug` 1.32 gave on a real one-node cluster (kubelet 1.32, containerd, runc, cgroup v1).

use agent_pod::{DebugSpec, Image, Pod, PodError, PodSpec, Profile};
use serde_json::Value;

use crate::{debug, root_image, sample, shipped_image, start};

use Profile::{Baseline, General, Legacy, Netadmin, Restricted, Sysadmin};

/// The columns of the first table, in its order.
const COLUMNS: [&str; 7] = ["proc", "ptrace", "process_vm_readv", "AF_PACKET", "perf_event_open", "stack", "setns"];

/// "proc" in the facts.
const PROC: [&str; 11] = ["maps", "smaps", "mem", "environ", "auxv", "io", "syscall", "fd", "exe", "cwd", "root"];

/// Open to everybody, in every run.
const WORLD_READABLE: [&str; 6] = ["status", "stat", "cmdline", "cgroup", "mountinfo", "net/tcp"];

/// One row: the profiles, our user, and what each column says.
type Row<'a> = (&'a [Profile], &'a str, &'a str);

#[test]
fn root_image_and_root_target() {
    check(
        sample(),
        &[
            (&[Legacy, Baseline, Netadmin, General], "0", "ok ok ok ok ok EACCES EPERM"),
            (&[Sysadmin], "0", "ok ok ok ok ok ok ok"),
        ],
    );
}

#[test]
fn root_image_and_root_target_with_seccomp() {
    check(
        sample().seccomp_runtime_default(),
        &[
            (&[Legacy, Baseline, Netadmin], "0", "ok ok EPERM ok EPERM EACCES EPERM"),
            (&[General], "0", "ok ok ok ok EPERM EACCES EPERM"),
            (&[Sysadmin], "0", "ok ok ok ok ok ok ok"),
        ],
    );
}

#[test]
fn root_image_and_container_of_another_user() {
    check(
        sample().container_user(1000, 1000),
        &[
            (&[Legacy, Baseline, Netadmin], "0", "EACCES EPERM EPERM ok EACCES EACCES EACCES"),
            (&[General], "0", "ok ok ok ok ok EACCES EPERM"),
        ],
    );
}

#[test]
fn root_image_and_pod_of_another_user() {
    check(
        sample().pod_user(1000, 1000),
        &[
            (&[Legacy, Baseline, Netadmin, General, Sysadmin], "1000", "ok ok ok EPERM ok EACCES EPERM"),
            (&[Restricted], "1000", "ok ok EPERM EPERM EPERM EACCES EPERM"),
        ],
    );
}

/// The facts have `general` among the rows with EPERM for `process_vm_readv`. That does not follow from containerd's
/// profile, which allows the call to whom `CAP_SYS_PTRACE` is in the bounding set (as the facts themselves have it for
/// a root target), nor from the kernel, whose check passes for the same user. So here it is ok.
#[test]
fn root_image_and_restricted_pod() {
    check(
        sample().pod_security_restricted(1000, 1000),
        &[
            (&[Legacy, Baseline, Netadmin, Restricted], "1000", "ok ok EPERM EPERM EPERM EACCES EPERM"),
            (&[General], "1000", "ok ok ok EPERM EPERM EACCES EPERM"),
        ],
    );
}

#[test]
fn restricted_refuses_a_root_image() {
    let (pod, image) = (start(sample()), root_image());
    let refused = pod.debug(DebugSpec::new(&image, Restricted, ["agent"]).target());
    let error = refused.expect_err("a root image does not start");
    assert!(matches!(error, PodError::RunAsNonRoot { .. }), "{error:?}");
    assert!(error.to_string().contains("container has runAsNonRoot and image will run as root"));
}

/// Runs the probe under every profile of the rows and reports every cell that differs, not only the first.
fn check(spec: PodSpec, rows: &[Row<'_>]) {
    let (pod, image) = (start(spec), root_image());
    let mut differences = Vec::new();
    for (profiles, user, cells) in rows {
        for &profile in *profiles {
            let report = probe(&pod, &image, profile, "--");
            assert_eq!(report["self"]["Uid"], *user, "user under {profile:?}");
            let found = columns(&report);
            for ((column, expected), found) in COLUMNS.iter().zip(cells.split(' ')).zip(found) {
                if expected != found {
                    differences.push(format!("{} {column}: expected {expected}, found {found}", profile.name()));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

fn probe(pod: &Pod, image: &Image, profile: Profile, mode: &str) -> Value {
    let out = debug(pod, image, profile, [mode]);
    let report: Value = out.json().unwrap_or_else(|error| panic!("{error}: {out:?}"));
    for name in WORLD_READABLE {
        assert_eq!(report["proc"][name], "ok", "{name} under {profile:?}");
    }
    for call in ["pidfd_open", "sock_diag"] {
        assert_eq!(report["calls"][call], "ok", "{call} under {profile:?}");
    }
    assert_eq!(report["writes"]["termination_log"], "ok", "under {profile:?}");
    assert_eq!(out.termination_message, b"probed", "under {profile:?}");
    report
}

fn columns(report: &Value) -> Vec<String> {
    let calls = &report["calls"];
    // One seccomp rule and one ptrace check for both (and for kcmp, which has no safe wrapper to call it by).
    assert_eq!(calls["process_vm_readv"], calls["pidfd_getfd"]);
    let cells = [
        &proc_column(&report["proc"]),
        &calls["ptrace"],
        &calls["process_vm_readv"],
        &calls["af_packet"],
        &calls["perf_event_open"],
        &report["proc"]["stack"],
        &calls["setns"],
    ];
    cells.map(|cell| cell.as_str().unwrap_or_default().to_owned()).to_vec()
}

/// One word for the files of "proc": all ok, or denied.
///
/// `CAP_DAC_OVERRIDE` passes the permission bits of the directory `fd` and of the file `syscall`. Then the former can be
/// listed (its links cannot be read), and reading the latter meets the ptrace check, which says EPERM there.
fn proc_column(files: &Value) -> Value {
    let unlike = |expected: &str| PROC.into_iter().filter(|name| files[name] != expected).collect::<Vec<_>>();
    if unlike("ok").is_empty() {
        return "ok".into();
    }
    match unlike("EACCES")[..] {
        [] => "EACCES".into(),
        ["syscall", "fd"] if files["syscall"] == "EPERM" && files["fd/1"] == "EACCES" => "EACCES".into(),
        _ => files.to_string().into(),
    }
}

/// What an image with file capabilities reaches: the words of the second table.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    /// mem, fd, maps, syscall, exe, root, PTRACE_SEIZE and AF_PACKET
    Everything,
    EverythingButPackets,
    FdAndPackets,
    WorldReadableOnly,
}

use Reach::{Everything, EverythingButPackets, FdAndPackets, WorldReadableOnly};

#[test]
fn shipped_image_and_root_target() {
    for spec in [sample(), sample().seccomp_runtime_default()] {
        check_reach(
            spec,
            &[
                (&[General, Sysadmin], Everything, Some(Everything)),
                (&[Legacy, Baseline, Netadmin], FdAndPackets, Some(Everything)),
                (&[Restricted], WorldReadableOnly, None),
            ],
        );
    }
}

#[test]
fn shipped_image_and_container_of_another_user() {
    check_reach(
        sample().container_user(1000, 1000),
        &[
            (&[General, Sysadmin], Everything, Some(Everything)),
            (&[Legacy, Baseline, Netadmin], FdAndPackets, Some(Everything)),
            (&[Restricted], WorldReadableOnly, None),
        ],
    );
}

#[test]
fn shipped_image_and_pod_of_another_user() {
    for spec in [sample().pod_user(1000, 1000), sample().pod_security_restricted(1000, 1000)] {
        check_reach(
            spec,
            &[
                (&[Legacy, Baseline, Netadmin, General, Sysadmin], Everything, Some(Everything)),
                (&[Restricted], EverythingButPackets, Some(EverythingButPackets)),
            ],
        );
    }
}

/// After raising, and after also taking the target's ids; `None` where that is refused.
fn check_reach(spec: PodSpec, rows: &[(&[Profile], Reach, Option<Reach>)]) {
    let (pod, image) = (start(spec), shipped_image());
    for (profiles, raised, become_target) in rows {
        for &profile in *profiles {
            let report = probe(&pod, &image, profile, "--raise");
            assert_eq!((&report["prepared"], reach(&report)), (&"ok".into(), *raised), "{profile:?}: {report}");
            let report = probe(&pod, &image, profile, "--become");
            match become_target {
                Some(expected) => assert_eq!(reach(&report), *expected, "{profile:?}: {report}"),
                None => assert_eq!(report["prepared"], "EPERM", "{profile:?}: {report}"),
            }
        }
    }
}

fn reach(report: &Value) -> Reach {
    let files = ["mem", "maps", "syscall", "exe", "root"].map(|name| &report["proc"][name]);
    let (fd, packets) = (&report["proc"]["fd"], &report["calls"]["af_packet"]);
    let inside = files.into_iter().chain([&report["calls"]["ptrace"]]);
    let opened = inside.clone().filter(|cell| *cell == "ok").count();
    match (opened == inside.count(), opened == 0, fd == "ok", packets == "ok") {
        (true, _, true, true) => Everything,
        (true, _, true, false) => EverythingButPackets,
        (_, true, true, true) => FdAndPackets,
        (_, true, false, false) => WorldReadableOnly,
        _ => panic!("neither: {report}"),
    }
}
