//! `/proc/PID/fdinfo/FD` (proc_pid_fdinfo(5)): what the kernel tells of an open
//! file description. Pure: bytes in, types out.

use agent_model::{Hex, Text, Wide};
use agent_system::parse::{hex, leading, number};
use agent_system::proc::{Attributes, FileType};
use schemars::JsonSchema;
use serde::Serialize;

/// What `stat -L -c '%f %s %h %i %t %T'` said of an open file when its process was
/// recorded (scripts/record): mode (hex), size, names, inode and device (hex). True if
/// `there` follows: it was in its directory under the path that its link says.
pub(crate) fn recorded(text: &[u8]) -> Option<(Attributes, bool)> {
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mode = u32::try_from(hex(words.next()?)?).ok()?;
    let (size, links, inode) = (number(words.next()?)?, number(words.next()?)?, number(words.next()?)?);
    let major = u32::try_from(hex(words.next()?)?).ok()?;
    let minor = u32::try_from(hex(words.next()?)?).ok()?;
    let kind = FileType::from_raw_mode(mode);
    let attributes = Attributes { kind, size, links, inode, device: (0, 0), special: (major, minor) };
    Some((attributes, words.next() == Some(b"there")))
}

/// What `fdinfo` says of a descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// File offset.
    pub(crate) position: Option<u64>,
    /// Flags of open(2), and O_CLOEXEC.
    pub(crate) flags: Option<u32>,
    /// The mount that it was opened through.
    pub(crate) mount_id: Option<u64>,
    /// Its inode number (since Linux 5.14).
    pub(crate) inode: Option<u64>,
    /// What only some types have.
    pub(crate) extra: Extra,
}

/// What only some types of descriptors have. Values that change by themselves
/// (the time left of a timer) are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Extra {
    /// The counter of an eventfd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eventfd: Option<Eventfd>,
    /// The descriptors that an epoll instance watches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub epoll: Vec<Watched>,
    /// The watches of an inotify instance.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inotify: Vec<Watch>,
    /// The marks of a fanotify group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fanotify: Vec<Mark>,
    /// A timer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timerfd: Option<Timer>,
    /// The signals that a signalfd takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signalfd: Option<Signals>,
    /// The process of a pidfd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pidfd: Option<Pidfd>,
    /// File locks held through this open file description.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<Lock>,
}

/// eventfd(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Eventfd {
    /// Its counter.
    pub count: Wide,
    /// Whether a read takes one off it (EFD_SEMAPHORE).
    pub semaphore: bool,
}

/// One descriptor that epoll(7) watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Watched {
    /// Its number when it was added; it may be another file's by now.
    pub fd: u32,
    /// The events, as names of epoll_ctl(2) and the rest in hex.
    #[schemars(extend("x-class" = "word"))]
    pub events: Vec<Text>,
    /// The application's own word.
    pub data: Hex,
    /// The inode that is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<Wide>,
}

/// One watch of inotify(7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Watch {
    /// Watch descriptor.
    pub wd: u32,
    /// The inode that is watched.
    pub inode: Wide,
    /// The device it is on, as the kernel's `major << 20 | minor`.
    pub device: Hex,
    /// Events, as the mask of inotify(7).
    pub mask: Hex,
}

/// One mark of fanotify(7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Mark {
    /// The inode that is marked, unless a whole mount or file system is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<Wide>,
    /// The mount that is marked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_id: Option<Wide>,
    /// Events, as the mask of fanotify_mark(2).
    pub mask: Hex,
}

/// timerfd_create(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Timer {
    /// Its clock: `realtime`, `monotonic`, `boottime`, `realtime_alarm`,
    /// `boottime_alarm`, `unknown`.
    #[schemars(extend("x-class" = "word"))]
    pub clock: &'static str,
    /// Whether it is set.
    pub armed: bool,
    /// Its interval, in microseconds; 0 if it fires once.
    pub interval_us: u64,
}

/// signalfd(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Signals {
    /// Signal numbers.
    pub signals: Vec<u32>,
}

