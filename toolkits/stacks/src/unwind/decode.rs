//! How long an x86-64 instruction is, and what it does to the stack pointer and to the registers that a call preserves.
//!
//! Enough to follow code from an address to where it returns (`paths.rs`), and no more. Sources: Intel's Software Developer's
//! Manual, volume 2, appendix A (opcode maps) and chapter 2 (prefixes, ModR/M, VEX, EVEX). The tests hold lengths and effects
//! against objdump for all code of several libraries.

use super::x86_64::Register;

/// What an offset is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Base {
    /// The stack pointer.
    Stack,
    /// The frame pointer.
    Frame,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that matters.
    None,
    /// Puts eight bytes on the stack.
    Push,
    /// Takes eight bytes from the stack, into this register.
    Pop(Option<Register>),
    /// Adds to the stack pointer.
    Add(i64),
    /// Sets the stack pointer to so many bytes above the frame pointer.
    FromFrame(i64),
    /// Does both: what lies at the frame pointer becomes the frame pointer.
    Leave,
    /// Sets the stack pointer to what cannot be followed.
    Lost,
    /// Loads a register that a call preserves from the frame.
    Load(Register, Base, i64),
    /// Returns, and takes so many bytes of arguments from the stack.
    Return(u16),
    /// Goes on elsewhere, so far behind the end of the instruction.
    Jump(i64),
    /// Goes on elsewhere or not.
    Branch(i64),
    /// Goes on at an address in a table of the linker.
    JumpBySlot,
    /// Goes on somewhere.
    JumpSomewhere,
    /// Calls, and comes back.
    Call,
    /// A system call.
    SystemCall,
    /// Does not go on.
    End,
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Bytes.
    pub(super) length: usize,
    /// What it does.
    pub(super) effect: Effect,
}

/// The longest instruction, in bytes.
pub(super) const LONGEST: usize = 15;

/// An operand: ModR/M, and what belongs to it.
#[derive(Clone, Copy)]
struct Operand {
    /// 3 is a register.
    mode: u8,
    /// The register field, without REX.
    field: u8,
    /// The register or base field, without REX.
    rest: u8,
    /// What a base is, where there is no index.
    base: Option<u8>,
    displacement: i64,
    length: usize,
}

