//! `.gopclntab`: Go's table of functions, which strip(1) keeps because the runtime
//! needs it: their names, and of each instruction its source line, and how far the stack
//! pointer is from the return address. Source: Go's debug/gosym/pclntab.go,
//! runtime/symtab.go, runtime/runtime2.go and internal/abi/symtab.go, 1.18 and later.
//!
//! Nothing is copied: an address costs a binary search of some twenty small reads.

use agent_binaries::elf::{ElfFile, Source, read_cstr, read_exact, read_vec};

/// Bytes of one function's name.
const MAX_NAME: usize = 4096;
/// Functions of one program: kubelet has some 100,000.
const MAX_FUNCTIONS: u64 = 1 << 22;
/// Bytes of one function's table of what its instructions have.
const MAX_TABLE: usize = 64 << 10;
/// `abi.PCDATA_InlTreeIndex`: which inlined call an instruction is of.
const INLINED: u32 = 2;
/// `abi.FuncFlagTopFrame`: nothing has called it.
const TOP_FRAME: u8 = 1;
/// `abi.FuncFlagSPWrite`: it moves to another stack.
const SP_WRITE: u8 = 2;

/// Where the parts of the table are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoTable {
    /// Offset in the source.
    start: u64,
    size: u64,
    count: u64,
    /// SVMA that the entries count from.
    text: u64,
    /// Offsets from the start of the table.
    names: u64,
    units: u64,
    files: u64,
    values: u64,
    functions: u64,
    /// Bytes of what describes a function before its flags.
    flags_at: u64,
}

/// One function.
#[derive(Debug, Clone, Copy)]
struct Function {
    /// Where it starts, from the start of the code on.
    start: u32,
    /// Where it is described in the table.
    description: u64,
}

/// The source of an instruction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GoPlace {
    /// Its file, as the compiler was given it.
    pub(crate) file: Option<String>,
    /// The line in it, from 1.
    pub(crate) line: Option<u32>,
    /// Whether it is of a function that was inlined there. Its name is in a table to which only the memory of
    /// the runtime leads.
    pub(crate) is_inlined: bool,
}

/// How a frame of Go is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoFrame {
    /// So many bytes above the stack pointer lies the return address.
    Size(u32),
    /// Nothing has called it.
    Top,
}

impl GoTable {
    /// The table of `elf`, if it has one of a version that is known.
    pub(crate) fn of<S: Source>(elf: &ElfFile<S>) -> Option<Self> {
        let section = [".gopclntab", ".data.rel.ro.gopclntab"].iter().find_map(|name| elf.section(name))?;
        let mut header = [0; 72];
        read_exact(elf.source(), section.offset, &mut header).ok()?;
        let magic = u32::from_le_bytes(header[..4].try_into().ok()?);
        // go1.18pcHeader and go1.20pcHeader, which added where a function starts in its file; instructions of any
        // length, and pointers of eight bytes.
        let flags_at = match magic {
            0xffff_fff0 => 37,
            0xffff_fff1 => 41,
            _ => return None,
        };
        if header[6..8] != [1, 8] {
            return None;
        }
        let word = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let (count, text) = (word(8)?, word(24)?);
        // A relocation fills it in: in the file it is zero.
        let text = if text == 0 { elf.section(".text")?.svma } else { text };
        let table = Self {
            start: section.offset,
            size: section.size,
            count,
            text,
            names: word(32)?,
            units: word(40)?,
            files: word(48)?,
            values: word(56)?,
            functions: word(64)?,
            flags_at,
        };
        let parts = [table.names, table.units, table.files, table.values, table.functions];
        (count <= MAX_FUNCTIONS && parts.iter().all(|part| *part < table.size)).then_some(table)
    }

    fn read<const N: usize>(&self, source: &(impl Source + ?Sized), at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let within = at.checked_add(N as u64)? <= self.size;
        read_exact(source, self.start.checked_add(at).filter(|_| within)?, &mut bytes).ok()?;
        Some(bytes)
    }

    fn u32(&self, source: &(impl Source + ?Sized), at: u64) -> Option<u32> {
        self.read(source, at).map(u32::from_le_bytes)
    }

