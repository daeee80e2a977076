//! Flags of system calls by name.

use std::borrow::Cow;

use rustix::fs::OFlags;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// Flags of open(2), serialized as [`open_flags`] names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags(pub u32);

impl Serialize for OpenFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        open_flags(self.0).serialize(serializer)
    }
}

impl JsonSchema for OpenFlags {
    fn schema_name() -> Cow<'static, str> {
        "OpenFlags".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "array", "items": {"type": "string", "x-class": "word"}})
    }
}

/// The flags of open(2) that are set in `flags` (as `fdinfo` has them), in lower
/// case and without the access mode; a bit without a name is left out, and so is
/// `O_LARGEFILE`, which says nothing on a 64-bit machine.
pub fn open_flags(flags: u32) -> Vec<&'static str> {
    const NAMES: [(OFlags, &str); 15] = [
        (OFlags::APPEND, "append"),
        (OFlags::ASYNC, "async"),
        (OFlags::CLOEXEC, "cloexec"),
        (OFlags::CREATE, "creat"),
        (OFlags::DIRECT, "direct"),
        (OFlags::DIRECTORY, "directory"),
        (OFlags::EXCL, "excl"),
        (OFlags::NOATIME, "noatime"),
        (OFlags::NOCTTY, "noctty"),
        (OFlags::NOFOLLOW, "nofollow"),
        (OFlags::NONBLOCK, "nonblock"),
        // O_SYNC and O_TMPFILE hold the bits of O_DSYNC and O_DIRECTORY.
        (OFlags::SYNC, "sync"),
        // Of asm-generic/fcntl.h: rustix takes it for O_SYNC.
        (OFlags::from_bits_retain(0o10_000), "dsync"),
        (OFlags::TMPFILE, "tmpfile"),
        (OFlags::TRUNC, "trunc"),
    ];
    let set = OFlags::from_bits_retain(flags);
    let has = |flag: OFlags| !flag.is_empty() && set.contains(flag);
    NAMES
        .into_iter()
        .filter(|(flag, name)| {
            has(*flag) && !(*name == "dsync" && has(OFlags::SYNC)) && !(*name == "directory" && has(OFlags::TMPFILE))
        })
        .map(|(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_hold_others_stand_alone() {
        assert_eq!(open_flags(0o2_104_000), ["cloexec", "nonblock"]);
        assert_eq!(open_flags(0o4_010_000), ["sync"]);
        assert_eq!(open_flags(0o10_000), ["dsync"]);
        assert_eq!(open_flags(0o1), Vec::<&str>::new());
    }
}
