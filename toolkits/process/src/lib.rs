//! What the agent can see of processes: `ps`, `fds`, `limits`, `env`, `files`, `access`.

pub mod access;
pub mod environment;
pub mod fds;
pub mod files;
pub mod limits;
pub mod ps;

use agent_system::{Command, command};

/// The commands of this toolkit.
pub const COMMANDS: &[Command] = &[
    command::<ps::Ps>(),
    command::<fds::Fds>(),
    command::<limits::Limits>(),
    command::<environment::Environment>(),
    command::<files::Files>(),
    command::<access::AccessCheck>(),
];
