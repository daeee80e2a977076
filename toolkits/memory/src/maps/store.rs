//! Mappings as they are kept: small, since a process may have 60,000 of them.
//!
//! A mapping is 80 bytes and what its figures take; paths and names are kept
//! once. What is printed of it is put together when it is printed
//! ([`super::row::Row`]).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use agent_model::{Text, text};
use agent_system::parse;
use schemars::JsonSchema;
use serde::Serialize;

use super::change::Growth;
use super::figures::{Figures, Packed};
use super::flags::Flags;
use super::kind::{Failed, Kind, Label};
use super::line::{Line, Permissions, Reader};

/// The most bytes of paths and names that are kept. A target may map 60,000 files
/// with paths of 4 KiB; ordinary ones have some KiB in all.
pub(crate) const MOST_TEXT: usize = 8 << 20;

/// No file, no name, …
const NONE: u32 = u32::MAX;

/// A text that many refer to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Shared(
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "Text")]
    Arc<str>,
);

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl Shared {
    /// The escaped text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Shared {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A mapped file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Its path, escaped; `None` when there was no room left for it.
    pub(crate) path: Option<Shared>,
    pub(crate) deleted: bool,
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    /// Whether it is mapped executable somewhere.
    pub(crate) module: bool,
}

/// Memory of a mapping on the nodes of a NUMA machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Numa {
    /// The policy, as numa_maps writes it.
    pub(crate) policy: Text,
    /// Node and bytes, by node.
    pub(crate) nodes: Vec<(u32, u64)>,
}

/// What the mappings refer to.
#[derive(Debug, Default)]
pub(crate) struct Store {
    names: Vec<Shared>,
    files: Vec<File>,
    figures: Vec<u8>,
    pub(crate) tids: Vec<Vec<u32>>,
    pub(crate) numa: Vec<Numa>,
}

/// One mapping, compact.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) offset: u64,
    pub(crate) flags: Option<Flags>,
    pub(crate) store: Arc<OnceLock<Store>>,
    figures: Packed,
    file: u32,
    name: u32,
    tids: u32,
    numa: u32,
    /// By how much it has grown since the look before; with --watch.
    pub(crate) growth: Option<Box<Growth>>,
    pub(crate) permissions: Permissions,
    /// What its name says, until all mappings are known.
    pub(crate) named: Option<Kind>,
    pub(crate) kind: Kind,
    pub(crate) failed: Failed,
}

impl Mapping {
    pub(crate) fn size_bytes(&self) -> u64 {
        self.end - self.start
    }

    pub(crate) fn has_file(&self) -> bool {
        self.file != NONE
    }

    /// The number of its file.
    pub(crate) fn file_index(&self) -> Option<usize> {
        (self.file != NONE).then_some(self.file as usize)
    }

    pub(crate) fn file<'s>(&self, store: &'s Store) -> Option<&'s File> {
        store.files.get(self.file as usize)
    }

    pub(crate) fn name<'s>(&self, store: &'s Store) -> Option<&'s Shared> {
        store.names.get(self.name as usize)
    }

    pub(crate) fn figures(&self, store: &Store) -> Figures {
        Figures::unpack(self.figures, &store.figures)
    }

    pub(crate) fn tids<'s>(&self, store: &'s Store) -> &'s [u32] {
        store.tids.get(self.tids as usize).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn numa<'s>(&self, store: &'s Store) -> Option<&'s Numa> {
        store.numa.get(self.numa as usize)
    }

    pub(crate) fn add_tid(&mut self, tid: u32, store: &mut Store) {
        if let Some(tids) = store.tids.get_mut(self.tids as usize) {
            tids.push(tid);
            tids.sort_unstable();
            tids.dedup();
        } else {
            self.tids = store.tids.len() as u32;
            store.tids.push(vec![tid]);
        }
    }

    pub(crate) fn set_numa(&mut self, numa: Numa, store: &mut Store) {
        self.numa = store.numa.len() as u32;
        store.numa.push(numa);
    }
}

impl Store {
    pub(crate) fn files(&self) -> &[File] {
        &self.files
    }

    /// Marks the files that are mapped executable.
    pub(crate) fn mark_modules(&mut self, mappings: &[Mapping]) {
        for mapping in mappings.iter().filter(|mapping| mapping.permissions.executable()) {
            if let Some(file) = self.files.get_mut(mapping.file as usize) {
                file.module = true;
            }
        }
    }
}

/// Takes the lines of `maps` or `smaps` one by one.
pub(crate) struct Builder {
    reader: Reader,
    most_rows: usize,
    open: bool,
    scratch: Figures,
    last_text: u32,
    by_text: HashMap<Shared, u32>,
    by_file: HashMap<(u32, u64, (u32, u32), bool), u32>,
    text_bytes: usize,
    later: Arc<OnceLock<Store>>,
    /// What the mappings refer to.
    pub(crate) store: Store,
    /// The mappings, in the order of the lines.
    pub(crate) mappings: Vec<Mapping>,
    /// Sums over all mappings, whether kept or not.
    pub(crate) totals: Figures,
    /// How many there were.
    pub(crate) count: u64,
    /// Their size.
    pub(crate) size_bytes: u64,
    /// Of that, `[vsyscall]`: it is no memory of the process.
    pub(crate) gate_bytes: u64,
    /// How many lines were not as they should be.
    pub(crate) malformed: u64,
    /// How many mappings lack their path, for want of room.
    pub(crate) nameless: u64,
}

