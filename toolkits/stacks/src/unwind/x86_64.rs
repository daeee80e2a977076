//! What is particular to x86-64: its registers, which of them a call preserves,
//! the signal trampoline, and what a call looks like.
//!
//! Sources: System V ABI, AMD64 supplement (figures 3.4 "Register Usage" and
//! 3.36 "DWARF Register Number Mapping"); the kernel's
//! `arch/x86/include/uapi/asm/sigcontext.h` and `ucontext.h`.

use super::memory::Memory;

/// A register by its DWARF number. The program counter stands in for the
/// return address column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Register {
    Rax,
    Rdx,
    Rcx,
    Rbx,
    Rsi,
    Rdi,
    Rbp,
    Rsp,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    Rip,
}

impl Register {
    /// Every register, by DWARF number.
    pub const ALL: [Self; 17] = {
        use Register::*;
        [Rax, Rdx, Rcx, Rbx, Rsi, Rdi, Rbp, Rsp, R8, R9, R10, R11, R12, R13, R14, R15, Rip]
    };

    /// The register of a DWARF number, if it is one that unwinding uses.
    #[must_use]
    pub fn from_dwarf(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name, as gdb writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 17] = [
            "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
            "r15", "rip",
        ];
        NAMES[self as usize]
    }

    pub(super) const FRAME_POINTER: Self = Self::Rbp;
    pub(super) const STACK_POINTER: Self = Self::Rsp;
    pub(super) const PC: Self = Self::Rip;
}

/// What a function hands back as it got it, apart from the stack pointer.
pub(super) const CALLEE_SAVED: [Register; 6] =
    [Register::Rbx, Register::Rbp, Register::R12, Register::R13, Register::R14, Register::R15];

/// The return address lies this far below the CFA: `call` pushes it.
pub(super) const RETURN_ADDRESS_SIZE: u64 = 8;

/// How rt_sigreturn(2) is called: glibc's `__restore_rt`, musl's and Go's are
/// these nine or seven bytes. With call frame information they are not looked
/// at; musl and Go have none.
const RT_SIGRETURN: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05], // mov $15,%rax; syscall
    &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05],             // mov $15,%eax; syscall
];

/// Where `struct ucontext` keeps each register, by DWARF number. The trampoline
/// runs with the stack pointer at the `ucontext`.
const UCONTEXT: [u64; 17] = [144, 136, 152, 128, 112, 104, 120, 160, 40, 48, 56, 64, 72, 80, 88, 96, 168];

/// True where the code at `pc` is a signal trampoline.
pub(super) fn is_signal_trampoline<F>(pc: u64, memory: &mut Memory<F>) -> bool
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let (Some(low), Some(high)) = (memory.read(pc), memory.read(pc.wrapping_add(8))) else {
        return false;
    };
    let mut code = [0; 16];
    code[..8].copy_from_slice(&low.to_le_bytes());
    code[8..].copy_from_slice(&high.to_le_bytes());
    RT_SIGRETURN.iter().any(|bytes| code.starts_with(bytes))
}

/// Where the kernel saved each register, for a trampoline whose stack pointer
/// is `sp`.
pub(super) fn signal_context(sp: u64) -> impl Iterator<Item = (Register, u64)> {
    Register::ALL.into_iter().zip(UCONTEXT).map(move |(register, offset)| (register, sp.wrapping_add(offset)))
}

/// The function that the code before `return_address` calls, if that is a call
/// of a fixed address (`e8 rel32`).
pub(super) fn call_target<F>(return_address: u64, memory: &mut Memory<F>) -> Option<u64>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let [_, _, _, opcode, distance @ ..] = memory.read(return_address.wrapping_sub(8))?.to_le_bytes();
    let distance = i64::from(i32::from_le_bytes(distance));
    (opcode == 0xe8).then(|| return_address.wrapping_add(distance as u64))
}

/// True where the code before `return_address` may be a call: `e8 rel32`, or
/// `ff /2` in any of its lengths. `None` where it cannot be read.
pub(super) fn follows_a_call<F>(return_address: u64, memory: &mut Memory<F>) -> Option<bool>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let code = memory.read(return_address.wrapping_sub(8))?.to_le_bytes();
    let direct = code[3] == 0xe8;
    let indirect = (1..7).any(|at| code[at] == 0xff && code[at + 1] >> 3 & 7 == 2);
    Some(direct || indirect)
}

