//! Finding the description of one function in `.eh_frame`, without reading the
//! section: the tables of a browser or a JVM are tens of megabytes, and one
//! dump asks for a few hundred entries.
//!
//! Sources: LSB Core, "Exception Frames" (`.eh_frame`, `.eh_frame_hdr`).

use std::fmt;
use std::sync::Arc;

use agent_binaries::elf::{Extent, Source, UnwindTables};
use gimli::{BaseAddresses, EhFrame, EndianSlice, LittleEndian, UnwindSection as _};

use super::window::Window;

/// Bytes of one CIE or FDE. The largest seen describes CPython's evaluation
/// loop in 4 KiB.
const MAX_ENTRY: usize = 256 * 1024;
/// FDEs that are indexed where there is no `.eh_frame_hdr`.
const MAX_INDEXED: usize = 1 << 20;

/// The reader that gimli works on: one CIE and one FDE.
pub(super) type Bytes<'a> = EndianSlice<'a, LittleEndian>;
/// A function's description, parsed.
pub(super) type Fde<'a> = gimli::FrameDescriptionEntry<Bytes<'a>>;

/// The unwind tables of one module.
pub(super) struct Tables<'s> {
    eh_frame: Window<'s>,
    eh_frame_hdr: Option<Window<'s>>,
    text: Option<u64>,
    got: Option<u64>,
    search: Search,
}

/// How an FDE is found.
enum Search {
    /// Not looked at yet.
    Unread,
    /// By the table of `.eh_frame_hdr`, `count` pairs from offset `start`.
    Header { start: u64, count: u64 },
    /// By an index of `(first SVMA, offset of the FDE)` that was made here.
    Index(Vec<(u64, u64)>),
}

/// One CIE and one FDE, copied next to each other so that gimli can parse them
/// without the section around them. Reused from one look-up to the next.
#[derive(Default)]
pub(super) struct Entry {
    bytes: Vec<u8>,
    fde_at: usize,
    bases: BaseAddresses,
}

impl Entry {
    /// The section that holds these two entries, and its addresses.
    pub(super) fn section(&self) -> (EhFrame<Bytes<'_>>, &BaseAddresses) {
        let mut section = EhFrame::new(&self.bytes, LittleEndian);
        section.set_address_size(8);
        (section, &self.bases)
    }

    /// The FDE, parsed.
    pub(super) fn fde(&self) -> gimli::Result<Fde<'_>> {
        let (section, bases) = self.section();
        section.fde_from_offset(bases, gimli::EhFrameOffset(self.fde_at), EhFrame::cie_from_offset)
    }
}

impl<'s> Tables<'s> {
    pub(super) fn new(source: Arc<dyn Source + Send + Sync + 's>, tables: &UnwindTables) -> Self {
        let window = |extent: Extent| Window::new(source.clone(), extent);
        Self {
            eh_frame: window(tables.eh_frame),
            eh_frame_hdr: tables.eh_frame_hdr.map(window),
            text: tables.text,
            got: tables.got,
            search: Search::Unread,
        }
    }

    /// Loads the FDE that may describe `svma` into `entry`. False where there
    /// is none; whether the FDE really reaches as far as `svma` is for the
    /// caller to see.
    pub(super) fn find(&mut self, svma: u64, entry: &mut Entry) -> bool {
        if matches!(self.search, Search::Unread) {
            self.search = self.prepare();
        }
        let offset = match &self.search {
            Search::Unread => None,
            Search::Header { start, count } => self.eh_frame_hdr.as_mut().and_then(|hdr| {
                let address = search_header(hdr, *start, *count, svma)?;
                address.checked_sub(self.eh_frame.extent().svma)
            }),
            Search::Index(index) => {
                let end = index.partition_point(|(first, _)| *first <= svma);
                end.checked_sub(1).map(|at| index[at].1)
            }
        };
        offset.is_some_and(|offset| self.load(offset, entry).is_some())
    }

    /// Copies the FDE at `offset` and its CIE into `entry`. The FDE's pointer
    /// to its CIE is rewritten for the new distance, and the address of the
    /// section is set so that what the FDE says relative to itself stays right.
    fn load(&mut self, offset: u64, entry: &mut Entry) -> Option<()> {
        let head = self.head(offset)?;
        let cie = offset.checked_add(head.id_at)?.checked_sub(u64::from(head.id))?;
        let cie_head = self.head(cie)?;
        if head.id == 0 || cie_head.id != 0 {
            return None;
        }
        entry.bytes.clear();
        self.eh_frame.append(cie, cie_head.size, &mut entry.bytes).ok()?;
        let at = entry.bytes.len();
        self.eh_frame.append(offset, head.size, &mut entry.bytes).ok()?;
        let id_at = at + usize::try_from(head.id_at).ok()?;
        let id = u32::try_from(id_at).ok()?;
        entry.bytes.get_mut(id_at..id_at + 4)?.copy_from_slice(&id.to_le_bytes());
        entry.bytes.extend_from_slice(&[0; 4]);
        entry.fde_at = at;
        let start = self.eh_frame.extent().svma.wrapping_add(offset);
        let mut bases = BaseAddresses::default().set_eh_frame(start.wrapping_sub(at as u64));
        if let Some(text) = self.text {
            bases = bases.set_text(text);
        }
        if let Some(got) = self.got {
            bases = bases.set_got(got);
        }
        entry.bases = bases;
        Some(())
    }

