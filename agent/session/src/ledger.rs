//! What was done: counts of everything, and names where they are asked for.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_model::Text;
use sha2::{Digest as _, Sha256};

use crate::redact::{Class, Redactor};

/// The ways in which the agent touches the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// A file was opened for reading.
    Open,
    /// A directory was listed.
    List,
    /// A symbolic link was read.
    Link,
    /// Attributes were read (fstat(2), statx(2)).
    Attributes,
    /// Memory of a process was opened for reading.
    Memory,
    /// A thread was held with ptrace(2).
    Stop,
    /// A socket was opened.
    Socket,
    /// A process was referred to (pidfd_open(2)) or compared (kcmp(2)).
    Process,
}

impl Access {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Open, Self::List, Self::Link, Self::Attributes, Self::Memory, Self::Stop, Self::Socket, Self::Process];

    /// The word that stands for it in the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::List => "list",
            Self::Link => "link",
            Self::Attributes => "attributes",
            Self::Memory => "memory",
            Self::Stop => "stop",
            Self::Socket => "socket",
            Self::Process => "process",
        }
    }

    fn opens(self) -> bool {
        !matches!(self, Self::Stop | Self::Process)
    }
}

/// One line of the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How it was touched.
    pub access: Access,
    /// What was touched.
    pub path: String,
}

/// Sums over what was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Files, directories, links, memories and sockets that were opened or read.
    pub opened: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Times that a thread was held.
    pub stops: u64,
    /// Sum of the times for which threads were held, in microseconds.
    pub stopped_us: u64,
    /// The longest of these times.
    pub longest_stop_us: u64,
    /// Signals that came as a thread was being held, and were passed on.
    pub signals_seen: u64,
}

/// What was touched, as the audit says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accessed {
    /// How many accesses there were.
    pub count: u64,
    /// The SHA-256, in hex, of the lines of the access log: for each access
    /// `{"access":…,"path":…}` and a newline, in their order.
    pub sha256: String,
    /// How many there were of each kind of which there was one.
    pub kinds: Vec<(Access, u64)>,
}

/// The entries that are kept by name at the most: what comes after is counted and hashed.
const KEPT_ENTRIES: usize = 200_000;

/// So many bytes of lines are hashed at once.
const HASHED_AT_ONCE: usize = 8 << 10;

/// Counts of everything that was touched.
#[derive(Debug, Default)]
pub struct Ledger {
    opened: AtomicU64,
    bytes: AtomicU64,
    stops: AtomicU64,
    stopped_us: AtomicU64,
    longest_stop_us: AtomicU64,
    signals_seen: AtomicU64,
    log: Mutex<Log>,
    /// The ledger of the command that this one is a step of: what is done is told there too.
    above: Option<Arc<Ledger>>,
}

#[derive(Debug, Default)]
struct Log {
    counts: [u64; Access::ALL.len()],
    hash: Sha256,
    /// Lines that are not hashed yet.
    pending: Vec<u8>,
    path: String,
    entries: Option<Vec<Entry>>,
}

impl Log {
    fn add(&mut self, access: Access, path: &dyn Display, redactor: &Redactor) {
        self.path.clear();
        let _ = write!(self.path, "{path}");
        // What is hashed is what the access log shows.
        let shown = match redactor.text(Class::Path, &self.path) {
            Cow::Owned(shown) => Some(shown),
            Cow::Borrowed(_) => None,
        };
        if let Some(shown) = shown {
            self.path = shown;
        }
        self.counts[access as usize] += 1;
        self.pending.extend_from_slice(b"{\"access\":\"");
        self.pending.extend_from_slice(access.as_str().as_bytes());
        self.pending.extend_from_slice(b"\",\"path\":");
        if self.path.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
            self.pending.push(b'"');
            self.pending.extend_from_slice(self.path.as_bytes());
            self.pending.push(b'"');
        } else {
            let _ = serde_json::to_writer(&mut self.pending, &Text::from(self.path.as_str()));
        }
        self.pending.extend_from_slice(b"}\n");
        if self.pending.len() >= HASHED_AT_ONCE {
            self.hash.update(&self.pending);
            self.pending.clear();
        }
        if let Some(entries) = self.entries.as_mut().filter(|entries| entries.len() < KEPT_ENTRIES) {
            entries.push(Entry { access, path: self.path.clone() });
        }
    }
}

