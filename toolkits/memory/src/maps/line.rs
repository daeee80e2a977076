//! The lines of `maps`, `smaps` and `smaps_rollup` (proc_pid_maps(5),
//! proc_pid_smaps(5)): bytes in, types out, nothing allocated.

use agent_system::parse::number;

use super::figures::{Figure, KEYS};

/// What a mapping may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Permissions(u8);

impl Permissions {
    const READ: u8 = 1;
    const WRITE: u8 = 2;
    const EXECUTE: u8 = 4;
    const SHARED: u8 = 8;

    /// From the four letters of `maps`.
    fn parse(letters: &[u8]) -> Option<Self> {
        let [read, write, execute, share] = *letters else { return None };
        let bit = |letter: u8, set: u8, value: u8| match letter {
            b'-' => Some(0),
            _ if letter == set => Some(value),
            _ => None,
        };
        let shared = match share {
            b's' | b'S' => Self::SHARED,
            b'p' | b'P' | b'-' => 0,
            _ => return None,
        };
        let bits = [
            bit(read, b'r', Self::READ)?,
            bit(write, b'w', Self::WRITE)?,
            bit(execute, b'x', Self::EXECUTE)?,
            shared,
        ];
        Some(Self(bits.iter().sum()))
    }

    pub(crate) fn writable(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    pub(crate) fn executable(self) -> bool {
        self.0 & Self::EXECUTE != 0
    }

    pub(crate) fn shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }

    /// Neither readable, nor writable, nor executable.
    pub(crate) fn inaccessible(self) -> bool {
        self.0 & (Self::READ | Self::WRITE | Self::EXECUTE) == 0
    }

    /// As `maps` writes it.
    pub(crate) fn as_str(self) -> &'static str {
        const ALL: [&str; 16] = [
            "---p", "r--p", "-w-p", "rw-p", "--xp", "r-xp", "-wxp", "rwxp", //
            "---s", "r--s", "-w-s", "rw-s", "--xs", "r-xs", "-wxs", "rwxs",
        ];
        ALL[usize::from(self.0 & 15)]
    }
}

/// The line of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    /// Its first address.
    pub(crate) start: u64,
    /// The first address after it.
    pub(crate) end: u64,
    pub(crate) permissions: Permissions,
    /// Where in the file it begins, in bytes.
    pub(crate) offset: u64,
    /// Major and minor number of the file's device.
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    /// What stands at the end: a path, a name in brackets, or nothing.
    pub(crate) path: &'a [u8],
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A mapping begins.
    Header(Header<'a>),
    /// A figure of the mapping that began last, as it stands there (most in KiB).
    Figure(Figure, u64),
    /// The two-letter codes of `VmFlags`.
    Flags(&'a [u8]),
    /// A key that a later kernel writes.
    Other,
    /// Not a line of these files.
    Malformed,
}

/// Reads lines. The keys come in the same order for every mapping, so the one
/// that followed last time is tried first.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    expected: usize,
}

impl Reader {
    /// Parses `line`, which has no newline.
    pub(crate) fn line<'a>(&mut self, line: &'a [u8]) -> Line<'a> {
        match line.first() {
            // Keys begin with a capital letter, addresses are in lower case.
            Some(b'A'..=b'Z') => self.keyed(line),
            _ => header(line).map_or(Line::Malformed, Line::Header),
        }
    }

    fn keyed<'a>(&mut self, line: &'a [u8]) -> Line<'a> {
        for step in 0..KEYS.len() {
            let at = (self.expected + step) % KEYS.len();
            let (key, figure) = KEYS[at];
            if let Some(rest) = line.strip_prefix(key)
                && let Some((b':', value)) = rest.split_first()
            {
                self.expected = at + 1;
                return leading(value).map_or(Line::Malformed, |value| Line::Figure(figure, value));
            }
        }
        if let Some(codes) = line.strip_prefix(b"VmFlags:") {
            self.expected = 0;
            return Line::Flags(codes);
        }
        // An unknown key is a later kernel's; a capital letter without a colon is not a key.
        if line.contains(&b':') { Line::Other } else { Line::Malformed }
    }
}

/// The decimal number after some spaces.
fn leading(bytes: &[u8]) -> Option<u64> {
    let bytes = bytes.trim_ascii_start();
    let mut value = 0_u64;
    let mut digits = 0;
    for byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.checked_mul(10)?.checked_add(digit.into())?;
        digits += 1;
    }
    (digits > 0).then_some(value)
}

/// Takes a hexadecimal number in lower case off the front of `bytes`.
fn hex<'a>(bytes: &mut &'a [u8]) -> Option<u64> {
    let mut value = 0_u64;
    let mut digits = 0;
    let all: &'a [u8] = bytes;
    for byte in all {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => break,
        };
        if digits == 16 {
            return None;
        }
        value = value << 4 | u64::from(digit);
        digits += 1;
    }
    *bytes = &all[digits..];
    (digits > 0).then_some(value)
}

/// Takes `byte` off the front of `bytes`.
fn expect(bytes: &mut &[u8], byte: u8) -> Option<()> {
    *bytes = bytes.strip_prefix(&[byte])?;
    Some(())
}

