//! Looking again and again: what has changed since the look before.

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

/// The options of a collector that can be watched: it flattens them into its own
/// and hands them out in [`crate::Collector::watch`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args, Serialize, JsonSchema)]
pub struct Watch {
    /// Answer this many times, each time with what has changed since the look before
    #[arg(long = "watch", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[serde(rename = "watch", skip_serializing_if = "Option::is_none")]
    looks: Option<u32>,
    /// The time from one look of --watch to the next [default: 1s]
    #[arg(long = "interval", value_name = "TIME", value_parser = microseconds, requires = "looks")]
    #[serde(rename = "interval_us", skip_serializing_if = "Option::is_none")]
    interval_us: Option<u64>,
}

impl Watch {
    /// How many answers are wanted; `None` for one, with nothing to compare it to.
    /// Before the first there is a look that is not printed.
    pub fn looks(&self) -> Option<u32> {
        self.looks
    }

    /// The time from one look to the next.
    pub fn interval(&self) -> Duration {
        self.interval_us.map_or(Duration::from_secs(1), Duration::from_micros)
    }

    /// How long all of it takes.
    pub fn lasts(&self) -> Duration {
        self.interval().saturating_mul(self.looks.unwrap_or(0))
    }
}

/// A time such as `500ms`, in microseconds: for clap.
///
/// # Errors
///
/// When it is none, or nothing, or too long to be counted; in words.
pub fn microseconds(text: &str) -> Result<u64, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match u64::try_from(time.as_micros()) {
        Ok(0) => Err("it must be longer".to_owned()),
        Ok(time) => Ok(time),
        Err(_) => Err("it must be shorter".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_lasts_as_long_as_its_intervals() {
        let watch = Watch { looks: Some(3), interval_us: Some(200_000) };
        assert_eq!(watch.lasts(), Duration::from_millis(600));
        assert_eq!(Watch { looks: Some(2), interval_us: None }.lasts(), Duration::from_secs(2));
        assert_eq!(Watch::default().lasts(), Duration::ZERO);
    }

    #[test]
    fn an_interval_is_longer_than_nothing() {
        assert_eq!(microseconds("200ms"), Ok(200_000));
        assert!(microseconds("0s").is_err());
        assert!(microseconds("soon").is_err());
    }
}