    /// The function that holds the code `wanted` bytes from the start.
    fn function(&self, source: &(impl Source + ?Sized), wanted: u32) -> Option<Function> {
        // Entries are pairs: where the function starts, and where it is described. One
        // more start is the end of the last.
        let start = |at: u64| self.u32(source, self.functions.checked_add(at * 8)?);
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if start(middle)? <= wanted { low = middle + 1 } else { high = middle }
        }
        let at = low.checked_sub(1)?;
        if wanted >= start(at + 1)? {
            return None;
        }
        let description = u64::from(self.u32(source, self.functions.checked_add(at * 8 + 4)?)?);
        Some(Function { start: start(at)?, description: self.functions.checked_add(description)? })
    }

    fn wanted(&self, svma: u64) -> Option<u32> {
        u32::try_from(svma.checked_sub(self.text)?).ok()
    }

    fn name_of(&self, source: &(impl Source + ?Sized), function: Function) -> Option<String> {
        let name = self.u32(source, function.description.checked_add(4)?)?;
        let offset = self.names.checked_add(u64::from(name)).filter(|offset| *offset < self.size)?;
        let name = read_cstr(source, self.start.checked_add(offset)?, MAX_NAME).ok()??;
        (!name.is_empty()).then_some(name)
    }

    /// The name of the function that holds `svma`, and how far into it that is.
    pub(crate) fn lookup(&self, source: &(impl Source + ?Sized), svma: u64) -> Option<(String, u64)> {
        let wanted = self.wanted(svma)?;
        let function = self.function(source, wanted)?;
        Some((self.name_of(source, function)?, u64::from(wanted - function.start)))
    }

    /// How the frame of the code at `svma` is left; `None` where the table does not say, or the function moves to
    /// another stack.
    pub(crate) fn frame(&self, source: &(impl Source + ?Sized), svma: u64) -> Option<GoFrame> {
        let wanted = self.wanted(svma)?;
        let function = self.function(source, wanted)?;
        let [flags] = self.read(source, function.description.checked_add(self.flags_at)?)?;
        // What the kernel calls for a signal is a top frame for Go, and not for us: its return address is that of the
        // trampoline.
        if flags & TOP_FRAME != 0 && !self.name_of(source, function)?.ends_with("sigtramp") {
            return Some(GoFrame::Top);
        }
        if flags & SP_WRITE != 0 {
            return None;
        }
        let distance = self.value(source, function, 16, wanted)?;
        u32::try_from(distance).ok().map(GoFrame::Size)
    }

    /// What the function's table has for `wanted` whose place is `field` bytes into what describes it.
    fn value(&self, source: &(impl Source + ?Sized), function: Function, field: u64, wanted: u32) -> Option<i32> {
        let at = u64::from(self.u32(source, function.description.checked_add(field)?)?);
        // There is nothing at 0, where a function has none.
        let at = self.values.checked_add(at).filter(|_| at != 0)?;
        let most = usize::try_from(self.size.checked_sub(at)?).ok()?.min(MAX_TABLE);
        // A few bytes are enough for nearly all of them.
        [256.min(most), most].into_iter().find_map(|most| {
            let table = read_vec(source, self.start.checked_add(at)?, most).ok()?;
            value_at(&table, wanted - function.start)
        })
    }

    /// Where the code at `svma` stands in the source.
    pub(crate) fn place(&self, source: &(impl Source + ?Sized), svma: u64) -> Option<GoPlace> {
        let wanted = self.wanted(svma)?;
        let function = self.function(source, wanted)?;
        let number = |field| self.u32(source, function.description.checked_add(field)?);
        let line = self.value(source, function, 24, wanted).and_then(|line| u32::try_from(line).ok());
        // Flags, padding, a count, and then the other tables.
        let inlined = self.flags_at + 3 + u64::from(INLINED) * 4;
        let has_inlined = number(28)? > INLINED;
        let index = if has_inlined { self.value(source, function, inlined, wanted) } else { None };
        // A file is the unit's, and the unit's are offsets of paths.
        let file = self.value(source, function, 20, wanted).and_then(|file| u32::try_from(file).ok());
        let file = file.and_then(|file| {
            let at = (u64::from(number(32)?) + u64::from(file)) * 4;
            let path = self.u32(source, self.units.checked_add(at)?).filter(|path| *path != u32::MAX)?;
            let at = self.files.checked_add(u64::from(path)).filter(|at| *at < self.size)?;
            read_cstr(source, self.start.checked_add(at)?, MAX_NAME).ok()?.filter(|path| !path.is_empty())
        });
        Some(GoPlace { file, line: line.filter(|line| *line > 0), is_inlined: index.is_some_and(|index| index >= 0) })
    }
}

