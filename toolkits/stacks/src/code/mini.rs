//! `.gnu_debugdata`: an ELF file with a symbol table, compressed with xz ("mini debug
//! information", which Fedora puts into every binary).
//!
//! A decompressor of xz holds what it makes. How much that will be stands in the
//! chunks, so it is added up before anything is decompressed. Source: "The .xz File
//! Format" 1.2.1, and the LZMA2 chunk headers of xz's lzma2_decoder.c.

/// Bytes that are held of all modules together. Fedora's largest has some megabytes.
pub(super) const MOST: usize = 16 << 20;

/// The ELF file in `packed`; `None` where it is malformed, or has more than `most` bytes.
pub(super) fn unpack(packed: &[u8], most: usize) -> Option<Vec<u8>> {
    let size = unpacked_size(packed).filter(|size| *size <= most)?;
    let mut plain = Vec::with_capacity(size);
    lzma_rs::xz_decompress(&mut &packed[..], &mut plain).ok()?;
    Some(plain)
}

/// What the chunks of all blocks say that they will be.
fn unpacked_size(packed: &[u8]) -> Option<usize> {
    if packed.get(..6)? != b"\xfd7zXZ\0" {
        return None;
    }
    // Sizes of the check behind each block, by its ID (section 2.1.1.2).
    let check = match packed.get(7)? & 0xf {
        0 => 0,
        1 => 4,
        4 => 8,
        10 => 32,
        _ => return None,
    };
    let mut at = 12_usize;
    let mut total = 0_usize;
    loop {
        let header = *packed.get(at)?;
        if header == 0 {
            // The index.
            return Some(total);
        }
        at = at.checked_add((usize::from(header) + 1) * 4)?;
        let block = at;
        loop {
            let control = *packed.get(at)?;
            let be = |at: usize| Some(usize::from(u16::from_be_bytes([*packed.get(at)?, *packed.get(at + 1)?])));
            match control {
                0 => {
                    at += 1;
                    break;
                }
                // Not compressed.
                1 | 2 => {
                    let size = be(at + 1)? + 1;
                    total = total.checked_add(size)?;
                    at = at.checked_add(3 + size)?;
                }
                0x80.. => {
                    total = total.checked_add((usize::from(control & 0x1f) << 16) + be(at + 1)? + 1)?;
                    let properties = usize::from(control >= 0xc0);
                    at = at.checked_add(5 + properties + be(at + 3)? + 1)?;
                }
                _ => return None,
            }
            if total > MOST {
                return None;
            }
        }
        // Padded to a multiple of four from the start of the block.
        at = block + (at - block).next_multiple_of(4) + check;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        lzma_rs::xz_compress(&mut &plain[..], &mut packed).expect("compresses");
        packed
    }

    #[test]
    fn what_was_packed_comes_back() {
        for plain in [&b""[..], b"ELF", &[7; 300_000]] {
            let packed = packed(plain);
            assert_eq!(unpacked_size(&packed), Some(plain.len()));
            assert_eq!(unpack(&packed, plain.len().saturating_sub(1)).is_some(), plain.is_empty());
            assert_eq!(unpack(&packed, MOST).as_deref(), Some(plain));
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_unpacked() {
        // Chunks that claim two megabytes each.
        let mut bomb = packed(b"");
        bomb.truncate(24);
        let header = 12 + (usize::from(bomb[12]) + 1) * 4;
        bomb.resize(header, 0);
        for _ in 0..100 {
            bomb.extend([0xff, 0xff, 0xff, 0, 0, 0x5d, 0]);
        }
        assert_eq!(unpack(&bomb, MOST), None);
    }

    #[test]
    fn garbage_is_refused() {
        let good = packed(&[1, 2, 3, 4, 5, 6, 7, 8]);
        for end in 0..good.len() {
            let _ = unpack(&good[..end], MOST);
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            let _ = unpack(&bad, MOST);
        }
        assert_eq!(unpack(b"no xz", MOST), None);
    }
}
