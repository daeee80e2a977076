//! The caller of a function that nothing describes: by following its code to where it returns.
//!
//! musl, which small images are made with, has no call frame information, keeps no frame pointer, and makes the system calls that
//! threads wait in. But how far the return address is from the stack pointer is the same on every way through a function: the
//! instructions from here to a `ret` say it, and which registers they restore. A call that does not come back leads into the next
//! function, so more than one place may be found; that counts whose return address follows a call which leads here.
//!
//! The thread's first function does not return: what is called last is the exit. Its caller is the code that ends the
//! thread or starts the program, if that is the first return address above it.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::EndReason;
use super::decode::{Base, Effect, LONGEST, decode};
use super::fallback::Code;
use super::memory::{Memory, Registers};
use super::x86_64::{self, CALLEE_SAVED, Register};

/// Instructions that are followed from one address.
const MOST: usize = 3000;
/// Instructions that are followed in one process: those of musl take some thousands, and of code that is made for it each may
/// be on a page of its own.
const MOST_IN_ALL: usize = 300_000;
/// Instructions after which a return that was found will do.
const ENOUGH: usize = 400;
/// Places that one function may return by: more is something else.
const MOST_RETURNS: usize = 8;
/// The largest frame, in bytes.
const LARGEST: i64 = 16 << 20;
/// Addresses whose ways are known.
const MOST_KNOWN: usize = 8192;
/// Words above the stack pointer in which the caller of a function that does not return is looked for.
const WORDS: u64 = 64;

/// A place, counted from a register.
pub(super) type Place = (Base, i64);

/// How a function returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Return {
    /// Where its return address lies.
    pub(super) place: Place,
    /// Bytes of arguments above it that it takes.
    arguments: u16,
    /// Where the registers that it preserves lie, in the order of [`CALLEE_SAVED`].
    pub(super) saved: [Option<Place>; CALLEE_SAVED.len()],
}

/// What follows an address.
#[derive(Debug, Default, Clone)]
struct Ways {
    returns: Vec<Return>,
    /// It ends the thread: a system call that does not come back, with nothing before it but how it is prepared.
    ends: bool,
}

/// How a caller was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The call before the return address leads to the code that returns by it.
    Called,
    /// There is a call before it, of who knows what.
    Unproven,
}

/// A caller that a function may return to.
#[derive(Debug, Clone, Copy)]
struct Caller {
    way: Return,
    /// Where its return address lies (AVMA).
    place: u64,
    address: u64,
    proof: Proof,
}

impl Caller {
    /// Turns the registers of the function into its.
    fn enter<F>(&self, registers: &mut Registers, memory: &mut Memory<F>)
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        let sp = registers.sp();
        let frame = registers.get(Register::FRAME_POINTER, memory);
        for (register, saved) in CALLEE_SAVED.into_iter().zip(self.way.saved) {
            match (saved, frame) {
                (None, _) => {}
                (Some((Base::Stack, offset)), _) => registers.set_place(register, sp.wrapping_add_signed(offset)),
                (Some((Base::Frame, offset)), Ok(frame)) => {
                    registers.set_place(register, frame.wrapping_add_signed(offset));
                }
                (Some((Base::Frame, _)), Err(_)) => registers.forget(register),
            }
        }
        registers.forget_caller_saved();
        let above = x86_64::RETURN_ADDRESS_SIZE + u64::from(self.way.arguments);
        registers.set(Register::STACK_POINTER, self.place.wrapping_add(above));
        registers.set(Register::PC, self.address);
    }
}

/// Whether `address` is of code, behind a call.
fn is_return_address<F>(address: u64, memory: &mut Memory<F>, code: &impl Fn(u64) -> Code) -> bool
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    code(address.wrapping_sub(1)) != Code::None && x86_64::follows_a_call(address, memory) == Some(true)
}

/// What was found of code, by address (AVMA).
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Instructions that were followed.
    followed: usize,
    known: HashMap<u64, Ways>,
    /// Whether what a call leads to leads to an address.
    leads: HashMap<(u64, u64), bool>,
}

impl Paths {
    /// Whether so much was followed that nothing more is.
    fn is_exhausted(&self) -> bool {
        self.followed > MOST_IN_ALL
    }

