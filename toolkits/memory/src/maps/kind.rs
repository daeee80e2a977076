//! What a mapping is for, and what about it is dangerous: pure, from what the
//! kernel says of it.

use super::flags::Flags;
use super::line::Permissions;

/// An inaccessible mapping of at most this size is taken for a guard; a larger
/// one holds address space for later (the rest of a malloc arena, the heap of a
/// JVM). Guards are a few pages; HotSpot's zones on 64 KiB pages are the largest.
pub(crate) const LARGEST_GUARD: u64 = 1 << 20;

/// What a mapping is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub(crate) enum Kind {
    AnonInode,
    #[default]
    Anonymous,
    Code,
    Data,
    Device,
    File,
    Guard,
    Heap,
    Jit,
    Memfd,
    Reserved,
    Rodata,
    SharedMemory,
    Special,
    Stack,
    ThreadStack,
    Vdso,
    Vsyscall,
    Vvar,
}

impl Kind {
    /// All of them, by their words.
    pub(crate) const ALL: [Self; 19] = [
        Self::AnonInode,
        Self::Anonymous,
        Self::Code,
        Self::Data,
        Self::Device,
        Self::File,
        Self::Guard,
        Self::Heap,
        Self::Jit,
        Self::Memfd,
        Self::Reserved,
        Self::Rodata,
        Self::SharedMemory,
        Self::Special,
        Self::Stack,
        Self::ThreadStack,
        Self::Vdso,
        Self::Vsyscall,
        Self::Vvar,
    ];

    /// The word that stands for it in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::AnonInode => "anon_inode",
            Self::Anonymous => "anonymous",
            Self::Code => "code",
            Self::Data => "data",
            Self::Device => "device",
            Self::File => "file",
            Self::Guard => "guard",
            Self::Heap => "heap",
            Self::Jit => "jit",
            Self::Memfd => "memfd",
            Self::Reserved => "reserved",
            Self::Rodata => "rodata",
            Self::SharedMemory => "shared_memory",
            Self::Special => "special",
            Self::Stack => "stack",
            Self::ThreadStack => "thread_stack",
            Self::Vdso => "vdso",
            Self::Vsyscall => "vsyscall",
            Self::Vvar => "vvar",
        }
    }

    /// The kernel's own, in every process.
    fn is_of_kernel(self) -> bool {
        matches!(self, Self::Vdso | Self::Vsyscall | Self::Vvar | Self::Special)
    }
}

/// What the end of a mapping's line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label<'a> {
    /// Nothing: anonymous.
    None,
    /// A path, or what stands for one.
    File {
        /// Without the mark of deletion.
        path: &'a [u8],
        /// Whether that mark was there.
        deleted: bool,
    },
    /// A name in brackets.
    Name {
        /// What it says, without brackets and without what all of the kind begin
        /// with (`anon:`).
        name: &'a [u8],
        /// What it is thereby known to be.
        kind: Kind,
        /// The thread whose stack it is (`[stack:TID]`, Linux 3.4 to 4.4).
        tid: Option<u32>,
    },
}

impl<'a> Label<'a> {
    /// Parses what stands after the inode.
    pub(crate) fn parse(text: &'a [u8]) -> Self {
        if text.is_empty() {
            return Self::None;
        }
        if let Some(name) = text.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) {
            return Self::name(name);
        }
        match text.strip_suffix(b" (deleted)") {
            Some(path) => Self::File { path, deleted: true },
            None => Self::File { path: text, deleted: false },
        }
    }

    fn name(name: &'a [u8]) -> Self {
        let known = |kind| Self::Name { name, kind, tid: None };
        if let Some(name) = name.strip_prefix(b"anon:") {
            return Self::Name { name, kind: Kind::Anonymous, tid: None };
        }
        if let Some(name) = name.strip_prefix(b"anon_shmem:") {
            return Self::Name { name, kind: Kind::SharedMemory, tid: None };
        }
        if let Some(tid) = name.strip_prefix(b"stack:") {
            let tid = agent_system::parse::number(tid);
            return Self::Name { name: b"stack", kind: Kind::ThreadStack, tid };
        }
        match name {
            b"heap" => known(Kind::Heap),
            b"stack" => known(Kind::Stack),
            b"vdso" => known(Kind::Vdso),
            b"vsyscall" => known(Kind::Vsyscall),
            // `[vvar]`, and `[vvar_vclock]` since Linux 6.13.
            _ if name.starts_with(b"vvar") => known(Kind::Vvar),
            // `[uprobes]`, `[sigpage]`, `[vectors]`, and what is to come.
            _ => known(Kind::Special),
        }
    }
}

