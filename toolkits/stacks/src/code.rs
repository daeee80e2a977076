//! The code of one process: what unwinding and naming need of it.

#[cfg(test)]
mod differential;
mod known;
mod lines;
mod mini;
mod names;
mod perf_map;
mod section;
mod separate;
mod units;
mod zstd;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use agent_binaries::elf::{AltLink, ElfFile, Source as _, SymbolOrigin, SymbolTable};
use agent_binaries::mapped::{self, Image, Layout, Mapped, OpenError, Opened};
use agent_model::{Gap, Reason, Text};
use agent_system::memory::Memory;
use agent_system::{Process, Run};

use crate::frame::Inlined;
use crate::glimpse::Stacks;
use crate::go::{GoPlace, GoTable, Loaded};
use crate::unwind::{Module, Unwinder};
use known::Identity;
use lines::{Lines, NoLines};
use names::{Named, Names, cut, mini_debug_info, shown};
use perf_map::PerfMap;
use section::Pages;

/// A module with code.
struct Code<'r> {
    path: Text,
    avma: Range<u64>,
    bias: u64,
    /// Where its first executable mapping starts in the file, in bytes.
    file_offset: u64,
    opened: Option<Opened<'r>>,
    /// By which what was found of it is known again.
    identity: Option<Identity>,
    /// Go's own table.
    go: Option<GoTable>,
    /// Made when the first address in it is named.
    names: Option<Names<'r>>,
    /// Whether a limit has cut its names or lines.
    is_limited: bool,
}

/// Functions of all modules together that are known by their start, at 8 bytes.
const MOST_SYMBOLS: usize = 3 << 20;
/// Addresses whose names are kept: a process has some hundreds on its stacks.
const MOST_NAMES: usize = 4096;

/// Bytes of names that are kept.
const MOST_NAME_BYTES: usize = 4 << 20;
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

