//! One module: its file opened once, and all that is asked about it.

use std::sync::Arc;

use agent_model::{Gap, Hex, Noted, Reason, Text, Wide};
use agent_system::memory::Memory;
use agent_system::{Cause, Failure, Process, Run};
use sha2::{Digest, Sha256};

use super::Options;
use super::ask;
use super::place::{self, Mounts};
use super::row::{Needed, Range, Requirement, Row};
use super::verify;
use crate::elf::{ElfError, Source};
use crate::mapped::{self, Image, Mapped, OpenError, Opened};
use crate::provenance::{self, cargo, go, runtime};
use crate::{hardening, modules::loaded};

/// A process whose modules are looked at.
pub(super) struct Subject<'r> {
    /// It.
    pub process: Process<'r>,
    /// Its memory, where it may be read.
    pub memory: Option<Arc<Memory<'r>>>,
    /// Why not.
    pub memory_failure: Option<Failure>,
    /// Its mounts, where they may be read.
    pub mounts: Option<Mounts>,
    /// Whether it is the target itself.
    pub is_target: bool,
}

/// Looks at one file: `None` where it is no ELF file.
pub(super) fn look(run: &Run, subject: &Subject<'_>, file: &Mapped, options: &Options) -> Option<Noted<Row>> {
    let mut noted = match mapped::open(&subject.process, file, subject.memory.as_ref()) {
        Ok(opened) => known(run, subject, file, &opened, options),
        Err(OpenError::Elf(ElfError::NotElf)) => return None,
        Err(error) => unknown(run, file, &error),
    };
    if let Some((is_outside, point)) = subject.mounts.as_ref().and_then(|mounts| mounts.outside(&file.path)) {
        noted.value.outside_image = Some(is_outside);
        noted.value.mount_point = point;
    }
    Some(noted)
}

/// What `maps` says of a module.
fn bare(file: &Mapped) -> Row {
    let size = |piece: &mapped::Piece| piece.avma.end - piece.avma.start;
    Row {
        path: Text::from_bytes(&file.path),
        address: Hex(file.start()),
        mapped_bytes: file.pieces.iter().map(size).sum(),
        device: format!("{}:{}", file.device.0, file.device.1),
        inode: Wide(file.inode),
        deleted: file.deleted,
        writable_code: file
            .pieces
            .iter()
            .filter(|piece| piece.executable && piece.writable)
            .map(|piece| Range { address: Hex(piece.avma.start), size_bytes: size(piece), name: None })
            .collect(),
        ..Row::default()
    }
}

fn text(value: &str) -> Text {
    Text::from_bytes(value.as_bytes())
}

fn texts(values: &[String]) -> Vec<Text> {
    values.iter().map(|value| text(value)).collect()
}

