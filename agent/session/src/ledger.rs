//! What was done: counts of everything, and names where they are asked for.

use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
}

/// The entries that are kept by name at the most: what comes after is counted.
const KEPT_ENTRIES: usize = 200_000;

/// Counts of everything that was touched.
#[derive(Debug, Default)]
pub struct Ledger {
    opened: AtomicU64,
    bytes: AtomicU64,
    stops: AtomicU64,
    stopped_us: AtomicU64,
    entries: Option<Mutex<Vec<Entry>>>,
}

impl Ledger {
    pub(crate) fn new(keep_entries: bool) -> Self {
        Self { entries: keep_entries.then(Mutex::default), ..Self::default() }
    }

    pub(crate) fn record(&self, access: Access, path: &dyn Display) {
        if access.opens() {
            self.opened.fetch_add(1, Relaxed);
        }
        if let Some(entries) = &self.entries {
            let mut entries = entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if entries.len() < KEPT_ENTRIES {
                entries.push(Entry { access, path: path.to_string() });
            }
        }
    }

    /// Adds bytes that were read.
    pub fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Adds a stop of a thread, and how long it lasted in microseconds.
    pub fn stopped(&self, microseconds: u64) {
        self.stops.fetch_add(1, Relaxed);
        self.stopped_us.fetch_add(microseconds, Relaxed);
    }

    /// The sums so far.
    pub fn spent(&self) -> Spent {
        Spent {
            opened: self.opened.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            stops: self.stops.load(Relaxed),
            stopped_us: self.stopped_us.load(Relaxed),
        }
    }

    /// Takes the entries kept so far, in the order of the accesses.
    pub fn take_entries(&self) -> Vec<Entry> {
        self.entries.as_ref().map_or_else(Vec::new, |entries| {
            std::mem::take(&mut entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
        })
    }
}