/// The instruction at the start of `code`; `None` where there is none, or it is not known.
pub(super) fn decode(code: &[u8]) -> Option<Instruction> {
    let mut at = 0;
    let (mut is_short, mut rex) = (false, 0);
    loop {
        match *code.get(at)? {
            0x66 => is_short = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 | 0xf0 | 0xf2 | 0xf3 => {}
            _ => break,
        }
        at += 1;
    }
    if let byte @ 0x40..=0x4f = *code.get(at)? {
        rex = byte;
        at += 1;
    }
    let opcode = *code.get(at)?;
    at += 1;
    let wide = rex & 8 != 0;
    let immediate = if is_short && !wide { 2 } else { 4 };
    let plain = |length: usize, effect: Effect| finish(code, length, effect);
    let by_operand = |at: usize, immediate: usize| {
        let operand = operand(code, at)?;
        Some((operand, at + operand.length + immediate))
    };
    match opcode {
        0x0f => two_bytes(code, at, rex, is_short),
        0x00..=0x3f => match opcode & 7 {
            form @ 0..=3 => {
                let (operand, length) = by_operand(at, 0)?;
                // All but the comparison write: the operand (0, 1) or the register (2, 3).
                let writes = opcode < 0x38;
                let to = if form < 2 { written(operand, rex) } else { Some(operand.field | (rex & 4) << 1) };
                plain(length, if writes { lost(to) } else { Effect::None })
            }
            4 => plain(at + 1, Effect::None),
            5 => plain(at + immediate, Effect::None),
            _ => None,
        },
        0x50..=0x57 if !is_short => plain(at, Effect::Push),
        0x58..=0x5f if !is_short => {
            let register = opcode & 7 | (rex & 1) << 3;
            plain(at, if register == 4 { Effect::Lost } else { Effect::Pop(preserved(register)) })
        }
        0x50..=0x5f => plain(at, Effect::Lost),
        0x62 => extended(code, at),
        0x63 => {
            let (operand, length) = by_operand(at, 0)?;
            plain(length, lost(Some(operand.field | (rex & 4) << 1)))
        }
        0x68 => plain(at + immediate, Effect::Push),
        0x6a => plain(at + 1, Effect::Push),
        0x69 => plain(by_operand(at, immediate)?.1, Effect::None),
        0x6b => plain(by_operand(at, 1)?.1, Effect::None),
        0x6c..=0x6f | 0x90..=0x99 | 0x9b | 0x9e | 0x9f | 0xa4..=0xa7 | 0xaa..=0xaf | 0xd7 | 0xec..=0xef => {
            plain(at, Effect::None)
        }
        0x70..=0x7f | 0xe0..=0xe3 => plain(at + 1, Effect::Branch(signed(code, at, 1)?)),
        0x80 | 0x81 | 0x83 => {
            let size = if opcode == 0x81 { immediate } else { 1 };
            let (operand, length) = by_operand(at, size)?;
            let value = signed(code, at + operand.length, size)?;
            let is_stack = written(operand, rex) == Some(4);
            let effect = match operand.field {
                7 => Effect::None,
                0 if is_stack && wide => Effect::Add(value),
                5 if is_stack && wide => Effect::Add(-value),
                _ => lost(written(operand, rex)),
            };
            plain(length, if opcode == 0x80 { Effect::None } else { effect })
        }
        0x84 | 0x85 | 0x88 | 0x8a | 0x8c | 0x8e | 0xd0 | 0xd2 | 0xd8..=0xdf | 0xfe => {
            plain(by_operand(at, 0)?.1, Effect::None)
        }
        0x86 => plain(by_operand(at, 0)?.1, Effect::None),
        0x87 => {
            let (operand, length) = by_operand(at, 0)?;
            let both = [written(operand, rex), Some(operand.field | (rex & 4) << 1)];
            plain(length, if both.contains(&Some(4)) { Effect::Lost } else { Effect::None })
        }
        0x89 => {
            let (operand, length) = by_operand(at, 0)?;
            let from = operand.field | (rex & 4) << 1;
            let effect = match written(operand, rex) {
                Some(4) if wide && from == 5 => Effect::FromFrame(0),
                to => lost(to),
            };
            plain(length, effect)
        }
        0x8b => {
            let (operand, length) = by_operand(at, 0)?;
            let to = operand.field | (rex & 4) << 1;
            let effect = match (to, written(operand, rex), base(operand, rex)) {
                (4, Some(5), _) if wide => Effect::FromFrame(0),
                (4, ..) => Effect::Lost,
                (_, None, Some(base)) if wide => {
                    preserved(to).map_or(Effect::None, |to| Effect::Load(to, base, operand.displacement))
                }
                _ => Effect::None,
            };
            plain(length, effect)
        }
        0x8d => {
            let (operand, length) = by_operand(at, 0)?;
            let effect = match (operand.field | (rex & 4) << 1, base(operand, rex)) {
                (4, Some(Base::Stack)) if wide => Effect::Add(operand.displacement),
                (4, Some(Base::Frame)) if wide => Effect::FromFrame(operand.displacement),
                (4, _) => Effect::Lost,
                _ => Effect::None,
            };
            plain(length, effect)
        }
        0x8f => {
            let (operand, length) = by_operand(at, 0)?;
            plain(length, if operand.field == 0 { Effect::Pop(None) } else { return None })
        }
        0x9c => plain(at, Effect::Push),
        0x9d => plain(at, Effect::Pop(None)),
        0xa0..=0xa3 => plain(at + 8, Effect::None),
        0xa8 | 0xb0..=0xb7 | 0xcd | 0xe4..=0xe7 => plain(at + 1, Effect::None),
        0xa9 => plain(at + immediate, Effect::None),
        0xb8..=0xbf => {
            let size = if wide { 8 } else { immediate };
            plain(at + size, lost(Some(opcode & 7 | (rex & 1) << 3)))
        }
        0xc0 | 0xc1 | 0xc6 => plain(by_operand(at, 1)?.1, Effect::None),
        0xc7 => {
            let (operand, length) = by_operand(at, immediate)?;
            plain(length, lost(written(operand, rex)))
        }
        0xc2 => plain(at + 2, Effect::Return(u16::try_from(signed(code, at, 2)? & 0xffff).ok()?)),
        0xc3 => plain(at, Effect::Return(0)),
        0xc4 | 0xc5 => vector(code, at, opcode),
        0xc8 => plain(at + 3, Effect::Lost),
        0xc9 => plain(at, Effect::Leave),
        0xca => plain(at + 2, Effect::Lost),
        0xcb | 0xcf => plain(at, Effect::Lost),
        0xcc | 0xf1 | 0xf4 => plain(at, Effect::End),
        0xd1 | 0xd3 => plain(by_operand(at, 0)?.1, Effect::None),
        0xe8 => plain(at + 4, Effect::Call),
        0xe9 => plain(at + 4, Effect::Jump(signed(code, at, 4)?)),
        0xeb => plain(at + 1, Effect::Jump(signed(code, at, 1)?)),
        0xf5 | 0xf8..=0xfd => plain(at, Effect::None),
        0xf6 | 0xf7 => {
            let size = if opcode == 0xf6 { 1 } else { immediate };
            let field = operand(code, at)?.field;
            plain(by_operand(at, if field < 2 { size } else { 0 })?.1, Effect::None)
        }
        0xff => {
            let (operand, length) = by_operand(at, 0)?;
            let effect = match operand.field {
                0 | 1 => lost(written(operand, rex)),
                2 => Effect::Call,
                // By a slot: relative to the instruction, as a linkage table has it.
                4 if operand.mode == 0 && operand.rest == 5 => Effect::JumpBySlot,
                4 | 5 => Effect::JumpSomewhere,
                3 => Effect::Lost,
                6 => Effect::Push,
                _ => return None,
            };
            plain(length, effect)
        }
        _ => None,
    }
}

