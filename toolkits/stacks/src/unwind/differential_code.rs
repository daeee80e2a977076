//! What instructions do, as objdump says; and how functions return, as their call frame information says.
#![allow(clippy::disallowed_methods)]

use std::process::Command;
use std::sync::Arc;

use agent_binaries::elf::{ElfFile, Source as _};

use super::decode::{Base, Effect, LONGEST, decode};
use super::differential::{present, registers, tables, word};
use super::memory::Memory;
use super::paths;
use super::rule::{self, Context, Rule};
use super::tables::{Entry, Tables};
use super::x86_64::{CALLEE_SAVED, Register};

/// What objdump's words for an instruction say that it does, as far as they are looked at.
fn said(text: &str, next: u64) -> Option<Effect> {
    let text = text.split(" #").next()?.trim();
    // objdump writes prefixes that mean nothing as words of their own.
    const PREFIXES: [&str; 11] =
        ["bnd ", "notrack ", "rep ", "repz ", "repnz ", "lock ", "cs ", "ds ", "data16 ", "addr32 ", "rex.W "];
    let mut text = text;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    let (mnemonic, operands) = text.split_once(' ').map_or((text, ""), |(first, rest)| (first, rest.trim()));
    let number = |text: &str| {
        let (sign, text) = text.strip_prefix('-').map_or((1, text), |text| (-1, text));
        match text.strip_prefix("0x") {
            // Two's complement, of the sign that objdump did not write.
            Some(text) => u64::from_str_radix(text, 16).ok().map(|value| sign * value as i64),
            None => text.is_empty().then_some(0),
        }
    };
    let target = || {
        let word = operands.split([' ', '<']).next()?;
        Some((u64::from_str_radix(word, 16).ok()?.wrapping_sub(next)) as i64)
    };
    let is_wide = operands.contains("%rsp");
    Some(match mnemonic {
        "push" | "pushf" => Effect::Push,
        "pop" if operands.starts_with("%rsp") => Effect::Lost,
        "pop" | "popf" => Effect::Pop(match operands {
            "%rbx" => Some(Register::Rbx),
            "%rbp" => Some(Register::Rbp),
            "%r12" => Some(Register::R12),
            "%r13" => Some(Register::R13),
            "%r14" => Some(Register::R14),
            "%r15" => Some(Register::R15),
            _ => None,
        }),
        "ret" if operands.is_empty() => Effect::Return(0),
        "leave" => Effect::Leave,
        "call" => Effect::Call,
        "syscall" => Effect::SystemCall,
        "hlt" | "ud2" | "int3" => Effect::End,
        "jmp" if operands.starts_with('*') => {
            if operands.ends_with("(%rip)") {
                Effect::JumpBySlot
            } else {
                Effect::JumpSomewhere
            }
        }
        "jmp" => Effect::Jump(target()?),
        _ if mnemonic.starts_with('j') || mnemonic.starts_with("loop") => {
            Effect::Branch(u64::from_str_radix(operands.split([' ', '<']).next()?, 16).ok()?.wrapping_sub(next) as i64)
        }
        "add" if is_wide && operands.starts_with('$') && operands.ends_with(",%rsp") => {
            Effect::Add(number(operands[1..].strip_suffix(",%rsp")?)?)
        }
        "sub" if is_wide && operands.starts_with('$') && operands.ends_with(",%rsp") => {
            Effect::Add(-number(operands[1..].strip_suffix(",%rsp")?)?)
        }
        "lea" if operands.ends_with("(%rsp),%rsp") => Effect::Add(number(operands.strip_suffix("(%rsp),%rsp")?)?),
        "lea" if operands.ends_with("(%rbp),%rsp") => Effect::FromFrame(number(operands.strip_suffix("(%rbp),%rsp")?)?),
        "mov" if operands == "%rbp,%rsp" => Effect::FromFrame(0),
        "cmp" | "test" => Effect::None,
        _ if operands.ends_with(",%rsp") || operands == "%rsp" => Effect::Lost,
        _ => Effect::None,
    })
}

