//! Source lines and inlined functions, from DWARF: the one unit that an address lies in
//! is read, and of the others no more than where they are.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use agent_binaries::elf::{ElfFile, Section as Header, read_vec};
use agent_binaries::mapped::Image;
use agent_model::{Gap, Text};
use gimli::{AttributeValue, DebugInfoOffset, Dwarf, Reader as _, SectionId, Unit, UnitOffset};

use super::names::{cut, shown};
use super::section::{Bytes, Pages, Section};
use super::units::Units;
use crate::frame::Inlined;

/// Bytes of debug sections of one module, as they are in the file, and when they are not compressed.
const MOST_PACKED: u64 = 4 << 30;
const MOST_UNPACKED: u64 = 512 << 20;
/// Functions that one address can be inlined through.
const MOST_INLINED: usize = 64;
/// References from one description of a function to the next, until one has its name.
const MOST_ORIGINS: usize = 16;
/// Units that are looked at for one address, where several say that it is theirs.
const MOST_UNITS: usize = 4;
/// Units that are kept as they were parsed.
const KEPT_UNITS: usize = 4;
/// SHF_COMPRESSED.
const COMPRESSED: u64 = 0x800;
/// SHT_NOBITS.
const NOBITS: u32 = 8;
/// ELFCOMPRESS_ZLIB.
const ZLIB: u32 = 1;
/// ELFCOMPRESS_ZSTD.
const ZSTD: u32 = 2;

/// The lines of one module.
pub(super) struct Lines<'r> {
    dwarf: Arc<Dwarf<Bytes<'r>>>,
    /// Of the file with what several modules have in common.
    alternate: Option<Box<Lines<'r>>>,
    /// What is to be said where that is needed, and is not there.
    without_alternate: Option<Gap>,
    /// Whether it was needed.
    needs_alternate: Cell<bool>,
    /// The numbers of its sections, and of the alternate's.
    sections: Range<u64>,
    has_said_damaged: bool,
    units: Units,
    kept: Vec<(usize, Rc<Unit<Bytes<'r>>>)>,
}

/// What DWARF knows of an address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) file: Option<Text>,
    pub(super) line: Option<u32>,
    pub(super) inlined: Vec<Inlined>,
}

/// A place in the source.
#[derive(Debug, Default, Clone)]
struct Place {
    file: Option<Text>,
    line: Option<u32>,
}

/// A function that holds the address, and where it was called from if it is inlined.
#[derive(Debug, Default)]
struct Call {
    function: Option<Text>,
    from: Place,
}

/// The sections that lines and inlined functions need.
const NEEDED: [SectionId; 11] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugAranges,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
    SectionId::DebugTypes,
];

/// Of a compressed section: how, and its size when it is not.
fn compression(elf: &ElfFile<Image<'_>>, section: &Header) -> Option<(u32, u64)> {
    if section.flags & COMPRESSED == 0 {
        return None;
    }
    // Elf64_Chdr: type, reserved, size, alignment.
    let header = read_vec(elf.source(), section.offset, 24).ok()?;
    let kind = u32::from_le_bytes(header.get(..4)?.try_into().ok()?);
    Some((kind, u64::from_le_bytes(header.get(8..16)?.try_into().ok()?)))
}

/// Why there are no lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoLines {
    /// The file has none.
    Absent,
    /// This many bytes are not read.
    TooLarge(u64),
    /// They are compressed in another way than with zlib or zstd.
    UnknownCompression,
}

