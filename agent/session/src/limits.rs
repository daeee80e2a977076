//! How much a session may take: plain values, and what follows from them.
//!
//! An ephemeral container has no limits of its own and shares those of the pod, so the
//! agent limits itself. What is measured is handed in.

use std::fmt;
use std::str::FromStr;

use agent_model::Reason;
use serde::{Deserialize, Serialize};

/// How much a session may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long it may last in all, in microseconds.
    pub wall_us: u64,
    /// CPU time, in percent of one core: above it the agent waits. What it may use in
    /// [`AHEAD_US`] it may use at once, so that a short command is not held up.
    pub cpu_percent: u32,
    /// CPU time in all, in microseconds: thereafter nothing more is looked at.
    pub cpu_us: u64,
    /// Its own memory, in bytes. At three quarters of it nothing more is looked at, so that
    /// there is room to tell what was seen; at all of it the agent ends.
    pub rss_bytes: u64,
    /// What it writes, in bytes.
    pub out_bytes: u64,
    /// How long one thread of the target may be held, in microseconds.
    pub stop_us: u64,
    /// How long all threads together may be held, in microseconds.
    pub stops_us: u64,
    /// How many commands may run at once.
    pub commands: u32,
    /// What a hold keeps in memory where no file can be written, in bytes.
    pub kept_bytes: u64,
}

/// The time whose share of the processor may be used ahead, in microseconds.
const AHEAD_US: u64 = 2_000_000;

impl Default for Limits {
    /// What every command gets by and large without noticing them.
    fn default() -> Self {
        Self {
            wall_us: u64::MAX,
            cpu_percent: 50,
            cpu_us: u64::MAX,
            rss_bytes: 128 << 20,
            out_bytes: 64 << 20,
            stop_us: 250_000,
            stops_us: 2_000_000,
            commands: 8,
            kept_bytes: 64 << 20,
        }
    }
}

/// Limits that were asked for, as `wall=60s,cpu=50%/30s,rss=64M,out=64M,stop=50ms/500ms,commands=4,kept=64M`;
/// what is left out stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub(crate) wall_us: Option<u64>,
    pub(crate) cpu_percent: Option<u32>,
    pub(crate) cpu_us: Option<u64>,
    rss_bytes: Option<u64>,
    pub(crate) out_bytes: Option<u64>,
    stop_us: Option<u64>,
    pub(crate) stops_us: Option<u64>,
    commands: Option<u32>,
    kept_bytes: Option<u64>,
}

/// The least memory that the agent does anything with.
const LEAST_RSS: u64 = 8 << 20;

/// The least that it writes: an envelope without its data.
pub const LEAST_OUT: u64 = 16 << 10;

/// Why limits were not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// It is none of the names.
    #[error("there is no limit {0:?}: wall=60s, cpu=50%/30s, rss=64M, out=64M, stop=50ms/500ms, commands=4, kept=64M")]
    Name(String),
    /// Its value is not as it should be.
    #[error("limit {name}: {words}")]
    Value {
        /// Which.
        name: &'static str,
        /// What it should be.
        words: &'static str,
    },
}

impl FromStr for Wanted {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let mut wanted = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| LimitError::Name(part.to_owned()))?;
            let fail = |name, words| LimitError::Value { name, words };
            match name {
                "wall" => {
                    let words = "a time such as 60s or 15m";
                    wanted.wall_us = Some(time(value).ok_or_else(|| fail("wall", words))?);
                }
                "cpu" => {
                    let words =
                        "percent of one core, 1% to 6400%, and, behind a slash, the time in all, such as 50%/30s";
                    let (share, all) = value.split_once('/').map_or((value, None), |(share, all)| (share, Some(all)));
                    let percent = share.strip_suffix('%').unwrap_or(share).parse().ok();
                    wanted.cpu_percent =
                        Some(percent.filter(|p| (1..=6400).contains(p)).ok_or_else(|| fail("cpu", words))?);
                    wanted.cpu_us = all.map(|all| time(all).ok_or_else(|| fail("cpu", words))).transpose()?;
                }
                "rss" => {
                    let words = "bytes such as 64M, at least 8M";
                    wanted.rss_bytes =
                        Some(bytes(value).filter(|b| *b >= LEAST_RSS).ok_or_else(|| fail("rss", words))?);
                }
                "out" => {
                    let words = "bytes such as 64M, at least 16K";
                    wanted.out_bytes =
                        Some(bytes(value).filter(|b| *b >= LEAST_OUT).ok_or_else(|| fail("out", words))?);
                }
                "kept" => {
                    let words = "bytes such as 64M";
                    wanted.kept_bytes = Some(bytes(value).ok_or_else(|| fail("kept", words))?);
                }
                "stop" => {
                    let words = "the time of one stop and, behind a slash, of all, such as 50ms/500ms";
                    let (one, all) = value.split_once('/').map_or((value, None), |(one, all)| (one, Some(all)));
                    wanted.stop_us = Some(time(one).ok_or_else(|| fail("stop", words))?);
                    wanted.stops_us = all.map(|all| time(all).ok_or_else(|| fail("stop", words))).transpose()?;
                }
                "commands" => {
                    let count = value.parse().ok().filter(|count| *count > 0);
                    wanted.commands = Some(count.ok_or_else(|| fail("commands", "a number of 1 or more"))?);
                }
                other => return Err(LimitError::Name(other.to_owned())),
            }
        }
        Ok(wanted)
    }
}

