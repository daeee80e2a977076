//! What the tables of one module say of its addresses.

use std::sync::Arc;

use agent_binaries::demangle::demangle;
use agent_binaries::elf::{ElfFile, SymbolOrigin, SymbolTable, read_exact, read_vec};
use agent_binaries::mapped::{Image, Opened};
use agent_model::Text;

use super::lines::Lines;
use super::mini;
use crate::go::GoTable;
use crate::unwind;

/// An ELF file and its function symbols.
pub(super) struct Named<'r> {
    pub(super) elf: ElfFile<Image<'r>>,
    pub(super) symbols: SymbolTable,
}

impl<'r> Named<'r> {
    pub(super) fn new(elf: ElfFile<Image<'r>>, most: usize) -> Self {
        Self { symbols: elf.symbols_up_to(most), elf }
    }

    fn lookup(&self, svma: u64) -> Option<(String, u64)> {
        let symbol = self.symbols.lookup(&self.elf, svma)?;
        Some((symbol.name, symbol.offset))
    }
}

/// All that names the addresses of one module.
pub(super) struct Names<'r> {
    /// Its own table, or what is left of it.
    pub(super) own: SymbolTable,
    /// The file with its debug information, if it is another.
    pub(super) separate: Option<Named<'r>>,
    /// Its mini debug information.
    pub(super) mini: Option<Named<'r>>,
    pub(super) go: Option<GoTable>,
    pub(super) lines: Option<Lines<'r>>,
}

impl<'r> Names<'r> {
    /// Whether a limit has cut one of its tables short.
    pub(super) fn is_truncated(&self) -> bool {
        let others = [&self.separate, &self.mini].into_iter().flatten();
        self.own.is_truncated() || others.into_iter().any(|named| named.symbols.is_truncated())
    }

    pub(super) fn lookup(&self, elf: &ElfFile<Image<'r>>, svma: u64) -> Option<(String, u64)> {
        let symbol = self.own.lookup(elf, svma);
        let is_whole = self.own.origin() == SymbolOrigin::Symtab;
        // Without a size (assembly) it counts up to the next one, and between them there may be others that are not exported.
        let own = || symbol.filter(|symbol| is_whole || symbol.size > 0 || leads_to(elf, symbol.svma, svma));
        let own = || own().map(|symbol| (symbol.name, symbol.offset));
        if is_whole {
            return own();
        }
        let separate = self.separate.as_ref().and_then(|named| named.lookup(svma));
        separate.or_else(|| self.go.as_ref()?.lookup(elf.source(), svma)).or_else(|| {
            match (own(), self.mini.as_ref().and_then(|named| named.lookup(svma))) {
                // Mini debug information leaves out what is exported: the nearer one counts.
                (Some(own), Some(mini)) => Some(if own.1 <= mini.1 { own } else { mini }),
                (own, mini) => own.or(mini),
            }
        })
    }
}

/// Whether the code at `from` in `elf` leads to that at `to`: these are addresses as linked (SVMA).
fn leads_to(elf: &ElfFile<Image<'_>>, from: u64, to: u64) -> bool {
    unwind::leads_to(from, to, |svma| {
        let offset = elf.source_offset_of(svma).ok_or(())?;
        let mut word = [0; 8];
        read_exact(elf.source(), offset, &mut word).map_err(|_| ())?;
        Ok(u64::from_le_bytes(word))
    })
}

/// The ELF file in `.gnu_debugdata`.
pub(super) fn mini_debug_info<'r>(opened: &Opened<'r>, most: usize) -> Option<ElfFile<Image<'r>>> {
    /// Bytes of it, compressed.
    const MOST: u64 = 8 << 20;
    let section = opened.elf.section(".gnu_debugdata").filter(|section| section.size <= MOST)?;
    let packed = read_vec(&opened.image, section.offset, usize::try_from(section.size).ok()?).ok()?;
    ElfFile::parse(Image::Copy(Arc::new(mini::unpack(&packed, most)?))).ok()
}

/// Bytes of a name or a path that are shown. The longest name of libstdc++, LLVM and Node
/// has 3,000 when it is demangled.
const MOST_SHOWN: usize = 4096;

/// A function's name, demangled, and no longer than is shown.
pub(super) fn shown(name: &str) -> Text {
    cut(demangle(name).as_deref().unwrap_or(name).as_bytes())
}

/// `name`, if it is not longer than is shown; else its begin, and a mark.
pub(super) fn cut(name: &[u8]) -> Text {
    match name.get(..MOST_SHOWN) {
        Some(begin) if name.len() > MOST_SHOWN => Text::from(format!("{}…", String::from_utf8_lossy(begin)).as_str()),
        _ => Text::from_bytes(name),
    }
}
