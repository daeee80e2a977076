//! Every rule of the libraries of this machine, made in three ways: by the
//! compact rule, by the full evaluation, and by readelf.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use agent_binaries::elf::{ElfFile, UnwindTables};

use super::memory::{Memory, Registers};
use super::rule::{self, Context, Rule};
use super::tables::{Entry, Tables};
use super::x86_64::Register;

/// Real tables: of gcc, of hand-written assembly, of g++, and of a large C
/// program.
pub(super) const FILES: [&str; 4] = [
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib64/ld-linux-x86-64.so.2",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/bin/python3",
];

pub(super) fn tables(path: &str) -> Option<(Vec<u8>, UnwindTables)> {
    let bytes = std::fs::read(path).ok()?;
    let tables = ElfFile::parse(&bytes[..]).unwrap().unwind_tables().unwrap();
    Some((bytes, tables))
}

pub(super) fn present() -> impl Iterator<Item = &'static str> {
    FILES.into_iter().filter(|path| Path::new(path).exists())
}

/// Memory whose every word is different, and higher than the stack pointer.
pub(super) fn word(address: u64) -> Result<u64, ()> {
    Ok(0x7fff_0000_0000 + (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) * 8)
}

pub(super) fn registers(seed: u64) -> Registers {
    let mut registers = Registers::new(0x40_0000, 0x7ffe_0000_0000);
    for register in Register::ALL {
        if !matches!(register, Register::Rip | Register::Rsp) {
            registers.set(register, 0x7ffe_1000_0000 + seed + register as u64 * 4096);
        }
    }
    registers
}

/// All that a frame's registers are, read from where they lie.
fn resolved(mut registers: Registers) -> Vec<Option<u64>> {
    let mut memory = Memory::new(word);
    Register::ALL.into_iter().map(|register| registers.get(register, &mut memory).ok()).collect()
}

#[test]
fn compact_rules_do_what_the_full_evaluation_does() {
    let (mut plain, mut total) = (0, 0);
    for path in present() {
        let (bytes, extents) = tables(path).unwrap();
        let mut tables = Tables::new(Arc::new(bytes), &extents);
        let (mut entry, mut context) = (Entry::default(), Context::new());
        for (first, _) in tables.index() {
            assert!(tables.find(first, &mut entry), "{path} {first:#x}");
            let length = entry.fde().unwrap().len();
            for svma in (first..first + length).step_by((length / 6).max(1) as usize) {
                total += 1;
                let Rule::Plain(compact) = rule::rule_for(&entry, svma, &mut context) else {
                    continue;
                };
                plain += 1;
                let (mut one, mut other) = (registers(svma), registers(svma));
                let result = compact.apply(&mut one, &mut Memory::new(word));
                let memory = &mut Memory::new(word);
                let full = rule::evaluate(&entry, svma, &mut context, &mut other, memory);
                assert_eq!(result, full.map(|signal| assert!(!signal)), "{path} {svma:#x}");
                assert_eq!(resolved(one), resolved(other), "{path} {svma:#x} {compact:?}");
            }
        }
    }
    // PLT stubs, signal frames and outermost frames are the exceptions.
    assert!(plain * 1000 > total * 990, "{plain} of {total} rules are compact");
}

#[test]
fn the_index_of_the_file_and_ours_agree() {
    for path in present() {
        let (bytes, extents) = tables(path).unwrap();
        let source = Arc::new(bytes);
        let mut by_header = Tables::new(source.clone(), &extents);
        let without = UnwindTables { eh_frame_hdr: None, ..extents };
        let mut by_index = Tables::new(source, &without);
        let (mut one, mut other) = (Entry::default(), Entry::default());
        for (first, _) in by_index.index() {
            assert!(by_index.find(first, &mut other));
            let other = other.fde().unwrap();
            for svma in [first, other.end_address() - 1] {
                assert!(by_header.find(svma, &mut one));
                let one = one.fde().unwrap();
                assert_eq!(one.initial_address(), other.initial_address(), "{path} {svma:#x}");
                assert_eq!(one.initial_address(), first);
            }
        }
    }
}

/// The rows of `readelf --debug-dump=frames-interp`: address, CFA, and the
/// registers that are saved at a distance from it.
fn readelf(path: &str) -> Vec<(u64, String, BTreeMap<String, i64>)> {
    let output = Command::new("readelf").args(["-W", "--debug-dump=frames-interp"]).arg(path).output();
    let text = String::from_utf8_lossy(&output.expect("readelf (binutils) is needed").stdout).into_owned();
    let (mut rows, mut columns, mut in_fde) = (Vec::new(), Vec::new(), false);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.get(3) == Some(&"CIE") || words.get(3) == Some(&"FDE") {
            in_fde = words[3] == "FDE";
        } else if words.first() == Some(&"LOC") {
            columns = words[2..].iter().map(|name| (*name).to_owned()).collect();
        } else if in_fde && words.len() == columns.len() + 2 {
            let Ok(address) = u64::from_str_radix(words[0], 16) else {
                continue;
            };
            let saved = columns
                .iter()
                .cloned()
                .zip(&words[2..])
                .filter_map(|(name, rule)| Some((name, rule.strip_prefix('c')?.parse().ok()?)));
            rows.push((address, words[1].to_owned(), saved.collect()));
        }
    }
    rows
}

#[test]
fn rules_say_what_readelf_says() {
    let mut compared = 0;
    for path in present() {
        let (bytes, extents) = tables(path).unwrap();
        let mut tables = Tables::new(Arc::new(bytes), &extents);
        let (mut entry, mut context) = (Entry::default(), Context::new());
        let rows = readelf(path);
        for (index, (svma, cfa, saved)) in rows.iter().enumerate() {
            // A row that ends where it starts describes nothing.
            if rows.get(index + 1).is_some_and(|next| next.0 == *svma) || !tables.find(*svma, &mut entry) {
                continue;
            }
            let Rule::Plain(compact) = rule::rule_for(&entry, *svma, &mut context) else {
                continue;
            };
            let Some((register, offset)) = cfa.split_once('+') else {
                continue;
            };
            let before = registers(*svma);
            let register = Register::ALL.into_iter().find(|known| known.name() == register).unwrap();
            let mut expected = resolved(before)[register as usize].unwrap();
            expected += offset.parse::<u64>().unwrap();
            let mut after = before;
            compact.apply(&mut after, &mut Memory::new(word)).unwrap();
            assert_eq!(after.sp(), expected, "{path} {svma:#x}");
            for (name, at) in saved {
                let place = expected.wrapping_add(*at as u64);
                let name = if name == "ra" { "rip" } else { name };
                let register = Register::ALL.into_iter().find(|known| known.name() == name).unwrap();
                assert_eq!(resolved(after)[register as usize], word(place).ok(), "{path} {svma:#x} {name}");
            }
            compared += 1;
        }
    }
    assert!(compared > 50_000, "only {compared} rows compared");
}