impl Builder {
    /// Keeps at most `most_rows` mappings.
    pub(crate) fn new(most_rows: usize) -> Self {
        Self {
            reader: Reader::default(),
            most_rows,
            open: false,
            scratch: Figures::default(),
            last_text: NONE,
            by_text: HashMap::new(),
            by_file: HashMap::new(),
            text_bytes: 0,
            later: Arc::default(),
            store: Store::default(),
            mappings: Vec::new(),
            totals: Figures::default(),
            count: 0,
            size_bytes: 0,
            gate_bytes: 0,
            malformed: 0,
            nameless: 0,
        }
    }

    /// Takes a line.
    pub(crate) fn line(&mut self, line: &[u8]) {
        match self.reader.line(line) {
            Line::Mapping(permissions, header) => {
                self.close();
                self.begin(permissions, &header);
            }
            Line::Figure(figure, value) => self.scratch.set(figure, value),
            Line::Flags(codes) => {
                if self.open && self.left_out() == 0 {
                    let mapping = self.mappings.last_mut();
                    mapping.into_iter().for_each(|mapping| mapping.flags = Some(Flags::parse(codes)));
                }
            }
            Line::Other => {}
            Line::Malformed => {
                // Its figures are not those of the mapping before it.
                self.close();
                self.malformed += 1;
            }
        }
    }

    /// How many mappings were not kept.
    pub(crate) fn left_out(&self) -> u64 {
        self.count - self.mappings.len() as u64
    }

    /// Ends the last mapping, and puts all in order.
    pub(crate) fn end(&mut self) {
        self.close();
        // The kernel writes them so; a recorded tree may not.
        if !self.mappings.is_sorted_by_key(|mapping| mapping.start) {
            self.mappings.sort_by_key(|mapping| mapping.start);
        }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            self.totals.add(&self.scratch);
            if self.left_out() == 0
                && let Some(mapping) = self.mappings.last_mut()
            {
                mapping.figures = self.scratch.pack(&mut self.store.figures);
            }
        }
        self.scratch.clear();
    }

    /// Lets the mappings find what they refer to.
    pub(crate) fn into_rows(self) -> Vec<Mapping> {
        // Nobody else has set it: it was made here.
        let _ = self.later.set(self.store);
        self.mappings
    }

    fn begin(&mut self, permissions: Permissions, header: &parse::Mapping<'_>) {
        self.open = true;
        self.count += 1;
        let size_bytes = header.end - header.start;
        self.size_bytes = self.size_bytes.saturating_add(size_bytes);
        let label = Label::parse(header.name);
        if matches!(label, Label::Name { kind: Kind::Vsyscall, .. }) {
            self.gate_bytes = self.gate_bytes.saturating_add(size_bytes);
        }
        if self.mappings.len() >= self.most_rows {
            return;
        }
        let mut mapping = Mapping {
            start: header.start,
            end: header.end,
            offset: header.offset,
            flags: None,
            store: Arc::clone(&self.later),
            figures: Packed::default(),
            file: NONE,
            name: NONE,
            tids: NONE,
            numa: NONE,
            growth: None,
            permissions,
            named: None,
            kind: Kind::default(),
            failed: Failed::default(),
        };
        match label {
            Label::None => {
                // A file without a path: there is none, but a kernel may bring one.
                if header.inode != 0 {
                    mapping.file = self.file(NONE, false, header);
                }
            }
            Label::File { path, deleted } => {
                let path = self.text(path);
                mapping.file = self.file(path, deleted, header);
            }
            Label::Name { name, kind, tid } => {
                mapping.named = Some(kind);
                mapping.name = self.text(name);
                if let Some(tid) = tid {
                    mapping.add_tid(tid, &mut self.store);
                }
                if header.inode != 0 {
                    // Named shared memory has a file without a path.
                    mapping.file = self.file(NONE, false, header);
                }
            }
        }
        self.mappings.push(mapping);
    }

    /// The number of `raw` among the texts.
    fn text(&mut self, raw: &[u8]) -> u32 {
        // Nearly none has a backslash: the others are not copied.
        let plain = raw.contains(&b'\\').then(|| parse::mapping_path(raw));
        let escaped = text::escape(plain.as_deref().unwrap_or(raw));
        // Mappings of one file come one after the other.
        if let Some(last) = self.store.names.get(self.last_text as usize)
            && last.as_str() == escaped
        {
            return self.last_text;
        }
        let number = match self.by_text.get(&*escaped) {
            Some(number) => *number,
            None if self.text_bytes + escaped.len() > MOST_TEXT => {
                self.nameless += 1;
                return NONE;
            }
            None => {
                let number = self.store.names.len() as u32;
                let shared = Shared(Arc::from(&*escaped));
                self.text_bytes += escaped.len();
                self.store.names.push(shared.clone());
                self.by_text.insert(shared, number);
                number
            }
        };
        self.last_text = number;
        number
    }

    /// The number of a file among the files.
    fn file(&mut self, path: u32, deleted: bool, header: &parse::Mapping<'_>) -> u32 {
        let next = self.store.files.len() as u32;
        let key = (path, header.inode, header.device, deleted);
        let number = *self.by_file.entry(key).or_insert(next);
        if number == next {
            let path = self.store.names.get(path as usize).cloned();
            self.store.files.push(File { path, deleted, device: header.device, inode: header.inode, module: false });
        }
        number
    }
}
