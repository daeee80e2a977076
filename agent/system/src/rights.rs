//! What the agent is and may do: its IDs and capabilities, and raising them.
//!
//! The image gives the binary every capability as permitted and none as
//! effective; the kernel cuts that to what the container was granted. A command
//! then raises what it needs, and nothing else.

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::gate::Subject;
use crate::parse::{Ids, Status};
use crate::{Capabilities, Capability, Failure, confine, parse};

/// The agent's own IDs and capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// User IDs.
    pub uid: Ids,
    /// Group IDs.
    pub gid: Ids,
    /// Effective capabilities.
    pub effective: Capabilities,
    /// Permitted capabilities.
    pub permitted: Capabilities,
    /// The bounding set when the agent was started, which is what the container was
    /// granted.
    pub bounding: Capabilities,
    /// Whether no_new_privs was set when the agent was started: file capabilities are void then.
    pub no_new_privs: bool,
    /// Seccomp mode when the agent was started: 0 none, 2 filter.
    pub seccomp: u8,
}

/// How the target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approach {
    /// As we are, with the capabilities that were raised.
    AsWeAre,
    /// With the target's user and group IDs taken on.
    AsTarget,
}

impl Rights {
    /// As the kernel has them now.
    ///
    /// # Errors
    ///
    /// When `/proc/self/status` cannot be read.
    pub fn now() -> Result<Self, Failure> {
        let fail = |cause: crate::Cause| Failure::new("/proc/self/status", cause);
        let text = crate::own::text("/proc/self/status")
            .map_err(|error| fail(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO).into()))?;
        let status = parse::status(&text).ok_or_else(|| fail(crate::Cause::Malformed("no Uid and Gid")))?;
        let mut rights = Self::from_status(&status);
        // These are about the container, and we have changed our own since.
        if let Some(before) = confine::before() {
            rights.bounding = before.bounding;
            rights.no_new_privs = before.no_new_privs;
            rights.seccomp = before.seccomp;
        }
        Ok(rights)
    }

    fn from_status(status: &Status) -> Self {
        Self {
            uid: status.uid,
            gid: status.gid,
            effective: status.effective,
            permitted: status.permitted,
            bounding: status.bounding,
            no_new_privs: status.no_new_privs.unwrap_or(false),
            seccomp: status.seccomp.unwrap_or(0),
        }
    }

    /// Of `wanted` those that are permitted. To read files of any owner the
    /// capability that only reads is enough, where it was granted; the runtimes'
    /// default set has only the one that also writes.
    pub fn least(&self, wanted: Capabilities) -> Capabilities {
        let granted = wanted.intersection(self.permitted);
        if granted.has(Capability::DAC_READ_SEARCH) {
            granted.without(Capability::DAC_OVERRIDE.only())
        } else {
            granted
        }
    }

    /// Makes effective those of `wanted` that are permitted, and drops all other
    /// capabilities from the effective set.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, which it does not for permitted ones.
    pub fn raise(&mut self, wanted: Capabilities) -> Result<(), Failure> {
        let effective = wanted.intersection(self.permitted);
        if effective == self.effective {
            return Ok(());
        }
        let set = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(effective.0),
            permitted: CapabilitySet::from_bits_retain(self.permitted.0),
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, set).map_err(|errno| Failure::new("capset", errno))?;
        self.effective = effective;
        Ok(())
    }

    /// Raises `wanted` for a look at `subject`, and takes on its IDs where these
    /// are the missing key and SETUID and SETGID are granted.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a step it should allow. The rights are then as
    /// before, or fewer.
    pub fn approach(&mut self, subject: &Subject, wanted: Capabilities) -> Result<Approach, Failure> {
        let keys: Capabilities = [Capability::SETUID, Capability::SETGID].into_iter().collect();
        let same = subject.has_ids_of(self);
        // Without SYS_PTRACE the kernel asks that we hold what the target holds.
        let as_much = subject.permitted.intersection(self.permitted);
        if self.permitted.has(Capability::SYS_PTRACE) || (same && self.permitted.0 == 0) {
            self.raise(wanted)?;
            return Ok(Approach::AsWeAre);
        }
        if same || !self.permitted.holds(keys) {
            self.raise(wanted.union(as_much))?;
            return Ok(Approach::AsWeAre);
        }
        self.raise(keys)?;
        become_ids(subject).map_err(|errno| Failure::new("setresuid", errno))?;
        *self = Self::now()?;
        self.raise(wanted.union(as_much).without(keys.without(subject.permitted)))?;
        Ok(Approach::AsTarget)
    }
}

impl Rights {
    /// How an earlier run of this process has reached its target.
    pub(crate) fn approached(&self) -> Approach {
        let has_changed = confine::before().is_some_and(|before| before.uid != self.uid || before.gid != self.gid);
        if has_changed { Approach::AsTarget } else { Approach::AsWeAre }
    }
}

/// Takes on the real IDs of `subject`, all three of each kind, with the permitted
/// capabilities kept (PR_SET_KEEPCAPS).
fn become_ids(subject: &Subject) -> rustix::io::Result<()> {
    rustix::thread::set_keep_capabilities(true)?;
    let (uid, gid) = (Uid::from_raw(subject.uid.effective), Gid::from_raw(subject.gid.effective));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)
}
