//! A debug section that is compressed with zstd (RFC 8878), read forwards. A decoder cannot be copied, so whoever goes back
//! begins anew, unless the section is small: then what has come is kept. The window of what linkers and objcopy(1) make has two
//! megabytes at most.

use std::io::{ErrorKind, Read};
use std::rc::Rc;

use agent_binaries::elf::read_vec;
use agent_binaries::mapped::Image;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::section::Pages;

/// The largest window that is read: so much memory one section may take.
const LARGEST_WINDOW: u64 = 4 << 20;
/// The largest section of which all that has come is kept, and the most of all sections together.
const SMALL: usize = 8 << 20;
pub(super) const MOST_KEPT: usize = 12 << 20;
/// Decoders that are kept of all sections together, each with a window.
pub(super) const MOST_DECODERS: usize = 6;
/// What a byte of input counts in bytes of output: three of them may be a block without any.
const INPUT_COUNTS: usize = 8;
/// Bytes of compressed input that are read at a time.
const INPUT: usize = 16 << 10;
/// Bytes that are decompressed at a time.
const OUTPUT: usize = 16 << 10;

/// The compressed bytes, from `at` on.
struct Input<'r> {
    pages: Rc<Pages>,
    source: Image<'r>,
    at: u64,
    left: u64,
    buffer: Vec<u8>,
    taken: usize,
}

impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.taken == self.buffer.len() {
            let most = usize::try_from(self.left).unwrap_or(INPUT).min(INPUT);
            self.buffer = read_vec(&self.source, self.at, most).map_err(|_| ErrorKind::UnexpectedEof)?;
            self.taken = 0;
            self.pages.count(self.buffer.len() * INPUT_COUNTS).map_err(|_| ErrorKind::OutOfMemory)?;
            self.at += self.buffer.len() as u64;
            self.left -= self.buffer.len() as u64;
        }
        let read = (&self.buffer[self.taken..]).read(into)?;
        self.taken += read;
        Ok(read)
    }
}

type Decoder<'r> = StreamingDecoder<Input<'r>, FrameDecoder>;
type Now<'r> = (usize, Decoder<'r>);

/// The bytes of one section.
pub(super) struct Zstd<'r> {
    pages: Rc<Pages>,
    source: Image<'r>,
    offset: u64,
    /// How many bytes it has as they stand there, and decompressed.
    packed: u64,
    size: usize,
    /// Where reading has come to, and what goes on there.
    now: Option<Now<'r>>,
    /// What has come, where it is kept.
    kept: Option<Vec<u8>>,
}

impl<'r> Zstd<'r> {
    /// The `packed` bytes at `offset` in `source`, which say `size`; of these `room` may be kept.
    pub(super) fn new(pages: Rc<Pages>, source: Image<'r>, offset: u64, packed: u64, size: usize, room: usize) -> Self {
        let kept = (size <= SMALL.min(room)).then(Vec::new);
        Self { pages, source, offset, packed, size, now: None, kept }
    }

    /// Whether what has come is kept.
    pub(super) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// `wanted` bytes of the output at `start`, or as many as there are.
    pub(super) fn read(&mut self, start: usize, wanted: usize) -> gimli::Result<Vec<u8>> {
        let end = start.saturating_add(wanted);
        if let Some(kept) = self.kept.as_ref().and_then(|kept| kept.get(start..end)) {
            return Ok(kept.to_vec());
        }
        let (mut at, mut decoder) = match self.take() {
            // All before it is kept, or is not wanted.
            Some((at, decoder)) if at <= start || self.kept.is_some() => (at, decoder),
            _ => {
                self.kept.iter_mut().for_each(Vec::clear);
                (0, self.decoder()?)
            }
        };
        let mut output = [0; OUTPUT];
        let mut found = Vec::with_capacity(wanted);
        while at < end {
            let room = (end - at).min(OUTPUT);
            let made = decoder.read(&mut output[..room]).map_err(|_| gimli::Error::Io)?;
            if made == 0 {
                break;
            }
            self.pages.count(made)?;
            match &mut self.kept {
                Some(kept) => kept.extend_from_slice(&output[..made]),
                None => found.extend_from_slice(&output[start.saturating_sub(at).min(made)..made]),
            }
            at += made;
        }
        self.put(at, decoder);
        Ok(match &self.kept {
            Some(kept) => kept.get(start..end.min(kept.len())).unwrap_or_default().to_vec(),
            None => found,
        })
    }

    fn take(&mut self) -> Option<Now<'r>> {
        let now = self.now.take();
        if now.is_some() {
            self.pages.decoders.set(self.pages.decoders.get() - 1);
        }
        now
    }

    /// Keeps the decoder, if more is to come and there is room for its window.
    fn put(&mut self, at: usize, decoder: Decoder<'r>) {
        if at < self.size && self.pages.decoders.get() < MOST_DECODERS {
            self.pages.decoders.set(self.pages.decoders.get() + 1);
            self.now = Some((at, decoder));
        }
    }

    fn decoder(&self) -> gimli::Result<Decoder<'r>> {
        let (pages, source) = (Rc::clone(&self.pages), self.source.clone());
        let input = Input { pages, source, at: self.offset, left: self.packed, buffer: Vec::new(), taken: 0 };
        StreamingDecoder::new_with_max_window_size(input, LARGEST_WINDOW).map_err(|_| gimli::Error::Io)
    }
}

impl Drop for Zstd<'_> {
    fn drop(&mut self) {
        self.take();
    }
}