/// The map behind `0f`.
fn two_bytes(code: &[u8], at: usize, rex: u8, is_short: bool) -> Option<Instruction> {
    let opcode = *code.get(at)?;
    let at = at + 1;
    let size = |immediate: usize| Some(at + operand(code, at)?.length + immediate);
    match opcode {
        0x05 => finish(code, at, Effect::SystemCall),
        0x0b => finish(code, at, Effect::End),
        0x06..=0x09 | 0x30..=0x37 | 0x77 | 0xa2 | 0xaa | 0xc8..=0xcf => finish(code, at, Effect::None),
        0xa0 | 0xa8 => finish(code, at, Effect::Push),
        0xa1 | 0xa9 => finish(code, at, Effect::Pop(None)),
        0x80..=0x8f if !is_short => finish(code, at + 4, Effect::Branch(signed(code, at, 4)?)),
        0x80..=0x8f => None,
        // A hint, and a mark of where a jump may lead.
        0x38 => finish(code, at + 1 + operand(code, at + 1)?.length, Effect::None),
        0x3a => finish(code, at + 2 + operand(code, at + 1)?.length, Effect::None),
        0x40..=0x4f => {
            let to = operand(code, at)?.field | (rex & 4) << 1;
            finish(code, size(0)?, lost(Some(to)))
        }
        0xb9 | 0xff => finish(code, size(0)?, Effect::End),
        0x0f | 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => finish(code, size(1)?, Effect::None),
        0x04 | 0x0a | 0x0c | 0x0e | 0x24..=0x27 | 0x39 | 0x3b..=0x3f | 0xa6 | 0xa7 => None,
        _ => finish(code, size(0)?, Effect::None),
    }
}

