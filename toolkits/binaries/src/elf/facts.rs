//! What an ELF file says about itself, as plain values.

use std::fmt;

use goblin::elf::{header, program_header};

/// The word size of the file: `EI_CLASS` of the gABI's `e_ident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// `ELFCLASS32`.
    Elf32,
    /// `ELFCLASS64`.
    Elf64,
}

impl Class {
    /// `32` or `64`.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::Elf32 => 32,
            Self::Elf64 => 64,
        }
    }
}

/// The byte order of the file: `EI_DATA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endianness {
    /// `ELFDATA2LSB`.
    Little,
    /// `ELFDATA2MSB`.
    Big,
}

impl Endianness {
    /// `little` or `big`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Little => "little",
            Self::Big => "big",
        }
    }
}

/// The instruction set, `e_machine`, as its number in the gABI's registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Machine(pub u16);

impl Machine {
    /// `EM_X86_64`.
    pub const X86_64: Self = Self(header::EM_X86_64);
    /// `EM_AARCH64`.
    pub const AARCH64: Self = Self(header::EM_AARCH64);
    /// `EM_386`.
    pub const I386: Self = Self(header::EM_386);
    /// `EM_ARM`.
    pub const ARM: Self = Self(header::EM_ARM);

    /// The name that uname(1) and OpenTelemetry use where there is one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            header::EM_X86_64 => "x86_64",
            header::EM_AARCH64 => "aarch64",
            header::EM_386 => "i386",
            header::EM_ARM => "arm",
            header::EM_RISCV => "riscv",
            header::EM_PPC64 => "ppc64",
            header::EM_PPC => "ppc",
            header::EM_S390 => "s390",
            header::EM_MIPS => "mips",
            header::EM_LOONGARCH => "loongarch",
            header::EM_BPF => "bpf",
            _ => return None,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "e_machine {}", self.0),
        }
    }
}

/// What kind of file this is. `e_type` alone says `ET_DYN` of a position
/// independent executable and of a library; this tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElfType {
    /// A position independent executable that names an interpreter.
    Pie,
    /// A position independent executable without one.
    StaticPie,
    /// An executable at fixed addresses, dynamically linked.
    Executable,
    /// An executable at fixed addresses, statically linked.
    Static,
    /// A shared object.
    Shared,
    /// An object file (`.o`, `.ko`).
    Relocatable,
    /// A core dump.
    Core,
    /// Any other `e_type`, as it stands.
    Other(u16),
}

impl ElfType {
    /// The word for it in output: `pie`, `static_pie`, `executable`, `static`,
    /// `shared`, `relocatable`, `core`, `other`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pie => "pie",
            Self::StaticPie => "static_pie",
            Self::Executable => "executable",
            Self::Static => "static",
            Self::Shared => "shared",
            Self::Relocatable => "relocatable",
            Self::Core => "core",
            Self::Other(_) => "other",
        }
    }

    /// True for what execve(2) starts.
    #[must_use]
    pub fn is_executable(self) -> bool {
        matches!(self, Self::Pie | Self::StaticPie | Self::Executable | Self::Static)
    }
}

impl fmt::Display for ElfType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One entry of the program header table ([elf(5)], `Elf64_Phdr`).
///
/// [elf(5)]: https://man7.org/linux/man-pages/man5/elf.5.html
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `p_type`: `PT_LOAD` is 1.
    pub kind: u32,
    /// `p_flags`: 1 execute, 2 write, 4 read.
    pub flags: u32,
    /// `p_offset`, bytes from the start of the file.
    pub offset: u64,
    /// `p_vaddr`: where it is linked to be (an SVMA).
    pub svma: u64,
    /// `p_filesz`, bytes in the file.
    pub file_size: u64,
    /// `p_memsz`, bytes in memory.
    pub mem_size: u64,
    /// `p_align`.
    pub align: u64,
}

impl Segment {
    /// True for `PT_LOAD`.
    #[must_use]
    pub fn is_load(&self) -> bool {
        self.kind == program_header::PT_LOAD
    }

    /// True where `PF_X` is set.
    #[must_use]
    pub fn is_executable(&self) -> bool {
        self.flags & program_header::PF_X != 0
    }

    /// The offset in the file of `svma`, where the file holds it.
    #[must_use]
    pub fn file_offset_of(&self, svma: u64) -> Option<u64> {
        let within = svma.checked_sub(self.svma)?;
        (within < self.file_size).then(|| self.offset.checked_add(within)).flatten()
    }
}

