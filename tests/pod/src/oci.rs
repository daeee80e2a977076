//! The OCI runtime configuration of one container, as containerd's CRI plugin writes it.

use std::path::{Path, PathBuf};

use rustix::process::Pid;
use serde_json::{Value, json};

use crate::cgroup::{CPU_PERIOD, cpu_quota};
use crate::host::PodDirectory;
use crate::pod::Mount;
use crate::seccomp::{self, Containerd};
use crate::security::Security;

/// The kubelet's default for `procMount: Default`.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// The kubelet's default for `procMount: Default`.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which pid namespace a container gets, and where its other namespaces come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Namespaces {
    /// The first container of the pod: all its own.
    New,
    /// The pod's, with a pid namespace of its own: an ephemeral container without `--target`.
    PodButPid(Pid),
    /// The pod's and the pid namespace of this process: `--target`, or a shared process namespace.
    Join(Pid),
}

/// What differs from one container to the next.
pub(crate) struct Spec<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: Vec<String>,
    pub(crate) directory: &'a str,
    pub(crate) terminal: bool,
    pub(crate) security: Security,
    pub(crate) containerd: Containerd,
    pub(crate) namespaces: Namespaces,
    pub(crate) cgroup_namespace: bool,
    pub(crate) cgroups_path: String,
    pub(crate) memory: Option<u64>,
    pub(crate) cpu_millis: Option<u64>,
    pub(crate) read_only_root: bool,
    /// The file behind `/dev/termination-log`; the sandbox has none.
    pub(crate) termination_log: Option<PathBuf>,
    pub(crate) mounts: &'a [Mount],
}

impl Spec<'_> {
    /// The whole `config.json`.
    pub(crate) fn config(&self, pod: &PodDirectory) -> Value {
        let mut linux = json!({
            "namespaces": self.namespaces(),
            "cgroupsPath": self.cgroups_path,
            "resources": self.resources(),
            "maskedPaths": if self.security.privileged { &[][..] } else { &MASKED_PATHS[..] },
            "readonlyPaths": if self.security.privileged { &[][..] } else { &READONLY_PATHS[..] },
        });
        if self.security.seccomp {
            linux["seccomp"] = seccomp::runtime_default(self.security.capabilities, self.containerd);
        }
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": self.process(),
            "root": {"path": "rootfs", "readonly": self.read_only_root},
            "mounts": self.mounts(pod),
            "linux": linux,
        });
        if matches!(self.namespaces, Namespaces::New) {
            config["hostname"] = json!(pod.name);
        }
        config
    }

    fn process(&self) -> Value {
        let user = self.security.user;
        let names = self.security.capabilities.names();
        json!({
            "terminal": self.terminal,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": [user.gid]},
            "args": self.argv,
            "env": self.env,
            "cwd": self.directory,
            // Not inheritable since CVE-2022-24769, and never ambient.
            "capabilities": {"bounding": names, "effective": names, "permitted": names},
            "noNewPrivileges": self.security.no_new_privs,
            "oomScoreAdj": 999,
        })
    }

    fn namespaces(&self) -> Value {
        let kinds = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
        let own = |kind: &str| json!({"type": kind});
        let joined = |kind: &str, file: &str, pid: Pid| json!({"type": kind, "path": format!("/proc/{}/ns/{file}", pid.as_raw_nonzero())});
        let mut list = vec![own("mount")];
        match self.namespaces {
            Namespaces::New => {
                list.push(own("pid"));
                list.extend(kinds.map(|(kind, _)| own(kind)));
            }
            Namespaces::PodButPid(pid) => {
                list.push(own("pid"));
                list.extend(kinds.map(|(kind, file)| joined(kind, file, pid)));
            }
            Namespaces::Join(pid) => {
                list.push(joined("pid", "pid", pid));
                list.extend(kinds.map(|(kind, file)| joined(kind, file, pid)));
            }
        }
        if self.cgroup_namespace {
            list.push(own("cgroup"));
        }
        json!(list)
    }

    fn resources(&self) -> Value {
        let mut resources = json!({"devices": [{"allow": self.security.privileged, "access": "rwm"}]});
        if let Some(bytes) = self.memory {
            resources["memory"] = json!({"limit": bytes});
        }
        if let Some(millis) = self.cpu_millis {
            resources["cpu"] = json!({"quota": cpu_quota(millis), "period": CPU_PERIOD});
        }
        resources
    }

    /// containerd's own mounts, then the kubelet's, then the pod's volumes.
    fn mounts(&self, pod: &PodDirectory) -> Value {
        let system = if self.security.privileged { "rw" } else { "ro" };
        let mut list = vec![
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", system]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", system]),
        ];
        let written = if self.read_only_root { "ro" } else { "rw" };
        if let Some(log) = &self.termination_log {
            list.push(bind(&pod.etc_hosts(), "/etc/hosts", written));
            list.push(bind(log, "/dev/termination-log", "rw"));
            list.push(bind(&pod.hostname(), "/etc/hostname", written));
        }
        list.push(bind(&pod.resolv_conf(), "/etc/resolv.conf", written));
        list.push(bind(pod.shared_memory(), "/dev/shm", "rw"));
        for one in self.mounts {
            list.push(bind(&one.source, &one.destination, if one.read_only { "ro" } else { "rw" }));
        }
        json!(list)
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

fn bind(source: &Path, destination: &str, access: &str) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]})
}
