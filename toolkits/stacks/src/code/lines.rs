//! Source lines and inlined functions, from DWARF.
//!
//! The debug information of a large program has hundreds of megabytes: what does not
//! fit into the budget is not read, and said.

use std::io::Read as _;
use std::sync::Arc;

use addr2line::Context;
use agent_binaries::demangle::demangle;
use agent_binaries::elf::{ElfFile, Section, Source, read_vec};
use agent_model::Text;
use gimli::{EndianArcSlice, RunTimeEndian, SectionId};

use crate::frame::Inlined;

/// Bytes of debug sections that are held of all modules together, uncompressed.
pub(super) const MOST_BYTES: u64 = 32 << 20;
/// Functions that one address can be inlined through.
const MOST_INLINED: usize = 64;
/// SHF_COMPRESSED.
const COMPRESSED: u64 = 0x800;
/// SHT_NOBITS.
const NOBITS: u32 = 8;
/// ELFCOMPRESS_ZLIB.
const ZLIB: u32 = 1;

type Reader = EndianArcSlice<RunTimeEndian>;

/// The lines of one module.
pub(super) struct Lines {
    context: Context<Reader>,
}

/// What DWARF knows of an address.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) file: Option<Text>,
    pub(super) line: Option<u32>,
    pub(super) inlined: Vec<Inlined>,
}

/// The sections that lines and inlined functions need.
fn is_needed(id: SectionId) -> bool {
    use SectionId::{
        DebugAbbrev, DebugAddr, DebugAranges, DebugInfo, DebugLine, DebugLineStr, DebugRanges, DebugRngLists, DebugStr,
        DebugStrOffsets,
    };
    matches!(
        id,
        DebugAbbrev
            | DebugAddr
            | DebugAranges
            | DebugInfo
            | DebugLine
            | DebugLineStr
            | DebugRanges
            | DebugRngLists
            | DebugStr
            | DebugStrOffsets
    )
}

/// The size of a section as it is held.
fn size_of<S: Source>(elf: &ElfFile<S>, section: &Section) -> u64 {
    match header_of(elf, section) {
        Some((_, size)) => size,
        None => section.size,
    }
}

/// Of a compressed section: how, and its size when it is not.
fn header_of<S: Source>(elf: &ElfFile<S>, section: &Section) -> Option<(u32, u64)> {
    if section.flags & COMPRESSED == 0 {
        return None;
    }
    // Elf64_Chdr: type, reserved, size, alignment.
    let header = read_vec(elf.source(), section.offset, 24).ok()?;
    let kind = u32::from_le_bytes(header.get(..4)?.try_into().ok()?);
    Some((kind, u64::from_le_bytes(header.get(8..16)?.try_into().ok()?)))
}

/// How many bytes the lines of `elf` take; 0 where it has none.
pub(super) fn bytes_of<S: Source>(elf: &ElfFile<S>) -> u64 {
    let has_lines = elf.section(".debug_info").is_some_and(|section| section.kind != NOBITS && section.size > 0);
    if !has_lines {
        return 0;
    }
    let names = elf
        .sections()
        .iter()
        .filter(|section| section.kind != NOBITS && ALL.iter().any(|id| is_needed(*id) && id.name() == section.name));
    names.fold(0, |sum, section| sum.saturating_add(size_of(elf, section)))
}

const ALL: [SectionId; 10] = [
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
];

fn load<S: Source>(elf: &ElfFile<S>, id: SectionId) -> Vec<u8> {
    let Some(section) = elf.section(id.name()).filter(|section| section.kind != NOBITS && is_needed(id)) else {
        return Vec::new();
    };
    let size = usize::try_from(section.size.min(MOST_BYTES)).unwrap_or(0);
    let bytes = read_vec(elf.source(), section.offset, size).unwrap_or_default();
    match header_of(elf, section) {
        None => bytes,
        Some((ZLIB, size)) => {
            let mut plain = Vec::new();
            let packed = bytes.get(24..).unwrap_or_default();
            let _ = flate2::read::ZlibDecoder::new(packed).take(size.min(MOST_BYTES)).read_to_end(&mut plain);
            plain
        }
        Some(_) => Vec::new(),
    }
}

impl Lines {
    /// Reads the debug sections of `elf`; `None` where they are not as DWARF is.
    pub(super) fn of<S: Source>(elf: &ElfFile<S>) -> Option<Self> {
        let sections = gimli::Dwarf::load(|id| {
            let bytes: Arc<[u8]> = load(elf, id).into();
            Ok::<_, gimli::Error>(EndianArcSlice::new(bytes, RunTimeEndian::Little))
        });
        let context = Context::from_dwarf(sections.ok()?).ok()?;
        Some(Self { context })
    }

    /// What is known of the code at `svma`.
    pub(super) fn find(&self, svma: u64) -> Line {
        let Ok(mut frames) = self.context.find_frames(svma).skip_all_loads() else { return Line::default() };
        let mut all = Vec::new();
        while all.len() < MOST_INLINED
            && let Ok(Some(frame)) = frames.next()
        {
            let function = frame.function.as_ref().and_then(|function| function.raw_name().ok()).map(|name| {
                let shown = demangle(&name);
                Text::from(shown.as_deref().unwrap_or(&name))
            });
            let location = frame.location.as_ref();
            all.push(Inlined {
                function,
                file: location.and_then(|location| location.file).map(Text::from),
                line: location.and_then(|location| location.line).filter(|line| *line != 0),
            });
        }
        // The last is the function that has code of its own.
        match all.pop() {
            Some(own) => Line { file: own.file, line: own.line, inlined: all },
            None => Line::default(),
        }
    }
}
