//! The dynamic section: what the dynamic loader would read
//! (gABI, "Dynamic Section"; the GNU additions in glibc's `elf.h`).

use goblin::elf::dynamic::{self as dt, Dyn};
use goblin::elf::{program_header, section_header};
use scroll::Pread;
use scroll::ctx::SizeWith;

use super::facts::{Part, Problems};
use super::source::{Source, read_cstr, read_vec};
use super::{Image, MAX_DYNAMIC, MAX_NEEDED, MAX_STRING};

/// The entries of the dynamic section that matter here. Addresses are SVMAs.
#[derive(Clone, Debug, Default)]
pub(super) struct Dynamic {
    /// There is a dynamic section with at least one entry.
    pub(super) present: bool,
    /// `DF_1_PIE`.
    pub(super) is_pie: bool,
    pub(super) needed: Vec<String>,
    pub(super) soname: Option<String>,
    pub(super) rpath: Option<String>,
    pub(super) runpath: Option<String>,
    /// `DT_SYMTAB`.
    pub(super) symbol_table: Option<u64>,
    /// `DT_STRTAB` and `DT_STRSZ`.
    pub(super) strings: Option<(u64, u64)>,
    /// `DT_HASH`.
    pub(super) hash: Option<u64>,
    /// `DT_GNU_HASH`.
    pub(super) gnu_hash: Option<u64>,
    /// `DT_VERSYM`: one version index a dynamic symbol.
    pub(super) version_symbols: Option<u64>,
    /// `DT_VERNEED` and `DT_VERNEEDNUM`.
    pub(super) version_needs: (Option<u64>, u64),
    /// `DT_VERDEF` and `DT_VERDEFNUM`.
    pub(super) version_definitions: (Option<u64>, u64),
    /// `DT_BIND_NOW`, `DF_BIND_NOW` or `DF_1_NOW`.
    pub(super) bind_now: bool,
    /// `DT_TEXTREL` or `DF_TEXTREL`.
    pub(super) text_relocations: bool,
}

pub(super) fn read<S: Source>(image: &Image<'_, S>, problems: &mut Problems) -> Dynamic {
    let entries = entries(image, problems);
    let mut dynamic = Dynamic { present: !entries.is_empty(), ..Dynamic::default() };
    let mut string_table = None;
    let mut string_size = 0;
    let mut names: Vec<&Dyn> = Vec::new();
    for entry in &entries {
        let pointer = || Some(image.svma_of_pointer(entry.d_val)).filter(|svma| *svma != 0);
        match entry.d_tag {
            dt::DT_STRTAB => string_table = pointer(),
            dt::DT_STRSZ => string_size = entry.d_val,
            dt::DT_SYMTAB => dynamic.symbol_table = pointer(),
            dt::DT_HASH => dynamic.hash = pointer(),
            dt::DT_GNU_HASH => dynamic.gnu_hash = pointer(),
            dt::DT_FLAGS_1 => {
                dynamic.is_pie |= entry.d_val & dt::DF_1_PIE != 0;
                dynamic.bind_now |= entry.d_val & dt::DF_1_NOW != 0;
            }
            dt::DT_FLAGS => {
                dynamic.bind_now |= entry.d_val & dt::DF_BIND_NOW != 0;
                dynamic.text_relocations |= entry.d_val & dt::DF_TEXTREL != 0;
            }
            dt::DT_BIND_NOW => dynamic.bind_now = true,
            dt::DT_TEXTREL => dynamic.text_relocations = true,
            dt::DT_VERSYM => dynamic.version_symbols = pointer(),
            dt::DT_VERNEED => dynamic.version_needs.0 = pointer(),
            dt::DT_VERNEEDNUM => dynamic.version_needs.1 = entry.d_val,
            dt::DT_VERDEF => dynamic.version_definitions.0 = pointer(),
            dt::DT_VERDEFNUM => dynamic.version_definitions.1 = entry.d_val,
            dt::DT_NEEDED | dt::DT_SONAME | dt::DT_RPATH | dt::DT_RUNPATH => names.push(entry),
            _ => {}
        }
    }
    dynamic.strings = string_table.map(|svma| (svma, string_size));
    if names.len() > MAX_NEEDED {
        problems.add(Part::Dynamic, format!("{} names, the first {MAX_NEEDED} are read", names.len()));
    }
    for entry in names.into_iter().take(MAX_NEEDED) {
        match string_at(image, &dynamic, entry.d_val) {
            Ok(name) if entry.d_tag == dt::DT_NEEDED => dynamic.needed.push(name),
            Ok(name) if entry.d_tag == dt::DT_SONAME => dynamic.soname = Some(name),
            Ok(name) if entry.d_tag == dt::DT_RPATH => dynamic.rpath = Some(name),
            Ok(name) => dynamic.runpath = Some(name),
            Err(detail) => {
                let tag = dt::tag_to_str(entry.d_tag);
                problems.add(Part::Dynamic, format!("{tag}: {detail}"));
            }
        }
    }
    dynamic
}

