//! Where the call frame information lies: `.eh_frame_hdr` and `.eh_frame`
//! (LSB Core, "Exception Frames"), from the sections or, where there are none,
//! from `PT_GNU_EH_FRAME`.

use goblin::elf::program_header;
use goblin::elf::section_header::SHF_COMPRESSED;

use super::links::read_uint;
use super::source::Source;
use super::{Image, has_bytes};

/// A range of the image: where it is linked to be, and where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The SVMA of its first byte.
    pub svma: u64,
    /// The offset in the source of its first byte.
    pub offset: u64,
    /// Its size in bytes; an upper bound where only the segment is known.
    pub size: u64,
}

/// Where the unwind tables of a module are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnwindTables {
    /// `.eh_frame_hdr`: the sorted index.
    pub eh_frame_hdr: Option<Extent>,
    /// `.eh_frame`: the CIEs and FDEs.
    pub eh_frame: Extent,
    /// The SVMA of `.text`, base of `DW_EH_PE_textrel`.
    pub text: Option<u64>,
    /// The SVMA of `.got`, base of `DW_EH_PE_datarel` in `.eh_frame`.
    pub got: Option<u64>,
}

pub(super) fn find<S: Source>(image: &Image<'_, S>) -> Option<UnwindTables> {
    let extent = |name: &str| {
        let section = image.section(name)?;
        let there = has_bytes(section) && section.flags & u64::from(SHF_COMPRESSED) == 0;
        there.then_some(Extent { svma: section.svma, offset: section.offset, size: section.size })
    };
    let eh_frame_hdr = extent(".eh_frame_hdr").or_else(|| hdr_from_segment(image));
    let eh_frame = extent(".eh_frame").or_else(|| eh_frame_from_hdr(image, &eh_frame_hdr?))?;
    let svma = |name: &str| image.section(name).map(|section| section.svma);
    Some(UnwindTables { eh_frame_hdr, eh_frame, text: svma(".text"), got: svma(".got") })
}

fn hdr_from_segment<S: Source>(image: &Image<'_, S>) -> Option<Extent> {
    // With sections, the segment adds nothing: a file with only the debug
    // information has the header and not the bytes.
    if !image.sections.is_empty() {
        return None;
    }
    let segment = image.segments.iter().find(|segment| segment.kind == program_header::PT_GNU_EH_FRAME)?;
    Some(Extent { svma: segment.svma, offset: image.segment_offset(segment)?, size: segment.file_size })
}

/// Decodes `eh_frame_ptr`. Its end is not written down: the end of its segment
/// bounds it, and a zero length ends it.
fn eh_frame_from_hdr<S: Source>(image: &Image<'_, S>, hdr: &Extent) -> Option<Extent> {
    let version = read_uint(image, hdr.offset, 1)?;
    let encoding = read_uint(image, hdr.offset.checked_add(1)?, 1)?;
    let at = hdr.offset.checked_add(4)?;
    // DW_EH_PE formats, low four bits: value and sign extension.
    let value = match encoding & 0x0f {
        0x00 if image.context.is_big() => read_uint(image, at, 8)?,
        0x00 | 0x03 => read_uint(image, at, 4)?,
        0x04 | 0x0c => read_uint(image, at, 8)?,
        0x02 => read_uint(image, at, 2)?,
        0x0a => i64::from(read_uint(image, at, 2)? as u16 as i16) as u64,
        0x0b => i64::from(read_uint(image, at, 4)? as u32 as i32) as u64,
        _ => return None,
    };
    // DW_EH_PE applications, the next three bits: absolute, pcrel, datarel.
    let svma = match encoding & 0x70 {
        0x00 => value,
        0x10 => hdr.svma.wrapping_add(4).wrapping_add(value),
        0x30 => hdr.svma.wrapping_add(value),
        _ => return None,
    };
    let segment = image
        .segments
        .iter()
        .find(|segment| segment.is_load() && svma.checked_sub(segment.svma).is_some_and(|at| at < segment.file_size))?;
    let size = segment.file_size - (svma - segment.svma);
    (version == 1).then_some(Extent { svma, offset: image.offset_of(svma)?, size })
}
