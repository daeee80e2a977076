//! A stream of a container, read as it comes.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::PodError;

/// What a container has written so far to one of its streams; clones see the same bytes.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    shared: Arc<(Mutex<Seen>, Condvar)>,
}

#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    /// Starts a thread that reads until the end of the stream.
    pub(crate) fn of(mut stream: impl Read + Send + 'static) -> Self {
        let capture = Self::default();
        let writer = capture.clone();
        thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            // A terminal's master gives EIO at the end, so any error is the end.
            while let Ok(read @ 1..) = stream.read(&mut chunk) {
                writer.lock().bytes.extend_from_slice(&chunk[..read]);
                writer.shared.1.notify_all();
            }
            writer.end();
        });
        capture
    }

    /// A stream that somebody else reads.
    pub(crate) fn none() -> Self {
        let capture = Self::default();
        capture.end();
        capture
    }

    /// A copy of the bytes so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// The bytes so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Waits until the stream contains `needle`.
    pub fn wait_for(&self, needle: &str, limit: Duration) -> Result<(), PodError> {
        let found = |seen: &Seen| memchr(&seen.bytes, needle.as_bytes());
        let seen = self.wait_while(limit, |seen| !found(seen) && !seen.ended);
        if found(&seen) {
            return Ok(());
        }
        let state = if seen.ended { "the stream ended" } else { "it goes on" };
        let text = String::from_utf8_lossy(&seen.bytes);
        Err(PodError::Deadline { what: format!("output {needle:?} ({state}, so far: {text:?})"), limit })
    }

    /// Waits for the end of the stream; false when it did not come in time.
    pub(crate) fn wait_end(&self, limit: Duration) -> bool {
        self.wait_while(limit, |seen| !seen.ended).ended
    }

    fn wait_while(&self, limit: Duration, mut goes_on: impl FnMut(&Seen) -> bool) -> MutexGuard<'_, Seen> {
        let deadline = Instant::now() + limit;
        let mut seen = self.lock();
        while goes_on(&seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            seen = self.shared.1.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        seen
    }

    fn end(&self) {
        self.lock().ended = true;
        self.shared.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn memchr(bytes: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_text_and_reports_the_end() {
        let capture = Capture::of(&b"listening\nready\n"[..]);
        capture.wait_for("ready", Duration::from_secs(5)).unwrap();
        let error = capture.wait_for("never", Duration::from_secs(5)).unwrap_err();
        assert!(error.to_string().contains("the stream ended"), "{error}");
    }
}
