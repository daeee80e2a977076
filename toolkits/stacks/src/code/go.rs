//! `.gopclntab`: Go's table of functions, which strip(1) keeps because the runtime
//! needs it. Source: Go's debug/gosym/pclntab.go and internal/abi, 1.18 and later.
//!
//! Nothing is copied: an address costs a binary search of some twenty small reads.

use agent_binaries::elf::{ElfFile, Source, read_cstr, read_exact};

/// Bytes of one function's name.
const MAX_NAME: usize = 4096;
/// Functions of one program: kubelet has some 100,000.
const MAX_FUNCTIONS: u64 = 1 << 22;

/// Where the parts of the table are.
#[derive(Debug)]
pub(super) struct GoTable {
    /// Offset in the source.
    start: u64,
    size: u64,
    count: u64,
    /// SVMA that the entries count from.
    text: u64,
    /// Offsets from the start of the table.
    names: u64,
    functions: u64,
}

impl GoTable {
    /// The table of `elf`, if it has one of a version that is known.
    pub(super) fn of<S: Source>(elf: &ElfFile<S>) -> Option<Self> {
        let section = [".gopclntab", ".data.rel.ro.gopclntab"].iter().find_map(|name| elf.section(name))?;
        let mut header = [0; 72];
        read_exact(elf.source(), section.offset, &mut header).ok()?;
        let magic = u32::from_le_bytes(header[..4].try_into().ok()?);
        // go1.18pcHeader and go1.20pcHeader; the pointers have eight bytes.
        if !matches!(magic, 0xffff_fff0 | 0xffff_fff1) || header[7] != 8 {
            return None;
        }
        let word = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let (count, text) = (word(8)?, word(24)?);
        // A relocation fills it in: in the file it is zero.
        let text = if text == 0 { elf.section(".text")?.svma } else { text };
        let table =
            Self { start: section.offset, size: section.size, count, text, names: word(32)?, functions: word(64)? };
        (count <= MAX_FUNCTIONS && table.names < table.size && table.functions < table.size).then_some(table)
    }

    /// The name of the function that holds `svma`, and how far into it that is.
    pub(super) fn lookup<S: Source>(&self, elf: &ElfFile<S>, svma: u64) -> Option<(String, u64)> {
        let wanted = u32::try_from(svma.checked_sub(self.text)?).ok()?;
        // Entries are pairs: where the function starts, and where it is described. One
        // more start is the end of the last.
        let pair = |at: u64| {
            let mut bytes = [0; 8];
            let offset = self.functions + at * 8;
            read_exact(elf.source(), self.start + offset, &mut bytes).ok()?;
            let half = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
            Some((half(0)?, half(4)?))
        };
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if pair(middle)?.0 <= wanted { low = middle + 1 } else { high = middle }
        }
        let at = low.checked_sub(1)?;
        let (start, description) = pair(at)?;
        // Of the end there is only the start.
        let mut end = [0; 4];
        read_exact(elf.source(), self.start + self.functions + (at + 1) * 8, &mut end).ok()?;
        if wanted >= u32::from_le_bytes(end) {
            return None;
        }
        let mut name = [0; 4];
        let place = self.functions.checked_add(u64::from(description))?.checked_add(4)?;
        if place >= self.size {
            return None;
        }
        read_exact(elf.source(), self.start + place, &mut name).ok()?;
        let offset = self.names.checked_add(u64::from(u32::from_le_bytes(name)))?;
        let name = read_cstr(elf.source(), self.start.checked_add(offset)?, MAX_NAME).ok()??;
        (offset < self.size && !name.is_empty()).then_some((name, u64::from(wanted - start)))
    }
}
