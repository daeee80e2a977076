//! Processes recorded by scripts/record, whose files a test may change: what another kernel would write there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A recorded proc(5).
pub(crate) struct Recording {
    directory: tempfile::TempDir,
}

impl Recording {
    /// Records `pids`.
    pub(crate) fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut record = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/record"));
        record.arg(directory.path()).args(pids.into_iter().map(|pid| pid.to_string()));
        assert!(record.status().expect("scripts/record").success());
        Self { directory }
    }

    /// Another one that says the same, to be changed.
    pub(crate) fn copy(&self) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(self.path().join(".")).arg(directory.path());
        assert!(copy.status().expect("cp").success());
        Self { directory }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file of a process.
    pub(crate) fn file(&self, pid: u32, name: &str) -> PathBuf {
        self.path().join(pid.to_string()).join(name)
    }

    /// What a file of a process says.
    pub(crate) fn read(&self, pid: u32, name: &str) -> String {
        let path = self.file(pid, name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Makes a file of a process say something else.
    pub(crate) fn write(&self, pid: u32, name: &str, text: impl AsRef<[u8]>) {
        let path = self.file(pid, name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// The agent, looking at it.
    pub(crate) fn agent(&self) -> Command {
        let mut command = super::agent();
        command.arg("--proc").arg(self.path());
        command
    }
}
