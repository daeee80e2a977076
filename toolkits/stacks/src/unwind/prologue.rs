//! The frame pointer of a function, from its stack pointer and its first instructions.
//!
//! A thread that is read without a stop has no frame pointer to tell, and a function that
//! keeps one (all of `-O0`, and all of distributions that compile with frame pointers)
//! says in its call frame information that nothing else finds its caller. But its first
//! instructions say how large its frame is: `push %rbp; mov %rsp,%rbp; push …;
//! sub $N,%rsp`. Where nothing else moves the stack pointer, the frame pointer lies that
//! far above it.
//!
//! Nothing is taken for granted: the return address above must follow a call, that call
//! must lead to this very function where it says to which, exactly one place must fit, and
//! a function that moves its stack pointer by what it computes (alloca(3)) is left alone.

use std::collections::HashMap;
use std::ops::Range;

use super::fallback::Code;
use super::memory::Memory;
use super::x86_64;

/// Bytes of a function in which its frame is made.
const PROLOGUE: u64 = 128;
/// Bytes of the largest function that is looked through.
const LARGEST: u64 = 64 << 10;

/// How large the frames of functions are, below their frame pointers.
#[derive(Debug, Default)]
pub(super) struct Prologues {
    known: HashMap<u64, Vec<u64>>,
}

impl Prologues {
    /// The frame pointer of the function at `function` (AVMA), whose stack pointer is `sp`
    /// where it has put no arguments on the stack.
    /// `saved` is what its call frame information says that it has saved below its frame
    /// pointer, in bytes.
    pub(super) fn frame_pointer<F>(
        &mut self,
        function: &Range<u64>,
        sp: u64,
        saved: u64,
        memory: &mut Memory<F>,
        code: impl Fn(u64) -> Code,
    ) -> Option<u64>
    where
        F: FnMut(u64) -> Result<u64, ()>,
    {
        let sizes = self.known.entry(function.start).or_insert_with(|| sizes(function, memory).unwrap_or_default());
        let mut places: Vec<u64> =
            sizes.iter().flat_map(|size| [*size, size + saved]).map(|size| sp.wrapping_add(size)).collect();
        places.sort_unstable();
        places.dedup();
        places.retain(|place| fits(*place, function.start, memory, &code));
        match places[..] {
            [place] => Some(place),
            _ => None,
        }
    }
}

/// Whether a frame pointer at `place` has above it a return address to behind a call of
/// `function`.
fn fits<F>(place: u64, function: u64, memory: &mut Memory<F>, code: &impl Fn(u64) -> Code) -> bool
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    // At a call the stack is aligned to 16 bytes (System V ABI, AMD64 supplement, 3.2.2).
    if !place.is_multiple_of(16) {
        return false;
    }
    let Some(return_address) = place.checked_add(8).and_then(|above| memory.read(above)) else { return false };
    if code(return_address.wrapping_sub(1)) != Code::Compiled {
        return false;
    }
    match x86_64::call_target(return_address, memory) {
        Some(target) if target == function || x86_64::jump_target(target, memory) == Some(function) => true,
        _ => x86_64::follows_an_indirect_call(return_address, memory) == Some(true),
    }
}

/// How far below its frame pointer the function's stack pointer may be, apart from what it
/// has pushed. `None` where it has no frame of the usual kind.
fn sizes<F>(function: &Range<u64>, memory: &mut Memory<F>) -> Option<Vec<u64>>
where
    F: FnMut(u64) -> Result<u64, ()>,
{
    let length = function.end.checked_sub(function.start).filter(|length| *length <= LARGEST)?;
    let mut text = Vec::with_capacity(length as usize + 8);
    while (text.len() as u64) < length {
        text.extend_from_slice(&memory.read(function.start.wrapping_add(text.len() as u64))?.to_le_bytes());
    }
    text.truncate(length as usize);
    x86_64::frame_sizes(&text, PROLOGUE as usize)
}
