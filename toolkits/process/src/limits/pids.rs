//! The pids controller: cgroup-v2.rst, cgroup-v1/pids.rst (the files are the same).

use agent_model::{Noted, Text};
use agent_system::Run;
use schemars::JsonSchema;
use serde::Serialize;

use super::bound::Bound;
use super::files::{Files, ancestors};
use super::groups::Chain;
use super::parse;

/// Threads of the process's control group, and how many there may be.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Pids {
    /// The group, as in `groups`.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Version of its hierarchy.
    pub version: u8,
    /// Processes and threads in the group and its descendants (`pids.current`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    /// How many there may be (`pids.max`): beyond it fork(2) and clone(2) fail with
    /// EAGAIN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Bound>,
    /// The use in thousandths of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_permille: Option<u64>,
    /// Most so far (`pids.peak`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    /// How often a fork failed at the limit (`pids.events`: `max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
    /// The ancestors that can be seen, its parent first.
    pub ancestors: Vec<Ancestor>,
    /// The group whose limit leaves least; absent if none that can be seen has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tightest: Option<Tightest>,
}

/// A group above that of the process: its limit holds for all groups in it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Ancestor {
    /// The group, as in `groups`.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Through whose mounts it was read, as in `groups`.
    #[schemars(extend("x-class" = "word"))]
    pub view: &'static str,
    /// Processes and threads in all groups in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    /// How many there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Bound>,
    /// The use in thousandths of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_permille: Option<u64>,
    /// How often a fork failed at the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
}

/// The limit that leaves least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tightest {
    /// The group that has it.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// The limit.
    pub limit: u64,
    /// Processes and threads in that group.
    pub current: u64,
    /// How many more there may be.
    pub left: u64,
}

/// Reads the pids controller of a group and its ancestors; gaps relative to it.
pub(super) fn read(run: &Run, chain: &Chain<'_>, text: &mut Vec<u8>) -> Option<Noted<Pids>> {
    let own = chain.levels.first()?;
    let mut files = Files::of(own, text);
    let Counts { current, limit, used_permille, failures } = counts(&mut files);
    let mut pids = Pids {
        path: own.path.clone(),
        version: chain.version,
        current,
        limit,
        used_permille,
        peak: files.number("pids.peak"),
        failures,
        ancestors: Vec::new(),
        tightest: None,
    };
    let mut gaps = Vec::from_iter(files.gap(run, ""));
    pids.ancestors = ancestors(run, chain, text, &mut gaps, |level, files| {
        let Counts { current, limit, used_permille, failures } = counts(files);
        Ancestor { path: level.path.clone(), view: level.view, current, limit, used_permille, failures }
    });
    pids.tightest = tightest(&pids);
    Some(Noted { value: pids, gaps })
}

struct Counts {
    current: Option<u64>,
    limit: Option<Bound>,
    used_permille: Option<u64>,
    failures: Option<u64>,
}

/// The root group has no such files.
fn counts(files: &mut Files<'_, '_>) -> Counts {
    let (current, limit) = (files.number("pids.current"), files.bound("pids.max"));
    let failures = files.text("pids.events").and_then(|text| parse::keyed(text, "max"));
    Counts { current, limit, used_permille: limit.zip(current).and_then(|(limit, now)| limit.permille(now)), failures }
}

/// The limit that leaves least, the innermost of equal ones.
fn tightest(pids: &Pids) -> Option<Tightest> {
    let own = (&pids.path, pids.current, pids.limit);
    let above = pids.ancestors.iter().map(|one| (&one.path, one.current, one.limit));
    std::iter::once(own)
        .chain(above)
        .filter_map(|(path, current, limit)| Some((path, current?, limit?.number()?)))
        .map(|(path, current, limit)| Tightest {
            path: path.clone(),
            limit,
            current,
            left: limit.saturating_sub(current),
        })
        .min_by_key(|one| one.left)
}
