//! The target's memory as one unwind sees it, and the registers in it.

use super::EndReason;
use super::x86_64::{CALLEE_SAVED, Register};

/// Eight bytes of the target at a time, through the caller's closure.
pub(super) struct Memory<F> {
    read: F,
}

impl<F: FnMut(u64) -> Result<u64, ()>> Memory<F> {
    pub(super) fn new(read: F) -> Self {
        Self { read }
    }

    pub(super) fn read(&mut self, address: u64) -> Option<u64> {
        (self.read)(address).ok()
    }

    /// Eight bytes that the unwind cannot do without.
    pub(super) fn word(&mut self, address: u64) -> Result<u64, EndReason> {
        self.read(address).ok_or(EndReason::UnreadableStack { address })
    }

    /// The low `size` bytes, 1 to 8.
    pub(super) fn read_sized(&mut self, address: u64, size: u8) -> Option<u64> {
        let bits = u32::from(size.clamp(1, 8)) * 8;
        // Up to eight bytes that end where the wanted ones end: a value at the
        // end of a mapping has nothing readable behind it.
        let back = 8 - u64::from(size.clamp(1, 8));
        match self.read(address) {
            Some(value) => Some(value & (u64::MAX >> (64 - bits))),
            None => Some(self.read(address.checked_sub(back)?)? >> (64 - bits)),
        }
    }
}

/// The registers of a frame, as far as they are known.
///
/// A register that a callee saved is kept as the place where it lies and is
/// read when a rule asks for it: most never are.
///
/// ```
/// use agent_stacks::unwind::{Register, Registers};
///
/// // What /proc/PID/task/TID/syscall tells: no more than these two.
/// let blocked = Registers::new(0x7f00_1234, 0x7ffc_0000);
/// // What ptrace(2) tells of a stopped thread.
/// let stopped = blocked.with(Register::Rbp, 0x7ffc_0040).with(Register::Rbx, 0);
/// assert!(stopped.is_known(Register::Rbp) && !blocked.is_known(Register::Rbp));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    values: [u64; 17],
    /// Bit n: register n has a value, or a place.
    known: u32,
    /// Bit n: `values[n]` is the place where it lies.
    in_memory: u32,
}

impl Registers {
    /// A thread of which only the program counter and the stack pointer are
    /// known (AVMAs).
    #[must_use]
    pub fn new(pc: u64, sp: u64) -> Self {
        let nothing = Self { values: [0; 17], known: 0, in_memory: 0 };
        nothing.with(Register::PC, pc).with(Register::STACK_POINTER, sp)
    }

    /// The same, with one more register known.
    #[must_use]
    pub fn with(mut self, register: Register, value: u64) -> Self {
        self.set(register, value);
        self
    }

    /// True where the register has a value.
    #[must_use]
    pub fn is_known(&self, register: Register) -> bool {
        self.known >> register as u8 & 1 == 1
    }

    pub(super) fn set(&mut self, register: Register, value: u64) {
        let bit = 1 << register as u8;
        self.values[register as usize] = value;
        self.known |= bit;
        self.in_memory &= !bit;
    }

    pub(super) fn set_place(&mut self, register: Register, address: u64) {
        self.set(register, address);
        self.in_memory |= 1 << register as u8;
    }

    /// Notes where the callee-saved registers of `mask` (bit n: register n)
    /// lie, by their index in [`CALLEE_SAVED`].
    pub(super) fn set_places(&mut self, mask: u16, place: impl Fn(usize) -> u64) {
        for (index, register) in CALLEE_SAVED.into_iter().enumerate() {
            if mask >> register as u8 & 1 == 1 {
                self.values[register as usize] = place(index);
            }
        }
        self.known |= u32::from(mask);
        self.in_memory |= u32::from(mask);
    }

    pub(super) fn forget_all(&mut self, mask: u16) {
        self.known &= !u32::from(mask);
    }

    pub(super) fn forget(&mut self, register: Register) {
        self.known &= !(1 << register as u8);
    }

    /// Forgets what a call does not preserve.
    pub(super) fn forget_caller_saved(&mut self) {
        const KEPT: u32 = {
            let mut kept = 1 << Register::Rsp as u8 | 1 << Register::Rip as u8;
            let mut index = 0;
            while index < CALLEE_SAVED.len() {
                kept |= 1 << CALLEE_SAVED[index] as u8;
                index += 1;
            }
            kept
        };
        self.known &= KEPT;
    }

    /// The program counter and the stack pointer: known in every frame.
    pub(super) fn pc(&self) -> u64 {
        self.values[Register::PC as usize]
    }

    pub(super) fn sp(&self) -> u64 {
        self.values[Register::STACK_POINTER as usize]
    }

    /// The value, read from its place if it lies in memory.
    pub(super) fn get<F>(&mut self, register: Register, memory: &mut Memory<F>) -> Result<u64, EndReason>
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        let value = self.values[register as usize];
        if !self.is_known(register) {
            let avma = self.pc();
            return Err(EndReason::NeedsRegister { register, avma });
        }
        if self.in_memory >> register as u8 & 1 == 0 {
            return Ok(value);
        }
        let read = memory.read(value).ok_or(EndReason::UnreadableStack { address: value })?;
        self.set(register, read);
        Ok(read)
    }
}
