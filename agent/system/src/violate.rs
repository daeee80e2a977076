//! Trying what the agent must never do, so that tests see the kernel refuse it. No release
//! build has this.

use std::ffi::{CStr, c_long};

use agent_session::Access;
use nix::libc;

use crate::failure::errno_name;
use crate::{Errno, Process, Run};

/// What became of one violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// What was tried.
    pub violation: &'static str,
    /// The kernel's answer, by its name in errno(3); `None`: it was done.
    pub errno: Option<String>,
}

/// A system call and its arguments.
type Call = (&'static str, c_long, [c_long; 6]);

fn path(text: &'static CStr) -> c_long {
    text.as_ptr() as c_long
}

const HERE: c_long = libc::AT_FDCWD as c_long;

/// Everything but what needs a thread that is held. `address` is one in the target's memory
/// that it could be written at.
fn calls(pid: c_long, address: c_long, mem: &CStr, word: &[u8; 8]) -> Vec<Call> {
    let mem = mem.as_ptr() as c_long;
    let ours = Box::leak(Box::new(libc::iovec { iov_base: word.as_ptr().cast_mut().cast(), iov_len: 8 }));
    let theirs = Box::leak(Box::new(libc::iovec { iov_base: address as *mut libc::c_void, iov_len: 8 }));
    let (ours, theirs) = (std::ptr::from_mut(ours) as c_long, std::ptr::from_mut(theirs) as c_long);
    // `struct open_how`: flags, mode, resolve.
    let how = Box::leak(Box::new([libc::O_RDWR as u64, 0, 0])).as_ptr() as c_long;
    // `struct clone_args` of a process: all zero but the signal at its end.
    let clone = Box::leak(Box::new([0_u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0])).as_ptr() as c_long;
    // `struct sockaddr_in` of 127.0.0.1:9.
    let address_in = Box::leak(Box::new([2_u8, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])).as_ptr() as c_long;
    let page = 4096;
    vec![
        ("open mem for writing", libc::SYS_openat, [HERE, mem, libc::O_WRONLY.into(), 0, 0, 0]),
        ("open mem for both", libc::SYS_openat, [HERE, mem, libc::O_RDWR.into(), 0, 0, 0]),
        ("open mem by openat2", libc::SYS_openat2, [HERE, mem, how, 24, 0, 0]),
        ("open a file for writing", libc::SYS_openat, [HERE, path(c"/dev/null"), libc::O_WRONLY.into(), 0, 0, 0]),
        (
            "make a file",
            libc::SYS_openat,
            [HERE, path(c"/tmp/agent-violation"), c_long::from(libc::O_CREAT | libc::O_RDWR), 0o600, 0, 0],
        ),
        ("truncate a file", libc::SYS_truncate, [path(c"/dev/null"), 0, 0, 0, 0, 0]),
        ("remove a file", libc::SYS_unlinkat, [HERE, path(c"/tmp/agent-violation"), 0, 0, 0, 0]),
        ("make a directory", libc::SYS_mkdirat, [HERE, path(c"/tmp/agent-violation"), 0o700, 0, 0, 0]),
        ("close standard output", libc::SYS_close, [1, 0, 0, 0, 0, 0]),
        ("write elsewhere", libc::SYS_write, [0, word.as_ptr() as c_long, 8, 0, 0, 0]),
        ("write at", libc::SYS_pwrite64, [1, word.as_ptr() as c_long, 8, 0, 0, 0]),
        ("process_vm_writev", libc::SYS_process_vm_writev, [pid, ours, 1, theirs, 1, 0]),
        ("process_madvise", libc::SYS_process_madvise, [-1, theirs, 1, libc::MADV_DONTNEED.into(), 0, 0]),
        ("ptrace attach", libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), pid, 0, 0, 0, 0]),
        (
            "ptrace seize with exitkill",
            libc::SYS_ptrace,
            [libc::PTRACE_SEIZE.into(), pid, 0, libc::PTRACE_O_EXITKILL.into(), 0, 0],
        ),
        ("kill", libc::SYS_kill, [pid, libc::SIGKILL.into(), 0, 0, 0, 0]),
        ("tkill", libc::SYS_tkill, [pid, libc::SIGKILL.into(), 0, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [pid, pid, libc::SIGKILL.into(), 0, 0, 0]),
        ("sigqueue", libc::SYS_rt_sigqueueinfo, [pid, libc::SIGTERM.into(), 0, 0, 0, 0]),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal, [-1, libc::SIGKILL.into(), 0, 0, 0, 0]),
        ("signals through a descriptor", libc::SYS_fcntl, [1, libc::F_SETOWN.into(), pid, 0, 0, 0]),
        ("execve", libc::SYS_execve, [path(c"/bin/true"), 0, 0, 0, 0, 0]),
        ("execveat", libc::SYS_execveat, [HERE, path(c"/bin/true"), 0, 0, 0, 0]),
        ("fork", libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0, 0]),
        ("fork by clone3", libc::SYS_clone3, [clone, 64, 0, 0, 0, 0]),
        ("internet socket", libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0, 0]),
        ("internet socket, version 6", libc::SYS_socket, [libc::AF_INET6.into(), libc::SOCK_DGRAM.into(), 0, 0, 0, 0]),
        ("unix socket", libc::SYS_socket, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, 0, 0, 0]),
        ("connect", libc::SYS_connect, [0, address_in, 16, 0, 0, 0]),
        ("listen", libc::SYS_listen, [0, 1, 0, 0, 0, 0]),
        ("accept", libc::SYS_accept4, [0, 0, 0, 0, 0, 0]),
        ("send without an address", libc::SYS_sendto, [0, word.as_ptr() as c_long, 8, 0, 0, 0]),
        ("send to an address", libc::SYS_sendto, [0, word.as_ptr() as c_long, 8, 0, address_in, 16]),
        (
            "memory to execute",
            libc::SYS_mmap,
            [0, page, 5, c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS), -1, 0],
        ),
        ("make memory executable", libc::SYS_mprotect, [address & -page, page, 4, 0, 0, 0]),
        ("take a descriptor", libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0, 0]),
        ("change the priority of the target", libc::SYS_setpriority, [0, pid, 19, 0, 0, 0]),
        ("change the limits of the target", libc::SYS_prlimit64, [pid, 7, ours, 0, 0, 0]),
        ("become dumpable", libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0]),
        ("raise capabilities", libc::SYS_capset, [0, 0, 0, 0, 0, 0]),
        ("become another user", libc::SYS_setresuid, [0, 0, 0, 0, 0, 0]),
        ("enter a namespace", libc::SYS_setns, [-1, 0, 0, 0, 0, 0]),
        ("leave a namespace", libc::SYS_unshare, [0, 0, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0, 0, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0]),
        ("type into the terminal", libc::SYS_ioctl, [0, libc::TIOCSTI as c_long, word.as_ptr() as c_long, 0, 0, 0]),
    ]
}

