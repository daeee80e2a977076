//! Scripted captures: what to collect, what to conclude from it, and what is kept as evidence.
//!
//! It knows envelopes by their JSON alone, and no toolkit. It does no I/O: who runs a scenario
//! hands in how a command is performed, how time passes, and where files are.

pub mod evidence;

pub use evidence::{Artifact, Evidence, Step, StepEnd};