/// pidfd_open(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pidfd {
    /// The process in our pid namespace; absent if it has ended or is outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// A file lock (proc_locks(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Lock {
    /// `flock`, `posix`, `ofd`, `lease`, `delegation`.
    #[serde(rename = "type")]
    #[schemars(extend("x-class" = "word"))]
    pub kind: Text,
    /// `read` or `write`.
    #[schemars(extend("x-class" = "word"))]
    pub access: Text,
    /// First byte.
    pub start: Wide,
    /// Last byte; absent up to the end of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Wide>,
}

/// Lists of one descriptor that are read at the most; a process may have
/// thousands of watches.
pub(crate) const MOST_ENTRIES: usize = 65_536;

/// Parses `fdinfo`. Keys that are not known are passed over.
pub(crate) fn info(bytes: &[u8]) -> Info {
    let mut info = Info::default();
    for line in bytes.split(|b| *b == b'\n') {
        if let Some(rest) = line.strip_prefix(b"inotify ") {
            push(&mut info.extra.inotify, inotify(rest));
            continue;
        }
        if let Some(rest) = line.strip_prefix(b"fanotify ") {
            push(&mut info.extra.fanotify, fanotify(rest));
            continue;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let value = line[colon + 1..].trim_ascii();
        match &line[..colon] {
            b"pos" => info.position = number(value),
            b"flags" => info.flags = octal(value),
            b"mnt_id" => info.mount_id = number(value),
            b"ino" => info.inode = number(value),
            b"eventfd-count" => {
                let count = Wide(hex(value).unwrap_or(0));
                info.extra.eventfd = Some(Eventfd { count, semaphore: false });
            }
            b"eventfd-semaphore" => {
                if let Some(eventfd) = &mut info.extra.eventfd {
                    eventfd.semaphore = value == b"1";
                }
            }
            b"tfd" => push(&mut info.extra.epoll, watched(value)),
            b"clockid" => {
                info.extra.timerfd = Some(Timer { clock: clock(value), armed: false, interval_us: 0 });
            }
            b"it_value" => {
                if let Some(timer) = &mut info.extra.timerfd {
                    timer.armed = timespec_us(value) > 0;
                }
            }
            b"it_interval" => {
                if let Some(timer) = &mut info.extra.timerfd {
                    timer.interval_us = timespec_us(value);
                }
            }
            b"sigmask" => {
                let mask = hex(value).unwrap_or(0);
                let signals = (0..64).filter(|bit| mask & (1 << bit) != 0).map(|bit| bit + 1).collect();
                info.extra.signalfd = Some(Signals { signals });
            }
            // -1 when it has ended, 0 when it is outside of our pid namespace.
            b"Pid" => info.extra.pidfd = Some(Pidfd { pid: number(value).filter(|pid| *pid > 0) }),
            b"lock" => push(&mut info.extra.locks, lock(value)),
            _ => {}
        }
    }
    // The kernel walks a tree that is ordered by address.
    info.extra.epoll.sort_by_key(|watched| watched.fd);
    info
}

fn push<T>(list: &mut Vec<T>, entry: Option<T>) {
    if list.len() < MOST_ENTRIES {
        list.extend(entry);
    }
}

fn octal(value: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(value).ok()?, 8).ok()
}

/// The value of `key:` among the words of `line`: `tfd:        5 events: 19`
/// has its values both behind a space and at once.
fn word<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if let Some(value) = word.strip_prefix(key).and_then(|rest| rest.strip_prefix(b":")) {
            return if value.is_empty() { words.next() } else { Some(value) };
        }
    }
    None
}

fn watched(line: &[u8]) -> Option<Watched> {
    let events = word(line, b"events").and_then(hex)?;
    Some(Watched {
        fd: u32::try_from(leading(line)?).ok()?,
        events: event_names(events),
        data: Hex(word(line, b"data").and_then(hex).unwrap_or(0)),
        inode: word(line, b"ino").and_then(hex).map(Wide),
    })
}

