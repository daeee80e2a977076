//! One reader of ELF for all that looks at binaries: modules, stacks, maps.
//!
//! It reads as little as the question needs, from any [`Source`], and never
//! trusts a count or a size: every limit is a constant below. A part that is
//! malformed becomes a [`Problem`]; the other facts still come. Only a file that
//! is not ELF at all is an [`ElfError`].
//!
//! The single entries are decoded by goblin's low-level structures. Its whole
//! parse is not used: one bad table would cost all facts, and it wants the file
//! in memory.
//!
//! ```
//! use agent_binaries::elf::{ElfFile, ElfType};
//!
//! # let bytes = std::fs::read("/proc/self/exe").unwrap();
//! // Any `Source` will do: bytes here, a descriptor with pread(2) in the agent.
//! let elf = ElfFile::parse(&bytes[..])?;
//! let facts = elf.facts();
//! println!("{} {} build ID {:?}", facts.machine, facts.elf_type, facts.build_id);
//! assert!(facts.elf_type.is_executable());
//! for problem in elf.problems() {
//!     println!("cannot be read: {problem}");
//! }
//!
//! // Names: a table of 8 bytes a function; each name is read when asked for.
//! let symbols = elf.symbols();
//! if let Some(symbol) = symbols.lookup(&elf, facts.entry) {
//!     println!("{} + {:#x}", symbol.name, symbol.offset);
//! }
//!
//! // Where the unwind tables lie, for `agent_stacks::unwind`.
//! let tables = elf.unwind_tables();
//! # let _ = (tables, ElfType::Pie);
//! # Ok::<(), agent_binaries::elf::ElfError>(())
//! ```
//!
//! Sources: the System V gABI (chapters "Object Files" and "Program Loading"),
//! [elf(5)], and the LSB for `.eh_frame_hdr` and the GNU notes.
//!
//! [elf(5)]: https://man7.org/linux/man-pages/man5/elf.5.html

use std::io;
use std::ops::ControlFlow;

use goblin::container::{Container, Ctx};
use goblin::elf::{header, section_header};
use scroll::Pread;

mod dynamic;
mod facts;
mod headers;
mod links;
mod list;
mod notes;
mod source;
mod strings;
mod symbols;
mod tables;
mod versions;

pub use facts::{
    AltLink, Class, DebugLink, DebugState, ElfType, Endianness, Facts, Features, Machine, Part, Problem, Section,
    Segment,
};
pub use list::{Listed, Visit};
pub use source::{Source, read_cstr, read_exact, read_vec};
pub use symbols::{Symbol, SymbolOrigin, SymbolTable};
pub use tables::{Extent, UnwindTables};
pub use versions::{Requirement, Versions};

use facts::Problems;
use source::Headed;

/// Program headers that are read. A core dump has one a mapping, and Linux
/// allows 65,530 mappings by default (`vm.max_map_count`).
pub const MAX_SEGMENTS: usize = 65_536;
/// Section headers that are read. `-ffunction-sections` objects reach 50,000.
pub const MAX_SECTIONS: usize = 131_072;
/// Bytes of section names that are read, and that are kept.
pub const MAX_SECTION_NAMES: usize = 4 * 1024 * 1024;
/// Bytes of one section name.
pub const MAX_SECTION_NAME: usize = 1024;
/// Entries of the dynamic section that are read.
pub const MAX_DYNAMIC: usize = 16_384;
/// Names of the dynamic section (`DT_NEEDED` and others) that are kept.
pub const MAX_NEEDED: usize = 1024;
/// Bytes of one string: a path (`PATH_MAX`) or a library's name.
pub const MAX_STRING: usize = 4096;
/// Bytes of one note segment or section that are read.
pub const MAX_NOTES: usize = 64 * 1024;
/// Note segments and sections that are read.
pub const MAX_NOTE_PARTS: usize = 64;
/// Bytes of a build ID that are kept (SHA-1 has 20; `--build-id=0x…` any).
pub const MAX_BUILD_ID: usize = 64;
/// Symbols that are kept, at 8 bytes each. A browser with all its names has some
/// 1.5 million.
pub const MAX_SYMBOLS: usize = 3 * 1024 * 1024;
/// Symbol table entries that are looked at.
pub const MAX_SYMBOL_ENTRIES: u64 = 16 * 1024 * 1024;
/// Bytes of one symbol's name.
pub const MAX_SYMBOL_NAME: usize = 64 * 1024;

/// Why a source is not an ELF file for this reader.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// The source gave no bytes for the header.
    #[error("cannot read the ELF header: {0}")]
    Read(#[from] io::Error),
    /// The first four bytes are not `\x7fELF`.
    #[error("not an ELF file")]
    NotElf,
    /// It ends before its header does.
    #[error("the ELF header is truncated at {0} bytes")]
    Truncated(usize),
    /// `EI_CLASS` or `EI_DATA` is none that the gABI defines.
    #[error("unknown ELF class {class} or data encoding {data}")]
    Unknown {
        /// `EI_CLASS`.
        class: u8,
        /// `EI_DATA`.
        data: u8,
    },
}

