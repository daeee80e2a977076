//! `VmFlags`: what the kernel holds of a mapping beside its permissions.

/// The codes of `VmFlags` and what they stand for (proc_pid_smaps(5);
/// `show_smap_vma_flags` in the kernel's fs/proc/task_mmu.c), in the order in
/// which they are listed.
const CODES: [([u8; 2], &str); 42] = [
    (*b"rd", "readable"),
    (*b"wr", "writable"),
    (*b"ex", "executable"),
    (*b"sh", "shared"),
    (*b"mr", "may_read"),
    (*b"mw", "may_write"),
    (*b"me", "may_execute"),
    (*b"ms", "may_share"),
    (*b"gd", "grows_down"),
    (*b"pf", "pfn_map"),
    (*b"dw", "deny_write"),
    (*b"lo", "locked"),
    (*b"io", "io"),
    (*b"sr", "sequential_read"),
    (*b"rr", "random_read"),
    (*b"dc", "dont_copy"),
    (*b"de", "dont_expand"),
    (*b"lf", "lock_on_fault"),
    (*b"ac", "accounted"),
    (*b"nr", "no_reserve"),
    (*b"ht", "huge_tlb"),
    (*b"sf", "synchronous_fault"),
    (*b"nl", "non_linear"),
    (*b"ar", "architecture"),
    (*b"wf", "wipe_on_fork"),
    (*b"dd", "dont_dump"),
    (*b"bt", "branch_target"),
    (*b"sd", "soft_dirty"),
    (*b"mm", "mixed_map"),
    (*b"hg", "huge_page"),
    (*b"nh", "no_huge_page"),
    (*b"mg", "mergeable"),
    (*b"um", "userfault_missing"),
    (*b"uw", "userfault_write_protect"),
    (*b"ui", "userfault_minor"),
    (*b"mt", "memory_tagging"),
    (*b"ss", "shadow_stack"),
    (*b"dp", "droppable"),
    (*b"sl", "sealed"),
    (*b"gu", "maybe_guard"),
    (*b"mp", "mpx"),
    // Bits that this kernel has no letters for, and codes of a later kernel.
    (*b"??", "unknown"),
];

/// Where [`CODES`] has `??`: at the end.
const UNKNOWN: usize = CODES.len() - 1;

/// Where it has `gu`.
const MAYBE_GUARD: usize = 39;

/// A set of flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u64);

/// The bit of each pair of lower-case letters.
const BITS: [u8; 26 * 26] = {
    let mut bits = [UNKNOWN as u8; 26 * 26];
    let mut at = 0;
    while at < UNKNOWN {
        let [first, second] = CODES[at].0;
        bits[(first - b'a') as usize * 26 + (second - b'a') as usize] = at as u8;
        at += 1;
    }
    bits
};

impl Flags {
    /// From the codes, separated by spaces.
    pub(crate) fn parse(codes: &[u8]) -> Self {
        let mut set = 0;
        for code in codes.split(|byte| *byte == b' ') {
            let bit = match *code {
                [] => continue,
                [first @ b'a'..=b'z', second @ b'a'..=b'z'] => {
                    BITS[usize::from(first - b'a') * 26 + usize::from(second - b'a')]
                }
                _ => UNKNOWN as u8,
            };
            set |= 1 << bit;
        }
        Self(set)
    }

    /// Whether the kernel says that guard regions may be in it (Linux 6.19,
    /// madvise(2) MADV_GUARD_INSTALL).
    pub(crate) fn maybe_guard(self) -> bool {
        self.0 & (1 << MAYBE_GUARD) != 0
    }

    /// What they stand for, in the order of the table.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            CODES.get(bit).map(|(_, name)| *name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(codes: &[u8]) -> Vec<&'static str> {
        Flags::parse(codes).names().collect()
    }

    #[test]
    fn codes_become_words() {
        assert_eq!(
            names(b" rd wr mr mw me gd ac "),
            ["readable", "writable", "may_read", "may_write", "may_execute", "grows_down", "accounted"]
        );
        assert_eq!(names(b""), [""; 0]);
    }

    #[test]
    fn what_a_later_kernel_adds_is_said_to_be_unknown() {
        assert_eq!(names(b" rd zz ?? x xyz \xff\xff"), ["readable", "unknown"]);
    }

    #[test]
    fn guard_regions_are_known() {
        assert!(Flags::parse(b" rd wr gu").maybe_guard());
        assert!(!Flags::parse(b" rd wr gd").maybe_guard());
        assert_eq!(CODES[MAYBE_GUARD].1, "maybe_guard");
    }
}
