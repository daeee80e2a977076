//! What the agent can see of memory: `maps`.

pub mod maps;

use agent_system::{Command, command};

/// The commands of this toolkit.
pub const COMMANDS: &[Command] = &[command::<maps::Maps>()];
