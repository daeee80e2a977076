//! What the agent can see of the network: `sockets`, `capture`.

pub mod capture;
pub mod sockets;

use agent_system::{Command, command};

/// The commands of this toolkit.
pub const COMMANDS: &[Command] = &[command::<sockets::Sockets>(), command::<capture::CapturePackets>()];
