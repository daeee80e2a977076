//! JSON that is kept from the digest of an answer to the printing of it. It is compressed: rows are alike, so
//! tens of thousands of them take a MiB or two, and that is quicker than to serialize them again.

use std::fmt;
use std::io::{self, Write};

use lz4_flex::block;

/// So many bytes are compressed at a time; what has fewer stays as it is.
const PIECE: usize = 60 << 10;

/// Bytes as they came, the most of them compressed.
#[derive(Clone, Default)]
pub struct Kept {
    pieces: Vec<Piece>,
    /// What came last.
    open: Vec<u8>,
    /// How many bytes the pieces take.
    taken: usize,
}

#[derive(Clone)]
struct Piece {
    bytes: Box<[u8]>,
    /// How many it has when it is decompressed.
    length: usize,
}

impl Kept {
    /// Adds `bytes`; false where it would take more than `most` bytes of memory then.
    pub(crate) fn add(&mut self, bytes: &[u8], most: usize) -> bool {
        self.open.extend_from_slice(bytes);
        if self.open.len() >= PIECE {
            let piece = Piece { bytes: block::compress(&self.open).into_boxed_slice(), length: self.open.len() };
            self.taken += piece.bytes.len() + size_of::<Piece>();
            self.pieces.push(piece);
            self.open.clear();
        }
        self.taken + self.open.len() <= most
    }

    /// Writes all of it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut bytes = vec![0; self.pieces.iter().map(|piece| piece.length).max().unwrap_or(0)];
        for piece in &self.pieces {
            let length = block::decompress_into(&piece.bytes, &mut bytes).map_err(io::Error::other)?;
            to.write_all(&bytes[..length])?;
        }
        to.write_all(&self.open)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("pieces", &self.pieces.len()).field("taken", &self.taken).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kept: &Kept) -> Vec<u8> {
        let mut out = Vec::new();
        kept.write_to(&mut out).expect("written");
        out
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let mut kept = Kept::default();
        assert_eq!(written(&kept), b"");
        let mut all = Vec::new();
        // Rows, noise, and one piece that is longer than others.
        let mut noise = 1_u32;
        for number in 0..40_000_usize {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut bytes = format!("{{\"pid\":{number},\"x\":").into_bytes();
            bytes.extend(noise.to_ne_bytes());
            if number == 20_000 {
                bytes.resize(3 * PIECE, b'y');
            }
            assert!(kept.add(&bytes, 1 << 20), "{number}");
            all.extend(bytes);
        }
        assert!(kept.taken < all.len() / 2 && kept.pieces.len() > 10, "{kept:?} of {}", all.len());
        assert!(written(&kept) == all);
    }

    #[test]
    fn it_takes_no_more_than_it_may() {
        let mut kept = Kept::default();
        assert!(kept.add(&[b'a'; 1000], 1000));
        assert!(!kept.add(b"b", 1000));
        // What is compressed counts as that.
        let mut kept = Kept::default();
        let adds = (0..10_000).take_while(|_| kept.add(&[b'a'; 1000], PIECE + 4000)).count();
        assert!((1000..10_000).contains(&adds), "{adds}");
        assert!(kept.taken + kept.open.len() <= PIECE + 6000, "{kept:?}");
    }
}
