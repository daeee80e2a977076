//! Scenarios on the command line: `run`, `plan`, `scenarios`, `judge`.

mod host;
mod judge;
mod list;
mod page;
mod plan;
mod run;
mod source;

use agent_system::{Command, command};

/// The name of the command that performs others.
pub(crate) const JUDGE: &str = <judge::Judge as agent_system::Collector>::NAME;

/// The command that performs one.
pub(crate) const RUN: &str = <run::RunScenario as agent_system::Collector>::NAME;

/// How an option that takes a scenario calls it.
pub(crate) const NAME_OR_FILE: &str = "NAME|FILE.yaml";

/// The commands about scenarios.
pub(crate) const COMMANDS: &[Command] = &[
    command::<run::RunScenario>(),
    command::<plan::PlanScenario>(),
    command::<list::List>(),
    command::<judge::Judge>(),
];
