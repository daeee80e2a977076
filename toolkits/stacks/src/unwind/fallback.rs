//! What is left where no call frame information covers an address.

use super::EndReason;
use super::memory::{Memory, Registers};
use super::x86_64::{self, Register};

/// Takes the registers that the kernel saved for a signal handler, for a
/// trampoline without call frame information (musl, Go).
pub(super) fn step_over_signal<F>(registers: &mut Registers, memory: &mut Memory<F>) -> Result<(), EndReason>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    for (register, place) in x86_64::signal_context(registers.sp()) {
        registers.set_place(register, place);
    }
    for register in [Register::STACK_POINTER, Register::PC] {
        registers.get(register, memory)?;
    }
    Ok(())
}

/// What kind of code an address lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// None.
    None,
    /// A module: what a compiler made, which returns only to where it called from.
    Compiled,
    /// What a runtime made. The JVM's interpreter returns to
    /// entry points that no call stands before.
    Generated,
}

/// Takes the return address from the top of the stack, where a function without
/// a frame leaves it (Go's system calls). The function that is running must be
/// what the code before that address calls.
pub(super) fn step_from_leaf<F>(registers: &mut Registers, memory: &mut Memory<F>, code: impl Fn(u64) -> Code) -> bool
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    /// How long a function without a frame may be, bytes.
    const LEAF: u64 = 512;
    let Some(return_address) = memory.read(registers.sp()) else {
        return false;
    };
    if code(return_address.wrapping_sub(1)) == Code::None {
        return false;
    }
    let called = x86_64::call_target(return_address, memory);
    if called.is_none_or(|target| registers.pc().wrapping_sub(target) >= LEAF) {
        return false;
    }
    let sp = registers.sp().wrapping_add(x86_64::RETURN_ADDRESS_SIZE);
    registers.forget_caller_saved();
    registers.set(Register::STACK_POINTER, sp);
    registers.set(Register::PC, return_address);
    true
}

/// Follows the frame pointer: the caller's frame pointer lies at it, the return
/// address behind that (System V ABI, AMD64 supplement, 3.2.2). The register may
/// hold anything else, so all that can be checked must fit: the stack goes up,
/// the address is code, and the code before it is a call. Code that does not keep
/// frame pointers may leave it at zero anywhere.
pub(super) fn step_by_frame_pointer<F>(
    registers: &mut Registers,
    memory: &mut Memory<F>,
    code: impl Fn(u64) -> Code,
    keeps_frame_pointers: bool,
) -> Result<(), EndReason>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let none = EndReason::NoUnwindInfo { avma: registers.pc() };
    let frame = registers.get(Register::FRAME_POINTER, memory)?;
    if frame == 0 {
        // "The deepest frame", by the ABI.
        return Err(if keeps_frame_pointers { EndReason::Root } else { none });
    }
    if frame < registers.sp() || frame % 8 != 0 {
        return Err(none);
    }
    let above = frame.checked_add(8).ok_or(none)?;
    let (Some(caller), Some(return_address)) = (memory.read(frame), memory.read(above)) else {
        return Err(none);
    };
    if return_address == 0 {
        return Err(EndReason::Root);
    }
    let fits = match code(return_address.wrapping_sub(1)) {
        Code::None => false,
        Code::Generated => true,
        // Where the code cannot be read, there is nothing to object.
        Code::Compiled => x86_64::follows_a_call(return_address, memory).unwrap_or(true),
    };
    if !fits {
        return Err(none);
    }
    // This function may have saved the others anywhere.
    *registers = Registers::new(return_address, above.wrapping_add(8)).with(Register::FRAME_POINTER, caller);
    Ok(())
}
