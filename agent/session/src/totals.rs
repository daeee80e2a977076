//! What all commands of a session take together.
//!
//! A session that is held keeps the sums of what its commands have taken, and gives each the rest.

use crate::limits::LEAST_OUT;
use crate::{Limits, Refusal, Wanted};

/// What commands have taken, or may take in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// The time that they ran, each counted by itself, in microseconds.
    pub wall_us: u64,
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// What they wrote, in bytes.
    pub out_bytes: u64,
    /// How long they held threads of the target, in microseconds.
    pub stopped_us: u64,
}

/// The sums of a session, and how far they may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// What may be taken in all; [`u64::MAX`] is without end.
    pub most: Taken,
    /// What was taken so far.
    pub taken: Taken,
}

/// So many times what one command writes all of a session may write, where nobody says how much.
const COMMANDS: u64 = 8;

/// Of the time of a session threads may be held for a part of so many, where nobody says for how long.
const STOPPED_PART: u64 = 50;

impl Totals {
    /// Those of a session of `ttl_us` whose commands have `limits`, which come from what was `wanted`.
    pub fn new(limits: &Limits, wanted: Wanted, ttl_us: u64) -> Self {
        let share_us = u128::from(ttl_us) * u128::from(limits.cpu_percent) / 100;
        let most = Taken {
            wall_us: wanted.wall_us.unwrap_or(u64::MAX),
            cpu_us: wanted.cpu_us.unwrap_or(u64::try_from(share_us).unwrap_or(u64::MAX)),
            out_bytes: wanted.out_bytes.unwrap_or(limits.out_bytes.saturating_mul(COMMANDS)),
            stopped_us: wanted.stops_us.unwrap_or(limits.stops_us.max(ttl_us / STOPPED_PART)),
        };
        Self { most, taken: Taken::default() }
    }

    /// Adds what a command has taken.
    pub fn add(&mut self, taken: Taken) {
        let Taken { wall_us, cpu_us, out_bytes, stopped_us } = &mut self.taken;
        *wall_us = wall_us.saturating_add(taken.wall_us);
        *cpu_us = cpu_us.saturating_add(taken.cpu_us);
        *out_bytes = out_bytes.saturating_add(taken.out_bytes);
        *stopped_us = stopped_us.saturating_add(taken.stopped_us);
    }

    /// `limits` of one command, with no more than is left for all.
    #[must_use]
    pub fn left(&self, limits: Limits) -> Limits {
        Limits {
            wall_us: limits.wall_us.min(self.most.wall_us.saturating_sub(self.taken.wall_us)),
            cpu_us: limits.cpu_us.min(self.most.cpu_us.saturating_sub(self.taken.cpu_us)),
            out_bytes: limits.out_bytes.min(self.most.out_bytes.saturating_sub(self.taken.out_bytes)),
            stops_us: limits.stops_us.min(self.most.stopped_us.saturating_sub(self.taken.stopped_us)),
            ..limits
        }
    }

    /// The limit that leaves nothing for another command. Without stops much can still be seen, so these are none.
    pub fn used_up(&self) -> Option<Refusal> {
        let Taken { wall_us, cpu_us, out_bytes, .. } = self.taken;
        if wall_us >= self.most.wall_us {
            return Some(Refusal::Deadline);
        }
        if cpu_us >= self.most.cpu_us {
            return Some(Refusal::Cpu);
        }
        (self.most.out_bytes.saturating_sub(out_bytes) < LEAST_OUT).then_some(Refusal::Output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(wanted: &str) -> (Limits, Totals) {
        let wanted: Wanted = wanted.parse().expect("limits");
        let limits = Limits::default().with(wanted);
        (limits, Totals::new(&limits, wanted, 900_000_000))
    }

    #[test]
    fn what_nobody_limits_is_limited_by_the_time_of_the_session() {
        let (_, totals) = totals("");
        let most = Taken { wall_us: u64::MAX, cpu_us: 450_000_000, out_bytes: 8 * (64 << 20), stopped_us: 18_000_000 };
        assert_eq!(totals.most, most);
        assert_eq!(totals.used_up(), None);
    }

    #[test]
    fn what_one_takes_the_next_has_not() {
        let (limits, mut totals) = totals("wall=10s,cpu=50%/2s,out=1M,stop=10ms/1s");
        totals.add(Taken { wall_us: 4_000_000, cpu_us: 500_000, out_bytes: 1000 << 10, stopped_us: 1_000_000 });
        let left = totals.left(limits);
        assert_eq!((left.wall_us, left.cpu_us, left.out_bytes), (6_000_000, 1_500_000, 24 << 10));
        assert_eq!((left.stops_us, left.stop_us, left.rss_bytes), (0, 10_000, 128 << 20));
        // There are no more stops, and all else goes on.
        assert_eq!(totals.used_up(), None);
    }

    #[test]
    fn what_is_used_up_is_named() {
        let after = |taken| {
            let (_, mut totals) = totals("wall=10s,cpu=50%/2s,out=1M");
            totals.add(taken);
            totals.used_up()
        };
        let none = Taken::default();
        assert_eq!(after(Taken { wall_us: 10_000_000, ..none }), Some(Refusal::Deadline));
        assert_eq!(after(Taken { cpu_us: 2_000_001, ..none }), Some(Refusal::Cpu));
        // An envelope would have no room.
        assert_eq!(after(Taken { out_bytes: (1 << 20) - 1, ..none }), Some(Refusal::Output));
        assert_eq!(after(Taken { out_bytes: u64::MAX, ..none }), Some(Refusal::Output));
    }
}