#[test]
fn instructions_are_as_long_as_objdump_says_and_do_what_it_says() {
    let mut looked_at = 0_u64;
    for path in present() {
        let output = Command::new("objdump").args(["-d", "-w", path]).output();
        let output = output.expect("objdump (binutils) is needed");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut wrong = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, '\t');
            let (Some(at), Some(bytes), Some(words)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let Ok(at) = u64::from_str_radix(at.trim().trim_end_matches(':'), 16) else { continue };
            let mut bytes: Vec<u8> = bytes.split(' ').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
            let length = bytes.len();
            // What objdump does not know, or takes together with the instruction behind it.
            if words.contains("(bad)") || words.starts_with(".byte") || bytes[0] == 0x9b || bytes.len() > LONGEST {
                continue;
            }
            if words.trim() == "rex" || words.starts_with("rex.") {
                continue;
            }
            bytes.resize(LONGEST, 0x90);
            let found = decode(&bytes);
            let effect = found.map(|found| match found.effect {
                Effect::Load(..) => Effect::None,
                effect => effect,
            });
            let wanted = said(words, at + length as u64);
            looked_at += 1;
            if found.is_none_or(|found| found.length != length) || effect != wanted {
                wrong.push(format!("{line}: {found:?}, not {wanted:?}"));
            }
        }
        assert!(wrong.is_empty(), "{path}: {} wrong, as\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    }
    assert!(looked_at > 500_000, "{looked_at}");
}

/// Where the function of an address returns to, and where it has saved registers: as offsets from the stack pointer and from the
/// frame pointer, which lie far from each other.
#[test]
fn code_leads_to_the_return_address_that_call_frame_information_says() {
    let (mut all, mut found, mut alone, mut wrong, mut registers_wrong) = (0_u32, 0_u32, 0_u32, Vec::new(), Vec::new());
    for path in present() {
        let (bytes, extents) = tables(path).unwrap();
        let elf = ElfFile::parse(&bytes[..]).unwrap();
        let mut tables = Tables::new(Arc::new(bytes.clone()), &extents);
        let (mut entry, mut context) = (Entry::default(), Context::new());
        let code = |address: u64| {
            let offset = elf.source_offset_of(address).ok_or(())?;
            let mut word = [0; 8];
            let read = elf.source().read_at(offset, &mut word).map_err(|_| ())?;
            if read == 8 { Ok(u64::from_le_bytes(word)) } else { Err(()) }
        };
        for (number, (first, _)) in tables.index().into_iter().enumerate().filter(|(number, _)| number % 2 == 0) {
            assert!(tables.find(first, &mut entry), "{path} {first:#x}");
            let length = entry.fde().unwrap().len();
            // Where calls come back to.
            let (mut places, mut at) = (Vec::new(), first);
            while at < first + length && places.len() < 2000 {
                let Some(offset) = elf.source_offset_of(at) else { break };
                let Some(decoded) = decode(&bytes[offset as usize..][..LONGEST]) else { break };
                at += decoded.length as u64;
                if matches!(decoded.effect, Effect::Call | Effect::SystemCall) {
                    places.push(at);
                }
            }
            let step = (places.len() / 4).max(1);
            for svma in places.into_iter().skip(number % step).step_by(step) {
                let Rule::Plain(plain) = rule::rule_for(&entry, svma - 1, &mut context) else { continue };
                let memory = &mut Memory::new(word);
                let mut truth = registers(0);
                let mut moved = registers(1 << 20);
                if plain.apply(&mut truth, memory).is_err() || plain.apply(&mut moved, memory).is_err() {
                    continue;
                }
                let base = if truth.sp() == moved.sp() { Base::Stack } else { Base::Frame };
                let mut before = registers(0);
                let frame = before.get(Register::FRAME_POINTER, memory).unwrap();
                let sp = before.sp();
                let start = |base: Base| if base == Base::Stack { sp } else { frame };
                let wanted = truth.sp() - 8;
                let ways = paths::returns(svma, &mut Memory::new(code), &mut 0);
                let comparable: Vec<_> = ways.iter().filter(|way| way.place.0 == base).collect();
                if comparable.is_empty() {
                    continue;
                }
                all += 1;
                let place = |(base, offset): (Base, i64)| start(base).wrapping_add_signed(offset);
                let Some(way) = comparable.iter().find(|way| place(way.place) == wanted) else {
                    wrong.push(format!("{path} {svma:#x}: {wanted:#x}, not {comparable:x?}"));
                    continue;
                };
                found += 1;
                alone += u32::from(comparable.iter().all(|way| place(way.place) == wanted));
                // Registers that are in places which both count from the same.
                for (register, saved) in CALLEE_SAVED.into_iter().zip(way.saved) {
                    let known = truth.get(register, memory).ok();
                    let ours = match saved {
                        Some(saved) if saved.0 != base => continue,
                        Some(saved) => word(place(saved)).ok(),
                        None => before.get(register, memory).ok(),
                    };
                    if known != ours {
                        registers_wrong.push(format!("{path} {svma:#x} {register:?}: {way:x?}"));
                    }
                }
            }
        }
    }
    // What is not found is behind calls that do not come back: there the code of another function follows.
    let (most, registers) = (wrong.len(), registers_wrong.len());
    let shown = |lines: &[String]| lines[..lines.len().min(12)].join("\n");
    assert!(all > 10_000 && found * 100 >= all * 92, "{found} of {all}, {most} wrong:\n{}", shown(&wrong));
    assert!(alone * 100 >= all * 84, "{alone} of {all} without another place");
    assert!(registers * 1000 < found as usize, "{registers}:\n{}", shown(&registers_wrong));
}

/// Where code made of `bytes` from 0x1000 on returns, and how many instructions were followed.
fn returns_of(bytes: &[u8]) -> (Vec<paths::Return>, usize) {
    let word = |address: u64| {
        let at = usize::try_from(address.checked_sub(0x1000).ok_or(())?).map_err(|_| ())?;
        let word = bytes.get(at..).filter(|rest| !rest.is_empty()).ok_or(())?;
        let mut all = [0xcc; 8];
        word.iter().zip(&mut all).for_each(|(byte, place)| *place = *byte);
        Ok(u64::from_le_bytes(all))
    };
    let mut followed = 0;
    (paths::returns(0x1000, &mut Memory::new(word), &mut followed), followed)
}

#[test]
fn code_that_is_made_to_be_followed_for_ever_is_not() {
    // add $0x18,%rsp; pop %rbx; pop %rbp; ret
    let (plain, _) = returns_of(&[0x48, 0x83, 0xc4, 0x18, 0x5b, 0x5d, 0xc3]);
    let saved = [Some((Base::Stack, 0x18)), Some((Base::Stack, 0x20)), None, None, None, None];
    assert_eq!((plain[0].place, plain[0].saved, plain.len()), ((Base::Stack, 0x28), saved, 1));
    // Loops: at one place, and such that go up and down.
    assert!(returns_of(&[0xeb, 0xfe]).0.is_empty());
    for step in [&[0x50, 0xeb, 0xfd][..], &[0x58, 0xeb, 0xfd], &[0x48, 0x81, 0xc4, 0xff, 0xff, 0xff, 0x7f, 0xeb, 0xf7]]
    {
        let (found, followed) = returns_of(step);
        assert!(found.is_empty() && followed < 10_000, "{followed}");
    }
    // Each branch makes two ways of one, each with a stack of its own: jne +1; push; …
    let doubles: Vec<u8> = [0x75, 0x01, 0x50].repeat(3000);
    assert!(returns_of(&doubles).1 < 10_000);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..512)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random >> 24) as u8
            })
            .collect();
        assert!(returns_of(&bytes).1 < 10_000);
    }
}
