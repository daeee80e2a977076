//! Letting time go by between two looks.

use std::time::Duration;

use agent_session::Refusal;

use crate::{Cause, Failure, Run, clock, stop};

impl Run {
    /// Waits for `time`.
    ///
    /// # Errors
    ///
    /// When the session would be over by then: it returns at once, so that there is
    /// time left to tell what was seen. And in a recorded tree, where no time goes by.
    pub fn wait(&self, time: Duration) -> Result<(), Failure> {
        let fail = |cause: Cause| Failure::new("nanosleep", cause);
        if !self.is_live() {
            return Err(fail(Cause::Unsupported("in a recorded tree no time goes by")));
        }
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if self.session().is_over(clock::boot_us().saturating_add(time_us)) {
            return Err(fail(self.session().reach(Refusal::Deadline).into()));
        }
        stop::sleep(time);
        Ok(())
    }
}
