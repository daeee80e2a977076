//! A string table that is read in windows: strings that lie near each other cost
//! one read.

use super::source::{Source, read_vec};
use super::{MAX_SYMBOL_NAME, symbols};

/// Bytes of a window: the names of one library's imports mostly fit.
const WINDOW: usize = 8 * 1024;
/// Bytes of a table that is read whole where all of its names are wanted, since
/// these come in no order.
const WHOLE: u64 = 8 << 20;
/// Bytes of a window into a larger table then.
const SMALL: usize = 4096;
/// Bytes that are read for one table: offsets can be so forged that each name costs
/// a window.
const MAX_READ: usize = 256 << 20;

/// A string table of the image.
pub(super) struct Strings<'a, S> {
    source: &'a S,
    offset: u64,
    size: u64,
    window: Vec<u8>,
    /// Where in the table the window starts.
    at: u64,
    /// Bytes of a window.
    step: usize,
    /// Bytes that may still be read.
    left: usize,
}

impl<'a, S: Source> Strings<'a, S> {
    pub(super) fn new(source: &'a S, (offset, size): (u64, u64)) -> Self {
        Self { source, offset, size, window: Vec::new(), at: 0, step: WINDOW, left: MAX_READ }
    }

    /// The strings of a symbol table; `all` where all of its names are wanted.
    pub(super) fn of(source: &'a S, place: &symbols::Place, all: bool) -> Self {
        let mut strings = Self::new(source, place.strings);
        if all && strings.size <= WHOLE {
            // What cannot be read is missed when it is asked for.
            let _ = strings.fill(0, WHOLE as usize);
        } else if all {
            strings.step = SMALL;
        }
        strings
    }

    /// The string at `at`; `None` where it lies outside or does not end.
    pub(super) fn get(&mut self, at: u64) -> Option<&[u8]> {
        if at >= self.size {
            return None;
        }
        let end = match self.end_of(at) {
            Some(end) => end,
            None => {
                self.fill(at, self.step)?;
                match self.end_of(at) {
                    Some(end) => end,
                    None => {
                        self.fill(at, MAX_SYMBOL_NAME.max(WINDOW))?;
                        self.end_of(at)?
                    }
                }
            }
        };
        let start = usize::try_from(at - self.at).ok()?;
        self.window.get(start..end)
    }

    /// The end, in the window, of the string at `at`.
    fn end_of(&self, at: u64) -> Option<usize> {
        let start = usize::try_from(at.checked_sub(self.at)?).ok()?;
        let rest = self.window.get(start..)?;
        Some(start + rest.iter().position(|byte| *byte == 0)?)
    }

    fn fill(&mut self, at: u64, bytes: usize) -> Option<()> {
        let there = usize::try_from(self.size - at).unwrap_or(usize::MAX).min(bytes);
        self.left = self.left.checked_sub(there)?;
        self.window = read_vec(self.source, self.offset.checked_add(at)?, there).ok()?;
        self.at = at;
        (!self.window.is_empty()).then_some(())
    }
}
