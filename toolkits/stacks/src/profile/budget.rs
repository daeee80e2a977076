//! How much a profile may cost, and when the next look may be.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// A share, in parts of a million; a person writes percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Percent(u64);

impl FromStr for Percent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "not a percentage between 0.01 and 100";
        let number: f64 = text.strip_suffix('%').unwrap_or(text).parse().map_err(|_| WRONG)?;
        if (0.01..=100.0).contains(&number) { Ok(Self((number * 10_000.0).round() as u64)) } else { Err(WRONG) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, below) = (self.0 / 10_000, self.0 % 10_000);
        match below {
            0 => write!(f, "{whole}%"),
            _ => write!(f, "{}%", format!("{whole}.{below:04}").trim_end_matches('0')),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9.]+%$"})
    }
}

/// An allowance that grows with time: a tenth of it is there at once, for the first
/// look at every thread, and all of it at the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    share: Percent,
    duration_us: u64,
}

impl Allowance {
    pub(super) fn new(share: Percent, duration_us: u64) -> Self {
        Self { share, duration_us }
    }

    /// How long after the start `spent_us` is allowed.
    pub(super) fn allowed_at_us(&self, spent_us: u64) -> u64 {
        // spent = share * (duration / 10 + time * 9 / 10)
        let needed = spent_us.saturating_mul(1_000_000) / self.share.0.max(1);
        needed.saturating_sub(self.duration_us / 10).saturating_mul(10) / 9
    }
}

/// When the look number `tick` is, in microseconds after the start: in the middle
/// half of its turn, at a place that never repeats (multiples of the golden ratio).
pub(super) fn time_of(tick: u64, period_us: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let fraction = ((tick.wrapping_mul(GOLDEN) >> 32) * (period_us / 2)) >> 32;
    tick.saturating_mul(period_us).saturating_add(period_us / 4 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_read_and_shown() {
        for (text, shown) in [("1", "1%"), ("0.5", "0.5%"), ("2.25%", "2.25%"), ("100", "100%")] {
            assert_eq!(text.parse::<Percent>().expect("a share").to_string(), shown);
        }
        for text in ["0", "101", "x", "-1", "nan", ""] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_whole_allowance_is_there_at_the_end_and_a_tenth_at_once() {
        let allowance = Allowance::new("1".parse().expect("a share"), 10_000_000);
        assert_eq!(allowance.allowed_at_us(10_000), 0);
        assert_eq!(allowance.allowed_at_us(100_000), 10_000_000);
        assert!(allowance.allowed_at_us(55_000) == 5_000_000);
    }

    #[test]
    fn looks_are_uneven_and_stay_in_their_turn() {
        let period = 20_408;
        for tick in 0..1000 {
            let at = time_of(tick, period) - tick * period;
            assert!((period / 4..=period * 3 / 4).contains(&at), "{at}");
        }
        let mean: u64 = (0..1000).map(|tick| time_of(tick, period) - tick * period).sum::<u64>() / 1000;
        assert!(mean.abs_diff(period / 2) < period / 50, "{mean}");
    }
}
