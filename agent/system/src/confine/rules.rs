//! The system calls that a confined agent may make, and with what arguments.
//!
//! Every list is complete: what is in none is refused. `tests/golden/privileges.txt` is
//! written from these lists, so that a longer one is a visible change.

use nix::libc;

/// What a command does beyond reading files and printing. A collector declares its own
/// ([`crate::Collector::NEEDS`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// Holds threads of the target with ptrace(2) while their registers are read.
    Stops,
    /// Compares descriptors with kcmp(2), and asks sockets for their protocol.
    Descriptors,
    /// Asks the kernel about sockets (sock_diag(7)).
    SocketDiagnostics,
    /// Captures packets (packet(7)) and lists interfaces.
    Packets,
    /// Looks for a while: watches for signals and for the end of the target.
    Interrupts,
    /// Holds a session: takes connections of commands, and answers them.
    Connections,
}

/// What an argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// This, of 32 bits.
    Equal(u64),
    /// Anything else, of 32 bits.
    Not(u64),
    /// None of these bits is set, of the lower 32.
    NoneOf(u64),
    /// Zero, or a null pointer.
    Zero,
    /// A pointer, and not the null pointer.
    NotZero,
    /// Our own process ID.
    Ourselves,
    /// One of the files that may be written ([`super::may_write`]), or standard output or
    /// error.
    OurOutput,
    /// None of these.
    NotOurOutput,
}

/// Argument number, what it must be, and how that reads.
pub(super) type Condition = (u8, Is, &'static str);

/// One system call that may be made, where all conditions hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) call: libc::c_long,
    pub(super) when: &'static [Condition],
}

const fn any(call: libc::c_long) -> Rule {
    Rule { call, when: &[] }
}

const fn only(call: libc::c_long, when: &'static [Condition]) -> Rule {
    Rule { call, when }
}

/// The flags of open(2) by which a file could be written or made.
const WRITES: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u64
    | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;

/// The flags with which a thread is started, and nothing but a thread.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;

const PR_GET_AUXV: u64 = 0x4155_5856;

/// What every command may call.
#[rustfmt::skip]
pub(super) const BASE: &[Rule] = &[
    // Files are opened for reading only: neither the target's memory nor anything else can
    // be opened to be written. openat2(2) has its flags behind a pointer, so it is not here.
    only(libc::SYS_openat, &[(2, Is::NoneOf(WRITES), "no flag that writes or creates")]),
    any(libc::SYS_read),
    any(libc::SYS_pread64),
    any(libc::SYS_lseek),
    // What may be written stays what it is: a socket cannot come in its place.
    only(libc::SYS_close, &[(0, Is::NotOurOutput, "not our own output")]),
    any(libc::SYS_getdents64),
    any(libc::SYS_readlinkat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_readlink),
    any(libc::SYS_statx),
    any(libc::SYS_newfstatat),
    any(libc::SYS_fstat),
    any(libc::SYS_fstatfs),
    any(libc::SYS_faccessat),
    any(libc::SYS_faccessat2),
    // What is written goes to standard output and error, and to files of our own that were
    // opened before. (It would also be a way to send packets through a packet socket.)
    only(libc::SYS_write, &[(0, Is::OurOutput, "our own output")]),
    only(libc::SYS_writev, &[(0, Is::OurOutput, "our own output")]),
    only(libc::SYS_ftruncate, &[(0, Is::OurOutput, "our own output")]),
    // Whether it is a terminal, and how wide. No TIOCSTI.
    only(libc::SYS_ioctl, &[(1, Is::Equal(libc::TCGETS), "TCGETS")]),
    only(libc::SYS_ioctl, &[(1, Is::Equal(libc::TIOCGWINSZ), "TIOCGWINSZ")]),
    // Not F_SETOWN and F_SETSIG, by which the kernel would send signals for us.
    only(libc::SYS_fcntl, &[(1, Is::Equal(libc::F_GETFD as u64), "F_GETFD")]),
    only(libc::SYS_fcntl, &[(1, Is::Equal(libc::F_SETFD as u64), "F_SETFD")]),
    only(libc::SYS_fcntl, &[(1, Is::Equal(libc::F_GETFL as u64), "F_GETFL")]),
    only(libc::SYS_fcntl, &[(1, Is::Equal(libc::F_DUPFD_CLOEXEC as u64), "F_DUPFD_CLOEXEC")]),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    // Memory; none of it can be made executable.
    any(libc::SYS_brk),
    only(libc::SYS_mmap, &[(2, Is::NoneOf(libc::PROT_EXEC as u64), "not PROT_EXEC")]),
    only(libc::SYS_mprotect, &[(2, Is::NoneOf(libc::PROT_EXEC as u64), "not PROT_EXEC")]),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    any(libc::SYS_madvise),
    // Threads of our own. glibc falls back on clone(2) where clone3(2), whose flags are behind
    // a pointer, is not there: a filter of its own says so.
    only(libc::SYS_clone, &[(0, Is::Equal(THREAD), "the flags of a thread")]),
    any(libc::SYS_futex),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_rseq),
    any(libc::SYS_gettid),
    any(libc::SYS_getpid),
    any(libc::SYS_sched_yield),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    // Signals to ourselves: how abort(3) ends. None to others.
    only(libc::SYS_tgkill, &[(0, Is::Ourselves, "ourselves"), (2, Is::Equal(libc::SIGABRT as u64), "SIGABRT")]),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_restart_syscall),
    // Time, where the vDSO asks the kernel, and waiting.
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_getres),
    any(libc::SYS_gettimeofday),
    any(libc::SYS_clock_nanosleep),
    // About ourselves and the machine.
    any(libc::SYS_getrandom),
    any(libc::SYS_uname),
    any(libc::SYS_getgroups),
    any(libc::SYS_getrusage),
    only(libc::SYS_prlimit64, &[(0, Is::Equal(0), "ourselves"), (2, Is::Zero, "not setting")]),
    only(libc::SYS_prctl, &[(0, Is::Equal(PR_GET_AUXV), "PR_GET_AUXV")]),
    only(libc::SYS_prctl, &[(0, Is::Equal(libc::PR_SET_NAME as u64), "PR_SET_NAME")]),
];

