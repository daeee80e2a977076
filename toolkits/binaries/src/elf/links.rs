//! What the file points at, and what is left in it to name addresses with.

use goblin::elf::{program_header, section_header};

use super::facts::{AltLink, DebugLink, DebugState, Part, Problems};
use super::notes::hex;
use super::source::{Source, read_cstr, read_exact, read_vec};
use super::{Image, MAX_BUILD_ID, MAX_STRING, has_bytes};

/// `PT_INTERP`: the path of the dynamic loader.
pub(super) fn interpreter<S: Source>(image: &Image<'_, S>, problems: &mut Problems) -> Option<String> {
    // A file with only the debug information keeps the header, not the bytes.
    if image.section(".interp").is_some_and(|section| !has_bytes(section)) {
        return None;
    }
    let segment = image.segments.iter().find(|segment| segment.kind == program_header::PT_INTERP)?;
    let offset = image.segment_offset(segment)?;
    let limit = usize::try_from(segment.file_size).unwrap_or(usize::MAX).min(MAX_STRING);
    match read_cstr(image.source, offset, limit) {
        Ok(Some(path)) => return Some(path),
        Ok(None) => problems.add(Part::Interpreter, format!("no end of the path within {limit} bytes")),
        Err(error) => problems.add(Part::Interpreter, error.to_string()),
    }
    None
}

pub(super) fn debug_state<S: Source>(image: &Image<'_, S>, problems: &mut Problems) -> DebugState {
    let of_kind = |kind| image.sections.iter().any(|section| section.kind == kind && section.size > 0);
    DebugState {
        sections: !image.sections.is_empty(),
        symtab: of_kind(section_header::SHT_SYMTAB),
        dynsym: of_kind(section_header::SHT_DYNSYM),
        debug_info: [".debug_info", ".zdebug_info"].iter().any(|name| image.section_with_bytes(name).is_some()),
        debug_link: debug_link(image, problems),
        debug_alt_link: alt_link(image, problems),
        mini_debug_info: image.section_with_bytes(".gnu_debugdata").is_some(),
        go_function_table: [".gopclntab", ".data.rel.ro.gopclntab"]
            .iter()
            .any(|name| image.section_with_bytes(name).is_some()),
    }
}

/// A name, its terminator, padding to 4 bytes, and the CRC in the byte order of
/// the file.
fn debug_link<S: Source>(image: &Image<'_, S>, problems: &mut Problems) -> Option<DebugLink> {
    let section = image.section_with_bytes(".gnu_debuglink")?;
    let size = usize::try_from(section.size).unwrap_or(usize::MAX).min(MAX_STRING + 8);
    let link = read_vec(image.source, section.offset, size).ok().and_then(|bytes| {
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let crc: [u8; 4] = bytes.get((end + 1).next_multiple_of(4)..)?.get(..4)?.try_into().ok()?;
        let crc = if image.context.is_little_endian() { u32::from_le_bytes(crc) } else { u32::from_be_bytes(crc) };
        Some(DebugLink { file: String::from_utf8_lossy(&bytes[..end]).into_owned(), crc })
    });
    if link.is_none() {
        problems.add(Part::DebugLink, ".gnu_debuglink is no name and CRC");
    }
    link
}

fn alt_link<S: Source>(image: &Image<'_, S>, problems: &mut Problems) -> Option<AltLink> {
    let section = image.section_with_bytes(".gnu_debugaltlink")?;
    let size = usize::try_from(section.size).unwrap_or(usize::MAX).min(MAX_STRING + MAX_BUILD_ID);
    let link = read_vec(image.source, section.offset, size).ok().and_then(|bytes| {
        let end = bytes.iter().position(|byte| *byte == 0).filter(|end| *end > 0)?;
        let (file, build_id) = (&bytes[..end], &bytes[end + 1..]);
        let build_id = hex(&build_id[..build_id.len().min(MAX_BUILD_ID)]);
        Some(AltLink { file: String::from_utf8_lossy(file).into_owned(), build_id })
    });
    if link.is_none() {
        problems.add(Part::DebugLink, ".gnu_debugaltlink is no name");
    }
    link
}

/// Reads a number of 1 to 8 bytes in the byte order of the file.
pub(super) fn read_uint<S: Source>(image: &Image<'_, S>, offset: u64, width: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    let part = bytes.get_mut(..width)?;
    read_exact(image.source, offset, part).ok()?;
    Some(if image.context.is_little_endian() {
        u64::from_le_bytes(bytes)
    } else {
        u64::from_be_bytes(bytes) >> (64 - 8 * width.max(1))
    })
}
