//! What happened between two looks (`--for`).

use agent_model::Text;
use schemars::JsonSchema;
use serde::Serialize;

use super::bound::permille;
use super::cgroup::Cgroup;
use super::pressure::{Pressure, Resource, Stall};

/// What happened in the interval that `--for` asked for. Shares are of the time that
/// really went by between the two looks.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Interval {
    /// CPU use of the process's group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuUse>,
    /// Throttling of each group that has a quota: the process's own first, then its
    /// ancestors.
    pub throttled: Vec<Throttled>,
    /// What happened at the memory limits of the process's group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryEvents>,
    /// How often a fork failed at the limit of the process's group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fork_failures: Option<u64>,
    /// Stalls of the process's group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Stalls>,
}

/// CPU use in the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CpuUse {
    /// CPU time, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_us: Option<u64>,
    /// CPU time by time, in thousandths of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_millicores: Option<u64>,
    /// That in thousandths of the group's own limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_permille: Option<u64>,
}

/// Throttling in the interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Throttled {
    /// The group, as in `cgroup.groups`.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Periods in which it ran.
    pub nr_periods: u64,
    /// Of them, how many in which the quota was used up.
    pub nr_throttled: u64,
    /// That in thousandths; 0 where it did not run.
    pub throttled_permille: u64,
    /// How long its threads were held back, in microseconds, summed over CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_us: Option<u64>,
}

/// What happened at the memory limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MemoryEvents {
    /// The limit was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Throttled for being above `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<u64>,
    /// Processes killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    /// Page faults that waited for a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
}

/// Stalls, in thousandths of the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Stalls {
    /// At least one thread waited for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_some_permille: Option<u64>,
    /// All waited for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_full_permille: Option<u64>,
    /// At least one thread waited for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_some_permille: Option<u64>,
    /// All waited for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_full_permille: Option<u64>,
    /// At least one thread waited for block I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_some_permille: Option<u64>,
    /// All waited for block I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_full_permille: Option<u64>,
}

/// How much a counter grew; absent where one of the two looks did not have it.
fn grown(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(after?.saturating_sub(before?))
}

impl Interval {
    /// What happened between `before` and `after`, which lie `elapsed_us` apart.
    pub(super) fn between(before: &Cgroup, after: &Cgroup, elapsed_us: u64) -> Self {
        Self {
            cpu: cpu_use(before, after, elapsed_us),
            throttled: throttled(before, after),
            memory: memory(before, after),
            fork_failures: before
                .pids
                .as_ref()
                .zip(after.pids.as_ref())
                .and_then(|(a, b)| grown(a.failures, b.failures)),
            pressure: before.pressure.as_ref().zip(after.pressure.as_ref()).map(|(a, b)| stalls(a, b, elapsed_us)),
        }
    }
}

fn cpu_use(before: &Cgroup, after: &Cgroup, elapsed_us: u64) -> Option<CpuUse> {
    let (before, after) = before.cpu.as_ref().zip(after.cpu.as_ref())?;
    let usage_us = grown(before.usage_us, after.usage_us);
    let usage_millicores = usage_us.and_then(|usage| permille(usage, elapsed_us));
    let used_permille = usage_millicores.zip(after.limit_millicores).and_then(|(usage, limit)| limit.permille(usage));
    Some(CpuUse { usage_us, usage_millicores, used_permille })
}

fn throttled(before: &Cgroup, after: &Cgroup) -> Vec<Throttled> {
    let Some((before, after)) = before.cpu.as_ref().zip(after.cpu.as_ref()) else { return Vec::new() };
    let own = [(before.nr_periods, before.nr_throttled, before.throttled_us)];
    let above = before.ancestors.iter().map(|one| (one.nr_periods, one.nr_throttled, one.throttled_us));
    let first = own.into_iter().chain(above);
    let own = [(&after.path, after.limit_millicores, after.nr_periods, after.nr_throttled, after.throttled_us)];
    let above = after.ancestors.iter();
    let above = above.map(|one| (&one.path, one.limit_millicores, one.nr_periods, one.nr_throttled, one.throttled_us));
    first
        .zip(own.into_iter().chain(above))
        .filter_map(|(old, (path, limit, nr_periods, nr_throttled, throttled_us))| {
            limit?.number()?;
            let nr_periods = grown(old.0, nr_periods)?;
            let nr_throttled = grown(old.1, nr_throttled)?;
            Some(Throttled {
                path: path.clone(),
                nr_periods,
                nr_throttled,
                throttled_permille: permille(nr_throttled, nr_periods).unwrap_or(0),
                throttled_us: grown(old.2, throttled_us),
            })
        })
        .collect()
}

fn memory(before: &Cgroup, after: &Cgroup) -> Option<MemoryEvents> {
    let (before, after) = before.memory.as_ref().zip(after.memory.as_ref())?;
    let old = before.events.unwrap_or_default();
    let new = after.events.unwrap_or_default();
    let faults = |memory: &super::memory::Memory| memory.stat.and_then(|stat| stat.major_faults);
    Some(MemoryEvents {
        max: grown(old.max.or(before.failcnt), new.max.or(after.failcnt)),
        high: grown(old.high, new.high),
        oom_kill: grown(old.oom_kill, new.oom_kill),
        major_faults: grown(faults(before), faults(after)),
    })
}

fn stalls(before: &Pressure, after: &Pressure, elapsed_us: u64) -> Stalls {
    let share = |pick: fn(&Pressure) -> Option<Resource>, kind: fn(&Resource) -> Option<Stall>| {
        let total = |pressure: &Pressure| kind(&pick(pressure)?)?.total_us;
        grown(total(before), total(after)).and_then(|stalled| permille(stalled, elapsed_us))
    };
    Stalls {
        cpu_some_permille: share(|all| all.cpu, |one| one.some),
        cpu_full_permille: share(|all| all.cpu, |one| one.full),
        memory_some_permille: share(|all| all.memory, |one| one.some),
        memory_full_permille: share(|all| all.memory, |one| one.full),
        io_some_permille: share(|all| all.io, |one| one.some),
        io_full_permille: share(|all| all.io, |one| one.full),
    }
}
