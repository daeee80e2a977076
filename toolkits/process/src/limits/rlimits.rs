//! The resource limits of the process (getrlimit(2)), and how much of each is used.

use agent_model::{Noted, Text};
use agent_system::{Capabilities, Failure, Process, Run, in_halves};
use schemars::JsonSchema;
use serde::Serialize;

use super::bound::Bound;
use super::parse::{self, StatusUse};

/// One resource limit.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["name"]))]
pub struct Row {
    /// What is limited, in the kernel's words (`Max open files` is `open_files`).
    #[schemars(extend("x-column" = "LIMIT"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// Its name in getrlimit(2); absent for one of a newer kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub rlimit: Option<&'static str>,
    /// How much is in use, in the unit of the limit. Absent where the kernel counts
    /// nothing (`file_size`, priorities) or does not tell (`msgqueue_size`,
    /// `file_locks`). `pending_signals` are those of the real user on the whole node,
    /// and absent for root, whose are everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "USED", "x-unit" = "unit"))]
    pub used: Option<u64>,
    /// `exact`, or `lower_bound` where the kernel counts more than can be seen from
    /// here: the limit of `processes` holds for all threads of the real user in its
    /// user namespace, and counted are those of the pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub used_is: Option<&'static str>,
    /// The limit that holds; the process may raise it up to the hard one.
    #[schemars(extend("x-column" = "SOFT", "x-unit" = "unit"))]
    pub soft: Bound,
    /// The limit of that limit.
    #[schemars(extend("x-column" = "HARD", "x-unit" = "unit"))]
    pub hard: Bound,
    /// `bytes`, `seconds`, `us`, `files`, `processes` (which are threads), `locks`,
    /// `signals`; absent for priorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "UNIT"))]
    #[schemars(extend("x-class" = "word"))]
    pub unit: Option<Text>,
    /// The use in thousandths of the soft limit, rounded down.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PERMILLE"))]
    pub used_permille: Option<u64>,
    /// Why the kernel does not hold the process to it: `ignored` (by every kernel
    /// since 2.6), `root` (the root user of the initial user namespace), or the
    /// capability that exempts it. Absent where it does, as far as can be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "EXEMPT"))]
    #[schemars(extend("x-class" = "word"))]
    pub exempt: Option<&'static str>,
}

/// The names of `/proc/PID/limits`, and those of getrlimit(2).
const NAMES: [(&str, &str); 16] = [
    ("cpu_time", "RLIMIT_CPU"),
    ("file_size", "RLIMIT_FSIZE"),
    ("data_size", "RLIMIT_DATA"),
    ("stack_size", "RLIMIT_STACK"),
    ("core_file_size", "RLIMIT_CORE"),
    ("resident_set", "RLIMIT_RSS"),
    ("processes", "RLIMIT_NPROC"),
    ("open_files", "RLIMIT_NOFILE"),
    ("locked_memory", "RLIMIT_MEMLOCK"),
    ("address_space", "RLIMIT_AS"),
    ("file_locks", "RLIMIT_LOCKS"),
    ("pending_signals", "RLIMIT_SIGPENDING"),
    ("msgqueue_size", "RLIMIT_MSGQUEUE"),
    ("nice_priority", "RLIMIT_NICE"),
    ("realtime_priority", "RLIMIT_RTPRIO"),
    ("realtime_timeout", "RLIMIT_RTTIME"),
];

/// Reads the limits and their use; places of gaps are relative to the list.
///
/// # Errors
///
/// When `limits` itself cannot be read.
pub(super) fn read(run: &Run, process: &Process<'_>, usage: &Usage) -> Result<Noted<Vec<Row>>, Failure> {
    let mut text = Vec::with_capacity(2048);
    process.read_piece("limits", &mut text)?;
    let mut rows = Noted::new(Vec::with_capacity(NAMES.len()));
    for (index, limit) in parse::rlimits(&text).into_iter().enumerate() {
        let name = snake_case(limit.name);
        let (used, used_is) = match usage.of(&name) {
            Some(Ok(used)) => (Some(used), Some(if name == "processes" { "lower_bound" } else { "exact" })),
            Some(Err(failure)) => {
                rows.gaps.push(run.gap(format!("/{index}/used"), failure));
                (None, None)
            }
            None => (None, None),
        };
        rows.value.push(Row {
            rlimit: NAMES.iter().find(|(own, _)| *own == name).map(|(_, rlimit)| *rlimit),
            used,
            used_is,
            soft: limit.soft,
            hard: limit.hard,
            unit: limit.unit.map(Text::from_bytes),
            used_permille: used.and_then(|used| limit.soft.permille(used)),
            exempt: usage.exempt(&name),
            name: Text::from_bytes(name.as_bytes()),
        });
    }
    if rows.value.is_empty() {
        let cause = agent_system::Cause::Malformed("not as proc_pid_limits(5) says");
        return Err(Failure { path: format!("{}/limits", process.path()).as_str().into(), cause, pid: None });
    }
    Ok(rows)
}

