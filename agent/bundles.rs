//! Bundles: kept while a command looks, and read again anywhere.

mod diff;
mod keeping;
pub(crate) mod read;
mod report;
mod verify;

use agent_scenario::diff::Schemas;
use agent_system::{Command, command};

/// The schemas of our own commands.
pub(crate) fn schemas() -> Schemas {
    Schemas(Some(|name| {
        let command = crate::commands().find(|command| command.schema_name() == name)?;
        Some((command.schema)().to_value())
    }))
}

/// The commands about bundles.
pub(crate) const COMMANDS: &[Command] =
    &[command::<verify::BundleFile>(), command::<diff::Diff>(), command::<report::Report>()];

pub(crate) use keeping::{Bundle, open};
