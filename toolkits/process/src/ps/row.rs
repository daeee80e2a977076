//! What is said of one process.

use std::collections::BTreeMap;

use agent_model::Text;
use schemars::JsonSchema;
use serde::Serialize;

use super::change::{Change, Changes};
use super::details::{Details, Io};

/// One process.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["pid", "start_ticks", "tid"], "x-alike" = ["name", "args"], "x-life" = [
    "ppid", "pgid", "session", "tty", "start_time", "start_ticks", "container_id"
]))]
pub struct Row {
    /// Process ID in our pid namespace.
    #[schemars(extend("x-column" = "PID"))]
    pub pid: u32,
    /// Thread ID; only of a row that is a thread's (--threads): its times, state, IDs
    /// and details are its own then, and the rest is as in the row of its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "TID"))]
    pub tid: Option<u32>,
    /// Parent; 0 where it is outside of this pid namespace.
    #[schemars(extend("x-column" = "PPID"))]
    pub ppid: u32,
    /// Process group; 0 for one of another pid namespace.
    pub pgid: u32,
    /// Session, likewise.
    pub session: u32,
    /// Its controlling terminal; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<Tty>,
    /// How many of its ancestors are listed.
    pub depth: u32,
    /// User ID, effective; absent with a gap where `status` could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "UID"))]
    pub uid: Option<u32>,
    /// Group ID, effective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// What it does: `running`, `sleeping`, `disk_sleep`, `stopped`, `tracing_stop`,
    /// `zombie`, `dead`, `idle`, `parked`.
    #[schemars(extend("x-column" = "STATE"))]
    #[schemars(extend("x-class" = "word"))]
    pub state: &'static str,
    /// Nice value: from 19, the least demanding, to -20.
    pub nice: i32,
    /// Number of threads; 1 for a thread.
    #[schemars(extend("x-column" = "THREADS"))]
    pub threads: u32,
    /// CPU time in user mode, in microseconds, to the clock tick.
    #[schemars(extend("x-column" = "USER"))]
    pub cpu_user_us: u64,
    /// CPU time in the kernel, in microseconds, to the clock tick.
    #[schemars(extend("x-column" = "SYSTEM"))]
    pub cpu_system_us: u64,
    /// Resident set: what it has in memory, shared pages included, in bytes. From
    /// `status`: the figure in `stat` lags behind by some pages for each processor.
    #[schemars(extend("x-column" = "RSS"))]
    pub rss_bytes: u64,
    /// Resident set, each page divided by how many processes have it, in bytes; only
    /// with --pss. How the pages are shared depends on other processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PSS"))]
    pub pss_bytes: Option<u64>,
    /// What it has read and written; with --details and with --watch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-inline" = true))]
    pub io: Option<Io>,
    /// What it did since the look before; only with --watch, and not in the first
    /// look at it.
    #[serde(flatten)]
    pub change: Option<Change>,
    /// All the rest; with --details.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-inline" = true))]
    pub details: Option<Box<Details>>,
    /// When it started (RFC 3339, UTC).
    #[schemars(extend("x-column" = "STARTED"))]
    #[schemars(extend("x-class" = "id"))]
    pub start_time: String,
    /// When it started, in clock ticks since boot: with the pid this names it for
    /// good.
    pub start_ticks: u64,
    /// Name (`comm`): 15 bytes at most.
    #[schemars(extend("x-column" = "NAME", "x-tree" = "depth"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// The arguments it has now; empty for a zombie, a kernel thread, and in the row of
    /// a thread. A process
    /// that has rewritten them may have left empty ones behind its title. Of more
    /// than 128 KiB only the beginning, with a gap.
    #[schemars(extend("x-column" = "ARGS", "x-class" = "argv"))]
    pub args: Vec<Text>,
    /// Its executable, as its own mount namespace names it; absent for a kernel
    /// thread, a zombie and a process that is about to become one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub executable: Option<Text>,
    /// Whether that file is no longer there: it was deleted or replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable_deleted: Option<bool>,
    /// The container it is in, from its control group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub container_id: Option<Text>,
    /// Whether it is the agent's own.
    #[serde(rename = "self")]
    pub own: bool,
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tty {
    /// Its number, as `major:minor`.
    #[schemars(extend("x-class" = "id"))]
    pub device: String,
    /// What it is called below /dev: `pts/3`; absent where its number does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub name: Option<String>,
}

/// Totals over the processes listed.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// Processes.
    pub processes: u64,
    /// Threads of all of them.
    pub threads: u64,
    /// Processes by state.
    pub states: BTreeMap<&'static str, u64>,
    /// What has changed since the look before; with --watch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}
