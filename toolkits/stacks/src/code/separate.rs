//! Files with the debug information of a module that stand beside it.

use std::sync::Arc;

use agent_binaries::elf::{AltLink, ElfFile};
use agent_binaries::mapped::Image;

use super::CodeMap;

impl<'r> CodeMap<'r> {
    /// The file with the debug information of a module, by its build ID and by its
    /// debug link, below the target's root directory (gdb's manual, "Separate Debug
    /// Files"), and its path. It must have the same build ID.
    pub(super) fn separate(&self, at: usize) -> Option<(Vec<u8>, ElfFile<Image<'r>>)> {
        let code = &self.codes[at];
        let facts = code.opened.as_ref()?.elf.facts();
        let build_id = facts.build_id.as_deref()?;
        let mut paths = vec![by_build_id(build_id)];
        if let Some(link) = &facts.debug.debug_link {
            let path = code.path.to_bytes();
            let directory = directory_of(&path);
            for between in [&b"/"[..], b"/.debug/"] {
                paths.push([directory, between, link.file.as_bytes()].concat());
            }
            paths.push([b"/usr/lib/debug", directory, b"/", link.file.as_bytes()].concat());
        }
        paths.into_iter().find_map(|path| {
            let elf = self.debug_file(&path, build_id)?;
            let has_names = elf.facts().debug.symtab || elf.facts().debug.debug_info;
            has_names.then_some((path, elf))
        })
    }

    /// The file that `link` in the file `from` names, below the target's root directory. Where a
    /// link has led to `from`, a relative path begins elsewhere: it leads to `.dwz`, as packages have it.
    pub(super) fn alternate(&self, link: &AltLink, from: &[u8]) -> Option<ElfFile<Image<'r>>> {
        let named = match link.file.as_bytes() {
            absolute @ [b'/', ..] => absolute.to_vec(),
            relative => [directory_of(from), b"/", relative].concat(),
        };
        let last = link.file.rsplit('/').next().unwrap_or_default();
        let packaged = format!("/usr/lib/debug/.dwz/{last}").into_bytes();
        [named, by_build_id(&link.build_id), packaged].iter().find_map(|path| self.debug_file(path, &link.build_id))
    }

    /// The file at `path` below the target's root directory, if it has this build ID.
    fn debug_file(&self, path: &[u8], build_id: &str) -> Option<ElfFile<Image<'r>>> {
        let file = self.process.open_in_root(path).ok()?;
        let elf = ElfFile::parse(Image::File(Arc::new(file))).ok()?;
        (elf.facts().build_id.as_deref() == Some(build_id)).then_some(elf)
    }
}

/// Where a file with debug information is found by its build ID.
fn by_build_id(build_id: &str) -> Vec<u8> {
    let (first, rest) = build_id.split_at_checked(2).unwrap_or_default();
    format!("/usr/lib/debug/.build-id/{first}/{rest}.debug").into_bytes()
}

/// The directory of the file at `path`.
fn directory_of(path: &[u8]) -> &[u8] {
    path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default()
}
