//! `modules`: every ELF file that is mapped in the target.

use std::sync::Arc;

use agent_model::{Gap, Gathered, Hex, Listing, Noted, Reason, Text, Wide};
use agent_system::{Capability, Collector, Failure, NoOptions, Run};
use schemars::JsonSchema;
use serde::Serialize;

use crate::elf::ElfError;
use crate::mapped::{self, Layout, Mapped, OpenError, Opened};

/// The collector of modules.
pub struct Modules;

/// One ELF file. What it says about itself is absent, with a gap, where it could
/// not be read.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Row {
    /// Its path in the target's mount namespace.
    #[schemars(extend("x-column" = "PATH"))]
    pub path: Text,
    /// The lowest address that it is mapped at (AVMA).
    #[schemars(extend("x-column" = "ADDRESS"))]
    pub address: Hex,
    /// GNU build ID, in hex; absent if it was linked without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "BUILD ID"))]
    pub build_id: Option<String>,
    /// Go's own build ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub go_build_id: Option<Text>,
    /// `pie`, `static_pie`, `executable`, `static`, `shared`, `relocatable`, `core`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "TYPE"))]
    pub kind: Option<&'static str>,
    /// Instruction set, as ELF names it: `x86_64`, `aarch64`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The dynamic loader that it asks for (PT_INTERP).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<Text>,
    /// The name that it is linked by (DT_SONAME).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soname: Option<Text>,
    /// The libraries that it asks for (DT_NEEDED), in its own order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed: Option<Vec<Text>>,
    /// Where these are looked for first (DT_RPATH).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpath: Option<Text>,
    /// Where these are looked for (DT_RUNPATH).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runpath: Option<Text>,
    /// Whether it lacks a symbol table (`.symtab`). Not known for a module that was
    /// read from memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "STRIPPED"))]
    pub stripped: Option<bool>,
    /// What debug data it has or points to: any of `debug_info`, `debug_link`,
    /// `mini_debug_info`, `go_function_table`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug: Option<Vec<&'static str>>,
    /// The file that holds its debug data (`.gnu_debuglink`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug_link: Option<Text>,
    /// Bytes of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SIZE"))]
    pub size_bytes: Option<u64>,
    /// Bytes of address space that it is mapped to.
    pub mapped_bytes: u64,
    /// Device of the file as `/proc/PID/maps` has it, `major:minor`.
    pub device: String,
    /// Inode of the file, as `/proc/PID/maps` has it.
    pub inode: Wide,
    /// Whether the file that is mapped has no name any more.
    #[schemars(extend("x-column" = "DELETED"))]
    pub deleted: bool,
    /// Whether another file stands at its path now.
    #[schemars(extend("x-column" = "REPLACED"))]
    pub replaced: bool,
    /// Where the facts were read: `file` or `memory`; absent where they were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
}

/// Totals over the modules.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// ELF files.
    pub modules: u64,
    /// Files that are mapped and are no ELF files (archives, locales, data).
    pub other_files: u64,
    /// Modules whose file was deleted or replaced: the code that runs is not the
    /// code on disk.
    pub deleted_or_replaced: u64,
}

impl Collector for Modules {
    const NAME: &'static str = "modules";
    const ABOUT: &'static str = "ELF files mapped in the target: build ID, type, needed libraries";
    const MANUAL: &'static str = "\
Rows come by path. Each file is read below the target's root directory if it is
still the one that is mapped, else from the target's memory.

