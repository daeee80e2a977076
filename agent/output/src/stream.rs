//! An answer that is written as it is found.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::sync::{Arc, Mutex, PoisonError};

use agent_model::Text;

use crate::{BUFFER, Counted, Direct, Ended, Printed, Row, json, ndjson_end};

/// Standard output, for rows or bytes one after the other.
#[derive(Debug, Clone)]
pub struct Streamed {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    out: BufWriter<Counted<Direct>>,
    schema: String,
    session_id: Text,
    /// The first error: after it nothing is written any more.
    failed: Option<(ErrorKind, String)>,
}

impl Streamed {
    /// A stream of rows of `schema`, or of bytes.
    pub fn new(schema: String, session_id: Text) -> Self {
        let out = BufWriter::with_capacity(BUFFER, Counted(Direct));
        Self { state: Arc::new(Mutex::new(State { out, schema, session_id, failed: None })) }
    }

    /// Writes `bytes` as they are.
    ///
    /// # Errors
    ///
    /// When they cannot be written, or some before them could not.
    pub fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        self.write(|state| state.out.write_all(bytes))
    }

    /// Writes a row of NDJSON.
    ///
    /// # Errors
    ///
    /// As [`Streamed::bytes`].
    pub fn row(&self, row: &dyn erased_serde::Serialize) -> io::Result<()> {
        self.write(|state| {
            let State { out, schema, session_id, .. } = state;
            json(out, &Row { schema, session_id, row }, false)
        })
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    ///
    /// As [`Streamed::bytes`].
    pub fn flush(&self) -> io::Result<()> {
        self.write(|state| state.out.flush())
    }

    /// Ends the stream with the envelope: as its last line if it is NDJSON, else on
    /// standard error, so that the stream stays what it is.
    ///
    /// # Errors
    ///
    /// When a part of it could not be written. A closed pipe is no error.
    pub fn end(&self, envelope: &Printed<'_>, is_ndjson: bool) -> io::Result<Ended> {
        let ended = self.write(|state| {
            if is_ndjson {
                ndjson_end(&mut state.out, envelope)?;
            }
            state.out.flush()
        });
        if !is_ndjson {
            crate::log(envelope);
        }
        match ended {
            Ok(()) => Ok(Ended::Whole),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Ended::Closed),
            Err(error) => Err(error),
        }
    }

    fn write(&self, write: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kind, words)) = &state.failed {
            return Err(io::Error::new(*kind, words.clone()));
        }
        let written = write(&mut state);
        if let Err(error) = &written {
            state.failed = Some((error.kind(), error.to_string()));
        }
        written
    }
}