/// How offsets of the image relate to offsets of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// The source is the file: `p_offset` counts.
    File,
    /// The source is the module as mapped, from its lowest segment on:
    /// `p_vaddr` counts. `avma` is where the source's first byte lies.
    Mapped { avma: u64, lowest: u64 },
}

/// An ELF file (or a mapped module) and what it says about itself.
#[derive(Debug)]
pub struct ElfFile<S> {
    source: S,
    facts: Facts,
    sections: Vec<Section>,
    dynamic: dynamic::Dynamic,
    problems: Vec<Problem>,
    layout: Layout,
    context: Ctx,
}

impl<S: Source> ElfFile<S> {
    /// Reads the headers, the dynamic section, and the notes of a file.
    ///
    /// # Errors
    ///
    /// [`ElfError`] only where the source is no ELF file, or cannot be read at
    /// its first bytes. All else is a [`Problem`].
    pub fn parse(source: S) -> Result<Self, ElfError> {
        Self::parse_as(source, Layout::File)
    }

    /// Reads a module as it is mapped in a process: the source starts at the
    /// module's ELF header, which lies at `avma`, and an SVMA is found at its
    /// distance from the lowest segment. There are no section headers then,
    /// and no `.symtab`.
    ///
    /// The vDSO is mapped as the file that it is: use [`ElfFile::parse`] for it.
    ///
    /// # Errors
    ///
    /// As [`ElfFile::parse`].
    pub fn parse_mapped(source: S, avma: u64) -> Result<Self, ElfError> {
        Self::parse_as(source, Layout::Mapped { avma, lowest: 0 })
    }

    fn parse_as(source: S, layout: Layout) -> Result<Self, ElfError> {
        let head = Headed::new(&source)?;
        let (ehdr, context) = parse_header(&head)?;
        let mut problems = Problems::default();
        let segments = headers::segments(&head, &ehdr, context, &mut problems);
        let layout = match layout {
            Layout::File => Layout::File,
            Layout::Mapped { avma, .. } => Layout::Mapped { avma, lowest: headers::lowest_page(&segments) },
        };
        let sections = match layout {
            Layout::File => headers::sections(&head, &ehdr, context, &mut problems),
            Layout::Mapped { .. } => Vec::new(),
        };
        let image = Image {
            source: &head,
            segments: &segments,
            sections: &sections,
            layout,
            context,
            machine: Machine(ehdr.e_machine),
        };
        let dynamic = dynamic::read(&image, &mut problems);
        let interpreter = links::interpreter(&image, &mut problems);
        let notes = notes::read(&image, &mut problems);
        let mut debug = links::debug_state(&image, &mut problems);
        debug.dynsym |= dynamic.symbol_table.is_some();
        let facts = Facts {
            class: if context.is_big() { Class::Elf64 } else { Class::Elf32 },
            endianness: if context.is_little_endian() { Endianness::Little } else { Endianness::Big },
            machine: Machine(ehdr.e_machine),
            os_abi: ehdr.e_ident[header::EI_OSABI],
            elf_type: elf_type(ehdr.e_type, &dynamic, interpreter.is_some()),
            entry: ehdr.e_entry,
            interpreter,
            needed: dynamic.needed.clone(),
            soname: dynamic.soname.clone(),
            rpath: dynamic.rpath.clone(),
            runpath: dynamic.runpath.clone(),
            build_id: notes.build_id,
            go_build_id: notes.go_build_id,
            features: notes.features,
            package_note: notes.package,
            bind_now: dynamic.bind_now,
            text_relocations: dynamic.text_relocations,
            is_dynamic: dynamic.present,
            debug,
            segments,
        };
        drop(head);
        Ok(Self { source, facts, sections, dynamic, problems: problems.0, layout, context })
    }

    /// What the file says about itself.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The same, by value: the source is dropped.
    #[must_use]
    pub fn into_facts(self) -> (Facts, Vec<Problem>) {
        (self.facts, self.problems)
    }

    /// The parts that could not be read as they say they should be.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The section headers, in the order of the file, without the null section.
    /// Empty where the file has none.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The first section of that name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Where the bytes come from.
    #[must_use]
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The offset in the source of an SVMA, for reading code or tables.
    #[must_use]
    pub fn source_offset_of(&self, svma: u64) -> Option<u64> {
        self.image().offset_of(svma)
    }

    /// The function symbols. Takes one pass over the symbol table and keeps 8
    /// bytes a function; what could not be read is in
    /// [`SymbolTable::problems`].
    #[must_use]
    pub fn symbols(&self) -> SymbolTable {
        self.symbols_up_to(MAX_SYMBOLS)
    }

    /// The same, with no more than `most` functions; [`SymbolTable::is_truncated`]
    /// says whether there are more.
    #[must_use]
    pub fn symbols_up_to(&self, most: usize) -> SymbolTable {
        symbols::read(&self.image(), &self.dynamic, most)
    }