    /// Whether the code at `pc` ends the thread.
    pub(super) fn ends_thread<F>(&mut self, pc: u64, memory: &mut Memory<F>) -> bool
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        self.ways(pc, memory).ends
    }

    /// Turns `registers` into those of the caller of the function that they are of. `is_entry` says of a return address whether
    /// it is of the code that a program begins with.
    pub(super) fn step<F>(
        &mut self,
        registers: &mut Registers,
        memory: &mut Memory<F>,
        code: impl Fn(u64) -> Code,
        is_entry: impl Fn(u64) -> bool,
    ) -> Result<Proof, EndReason>
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        let avma = registers.pc();
        let (callers, needs) = self.callers(registers, memory, &code);
        let none = if self.is_exhausted() { EndReason::NotFollowed { avma } } else { EndReason::NoUnwindInfo { avma } };
        let only = |proof: Proof| {
            let mut all = callers.iter().filter(|caller| caller.proof == proof);
            let first = *all.next()?;
            all.all(|other| other.place == first.place).then_some(first)
        };
        let caller = match only(Proof::Called) {
            Some(caller) => caller,
            None if callers.iter().any(|caller| caller.proof == Proof::Called) => return Err(none),
            None => {
                if let Some((place, address)) = self.outermost(registers.sp(), memory, &code, &is_entry) {
                    *registers = Registers::new(address, place.wrapping_add(x86_64::RETURN_ADDRESS_SIZE));
                    return Ok(Proof::Called);
                }
                only(Proof::Unproven).ok_or(needs.unwrap_or(none))?
            }
        };
        caller.enter(registers, memory);
        Ok(caller.proof)
    }

    /// The callers that the function may return to, and the register that would have to be known for others.
    fn callers<F>(
        &mut self,
        registers: &mut Registers,
        memory: &mut Memory<F>,
        code: &impl Fn(u64) -> Code,
    ) -> (Vec<Caller>, Option<EndReason>)
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        let (pc, sp) = (registers.pc(), registers.sp());
        let (mut callers, mut needs) = (Vec::new(), None);
        for way in self.ways(pc, memory).returns {
            let base = match way.place.0 {
                Base::Stack => Ok(sp),
                Base::Frame => registers.get(Register::FRAME_POINTER, memory),
            };
            let base = match base {
                Ok(base) => base,
                Err(reason) => {
                    needs = Some(reason);
                    continue;
                }
            };
            let place = base.wrapping_add_signed(way.place.1);
            let Some(address) = memory.read(place).filter(|_| place >= sp) else { continue };
            if !is_return_address(address, memory, code) {
                continue;
            }
            let called = x86_64::call_target(address, memory).is_some_and(|target| self.leads_to(target, pc, memory));
            // By a register or a pointer it may have called anything.
            let is_proven = called || x86_64::follows_an_indirect_call(address, memory) == Some(true);
            let proof = if is_proven { Proof::Called } else { Proof::Unproven };
            callers.push(Caller { way, place, address, proof });
        }
        (callers, needs)
    }

    /// The return address of a function that does not return, and where it lies: the first above `sp` that follows a call, if it
    /// is of the code that a thread or a program begins with.
    fn outermost<F>(
        &mut self,
        sp: u64,
        memory: &mut Memory<F>,
        code: &impl Fn(u64) -> Code,
        is_entry: &impl Fn(u64) -> bool,
    ) -> Option<(u64, u64)>
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        let (place, address) = (0..WORDS).map(|word| sp.wrapping_add(word * 8)).find_map(|place| {
            let address = memory.read(place)?;
            is_return_address(address, memory, code).then_some((place, address))
        })?;
        (is_entry(address) || self.ends_thread(address, memory)).then_some((place, address))
    }

    fn ways<F>(&mut self, pc: u64, memory: &mut Memory<F>) -> Ways
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        if let Some(known) = self.known.get(&pc) {
            return known.clone();
        }
        if self.is_exhausted() {
            return Ways::default();
        }
        let ways = Ways { returns: returns(pc, memory, &mut self.followed), ends: ends(pc, memory) };
        if self.known.len() < MOST_KNOWN {
            self.known.insert(pc, ways.clone());
        }
        ways
    }

    /// Whether the code at `from` leads to `to` without a call.
    fn leads_to<F>(&mut self, from: u64, to: u64, memory: &mut Memory<F>) -> bool
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        if let Some(known) = self.leads.get(&(from, to)) {
            return *known;
        }
        if self.is_exhausted() {
            return false;
        }
        let leads = leads_to(from, to, memory, &mut self.followed);
        // What could not be read now may be read when the stack is looked at anew.
        if let Some(leads) = leads
            && self.leads.len() < MOST_KNOWN
        {
            self.leads.insert((from, to), leads);
        }
        leads.unwrap_or(false)
    }
}

/// The instruction at `pc`, and where the next one is.
fn instruction<F>(pc: u64, memory: &mut Memory<F>) -> Option<(Effect, u64)>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let mut code = [0; 16];
    code[..8].copy_from_slice(&memory.read(pc)?.to_le_bytes());
    // Behind the last instructions of a mapping there may be nothing.
    if let Some(high) = memory.read(pc.wrapping_add(8)) {
        code[8..].copy_from_slice(&high.to_le_bytes());
    }
    let instruction = decode(&code[..LONGEST])?;
    Some((instruction.effect, pc.wrapping_add(instruction.length as u64)))
}

/// Where one way is, and what it has done so far.
#[derive(Clone, Copy)]
struct At {
    pc: u64,
    stack: Place,
    /// Below this offset the stack was given up: what lies there was put there on this way.
    released: i64,
    saved: [Option<Place>; CALLEE_SAVED.len()],
}

