//! The agent's own memory: counted, and bounded.
//!
//! The pod's memory limit covers us, and whoever exceeds it takes the application along. So
//! the session refuses to look at more before that ([`live_bytes`]), and what is asked for
//! beyond the limit all the same is not given.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use nix::libc;

/// The allocator of the program: the system's, with a count of what is in use.
#[derive(Debug)]
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// What is said where there is no memory left to make words with, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// The records of the audit.
    Records,
    /// An answer without data.
    Answer,
    /// The receipt, in the place of what stands in its file.
    Receipt,
}

/// Words that are ready: pieces of which each is written at once.
struct Words {
    file: AtomicI32,
    pieces: AtomicPtr<Vec<Vec<u8>>>,
}

impl Words {
    const fn none() -> Self {
        Self { file: AtomicI32::new(-1), pieces: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn set(&self, file: i32, pieces: *mut Vec<Vec<u8>>) {
        let before = self.pieces.swap(std::ptr::null_mut(), SeqCst);
        self.file.store(file, SeqCst);
        self.pieces.store(pieces, SeqCst);
        // Another thread may be saying them: it ends us all.
        while ENDING.load(SeqCst) {
            std::thread::yield_now();
        }
        if !before.is_null() {
            // SAFETY: it came from `Box::into_raw` in `last_words`, was taken out of its place by this thread alone, and
            // nobody who ends has seen it: `end` announces itself before it looks.
            drop(unsafe { Box::from_raw(before) });
        }
    }
}

/// By [`Last`].
static WORDS: [Words; 3] = [Words::none(), Words::none(), Words::none()];

/// Set as soon as a thread has found that there is no more memory.
static ENDING: AtomicBool = AtomicBool::new(false);

static SETTING: Mutex<()> = Mutex::new(());

/// What mappings that the count does not have may add: stacks of threads, and what
/// libpcap asks for (RLIMIT_DATA counts them all).
const SLACK: u64 = 64 << 20;

/// The memory that is in use, in bytes.
pub fn live_bytes() -> u64 {
    LIVE.load(Relaxed) as u64
}

/// From now on no more than `bytes` are given; a second time it can only become less.
pub fn limit(bytes: u64) {
    let _one_at_a_time = SETTING.lock();
    let wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
    // The steps of a scenario ask again, when the filter no longer lets it be set.
    if MOST.fetch_min(wanted, Relaxed) <= wanted {
        return;
    }
    let most = bytes.saturating_add(SLACK);
    // Refused where it is lower already: then it holds.
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_DATA, most, most);
}

/// What is written to `file`, which stays open, a piece at a time, if there is no more memory: the agent then ends with the exit status of a
/// limit. It takes the place of earlier words of the kind.
pub fn last_words(of: Last, file: i32, pieces: Vec<Vec<u8>>) {
    WORDS[of as usize].set(file, Box::into_raw(Box::new(pieces)));
}

/// From now on there are no last words of the kind: they are being said.
pub fn forget(of: Last) {
    WORDS[of as usize].set(-1, std::ptr::null_mut());
}

/// The exit status of what was cut off by a limit.
const CUT_OFF: libc::c_int = 4;

/// Ends without another allocation. The kernel lets go of threads that are held.
#[cold]
fn end() -> ! {
    if ENDING.swap(true, SeqCst) {
        loop {
            std::thread::yield_now();
        }
    }
    let write = |file: i32, bytes: &[u8]| {
        // SAFETY: write(2) reads as many bytes as the slice has.
        unsafe { libc::write(file, bytes.as_ptr().cast(), bytes.len()) };
    };
    write(libc::STDERR_FILENO, b"agent: the agent's memory limit was reached (--limit rss=)\n");
    for (at, words) in WORDS.iter().enumerate() {
        let file = words.file.load(SeqCst);
        // SAFETY: it is null, or came from `Box::into_raw` in `last_words` and is not given back any more: whoever takes it
        // out of its place sees that we end.
        let Some(pieces) = (unsafe { words.pieces.load(SeqCst).as_ref() }).filter(|_| file >= 0) else { continue };
        if at == Last::Receipt as usize {
            // SAFETY: ftruncate(2) takes two numbers.
            unsafe { libc::ftruncate(file, 0) };
        }
        pieces.iter().for_each(|piece| write(file, piece));
    }
    // SAFETY: _exit(2) takes a number, and does not return.
    unsafe { libc::_exit(CUT_OFF) }
}

fn add(bytes: usize) {
    if LIVE.fetch_add(bytes, Relaxed).saturating_add(bytes) > MOST.load(Relaxed) {
        end();
    }
}

// SAFETY: all is done by the system's allocator, as it was asked for; the counts beside it
// touch no memory that is given out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() {
            end();
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        let block = unsafe { System.alloc_zeroed(layout) };
        if block.is_null() {
            end();
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            add(size - layout.size());
        } else {
            LIVE.fetch_sub(layout.size() - size, Relaxed);
        }
        // SAFETY: the caller keeps the contract of `realloc`.
        let moved = unsafe { System.realloc(block, layout, size) };
        if moved.is_null() {
            end();
        }
        moved
    }
}
