//! The bundle: all that one command has seen, in one file that stands as evidence.
//!
//! It is a tar archive in zstd. Each file is a frame of its own that is written as soon as it is made, so a bundle that is
//! cut off at any point opens and has all that was made before. Owner, time and mode are fixed and the order is that in
//! which files are made: equal content is equal bytes.
//!
//! | file | what |
//! | --- | --- |
//! | `open.json` | who has begun what: written before anything is looked at |
//! | `scenario.json` | of `run`: the scenario, its parameters and planned steps |
//! | `artifacts/NNN-NAME.json` | an envelope |
//! | `findings.json` | of `run`: its envelope, with references to the artifacts |
//! | `redaction.json` | how much is shown, and what was removed of all of it |
//! | `access.ndjson` | each file, process and socket that was touched |
//! | `audit.ndjson` | the signed chain of what was done |
//! | `so-far/NNN-audit.ndjson`, `so-far/NNN-access.ndjson` | of a command that lasts: what both had by then, since the piece before |
//! | `manifest.json` | the last: path, size and SHA-256 of each, and what the audit comes to |
//!
//! Bundles come from strangers: reading is bounded, follows nothing, and tells what is wrong.

mod frame;
mod read;
mod shape;
mod write;

pub use frame::archive;
pub use read::{Bundle, Entry, Fault, Problem, make_plain, read};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use shape::misfit;
pub use write::{Writer, artifact_name, artifact_path, is_piece, piece_path};

/// The `schema` of a manifest.
pub const SCHEMA: &str = "agent.bundle/1";

/// The first file of a bundle.
pub const OPEN: &str = "open.json";

/// The scenario, its parameters and planned steps.
pub const SCENARIO: &str = "scenario.json";

/// The envelope of `run`.
pub const FINDINGS: &str = "findings.json";

/// What was removed.
pub const REDACTION: &str = "redaction.json";

/// What was touched.
pub const ACCESS: &str = "access.ndjson";

/// What was done.
pub const AUDIT: &str = "audit.ndjson";

/// The last file of a bundle.
pub const MANIFEST: &str = "manifest.json";

/// One file, as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listed {
    /// Its path in the bundle.
    #[schemars(extend("x-class" = "word"))]
    pub path: String,
    /// Its media type.
    #[schemars(extend("x-class" = "word"))]
    pub media_type: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, in hex.
    #[schemars(extend("x-class" = "id"))]
    pub sha256: String,
}

/// SHA-256 of `bytes`, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