impl<'r> Lines<'r> {
    /// Finds the debug sections of `elf`, and of `alternate` if its `.gnu_debugaltlink` names that; nothing of them is read yet.
    ///
    /// # Errors
    ///
    /// When it has none, or none that are read. What is wrong with `alternate` is no error.
    pub(super) fn of(
        elf: &ElfFile<Image<'r>>,
        alternate: Option<&ElfFile<Image<'r>>>,
        pages: &Rc<Pages>,
    ) -> Result<Self, NoLines> {
        let there = |id: SectionId| elf.section(id.name()).filter(|section| section.kind != NOBITS && section.size > 0);
        if there(SectionId::DebugInfo).is_none() {
            return Err(NoLines::Absent);
        }
        let (mut packed, mut unpacked) = (0_u64, 0_u64);
        for section in NEEDED.into_iter().filter_map(there) {
            packed = packed.saturating_add(section.size);
            match compression(elf, section) {
                Some((ZLIB | ZSTD, size)) => unpacked = unpacked.saturating_add(size),
                Some(_) => return Err(NoLines::UnknownCompression),
                None => {}
            }
        }
        if packed > MOST_PACKED || unpacked > MOST_UNPACKED {
            return Err(NoLines::TooLarge(packed.max(unpacked)));
        }
        let first = pages.next();
        let alternate = alternate.and_then(|elf| Lines::of(elf, None, pages).ok()).map(Box::new);
        let dwarf = Dwarf::load(|id| {
            let section = there(id).filter(|_| NEEDED.contains(&id));
            let source = elf.source().clone();
            let section = match section.map(|section| (section, compression(elf, section))) {
                None => Section::plain(pages, source, 0, 0),
                Some((section, None)) => Section::plain(pages, source, section.offset, section.size as usize),
                Some((section, Some((kind, size)))) => {
                    let (offset, packed) = (section.offset.saturating_add(24), section.size.saturating_sub(24));
                    let section = if kind == ZSTD { Section::zstd } else { Section::zlib };
                    section(pages, source, offset, packed, size as usize)
                }
            };
            Ok::<_, gimli::Error>(section.reader())
        });
        let mut dwarf = dwarf.map_err(|_| NoLines::Absent)?;
        dwarf.sup = alternate.as_ref().map(|alternate| Arc::clone(&alternate.dwarf));
        #[allow(clippy::arc_with_non_send_sync, reason = "as gimli holds it in another")]
        let dwarf = Arc::new(dwarf);
        Ok(Self {
            dwarf,
            alternate,
            without_alternate: None,
            needs_alternate: Cell::new(false),
            sections: first..pages.next(),
            has_said_damaged: false,
            units: Units::default(),
            kept: Vec::new(),
        })
    }

    /// Whether a section could not be read as it says.
    pub(super) fn is_damaged(&self, pages: &Pages) -> bool {
        pages.are_damaged(&self.sections)
    }

    /// The same, once.
    pub(super) fn take_damaged(&mut self, pages: &Pages) -> bool {
        self.is_damaged(pages) && !std::mem::replace(&mut self.has_said_damaged, true)
    }

    /// Says `gap` once the alternate is needed, if it has none.
    pub(super) fn miss_alternate(&mut self, gap: Gap) {
        self.without_alternate = self.alternate.is_none().then_some(gap);
    }

    /// Whether it would be missed, should it be needed.
    pub(super) fn misses_alternate(&self) -> bool {
        self.without_alternate.is_some()
    }

    /// What is to be said of that, if it was needed; once.
    pub(super) fn take_missed(&mut self) -> Option<Gap> {
        self.without_alternate.take_if(|_| self.needs_alternate.get())
    }

    /// Notes whether `value` stands in the alternate.
    fn note(&self, value: &AttributeValue<Bytes<'r>>) {
        if let AttributeValue::DebugStrRefSup(_) | AttributeValue::DebugInfoRefSup(_) = value {
            self.needs_alternate.set(true);
        }
    }

    /// Whether there are more units than are known; true once.
    pub(super) fn take_truncated(&mut self) -> bool {
        self.units.take_truncated()
    }

