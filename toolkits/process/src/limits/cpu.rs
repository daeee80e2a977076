//! The CPU controllers: cgroup-v2.rst, cgroup-v1/cpuacct.rst, scheduler/sched-bwc.rst.

use agent_model::{Noted, Text};
use agent_system::Run;
use schemars::JsonSchema;
use serde::Serialize;

use super::bound::{Bound, permille};
use super::files::{Files, ancestors};
use super::groups::Chain;
use super::parse;

/// CPU of the process's control group: quota, use and throttling.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Cpu {
    /// The group, as in `groups`.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Version of its hierarchy.
    pub version: u8,
    /// CPU time that it may use in each period, in microseconds (`cpu.max`;
    /// `cpu.cfs_quota_us`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_us: Option<Bound>,
    /// Length of a period, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_us: Option<u64>,
    /// Quota by period, in thousandths of a CPU: a limit of Kubernetes as it is
    /// written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_millicores: Option<Bound>,
    /// What it may save up for a burst, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_us: Option<u64>,
    /// Its share where CPUs are short, against other groups (v2, `cpu.weight`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// The same (v1, `cpu.shares`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    /// The CPUs that the process may run on, as a list (`Cpus_allowed_list`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub allowed_cpus: Option<String>,
    /// How many these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_cpu_count: Option<u64>,
    /// CPU time used, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_us: Option<u64>,
    /// Of it in user mode, in microseconds; in version 1 to the clock tick, so that the
    /// two need not add up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_us: Option<u64>,
    /// Of it in the kernel, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_us: Option<u64>,
    /// Periods in which it ran, since it has a quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nr_periods: Option<u64>,
    /// Of them, how many in which the quota was used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nr_throttled: Option<u64>,
    /// How long its threads were held back for it, in microseconds, summed over CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_us: Option<u64>,
    /// The periods in which the quota was used up, in thousandths of all periods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_permille: Option<u64>,
    /// Periods in which it used what it had saved up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nr_bursts: Option<u64>,
    /// CPU time that it so used beyond the quota, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_used_us: Option<u64>,
    /// The ancestors that can be seen, its parent first.
    pub ancestors: Vec<Ancestor>,
    /// The group with the least quota; absent if none that can be seen has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tightest: Option<Tightest>,
}

/// A group above that of the process: its quota holds for all groups in it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Ancestor {
    /// The group, as in `groups`.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Through whose mounts it was read, as in `groups`.
    #[schemars(extend("x-class" = "word"))]
    pub view: &'static str,
    /// CPU time that all groups in it may use in each period, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_us: Option<Bound>,
    /// Length of a period, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_us: Option<u64>,
    /// Quota by period, in thousandths of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_millicores: Option<Bound>,
    /// Periods in which it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nr_periods: Option<u64>,
    /// Of them, how many in which the quota was used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nr_throttled: Option<u64>,
    /// How long its threads were held back for it, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_us: Option<u64>,
    /// The periods in which the quota was used up, in thousandths of all periods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_permille: Option<u64>,
}

/// The least quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tightest {
    /// The group that has it.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// In thousandths of a CPU.
    pub limit_millicores: u64,
}

