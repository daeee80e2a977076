//! What `maps --watch` adds: by how much each mapping has grown between two looks, and
//! which came and went.

use std::time::Duration;

use agent_model::Hex;
use schemars::JsonSchema;
use serde::Serialize;

use super::Mappings;
use super::figures::Usage;
use super::store::{Mapping, Shared, Store};

/// By how much a mapping has grown since the look before; below 0 if it has shrunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Growth {
    /// Of its address space, in bytes.
    #[schemars(extend("x-column" = "+SIZE"))]
    pub size_growth_bytes: i64,
    /// Of what is in memory, in bytes; absent with --no-smaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "+RSS"))]
    pub rss_growth_bytes: Option<i64>,
    /// Of what is in memory and was written to by this process alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_dirty_growth_bytes: Option<i64>,
    /// Of what is swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_growth_bytes: Option<i64>,
}

impl Growth {
    fn between(then: (u64, &Usage), now: (u64, &Usage)) -> Self {
        let of = |figure: fn(&Usage) -> Option<u64>| {
            figure(then.1).zip(figure(now.1)).map(|(then, now)| difference(then, now))
        };
        Self {
            size_growth_bytes: difference(then.0, now.0),
            rss_growth_bytes: of(|usage| usage.rss_bytes),
            private_dirty_growth_bytes: of(|usage| usage.private_dirty_bytes),
            swap_growth_bytes: of(|usage| usage.swap_bytes),
        }
    }
}

/// Sizes of memory are far below 2^63.
fn difference(then: u64, now: u64) -> i64 {
    now.cast_signed().wrapping_sub(then.cast_signed())
}

/// What has changed in the address space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Changes {
    /// The time since the look before, in microseconds.
    pub interval_us: u64,
    /// By how much all of it has grown.
    #[serde(flatten)]
    pub growth: Growth,
    /// Mappings that were not there then, by address.
    pub mapped: Vec<Named>,
    /// Mappings that are no longer there, by address.
    pub unmapped: Vec<Named>,
}

/// A mapping that came or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Named {
    /// Its first address (AVMA).
    #[schemars(extend("x-column" = "START"))]
    pub start: Hex,
    /// How much address space it takes.
    #[schemars(extend("x-column" = "SIZE"))]
    pub size_bytes: u64,
    /// What it is for, as in the rows.
    #[schemars(extend("x-column" = "KIND"))]
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// The path of its file, or else its name; absent where it has neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PATH"))]
    pub path: Option<Shared>,
}

impl Named {
    fn of(mapping: &Mapping, store: &Store) -> Self {
        let path = mapping.file(store).and_then(|file| file.path.as_ref());
        Self {
            start: Hex(mapping.start),
            size_bytes: mapping.size_bytes(),
            kind: mapping.kind.as_str(),
            path: path.or_else(|| mapping.name(store)).cloned(),
        }
    }
}

/// Says in `now` what has changed since `before`.
pub(super) fn compare(before: &Mappings, now: &mut Mappings, elapsed: Duration) {
    let (mapped, unmapped) = match (&before.rows, &mut now.rows) {
        (Some(then), Some(rows)) => pair(then, rows),
        _ => (Vec::new(), Vec::new()),
    };
    let (then, since) = (&before.summary, &now.summary);
    let growth =
        Growth::between((then.size_bytes.unwrap_or(0), &then.usage), (since.size_bytes.unwrap_or(0), &since.usage));
    now.summary.changes =
        Some(Changes { interval_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), growth, mapped, unmapped });
}

/// Finds each mapping's former self: what overlapped it and was for the same. Both
/// lists are in the order of addresses, in which a mapping cannot pass another.
fn pair(then: &[Mapping], now: &mut [Mapping]) -> (Vec<Named>, Vec<Named>) {
    let (mut mapped, mut unmapped) = (Vec::new(), Vec::new());
    let mut old = then.iter().filter_map(|mapping| Some((mapping, mapping.store.get()?))).peekable();
    for mapping in now {
        let Some(store) = mapping.store.get() else { continue };
        let mut former = None;
        while let Some(&(earlier, earlier_store)) = old.peek().filter(|(earlier, _)| earlier.start < mapping.end) {
            if former.is_none() && earlier.end > mapping.start && is_same((earlier, earlier_store), (mapping, store)) {
                former = Some((earlier.size_bytes(), Usage::from(&earlier.figures(earlier_store))));
            } else if earlier.end > mapping.end {
                // What is left of it may be the next one.
                break;
            } else {
                unmapped.push(Named::of(earlier, earlier_store));
            }
            old.next();
        }
        match former {
            Some((size, usage)) => {
                let figures = Usage::from(&mapping.figures(store));
                let growth = Growth::between((size, &usage), (mapping.size_bytes(), &figures));
                mapping.growth = Some(Box::new(growth));
            }
            None => mapped.push(Named::of(mapping, store)),
        }
    }
    unmapped.extend(old.map(|(earlier, store)| Named::of(earlier, store)));
    (mapped, unmapped)
}