    /// What is known of the code at `svma`.
    pub(super) fn find(&mut self, svma: u64) -> Line {
        for at in self.units.of(&self.dwarf, svma, MOST_UNITS) {
            let Some(unit) = self.unit(at) else { continue };
            let place = self.row(&unit, svma).ok().flatten();
            let calls = self.calls(&unit, svma).unwrap_or_default();
            if place.is_none() && calls.is_empty() {
                continue;
            }
            // The innermost function is where the row says, the next one where that was called from.
            let mut place = place.unwrap_or_default();
            let mut inlined = Vec::new();
            let own = calls.len().saturating_sub(1);
            for call in calls.into_iter().rev().take(own) {
                let Place { file, line } = std::mem::replace(&mut place, call.from);
                inlined.push(Inlined { function: call.function, file, line });
            }
            return Line { file: place.file, line: place.line, inlined };
        }
        Line::default()
    }

    /// The unit at `at` in `.debug_info`.
    fn unit(&mut self, at: usize) -> Option<Rc<Unit<Bytes<'r>>>> {
        if let Some((_, unit)) = self.kept.iter().find(|(kept, _)| *kept == at) {
            return Some(Rc::clone(unit));
        }
        let header = self.dwarf.debug_info.header_from_offset(DebugInfoOffset(at)).ok()?;
        let unit = Rc::new(self.dwarf.unit(header).ok()?);
        if self.kept.len() == KEPT_UNITS {
            self.kept.remove(0);
        }
        self.kept.push((at, Rc::clone(&unit)));
        Some(unit)
    }

    /// The place of the row of the line table that `svma` belongs to.
    fn row(&self, unit: &Unit<Bytes<'r>>, svma: u64) -> gimli::Result<Option<Place>> {
        let Some(program) = unit.line_program.clone() else { return Ok(None) };
        let mut rows = program.rows();
        // Address, file and line of the row before, in the same sequence.
        let mut before: Option<(u64, u64, Option<u32>)> = None;
        let mut found = None;
        while let Some((_, row)) = rows.next_row()? {
            if let Some((address, file, line)) = before
                && (address..row.address()).contains(&svma)
            {
                found = Some((file, line));
                break;
            }
            let line = row.line().and_then(|line| u32::try_from(line.get()).ok());
            before = (!row.end_sequence()).then(|| (row.address(), row.file_index(), line));
        }
        Ok(found.map(|(file, line)| Place { file: self.file(unit, file), line }))
    }

    /// The path of a file of the unit's line table, below the unit's directory.
    fn file(&self, unit: &Unit<Bytes<'r>>, index: u64) -> Option<Text> {
        let header = unit.line_program.as_ref()?.header();
        let file = header.file(index)?;
        let text = |value| {
            self.note(&value);
            let bytes = self.dwarf.attr_string(unit, value).ok()?;
            Some(bytes.to_slice().ok()?.into_owned())
        };
        let mut path =
            unit.comp_dir.as_ref().and_then(|directory| directory.to_slice().ok()).unwrap_or_default().into_owned();
        if unit.comp_dir.is_none() {
            // It may be named there.
            self.needs_alternate.set(true);
        }
        // Number 0 is the unit's own directory.
        if file.directory_index() != 0
            && let Some(directory) = file.directory(header)
        {
            append(&mut path, &text(directory)?);
        }
        append(&mut path, &text(file.path_name())?);
        Some(cut(&path))
    }

    /// The function that holds `svma`, and those that are inlined there, outermost first.
    fn calls(&mut self, unit: &Unit<Bytes<'r>>, svma: u64) -> gimli::Result<Vec<Call>> {
        let mut entries = unit.entries_raw(None)?;
        let mut entry = gimli::DebuggingInformationEntry::null();
        let mut found: Vec<(isize, UnitOffset<usize>, Place)> = Vec::new();
        while !entries.is_empty() {
            let depth = entries.next_depth();
            if found.last().is_some_and(|(innermost, ..)| depth <= *innermost) {
                // What it holds has been seen.
                break;
            }
            if !entries.read_entry(&mut entry)? {
                continue;
            }
            let is_inlined = entry.tag() == gimli::DW_TAG_inlined_subroutine;
            if !is_inlined && entry.tag() != gimli::DW_TAG_subprogram || found.len() > MOST_INLINED {
                continue;
            }
            let mut ranges = self.dwarf.die_ranges(unit, &entry)?;
            let mut holds = false;
            while !holds && let Some(range) = ranges.next()? {
                holds = (range.begin..range.end).contains(&svma);
            }
            if holds && is_inlined && !found.is_empty() {
                found.push((depth, entry.offset(), self.call_site(unit, &entry)));
            } else if holds && !is_inlined {
                found = vec![(depth, entry.offset(), Place::default())];
            } else if found.is_empty()
                && let Some(AttributeValue::UnitRef(next)) = entry.attr_value(gimli::DW_AT_sibling)
                && next > entries.next_offset()
            {
                // What this one holds is of no use.
                entries = unit.entries_raw(Some(next))?;
            }
        }
        // The outermost is named by the symbol table.
        let named = found.into_iter().enumerate().map(|(index, (_, at, from))| {
            let function = if index > 0 { self.function(unit, at) } else { None };
            Call { function, from }
        });
        Ok(named.collect())
    }

    fn call_site(&self, unit: &Unit<Bytes<'r>>, entry: &gimli::DebuggingInformationEntry<Bytes<'r>>) -> Place {
        let number = |name| entry.attr_value(name).and_then(|value| value.udata_value());
        let file = match entry.attr_value(gimli::DW_AT_call_file) {
            Some(AttributeValue::FileIndex(index)) => Some(index),
            other => other.and_then(|value| value.udata_value()),
        };
        // Before DWARF 5, number 0 is no file.
        let file = file.filter(|file| *file > 0 || unit.header.version() >= 5);
        let line = number(gimli::DW_AT_call_line).and_then(|line| u32::try_from(line).ok()).filter(|line| *line != 0);
        Place { file: file.and_then(|file| self.file(unit, file)), line }
    }

    /// The name of the function that is described at `at`, or where that description
    /// says that it is.
    fn function(&mut self, unit: &Unit<Bytes<'r>>, at: UnitOffset<usize>) -> Option<Text> {
        let mut other: Option<Rc<Unit<Bytes<'r>>>> = None;
        let mut at = at;
        for _ in 0..MOST_ORIGINS {
            let unit = other.as_deref().unwrap_or(unit);
            let entry = unit.entry(at).ok()?;
            let text = |name| {
                let value = entry.attr_value(name)?;
                self.note(&value);
                self.dwarf.attr_string(unit, value).ok()
            };
            let linked = text(gimli::DW_AT_linkage_name).or_else(|| text(gimli::DW_AT_MIPS_linkage_name));
            if let Some(name) = linked.or_else(|| text(gimli::DW_AT_name)) {
                let name = name.to_string_lossy().ok()?.into_owned();
                return Some(shown(&name));
            }
            let origin = entry.attr_value(gimli::DW_AT_abstract_origin);
            let origin = origin.or_else(|| entry.attr_value(gimli::DW_AT_specification))?;
            self.note(&origin);
            match origin {
                AttributeValue::UnitRef(offset) => at = offset,
                AttributeValue::DebugInfoRef(DebugInfoOffset(offset)) => {
                    let start = self.units.holding(&self.dwarf, offset)?;
                    let found = self.unit(start)?;
                    at = DebugInfoOffset(offset).to_unit_offset(&found.header)?;
                    other = Some(found);
                }
                AttributeValue::DebugInfoRefSup(offset) => return self.alternate.as_mut()?.function_at(offset),
                _ => return None,
            }
        }
        None
    }

    /// The name of the function that is described at `offset` of `.debug_info`.
    fn function_at(&mut self, offset: DebugInfoOffset<usize>) -> Option<Text> {
        let start = self.units.holding(&self.dwarf, offset.0)?;
        let unit = self.unit(start)?;
        let at = offset.to_unit_offset(&unit.header)?;
        self.function(&unit, at)
    }
}

/// Puts `rest` behind `path`; an absolute one stands alone.
fn append(path: &mut Vec<u8>, rest: &[u8]) {
    if rest.starts_with(b"/") {
        path.clear();
    } else if !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(rest);
}
