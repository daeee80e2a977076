//! Function symbols, for naming addresses.
//!
//! One pass over `.symtab` (over `.dynsym` in a stripped file, over what
//! `PT_DYNAMIC` names where there are no section headers) keeps 8 bytes a
//! function: where it starts, and which entry it is. All else stays in the file and
//! is read for the addresses that are asked about, so the table of a browser costs
//! megabytes and not hundreds.

use std::cmp::Reverse;

use goblin::container::Ctx;
use goblin::elf::section_header::{self, SHF_EXECINSTR};
use goblin::elf::sym::{self, Sym};
use scroll::Pread;
use scroll::ctx::SizeWith;

use super::dynamic::Dynamic;
use super::facts::{Machine, Part, Problem, Problems, Section};
use super::links::read_uint;
use super::source::{Source, read_cstr, read_exact, read_vec};
use super::{ElfFile, Image, MAX_SYMBOL_ENTRIES, MAX_SYMBOL_NAME, MAX_SYMBOLS};

/// Which table the symbols come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymbolOrigin {
    /// `.symtab`: all functions, the local ones too.
    Symtab,
    /// `.dynsym`: what the module exports. A local function between two
    /// exported ones has no name here.
    Dynsym,
    /// The table that `PT_DYNAMIC` names: the same content as `.dynsym`.
    Dynamic,
    /// There is none.
    None,
}

impl SymbolOrigin {
    /// The word for it in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Symtab => "symtab",
            Self::Dynsym => "dynsym",
            Self::Dynamic => "dynamic",
            Self::None => "none",
        }
    }
}

/// The function that an address lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The name as in the file: see [`crate::demangle`].
    pub name: String,
    /// The SVMA where the function starts.
    pub svma: u64,
    /// How far the address lies behind it, bytes.
    pub offset: u64,
    /// The size of the function in bytes; zero where the file does not say
    /// (hand-written assembly).
    pub size: u32,
}

/// One function, as it is kept: the order of these is that of the addresses, and of
/// the file where two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Start {
    /// From the table's base on.
    at: u32,
    /// Its number in the symbol table.
    number: u32,
}

/// One function, as it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    svma: u64,
    name: u32,
    size: u32,
    /// 0 local, 1 weak, 2 global.
    binding: u8,
}

impl Entry {
    fn new(symbol: &Sym, svma: u64) -> Self {
        let binding = match sym::st_bind(symbol.st_info) {
            sym::STB_LOCAL => 0,
            sym::STB_WEAK => 1,
            _ => 2,
        };
        let size = u32::try_from(symbol.st_size).unwrap_or(u32::MAX);
        Self { svma, name: u32::try_from(symbol.st_name).unwrap_or(0), size, binding }
    }

    fn contains(self, svma: u64) -> bool {
        svma >= self.svma && svma - self.svma < u64::from(self.size)
    }
}

/// The function symbols of one module, sorted by SVMA.
#[derive(Clone, Debug)]
pub struct SymbolTable {
    starts: Vec<Start>,
    /// What the starts count from (SVMA).
    base: u64,
    /// Offset in the source of the symbol table.
    symbols: u64,
    context: Ctx,
    /// Bits of an address that are no part of it.
    flags: u64,
    /// Offset in the source and size of the string table.
    strings: (u64, u64),
    /// The executable sections (or segments), which a symbol without a size
    /// reaches to the end of.
    code: Vec<(u64, u64)>,
    longest: u64,
    origin: SymbolOrigin,
    truncated: bool,
    problems: Vec<Problem>,
}

/// Entries that one lookup looks at: aliases, and what lies inside the
/// function that it is looking for.
const MAX_STEPS: usize = 512;
/// Names of equal rank that one lookup reads.
const MAX_ALIASES: usize = 16;

impl SymbolTable {
    /// How many function symbols there are, aliases included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// True where there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Which table they come from.
    #[must_use]
    pub fn origin(&self) -> SymbolOrigin {
        self.origin
    }

