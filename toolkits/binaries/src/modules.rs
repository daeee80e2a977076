//! `modules`: every ELF file that is mapped in the target.

pub mod ask;
pub mod compare;
pub mod cyclonedx;
pub mod loaded;
mod look;
pub mod place;
pub mod row;
pub mod verify;

use std::collections::HashMap;
use std::sync::Arc;

use agent_model::{Gap, Gathered, Hex, Listing, Noted, Reason, Text};
use agent_system::{Capability, Collector, ExtraFormat, Failure, Process, Run, in_halves, own};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::mapped::{self, Layout, Mapped};
use crate::packages::{self, os_release};
use loaded::{Index, Links};
use look::Subject;
use row::{Range, Row, Summary};

/// The collector of modules.
pub struct Modules;

/// Options of `modules`.
#[derive(Debug, Clone, Default, Args, Serialize, JsonSchema)]
pub struct Options {
    /// Look at every process of the target's container, not only at the target
    #[arg(long)]
    all: bool,
    /// SHA-256 of each file: reads all of it
    #[arg(long)]
    hash: bool,
    /// Compare code in memory with the file: finds breakpoints, hooks and hot patches
    #[arg(long)]
    verify: bool,
    /// Name the package that owns each file: reads the target's package database
    #[arg(long)]
    packages: bool,
    /// List the symbols whose names are of this form (* and ? as in a shell)
    #[arg(long, value_name = "PATTERN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    symbols: Option<String>,
    /// Name the module, section and function of an address of the target
    #[arg(long = "address", value_name = "0x…", value_parser = address)]
    #[serde(rename = "address", skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<Hex>,
    /// Say what differs from another capture: a file with the JSON or NDJSON of this
    /// command, or - for standard input
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    compare: Option<String>,
}

fn address(text: &str) -> Result<Hex, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map(Hex).map_err(|_| "not a hexadecimal address".to_owned())
}

impl Collector for Modules {
    const NAME: &'static str = "modules";
    const ABOUT: &'static str = "Which code really runs: ELF files mapped in the target, and what they were built from";
    const MANUAL: &'static str = "\
Rows come by path, then by device and inode. Each file is read below the target's
root directory if it is still the one that is mapped, else from the target's memory.
Headers and the tables that are named are read, never whole files, unless --hash asks
for it. --verify reads pagemap, and of the memory only pages that were written to.
With --symbols or --address, only modules that have an answer are listed.

  agent modules                              which code really runs
  agent modules -o ndjson | jq 'select(.deleted or .replaced) | .path'
  agent modules --verify -o ndjson | jq 'select(.verified.changed_pages > 0)'
  agent modules --symbols 'SSL_CTX_*'        where a function is, and its version
  agent modules --address 0x7f12a4e11234     what stands at an address
  agent modules --hash --compare other.json  drift between two pods
  agent modules -o cyclonedx                 an SBOM of what runs (implies --packages)";
    const CAPABILITIES: &'static [Capability] = &[
        Capability::SYS_PTRACE,
        Capability::DAC_READ_SEARCH,
        Capability::DAC_OVERRIDE,
        Capability::CHECKPOINT_RESTORE,
    ];
    const FORMATS: &'static [ExtraFormat<Self::Data>] = &[ExtraFormat {
        name: "cyclonedx",
        about: "a CycloneDX 1.6 SBOM of the running components",
        write: cyclonedx::write,
    }];
    type Options = Options;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let mut options = options.clone();
        options.packages |= run.format() == Some("cyclonedx");
        let mut survey = Survey::of(run, &options)?;
        let rows = survey.look(run, &options);
        let mut rows = survey.link(run, rows);
        let process = run.target_process()?;
        if options.packages {
            survey.own(&process, &mut rows);
        }
        rows.sort_by(|a, b| {
            let key = |row: &Row| (row.path.clone(), row.device.clone(), row.inode, row.address);
            key(&a.value).cmp(&key(&b.value))
        });
        let mut summary = survey.summarize(rows.iter().map(|row| &row.value), &options);
        match os_release::of(&process) {
            Ok(release) => summary.os_release = release,
            Err(failure) => survey.gaps.push(run.gap("/summary/os_release", &failure)),
        }
        if let Some(path) = &options.compare {
            match compared(run, path, &rows) {
                Ok(comparison) => summary.comparison = Some(comparison),
                Err(gap) => survey.gaps.push(*gap),
            }
        }
        if options.symbols.is_some() || !options.addresses.is_empty() {
            survey.not_located(&options, &rows);
            rows.retain(|row| row.value.symbols.is_some() || row.value.addresses.is_some());
        }
        Ok(Gathered::rows(rows, survey.gaps, |_| summary))
    }
}

/// One file that is mapped, in the first of its processes.
struct Item {
    subject: usize,
    file: Mapped,
    pids: Vec<u32>,
}

