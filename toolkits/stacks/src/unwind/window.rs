//! A section seen through a few cached pages.

use std::io;
use std::sync::Arc;

use agent_binaries::elf::{Extent, Source, read_vec};

/// Bytes of a page: one read of the source.
const PAGE: u64 = 4096;
/// Pages that one window keeps. A binary search over a large index touches its
/// same first pages each time.
const SLOTS: usize = 32;

/// A range of a source, read by the page.
pub(super) struct Window<'s> {
    source: Arc<dyn Source + Send + Sync + 's>,
    extent: Extent,
    /// Page number modulo [`SLOTS`] finds the slot.
    pages: Vec<Option<(u64, Vec<u8>)>>,
}

impl<'s> Window<'s> {
    pub(super) fn new(source: Arc<dyn Source + Send + Sync + 's>, extent: Extent) -> Self {
        Self { source, extent, pages: Vec::new() }
    }

    pub(super) fn extent(&self) -> Extent {
        self.extent
    }

    pub(super) fn u32_at(&mut self, at: u64) -> Option<u32> {
        self.array_at(at).map(u32::from_le_bytes)
    }

    pub(super) fn u64_at(&mut self, at: u64) -> Option<u64> {
        self.array_at(at).map(u64::from_le_bytes)
    }

    fn array_at<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        let within = usize::try_from(at % PAGE).ok()?;
        if within + N <= PAGE as usize && self.extent.size.checked_sub(at)? >= N as u64 {
            return self.page(at / PAGE).ok()?.get(within..within + N)?.try_into().ok();
        }
        let mut bytes = Vec::with_capacity(N);
        self.append(at, N, &mut bytes).ok()?;
        bytes.try_into().ok()
    }

    /// Appends `count` bytes from `at` of the window to `to`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` where the window ends before; else what the source said.
    pub(super) fn append(&mut self, at: u64, count: usize, to: &mut Vec<u8>) -> io::Result<()> {
        let end = at.checked_add(count as u64);
        if end.is_none_or(|end| end > self.extent.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut left) = (at, count);
        while left > 0 {
            let within = (at % PAGE) as usize;
            let take = left.min(PAGE as usize - within);
            let page = self.page(at / PAGE)?;
            let bytes = page.get(within..within + take);
            to.extend_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            at += take as u64;
            left -= take;
        }
        Ok(())
    }

    fn page(&mut self, number: u64) -> io::Result<&[u8]> {
        if self.pages.is_empty() {
            self.pages.resize_with(SLOTS, || None);
        }
        let slot = &mut self.pages[(number % SLOTS as u64) as usize];
        if slot.as_ref().is_none_or(|(kept, _)| *kept != number) {
            let at = self.extent.offset.checked_add(number * PAGE);
            let at = at.ok_or(io::ErrorKind::UnexpectedEof)?;
            *slot = Some((number, read_vec(&*self.source, at, PAGE as usize)?));
        }
        Ok(slot.as_ref().map_or(&[], |(_, bytes)| bytes))
    }
}
