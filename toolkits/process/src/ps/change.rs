//! What `ps --watch` adds: what was used between two looks, and who came and went.

use std::collections::HashMap;
use std::time::Duration;

use agent_model::{Listing, Text};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Row, Summary};

/// What a process or thread did since the look before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Change {
    /// CPU time in thousandths of one processor: 1000 is one that was busy all the
    /// time. Counted by the clock tick.
    #[schemars(extend("x-column" = "CPU/1000"))]
    pub cpu_permille: u64,
    /// Bytes a second that were fetched from storage for it; absent where its I/O
    /// may not be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "READ/S"))]
    pub storage_read_bytes_per_second: Option<u64>,
    /// Bytes a second that it made go to storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "WRITE/S"))]
    pub storage_written_bytes_per_second: Option<u64>,
    /// By how much its resident set has grown, in bytes; below 0 if it has shrunk.
    pub rss_growth_bytes: i64,
}

/// What has changed in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Changes {
    /// The time since the look before, in microseconds.
    pub interval_us: u64,
    /// Processes that were not there then, in the order of the rows.
    pub started: Vec<Named>,
    /// Processes that are no longer there, in the order of the rows of then.
    pub ended: Vec<Named>,
}

/// A process by its name for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Named {
    /// Process ID.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// Its name.
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
}

/// A process or thread, so that a reused ID is not taken for it.
type Key = (u32, Option<u32>, u64);

fn key(row: &Row) -> Key {
    (row.pid, row.tid, row.start_ticks)
}

/// Says in `now` what has changed since `before`.
pub(super) fn compare(before: &Listing<Row, Summary>, now: &mut Listing<Row, Summary>, elapsed: Duration) {
    let interval_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    let mut then: HashMap<Key, &Row> = before.rows.iter().map(|row| (key(row), row)).collect();
    let mut started = Vec::new();
    for row in &mut now.rows {
        match then.remove(&key(row)) {
            Some(earlier) => row.change = Some(change(earlier, row, interval_us)),
            None if row.tid.is_none() => started.push(named(row)),
            None => {}
        }
    }
    let is_gone = |row: &&Row| row.tid.is_none() && then.contains_key(&key(row));
    let ended = before.rows.iter().filter(is_gone).map(named).collect();
    now.summary.changes = Some(Changes { interval_us, started, ended });
}

fn named(row: &Row) -> Named {
    Named { pid: row.pid, start_ticks: row.start_ticks, name: row.name.clone() }
}

fn change(before: &Row, now: &Row, interval_us: u64) -> Change {
    let cpu_us = |row: &Row| row.cpu_user_us.saturating_add(row.cpu_system_us);
    // The product of two times need not fit into 64 bits.
    let per = |unit: u64, used: u64| {
        u64::try_from(u128::from(used) * u128::from(unit) / u128::from(interval_us)).unwrap_or(u64::MAX)
    };
    let io = before.io.zip(now.io);
    let rate = |of: fn(&super::Io) -> u64| io.map(|(then, now)| per(1_000_000, of(&now).saturating_sub(of(&then))));
    Change {
        cpu_permille: per(1000, cpu_us(now).saturating_sub(cpu_us(before))),
        storage_read_bytes_per_second: rate(|io| io.storage_read_bytes),
        storage_written_bytes_per_second: rate(|io| io.storage_written_bytes),
        rss_growth_bytes: now.rss_bytes.cast_signed().wrapping_sub(before.rss_bytes.cast_signed()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Io, plain};
    use super::*;

    fn listing(rows: Vec<Row>) -> Listing<Row, Summary> {
        Listing { rows, summary: Summary::default() }
    }

    #[test]
    fn what_was_used_is_told_by_the_time_between() {
        let read = |bytes| Some(Io { storage_read_bytes: bytes, ..Io::default() });
        let before = listing(vec![Row { cpu_user_us: 40_000, rss_bytes: 8192, io: read(100), ..plain(7, 1) }]);
        let row = Row { cpu_user_us: 90_000, cpu_system_us: 50_000, rss_bytes: 4096, io: read(600), ..plain(7, 1) };
        let mut now = listing(vec![row]);
        compare(&before, &mut now, Duration::from_millis(200));
        let change = now.rows[0].change.expect("it was there before");
        assert_eq!((change.cpu_permille, change.rss_growth_bytes), (500, -4096));
        assert_eq!(change.storage_read_bytes_per_second, Some(2500));
        assert_eq!(change.storage_written_bytes_per_second, Some(0));
        assert_eq!(now.summary.changes.map(|changes| changes.interval_us), Some(200_000));
    }

    #[test]
    fn a_reused_pid_is_one_that_ended_and_one_that_started() {
        let before = listing(vec![plain(1, 0), plain(7, 1), Row { tid: Some(8), ..plain(7, 1) }]);
        let mut now = listing(vec![plain(1, 0), Row { start_ticks: 9, ..plain(7, 1) }]);
        compare(&before, &mut now, Duration::ZERO);
        let changes = now.summary.changes.expect("compared");
        let shape = |list: &[Named]| list.iter().map(|one| (one.pid, one.start_ticks)).collect::<Vec<_>>();
        assert_eq!((shape(&changes.started), shape(&changes.ended)), (vec![(7, 9)], vec![(7, 0)]));
        assert!(now.rows[0].change.is_some() && now.rows[1].change.is_none());
    }
}
