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

/// Follows the frame pointer: the caller's frame pointer lies at it, the return
/// address behind that (System V ABI, AMD64 supplement, 3.2.2). The register may
/// hold anything else, so all that can be checked must fit: the stack goes up,
/// the address is code, and the code before it is a call.
pub(super) fn step_by_frame_pointer<F>(
    registers: &mut Registers,
    memory: &mut Memory<F>,
    is_code: impl Fn(u64) -> bool,
) -> Result<(), EndReason>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let none = EndReason::NoUnwindInfo { avma: registers.pc() };
    let frame = registers.get(Register::FRAME_POINTER, memory)?;
    if frame == 0 {
        // "The deepest frame", by the ABI.
        return Err(EndReason::Root);
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
    let mut is_call = || x86_64::follows_a_call(return_address, memory).unwrap_or(true);
    if !is_code(return_address) || !is_call() {
        return Err(none);
    }
    // This function may have saved the others anywhere.
    *registers = Registers::new(return_address, above.wrapping_add(8)).with(Register::FRAME_POINTER, caller);
    Ok(())
}
