//! Who looks, until when, how much, and what may be shown.
//!
//! A [`Session`] stands between every collector and the world: before the system
//! crate touches anything it asks [`Session::permit`], and after it tells what it
//! cost. Whoever wants to add a limit, a policy or an audit trail adds it here;
//! no collector knows of it.
//!
//! This crate does no I/O and reads no clock: the time is handed in.

pub mod audit;
mod identity;
mod ledger;
mod limits;
pub mod redact;
mod totals;

pub use identity::{Identity, IdentityError};
pub use ledger::{Access, Accessed, Entry, Ledger, Spent};
pub use limits::{LEAST_OUT, LimitError, Limits, Refusal, Wanted};
pub use totals::{Taken, Totals};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use agent_model::{RedactionLevel, SessionInfo};
use redact::Redactor;

/// What the agent has taken, as far as it is measured: [`Session::permit`] is given it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The time on the clock that only goes on, in microseconds.
    pub now_us: u64,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
}

/// What one step of a larger command may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// When it ends, on the clock of [`Usage::now_us`].
    pub deadline_us: u64,
    /// Bytes that it may read.
    pub bytes: u64,
    /// How often it may hold a thread.
    pub stops: u64,
}

/// One debug session: identity, limits, and what was done in it.
#[derive(Debug)]
pub struct Session {
    info: SessionInfo,
    limits: Limits,
    began_us: u64,
    allowance: Option<Allowance>,
    ledger: Arc<Ledger>,
    redactor: Arc<Redactor>,
    /// The memory at which nothing more is looked at, in bytes.
    soft_memory_bytes: AtomicU64,
    /// A bit for each of [`Refusal::ALL`] that was reached.
    reached: AtomicU8,
    /// Set where the session is over before its time.
    over: Arc<AtomicBool>,
}

impl Session {
    /// Opens a session at `began_us`, on the clock that [`Session::permit`] is given.
    /// `keep_entries` keeps every access by name, for the access log; the counts are
    /// kept in any case.
    pub fn open(identity: Identity, limits: Limits, began_us: u64, keep_entries: bool) -> Self {
        let (ledger, reached) = (Arc::new(Ledger::new(keep_entries)), AtomicU8::new(0));
        let redactor = Arc::new(Redactor::new(RedactionLevel::Default, [0; 32]));
        let soft_memory_bytes = AtomicU64::new(limits.soft_rss_bytes());
        let info = identity.into_info();
        let over = Arc::default();
        Self { info, limits, began_us, allowance: None, ledger, redactor, soft_memory_bytes, reached, over }
    }

    /// A step of this session: it has the same identity and limits, ends no later, may do no more than `allowance`, and
    /// has counts of its own beside those of this session, which go on.
    pub fn step(&self, allowance: Allowance) -> Self {
        let wall_us = self.limits.wall_us.min(allowance.deadline_us.saturating_sub(self.began_us));
        Self {
            info: self.info.clone(),
            limits: Limits { wall_us, ..self.limits },
            began_us: self.began_us,
            allowance: Some(allowance),
            ledger: Arc::new(Ledger::below(Arc::clone(&self.ledger))),
            redactor: Arc::new(self.redactor.another()),
            soft_memory_bytes: AtomicU64::new(self.soft_memory_bytes.load(Relaxed)),
            reached: AtomicU8::new(0),
            over: Arc::clone(&self.over),
        }
    }

    /// The same session, that is over at the latest when `over` is set.
    #[must_use]
    pub fn ending(mut self, over: Arc<AtomicBool>) -> Self {
        self.over = over;
        self
    }

    /// The same session, that shows what `redactor` lets it.
    #[must_use]
    pub fn redacting(mut self, redactor: Redactor) -> Self {
        self.redactor = Arc::new(redactor);
        self
    }

    /// What may be shown.
    pub fn redactor(&self) -> &Arc<Redactor> {
        &self.redactor
    }

    /// As an envelope carries it.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// How much it may take.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Lowers the limit of memory to `rss_bytes`: there is no more left around us.
    pub fn lower_memory(&self, rss_bytes: u64) {
        let lowered = Limits { rss_bytes, ..self.limits };
        self.soft_memory_bytes.fetch_min(lowered.soft_rss_bytes(), Relaxed);
    }

    /// When it began.
    pub fn began_us(&self) -> u64 {
        self.began_us
    }

