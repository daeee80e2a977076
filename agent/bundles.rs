//! Bundles: kept while a command looks, and read again anywhere.

mod keeping;
pub(crate) mod read;
mod verify;

use agent_system::{Command, command};

/// The commands about bundles.
pub(crate) const COMMANDS: &[Command] = &[command::<verify::BundleFile>()];

pub(crate) use keeping::{Bundle, open};