/// Whether two mappings are of one file, or have one name.
fn is_same((then, then_store): (&Mapping, &Store), (now, store): (&Mapping, &Store)) -> bool {
    let file = |mapping: &Mapping, store: &Store| mapping.file(store).map(|file| (file.device, file.inode));
    file(then, then_store) == file(now, store)
        && then.name(then_store).map(Shared::as_str) == now.name(store).map(Shared::as_str)
        && then.permissions == now.permissions
}

#[cfg(test)]
mod tests {
    use super::super::store::Builder;
    use super::*;

    fn mappings(text: &str) -> Vec<Mapping> {
        let mut builder = Builder::new(100);
        text.lines().for_each(|line| builder.line(line.as_bytes()));
        builder.end();
        builder.into_rows()
    }

    fn starts(list: &[Named]) -> Vec<u64> {
        list.iter().map(|one| one.start.0).collect()
    }

    const BEFORE: &str = "\
10000-20000 rw-p 00000000 00:00 0 [heap]
Rss: 16 kB
30000-40000 rw-p 00000000 00:00 0 
Rss: 64 kB
50000-60000 r--p 00000000 08:01 7 /a
Rss: 4 kB
70000-80000 rw-p 00000000 00:00 0 
Rss: 0 kB
";

    #[test]
    fn a_mapping_that_moved_its_end_or_its_start_is_the_same() {
        let then = mappings(BEFORE);
        let mut now = mappings(
            "10000-28000 rw-p 00000000 00:00 0 [heap]\nRss: 48 kB\n2c000-40000 rw-p 00000000 00:00 0 \nRss: 32 kB\n\
             50000-60000 r--p 00000000 08:01 7 /a\nRss: 4 kB\n70000-80000 rw-p 00000000 00:00 0 \nRss: 0 kB\n",
        );
        let (mapped, unmapped) = pair(&then, &mut now);
        assert!(mapped.is_empty() && unmapped.is_empty(), "{mapped:?} {unmapped:?}");
        let grown: Vec<(i64, Option<i64>)> = now
            .iter()
            .map(|mapping| mapping.growth.as_deref().expect("it was there"))
            .map(|growth| (growth.size_growth_bytes, growth.rss_growth_bytes))
            .collect();
        assert_eq!(grown, [(0x8000, Some(32 << 10)), (0x4000, Some(-(32 << 10))), (0, Some(0)), (0, Some(0))]);
    }

    #[test]
    fn what_came_and_went_is_named() {
        let then = mappings(BEFORE);
        // Another file in the place of one, and a mapping where there was none.
        let mut now = mappings(
            "08000-09000 r--p 00000000 08:01 9 /b\n10000-20000 rw-p 00000000 00:00 0 [heap]\n\
             30000-40000 rw-p 00000000 00:00 0 \n50000-60000 r--p 00000000 08:01 8 /a\n90000-a0000 rw-p 00000000 00:00 0 \n",
        );
        let (mapped, unmapped) = pair(&then, &mut now);
        assert_eq!((starts(&mapped), starts(&unmapped)), (vec![0x8000, 0x50000, 0x90000], vec![0x50000, 0x70000]));
        assert_eq!(mapped[0].path.as_ref().map(Shared::as_str), Some("/b"));
    }

    #[test]
    fn a_mapping_whose_beginning_became_another_has_shrunk() {
        let then = mappings("10000-40000 rw-p 00000000 00:00 0 \n");
        let mut now = mappings("10000-20000 r--p 00000000 08:01 7 /a\n20000-40000 rw-p 00000000 00:00 0 \n");
        let (mapped, unmapped) = pair(&then, &mut now);
        assert_eq!((starts(&mapped), unmapped.len()), (vec![0x10000], 0));
        assert_eq!(now[1].growth.as_deref().map(|growth| growth.size_growth_bytes), Some(-0x10000));
    }

    #[test]
    fn a_mapping_that_was_split_is_one_that_shrank_and_one_that_came() {
        let then = mappings("10000-40000 rw-p 00000000 00:00 0 \n");
        let mut now = mappings(
            "10000-20000 rw-p 00000000 00:00 0 \n20000-30000 r--p 00000000 00:00 0 \n30000-40000 rw-p 00000000 00:00 0 \n",
        );
        let (mapped, unmapped) = pair(&then, &mut now);
        assert_eq!((starts(&mapped), unmapped.len()), (vec![0x20000, 0x30000], 0));
        assert_eq!(now[0].growth.as_deref().map(|growth| growth.size_growth_bytes), Some(-0x20000));
    }
}