    /// True where a limit cut the table: an address may then lack its name.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// What could not be read as the file says it should be.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The function that `svma` lies in, its name read from the file that the
    /// table was made from.
    ///
    /// The nearest function that contains the address wins, as in eu-addr2line.
    /// A symbol without a size (assembly) counts up to the next symbol of its
    /// section, and only where no function with a size contains the address.
    ///
    /// One address often has several names. Here the order is: not local before
    /// local, fewer leading underscores, global before weak, shorter, then by
    /// the alphabet: `poll` and not `__poll` (eu-stack) or `__GI___poll` (gdb
    /// with debug information). All tools agree on the address.
    #[must_use]
    pub fn lookup<S: Source>(&self, elf: &ElfFile<S>, svma: u64) -> Option<Symbol> {
        let source = elf.source();
        let group = self.find(source, svma)?;
        let best = group.iter().map(|entry| entry.binding.min(1)).max()?;
        group
            .iter()
            .filter(|entry| entry.binding.min(1) == best)
            .take(MAX_ALIASES)
            .filter_map(|entry| Some((self.name(source, *entry)?, *entry)))
            .min_by_key(|(name, entry)| {
                let underscores = name.bytes().take_while(|byte| *byte == b'_').count();
                (underscores, Reverse(entry.binding), name.len(), name.clone())
            })
            .map(|(name, entry)| Symbol { name, svma: entry.svma, offset: svma - entry.svma, size: entry.size })
    }

    /// The entries at one address that name `svma`: the nearest that contain it,
    /// else the nearest one without a size.
    fn find<S: Source>(&self, source: &S, svma: u64) -> Option<Vec<Entry>> {
        let wanted = svma.checked_sub(self.base)?;
        let end = self.starts.partition_point(|start| u64::from(start.at) <= wanted);
        let before = || self.starts[..end].iter().rev();
        let last = before().next()?.at;
        let entries = |at: u32| -> Vec<Entry> {
            let same = before().skip_while(|start| start.at > at).take_while(|start| start.at == at);
            same.take(MAX_STEPS).filter_map(|start| self.entry(source, *start)).collect()
        };
        let nearest = self.base + u64::from(last);
        let mut sizeless = true;
        for start in before().take(MAX_STEPS) {
            let Some(entry) = self.entry(source, *start) else { continue };
            if entry.contains(svma) {
                let mut same = entries(start.at);
                same.retain(|other| other.contains(svma));
                return Some(same);
            }
            // The nearest have no size; and a label inside another function ends with it.
            sizeless &= if start.at == last { entry.size == 0 } else { !entry.contains(nearest) };
            if start.at != last && svma - entry.svma > self.longest {
                break;
            }
        }
        let section = |at: u64| self.code.iter().position(|(start, end)| (*start..*end).contains(&at));
        let together = section(svma).is_some() && section(svma) == section(nearest);
        (sizeless && together).then(|| entries(last))
    }

    /// Reads one entry again.
    fn entry<S: Source>(&self, source: &S, start: Start) -> Option<Entry> {
        let mut bytes = [0; sym::sym64::SIZEOF_SYM];
        let size = Sym::size_with(&self.context);
        let bytes = bytes.get_mut(..size)?;
        read_exact(source, self.symbols.checked_add(u64::from(start.number) * size as u64)?, bytes).ok()?;
        let symbol = bytes.pread_with::<Sym>(0, self.context).ok()?;
        let entry = Entry::new(&symbol, symbol.st_value & !self.flags);
        // The file may have been written to since.
        (entry.svma == self.base + u64::from(start.at)).then_some(entry)
    }

    fn name<S: Source>(&self, source: &S, entry: Entry) -> Option<String> {
        let (start, size) = self.strings;
        let rest = size.checked_sub(u64::from(entry.name)).filter(|rest| *rest > 0)?;
        let limit = usize::try_from(rest).unwrap_or(usize::MAX).min(MAX_SYMBOL_NAME);
        let offset = start.checked_add(u64::from(entry.name))?;
        let name = read_cstr(source, offset, limit).ok().flatten()?;
        (!name.is_empty()).then_some(name)
    }
}

/// Where a symbol table and its strings are in the source.
pub(super) struct Place {
    pub(super) origin: SymbolOrigin,
    pub(super) offset: u64,
    pub(super) count: u64,
    pub(super) strings: (u64, u64),
}