/// A time such as `50ms`, in microseconds: a number and `us`, `ms`, `s`, `m` or `h`.
fn time(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let unit = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|time| *time > 0)
}

/// Bytes such as `64M`: a number and nothing, `K`, `M` or `G` of 1024.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Limits {
    /// These, with what is `wanted` in their place.
    #[must_use]
    pub fn with(self, wanted: Wanted) -> Self {
        Self {
            wall_us: wanted.wall_us.unwrap_or(self.wall_us),
            cpu_percent: wanted.cpu_percent.unwrap_or(self.cpu_percent),
            cpu_us: wanted.cpu_us.unwrap_or(self.cpu_us),
            rss_bytes: wanted.rss_bytes.unwrap_or(self.rss_bytes),
            out_bytes: wanted.out_bytes.unwrap_or(self.out_bytes),
            stop_us: wanted.stop_us.unwrap_or(self.stop_us),
            stops_us: wanted.stops_us.unwrap_or(self.stops_us),
            commands: wanted.commands.unwrap_or(self.commands),
            kept_bytes: wanted.kept_bytes.unwrap_or(self.kept_bytes),
        }
    }

    /// The tighter of both in everything: a command in a session, a step in a scenario.
    #[must_use]
    pub fn within(self, outer: Self) -> Self {
        Self {
            wall_us: self.wall_us.min(outer.wall_us),
            cpu_percent: self.cpu_percent.min(outer.cpu_percent),
            cpu_us: self.cpu_us.min(outer.cpu_us),
            rss_bytes: self.rss_bytes.min(outer.rss_bytes),
            out_bytes: self.out_bytes.min(outer.out_bytes),
            stop_us: self.stop_us.min(outer.stop_us),
            stops_us: self.stops_us.min(outer.stops_us),
            commands: self.commands.min(outer.commands),
            kept_bytes: self.kept_bytes.min(outer.kept_bytes),
        }
    }

    /// The memory at which nothing more is looked at, in bytes.
    pub fn soft_rss_bytes(&self) -> u64 {
        self.rss_bytes / 4 * 3
    }

    /// How long to wait now, in microseconds, so that `cpu_us` of CPU time in `elapsed_us` are
    /// no more than allowed; 0 where they are not.
    pub fn pause_us(&self, elapsed_us: u64, cpu_us: u64) -> u64 {
        let percent = u128::from(self.cpu_percent.max(1));
        let allowed_us = (u128::from(elapsed_us) + u128::from(AHEAD_US)) * percent / 100;
        let over = u128::from(cpu_us).saturating_sub(allowed_us);
        u64::try_from(over * 100 / percent).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Limits {
    /// As `--limit` takes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wall_us != u64::MAX {
            write!(f, "wall={}ms,", self.wall_us.div_ceil(1000))?;
        }
        let Self { cpu_percent, rss_bytes, out_bytes, stop_us, stops_us, commands, kept_bytes, .. } = self;
        write!(f, "cpu={cpu_percent}%")?;
        if self.cpu_us != u64::MAX {
            write!(f, "/{}us", self.cpu_us)?;
        }
        write!(
            f,
            ",rss={rss_bytes},out={out_bytes},stop={stop_us}us/{stops_us}us,commands={commands},kept={kept_bytes}"
        )
    }
}

