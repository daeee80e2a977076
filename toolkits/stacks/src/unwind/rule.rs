//! From call frame information to the registers of the caller.
//!
//! Nearly every row of call frame information says the same kind of thing: the
//! CFA is a register plus a number, the return address lies below it, and some
//! callee-saved registers lie at fixed distances. Such a row fits a [`Plain`]
//! rule of a few bytes and is cached; so do the expressions of functions that
//! realign their stack. The others (signal trampolines, PLT stubs) are evaluated
//! each time.

use gimli::{
    CfaRule, EhFrame, Encoding, EvaluationResult, Expression, Location, Operation, RegisterRule, UnwindContext,
    UnwindExpression, UnwindTableRow, Value,
};

use super::EndReason;
use super::memory::{Memory, Registers};
use super::tables::{Bytes, Entry};
use super::x86_64::{CALLEE_SAVED, RETURN_ADDRESS_SIZE, Register};

/// Steps of one DWARF expression. Those of signal frames take three.
const MAX_EXPRESSION_STEPS: u32 = 256;

/// What to do at one code address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The common case.
    Plain(Plain),
    /// The same, by Go's table.
    Go(Plain),
    /// Evaluate the row each time.
    Evaluate,
    /// The return address is undefined: the outermost frame.
    Root,
    /// No description covers the address.
    Missing,
    /// There is a description, and it makes no sense.
    Malformed,
}

/// CFA = register + offset, or what lies there; the return address at CFA - 8;
/// each callee-saved register kept, lost, or at eight times a number from the
/// CFA, or from a register where a function realigned its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    cfa_offset: i32,
    /// In words of eight bytes, by the order of [`CALLEE_SAVED`].
    places: [i16; CALLEE_SAVED.len()],
    /// Bit n: register n is saved.
    saved: u16,
    /// Bit n: register n is lost.
    lost: u16,
    cfa_register: Register,
    /// What `places` count from, where it is not the CFA.
    base: Option<Register>,
    /// The CFA is the word at register + offset.
    in_memory: bool,
}

impl Plain {
    /// That of a frame of Go, whose return address lies `size` bytes above the stack pointer; the frame pointer of its
    /// caller is right below that (Go's "Go internal ABI specification", Architecture specifics, amd64).
    pub(super) fn of_go_frame(size: u32) -> Option<Self> {
        let mut plain = Self {
            cfa_offset: i32::try_from(size).ok()?.checked_add(RETURN_ADDRESS_SIZE as i32)?,
            places: [0; CALLEE_SAVED.len()],
            saved: 0,
            // It preserves no other register.
            lost: CALLEE_SAVED.into_iter().fold(0, |lost, register| lost | 1 << register as u8),
            cfa_register: Register::STACK_POINTER,
            base: None,
            in_memory: false,
        };
        let frame_pointer = 1 << Register::FRAME_POINTER as u8;
        plain.lost &= !frame_pointer;
        if size > 0 {
            let index = CALLEE_SAVED.iter().position(|register| *register == Register::FRAME_POINTER)?;
            plain.saved = frame_pointer;
            plain.places[index] = -2;
        }
        Some(plain)
    }

