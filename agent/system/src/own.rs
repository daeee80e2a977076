//! The agent's own process and container.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use agent_session::Access;

use crate::parse::{self, Mount};

/// Where the kubelet mounts the file whose content becomes the container's
/// termination message (`terminationMessagePath`, its default).
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What the agent has opened on its own account and no session knows of yet.
static OPENED: Mutex<Vec<(Access, String)>> = Mutex::new(Vec::new());

/// So many of these are kept: a process that nobody asks for them does not grow.
const KEPT: usize = 4096;

/// Notes that the agent opens something that is not the target's, outside any run.
pub(crate) fn note(access: Access, path: &str) {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if opened.len() < KEPT {
        opened.push((access, path.to_owned()));
    }
}

/// Takes what the agent has opened on its own account since the last time: for the access log.
pub fn take_opened() -> Vec<(Access, String)> {
    std::mem::take(&mut OPENED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The text of a file of `/proc` that is about us or the machine. Its size is told as 0, so std would ask for 32 bytes,
/// and for twice as many each time.
///
/// # Errors
///
/// When it cannot be read.
pub(crate) fn text(path: &str) -> std::io::Result<Vec<u8>> {
    note(Access::Open, path);
    let mut bytes = Vec::with_capacity(8 << 10);
    fs::File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Our process ID in our own pid namespace.
pub fn pid() -> u32 {
    std::process::id()
}

/// Peak resident set of this program, in KiB (`VmHWM`; getrusage(2) would also
/// count what the process was before execve(2)).
pub fn peak_rss_kib() -> u64 {
    let status = text("/proc/self/status").ok().and_then(|text| parse::status(&text));
    status.and_then(|status| status.peak_rss_bytes).unwrap_or(0) / 1024
}

/// Our own mounts; empty where they cannot be read.
pub fn mounts() -> Vec<Mount> {
    text("/proc/self/mountinfo").map(|text| parse::mounts(&text)).unwrap_or_default()
}

/// Our own supplementary groups; empty where the kernel does not tell.
pub fn groups() -> Vec<u32> {
    let groups = rustix::process::getgroups().unwrap_or_default();
    groups.into_iter().map(rustix::process::Gid::as_raw).collect()
}

/// The text of our own `/proc/self/cgroup`.
pub fn cgroup() -> Option<Vec<u8>> {
    text("/proc/self/cgroup").ok()
}

/// The inode of one of our own namespaces.
pub fn namespace(kind: &str) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = format!("/proc/self/ns/{kind}");
    note(Access::Link, &path);
    let link = fs::read_link(path).ok()?;
    parse::namespace_inode(link.as_os_str().as_bytes())
}

/// True unless we are in the first user namespace, whose map is the identity over all
/// IDs (user_namespaces(7)).
pub fn is_in_child_user_namespace() -> bool {
    let map = text("/proc/self/uid_map").unwrap_or_default();
    !map.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).eq([&b"0"[..], b"0", b"4294967295"])
}

/// This boot (`/proc/sys/kernel/random/boot_id`).
pub fn boot_id() -> Option<String> {
    note(Access::Open, "/proc/sys/kernel/random/boot_id");
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|text| text.trim().to_owned())
}

/// Ends the agent at once, whatever its threads do: for when what it is part of has ended.
#[allow(clippy::disallowed_methods, reason = "main cannot return while another thread waits")]
pub fn end(status: u8) -> ! {
    std::process::exit(status.into())
}

/// The host name (uname(2)).
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Our own executable, open for reading.
#[derive(Debug)]
pub struct Executable {
    file: fs::File,
    /// Its length in bytes.
    pub length: u64,
}

impl Executable {
    /// Opens `/proc/self/exe`.
    ///
    /// # Errors
    ///
    /// When proc(5) is not mounted.
    pub fn open() -> std::io::Result<Self> {
        note(Access::Open, "/proc/self/exe");
        let file = fs::File::open("/proc/self/exe")?;
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }

    /// Reads at `offset`, as pread(2) does.
    ///
    /// # Errors
    ///
    /// When reading fails.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, buffer, offset)
    }
}

/// The width of the terminal on standard output, in columns.
pub fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Random bytes from the kernel (getrandom(2)).
pub fn random(bytes: &mut [u8]) {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(got) => done += got,
            Err(rustix::io::Errno::INTR) => {}
            // It cannot fail otherwise since Linux 3.17.
            Err(_) => return,
        }
    }
}

/// The container's termination message, open to be written at the end.
///
/// It is opened first, since nothing can be opened for writing once the agent is confined,
/// and before the target's IDs are taken on.
#[derive(Debug)]
pub struct TerminationMessage {
    /// Never closed: its number must not become another file's.
    file: std::mem::ManuallyDrop<fs::File>,
}

impl TerminationMessage {
    /// Where it is.
    pub const PATH: &'static str = TERMINATION_LOG;

    /// Whether the kubelet has mounted the file: asked once, since a container keeps its mounts.
    fn is_mounted() -> bool {
        static MOUNTED: OnceLock<bool> = OnceLock::new();
        *MOUNTED.get_or_init(|| mounts().iter().any(|mount| mount.point == TERMINATION_LOG.as_bytes()))
    }

    /// Opens it, where the kubelet has mounted the file for it: nowhere else is anything
    /// created or written. `None` where it has not.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be opened.
    pub fn open() -> std::io::Result<Option<Self>> {
        if !Self::is_mounted() {
            return Ok(None);
        }
        note(Access::Open, TERMINATION_LOG);
        let open = |reads| {
            let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
            fs::OpenOptions::new().read(reads).write(true).custom_flags(flags).open(TERMINATION_LOG)
        };
        let file = open(true).or_else(|_| open(false))?;
        crate::confine::may_write(&file);
        Ok(Some(Self { file: std::mem::ManuallyDrop::new(file) }))
    }

    /// What stands in it; `None` where there is no such file, or nothing in it.
    pub fn read() -> Option<Vec<u8>> {
        if !Self::is_mounted() {
            return None;
        }
        note(Access::Open, TERMINATION_LOG);
        let options = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let file = fs::OpenOptions::new().read(true).custom_flags(options).open(TERMINATION_LOG).ok()?;
        let mut bytes = Vec::new();
        // The kubelet takes no more.
        file.take(4096).read_to_end(&mut bytes).ok()?;
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Writes `message` over what was there, which must be as long: whoever reads meanwhile finds one or the other.
    ///
    /// # Errors
    ///
    /// As [`TerminationMessage::write`].
    pub fn write_over(&mut self, message: &[u8]) -> std::io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(message)
    }

    /// Whether `message` is what stands in it, as far as that can be read.
    pub fn says(&self, message: &[u8]) -> bool {
        let mut found = vec![0; message.len()];
        match std::os::unix::fs::FileExt::read_at(&*self.file, &mut found, 0) {
            Ok(length) => found[..length] == *message,
            Err(_) => true,
        }
    }

    /// Leaves `message` where the agent has to end without another word: it has no memory.
    pub fn last_words(&self, message: Vec<u8>) {
        use std::os::fd::AsRawFd as _;
        crate::allocator::last_words(crate::allocator::Last::Receipt, self.file.as_raw_fd(), vec![message]);
    }

    /// Writes `message` in the place of what was there.
    ///
    /// # Errors
    ///
    /// When it cannot be written: a full disk.
    pub fn write(&mut self, message: &[u8]) -> std::io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(message)
    }
}
