//! Function symbols, for naming addresses.
//!
//! One pass over `.symtab` (over `.dynsym` in a stripped file, over what
//! `PT_DYNAMIC` names where there are no section headers) keeps 16 bytes a
//! function. Names stay in the file and are read for the addresses that are
//! asked about, so the table of a browser costs megabytes and not hundreds.

use std::cmp::Reverse;

use goblin::elf::section_header::{self, SHF_EXECINSTR};
use goblin::elf::sym::{self, Sym};
use scroll::Pread;
use scroll::ctx::SizeWith;

use super::dynamic::Dynamic;
use super::facts::{Machine, Part, Problem, Problems, Section};
use super::links::read_uint;
use super::source::{Source, read_cstr, read_vec};
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

/// One function: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    svma: u64,
    name: u32,
    /// The size in the low 30 bits, saturating; the binding in the high 2.
    packed: u32,
}

impl Entry {
    const SIZE: u32 = (1 << 30) - 1;

    fn new(svma: u64, size: u64, name: u32, binding: u8) -> Self {
        let rank = match binding {
            sym::STB_LOCAL => 0,
            sym::STB_WEAK => 1,
            _ => 2,
        };
        let size = u32::try_from(size).unwrap_or(Self::SIZE).min(Self::SIZE);
        Self { svma, name, packed: rank << 30 | size }
    }

    fn size(self) -> u32 {
        self.packed & Self::SIZE
    }

    fn binding(self) -> u32 {
        self.packed >> 30
    }

    fn contains(self, svma: u64) -> bool {
        svma >= self.svma && svma - self.svma < u64::from(self.size())
    }
}

/// The function symbols of one module, sorted by SVMA.
#[derive(Clone, Debug)]
pub struct SymbolTable {
    entries: Vec<Entry>,
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
        self.entries.len()
    }

    /// True where there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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
        let group = self.find(svma)?;
        let best = group.iter().map(|entry| entry.binding().min(1)).max()?;
        group
            .iter()
            .filter(|entry| entry.binding().min(1) == best)
            .take(MAX_ALIASES)
            .filter_map(|entry| Some((self.name(elf.source(), *entry)?, *entry)))
            .min_by_key(|(name, entry)| {
                let underscores = name.bytes().take_while(|byte| *byte == b'_').count();
                (underscores, Reverse(entry.binding()), name.len(), name.clone())
            })
            .map(|(name, entry)| Symbol { name, svma: entry.svma, offset: svma - entry.svma, size: entry.size() })
    }

    /// The entries at one address that name `svma`: the nearest that contain it,
    /// else the nearest one without a size.
    fn find(&self, svma: u64) -> Option<Vec<Entry>> {
        let end = self.entries.partition_point(|entry| entry.svma <= svma);
        let before = &self.entries[..end];
        let nearest = before.last()?.svma;
        let mut sizeless = before
            .iter()
            .rev()
            .take_while(|entry| entry.svma == nearest)
            .take(MAX_STEPS)
            .all(|entry| entry.size() == 0);
        for entry in before.iter().rev().take(MAX_STEPS) {
            if entry.contains(svma) {
                let same = before.iter().rev().skip_while(|other| other.svma > entry.svma);
                let same = same.take_while(|other| other.svma == entry.svma).take(MAX_STEPS);
                return Some(same.filter(|other| other.contains(svma)).copied().collect());
            }
            // A label inside another function ends with that function.
            sizeless &= !(entry.svma < nearest && entry.contains(nearest));
            if svma - entry.svma > self.longest {
                break;
            }
        }
        let section = |at: u64| self.code.iter().position(|(start, end)| (*start..*end).contains(&at));
        let together = section(svma).is_some() && section(svma) == section(nearest);
        (sizeless && together)
            .then(|| before.iter().rev().take_while(|entry| entry.svma == nearest).take(MAX_STEPS).copied().collect())
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

pub(super) fn read<S: Source>(image: &Image<'_, S>, dynamic: &Dynamic) -> SymbolTable {
    let mut problems = Problems::default();
    let mut table = SymbolTable {
        entries: Vec::new(),
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
        fill(image, &place, &mut table, &mut problems);
        if !table.entries.is_empty() {
            break;
        }
    }
    // Stable: entries at one address stay in the order of the file.
    table.entries.sort_by_key(|entry| entry.svma);
    table.entries.shrink_to_fit();
    table.longest = table.entries.iter().map(|entry| u64::from(entry.size())).max().unwrap_or(0);
    table.problems = problems.0;
    table
}

fn fill<S: Source>(image: &Image<'_, S>, place: &Place, table: &mut SymbolTable, problems: &mut Problems) {
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
    // Bit 0 of an Arm function says "Thumb" and is no part of its address.
    let thumb = u64::from(image.machine == Machine::ARM);
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
        for chunk in bytes.chunks_exact(size) {
            let Ok(symbol) = chunk.pread_with::<Sym>(0, image.context) else {
                continue;
            };
            let is_function = match sym::st_type(symbol.st_info) {
                sym::STT_FUNC | sym::STT_GNU_IFUNC => true,
                sym::STT_NOTYPE => in_code(&symbol, &table.code),
                _ => false,
            };
            let is_defined = symbol.st_shndx != section_header::SHN_UNDEF as usize;
            let name = u32::try_from(symbol.st_name).unwrap_or(0);
            if !is_function || !is_defined || name == 0 {
                continue;
            }
            if table.entries.len() == MAX_SYMBOLS {
                table.truncated = true;
                return;
            }
            let svma = symbol.st_value & !thumb;
            table.entries.push(Entry::new(svma, symbol.st_size, name, sym::st_bind(symbol.st_info)));
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
