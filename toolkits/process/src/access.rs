//! `access`: what can be seen here, which gate denies the rest, and what opens it.

use agent_model::{Gathered, Listing, Text};
use agent_system::parse::Ids;
use agent_system::rights::{Approach, Rights};
use agent_system::sock_diag::SockDiag;
use agent_system::{Capabilities, Capability, Collector, Failure, Need, NoOptions, Process, Run, confine};
use schemars::JsonSchema;
use serde::Serialize;

/// The collector of what is allowed.
pub struct AccessCheck;

/// One kind of evidence.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["evidence"]))]
pub struct Row {
    /// What could be seen: `processes`, `arguments`, `environment`, `executable`,
    /// `files`, `maps`, `smaps`, `memory`, `descriptors`, `descriptor_details`,
    /// `system_calls`, `stops`, `kernel_stacks`, `io`,
    /// `socket_diagnostics`, `network_tables`, `packets`.
    #[schemars(extend("x-column" = "EVIDENCE"))]
    #[schemars(extend("x-class" = "word"))]
    pub evidence: &'static str,
    /// Whether it can be seen.
    #[schemars(extend("x-column" = "AVAILABLE"))]
    pub available: bool,
    /// The commands that want it.
    #[schemars(extend("x-column" = "FOR"))]
    #[schemars(extend("x-class" = "word"))]
    pub commands: &'static [&'static str],
    /// The gate that denies it: `uid`, `capability`, `dumpable`, `user_namespace`,
    /// `yama`, `seccomp`, `lsm`, `hidepid`; or `missing` where the kernel does not
    /// have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "GATE"))]
    #[schemars(extend("x-class" = "word"))]
    pub gate: Option<&'static str>,
    /// Any one of these opens it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-column" = "NEEDS"))]
    pub needs: Vec<agent_model::Need>,
    /// What the kernel said, by its name in errno(3).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub errno: Option<String>,
    /// The file or system call that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub path: Option<Text>,
    /// The least flags of `kubectl debug` that open it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "REMEDY"))]
    #[schemars(extend("x-class" = "word"))]
    pub remedy: Option<String>,
}

/// The two sides of the checks.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Summary {
    /// Kinds of evidence that can be seen.
    pub available: u64,
    /// Kinds that cannot.
    pub denied: u64,
    /// What the agent is; absent with `--proc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// What the target is.
    pub target: Option<Side>,
}

/// The agent's own rights.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Agent {
    /// The `kubectl debug` profiles that give just these capabilities: `legacy`,
    /// `baseline`, `general`, `netadmin`, `restricted`, `sysadmin`; `custom` if none
    /// does.
    #[schemars(extend("x-class" = "word"))]
    pub profiles: &'static [&'static str],
    /// How the target is reached: `as_is`, or `as_target` where the agent has taken
    /// on its user and group ID.
    #[schemars(extend("x-class" = "word"))]
    pub approach: &'static str,
    /// Its IDs now.
    pub ids: Side,
    /// Capabilities that the container was granted.
    #[schemars(extend("x-class" = "word"))]
    pub bounding: Vec<&'static str>,
    /// Capabilities that were raised for this command.
    #[schemars(extend("x-class" = "word"))]
    pub effective: Vec<&'static str>,
    /// Whether no_new_privs is set: file capabilities have no effect then.
    pub no_new_privs: bool,
    /// The filter around us: `none`, `strict` or `filter`.
    #[schemars(extend("x-class" = "word"))]
    pub seccomp: &'static str,
    /// What the agent itself has given up: `system_calls` where its own filter lets through
    /// no others than the command needs, `capabilities` where the kernel has no seccomp or
    /// refuses a filter.
    #[schemars(extend("x-class" = "word"))]
    pub confined: &'static str,
}

