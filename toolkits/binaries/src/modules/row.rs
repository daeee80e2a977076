//! What is said of one module, and of all of them.

use agent_model::{Hex, Text, Wide};
use schemars::JsonSchema;
use serde::Serialize;

use super::ask::{Located, Named};
use super::compare::Comparison;
use super::verify::Verified;
use crate::hardening::Hardening;
use crate::packages::{OsRelease, Package};
use crate::provenance::cargo::Crate;
use crate::provenance::go::GoBuild;
use crate::provenance::runtime::Runtime;

/// One ELF file. What it says about itself is absent, with a gap, where it could
/// not be read.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["path"], "x-life" = ["address", "pids", "device", "inode"]))]
pub struct Row {
    /// Its path in the target's mount namespace.
    #[schemars(extend("x-column" = "PATH"))]
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// The lowest address that it is mapped at (AVMA), in the first of its
    /// processes.
    #[schemars(extend("x-column" = "ADDRESS"))]
    pub address: Hex,
    /// The processes that have it mapped: with `--all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Vec<u32>>,
    /// GNU build ID, in hex; absent if it was linked without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "BUILD ID"))]
    #[schemars(extend("x-class" = "id"))]
    pub build_id: Option<String>,
    /// Go's own build ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub go_build_id: Option<Text>,
    /// `pie`, `static_pie`, `executable`, `static`, `shared`, `relocatable`, `core`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "TYPE"))]
    #[schemars(extend("x-class" = "word"))]
    pub kind: Option<&'static str>,
    /// Instruction set, as ELF names it: `x86_64`, `aarch64`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub machine: Option<String>,
    /// The dynamic loader that it asks for (PT_INTERP).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub interpreter: Option<Text>,
    /// The name that it is linked by (DT_SONAME).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub soname: Option<Text>,
    /// How it came to be mapped: `executable`, `interpreter` (the dynamic loader),
    /// `preload` (LD_PRELOAD or /etc/ld.so.preload), `needed` (by one of these,
    /// directly or not), `dlopen` (none of these: loaded after start). Absent
    /// where the executable is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "LOADED"))]
    #[schemars(extend("x-class" = "word"))]
    pub loaded: Option<&'static str>,
    /// The libraries that it asks for (DT_NEEDED), in its own order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed: Option<Vec<Needed>>,
    /// Where these are looked for first (DT_RPATH).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub rpath: Option<Text>,
    /// Where these are looked for (DT_RUNPATH).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub runpath: Option<Text>,
    /// The symbol versions that it requires (`.gnu.version_r`), in its own order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions_required: Option<Vec<Requirement>>,
    /// The symbol versions that it defines (`.gnu.version_d`), in its own order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub versions_defined: Option<Vec<Text>>,
    /// How many symbols it takes from other modules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported_symbols: Option<u64>,
    /// Whether it lacks a symbol table (`.symtab`). Not known for a module that was
    /// read from memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "STRIPPED"))]
    pub stripped: Option<bool>,
    /// What debug data it has or points to: any of `debug_info`, `debug_link`,
    /// `mini_debug_info`, `go_function_table`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub debug: Option<Vec<&'static str>>,
    /// The name of the file that holds its debug data (`.gnu_debuglink`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub debug_link: Option<Text>,
    /// The file with its debug data, where the target has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug_file: Option<DebugFile>,
    /// What compilers and linkers wrote into it (`.comment`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub compilers: Option<Vec<Text>>,
    /// Hardening.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardening: Option<Hardening>,
    /// Go's build information.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub go: Option<GoBuild>,
    /// The crates that cargo-auditable wrote into it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crates: Option<Vec<Crate>>,
    /// The JSON of `.note.package`, as its distribution wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_note: Option<Text>,
    /// Well-known runtimes and libraries in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-column" = "RUNTIME"))]
    pub runtimes: Vec<Runtime>,
    /// The package that owns its file: with `--packages`. Absent where no database
    /// lists it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<Package>,
    /// Bytes of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SIZE"))]
    pub size_bytes: Option<u64>,
    /// SHA-256 of its file, in hex: with `--hash`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub sha256: Option<String>,
    /// Bytes of address space that it is mapped to.
    pub mapped_bytes: u64,
    /// Device of the file as `/proc/PID/maps` has it, `major:minor`.
    #[schemars(extend("x-class" = "id"))]
    pub device: String,
    /// Inode of the file, as `/proc/PID/maps` has it.
    pub inode: Wide,
    /// Whether the file that is mapped has no name any more.
    #[schemars(extend("x-column" = "DELETED"))]
    pub deleted: bool,
    /// Whether another file stands at its path now.
    #[schemars(extend("x-column" = "REPLACED"))]
    pub replaced: bool,
    /// Whether it is on another mount than the root directory: a volume, or memory
    /// (memfd_create(2)), and no part of the image. Absent where the mounts could
    /// not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "OUTSIDE"))]
    pub outside_image: Option<bool>,
    /// That mount's place, if it is on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub mount_point: Option<Text>,
    /// Its mappings that may be both written and run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub writable_code: Vec<Range>,
    /// Whether its code in memory is that of its file: with `--verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Its symbols that were asked for: with `--symbols`, by address and name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-lines" = true))]
    pub symbols: Option<Vec<Named>>,
    /// The addresses that were asked for and lie in it: with `--address`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-lines" = true))]
    pub addresses: Option<Vec<Located>>,
    /// Where the facts were read: `file` or `memory`; absent where they were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub source: Option<&'static str>,
}

/// A library that a module asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Needed {
    /// As it asks for it.
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// The mapped module that it got; absent where none has that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub path: Option<Text>,
}

/// Symbol versions that a module requires of a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Requirement {
    /// The library, as the module asks for it.
    #[schemars(extend("x-class" = "name"))]
    pub library: Text,
    /// The versions.
    #[schemars(extend("x-class" = "id"))]
    pub versions: Vec<Text>,
}

/// A file with debug data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DebugFile {
    /// Its path in the target's mount namespace.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// By which pointer it was found: `build_id` or `debug_link`.
    #[schemars(extend("x-class" = "word"))]
    pub found_by: &'static str,
    /// Whether it has the module's build ID; absent where one of them has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<bool>,
}

/// A range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Range {
    /// Its first address (AVMA).
    pub address: Hex,
    /// Its bytes.
    pub size_bytes: u64,
    /// The name that `/proc/PID/maps` gives it; absent for a nameless one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub name: Option<Text>,
}

/// Totals over the modules.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// ELF files.
    pub modules: u64,
    /// Files that are mapped and are no ELF files (archives, locales, data).
    pub other_files: u64,
    /// Processes that were looked at.
    pub processes: u64,
    /// Modules whose file was deleted or replaced: the code that runs is not the
    /// code on disk.
    pub deleted_or_replaced: u64,
    /// Modules that are no part of the image.
    pub outside_image: u64,
    /// Modules that LD_PRELOAD or /etc/ld.so.preload brought in.
    pub preloaded: u64,
    /// Modules that were loaded after start.
    pub loaded_later: u64,
    /// Modules whose code was changed in memory: with `--verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<u64>,
    /// Memory of the target that may be both written and run, and is no file's.
    pub writable_code: Vec<Range>,
    /// The distribution that the target's root directory is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_release: Option<OsRelease>,
    /// What differs from another capture: with `--compare`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}
