//! Where a module's file is: on which mount, and where its debug data lies.

use agent_model::Text;
use agent_system::parse::{Mount, mounts};
use agent_system::{Failure, Process};

use super::row::DebugFile;
use crate::elf::ElfFile;
use crate::mapped::{Image, Mapped};

/// The mounts of a process.
#[derive(Debug)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Those of `process`.
    ///
    /// # Errors
    ///
    /// When `mountinfo` cannot be read.
    pub fn of(process: &Process<'_>) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        process.read("mountinfo", &mut bytes)?;
        Ok(Self(mounts(&bytes)))
    }

    /// Whether the file that is mapped from `path` is on another mount than the root
    /// directory, and where that one is. `None` where there is no root mount.
    pub fn outside(&self, path: &[u8]) -> Option<(bool, Option<Text>)> {
        // The last mount at a place hides those before it.
        let root = self.0.iter().rev().find(|mount| mount.point == b"/")?;
        if path.starts_with(b"/memfd:") {
            return Some((true, None));
        }
        let under = |point: &[u8]| {
            point == b"/" || path.strip_prefix(point).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
        };
        let holds = self.0.iter().filter(|mount| under(&mount.point));
        // Of equal length the last one counts, which max_by_key gives.
        let mount = holds.max_by_key(|mount| mount.point.len())?;
        let is_outside = mount.id != root.id;
        Some((is_outside, is_outside.then(|| Text::from_bytes(&mount.point))))
    }
}

/// The file with the debug data of a module, below the target's root directory:
/// by build ID, then by debug link, as gdb looks for it ("Separate Debug Files").
pub fn debug_file(process: &Process<'_>, file: &Mapped, elf: &ElfFile<Image<'_>>) -> Option<DebugFile> {
    let facts = elf.facts();
    let open = |path: &[u8]| {
        let found = process.open_in_root(path).ok()?;
        let debug = ElfFile::parse(Image::File(found.into())).ok()?;
        let matches = facts.build_id.as_ref().zip(debug.facts().build_id.as_ref()).map(|(a, b)| a == b);
        Some((Text::from_bytes(path), matches))
    };
    if let Some((first, rest)) = facts.build_id.as_deref().and_then(|id| id.split_at_checked(2)) {
        let path = format!("/usr/lib/debug/.build-id/{first}/{rest}.debug");
        if let Some((path, matches)) = open(path.as_bytes()) {
            return Some(DebugFile { path, found_by: "build_id", matches });
        }
    }
    let link = facts.debug.debug_link.as_ref()?.file.as_bytes();
    if link.contains(&b'/') || link.is_empty() {
        return None;
    }
    let end = file.path.iter().rposition(|byte| *byte == b'/')?;
    let directory = &file.path[..=end];
    let places = [
        [directory, link].concat(),
        [directory, b".debug/", link].concat(),
        [b"/usr/lib/debug", directory, link].concat(),
    ];
    // A link to itself is none.
    let found = places.iter().filter(|path| **path != file.path).find_map(|path| open(path));
    found.map(|(path, matches)| DebugFile { path, found_by: "debug_link", matches })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_outside_and_a_bind_mount_over_one_file_too() {
        let text = b"10 1 0:50 / / rw - overlay overlay rw\n11 10 8:1 /v /opt/plugins rw - ext4 /dev/sda1 rw\n\
            12 10 8:1 /f /usr/lib/x.so rw - ext4 /dev/sda1 rw\n13 10 0:3 / /proc rw - proc proc rw\n";
        let mounts = Mounts(mounts(text));
        assert_eq!(mounts.outside(b"/usr/lib/libc.so.6"), Some((false, None)));
        assert_eq!(mounts.outside(b"/opt/plugins/a.so"), Some((true, Some("/opt/plugins".into()))));
        assert_eq!(mounts.outside(b"/opt/plugins2/a.so"), Some((false, None)));
        assert_eq!(mounts.outside(b"/usr/lib/x.so"), Some((true, Some("/usr/lib/x.so".into()))));
        assert_eq!(mounts.outside(b"/memfd:x"), Some((true, None)));
        assert_eq!(Mounts(Vec::new()).outside(b"/a"), None);
    }
}
