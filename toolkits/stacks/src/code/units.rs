//! Which unit of the debug information an address is of: by `.debug_aranges`, and
//! where that does not tell, by what each unit says of itself.

use gimli::Dwarf;

use super::section::Bytes;

/// Ranges that are kept of one module, at 16 bytes.
const MOST_RANGES: usize = 1 << 17;
/// Units of one module of which it is kept where they start.
const MOST_UNITS: usize = 1 << 18;
/// Ranges before an address that are looked at: they overlap where code was merged.
const STEPS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Covered {
    svma: u64,
    size: u32,
    /// Where the unit is in `.debug_info`.
    unit: u32,
}

/// The units of one module.
#[derive(Debug, Default)]
pub(super) struct Units {
    /// By address.
    ranges: Vec<Covered>,
    has_aranges: bool,
    has_walked: bool,
    /// Where they start, once that was asked.
    starts: Option<Vec<u32>>,
    truncated: bool,
    /// Whether that was not said yet.
    has_news: bool,
}

impl Units {
    /// Whether there are more than are kept; true once.
    pub(super) fn take_truncated(&mut self) -> bool {
        std::mem::replace(&mut self.has_news, false)
    }

    /// Up to `most` units that say that `svma` is theirs, the nearest first.
    pub(super) fn of(&mut self, dwarf: &Dwarf<Bytes<'_>>, svma: u64, most: usize) -> Vec<usize> {
        if !self.has_aranges {
            self.has_aranges = true;
            let _ = self.read_aranges(dwarf);
            self.ranges.sort_unstable();
        }
        let found = self.covering(svma, most);
        if !found.is_empty() || self.has_walked {
            return found;
        }
        self.has_walked = true;
        self.walk(dwarf);
        self.covering(svma, most)
    }

    fn covering(&self, svma: u64, most: usize) -> Vec<usize> {
        let end = self.ranges.partition_point(|range| range.svma <= svma);
        let near = self.ranges[..end].iter().rev().take(STEPS);
        let mut found = Vec::new();
        for range in near.filter(|range| svma - range.svma < u64::from(range.size)) {
            let unit = range.unit as usize;
            if !found.contains(&unit) && found.len() < most {
                found.push(unit);
            }
        }
        found
    }

    fn add(&mut self, svma: u64, size: u64, unit: usize) {
        let (Ok(size), Ok(unit)) = (u32::try_from(size), u32::try_from(unit)) else {
            return self.cut();
        };
        // What the linker has thrown away stands at 0.
        if size == 0 || svma == 0 {
            return;
        }
        if self.ranges.len() == MOST_RANGES {
            self.cut();
        } else {
            self.ranges.push(Covered { svma, size, unit });
        }
    }

    fn cut(&mut self) {
        self.has_news |= !self.truncated;
        self.truncated = true;
    }

    fn read_aranges(&mut self, dwarf: &Dwarf<Bytes<'_>>) -> gimli::Result<()> {
        let mut headers = dwarf.debug_aranges.headers();
        while let Some(header) = headers.next()? {
            let unit = header.debug_info_offset().0;
            let mut entries = header.entries();
            while let Some(entry) = entries.next().transpose() {
                // One that passes the end of the address space is left out.
                let Ok(entry) = entry else { continue };
                self.add(entry.address(), entry.length(), unit);
            }
            if self.truncated {
                break;
            }
        }
        Ok(())
    }

    /// Asks each unit that `.debug_aranges` has left out.
    fn walk(&mut self, dwarf: &Dwarf<Bytes<'_>>) {
        let mut known: Vec<u32> = self.ranges.iter().map(|range| range.unit).collect();
        known.sort_unstable();
        known.dedup();
        let mut starts = Vec::new();
        let mut headers = dwarf.units();
        while let Ok(Some(header)) = headers.next() {
            let at = header.debug_info_offset().and_then(|at| u32::try_from(at.0).ok());
            let Some(at) = at.filter(|_| starts.len() < MOST_UNITS && !self.truncated) else {
                self.cut();
                break;
            };
            starts.push(at);
            if known.binary_search(&at).is_ok() {
                continue;
            }
            let Ok(unit) = dwarf.unit(header) else { continue };
            let Ok(mut ranges) = dwarf.unit_ranges(&unit) else { continue };
            while let Ok(Some(range)) = ranges.next() {
                self.add(range.begin, range.end.saturating_sub(range.begin), at as usize);
            }
        }
        self.ranges.sort_unstable();
        self.starts = Some(starts);
    }

    /// Where the unit starts that holds `offset` of `.debug_info`.
    pub(super) fn holding(&mut self, dwarf: &Dwarf<Bytes<'_>>, offset: usize) -> Option<usize> {
        let starts = self.starts.get_or_insert_with(|| {
            let mut starts = Vec::new();
            let mut headers = dwarf.units();
            while let Ok(Some(header)) = headers.next()
                && starts.len() < MOST_UNITS
            {
                starts.extend(header.debug_info_offset().and_then(|at| u32::try_from(at.0).ok()));
            }
            starts
        });
        let after = starts.partition_point(|start| *start as usize <= offset);
        after.checked_sub(1).map(|at| starts[at] as usize)
    }
}
