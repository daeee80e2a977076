//! Writing a chain: records to lines.

use agent_model::canonical;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Map, Value, json};

use super::{At, Data, Head, Kind, LONGEST_LINE, genesis, hash_of, hex, is_plain, signed_bytes};

/// So many records after a checkpoint comes the next.
const RECORDS: u64 = 64;

/// A record so long after a checkpoint, in microseconds, brings the next.
const INTERVAL_US: u64 = 5_000_000;

/// A chain that is being written.
///
/// It makes lines and keeps no I/O: whoever gets lines from it writes them before anything else is
/// done, and ends the chain where that fails.
pub struct Chain {
    session: String,
    seq: u64,
    prev: String,
    first_key: String,
    /// Signs the next checkpoint; `None` once the chain has ended.
    key: Option<SigningKey>,
    epoch: u64,
    since_checkpoint: u64,
    checkpoint_us: u64,
    random: Box<dyn FnMut(&mut [u8]) + Send>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("seq", &self.seq).field("prev", &self.prev).finish_non_exhaustive()
    }
}

impl Chain {
    /// Opens the chain of `session`, and makes its first line. `grant` and `roots` are those of
    /// [`genesis`], `random` fills keys with random bytes of the kernel.
    pub fn open(
        session: &str,
        (grant, roots): (&[u8], &[u8]),
        mut data: Data,
        at: &At,
        mut random: impl FnMut(&mut [u8]) + Send + 'static,
    ) -> (Self, Vec<u8>) {
        let key = new_key(&mut random);
        let first_key = hex(key.verifying_key().as_bytes());
        let mut chain = Self {
            session: session.to_owned(),
            seq: 0,
            prev: genesis(grant, roots),
            first_key: first_key.clone(),
            key: Some(key),
            epoch: 0,
            since_checkpoint: 0,
            checkpoint_us: at.mono_us,
            random: Box::new(random),
        };
        data.insert("key".to_owned(), first_key.into());
        let lines = chain.append(Kind::SessionOpen, data, at);
        (chain, lines)
    }

    /// Adds a record, and a checkpoint where one is due: one line or two, each with its newline.
    ///
    /// `data` that does not keep the rules, or would make the line too long, is replaced by its size and
    /// hash: that it was there is not lost. A chain that has ended gives no more lines.
    pub fn append(&mut self, kind: Kind, data: Data, at: &At) -> Vec<u8> {
        if self.key.is_none() {
            return Vec::new();
        }
        let mut lines = self.line(kind, data, at);
        self.since_checkpoint += 1;
        if self.since_checkpoint >= RECORDS || at.mono_us.saturating_sub(self.checkpoint_us) >= INTERVAL_US {
            lines.extend(self.checkpoint(at, false));
        }
        lines
    }

    /// The checkpoint that is due although nothing happens; empty where none is.
    pub fn tick(&mut self, at: &At) -> Vec<u8> {
        let late = at.mono_us.saturating_sub(self.checkpoint_us) >= INTERVAL_US;
        if late && self.since_checkpoint > 0 && self.key.is_some() { self.checkpoint(at, false) } else { Vec::new() }
    }

    /// Ends the chain: `session.close`, and the last checkpoint, which names no next key.
    pub fn close(&mut self, data: Data, at: &At) -> Vec<u8> {
        if self.key.is_none() {
            return Vec::new();
        }
        let mut lines = self.line(Kind::SessionClose, data, at);
        lines.extend(self.checkpoint(at, true));
        lines
    }

    /// The lines that would end the chain now, with `records` and [`Chain::close`] with `closing`: for where there will be no
    /// memory to make them with. Nothing of the chain changes.
    pub fn last_words(&mut self, records: Vec<(Kind, Data)>, closing: Data, at: &At) -> Vec<u8> {
        let (seq, prev, key) = (self.seq, self.prev.clone(), self.key.clone());
        let (epoch, since, checkpoint_us) = (self.epoch, self.since_checkpoint, self.checkpoint_us);
        let mut lines: Vec<u8> = Vec::new();
        for (kind, data) in records.into_iter().filter(|_| key.is_some()) {
            lines.extend(self.line(kind, data, at));
        }
        lines.extend(self.close(closing, at));
        (self.seq, self.prev, self.key) = (seq, prev, key);
        (self.epoch, self.since_checkpoint, self.checkpoint_us) = (epoch, since, checkpoint_us);
        lines
    }

