//! `maps`: what a process has in its address space, and what of it is in memory.
//!
//! One pass over `smaps` (proc_pid_smaps(5)), line by line. What was measured of
//! the other doors, on Linux 6.18 at 5,000 and 60,000 mappings:
//!
//! - PROCMAP_QUERY (Linux 6.11) takes 0.8 to 1.0 us a mapping, one ioctl(2) each,
//!   and the text of `maps` 0.4 us, some eighty mappings a read(2). It is
//!   the better door to one mapping, and not to all of them.
//! - PAGEMAP_SCAN (Linux 6.7) takes an eighth of what `smaps` takes, but tells
//!   present, swapped, file and written pages only: no PSS, nothing on who else
//!   maps a page. It also needs the owner's uid, where `smaps` needs just ptrace's
//!   access check. It gives nothing that `smaps` does not.
//! - `numa_maps` walks the page tables a second time: hence --numa.

mod change;
mod figures;
mod flags;
mod kind;
mod line;
mod numa;
mod row;
mod store;
mod summary;
mod threads;

use std::ops::ControlFlow;
use std::time::Duration;

use agent_model::{Data, Gap, Gathered, Json, Reason, json};
use agent_system::{Capability, Cause, Collector, Directory, Failure, Process, Run, Watch, parse};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

pub use change::{Changes, Growth, Named};
pub use figures::Usage;
pub use flags::Flags;
pub use kind::Failed;
pub use row::{Device, Node, Row};
pub use store::{Mapping, Shared};
pub use summary::{Finding, OfFile, OfKind, Share, Summary};

use figures::Figures;
use kind::{Facts, Kind};
use line::{Line, Reader};
use store::{Builder, MOST_TEXT};
use threads::Stacks;

/// So many mappings are kept, if not more are to be listed. The kernel allows a process 65,530 by default
/// (`vm.max_map_count`).
const MOST_ROWS: u32 = 70_000;

/// The collector of mappings.
pub struct Maps;

/// Options of `maps`.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub struct Options {
    /// Only what the mappings are, not what of them is in memory: no walk over the page tables
    #[arg(long, conflicts_with = "summary")]
    no_smaps: bool,
    /// Only the totals, as the kernel sums them up
    #[arg(long)]
    summary: bool,
    /// Also on which NUMA nodes the memory is: another walk over the page tables
    #[arg(long, conflicts_with = "summary")]
    numa: bool,
    /// List at most this many mappings; the totals are those of all
    #[arg(long, value_name = "N", default_value_t = MOST_ROWS)]
    max_rows: u32,
    #[command(flatten)]
    #[serde(flatten)]
    watch: Watch,
}

/// The mappings of the target, and totals.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Mappings {
    /// One entry each, by `start`; absent with --summary, and where they could not
    /// be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Mapping>>,
    /// Totals over all of them.
    pub summary: Summary,
}

impl Data for Mappings {
    fn write(&self, json: &mut Json<'_>) -> Result<(), json::Error> {
        self.serialize(json)
    }

    fn row_count(&self) -> Option<usize> {
        self.rows.as_ref().map(Vec::len)
    }

    fn row(&self, index: usize) -> Option<&dyn erased_serde::Serialize> {
        self.rows.as_ref()?.get(index).map(|row| row as _)
    }

    fn summary(&self) -> Option<&dyn erased_serde::Serialize> {
        Some(&self.summary)
    }

    fn cut(&mut self, count: usize) -> bool {
        self.rows.as_mut().map(|rows| rows.truncate(count)).is_some()
    }
}

impl Collector for Maps {
    const NAME: &'static str = "maps";
    const ABOUT: &'static str = "Memory mappings: what each is, what of it is in memory, and totals";
    const MANUAL: &'static str = "\
Rows come by address. Figures are those of proc_pid_smaps(5), in bytes.

  agent maps                        a table on a terminal, JSON in a pipe
  agent maps --summary              totals only
  agent maps --watch 6 --interval 10s | jq -c '.data.rows[] | select(.rss_growth_bytes > 0)'
  agent maps -o ndjson | jq 'select(.kind == \"heap\") | .pss_bytes'
  agent maps | jq '.data.summary.kinds'
  agent maps | jq '.data.summary.hardening[] | select(.level == \"warn\")'

What it costs the target: while the kernel counts pages it holds the lock of the
target's address space (mmap_lock) for reading, so that the target's own mmap(2),
munmap(2) and brk(2) wait, and page faults may. It lets go of it after each piece of
4 KiB of text, which is about five mappings, so a wait is as long as the count of
one large mapping: about 20 ms for each GiB that is in memory in small pages.
--summary is one such walk, which lets go between mappings when somebody waits.
--no-smaps counts nothing and is the gentlest look.

How pages are shared depends on the other processes of the machine: of a target that
stands still, `pss_bytes` and the split into shared and private may still change.

--watch tells by how much each mapping has grown between two looks, and which came
and went; one that was split has shrunk, and its other parts have come.

Nothing is stopped for it. Mappings that come or go meanwhile are a gap, as is a
thread whose stack pointer is not shown because it runs. A stack is said to be a
thread's when its stack pointer lies in it and a guard lies below it; runtimes with
stacks of their own (Go) keep them in anonymous memory, where `tids` names the threads
that are there. Memory of a file's .bss is `anonymous`: the kernel does not tell.";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    type Options = Options;
    type Data = Mappings;

