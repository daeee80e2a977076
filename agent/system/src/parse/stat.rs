//! `/proc/PID/stat` and `/proc/PID/task/TID/stat` (proc_pid_stat(5)).

use super::number;

/// What `stat` says of a process or a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Process or thread ID.
    pub pid: u32,
    /// Its name, at most 15 bytes, any of them.
    pub name: Vec<u8>,
    /// The state's letter.
    pub state: u8,
    /// Parent process ID; 0 where the parent is outside of this pid namespace.
    pub ppid: u32,
    /// Process group.
    pub pgrp: i32,
    /// Session.
    pub session: i32,
    /// Controlling terminal, as the kernel packs major and minor number; 0 for none.
    pub tty: i32,
    /// Page faults that needed no reading from disk.
    pub minor_faults: u64,
    /// Page faults that did.
    pub major_faults: u64,
    /// CPU time in user mode, in clock ticks.
    pub user_ticks: u64,
    /// CPU time in kernel mode, in clock ticks.
    pub system_ticks: u64,
    /// Priority, as the kernel shows it: 0 to 39 for the usual policies, below 0 for
    /// real-time ones.
    pub priority: i32,
    /// Nice value: from 19, the least demanding, to -20.
    pub nice: i32,
    /// Number of threads.
    pub threads: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// Address space, in bytes.
    pub virtual_bytes: u64,
    /// Resident set, in pages.
    pub rss_pages: u64,
    /// Real-time priority; 0 for the other policies. Since Linux 2.5.19.
    pub rt_priority: Option<u32>,
    /// Scheduling policy, by its number (SCHED_* of linux/sched.h).
    pub policy: Option<u32>,
    /// PF_* flags (linux/sched.h).
    pub flags: u32,
}

impl Stat {
    /// Major and minor number of the controlling terminal (proc_pid_stat(5), field 7).
    pub fn terminal(&self) -> Option<(u32, u32)> {
        let packed = self.tty as u32;
        (packed != 0).then_some(((packed >> 8) & 0xfff, (packed & 0xff) | ((packed >> 12) & 0xf_ff00)))
    }

    /// True for a kernel thread (PF_KTHREAD).
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & 0x0020_0000 != 0
    }

    /// True for a process that is on its way to being a zombie (PF_EXITING).
    pub fn is_exiting(&self) -> bool {
        self.flags & 0x0000_0004 != 0
    }
}

/// Parses `stat`. The name may hold parentheses, spaces and newlines: it ends at
/// the last `)`.
pub fn stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let name = bytes.get(open + 1..close)?.to_vec();
    let pid = number(&bytes[..open])?;
    let mut fields = bytes[close + 1..].split(|b| b.is_ascii_whitespace()).filter(|f| !f.is_empty());
    // Field numbers as in the manual page; the state is the third.
    let mut next = 3;
    let mut field = |wanted: usize| {
        let skip = wanted - next;
        next = wanted + 1;
        fields.nth(skip)
    };
    Some(Stat {
        pid,
        name,
        state: *field(3)?.first()?,
        ppid: number(field(4)?)?,
        pgrp: number(field(5)?)?,
        session: number(field(6)?)?,
        tty: number(field(7)?)?,
        flags: number(field(9)?)?,
        minor_faults: number(field(10)?)?,
        major_faults: number(field(12)?)?,
        user_ticks: number(field(14)?)?,
        system_ticks: number(field(15)?)?,
        priority: number(field(18)?)?,
        nice: number(field(19)?)?,
        threads: number(field(20)?)?,
        start_ticks: number(field(22)?)?,
        virtual_bytes: number(field(23)?)?,
        // A negative count (it is signed in the kernel) is none.
        rss_pages: number::<i64>(field(24)?)?.max(0) as u64,
        rt_priority: field(40).and_then(number),
        policy: field(41).and_then(number),
    })
}

/// The name of a scheduling policy (sched(7)), by its number.
pub fn policy_name(policy: u32) -> &'static str {
    match policy {
        0 => "other",
        1 => "fifo",
        2 => "round_robin",
        3 => "batch",
        5 => "idle",
        6 => "deadline",
        7 => "ext",
        _ => "unknown",
    }
}

/// The name of a state letter (proc_pid_stat(5), field 3).
pub fn state_name(letter: u8) -> &'static str {
    match letter {
        b'R' => "running",
        b'S' => "sleeping",
        b'D' => "disk_sleep",
        b'T' => "stopped",
        b't' => "tracing_stop",
        b'Z' => "zombie",
        b'X' | b'x' => "dead",
        b'I' => "idle",
        b'P' => "parked",
        b'K' => "wakekill",
        b'W' => "waking",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: &[u8] = b"7 (nginx) S 1 7 7 0 -1 4194560 95 0 0 0 12 34 0 0 20 0 3 0 8123 11894784 851 18446744073709551615 1 1 0 0 0 0 0 1073746048 402745863 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn reads_the_fields() {
        let stat = stat(NGINX).expect("parses");
        assert_eq!((stat.pid, stat.ppid, stat.state, stat.threads), (7, 1, b'S', 3));
        assert_eq!((stat.user_ticks, stat.system_ticks), (12, 34));
        assert_eq!((stat.start_ticks, stat.rss_pages), (8123, 851));
        assert!(!stat.is_kernel_thread());
        assert_eq!((stat.pgrp, stat.session, stat.terminal()), (7, 7, None));
        assert_eq!((stat.minor_faults, stat.major_faults), (95, 0));
        assert_eq!((stat.priority, stat.nice, stat.virtual_bytes), (20, 0, 11_894_784));
        assert_eq!((stat.rt_priority, stat.policy.map(policy_name)), (Some(0), Some("other")));
    }

    #[test]
    fn a_terminal_has_a_major_and_a_minor_number() {
        let on = |tty: &str| {
            let text = String::from_utf8_lossy(NGINX).replacen("7 7 0 -1", &format!("7 7 {tty} -1"), 1);
            stat(text.as_bytes()).expect("parses").terminal()
        };
        assert_eq!(on("34816"), Some((136, 0)));
        assert_eq!(on("34819"), Some((136, 3)));
        assert_eq!(on("1025"), Some((4, 1)));
        // Minor numbers above 255 continue in the upper bits.
        assert_eq!(on("1083393"), Some((136, 257)));
    }

    #[test]
    fn what_stands_behind_the_resident_set_may_be_missing() {
        let text: Vec<&[u8]> = NGINX.split(|byte| *byte == b' ').take(24).collect();
        let stat = stat(&text.join(&b' ')).expect("parses");
        assert_eq!((stat.rss_pages, stat.rt_priority, stat.policy), (851, None, None));
    }

    #[test]
    fn a_name_may_hold_anything() {
        let text = [b"7 (a) R 1 (\n".as_slice(), &NGINX[3..]].concat();
        assert_eq!(stat(&text).expect("parses").name, b"a) R 1 (\nnginx");
    }

    #[test]
    fn truncated_text_is_refused_and_never_panics() {
        let needed = NGINX.len() - 150;
        for end in 0..needed {
            let _ = stat(&NGINX[..end]);
        }
        assert_eq!(stat(&NGINX[..40]), None);
        assert_eq!(stat(b") ("), None);
    }
}
