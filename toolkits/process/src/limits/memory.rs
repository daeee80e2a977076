//! The memory controller: cgroup-v2.rst, cgroup-v1/memory.rst.

use agent_model::{Noted, Text};
use agent_system::Run;
use schemars::JsonSchema;
use serde::Serialize;

use super::bound::Bound;
use super::files::{Files, ancestors};
use super::groups::Chain;
use super::parse;

/// Memory of the process's control group: use, limits, and what happened at them.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Memory {
    /// The group, as in `groups`.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Version of its hierarchy.
    pub version: u8,
    /// In use, page cache and kernel memory included, in bytes (`memory.current`;
    /// `memory.usage_in_bytes`). The kernel hands out memory in batches to each CPU,
    /// and takes back what is left of them when it likes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// What may be in use (`memory.max`; `memory.limit_in_bytes`): beyond it the
    /// kernel reclaims, then kills.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<Bound>,
    /// The use in thousandths of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_permille: Option<u64>,
    /// The use without inactive page cache, in bytes: what the kubelet reports, and
    /// evicts by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_set_bytes: Option<u64>,
    /// Largest use so far, in bytes (`memory.peak`; `memory.max_usage_in_bytes`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// Beyond this the group is throttled and reclaimed from (v2, `memory.high`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_bytes: Option<Bound>,
    /// Below this nothing is reclaimed while others can give (v2, `memory.low`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_bytes: Option<Bound>,
    /// Below this nothing is reclaimed at all (v2, `memory.min`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<Bound>,
    /// What it is pushed back to when memory is short (v1,
    /// `memory.soft_limit_in_bytes`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_limit_bytes: Option<Bound>,
    /// The least limit of the group and all its ancestors, seen or not, in bytes (v1,
    /// `hierarchical_memory_limit`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hierarchical_limit_bytes: Option<Bound>,
    /// How often the use hit the limit (v1, `memory.failcnt`; in version 2 that is
    /// `events.max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failcnt: Option<u64>,
    /// Whether the group is out of memory right now, and waits (v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_oom: Option<bool>,
    /// Whether its processes wait instead of being killed (v1, `oom_kill_disable`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill_disabled: Option<bool>,
    /// Whether an OOM kill takes the whole group (v2, `memory.oom.group`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_group: Option<bool>,
    /// What happened at the limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Events>,
    /// Swap of the group (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<Swap>,
    /// Memory and swap together (v1, `memory.memsw.*`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_and_swap: Option<Swap>,
    /// What the memory is, its descendants' included (`memory.stat`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stat: Option<Stat>,
    /// The ancestors that can be seen, its parent first.
    pub ancestors: Vec<Ancestor>,
    /// The group whose limit leaves least; absent if none has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tightest: Option<Tightest>,
}

/// Counts of what happened at the limits of a group and, in version 2, of its
/// descendants (`memory.events`; v1 counts OOM kills of the group alone).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Events {
    /// Reclaimed from although below `low`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<u64>,
    /// Throttled for being above `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<u64>,
    /// The limit was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// The limit was hit and an allocation was about to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom: Option<u64>,
    /// Processes that were killed by any kind of OOM killer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    /// Times that the whole group was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_group_kill: Option<u64>,
}

/// Use and limit of swap, or of memory and swap together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Swap {
    /// In use, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// Limit, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<Bound>,
    /// The use in thousandths of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_permille: Option<u64>,
    /// Largest use so far, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// How often the limit was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failcnt: Option<u64>,
}

/// What the memory of a group is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Stat {
    /// Anonymous memory, in bytes (v1: `total_rss`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anon_bytes: Option<u64>,
    /// Page cache, tmpfs and shared memory included, in bytes (v1: `total_cache`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// tmpfs and shared memory, in bytes: not to be reclaimed without swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shmem_bytes: Option<u64>,
    /// Page cache that is mapped, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapped_file_bytes: Option<u64>,
    /// Page cache to be written back, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_bytes: Option<u64>,
    /// Page cache that was not used of late, in bytes: the first to be reclaimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inactive_file_bytes: Option<u64>,
    /// Page cache in active use, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_file_bytes: Option<u64>,
    /// Kernel memory, in bytes (v1: `memory.kmem.usage_in_bytes`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_bytes: Option<u64>,
    /// Kernel memory in slabs, in bytes (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slab_bytes: Option<u64>,
    /// Socket buffers, in bytes (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sock_bytes: Option<u64>,
    /// Swapped out, in bytes (v1; in version 2 that is `swap`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// Page faults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<u64>,
    /// Page faults that waited for a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Pages of files that were reclaimed and soon read again: the limit is too low.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refaults_file: Option<u64>,
    /// Anonymous pages that were swapped out and soon needed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refaults_anon: Option<u64>,
}

