//! Real processes for the unwinder's tests: compiled here, stopped with ptrace,
//! and read by `/proc`. Every process is killed when its test ends, however it
//! ends.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use agent_binaries::elf::{ElfFile, Extent, Source, SymbolTable, read_vec};
use agent_stacks::unwind::{Module, Register, Registers, Unwinder, Unwound};
use framehop::Unwinder as _;
use framehop::x86_64::UnwinderX86_64;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long anything may take that normally takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// Compiles fixtures into a folder that goes away with it.
pub(crate) struct Workshop {
    folder: tempfile::TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Compiles `tests/fixtures/SOURCE` to `name`.
    pub(crate) fn compile(&self, source: &str, name: &str, flags: &[&str]) -> PathBuf {
        let output = self.path(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(source);
        let compiler = match source.extension().and_then(|ending| ending.to_str()) {
            Some("cpp") => "g++",
            Some("rs") => "rustc",
            _ => "gcc",
        };
        run(Command::new(compiler).arg("-o").arg(&output).arg(source).args(flags));
        output
    }

    pub(crate) fn strip(&self, program: &Path) {
        run(Command::new("strip").arg(program));
    }
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {errors}", output.status);
    text
}

/// A running program, killed on drop.
pub(crate) struct Target {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
}

impl Target {
    /// Starts a program and waits for its line `ready`.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let target = Self { child, stdin };
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        target
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn threads(&self) -> Vec<i32> {
        let entries = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let mut threads: Vec<i32> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().parse().unwrap()).collect();
        threads.sort_unstable();
        threads
    }

