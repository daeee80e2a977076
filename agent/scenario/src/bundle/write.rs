//! Writing a bundle, one file at a time.

use std::io::{self, Write};

use serde_json::Value;
use sha2::Digest;

use super::{Listed, MANIFEST, SCHEMA, frame, hex, sha256};

/// A bundle that is being written.
///
/// What was added is written when [`Writer::add`] returns, and nothing is held back.
pub struct Writer {
    out: Box<dyn Write + Send>,
    files: Vec<Listed>,
    written: u64,
    /// Of all that was written.
    hash: sha2::Sha256,
    most: u64,
    has_failed: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("files", &self.files.len())
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// Of what may be written so much is kept for what closes a bundle, in bytes.
const RESERVE: u64 = 64 << 10;

/// Where artifact `number` of a bundle, called `name`, is in it.
pub fn artifact_path(number: usize, name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '[' | ']');
    let name: String = name.chars().take(60).map(|c| if plain(c) { c } else { '_' }).collect();
    format!("artifacts/{number:03}-{name}.json")
}

/// The name of the artifact at `path`; `None` where that is none.
pub fn artifact_name(path: &str) -> Option<&str> {
    path.strip_prefix("artifacts/")?.strip_suffix(".json")?.split_once('-').map(|(_, name)| name)
}

/// Where the pieces are.
const PIECES: &str = "so-far/";

/// Where piece `number` of `name`, the audit or the access log, is in a bundle.
pub fn piece_path(number: usize, name: &str) -> String {
    format!("{PIECES}{number:03}-{name}")
}

/// Whether `path` is that of a piece of the audit or the access log.
pub fn is_piece(path: &str) -> bool {
    path.starts_with(PIECES)
}

impl Writer {
    /// Begins a bundle of at most about `most` bytes.
    pub fn new(out: Box<dyn Write + Send>, most: u64) -> Self {
        Self { out, files: Vec::new(), written: 0, hash: Digest::new(), most, has_failed: false }
    }

    /// Adds the file `path`, which has no other of its name.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or the bundle would become larger than it may. Other files can still be added if it
    /// was the latter.
    pub fn add(&mut self, path: &str, media_type: &str, bytes: &[u8]) -> io::Result<&Listed> {
        self.put(path, media_type, bytes, self.most.saturating_sub(RESERVE))?;
        self.files.last().ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Adds a file that closes the bundle: whatever was written before.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn add_last(&mut self, path: &str, media_type: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(path, media_type, bytes, u64::MAX)
    }

    fn put(&mut self, path: &str, media_type: &str, bytes: &[u8], most: u64) -> io::Result<()> {
        if self.has_failed {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the bundle cannot be written any more"));
        }
        let frame = frame::of_file(path, bytes)?;
        if self.written + frame.len() as u64 > most {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the limit for what may be written was reached"));
        }
        self.has_failed = true;
        self.write(&frame)?;
        self.has_failed = false;
        let (path, media_type) = (path.to_owned(), media_type.to_owned());
        self.files.push(Listed { path, media_type, bytes: bytes.len() as u64, sha256: sha256(bytes) });
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.out.write_all(frame)?;
        self.out.flush()?;
        self.hash.update(frame);
        self.written += frame.len() as u64;
        Ok(())
    }

    /// What was written so far, in bytes.
    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// The files so far.
    pub fn files(&self) -> &[Listed] {
        &self.files
    }

    /// Closes the bundle with its manifest: `about`, an object, and the list of its files. Returns its size in bytes, and
    /// its SHA-256 in hex.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn end(mut self, about: Value) -> io::Result<(u64, String)> {
        let mut manifest = serde_json::Map::new();
        manifest.insert("schema".to_owned(), SCHEMA.into());
        if let Value::Object(about) = about {
            manifest.extend(about);
        }
        manifest.insert("files".to_owned(), serde_json::to_value(&self.files)?);
        let mut bytes = serde_json::to_vec_pretty(&manifest)?;
        bytes.push(b'\n');
        self.add_last(MANIFEST, "application/json", &bytes)?;
        self.write(&frame::end())?;
        Ok((self.written, hex(&self.hash.finalize())))
    }
}