    fn watch(options: &Options) -> Watch {
        options.watch
    }

    fn compare(before: &Mappings, now: &mut Mappings, elapsed: Duration) {
        change::compare(before, now, elapsed);
    }

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Mappings>, Failure> {
        let process = run.target_process()?;
        if options.summary { rollup(run, &process) } else { all(run, &process, options) }
    }
}

/// Hands the lines of `file` to `each`.
fn lines(directory: &Directory<'_>, file: &str, mut each: impl FnMut(&[u8])) -> Result<(), Failure> {
    directory.lines(file, |line| {
        each(line);
        ControlFlow::Continue(())
    })
}

/// The gap for `failure` at `at`, and what it means for the answer.
fn gap(run: &Run, at: &str, failure: &Failure, meaning: &str) -> Gap {
    let mut gap = run.gap(at, failure);
    gap.detail = Some(match gap.detail {
        Some(detail) => format!("{detail}; {meaning}"),
        None => meaning.to_owned(),
    });
    gap
}

/// The totals, by `smaps_rollup` (Linux 4.14).
fn rollup(run: &Run, process: &Process<'_>) -> Result<Gathered<Mappings>, Failure> {
    let mut reader = Reader::default();
    let mut totals = Figures::default();
    let mut gaps = Vec::new();
    let read = lines(process, "smaps_rollup", |line| {
        if let Line::Figure(figure, value) = reader.line(line) {
            totals.set(figure, value);
        }
    });
    if let Err(failure) = read {
        gaps.push(run.gap("/summary/rss_bytes", &failure));
    }
    let size_bytes = match size(process) {
        Ok(size) => Some(size),
        Err(failure) => {
            gaps.push(run.gap("/summary/size_bytes", &failure));
            None
        }
    };
    Ok(Gathered { data: Mappings { rows: None, summary: Summary::rollup(size_bytes, &totals) }, gaps })
}

/// The size of the address space, by `statm` (proc_pid_statm(5)); 0 once the
/// process has given it up.
fn size(process: &Process<'_>) -> Result<u64, Failure> {
    let mut text = Vec::with_capacity(256);
    process.read_piece("statm", &mut text)?;
    let pages: u64 = text
        .split(|byte| *byte == b' ')
        .next()
        .and_then(parse::number)
        .ok_or_else(|| process.failure("statm", Cause::Malformed("no number of pages")))?;
    Ok(pages.saturating_mul(agent_system::page_bytes()))
}

/// All mappings.
fn all(run: &Run, process: &Process<'_>, options: &Options) -> Result<Gathered<Mappings>, Failure> {
    let stat = process.stat(&mut Vec::with_capacity(1024))?;
    let mut gaps = Vec::new();
    // Those that are not listed are in the totals: what they are is known when all are.
    let mut builder = Builder::new(options.max_rows.max(MOST_ROWS) as usize);
    let leader_is_gone = matches!(stat.state, b'Z' | b'X' | b'x');
    if !read(run, process, options, &mut builder, &mut gaps)? {
        return Ok(Gathered { data: Mappings { rows: None, summary: Summary::default() }, gaps });
    }
    builder.end();
    let mut stacks = if stat.threads > 1 { threads::stacks(run, process) } else { Stacks::default() };
    gaps.append(&mut stacks.gaps);
    if options.numa {
        numa(run, process, &mut builder, &mut gaps);
    }
    doubts(run, process, &builder, leader_is_gone, &mut gaps);
    let leader = (!leader_is_gone).then(|| process.pid());
    tell_stacks(&mut builder, &stacks.pointers, leader);
    tell_kinds(&mut builder);
    let size_bytes = builder.size_bytes.saturating_sub(builder.gate_bytes);
    let Builder { count, totals, mappings, store, .. } = &builder;
    let summary = Summary::new(*count, size_bytes, totals, mappings, store);
    let mut rows = builder.into_rows();
    let most = options.max_rows as usize;
    if rows.len() > most {
        let detail = format!("{} more mappings are in no row; the totals count them", rows.len() - most);
        gaps.push(Gap::new("/rows", Reason::LimitReached).detail(detail).remedy("--max-rows lists more"));
        rows.truncate(most);
    }
    Ok(Gathered { data: Mappings { rows: Some(rows), summary }, gaps })
}

