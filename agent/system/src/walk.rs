//! Finding a file below a directory, out of which nothing leads.
//!
//! What openat2(2) does with RESOLVE_IN_ROOT and RESOLVE_BENEATH, one component at a
//! time: each is opened from the directory before it and never followed by the kernel,
//! links are read and looked up from the root, and `..` goes back to a directory that
//! is held open. So nobody who moves directories meanwhile leads out. openat2(2)
//! itself takes its flags through a pointer, which a seccomp filter cannot look
//! through: with it in the list, files could be opened for writing
//! ([`crate::confine`]).

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// What is done with symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// They are followed, and an absolute one begins at the root (RESOLVE_IN_ROOT).
    InRoot,
    /// There must be none, and no `..` above the root (RESOLVE_BENEATH,
    /// RESOLVE_NO_SYMLINKS).
    None,
    /// Nor may anything be mounted on the way (RESOLVE_NO_XDEV).
    NoneNorMounts,
}

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// The longest path that is looked up (PATH_MAX).
const LONGEST: usize = 4096;

/// Opens `path` below `root`.
///
/// # Errors
///
/// As open(2); ELOOP for a link where none may be, or too many, and EXDEV for a path
/// that leads out where it may not.
pub(crate) fn open_below(root: impl AsFd, path: &[u8], flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
    open_around(root, path, flags, links, &|_| false)
}

/// As [`open_below`], but never touches a place for which `is_closed` says so: EREMOTE. It is told each place by its path
/// from the root, without links.
pub(crate) fn open_around(
    root: impl AsFd,
    path: &[u8],
    flags: OFlags,
    links: Links,
    is_closed: &dyn Fn(&[u8]) -> bool,
) -> Result<OwnedFd, Errno> {
    let root = root.as_fd();
    // Where `above` has come to, and how long that was at each of them.
    let mut place = Vec::new();
    let mut lengths = Vec::new();
    let mut above: Vec<OwnedFd> = Vec::new();
    // The last component stands first.
    let mut rest = Vec::new();
    let mut followed = 0;
    put_before(&mut rest, path)?;
    while let Some(name) = rest.pop() {
        if name.as_bytes() == b".." {
            if above.pop().is_none() && links != Links::InRoot {
                return Err(Errno::XDEV);
            }
            place.truncate(lengths.pop().unwrap_or(0));
            continue;
        }
        let before = place.len();
        place.push(b'/');
        place.extend_from_slice(name.as_bytes());
        if is_closed(&place) {
            return Err(Errno::REMOTE);
        }
        let at = above.last().map_or(root, AsFd::as_fd);
        let is_last = rest.is_empty();
        let wanted = if is_last { flags } else { OFlags::PATH | OFlags::DIRECTORY };
        let opened = rustix::fs::openat(at, &name, wanted | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let error = match opened {
            Ok(found) if links == Links::NoneNorMounts && device(&found)? != device(root)? => return Err(Errno::XDEV),
            Ok(found) if !is_last => {
                above.push(found);
                lengths.push(before);
                continue;
            }
            // With O_PATH the link itself is opened.
            Ok(found) if flags.contains(OFlags::PATH) && is_link(&found)? => Errno::LOOP,
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        // ENOTDIR is what O_DIRECTORY makes of a link.
        let Some(target) = (if matches!(error, Errno::LOOP | Errno::NOTDIR) { link(at, &name) } else { None }) else {
            return Err(error);
        };
        place.truncate(before);
        followed += 1;
        if links != Links::InRoot || followed > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        if target.first() == Some(&b'/') {
            above.clear();
            lengths.clear();
            place.clear();
        }
        put_before(&mut rest, &target)?;
    }
    // The root, or what `..` led to.
    let at = above.last().map_or(root, AsFd::as_fd);
    rustix::fs::openat(at, c".", flags | OFlags::CLOEXEC, Mode::empty())
}

/// Puts the components of `path` before those in `rest`.
fn put_before(rest: &mut Vec<CString>, path: &[u8]) -> Result<(), Errno> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    if path.len() >= LONGEST {
        return Err(Errno::NAMETOOLONG);
    }
    for name in path.split(|byte| *byte == b'/').rev().filter(|name| !name.is_empty() && name != b".") {
        rest.push(CString::new(name).map_err(|_| Errno::INVAL)?);
    }
    Ok(())
}

fn is_link(found: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode) == FileType::Symlink)
}

fn device(found: impl AsFd) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(found)?.st_dev)
}

