//! What the comparisons with other readers of ELF share.
#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use agent_binaries::elf::Source;

/// A file read with pread(2), as the agent reads it.
pub(crate) struct OnDisk(File, u64);

impl OnDisk {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        Self(file, len)
    }
}

impl Source for OnDisk {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
}

/// Every ELF file below `/usr/bin` and `/usr/lib`, each inode once, sorted; `count` of them, evenly spread, unless
/// `AGENT_TEST_ALL` is set.
pub(crate) fn sample(count: usize) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    let mut folders = vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/lib")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_file() && meta.len() > 64 && seen.insert((meta.dev(), meta.ino())) {
                let mut magic = [0; 4];
                let readable = File::open(&path).and_then(|file| file.read_exact_at(&mut magic, 0));
                if readable.is_ok() && magic == *b"\x7fELF" {
                    files.push(path);
                }
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no ELF file below /usr/bin and /usr/lib");
    if env::var_os("AGENT_TEST_ALL").is_some() {
        return files;
    }
    let step = (files.len() / count).max(1);
    files.into_iter().step_by(step).take(count).collect()
}
