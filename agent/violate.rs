//! `violate`, in test builds alone: tries what the agent must never do. `tests/confine.rs`
//! looks on as the kernel refuses it.

use agent_model::{Gathered, Listing};
use agent_system::{Capability, Collector, Failure, Need, Run, violate};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

/// Tries it with all that any command may do, or with nothing beyond the base.
pub(crate) struct Violate<const ALL: bool>;

/// Options of `violate`.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub(crate) struct Options {
    /// An address in the target that could be written at
    #[arg(long)]
    address: u64,
}

/// One violation.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Row {
    /// What was tried.
    #[schemars(extend("x-class" = "word"))]
    violation: &'static str,
    /// What the kernel said; absent if it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    errno: Option<String>,
}

/// Totals.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// How many were tried.
    tried: u64,
}

/// All that a collector may declare: taking connections is for the hold, which looks at nothing.
const OF_COLLECTORS: &[Need] =
    &[Need::Stops, Need::Descriptors, Need::SocketDiagnostics, Need::Packets, Need::Interrupts];

impl<const ALL: bool> Collector for Violate<ALL> {
    const NAME: &'static str = if ALL { "violate" } else { "violate-base" };
    const ABOUT: &'static str = "In test builds: try what must be refused";
    const MANUAL: &'static str = "";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE, Capability::NET_RAW];
    const NEEDS: &'static [Need] = if ALL { OF_COLLECTORS } else { &[] };
    type Options = Options;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let process = run.target_process()?;
        let tried = violate::try_all(run, &process, options.address, ALL);
        let rows: Vec<Row> =
            tried.into_iter().map(|tried| Row { violation: tried.violation, errno: tried.errno }).collect();
        let summary = Summary { tried: rows.len() as u64 };
        Ok(Gathered::complete(Listing { rows, summary }))
    }
}
