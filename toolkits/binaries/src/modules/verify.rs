//! Whether the code in memory is the code of the file: hot patches, breakpoints
//! and hooks are pages that a process has written to in a private mapping.

use agent_model::{Hex, Text};
use agent_system::memory::Memory;
use agent_system::{Failure, Process, page_bytes};
use schemars::JsonSchema;
use serde::Serialize;

use crate::demangle::demangle;
use crate::elf::{ElfFile, Source, SymbolTable, read_vec};
use crate::mapped::Mapped;

/// Changes that are listed of one module.
const MAX_CHANGES: usize = 64;
/// Bytes of one change that are shown.
const MAX_SHOWN: usize = 16;
/// Bytes that are equal between two changes: fewer, and they are one.
const JOINED: usize = 8;

/// A stretch of code that differs from the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Change {
    /// Where it starts (AVMA).
    pub address: Hex,
    /// Its bytes.
    pub size_bytes: u64,
    /// The first bytes of the file, in hex.
    #[schemars(extend("x-class" = "id"))]
    pub file: String,
    /// The first bytes in memory, in hex.
    #[schemars(extend("x-class" = "id"))]
    pub memory: String,
    /// The function that it starts in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub function: Option<Text>,
    /// Its bytes behind the start of that function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// The code of a module in memory beside its file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Verified {
    /// Pages of its executable mappings.
    pub pages: u64,
    /// Those that the process has a copy of its own of: it wrote to them, or
    /// somebody did (ptrace(2)).
    pub private_pages: u64,
    /// Those whose bytes differ from the file.
    pub changed_pages: u64,
    /// The first of the differences, by address.
    pub changes: Vec<Change>,
}

/// Compares the code of `mapped`, whose file `elf` reads, with memory.
///
/// Only pages that the process has written to are read: `pagemap` names them, so
/// that nothing is brought into the target's memory.
///
/// # Errors
///
/// When `pagemap` or the memory cannot be read.
pub fn verify<S: Source>(
    process: &Process<'_>,
    mapped: &Mapped,
    elf: &ElfFile<S>,
    memory: &Memory<'_>,
) -> Result<Verified, Failure> {
    let size = page_bytes();
    let mut verified = Verified::default();
    let mut private: Vec<(u64, u64)> = Vec::new();
    for piece in mapped.pieces.iter().filter(|piece| piece.executable) {
        verified.pages += (piece.avma.end - piece.avma.start) / size;
        process.each_private_page(piece.avma.clone(), &mut |address| {
            private.push((address, piece.offset.saturating_add(address - piece.avma.start)));
        })?;
    }
    verified.private_pages = private.len() as u64;
    let mut names = None;
    let mut there = vec![0; size as usize];
    for (address, offset) in private {
        let read = memory.read(address, &mut there)?;
        // Behind the end of the file a page is zeros.
        let mut file = read_vec(elf.source(), offset, size as usize).unwrap_or_default();
        file.resize(size as usize, 0);
        let mut found = differences(&file[..read], &there[..read]).peekable();
        verified.changed_pages += u64::from(found.peek().is_some());
        for range in found {
            if verified.changes.len() == MAX_CHANGES {
                break;
            }
            let start = address + range.start as u64;
            let named = names.get_or_insert_with(|| (elf.symbols(), mapped.bias(elf)));
            let (function, offset) = name(elf, named, start);
            let shown = range.start..range.end.min(range.start + MAX_SHOWN);
            verified.changes.push(Change {
                address: Hex(start),
                size_bytes: (range.end - range.start) as u64,
                file: hex(&file[shown.clone()]),
                memory: hex(&there[shown]),
                function,
                offset,
            });
        }
    }
    Ok(verified)
}

fn name<S: Source>(
    elf: &ElfFile<S>,
    (symbols, bias): &(SymbolTable, Option<u64>),
    address: u64,
) -> (Option<Text>, Option<u64>) {
    let symbol = bias.and_then(|bias| symbols.lookup(elf, address.wrapping_sub(bias)));
    let Some(symbol) = symbol else { return (None, None) };
    let function = demangle(&symbol.name).unwrap_or(symbol.name);
    (Some(Text::from_bytes(function.as_bytes())), Some(symbol.offset))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The stretches in which `a` and `b`, which are as long, differ. What lies closer
/// together than [`JOINED`] bytes is one.
fn differences<'a>(a: &'a [u8], b: &'a [u8]) -> impl Iterator<Item = std::ops::Range<usize>> + 'a {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + a[at..].iter().zip(&b[at..]).position(|(a, b)| a != b)?;
        let mut end = start + 1;
        let mut next = end;
        while next < a.len() && next < end + JOINED {
            if a[next] != b[next] {
                end = next + 1;
            }
            next += 1;
        }
        at = end;
        Some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breakpoint_and_a_hook_are_two_changes() {
        let file = vec![0x90_u8; 4096];
        let mut memory = file.clone();
        memory[10] = 0xcc;
        memory[100] = 0xe9;
        memory[104] = 0x01;
        memory[4095] = 0;
        assert_eq!(differences(&file, &memory).collect::<Vec<_>>(), [10..11, 100..105, 4095..4096]);
        assert_eq!(differences(&file, &file).count(), 0);
        assert_eq!(differences(&[], &[]).count(), 0);
    }
}
