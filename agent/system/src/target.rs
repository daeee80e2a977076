//! Which process is meant.

use agent_model::Text;

use crate::hidepid::REMEDY;
use crate::{Failure, Process, Run, own, parse};

/// How the target was named on the command line; the first that is given counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// A process ID in our pid namespace.
    pub pid: Option<u32>,
    /// A process name (`comm`).
    pub name: Option<String>,
    /// A container ID, or how one begins (12 hex digits at least).
    pub container: Option<String>,
}

/// A process that may have been meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its process ID.
    pub pid: u32,
    /// Its name.
    pub name: Text,
    /// Its container.
    pub container_id: Option<String>,
}

/// Why no target was found.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TargetError {
    /// Nothing like it is there.
    #[error("{0}")]
    NotFound(String),
    /// Nothing like it is visible, and proc(5) hides processes: whether it is there cannot be told.
    #[error("{0}, or it is another user's and hidden. {remedy}", remedy = REMEDY)]
    NotVisible(String, Failure),
    /// More than one is.
    #[error("{message}")]
    Ambiguous {
        /// What to do about it.
        message: String,
        /// Those that may be meant.
        candidates: Vec<Candidate>,
    },
    /// The agent is alone in its pid namespace.
    #[error(
        "the agent runs in its own pid namespace and sees no process but itself: it was started without --target.\n\
         Start it as: kubectl debug -q -i POD --image=IMAGE --target=CONTAINER -- agent {0}"
    )]
    Alone(String),
    /// No other process is visible, and proc(5) hides those of other users.
    #[error("the processes of other users are not visible. {remedy}", remedy = REMEDY)]
    Hidden(Failure),
    /// The processes could not be listed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// The shortest part of a container ID that is taken for it.
const SHORTEST_ID: usize = 12;

/// Finds the process that `selector` names; `command` is for the advice in errors.
///
/// Without any name it is PID 1 of the pid namespace, unless that is the agent or
/// the pod's pause process; then it is the only other root of a process tree.
///
/// # Errors
///
/// When there is no such process, or more than one.
pub fn find(run: &Run, selector: &Selector, command: &str) -> Result<u32, TargetError> {
    if let Some(pid) = selector.pid {
        return match run.process(pid).and_then(|process| process.stat(&mut Vec::with_capacity(1024))) {
            Ok(_) => Ok(pid),
            Err(failure) if failure.is_exited() || failure.is_not_found() => Err(not_found(run, &pid.to_string())),
            Err(failure) if failure.is_denied() && run.hidden().is_some() => Err(not_found(run, &pid.to_string())),
            Err(failure) => Err(failure.into()),
        };
    }
    if let Some(name) = &selector.name {
        let found = candidates(run, |c, _| c.name.to_bytes() == name.as_bytes() || c.name.as_str() == name)?;
        return roots_of(run, found, &format!("named {name:?}"));
    }
    if let Some(id) = &selector.container {
        if id.len() < SHORTEST_ID || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            let message = format!("a container ID has 64 hex digits, of which at least {SHORTEST_ID} must be given");
            return Err(TargetError::NotFound(message));
        }
        let found = candidates(run, |c, _| c.container_id.as_deref().is_some_and(|own| own.starts_with(id.as_str())))?;
        return roots_of(run, found, &format!("in container {id}"));
    }
    by_default(run, command)
}

fn by_default(run: &Run, command: &str) -> Result<u32, TargetError> {
    let ours = if run.is_live() { Some(own::pid()) } else { None };
    if ours != Some(1)
        && let Ok(process) = run.process(1)
        && let Ok(stat) = process.stat(&mut Vec::with_capacity(1024))
        && !is_pause(&process, &stat.name)
    {
        return Ok(1);
    }
    let found = candidates(run, |_, is_root| is_root)?;
    match &found[..] {
        [only] => Ok(only.pid),
        [] => Err(run.hidden().map_or_else(|| TargetError::Alone(command.to_owned()), TargetError::Hidden)),
        _ => Err(TargetError::Ambiguous {
            message: "more than one container is visible: choose with --pid, --name or --container".to_owned(),
            candidates: found,
        }),
    }
}

/// There is no process `which`, or we may not see that there is.
fn not_found(run: &Run, which: &str) -> TargetError {
    let words = format!("there is no process {which} in this pid namespace");
    match run.hidden() {
        Some(hidden) => TargetError::NotVisible(words, hidden),
        None => TargetError::NotFound(words),
    }
}

/// The process that holds a pod's namespaces.
fn is_pause(process: &Process<'_>, name: &[u8]) -> bool {
    if name != b"pause" {
        return false;
    }
    let mut arguments = Vec::new();
    // Its arguments are just its own path: `/pause` or `/usr/bin/pod`.
    process.read_piece("cmdline", &mut arguments).is_err() || arguments.iter().filter(|b| **b == 0).count() <= 2
}

/// All processes but the agent's own and pause that `keep` keeps, by pid. `keep`
/// is told whether the process is the root of a tree.
fn candidates(run: &Run, keep: impl Fn(&Candidate, bool) -> bool) -> Result<Vec<Candidate>, TargetError> {
    let mut buffer = Vec::with_capacity(4096);
    let mut found = Vec::new();
    let own_pid = run.is_live().then(own::pid);
    for pid in run.pids()? {
        let Ok(process) = run.process(pid) else { continue };
        let Ok(stat) = process.stat(&mut buffer) else { continue };
        if Some(pid) == own_pid || is_pause(&process, &stat.name) || stat.is_kernel_thread() {
            continue;
        }
        let container_id = process
            .read_piece("cgroup", &mut buffer)
            .ok()
            .and_then(|()| parse::container_id(&buffer))
            .map(str::to_owned);
        let candidate = Candidate { pid, name: Text::from_bytes(&stat.name), container_id };
        if keep(&candidate, stat.ppid == 0) {
            found.push(candidate);
        }
    }
    Ok(found)
}

/// The one process of `found` that is not a descendant of another one of them.
fn roots_of(run: &Run, found: Vec<Candidate>, which: &str) -> Result<u32, TargetError> {
    let mut buffer = Vec::with_capacity(1024);
    let is_below = |mut pid: u32, buffer: &mut Vec<u8>| {
        // A parent chain is short; the bound is for one that changes meanwhile.
        for _ in 0..64 {
            let Ok(stat) = run.process(pid).and_then(|process| process.stat(buffer)) else { return false };
            if stat.ppid == 0 {
                return false;
            }
            if found.iter().any(|candidate| candidate.pid == stat.ppid) {
                return true;
            }
            pid = stat.ppid;
        }
        false
    };
    let roots: Vec<&Candidate> = found.iter().filter(|candidate| !is_below(candidate.pid, &mut buffer)).collect();
    match roots[..] {
        [only] => Ok(only.pid),
        [] => Err(not_found(run, which)),
        _ => Err(TargetError::Ambiguous {
            message: format!("more than one process {which}: choose with --pid"),
            candidates: roots.into_iter().cloned().collect(),
        }),
    }
}
