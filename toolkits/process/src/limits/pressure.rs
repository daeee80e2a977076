//! Pressure stall information of a control group (accounting/psi.rst).

use agent_model::{Noted, Text};
use agent_system::Run;
use schemars::JsonSchema;
use serde::Serialize;

use super::files::Files;
use super::groups::Chain;
use super::parse;

/// For how long threads of the process's control group were kept waiting for lack of
/// a resource. Only version 2 counts it, and not every kernel does.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Pressure {
    /// The group, as in `groups`.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// For a CPU, throttling included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Resource>,
    /// For memory: reclaim, refaults, swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Resource>,
    /// For block I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<Resource>,
    /// For interrupts to be served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub irq: Option<Resource>,
}

/// Stalls for one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Resource {
    /// At least one thread waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub some: Option<Stall>,
    /// All threads that had something to do waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<Stall>,
}

/// How long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Stall {
    /// Since the group was made, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_us: Option<u64>,
    /// Share of the last 10 seconds, in hundredths of a percent, as the kernel gives
    /// it. With `--pressure-averages`: averages fade by themselves, so they differ
    /// between two looks at an unchanged target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avg10_basis_points: Option<u64>,
    /// The same of the last minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avg60_basis_points: Option<u64>,
    /// The same of the last five minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avg300_basis_points: Option<u64>,
}

/// Reads the pressure files of a group, if it has any; gaps relative to it.
pub(super) fn read(run: &Run, chain: &Chain<'_>, averages: bool, text: &mut Vec<u8>) -> Option<Noted<Pressure>> {
    let own = chain.levels.first()?;
    let mut files = Files::of(own, text);
    let mut resource = |name| files.text(name).map(|text| Resource::of(text, averages));
    let pressure = Pressure {
        path: own.path.clone(),
        cpu: resource("cpu.pressure"),
        memory: resource("memory.pressure"),
        io: resource("io.pressure"),
        irq: resource("irq.pressure"),
    };
    let is_empty = [pressure.cpu, pressure.memory, pressure.io, pressure.irq].iter().all(Option::is_none);
    let gaps = Vec::from_iter(files.gap(run, ""));
    (!is_empty || !gaps.is_empty()).then_some(Noted { value: pressure, gaps })
}

impl Resource {
    fn of(text: &[u8], averages: bool) -> Self {
        let (some, full) = parse::pressure(text);
        let stall = |stall: parse::Stall| {
            let [avg10, avg60, avg300] = if averages { stall.averages } else { [None; 3] };
            Stall {
                total_us: stall.total_us,
                avg10_basis_points: avg10,
                avg60_basis_points: avg60,
                avg300_basis_points: avg300,
            }
        };
        Self { some: some.map(stall), full: full.map(stall) }
    }
}
