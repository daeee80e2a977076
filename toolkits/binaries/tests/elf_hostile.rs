//! Hostile ELF: real small files, changed and cut in thousands of ways that a
//! seed repeats, and headers whose counts and sizes lie. Nothing may panic, take
//! long, or read (so, keep) more than a few times what there is.
#![allow(clippy::disallowed_methods)]

use std::cell::Cell;
use std::time::{Duration, Instant};
use std::{fs, io};

use agent_binaries::elf::{ElfError, ElfFile, Part, Source};

/// Counts what is asked for, as all that is kept was read.
struct Counted<'a> {
    bytes: &'a [u8],
    read: &'a Cell<u64>,
    /// What it says its size is: a module in memory does not know.
    len: u64,
}

impl Source for Counted<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read_at(offset, buf)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// The linear congruential generator of Knuth's MMIX: the same on every machine.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Everything that the reader can be asked.
fn ask_all(bytes: &[u8]) -> u64 {
    let read = Cell::new(0);
    for len in [bytes.len() as u64, u64::MAX] {
        let source = || Counted { bytes, read: &read, len };
        if let Ok(elf) = ElfFile::parse(source()) {
            ask(&elf);
        }
        if let Ok(elf) = ElfFile::parse_mapped(source(), 0x7fff_0000_0000) {
            ask(&elf);
        }
    }
    read.get()
}

fn ask<S: Source>(elf: &ElfFile<S>) {
    let facts = elf.facts();
    let _ = facts.file_offset_of(facts.entry);
    let _ = facts.svma_of_file_offset(facts.entry);
    let _ = facts.bias_of_mapping(u64::MAX, 0, true);
    let _ = elf.unwind_tables();
    let symbols = elf.symbols();
    let first = elf.sections().first().map_or(0, |section| section.svma);
    for svma in [0, 1, facts.entry, facts.entry.wrapping_add(64), first, u64::MAX] {
        let _ = symbols.lookup(elf, svma);
        let _ = elf.source_offset_of(svma);
    }
    assert!(elf.problems().len() <= 64);
}

fn samples() -> Vec<Vec<u8>> {
    let small = |folder: &str| {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .flatten()
            .filter(|entry| entry.metadata().is_ok_and(|meta| meta.is_file() && (8192..65536).contains(&meta.len())))
            .map(|entry| entry.path())
            .filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")))
            .collect();
        files.sort();
        fs::read(files.first().unwrap()).unwrap()
    };
    vec![small("/usr/bin"), small("/usr/lib/x86_64-linux-gnu")]
}

#[test]
fn survives_flipped_bytes() {
    for bytes in samples() {
        let headers = 64 + 64 * 16;
        let tables = bytes.len().saturating_sub(64 * 40);
        for seed in 0..2000 {
            let mut random = Lcg(seed);
            let mut mutant = bytes.clone();
            for _ in 0..=random.below(8) {
                // The header tables at both ends are where it hurts.
                let at = match random.below(4) {
                    0 => random.below(headers),
                    1 => tables + random.below(mutant.len() - tables),
                    2 => random.below(64),
                    _ => random.below(mutant.len()),
                };
                let last = mutant.len() - 1;
                mutant[at.min(last)] = match random.below(4) {
                    0 => 0xff,
                    1 => 0,
                    2 => mutant[at.min(last)] ^ (1 << random.below(8)),
                    _ => random.next() as u8,
                };
            }
            let started = Instant::now();
            let read = ask_all(&mutant);
            let (took, size) = (started.elapsed(), mutant.len() as u64);
            assert!(read < 64 * size, "seed {seed}: {read} bytes read of {size}");
            assert!(took < Duration::from_secs(2), "seed {seed}: {took:?}");
        }
    }
}

#[test]
fn survives_truncation() {
    for bytes in samples() {
        let mut random = Lcg(1);
        let cuts = (0..512).chain((0..1500).map(|_| random.below(bytes.len()))).collect::<Vec<_>>();
        for cut in cuts {
            ask_all(&bytes[..cut]);
        }
    }
}

/// Offsets of the fields of `Elf64_Ehdr`.
const E_PHOFF: usize = 32;
const E_SHOFF: usize = 40;
const E_PHNUM: usize = 56;
const E_SHNUM: usize = 60;
const E_SHSTRNDX: usize = 62;

