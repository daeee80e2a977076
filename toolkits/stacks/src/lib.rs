//! What the agent can see of threads: `stacks`.

pub mod code;
pub mod look;
pub mod stacks;
pub mod unwind;

use agent_system::{Command, command};

/// The commands of this toolkit.
pub const COMMANDS: &[Command] = &[command::<stacks::Stacks>()];
