//! The ELF files that a process has mapped, and where to read them.
//!
//! A module is read from its file, below the target's root directory, if that is
//! still the file that is mapped; else from the target's memory, as far as it is
//! there.

use std::collections::HashMap;
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use agent_system::memory::Memory;
use agent_system::parse::{mapping, mapping_path};
use agent_system::root::TargetFile;
use agent_system::{Cause, Failure, Process};

use crate::elf::{ElfError, ElfFile, Source};

/// Modules of one process that are looked at. A large JVM has some hundreds.
pub const MAX_MODULES: usize = 16_384;

/// What tells one mapped file from another: path, device and inode.
pub type FileKey = (Vec<u8>, (u32, u32), u64);

/// One mapping of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it lies (AVMA).
    pub avma: Range<u64>,
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// Whether code may run there.
    pub executable: bool,
    /// Whether it may be written.
    pub writable: bool,
}

/// A file that is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Its path in the target's mount namespace, without ` (deleted)`.
    pub path: Vec<u8>,
    /// Whether it has no name any more.
    pub deleted: bool,
    /// Its device, as `maps` has it.
    pub device: (u32, u32),
    /// Its inode number.
    pub inode: u64,
    /// Its mappings, by address.
    pub pieces: Vec<Piece>,
}

impl Mapped {
    /// The lowest address that it is mapped at (AVMA).
    pub fn start(&self) -> u64 {
        self.pieces.first().map_or(0, |piece| piece.avma.start)
    }

    /// The executable mappings, from the first to the last.
    pub fn code(&self) -> Option<Range<u64>> {
        let mut code = self.pieces.iter().filter(|piece| piece.executable);
        let first = code.next()?;
        let last = code.next_back().unwrap_or(first);
        Some(first.avma.start..last.avma.end)
    }

    /// AVMA minus SVMA, by the file's own program headers.
    pub fn bias<S: Source>(&self, elf: &ElfFile<S>) -> Option<u64> {
        let code_first = self.pieces.iter().filter(|piece| piece.executable).chain(&self.pieces);
        code_first
            .filter_map(|piece| elf.facts().bias_of_mapping(piece.avma.start, piece.offset, piece.executable))
            .next()
    }
}

/// What is mapped in a process.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// Its files, in the order of their first address.
    pub files: Vec<Mapped>,
    /// Executable memory that is no file's: what a runtime has compiled.
    pub anonymous_code: Vec<Range<u64>>,
    /// Memory that may be written and run, with the name that `maps` gives it.
    pub writable_code: Vec<(Range<u64>, Vec<u8>)>,
    /// Where the kernel has mapped its vDSO.
    pub vdso: Option<Range<u64>>,
    /// All mappings that may be read and written: where a stack may lie. Those of no
    /// file are joined where they touch.
    pub stacks: Vec<Range<u64>>,
    /// There were more than [`MAX_MODULES`] files.
    pub truncated: bool,
}

