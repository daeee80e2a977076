//! Times as text.

/// A time such as `10s` or `1m30s`, in microseconds.
pub(crate) fn microseconds(text: &str) -> Option<u64> {
    let time = humantime::parse_duration(text).ok()?;
    u64::try_from(time.as_micros()).ok()
}

/// A moment of RFC 3339 in microseconds since 1970.
pub(crate) fn rfc3339(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(time.as_micros()).ok()
}
