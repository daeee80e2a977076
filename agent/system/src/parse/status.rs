//! `/proc/PID/status` (proc_pid_status(5)).

use super::{hex, leading, number};
use crate::Capabilities;

/// The four IDs of a `Uid:` or `Gid:` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ids {
    /// Real.
    pub real: u32,
    /// Effective.
    pub effective: u32,
    /// Saved.
    pub saved: u32,
    /// File system.
    pub fs: u32,
}

impl Ids {
    /// True when real, effective and saved are all `id`: what ptrace(2) asks of
    /// the two processes.
    pub fn are_all(self, id: u32) -> bool {
        [self.real, self.effective, self.saved] == [id; 3]
    }
}

/// What `status` says of a process. A key that is absent (an older kernel, a
/// zombie) is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// User IDs.
    pub uid: Ids,
    /// Group IDs.
    pub gid: Ids,
    /// The process IDs in each nested pid namespace, outermost first.
    pub nspid: Vec<u32>,
    /// The process that traces it; 0 for none.
    pub tracer: Option<u32>,
    /// Supplementary group IDs.
    pub groups: Vec<u32>,
    /// Resident set, in bytes.
    pub rss_bytes: Option<u64>,
    /// Largest resident set so far, in bytes.
    pub peak_rss_bytes: Option<u64>,
    /// Swapped out, in bytes.
    pub swap_bytes: Option<u64>,
    /// Inheritable capabilities.
    pub inheritable: Option<Capabilities>,
    /// Ambient capabilities. Since Linux 4.3.
    pub ambient: Option<Capabilities>,
    /// Permitted capabilities.
    pub permitted: Capabilities,
    /// Effective capabilities.
    pub effective: Capabilities,
    /// Bounding set.
    pub bounding: Capabilities,
    /// Whether no_new_privs is set.
    pub no_new_privs: Option<bool>,
    /// Seccomp mode: 0 none, 1 strict, 2 filter.
    pub seccomp: Option<u8>,
    /// How many seccomp filters it has. Since Linux 5.9.
    pub seccomp_filters: Option<u32>,
    /// How often it gave up the processor itself.
    pub voluntary_switches: Option<u64>,
    /// How often the processor was taken from it.
    pub involuntary_switches: Option<u64>,
    /// Number of threads.
    pub threads: Option<u32>,
}

fn ids(value: &[u8]) -> Option<Ids> {
    let mut numbers = value.split(u8::is_ascii_whitespace).filter(|f| !f.is_empty()).map(number);
    let mut next = || numbers.next().flatten();
    Some(Ids { real: next()?, effective: next()?, saved: next()?, fs: next()? })
}

/// Parses `status`. `None` when it has no `Uid:` and `Gid:`, as every kernel
/// writes.
pub fn status(bytes: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    let (mut uid, mut gid) = (None, None);
    for line in bytes.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (key, value) = (&line[..colon], &line[colon + 1..]);
        let bytes_of = |value| leading(value).map(|kib| kib.saturating_mul(1024));
        match key {
            b"Uid" => uid = ids(value),
            b"Gid" => gid = ids(value),
            b"NSpid" => {
                status.nspid = value.split(u8::is_ascii_whitespace).filter_map(number).collect();
            }
            b"TracerPid" => status.tracer = number(value),
            b"Groups" => {
                status.groups = value.split(u8::is_ascii_whitespace).filter_map(number).collect();
            }
            b"VmRSS" => status.rss_bytes = bytes_of(value),
            b"VmHWM" => status.peak_rss_bytes = bytes_of(value),
            b"VmSwap" => status.swap_bytes = bytes_of(value),
            b"CapInh" => status.inheritable = hex(value).map(Capabilities),
            b"CapAmb" => status.ambient = hex(value).map(Capabilities),
            b"CapPrm" => status.permitted = Capabilities(hex(value)?),
            b"CapEff" => status.effective = Capabilities(hex(value)?),
            b"CapBnd" => status.bounding = Capabilities(hex(value)?),
            b"NoNewPrivs" => status.no_new_privs = leading(value).map(|bit| bit == 1),
            b"Seccomp" => status.seccomp = number(value),
            b"Seccomp_filters" => status.seccomp_filters = number(value),
            b"voluntary_ctxt_switches" => status.voluntary_switches = number(value),
            b"nonvoluntary_ctxt_switches" => status.involuntary_switches = number(value),
            b"Threads" => status.threads = number(value),
            _ => {}
        }
    }
    status.uid = uid?;
    status.gid = gid?;
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_keys_and_leaves_absent_ones_absent() {
        let text = b"Name:\tx\nUid:\t0\t1000\t2\t3\nGid:\t5\t6\t7\t8\nNSpid:\t900\t7\nVmRSS:\t    3404 kB\n\
            Groups:\t4 24 1000 \nCapInh:\t0000000000000000\nCapAmb:\t0000000000002000\n\
            voluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t3\nSeccomp_filters:\t1\n\
            CapPrm:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\nNewKey:\tfrom a later kernel\n";
        let status = status(text).expect("parses");
        assert_eq!(status.uid, Ids { real: 0, effective: 1000, saved: 2, fs: 3 });
        assert_eq!(status.gid.fs, 8);
        assert_eq!(status.nspid, [900, 7]);
        assert_eq!(status.rss_bytes, Some(3404 * 1024));
        assert_eq!(status.swap_bytes, None);
        assert!(status.permitted.has(crate::Capability::SETUID));
        assert_eq!((status.no_new_privs, status.seccomp), (Some(false), Some(2)));
        assert_eq!(status.groups, [4, 24, 1000]);
        assert_eq!((status.voluntary_switches, status.involuntary_switches), (Some(9), Some(3)));
        assert_eq!((status.seccomp_filters, status.inheritable), (Some(1), Some(Capabilities(0))));
        assert_eq!(status.ambient.map(Capabilities::names), Some(vec!["CAP_NET_RAW"]));
    }

    #[test]
    fn an_older_kernel_leaves_newer_keys_absent() {
        let status = status(b"Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\n").expect("parses");
        assert_eq!((status.ambient, status.seccomp_filters, status.voluntary_switches), (None, None, None));
        assert!(status.groups.is_empty());
    }

    #[test]
    fn a_status_without_ids_is_malformed() {
        assert_eq!(status(b"Name:\tx\nUid:\t0\t0\n"), None);
    }
}
