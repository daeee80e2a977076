//! Clocks: what time it is, and what the agent has used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime};

fn microseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1000
}

/// Time since boot, suspended time included, in microseconds (CLOCK_BOOTTIME).
pub fn boot_us() -> u64 {
    microseconds(clock_gettime(ClockId::Boottime))
}

/// Wall-clock time since 1970, in microseconds (CLOCK_REALTIME).
pub fn wall_us() -> u64 {
    microseconds(clock_gettime(ClockId::Realtime))
}

/// CPU time of this process, in microseconds.
pub fn cpu_us() -> u64 {
    microseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// Microseconds since 1970 as RFC 3339 in UTC, with microseconds.
pub fn rfc3339(microseconds: u64) -> String {
    let time: SystemTime = UNIX_EPOCH + Duration::from_micros(microseconds);
    humantime::format_rfc3339_micros(time).to_string()
}

/// Seconds since 1970 as RFC 3339 in UTC.
pub fn rfc3339_seconds(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))).to_string()
}

/// The end of the year 9999, after which RFC 3339 has no dates.
const LAST_SECOND: u64 = 253_402_300_799;