/// What needs a thread that is held.
fn held(tid: c_long, address: c_long) -> Vec<Call> {
    let word = 0x6c61_7465_6c61_7465;
    vec![
        ("ptrace pokedata", libc::SYS_ptrace, [libc::PTRACE_POKEDATA.into(), tid, address, word, 0, 0]),
        ("ptrace pokeuser", libc::SYS_ptrace, [libc::PTRACE_POKEUSER.into(), tid, 0, word, 0, 0]),
        ("ptrace setregs", libc::SYS_ptrace, [libc::PTRACE_SETREGS.into(), tid, 0, address, 0, 0]),
        ("ptrace setsiginfo", libc::SYS_ptrace, [libc::PTRACE_SETSIGINFO.into(), tid, 0, address, 0, 0]),
        ("ptrace cont with a signal", libc::SYS_ptrace, [libc::PTRACE_CONT.into(), tid, 0, libc::SIGTERM.into(), 0, 0]),
        ("ptrace kill", libc::SYS_ptrace, [libc::PTRACE_KILL.into(), tid, 0, 0, 0, 0]),
        (
            "ptrace detach with sigkill",
            libc::SYS_ptrace,
            [libc::PTRACE_DETACH.into(), tid, 0, libc::SIGKILL.into(), 0, 0],
        ),
    ]
}

/// What only a command that declares it may do.
fn undeclared(pid: c_long) -> Vec<Call> {
    let netlink = |protocol: i32| [libc::AF_NETLINK.into(), libc::SOCK_RAW.into(), protocol.into(), 0, 0, 0];
    vec![
        ("stops: ptrace seize", libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), pid, 0, 0, 0, 0]),
        ("stops: ptrace interrupt", libc::SYS_ptrace, [libc::PTRACE_INTERRUPT.into(), pid, 0, 0, 0, 0]),
        ("stops: waitid", libc::SYS_waitid, [libc::P_ALL.into(), 0, 0, 0, 0, 0]),
        ("descriptors: kcmp", libc::SYS_kcmp, [pid, pid, 0, 0, 0, 0]),
        ("socket_diagnostics: netlink", libc::SYS_socket, netlink(libc::NETLINK_SOCK_DIAG)),
        ("packets: packet socket", libc::SYS_socket, [libc::AF_PACKET.into(), libc::SOCK_RAW.into(), 0, 0, 0, 0]),
        ("packets: rtnetlink", libc::SYS_socket, netlink(libc::NETLINK_ROUTE)),
        ("packets: bind", libc::SYS_bind, [0, 0, 0, 0, 0, 0]),
        ("interrupts: signalfd", libc::SYS_signalfd4, [-1, 0, 8, 0, 0, 0]),
        ("interrupts: pidfd_open", libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]),
    ]
}

fn attempt((violation, call, arguments): Call) -> Tried {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: not at all, if the kernel did it: that is what the tests look for. What is
    // passed as a pointer points to memory of ours that is never freed.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    let errno = (result < 0).then(|| errno_name(Errno::from_raw_os_error(nix::errno::Errno::last_raw())));
    Tried { violation, errno }
}

/// Tries every violation against `process`, whose memory at `address` it may write.
pub fn try_all(run: &Run, process: &Process<'_>, address: u64, may_stop: bool) -> Vec<Tried> {
    let pid = c_long::from(process.pid());
    let word = b"violated";
    let mem = std::ffi::CString::new(format!("/proc/{pid}/mem")).unwrap_or_default();
    let mut all: Vec<Tried> = calls(pid, address as c_long, &mem, word).into_iter().map(attempt).collect();
    if may_stop {
        let _ = run.permit(Access::Stop, &"violation");
        if let Ok(stopped) = process.stop(process.pid(), std::time::Duration::from_secs(5)) {
            all.extend(held(pid, address as c_long).into_iter().map(attempt));
            stopped.release();
        }
    } else {
        all.extend(undeclared(pid).into_iter().map(attempt));
    }
    all
}
