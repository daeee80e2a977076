//! Bundles: kept while a command looks, and read again anywhere.

mod diff;
mod fetch;
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
        Some(crate::schemas::of(command).to_value())
    }))
}

/// The commands about bundles.
pub(crate) const COMMANDS: &[Command] = &[
    command::<verify::BundleFile>(),
    command::<diff::Diff>(),
    command::<report::Report>(),
    command::<fetch::Fetch>(),
    command::<fetch::Tar>(),
];

pub(crate) use fetch::as_tar;
pub(crate) use keeping::{Bundle, Opened, open};

/// Whether `command` reads what is kept.
pub(crate) fn reads_kept(command: &Command) -> bool {
    command.name == crate::scenarios::JUDGE || COMMANDS.iter().any(|own| own.name == command.name)
}

/// Whether the command `name` takes out what is kept: in a session that is held this is recorded, and never refused for what
/// others have used up.
pub(crate) fn brings_out(name: &str) -> bool {
    use agent_system::Collector as _;
    [fetch::Fetch::NAME, fetch::Tar::NAME].contains(&name)
}
