//! What a collector answers.

use std::any::Any;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{Gap, Json, Reason, json};

/// The data of one answer: what is printed, schema'd and digested.
///
/// An answer that is a list has rows, so that NDJSON and tables can take it row
/// by row; [`Listing`] is that. Another implements this with no method at all.
pub trait Data: erased_serde::Serialize + Send + Any {
    /// Writes it as JSON; what has many rows serializes itself, without a trait object
    /// between it and each of their fields.
    ///
    /// # Errors
    ///
    /// As a [`crate::digest`] of it, or when the JSON has nowhere to go.
    fn write(&self, json: &mut Json<'_>) -> Result<(), json::Error> {
        erased_serde::serialize(self, json)
    }

    /// How many rows there are, or `None` when this data is no list.
    fn row_count(&self) -> Option<usize> {
        None
    }

    /// Row `index`, which is below [`Data::row_count`].
    fn row(&self, _index: usize) -> Option<&dyn erased_serde::Serialize> {
        None
    }

    /// What a listing says besides its rows.
    fn summary(&self) -> Option<&dyn erased_serde::Serialize> {
        None
    }

    /// What a person reads instead of a table, in lines of at most `width` columns where that can be:
    /// sentences do not fit into columns.
    fn page(&self, _width: usize) -> Option<String> {
        None
    }

    /// Whether there is none: it is null in JSON, and a gap at the empty place says why.
    fn is_absent(&self) -> bool {
        false
    }

    /// Leaves out all rows from the `count`th on; false where that cannot be done.
    fn cut(&mut self, _count: usize) -> bool {
        false
    }

    /// Leaves out some of the largest part that may be absent, `excess` bytes of JSON if it
    /// can, or all of it; `None` where there is none.
    fn leave_out(&mut self, _excess: u64) -> Option<LeftOut> {
        None
    }
}

/// Data that is not there: a limit or a rule came before anything could be told.
impl Data for () {
    fn is_absent(&self) -> bool {
        true
    }
}

/// What was left out of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Where it was, as a JSON Pointer.
    pub at: String,
    /// Where it was not all of it: how many rows are left, and how many there were.
    pub rows: Option<(usize, usize)>,
}

impl LeftOut {
    /// All that was at `at`.
    pub fn whole(at: impl Into<String>) -> Self {
        Self { at: at.into(), rows: None }
    }
}

/// How many bytes `value` has as JSON; `None` where it has none.
pub fn json_bytes(value: &dyn erased_serde::Serialize) -> Option<u64> {
    struct Count(u64);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).ok()?;
    Some(count.0)
}

/// The data of one answer as it may be shown, of which no part need be kept.
pub trait Shown: erased_serde::Serialize {
    /// As [`Data::row_count`].
    fn row_count(&self) -> Option<usize>;

    /// As [`Data::row`].
    fn row(&self, index: usize) -> Option<Box<dyn erased_serde::Serialize + '_>>;

    /// As [`Data::summary`].
    fn summary(&self) -> Option<Box<dyn erased_serde::Serialize + '_>>;

    /// As [`Data::page`].
    fn page(&self, width: usize) -> Option<String>;

    /// As [`Data::is_absent`].
    fn is_absent(&self) -> bool;

    /// Writes its JSON, without white space.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    fn write_json(&self, to: &mut dyn std::io::Write) -> std::io::Result<()>;
}

erased_serde::serialize_trait_object!(Shown);

/// An answer that is a list, in a documented order, and its totals.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Listing<R, S> {
    /// One entry each, sorted by the key that the command documents.
    pub rows: Vec<R>,
    /// Totals over the rows.
    pub summary: S,
}

impl<R: Serialize + Send + 'static, S: Serialize + Send + 'static> Data for Listing<R, S> {
    fn write(&self, json: &mut Json<'_>) -> Result<(), json::Error> {
        self.serialize(json)
    }

    fn row_count(&self) -> Option<usize> {
        Some(self.rows.len())
    }

    fn row(&self, index: usize) -> Option<&dyn erased_serde::Serialize> {
        self.rows.get(index).map(|row| row as _)
    }

    fn summary(&self) -> Option<&dyn erased_serde::Serialize> {
        Some(&self.summary)
    }

    fn cut(&mut self, count: usize) -> bool {
        self.rows.truncate(count);
        true
    }
}

/// A value and the gaps in it, whose places are relative to the value.
///
/// Rows are sorted after they were read, so a row keeps its own gaps until its
/// index is known: [`Gathered::rows`].
#[derive(Debug, Clone)]
pub struct Noted<T> {
    /// The value.
    pub value: T,
    /// Gaps, each with [`Gap::at`] relative to the value (`/inode`).
    pub gaps: Vec<Gap>,
}

impl<T> Noted<T> {
    /// A value without gaps.
    pub fn new(value: T) -> Self {
        Self { value, gaps: Vec::new() }
    }
}

/// What a collector returns: its data, and what it could not see.
#[derive(Debug, Clone)]
pub struct Gathered<D> {
    /// The data, as it is printed.
    pub data: D,
    /// Gaps, each with [`Gap::at`] relative to the data (`/rows/3/inode`).
    pub gaps: Vec<Gap>,
}

impl<D> Gathered<D> {
    /// Data without gaps.
    pub fn complete(data: D) -> Self {
        Self { data, gaps: Vec::new() }
    }
}

impl<R, S> Gathered<Listing<R, S>> {
    /// A listing of `rows`, which are in their final order; each row's gaps are
    /// moved to `/rows/N`, and `gaps` about the whole are put first.
    pub fn rows(rows: Vec<Noted<R>>, mut gaps: Vec<Gap>, summary: impl FnOnce(&[R]) -> S) -> Self {
        // Collecting reuses the memory of `rows`.
        let values: Vec<R> = rows
            .into_iter()
            .enumerate()
            .map(|(index, row)| {
                if !row.gaps.is_empty() {
                    let prefix = format!("/rows/{index}");
                    gaps.extend(row.gaps.into_iter().map(|gap| gap.below(&prefix)));
                }
                row.value
            })
            .collect();
        let summary = summary(&values);
        Self { data: Listing { rows: values, summary }, gaps }
    }
}

/// True when one of `gaps` says that the answer was cut off by a limit or by the
/// session's rules: the exit status is then 4.
pub fn was_refused(gaps: &[Gap]) -> bool {
    gaps.iter().any(|gap| matches!(gap.reason, Reason::LimitReached | Reason::RefusedByPolicy))
}

erased_serde::serialize_trait_object!(Data);
