//! Which gate denies a look at a process, and what would open it.
//!
//! The kernel says EACCES or EPERM and no more. What it checked is known, though
//! (ptrace(2), "Ptrace access mode checking"; proc(5)): the IDs of both sides,
//! capabilities, the dumpable flag, the user namespace, Yama, and the permission
//! bits of the file. All but the last three can be read, so the denial can be
//! explained.

use agent_model::{Gap, Need};

use crate::hidepid::REMEDY;
use crate::parse::{Ids, Status};
use crate::rights::Rights;
use crate::{Capabilities, Capability, Cause, Failure, Run};

/// The other side of an access check: a process that was denied to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Its user IDs.
    pub uid: Ids,
    /// Its group IDs.
    pub gid: Ids,
    /// Its permitted capabilities.
    pub permitted: Capabilities,
    /// Whether it is dumpable, as far as the owner of `/proc/PID` tells: a
    /// process that is not dumpable has its files owned by root.
    pub dumpable: Option<bool>,
    /// Whether it is in another user namespace than ours, where that can be told.
    pub foreign_user_namespace: Option<bool>,
}

/// The checks that stand before a kind of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Only the ptrace access check (`maps`, `exe`, `fdinfo`, kcmp(2)).
    Ptrace,
    /// The ptrace access check, and files that only the owner may open (`mem`,
    /// `fd`, `syscall`, `environ`, `io`).
    PtraceAndOwner,
    /// A capability, whoever the target is.
    Capability(Capability),
    /// Nothing but `hidepid`.
    HidePid,
}

impl Gate {
    /// The gate before a file of `/proc/PID`, by its name.
    pub fn of_file(path: &str) -> Self {
        let last = path.rsplit('/').next().unwrap_or(path);
        let owned = ["mem", "environ", "auxv", "io", "syscall", "personality", "pagemap", "stack"];
        if last == "stack" {
            Self::Capability(Capability::SYS_ADMIN)
        } else if owned.contains(&last) || path.contains("/fd/") || path.ends_with("/fd") {
            Self::PtraceAndOwner
        } else if ["stat", "status", "cmdline", "cgroup", "comm", "mountinfo", "limits", "statm"].contains(&last) {
            Self::HidePid
        } else {
            Self::Ptrace
        }
    }
}

/// Why a gate is shut, and what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which check said no: `uid`, `capability`, `dumpable`, `user_namespace`,
    /// `yama`, `seccomp`, `lsm`, `hidepid`. Where more than one may have, the first
    /// that a person would look at.
    pub gate: &'static str,
    /// Any one of these would do.
    pub needs: Vec<Need>,
    /// What a person can do.
    pub remedy: String,
}

impl Subject {
    /// What is known of the process that `status` is of.
    pub fn new(status: &Status, owner_uid: Option<u32>, foreign_user_namespace: Option<bool>) -> Self {
        let dumpable = match owner_uid {
            Some(owner) if owner == status.uid.effective && owner != 0 => Some(true),
            Some(0) if status.uid.effective != 0 => Some(false),
            // Root owns its files either way.
            _ => None,
        };
        Self { uid: status.uid, gid: status.gid, permitted: status.permitted, dumpable, foreign_user_namespace }
    }

    /// True when ptrace(2) takes our IDs for the target's: our file-system IDs
    /// against all three of its own.
    pub fn has_ids_of(&self, ours: &Rights) -> bool {
        self.uid.are_all(ours.uid.fs) && self.gid.are_all(ours.gid.fs)
    }

    /// Explains why `gate` is shut to `ours`; `None` when by all that can be read
    /// it should be open.
    pub fn explain(&self, gate: Gate, ours: &Rights) -> Option<Verdict> {
        match gate {
            Gate::Capability(capability) => without(capability, ours),
            Gate::HidePid => None,
            Gate::Ptrace => self.explain_ptrace(ours),
            Gate::PtraceAndOwner => self.explain_ptrace(ours).or_else(|| self.explain_owner(ours)),
        }
    }