const fn ptrace(request: libc::c_uint, when: &'static [Condition]) -> Rule {
    // The request is in `when`, for its name; this keeps the two from going apart.
    assert!(matches!(when[0], (0, Is::Equal(value), _) if value == request as u64));
    only(libc::SYS_ptrace, when)
}

const SEIZE: libc::c_uint = libc::PTRACE_SEIZE;
const INTERRUPT: libc::c_uint = libc::PTRACE_INTERRUPT;
const GETREGS: libc::c_uint = libc::PTRACE_GETREGS;
const GETREGSET: libc::c_uint = libc::PTRACE_GETREGSET;
const GETSIGINFO: libc::c_uint = libc::PTRACE_GETSIGINFO;
const GET_SYSCALL_INFO: libc::c_uint = libc::PTRACE_GET_SYSCALL_INFO;
const DETACH: libc::c_uint = libc::PTRACE_DETACH;

const NETLINK: Condition = (0, Is::Equal(libc::AF_NETLINK as u64), "AF_NETLINK");

/// Sent to the kernel: a `struct sockaddr_nl` (12 bytes) is an address that a packet socket
/// (20 bytes) refuses, and without one nothing is sent.
const TO_THE_KERNEL: &[Condition] = &[(4, Is::NotZero, "to an address"), (5, Is::Equal(12), "of AF_NETLINK")];

#[rustfmt::skip]
const STOPS: &[Rule] = &[
    // No options: with PTRACE_O_EXITKILL the target would end with us.
    ptrace(SEIZE, &[(0, Is::Equal(SEIZE as u64), "PTRACE_SEIZE"), (3, Is::Zero, "no options")]),
    ptrace(INTERRUPT, &[(0, Is::Equal(INTERRUPT as u64), "PTRACE_INTERRUPT")]),
    #[cfg(target_arch = "x86_64")]
    ptrace(GETREGS, &[(0, Is::Equal(GETREGS as u64), "PTRACE_GETREGS")]),
    ptrace(GETREGSET, &[(0, Is::Equal(GETREGSET as u64), "PTRACE_GETREGSET")]),
    ptrace(GETSIGINFO, &[(0, Is::Equal(GETSIGINFO as u64), "PTRACE_GETSIGINFO")]),
    ptrace(GET_SYSCALL_INFO, &[(0, Is::Equal(GET_SYSCALL_INFO as u64), "PTRACE_GET_SYSCALL_INFO")]),
    // A signal that was on its way is passed on; SIGKILL never waits to be.
    ptrace(DETACH, &[(0, Is::Equal(DETACH as u64), "PTRACE_DETACH"), (3, Is::Not(libc::SIGKILL as u64), "not SIGKILL")]),
    any(libc::SYS_waitid),
];

const DESCRIPTORS: &[Rule] = &[any(libc::SYS_kcmp), any(libc::SYS_getxattr)];

#[rustfmt::skip]
const SOCKET_DIAGNOSTICS: &[Rule] = &[
    only(libc::SYS_socket, &[NETLINK, (2, Is::Equal(libc::NETLINK_SOCK_DIAG as u64), "NETLINK_SOCK_DIAG")]),
    only(libc::SYS_sendto, TO_THE_KERNEL),
    any(libc::SYS_recvfrom),
];

const SOL_SOCKET: Condition = (1, Is::Equal(libc::SOL_SOCKET as u64), "SOL_SOCKET");
const SOL_PACKET: Condition = (1, Is::Equal(libc::SOL_PACKET as u64), "SOL_PACKET");

