//! Fields of the kernel's structures, at their offsets, in the machine's order.

use std::array::from_fn;

/// The `N` bytes at `at`; `None` past the end.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The 16-bit number at `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

/// The 32-bit number at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

/// The 64-bit number at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_ne_bytes)
}

/// The 64-bit number whose lower half stands at `at`, whatever the machine's
/// order: how cookies are given.
pub(crate) fn halves_at(bytes: &[u8], at: usize) -> Option<u64> {
    let [low, high] = [u32_at(bytes, at)?, u32_at(bytes, at + 4)?];
    Some(u64::from(high) << 32 | u64::from(low))
}

/// As many of the 32-bit numbers in `bytes` as there are, and how many.
pub(crate) fn words<const N: usize>(bytes: &[u8]) -> ([u32; N], u8) {
    let count = (bytes.len() / 4).min(N);
    (from_fn(|index| u32_at(bytes, index * 4).unwrap_or(0)), count as u8)
}

/// The netlink attributes in `bytes` (netlink(7)): type and content of each. What
/// is cut off at the end is left out.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        // The two upper bits are flags.
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let content = bytes.get(4..length)?;
        bytes = bytes.get((length + 3) & !3..).unwrap_or_default();
        Some((kind, content))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_they_are_cut_off() {
        let mut bytes = vec![6, 0, 1, 0, b'a', b'b', 0, 0, 4, 0, 2, 0x80, 99, 0, 3, 0, 1];
        let all = |bytes: &[u8]| attributes(bytes).map(|(kind, content)| (kind, content.to_vec())).collect::<Vec<_>>();
        assert_eq!(all(&bytes), [(1, b"ab".to_vec()), (2, vec![])]);
        for end in 0..bytes.len() {
            let _ = all(&bytes[..end]);
        }
        // A length that is shorter than its own header ends it too.
        bytes[0] = 3;
        assert!(all(&bytes).is_empty());
    }
}
