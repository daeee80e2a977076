//! What a module was built from, by what its builder wrote into it. Nothing is
//! run, and no version is guessed from a file's name where the file itself says
//! it.

pub mod cargo;
pub mod go;
pub mod runtime;

use crate::elf::{ElfFile, Source, read_vec};

/// Bytes of `.comment` that are read.
const MAX_COMMENT: usize = 16 * 1024;
/// Compiler strings that are kept.
const MAX_COMPILERS: usize = 32;

/// What compilers and linkers wrote into `.comment`, each string once.
pub fn compilers<S: Source>(elf: &ElfFile<S>) -> Vec<Vec<u8>> {
    let Some(section) = elf.section(".comment").filter(|section| section.size > 0) else { return Vec::new() };
    let size = usize::try_from(section.size).unwrap_or(usize::MAX).min(MAX_COMMENT);
    let bytes = read_vec(elf.source(), section.offset, size).unwrap_or_default();
    comment(&bytes)
}

/// The strings of `.comment`, in its order.
pub fn comment(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut strings: Vec<Vec<u8>> = Vec::new();
    for string in bytes.split(|byte| *byte == 0).filter(|string| !string.is_empty()) {
        if strings.len() < MAX_COMPILERS && !strings.iter().any(|known| known == string) {
            strings.push(string.to_vec());
        }
    }
    strings
}
