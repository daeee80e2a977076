//! What was seen so far: time by stack.

use std::collections::{BTreeSet, HashMap};

use crate::look::Method;
use crate::unwind::{Frame, FrameKind, Unwound};

/// Frames that are kept of all stacks together, at 32 bytes.
const MAX_FRAMES: usize = 1 << 18;

/// What makes two samples the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// 0 where the threads are not told apart.
    pub(super) tid: u32,
    pub(super) on_cpu: bool,
    /// The system call, by number.
    pub(super) call: Option<i64>,
    pub(super) method: Method,
    pub(super) complete: bool,
    /// Address and kind of each frame.
    frames: Box<[(u64, FrameKind)]>,
}

impl Key {
    pub(super) fn new(tid: u32, on_cpu: bool, call: Option<i64>, method: Method, stack: Option<&Unwound>) -> Self {
        let frames = stack.map_or(&[][..], |stack| &stack.frames);
        Self {
            tid,
            on_cpu,
            call,
            method,
            complete: stack.is_some_and(Unwound::is_complete),
            frames: frames.iter().map(|frame| (frame.avma, frame.kind)).collect(),
        }
    }
}

/// Time at one place.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) frames: Vec<Frame>,
    pub(super) time_us: u64,
    pub(super) samples: u64,
    pub(super) tids: BTreeSet<u32>,
}

/// All places.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) list: Vec<Place>,
    index: HashMap<Key, usize>,
    frames: usize,
    /// Samples whose stacks found no room.
    pub(super) without_room: u64,
}

impl Places {
    /// The index of the place of a sample; it is made where it is new.
    pub(super) fn find(&mut self, key: Key, stack: Option<Unwound>) -> usize {
        if let Some(at) = self.index.get(&key) {
            return *at;
        }
        let mut key = key;
        let mut frames = stack.map(|stack| stack.frames).unwrap_or_default();
        if self.frames + frames.len() > MAX_FRAMES {
            self.without_room += 1;
            frames.clear();
            key.frames = Box::default();
            key.complete = false;
            if let Some(at) = self.index.get(&key) {
                return *at;
            }
        }
        frames.shrink_to_fit();
        self.frames += frames.len();
        let at = self.list.len();
        self.index.insert(key.clone(), at);
        self.list.push(Place { key, frames, time_us: 0, samples: 0, tids: BTreeSet::new() });
        at
    }

    /// Adds a sample of the thread `tid`, which stands for `time_us`.
    pub(super) fn add(&mut self, at: usize, tid: u32, time_us: u64) {
        if let Some(place) = self.list.get_mut(at) {
            place.time_us += time_us;
            place.samples += 1;
            place.tids.insert(tid);
        }
    }
}