impl Ledger {
    pub(crate) fn new(keep_entries: bool) -> Self {
        let log = Log { entries: keep_entries.then(Vec::new), ..Log::default() };
        Self { log: Mutex::new(log), ..Self::default() }
    }

    /// The ledger of a step: it has sums of its own, and tells `above` all that it is told.
    pub(crate) fn below(above: Arc<Ledger>) -> Self {
        Self { above: Some(above), ..Self::default() }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that `path` is touched, as `redactor` lets it be shown.
    pub fn record(&self, access: Access, path: &dyn Display, redactor: &Redactor) {
        if access.opens() {
            self.opened.fetch_add(1, Relaxed);
        }
        self.log().add(access, path, redactor);
        if let Some(above) = &self.above {
            above.record(access, path, redactor);
        }
    }

    /// Adds bytes that were read.
    pub fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        if let Some(above) = &self.above {
            above.read(bytes);
        }
    }

    /// Adds a stop of a thread, how long it lasted in microseconds, and whether a signal
    /// came meanwhile.
    pub fn stopped(&self, microseconds: u64, has_signal: bool) {
        self.stops.fetch_add(1, Relaxed);
        self.stopped_us.fetch_add(microseconds, Relaxed);
        self.longest_stop_us.fetch_max(microseconds, Relaxed);
        self.signals_seen.fetch_add(u64::from(has_signal), Relaxed);
        if let Some(above) = &self.above {
            above.stopped(microseconds, has_signal);
        }
    }

    /// The sums so far.
    pub fn spent(&self) -> Spent {
        Spent {
            opened: self.opened.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            stops: self.stops.load(Relaxed),
            stopped_us: self.stopped_us.load(Relaxed),
            longest_stop_us: self.longest_stop_us.load(Relaxed),
            signals_seen: self.signals_seen.load(Relaxed),
        }
    }

    /// All that was touched so far.
    pub fn accessed(&self) -> Accessed {
        let log = self.log();
        let mut hash = log.hash.clone();
        hash.update(&log.pending);
        let kinds = Access::ALL.into_iter().zip(log.counts).filter(|(_, count)| *count > 0).collect();
        Accessed { count: log.counts.iter().sum(), sha256: crate::audit::hex(&hash.finalize()), kinds }
    }

    /// The entries that are kept, from number `from` of them on.
    pub fn entries_from(&self, from: usize) -> Vec<Entry> {
        self.log().entries.as_ref().and_then(|entries| entries.get(from..)).unwrap_or_default().to_vec()
    }

    /// Takes the entries kept so far, in the order of the accesses.
    pub fn take_entries(&self) -> Vec<Entry> {
        self.log().entries.as_mut().map_or_else(Vec::new, std::mem::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_lines_of_the_access_log() {
        let ledger = Ledger::new(true);
        let all = Redactor::new(agent_model::RedactionLevel::Default, [0; 32]);
        for number in 0..500 {
            ledger.record(Access::Open, &format!("/proc/{number}/stat"), &all);
        }
        ledger.record(Access::Memory, &"/proc/1/mem", &all);
        ledger.record(Access::Open, &"/tmp/a \"b\" \\ \n\u{e9}", &all);
        let accessed = ledger.accessed();
        let mut hash = Sha256::new();
        for entry in ledger.take_entries() {
            let line = serde_json::json!({"access": entry.access.as_str(), "path": Text::from(entry.path.as_str())});
            hash.update(line.to_string());
            hash.update("\n");
        }
        assert_eq!(accessed.sha256, crate::audit::hex(&hash.finalize()));
        assert_eq!((accessed.count, accessed.kinds), (502, vec![(Access::Open, 501), (Access::Memory, 1)]));
    }
}