/// What is known of a mapping when all of them were read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts<'a> {
    pub(crate) permissions: Permissions,
    pub(crate) size_bytes: u64,
    pub(crate) flags: Flags,
    /// What its name in brackets says.
    pub(crate) named: Option<Kind>,
    /// That name.
    pub(crate) name: &'a str,
    /// Whether a file is mapped.
    pub(crate) has_file: bool,
    /// The file's path, escaped; absent where it was not kept.
    pub(crate) path: Option<&'a str>,
    /// Whether the file was deleted.
    pub(crate) deleted: bool,
    /// Whether the same file is also mapped executable.
    pub(crate) module: bool,
    /// Whether the stack pointer of a thread lies in it.
    pub(crate) has_thread: bool,
    /// Whether it begins where a guard ends.
    pub(crate) above_guard: bool,
}

impl Facts<'_> {
    /// What the mapping is for.
    pub(crate) fn kind(&self) -> Kind {
        match self.named {
            Some(Kind::Anonymous) => self.anonymous(),
            Some(kind) => kind,
            None if self.has_file => self.file(),
            None => self.anonymous(),
        }
    }

    fn anonymous(&self) -> Kind {
        let Self { permissions, .. } = self;
        if permissions.inaccessible() {
            return if self.size_bytes <= LARGEST_GUARD { Kind::Guard } else { Kind::Reserved };
        }
        // A stack pointer alone does not make a stack of its own: goroutines and
        // fibres run on stacks inside of large heaps.
        let guarded = self.above_guard || self.flags.maybe_guard() || self.name.starts_with("stack_and_tls");
        if self.has_thread && guarded && permissions.writable() && !permissions.shared() {
            Kind::ThreadStack
        } else if permissions.executable() {
            Kind::Jit
        } else {
            Kind::Anonymous
        }
    }

    fn file(&self) -> Kind {
        let Self { permissions, .. } = self;
        let path = self.path.unwrap_or_default();
        if path.starts_with("/memfd:") {
            return Kind::Memfd;
        }
        // Shared anonymous memory has a nameless file on the kernel's own tmpfs; a
        // private mapping of /dev/zero is anonymous memory by another name.
        if path == "/dev/zero" || path == "/anon_hugepage" {
            return if permissions.shared() { Kind::SharedMemory } else { self.anonymous() };
        }
        let is_system_v = path.starts_with("/SYSV") && self.deleted;
        if is_system_v || (path.starts_with("/dev/shm/") && permissions.shared()) {
            return Kind::SharedMemory;
        }
        if !path.starts_with('/') && path.contains(':') {
            // `anon_inode:[io_uring]`, `socket:[123]`
            return Kind::AnonInode;
        }
        let on_tmpfs = ["/dev/shm/", "/dev/hugepages/"].iter().any(|mount| path.starts_with(mount));
        if path.starts_with("/dev/") && !on_tmpfs {
            return Kind::Device;
        }
        match () {
            () if permissions.executable() => Kind::Code,
            () if permissions.inaccessible() => Kind::Reserved,
            () if !self.module => Kind::File,
            () if permissions.writable() => Kind::Data,
            () => Kind::Rodata,
        }
    }
}

/// What about a mapping is worth a second look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Check {
    /// The word that stands for it in JSON.
    pub(crate) id: &'static str,
    /// How grave one mapping of it is: `warn` or `info`.
    pub(crate) level: &'static str,
    /// What it means.
    pub(crate) message: &'static str,
}

