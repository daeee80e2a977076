//! The figures of smaps (proc_pid_smaps(5)), as they are read, kept and shown.

use schemars::JsonSchema;
use serde::Serialize;

/// A key of `smaps` or `smaps_rollup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Figure {
    Size,
    KernelPageSize,
    MmuPageSize,
    Rss,
    Pss,
    PssDirty,
    PssAnon,
    PssFile,
    PssShmem,
    SharedClean,
    SharedDirty,
    PrivateClean,
    PrivateDirty,
    Referenced,
    Anonymous,
    Ksm,
    LazyFree,
    AnonHugePages,
    ShmemPmdMapped,
    FilePmdMapped,
    SharedHugetlb,
    PrivateHugetlb,
    Swap,
    SwapPss,
    Locked,
    ThpEligible,
    ProtectionKey,
}

/// How many there are.
const COUNT: usize = 27;

/// The keys, in the order in which the kernel writes them.
pub(crate) const KEYS: [(&[u8], Figure); COUNT] = [
    (b"Size", Figure::Size),
    (b"KernelPageSize", Figure::KernelPageSize),
    (b"MMUPageSize", Figure::MmuPageSize),
    (b"Rss", Figure::Rss),
    (b"Pss", Figure::Pss),
    (b"Pss_Dirty", Figure::PssDirty),
    (b"Pss_Anon", Figure::PssAnon),
    (b"Pss_File", Figure::PssFile),
    (b"Pss_Shmem", Figure::PssShmem),
    (b"Shared_Clean", Figure::SharedClean),
    (b"Shared_Dirty", Figure::SharedDirty),
    (b"Private_Clean", Figure::PrivateClean),
    (b"Private_Dirty", Figure::PrivateDirty),
    (b"Referenced", Figure::Referenced),
    (b"Anonymous", Figure::Anonymous),
    (b"KSM", Figure::Ksm),
    (b"LazyFree", Figure::LazyFree),
    (b"AnonHugePages", Figure::AnonHugePages),
    (b"ShmemPmdMapped", Figure::ShmemPmdMapped),
    (b"FilePmdMapped", Figure::FilePmdMapped),
    (b"Shared_Hugetlb", Figure::SharedHugetlb),
    (b"Private_Hugetlb", Figure::PrivateHugetlb),
    (b"Swap", Figure::Swap),
    (b"SwapPss", Figure::SwapPss),
    (b"Locked", Figure::Locked),
    (b"THPeligible", Figure::ThpEligible),
    (b"ProtectionKey", Figure::ProtectionKey),
];

/// The figures of one mapping, or their sums, as the kernel counts them (most in
/// KiB). What was not read is not given, which is not 0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    given: u32,
    values: [u64; COUNT],
}

/// Where the figures of one mapping are kept: most are 0, and the others small.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Packed {
    given: u32,
    nonzero: u32,
    at: u32,
}

impl Figures {
    pub(crate) fn clear(&mut self) {
        self.given = 0;
    }

    pub(crate) fn set(&mut self, figure: Figure, value: u64) {
        self.given |= 1 << figure as u32;
        self.values[figure as usize] = value;
    }

