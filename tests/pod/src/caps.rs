//! Capability sets and file capabilities (capabilities(7)).

use std::ops::{BitAnd, BitOr};

/// Names by number, as in `include/uapi/linux/capability.h`.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities; bit N is capability number N, as in `CapBnd` of `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSet(pub u64);

impl CapSet {
    /// No capability: `drop: ["ALL"]`.
    pub const NONE: Self = Self(0);
    /// What containerd gives a container by default (`a80425fb`).
    pub const RUNTIME_DEFAULT: Self = Self(0xa804_25fb);
    /// Every capability that the kernel knows (0 to 40).
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// `CAP_NET_ADMIN`
    pub const NET_ADMIN: Self = Self(1 << 12);
    /// `CAP_NET_RAW`
    pub const NET_RAW: Self = Self(1 << 13);
    /// `CAP_SYS_PTRACE`
    pub const SYS_PTRACE: Self = Self(1 << 19);
    /// `CAP_SYS_ADMIN`
    pub const SYS_ADMIN: Self = Self(1 << 21);

    /// The set of one capability, by its name (`CAP_KILL`); `None` for a name the kernel does not have.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().position(|known| *known == name).map(|bit| Self(1 << bit))
    }

    /// The names, in numeric order.
    pub fn names(self) -> Vec<&'static str> {
        NAMES.iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| *name).collect()
    }

    /// Whether every capability of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What this process may hand on: its bounding set.
    ///
    /// containerd calls this "all" when it starts a privileged container (`WithAllCurrentCapabilities`),
    /// so `sysadmin` means this set and not [`CapSet::ALL`]; the two differ in a nested container.
    pub fn current_bounding() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bits = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        bits.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).map_or(Self::ALL, Self)
    }
}

impl BitOr for CapSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for CapSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The `security.capability` attribute of an image's binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileCaps {
    /// No file capabilities.
    None,
    /// `setcap all=p`, what the agent ships with: all permitted, none effective at start.
    AllPermitted,
    /// `setcap …=p` or, with `effective`, `setcap …=ep`.
    Set {
        /// The permitted set.
        permitted: CapSet,
        /// The one effective flag that a file has.
        effective: bool,
    },
    /// The attribute's bytes as they are.
    Custom(Vec<u8>),
}

impl FileCaps {
    /// The attribute's value, or `None` to leave the file without.
    pub(crate) fn attribute(&self) -> Option<Vec<u8>> {
        match self {
            Self::None => None,
            Self::AllPermitted => Some(file_capability(CapSet::ALL, false)),
            Self::Set { permitted, effective } => Some(file_capability(*permitted, *effective)),
            Self::Custom(bytes) => Some(bytes.clone()),
        }
    }
}

/// Encodes `struct vfs_cap_data` of revision 2 (`include/uapi/linux/capability.h`), inheritable empty.
pub fn file_capability(permitted: CapSet, effective: bool) -> Vec<u8> {
    const VFS_CAP_REVISION_2: u32 = 0x0200_0000;
    let [low, high] = [permitted.0 as u32, (permitted.0 >> 32) as u32];
    [VFS_CAP_REVISION_2 | u32::from(effective), low, 0, high, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_runtime_default_as_containerd_does() {
        let names = CapSet::RUNTIME_DEFAULT.names();
        assert_eq!(names.len(), 14);
        assert!(names.contains(&"CAP_NET_RAW") && !names.contains(&"CAP_SYS_PTRACE"));
        assert_eq!((CapSet::RUNTIME_DEFAULT | CapSet::SYS_PTRACE).0, 0xa80c_25fb);
        assert_eq!((CapSet::RUNTIME_DEFAULT | CapSet::NET_ADMIN).0, 0xa804_35fb);
    }

    #[test]
    fn finds_a_capability_by_name() {
        assert_eq!(CapSet::named("CAP_SYS_PTRACE"), Some(CapSet::SYS_PTRACE));
        assert_eq!(CapSet::named("SYS_PTRACE"), None);
    }

    #[test]
    fn encodes_all_permitted_as_setcap_does() {
        // `setcap all=p FILE; getfattr -e hex -n security.capability FILE`
        let expected = [0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(FileCaps::AllPermitted.attribute().unwrap(), expected);
    }
}