/// Events of epoll_ctl(2), by value (linux/eventpoll.h).
const EVENTS: [(u64, &str); 14] = [
    (0x1, "in"),
    (0x2, "pri"),
    (0x4, "out"),
    (0x8, "err"),
    (0x10, "hup"),
    (0x40, "rdnorm"),
    (0x80, "rdband"),
    (0x100, "wrnorm"),
    (0x200, "wrband"),
    (0x2000, "rdhup"),
    (1 << 28, "exclusive"),
    (1 << 29, "wakeup"),
    (1 << 30, "oneshot"),
    (1 << 31, "et"),
];

fn event_names(mut events: u64) -> Vec<Text> {
    let mut names = Vec::new();
    for (bit, name) in EVENTS {
        if events & bit != 0 {
            events &= !bit;
            names.push(Text::from(name));
        }
    }
    if events != 0 {
        names.push(Text::from(Hex(events).to_string().as_str()));
    }
    names
}

fn inotify(line: &[u8]) -> Option<Watch> {
    Some(Watch {
        wd: u32::try_from(word(line, b"wd").and_then(hex)?).ok()?,
        inode: Wide(word(line, b"ino").and_then(hex)?),
        device: Hex(word(line, b"sdev").and_then(hex)?),
        mask: Hex(word(line, b"mask").and_then(hex)?),
    })
}

/// The first line of a fanotify group has its flags, the others are its marks.
fn fanotify(line: &[u8]) -> Option<Mark> {
    Some(Mark {
        inode: word(line, b"ino").and_then(hex).map(Wide),
        mount_id: word(line, b"mnt_id").and_then(hex).map(Wide),
        mask: Hex(word(line, b"mask").and_then(hex)?),
    })
}

fn clock(value: &[u8]) -> &'static str {
    match number::<u32>(value) {
        Some(0) => "realtime",
        Some(1) => "monotonic",
        Some(7) => "boottime",
        Some(8) => "realtime_alarm",
        Some(9) => "boottime_alarm",
        _ => "unknown",
    }
}

/// `(1, 500000000)`: seconds and nanoseconds.
fn timespec_us(value: &[u8]) -> u64 {
    let inner = value.strip_prefix(b"(").and_then(|rest| rest.strip_suffix(b")")).unwrap_or_default();
    let mut parts = inner.split(|b| *b == b',').map(|part| leading(part).unwrap_or(0));
    let (seconds, nanoseconds) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    // A timer of less than a microsecond is set all the same.
    seconds.saturating_mul(1_000_000).saturating_add(nanoseconds.div_ceil(1000))
}