/// One entry of the section header table ([elf(5)], `Elf64_Shdr`).
///
/// [elf(5)]: https://man7.org/linux/man-pages/man5/elf.5.html
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The name, from the section name string table.
    pub name: String,
    /// `sh_type`.
    pub kind: u32,
    /// `sh_flags`.
    pub flags: u64,
    /// `sh_addr`: where it is linked to be (an SVMA), zero where not loaded.
    pub svma: u64,
    /// `sh_offset`, bytes from the start of the file.
    pub offset: u64,
    /// `sh_size`, bytes (in the file, except `SHT_NOBITS`).
    pub size: u64,
    /// `sh_link`.
    pub link: u32,
    /// `sh_info`.
    pub info: u32,
    /// `sh_entsize`.
    pub entry_size: u64,
}

/// `.gnu_debuglink`: the name of the file with the debug information, and the
/// CRC-32 of that file (as gdb's manual, "Separate Debug Files", defines it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugLink {
    /// The file's name, without a directory.
    pub file: String,
    /// The CRC-32 of its content.
    pub crc: u32,
}

/// `.gnu_debugaltlink`: the file with what several debug files have in common, as dwz(1) makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AltLink {
    /// Its path: absolute, or from the directory of the file that names it.
    pub file: String,
    /// Its build ID, in hex.
    pub build_id: String,
}

/// What is left in the file to name its addresses with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugState {
    /// There is a section header table.
    pub sections: bool,
    /// There is a `.symtab`: not stripped, in the words of file(1).
    pub symtab: bool,
    /// There is a `.dynsym`, or `PT_DYNAMIC` names a symbol table.
    pub dynsym: bool,
    /// There is a `.debug_info` (or the older `.zdebug_info`).
    pub debug_info: bool,
    /// `.gnu_debuglink`.
    pub debug_link: Option<DebugLink>,
    /// `.gnu_debugaltlink` (dwz).
    pub debug_alt_link: Option<AltLink>,
    /// There is a `.gnu_debugdata` (an xz-compressed ELF with a `.symtab`).
    pub mini_debug_info: bool,
    /// There is a `.gopclntab`: Go's function table, which strip keeps.
    pub go_function_table: bool,
}

impl DebugState {
    /// In the words of file(1): there is no `.symtab`.
    #[must_use]
    pub fn is_stripped(&self) -> bool {
        !self.symtab
    }
}

/// Bits of `GNU_PROPERTY_X86_FEATURE_1_AND` or `GNU_PROPERTY_AARCH64_FEATURE_1_AND`
/// (the processors' ABI supplements, "Program Property").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// Indirect branches land on `endbr` (x86, CET) or `bti` (Arm, BTI).
    #[must_use]
    pub fn branch_targets(self) -> bool {
        self.0 & 1 != 0
    }

    /// Return addresses are kept on a shadow stack (x86, CET) or are signed (Arm,
    /// pointer authentication).
    #[must_use]
    pub fn return_addresses(self) -> bool {
        self.0 & 2 != 0
    }
}

/// A part of a file that could not be read as it says it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The program header table.
    ProgramHeaders,
    /// The section header table.
    SectionHeaders,
    /// The section name string table.
    SectionNames,
    /// `PT_INTERP`.
    Interpreter,
    /// `PT_DYNAMIC`, its string table included.
    Dynamic,
    /// `PT_NOTE` or a `SHT_NOTE` section.
    Notes,
    /// `.gnu_debuglink` or `.gnu_debugaltlink`.
    DebugLink,
    /// A symbol table.
    Symbols,
    /// `.eh_frame_hdr` or `.eh_frame`.
    UnwindTables,
    /// `.gnu.version_r` or `.gnu.version_d`.
    Versions,
    /// `.go.buildinfo` or `.dep-v0`.
    BuildInfo,
}

impl Part {
    /// The word for it in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProgramHeaders => "program_headers",
            Self::SectionHeaders => "section_headers",
            Self::SectionNames => "section_names",
            Self::Interpreter => "interpreter",
            Self::Dynamic => "dynamic",
            Self::Notes => "notes",
            Self::DebugLink => "debug_link",
            Self::Symbols => "symbols",
            Self::UnwindTables => "unwind_tables",
            Self::Versions => "versions",
            Self::BuildInfo => "build_info",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A malformed, unreadable, or oversized part. The facts of the other parts
/// stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which part.
    pub part: Part,
    /// What is wrong with it, for a person.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.detail)
    }
}

/// The problems of one file, bounded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// A hostile file has one thing wrong or ten thousand: these are enough.
    const MAX: usize = 32;

    pub(crate) fn add(&mut self, part: Part, detail: impl Into<String>) {
        if self.0.len() < Self::MAX {
            self.0.push(Problem { part, detail: detail.into() });
        }
    }
}

