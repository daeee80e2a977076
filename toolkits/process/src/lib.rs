//! What the agent can see of processes: `ps`, `fds`, `limits`, `access`.

pub mod ps;

use agent_system::{Command, command};

/// The commands of this toolkit.
pub const COMMANDS: &[Command] = &[command::<ps::Ps>()];
