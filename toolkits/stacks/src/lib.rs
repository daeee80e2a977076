//! What the agent can see of threads: `stacks`, `profile`.

pub mod code;
pub mod frame;
mod glimpse;
mod go;
pub mod locks;
pub mod look;
pub mod profile;
pub mod stacks;
pub mod unwind;
pub mod wait;

use agent_system::{Command, command};

/// The commands of this toolkit.
pub const COMMANDS: &[Command] = &[command::<stacks::Stacks>(), command::<profile::Profile>()];
