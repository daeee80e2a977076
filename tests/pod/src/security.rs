//! What a security context comes to: `kubectl debug --profile`, merged with the pod as the kubelet does it.

use std::str::FromStr;

use crate::caps::CapSet;
use crate::debug::DebugSpec;
use crate::error::PodError;
use crate::pod::PodSpec;

/// The user and group that a container's process starts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User ID, in the host's user namespace (the pod has none of its own).
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
}

impl User {
    /// `UID:GID`.
    pub fn new(uid: u32, gid: u32) -> Self {
        Self { uid, gid }
    }
}

impl FromStr for User {
    type Err = PodError;

    /// The `User` of an image's config. Without an `/etc/passwd` a bare UID means group 0.
    fn from_str(text: &str) -> Result<Self, PodError> {
        let id = |part: &str| if part == "root" { Ok(0) } else { part.parse() };
        let (uid, gid) = match text {
            "" => ("0", "0"),
            other => other.split_once(':').unwrap_or((other, "0")),
        };
        match (id(uid), id(gid)) {
            (Ok(uid), Ok(gid)) => Ok(Self { uid, gid }),
            _ => Err(PodError::User(text.to_owned())),
        }
    }
}

/// `kubectl debug --profile`. What each sets: `pkg/cmd/debug/profiles.go` of kubectl 1.32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Sets nothing: the runtime's default capabilities.
    Legacy,
    /// As legacy, for an ephemeral container.
    Baseline,
    /// Adds `CAP_SYS_PTRACE`; kubectl's default.
    General,
    /// Adds `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    Netadmin,
    /// Drops every capability, forbids root and privilege escalation, sets `RuntimeDefault` seccomp.
    Restricted,
    /// Privileged.
    Sysadmin,
}

impl Profile {
    /// Every profile, in the order of kubectl's help.
    pub const ALL: [Self; 6] =
        [Self::Legacy, Self::Baseline, Self::General, Self::Netadmin, Self::Restricted, Self::Sysadmin];

    /// The name on kubectl's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Baseline => "baseline",
            Self::General => "general",
            Self::Netadmin => "netadmin",
            Self::Restricted => "restricted",
            Self::Sysadmin => "sysadmin",
        }
    }

    /// The bounding set, before this machine's own bounds.
    pub fn capabilities(self) -> CapSet {
        match self {
            Self::Legacy | Self::Baseline => CapSet::RUNTIME_DEFAULT,
            Self::General => CapSet::RUNTIME_DEFAULT | CapSet::SYS_PTRACE,
            Self::Netadmin => CapSet::RUNTIME_DEFAULT | CapSet::NET_ADMIN | CapSet::NET_RAW,
            Self::Restricted => CapSet::NONE,
            Self::Sysadmin => CapSet::ALL,
        }
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|profile| profile.name() == name);
        found.ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|profile| profile.name()).collect();
            format!("unknown profile {name:?}: one of {}", known.join(", "))
        })
    }
}

/// What the runtime is told about one container's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) user: User,
    /// Bounding, permitted and effective; the kernel empties the latter two when a user other than root executes.
    pub(crate) capabilities: CapSet,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: bool,
    pub(crate) privileged: bool,
}

impl Security {
    /// The target container: its own security context over the pod's.
    pub(crate) fn of_target(pod: &PodSpec) -> Self {
        Self {
            user: pod.container_user.or(pod.pod_user).unwrap_or_default(),
            capabilities: pod.capabilities & CapSet::current_bounding(),
            no_new_privs: pod.no_new_privs,
            seccomp: pod.seccomp,
            privileged: false,
        }
    }

    /// The sandbox's pause process, which a pod has when it shares its process namespace.
    pub(crate) fn of_pause(pod: &PodSpec) -> Self {
        Self {
            user: pod.pod_user.unwrap_or(User::new(65535, 65535)),
            capabilities: CapSet::RUNTIME_DEFAULT & CapSet::current_bounding(),
            no_new_privs: true,
            seccomp: true,
            privileged: false,
        }
    }

    /// The ephemeral container: `--custom` over the profile over the pod over the image.
    ///
    /// A target's *container-level* `runAsUser` and seccomp profile do not reach it; the pod's do.
    pub(crate) fn of_ephemeral(pod: &PodSpec, debug: &DebugSpec, container: &str) -> Result<Self, PodError> {
        let user = match debug.user.or(pod.pod_user) {
            Some(user) => user,
            None => debug.image.user()?,
        };
        let restricted = debug.profile == Profile::Restricted;
        if restricted && user.uid == 0 {
            return Err(PodError::RunAsNonRoot { container: container.to_owned() });
        }
        let privileged = debug.profile == Profile::Sysadmin;
        Ok(Self {
            user,
            capabilities: debug.profile.capabilities() & CapSet::current_bounding(),
            no_new_privs: restricted,
            seccomp: restricted || (pod.seccomp && !privileged),
            privileged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_users_of_image_configs() {
        assert_eq!("".parse::<User>().unwrap(), User::new(0, 0));
        assert_eq!("root".parse::<User>().unwrap(), User::new(0, 0));
        assert_eq!("65532".parse::<User>().unwrap(), User::new(65532, 0));
        assert_eq!("65532:65532".parse::<User>().unwrap(), User::new(65532, 65532));
        assert!("nonroot".parse::<User>().is_err());
    }

    #[test]
    fn profiles_have_the_measured_bounding_sets() {
        let sets = Profile::ALL.map(|profile| profile.capabilities().0);
        assert_eq!(sets, [0xa804_25fb, 0xa804_25fb, 0xa80c_25fb, 0xa804_35fb, 0, CapSet::ALL.0]);
    }
}
