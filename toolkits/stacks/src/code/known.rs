//! Names that this process has found before, by the file that they are of: its build
//! ID, device, inode and length. So the second look of a command reads no symbols and
//! no debug information for what the first one has named.
//!
//! The build ID alone would not do: a file that lies about it would be given the names
//! of another.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use agent_binaries::mapped::Image;

use super::{Code, Name};

/// Bytes of names that are kept.
const MOST_BYTES: usize = 4 << 20;

/// What tells one file from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    build_id: Arc<str>,
    device: (u32, u32),
    inode: u64,
    length: u64,
}

impl Identity {
    /// That of a module which is read from its file.
    pub(super) fn of(code: &Code<'_>) -> Option<Self> {
        let opened = code.opened.as_ref()?;
        let Image::File(file) = &opened.image else { return None };
        let build_id = Arc::from(opened.elf.facts().build_id.as_deref()?);
        Some(Self { build_id, device: file.device, inode: file.inode, length: file.length })
    }
}

#[derive(Default)]
struct Names {
    found: HashMap<(Identity, u64), Name>,
    bytes: usize,
}

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

/// What was found for the address `svma` of `file`.
pub(super) fn get(file: &Identity, svma: u64) -> Option<Name> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).found.get(&(file.clone(), svma)).cloned()
}

/// Keeps what was found.
pub(super) fn put(file: &Identity, svma: u64, name: &Name) {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = name.bytes() + size_of::<(Identity, u64)>();
    if names.bytes + bytes <= MOST_BYTES {
        names.bytes += bytes;
        names.found.insert((file.clone(), svma), name.clone());
    }
}
