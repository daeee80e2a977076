//! How near each limit is, on one list.

use agent_model::Text;
use schemars::JsonSchema;
use serde::Serialize;

use super::bound::Bound;
use super::cgroup::Cgroup;
use super::interval::Interval;
use super::rlimits::Row;

/// A limit and its use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Near {
    /// Which: the name of a resource limit as in `limits`, or `memory`,
    /// `memory_high`, `swap`, `memory_and_swap`, `pids`, `cpu` (with `--for`) of a
    /// control group.
    #[schemars(extend("x-column" = "NAME"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// `process` or `cgroup`.
    #[schemars(extend("x-column" = "OF"))]
    #[schemars(extend("x-class" = "word"))]
    pub of: &'static str,
    /// In use.
    #[schemars(extend("x-column" = "USED", "x-unit" = "unit"))]
    pub used: u64,
    /// The limit: of resource limits the soft one.
    #[schemars(extend("x-column" = "LIMIT", "x-unit" = "unit"))]
    pub limit: Bound,
    /// The unit of both: `bytes`, `files`, …; `millicores` of CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "UNIT"))]
    #[schemars(extend("x-class" = "word"))]
    pub unit: Option<Text>,
    /// The use in thousandths of the limit.
    #[schemars(extend("x-column" = "PERMILLE"))]
    pub used_permille: u64,
    /// The control group, as in `cgroup.groups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "GROUP"))]
    #[schemars(extend("x-class" = "path"))]
    pub path: Option<Text>,
}

/// How many are listed.
const LISTED: usize = 8;

/// The limits that hold and whose use is known, the nearest first; equal ones in the
/// order of the document.
pub(super) fn nearest(limits: &[Row], cgroup: Option<&Cgroup>, interval: Option<&Interval>) -> Vec<Near> {
    let mut all: Vec<Near> = limits.iter().filter(|row| row.exempt.is_none()).filter_map(of_process).collect();
    if let Some(cgroup) = cgroup {
        of_cgroup(cgroup, interval, &mut all);
    }
    all.sort_by_key(|near| std::cmp::Reverse(near.used_permille));
    all.truncate(LISTED);
    all
}

fn of_process(row: &Row) -> Option<Near> {
    Some(Near {
        name: row.name.clone(),
        of: "process",
        used: row.used?,
        limit: row.soft,
        unit: row.unit.clone(),
        used_permille: row.used_permille?,
        path: None,
    })
}

fn of_cgroup(cgroup: &Cgroup, interval: Option<&Interval>, all: &mut Vec<Near>) {
    let mut add = |name: &str, unit: &str, path: &Text, used: Option<u64>, limit: Option<Bound>| {
        let (Some(used), Some(limit)) = (used, limit) else { return };
        let Some(used_permille) = limit.permille(used) else { return };
        let (name, unit) = (name.into(), Some(unit.into()));
        all.push(Near { name, of: "cgroup", used, limit, unit, used_permille, path: Some(path.clone()) });
    };
    if let Some(memory) = &cgroup.memory {
        add("memory", "bytes", &memory.path, memory.usage_bytes, memory.limit_bytes);
        add("memory_high", "bytes", &memory.path, memory.usage_bytes, memory.high_bytes);
        for one in &memory.ancestors {
            add("memory", "bytes", &one.path, one.usage_bytes, one.limit_bytes);
            add("memory_high", "bytes", &one.path, one.usage_bytes, one.high_bytes);
        }
        for (name, swap) in [("swap", memory.swap), ("memory_and_swap", memory.memory_and_swap)] {
            add(name, "bytes", &memory.path, swap.and_then(|s| s.usage_bytes), swap.and_then(|s| s.limit_bytes));
        }
    }
    if let Some(pids) = &cgroup.pids {
        add("pids", "processes", &pids.path, pids.current, pids.limit);
        for one in &pids.ancestors {
            add("pids", "processes", &one.path, one.current, one.limit);
        }
    }
    if let Some((cpu, used)) = cgroup.cpu.as_ref().zip(interval.and_then(|interval| interval.cpu.as_ref())) {
        add("cpu", "millicores", &cpu.path, used.usage_millicores, cpu.limit_millicores);
    }
}
