//! Whether proc(5) hides processes from us (its mount option `hidepid`).

use crate::parse::{self, Mount};
use crate::{Capability, Cause, Failure, Run, own};

/// What a person can do about it.
pub(crate) const REMEDY: &str = "proc is mounted with hidepid: use --profile=general, or the target's uid";

impl Run {
    /// The failure to see processes of other users, where proc(5) hides them from
    /// us; `None` where all of the pid namespace are seen.
    pub fn hidden(&self) -> Option<Failure> {
        let hiding = Hiding::of(&own::mounts()).filter(|_| self.is_live())?;
        let rights = self.rights()?;
        let is_member = || rights.gid.fs == hiding.gid || own::groups().contains(&hiding.gid);
        if rights.effective.has(Capability::SYS_PTRACE) || (hiding.spares_group && is_member()) {
            return None;
        }
        Some(Failure::new("/proc", Cause::Hidden))
    }
}

/// How processes are hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hiding {
    /// Members of this group see everything,
    gid: u32,
    /// unless it counts for nothing (`hidepid=ptraceable`).
    spares_group: bool,
}

impl Hiding {
    /// What the mount of `/proc` says.
    fn of(mounts: &[Mount]) -> Option<Self> {
        // A later mount at the same place covers the earlier one.
        let proc = mounts.iter().rfind(|mount| mount.point == b"/proc" && mount.fs_type == b"proc")?;
        let option = |key: &[u8]| proc.super_options.split(|b| *b == b',').find_map(|option| option.strip_prefix(key));
        // Words since Linux 5.8.
        match option(b"hidepid=")? {
            b"0" | b"off" => None,
            level => Some(Self {
                gid: option(b"gid=").and_then(parse::number).unwrap_or(0),
                spares_group: !matches!(level, b"4" | b"ptraceable"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hiding(options: &str) -> Option<Hiding> {
        let line = |options: &str| format!("22 27 0:21 / /proc rw,relatime - proc proc {options}\n");
        Hiding::of(&parse::mounts([line("rw"), line(options)].concat().as_bytes()))
    }

    #[test]
    fn levels_are_words_or_numbers() {
        assert_eq!(hiding("rw"), None);
        assert_eq!(hiding("rw,hidepid=off"), None);
        assert_eq!(hiding("rw,hidepid=invisible"), Some(Hiding { gid: 0, spares_group: true }));
        assert_eq!(hiding("rw,gid=7,hidepid=1"), Some(Hiding { gid: 7, spares_group: true }));
        assert_eq!(hiding("rw,hidepid=ptraceable"), Some(Hiding { gid: 0, spares_group: false }));
    }
}