/// Parses the line of a mapping:
/// `7f5c0e4d2000-7f5c0e4d6000 r--p 001d0000 fe:00 247030      /usr/lib/libc.so.6`.
/// Between the inode and the path there are spaces, and the path may hold more.
pub(crate) fn header(line: &[u8]) -> Option<Header<'_>> {
    let mut rest = line;
    let start = hex(&mut rest)?;
    expect(&mut rest, b'-')?;
    let end = hex(&mut rest)?;
    expect(&mut rest, b' ')?;
    let permissions = Permissions::parse(rest.get(..4)?)?;
    rest = &rest[4..];
    expect(&mut rest, b' ')?;
    let offset = hex(&mut rest)?;
    expect(&mut rest, b' ')?;
    let major = u32::try_from(hex(&mut rest)?).ok()?;
    expect(&mut rest, b':')?;
    let minor = u32::try_from(hex(&mut rest)?).ok()?;
    expect(&mut rest, b' ')?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let inode = number(&rest[..digits])?;
    let mut path = &rest[digits..];
    while let Some((b' ', more)) = path.split_first() {
        path = more;
    }
    (start <= end).then_some(Header { start, end, permissions, offset, device: (major, minor), inode, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Header<'_> {
        header(line.as_bytes()).expect("parses")
    }

    #[test]
    fn reads_mappings_as_the_kernel_writes_them() {
        let file = parse("556da0920000-556da0925000 r-xp 00002000 fe:00 247030                     /usr/bin/cat");
        assert_eq!((file.start, file.end), (0x556d_a092_0000, 0x556d_a092_5000));
        assert_eq!((file.permissions.as_str(), file.offset), ("r-xp", 0x2000));
        assert_eq!((file.device, file.inode), ((0xfe, 0), 247_030));
        assert_eq!(file.path, b"/usr/bin/cat");
        let gate = parse("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]");
        assert_eq!((gate.end, gate.path), (0xffff_ffff_ff60_1000, b"[vsyscall]".as_slice()));
        // An anonymous mapping ends with a space, and an older kernel's without.
        assert_eq!(parse("7ff0dad7a000-7ff0dad7c000 rw-p 00000000 00:00 0 ").path, b"");
        assert_eq!(parse("7ff0dad7a000-7ff0dad7c000 rw-p 00000000 00:00 0").path, b"");
        // On a 32-bit kernel, and an inode of 64 bits.
        assert_eq!(parse("00008000-0000c000 rwxs 00000000 b3:02 18446744073709551615 /a").inode, u64::MAX);
    }

    #[test]
    fn a_path_keeps_its_spaces() {
        let line = "7f0000000000-7f0000001000 r--s 00000000 00:1a 7          /dev/shm/a b  c (deleted)";
        assert_eq!(parse(line).path, b"/dev/shm/a b  c (deleted)");
    }

    #[test]
    fn permissions_come_back_as_they_were() {
        for letters in ["---p", "r--p", "rw-s", "r-xp", "rwxp", "--xp", "-w-s"] {
            assert_eq!(Permissions::parse(letters.as_bytes()).expect("parses").as_str(), letters);
        }
        assert_eq!(Permissions::parse(b"rwzp"), None);
        assert_eq!(Permissions::parse(b"xr-p"), None);
    }

    #[test]
    fn figures_are_found_in_any_order_and_unknown_keys_are_passed_over() {
        let mut reader = Reader::default();
        assert_eq!(reader.line(b"Size:                  8 kB"), Line::Figure(Figure::Size, 8));
        assert_eq!(reader.line(b"Rss:                   12 kB"), Line::Figure(Figure::Rss, 12));
        assert_eq!(reader.line(b"Pss_Dirty:             3 kB"), Line::Figure(Figure::PssDirty, 3));
        assert_eq!(reader.line(b"Pss:                   4 kB"), Line::Figure(Figure::Pss, 4));
        assert_eq!(reader.line(b"THPeligible:           1"), Line::Figure(Figure::ThpEligible, 1));
        assert_eq!(reader.line(b"THPeligible:    0"), Line::Figure(Figure::ThpEligible, 0));
        assert_eq!(reader.line(b"NewKey:                1 kB"), Line::Other);
        assert_eq!(reader.line(b"VmFlags: rd ex mr mw me "), Line::Flags(b" rd ex mr mw me "));
        assert_eq!(reader.line(b"Rss:"), Line::Malformed);
        assert_eq!(reader.line(b"Rss:  kB"), Line::Malformed);
        assert_eq!(reader.line(b"Rss: 99999999999999999999999 kB"), Line::Malformed);
        assert_eq!(reader.line(b"Rs"), Line::Malformed);
        assert_eq!(reader.line(b""), Line::Malformed);
    }

    #[test]
    fn truncated_and_wrong_lines_are_malformed_and_never_panic() {
        let line = b"556da0920000-556da0925000 r-xp 00002000 fe:00 247030                     /usr/bin/cat";
        for end in 0..line.len() {
            let parsed = header(&line[..end]);
            assert_eq!(parsed.is_some(), end >= 47, "{end}");
        }
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            let mut bytes = line.to_vec();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = (seed >> 56) as u8;
            }
            let _ = Reader::default().line(&bytes);
        }
        for bad in [
            "2-1 r-xp 0 0:0 0",
            "1-2 r-xp 0 0:0 ",
            "11111111111111111-2 r-xp 0 0:0 0",
            "1-2 r-xp 0 100000000:0 0",
            "1-2 r-xp 0 0:0 99999999999999999999",
        ] {
            assert_eq!(header(bad.as_bytes()), None, "{bad}");
        }
    }
}