  agent modules                              which code really runs
  agent modules -o ndjson | jq 'select(.deleted or .replaced) | .path'";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    type Options = NoOptions;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, _: &NoOptions) -> Result<Gathered<Self::Data>, Failure> {
        let process = run.target_process()?;
        let mut gaps = Vec::new();
        let layout = match Layout::of(&process) {
            Ok(layout) => layout,
            Err(failure) if failure.is_exited() => return Err(failure),
            Err(failure) => {
                gaps.push(run.gap("/rows", &failure));
                Layout::default()
            }
        };
        if layout.truncated {
            let detail = format!("more than {} files are mapped", mapped::MAX_MODULES);
            gaps.push(Gap::new("/rows", Reason::LimitReached).detail(detail));
        }
        // Needed only where a file cannot serve: its denial is told there.
        let memory = process.memory().ok().map(Arc::new);
        let mut others = 0;
        let mut rows: Vec<Noted<Row>> = Vec::new();
        for file in &layout.files {
            match mapped::open(&process, file, memory.as_ref()) {
                Ok(opened) => rows.push(known(run, file, &opened)),
                Err(OpenError::Elf(ElfError::NotElf)) => others += 1,
                Err(error) => rows.push(unknown(run, file, &error)),
            }
        }
        rows.sort_by(|a, b| (&a.value.path, a.value.address).cmp(&(&b.value.path, b.value.address)));
        Ok(Gathered::rows(rows, gaps, |rows| Summary {
            modules: rows.len() as u64,
            other_files: others,
            deleted_or_replaced: rows.iter().filter(|row| row.deleted || row.replaced).count() as u64,
        }))
    }
}

/// What `maps` says of a module.
fn bare(file: &Mapped) -> Row {
    Row {
        path: Text::from_bytes(&file.path),
        address: Hex(file.start()),
        build_id: None,
        go_build_id: None,
        kind: None,
        machine: None,
        interpreter: None,
        soname: None,
        needed: None,
        rpath: None,
        runpath: None,
        stripped: None,
        debug: None,
        debug_link: None,
        size_bytes: None,
        mapped_bytes: file.pieces.iter().map(|piece| piece.avma.end - piece.avma.start).sum(),
        device: format!("{}:{}", file.device.0, file.device.1),
        inode: Wide(file.inode),
        deleted: file.deleted,
        replaced: false,
        source: None,
    }
}

fn known(run: &Run, file: &Mapped, opened: &Opened<'_>) -> Noted<Row> {
    let facts = opened.elf.facts();
    let text = |value: &Option<String>| value.as_deref().map(Text::from);
    let mut debug = Vec::new();
    for (has, word) in [
        (facts.debug.debug_info, "debug_info"),
        (facts.debug.debug_link.is_some(), "debug_link"),
        (facts.debug.mini_debug_info, "mini_debug_info"),
        (facts.debug.go_function_table, "go_function_table"),
    ] {
        if has {
            debug.push(word);
        }
    }
    let on_disk = !opened.from_memory;
    let row = Row {
        build_id: facts.build_id.clone(),
        go_build_id: text(&facts.go_build_id),
        kind: Some(facts.elf_type.as_str()),
        machine: Some(facts.machine.to_string()),
        interpreter: text(&facts.interpreter),
        soname: text(&facts.soname),
        needed: Some(facts.needed.iter().map(|name| Text::from(name.as_str())).collect()),
        rpath: text(&facts.rpath),
        runpath: text(&facts.runpath),
        stripped: on_disk.then(|| facts.debug.is_stripped()),
        debug: on_disk.then_some(debug),
        debug_link: facts.debug.debug_link.as_ref().map(|link| Text::from(link.file.as_str())),
        size_bytes: match &opened.image {
            mapped::Image::File(file) => Some(file.length),
            _ => None,
        },
        replaced: opened.replaced,
        source: Some(if on_disk { "file" } else { "memory" }),
        ..bare(file)
    };
    let mut noted = Noted::new(row);
    if let Some(failure) = &opened.file_failure {
        // A deleted or replaced file is a fact of the row; a denial is not.
        let gap = run.gap("/stripped", failure).detail("the file could not be read: these facts are from memory");
        noted.gaps.push(if file.deleted || opened.replaced { Gap { reason: Reason::NotFound, ..gap } } else { gap });
    }
    for problem in opened.elf.problems() {
        let gap = Gap::new("", Reason::Malformed).path(Text::from_bytes(&file.path)).detail(problem.to_string());
        noted.gaps.push(gap);
    }
    noted
}

fn unknown(run: &Run, file: &Mapped, error: &OpenError) -> Noted<Row> {
    let gap = match error {
        OpenError::Failed(failure) => run.gap("/build_id", failure),
        OpenError::Elf(error) => {
            Gap::new("/build_id", Reason::Malformed).path(Text::from_bytes(&file.path)).detail(error.to_string())
        }
    };
    Noted { value: bare(file), gaps: vec![gap] }
}
