//! The pod's cgroup: limits that cover every container in it, on cgroup v1, hybrid and v2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{At, PodError};

/// What the pod's cgroup limits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Bytes, for all containers of the pod together.
    pub(crate) memory: Option<u64>,
    /// Processes and threads, for all containers of the pod together.
    pub(crate) pids: Option<u64>,
    /// Thousandths of a CPU.
    pub(crate) cpu_millis: Option<u64>,
}

/// The CFS period that the kubelet uses, in microseconds.
pub(crate) const CPU_PERIOD: u64 = 100_000;

/// Microseconds of CPU in each period, for so many thousandths of a CPU.
pub(crate) fn cpu_quota(millis: u64) -> u64 {
    millis * CPU_PERIOD / 1000
}

/// One mounted cgroup hierarchy.
#[derive(Debug)]
struct Hierarchy {
    mount: PathBuf,
    /// Controllers of a v1 hierarchy; empty for v2.
    controllers: Vec<String>,
    v2: bool,
}

/// A directory of the pod in each hierarchy.
#[derive(Debug)]
pub(crate) struct PodCgroup {
    hierarchies: Vec<Hierarchy>,
    /// `kubepods/burstable/pod<uid>`, relative to each mount.
    path: PathBuf,
}

impl PodCgroup {
    /// The kubelet's place for a Burstable pod, with the cgroupfs driver.
    pub(crate) fn of(uid: &str) -> Result<Self, PodError> {
        let mounts = "/proc/self/mountinfo";
        let table = fs::read_to_string(mounts).at("read", mounts)?;
        Ok(Self { hierarchies: hierarchies(&table), path: Path::new("kubepods/burstable").join(format!("pod{uid}")) })
    }

    /// Whether this machine has cgroup v2 alone. Then containerd gives containers a cgroup namespace.
    pub(crate) fn unified(&self) -> bool {
        self.hierarchies.iter().all(|hierarchy| hierarchy.v2)
    }

    /// `linux.cgroupsPath` of a container.
    pub(crate) fn container(&self, id: &str) -> String {
        format!("/{}/{id}", self.path.display())
    }

    /// Makes the pod's cgroup and sets its limits.
    pub(crate) fn create(&self, limits: Limits) -> Result<(), PodError> {
        let settings = if self.unified() { v2_settings(limits) } else { v1_settings(limits) };
        if self.unified() {
            self.delegate()?;
        }
        for (controller, file, value) in settings {
            let found = self.hierarchies.iter().find(|h| h.v2 == self.unified() && (h.v2 || h.has(controller)));
            let Some(hierarchy) = found else {
                return Err(missing(&self.path, controller, io::ErrorKind::NotFound.into()));
            };
            let directory = hierarchy.mount.join(&self.path);
            fs::create_dir_all(&directory).at("create", &directory)?;
            let file = directory.join(file);
            // A controller that is not to be had leaves no file, and none can be made there.
            fs::write(&file, value).map_err(|error| missing(&self.path, controller, error))?;
        }
        Ok(())
    }

    /// Hands the controllers down to the pod, as cgroup v2 demands for each level.
    fn delegate(&self) -> Result<(), PodError> {
        for hierarchy in self.hierarchies.iter().filter(|hierarchy| hierarchy.v2) {
            let directory = hierarchy.mount.join(&self.path);
            fs::create_dir_all(&directory).at("create", &directory)?;
            let mut level = hierarchy.mount.clone();
            for part in &self.path {
                let control = level.join("cgroup.subtree_control");
                for controller in ["+memory", "+pids", "+cpu"] {
                    // A controller that a v1 hierarchy has taken is not here to be had.
                    let _ = fs::write(&control, controller);
                }
                level.push(part);
            }
        }
        Ok(())
    }

    /// Kills what is left in the pod and removes its directories; what stays busy is left to the next sweep.
    pub(crate) fn remove(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        for hierarchy in &self.hierarchies {
            let directory = hierarchy.mount.join(&self.path);
            while directory.exists() && !remove_tree(&directory) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn missing(path: &Path, controller: &str, error: io::Error) -> PodError {
    let error = io::Error::new(error.kind(), format!("no {controller} controller for the pod's cgroup: {error}"));
    PodError::io("limit", path, error)
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }
}

/// Controller, file and value on cgroup v1 (Documentation/admin-guide/cgroup-v1).
fn v1_settings(limits: Limits) -> Vec<(&'static str, &'static str, String)> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory {
        settings.push(("memory", "memory.limit_in_bytes", bytes.to_string()));
    }
    if let Some(count) = limits.pids {
        settings.push(("pids", "pids.max", count.to_string()));
    }
    if let Some(millis) = limits.cpu_millis {
        settings.push(("cpu", "cpu.cfs_period_us", CPU_PERIOD.to_string()));
        settings.push(("cpu", "cpu.cfs_quota_us", cpu_quota(millis).to_string()));
    }
    settings
}

/// Controller, file and value on cgroup v2 (Documentation/admin-guide/cgroup-v2.rst).
fn v2_settings(limits: Limits) -> Vec<(&'static str, &'static str, String)> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory {
        settings.push(("memory", "memory.max", bytes.to_string()));
    }
    if let Some(count) = limits.pids {
        settings.push(("pids", "pids.max", count.to_string()));
    }
    if let Some(millis) = limits.cpu_millis {
        settings.push(("cpu", "cpu.max", format!("{} {CPU_PERIOD}", cpu_quota(millis))));
    }
    settings
}

/// The cgroup mounts of a `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(mount), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else { continue };
        let v2 = match kind {
            "cgroup" => false,
            "cgroup2" => true,
            _ => continue,
        };
        let options = right.split(' ').nth(2).unwrap_or_default();
        let controllers = if v2 { Vec::new() } else { options.split(',').map(str::to_owned).collect() };
        found.push(Hierarchy { mount: mount.into(), controllers, v2 });
    }
    found
}

/// One attempt at killing and removing everything below; true when nothing is left.
fn remove_tree(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return true };
    for child in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&child.path());
    }
    let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
    fs::remove_dir(directory).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_hierarchies_of_a_hybrid_machine() {
        let table = "\
30 20 0:25 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let found = hierarchies(table);
        assert_eq!(found.len(), 2);
        assert!(found[0].has("cpuacct") && !found[0].v2);
        assert!(found[1].v2);
        assert_eq!(found[1].mount, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn writes_limits_in_each_dialect() {
        let limits = Limits { memory: Some(64 << 20), pids: Some(50), cpu_millis: Some(250) };
        assert_eq!(v1_settings(limits).last().unwrap().2, "25000");
        assert_eq!(v2_settings(limits).last().unwrap().2, "25000 100000");
    }
}
