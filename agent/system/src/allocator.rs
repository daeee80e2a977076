//! The agent's own memory: counted, and bounded.
//!
//! The pod's memory limit covers us, and whoever exceeds it takes the application along. So
//! the session refuses to look at more before that ([`live_bytes`]), and what is asked for
//! beyond the limit all the same is not given.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering::Relaxed};

use nix::libc;

/// The allocator of the program: the system's, with a count of what is in use.
#[derive(Debug)]
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// What is left when there is no memory to say it with.
static LAST_WORDS: AtomicPtr<Vec<u8>> = AtomicPtr::new(std::ptr::null_mut());
static LAST_FILE: AtomicI32 = AtomicI32::new(-1);
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

/// What is written to `file` if there is no more memory: the agent then ends with the exit
/// status of a limit. The memory of earlier words is not given back.
pub fn last_words(file: i32, words: Vec<u8>) {
    LAST_FILE.store(file, Relaxed);
    LAST_WORDS.store(Box::into_raw(Box::new(words)), Relaxed);
}

/// The exit status of what was cut off by a limit.
const CUT_OFF: libc::c_int = 4;

/// Ends without another allocation. The kernel lets go of threads that are held.
#[cold]
fn end() -> ! {
    let write = |file: i32, bytes: &[u8]| {
        // SAFETY: write(2) reads as many bytes as the slice has.
        unsafe { libc::write(file, bytes.as_ptr().cast(), bytes.len()) };
    };
    write(libc::STDERR_FILENO, b"agent: the agent's memory limit was reached (--limit rss=): there is no answer\n");
    let file = LAST_FILE.load(Relaxed);
    // SAFETY: it is null, or was leaked whole by `last_words`.
    if let Some(words) = unsafe { LAST_WORDS.load(Relaxed).as_ref() }
        && file >= 0
    {
        // SAFETY: ftruncate(2) takes two numbers.
        unsafe { libc::ftruncate(file, 0) };
        write(file, words);
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