/// What is mapped where.
struct Survey<'r> {
    subjects: Vec<Subject<'r>>,
    /// For each of the subjects, its items by address.
    items_of: Vec<Vec<usize>>,
    items: Vec<Item>,
    writable_code: Vec<Range>,
    other_files: u64,
    gaps: Vec<Gap>,
}

/// Below this many files a second thread costs more than it gives.
const WORTH_A_THREAD: usize = 24;

impl<'r> Survey<'r> {
    fn of(run: &'r Run, options: &Options) -> Result<Self, Failure> {
        let target = run.target_process()?;
        let mut survey = Self {
            subjects: Vec::new(),
            items_of: Vec::new(),
            items: Vec::new(),
            writable_code: Vec::new(),
            other_files: 0,
            gaps: Vec::new(),
        };
        let mut known = HashMap::new();
        let others = if options.all { others(run, &target)? } else { Vec::new() };
        let target_pid = target.pid();
        for process in std::iter::once(target).chain(others) {
            let is_target = process.pid() == target_pid;
            match Layout::of(&process) {
                Ok(layout) => survey.add(run, process, layout, &mut known),
                Err(failure) if failure.is_exited() && is_target => return Err(failure),
                // It came and went.
                Err(failure) if failure.is_exited() => {}
                Err(failure) => survey.gaps.push(run.gap("/rows", &failure)),
            }
        }
        Ok(survey)
    }

    fn add(&mut self, run: &Run, process: Process<'r>, layout: Layout, known: &mut HashMap<mapped::FileKey, usize>) {
        if layout.truncated {
            let detail = format!("more than {} files are mapped", mapped::MAX_MODULES);
            self.gaps.push(Gap::new("/rows", Reason::LimitReached).detail(detail));
        }
        let is_target = self.subjects.is_empty();
        if is_target {
            let nameless = layout.writable_code.iter().filter(|(_, name)| name.first() != Some(&b'/'));
            self.writable_code = nameless
                .map(|(avma, name)| Range {
                    address: Hex(avma.start),
                    size_bytes: avma.end - avma.start,
                    name: Some(Text::from_bytes(name)).filter(|name| !name.is_empty()),
                })
                .collect();
        }
        let mounts = match place::Mounts::of(&process) {
            Ok(mounts) => Some(mounts),
            Err(failure) => {
                self.gaps.push(run.gap("/rows", &failure));
                None
            }
        };
        // Needed only where a file cannot serve: its denial is told there.
        let (memory, memory_failure) = match process.memory() {
            Ok(memory) => {
                mapped::keep_in_reach(&process, &layout, &memory);
                (Some(Arc::new(memory)), None)
            }
            Err(failure) => (None, Some(failure)),
        };
        let mut its = Vec::new();
        for file in layout.files {
            let key = (file.path.clone(), file.device, file.inode);
            let subject = self.subjects.len();
            let at = *known.entry(key).or_insert_with(|| {
                self.items.push(Item { subject, file, pids: Vec::new() });
                self.items.len() - 1
            });
            self.items[at].pids.push(process.pid());
            its.push(at);
        }
        self.items_of.push(its);
        self.subjects.push(Subject { process, memory, memory_failure, mounts, is_target });
    }

    /// The row of each item; `None` for what is no ELF file.
    fn look(&mut self, run: &Run, options: &Options) -> Vec<Option<Noted<Row>>> {
        let rows = in_halves(&self.items, WORTH_A_THREAD, |some| {
            some.iter()
                .map(|item| {
                    let mut noted = look::look(run, &self.subjects[item.subject], &item.file, options)?;
                    noted.value.pids = options.all.then(|| item.pids.clone());
                    Some(noted)
                })
                .collect()
        });
        self.other_files = rows.iter().filter(|row| row.is_none()).count() as u64;
        rows
    }

    /// Says what each module got for what it needs, and how it came to be mapped.
    fn link(&mut self, run: &Run, mut rows: Vec<Option<Noted<Row>>>) -> Vec<Noted<Row>> {
        for (at, subject) in self.subjects.iter().enumerate() {
            let its: Vec<usize> = self.items_of[at].iter().copied().filter(|item| rows[*item].is_some()).collect();
            let owned: Vec<OwnedLinks> =
                its.iter().filter_map(|item| rows[*item].as_ref()).map(OwnedLinks::of).collect();
            let links: Vec<Links<'_>> = owned.iter().map(OwnedLinks::as_links).collect();
            let (preload, failure) = loaded::preload(&subject.process);
            if let Some(failure) = failure {
                self.gaps.push(run.gap("/summary/preloaded", &failure));
            }
            let executable = match subject.process.link("exe") {
                Ok(path) => Some(path.strip_suffix(b" (deleted)").map_or(path.clone(), <[u8]>::to_vec)),
                Err(failure) => {
                    self.gaps.push(
                        run.gap("/rows", &failure).detail("the executable: how modules were loaded is not known"),
                    );
                    None
                }
            };
            let loaded = loaded::classify(&links, executable.as_deref(), &preload);
            let index = Index::new(&links);
            for (place, item) in its.iter().enumerate() {
                // Told once, for the first process that has it.
                if self.items[*item].subject != at {
                    continue;
                }
                let Some(noted) = rows[*item].as_mut() else { continue };
                noted.value.loaded = loaded[place];
                for (needed, name) in noted.value.needed.iter_mut().flatten().zip(&links[place].needed) {
                    needed.path = index.find(name).map(|found| Text::from_bytes(links[found].path));
                }
            }
        }
        rows.into_iter().flatten().collect()
    }

