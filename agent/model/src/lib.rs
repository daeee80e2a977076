//! The words of the agent: envelope, gap, target. No I/O.
//!
//! Every other crate speaks in these types, and every consumer of the JSON reads
//! them. What a value looks like outside is decided here, once:
//!
//! * [`Text`] is how bytes from the kernel or the target become a string,
//! * [`Hex`] and [`Wide`] are how 64-bit words become one,
//! * [`Gap`] is what could not be seen, and why,
//! * [`Finding`] is what is concluded from what was seen,
//! * [`Data`] is what a collector answers,
//! * [`Envelope`] is what is printed, and [`digest`] what makes two answers equal.

pub mod canonical;
pub mod data;
pub mod envelope;
pub mod finding;
pub mod gap;
pub mod json;
mod kept;
pub mod text;
pub mod values;

pub use canonical::{Seal, digest, seal, write_json};
pub use data::{Data, Gathered, Listing, Noted, Shown};
pub use envelope::{AgentInfo, Cost, Envelope, Observed, Redaction, RedactionLevel, SessionInfo, Target};
pub use finding::{Finding, Level, Pointer, Unseen};
pub use gap::{Gap, Need, Reason};
pub use json::{Eye, Json, Place};
pub use kept::Kept;
pub use text::Text;
pub use values::{Hex, Wide};

/// The extension key by which a field names its table column (see [`column`]).
///
/// A field of a row appears in tables if its schema carries this key: the value
/// is the heading. The table is thereby declared where the field is, and nowhere
/// else: `#[schemars(extend("x-column" = "PID"))]`.
pub const COLUMN: &str = "x-column";

/// The extension key by which a type or a field says what its strings are, so that
/// redaction knows what to do with them: `#[schemars(extend("x-class" = "path"))]`.
/// `word`, `id`, `text`, `path`, `name`, `host`, `url`, `argv` and `secret` are the classes.
pub const CLASS: &str = "x-class";

/// The extension key of a row's type: the members that say which one it is, for as long as its process lives.
/// `#[schemars(extend("x-key" = ["pid", "start_ticks"]))]`; of a list below a row, `frames.function`.
pub const KEY: &str = "x-key";

/// The members that say what a row is in another life of the same program, or in another pod; by default those of
/// [`KEY`].
pub const ALIKE: &str = "x-alike";

/// The members of a row that mean nothing in another life: addresses, inodes, times.
pub const LIFE: &str = "x-life";

/// The members of a row that name the two ends of a connection: local address and port, remote address and port. In another
/// life, or in another pod, the port that was only lent to one of them for this connection (ip(7), ip_local_port_range) and our own
/// address mean nothing: it is known by the port that is listened on.
pub const ENDS: &str = "x-ends";

/// The extension key that names the field by whose value a column is indented,
/// so that a table can draw a tree: `#[schemars(extend("x-tree" = "depth"))]`.
pub const TREE: &str = "x-tree";

/// The extension key of an object in a row whose columns are the row's: `#[schemars(extend("x-inline" = true))]`.
pub const INLINE: &str = "x-inline";

/// The extension key that names the field which says the unit of a column (`bytes`, `us`):
/// `#[schemars(extend("x-unit" = "unit"))]`.
pub const UNIT: &str = "x-unit";

/// The schema extension that names the fields which a column shows of an object, or of
/// each object in a list: `#[schemars(extend("x-items" = ["state", "port"]))]`. Without
/// it, of a list, those that are columns themselves.
pub const ITEMS: &str = "x-items";

/// The extension key of a field of a row that is a list: it is shown as lines below
/// the row, each with the columns of its own items.
pub const LINES: &str = "x-lines";