/// How the function at `pc` returns, by all ways that are followed. Their instructions are added to `total`.
pub(super) fn returns<F>(pc: u64, memory: &mut Memory<F>, total: &mut usize) -> Vec<Return>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let mut found = BTreeSet::new();
    let mut seen = HashSet::new();
    let mut left = vec![At { pc, stack: (Base::Stack, 0), released: 0, saved: [None; CALLEE_SAVED.len()] }];
    let mut followed = 0;
    while let Some(mut at) = left.pop() {
        loop {
            followed += 1;
            *total += 1;
            if followed > MOST || (followed > ENOUGH && !found.is_empty()) || found.len() >= MOST_RETURNS {
                return possible(found);
            }
            if !seen.insert((at.pc, at.stack)) {
                break;
            }
            let Some((effect, next)) = instruction(at.pc, memory) else { break };
            let (base, offset) = at.stack;
            let mut save = |register: Register, place: Place| {
                // What was put there on this way is what the register had before.
                let is_own = place.0 == Base::Stack && place.1 < at.released;
                if let Some(index) = CALLEE_SAVED.iter().position(|one| *one == register && !is_own) {
                    at.saved[index] = Some(place);
                }
            };
            at.pc = next;
            match effect {
                Effect::None | Effect::Call | Effect::SystemCall => {}
                Effect::Push => at.stack.1 -= 8,
                Effect::Pop(register) => {
                    at.stack.1 += 8;
                    if let Some(register) = register {
                        save(register, (base, offset));
                    }
                }
                Effect::Add(bytes) => at.stack.1 = offset.saturating_add(bytes),
                Effect::FromFrame(bytes) => at.stack = (Base::Frame, bytes),
                Effect::Leave => {
                    save(Register::FRAME_POINTER, (Base::Frame, 0));
                    at.stack = (Base::Frame, 8);
                }
                Effect::Load(register, from, bytes) => {
                    let place = match from {
                        Base::Stack => (base, offset.saturating_add(bytes)),
                        Base::Frame => (Base::Frame, bytes),
                    };
                    save(register, place);
                }
                Effect::Return(arguments) => {
                    found.insert(Return { place: at.stack, arguments, saved: at.saved });
                    break;
                }
                // The linker's table leads to another function, which returns in the place of this one.
                Effect::JumpBySlot => {
                    found.insert(Return { place: at.stack, arguments: 0, saved: at.saved });
                    break;
                }
                Effect::Jump(distance) => at.pc = next.wrapping_add_signed(distance),
                Effect::Branch(distance) => left.push(At { pc: next.wrapping_add_signed(distance), ..at }),
                Effect::JumpSomewhere | Effect::Lost | Effect::End => break,
            }
            if at.stack.0 == Base::Stack {
                at.released = at.released.max(at.stack.1);
                if at.stack.1.abs() > LARGEST {
                    break;
                }
            }
        }
    }
    possible(found)
}

/// Those whose return address is not below the stack pointer.
fn possible(found: BTreeSet<Return>) -> Vec<Return> {
    found.into_iter().filter(|way| way.place.0 == Base::Frame || way.place.1 >= 0).collect()
}

/// Whether the code at `pc` is no more than a system call behind which nothing comes (`hlt`).
fn ends<F>(pc: u64, memory: &mut Memory<F>) -> bool
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    /// The number of the call, and its argument.
    const MOST: usize = 6;
    let mut at = pc;
    let mut has_called = false;
    for _ in 0..MOST {
        let Some((effect, next)) = instruction(at, memory) else { return false };
        match effect {
            Effect::None if !has_called => {}
            Effect::SystemCall if !has_called => has_called = true,
            Effect::End => return has_called,
            _ => return false,
        }
        at = next;
    }
    false
}

/// Whether the code at `from` leads to `to` without a call: by what a call leads to it is seen whether it was of this function.
/// `None` where a slot of the linker could not be read. The instructions are added to `total`.
pub(super) fn leads_to<F>(from: u64, to: u64, memory: &mut Memory<F>, total: &mut usize) -> Option<bool>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let mut seen = HashSet::new();
    let mut left = vec![from];
    let mut is_known = true;
    while let Some(mut pc) = left.pop() {
        loop {
            *total += 1;
            if seen.len() == MOST {
                return Some(false);
            }
            if !seen.insert(pc) {
                break;
            }
            let Some((effect, next)) = instruction(pc, memory) else { break };
            if (pc..next).contains(&to) {
                return Some(true);
            }
            pc = match effect {
                Effect::Jump(distance) => next.wrapping_add_signed(distance),
                Effect::Branch(distance) => {
                    left.push(next.wrapping_add_signed(distance));
                    next
                }
                Effect::JumpBySlot => match x86_64::jump_target(pc, memory) {
                    Some(target) => target,
                    None => {
                        is_known = false;
                        break;
                    }
                },
                Effect::Return(_) | Effect::JumpSomewhere | Effect::End => break,
                _ => next,
            };
        }
    }
    is_known.then_some(false)
}
