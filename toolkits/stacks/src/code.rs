//! The code of one process: what unwinding and naming need of it.

use std::ops::Range;
use std::sync::Arc;

use agent_binaries::demangle::demangle;
use agent_binaries::elf::{ElfFile, SymbolTable};
use agent_binaries::mapped::{self, Image, Layout, Mapped, OpenError, Opened};
use agent_model::{Gap, Reason, Text};
use agent_system::memory::Memory;
use agent_system::{Process, Run};

use crate::frame::Inlined;
use crate::unwind::{Module, Unwinder};

/// A module with code.
struct Code<'r> {
    path: Text,
    avma: Range<u64>,
    bias: u64,
    /// Where its first executable mapping starts in the file, in bytes.
    file_offset: u64,
    opened: Option<Opened<'r>>,
    /// Made when the first address in it is named.
    symbols: Option<SymbolTable>,
}

/// What is known of an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Name {
    /// The function, demangled.
    pub function: Option<Text>,
    /// How far into it the address is, in bytes.
    pub function_offset: Option<u64>,
    /// The path of the module.
    pub module: Option<Text>,
    /// The module's build ID.
    pub build_id: Option<String>,
    /// The address as linked (SVMA): what addr2line takes.
    pub offset: Option<u64>,
    /// The source file.
    pub file: Option<Text>,
    /// The line in it.
    pub line: Option<u32>,
    /// The functions that were inlined there, innermost first.
    pub inlined: Vec<Inlined>,
}

/// A module, as a profile names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleFacts {
    /// Its path.
    pub path: Text,
    /// Where its code lies (AVMA).
    pub avma: Range<u64>,
    /// Where that starts in the file, in bytes.
    pub file_offset: u64,
    /// Its build ID.
    pub build_id: Option<String>,
}

/// The modules of a process that hold code, and what its stacks are unwound with.
pub struct CodeMap<'r> {
    codes: Vec<Code<'r>>,
    /// Unwinds its threads.
    pub unwinder: Unwinder<'r>,
    /// Memory that can be read, joined where it touches.
    readable: Vec<Range<u64>>,
}

impl<'r> CodeMap<'r> {
    /// Reads the modules of `process`; what could not be read is put into `gaps`.
    ///
    /// # Errors
    ///
    /// When `maps` cannot be read: nothing can be unwound then.
    pub fn of(
        run: &Run,
        process: &Process<'r>,
        memory: &Arc<Memory<'r>>,
        gaps: &mut Vec<Gap>,
    ) -> Result<Self, agent_system::Failure> {
        let layout = Layout::of(process)?;
        let mut map = Self { codes: Vec::new(), unwinder: Unwinder::new(), readable: layout.readable.clone() };
        for file in &layout.files {
            if let Some(avma) = file.code() {
                map.add_file(run, process, memory, file, avma, gaps);
            }
        }
        if let Some((avma, image)) = mapped::vdso(&layout, memory) {
            map.add_vdso(avma, image);
        }
        for avma in layout.anonymous_code {
            map.unwinder.add_module(Module::code(avma));
        }
        map.codes.sort_by_key(|code| code.avma.start);
        Ok(map)
    }

    fn add_file(
        &mut self,
        run: &Run,
        process: &Process<'r>,
        memory: &Arc<Memory<'r>>,
        file: &Mapped,
        avma: Range<u64>,
        gaps: &mut Vec<Gap>,
    ) {
        let path = Text::from_bytes(&file.path);
        let opened = match mapped::open(process, file, Some(memory)) {
            Ok(opened) => Some(opened),
            Err(OpenError::Elf(error)) => {
                gaps.push(Gap::new("/rows", Reason::Malformed).path(path.clone()).detail(error.to_string()));
                None
            }
            Err(OpenError::Failed(failure)) => {
                gaps.push(run.gap("/rows", &failure).detail("no names and no unwind tables of this module"));
                None
            }
        };
        let bias = opened.as_ref().and_then(|opened| file.bias(&opened.elf));
        let module = opened.as_ref().zip(bias).and_then(|(opened, bias)| {
            Module::from_elf(avma.clone(), bias, &opened.elf, Arc::new(opened.image.clone())).ok()
        });
        self.unwinder.add_module(module.unwrap_or_else(|| Module::code(avma.clone())));
        let opened = if bias.is_some() { opened } else { None };
        let file_offset = file.pieces.iter().find(|piece| piece.executable).map_or(0, |piece| piece.offset);
        self.codes.push(Code { path, avma, bias: bias.unwrap_or(0), file_offset, opened, symbols: None });
    }

    fn add_vdso(&mut self, avma: Range<u64>, image: Image<'r>) {
        let Ok(elf) = ElfFile::parse(image.clone()) else { return };
        // It is linked at 0 and mapped as the file that it is.
        let bias = avma.start;
        if let Ok(module) = Module::from_elf(avma.clone(), bias, &elf, Arc::new(image.clone())) {
            self.unwinder.add_module(module);
        }
        let opened = Opened { elf, image, from_memory: true, file_failure: None, replaced: false };
        self.codes.push(Code {
            path: Text::from("[vdso]"),
            avma,
            bias,
            file_offset: 0,
            opened: Some(opened),
            symbols: None,
        });
    }

    /// The modules, by address.
    pub fn modules(&self) -> impl Iterator<Item = ModuleFacts> {
        self.codes.iter().map(|code| ModuleFacts {
            path: code.path.clone(),
            avma: code.avma.clone(),
            file_offset: code.file_offset,
            build_id: code.opened.as_ref().and_then(|opened| opened.elf.facts().build_id.clone()),
        })
    }

    /// Where the readable memory that holds `address` ends.
    pub fn readable_end(&self, address: u64) -> Option<u64> {
        let at = self.readable.partition_point(|range| range.end <= address);
        self.readable.get(at).filter(|range| range.contains(&address)).map(|range| range.end)
    }

    /// What is known of the address `avma`.
    pub fn name(&mut self, avma: u64) -> Name {
        // By start: the extents of two modules may overlap where one was mapped
        // into a hole of the other.
        let at = self.codes.partition_point(|code| code.avma.start <= avma);
        let Some(code) = self.codes[..at].iter_mut().rev().find(|code| code.avma.contains(&avma)) else {
            return Name::default();
        };
        let mut name = Name { module: Some(code.path.clone()), ..Name::default() };
        let Some(opened) = &code.opened else { return name };
        let svma = avma.wrapping_sub(code.bias);
        name.offset = Some(svma);
        name.build_id = opened.elf.facts().build_id.clone();
        let symbols = code.symbols.get_or_insert_with(|| opened.elf.symbols());
        if let Some(symbol) = symbols.lookup(&opened.elf, svma) {
            let shown = demangle(&symbol.name).unwrap_or(symbol.name);
            name.function = Some(Text::from(shown.as_str()));
            name.function_offset = Some(symbol.offset);
        }
        name
    }
}
