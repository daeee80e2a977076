//! `.gopclntab`: Go's table of functions, which strip(1) keeps because the runtime
//! needs it: their names, and of each instruction its source line, and how far the stack
//! pointer is from the return address. Source: Go's debug/gosym/pclntab.go,
//! runtime/symtab.go, runtime/runtime2.go and internal/abi/symtab.go, 1.18 and later.
//!
//! Nothing is copied: an address costs a binary search of some twenty small reads.

mod moduledata;

use agent_binaries::elf::{ElfFile, Extent, Section, Source, read_cstr, read_exact, read_vec};

/// Bytes of one function's name.
const MAX_NAME: usize = 4096;
/// Functions of one program: kubelet has some 100,000.
const MAX_FUNCTIONS: u64 = 1 << 22;
/// Bytes of one function's table of what its instructions have.
const MAX_TABLE: usize = 64 << 10;
/// `abi.Go118PCLnTabMagic`, with which the table begins.
const GO_1_18: u32 = 0xffff_fff0;
/// `abi.Go120PCLnTabMagic`.
const GO_1_20: u32 = 0xffff_fff1;
/// What follows: padding, the least length of an instruction, and the size of a pointer, of x86-64.
const KIND: [u8; 4] = [0, 0, 1, 8];
/// Bytes that are searched for a table that has no section.
const MAX_SEARCHED: u64 = 64 << 20;
/// Calls that are inlined into each other at one address.
const MAX_INLINED: usize = 64;
/// `abi.PCDATA_InlTreeIndex`: which inlined call an instruction is of.
const INLINED: u32 = 2;
/// `abi.FUNCDATA_InlTree`: the inlined calls of a function.
const INLINED_TREE: u8 = 3;
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
    /// Offset in the source of `go:func.*`, which what belongs to a function counts from.
    belongings: Option<u64>,
    /// Whether the target's memory had to say where something is.
    pub(crate) asked_memory: bool,
}

/// Reads the memory of the process that a module is mapped in.
pub(crate) struct Loaded<'m> {
    /// AVMA minus SVMA, wrapping.
    pub(crate) bias: u64,
    /// Fills the buffer from an AVMA on, and returns how many bytes were there.
    pub(crate) read: &'m dyn Fn(u64, &mut [u8]) -> usize,
}

/// One function.
#[derive(Debug, Clone, Copy)]
struct Function {
    /// Where it starts, from the start of the code on.
    start: u32,
    /// Where it is described in the table.
    description: u64,
}

/// Where an instruction stands in the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GoPlace {
    /// The function, of one that was inlined.
    pub(crate) function: Option<String>,
    /// Its file, as the compiler was given it.
    pub(crate) file: Option<String>,
    /// The line in it, from 1.
    pub(crate) line: Option<u32>,
}

