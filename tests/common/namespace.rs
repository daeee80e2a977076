//! A pid namespace with nothing in it but a target, so that a whole process table is known and holds still.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{AGENT, Child, SOON, has_tool, is_root, plain, stop, wait_for};

/// A pid namespace whose PID 1 is a target program, with a proc(5) of its own.
pub(crate) struct Namespace {
    /// unshare(1), the parent of PID 1: when it is killed, all in the namespace are.
    pub(crate) target: Child,
    /// PID 1, by its number out here.
    pub(crate) init: u32,
}

impl Namespace {
    /// Why there can be none; `None` when there can.
    pub(crate) fn lacks() -> Option<&'static str> {
        if !is_root() {
            Some("a pid namespace needs root")
        } else if !has_tool("unshare") || !has_tool("nsenter") || !has_tool("setpriv") {
            Some("unshare, nsenter or setpriv (util-linux) is not installed")
        } else {
            None
        }
    }

    /// Starts the program of tests/targets called `name` as PID 1, and waits until it is ready.
    pub(crate) fn of<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]);
        command.arg(agent_targets::build(name, &["-O2"])).args(args);
        let target = Child::ready(&mut command);
        let unshare = target.pid();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let init = wait_for("PID 1 of the namespace", SOON, || fs::read_to_string(&children).ok()?.trim().parse().ok());
        Self { target, init }
    }

    /// A command that is run in the namespace, before the program and its arguments.
    pub(crate) fn enter(&self) -> Command {
        let mut command = plain("nsenter");
        command.args(["--target", &self.init.to_string(), "--pid", "--mount", "--"]);
        command
    }

    /// The agent in the namespace.
    pub(crate) fn agent(&self) -> Command {
        let mut command = self.enter();
        command.arg(AGENT);
        command
    }

    /// The proc(5) of the namespace, as it can be reached from out here.
    pub(crate) fn proc(&self) -> PathBuf {
        format!("/proc/{}/root/proc", self.init).into()
    }

    /// Stops every process of it: from now on nothing in it changes.
    pub(crate) fn stop(&self) {
        let mut open = vec![self.init];
        while let Some(pid) = open.pop() {
            stop(pid);
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            open.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
}
