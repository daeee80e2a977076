//! Notes: the build ID of the linker and that of Go.

use std::fmt::Write as _;

use goblin::elf::note::{NT_GNU_BUILD_ID, NoteDataIterator};
use goblin::elf::{program_header, section_header};

use super::facts::{Features, Machine, Part, Problems};
use super::source::{Source, read_vec};
use super::{Image, MAX_BUILD_ID, MAX_NOTE_PARTS, MAX_NOTES, MAX_STRING};

/// `ELF_NOTE_GOBUILDID_TAG` of Go's `cmd/internal/buildid`.
const NT_GO_BUILD_ID: u32 = 4;
/// `NT_GNU_PROPERTY_TYPE_0` of glibc's `elf.h`.
const NT_GNU_PROPERTY: u32 = 5;
/// The note of owner `FDO` that holds package metadata.
const NT_PACKAGE: u32 = 0xcafe_1a7e;

#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) build_id: Option<String>,
    pub(super) go_build_id: Option<String>,
    pub(super) features: Option<Features>,
    pub(super) package: Option<String>,
}

/// Reads the notes of the segments, and where these lack a build ID, those of
/// the sections (an object file has no segments).
pub(super) fn read<S: Source>(image: &Image<'_, S>, problems: &mut Problems) -> Notes {
    let mut notes = Notes::default();
    let segments = image.segments.iter().filter(|segment| segment.kind == program_header::PT_NOTE);
    for segment in segments.take(MAX_NOTE_PARTS) {
        if let Some(offset) = image.segment_offset(segment) {
            read_part(image, offset, segment.file_size, segment.align, &mut notes, problems);
        }
    }
    if notes.build_id.is_some() && notes.go_build_id.is_some() {
        return notes;
    }
    let sections = image.sections.iter().filter(|section| section.kind == section_header::SHT_NOTE);
    for section in sections.take(MAX_NOTE_PARTS) {
        // Go's linker puts its note in no segment of its own on some systems,
        // and `sh_addralign` is not kept: 4 is what both notes are aligned to.
        if matches!(section.name.as_str(), ".note.gnu.build-id" | ".note.go.buildid") {
            read_part(image, section.offset, section.size, 4, &mut notes, problems);
        } else if image.segments.is_empty() && section.name == ".note.gnu.property" {
            read_part(image, section.offset, section.size, image.context.size() as u64, &mut notes, problems);
        }
    }
    notes
}

fn read_part<S: Source>(
    image: &Image<'_, S>,
    offset: u64,
    size: u64,
    align: u64,
    notes: &mut Notes,
    problems: &mut Problems,
) {
    let wanted = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_NOTES);
    let bytes = match read_vec(image.source, offset, wanted) {
        Ok(bytes) => bytes,
        Err(error) => return problems.add(Part::Notes, error.to_string()),
    };
    if bytes.len() < wanted {
        problems.add(Part::Notes, format!("{} of {wanted} bytes, then the file ends", bytes.len()));
    }
    // gABI: 4 for 32-bit files. GNU keeps 4 for 64-bit ones too, except for
    // `.note.gnu.property`, whose segment says 8.
    let align = if align == 8 { 8 } else { 4 };
    let iterator = NoteDataIterator { data: &bytes, size: bytes.len(), offset: 0, ctx: (align, image.context) };
    for note in iterator {
        let note = match note {
            Ok(note) => note,
            // A note cut by our own limit is not the file's fault.
            Err(_) if size > wanted as u64 => return,
            Err(error) => return problems.add(Part::Notes, error.to_string()),
        };
        match (note.name.trim_end_matches('\0'), note.n_type) {
            ("GNU", NT_GNU_BUILD_ID) if notes.build_id.is_none() && !note.desc.is_empty() => {
                if note.desc.len() > MAX_BUILD_ID {
                    problems.add(Part::Notes, format!("a build ID of {} bytes is cut", note.desc.len()));
                }
                notes.build_id = Some(hex(&note.desc[..note.desc.len().min(MAX_BUILD_ID)]));
            }
            ("Go", NT_GO_BUILD_ID) if notes.go_build_id.is_none() => {
                let text = note.desc.get(..note.desc.len().min(1024)).unwrap_or_default();
                notes.go_build_id = Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
            }
            ("GNU", NT_GNU_PROPERTY) if notes.features.is_none() => notes.features = features(image, note.desc),
            ("FDO", NT_PACKAGE) if notes.package.is_none() => {
                let text = note.desc.get(..note.desc.len().min(MAX_STRING)).unwrap_or_default();
                notes.package = Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
            }
            _ => {}
        }
    }
}

/// The FEATURE_1_AND word among the properties: each is a type, a size, and data
/// that is padded to the word size of the file.
fn features<S: Source>(image: &Image<'_, S>, desc: &[u8]) -> Option<Features> {
    let wanted = match image.machine {
        Machine::X86_64 | Machine::I386 => 0xc000_0002,
        Machine::AARCH64 => 0xc000_0000,
        _ => return None,
    };
    let word = |at: usize| {
        let bytes: [u8; 4] = desc.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if image.context.is_little_endian() { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let mut at = 0;
    while let (Some(kind), Some(size)) = (word(at), word(at + 4)) {
        if kind == wanted && size == 4 {
            return word(at + 8).map(Features);
        }
        at = at.checked_add(8)?.checked_add((size as usize).checked_next_multiple_of(image.context.size())?)?;
    }
    None
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
