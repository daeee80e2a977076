//! Threads that do the same at the same place, as one row.

use std::collections::HashMap;

use agent_model::{Noted, Reason, Text};

use super::row::Row;

/// Joins the rows that tell the same: those with the most threads first, then by
/// their first thread. A row with other gaps is not the same.
pub(super) fn grouped(rows: Vec<Noted<Row>>) -> Vec<Noted<Row>> {
    let mut groups: Vec<Noted<Row>> = Vec::new();
    let mut index: HashMap<Key, usize> = HashMap::new();
    for row in rows {
        let key = Key::of(&row);
        match index.get(&key) {
            Some(&at) => {
                groups[at].value.count += row.value.count;
                groups[at].value.threads.extend(row.value.threads);
            }
            None => {
                index.insert(key, groups.len());
                groups.push(row);
            }
        }
    }
    groups.sort_by_key(|row| (std::cmp::Reverse(row.value.count), row.value.threads.first().map(|thread| thread.tid)));
    groups
}

/// What two threads have in common that are one row.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    state: &'static str,
    system_call: Option<Text>,
    method: &'static str,
    end: Option<&'static str>,
    addresses: Vec<u64>,
    kernel_frames: Vec<Text>,
    gaps: Vec<(String, Reason, Option<String>)>,
}

impl Key {
    fn of(row: &Noted<Row>) -> Self {
        // Gaps name the thread's own files; what they say is what counts.
        let gaps = row.gaps.iter().map(|gap| (gap.at.clone(), gap.reason, gap.errno.clone())).collect();
        Self {
            state: row.value.state,
            system_call: row.value.system_call.clone(),
            method: row.value.method,
            end: row.value.end,
            addresses: row.value.frames.iter().map(|frame| frame.address.0).collect(),
            kernel_frames: row.value.kernel_frames.clone(),
            gaps,
        }
    }
}