/// The entries up to `DT_NULL`. A file with only the debug information keeps
/// the headers of a dynamic section whose bytes are elsewhere (`SHT_NOBITS`):
/// then there are none, and that is no problem.
fn entries<S: Source>(image: &Image<'_, S>, problems: &mut Problems) -> Vec<Dyn> {
    let section = image.sections.iter().find(|section| section.name == ".dynamic");
    if section.is_some_and(|section| section.kind == section_header::SHT_NOBITS) {
        return Vec::new();
    }
    let segment = image.segments.iter().find(|segment| segment.kind == program_header::PT_DYNAMIC);
    let place = match (segment, section) {
        (Some(segment), _) => image.segment_offset(segment).map(|offset| (offset, segment.file_size)),
        (None, Some(section)) => Some((section.offset, section.size)),
        (None, None) => None,
    };
    let Some((offset, size)) = place else {
        return Vec::new();
    };
    let entry_size = Dyn::size_with(&image.context);
    let limit = MAX_DYNAMIC * entry_size;
    let wanted = usize::try_from(size).unwrap_or(usize::MAX);
    if wanted > limit {
        problems.add(Part::Dynamic, format!("{wanted} bytes, the first {limit} are read"));
    }
    let bytes = match read_vec(image.source, offset, wanted.min(limit)) {
        Ok(bytes) => bytes,
        Err(error) => {
            problems.add(Part::Dynamic, error.to_string());
            return Vec::new();
        }
    };
    let mut entries = Vec::new();
    let mut ended = false;
    for chunk in bytes.chunks_exact(entry_size) {
        let Ok(entry) = chunk.pread_with::<Dyn>(0, image.context) else {
            break;
        };
        if entry.d_tag == dt::DT_NULL {
            ended = true;
            break;
        }
        entries.push(entry);
    }
    if !ended && wanted > 0 {
        problems.add(Part::Dynamic, format!("{} entries without a DT_NULL at their end", entries.len()));
    }
    entries
}

fn string_at<S: Source>(image: &Image<'_, S>, dynamic: &Dynamic, at: u64) -> Result<String, String> {
    let (svma, size) = dynamic.strings.ok_or("there is no DT_STRTAB")?;
    let within = size.checked_sub(at).filter(|rest| *rest > 0);
    let limit = within.ok_or_else(|| format!("offset {at} in {size} bytes of strings"))?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_STRING);
    let offset = svma.checked_add(at).and_then(|svma| image.offset_of(svma));
    let offset = offset.ok_or_else(|| format!("DT_STRTAB {svma:#x} lies in no segment"))?;
    match read_cstr(image.source, offset, limit) {
        Ok(Some(name)) => Ok(name),
        Ok(None) => Err(format!("no end of the string within {limit} bytes")),
        Err(error) => Err(error.to_string()),
    }
}