/// IDs and capabilities of a process.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Side {
    /// User ID, effective.
    pub uid: u32,
    /// Group ID, effective.
    pub gid: u32,
    /// Capabilities that it may use.
    #[schemars(extend("x-class" = "word"))]
    pub permitted: Vec<&'static str>,
    /// Whether it is dumpable, where that can be told from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dumpable: Option<bool>,
    /// Whether it is in our user namespace, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_user_namespace: Option<bool>,
}

impl Side {
    fn new(uid: Ids, gid: Ids, permitted: Capabilities) -> Self {
        Self {
            uid: uid.effective,
            gid: gid.effective,
            permitted: permitted.names(),
            dumpable: None,
            same_user_namespace: None,
        }
    }
}

/// The capabilities that all commands together make use of.
const USED: &[Capability] = &[
    Capability::SYS_PTRACE,
    Capability::DAC_READ_SEARCH,
    Capability::DAC_OVERRIDE,
    Capability::NET_RAW,
    Capability::SYS_ADMIN,
];

impl Collector for AccessCheck {
    const NAME: &'static str = "access";
    const ABOUT: &'static str = "What can be seen here, and the flags that open the rest";
    const MANUAL: &'static str = "\
Each kind of evidence is tried: files are opened and not read, no thread is held, no
packet is taken. What is denied is explained from both sides' IDs, capabilities,
namespaces and flags.

  agent access                                      before anything else
  agent access -o ndjson | jq 'select(.available == false) | .remedy'";
    const CAPABILITIES: &'static [Capability] = USED;
    const NEEDS: &'static [Need] = &[Need::Stops, Need::SocketDiagnostics, Need::Packets];
    type Options = NoOptions;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, _: &NoOptions) -> Result<Gathered<Self::Data>, Failure> {
        let process = run.target_process()?;
        let rows: Vec<Row> = CHECKS.iter().map(|check| check.row(run, &process)).collect();
        let available = rows.iter().filter(|row| row.available).count() as u64;
        let rights = if run.is_live() { run.rights() } else { None };
        let target = run.subject(process.pid()).map(|subject| Side {
            dumpable: subject.dumpable,
            same_user_namespace: subject.foreign_user_namespace.map(|foreign| !foreign),
            ..Side::new(subject.uid, subject.gid, subject.permitted)
        });
        let summary = Summary {
            available,
            denied: rows.len() as u64 - available,
            agent: rights.map(|rights| agent(run, &rights)),
            target,
        };
        Ok(Gathered::complete(Listing { rows, summary }))
    }
}

fn agent(run: &Run, rights: &Rights) -> Agent {
    Agent {
        profiles: profiles(rights),
        approach: match run.approach() {
            Approach::AsWeAre => "as_is",
            Approach::AsTarget => "as_target",
        },
        ids: Side::new(rights.uid, rights.gid, rights.permitted),
        bounding: rights.bounding.names(),
        effective: rights.effective.names(),
        no_new_privs: rights.no_new_privs,
        seccomp: match rights.seccomp {
            0 => "none",
            1 => "strict",
            _ => "filter",
        },
        confined: match confine::state() {
            Some(confined) if confined.needs.is_some() => "system_calls",
            Some(_) => "capabilities",
            None => "nothing",
        },
    }
}

/// The profiles of `kubectl debug` whose capabilities these are. The default set of
/// containerd and CRI-O is a80425fb; `general` adds SYS_PTRACE, `netadmin` adds
/// NET_ADMIN (NET_RAW is in the default set), `restricted` drops all.
fn profiles(rights: &Rights) -> &'static [&'static str] {
    const DEFAULT: u64 = 0xa804_25fb;
    const PTRACE: u64 = 1 << 19;
    const NET_ADMIN: u64 = 1 << 12;
    match rights.bounding.0 {
        0 => &["restricted"],
        DEFAULT => &["legacy", "baseline"],
        set if set == DEFAULT | PTRACE => &["general"],
        set if set == DEFAULT | NET_ADMIN => &["netadmin"],
        _ if rights.bounding.has(Capability::SYS_ADMIN) => &["sysadmin"],
        _ => &["custom"],
    }
}

