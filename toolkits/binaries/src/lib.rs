//! What the agent can see of ELF files: modules, symbols, unwind tables

pub mod demangle;
pub mod elf;
pub mod hardening;
pub mod mapped;
pub mod modules;
pub mod packages;
pub mod provenance;

use agent_system::{Command, command};

/// The commands of this toolkit.
pub const COMMANDS: &[Command] = &[command::<modules::Modules>()];