    fn explain_ptrace(&self, ours: &Rights) -> Option<Verdict> {
        let ptrace = Need::Capability(Capability::SYS_PTRACE.name());
        if self.foreign_user_namespace == Some(true) {
            return Some(Verdict {
                gate: "user_namespace",
                needs: vec![Need::UserNamespace],
                remedy: "the target is in another user namespace: start the agent in its pod with --target".to_owned(),
            });
        }
        if ours.effective.has(Capability::SYS_PTRACE) {
            return None;
        }
        if self.dumpable == Some(false) {
            return Some(Verdict {
                gate: "dumpable",
                needs: vec![ptrace, Need::Dumpable],
                remedy: general().to_owned(),
            });
        }
        if !self.has_ids_of(ours) {
            return Some(Verdict {
                gate: "uid",
                needs: vec![Need::SameUid, ptrace],
                remedy: self.remedy_for_ids(ours),
            });
        }
        (!ours.effective.holds(self.permitted)).then(|| Verdict {
            gate: "capability",
            needs: vec![ptrace],
            remedy: general().to_owned(),
        })
    }

    fn explain_owner(&self, ours: &Rights) -> Option<Verdict> {
        let owner = if self.dumpable == Some(false) { 0 } else { self.uid.effective };
        let over = [Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
        if owner == ours.uid.fs || over.iter().any(|capability| ours.effective.has(*capability)) {
            return None;
        }
        let mut needs = vec![Need::SameUid];
        needs.extend(over.map(|capability| Need::Capability(capability.name())));
        Some(Verdict { gate: "uid", needs, remedy: self.remedy_for_ids(ours) })
    }

    /// The least flags that make the IDs no obstacle. The same uid needs no
    /// capability at all, so it also works where Pod Security is "restricted"; root
    /// as our uid does not.
    fn remedy_for_ids(&self, ours: &Rights) -> String {
        let (uid, gid) = (self.uid.effective, self.gid.effective);
        if uid == 0 || !self.uid.are_all(uid) || !self.gid.are_all(gid) || self.permitted.0 != 0 {
            return general().to_owned();
        }
        let profile = if ours.no_new_privs { "restricted" } else { "general" };
        let custom = format!("{{\"securityContext\":{{\"runAsUser\":{uid},\"runAsGroup\":{gid}}}}}");
        format!("kubectl debug --profile={profile} --custom=FILE, where FILE holds {custom}; or {}", general())
    }
}

fn general() -> &'static str {
    "kubectl debug --profile=general"
}

/// The least `kubectl debug` flags that grant `capability`.
pub fn capability_flags(capability: Capability) -> String {
    match capability {
        Capability::SYS_PTRACE => "--profile=general".to_owned(),
        Capability::NET_RAW | Capability::NET_ADMIN => "--profile=netadmin".to_owned(),
        other => {
            let short = other.name().trim_start_matches("CAP_");
            format!(
                "--profile=general --custom=FILE, where FILE holds \
                 {{\"securityContext\":{{\"capabilities\":{{\"add\":[\"{short}\"]}}}}}}; or --profile=sysadmin"
            )
        }
    }
}

/// The gap for `failure` at `at`, with what would have opened it.
pub(crate) fn gap(run: &Run, at: String, failure: &Failure) -> Gap {
    let mut gap = failure.gap(at);
    if let Some(verdict) = verdict(run, failure) {
        gap.needs = verdict.needs;
        gap.remedy = Some(verdict.remedy);
    }
    gap
}

/// Why `failure` was denied; `None` where it was no denial.
pub(crate) fn verdict(run: &Run, failure: &Failure) -> Option<Verdict> {
    if !failure.is_denied() || !run.is_live() {
        return None;
    }
    let ours = run.rights()?;
    let shown = failure.path.as_str();
    if shown == "ptrace" {
        // The access check has let us in: it is the system call that is refused.
        return Some(unseen(Gate::Ptrace, &ours));
    }
    let gate = match shown {
        "socket(AF_PACKET)" => Gate::Capability(Capability::NET_RAW),
        _ if matches!(failure.cause, Cause::Hidden) => Gate::HidePid,
        file => Gate::of_file(file),
    };
    let subject = failure.pid.and_then(|pid| run.subject(pid));
    let known = match (gate, subject) {
        (Gate::Capability(capability), _) => without(capability, &ours),
        (gate, Some(subject)) => subject.explain(gate, &ours),
        (_, None) => None,
    };
    Some(known.unwrap_or_else(|| unseen(gate, &ours)))
}

/// The verdict on `capability`, unless we have it.
fn without(capability: Capability, ours: &Rights) -> Option<Verdict> {
    (!ours.effective.has(capability)).then(|| Verdict {
        gate: "capability",
        needs: vec![Need::Capability(capability.name())],
        remedy: format!("kubectl debug {}", capability_flags(capability)),
    })
}