/// `1: POSIX  ADVISORY  WRITE 8127 fe:00:10010690 0 EOF`.
fn lock(line: &[u8]) -> Option<Lock> {
    let words: Vec<&[u8]> = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let [_, kind, _, access, .., start, end] = words[..] else { return None };
    let lower = |word: &[u8]| Text::from_bytes(&word.to_ascii_lowercase());
    Some(Lock {
        kind: match kind {
            b"OFDLCK" => Text::from("ofd"),
            b"DELEG" => Text::from("delegation"),
            other => lower(other),
        },
        access: lower(access),
        start: Wide(number(start)?),
        end: number(end).map(Wide),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded on Linux 6.18.
    const EPOLL: &[u8] = b"pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1039\n\
        tfd:        3 events:       1f data:                3  pos:0 ino:40f sdev:10\n\
        tfd:        5 events: 80000019 data: ffffffff00000005  pos:0 ino:1b8cf sdev:f\n";
    const TIMER: &[u8] = b"pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1039\nclockid: 1\nticks: 0\n\
        settime flags: 00\nit_value: (2, 997684715)\nit_interval: (1, 5000)\n";
    const LOCKED: &[u8] = b"pos:\t0\nflags:\t02100001\nmnt_id:\t27\nino:\t10010690\n\
        lock:\t1: FLOCK  ADVISORY  WRITE 8127 fe:00:10010690 0 EOF\nlock:\t2: POSIX  ADVISORY  READ 8127 fe:00:10010690 5 99\n";
    const INOTIFY: &[u8] = b"pos:\t0\nflags:\t00\nmnt_id:\t17\nino:\t1039\n\
        inotify wd:1a ino:3c4a7 sdev:fe00000 mask:100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:a7c4030000000000\n";
    const FANOTIFY: &[u8] = b"pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1039\nfanotify flags:0 event-flags:8000\n\
        fanotify ino:3c4a7 sdev:fe00000 mflags:0 mask:20 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:a7c4030000000000\n";

    #[test]
    fn recorded_attributes_are_those_of_stat() {
        let (device, is_there) = recorded(b"21b6 0 1 5 1 3\n").expect("a line");
        assert!(!is_there);
        assert_eq!((device.kind, device.inode, device.special), (FileType::CharacterDevice, 5, (1, 3)));
        let (file, is_there) = recorded(b"81a4 1536 0 77 0 0\nthere\n").expect("a line");
        assert!(is_there);
        assert_eq!((file.kind, file.size, file.links), (FileType::RegularFile, 1536, 0));
        for wrong in [&b""[..], b"81a4", b"x 1 1 1 0 0", b"81a4 -1 1 1 0 0", b"ffffffffff 1 1 1 0 0"] {
            assert_eq!(recorded(wrong), None);
        }
    }

    #[test]
    fn epoll_names_the_descriptors_it_watches() {
        let info = info(EPOLL);
        assert_eq!((info.flags, info.mount_id, info.inode), (Some(0o2000002), Some(17), Some(1039)));
        let [first, second] = &info.extra.epoll[..] else { panic!("two descriptors") };
        assert_eq!((first.fd, second.fd), (3, 5));
        assert_eq!(first.inode, Some(Wide(0x40f)));
        assert_eq!(second.data, Hex(0xffff_ffff_0000_0005));
        let names: Vec<&str> = second.events.iter().map(Text::as_str).collect();
        assert_eq!(names, ["in", "err", "hup", "et"]);
    }

    #[test]
    fn timers_say_their_interval_but_not_the_time_left() {
        let timer = info(TIMER).extra.timerfd.expect("a timer");
        assert_eq!(timer, Timer { clock: "monotonic", armed: true, interval_us: 1_000_005 });
    }

    #[test]
    fn locks_have_their_range() {
        let locks = info(LOCKED).extra.locks;
        assert_eq!(locks[0], Lock { kind: "flock".into(), access: "write".into(), start: Wide(0), end: None });
        assert_eq!(locks[1], Lock { kind: "posix".into(), access: "read".into(), start: Wide(5), end: Some(Wide(99)) });
    }

    #[test]
    fn watches_marks_signals_and_processes_are_read() {
        assert_eq!(info(INOTIFY).extra.inotify[0].wd, 0x1a);
        assert_eq!(
            info(FANOTIFY).extra.fanotify,
            [Mark { inode: Some(Wide(0x3c4a7)), mount_id: None, mask: Hex(0x20) }]
        );
        assert_eq!(info(b"sigmask:\t0000000000004004\n").extra.signalfd, Some(Signals { signals: vec![3, 15] }));
        assert_eq!(info(b"Pid:\t8082\n").extra.pidfd, Some(Pidfd { pid: Some(8082) }));
        assert_eq!(info(b"Pid:\t-1\nNSpid:\t0\n").extra.pidfd, Some(Pidfd { pid: None }));
        let eventfd = info(b"eventfd-count:               1f\neventfd-id: 1\neventfd-semaphore: 1\n").extra.eventfd;
        assert_eq!(eventfd, Some(Eventfd { count: Wide(31), semaphore: true }));
    }

    #[test]
    fn truncated_text_never_panics_and_garbage_is_nothing() {
        for text in [EPOLL, TIMER, LOCKED, INOTIFY, FANOTIFY] {
            for end in 0..text.len() {
                let _ = info(&text[..end]);
            }
        }
        assert_eq!(info(b"\xff\xfe:\n:::\ntfd:\nlock:\nit_value: (\npos:\t-\n"), Info::default());
    }
}
