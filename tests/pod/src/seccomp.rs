//! containerd's default seccomp profile, which Kubernetes calls `RuntimeDefault`.
//!
//! The lists of system calls are containerd's (`contrib/seccomp/seccomp_default.go`); which of them
//! a container may make depends on its capability bounding set. Only the little-endian 64-bit
//! architectures that the agent is built for are here.

use serde_json::{Value, json};

use crate::caps::CapSet;

/// Whose default profile. The facts of `kubectl debug` were measured under the older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Containerd {
    /// containerd 1.6: `process_vm_readv` needs `CAP_SYS_PTRACE` in the bounding set.
    #[default]
    V1_6,
    /// containerd 2: `process_vm_readv` is always allowed; io_uring and vsock sockets are not.
    V2,
}

/// Allowed to every container, except `socket`, which releases treat differently.
const ALWAYS: &str = "
accept accept4 access adjtimex alarm bind brk capget capset chdir chmod chown chown32 clock_adjtime
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir
fchmod fchmodat fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr
fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_time64 futex_waitv
futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid
geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname
getsockopt gettid gettimeofday getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1
inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl
ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
lchown32 lgetxattr link linkat listen listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64
madvise membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep
newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6
pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget
semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack
signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statx
symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname
unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
";

/// Allowed to every container on x86-64 only.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &str = "arch_prctl modify_ldt";
/// Allowed to every container on aarch64 only.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"];

/// Allowed only in containerd 1.6.
const UNTIL_V2: &str = "io_uring_enter io_uring_register io_uring_setup";
/// Allowed since containerd 2 (the process_vm calls already since 1.7).
const SINCE_V2: &str = "cachestat fchmodat2 futex_requeue futex_wait futex_wake map_shadow_stack \
     name_to_handle_at process_vm_readv process_vm_writev";

/// Allowed to a container that has the capability in its bounding set.
const WITH_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         name_to_handle_at open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// personality(2) values: Linux, Linux 32-bit, the two with `UNAME26`, and "ask".
const PERSONALITIES: [u32; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// clone(2) flags of new namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// `AF_VSOCK`, which reaches the hypervisor.
const AF_VSOCK: u64 = 40;
/// `ENOSYS`, so that a C library falls back from clone3 to clone.
const ENOSYS: u32 = 38;

/// The `linux.seccomp` value of a container with this bounding set. Everything else gives `EPERM`.
pub(crate) fn runtime_default(bounding: CapSet, release: Containerd) -> Value {
    let allow = |names: &str| json!({"names": words(names), "action": "SCMP_ACT_ALLOW"});
    // ptrace is allowed always: since kernel 4.8 a tracer cannot change a call past the filter.
    let mut rules = vec![allow(ALWAYS), allow("ptrace"), allow(ARCHITECTURE)];
    match release {
        Containerd::V1_6 => rules.extend([allow(UNTIL_V2), allow("socket")]),
        Containerd::V2 => {
            rules.push(allow(SINCE_V2));
            rules.push(allow_if("socket", json!({"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"})));
        }
    }
    for persona in PERSONALITIES {
        rules.push(allow_if("personality", json!({"index": 0, "value": persona, "op": "SCMP_CMP_EQ"})));
    }
    for (name, calls) in WITH_CAPABILITY {
        if CapSet::named(name).is_some_and(|capability| bounding.contains(capability)) {
            rules.push(allow(calls));
        }
    }
    if !bounding.contains(CapSet::SYS_ADMIN) {
        let no_new_namespaces = json!({"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"});
        rules.push(allow_if("clone", no_new_namespaces));
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ARCHITECTURES, "syscalls": rules})
}

fn words(list: &str) -> Vec<&str> {
    list.split_whitespace().collect()
}

fn allow_if(name: &str, argument: Value) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(bounding: CapSet, release: Containerd, name: &str) -> bool {
        let profile = runtime_default(bounding, release);
        let rules = profile["syscalls"].as_array().unwrap();
        rules
            .iter()
            .any(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule["names"].as_array().unwrap().contains(&json!(name)))
    }

    #[test]
    fn capabilities_open_system_calls() {
        let (default, general) = (CapSet::RUNTIME_DEFAULT, CapSet::RUNTIME_DEFAULT | CapSet::SYS_PTRACE);
        for name in ["process_vm_readv", "kcmp", "pidfd_getfd"] {
            assert!(!allows(default, Containerd::V1_6, name), "{name}");
            assert!(allows(general, Containerd::V1_6, name), "{name}");
        }
        assert!(allows(default, Containerd::V1_6, "ptrace"));
        assert!(allows(default, Containerd::V1_6, "pidfd_open"));
        assert!(!allows(general, Containerd::V1_6, "setns"));
        assert!(allows(CapSet::ALL, Containerd::V1_6, "setns"));
    }

    #[test]
    fn newer_releases_allow_reading_memory() {
        assert!(allows(CapSet::NONE, Containerd::V2, "process_vm_readv"));
        assert!(!allows(CapSet::NONE, Containerd::V2, "pidfd_getfd"));
        assert!(!allows(CapSet::NONE, Containerd::V2, "io_uring_setup"));
    }
}
