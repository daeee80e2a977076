//! `runtime.moduledata`: what the runtime knows of one module, and its table of functions does not say itself.
//!
//! It stands among the variables, without a symbol where strip(1) was; it begins with the address of the
//! table, and that of each part of it follows, so it cannot be taken for something else. Source: Go's
//! runtime/symtab.go, 1.18 to 1.27.

use std::ops::Range;

use agent_binaries::elf::{ElfFile, Source, read_exact};

use super::{GoTable, Loaded};

/// Where it is: a section of its own since Go 1.26, before that among what holds no pointers to the heap.
const SECTIONS: [&str; 3] = [".go.module", ".noptrdata", ".data"];
/// Bytes of one section that are searched.
const MAX_SEARCHED: u64 = 16 << 20;
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// Words up to the last one that is used.
const WORDS: usize = 44;
/// Bytes of them.
const SIZE: u64 = WORDS as u64 * 8;

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moduledata {
    /// SVMA where the code of Go begins: what entries of the table count from.
    pub(super) text: u64,
    /// Offset in the source of `go:func.*`.
    pub(super) belongings: Option<u64>,
    /// Whether this was read from the target's memory.
    pub(super) asked_memory: bool,
}

/// Where words are read, and how far what they say is from an SVMA.
enum Place<'a, S> {
    File(&'a ElfFile<S>),
    Memory(&'a Loaded<'a>),
}

impl<S: Source> Place<'_, S> {
    fn base(&self) -> u64 {
        match self {
            Self::File(_) => 0,
            Self::Memory(loaded) => loaded.bias,
        }
    }

    fn read(&self, svma: u64, buffer: &mut [u8]) -> Option<()> {
        match self {
            Self::File(elf) => read_exact(elf.source(), elf.source_offset_of(svma)?, buffer).ok(),
            Self::Memory(loaded) => {
                let read = (loaded.read)(svma.wrapping_add(loaded.bias), buffer);
                (read == buffer.len()).then_some(())
            }
        }
    }
}

/// Finds the part of `elf` whose table is at `svma`: in the file, and where that leaves the addresses to relocations,
/// in memory.
pub(super) fn find<S: Source>(
    elf: &ElfFile<S>,
    svma: u64,
    table: &GoTable,
    loaded: Option<&Loaded<'_>>,
) -> Option<Moduledata> {
    let places = [Some(Place::File(elf)), loaded.map(Place::Memory)];
    let sections = SECTIONS.iter().filter_map(|name| elf.section(name));
    sections.into_iter().find_map(|section| {
        let end = section.svma.checked_add(section.size.min(MAX_SEARCHED))?;
        places.iter().flatten().find_map(|place| {
            let words = search(place, section.svma..end, svma, table)?;
            said(elf, place, &words, table)
        })
    })
}

/// Its first words, if they are within `searched`.
fn search<S: Source>(place: &Place<'_, S>, searched: Range<u64>, svma: u64, table: &GoTable) -> Option<[u64; WORDS]> {
    let wanted = svma.wrapping_add(place.base());
    let mut piece = vec![0; PIECE];
    let mut at = searched.start.checked_next_multiple_of(8)?;
    while at < searched.end {
        let length = usize::try_from(searched.end - at).map_or(PIECE, |left| left.min(PIECE));
        place.read(at, &mut piece[..length])?;
        for (number, word) in words(&piece[..length]).enumerate().filter(|(_, word)| *word == wanted) {
            let start = at + number as u64 * 8;
            let mut bytes = [0; SIZE as usize];
            if word != 0 && place.read(start, &mut bytes).is_some() {
                let mut found = [0; WORDS];
                words(&bytes).zip(&mut found).for_each(|(word, place)| *place = word);
                if is_of(&found, wanted, table) {
                    return Some(found);
                }
            }
        }
        at = at.checked_add(PIECE as u64)?;
    }
    None
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| word.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
}

/// Whether each part of the table is where these words say: they are slices, of three words each.
fn is_of(words: &[u64; WORDS], start: u64, table: &GoTable) -> bool {
    table.parts().iter().zip(words[1..].iter().step_by(3)).all(|(part, word)| start.wrapping_add(*part) == *word)
}

/// What the words say, where it is possible.
fn said<S: Source>(
    elf: &ElfFile<S>,
    place: &Place<'_, S>,
    words: &[u64; WORDS],
    table: &GoTable,
) -> Option<Moduledata> {
    let svma = |word: u64| word.wrapping_sub(place.base());
    let text = svma(words[22]);
    let code = elf.section(".text")?;
    if !(code.svma..code.svma.checked_add(code.size)?).contains(&text) {
        return None;
    }
    // Go 1.20 added the counters of coverage before it, and Go 1.27 the length of the type descriptions, behind their
    // address, where there was the address of their end.
    let belongings = match table.flags_at {
        37 => 38,
        _ if words[38] >= words[37] => 40,
        _ => 43,
    };
    let belongings = elf.source_offset_of(svma(words[belongings]));
    Some(Moduledata { text, belongings, asked_memory: matches!(place, Place::Memory(_)) })
}
