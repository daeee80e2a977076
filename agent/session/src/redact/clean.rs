//! Texts in which nothing was found: a list of stacks has the same few paths and names some thousand times.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Texts that are remembered.
const TEXTS: usize = 256;
/// Bytes of one of them.
const MOST: usize = 256;

/// The texts in which nothing was found last.
#[derive(Debug, Default)]
pub(super) struct Clean(Mutex<Vec<String>>);

impl Clean {
    fn texts(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing was found in `text`.
    pub(super) fn has(&self, text: &str) -> bool {
        self.texts().get(place(text)).is_some_and(|known| known == text && !text.is_empty())
    }

    /// Remembers that nothing was found in `text`, in the place of another one.
    pub(super) fn keep(&self, text: &str) {
        if text.len() > MOST {
            return;
        }
        let mut texts = self.texts();
        if texts.is_empty() {
            texts.resize_with(TEXTS, String::new);
        }
        let known = &mut texts[place(text)];
        known.clear();
        known.push_str(text);
    }
}

/// Where a text is remembered: paths differ at their end.
fn place(text: &str) -> usize {
    let last = text.as_bytes().iter().rev().take(8).fold(text.len() as u64, |all, byte| all << 8 ^ u64::from(*byte));
    (last.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % TEXTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_text_that_was_kept_is_known() {
        let clean = Clean::default();
        assert!(!clean.has("") && !clean.has("a"));
        let texts: Vec<String> = (0..1000).map(|n| format!("/usr/lib/{n}/libc.so.6")).collect();
        for (n, text) in texts.iter().enumerate() {
            clean.keep(text);
            assert!(clean.has(text));
            // The same length and the same end, so the same place.
            let other = format!("/opt/lib/{n}/libc.so.6");
            assert_eq!(place(&other), place(text));
            assert!(!clean.has(&other));
        }
        let long = "x".repeat(MOST + 1);
        clean.keep(&long);
        clean.keep("");
        assert!(!clean.has(&long) && !clean.has(""));
    }
}
