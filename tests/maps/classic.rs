//! What others say of a process's memory: the kernel's own text, and pmap(1).

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    /// Not told by pmap.
    pub(crate) end: u64,
    pub(crate) permissions: String,
    pub(crate) offset: u64,
    /// As it is written: in hex.
    pub(crate) device: String,
    pub(crate) inode: String,
    pub(crate) path: String,
    /// By their names in smaps, most in KiB.
    pub(crate) figures: BTreeMap<String, u64>,
    pub(crate) flags: Vec<String>,
}

/// The figures that the agent shows: its name, that of smaps, and in which unit smaps has it.
pub(crate) const FIGURES: [(&str, &str); 21] = [
    ("kernel_page_bytes", "KernelPageSize"),
    ("mmu_page_bytes", "MMUPageSize"),
    ("rss_bytes", "Rss"),
    ("pss_bytes", "Pss"),
    ("pss_dirty_bytes", "Pss_Dirty"),
    ("shared_clean_bytes", "Shared_Clean"),
    ("shared_dirty_bytes", "Shared_Dirty"),
    ("private_clean_bytes", "Private_Clean"),
    ("private_dirty_bytes", "Private_Dirty"),
    ("referenced_bytes", "Referenced"),
    ("anonymous_bytes", "Anonymous"),
    ("ksm_bytes", "KSM"),
    ("lazy_free_bytes", "LazyFree"),
    ("anonymous_huge_bytes", "AnonHugePages"),
    ("shared_memory_huge_bytes", "ShmemPmdMapped"),
    ("file_huge_bytes", "FilePmdMapped"),
    ("shared_huge_tlb_bytes", "Shared_Hugetlb"),
    ("private_huge_tlb_bytes", "Private_Hugetlb"),
    ("swap_bytes", "Swap"),
    ("swap_pss_bytes", "SwapPss"),
    ("locked_bytes", "Locked"),
];

/// The text of `/proc/PID/FILE`.
pub(crate) fn text(pid: u32, file: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_else(|error| panic!("{file}: {error}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text of smaps, mapping by mapping.
pub(crate) fn smaps(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().expect("no empty line");
        if let Some(key) = first.strip_suffix(':') {
            let mapping = mappings.last_mut().expect("a mapping before its figures");
            if key == "VmFlags" {
                mapping.flags = words.map(str::to_owned).collect();
            } else {
                let value = words.next().and_then(|word| word.parse().ok()).expect("a number");
                mapping.figures.insert(key.to_owned(), value);
            }
            continue;
        }
        let (start, end) = first.split_once('-').expect("a range");
        let mut word = || words.next().expect("six words").to_owned();
        let (permissions, offset, device, inode) = (word(), word(), word(), word());
        mappings.push(Mapping {
            start: hex(start),
            end: hex(end),
            permissions,
            offset: hex(&offset),
            device,
            inode,
            path: words.collect::<Vec<_>>().join(" "),
            figures: BTreeMap::new(),
            flags: Vec::new(),
        });
    }
    mappings
}

/// `pmap -XX -p`: all that the kernel has, in columns.
pub(crate) fn pmap_all(pid: u32) -> Vec<Mapping> {
    let text = pmap(pid, &["-XX", "-p"]);
    let mut lines = text.lines().skip(1);
    let names: Vec<&str> = lines.next().expect("a heading").split_whitespace().collect();
    let flags_at = names.iter().position(|name| *name == "VmFlags").expect("flags");
    let rows = lines.take_while(|line| !line.contains("===="));
    let mapping = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let figures = names[5..flags_at].iter().zip(&words[5..]);
        let figure = |(name, word): (&&str, &&str)| ((*name).to_owned(), word.parse().expect("a number"));
        let is_flag = |word: &&str| word.len() == 2 && word.bytes().all(|byte| byte.is_ascii_lowercase());
        let flags: Vec<String> = words[flags_at..].iter().copied().take_while(is_flag).map(str::to_owned).collect();
        Mapping {
            start: hex(words[0]),
            end: 0,
            permissions: words[1].to_owned(),
            offset: hex(words[2]),
            device: words[3].to_owned(),
            inode: words[4].to_owned(),
            path: words[flags_at + flags.len()..].join(" "),
            figures: figures.map(figure).collect(),
            flags,
        }
    };
    rows.map(mapping).collect()
}

/// The last line of `pmap -x`: size, resident and dirty, in KiB.
pub(crate) fn pmap_totals(pid: u32) -> [u64; 3] {
    let text = pmap(pid, &["-x"]);
    let last = text.lines().last().expect("totals");
    let words: Vec<u64> = last.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    words.try_into().unwrap_or_else(|_| panic!("{last}"))
}

fn pmap(pid: u32, options: &[&str]) -> String {
    let output = Command::new("pmap").args(options).arg(pid.to_string()).output().expect("pmap");
    assert!(output.status.success(), "pmap {options:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn hex(digits: &str) -> u64 {
    u64::from_str_radix(digits.trim_start_matches("0x"), 16).unwrap_or_else(|error| panic!("{digits}: {error}"))
}