/// Reads `smaps`, or `maps` where that is wanted or `smaps` cannot be had. False
/// when neither can: then there is a gap.
fn read(
    run: &Run,
    process: &Process<'_>,
    options: &Options,
    builder: &mut Builder,
    gaps: &mut Vec<Gap>,
) -> Result<bool, Failure> {
    let files: &[&str] = if options.no_smaps { &["maps"] } else { &["smaps", "maps"] };
    for &file in files {
        let failure = match lines(process, file, |line| builder.line(line)) {
            Ok(()) => return Ok(true),
            Err(failure) => failure,
        };
        if builder.count > 0 {
            gaps.push(gap(run, "/rows", &failure, "the mappings after the last one listed were not read"));
            return Ok(true);
        }
        if failure.is_exited() {
            return Err(failure);
        }
        if file == "smaps" {
            gaps.push(gap(run, "/summary/rss_bytes", &failure, "no figures: only what maps has"));
        } else {
            gaps.push(run.gap("/rows", &failure));
        }
    }
    Ok(false)
}

/// Adds what `numa_maps` says.
fn numa(run: &Run, process: &Process<'_>, builder: &mut Builder, gaps: &mut Vec<Gap>) {
    let Builder { mappings, store, malformed, .. } = builder;
    let read = lines(process, "numa_maps", |line| match numa::line(line) {
        Some((start, numa)) => {
            // One that is not there any more, or was not yet, is left out.
            if let Ok(at) = mappings.binary_search_by_key(&start, |mapping| mapping.start) {
                mappings[at].set_numa(numa, store);
            }
        }
        None => *malformed += 1,
    });
    if let Err(failure) = read {
        gaps.push(gap(run, "/rows", &failure, "no numa_policy and no numa_nodes"));
    }
}

/// Says where the list may be wrong.
fn doubts(run: &Run, process: &Process<'_>, builder: &Builder, leader_is_gone: bool, gaps: &mut Vec<Gap>) {
    if builder.left_out() > 0 {
        let detail = format!(
            "{} more mappings are in no row, kind, file or check; only their number and figures are in the totals",
            builder.left_out()
        );
        gaps.push(Gap::new("/summary", Reason::LimitReached).detail(detail).remedy("--max-rows lists more"));
    }
    let mut doubt = |reason, detail: String| gaps.push(Gap::new("/rows", reason).detail(detail));
    if builder.malformed > 0 {
        doubt(Reason::Malformed, format!("{} lines were not understood", builder.malformed));
    }
    if builder.nameless > 0 {
        let detail =
            format!("{} mappings lack their path: all paths are more than {MOST_TEXT} bytes", builder.nameless);
        doubt(Reason::LimitReached, detail);
    }
    let listed = builder.size_bytes.saturating_sub(builder.gate_bytes);
    match size(process) {
        _ if builder.count == 0 => {
            let what = if leader_is_gone { "the process has ended" } else { "a kernel thread, or it is about to end" };
            doubt(Reason::NotFound, format!("no address space: {what}"));
        }
        // Its files are empty once the first thread is gone.
        Ok(0) if leader_is_gone => {}
        Ok(now) if now == listed => {}
        Ok(0) => doubt(Reason::Exited, "the process ended, or became another program, while it was read".to_owned()),
        Ok(now) => doubt(
            Reason::Incomplete,
            format!("mappings changed while they were read: {listed} bytes are listed, {now} bytes were there after"),
        ),
        // A recorded tree need not have it.
        Err(failure) if failure.is_not_found() && !run.is_live() => {}
        Err(failure) => gaps.push(run.gap("/rows", &failure)),
    }
}

/// Tells the mappings which threads' stack pointers lie in them; `leader` is the
/// thread whose stack the kernel names.
fn tell_stacks(builder: &mut Builder, pointers: &[(u64, u32)], leader: Option<u32>) {
    let Builder { mappings, store, .. } = builder;
    let mut left = pointers.iter().peekable();
    for mapping in mappings {
        if let Some(leader) = leader
            && mapping.named == Some(Kind::Stack)
        {
            mapping.add_tid(leader, store);
        }
        while left.next_if(|(pointer, _)| *pointer < mapping.start).is_some() {}
        while let Some((_, tid)) = left.next_if(|(pointer, _)| *pointer < mapping.end) {
            mapping.add_tid(*tid, store);
        }
    }
}

/// Tells the mappings, which are in order, what they are for.
fn tell_kinds(builder: &mut Builder) {
    let Builder { mappings, store, .. } = builder;
    store.mark_modules(mappings);
    let mut guard_end = None;
    for mapping in mappings {
        let file = mapping.file(store);
        let facts = Facts {
            permissions: mapping.permissions,
            size_bytes: mapping.size_bytes(),
            flags: mapping.flags.unwrap_or_default(),
            named: mapping.named,
            name: mapping.name(store).map_or("", Shared::as_str),
            has_file: mapping.has_file(),
            path: file.and_then(|file| file.path.as_ref()).map(Shared::as_str),
            deleted: file.is_some_and(|file| file.deleted),
            module: file.is_some_and(|file| file.module),
            has_thread: !mapping.tids(store).is_empty(),
            above_guard: guard_end == Some(mapping.start),
        };
        let kind = facts.kind();
        let anonymous = if kind == Kind::Code { mapping.figures(store).get(figures::Figure::Anonymous) } else { None };
        let failed = Failed::of(kind, &facts, anonymous);
        (mapping.kind, mapping.failed) = (kind, failed);
        if kind == Kind::Guard {
            guard_end = Some(mapping.end);
        }
    }
}
