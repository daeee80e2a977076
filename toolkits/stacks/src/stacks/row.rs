//! The rows of `stacks`, and its totals.

use std::collections::BTreeMap;

use agent_model::{Hex, Text};
use schemars::JsonSchema;
use serde::Serialize;

use crate::frame::Frame;
use crate::locks::{Contended, Finding};
use crate::wait::Wait;

/// Threads that do the same thing at the same place.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["frames.function", "state", "system_call"], "x-life" = ["frames", "threads", "kernel_frames"]))]
pub struct Row {
    /// How many threads.
    #[schemars(extend("x-column" = "COUNT"))]
    pub count: u64,
    /// `running`, `sleeping`, `disk_sleep`, `stopped`, …: as in `ps`.
    #[schemars(extend("x-column" = "STATE"))]
    #[schemars(extend("x-class" = "word"))]
    pub state: &'static str,
    /// The system call that they wait in; absent outside of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SYSTEM CALL"))]
    #[schemars(extend("x-class" = "word"))]
    pub system_call: Option<Text>,
    /// The threads, by thread ID.
    #[schemars(extend("x-column" = "THREADS"))]
    pub threads: Vec<Thread>,
    /// How the stack was read: `no_stop`, `stopped`, or `syscall_only`, without any.
    #[schemars(extend("x-column" = "METHOD"))]
    #[schemars(extend("x-class" = "word"))]
    pub method: &'static str,
    /// Whether it reaches the outermost frame, with no frame guessed.
    #[schemars(extend("x-column" = "COMPLETE"))]
    pub complete: bool,
    /// Why there are no more frames: `root`, `truncated`, `needs_register`,
    /// `no_unwind_info`, `not_followed` (so much code without it that no more is looked through), `malformed_unwind_info`, `not_code`, `unreadable_stack`,
    /// `no_progress`, `went_on` (the thread, before the rest was read), `not_copied` (the rest, while it was held); absent
    /// without a stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub end: Option<&'static str>,
    /// The frames, innermost first.
    #[schemars(extend("x-lines" = true))]
    pub frames: Vec<Frame>,
    /// The functions of the kernel that it is in, innermost first, as
    /// `name+offset/size`; only with `--kernel`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-class" = "word"))]
    pub kernel_frames: Vec<Text>,
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Thread {
    /// Thread ID.
    #[schemars(extend("x-column" = "TID"))]
    pub tid: u32,
    /// Its name (`comm`).
    #[schemars(extend("x-column" = "NAME"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// The arguments of the system call, as its six registers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<[Hex; 6]>,
    /// The kernel function that it sleeps in (`wchan`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub wait_channel: Option<Text>,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Box<Wait>>,
    /// The same in words, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "WAITS FOR"))]
    #[schemars(extend("x-class" = "word"))]
    pub waits_for: Option<Text>,
}

/// Totals over the threads.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// Threads seen.
    pub threads: u64,
    /// Threads with a complete stack.
    pub complete: u64,
    /// Threads by how their stack was read.
    pub methods: BTreeMap<&'static str, u64>,
    /// Threads by the system call that they wait in.
    pub system_calls: BTreeMap<String, u64>,
    /// The locks that are waited for, by address; only with `--locks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locks: Option<Vec<Contended>>,
    /// What is wrong: deadlocks, by the lowest thread ID in each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}