    /// The symbol versions that it defines and requires.
    #[must_use]
    pub fn versions(&self) -> Versions {
        versions::read(&self.image(), &self.dynamic)
    }

    /// The names of the symbols that it takes from other modules, until `each`
    /// breaks.
    pub fn imports(&self, each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) {
        list::imports(&self.image(), &self.dynamic, each);
    }

    /// Every entry of its symbol tables: `.symtab` and `.dynsym`, or the one that
    /// `PT_DYNAMIC` names. `visit` is handed each with its name.
    pub fn each_symbol(&self, visit: &mut Visit<'_>) {
        list::all(&self.image(), &self.dynamic, visit);
    }

    /// Where the call frame information lies, if there is any.
    #[must_use]
    pub fn unwind_tables(&self) -> Option<UnwindTables> {
        tables::find(&self.image())
    }

    fn image(&self) -> Image<'_, S> {
        Image {
            source: &self.source,
            segments: &self.facts.segments,
            sections: &self.sections,
            layout: self.layout,
            context: self.context,
            machine: self.facts.machine,
        }
    }
}

/// What the readers of single parts work on.
struct Image<'a, S> {
    source: &'a S,
    segments: &'a [Segment],
    sections: &'a [Section],
    layout: Layout,
    context: Ctx,
    machine: Machine,
}

impl<S: Source> Image<'_, S> {
    /// The offset in the source of an SVMA.
    fn offset_of(&self, svma: u64) -> Option<u64> {
        let mut loads = self.segments.iter().filter(|segment| segment.is_load());
        match self.layout {
            Layout::File => loads.find_map(|segment| segment.file_offset_of(svma)),
            Layout::Mapped { lowest, .. } => loads
                .any(|segment| svma.checked_sub(segment.svma).is_some_and(|at| at < segment.mem_size))
                .then(|| svma.checked_sub(lowest))
                .flatten(),
        }
    }

    /// The offset in the source of a segment's first byte.
    fn segment_offset(&self, segment: &Segment) -> Option<u64> {
        match self.layout {
            Layout::File => Some(segment.offset),
            Layout::Mapped { lowest, .. } => segment.svma.checked_sub(lowest),
        }
    }

    /// The SVMA of a `d_ptr`: the dynamic loader of glibc writes AVMAs over
    /// some of them in memory, the others leave them as linked.
    fn svma_of_pointer(&self, pointer: u64) -> u64 {
        match self.layout {
            Layout::Mapped { avma, lowest } if pointer >= avma => pointer.wrapping_sub(avma).wrapping_add(lowest),
            _ => pointer,
        }
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// A section of that name that has bytes in the file.
    fn section_with_bytes(&self, name: &str) -> Option<&Section> {
        self.section(name).filter(|section| has_bytes(section))
    }
}

fn has_bytes(section: &Section) -> bool {
    section.kind != section_header::SHT_NOBITS && section.size > 0
}

fn parse_header<S: Source>(source: &S) -> Result<(header::Header, Ctx), ElfError> {
    let bytes = read_vec(source, 0, header::header64::SIZEOF_EHDR)?;
    if !bytes.starts_with(header::ELFMAG) {
        return Err(if bytes.len() < header::SELFMAG { ElfError::Truncated(bytes.len()) } else { ElfError::NotElf });
    }
    let (Some(&class), Some(&data)) = (bytes.get(header::EI_CLASS), bytes.get(header::EI_DATA)) else {
        return Err(ElfError::Truncated(bytes.len()));
    };
    let le = match data {
        header::ELFDATA2LSB => scroll::Endian::Little,
        header::ELFDATA2MSB => scroll::Endian::Big,
        _ => return Err(ElfError::Unknown { class, data }),
    };
    let container = match class {
        header::ELFCLASS32 => Container::Little,
        header::ELFCLASS64 => Container::Big,
        _ => return Err(ElfError::Unknown { class, data }),
    };
    let ehdr = bytes.pread_with::<header::Header>(0, le).map_err(|_| ElfError::Truncated(bytes.len()))?;
    Ok((ehdr, Ctx::new(container, le)))
}

/// Tells executables from libraries as readelf(1) and file(1) do: by
/// `DF_1_PIE` in `DT_FLAGS_1`. Linkers before binutils 2.26 (2016) did not set
/// it: there, an interpreter and no `DT_SONAME` mean an executable (glibc's own
/// `libc.so.6` names an interpreter and has a `DT_SONAME`).
fn elf_type(e_type: u16, dynamic: &dynamic::Dynamic, interpreter: bool) -> ElfType {
    match e_type {
        header::ET_REL => ElfType::Relocatable,
        header::ET_CORE => ElfType::Core,
        header::ET_EXEC if interpreter || dynamic.present => ElfType::Executable,
        header::ET_EXEC => ElfType::Static,
        header::ET_DYN if dynamic.is_pie && !interpreter => ElfType::StaticPie,
        header::ET_DYN if dynamic.is_pie || (interpreter && dynamic.soname.is_none()) => ElfType::Pie,
        header::ET_DYN => ElfType::Shared,
        other => ElfType::Other(other),
    }
}