    /// Waits until a thread is blocked in a system call, and returns what it
    /// says of itself without being stopped: program counter, stack pointer.
    pub(crate) fn blocked(&self, tid: i32) -> Registers {
        let path = format!("/proc/{}/task/{tid}/syscall", self.pid());
        let started = Instant::now();
        let mut before = String::new();
        loop {
            let line = fs::read_to_string(&path).unwrap();
            if line != "running\n" && !line.starts_with("-1") && line == before {
                let mut words = line.split_whitespace().rev();
                let mut next = || u64::from_str_radix(&words.next().unwrap()[2..], 16).unwrap();
                let (pc, sp) = (next(), next());
                return Registers::new(pc, sp);
            }
            before = line;
            assert!(started.elapsed() < DEADLINE, "thread {tid} does not block: {before}");
            sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn memory(&self) -> ProcessMemory {
        ProcessMemory(File::open(format!("/proc/{}/mem", self.pid())).unwrap())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Both may fail where the program has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `/proc/PID/mem`.
pub(crate) struct ProcessMemory(File);

impl ProcessMemory {
    /// Up to `size` bytes from `address` on, as far as they are mapped.
    pub(crate) fn copy(&self, address: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let count = self.0.read_at(&mut bytes, address).unwrap();
        bytes.truncate(count);
        bytes
    }

    pub(crate) fn read(&self, address: u64) -> Result<u64, ()> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, address).map_err(|_| ())?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// A thread held by ptrace; let go on drop.
pub(crate) struct Stopped {
    tid: Pid,
}

impl Stopped {
    pub(crate) fn seize(tid: i32) -> Self {
        let tid = Pid::from_raw(tid);
        ptrace::seize(tid, ptrace::Options::empty()).unwrap();
        let stopped = Self { tid };
        ptrace::interrupt(tid).unwrap();
        stopped.wait();
        stopped
    }

    fn wait(&self) {
        let started = Instant::now();
        loop {
            match waitpid(self.tid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                Ok(WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)) => return,
                other => panic!("{}: {other:?}", self.tid),
            }
            assert!(started.elapsed() < DEADLINE, "{} does not stop", self.tid);
            std::thread::yield_now();
        }
    }

    /// Runs one instruction.
    pub(crate) fn step(&self) {
        ptrace::step(self.tid, None).unwrap();
        self.wait();
    }

    pub(crate) fn registers(&self) -> Registers {
        let r = ptrace::getregs(self.tid).unwrap();
        use Register::*;
        [
            (Rax, r.rax),
            (Rdx, r.rdx),
            (Rcx, r.rcx),
            (Rbx, r.rbx),
            (Rsi, r.rsi),
            (Rdi, r.rdi),
            (Rbp, r.rbp),
            (R8, r.r8),
            (R9, r.r9),
            (R10, r.r10),
            (R11, r.r11),
            (R12, r.r12),
            (R13, r.r13),
            (R14, r.r14),
            (R15, r.r15),
        ]
        .into_iter()
        .fold(Registers::new(r.rip, r.rsp), |registers, (register, value)| registers.with(register, value))
    }
}

impl Stopped {
    pub(crate) fn pc_sp_bp(&self) -> (u64, u64, u64) {
        let registers = ptrace::getregs(self.tid).unwrap();
        (registers.rip, registers.rsp, registers.rbp)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed; then there is nothing to let go.
        let _ = ptrace::detach(self.tid, None);
    }
}

/// A file read with pread(2).
pub(crate) struct OnDisk(File, u64);

impl Source for OnDisk {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
}

/// A module as it is mapped, from an address on.
struct InMemory(ProcessMemory, u64);

impl Source for InMemory {
    fn len(&self) -> u64 {
        u64::MAX - self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.0.read_at(buf, self.1 + offset)
    }
}

type AnySource = Arc<dyn Source + Send + Sync>;

/// One ELF file (or the vDSO) in a process.
pub(crate) struct Mapped {
    pub(crate) name: String,
    pub(crate) avma: std::ops::Range<u64>,
    pub(crate) bias: u64,
    pub(crate) elf: ElfFile<AnySource>,
    pub(crate) source: AnySource,
    symbols: SymbolTable,
}

/// The code of a process.
pub(crate) struct Image {
    pub(crate) modules: Vec<Mapped>,
    other_code: Vec<std::ops::Range<u64>>,
}

impl Image {
    pub(crate) fn of(target: &Target) -> Self {
        let maps = fs::read_to_string(format!("/proc/{}/maps", target.pid())).unwrap();
        let mut image = Self { modules: Vec::new(), other_code: Vec::new() };
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for line in maps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (start, end) = words[0].split_once('-').unwrap();
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            let avma = hex(start)..hex(end);
            let name = words.get(5).copied().unwrap_or_default();
            if !words[1].contains('x') || name == "[vsyscall]" {
                continue;
            }
            if let Some(at) = seen.get(name).copied() {
                image.modules[at].avma.end = avma.end;
                continue;
            }
            let source: AnySource = if name == "[vdso]" {
                let mut bytes = vec![0; (avma.end - avma.start) as usize];
                target.memory().0.read_exact_at(&mut bytes, avma.start).unwrap();
                Arc::new(bytes)
            } else if name.starts_with('/') {
                let file = File::open(name).unwrap();
                let len = file.metadata().unwrap().len();
                Arc::new(OnDisk(file, len))
            } else {
                image.other_code.push(avma);
                continue;
            };
            let elf = ElfFile::parse(source.clone()).unwrap();
            let bias = elf.facts().bias_of_mapping(avma.start, hex(words[2]), true).unwrap();
            let symbols = elf.symbols();
            seen.insert(name.to_owned(), image.modules.len());
            image.modules.push(Mapped { name: name.to_owned(), avma, bias, elf, source, symbols });
        }
        image
    }

    /// The same modules, their tables taken from the memory of the process, as
    /// where a file was deleted or cannot be opened.
    pub(crate) fn unwinder_from_memory(&self, target: &Target) -> Unwinder<'_> {
        let mut unwinder = Unwinder::new();
        for module in &self.modules {
            let lowest = module.elf.facts().loads().map(|load| load.svma).min().unwrap();
            let start = lowest.wrapping_add(module.bias) & !4095;
            let source: AnySource = Arc::new(InMemory(target.memory(), start));
            let elf = ElfFile::parse_mapped(source.clone(), start).unwrap();
            assert!(elf.problems().is_empty(), "{}: {:?}", module.name, elf.problems());
            let added = Module::from_elf(module.avma.clone(), module.bias, &elf, source);
            unwinder.add_module(added.unwrap());
        }
        unwinder
    }

    pub(crate) fn unwinder(&self) -> Unwinder<'_> {
        let mut unwinder = Unwinder::new();
        for module in &self.modules {
            let added = Module::from_elf(module.avma.clone(), module.bias, &module.elf, module.source.clone());
            unwinder.add_module(added.unwrap());
        }
        for code in &self.other_code {
            unwinder.add_module(Module::code(code.clone()));
        }
        unwinder
    }

