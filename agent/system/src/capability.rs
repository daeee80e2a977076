//! Capabilities by number and name (capabilities(7)).

use std::fmt;

/// One capability: its bit number in the kernel's sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

/// Names by bit number, from linux/capability.h.
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

impl Capability {
    /// Overrides permission bits of files.
    pub const DAC_OVERRIDE: Self = Self(1);
    /// Overrides read permission of files and directories.
    pub const DAC_READ_SEARCH: Self = Self(2);
    /// Changes group IDs.
    pub const SETGID: Self = Self(6);
    /// Changes user IDs.
    pub const SETUID: Self = Self(7);
    /// Gives up capabilities for good.
    pub const SETPCAP: Self = Self(8);
    /// Opens packet sockets.
    pub const NET_RAW: Self = Self(13);
    /// Configures the network.
    pub const NET_ADMIN: Self = Self(12);
    /// Looks into any process.
    pub const SYS_PTRACE: Self = Self(19);
    /// Reads kernel stacks, among a lot else.
    pub const SYS_ADMIN: Self = Self(21);
    /// Follows the links of `map_files` to what a process has mapped.
    pub const CHECKPOINT_RESTORE: Self = Self(40);
    /// Opens performance counters.
    pub const PERFMON: Self = Self(38);

    /// Its name in capabilities(7). Only bits of [`Capabilities::iter`] and the
    /// constants exist, so there is always one.
    pub fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or("CAP_UNKNOWN")
    }

    /// The set that holds it alone.
    pub fn only(self) -> Capabilities {
        Capabilities(1 << self.0)
    }
}

/// A set of capabilities, as the kernel's 64-bit masks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// True when `capability` is in it.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability.0) != 0
    }

    /// True when all of `other` is in it.
    pub fn holds(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Those in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Its members that have a name, by bit number.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0..NAMES.len() as u8).map(Capability).filter(move |capability| self.has(*capability))
    }

    /// Their names, by bit number. Bits of a newer kernel are left out.
    pub fn names(self) -> Vec<&'static str> {
        self.iter().map(Capability::name).collect()
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(all: T) -> Self {
        all.into_iter().fold(Self::default(), |set, one| set.union(one.only()))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