/// A group above that of the process: its limits hold for all groups in it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Ancestor {
    /// The group, as in `groups`.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Through whose mounts it was read, as in `groups`.
    #[schemars(extend("x-class" = "word"))]
    pub view: &'static str,
    /// In use by all groups in it, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// Limit, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<Bound>,
    /// The use in thousandths of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_permille: Option<u64>,
    /// Beyond this it is throttled (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_bytes: Option<Bound>,
    /// How often its limit was hit (`max` of `memory.events`; `memory.failcnt`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_hits: Option<u64>,
    /// OOM kills, as in `events`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
}

/// The limit that leaves least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tightest {
    /// The group that has it; absent where it is an ancestor that cannot be seen from
    /// here (`hierarchical_limit_bytes` is lower than any limit that can).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub path: Option<Text>,
    /// The limit, in bytes.
    pub limit_bytes: Bound,
    /// In use in that group, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// What is left below the limit, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_bytes: Option<u64>,
}

/// Reads the memory controller of a group and its ancestors; gaps relative to it.
pub(super) fn read(run: &Run, chain: &Chain<'_>, text: &mut Vec<u8>) -> Option<Noted<Memory>> {
    let own = chain.levels.first()?;
    let mut files = Files::of(own, text);
    let (usage_bytes, limit_bytes) = usage_and_limit(chain.version, &mut files);
    let mut memory = Memory {
        path: own.path.clone(),
        version: chain.version,
        usage_bytes,
        limit_bytes,
        used_permille: share(usage_bytes, limit_bytes),
        working_set_bytes: None,
        peak_bytes: None,
        high_bytes: None,
        low_bytes: None,
        min_bytes: None,
        soft_limit_bytes: None,
        hierarchical_limit_bytes: None,
        failcnt: None,
        under_oom: None,
        oom_kill_disabled: None,
        oom_group: None,
        events: None,
        swap: None,
        memory_and_swap: None,
        stat: None,
        ancestors: Vec::new(),
        tightest: None,
    };
    if chain.version == 1 {
        v1(&mut memory, &mut files)
    } else {
        v2(&mut memory, &mut files)
    }
    let inactive = memory.stat.and_then(|stat| stat.inactive_file_bytes);
    memory.working_set_bytes = usage_bytes.zip(inactive).map(|(usage, inactive)| usage.saturating_sub(inactive));
    let mut gaps = Vec::from_iter(files.gap(run, ""));
    memory.ancestors = ancestors(run, chain, text, &mut gaps, |level, files| {
        let (usage_bytes, limit_bytes) = usage_and_limit(chain.version, files);
        let above = (level.path.clone(), level.view, usage_bytes, limit_bytes);
        if chain.version == 1 { v1_ancestor(above, files) } else { v2_ancestor(above, files) }
    });
    memory.tightest = tightest(&memory);
    Some(Noted { value: memory, gaps })
}

fn share(usage: Option<u64>, limit: Option<Bound>) -> Option<u64> {
    limit?.permille(usage?)
}

fn usage_and_limit(version: u8, files: &mut Files<'_, '_>) -> (Option<u64>, Option<Bound>) {
    match version {
        1 => (files.number("memory.usage_in_bytes"), files.value("memory.limit_in_bytes", parse::v1_bytes)),
        _ => (files.number("memory.current"), files.bound("memory.max")),
    }
}

