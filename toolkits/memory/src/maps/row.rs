//! A mapping as it is printed: the one place where its fields are declared.

use std::borrow::Cow;
use std::fmt;

use agent_model::{Hex, Text, Wide};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};

use super::change::Growth;
use super::figures::Usage;
use super::flags::Flags;
use super::kind::{CHECKS, Failed};
use super::store::{Mapping, Shared, Store};

/// One mapping.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(extend(
    "x-key" = ["start"],
    "x-alike" = ["kind", "path", "name", "permissions", "offset"],
    "x-life" = ["end", "tids", "device", "inode"]
))]
pub struct Row<'a> {
    /// Its first address (AVMA).
    #[schemars(extend("x-column" = "START"))]
    pub start: Hex,
    /// The first address after it.
    pub end: Hex,
    /// How much address space it takes; of this, `rss_bytes` is in memory.
    #[schemars(extend("x-column" = "SIZE"))]
    pub size_bytes: u64,
    /// As proc_pid_maps(5) writes them: read, write, execute, and `s` for shared
    /// or `p` for private (copied when written to).
    #[schemars(extend("x-column" = "PERM"))]
    #[schemars(extend("x-class" = "word"))]
    pub permissions: &'static str,
    /// What it is for: `code`, `data` and `rodata` of a module (a file that is also
    /// mapped executable), any other `file`, `heap` (brk(2)), `stack` (the main
    /// thread's), `thread_stack`, `jit` (executable and in no file), `guard`
    /// (inaccessible, at most 1 MiB), `reserved` (inaccessible, larger, or of a
    /// file), `memfd`, `shared_memory`, `device`, `anon_inode`, `vdso`, `vvar`,
    /// `vsyscall`, `special` (another of the kernel's), `anonymous`.
    #[schemars(extend("x-column" = "KIND"))]
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// The threads whose stack pointers lie in it, sorted; absent where none is
    /// known to. Several share a large mapping where a runtime brings its own
    /// stacks.
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    #[schemars(extend("x-column" = "TIDS"))]
    pub tids: &'a [u32],
    /// What of it is in memory.
    #[serde(flatten)]
    pub usage: Usage,
    /// By how much it has grown since the look before; with --watch, and absent of one
    /// that was not there then.
    #[serde(flatten)]
    pub growth: Option<Growth>,
    /// The size of its pages as the kernel sees them (`KernelPageSize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_page_bytes: Option<u64>,
    /// The size of its pages as the processor sees them (`MMUPageSize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmu_page_bytes: Option<u64>,
    /// Whether it may get transparent huge pages (`THPeligible`, Linux 5.0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thp_eligible: Option<bool>,
    /// Its memory protection key (pkeys(7)), where the processor has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection_key: Option<u64>,
    /// `VmFlags`, as words; a flag of a later kernel is `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_flags: Option<Flags>,
    /// Which checks of `summary.hardening` it fails; absent where none.
    #[serde(skip_serializing_if = "Failed::is_empty")]
    #[schemars(extend("x-column" = "HARDENING"))]
    pub hardening: Failed,
    /// The policy by which its memory is placed (set_mempolicy(2)); with --numa.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_policy: Option<&'a Text>,
    /// What of it is in memory, by node; with --numa.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_nodes: Option<Vec<Node>>,
    /// Where in the file it begins; absent where no file is mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<Hex>,
    /// The device of the file, `MAJOR:MINOR`, in decimal as in mountinfo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// The inode of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<Wide>,
    /// The name of memory without a path: the kernel's (`heap`, `stack`, `vdso`),
    /// or what the program has set (prctl(2), PR_SET_VMA_ANON_NAME).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "NAME"))]
    pub name: Option<&'a Shared>,
    /// Whether the file has been deleted, or replaced by another of its name;
    /// absent where no file is mapped. memfds and shared anonymous memory never
    /// had a name, and count as deleted as the kernel has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// The path of the file in the target's own mount namespace, without the
    /// kernel's mark of deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PATH"))]
    pub path: Option<&'a Shared>,
}

/// Memory on a node of a NUMA machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Node {
    /// The number of the node.
    pub node: u32,
    /// What is in its memory.
    pub rss_bytes: u64,
}

/// The number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device(pub(crate) (u32, u32));

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.0, self.0.1)
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Device {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9]+:[0-9]+$"})
    }
}

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl Serialize for Failed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.checks().map(|at| CHECKS[at].id))
    }
}

/// Both are lists of words.
macro_rules! words {
    ($type:ty, $name:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "array", "items": {"type": "string", "x-class": "word"}})
            }
        }
    };
}
words!(Flags, "Flags");
words!(Failed, "Failed");

impl<'a> Row<'a> {
    /// `mapping`, which refers to `store`.
    pub(crate) fn of(mapping: &Mapping, store: &'a Store) -> Self {
        let figures = mapping.figures(store);
        let file = mapping.file(store);
        let numa = mapping.numa(store);
        let node = |(node, rss_bytes): &(u32, u64)| Node { node: *node, rss_bytes: *rss_bytes };
        Self {
            start: Hex(mapping.start),
            end: Hex(mapping.end),
            size_bytes: mapping.size_bytes(),
            permissions: mapping.permissions.as_str(),
            kind: mapping.kind.as_str(),
            tids: mapping.tids(store),
            usage: Usage::from(&figures),
            growth: mapping.growth.as_deref().copied(),
            kernel_page_bytes: figures.kernel_page_bytes(),
            mmu_page_bytes: figures.mmu_page_bytes(),
            thp_eligible: figures.thp_eligible(),
            protection_key: figures.protection_key(),
            vm_flags: mapping.flags,
            hardening: mapping.failed,
            numa_policy: numa.map(|numa| &numa.policy),
            numa_nodes: numa.map(|numa| numa.nodes.iter().map(node).collect()),
            offset: file.map(|_| Hex(mapping.offset)),
            device: file.map(|file| Device(file.device)),
            inode: file.map(|file| Wide(file.inode)),
            name: mapping.name(store),
            deleted: file.map(|file| file.deleted),
            path: file.and_then(|file| file.path.as_ref()),
        }
    }
}

impl Serialize for Mapping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let store = self.store.get().ok_or_else(|| S::Error::custom("a mapping before all were read"))?;
        Row::of(self, store).serialize(serializer)
    }
}

impl JsonSchema for Mapping {
    fn schema_name() -> Cow<'static, str> {
        "Row".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Row::json_schema(generator)
    }
}