impl Layout {
    /// Reads `maps` of `process`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn of(process: &Process<'_>) -> Result<Self, Failure> {
        let mut layout = Self::default();
        let mut index: HashMap<FileKey, usize> = HashMap::new();
        let mut may_join = false;
        process.lines("maps", |line| {
            if let Some(found) = mapping(line) {
                if found.permissions[0] == b'r' && found.is_writable() {
                    match layout.stacks.last_mut() {
                        Some(last) if last.end == found.start && may_join && !found.is_file() => last.end = found.end,
                        _ => layout.stacks.push(found.start..found.end),
                    }
                }
                may_join = !found.is_file();
                let avma = found.start..found.end;
                if found.is_executable() && found.is_writable() {
                    layout.writable_code.push((avma.clone(), mapping_path(found.name)));
                }
                if found.is_file() {
                    let key = (found.name.to_vec(), found.device, found.inode);
                    let at = *index.entry(key).or_insert_with(|| {
                        let path = found.name.strip_suffix(b" (deleted)").unwrap_or(found.name);
                        layout.files.push(Mapped {
                            path: mapping_path(path),
                            deleted: path.len() != found.name.len(),
                            device: found.device,
                            inode: found.inode,
                            pieces: Vec::new(),
                        });
                        layout.files.len() - 1
                    });
                    let piece = Piece {
                        avma,
                        offset: found.offset,
                        executable: found.is_executable(),
                        writable: found.is_writable(),
                    };
                    layout.files[at].pieces.push(piece);
                } else if found.name == b"[vdso]" {
                    layout.vdso = Some(avma);
                } else if found.is_executable() && found.name != b"[vsyscall]" {
                    layout.anonymous_code.push(avma);
                }
            }
            layout.truncated = layout.files.len() > MAX_MODULES;
            if layout.truncated { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(layout)
    }
}

/// The bytes of a module.
#[derive(Debug, Clone)]
pub enum Image<'r> {
    /// Of its file.
    File(Arc<TargetFile<'r>>),
    /// Of the target's memory.
    Memory {
        /// The target's memory.
        memory: Arc<Memory<'r>>,
        /// Where the image lies.
        avma: Range<u64>,
    },
    /// A copy of them.
    Copy(Arc<Vec<u8>>),
}

impl Source for Image<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.length,
            Self::Memory { avma, .. } => avma.end - avma.start,
            Self::Copy(bytes) => Source::len(&**bytes),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let io_error = |failure: Failure| match failure.errno() {
            Some(errno) => io::Error::from(errno),
            None => io::Error::other(failure),
        };
        match self {
            Self::File(file) => file.read_at(offset, buffer).map_err(io_error),
            Self::Memory { memory, avma } => {
                let Some(left) = (avma.end - avma.start).checked_sub(offset) else { return Ok(0) };
                let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                memory.read(avma.start.wrapping_add(offset), &mut buffer[..wanted]).map_err(io_error)
            }
            Self::Copy(bytes) => bytes.read_at(offset, buffer),
        }
    }
}

/// A module with its ELF facts.
#[derive(Debug)]
pub struct Opened<'r> {
    /// What it says about itself.
    pub elf: ElfFile<Image<'r>>,
    /// Its bytes.
    pub image: Image<'r>,
    /// Whether they are the target's memory, since the file could not serve.
    pub from_memory: bool,
    /// Why the file could not serve.
    pub file_failure: Option<Failure>,
    /// Whether another file stands at its path now.
    pub replaced: bool,
}

/// Why a module could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is no ELF file.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Neither its file nor its memory can be read.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Opens the module `mapped` of `process`; `memory` is the target's, where it may
/// be read.
///
/// # Errors
///
/// When it is no ELF file, or can be read neither from its file nor from memory:
/// the failure of the file is given.
pub fn open<'r>(
    process: &Process<'r>,
    mapped: &Mapped,
    memory: Option<&Arc<Memory<'r>>>,
) -> Result<Opened<'r>, OpenError> {
    let file = if mapped.deleted {
        let mut failure = Failure::new(agent_model::Text::from_bytes(&mapped.path), Cause::from(NOT_FOUND));
        failure.pid = Some(process.pid());
        Err(failure)
    } else {
        process.open_in_root(&mapped.path)
    };
    let (failure, replaced) = match file {
        Ok(file) => {
            let file = Arc::new(file);
            if is_mapped_file(&file, mapped, memory) {
                let image = Image::File(file);
                let elf = ElfFile::parse(image.clone())?;
                return Ok(Opened { elf, image, from_memory: false, file_failure: None, replaced: false });
            }
            let cause = Cause::Malformed("another file stands at this path now");
            (Failure { path: file.path().clone(), cause, pid: Some(process.pid()) }, true)
        }
        Err(failure) => (failure, false),
    };
    // The kernel still has the file that is mapped, whatever became of its name.
    if (mapped.deleted || replaced)
        && let Some(file) = nameless(process, mapped, memory)
    {
        let image = Image::File(Arc::new(file));
        let elf = ElfFile::parse(image.clone())?;
        return Ok(Opened { elf, image, from_memory: false, file_failure: None, replaced });
    }
    let Some(memory) = memory else { return Err(failure.into()) };
    if process.is_out_of_reach(&mapped.path) {
        mapped.pieces.iter().for_each(|piece| memory.avoid(piece.avma.clone()));
        return Err(failure.into());
    }
    let image = Image::Memory { memory: Arc::clone(memory), avma: extent(mapped) };
    match ElfFile::parse_mapped(image.clone(), mapped.start()) {
        Ok(elf) => Ok(Opened { elf, image, from_memory: true, file_failure: Some(failure), replaced }),
        Err(ElfError::NotElf) => Err(ElfError::NotElf.into()),
        Err(_) => Err(failure.into()),
    }
}

