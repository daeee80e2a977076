//! Bundles in memory, where the container has no directory that can be written to.
//!
//! The hold makes the file (memfd_create(2)) and hands it to the command that writes it, and later to those who read it
//! (unix(7), SCM_RIGHTS). So what a command has written by the time that it is killed is kept. Nothing is thrown away to make
//! room: where there is none a command is told so, and its answer says it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use agent_system::channel::MOST_FILES;
use agent_system::keep;

/// Less room than this is none, in bytes.
const LEAST: u64 = 128 << 10;

/// A file that is kept.
struct File {
    name: String,
    file: OwnedFd,
    /// How large it may become while the command with this number writes it.
    granted: Option<(u64, u64)>,
}

impl File {
    fn bytes(&self) -> u64 {
        keep::length(self.file.as_fd())
    }
}

/// What a hold keeps in memory.
#[derive(Default)]
pub(super) struct Files(Vec<File>);

impl Files {
    /// A new file for the command with the number `action`, of `most` bytes for all that are kept: its name, which is `name` if
    /// no other has that, and how large it may become.
    ///
    /// # Errors
    ///
    /// When there is no room: why.
    pub(super) fn make(&mut self, name: &str, action: u64, most: u64) -> Result<(String, u64, BorrowedFd<'_>), String> {
        let taken: u64 = self.0.iter().map(|file| file.granted.map_or_else(|| file.bytes(), |(_, bytes)| bytes)).sum();
        // Others that begin meanwhile find room as well.
        let room = most.saturating_sub(taken) / 2;
        if room < LEAST || self.0.len() >= MOST_FILES {
            let (count, bytes) = (self.0.len(), self.bytes());
            return Err(format!(
                "limit_reached: {count} bundles of {bytes} bytes are kept in memory, and there is no room for another"
            ));
        }
        let name = keep::another_name(name, |name| self.0.iter().all(|file| file.name != name));
        let file = keep::in_memory(&name).map_err(|error| format!("there is no memory for a bundle: {error}"))?;
        self.0.push(File { name: name.clone(), file, granted: Some((action, room)) });
        let file = self.0.last().ok_or("there is no memory for a bundle")?;
        Ok((name, room, file.file.as_fd()))
    }

    /// Adds a file that the hold writes itself.
    ///
    /// # Errors
    ///
    /// When too many files are open.
    pub(super) fn add(&mut self, name: String, file: BorrowedFd<'_>) -> std::io::Result<()> {
        self.0.push(File { name, file: file.try_clone_to_owned()?, granted: None });
        Ok(())
    }

    /// The command with the number `action` writes no more. Of what it has not written nothing is kept.
    pub(super) fn done(&mut self, action: u64) {
        self.0.retain(|file| file.granted.is_none_or(|granted| granted.0 != action) || file.bytes() > 0);
        for file in self.0.iter_mut().filter(|file| file.granted.is_some_and(|granted| granted.0 == action)) {
            file.granted = None;
        }
    }

    /// Their names, in the order in which they were made.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|file| file.name.clone()).collect()
    }

    /// The files, in the same order.
    pub(super) fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(|file| file.file.as_fd()).collect()
    }

    /// How large they are together.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(File::bytes).sum()
    }
}

/// What the hold of this container keeps, as this command has got it before it was confined.
static TAKEN: OnceLock<Vec<(String, OwnedFd)>> = OnceLock::new();

/// Gets what the hold of this container keeps in memory, if there is one. Before the agent is confined.
pub(crate) fn take() {
    let taken = super::link::take().unwrap_or_default();
    let _ = TAKEN.set(taken);
}

/// The file `name` that the hold keeps.
pub(crate) fn kept(name: &str) -> Option<BorrowedFd<'static>> {
    let taken = TAKEN.get().into_iter().flatten();
    taken.filter(|(kept, _)| kept == name).map(|(_, file)| file.as_fd()).next()
}

/// The names of all that it keeps.
pub(crate) fn kept_names() -> impl Iterator<Item = &'static str> {
    TAKEN.get().into_iter().flatten().map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_as_much_as_may_be_kept_and_names_are_their_own() {
        let mut files = Files::default();
        let (name, room, _) = files.make("b.dbg.tar.zst", 1, 1 << 20).expect("room");
        assert_eq!((name.as_str(), room), ("b.dbg.tar.zst", 512 << 10));
        let (name, room, _) = files.make("b.dbg.tar.zst", 2, 1 << 20).expect("room");
        assert_eq!((name.as_str(), room), ("b-2.dbg.tar.zst", 256 << 10));
        // Both may become as large as they were told.
        assert!(files.make("c", 3, (1 << 20) - 1).is_err_and(|words| words.starts_with("limit_reached: 2 bundles")));
        write(files.files()[0]);
        files.done(1);
        files.done(2);
        assert_eq!((files.names(), files.bytes()), (vec!["b.dbg.tar.zst".to_owned()], 4));
        assert_eq!(files.make("c", 3, 1 << 20).expect("room").1, ((1 << 20) - 4) / 2);
    }

    fn write(file: BorrowedFd<'_>) {
        let mut file = keep::OwnFile::from(file.try_clone_to_owned().expect("a descriptor"));
        std::io::Write::write_all(&mut file, b"four").expect("written");
    }
}
