//! `status` and `end`: how the session of a hold stands, and its end.

use std::sync::OnceLock;

use agent_model::{Gathered, Listing};
use agent_system::collector::{NoOptions, TargetUse};
use agent_system::{Cause, Collector, Command, Failure, Run};

use super::wire::{Past, Standing};

/// `status`, `end`.
pub(crate) const COMMANDS: &[Command] = &[agent_system::command::<State>(), agent_system::command::<End>()];

/// The command that ends a session.
pub(super) const END: &str = End::NAME;

/// What the hold has said when this command joined it.
static SAID: OnceLock<(Standing, Vec<Past>)> = OnceLock::new();

/// Keeps what the hold has said.
pub(super) fn keep(standing: Standing, past: Vec<Past>) {
    let _ = SAID.set((standing, past));
}

/// Whether `command` is about the session and not about the target.
pub(super) fn is_about_session(command: &str) -> bool {
    COMMANDS.iter().any(|own| own.name == command)
}

/// Whether `command` may begin whatever others have used up.
pub(super) fn always_may(command: &str) -> bool {
    is_about_session(command) || crate::bundles::brings_out(command)
}

/// Whether `command` needs a hold.
pub(crate) fn has_standing(command: &Command) -> bool {
    is_about_session(command.name)
}

/// The collector of `status`.
pub(crate) struct State;

/// The collector of `end`.
pub(crate) struct End;

fn said() -> Result<Gathered<Listing<Past, Standing>>, Failure> {
    let none = Cause::Unsupported("no session is held in this container: each command is one of its own");
    let (summary, rows) = SAID.get().cloned().ok_or_else(|| Failure::new("hold", none))?;
    Ok(Gathered::complete(Listing { rows, summary }))
}

impl Collector for State {
    const NAME: &'static str = "status";
    const ABOUT: &'static str = "How the session of the hold stands: time left, what was used, who ran what";
    const MANUAL: &'static str = "Rows are the last commands of the session, 100 at most, the newest last.";
    const TARGET: TargetUse = TargetUse::None;
    type Options = NoOptions;
    type Data = Listing<Past, Standing>;

    fn collect(_: &Run, _: &NoOptions) -> Result<Gathered<Self::Data>, Failure> {
        said()
    }
}

impl Collector for End {
    const NAME: &'static str = "end";
    const ABOUT: &'static str = "End the session of the hold: what runs in it is cut off, and its audit is closed";
    const MANUAL: &'static str = "The answer is that of status, as it was before the end.";
    const TARGET: TargetUse = TargetUse::None;
    type Options = NoOptions;
    type Data = Listing<Past, Standing>;

    fn collect(_: &Run, _: &NoOptions) -> Result<Gathered<Self::Data>, Failure> {
        said()
    }
}