/// What is left when all that can be read says yes and the kernel says no.
fn unseen(gate: Gate, ours: &Rights) -> Verdict {
    if gate == Gate::HidePid {
        return Verdict { gate: "hidepid", needs: vec![Need::HidePid], remedy: REMEDY.to_owned() };
    }
    crate::own::note(agent_session::Access::Open, "/proc/sys/kernel/yama/ptrace_scope");
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let (gate, needs) = match scope.as_deref().map(str::trim) {
        Ok("1" | "2" | "3") => ("yama", vec![Need::YamaScope, Need::Lsm]),
        _ if ours.seccomp == 2 => ("seccomp", vec![Need::Seccomp, Need::Lsm]),
        _ => ("lsm", vec![Need::Lsm, Need::Dumpable]),
    };
    Verdict { gate, needs, remedy: general().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(id: u32) -> Ids {
        Ids { real: id, effective: id, saved: id, fs: id }
    }

    fn us(uid: u32, effective: u64) -> Rights {
        Rights {
            uid: ids(uid),
            gid: ids(uid),
            effective: Capabilities(effective),
            permitted: Capabilities(effective),
            bounding: Capabilities(effective),
            no_new_privs: false,
            seccomp: 0,
        }
    }

    fn them(uid: u32) -> Subject {
        Subject {
            uid: ids(uid),
            gid: ids(uid),
            permitted: Capabilities(0),
            dumpable: Some(true),
            foreign_user_namespace: Some(false),
        }
    }

    const PTRACE: u64 = 1 << 19;
    const DAC: u64 = 1 << 1;

    #[test]
    fn names_the_uid_and_the_capability() {
        let verdict = them(1000).explain(Gate::Ptrace, &us(65532, 0)).expect("shut");
        assert_eq!(verdict.needs, [Need::SameUid, Need::Capability("CAP_SYS_PTRACE")]);
        assert!(verdict.remedy.contains("\"runAsUser\":1000"), "{}", verdict.remedy);
    }

    #[test]
    fn root_as_a_target_asks_for_the_general_profile() {
        let verdict = them(0).explain(Gate::PtraceAndOwner, &us(65532, 0)).expect("shut");
        assert_eq!(verdict.remedy, "kubectl debug --profile=general");
    }

    #[test]
    fn sys_ptrace_alone_does_not_open_files_of_another_owner() {
        let verdict = them(1000).explain(Gate::PtraceAndOwner, &us(0, PTRACE)).expect("shut");
        assert!(verdict.needs.contains(&Need::Capability("CAP_DAC_OVERRIDE")));
        assert_eq!(them(1000).explain(Gate::Ptrace, &us(0, PTRACE)), None);
        assert_eq!(them(1000).explain(Gate::PtraceAndOwner, &us(0, PTRACE | DAC)), None);
    }

    #[test]
    fn a_target_with_capabilities_that_we_lack_is_shut_to_the_same_uid() {
        let mut target = them(1000);
        target.permitted = Capabilities(1 << 10);
        let verdict = target.explain(Gate::Ptrace, &us(1000, 0)).expect("shut");
        assert_eq!(verdict.needs, [Need::Capability("CAP_SYS_PTRACE")]);
        assert_eq!(target.explain(Gate::Ptrace, &us(1000, 1 << 10)), None);
    }

    #[test]
    fn an_undumpable_target_is_said_to_be_one() {
        let mut target = them(1000);
        target.dumpable = Some(false);
        assert!(target.explain(Gate::Ptrace, &us(1000, 0)).expect("shut").needs.contains(&Need::Dumpable));
    }

    #[test]
    fn files_have_the_gates_of_their_manual_page() {
        assert_eq!(Gate::of_file("/proc/1/fd/7"), Gate::PtraceAndOwner);
        assert_eq!(Gate::of_file("/proc/1/maps"), Gate::Ptrace);
        assert_eq!(Gate::of_file("/proc/1/task/3/syscall"), Gate::PtraceAndOwner);
        assert_eq!(Gate::of_file("/proc/1/task/3/stack"), Gate::Capability(Capability::SYS_ADMIN));
        assert_eq!(Gate::of_file("/proc/1/stat"), Gate::HidePid);
    }
}
