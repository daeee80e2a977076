//! The program header table and the section header table.

use goblin::container::Ctx;
use goblin::elf::header::Header;
use goblin::elf::program_header::ProgramHeader;
use goblin::elf::section_header::{self, SectionHeader};
use scroll::Pread;
use scroll::ctx::{SizeWith, TryFromCtx};

use super::facts::{Part, Problems, Section, Segment};
use super::source::{Source, read_vec};
use super::{MAX_SECTION_NAME, MAX_SECTION_NAMES, MAX_SECTIONS, MAX_SEGMENTS};

/// `e_phnum` that says "see `sh_info` of section 0" (gABI, "Program Header").
const PN_XNUM: u64 = 0xffff;
/// `e_shstrndx` that says "see `sh_link` of section 0".
const SHN_XINDEX: u16 = 0xffff;

pub(super) fn segments<S: Source>(source: &S, ehdr: &Header, context: Ctx, problems: &mut Problems) -> Vec<Segment> {
    let mut count = u64::from(ehdr.e_phnum);
    if count == PN_XNUM
        && let Some(first) = first_section(source, ehdr, context)
    {
        count = u64::from(first.sh_info);
    }
    let table = Table { part: Part::ProgramHeaders, offset: ehdr.e_phoff, entry_size: ehdr.e_phentsize, count };
    table.read::<S, ProgramHeader>(source, context, MAX_SEGMENTS, problems, |header| Segment {
        kind: header.p_type,
        flags: header.p_flags,
        offset: header.p_offset,
        svma: header.p_vaddr,
        file_size: header.p_filesz,
        mem_size: header.p_memsz,
        align: header.p_align,
    })
}

/// The page of the lowest `PT_LOAD`: what a mapped module starts with.
pub(super) fn lowest_page(segments: &[Segment]) -> u64 {
    let lowest = segments.iter().filter(|segment| segment.is_load()).min_by_key(|segment| segment.svma);
    lowest.map_or(0, |segment| {
        let page = segment.align.clamp(1, 1 << 16).next_power_of_two();
        segment.svma & !(page - 1)
    })
}

pub(super) fn sections<S: Source>(source: &S, ehdr: &Header, context: Ctx, problems: &mut Problems) -> Vec<Section> {
    if ehdr.e_shoff == 0 {
        return Vec::new();
    }
    let mut count = u64::from(ehdr.e_shnum);
    let mut names = u64::from(ehdr.e_shstrndx);
    if (count == 0 || ehdr.e_shstrndx == SHN_XINDEX)
        && let Some(first) = first_section(source, ehdr, context)
    {
        if count == 0 {
            count = first.sh_size;
        }
        if ehdr.e_shstrndx == SHN_XINDEX {
            names = u64::from(first.sh_link);
        }
    }
    let table = Table { part: Part::SectionHeaders, offset: ehdr.e_shoff, entry_size: ehdr.e_shentsize, count };
    let headers = table.read::<S, SectionHeader>(source, context, MAX_SECTIONS, problems, |header| header);
    if headers.is_empty() {
        return Vec::new();
    }
    let mut names = Names { bytes: section_names(source, &headers, names, problems), kept: 0, missing: 0 };
    let sections = headers
        .iter()
        .skip(1)
        .map(|header| Section {
            name: names.at(header.sh_name),
            kind: header.sh_type,
            flags: header.sh_flags,
            svma: header.sh_addr,
            offset: header.sh_offset,
            size: header.sh_size,
            link: header.sh_link,
            info: header.sh_info,
            entry_size: header.sh_entsize,
        })
        .collect();
    if names.missing > 0 {
        let of = headers.len() - 1;
        let detail = format!("{} of {of} names cannot be read", names.missing);
        problems.add(Part::SectionNames, detail);
    }
    sections
}

/// The section name string table. Its strings may overlap, so what is kept is
/// bounded apart from what was read.
struct Names {
    bytes: Vec<u8>,
    kept: usize,
    missing: usize,
}

