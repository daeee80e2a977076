//! The program that holds sockets in a network namespace of its own.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::common::{AGENT, Answer, Child, compile_c, has_tool, json, row, skip};

/// A program that holds sockets in a network namespace of its own, and what it says of them.
pub(crate) struct Holder {
    pub(crate) child: Child,
    _directory: tempfile::TempDir,
}

impl Holder {
    /// Starts it; `None` where no network namespace can be made.
    pub(crate) fn start(test: &str, arguments: &[&str]) -> Option<Self> {
        if !tools(test, &["nsenter"]) {
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let program = compile_c(include_str!("holder.c"), &["-O1"]);
        let child = Child::ready(Command::new(program).arg(directory.path()).args(arguments));
        if child.truth.iter().any(|line| line["missing"] == "namespace") {
            skip(test, "no new network namespace");
            return None;
        }
        Some(Self { child, _directory: directory })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The beginning of a command that runs in its network namespace.
    pub(crate) fn enter(&self) -> Vec<String> {
        ["nsenter", "-t", &self.pid().to_string(), "-n", "--"].map(str::to_owned).to_vec()
    }

    /// The agent in its network namespace.
    pub(crate) fn inside(&self, arguments: &[&str]) -> Value {
        let pid = self.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(&self.enter()[1..]).arg(AGENT).args(["sockets", "--pid", &pid, "-o", "json"]).args(arguments);
        Answer::of(&mut command).json()
    }

    /// The agent in ours.
    pub(crate) fn outside(&self, arguments: &[&str]) -> Value {
        let pid = self.pid().to_string();
        json([&["sockets", "--pid", &pid], arguments].concat())
    }

    /// What it says of the socket `name`.
    pub(crate) fn said(&self, name: &str) -> &Value {
        self.child.said("name", name)
    }

    /// Our row of the socket `name`.
    pub(crate) fn row<'a>(&self, envelope: &'a Value, name: &str) -> &'a Value {
        row(envelope, "inode", self.said(name)["inode"].clone())
    }
}

/// Whether all of `names` are on PATH; otherwise `test` is skipped.
pub(crate) fn tools(test: &str, names: &[&str]) -> bool {
    let missing = names.iter().find(|name| !has_tool(name));
    if let Some(name) = missing {
        skip(test, &format!("no {name}"));
    }
    missing.is_none()
}

/// The owners of a row, as pid and descriptor.
pub(crate) fn owners(row: &Value) -> BTreeSet<(u64, u64)> {
    let list = row["owners"].as_array().unwrap_or_else(|| panic!("no owners in {row}"));
    list.iter().map(|owner| (owner["pid"].as_u64().expect("pid"), owner["fd"].as_u64().expect("fd"))).collect()
}