    /// The length and the ID of the entry at `offset`.
    fn head(&mut self, offset: u64) -> Option<Head> {
        let length = self.eh_frame.u32_at(offset)?;
        let (length, id_at) = match length {
            0 => return None,
            u32::MAX => (self.eh_frame.u64_at(offset.checked_add(4)?)?, 12),
            short => (u64::from(short), 4),
        };
        let size = usize::try_from(length.checked_add(id_at)?).ok()?;
        if size > MAX_ENTRY || length < 4 {
            return None;
        }
        let id = self.eh_frame.u32_at(offset.checked_add(id_at)?)?;
        Some(Head { size, id, id_at })
    }

    fn prepare(&mut self) -> Search {
        let table = self.eh_frame_hdr.as_mut().and_then(|hdr| {
            // Version 1, then three encodings; the table is searched as the
            // linkers write it (data relative, four bytes each).
            let [version, pointer, count, table] = hdr.u32_at(0)?.to_le_bytes();
            let pointer_size = match pointer & 0x0f {
                0x03 | 0x0b => 4,
                0x00 | 0x04 | 0x0c => 8,
                _ => return None,
            };
            (version == 1 && count == 0x03 && table == 0x3b).then_some(())?;
            let start = 4 + pointer_size;
            let count = u64::from(hdr.u32_at(start)?);
            let fits = hdr.extent().size.checked_sub(start + 4)? / 8;
            (count > 0).then_some(Search::Header { start: start + 4, count: count.min(fits) })
        });
        table.unwrap_or_else(|| Search::Index(self.index()))
    }

    /// Walks the section once, for files without an `.eh_frame_hdr` (gcc's
    /// `-static`).
    pub(super) fn index(&mut self) -> Vec<(u64, u64)> {
        let mut index = Vec::new();
        let mut cie = None;
        let mut offset = 0;
        while let Some(head) = self.head(offset) {
            if let Some(first) = self.first_address(offset, &head, &mut cie) {
                index.push((first, offset));
            }
            offset += head.size as u64;
            if index.len() == MAX_INDEXED {
                break;
            }
        }
        index.sort_unstable();
        index
    }

    /// The SVMA where the FDE at `offset` starts; none for a CIE. `cie` is the
    /// last one seen and how its FDEs write addresses.
    fn first_address(
        &mut self,
        offset: u64,
        head: &Head,
        cie: &mut Option<(u64, Option<gimli::DwEhPe>)>,
    ) -> Option<u64> {
        /// `DW_EH_PE_pcrel | DW_EH_PE_sdata4`: what compilers write.
        const USUAL: gimli::DwEhPe = gimli::DwEhPe(0x1b);
        if head.id == 0 {
            return None;
        }
        let parsed = |tables: &mut Self| {
            let mut entry = Entry::default();
            tables.load(offset, &mut entry)?;
            let fde = entry.fde().ok()?;
            Some((fde.initial_address(), fde.cie().fde_address_encoding()))
        };
        let cie_at = (offset + head.id_at).checked_sub(u64::from(head.id))?;
        match cie {
            Some((at, Some(USUAL))) if *at == cie_at => {
                let at = offset + head.id_at + 4;
                let relative = self.eh_frame.u32_at(at)? as i32;
                let base = self.eh_frame.extent().svma.wrapping_add(at);
                Some(base.wrapping_add(i64::from(relative) as u64))
            }
            _ => {
                let (first, encoding) = parsed(self)?;
                *cie = Some((cie_at, encoding));
                Some(first)
            }
        }
    }
}

impl fmt::Debug for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("eh_frame", &self.eh_frame.extent()).finish_non_exhaustive()
    }
}

/// The fields that every entry starts with.
struct Head {
    /// The whole entry, its length field included.
    size: usize,
    /// Zero for a CIE, the distance back to the CIE for an FDE.
    id: u32,
    id_at: u64,
}

/// The SVMA of the FDE whose first address is the last one not above `svma`.
fn search_header(hdr: &mut Window<'_>, start: u64, count: u64, svma: u64) -> Option<u64> {
    let base = hdr.extent().svma;
    let absolute = |relative: u32| base.wrapping_add(i64::from(relative as i32) as u64);
    let (mut low, mut high) = (0, count);
    let mut found = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let pair = hdr.u64_at(start + middle * 8)?;
        if absolute(pair as u32) <= svma {
            found = Some(absolute((pair >> 32) as u32));
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    found
}