/// All checks, in the order in which they are listed.
pub(crate) const CHECKS: [Check; 7] = [
    Check {
        id: "writable_executable",
        level: "warn",
        message: "memory that may be written to and executed: whoever can write there can run code",
    },
    Check {
        id: "executable_stack",
        level: "warn",
        message: "a stack that may be executed: the program, or a library, is linked with an executable stack",
    },
    Check { id: "executable_memfd", level: "warn", message: "code that is in no file system (memfd_create(2))" },
    Check { id: "executable_shared_memory", level: "warn", message: "code that other processes may write to" },
    Check {
        id: "modified_code",
        level: "warn",
        message: "code that is not as in its file: text relocations, breakpoints, probes or hooks",
    },
    Check {
        id: "executable_anonymous",
        level: "info",
        message: "code that is in no file: a just-in-time compiler's, or injected",
    },
    Check {
        id: "executable_deleted",
        level: "info",
        message: "code whose file was deleted or replaced: it runs on until the process is started anew",
    },
];

/// Which of [`CHECKS`] a mapping fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failed(u8);

impl Failed {
    /// Checks a mapping of `kind`; `anonymous` is how much of it belongs to no
    /// file, where that is known.
    pub(crate) fn of(kind: Kind, facts: &Facts<'_>, anonymous: Option<u64>) -> Self {
        let Facts { permissions, deleted, .. } = *facts;
        if !permissions.executable() || kind.is_of_kernel() {
            return Self(0);
        }
        let is_code = kind == Kind::Code;
        let failed = [
            permissions.writable(),
            matches!(kind, Kind::Stack | Kind::ThreadStack),
            kind == Kind::Memfd,
            kind == Kind::SharedMemory,
            is_code && !permissions.writable() && anonymous.is_some_and(|kib| kib > 0),
            matches!(kind, Kind::Jit | Kind::Heap | Kind::Anonymous),
            is_code && deleted,
        ];
        Self(failed.iter().enumerate().map(|(at, failed)| u8::from(*failed) << at).sum())
    }