pub(super) fn read<S: Source>(image: &Image<'_, S>, dynamic: &Dynamic, most: usize) -> SymbolTable {
    let mut problems = Problems::default();
    let lowest = image.segments.iter().filter(|segment| segment.is_load()).map(|segment| segment.svma).min();
    let mut table = SymbolTable {
        starts: Vec::new(),
        base: lowest.unwrap_or(0),
        symbols: 0,
        context: image.context,
        // Bit 0 of an Arm function says "Thumb" and is no part of its address.
        flags: u64::from(image.machine == Machine::ARM),
        strings: (0, 0),
        code: code_ranges(image),
        longest: 0,
        origin: SymbolOrigin::None,
        truncated: false,
        problems: Vec::new(),
    };
    let places = [
        from_section(image, section_header::SHT_SYMTAB, SymbolOrigin::Symtab, &mut problems),
        from_section(image, section_header::SHT_DYNSYM, SymbolOrigin::Dynsym, &mut problems),
        if image.sections.is_empty() { from_dynamic(image, dynamic, &mut problems) } else { None },
    ];
    for place in places.into_iter().flatten() {
        table.origin = place.origin;
        table.strings = place.strings;
        table.symbols = place.offset;
        fill(image, &place, most.min(MAX_SYMBOLS), &mut table, &mut problems);
        if !table.starts.is_empty() {
            break;
        }
    }
    table.starts.sort_unstable();
    table.starts.shrink_to_fit();
    table.problems = problems.0;
    table
}

fn fill<S: Source>(image: &Image<'_, S>, place: &Place, most: usize, table: &mut SymbolTable, problems: &mut Problems) {
    const BLOCK: u64 = 4096;
    let size = Sym::size_with(&image.context);
    let count = place.count.min(MAX_SYMBOL_ENTRIES);
    table.truncated = count < place.count;
    // Where functions are named by labels alone (NOTYPE), only those in code.
    let executable: Vec<bool> = image.sections.iter().map(is_code).collect();
    let in_code = |symbol: &Sym, code: &[(u64, u64)]| {
        if executable.is_empty() {
            return code.iter().any(|(start, end)| (*start..*end).contains(&symbol.st_value));
        }
        let index = symbol.st_shndx.wrapping_sub(1);
        executable.get(index).copied().unwrap_or(false)
    };
    let mut done = 0;
    while done < count {
        let block = (count - done).min(BLOCK);
        let wanted = block as usize * size;
        let offset = place.offset.saturating_add(done * size as u64);
        let bytes = match read_vec(image.source, offset, wanted) {
            Ok(bytes) => bytes,
            Err(error) => {
                return problems.add(Part::Symbols, format!("at offset {offset}: {error}"));
            }
        };
        for (number, chunk) in (done..).zip(bytes.chunks_exact(size)) {
            let Ok(symbol) = chunk.pread_with::<Sym>(0, image.context) else {
                continue;
            };
            let is_function = match sym::st_type(symbol.st_info) {
                sym::STT_FUNC | sym::STT_GNU_IFUNC => true,
                sym::STT_NOTYPE => in_code(&symbol, &table.code),
                _ => false,
            };
            let is_defined = symbol.st_shndx != section_header::SHN_UNDEF as usize;
            let entry = Entry::new(&symbol, symbol.st_value & !table.flags);
            if !is_function || !is_defined || entry.name == 0 {
                continue;
            }
            let at = entry.svma.checked_sub(table.base).and_then(|at| u32::try_from(at).ok());
            let (Some(at), Ok(number)) = (at, u32::try_from(number)) else { continue };
            if table.starts.len() >= most {
                table.truncated = true;
                return;
            }
            table.starts.push(Start { at, number });
            table.longest = table.longest.max(u64::from(entry.size));
        }
        if bytes.len() < wanted {
            let there = done + (bytes.len() / size) as u64;
            return problems.add(Part::Symbols, format!("{there} of {count} entries, then the file ends"));
        }
        done += block;
    }
}

fn is_code(section: &Section) -> bool {
    section.flags & u64::from(SHF_EXECINSTR) != 0
}