/// What the link `name` holds; `None` where it is no link.
fn link(at: BorrowedFd<'_>, name: &CString) -> Option<Vec<u8>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); LONGEST];
    rustix::fs::readlinkat_raw(at, name, &mut buffer).ok().map(|(target, _)| target.to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A root with files and links, and a file beside it that nothing may lead to.
    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("usr/lib")).expect("directories");
        fs::write(directory.path().join("secret"), "outside").expect("a file");
        fs::write(root.join("usr/lib/libc.so"), "inside").expect("a file");
        fs::write(root.join("secret"), "the root's own").expect("a file");
        for (link, target) in [
            ("lib", "usr/lib"),
            ("abs", "/usr/lib/libc.so"),
            ("up", "../../../secret"),
            ("usr/up", "../../secret"),
            ("round", "round"),
            ("usr/lib/back", "../../lib/libc.so"),
            ("gone", "/no/such"),
            ("through", "secret/x"),
        ] {
            symlink(target, root.join(link)).expect("a link");
        }
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("the root");
        (directory, root)
    }

    fn read(root: &OwnedFd, path: &str, links: Links) -> Result<String, Errno> {
        let fd = open_below(root, path.as_bytes(), OFlags::RDONLY, links)?;
        Ok(std::io::read_to_string(fs::File::from(fd)).expect("it is read"))
    }

    #[test]
    fn links_are_followed_from_the_root() {
        let (_kept, root) = tree();
        for path in ["usr/lib/libc.so", "/usr//lib/./libc.so", "lib/libc.so", "abs", "lib/back", "usr/lib/../../abs"] {
            assert_eq!(read(&root, path, Links::InRoot).as_deref(), Ok("inside"), "{path}");
        }
    }

    #[test]
    fn nothing_leads_out() {
        let (_kept, root) = tree();
        for path in ["up", "usr/up", "../secret", "/../../secret", "usr/../../../secret"] {
            assert_eq!(read(&root, path, Links::InRoot).as_deref(), Ok("the root's own"), "{path}");
        }
        assert_eq!(read(&root, "../secret", Links::None), Err(Errno::XDEV));
    }

    #[test]
    fn what_is_not_there_is_said_as_open_says_it() {
        let (_kept, root) = tree();
        assert_eq!(read(&root, "round", Links::InRoot), Err(Errno::LOOP));
        assert_eq!(read(&root, "gone", Links::InRoot), Err(Errno::NOENT));
        assert_eq!(read(&root, "through", Links::InRoot), Err(Errno::NOTDIR));
        assert_eq!(read(&root, "", Links::InRoot), Err(Errno::NOENT));
        assert_eq!(read(&root, "usr/lib/libc.so/x", Links::InRoot), Err(Errno::NOTDIR));
        assert_eq!(read(&root, &"x/".repeat(3000), Links::InRoot), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn where_no_links_may_be_none_is_followed() {
        let (_kept, root) = tree();
        for path in ["lib/libc.so", "abs", "up"] {
            assert_eq!(read(&root, path, Links::None), Err(Errno::LOOP), "{path}");
        }
        assert_eq!(read(&root, "usr/lib/libc.so", Links::None).as_deref(), Ok("inside"));
    }

    #[test]
    fn a_closed_place_is_not_touched_by_whatever_way() {
        let (_kept, root) = tree();
        let open = |path: &str, closed: &str| {
            let closed = closed.as_bytes().to_vec();
            open_around(&root, path.as_bytes(), OFlags::RDONLY, Links::InRoot, &|place| place == closed).map(drop)
        };
        for path in ["usr/lib/libc.so", "lib/libc.so", "abs", "lib/back", "usr/../lib/../lib/libc.so"] {
            assert_eq!(open(path, "/usr/lib"), Err(Errno::REMOTE), "{path}");
            assert_eq!(open(path, "/usr/lib/libc.so"), Err(Errno::REMOTE), "{path}");
            assert_eq!(open(path, "/usr/li"), Ok(()), "{path}");
        }
        assert_eq!(open("secret", "/usr"), Ok(()));
        assert_eq!(open("usr/up", "/secret"), Err(Errno::REMOTE));
    }

    #[test]
    fn a_path_that_is_only_looked_at_is_that_of_the_file_behind_its_links() {
        let (_kept, root) = tree();
        let found = open_below(&root, b"abs", OFlags::PATH, Links::InRoot).expect("a file");
        assert!(!is_link(&found).expect("a file"));
        let top = open_below(&root, b"/", OFlags::PATH | OFlags::DIRECTORY, Links::InRoot).expect("the root");
        let same = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| stat.st_ino).expect("a directory");
        assert_eq!(same(&top), same(&root));
    }
}