/// VEX: two or three bytes in front of the opcode say which map it is of.
fn vector(code: &[u8], at: usize, prefix: u8) -> Option<Instruction> {
    let (map, at) = if prefix == 0xc5 { (1, at + 1) } else { (*code.get(at)? & 0x1f, at + 2) };
    by_map(code, at, map)
}

/// EVEX: four.
fn extended(code: &[u8], at: usize) -> Option<Instruction> {
    by_map(code, at + 3, *code.get(at)? & 7)
}

fn by_map(code: &[u8], at: usize, map: u8) -> Option<Instruction> {
    let opcode = *code.get(at)?;
    let at = at + 1;
    if map == 1 && opcode == 0x77 {
        return finish(code, at, Effect::None);
    }
    let immediate = match map {
        1 => usize::from(matches!(opcode, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6)),
        2 | 5 | 6 => 0,
        3 => 1,
        _ => return None,
    };
    finish(code, at + operand(code, at)?.length + immediate, Effect::None)
}

/// An instruction of `length` bytes, if so many are there.
fn finish(code: &[u8], length: usize, effect: Effect) -> Option<Instruction> {
    (length <= code.len().min(LONGEST)).then_some(Instruction { length, effect })
}

fn operand(code: &[u8], at: usize) -> Option<Operand> {
    let byte = *code.get(at)?;
    let (mode, field, rest) = (byte >> 6, byte >> 3 & 7, byte & 7);
    let mut length = 1;
    let mut base = Some(rest);
    if mode != 3 && rest == 4 {
        let scaled = *code.get(at + 1)?;
        length += 1;
        // No index: 4, and REX.X is not looked at, since that index is not used for the stack.
        base = (scaled >> 3 & 7 == 4).then_some(scaled & 7);
        if mode == 0 && scaled & 7 == 5 {
            return Some(Operand { mode, field, rest, base: None, displacement: 0, length: length + 4 });
        }
    } else if mode == 0 && rest == 5 {
        return Some(Operand { mode, field, rest, base: None, displacement: 0, length: length + 4 });
    }
    let size = [0, 1, 4, 0][usize::from(mode)];
    let displacement = signed(code, at + length, size)?;
    Some(Operand { mode, field, rest, base, displacement, length: length + size })
}

/// The register that an operand is, if it is one.
fn written(operand: Operand, rex: u8) -> Option<u8> {
    (operand.mode == 3).then_some(operand.rest | (rex & 1) << 3)
}

/// What an operand in memory is counted from, if it is the stack or the frame.
fn base(operand: Operand, rex: u8) -> Option<Base> {
    match operand.base.filter(|_| operand.mode != 3 && rex & 3 == 0)? {
        4 => Some(Base::Stack),
        5 => Some(Base::Frame),
        _ => None,
    }
}

/// What it is to write to a register.
fn lost(to: Option<u8>) -> Effect {
    if to == Some(4) { Effect::Lost } else { Effect::None }
}

/// The register of an instruction's number, if a call preserves it.
fn preserved(number: u8) -> Option<Register> {
    match number {
        3 => Some(Register::Rbx),
        5 => Some(Register::Rbp),
        12 => Some(Register::R12),
        13 => Some(Register::R13),
        14 => Some(Register::R14),
        15 => Some(Register::R15),
        _ => None,
    }
}

fn signed(code: &[u8], at: usize, size: usize) -> Option<i64> {
    let bytes = code.get(at..at + size)?;
    let value = bytes.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    Some(match size {
        1 => i64::from(value as u8 as i8),
        2 => i64::from(value as u16 as i16),
        4 => i64::from(value as u32 as i32),
        _ => value as i64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_are_too_strange() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..1_000_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let code = u128::from(random) << 64 | u128::from(random.wrapping_mul(0x2545_f491_4f6c_dd1d));
            let code = code.to_le_bytes();
            for length in [1, 3, 15] {
                if let Some(found) = decode(&code[..length]) {
                    assert!((1..=length).contains(&found.length), "{found:?} of {code:x?}");
                }
            }
        }
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[0x66; 16]), None);
    }
}