fn code_ranges<S: Source>(image: &Image<'_, S>) -> Vec<(u64, u64)> {
    let sections = image.sections.iter().filter(|section| is_code(section) && section.svma != 0);
    let mut ranges: Vec<_> =
        sections.map(|section| (section.svma, section.svma.saturating_add(section.size))).collect();
    if ranges.is_empty() {
        let loads = image.segments.iter().filter(|segment| segment.is_load() && segment.is_executable());
        ranges = loads.map(|segment| (segment.svma, segment.svma.saturating_add(segment.mem_size))).collect();
    }
    // More than these has no linker made; each costs a comparison a symbol.
    ranges.truncate(64);
    ranges
}

pub(super) fn from_section<S: Source>(
    image: &Image<'_, S>,
    kind: u32,
    origin: SymbolOrigin,
    problems: &mut Problems,
) -> Option<Place> {
    let section = image.sections.iter().find(|section| section.kind == kind && section.size > 0)?;
    let size = Sym::size_with(&image.context) as u64;
    if section.entry_size != size {
        problems.add(Part::Symbols, format!("{}: entries of {} bytes, not {size}", section.name, section.entry_size));
    }
    // The list lacks the null section, so index 1 is the first.
    let index = (section.link as usize).checked_sub(1);
    let Some(strings) = index.and_then(|index| image.sections.get(index)) else {
        problems.add(Part::Symbols, format!("{}: no string table {}", section.name, section.link));
        return None;
    };
    Some(Place { origin, offset: section.offset, count: section.size / size, strings: (strings.offset, strings.size) })
}

/// The symbol table of `PT_DYNAMIC` has no size: its hash tables know how many
/// symbols there are.
pub(super) fn from_dynamic<S: Source>(
    image: &Image<'_, S>,
    dynamic: &Dynamic,
    problems: &mut Problems,
) -> Option<Place> {
    let symbols = dynamic.symbol_table?;
    let (strings, string_size) = dynamic.strings?;
    let count = count_from_hash(image, dynamic).or_else(|| count_from_gnu_hash(image, dynamic)).or_else(|| {
        // Linkers put the strings behind the symbols.
        strings.checked_sub(symbols).map(|bytes| bytes / Sym::size_with(&image.context) as u64)
    });
    let place = count.and_then(|count| {
        let (offset, strings) = (image.offset_of(symbols)?, image.offset_of(strings)?);
        Some(Place { origin: SymbolOrigin::Dynamic, offset, count, strings: (strings, string_size) })
    });
    if place.is_none() {
        problems.add(Part::Symbols, "the number of dynamic symbols is not to be found");
    }
    place
}

/// `DT_HASH`: `nbucket`, `nchain`; there is one chain entry a symbol.
fn count_from_hash<S: Source>(image: &Image<'_, S>, dynamic: &Dynamic) -> Option<u64> {
    let offset = image.offset_of(dynamic.hash?)?;
    read_uint(image, offset.checked_add(4)?, 4)
}

/// `DT_GNU_HASH`: `nbuckets`, `symoffset`, `bloom_size`, `bloom_shift`, the
/// bloom words, the buckets, the chains. The last symbol is the end of the chain
/// of the highest bucket; bit 0 marks an end.
fn count_from_gnu_hash<S: Source>(image: &Image<'_, S>, dynamic: &Dynamic) -> Option<u64> {
    let offset = image.offset_of(dynamic.gnu_hash?)?;
    let word = |at: u64| read_uint(image, offset.checked_add(at)?, 4);
    let (buckets, first, bloom) = (word(0)?, word(4)?, word(8)?);
    let bucket_start = 16 + bloom * image.context.size() as u64;
    if buckets > MAX_SYMBOL_ENTRIES {
        return None;
    }
    let bytes = read_vec(image.source, offset.checked_add(bucket_start)?, buckets as usize * 4).ok()?;
    let decode = |chunk: &[u8]| {
        let word: [u8; 4] = chunk.try_into().ok()?;
        Some(if image.context.is_little_endian() { u32::from_le_bytes(word) } else { u32::from_be_bytes(word) })
    };
    let last = bytes.chunks_exact(4).filter_map(decode).max().map(u64::from)?;
    if last < first {
        return Some(first);
    }
    let chains = bucket_start + buckets * 4;
    (last..MAX_SYMBOL_ENTRIES).find_map(|index| match word(chains + (index - first) * 4) {
        Some(hash) if hash & 1 == 0 => None,
        Some(_) => Some(Some(index + 1)),
        None => Some(None),
    })?
}
