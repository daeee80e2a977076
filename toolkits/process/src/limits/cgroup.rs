//! The control groups of the process: what each controller says of it.

use agent_model::{Gap, Noted};
use agent_system::{Failure, Run};
use schemars::JsonSchema;
use serde::Serialize;

use super::cpu::{self, Cpu};
use super::groups::{Chain, Group, Groups};
use super::io::{self, Io};
use super::memory::{self, Memory};
use super::pids::{self, Pids};
use super::pressure::{self, Pressure};

/// The control groups that the process is in (cgroups(7)), read through the target's
/// own view of them.
///
/// A controller that this kernel does not have is absent, and so is a figure that the
/// group does not have: the root group has few, and in version 2 a group has those of
/// the controllers that were handed down to it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Cgroup {
    /// `v1`, `v2`, or `hybrid`: controllers of version 1 beside a version 2 hierarchy.
    #[schemars(extend("x-class" = "word"))]
    pub mode: &'static str,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
    /// Block I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<Io>,
    /// Pressure stall information. Absent where the kernel does not count it, and
    /// where the version 2 hierarchy is not mounted (`groups` shows that).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
    /// The group in each hierarchy: version 2 first, then by controllers.
    pub groups: Vec<Group>,
}

impl Cgroup {
    /// Reads all controllers; gaps relative to it. `cpus` is the process's list of
    /// allowed CPUs.
    pub(super) fn read(run: &Run, groups: &Groups<'_>, averages: bool, cpus: Option<&str>) -> Noted<Self> {
        let mut text = Vec::with_capacity(8192);
        let mut gaps = Vec::new();
        let mut take = Take { run, gaps: &mut gaps };
        let mut cpu = take.from(groups.of("cpu"), "/cpu", |chain| {
            let accounts = groups.of("cpuacct").and_then(|chain| chain.as_ref().ok());
            cpu::read(run, chain, accounts, &mut text)
        });
        if let Some(cpu) = &mut cpu {
            cpu.allowed_cpus = cpus.map(str::to_owned);
            cpu.allowed_cpu_count = cpus.and_then(|list| super::parse::cpus(list.as_bytes()));
        }
        let memory = take.from(groups.of("memory"), "/memory", |chain| memory::read(run, chain, &mut text));
        let pids = take.from(groups.of("pids"), "/pids", |chain| pids::read(run, chain, &mut text));
        let io = take.from(groups.of("blkio"), "/io", |chain| io::read(run, chain, &mut text));
        let v2 = groups.v2().filter(|chain| chain.is_ok());
        let pressure = take.from(v2, "/pressure", |chain| pressure::read(run, chain, averages, &mut text));
        Noted { value: Self { mode: groups.mode(), memory, cpu, pids, io, pressure, groups: groups.list() }, gaps }
    }
}

/// Takes values out of chains, and gaps where there are none.
struct Take<'a> {
    run: &'a Run,
    gaps: &'a mut Vec<Gap>,
}

impl Take<'_> {
    fn from<'c, 'r: 'c, T>(
        &mut self,
        chain: Option<&'c Result<Chain<'r>, Failure>>,
        at: &str,
        read: impl FnOnce(&'c Chain<'r>) -> Option<Noted<T>>,
    ) -> Option<T> {
        match chain? {
            Ok(chain) => {
                let noted = read(chain)?;
                self.gaps.extend(noted.gaps.into_iter().map(|gap| gap.below(at)));
                Some(noted.value)
            }
            Err(failure) => {
                self.gaps.push(self.run.gap(at, failure));
                None
            }
        }
    }
}