    /// Names the packages.
    fn own(&mut self, process: &Process<'_>, rows: &mut [Noted<Row>]) {
        let in_image = |row: &Row| row.outside_image != Some(true);
        let paths: Vec<Vec<u8>> =
            rows.iter().filter(|row| in_image(&row.value)).map(|row| row.value.path.to_bytes()).collect();
        let owners = packages::owners(process, &paths, &mut self.gaps);
        for row in rows.iter_mut().filter(|row| in_image(&row.value)) {
            row.value.package = owners.get(&row.value.path.to_bytes()).cloned();
        }
    }

    fn summarize<'a>(&self, rows: impl Iterator<Item = &'a Row>, options: &Options) -> Summary {
        let mut summary = Summary {
            other_files: self.other_files,
            processes: self.subjects.len() as u64,
            modified: options.verify.then_some(0),
            writable_code: self.writable_code.clone(),
            ..Summary::default()
        };
        for row in rows {
            summary.modules += 1;
            summary.deleted_or_replaced += u64::from(row.deleted || row.replaced);
            summary.outside_image += u64::from(row.outside_image == Some(true));
            summary.preloaded += u64::from(row.loaded == Some("preload"));
            summary.loaded_later += u64::from(row.loaded == Some("dlopen"));
            if let Some(modified) = &mut summary.modified {
                *modified += u64::from(row.verified.as_ref().is_some_and(|verified| verified.changed_pages > 0));
            }
        }
        summary
    }

    /// Notes the addresses that lie in no module.
    fn not_located(&mut self, options: &Options, rows: &[Noted<Row>]) {
        for address in &options.addresses {
            let found = rows.iter().filter_map(|row| row.value.addresses.as_ref()).flatten();
            if !found.into_iter().any(|one| one.address == *address) {
                let detail = format!("{address} lies in no ELF file that is mapped");
                self.gaps.push(Gap::new("/rows", Reason::NotFound).detail(detail));
            }
        }
    }
}

/// The other processes of the target's control groups, by pid; not our own.
fn others<'r>(run: &'r Run, target: &Process<'r>) -> Result<Vec<Process<'r>>, Failure> {
    let (mut group, mut its) = (Vec::new(), Vec::new());
    target.read_piece("cgroup", &mut group)?;
    let own_pid = run.is_live().then(own::pid);
    let pids = run.pids()?.into_iter().filter(|pid| *pid != target.pid() && Some(*pid) != own_pid);
    let process = |pid| {
        let process = run.process(pid).ok()?;
        process.read_piece("cgroup", &mut its).ok()?;
        (its == group).then_some(process)
    };
    Ok(pids.filter_map(process).collect())
}

/// The names of a row as bytes.
struct OwnedLinks {
    path: Vec<u8>,
    soname: Option<Vec<u8>>,
    interpreter: Option<Vec<u8>>,
    needed: Vec<Vec<u8>>,
}

impl OwnedLinks {
    fn of(row: &Noted<Row>) -> Self {
        let row = &row.value;
        Self {
            path: row.path.to_bytes(),
            soname: row.soname.as_ref().map(Text::to_bytes),
            interpreter: row.interpreter.as_ref().map(Text::to_bytes),
            needed: row.needed.iter().flatten().map(|needed| needed.name.to_bytes()).collect(),
        }
    }

    fn as_links(&self) -> Links<'_> {
        Links {
            path: &self.path,
            soname: self.soname.as_deref(),
            interpreter: self.interpreter.as_deref(),
            needed: self.needed.iter().map(Vec::as_slice).collect(),
        }
    }
}

fn compared(run: &Run, path: &str, rows: &[Noted<Row>]) -> Result<compare::Comparison, Box<Gap>> {
    const AT: &str = "/summary/comparison";
    let bytes = run.own_file(path, compare::MAX_FILE).map_err(|failure| Box::new(run.gap(AT, &failure)))?;
    let malformed = |what: &str| Box::new(Gap::new(AT, Reason::Malformed).path(path).detail(what));
    let before = compare::rows(&bytes).map_err(malformed)?;
    let after: Result<Vec<serde_json::Value>, _> = rows.iter().map(|row| serde_json::to_value(&row.value)).collect();
    let after = after.map_err(|error| malformed(&error.to_string()))?;
    Ok(compare::compare(&before, &after))
}