/// The file that is mapped, by the links that lead to it and not to its path: that
/// of the executable, and those of `map_files`, which few may follow.
fn nameless<'r>(process: &Process<'r>, mapped: &Mapped, memory: Option<&Arc<Memory<'r>>>) -> Option<TargetFile<'r>> {
    let is_it = |file: &TargetFile<'_>| is_mapped_file(file, mapped, memory);
    let first = mapped.pieces.first()?;
    let executable = process.link("exe").ok()?;
    let executable = executable.strip_suffix(b" (deleted)").unwrap_or(&executable);
    let by_executable = if executable == mapped.path { process.open_executable().ok().filter(is_it) } else { None };
    by_executable.or_else(|| process.open_mapped(&first.avma).ok())
}

const NOT_FOUND: agent_system::Errno = agent_system::Errno::NOENT;

/// From its first mapping to its last.
fn extent(mapped: &Mapped) -> Range<u64> {
    mapped.start()..mapped.pieces.last().map_or(mapped.start(), |piece| piece.avma.end)
}

/// Whether `file` is what is mapped. Device and inode say so, but on overlayfs
/// `maps` has those of the layer below (before Linux 6.8): there the first page
/// in memory decides, which holds the build ID.
fn is_mapped_file(file: &TargetFile<'_>, mapped: &Mapped, memory: Option<&Arc<Memory<'_>>>) -> bool {
    if file.inode == mapped.inode && file.device == mapped.device {
        return true;
    }
    let first = mapped.pieces.iter().find(|piece| piece.offset == 0);
    let (Some(memory), Some(first)) = (memory, first) else {
        // Nothing to compare with: the inode alone has to do.
        return file.inode == mapped.inode;
    };
    let mut there = [0_u8; 4096];
    let mut here = [0_u8; 4096];
    match (memory.read(first.avma.start, &mut there), file.read_at(0, &mut here)) {
        (Ok(a), Ok(b)) => a >= 64 && there[..a.min(b)] == here[..a.min(b)],
        _ => false,
    }
}

/// Keeps `memory` from all that is mapped of files on file systems that are not asked: code, data, and where a pointer of
/// the target may lead.
pub fn keep_in_reach(process: &Process<'_>, layout: &Layout, memory: &Memory<'_>) {
    for mapped in layout.files.iter().filter(|mapped| process.is_out_of_reach(&mapped.path)) {
        mapped.pieces.iter().for_each(|piece| memory.avoid(piece.avma.clone()));
    }
}

/// The vDSO of `layout`, copied from memory: it is a whole ELF file.
pub fn vdso<'r>(layout: &Layout, memory: &Memory<'_>) -> Option<(Range<u64>, Image<'r>)> {
    /// It has two pages; one with more than this is something else.
    const LARGEST: u64 = 1 << 20;
    let avma = layout.vdso.clone().filter(|avma| avma.end - avma.start <= LARGEST)?;
    let mut bytes = vec![0; usize::try_from(avma.end - avma.start).ok()?];
    let read = memory.read(avma.start, &mut bytes).ok()?;
    bytes.truncate(read);
    Some((avma, Image::Copy(Arc::new(bytes))))
}