impl Names {
    /// The name at `offset`; an empty one where there is none.
    fn at(&mut self, offset: usize) -> String {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        let end = rest.iter().take(MAX_SECTION_NAME).position(|byte| *byte == 0);
        match end {
            Some(end) if self.kept + end <= MAX_SECTION_NAMES => {
                self.kept += end;
                String::from_utf8_lossy(&rest[..end]).into_owned()
            }
            _ => {
                self.missing += 1;
                String::new()
            }
        }
    }
}

fn section_names<S: Source>(source: &S, headers: &[SectionHeader], index: u64, problems: &mut Problems) -> Vec<u8> {
    let Some(header) = usize::try_from(index).ok().and_then(|index| headers.get(index)) else {
        problems.add(Part::SectionNames, format!("e_shstrndx {index} of {} sections", headers.len()));
        return Vec::new();
    };
    if header.sh_type == section_header::SHT_NOBITS || header.sh_size == 0 {
        problems.add(Part::SectionNames, "the string table has no bytes");
        return Vec::new();
    }
    let size = usize::try_from(header.sh_size).unwrap_or(usize::MAX).min(MAX_SECTION_NAMES);
    match read_vec(source, header.sh_offset, size) {
        Ok(bytes) => bytes,
        Err(error) => {
            problems.add(Part::SectionNames, error.to_string());
            Vec::new()
        }
    }
}

fn first_section<S: Source>(source: &S, ehdr: &Header, context: Ctx) -> Option<SectionHeader> {
    let bytes = read_vec(source, ehdr.e_shoff, SectionHeader::size_with(&context)).ok()?;
    (ehdr.e_shoff != 0).then(|| bytes.pread_with(0, context).ok()).flatten()
}

/// A table of equal entries, as the ELF header describes it.
struct Table {
    part: Part,
    offset: u64,
    entry_size: u16,
    count: u64,
}

impl Table {
    /// Reads the entries in blocks, at most `limit` of them. `e_phentsize` and
    /// `e_shentsize` may be larger than the structure, never smaller.
    fn read<S, T>(
        &self,
        source: &S,
        context: Ctx,
        limit: usize,
        problems: &mut Problems,
        mut keep: impl FnMut(T) -> <T as Kept>::As,
    ) -> Vec<<T as Kept>::As>
    where
        S: Source,
        T: Kept + SizeWith<Ctx> + for<'a> TryFromCtx<'a, Ctx, Error = goblin::error::Error>,
    {
        const BLOCK: usize = 512;
        let mut kept = Vec::new();
        if self.offset == 0 || self.count == 0 {
            return kept;
        }
        let size = T::size_with(&context);
        let stride = usize::from(self.entry_size);
        if stride < size {
            problems.add(self.part, format!("entries of {stride} bytes, {size} are needed"));
            return kept;
        }
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        if count > limit {
            problems.add(self.part, format!("{count} entries, the first {limit} are read"));
        }
        let count = count.min(limit);
        while kept.len() < count {
            let block = (count - kept.len()).min(BLOCK);
            let Some(at) = self.offset.checked_add((kept.len() * stride) as u64) else {
                break;
            };
            let bytes = match read_vec(source, at, block * stride) {
                Ok(bytes) => bytes,
                Err(error) => {
                    problems.add(self.part, format!("at offset {at}: {error}"));
                    return kept;
                }
            };
            let before = kept.len();
            kept.extend(bytes.chunks(stride).filter_map(|entry| entry.pread_with::<T>(0, context).ok()).map(&mut keep));
            if kept.len() - before < block {
                break;
            }
        }
        if kept.len() < count {
            problems.add(self.part, format!("{} of {count} entries, then the file ends", kept.len()));
        }
        kept
    }
}

/// What an entry of a table is kept as.
trait Kept {
    type As;
}

impl Kept for ProgramHeader {
    type As = Segment;
}

impl Kept for SectionHeader {
    type As = SectionHeader;
}