/// Path, view, use and limit of an ancestor.
type Above = (Text, &'static str, Option<u64>, Option<Bound>);

fn v1_ancestor((path, view, usage_bytes, limit_bytes): Above, files: &mut Files<'_, '_>) -> Ancestor {
    Ancestor {
        path,
        view,
        usage_bytes,
        limit_bytes,
        used_permille: share(usage_bytes, limit_bytes),
        high_bytes: None,
        limit_hits: files.number("memory.failcnt"),
        oom_kill: files.text("memory.oom_control").and_then(|text| parse::keyed(text, "oom_kill")),
    }
}

fn v2_ancestor((path, view, usage_bytes, limit_bytes): Above, files: &mut Files<'_, '_>) -> Ancestor {
    let high_bytes = files.bound("memory.high");
    let events = files.text("memory.events").unwrap_or_default();
    Ancestor {
        path,
        view,
        usage_bytes,
        limit_bytes,
        used_permille: share(usage_bytes, limit_bytes),
        high_bytes,
        limit_hits: parse::keyed(events, "max"),
        oom_kill: parse::keyed(events, "oom_kill"),
    }
}

fn v1(memory: &mut Memory, files: &mut Files<'_, '_>) {
    memory.peak_bytes = files.number("memory.max_usage_in_bytes");
    memory.soft_limit_bytes = files.value("memory.soft_limit_in_bytes", parse::v1_bytes);
    memory.failcnt = files.number("memory.failcnt");
    if let Some(text) = files.text("memory.oom_control") {
        let flag = |key| parse::keyed(text, key).map(|number| number != 0);
        memory.under_oom = flag("under_oom");
        memory.oom_kill_disabled = flag("oom_kill_disable");
        let oom_kill = parse::keyed(text, "oom_kill");
        memory.events = oom_kill.map(|_| Events { oom_kill, ..Events::default() });
    }
    let usage_bytes = files.number("memory.memsw.usage_in_bytes");
    let limit_bytes = files.value("memory.memsw.limit_in_bytes", parse::v1_bytes);
    // Absent where the kernel does not account swap.
    memory.memory_and_swap = usage_bytes.is_some().then(|| Swap {
        usage_bytes,
        limit_bytes,
        used_permille: share(usage_bytes, limit_bytes),
        peak_bytes: files.number("memory.memsw.max_usage_in_bytes"),
        failcnt: files.number("memory.memsw.failcnt"),
    });
    let kernel_bytes = files.number("memory.kmem.usage_in_bytes");
    if let Some(text) = files.text("memory.stat") {
        memory.hierarchical_limit_bytes = parse::keyed(text, "hierarchical_memory_limit")
            .and_then(|limit| parse::v1_bytes(limit.to_string().as_bytes()));
        // `total_` is with the descendants; it is absent without `use_hierarchy`.
        let of = |key: &str| parse::keyed(text, &format!("total_{key}")).or_else(|| parse::keyed(text, key));
        memory.stat = Some(Stat {
            anon_bytes: of("rss"),
            file_bytes: of("cache"),
            shmem_bytes: of("shmem"),
            mapped_file_bytes: of("mapped_file"),
            dirty_bytes: of("dirty"),
            inactive_file_bytes: of("inactive_file"),
            active_file_bytes: of("active_file"),
            kernel_bytes,
            slab_bytes: None,
            sock_bytes: None,
            swap_bytes: of("swap"),
            faults: of("pgfault"),
            major_faults: of("pgmajfault"),
            refaults_file: of("workingset_refault_file"),
            refaults_anon: of("workingset_refault_anon"),
        });
    }
}

fn v2(memory: &mut Memory, files: &mut Files<'_, '_>) {
    memory.peak_bytes = files.number("memory.peak");
    memory.high_bytes = files.bound("memory.high");
    memory.low_bytes = files.bound("memory.low");
    memory.min_bytes = files.bound("memory.min");
    memory.oom_group = files.number("memory.oom.group").map(|number| number != 0);
    memory.events = files.text("memory.events").map(|text| Events {
        low: parse::keyed(text, "low"),
        high: parse::keyed(text, "high"),
        max: parse::keyed(text, "max"),
        oom: parse::keyed(text, "oom"),
        oom_kill: parse::keyed(text, "oom_kill"),
        oom_group_kill: parse::keyed(text, "oom_group_kill"),
    });
    let (usage_bytes, limit_bytes) = (files.number("memory.swap.current"), files.bound("memory.swap.max"));
    memory.swap = usage_bytes.is_some().then(|| Swap {
        usage_bytes,
        limit_bytes,
        used_permille: share(usage_bytes, limit_bytes),
        peak_bytes: files.number("memory.swap.peak"),
        failcnt: files.text("memory.swap.events").and_then(|text| parse::keyed(text, "max")),
    });
    memory.stat = files.text("memory.stat").map(|text| {
        let of = |key| parse::keyed(text, key);
        Stat {
            anon_bytes: of("anon"),
            file_bytes: of("file"),
            shmem_bytes: of("shmem"),
            mapped_file_bytes: of("file_mapped"),
            dirty_bytes: of("file_dirty"),
            inactive_file_bytes: of("inactive_file"),
            active_file_bytes: of("active_file"),
            kernel_bytes: of("kernel"),
            slab_bytes: of("slab"),
            sock_bytes: of("sock"),
            swap_bytes: None,
            faults: of("pgfault"),
            major_faults: of("pgmajfault"),
            refaults_file: of("workingset_refault_file"),
            refaults_anon: of("workingset_refault_anon"),
        }
    });
}

/// The limit that leaves least, the innermost of equal ones. An unseen ancestor
/// whose limit is below all that are seen leaves less than any of them, for it is
/// above them and holds at least what they hold.
fn tightest(memory: &Memory) -> Option<Tightest> {
    let own = (&memory.path, memory.usage_bytes, memory.limit_bytes);
    let above = memory.ancestors.iter().map(|one| (&one.path, one.usage_bytes, one.limit_bytes));
    let limited = || std::iter::once(own).chain(above.clone()).filter_map(|(p, u, l)| Some((p, u?, l?.number()?)));
    let least = limited().map(|(_, _, limit)| limit).min();
    if let Some(hidden) = memory.hierarchical_limit_bytes.and_then(Bound::number)
        && least.is_none_or(|least| hidden < least)
    {
        return Some(Tightest { path: None, limit_bytes: Bound::At(hidden), usage_bytes: None, left_bytes: None });
    }
    let (path, usage, limit) = limited().min_by_key(|(_, usage, limit)| limit.saturating_sub(*usage))?;
    Some(Tightest {
        path: Some(path.clone()),
        limit_bytes: Bound::At(limit),
        usage_bytes: Some(usage),
        left_bytes: Some(limit.saturating_sub(usage)),
    })
}