/// `Max open files` as `open_files`.
fn snake_case(name: &[u8]) -> String {
    let name = name.strip_prefix(b"Max ").unwrap_or(name);
    String::from_utf8_lossy(name).to_lowercase().replace(' ', "_")
}

/// What of the limits is in use, and by whom.
#[derive(Debug)]
pub(super) struct Usage {
    /// From `status`.
    pub(super) status: Result<StatusUse, Failure>,
    /// User and kernel time, in seconds.
    cpu_s: Result<u64, Failure>,
    descriptors: Result<u64, Failure>,
    threads: Result<u64, Failure>,
    /// Whether its real user is the root of the initial user namespace.
    is_root: bool,
    /// Its effective capabilities, if they count in the initial user namespace.
    effective: Capabilities,
}

impl Usage {
    /// Reads what is in use.
    pub(super) fn read(run: &Run, process: &Process<'_>) -> Self {
        let mut text = Vec::with_capacity(4096);
        let read = process.status(&mut text);
        let is_initial = is_initial(process);
        let (status, threads, is_root, effective) = match read {
            Ok(status) => (
                Ok(parse::status_use(&text)),
                threads_of(run, status.uid.real),
                is_initial && status.uid.real == 0,
                if is_initial { status.effective } else { Capabilities::default() },
            ),
            Err(failure) => (Err(failure.clone()), Err(failure), false, Capabilities::default()),
        };
        let ticks = process.stat(&mut text).map(|stat| stat.user_ticks.saturating_add(stat.system_ticks));
        Self {
            status,
            cpu_s: ticks.map(|ticks| ticks / agent_system::ticks_per_second().max(1)),
            descriptors: descriptors(run, process),
            threads,
            is_root,
            effective,
        }
    }

    /// The use of the limit `name`; `None` where there is none to be had.
    fn of(&self, name: &str) -> Option<Result<u64, &Failure>> {
        let size = |pick: fn(&StatusUse) -> Option<u64>| match &self.status {
            Ok(status) => pick(status).map(Ok),
            Err(failure) => Some(Err(failure)),
        };
        match name {
            "cpu_time" => Some(self.cpu_s.as_ref().copied()),
            "data_size" => size(|status| status.data),
            "stack_size" => size(|status| status.stack),
            "resident_set" => size(|status| status.resident),
            "processes" => Some(self.threads.as_ref().copied()),
            "open_files" => Some(self.descriptors.as_ref().copied()),
            "locked_memory" => size(|status| status.locked),
            "address_space" => size(|status| status.size),
            // Of root they are those of the whole node: they come and go without the target.
            "pending_signals" if !self.is_root => size(|status| status.signals),
            _ => None,
        }
    }

    /// What exempts the process from the limit `name`: kernel/fork.c for processes,
    /// mm/util.c for locked memory.
    fn exempt(&self, name: &str) -> Option<&'static str> {
        let holds = |wanted: &'static str| self.effective.names().contains(&wanted).then_some(wanted);
        match name {
            "resident_set" | "file_locks" => Some("ignored"),
            "processes" if self.is_root => Some("root"),
            "processes" => holds("CAP_SYS_RESOURCE").or_else(|| holds("CAP_SYS_ADMIN")),
            "locked_memory" => holds("CAP_IPC_LOCK"),
            _ => None,
        }
    }
}

/// Whether it is in the initial user namespace, in which root and capabilities are
/// what the limits are checked against.
fn is_initial(process: &Process<'_>) -> bool {
    let mut map = Vec::new();
    process.read_piece("uid_map", &mut map).is_ok() && parse::is_initial_uid_map(&map)
}

/// How many descriptors are open: since Linux 6.2 that is the size of `fd`, which
/// takes no right to ask; before, they are listed.
fn descriptors(run: &Run, process: &Process<'_>) -> Result<u64, Failure> {
    if run.is_live()
        && let Ok(attributes) = process.attributes("fd")
        && attributes.size > 0
    {
        return Ok(attributes.size);
    }
    Ok(process.directory("fd")?.ids()?.len() as u64)
}

/// Below this many processes a second thread costs more than it gives.
const WORTH_A_THREAD: usize = 256;

/// The threads in this pid namespace whose process has the real user ID `uid`.
fn threads_of(run: &Run, uid: u32) -> Result<u64, Failure> {
    let counts = in_halves(&run.pids()?, WORTH_A_THREAD, |some| {
        let mut text = Vec::with_capacity(4096);
        let statuses = some.iter().filter_map(|pid| run.process(*pid).ok()?.status(&mut text).ok());
        vec![
            statuses.filter(|status| status.uid.real == uid).map(|status| u64::from(status.threads.unwrap_or(1))).sum(),
        ]
    });
    Ok(counts.iter().sum())
}