    fn from_row(row: &UnwindTableRow<usize>, section: &EhFrame<Bytes<'_>>, encoding: Encoding) -> Option<Self> {
        let return_address = row.register(gimli::Register(Register::PC as u16))?;
        if return_address != RegisterRule::Offset(-(RETURN_ADDRESS_SIZE as i64)) {
            return None;
        }
        let (cfa_register, offset, in_memory) = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => (*register, *offset, false),
            CfaRule::Expression(place) => sum_of(place.get(section).ok()?, encoding)?,
        };
        let mut plain = Self {
            cfa_offset: i32::try_from(offset).ok()?,
            places: [0; CALLEE_SAVED.len()],
            saved: 0,
            lost: 0,
            cfa_register: Register::from_dwarf(cfa_register.0)?,
            base: None,
            in_memory,
        };
        let mut from_cfa = false;
        for (number, rule) in row.registers() {
            let register = Register::from_dwarf(number.0)?;
            if register == Register::PC {
                continue;
            }
            let index = CALLEE_SAVED.iter().position(|saved| *saved == register)?;
            let place = match rule {
                RegisterRule::SameValue => continue,
                RegisterRule::Undefined => {
                    plain.lost |= 1 << register as u8;
                    continue;
                }
                RegisterRule::Offset(at) => {
                    from_cfa = true;
                    *at
                }
                RegisterRule::Expression(place) => {
                    let (base, at, false) = sum_of(place.get(section).ok()?, encoding)? else {
                        return None;
                    };
                    let base = Register::from_dwarf(base.0)?;
                    if plain.base.is_some_and(|other| other != base) {
                        return None;
                    }
                    plain.base = Some(base);
                    at
                }
                _ => return None,
            };
            plain.saved |= 1 << register as u8;
            plain.places[index] = i16::try_from(place / 8).ok().filter(|_| place % 8 == 0)?;
        }
        (!from_cfa || plain.base.is_none()).then_some(plain)
    }

    /// Whether it is the rule of a function that keeps a frame pointer: what it has saved
    /// below that, in bytes.
    pub(super) fn saved_below_frame_pointer(&self) -> Option<u64> {
        if self.cfa_register != Register::FRAME_POINTER
            || self.cfa_offset != 16
            || self.in_memory
            || self.base.is_some()
        {
            return None;
        }
        let saved = CALLEE_SAVED.into_iter().zip(self.places);
        let lowest = saved.filter(|(one, _)| self.saved >> *one as u8 & 1 == 1).map(|(_, place)| place).min();
        // The frame pointer lies two words below the CFA.
        lowest.map_or(Some(0), |place| u64::try_from(-i64::from(place) - 2).ok()).map(|words| words * 8)
    }

    /// Turns the registers of a frame into those of its caller.
    pub(super) fn apply<F>(&self, registers: &mut Registers, memory: &mut Memory<F>) -> Result<(), EndReason>
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        let mut cfa = registers.get(self.cfa_register, memory)?;
        cfa = cfa.wrapping_add(i64::from(self.cfa_offset) as u64);
        if self.in_memory {
            cfa = memory.word(cfa)?;
        }
        // The stack grows down, and the return address was pushed.
        if cfa <= registers.sp() {
            return Err(EndReason::NoProgress);
        }
        let return_address = memory.word(cfa.wrapping_sub(RETURN_ADDRESS_SIZE))?;
        let base = match self.base {
            None => cfa,
            Some(register) => registers.get(register, memory)?,
        };
        registers.forget_caller_saved();
        registers.set_places(self.saved, |index| base.wrapping_add((i64::from(self.places[index]) * 8) as u64));
        registers.forget_all(self.lost);
        registers.set(Register::STACK_POINTER, cfa);
        registers.set(Register::PC, return_address);
        Ok(())
    }
}

/// Takes an expression apart that adds an offset to a register, and perhaps
/// reads the word there: register, offset, whether it reads.
fn sum_of(expression: Expression<Bytes<'_>>, encoding: Encoding) -> Option<(gimli::Register, i64, bool)> {
    let mut operations = expression.operations(encoding);
    let Operation::RegisterOffset { register, offset, .. } = operations.next().ok()?? else {
        return None;
    };
    let reads = match operations.next().ok()? {
        None => false,
        Some(Operation::Deref { size: 8, space: false, .. }) => true,
        Some(_) => return None,
    };
    operations.next().ok()?.is_none().then_some((register, offset, reads))
}

/// gimli's working memory, kept from one row to the next.
pub(super) type Context = UnwindContext<usize>;

/// Reads the row of `entry` that covers `svma`.
pub(super) fn rule_for(entry: &Entry, svma: u64, context: &mut Context) -> Rule {
    let Ok(fde) = entry.fde() else {
        return Rule::Malformed;
    };
    if !fde.contains(svma) {
        return Rule::Missing;
    }
    let (section, bases) = entry.section();
    let row = match fde.unwind_info_for_address(&section, bases, context, svma) {
        Ok(row) => row,
        Err(_) => return Rule::Malformed,
    };
    let pc = gimli::Register(Register::PC as u16);
    match row.register(pc) {
        None | Some(RegisterRule::Undefined) => Rule::Root,
        _ if fde.is_signal_trampoline() => Rule::Evaluate,
        _ => Plain::from_row(row, &section, fde.cie().encoding()).map_or(Rule::Evaluate, Rule::Plain),
    }
}