    /// What it comes to so far.
    pub fn head(&self) -> Head {
        Head { count: self.seq, head: self.prev.clone(), key: self.first_key.clone() }
    }

    fn checkpoint(&mut self, at: &At, last: bool) -> Vec<u8> {
        let Some(key) = self.key.take() else { return Vec::new() };
        let next = (!last).then(|| new_key(&mut self.random));
        let name = next.as_ref().map(|next| Value::from(hex(next.verifying_key().as_bytes())));
        let mut data = Data::new();
        data.insert("epoch".to_owned(), self.epoch.into());
        data.insert("next".to_owned(), name.unwrap_or(Value::Null));
        let record = self.record(Kind::Checkpoint, data.clone(), at);
        let signature = key.sign(&signed_bytes(&record).unwrap_or_default());
        // The key ends here: its memory is wiped.
        drop(key);
        data.insert("sig".to_owned(), hex(&signature.to_bytes()).into());
        self.key = next;
        self.epoch += 1;
        self.since_checkpoint = 0;
        self.checkpoint_us = at.mono_us;
        self.line(Kind::Checkpoint, data, at)
    }

    fn record(&self, kind: Kind, data: Data, at: &At) -> Map<String, Value> {
        let record = json!({
            "v": 1,
            "session": self.session,
            "seq": self.seq,
            "ts": at.ts,
            "mono_us": at.mono_us,
            "type": kind.as_str(),
            "data": data,
            "prev": self.prev,
        });
        match record {
            Value::Object(record) => record,
            _ => Map::new(),
        }
    }

    /// One record as its line.
    fn line(&mut self, kind: Kind, data: Data, at: &At) -> Vec<u8> {
        let whole = Value::Object(data);
        let fits = is_plain(&whole).then(|| self.finish(kind, &whole, at)).flatten();
        let (line, hash) = match fits.filter(|(line, _)| line.len() <= LONGEST_LINE) {
            Some(line) => line,
            None => self.finish(kind, &cut(kind, &whole), at).unwrap_or_default(),
        };
        self.seq += 1;
        self.prev = hash;
        let mut line = line;
        line.push(b'\n');
        line
    }

    fn finish(&self, kind: Kind, data: &Value, at: &At) -> Option<(Vec<u8>, String)> {
        let mut record = self.record(kind, data.as_object()?.clone(), at);
        let hash = hash_of(&record)?;
        record.insert("hash".to_owned(), hash.clone().into());
        Some((canonical::to_vec(&record).ok()?, hash))
    }
}

/// What stands in the place of data that do not fit into a record.
fn cut(kind: Kind, whole: &Value) -> Value {
    use sha2::{Digest as _, Sha256};
    let bytes = serde_json::to_vec(whole).unwrap_or_default();
    let mut data = json!({"cut": true, "bytes": bytes.len(), "sha256": hex(&Sha256::digest(&bytes))});
    // Without these there is no telling what the record is about.
    for name in ["action", "command", "key"] {
        let small = whole.get(name).filter(|value| is_plain(value) && value.to_string().len() <= 256);
        if let Some(value) = small.filter(|_| kind != Kind::Checkpoint) {
            data[name] = value.clone();
        }
    }
    data
}

fn new_key(random: &mut (impl FnMut(&mut [u8]) + ?Sized)) -> SigningKey {
    let mut seed = [0; 32];
    random(&mut seed);
    let key = SigningKey::from_bytes(&seed);
    // A seed is the key: it must not stay on the stack.
    seed = [0; 32];
    std::hint::black_box(&seed);
    key
}
