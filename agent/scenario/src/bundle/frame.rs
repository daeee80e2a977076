//! Frames of zstd (RFC 8878), each with one file of a tar archive.

use std::io::{self, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// The block of a tar archive, in bytes.
const BLOCK: usize = 512;

/// The largest window that is read: what zstd makes without being asked for more has at most this.
const LARGEST_WINDOW: u64 = 8 << 20;

/// The archive with file `path` alone, not compressed.
///
/// # Errors
///
/// When its path does not fit into an archive.
pub fn archive(path: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut all = header(path, bytes.len())?.as_bytes().to_vec();
    all.extend_from_slice(bytes);
    all.resize(all.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    Ok(all)
}

fn header(path: &str, size: usize) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(size as u64);
    header.set_mode(0o444);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

/// The frame with file `path`.
///
/// # Errors
///
/// When its path does not fit into an archive.
pub(super) fn of_file(path: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let header = header(path, bytes.len())?;
    let padding = [0; BLOCK];
    let padding = &padding[..bytes.len().next_multiple_of(BLOCK) - bytes.len()];
    Ok(compress_to_vec(header.as_bytes().chain(bytes).chain(padding), CompressionLevel::Fastest))
}

/// The frame that ends an archive.
pub(super) fn end() -> Vec<u8> {
    compress_to_vec([0; 2 * BLOCK].as_slice(), CompressionLevel::Fastest)
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It goes on behind the end of the file.
    Torn,
    /// It is no frame, or one of a kind that no bundle has.
    Malformed(&'static str),
}

/// The length of the frame at the start of `bytes`, by its headers alone.
pub(super) fn length(bytes: &[u8]) -> Result<usize, Wrong> {
    let at = |index: usize| bytes.get(index).copied().ok_or(Wrong::Torn);
    let magic = 0xFD2F_B528_u32.to_le_bytes();
    if bytes.len() < 4 {
        return Err(if magic.starts_with(bytes) { Wrong::Torn } else { Wrong::Malformed("it is no zstd") });
    }
    if !bytes.starts_with(&magic) {
        return Err(Wrong::Malformed("it is no frame of zstd"));
    }
    let descriptor = at(4)?;
    if descriptor & 0b11 != 0 {
        return Err(Wrong::Malformed("it wants a dictionary"));
    }
    let is_single = descriptor & 0b10_0000 != 0;
    let content_size = match (descriptor >> 6, is_single) {
        (0, single) => usize::from(single),
        (1, _) => 2,
        (2, _) => 4,
        _ => 8,
    };
    let mut next = 5 + usize::from(!is_single) + content_size;
    loop {
        let header = u32::from(at(next)?) | u32::from(at(next + 1)?) << 8 | u32::from(at(next + 2)?) << 16;
        let size = (header >> 3) as usize;
        next += 3 + match header >> 1 & 0b11 {
            0 | 2 => size,
            1 => 1,
            _ => return Err(Wrong::Malformed("it has a block of no kind")),
        };
        if header & 1 == 1 {
            break;
        }
    }
    next += if descriptor & 0b100 != 0 { 4 } else { 0 };
    if next > bytes.len() { Err(Wrong::Torn) } else { Ok(next) }
}

/// What all frames of a file hold, one behind the other.
pub(super) struct Frames<'a> {
    rest: &'a [u8],
    current: Option<StreamingDecoder<&'a [u8], FrameDecoder>>,
    /// What may still be decoded, in bytes.
    left: u64,
    /// Why there is no more, where that is not the end.
    pub(super) wrong: Option<Wrong>,
    /// Whether more was in it than may be decoded.
    pub(super) is_too_large: bool,
}

impl<'a> Frames<'a> {
    /// Of a file `bytes`; at most `most` bytes are decoded.
    pub(super) fn of(bytes: &'a [u8], most: u64) -> Self {
        Self { rest: bytes, current: None, left: most, wrong: None, is_too_large: false }
    }

    /// Whether there are frames that were not looked at.
    pub(super) fn has_more(&self) -> bool {
        !self.rest.is_empty()
    }

    fn fail(&mut self, wrong: Wrong) -> io::Error {
        self.wrong = Some(wrong);
        self.current = None;
        self.rest = &[];
        io::ErrorKind::InvalidData.into()
    }

    fn begin(&mut self) -> io::Result<()> {
        let length = length(self.rest).map_err(|wrong| self.fail(wrong))?;
        let (frame, rest) = self.rest.split_at(length);
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(LARGEST_WINDOW);
        match StreamingDecoder::new_with_decoder(frame, decoder) {
            Ok(decoder) => {
                self.rest = rest;
                self.current = Some(decoder);
                Ok(())
            }
            Err(_) => Err(self.fail(Wrong::Malformed("its header cannot be read, or asks for too much memory"))),
        }
    }
}

impl Read for Frames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.current.is_none() {
                if self.rest.is_empty() {
                    return Ok(0);
                }
                self.begin()?;
            }
            let Some(decoder) = &mut self.current else { return Ok(0) };
            let Ok(count) = decoder.read(buffer) else {
                return Err(self.fail(Wrong::Malformed("a frame cannot be decoded")));
            };
            if count == 0 && !buffer.is_empty() {
                let (told, is) = (decoder.decoder.get_checksum_from_data(), decoder.decoder.get_calculated_checksum());
                if told.is_some() && told != is {
                    return Err(self.fail(Wrong::Malformed("the checksum of a frame is another")));
                }
                self.current = None;
                continue;
            }
            match self.left.checked_sub(count as u64) {
                Some(left) => self.left = left,
                None => {
                    self.is_too_large = true;
                    return Err(self.fail(Wrong::Malformed("it holds more than is read")));
                }
            }
            return Ok(count);
        }
    }
}