/// The value at `wanted` bytes from the start of a function: pairs of how much it changes, and for how many bytes it
/// holds then.
fn value_at(table: &[u8], wanted: u32) -> Option<i32> {
    let mut rest = table.iter();
    let mut varint = || {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let byte = *rest.next()?;
            value |= u32::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    let (mut value, mut end) = (-1_i32, 0_u32);
    loop {
        let change = varint()?;
        if change == 0 && end != 0 {
            return None;
        }
        // Zigzag: the sign is in the lowest bit.
        value = value.wrapping_add(((change >> 1) as i32) ^ -((change & 1) as i32));
        end = end.checked_add(varint()?)?;
        if wanted < end {
            return Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_read_as_go_writes_them() {
        // 0 for 4 bytes, 8 for 3 bytes, 200 for 300 bytes, 0 for one.
        let table = [2, 4, 16, 3, 0x80, 3, 0xac, 2, 0x8f, 3, 1, 0];
        let at = |wanted| value_at(&table, wanted);
        assert_eq!((at(0), at(3), at(4), at(6)), (Some(0), Some(0), Some(8), Some(8)));
        assert_eq!((at(7), at(306), at(307), at(308)), (Some(200), Some(200), Some(0), None));
    }

    /// A table with a function at 0, of 16 bytes, in `a.go` and, where something is inlined, in `b.go`.
    fn table() -> (GoTable, Vec<u8>) {
        let mut bytes = vec![0; 256];
        let words = [
            // Where it starts, where it is described, where it ends.
            (0, 0),
            (4, 16),
            (8, 16),
            // Its tables of files and lines, how many others there are, its unit's first file, the table of what is inlined.
            (36, 4),
            (40, 14),
            (44, 3),
            (48, 1),
            (68, 22),
            // Files: one of another unit, and three, of which the last has no path.
            (100, 99),
            (104, 0),
            (108, 5),
            (112, u32::MAX),
        ];
        words.into_iter().for_each(|(at, word)| bytes[at..at + 4].copy_from_slice(&word.to_le_bytes()));
        for (at, part) in [
            (120, &b"a.go\0b.go\0"[..]),
            // Files 0 and 1 for four bytes each, and 2 for eight; lines 7, 30 and 8; the second is inlined.
            (154, &[2, 4, 2, 4, 2, 8, 0]),
            (164, &[16, 4, 46, 4, 43, 8, 0]),
            (172, &[0, 4, 2, 4, 1, 8, 0]),
        ] {
            bytes[at..at + part.len()].copy_from_slice(part);
        }
        let table = GoTable {
            start: 0,
            size: 256,
            count: 1,
            text: 0x1000,
            names: 120,
            units: 100,
            files: 120,
            values: 150,
            functions: 0,
            flags_at: 41,
        };
        (table, bytes)
    }

    #[test]
    fn lines_are_read_as_go_writes_them() {
        let (mut table, bytes) = table();
        let place = |table: &GoTable, bytes: &[u8], at: u64| {
            let place = table.place(bytes, 0x1000 + at)?;
            Some((place.file, place.line, place.is_inlined))
        };
        let file = |name: &str| Some(name.to_owned());
        assert_eq!(place(&table, &bytes, 0), Some((file("a.go"), Some(7), false)));
        assert_eq!(place(&table, &bytes, 5), Some((file("b.go"), Some(30), true)));
        assert_eq!(place(&table, &bytes, 11), Some((None, Some(8), false)), "a file that there is not");
        assert_eq!(place(&table, &bytes, 16), None);
        // What leads out of the table leads nowhere.
        for at in (0..160).step_by(4) {
            for lie in [u32::MAX, u32::MAX - 7, 0x8000_0000, 300, 200] {
                let mut bytes = bytes.clone();
                bytes[at..at + 4].copy_from_slice(&lie.to_le_bytes());
                (0..17).for_each(|at| _ = place(&table, &bytes, at));
            }
        }
        for lie in [0, 200, 255, 256, u64::MAX - 3] {
            (table.units, table.files, table.values) = (lie, lie, lie);
            (0..17).for_each(|at| _ = place(&table, &bytes, at));
        }
    }

    #[test]
    fn garbage_has_no_value() {
        for table in [&[][..], &[0x80; 100], &[0xff; 6], &[2], &[0, 0, 0, 0]] {
            assert_eq!(value_at(table, 5), None);
        }
    }
}