/// Reads the CPU controller of a group and its ancestors, and in version 1 the use
/// from `accounts`, the chain of cpuacct; gaps relative to it.
pub(super) fn read(
    run: &Run,
    chain: &Chain<'_>,
    accounts: Option<&Chain<'_>>,
    text: &mut Vec<u8>,
) -> Option<Noted<Cpu>> {
    let own = chain.levels.first()?;
    let mut cpu = Cpu { path: own.path.clone(), version: chain.version, ..Cpu::default() };
    let mut files = Files::of(own, text);
    let level = quota(chain.version, &mut files);
    cpu.quota_us = level.quota_us;
    cpu.period_us = level.period_us;
    cpu.limit_millicores = level.limit_millicores();
    cpu.nr_periods = level.nr_periods;
    cpu.nr_throttled = level.nr_throttled;
    cpu.throttled_us = level.throttled_us;
    cpu.throttled_permille = level.throttled_permille();
    if let Some(text) = files.text("cpu.stat") {
        let of = |key| parse::keyed(text, key);
        cpu.usage_us = of("usage_usec");
        cpu.user_us = of("user_usec");
        cpu.system_us = of("system_usec");
        // A kernel without quotas has no line of it.
        cpu.nr_bursts = of("nr_bursts");
        cpu.burst_used_us = of("burst_usec").or_else(|| of("burst_time").map(microseconds));
    }
    if chain.version == 1 {
        cpu.burst_us = files.number("cpu.cfs_burst_us");
        cpu.shares = files.number("cpu.shares");
    } else {
        cpu.burst_us = files.number("cpu.max.burst");
        cpu.weight = files.number("cpu.weight");
    }
    let mut gaps = Vec::from_iter(files.gap(run, ""));
    if chain.version == 1
        && let Some(own) = accounts.and_then(|chain| chain.levels.first())
    {
        let mut files = Files::of(own, text);
        cpu.usage_us = files.number("cpuacct.usage").map(microseconds);
        cpu.user_us = files.number("cpuacct.usage_user").map(microseconds);
        cpu.system_us = files.number("cpuacct.usage_sys").map(microseconds);
        gaps.extend(files.gap(run, "/usage_us"));
    }
    cpu.ancestors = ancestors(run, chain, text, &mut gaps, |above, files| {
        let level = quota(chain.version, files);
        Ancestor {
            path: above.path.clone(),
            view: above.view,
            limit_millicores: level.limit_millicores(),
            throttled_permille: level.throttled_permille(),
            quota_us: level.quota_us,
            period_us: level.period_us,
            nr_periods: level.nr_periods,
            nr_throttled: level.nr_throttled,
            throttled_us: level.throttled_us,
        }
    });
    cpu.tightest = tightest(&cpu);
    Some(Noted { value: cpu, gaps })
}

/// Version 1 counts in nanoseconds.
fn microseconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1000
}

/// What one group has of it.
struct Quota {
    quota_us: Option<Bound>,
    period_us: Option<u64>,
    nr_periods: Option<u64>,
    nr_throttled: Option<u64>,
    throttled_us: Option<u64>,
}

fn quota(version: u8, files: &mut Files<'_, '_>) -> Quota {
    let (quota_us, period_us) = if version == 1 {
        (files.value("cpu.cfs_quota_us", parse::v1_quota), files.number("cpu.cfs_period_us"))
    } else {
        files.value("cpu.max", parse::cpu_max).map_or((None, None), |(quota, period)| (Some(quota), period))
    };
    let text = files.text("cpu.stat").unwrap_or_default();
    let of = |key| parse::keyed(text, key);
    Quota {
        quota_us,
        period_us,
        nr_periods: of("nr_periods"),
        nr_throttled: of("nr_throttled"),
        throttled_us: of("throttled_usec").or_else(|| of("throttled_time").map(microseconds)),
    }
}

impl Quota {
    fn limit_millicores(&self) -> Option<Bound> {
        match self.quota_us? {
            Bound::Unlimited => Some(Bound::Unlimited),
            Bound::At(quota) => permille(quota, self.period_us?).map(Bound::At),
        }
    }

    fn throttled_permille(&self) -> Option<u64> {
        permille(self.nr_throttled?, self.nr_periods?)
    }
}

/// The least quota, the innermost of equal ones.
fn tightest(cpu: &Cpu) -> Option<Tightest> {
    let above = cpu.ancestors.iter().map(|one| (&one.path, one.limit_millicores));
    std::iter::once((&cpu.path, cpu.limit_millicores))
        .chain(above)
        .filter_map(|(path, limit)| Some((path, limit?.number()?)))
        .min_by_key(|(_, limit)| *limit)
        .map(|(path, limit_millicores)| Tightest { path: path.clone(), limit_millicores })
}
