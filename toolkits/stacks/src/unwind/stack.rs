//! What an unwind gives: frames, how each was found, and why there are no more.

use std::fmt;

use super::x86_64::Register;

/// What kind of address a frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// The instruction that runs next: the innermost frame, and the frame that
    /// a signal interrupted.
    Pc,
    /// The instruction after a call.
    ReturnAddress,
    /// The signal trampoline (`__restore_rt`): gdb's `<signal handler called>`.
    Signal,
}

impl FrameKind {
    /// The word for it in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pc => "pc",
            Self::ReturnAddress => "return_address",
            Self::Signal => "signal",
        }
    }
}

/// How a frame was found: what its address is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundBy {
    /// It is the thread's program counter.
    Registers,
    /// By call frame information.
    CallFrameInfo,
    /// By call frame information, with a frame pointer that was not known: the function's
    /// first instructions say how far it lies above the stack pointer, and the call before
    /// the return address that is there leads to the function.
    FrameSize,
    /// Without call frame information, by following the code to where it returns: the call before the return address
    /// that is there leads to the code.
    ReturnPath,
    /// The same, where the call before the return address is not known to lead there: it may be wrong.
    UnprovenReturn,
    /// By Go's own table, which says of each instruction how large the frame is.
    GoTable,
    /// By what the kernel saved for a signal handler, without call frame
    /// information.
    SignalContext,
    /// At the top of the stack, without call frame information: the code before
    /// it calls the function that was running, which has no frame of its own.
    TopOfStack,
    /// By the frame pointer, without call frame information: a frame may be
    /// missing before it, and it may be wrong.
    FramePointer,
}

impl FoundBy {
    /// The word for it in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::CallFrameInfo => "call_frame_info",
            Self::FrameSize => "frame_size",
            Self::ReturnPath => "return_path",
            Self::UnprovenReturn => "unproven_return",
            Self::GoTable => "go_table",
            Self::SignalContext => "signal_context",
            Self::TopOfStack => "top_of_stack",
            Self::FramePointer => "frame_pointer",
        }
    }
}

/// One call that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The address, as found.
    pub avma: u64,
    /// The stack pointer in this frame.
    pub sp: u64,
    /// What kind of address it is.
    pub kind: FrameKind,
    /// How it was found.
    pub found_by: FoundBy,
}

impl Frame {
    /// The address to find the function and the source line by: a byte inside
    /// the call instruction for a return address, which may already belong to
    /// the next function.
    #[must_use]
    pub fn lookup_avma(&self) -> u64 {
        match self.kind {
            FrameKind::ReturnAddress => self.avma.wrapping_sub(1),
            FrameKind::Pc | FrameKind::Signal => self.avma,
        }
    }
}

/// Why a stack ends where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The outermost frame: its return address is undefined (`_start`,
    /// `clone3`) or zero.
    Root,
    /// The return address of the innermost frame is zero. That of a caller says that there
    /// is no more, since a return address led to it. Nothing has led to this one: its
    /// stack pointer may as well not point into a stack.
    ZeroReturnAddress,
    /// There are more frames than were asked for.
    Truncated,
    /// A rule asks for a register that is not known. Stop the thread, read its
    /// registers, and unwind again.
    NeedsRegister {
        /// The register.
        register: Register,
        /// The frame whose rule it is.
        avma: u64,
    },
    /// No unwind table covers the code at this address.
    NoUnwindInfo {
        /// The frame's address.
        avma: u64,
    },
    /// No unwind table covers the code at this address, and so much code was followed to where it returns that no more is.
    NotFollowed {
        /// The frame's address.
        avma: u64,
    },
    /// The unwind table of this address makes no sense.
    MalformedUnwindInfo {
        /// The frame's address.
        avma: u64,
    },
    /// The next return address lies in no code that the unwinder was told of;
    /// it is not among the frames.
    NotCode {
        /// The address.
        avma: u64,
    },
    /// The memory at this address cannot be read.
    UnreadableStack {
        /// The address.
        address: u64,
    },
    /// The stack pointer would not move on: the stack is corrupt or a loop.
    NoProgress,
    /// The thread went on before the rest of its stack was read: what it holds now belongs to
    /// other frames.
    WentOn,
    /// The rest was not copied while the thread was held.
    NotCopied,
}

impl EndReason {
    /// The word for it in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::ZeroReturnAddress => "zero_return_address",
            Self::Truncated => "truncated",
            Self::NeedsRegister { .. } => "needs_register",
            Self::NoUnwindInfo { .. } => "no_unwind_info",
            Self::NotFollowed { .. } => "not_followed",
            Self::MalformedUnwindInfo { .. } => "malformed_unwind_info",
            Self::NotCode { .. } => "not_code",
            Self::UnreadableStack { .. } => "unreadable_stack",
            Self::NoProgress => "no_progress",
            Self::WentOn => "went_on",
            Self::NotCopied => "not_copied",
        }
    }

    /// True where the frame pointer would have been needed, and is not known.
    #[must_use]
    pub fn needs_frame_pointer(self) -> bool {
        matches!(self, Self::NeedsRegister { register, .. } if register == Register::FRAME_POINTER)
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("the outermost frame"),
            Self::ZeroReturnAddress => f.write_str("the innermost frame has a return address of zero"),
            Self::Truncated => f.write_str("more frames than the limit"),
            Self::NeedsRegister { register, avma } => {
                write!(f, "{} is needed at {avma:#x} and is not known", register.name())
            }
            Self::NoUnwindInfo { avma } => write!(f, "no unwind table covers {avma:#x}"),
            Self::NotFollowed { avma } => {
                write!(f, "no unwind table covers {avma:#x}, and more code of this process is not followed")
            }
            Self::MalformedUnwindInfo { avma } => {
                write!(f, "the unwind table of {avma:#x} is malformed")
            }
            Self::NotCode { avma } => write!(f, "return address {avma:#x} is not in any code"),
            Self::UnreadableStack { address } => write!(f, "cannot read {address:#x}"),
            Self::NoProgress => f.write_str("the stack pointer does not move on"),
            Self::WentOn => f.write_str("the thread went on before the rest of its stack was read"),
            Self::NotCopied => f.write_str("the stack is deeper than what is copied while a thread is held"),
        }
    }
}

/// The call stack of one thread, innermost frame first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwound {
    /// The frames. The first is always there.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub end: EndReason,
}

impl Unwound {
    /// The outermost frame was reached, and no frame was guessed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.end == EndReason::Root && self.is_exact()
    }

    /// Every frame follows from the one before, none was guessed.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        use FoundBy::{FramePointer, TopOfStack, UnprovenReturn};
        self.frames.iter().all(|frame| !matches!(frame.found_by, TopOfStack | FramePointer | UnprovenReturn))
    }
}