/// All that is known of a file after [`parse`](crate::elf::ElfFile::parse),
/// without its symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// 32 or 64 bit.
    pub class: Class,
    /// Byte order.
    pub endianness: Endianness,
    /// Instruction set.
    pub machine: Machine,
    /// `EI_OSABI`: 0 is System V, 3 is GNU/Linux.
    pub os_abi: u8,
    /// Kind of file.
    pub elf_type: ElfType,
    /// `e_entry`, an SVMA; zero where there is none.
    pub entry: u64,
    /// `PT_INTERP`: the dynamic loader's path.
    pub interpreter: Option<String>,
    /// `DT_NEEDED`, in the order of the file.
    pub needed: Vec<String>,
    /// `DT_SONAME`.
    pub soname: Option<String>,
    /// `DT_RPATH`, as it stands (`$ORIGIN` unexpanded).
    pub rpath: Option<String>,
    /// `DT_RUNPATH`, as it stands.
    pub runpath: Option<String>,
    /// `NT_GNU_BUILD_ID` in lower-case hexadecimal.
    pub build_id: Option<String>,
    /// Go's own build ID (note type 4 of owner `Go`), as `go tool buildid`
    /// prints it.
    pub go_build_id: Option<String>,
    /// `NT_GNU_PROPERTY_TYPE_0`: what the processor may enforce for all of its
    /// code. Absent where there is no such property.
    pub features: Option<Features>,
    /// The JSON of `.note.package` ([systemd's package metadata]).
    ///
    /// [systemd's package metadata]: https://systemd.io/ELF_PACKAGE_METADATA/
    pub package_note: Option<String>,
    /// Whether all symbols are bound at start: `DT_BIND_NOW`, `DF_BIND_NOW` or
    /// `DF_1_NOW`.
    pub bind_now: bool,
    /// Whether the loader writes into the code: `DT_TEXTREL` or `DF_TEXTREL`.
    pub text_relocations: bool,
    /// Whether there is a dynamic section.
    pub is_dynamic: bool,
    /// What is left to name addresses with.
    pub debug: DebugState,
    /// The program headers, in the order of the file.
    pub segments: Vec<Segment>,
}

impl Facts {
    /// The `PT_LOAD` segments, in the order of the file.
    pub fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.is_load())
    }

    /// The offset in the file of an SVMA.
    #[must_use]
    pub fn file_offset_of(&self, svma: u64) -> Option<u64> {
        self.loads().find_map(|segment| segment.file_offset_of(svma))
    }

    /// The SVMA of an offset in the file: with a mapping's `offset` this gives
    /// the bias of a module in a process.
    #[must_use]
    pub fn svma_of_file_offset(&self, offset: u64) -> Option<u64> {
        self.loads().find_map(|segment| {
            let within = offset.checked_sub(segment.offset)?;
            (within < segment.file_size).then(|| segment.svma.checked_add(within)).flatten()
        })
    }

    /// AVMA minus SVMA of this module, from one line of `/proc/PID/maps`: where
    /// the mapping starts, its offset in the file, and whether it is executable.
    /// Two segments may share a page of the file, so the flag decides between
    /// them. Wraps, as a module may lie below its linked address.
    ///
    /// ```
    /// # use agent_binaries::elf::ElfFile;
    /// # let bytes = std::fs::read("/proc/self/exe").unwrap();
    /// let elf = ElfFile::parse(&bytes[..])?;
    /// // 55d0c0a01000-55d0c0b00000 r-xp 00001000 fd:00 12  /usr/bin/app
    /// if let Some(bias) = elf.facts().bias_of_mapping(0x55d0_c0a0_1000, 0x1000, true) {
    ///     let svma = 0x55d0_c0a0_1234_u64.wrapping_sub(bias);
    /// #   let _ = svma;
    /// }
    /// # Ok::<(), agent_binaries::elf::ElfError>(())
    /// ```
    #[must_use]
    pub fn bias_of_mapping(&self, avma: u64, file_offset: u64, executable: bool) -> Option<u64> {
        /// The smallest page: mappings and `p_offset` agree down to it.
        const PAGE: u64 = 4096;
        self.loads()
            .filter(|segment| segment.is_executable() == executable)
            .find(|segment| {
                let start = segment.offset - segment.offset % PAGE;
                start <= file_offset && file_offset < segment.offset.saturating_add(segment.file_size)
            })
            .map(|segment| {
                let svma = segment.svma.wrapping_sub(segment.offset).wrapping_add(file_offset);
                avma.wrapping_sub(svma)
            })
    }
}