#[test]
fn reports_a_bad_table_and_keeps_the_other_facts() {
    let bytes = fs::read("/usr/bin/true").unwrap();
    let whole = ElfFile::parse(&bytes[..]).unwrap();

    let mut mutant = bytes.clone();
    mutant[E_SHOFF..E_SHOFF + 8].copy_from_slice(&(u64::MAX - 100).to_le_bytes());
    let elf = ElfFile::parse(&mutant[..]).unwrap();
    assert!(elf.problems().iter().any(|problem| problem.part == Part::SectionHeaders));
    assert_eq!(elf.facts().build_id, whole.facts().build_id);
    assert_eq!(elf.facts().needed, whole.facts().needed);
    // Symbols and unwind tables still come, from the segments.
    assert_eq!(elf.unwind_tables().unwrap().eh_frame.svma, whole.unwind_tables().unwrap().eh_frame.svma);
    assert_eq!(elf.symbols().len(), whole.symbols().len());

    let mut mutant = bytes.clone();
    mutant[E_PHOFF..E_PHOFF + 8].copy_from_slice(&(1_u64 << 62).to_le_bytes());
    let elf = ElfFile::parse(&mutant[..]).unwrap();
    assert!(elf.problems().iter().any(|problem| problem.part == Part::ProgramHeaders));
    assert_eq!(elf.facts().build_id, whole.facts().build_id);
    assert_eq!(elf.sections().len(), whole.sections().len());
}

#[test]
fn hostile_counts_cost_no_more_than_the_file() {
    let bytes = fs::read("/usr/bin/true").unwrap();
    for field in [E_PHNUM, E_SHNUM, E_SHSTRNDX] {
        for value in [0_u8, 0xfe, 0xff] {
            let mut mutant = bytes.clone();
            mutant[field..field + 2].fill(value);
            let started = Instant::now();
            let read = ask_all(&mutant);
            assert!(read < 64 * bytes.len() as u64, "{read}");
            assert!(started.elapsed() < Duration::from_secs(2));
        }
    }
}

#[test]
fn a_build_id_ends_the_same_in_both_byte_orders_and_classes() {
    // A 32-bit big-endian file: header and one note segment, made by hand.
    let mut file = vec![0_u8; 52 + 32];
    file[..7].copy_from_slice(b"\x7fELF\x01\x02\x01");
    file[16..20].copy_from_slice(&[0, 3, 0, 20]); // ET_DYN, EM_PPC
    file[28..32].copy_from_slice(&52_u32.to_be_bytes()); // e_phoff
    file[42..46].copy_from_slice(&[0, 32, 0, 1]); // e_phentsize, e_phnum
    let note = [0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 3, b'G', b'N', b'U', 0, 0xab, 0xcd, 0xef, 0];
    file[52..56].copy_from_slice(&4_u32.to_be_bytes()); // PT_NOTE
    file[56..60].copy_from_slice(&84_u32.to_be_bytes()); // p_offset
    file[68..72].copy_from_slice(&(note.len() as u32).to_be_bytes()); // p_filesz
    file[80..84].copy_from_slice(&4_u32.to_be_bytes()); // p_align
    file.extend(note);
    let elf = ElfFile::parse(&file[..]).unwrap();
    assert!(elf.problems().is_empty(), "{:?}", elf.problems());
    assert_eq!(elf.facts().build_id.as_deref(), Some("abcdef"));
    assert_eq!((elf.facts().class.bits(), elf.facts().endianness.as_str()), (32, "big"));
    assert_eq!(elf.facts().machine.name(), Some("ppc"));
}

#[test]
fn says_why_a_file_is_no_elf() {
    assert!(matches!(ElfFile::parse(&b""[..]), Err(ElfError::Truncated(0))));
    assert!(matches!(ElfFile::parse(&b"#!/bin/sh\n"[..]), Err(ElfError::NotElf)));
    assert!(matches!(ElfFile::parse(&b"\x7fELF\x02\x01\x01"[..]), Err(ElfError::Truncated(7))));
    let unknown = ElfFile::parse(&b"\x7fELF\x09\x01\x01\0\0\0\0\0\0\0\0\0"[..]);
    assert!(matches!(unknown, Err(ElfError::Unknown { class: 9, data: 1 })));
}
