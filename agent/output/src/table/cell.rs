//! Values as text, short enough for a person.

use serde_json::Value;
use unicode_width::UnicodeWidthChar;

/// A value as one cell: sizes and times in the units that its name says.
pub(super) fn cell(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if key.ends_with("_bytes") => size(bytes),
            Some(microseconds) if key.ends_with("_us") => duration(microseconds),
            _ => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(|one| cell("", one)).collect::<Vec<_>>().join(" "),
        Value::Object(members) => {
            members.iter().map(|(key, one)| format!("{key}={}", cell(key, one))).collect::<Vec<_>>().join(" ")
        }
    }
}

/// Bytes with a binary unit: three digits are enough for a person.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths < 100 {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{}{}", tenths / 10, UNITS[unit])
    }
}

pub(super) fn duration(microseconds: u64) -> String {
    match microseconds {
        0..1_000 => format!("{microseconds}us"),
        1_000..1_000_000 => format!("{}ms", microseconds / 1000),
        1_000_000..60_000_000 => format!("{}.{:02}s", microseconds / 1_000_000, microseconds / 10_000 % 100),
        _ => {
            let seconds = microseconds / 1_000_000;
            format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
        }
    }
}

pub(super) fn clip(line: &str, width: Option<usize>) -> &str {
    let Some(width) = width else { return line };
    let mut used = 0;
    for (at, c) in line.char_indices() {
        used += c.width().unwrap_or(0);
        if used > width {
            return &line[..at];
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(
            [size(0), size(1023), size(1024), size(10 << 20), size(1536 << 20)],
            ["0", "1023", "1.0K", "10M", "1.5G"]
        );
        assert_eq!([size(u64::MAX / 16), size(u64::MAX)], ["1023P", "15E"]);
        assert_eq!(
            [duration(7), duration(81_000), duration(2_340_000), duration(7_384_000_000)],
            ["7us", "81ms", "2.34s", "2:03:04"]
        );
    }

    #[test]
    fn lines_are_cut_between_characters() {
        assert_eq!(clip("aé│日本", Some(5)), "aé│日");
        assert_eq!(clip("abc", None), "abc");
    }
}