    /// Whether nothing was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.given == 0
    }

    pub(crate) fn get(&self, figure: Figure) -> Option<u64> {
        (self.given & 1 << figure as u32 != 0).then(|| self.values[figure as usize])
    }

    fn bytes(&self, figure: Figure) -> Option<u64> {
        self.get(figure).map(|kib| kib.saturating_mul(1024))
    }

    /// Adds those of one mapping to sums.
    pub(crate) fn add(&mut self, other: &Self) {
        let mut left = other.given;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            let sum = if self.given & 1 << at == 0 { 0 } else { self.values[at] };
            self.values[at] = sum.saturating_add(other.values[at]);
        }
        self.given |= other.given;
    }

    /// Puts them at the end of `pool`, seven bits a byte (LEB128).
    pub(crate) fn pack(&self, pool: &mut Vec<u8>) -> Packed {
        let mut packed = Packed { given: self.given, nonzero: 0, at: u32::try_from(pool.len()).unwrap_or(u32::MAX) };
        let mut left = self.given & !(1 << Figure::Size as u32);
        while left != 0 {
            let at = left.trailing_zeros();
            left &= left - 1;
            let mut value = self.values[at as usize];
            if value == 0 {
                continue;
            }
            packed.nonzero |= 1 << at;
            while value > 0x7f {
                pool.push(value as u8 | 0x80);
                value >>= 7;
            }
            pool.push(value as u8);
        }
        packed
    }

    /// What [`Figures::pack`] put there, but for [`Figure::Size`].
    pub(crate) fn unpack(packed: Packed, pool: &[u8]) -> Self {
        let mut figures = Self { given: packed.given & !(1 << Figure::Size as u32), values: [0; COUNT] };
        let mut bytes = pool.get(packed.at as usize..).unwrap_or_default().iter();
        let mut left = packed.nonzero;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            let mut shift = 0;
            for byte in bytes.by_ref() {
                figures.values[at] |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        figures
    }
}

/// What of a mapping, or of all of them, is in memory (proc_pid_smaps(5)). A
/// figure that this kernel does not give is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Usage {
    /// In memory, shared pages included (`Rss`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "RSS"))]
    pub rss_bytes: Option<u64>,
    /// In memory, each page divided by the number of processes that map it
    /// (`Pss`). The kernel rounds it down to KiB for each mapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PSS"))]
    pub pss_bytes: Option<u64>,
    /// Of `pss_bytes`, what was written to (`Pss_Dirty`, Linux 6.0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pss_dirty_bytes: Option<u64>,
    /// Of `pss_bytes`, what belongs to no file (`Pss_Anon`, only with --summary).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pss_anonymous_bytes: Option<u64>,
    /// Of `pss_bytes`, what belongs to files (`Pss_File`, only with --summary).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pss_file_bytes: Option<u64>,
    /// Of `pss_bytes`, shared memory (`Pss_Shmem`, only with --summary).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pss_shared_memory_bytes: Option<u64>,
    /// Mapped by others too, and as it stands on disk (`Shared_Clean`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_clean_bytes: Option<u64>,
    /// Mapped by others too, and written to (`Shared_Dirty`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_dirty_bytes: Option<u64>,
    /// Mapped by nobody else, and as it stands on disk (`Private_Clean`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_clean_bytes: Option<u64>,
    /// Mapped by nobody else, and written to (`Private_Dirty`): what only the end
    /// of the process, or swap, gives back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "DIRTY"))]
    pub private_dirty_bytes: Option<u64>,
    /// Marked as used since the marks were last cleared (`Referenced`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referenced_bytes: Option<u64>,
    /// Belongs to no file, private copies of file pages included (`Anonymous`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_bytes: Option<u64>,
    /// Merged with equal pages elsewhere (`KSM`, Linux 6.8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ksm_bytes: Option<u64>,
    /// Given back with madvise(2) MADV_FREE, and not yet taken (`LazyFree`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_free_bytes: Option<u64>,
    /// Anonymous memory in transparent huge pages (`AnonHugePages`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_huge_bytes: Option<u64>,
    /// Shared memory in transparent huge pages (`ShmemPmdMapped`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_memory_huge_bytes: Option<u64>,
    /// Page cache in transparent huge pages (`FilePmdMapped`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_huge_bytes: Option<u64>,
    /// In hugetlbfs pages that others map too; not in `rss_bytes`
    /// (`Shared_Hugetlb`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_huge_tlb_bytes: Option<u64>,
    /// In hugetlbfs pages that nobody else maps; not in `rss_bytes`
    /// (`Private_Hugetlb`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_huge_tlb_bytes: Option<u64>,
    /// Swapped out (`Swap`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SWAP"))]
    pub swap_bytes: Option<u64>,
    /// Swapped out, each page divided by the number of processes that map it
    /// (`SwapPss`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_pss_bytes: Option<u64>,
    /// Locked in memory, by its share as `pss_bytes` (`Locked`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked_bytes: Option<u64>,
}