impl Name {
    /// What it takes.
    fn bytes(&self) -> usize {
        let length = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.as_str().len());
        let inlined = self.inlined.iter().map(|one| size_of::<Inlined>() + length(&one.function) + length(&one.file));
        let texts = [&self.function, &self.module, &self.file].into_iter().map(length).sum::<usize>();
        size_of::<Self>() + texts + inlined.sum::<usize>()
    }
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
    /// Where its stacks may lie.
    stacks: Arc<Stacks>,
    process: Process<'r>,
    /// What a runtime says of the code that it has made; read when it is asked for.
    perf_map: Option<PerfMap>,
    /// Debug sections, as far as they are held.
    pages: Rc<Pages>,
    /// Functions that may still be known.
    symbols_left: usize,
    /// Bytes of mini debug information that may still be held.
    mini_left: usize,
    /// What was found before: threads have most of their addresses in common.
    known: HashMap<u64, Name>,
    known_bytes: usize,
    /// What a limit kept from being named.
    limits: Vec<Gap>,
    /// Whether it was said that reading debug information took too long.
    has_said_exhausted: bool,
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
        mapped::keep_in_reach(process, &layout, memory);
        let mut map = Self {
            codes: Vec::new(),
            unwinder: Unwinder::new(),
            stacks: Arc::new(Stacks(layout.stacks.clone())),
            process: process.clone(),
            perf_map: None,
            pages: Rc::default(),
            symbols_left: MOST_SYMBOLS,
            mini_left: mini::MOST,
            known: HashMap::new(),
            known_bytes: 0,
            limits: Vec::new(),
            has_said_exhausted: false,
        };
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
        let go = opened.as_ref().zip(bias).and_then(|(opened, bias)| {
            let read = |avma, buffer: &mut [u8]| memory.read(avma, buffer).unwrap_or(0);
            GoTable::of(&opened.elf, Some(&Loaded { bias, read: &read }))
        });
        let module = opened.as_ref().zip(bias).and_then(|(opened, bias)| {
            let image = || Arc::new(opened.image.clone());
            let module = Module::from_elf(avma.clone(), bias, &opened.elf, image()).ok()?;
            Some(if let Some(table) = go { module.with_go(table, image()) } else { module })
        });
        self.unwinder.add_module(module.unwrap_or_else(|| Module::code(avma.clone())));
        let opened = if bias.is_some() { opened } else { None };
        let file_offset = file.pieces.iter().find(|piece| piece.executable).map_or(0, |piece| piece.offset);
        let mut code = Code {
            path,
            avma,
            bias: bias.unwrap_or(0),
            file_offset,
            opened,
            identity: None,
            go,
            names: None,
            is_limited: false,
        };
        // What a process says of its file is not told of another one that maps it too.
        if !go.is_some_and(|go| go.asked_memory) {
            code.identity = Identity::of(&code);
        }
        self.codes.push(code);
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
            identity: None,
            go: None,
            names: None,
            is_limited: false,
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

    /// Where stacks may lie.
    pub fn stacks(&self) -> &Arc<Stacks> {
        &self.stacks
    }

    /// What is known of the address `avma`.
    pub fn name(&mut self, avma: u64) -> Name {
        if let Some(known) = self.known.get(&avma) {
            return known.clone();
        }
        let name = self.look_up(avma);
        let bytes = name.bytes();
        if self.known.len() < MOST_NAMES && self.known_bytes + bytes <= MOST_NAME_BYTES {
            self.known_bytes += bytes;
            self.known.insert(avma, name.clone());
        }
        name
    }

    /// Names `avmas`, as far as names are kept, by address: that is nearly the order of the debug information, so
    /// what is compressed is read forwards, and once.
    pub fn prepare(&mut self, avmas: impl Iterator<Item = u64>) {
        let all: BTreeSet<u64> = avmas.collect();
        let room = MOST_NAMES.saturating_sub(self.known.len());
        all.into_iter().take(room).for_each(|avma| _ = self.name(avma));
    }

    fn look_up(&mut self, avma: u64) -> Name {
        // By start: the extents of two modules may overlap where one was mapped
        // into a hole of the other.
        let at = self.codes.partition_point(|code| code.avma.start <= avma);
        let Some(at) = self.codes[..at].iter().rposition(|code| code.avma.contains(&avma)) else {
            return self.generated(avma, Name::default());
        };
        let file = self.codes[at].identity.clone();
        let svma = avma.wrapping_sub(self.codes[at].bias);
        if let Some(known) = file.as_ref().and_then(|file| known::get(file, svma)) {
            return Name { module: Some(self.codes[at].path.clone()), ..known };
        }
        if self.codes[at].names.is_none() {
            self.load(at);
        }
        let code = &mut self.codes[at];
        let mut name = Name { module: Some(code.path.clone()), ..Name::default() };
        let Some((opened, names)) = code.opened.as_ref().zip(code.names.as_mut()) else {
            return self.generated(avma, name);
        };
        name.offset = Some(svma);
        name.build_id = opened.elf.facts().build_id.clone();
        if let Some((mut function, offset)) = names.lookup(&opened.elf, svma) {
            // In .symtab, linkers put the version behind the name: `read@@GLIBC_2.2.5`.
            if let Some(end) = function.find('@').filter(|end| *end > 0) {
                function.truncate(end);
            }
            // And Go's, its calling convention, which is no part of the name in Go's own table.
            if code.go.is_some()
                && let Some(own) = function.strip_suffix(".abi0")
            {
                function.truncate(own.len());
            }
            name.function = Some(shown(&function));
            name.function_offset = Some(offset);
        }
        if let Some(lines) = &mut names.lines {
            let found = lines.find(svma);
            (name.file, name.line, name.inlined) = (found.file, found.line, found.inlined);
        } else if let Some(places) = names.go.as_ref().and_then(|go| go.places(opened.elf.source(), svma)) {
            let text = |text: Option<String>| text.map(|text| cut(text.as_bytes()));
            let inlined =
                |place: GoPlace| Inlined { function: text(place.function), file: text(place.file), line: place.line };
            name.inlined = places.inlined.into_iter().map(inlined).collect();
            (name.file, name.line) = (text(places.own.file), places.own.line);
        }
        // What a limit or damage has cut is said each time, and so looked for each time.
        let is_damaged = names.lines.as_ref().is_some_and(|lines| lines.is_damaged(&self.pages));
        if let Some(file) = file.filter(|_| !code.is_limited && !is_damaged && !self.pages.is_exhausted()) {
            known::put(&file, svma, &name);
        }
        name
    }

    /// Names code that a runtime has made.
    fn generated(&mut self, avma: u64, name: Name) -> Name {
        let map = self.perf_map.get_or_insert_with(|| {
            let map = PerfMap::of(&self.process);
            if map.truncated {
                let detail = "the perf map is larger than is read: some of its functions have no name";
                self.limits.push(Gap::new("/rows/-/frames/-/function", Reason::LimitReached).detail(detail));
            }
            map
        });
        match map.lookup(avma) {
            Some((function, offset)) => Name { function: Some(cut(function)), function_offset: Some(offset), ..name },
            None => name,
        }
    }

    /// Reads what names the addresses of a module, the best source first, until one
    /// has local functions too.
    fn load(&mut self, at: usize) {
        let Some(opened) = &self.codes[at].opened else { return };
        let debug = &opened.elf.facts().debug;
        let mut left = self.symbols_left;
        let mut count = |symbols: &SymbolTable| {
            left = left.saturating_sub(symbols.len());
            left
        };
        let own = opened.elf.symbols_up_to(self.symbols_left);
        let most = count(&own);
        let mut names = Names { own, separate: None, mini: None, go: None, lines: None };
        let is_stripped = names.own.origin() != SymbolOrigin::Symtab;
        let mut debug_file = None;
        if is_stripped || !debug.debug_info {
            let separate = self.separate(at);
            debug_file = separate.as_ref().map(|(path, _)| path.clone());
            names.separate = separate.map(|(_, elf)| Named::new(elf, most));
        }
        let most = names.separate.as_ref().map_or(most, |named| count(&named.symbols));
        if is_stripped && names.separate.is_none() && debug.mini_debug_info {
            let mini = mini_debug_info(opened, self.mini_left);
            self.mini_left -= mini.as_ref().map_or(0, |elf| usize::try_from(elf.source().len()).unwrap_or(0));
            names.mini = mini.map(|elf| Named::new(elf, most));
            names.mini.iter().for_each(|named| _ = count(&named.symbols));
        }
        if is_stripped || !debug.debug_info {
            names.go = self.codes[at].go;
        }
        let path = self.codes[at].path.clone();
        let said = self.limits.len();
        let separate = names.separate.as_ref().zip(debug_file).map(|(named, path)| (&named.elf, path));
        let own = || (&opened.elf, path.to_bytes());
        let (elf, file) = if debug.debug_info { own() } else { separate.unwrap_or_else(own) };
        // A stripped file may still name it, and has nothing that goes on there.
        let link = elf.facts().debug.debug_alt_link.as_ref().filter(|_| elf.facts().debug.debug_info);
        let alternate = link.and_then(|link| self.alternate(link, &file));
        let mut lines = Lines::of(elf, alternate.as_ref(), &self.pages);
        if let (Ok(lines), Some(AltLink { file, build_id })) = (&mut lines, link) {
            // The target says where it is.
            let file = Text::from(file.as_str());
            let detail = format!(
                "what it has in common with others is in {file} (build ID {build_id}), which is not there or not read"
            );
            let gap = Gap::new("/rows/-/frames/-/inlined", Reason::NotFound).path(path.clone());
            lines.miss_alternate(gap.detail(detail));
        }
        if names.is_truncated() {
            let detail = "it has more functions than are looked at: some of them have no name, or that of another";
            let gap = Gap::new("/rows/-/frames/-/function", Reason::LimitReached).path(path.clone());
            self.limits.push(gap.detail(detail));
        }
        let unread = [
            (names.separate.is_none() && names.mini.is_none() && debug.mini_debug_info, "mini debug information"),
            (names.go.is_none() && debug.go_function_table, "table of Go functions"),
        ];
        for (_, what) in unread.into_iter().filter(|(is_unread, _)| *is_unread && is_stripped) {
            let detail = format!("its {what} is too large, or not as it is known");
            let gap = Gap::new("/rows/-/frames/-/function", Reason::Incomplete).path(path.clone());
            self.limits.push(gap.detail(detail));
        }
        match lines {
            Ok(lines) => names.lines = Some(lines),
            Err(NoLines::Absent) => {}
            Err(NoLines::TooLarge(bytes)) => {
                let detail = format!("its debug information has {bytes} bytes, which are not read");
                self.limits.push(Gap::new("/rows/-/frames/-/line", Reason::LimitReached).path(path).detail(detail));
            }
            Err(NoLines::UnknownCompression) => {
                let detail = "its debug information is not compressed with zlib or zstd";
                self.limits.push(Gap::new("/rows/-/frames/-/line", Reason::Unsupported).path(path).detail(detail));
            }
        }
        self.symbols_left = left;
        let misses_alternate = names.lines.as_ref().is_some_and(Lines::misses_alternate);
        self.codes[at].is_limited = self.limits.len() > said || misses_alternate;
        self.codes[at].names = Some(names);
    }

    /// Gaps for what a limit kept from being named since the last time.
    pub fn take_limits(&mut self) -> Vec<Gap> {
        let gap = || Gap::new("/rows/-/frames/-/line", Reason::LimitReached);
        for code in &mut self.codes {
            let Some(lines) = code.names.as_mut().and_then(|names| names.lines.as_mut()) else { continue };
            self.limits.extend(lines.take_missed());
            if lines.take_damaged(&self.pages) {
                let gap = Gap::new("/rows/-/frames/-/line", Reason::Malformed).path(code.path.clone());
                let detail = "its debug information is cut, or not as its compression is: some lines are not known";
                self.limits.push(gap.detail(detail));
            }
            if lines.take_truncated() {
                let detail = "its debug information has more units than are looked at: some lines are not known";
                self.limits.push(gap().path(code.path.clone()).detail(detail));
            }
        }
        if self.pages.is_exhausted() && !self.has_said_exhausted {
            self.has_said_exhausted = true;
            let detail = "so much debug information had to be read that it was given up: some lines are not known";
            self.limits.push(gap().detail(detail));
        }
        std::mem::take(&mut self.limits)
    }
}