    /// Whether it fails none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// The places in [`CHECKS`].
    pub(crate) fn checks(self) -> impl Iterator<Item = usize> {
        (0..CHECKS.len()).filter(move |at| self.0 & 1 << at != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::{Line, Reader};
    use super::*;

    fn facts(line: &'static str) -> Facts<'static> {
        let Line::Mapping(permissions, mapping) = Reader::default().line(line.as_bytes()) else { panic!("a mapping") };
        let mut facts = Facts { permissions, size_bytes: mapping.end - mapping.start, ..Facts::default() };
        match Label::parse(mapping.name) {
            Label::None => {}
            Label::File { path, deleted } => {
                facts.has_file = true;
                facts.path = std::str::from_utf8(path).ok();
                facts.deleted = deleted;
            }
            Label::Name { name, kind, .. } => {
                facts.named = Some(kind);
                facts.name = std::str::from_utf8(name).expect("UTF-8");
            }
        }
        facts
    }

    fn kind(line: &'static str) -> &'static str {
        facts(line).kind().as_str()
    }

    #[test]
    fn kinds_are_in_the_order_of_their_words() {
        let words: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert!(words.is_sorted());
        assert!(Kind::ALL.iter().enumerate().all(|(at, kind)| *kind as usize == at));
    }

    #[test]
    fn names_of_the_kernel_are_kinds() {
        assert_eq!(kind("1000-2000 rw-p 0 00:00 0 [heap]"), "heap");
        assert_eq!(kind("1000-2000 rw-p 0 00:00 0 [stack]"), "stack");
        assert_eq!(kind("1000-2000 rw-p 0 00:00 0 [stack:77]"), "thread_stack");
        assert_eq!(kind("1000-2000 r-xp 0 00:00 0 [vdso]"), "vdso");
        assert_eq!(kind("1000-2000 r--p 0 00:00 0 [vvar]"), "vvar");
        assert_eq!(kind("1000-2000 r--p 0 00:00 0 [vvar_vclock]"), "vvar");
        assert_eq!(kind("1000-2000 --xp 0 00:00 0 [vsyscall]"), "vsyscall");
        assert_eq!(kind("1000-2000 r-xp 0 00:00 0 [uprobes]"), "special");
        assert_eq!(kind("1000-2000 rw-p 0 00:00 0 [anon: Go: heap]"), "anonymous");
        assert_eq!(kind("1000-2000 rw-s 0 00:01 5 [anon_shmem:ring]"), "shared_memory");
    }

    #[test]
    fn files_are_told_apart() {
        assert_eq!(kind("1000-2000 r-xp 0 fe:00 1 /usr/lib/libc.so.6"), "code");
        assert_eq!(kind("1000-2000 r--p 0 fe:00 1 /usr/lib/locale/C.utf8/LC_CTYPE"), "file");
        let mut of_module = facts("1000-2000 r--p 0 fe:00 1 /usr/lib/libc.so.6");
        of_module.module = true;
        assert_eq!(of_module.kind(), Kind::Rodata);
        of_module.permissions = facts("1000-2000 rw-p 0 fe:00 1 /usr/lib/libc.so.6").permissions;
        assert_eq!(of_module.kind(), Kind::Data);
        assert_eq!(kind("1000-2000 rw-s 0 00:1a 1 /dev/shm/ring"), "shared_memory");
        assert_eq!(kind("1000-2000 rw-p 0 00:1a 1 /dev/shm/ring"), "file");
        assert_eq!(kind("1000-2000 rw-s 0 00:01 1 /dev/zero (deleted)"), "shared_memory");
        assert_eq!(kind("1000-2000 rw-p 0 00:01 1 /dev/zero"), "anonymous");
        assert_eq!(kind("1000-2000 rw-s 0 00:01 1 /SYSV00000000 (deleted)"), "shared_memory");
        assert_eq!(kind("1000-2000 rw-s 0 00:01 1 /memfd:buffer (deleted)"), "memfd");
        assert_eq!(kind("1000-2000 rw-s 0 00:06 1 /dev/nvidia0"), "device");
        assert_eq!(kind("1000-2000 rw-s 0 00:0e 1 anon_inode:[io_uring]"), "anon_inode");
    }

    #[test]
    fn anonymous_memory_without_access_is_a_guard_or_a_reservation() {
        assert_eq!(kind("1000-2000 ---p 0 00:00 0"), "guard");
        assert_eq!(kind("7f0000021000-7f0004000000 ---p 0 00:00 0"), "reserved");
        assert_eq!(kind("1000-2000 rwxp 0 00:00 0"), "jit");
        assert_eq!(kind("1000-2000 r-xp 0 00:00 0 [anon:v8]"), "jit");
    }

    #[test]
    fn a_stack_pointer_needs_a_guard_below_to_make_a_thread_stack() {
        let mut stack = facts("1000-2000 rw-p 0 00:00 0");
        stack.has_thread = true;
        assert_eq!(stack.kind(), Kind::Anonymous);
        stack.above_guard = true;
        assert_eq!(stack.kind(), Kind::ThreadStack);
        stack.above_guard = false;
        stack.flags = Flags::parse(b" rd wr gu");
        assert_eq!(stack.kind(), Kind::ThreadStack);
    }

    fn failed(line: &'static str, anonymous: Option<u64>) -> Vec<&'static str> {
        let facts = facts(line);
        Failed::of(facts.kind(), &facts, anonymous).checks().map(|at| CHECKS[at].id).collect()
    }

    #[test]
    fn checks_name_what_is_dangerous() {
        assert_eq!(failed("1000-2000 rwxp 0 00:00 0", None), ["writable_executable", "executable_anonymous"]);
        assert_eq!(failed("1000-2000 rwxp 0 00:00 0 [stack]", None), ["writable_executable", "executable_stack"]);
        assert_eq!(failed("1000-2000 r-xp 0 00:00 0 [vdso]", Some(4)), [""; 0]);
        assert_eq!(failed("1000-2000 r-xp 0 fe:00 1 /bin/x", Some(4)), ["modified_code"]);
        assert_eq!(failed("1000-2000 r-xp 0 fe:00 1 /bin/x", Some(0)), [""; 0]);
        assert_eq!(failed("1000-2000 r-xp 0 fe:00 1 /bin/x (deleted)", None), ["executable_deleted"]);
        assert_eq!(failed("1000-2000 r-xp 0 00:01 1 /memfd:x (deleted)", None), ["executable_memfd"]);
        assert_eq!(failed("1000-2000 rw-p 0 fe:00 1 /bin/x", Some(4)), [""; 0]);
    }
}