impl From<&Figures> for Usage {
    fn from(figures: &Figures) -> Self {
        Self {
            rss_bytes: figures.bytes(Figure::Rss),
            pss_bytes: figures.bytes(Figure::Pss),
            pss_dirty_bytes: figures.bytes(Figure::PssDirty),
            pss_anonymous_bytes: figures.bytes(Figure::PssAnon),
            pss_file_bytes: figures.bytes(Figure::PssFile),
            pss_shared_memory_bytes: figures.bytes(Figure::PssShmem),
            shared_clean_bytes: figures.bytes(Figure::SharedClean),
            shared_dirty_bytes: figures.bytes(Figure::SharedDirty),
            private_clean_bytes: figures.bytes(Figure::PrivateClean),
            private_dirty_bytes: figures.bytes(Figure::PrivateDirty),
            referenced_bytes: figures.bytes(Figure::Referenced),
            anonymous_bytes: figures.bytes(Figure::Anonymous),
            ksm_bytes: figures.bytes(Figure::Ksm),
            lazy_free_bytes: figures.bytes(Figure::LazyFree),
            anonymous_huge_bytes: figures.bytes(Figure::AnonHugePages),
            shared_memory_huge_bytes: figures.bytes(Figure::ShmemPmdMapped),
            file_huge_bytes: figures.bytes(Figure::FilePmdMapped),
            shared_huge_tlb_bytes: figures.bytes(Figure::SharedHugetlb),
            private_huge_tlb_bytes: figures.bytes(Figure::PrivateHugetlb),
            swap_bytes: figures.bytes(Figure::Swap),
            swap_pss_bytes: figures.bytes(Figure::SwapPss),
            locked_bytes: figures.bytes(Figure::Locked),
        }
    }
}

/// The figures of a mapping that are no amounts of memory.
impl Figures {
    pub(crate) fn kernel_page_bytes(&self) -> Option<u64> {
        self.bytes(Figure::KernelPageSize)
    }

    pub(crate) fn mmu_page_bytes(&self) -> Option<u64> {
        self.bytes(Figure::MmuPageSize)
    }

    pub(crate) fn thp_eligible(&self) -> Option<bool> {
        self.get(Figure::ThpEligible).map(|flag| flag != 0)
    }

    pub(crate) fn protection_key(&self) -> Option<u64> {
        self.get(Figure::ProtectionKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_figures_are_in_one_order() {
        for (at, (_, figure)) in KEYS.iter().enumerate() {
            assert_eq!(*figure as usize, at);
        }
    }

    #[test]
    fn packed_figures_come_back() {
        let mut pool = vec![1, 2, 3];
        let mut figures = Figures::default();
        figures.set(Figure::Size, 8);
        figures.set(Figure::Rss, 0);
        figures.set(Figure::Pss, 127);
        figures.set(Figure::Swap, 128);
        figures.set(Figure::Locked, u64::MAX);
        let packed = figures.pack(&mut pool);
        assert_eq!(pool.len(), 3 + 1 + 2 + 10);
        let back = Figures::unpack(packed, &pool);
        for (_, figure) in KEYS.iter().skip(1) {
            assert_eq!(back.get(*figure), figures.get(*figure), "{figure:?}");
        }
        assert_eq!(back.get(Figure::Size), None);
        assert_eq!(back.get(Figure::Rss), Some(0));
        assert_eq!(back.get(Figure::PssDirty), None);
    }

    #[test]
    fn sums_are_given_when_one_part_is() {
        let mut sum = Figures::default();
        assert!(sum.is_empty());
        let mut one = Figures::default();
        one.set(Figure::Rss, 4);
        sum.add(&one);
        one.set(Figure::Pss, 2);
        sum.add(&one);
        assert_eq!((sum.get(Figure::Rss), sum.get(Figure::Pss), sum.get(Figure::Swap)), (Some(8), Some(2), None));
        assert_eq!(Usage::from(&sum).rss_bytes, Some(8192));
    }
}