/// Why the session refused an access, or what it wrote was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The time of this command is over.
    #[error("the time limit of this command was reached")]
    Deadline,
    /// As much CPU time was used as may be.
    #[error("the limit for the CPU time was reached")]
    Cpu,
    /// The agent has as much memory as it may.
    #[error("the agent's memory limit was reached")]
    Memory,
    /// A thread was held for as long as one may be.
    #[error("the limit for the time of one stop was reached")]
    Stop,
    /// Threads were held for as long as all together may be.
    #[error("the limit for the time of all stops was reached")]
    Stops,
    /// As much was written as may be.
    #[error("the limit for what may be written was reached")]
    Output,
    /// The bytes or stops that a scenario may take are used up.
    #[error("the budget of the scenario was used up")]
    Budget,
    /// As many commands run as may at once.
    #[error("the limit for commands at once was reached")]
    Commands,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Deadline, Self::Cpu, Self::Memory, Self::Stop, Self::Stops, Self::Output, Self::Budget, Self::Commands];

    /// The limit that was reached, by its name in `--limit`.
    pub fn limit(self) -> &'static str {
        match self {
            Self::Deadline => "wall",
            Self::Cpu => "cpu",
            Self::Memory => "rss",
            Self::Stop | Self::Stops => "stop",
            Self::Output => "out",
            Self::Budget => "budget",
            Self::Commands => "commands",
        }
    }

    /// The reason that a gap gives for it.
    pub fn reason(self) -> Reason {
        Reason::LimitReached
    }

    /// What a person can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Deadline => "give it more time with --timeout, or --limit wall=",
            Self::Cpu => "allow more CPU time with --limit cpu=SHARE/TIME, or ask for less",
            Self::Memory => "give it more memory with --limit rss=, or ask for less",
            Self::Stop | Self::Stops => "allow longer stops with --limit stop=ONE/ALL",
            Self::Output => "allow more with --limit out=, or ask for less",
            Self::Budget => "give the scenario a larger budget",
            Self::Commands => "wait until one has ended, or allow more with --limit commands=",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_written() {
        let wanted: Wanted =
            "wall=2m,cpu=5%/1s,rss=32M,out=1M,stop=50ms/1s,commands=3,kept=2M".parse().expect("limits");
        let limits = Limits::default().with(wanted);
        assert_eq!(
            limits,
            Limits {
                wall_us: 120_000_000,
                cpu_percent: 5,
                cpu_us: 1_000_000,
                rss_bytes: 32 << 20,
                out_bytes: 1 << 20,
                stop_us: 50_000,
                stops_us: 1_000_000,
                commands: 3,
                kept_bytes: 2 << 20
            }
        );
        assert_eq!(Limits::default().with(limits.to_string().parse().expect("limits")), limits);
        assert_eq!(Limits::default().with(Wanted::default()), Limits::default());
    }

    #[test]
    fn what_is_no_limit_is_refused_with_words() {
        for bad in [
            "x=1",
            "wall",
            "wall=",
            "wall=0s",
            "wall=5",
            "wall=-1s",
            "wall=1.5s",
            "cpu=0",
            "cpu=x%",
            "cpu=7000",
            "cpu=50%/",
            "cpu=50%/30",
            "rss=1K",
            "rss=64MB",
            "rss=-1",
            "rss=99999999999999999999",
            "out=1",
            "out=M",
            "stop=1",
            "stop=1ms/",
            "stop=1ms/2ms/3ms",
            "commands=0",
            "kept=x",
            "wall=99999999999999999999h",
        ] {
            let error = bad.parse::<Wanted>().expect_err(bad);
            assert!(error.to_string().contains("limit"), "{error}");
        }
    }

    #[test]
    fn the_tighter_limit_counts() {
        let tight: Wanted = "cpu=10%,out=1M".parse().expect("limits");
        let both = Limits::default().within(Limits::default().with(tight));
        assert_eq!((both.cpu_percent, both.out_bytes, both.rss_bytes), (10, 1 << 20, 128 << 20));
    }

    #[test]
    fn the_share_of_the_processor_is_kept_after_a_burst() {
        let limits = Limits::default();
        assert_eq!(limits.pause_us(0, 1_000_000), 0);
        assert_eq!(limits.pause_us(2_000_000, 2_000_000), 0);
        // 3 s of CPU time in 3 s: 0.5 s more than 1 s and half of the time.
        assert_eq!(limits.pause_us(3_000_000, 3_000_000), 1_000_000);
        // When it has waited for as long as that, it is within its share again.
        assert_eq!(limits.pause_us(4_000_000, 3_000_000), 0);
        assert_eq!(limits.pause_us(0, u64::MAX), u64::MAX);
    }
}
