//! The lines of `smaps`, `smaps_rollup` (proc_pid_smaps(5)) and `maps`: bytes in,
//! types out, nothing allocated.

use agent_system::parse::{Mapping, mapping};

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
        let bits =
            [bit(read, b'r', Self::READ)?, bit(write, b'w', Self::WRITE)?, bit(execute, b'x', Self::EXECUTE)?, shared];
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

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A mapping begins.
    Mapping(Permissions, Mapping<'a>),
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
            _ => begin(line).unwrap_or(Line::Malformed),
        }
    }

    fn keyed<'a>(&mut self, line: &'a [u8]) -> Line<'a> {
        for step in 0..KEYS.len() {
            let at = (self.expected + step) % KEYS.len();
            let (key, figure) = KEYS[at];
            if let Some(rest) = line.strip_prefix(key)
                && let Some((b':', rest)) = rest.split_first()
            {
                self.expected = at + 1;
                return value(rest).map_or(Line::Malformed, |value| Line::Figure(figure, value));
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

/// The line of a mapping, as `maps` has it too.
fn begin(line: &[u8]) -> Option<Line<'_>> {
    let mapping = mapping(line)?;
    let permissions = Permissions::parse(&mapping.permissions)?;
    (mapping.start <= mapping.end).then_some(Line::Mapping(permissions, mapping))
}

/// The value of a key: spaces, a decimal number, and its unit if it has one.
fn value(bytes: &[u8]) -> Option<u64> {
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
    (digits > 0 && matches!(bytes[digits..].trim_ascii(), b"" | b"kB")).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(reader.line(b"Rss:   4\xff\xff kB"), Line::Malformed);
        assert_eq!(reader.line(b"Rs"), Line::Malformed);
        assert_eq!(reader.line(b""), Line::Malformed);
    }

    #[test]
    fn a_mapping_begins_in_smaps_as_in_maps() {
        let line = b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]";
        let Line::Mapping(permissions, mapping) = Reader::default().line(line) else { panic!("a mapping") };
        assert_eq!((permissions.as_str(), mapping.end), ("--xp", 0xffff_ffff_ff60_1000));
        assert_eq!(Reader::default().line(b"2-1 r-xp 0 0:0 0"), Line::Malformed);
        assert_eq!(Reader::default().line(b"1-2 r-zp 0 0:0 0"), Line::Malformed);
    }

    #[test]
    fn wrong_lines_never_panic() {
        let lines: [&[u8]; 2] =
            [b"556da0920000-556da0925000 r-xp 00002000 fe:00 247030 /usr/bin/cat", b"Rss:     12 kB"];
        let mut seed = 7_u64;
        for round in 0..20_000 {
            let mut bytes = lines[round % 2].to_vec();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = (seed >> 56) as u8;
            }
            bytes.truncate(1 + (seed >> 40) as usize % bytes.len());
            let _ = Reader::default().line(&bytes);
        }
    }
}
