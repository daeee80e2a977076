//! All entries of the symbol tables, one by one: what is imported, and what a
//! person asks for by name.

use std::ops::ControlFlow;

use goblin::elf::section_header;
use goblin::elf::sym::{self, Sym};
use scroll::Pread;
use scroll::ctx::SizeWith;

use super::dynamic::Dynamic;
use super::facts::Problems;
use super::source::{Source, read_vec};
use super::strings::Strings;
use super::symbols::{self, Place, SymbolOrigin};
use super::{Image, MAX_SYMBOL_ENTRIES};

/// One entry of a symbol table.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// Which table it is from.
    pub origin: SymbolOrigin,
    /// Its number in the table.
    pub index: u64,
    /// Where it is linked to be (an SVMA), or an offset for `tls`.
    pub svma: u64,
    /// Bytes.
    pub size: u64,
    /// `function`, `object`, `ifunc`, `tls`, `common`, `notype`, `section`, `file`,
    /// `other`.
    pub kind: &'static str,
    /// `local`, `global`, `weak`, `unique`, `other`.
    pub binding: &'static str,
    /// Whether it is defined here, and not taken from another module.
    pub defined: bool,
    /// Its version's index in `.gnu.version`, and whether it is hidden (not the
    /// default one); absent for `.symtab`.
    pub version: Option<(u16, bool)>,
}

/// What is handed each symbol and its name.
pub type Visit<'a> = dyn FnMut(Listed, &[u8]) -> ControlFlow<()> + 'a;

fn kind(info: u8) -> &'static str {
    match sym::st_type(info) {
        sym::STT_NOTYPE => "notype",
        sym::STT_OBJECT => "object",
        sym::STT_FUNC => "function",
        sym::STT_SECTION => "section",
        sym::STT_FILE => "file",
        sym::STT_COMMON => "common",
        sym::STT_TLS => "tls",
        sym::STT_GNU_IFUNC => "ifunc",
        _ => "other",
    }
}

fn binding(info: u8) -> &'static str {
    match sym::st_bind(info) {
        sym::STB_LOCAL => "local",
        sym::STB_GLOBAL => "global",
        sym::STB_WEAK => "weak",
        sym::STB_GNU_UNIQUE => "unique",
        _ => "other",
    }
}

/// The dynamic symbol table: by its section, else by `PT_DYNAMIC`.
fn dynamic_place<S: Source>(image: &Image<'_, S>, dynamic: &Dynamic) -> Option<Place> {
    let mut problems = Problems::default();
    let section = symbols::from_section(image, section_header::SHT_DYNSYM, SymbolOrigin::Dynsym, &mut problems);
    section.or_else(|| symbols::from_dynamic(image, dynamic, &mut problems))
}

pub(super) fn imports<S: Source>(
    image: &Image<'_, S>,
    dynamic: &Dynamic,
    each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) {
    // DT_GNU_HASH says where the symbols that are defined begin, but a linker may
    // put some that are not (weak ones, canonical PLT entries) behind them.
    let Some(place) = dynamic_place(image, dynamic) else { return };
    let is_undefined = |symbol: &Sym| symbol.st_shndx == section_header::SHN_UNDEF as usize;
    let strings = Strings::of(image.source, &place, false);
    let _ = entries(image, &place, strings, None, is_undefined, &mut |_, name| each(name));
}

pub(super) fn all<S: Source>(image: &Image<'_, S>, dynamic: &Dynamic, visit: &mut Visit<'_>) {
    let mut problems = Problems::default();
    if let Some(place) = dynamic_place(image, dynamic) {
        let versions = dynamic.version_symbols.and_then(|svma| image.offset_of(svma));
        let strings = Strings::of(image.source, &place, true);
        if entries(image, &place, strings, versions, |_| true, visit).is_break() {
            return;
        }
    }
    if let Some(place) = symbols::from_section(image, section_header::SHT_SYMTAB, SymbolOrigin::Symtab, &mut problems) {
        let strings = Strings::of(image.source, &place, true);
        let _ = entries(image, &place, strings, None, |_| true, visit);
    }
}

/// Hands out the entries of one table that are `wanted`, in blocks. A table that ends early ends
/// here as well; a name that cannot be read is skipped.
fn entries<S: Source>(
    image: &Image<'_, S>,
    place: &Place,
    mut strings: Strings<'_, S>,
    versions: Option<u64>,
    wanted: impl Fn(&Sym) -> bool,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    const BLOCK: u64 = 2048;
    let size = Sym::size_with(&image.context);
    let count = place.count.min(MAX_SYMBOL_ENTRIES);
    let mut done = 0;
    while done < count {
        let block = (count - done).min(BLOCK);
        let Some(offset) = place.offset.checked_add(done * size as u64) else { break };
        let Ok(bytes) = read_vec(image.source, offset, block as usize * size) else { break };
        let indices =
            versions.and_then(|at| read_vec(image.source, at.checked_add(done * 2)?, block as usize * 2).ok());
        for (at, chunk) in bytes.chunks_exact(size).enumerate() {
            let Ok(symbol) = chunk.pread_with::<Sym>(0, image.context) else { continue };
            if !wanted(&symbol) {
                continue;
            }
            let Some(name) = (symbol.st_name != 0).then(|| strings.get(symbol.st_name as u64)).flatten() else {
                continue;
            };
            let word = indices.as_deref().and_then(|bytes| {
                let pair: [u8; 2] = bytes.get(at * 2..at * 2 + 2)?.try_into().ok()?;
                Some(if image.context.is_little_endian() { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) })
            });
            let listed = Listed {
                origin: place.origin,
                index: done + at as u64,
                svma: symbol.st_value,
                size: symbol.st_size,
                kind: kind(symbol.st_info),
                binding: binding(symbol.st_info),
                defined: symbol.st_shndx != section_header::SHN_UNDEF as usize,
                version: word.map(|word| (word & 0x7fff, word & 0x8000 != 0)),
            };
            visit(listed, name)?;
        }
        if bytes.len() < block as usize * size {
            break;
        }
        done += block;
    }
    ControlFlow::Continue(())
}
