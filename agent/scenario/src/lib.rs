//! Scripted captures: what to collect, what to conclude from it, and what is kept as evidence.
//!
//! It knows envelopes by their JSON alone, and no toolkit. It does no I/O: who runs a scenario
//! hands in how a command is performed and how time passes ([`Host`]).

pub mod built_in;
pub mod bundle;
mod cel;
pub mod diff;
mod difference;
pub mod evidence;
pub mod format;
mod judge;
mod near;
pub mod report;
mod run;
mod scenario;
mod template;
mod time;

pub use cel::SyntaxError;
pub use evidence::{Artifact, Evidence, InBundle, Origin, Step, StepEnd};
pub use format::{FormatError, schema};
pub use judge::judge;
pub use run::{Failed, Host, Progress, run};
pub use scenario::{Action, Condition, Looks, Plan, PlannedStep, Scenario};
