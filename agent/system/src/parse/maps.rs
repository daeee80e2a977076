//! `/proc/PID/maps` (proc_pid_maps(5)).

use super::{hex, number};

/// One mapping, as a line of `maps` (or the first of its lines in `smaps`) has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// First address (AVMA).
    pub start: u64,
    /// The address behind the last (AVMA).
    pub end: u64,
    /// Readable, writable, executable, and `s` for shared or `p` for private.
    pub permissions: [u8; 4],
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Major and minor number of the file's device; 0:0 without a file.
    pub device: (u32, u32),
    /// Inode number; 0 without a file.
    pub inode: u64,
    /// Path or name, as the kernel writes it: a newline is `\012`, and a file
    /// without a name any more ends in ` (deleted)`.
    pub name: &'a [u8],
}

impl Mapping<'_> {
    /// True where code may run.
    pub fn is_executable(&self) -> bool {
        self.permissions[2] == b'x'
    }

    /// True where it may be written.
    pub fn is_writable(&self) -> bool {
        self.permissions[1] == b'w'
    }

    /// True where a file is mapped.
    pub fn is_file(&self) -> bool {
        self.inode != 0 && self.name.first() == Some(&b'/')
    }
}

/// Parses one line; `None` where it is not of that form.
pub fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let mut rest = line;
    let mut word = || {
        let end = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
        let word = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        word
    };
    let range = word();
    let dash = range.iter().position(|b| *b == b'-')?;
    let (start, end) = (hex(&range[..dash])?, hex(&range[dash + 1..])?);
    let permissions = word().try_into().ok()?;
    let offset = hex(word())?;
    let device = word();
    let colon = device.iter().position(|b| *b == b':')?;
    let part = |bytes| hex(bytes).and_then(|part| u32::try_from(part).ok());
    let device = (part(&device[..colon])?, part(&device[colon + 1..])?);
    let inode = number(word())?;
    // The name is padded to a column, and may itself begin with a space only
    // where it is no path.
    let padding = rest.iter().take_while(|b| **b == b' ').count();
    Some(Mapping { start, end, permissions, offset, device, inode, name: &rest[padding..] })
}

/// The bytes of a path that `maps` wrote: the kernel escapes newlines and nothing
/// else.
pub fn mapping_path(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.windows(4).position(|four| four == b"\\012") {
        path.extend_from_slice(&rest[..at]);
        path.push(b'\n');
        rest = &rest[at + 4..];
    }
    path.extend_from_slice(rest);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_each_kind_are_read() {
        let line = b"7f12a4e00000-7f12a4e28000 r-xp 00001000 fd:00 1835 /usr/lib/x y/libc.so.6 (deleted)";
        let file = mapping(line).expect("parses");
        assert_eq!((file.start, file.end, file.offset), (0x7f12_a4e0_0000, 0x7f12_a4e2_8000, 0x1000));
        assert_eq!((file.device, file.inode), ((0xfd, 0), 1835));
        assert!(file.is_executable() && !file.is_writable() && file.is_file());
        assert_eq!(file.name, b"/usr/lib/x y/libc.so.6 (deleted)");
        let stack = mapping(b"7ffc6a3f0000-7ffc6a411000 rw-p 00000000 00:00 0                          [stack]");
        assert_eq!(stack.expect("parses").name, b"[stack]");
        let anonymous = mapping(b"7f12a4e28000-7f12a4e29000 ---p 00000000 00:00 0 ").expect("parses");
        assert!(anonymous.name.is_empty() && !anonymous.is_file());
        assert_eq!(
            mapping(b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]").map(|m| m.start),
            Some(0xffff_ffff_ff60_0000)
        );
    }

    #[test]
    fn what_is_no_line_is_none() {
        for bad in ["", "x", "1-2", "1-2 rwxp", "1-2 rwxp 0 0:0", "1-2 rw 0 0:0 0", "Size: 4 kB", "g-h rwxp 0 0:0 0"] {
            assert_eq!(mapping(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn newlines_in_paths_come_back() {
        assert_eq!(mapping_path(b"/tmp/a\\012b"), b"/tmp/a\nb");
        assert_eq!(mapping_path(b"/tmp/a"), b"/tmp/a");
    }
}
