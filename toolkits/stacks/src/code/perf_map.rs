//! `/tmp/perf-PID.map`: the functions that a runtime has compiled (node, the JVM with
//! an agent, .NET, `python -X perf`). Source: linux, tools/perf/Documentation/jit-interface.txt.

use agent_system::Process;
use agent_system::parse::hex;

/// Bytes of a map that are read. What stands behind them has no name.
const MOST_BYTES: u64 = 16 << 20;
/// Functions of a map that are kept, at 16 bytes. A large JVM has some 100,000.
const MOST_ENTRIES: usize = 1 << 19;

/// One function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    start: u64,
    size: u32,
    /// Where its name is in the text: up to the end of its line.
    name: u32,
}

/// The functions of one map, by address.
#[derive(Debug, Default)]
pub(super) struct PerfMap {
    text: Vec<u8>,
    entries: Vec<Entry>,
    /// Whether there was more than is read.
    pub(super) truncated: bool,
}

impl PerfMap {
    /// The map of `process`, below its root directory and under the ID that it knows
    /// itself by; empty where there is none.
    pub(super) fn of(process: &Process<'_>) -> Self {
        let mut buffer = Vec::with_capacity(4096);
        let status = process.status(&mut buffer).ok();
        let pid = status.and_then(|status| status.nspid.last().copied()).unwrap_or(process.pid());
        let path = format!("/tmp/perf-{pid}.map");
        let Ok(file) = process.open_in_root(path.as_bytes()) else { return Self::default() };
        let mut text = vec![0; file.length.min(MOST_BYTES) as usize];
        let read = file.read_at(0, &mut text).unwrap_or(0);
        text.truncate(read);
        let map = Self::parse(text);
        Self { truncated: map.truncated || file.length > MOST_BYTES, ..map }
    }

    /// Lines of `START SIZE NAME`, both numbers in hex. A line that is none is left
    /// out; of two for one address the later counts: the code was replaced.
    fn parse(text: Vec<u8>) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        let mut truncated = false;
        let mut begin = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let start = begin;
            begin += line.len();
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let mut words = line.splitn(3, |byte| *byte == b' ');
            let (Some(address), Some(size), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            let (Some(address), Some(size)) = (hex(without_prefix(address)), hex(without_prefix(size))) else {
                continue;
            };
            if entries.len() == MOST_ENTRIES {
                truncated = true;
                break;
            }
            let at = start + line.len() - name.len();
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            entries.push(Entry { start: address, size, name: at as u32 });
        }
        // Stable: the later one of two comes last.
        entries.sort_by_key(|entry| entry.start);
        Self { text, entries, truncated }
    }

    /// The name of the function that holds `avma`, and how far into it that is.
    pub(super) fn lookup(&self, avma: u64) -> Option<(&[u8], u64)> {
        /// Old code may lie under new: how many are looked at.
        const STEPS: usize = 16;
        let after = self.entries.partition_point(|entry| entry.start <= avma);
        let entry =
            self.entries[..after].iter().rev().take(STEPS).find(|entry| avma - entry.start < u64::from(entry.size))?;
        let name = self.text.get(entry.name as usize..)?.split(|byte| *byte == b'\n').next()?;
        Some((name, avma - entry.start))
    }
}

fn without_prefix(word: &[u8]) -> &[u8] {
    word.strip_prefix(b"0x").unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_address() {
        let text = b"7f00 20 LazyCompile:~add /app/x.js:3\n8000 0x10 py::f:/x.py\n7f00 18 *add\nbad line\n9 9\n";
        let map = PerfMap::parse(text.to_vec());
        assert_eq!(map.lookup(0x7f04), Some((&b"*add"[..], 4)));
        assert_eq!(map.lookup(0x7f19), Some((&b"LazyCompile:~add /app/x.js:3"[..], 0x19)));
        assert_eq!(map.lookup(0x800f), Some((&b"py::f:/x.py"[..], 15)));
        assert_eq!((map.lookup(0x8010), map.lookup(0)), (None, None));
    }

    #[test]
    fn of_more_functions_than_are_kept_the_first_are() {
        let line = |n: usize| format!("{:x} 10 f{n}\n", n * 16);
        let map = PerfMap::parse((0..MOST_ENTRIES + 10).map(line).collect::<String>().into_bytes());
        assert!(map.truncated);
        assert_eq!(map.lookup(16 * 1000 + 3), Some((&b"f1000"[..], 3)));
        assert_eq!(map.lookup((MOST_ENTRIES as u64 + 5) * 16), None);
    }

    #[test]
    fn garbage_is_no_function() {
        for text in [&b""[..], b"\n\n", b"zz zz name", b"ffffffffffffffff ffffffffffffffff x", b"1 2"] {
            let map = PerfMap::parse(text.to_vec());
            let _ = map.lookup(u64::MAX);
            let _ = map.lookup(1);
        }
    }
}