    /// Asks whether `path` may be touched now, and records that it was.
    ///
    /// # Errors
    ///
    /// When the session does not allow it: then it must not be done.
    pub fn permit(&self, access: Access, path: &dyn std::fmt::Display, usage: Usage) -> Result<(), Refusal> {
        if let Some(refusal) = self.refusal(usage) {
            return Err(refusal);
        }
        if access == Access::Stop {
            if self.has_reached(Refusal::Stop) {
                return Err(Refusal::Stop);
            }
            if self.ledger.spent().stopped_us >= self.limits.stops_us {
                return Err(self.reach(Refusal::Stops));
            }
        }
        if let Some(allowance) = self.allowance {
            let spent = self.ledger.spent();
            if spent.bytes >= allowance.bytes {
                return Err(self.reach(Refusal::Budget));
            }
            if access == Access::Stop && spent.stops >= allowance.stops {
                return Err(self.reach(Refusal::Budget));
            }
        }
        self.ledger.record(access, path, &self.redactor);
        Ok(())
    }

    /// Why nothing more may be done; `None` while it may.
    pub fn refusal(&self, usage: Usage) -> Option<Refusal> {
        if self.is_over(usage.now_us) {
            return Some(self.reach(Refusal::Deadline));
        }
        if self.has_reached(Refusal::Cpu) {
            return Some(Refusal::Cpu);
        }
        // It stays reached: what was seen needs the rest.
        if usage.memory_bytes >= self.soft_memory_bytes.load(Relaxed) || self.has_reached(Refusal::Memory) {
            return Some(self.reach(Refusal::Memory));
        }
        None
    }

    /// True when the time of this command is over.
    pub fn is_over(&self, now_us: u64) -> bool {
        now_us.saturating_sub(self.began_us) >= self.limits.wall_us || self.over.load(Relaxed)
    }

    /// True, and noted as reached, when the time of this command is over by `then_us`: for
    /// who keeps some of it to tell what was seen.
    pub fn ends_by(&self, then_us: u64) -> bool {
        let is_over = self.is_over(then_us);
        if is_over {
            self.reach(Refusal::Deadline);
        }
        is_over
    }

    /// Notes that a limit was reached, and returns it.
    pub fn reach(&self, refusal: Refusal) -> Refusal {
        self.reached.fetch_or(1 << refusal as u8, Relaxed);
        refusal
    }

    fn has_reached(&self, refusal: Refusal) -> bool {
        self.reached.load(Relaxed) & (1 << refusal as u8) != 0
    }

    /// The limits that were reached so far.
    pub fn reached(&self) -> impl Iterator<Item = Refusal> {
        Refusal::ALL.into_iter().filter(|refusal| self.has_reached(*refusal))
    }

    /// What was done so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The same, for whoever needs it when the session is over.
    pub fn share_ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(limits: &str) -> Session {
        let limits = Limits::default().with(limits.parse().expect("limits"));
        Session::open(Identity::new("s").expect("an ID"), limits, 1_000, false)
    }

    fn at(now_us: u64, memory_bytes: u64) -> Usage {
        Usage { now_us, memory_bytes }
    }

    #[test]
    fn nothing_is_permitted_after_the_deadline() {
        let session = session("wall=1ms");
        assert_eq!(session.permit(Access::Open, &"f", at(1_999, 0)), Ok(()));
        assert_eq!(session.permit(Access::Open, &"f", at(2_000, 0)), Err(Refusal::Deadline));
        assert_eq!(session.reached().collect::<Vec<_>>(), [Refusal::Deadline]);
        assert_eq!(session.ledger().spent().opened, 1);
    }

    #[test]
    fn memory_that_was_reached_once_is_reached_for_good() {
        let session = session("rss=8M");
        assert_eq!(session.permit(Access::Open, &"f", at(1_000, 6 << 20)), Err(Refusal::Memory));
        assert_eq!(session.permit(Access::Open, &"f", at(1_000, 0)), Err(Refusal::Memory));
    }

    #[test]
    fn memory_is_no_more_than_is_left() {
        let session = session("rss=64M");
        session.lower_memory(16 << 20);
        assert_eq!(session.permit(Access::Open, &"f", at(1_000, 11 << 20)), Ok(()));
        session.lower_memory(32 << 20);
        assert_eq!(session.permit(Access::Open, &"f", at(1_000, 12 << 20)), Err(Refusal::Memory));
    }

    #[test]
    fn stops_end_with_their_time_and_the_rest_goes_on() {
        let session = session("stop=1ms/2ms");
        assert_eq!(session.permit(Access::Stop, &"t", at(1_000, 0)), Ok(()));
        session.ledger().stopped(2_000, false);
        assert_eq!(session.permit(Access::Stop, &"t", at(1_000, 0)), Err(Refusal::Stops));
        assert_eq!(session.permit(Access::Open, &"f", at(1_000, 0)), Ok(()));
        let other = self::session("stop=1ms/2ms");
        other.reach(Refusal::Stop);
        assert_eq!(other.permit(Access::Stop, &"t", at(1_000, 0)), Err(Refusal::Stop));
    }
}