/// Where an instruction stands in the source of its function, and of those that were inlined into it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GoPlaces {
    /// In those that were inlined, innermost first.
    pub(crate) inlined: Vec<GoPlace>,
    /// In the function itself: where the outermost of them was called, if there are any.
    pub(crate) own: GoPlace,
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
    /// The table of `elf`, if it has one of a version that is known. `loaded` is asked for what a position-independent
    /// file leaves to its start.
    pub(crate) fn of<S: Source>(elf: &ElfFile<S>, loaded: Option<&Loaded<'_>>) -> Option<Self> {
        let section = extent_of(elf)?;
        let mut header = [0; 72];
        read_exact(elf.source(), section.offset, &mut header).ok()?;
        let magic = u32::from_le_bytes(header[..4].try_into().ok()?);
        // Go 1.20 added where a function starts in its file; instructions of any length, and pointers of eight bytes.
        let flags_at = match magic {
            GO_1_18 => 37,
            GO_1_20 => 41,
            _ => return None,
        };
        if header[4..8] != KIND {
            return None;
        }
        let word = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let (count, text) = (word(8)?, word(24)?);
        let mut table = Self {
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
            belongings: None,
            asked_memory: false,
        };
        if count > MAX_FUNCTIONS || table.parts().iter().any(|part| *part >= table.size) {
            return None;
        }
        if let Some(found) = moduledata::find(elf, section.svma, &table, loaded) {
            (table.text, table.belongings) = (found.text, found.belongings);
            table.asked_memory = found.asked_memory;
        } else if text == 0 {
            // Since Go 1.27 the header does not say, and of a position-independent file it never did. Where Go's own
            // linker has made it, nothing else is in this section: the table ends where it ends.
            let code = elf.section(".text")?;
            let end = table.u32(elf.source(), table.functions.checked_add(count.checked_mul(8)?)?)?;
            if !(0..64).contains(&code.size.checked_sub(u64::from(end))?) {
                return None;
            }
            table.text = code.svma;
        }
        Some(table)
    }

    /// Offsets of its parts, in the order of the header.
    fn parts(&self) -> [u64; 5] {
        [self.names, self.units, self.files, self.values, self.functions]
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
        self.string(source, self.names, name)
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
            // What it calls on the scheduler's stack never comes back (runtime/asm_amd64.s): there is nothing above it.
            let is_mcall = self.name_of(source, function)? == "runtime.mcall";
            return is_mcall.then_some(GoFrame::Top);
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
    pub(crate) fn places(&self, source: &(impl Source + ?Sized), svma: u64) -> Option<GoPlaces> {
        let mut wanted = self.wanted(svma)?;
        let function = self.function(source, wanted)?;
        let mut inlined = Vec::new();
        loop {
            let mut place = self.place(source, function, wanted);
            let Some(call) = self.inlined_call(source, function, wanted) else {
                return Some(GoPlaces { inlined, own: place });
            };
            let call = call.and_then(|at| self.call(source, at)).filter(|_| inlined.len() < MAX_INLINED);
            let caller = call.as_ref().and_then(|(_, parent)| function.start.checked_add(*parent));
            place.function = call.map(|(name, _)| name);
            inlined.push(place);
            let Some(caller) = caller else {
                return Some(GoPlaces { inlined, own: GoPlace::default() });
            };
            wanted = caller;
        }
    }

    /// File and line of the code `wanted` bytes from the start.
    fn place(&self, source: &(impl Source + ?Sized), function: Function, wanted: u32) -> GoPlace {
        let value = |field| self.value(source, function, field, wanted).and_then(|value| u32::try_from(value).ok());
        // A file is the unit's, and the unit's are offsets of paths.
        let path = |file: u32| {
            let unit = self.u32(source, function.description.checked_add(32)?)?;
            let at = (u64::from(unit) + u64::from(file)) * 4;
            let path = self.u32(source, self.units.checked_add(at)?).filter(|path| *path != u32::MAX)?;
            self.string(source, self.files, path)
        };
        GoPlace { function: None, file: value(20).and_then(path), line: value(24).filter(|line| *line > 0) }
    }

    /// Whether the code `wanted` bytes from the start is of a call that was inlined, and offset in the source of what
    /// describes it, where that is known.
    fn inlined_call(&self, source: &(impl Source + ?Sized), function: Function, wanted: u32) -> Option<Option<u64>> {
        let tables = self.u32(source, function.description.checked_add(28)?)?;
        // Flags, padding, a count of the last, then the other tables, then what belongs to it.
        let first = self.flags_at + 3;
        if tables <= INLINED {
            return None;
        }
        let index = self.value(source, function, first + u64::from(INLINED) * 4, wanted)?;
        let index = u64::try_from(index).ok()?;
        let at = || {
            let [count] = self.read(source, function.description.checked_add(self.flags_at + 2)?)?;
            let place = first + u64::from(tables) * 4 + u64::from(INLINED_TREE) * 4;
            let at = (count > INLINED_TREE).then(|| self.u32(source, function.description.checked_add(place)?))??;
            let tree = self.belongings?.checked_add(u64::from(at)).filter(|_| at != u32::MAX)?;
            tree.checked_add(index * self.call_size())
        };
        Some(at())
    }

    /// Bytes of what describes an inlined call: `runtime.inlinedCall`, which Go 1.20 made smaller.
    fn call_size(&self) -> u64 {
        if self.flags_at == 37 { 20 } else { 16 }
    }

    /// The name of the inlined function that is described at the offset `at` in the source, and how far from the start of the
    /// function that it was inlined into an instruction of its caller is.
    fn call(&self, source: &(impl Source + ?Sized), at: u64) -> Option<(String, u32)> {
        let name_at = if self.flags_at == 37 { 12 } else { 4 };
        let mut words = [0; 8];
        read_exact(source, at.checked_add(name_at)?, &mut words).ok()?;
        let [name, parent] =
            [&words[..4], &words[4..]].map(|word| i32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let name = self.string(source, self.names, u32::try_from(name).ok()?)?;
        Some((name, u32::try_from(parent).ok()?))
    }

    /// The string `offset` bytes into one of its parts, if it is not empty.
    fn string(&self, source: &(impl Source + ?Sized), part: u64, offset: u32) -> Option<String> {
        let at = part.checked_add(u64::from(offset)).filter(|at| *at < self.size)?;
        read_cstr(source, self.start.checked_add(at)?, MAX_NAME).ok()?.filter(|text| !text.is_empty())
    }
}

/// Where the table of `elf` is. GNU's linker has it among other read-only data in a position-independent file, which
/// every Go program tells by its section with build information.
fn extent_of<S: Source>(elf: &ElfFile<S>) -> Option<Extent> {
    let extent = |section: &Section| Extent { svma: section.svma, offset: section.offset, size: section.size };
    if let Some(section) = [".gopclntab", ".data.rel.ro.gopclntab"].iter().find_map(|name| elf.section(name)) {
        return Some(extent(section));
    }
    let section = elf.section(".go.buildinfo").and_then(|_| elf.section(".data.rel.ro"))?;
    let mut piece = vec![0; 64 << 10];
    for at in (0..section.size.min(MAX_SEARCHED)).step_by(piece.len()) {
        let length = usize::try_from(section.size - at).map_or(piece.len(), |left| left.min(piece.len()));
        read_exact(elf.source(), section.offset.checked_add(at)?, &mut piece[..length]).ok()?;
        let is_start =
            |word: &[u8]| word[4..] == KIND && [GO_1_18, GO_1_20].iter().any(|magic| word[..4] == magic.to_le_bytes());
        if let Some(found) = piece[..length].chunks_exact(8).position(is_start) {
            let before = at + found as u64 * 8;
            let all = extent(section);
            return Some(Extent {
                svma: all.svma.checked_add(before)?,
                offset: all.offset.checked_add(before)?,
                size: all.size - before,
            });
        }
    }
    None
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

    /// Where the inlined calls of the table are described.
    const TREE: usize = 208;

    /// A table with a function at 0, of 16 bytes, in `a.go` and, where something is inlined, in `b.go`.
    fn table() -> (GoTable, Vec<u8>) {
        let mut bytes = vec![0; 256];
        let words = [
            // Where it starts, where it is described, where it ends.
            (0, 0),
            (4, 16),
            (8, 16),
            // Its tables of files and lines, how many others there are, its unit's first file, the table of what is inlined;
            // how many belongings it has, and where what is inlined is described.
            (36, 4),
            (40, 14),
            (44, 3),
            (48, 1),
            (56, 4 << 24),
            (68, 22),
            (84, TREE as u32),
            // The one that is inlined: its name, and its caller at 0.
            (TREE + 4, 2),
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
            belongings: None,
            asked_memory: false,
        };
        (table, bytes)
    }

    fn place(function: Option<&str>, file: Option<&str>, line: u32) -> GoPlace {
        GoPlace { function: function.map(str::to_owned), file: file.map(str::to_owned), line: Some(line) }
    }

    #[test]
    fn lines_are_read_as_go_writes_them() {
        let (mut table, bytes) = table();
        let places = |table: &GoTable, bytes: &[u8], at: u64| table.places(bytes, 0x1000 + at);
        let own = |own: GoPlace| Some(GoPlaces { inlined: Vec::new(), own });
        assert_eq!(places(&table, &bytes, 0), own(place(None, Some("a.go"), 7)));
        assert_eq!(places(&table, &bytes, 11), own(place(None, None, 8)), "a file that there is not");
        assert_eq!(places(&table, &bytes, 16), None);
        // Where what belongs to it is not known, there is a place and no name, and nothing of who called it.
        let nameless = || GoPlaces { inlined: vec![place(None, Some("b.go"), 30)], own: GoPlace::default() };
        assert_eq!(places(&table, &bytes, 5), Some(nameless()));
        table.belongings = Some(0);
        let named = |inlined: Vec<GoPlace>| Some(GoPlaces { inlined, own: place(None, Some("a.go"), 7) });
        assert_eq!(places(&table, &bytes, 5), named(vec![place(Some("go"), Some("b.go"), 30)]));
        // One that is called by itself, for ever.
        let mut cyclic = bytes.clone();
        cyclic[TREE + 8] = 5;
        let found = places(&table, &cyclic, 5).expect("places");
        assert!(found.inlined.len() == MAX_INLINED + 1 && found.own == GoPlace::default(), "{found:?}");
        // A caller that is before the function, and one that is behind it.
        for lie in [u32::MAX, 1 << 20] {
            let mut lies = bytes.clone();
            lies[TREE + 8..TREE + 12].copy_from_slice(&lie.to_le_bytes());
            let found = places(&table, &lies, 5).expect("places");
            assert!(found.own == GoPlace::default() && found.inlined.len() == 1, "{found:?}");
        }
        // What leads out of the table leads nowhere.
        for at in (0..TREE + 16).step_by(4) {
            for lie in [u32::MAX, u32::MAX - 7, 0x8000_0000, 300, 200] {
                let mut bytes = bytes.clone();
                bytes[at..at + 4].copy_from_slice(&lie.to_le_bytes());
                (0..17).for_each(|at| _ = places(&table, &bytes, at));
            }
        }
        for lie in [0, 200, 255, 256, u64::MAX - 3] {
            (table.units, table.files, table.values) = (lie, lie, lie);
            table.belongings = Some(lie);
            (0..17).for_each(|at| _ = places(&table, &bytes, at));
        }
    }

    #[test]
    fn garbage_has_no_value() {
        for table in [&[][..], &[0x80; 100], &[0xff; 6], &[2], &[0, 0, 0, 0]] {
            assert_eq!(value_at(table, 5), None);
        }
    }
}