/// What libpcap calls: the socket, its ring, and the list of interfaces.
#[rustfmt::skip]
const PACKETS: &[Rule] = &[
    only(libc::SYS_socket, &[(0, Is::Equal(libc::AF_PACKET as u64), "AF_PACKET")]),
    only(libc::SYS_socket, &[NETLINK, (2, Is::Equal(libc::NETLINK_ROUTE as u64), "NETLINK_ROUTE")]),
    // Only for ioctl(2) of interfaces.
    only(libc::SYS_socket, &[NETLINK, (2, Is::Equal(libc::NETLINK_GENERIC as u64), "NETLINK_GENERIC")]),
    any(libc::SYS_bind),
    any(libc::SYS_getsockname),
    any(libc::SYS_getsockopt),
    only(libc::SYS_setsockopt, &[SOL_SOCKET]),
    // Promiscuous mode would set up the interface, and a ring for sending is for sending.
    only(libc::SYS_setsockopt, &[
        SOL_PACKET,
        (2, Is::Not(libc::PACKET_ADD_MEMBERSHIP as u64), "not PACKET_ADD_MEMBERSHIP"),
        (2, Is::Not(libc::PACKET_TX_RING as u64), "not PACKET_TX_RING"),
    ]),
    only(libc::SYS_sendto, TO_THE_KERNEL),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_eventfd2),
    only(libc::SYS_fcntl, &[(1, Is::Equal(libc::F_SETFL as u64), "F_SETFL")]),
    only(libc::SYS_ioctl, &[(1, Is::Equal(SIOCGIFNAME), "SIOCGIFNAME")]),
    only(libc::SYS_ioctl, &[(1, Is::Equal(SIOCGIFINDEX), "SIOCGIFINDEX")]),
    only(libc::SYS_ioctl, &[(1, Is::Equal(SIOCGIFHWADDR), "SIOCGIFHWADDR")]),
    only(libc::SYS_ioctl, &[(1, Is::Equal(SIOCGIFFLAGS), "SIOCGIFFLAGS")]),
    only(libc::SYS_ioctl, &[(1, Is::Equal(SIOCGIFMTU), "SIOCGIFMTU")]),
    // What an interface can do; it sets nothing without NET_ADMIN, which is never kept.
    only(libc::SYS_ioctl, &[(1, Is::Equal(SIOCETHTOOL), "SIOCETHTOOL")]),
];

// linux/sockios.h.
const SIOCGIFNAME: u64 = 0x8910;
const SIOCGIFFLAGS: u64 = 0x8913;
const SIOCGIFMTU: u64 = 0x8921;
const SIOCGIFHWADDR: u64 = 0x8927;
const SIOCGIFINDEX: u64 = 0x8933;
const SIOCETHTOOL: u64 = 0x8946;

/// The flags of memfd_create(2) that make something else than a file of data.
const MADE_OTHERWISE: u64 = (libc::MFD_EXEC | libc::MFD_HUGETLB) as u64;

/// It has no socket but those that were opened before, and what it takes connections with.
#[rustfmt::skip]
const CONNECTIONS: &[Rule] = &[
    any(libc::SYS_signalfd4),
    any(libc::SYS_accept4),
    only(libc::SYS_getsockopt, &[SOL_SOCKET]),
    only(libc::SYS_sendto, &[(4, Is::Zero, "to no address")]),
    any(libc::SYS_shutdown),
    // Bundles are kept in memory where no file can be written: the command that makes one gets the file. All sockets are
    // connected, so that the address behind the pointer leads nowhere.
    only(libc::SYS_memfd_create, &[(1, Is::NoneOf(MADE_OTHERWISE), "nothing that can be executed")]),
    any(libc::SYS_sendmsg),
];

const INTERRUPTS: &[Rule] = &[any(libc::SYS_signalfd4), any(libc::SYS_pidfd_open)];

impl Need {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Stops, Self::Descriptors, Self::SocketDiagnostics, Self::Packets, Self::Interrupts, Self::Connections];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stops => "stops",
            Self::Descriptors => "descriptors",
            Self::SocketDiagnostics => "socket_diagnostics",
            Self::Packets => "packets",
            Self::Interrupts => "interrupts",
            Self::Connections => "connections",
        }
    }

    pub(super) fn rules(self) -> &'static [Rule] {
        match self {
            Self::Stops => STOPS,
            Self::Descriptors => DESCRIPTORS,
            Self::SocketDiagnostics => SOCKET_DIAGNOSTICS,
            Self::Packets => PACKETS,
            Self::Interrupts => INTERRUPTS,
            Self::Connections => CONNECTIONS,
        }
    }
}

/// System calls that libraries try, and that must fail as on a kernel without them, so that
/// the library goes on: it takes EPERM for an error.
pub(super) const AS_IF_MISSING: &[(Rule, libc::c_int)] = &[
    (any(libc::SYS_clone3), libc::ENOSYS),
    // libpcap's list of what can be captured on: Bluetooth, and netfilter's logs.
    (only(libc::SYS_socket, &[(0, Is::Equal(libc::AF_BLUETOOTH as u64), "AF_BLUETOOTH")]), libc::EAFNOSUPPORT),
    (
        only(libc::SYS_socket, &[NETLINK, (2, Is::Equal(libc::NETLINK_NETFILTER as u64), "NETLINK_NETFILTER")]),
        libc::EPROTONOSUPPORT,
    ),
];