    /// The name of the function at an address, `?` where there is none.
    pub(crate) fn name(&self, avma: u64) -> String {
        let module = self.modules.iter().find(|module| module.avma.contains(&avma));
        let symbol = module.and_then(|module| module.symbols.lookup(&module.elf, avma.wrapping_sub(module.bias)));
        symbol.map_or_else(|| "?".to_owned(), |symbol| symbol.name)
    }

    pub(crate) fn names(&self, stack: &Unwound) -> Vec<String> {
        stack.frames.iter().map(|frame| self.name(frame.lookup_avma())).collect()
    }
}

/// The addresses of `eu-stack`, a thread each.
pub(crate) fn eu_stack(pid: i32) -> BTreeMap<i32, Vec<u64>> {
    let output = Command::new("eu-stack").arg("-p").arg(pid.to_string()).output();
    let output = output.expect("eu-stack (elfutils) is needed");
    let mut threads: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    let mut tid = 0;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(rest) = line.strip_prefix("TID ") {
            tid = rest.trim_end_matches(':').parse().unwrap();
        } else if line.starts_with('#') {
            let address = u64::from_str_radix(&words[1][2..], 16).unwrap();
            threads.entry(tid).or_default().push(address);
        }
    }
    threads
}

/// What gdb says of one frame: address, function, and whether it is a signal
/// trampoline.
pub(crate) type GdbFrame = (u64, String, bool);

/// The frames of gdb, a thread each, without those that have no stack of their
/// own: inlined calls, and tail calls that it infers from debug information.
pub(crate) fn gdb(pid: i32) -> BTreeMap<i32, Vec<GdbFrame>> {
    const SCRIPT: &str = "
python
for thread in gdb.selected_inferior().threads():
    thread.switch()
    frame = gdb.newest_frame()
    while frame is not None:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            signal = frame.type() == gdb.SIGTRAMP_FRAME
            print('FRAME', thread.ptid[1], hex(frame.pc()), frame.name(), signal)
        try:
            frame = frame.older()
        except gdb.error:
            break
end
";
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), SCRIPT).unwrap();
    let text = run(Command::new("gdb")
        .args(["-nx", "-batch", "-iex", "set debuginfod enabled off"])
        .args(["-ex", "set backtrace past-main on", "-ex", "set backtrace past-entry on"])
        .arg("-p")
        .arg(pid.to_string())
        .arg("-x")
        .arg(script.path()));
    let mut threads: BTreeMap<i32, Vec<GdbFrame>> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("FRAME ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = u64::from_str_radix(&words[1][2..], 16).unwrap();
        let frame = (address, words[2].to_owned(), words[3] == "True");
        threads.entry(words[0].parse().unwrap()).or_default().push(frame);
    }
    threads
}

/// The same modules, as framehop takes them: whole sections.
pub(crate) fn framehop_of(image: &Image) -> UnwinderX86_64<Vec<u8>> {
    let mut unwinder = UnwinderX86_64::new();
    for module in &image.modules {
        let Some(tables) = module.elf.unwind_tables() else { continue };
        let bytes = |extent: Extent| read_vec(&module.source, extent.offset, extent.size as usize).unwrap();
        let range = |extent: Extent| extent.svma..extent.svma + extent.size;
        unwinder.add_module(framehop::Module::new(
            module.name.clone(),
            module.avma.clone(),
            module.bias,
            framehop::ExplicitModuleSectionInfo {
                base_svma: 0,
                eh_frame: Some(bytes(tables.eh_frame)),
                eh_frame_svma: Some(range(tables.eh_frame)),
                eh_frame_hdr: tables.eh_frame_hdr.map(bytes),
                eh_frame_hdr_svma: tables.eh_frame_hdr.map(range),
                ..Default::default()
            },
        ));
    }
    unwinder
}
