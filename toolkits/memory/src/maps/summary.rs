//! Totals: of all mappings, of each kind, of each file, and of what the checks
//! found.

use schemars::JsonSchema;
use serde::Serialize;

use agent_model::Wide;

use super::change::Changes;
use super::figures::{Figures, Usage};
use super::kind::{CHECKS, Kind};
use super::row::Device;
use super::store::{Mapping, Shared, Store};

/// Totals over all mappings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Summary {
    /// How many there are; absent with --summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mappings: Option<u64>,
    /// How much address space they take, without `[vsyscall]`, which is none of
    /// the process's (`VmSize`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// What of it is in memory: sums of the rows', or the kernel's own sums with
    /// --summary, which lose nothing to rounding.
    #[serde(flatten)]
    pub usage: Usage,
    /// By kind; absent with --summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<OfKind>>,
    /// By file, the largest `pss_bytes` first (with --no-smaps `size_bytes`), then
    /// by path; absent with --summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<OfFile>>,
    /// What is worth a second look; absent with --summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardening: Option<Vec<Finding>>,
    /// What has changed since the look before; with --watch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}

/// The mappings of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OfKind {
    /// The kind.
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// How much it is.
    #[serde(flatten)]
    pub share: Share,
}

/// The mappings of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OfFile {
    /// Whether it is mapped executable somewhere: then it is a module.
    pub module: bool,
    /// Whether it has been deleted or replaced.
    pub deleted: bool,
    /// How much it is.
    #[serde(flatten)]
    pub share: Share,
    /// The device it is on.
    pub device: Device,
    /// Its inode.
    pub inode: Wide,
    /// Its path; absent where it has none, or there was no room for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Shared>,
}

/// How much some of the mappings are. The figures are those of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Share {
    /// How many mappings.
    pub mappings: u64,
    /// How much address space they take.
    pub size_bytes: u64,
    /// In memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// In memory, by its share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pss_bytes: Option<u64>,
    /// Mapped by nobody else, and as on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_clean_bytes: Option<u64>,
    /// Mapped by nobody else, and written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_dirty_bytes: Option<u64>,
    /// Swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
}

impl Share {
    fn add(&mut self, size_bytes: u64, usage: &Usage) {
        let add = |sum: &mut Option<u64>, more: Option<u64>| {
            if let Some(more) = more {
                *sum = Some(sum.unwrap_or(0).saturating_add(more));
            }
        };
        self.mappings += 1;
        self.size_bytes = self.size_bytes.saturating_add(size_bytes);
        add(&mut self.rss_bytes, usage.rss_bytes);
        add(&mut self.pss_bytes, usage.pss_bytes);
        add(&mut self.private_clean_bytes, usage.private_clean_bytes);
        add(&mut self.private_dirty_bytes, usage.private_dirty_bytes);
        add(&mut self.swap_bytes, usage.swap_bytes);
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// Which check.
    #[schemars(extend("x-class" = "word"))]
    pub id: &'static str,
    /// `pass` where no mapping fails it, else `warn` or `info`; `unknown` where it
    /// needs figures that could not be read.
    #[schemars(extend("x-class" = "word"))]
    pub level: &'static str,
    /// How many mappings fail it.
    pub mappings: u64,
    /// Their size.
    pub size_bytes: u64,
    /// What it means.
    #[schemars(extend("x-class" = "word"))]
    pub message: &'static str,
}

/// The check that needs the figures of smaps.
const NEEDS_FIGURES: &str = "modified_code";

impl Summary {
    /// That of `mappings`, whose sums are `totals`.
    pub(crate) fn new(count: u64, size_bytes: u64, totals: &Figures, mappings: &[Mapping], store: &Store) -> Self {
        let mut kinds = [Share::default(); Kind::ALL.len()];
        let mut files = vec![Share::default(); store.files().len()];
        let mut failed = [(0_u64, 0_u64); CHECKS.len()];
        for mapping in mappings {
            let size = mapping.size_bytes();
            let usage = Usage::from(&mapping.figures(store));
            kinds[mapping.kind as usize].add(size, &usage);
            if let Some(share) = mapping.file_index().and_then(|file| files.get_mut(file)) {
                share.add(size, &usage);
            }
            for at in mapping.failed.checks() {
                failed[at].0 += 1;
                failed[at].1 = failed[at].1.saturating_add(size);
            }
        }
        let kinds = Kind::ALL.iter().zip(kinds).filter(|(_, share)| share.mappings > 0);
        Self {
            mappings: Some(count),
            size_bytes: Some(size_bytes),
            usage: Usage::from(totals),
            kinds: Some(kinds.map(|(kind, share)| OfKind { kind: kind.as_str(), share }).collect()),
            files: Some(of_files(&files, store)),
            hardening: Some(findings(&failed, !totals.is_empty())),
            changes: None,
        }
    }

    /// The kernel's own sums.
    pub(crate) fn rollup(size_bytes: Option<u64>, totals: &Figures) -> Self {
        Self { size_bytes, usage: Usage::from(totals), ..Self::default() }
    }
}

fn of_files(shares: &[Share], store: &Store) -> Vec<OfFile> {
    let of_file = |(file, share): (&super::store::File, &Share)| OfFile {
        module: file.module,
        deleted: file.deleted,
        share: *share,
        device: Device(file.device),
        inode: Wide(file.inode),
        path: file.path.clone(),
    };
    let mut files: Vec<OfFile> = store.files().iter().zip(shares).map(of_file).collect();
    files.sort_by(|a, b| {
        let weight = |file: &OfFile| file.share.pss_bytes.unwrap_or(file.share.size_bytes);
        let rest = |file: &OfFile| (file.device, file.inode, file.deleted);
        weight(b).cmp(&weight(a)).then_with(|| a.path.cmp(&b.path)).then_with(|| rest(a).cmp(&rest(b)))
    });
    files
}

fn findings(failed: &[(u64, u64)], has_figures: bool) -> Vec<Finding> {
    let finding = |(check, &(mappings, size_bytes)): (&super::kind::Check, &(u64, u64))| Finding {
        id: check.id,
        level: match mappings {
            0 if check.id == NEEDS_FIGURES && !has_figures => "unknown",
            0 => "pass",
            _ => check.level,
        },
        mappings,
        size_bytes,
        message: check.message,
    };
    CHECKS.iter().zip(failed).map(finding).collect()
}