/// Evaluates the row that covers `svma` in full and turns the registers of a
/// frame into those of its caller. True where the frame is a signal trampoline.
pub(super) fn evaluate<F>(
    entry: &Entry,
    svma: u64,
    context: &mut Context,
    registers: &mut Registers,
    memory: &mut Memory<F>,
) -> Result<bool, EndReason>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let malformed = EndReason::MalformedUnwindInfo { avma: registers.pc() };
    let fde = entry.fde().map_err(|_| malformed)?;
    let (section, bases) = entry.section();
    let row = fde.unwind_info_for_address(&section, bases, context, svma).map_err(|_| malformed)?;
    let expression = |place: &UnwindExpression<usize>| place.get(&section).map_err(|_| malformed);
    let encoding = fde.cie().encoding();
    let is_signal = fde.is_signal_trampoline();

    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let register = Register::from_dwarf(register.0).ok_or(malformed)?;
            registers.get(register, memory)?.wrapping_add(*offset as u64)
        }
        CfaRule::Expression(place) => evaluate_expression(expression(place)?, encoding, None, registers, memory)?,
    };
    // vfork(2) keeps its return address in a register, and has nothing on the stack.
    let keeps_stack = matches!(row.register(gimli::Register(Register::PC as u16)), Some(RegisterRule::Register(_)));
    if !is_signal && (cfa < registers.sp() || (cfa == registers.sp() && !keeps_stack)) {
        return Err(EndReason::NoProgress);
    }
    // All rules speak of the registers of this frame, so the caller's are made
    // beside them.
    let mut caller = *registers;
    caller.forget_caller_saved();
    caller.set(Register::STACK_POINTER, cfa);
    for (number, rule) in row.registers() {
        let Some(register) = Register::from_dwarf(number.0) else {
            continue;
        };
        match rule {
            RegisterRule::Undefined => caller.forget(register),
            RegisterRule::SameValue => match registers.get(register, memory) {
                Ok(value) => caller.set(register, value),
                Err(_) => caller.forget(register),
            },
            RegisterRule::Offset(at) => caller.set_place(register, cfa.wrapping_add(*at as u64)),
            RegisterRule::ValOffset(at) => caller.set(register, cfa.wrapping_add(*at as u64)),
            RegisterRule::Register(other) => {
                let other = Register::from_dwarf(other.0).ok_or(malformed)?;
                match registers.get(other, memory) {
                    Ok(value) => caller.set(register, value),
                    Err(_) => caller.forget(register),
                }
            }
            RegisterRule::Expression(place) | RegisterRule::ValExpression(place) => {
                let expression = expression(place)?;
                let value = evaluate_expression(expression, encoding, Some(cfa), registers, memory);
                match (value, rule) {
                    (Ok(value), RegisterRule::Expression(_)) => caller.set_place(register, value),
                    (Ok(value), _) => caller.set(register, value),
                    (Err(_), _) => caller.forget(register),
                }
            }
            RegisterRule::Constant(value) => caller.set(register, *value),
            _ => return Err(malformed),
        }
    }
    // These two are read now: a frame without them is none.
    for register in [Register::STACK_POINTER, Register::PC] {
        let value = caller.get(register, memory)?;
        caller.set(register, value);
    }
    *registers = caller;
    Ok(is_signal)
}

/// Runs a DWARF expression (DWARF 5, section 2.5), which may read registers and
/// memory. For a register's rule the CFA is on its stack at the start
/// (section 6.4.2.3).
fn evaluate_expression<F>(
    expression: Expression<Bytes<'_>>,
    encoding: Encoding,
    initial: Option<u64>,
    registers: &mut Registers,
    memory: &mut Memory<F>,
) -> Result<u64, EndReason>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let malformed = EndReason::MalformedUnwindInfo { avma: registers.pc() };
    let mut evaluation = expression.evaluation(encoding);
    evaluation.set_max_iterations(MAX_EXPRESSION_STEPS);
    if let Some(value) = initial {
        evaluation.set_initial_value(value);
    }
    let mut result = evaluation.evaluate();
    loop {
        result = match result.map_err(|_| malformed)? {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                let register = Register::from_dwarf(register.0).ok_or(malformed)?;
                let value = registers.get(register, memory)?;
                evaluation.resume_with_register(Value::Generic(value))
            }
            EvaluationResult::RequiresMemory { address, size, .. } => {
                let unreadable = EndReason::UnreadableStack { address };
                let value = memory.read_sized(address, size).ok_or(unreadable)?;
                evaluation.resume_with_memory(Value::Generic(value))
            }
            _ => return Err(malformed),
        };
    }
    match evaluation.as_result().last().map(|piece| &piece.location) {
        Some(Location::Address { address }) => Ok(*address),
        Some(Location::Value { value }) => value.to_u64(u64::MAX).map_err(|_| malformed),
        _ => Err(malformed),
    }
}