/// True where the code before `return_address` may be a call by a register or a pointer:
/// `ff /2` in any of its lengths. `None` where it cannot be read.
pub(super) fn follows_an_indirect_call<F>(return_address: u64, memory: &mut Memory<F>) -> Option<bool>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let code = memory.read(return_address.wrapping_sub(8))?.to_le_bytes();
    Some((1..7).any(|at| code[at] == 0xff && code[at + 1] >> 3 & 7 == 2))
}

/// Where the stub at `address` jumps to, if it is one of a procedure linkage table:
/// `endbr64` or not, `bnd` or not, `jmp *distance(%rip)`.
pub(super) fn jump_target<F>(address: u64, memory: &mut Memory<F>) -> Option<u64>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let mut code = memory.read(address)?.to_le_bytes().to_vec();
    code.extend_from_slice(&memory.read(address.wrapping_add(8))?.to_le_bytes());
    let mut at = 0;
    for prefix in [&[0xf3, 0x0f, 0x1e, 0xfa][..], &[0xf2]] {
        at += if code[at..].starts_with(prefix) { prefix.len() } else { 0 };
    }
    let [0xff, 0x25, distance @ ..] = code.get(at..at + 6)? else { return None };
    let distance = i64::from(i32::from_le_bytes(distance.try_into().ok()?));
    let entry = address.wrapping_add(at as u64 + 6).wrapping_add(distance as u64);
    memory.read(entry)
}

/// How far below its frame pointer the stack pointer of the function with the code `text`
/// may be, apart from what it pushes: what its first `prologue` bytes subtract, each by
/// itself and all together (a large frame is made page by page), and nothing. `None` where
/// it does not begin by keeping its caller's frame pointer, or moves its stack pointer by
/// what it computes.
pub(super) fn frame_sizes(text: &[u8], prologue: usize) -> Option<Vec<u64>> {
    const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
    let body = text.strip_prefix(ENDBR64).unwrap_or(text);
    let makes_frame = |code: &[u8]| matches!(code, [0x48, 0x89, 0xe5] | [0x48, 0x8b, 0xec]);
    let head = &text[..text.len().min(prologue)];
    // push %rbp, and mov %rsp,%rbp behind it.
    if body.first() != Some(&0x55) || !head.windows(3).any(makes_frame) {
        return None;
    }
    // sub %REG,%rsp; mov %REG,%rsp; and $-N,%rsp. Where these bytes are a part of something
    // else, a frame is left alone that could have been taken.
    let moves_stack = |code: &[u8]| {
        matches!(code, [0x48 | 0x4c, 0x29 | 0x89, to] if to & 0xc7 == 0xc4)
            || matches!(code, [0x48 | 0x49, 0x2b | 0x8b, to] if to & 0xf8 == 0xe0)
            || matches!(code, [0x48, 0x83 | 0x81, 0xe4])
    };
    if text.windows(3).any(moves_stack) {
        return None;
    }
    let subtracted: Vec<u64> = (0..head.len())
        .filter_map(|at| match &head[at..] {
            [0x48, 0x83, 0xec, size, ..] => Some(u64::from(*size)).filter(|size| *size < 0x80),
            // add $-128,%rsp is shorter than subtracting it.
            [0x48, 0x83, 0xc4, 0x80, ..] => Some(0x80),
            [0x48, 0x81, 0xec, a, b, c, d, ..] => {
                Some(u64::from(u32::from_le_bytes([*a, *b, *c, *d]))).filter(|size| *size < 1 << 30)
            }
            _ => None,
        })
        .take(8)
        .collect();
    let all = subtracted.iter().sum();
    // What is subtracted may be for the arguments of the first call, in a frame of nothing.
    let mut sizes = subtracted;
    sizes.extend([0, all]);
    sizes.sort_unstable();
    sizes.dedup();
    Some(sizes)
}

/// How many bytes of arguments the code at `return_address` takes from the stack again:
/// `add $N,%rsp`, unless the function gives up its frame there.
pub(super) fn pops_arguments<F>(return_address: u64, memory: &mut Memory<F>) -> u64
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let Some(code) = memory.read(return_address) else { return 0 };
    let [0x48, 0x83, 0xc4, size, next, after, ..] = code.to_le_bytes() else { return 0 };
    let pops = matches!(next, 0x58..=0x5f) || (next == 0x41 && matches!(after, 0x58..=0x5f));
    // In front of `leave` nothing has to be taken but arguments.
    if pops || next == 0xc3 || size >= 0x80 { 0 } else { u64::from(size) }
}
