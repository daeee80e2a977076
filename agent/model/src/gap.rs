//! What could not be seen, and why.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::Text;

/// Why a part of the answer is missing. Closed per schema version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The kernel refused: [`Gap::needs`] names what is missing.
    PermissionDenied,
    /// The thing is not there, though its owner is.
    NotFound,
    /// The process or thread ended while it was looked at.
    Exited,
    /// A part was read, the rest could not be, or changed meanwhile.
    Incomplete,
    /// The time for it was over.
    Timeout,
    /// A limit of the agent was reached.
    LimitReached,
    /// The session does not allow it.
    RefusedByPolicy,
    /// This kernel, this build or this source of data cannot give it.
    Unsupported,
    /// It is there, but breaks its own format.
    Malformed,
}

/// One key that would have opened what was denied. Any one of a gap's needs is
/// enough, unless [`Gap::detail`] says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// The target's uid and gid as our own.
    SameUid,
    /// A capability, by its name in capabilities(7).
    Capability(&'static str),
    /// A target that is dumpable (prctl(2), PR_SET_DUMPABLE).
    Dumpable,
    /// A place in the target's user namespace, or in an ancestor of it.
    UserNamespace,
    /// A weaker `kernel.yama.ptrace_scope`.
    YamaScope,
    /// A seccomp profile that lets the system call through.
    Seccomp,
    /// An LSM policy (AppArmor, SELinux) that lets it through.
    Lsm,
    /// A mount of proc(5) without `hidepid`, or membership in its `gid`.
    HidePid,
}

impl Need {
    /// The word that stands for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SameUid => "same_uid",
            Self::Capability(name) => name,
            Self::Dumpable => "dumpable",
            Self::UserNamespace => "user_namespace",
            Self::YamaScope => "yama_ptrace_scope",
            Self::Seccomp => "seccomp",
            Self::Lsm => "lsm",
            Self::HidePid => "hidepid",
        }
    }
}

impl Serialize for Need {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for Need {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Need".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "x-class": "word", "description": "A key that would open it: same_uid, CAP_…, dumpable, …"})
    }
}

/// A part of the answer that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Gap {
    /// Where in `data` the part would stand, as a JSON Pointer (RFC 6901). The
    /// member it names may be absent.
    #[schemars(extend("x-class" = "id"))]
    pub at: String,
    /// The file, or the system call, through which it was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub path: Option<Text>,
    /// Why it is missing.
    pub reason: Reason,
    /// The error of the system call, by its name in errno(3).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub errno: Option<String>,
    /// Any one of these would have opened it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Need>,
    /// What a person can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub remedy: Option<String>,
    /// More, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "text"))]
    pub detail: Option<String>,
}

impl Gap {
    /// A gap at `at`, a JSON Pointer, for `reason`.
    pub fn new(at: impl Into<String>, reason: Reason) -> Self {
        Self { at: at.into(), path: None, reason, errno: None, needs: Vec::new(), remedy: None, detail: None }
    }

    /// The same gap with words to it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same gap with a remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same gap with the file or system call it is about.
    #[must_use]
    pub fn path(mut self, path: impl Into<Text>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// The same gap, with `prefix` before its place.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        self.at.insert_str(0, prefix);
        self
    }
}