/// One thing to try.
struct Check {
    evidence: &'static str,
    commands: &'static [&'static str],
    attempt: fn(&Run, &Process<'_>) -> Result<(), Failure>,
}

/// In the order of the answer: from what is always open to what seldom is.
const CHECKS: &[Check] = &[
    Check { evidence: "processes", commands: &["ps"], attempt: |_, p| p.may_open("stat") },
    Check { evidence: "arguments", commands: &["ps"], attempt: |_, p| p.may_open("cmdline") },
    Check { evidence: "executable", commands: &["ps", "modules"], attempt: |_, p| p.link("exe").map(drop) },
    Check {
        evidence: "files",
        commands: &["modules", "stacks", "profile", "limits"],
        attempt: |_, p| p.may_enter_root(),
    },
    Check { evidence: "maps", commands: &["maps", "modules", "stacks", "profile"], attempt: |_, p| p.may_open("maps") },
    Check { evidence: "smaps", commands: &["maps"], attempt: |_, p| p.may_open("smaps") },
    Check { evidence: "descriptor_details", commands: &["fds"], attempt: |_, p| p.directory("fdinfo").map(drop) },
    Check { evidence: "descriptors", commands: &["fds", "sockets", "capture"], attempt: descriptors },
    Check { evidence: "environment", commands: &["env"], attempt: |_, p| p.may_open("environ") },
    Check { evidence: "io", commands: &["ps"], attempt: |_, p| p.may_open("io").and_then(|()| read(p, "io")) },
    Check { evidence: "system_calls", commands: &["stacks", "profile"], attempt: |_, p| read(p, "syscall") },
    Check { evidence: "memory", commands: &["stacks", "profile"], attempt: |_, p| p.memory().map(drop) },
    Check { evidence: "stops", commands: &["stacks", "profile"], attempt: |_, p| p.may_stop() },
    Check { evidence: "kernel_stacks", commands: &["stacks"], attempt: |_, p| read(p, "stack") },
    Check { evidence: "network_tables", commands: &["sockets"], attempt: |_, p| p.may_open("net/tcp") },
    Check { evidence: "socket_diagnostics", commands: &["sockets"], attempt: |run, _| SockDiag::open(run).map(drop) },
    Check { evidence: "packets", commands: &["capture"], attempt: |run, _| run.may_capture() },
];

/// With CAP_DAC_OVERRIDE alone the descriptors can be listed, and what they are
/// cannot be read.
fn descriptors(_: &Run, process: &Process<'_>) -> Result<(), Failure> {
    let links = process.directory("fd")?;
    let first = links.ids()?.into_iter().next();
    first.map_or(Ok(()), |fd| links.link(&fd.to_string()).map(drop))
}

/// Some files can be opened by all, and are refused when they are read.
fn read(process: &Process<'_>, name: &str) -> Result<(), Failure> {
    process.read_piece(name, &mut Vec::new())
}

impl Check {
    fn row(&self, run: &Run, process: &Process<'_>) -> Row {
        let mut row = Row {
            evidence: self.evidence,
            available: true,
            commands: self.commands,
            gate: None,
            needs: Vec::new(),
            errno: None,
            path: None,
            remedy: None,
        };
        let Err(failure) = (self.attempt)(run, process) else { return row };
        row.available = false;
        row.errno = failure.errno().map(agent_system::failure::errno_name);
        row.path = Some(failure.path.clone());
        match run.explain(&failure) {
            Some(verdict) => {
                row.gate = Some(verdict.gate);
                row.needs = verdict.needs;
                row.remedy = Some(verdict.remedy);
            }
            None => {
                row.gate = Some("missing");
                row.remedy = Some(failure.to_string());
            }
        }
        row
    }
}