fn known(run: &Run, subject: &Subject<'_>, file: &Mapped, opened: &Opened<'_>, options: &Options) -> Noted<Row> {
    let elf = &opened.elf;
    let facts = elf.facts();
    let on_disk = !opened.from_memory;
    let optional = |value: &Option<String>| value.as_deref().map(text);
    let versions = elf.versions();
    let (hardening, imported_symbols) = hardening::with_imports(elf);
    let row = Row {
        build_id: facts.build_id.clone(),
        go_build_id: optional(&facts.go_build_id),
        kind: Some(facts.elf_type.as_str()),
        machine: Some(facts.machine.to_string()),
        interpreter: optional(&facts.interpreter),
        soname: optional(&facts.soname),
        needed: Some(facts.needed.iter().map(|name| Needed { name: text(name), path: None }).collect()),
        rpath: optional(&facts.rpath),
        runpath: optional(&facts.runpath),
        versions_required: Some(
            versions
                .required
                .iter()
                .map(|one| Requirement { library: text(&one.library), versions: texts(&one.versions) })
                .collect(),
        ),
        versions_defined: Some(texts(&versions.defined)),
        imported_symbols,
        stripped: on_disk.then(|| facts.debug.is_stripped()),
        debug: on_disk.then(|| debug_words(facts)),
        debug_link: facts.debug.debug_link.as_ref().map(|link| text(&link.file)),
        debug_file: if on_disk { place::debug_file(&subject.process, file, elf) } else { None },
        compilers: on_disk.then(|| provenance::compilers(elf).iter().map(|one| Text::from_bytes(one)).collect()),
        hardening: Some(hardening),
        package_note: optional(&facts.package_note),
        runtimes: runtime::find(elf, &String::from_utf8_lossy(loaded::base(&file.path))),
        size_bytes: match &opened.image {
            Image::File(file) => Some(file.length),
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
    for problem in elf.problems().iter().chain(&versions.problems) {
        noted.gaps.push(malformed("", file, problem.to_string()));
    }
    built_from(file, opened, &mut noted);
    asked(run, subject, file, opened, options, &mut noted);
    noted
}

fn malformed(at: &str, file: &Mapped, detail: String) -> Gap {
    Gap::new(at, Reason::Malformed).path(Text::from_bytes(&file.path)).detail(detail)
}

fn debug_words(facts: &crate::elf::Facts) -> Vec<&'static str> {
    let debug = &facts.debug;
    let words = [
        (debug.debug_info, "debug_info"),
        (debug.debug_link.is_some(), "debug_link"),
        (debug.mini_debug_info, "mini_debug_info"),
        (debug.go_function_table, "go_function_table"),
    ];
    words.into_iter().filter(|(has, _)| *has).map(|(_, word)| word).collect()
}

fn built_from(file: &Mapped, opened: &Opened<'_>, noted: &mut Noted<Row>) {
    match go::read(&opened.elf) {
        Ok(Some(build)) => {
            let version = build.go_version.as_str();
            let version = version.strip_prefix("go").unwrap_or(version);
            noted.value.runtimes.push(runtime::Runtime { name: "go", version: text(version) });
            noted.value.go = Some(build);
        }
        Ok(None) => {}
        Err(what) => noted.gaps.push(malformed("/go", file, what)),
    }
    match cargo::read(&opened.elf) {
        Ok(crates) => noted.value.crates = crates,
        Err(what) => noted.gaps.push(malformed("/crates", file, what)),
    }
}

/// What only some options ask for.
fn asked(
    run: &Run,
    subject: &Subject<'_>,
    file: &Mapped,
    opened: &Opened<'_>,
    options: &Options,
    noted: &mut Noted<Row>,
) {
    let no_file = || Failure {
        path: Text::from_bytes(&file.path),
        cause: Cause::Unsupported("the file that is mapped is no longer there"),
        pid: Some(subject.process.pid()),
    };
    if options.hash {
        match if opened.from_memory { Err(no_file()) } else { sha256(run, file, opened) } {
            Ok(hash) => noted.value.sha256 = Some(hash),
            Err(failure) => noted.gaps.push(run.gap("/sha256", &failure)),
        }
    }
    if options.verify {
        let verified = match (&subject.memory, opened.from_memory) {
            (_, true) => Err(no_file()),
            (Some(memory), false) => verify::verify(&subject.process, file, &opened.elf, memory),
            (None, false) => Err(subject.memory_failure.clone().unwrap_or_else(no_file)),
        };
        match verified {
            Ok(verified) => noted.value.verified = Some(verified),
            Err(failure) => noted.gaps.push(run.gap("/verified", &failure)),
        }
    }
    if let Some(pattern) = &options.symbols {
        let (symbols, more) = ask::named(&opened.elf, file.bias(&opened.elf), pattern);
        if more {
            let detail = format!("more than {} symbols", ask::MAX_NAMED);
            noted.gaps.push(Gap::new("/symbols", Reason::LimitReached).detail(detail));
        }
        noted.value.symbols = Some(symbols).filter(|symbols| !symbols.is_empty());
    }
    if !options.addresses.is_empty() && subject.is_target {
        let located = ask::located(&opened.elf, file, &options.addresses);
        noted.value.addresses = Some(located).filter(|located| !located.is_empty());
    }
}

/// Bytes that are hashed at once.
const CHUNK: usize = 128 * 1024;

fn sha256(run: &Run, file: &Mapped, opened: &Opened<'_>) -> Result<String, Failure> {
    let fail = |cause| Failure { path: Text::from_bytes(&file.path), cause, pid: None };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    // A file that grows meanwhile ends where it ended when it was opened.
    let length = opened.image.len();
    while at < length {
        if run.is_over() {
            return Err(fail(Cause::Timeout("the time of this command is over")));
        }
        let wanted = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
        let read = opened.image.read_at(at, &mut buffer[..wanted]);
        match read {
            Ok(0) => return Err(fail(Cause::Malformed("the file ended while it was read"))),
            Ok(read) => {
                hash.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) => {
                let errno =
                    error.raw_os_error().map_or(agent_system::Errno::IO, agent_system::Errno::from_raw_os_error);
                return Err(fail(errno.into()));
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unknown(run: &Run, file: &Mapped, error: &OpenError) -> Noted<Row> {
    let gap = match error {
        OpenError::Failed(failure) => run.gap("/build_id", failure),
        OpenError::Elf(error) => malformed("/build_id", file, error.to_string()),
    };
    Noted { value: bare(file), gaps: vec![gap] }
}
