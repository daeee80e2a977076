//! Directories of the target, through its root directory.

use std::mem::MaybeUninit;
use std::sync::Arc;

use agent_model::Text;
use agent_session::Access;
use rustix::fs::{OFlags, RawDir};

use crate::walk::{Links, open_around};
use crate::{Cause, Failure, Process};

impl Process<'_> {
    /// The names in the directory `path` as the process would see it, at most
    /// `limit` of them, sorted. Its path leads nowhere out of the root directory.
    ///
    /// # Errors
    ///
    /// When it is not there, cannot be listed, or has more than `limit` names.
    pub fn list_in_root(&self, path: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let shown = [self.path().as_bytes(), b"/root", path].concat();
        let fail = |cause: Cause| Failure { path: Text::from_bytes(&shown), cause, pid: Some(self.pid()) };
        self.run().permit(Access::List, &Text::from_bytes(&shown)).map_err(|refusal| fail(refusal.into()))?;
        let root = self.root_directory()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let remote = self.run().remote(self);
        let (asked, guard) = (path.to_vec(), Arc::clone(&remote));
        let list = move || Ok(open_around(&root, &asked, flags, Links::InRoot, &|place| guard.is_closed(place))?);
        let list = remote.ask(path, list).map_err(fail)?;
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = RawDir::new(list, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| fail(errno.into()))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() == limit {
                return Err(fail(Cause::TooLarge(limit)));
            }
            self.run().ledger().read(name.len());
            names.push(name.to_vec());
        }
        names.sort_unstable();
        Ok(names)
    }
}
