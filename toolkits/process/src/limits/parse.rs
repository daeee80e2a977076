//! Pure parsers of `/proc/PID/limits` and of the files of a control group: bytes
//! in, types out. Keys of a newer kernel are passed over, those that an older one
//! lacks are `None`.

use agent_system::parse::{leading, number};

use super::bound::Bound;

/// One line of `/proc/PID/limits` (proc_pid_limits(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit<'a> {
    /// The limit, as the kernel writes it: `Max open files`.
    pub name: &'a [u8],
    /// Soft limit.
    pub soft: Bound,
    /// Hard limit.
    pub hard: Bound,
    /// Unit; a priority has none.
    pub unit: Option<&'a [u8]>,
}

/// Parses `/proc/PID/limits`, in its order. Lines that break the format are left
/// out.
pub fn rlimits(bytes: &[u8]) -> Vec<Rlimit<'_>> {
    let mut lines = bytes.split(|b| *b == b'\n');
    // The names hold spaces: where they end, the heading says.
    let heading = lines.next().unwrap_or_default();
    let Some(column) = heading.windows(4).position(|four| four == b"Soft") else { return Vec::new() };
    lines
        .filter_map(|line| {
            let (name, rest) = line.split_at_checked(column)?;
            let mut words = words(rest);
            let (soft, hard) = (bound(words.next()?)?, bound(words.next()?)?);
            Some(Rlimit { name: name.trim_ascii(), soft, hard, unit: words.next() })
        })
        .collect()
}

fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A limit as `/proc/PID/limits` and cgroup v2 write it: a number, `unlimited` or
/// `max`.
pub fn bound(bytes: &[u8]) -> Option<Bound> {
    match bytes.trim_ascii() {
        b"unlimited" | b"max" => Some(Bound::Unlimited),
        digits => number(digits).map(Bound::At),
    }
}

/// A limit as the memory controller of cgroup v1 writes it, in bytes: no limit is
/// the greatest signed number, rounded down to a page (of at most 64 KiB).
pub fn v1_bytes(bytes: &[u8]) -> Option<Bound> {
    let limit = number::<u64>(bytes)?;
    Some(if limit >= (i64::MAX as u64) & !0xffff { Bound::Unlimited } else { Bound::At(limit) })
}

/// `cpu.cfs_quota_us` of cgroup v1: negative for no quota.
pub fn v1_quota(bytes: &[u8]) -> Option<Bound> {
    let quota = number::<i64>(bytes)?;
    Some(u64::try_from(quota).map_or(Bound::Unlimited, Bound::At))
}

/// `cpu.max` of cgroup v2: quota and period, in microseconds.
pub fn cpu_max(bytes: &[u8]) -> Option<(Bound, Option<u64>)> {
    let mut words = words(bytes);
    Some((bound(words.next()?)?, words.next().and_then(number)))
}

/// What `/proc/PID/status` says of the use of limits. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusUse {
    /// `VmSize`: address space.
    pub size: Option<u64>,
    /// `VmData`: private, writable memory that is no stack.
    pub data: Option<u64>,
    /// `VmStk`: stack.
    pub stack: Option<u64>,
    /// `VmLck`: locked memory.
    pub locked: Option<u64>,
    /// `VmRSS`: resident set.
    pub resident: Option<u64>,
    /// `SigQ`: queued signals of its real user.
    pub signals: Option<u64>,
    /// `Cpus_allowed_list`: the CPUs that it may run on.
    pub cpus: Option<String>,
}

/// Parses `/proc/PID/status` for [`StatusUse`].
pub fn status_use(bytes: &[u8]) -> StatusUse {
    let mut all = StatusUse::default();
    for line in bytes.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let value = line[colon + 1..].trim_ascii();
        let size = || leading(value).map(|kib| kib.saturating_mul(1024));
        match &line[..colon] {
            b"VmSize" => all.size = size(),
            b"VmData" => all.data = size(),
            b"VmStk" => all.stack = size(),
            b"VmLck" => all.locked = size(),
            b"VmRSS" => all.resident = size(),
            b"SigQ" => all.signals = leading(value),
            b"Cpus_allowed_list" => {
                all.cpus = String::from_utf8(value.to_vec()).ok().filter(|list| cpus(list.as_bytes()).is_some());
            }
            _ => {}
        }
    }
    all
}

/// How many CPUs a list such as `0-3,8` names (cpuset(7), "List format").
pub fn cpus(list: &[u8]) -> Option<u64> {
    let mut count = 0_u64;
    for range in list.trim_ascii().split(|b| *b == b',').filter(|range| !range.is_empty()) {
        let mut ends = range.splitn(2, |b| *b == b'-');
        let first: u32 = number(ends.next()?)?;
        let last: u32 = ends.next().map_or(Some(first), number)?;
        count += u64::from(last.checked_sub(first)?) + 1;
    }
    Some(count)
}

/// True when `/proc/PID/uid_map` is that of the initial user namespace: all IDs
/// stand for themselves (user_namespaces(7)).
pub fn is_initial_uid_map(bytes: &[u8]) -> bool {
    words(bytes).eq([b"0".as_slice(), b"0", b"4294967295"])
}

/// One line of `/proc/PID/cgroup` (cgroups(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers, or `name=NAME`; none for v2.
    pub controllers: Vec<Vec<u8>>,
    /// The group of the process, below the root of *our* cgroup namespace; `/..` leads
    /// out of that.
    pub path: Vec<u8>,
    /// Whether the group was removed.
    pub deleted: bool,
}

impl Hierarchy {
    /// True for the hierarchy of cgroup v2.
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// True when it is the cgroup v1 hierarchy of `controller`.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller.as_bytes())
    }
}

/// Parses `/proc/PID/cgroup`, in its order. Lines that break the format are left
/// out.
pub fn hierarchies(bytes: &[u8]) -> Vec<Hierarchy> {
    bytes
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.splitn(3, |b| *b == b':');
            number::<u32>(fields.next()?)?;
            let controllers = fields.next()?.split(|b| *b == b',').filter(|name| !name.is_empty());
            let controllers = controllers.map(<[u8]>::to_vec).collect();
            let path = fields.next().filter(|path| path.starts_with(b"/"))?;
            let kept = path.strip_suffix(b" (deleted)");
            Some(Hierarchy { controllers, path: kept.unwrap_or(path).to_vec(), deleted: kept.is_some() })
        })
        .collect()
}

/// The number of `key` in a file of `KEY NUMBER` lines (`cpu.stat`, `memory.stat`,
/// `memory.events`).
pub fn keyed(bytes: &[u8], key: &str) -> Option<u64> {
    bytes.split(|b| *b == b'\n').find_map(|line| {
        let value = line.strip_prefix(key.as_bytes())?.strip_prefix(b" ")?;
        number(value)
    })
}

/// One line of a PSI file (the kernel's Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stall {
    /// Share of the last 10, 60 and 300 seconds, in hundredths of a percent.
    pub averages: [Option<u64>; 3],
    /// Time stalled since the group was made, in microseconds.
    pub total_us: Option<u64>,
}

/// A PSI file: the `some` line and the `full` line.
pub fn pressure(bytes: &[u8]) -> (Option<Stall>, Option<Stall>) {
    let (mut some, mut full) = (None, None);
    for line in bytes.split(|b| *b == b'\n') {
        let mut words = words(line);
        let place = match words.next() {
            Some(b"some") => &mut some,
            Some(b"full") => &mut full,
            _ => continue,
        };
        let mut stall = Stall::default();
        for word in words {
            let Some(equals) = word.iter().position(|b| *b == b'=') else { continue };
            let value = &word[equals + 1..];
            match &word[..equals] {
                b"avg10" => stall.averages[0] = hundredths(value),
                b"avg60" => stall.averages[1] = hundredths(value),
                b"avg300" => stall.averages[2] = hundredths(value),
                b"total" => stall.total_us = number(value),
                _ => {}
            }
        }
        *place = Some(stall);
    }
    (some, full)
}

/// `3.07` in hundredths: 307. The kernel writes two decimals.
fn hundredths(bytes: &[u8]) -> Option<u64> {
    let point = bytes.iter().position(|b| *b == b'.')?;
    let decimals = bytes.get(point + 1..).filter(|decimals| decimals.len() == 2)?;
    number::<u64>(&bytes[..point])?.checked_mul(100)?.checked_add(number(decimals)?)
}

/// A block device, as its major and minor number.
pub type Device = (u32, u32);

fn device(word: &[u8]) -> Option<Device> {
    let colon = word.iter().position(|b| *b == b':')?;
    Some((number(&word[..colon])?, number(&word[colon + 1..])?))
}

/// The lines `MAJOR:MINOR KEY=VALUE …` of cgroup v2's `io.stat` and `io.max`: hands
/// each pair to `each`.
pub fn nested_keyed(bytes: &[u8], mut each: impl FnMut(Device, &[u8], &[u8])) {
    for line in bytes.split(|b| *b == b'\n') {
        let mut words = words(line);
        let Some(device) = words.next().and_then(device) else { continue };
        for word in words {
            if let Some(equals) = word.iter().position(|b| *b == b'=') {
                each(device, &word[..equals], &word[equals + 1..]);
            }
        }
    }
}

/// The lines `MAJOR:MINOR KEY NUMBER` and `MAJOR:MINOR NUMBER` of cgroup v1's blkio
/// controller: hands each to `each`, with an empty key where there is none.
pub fn blkio(bytes: &[u8], mut each: impl FnMut(Device, &[u8], u64)) {
    for line in bytes.split(|b| *b == b'\n') {
        let mut words = words(line);
        let Some(device) = words.next().and_then(device) else { continue };
        match (words.next(), words.next()) {
            (Some(key), Some(value)) => {
                if let Some(value) = number(value) {
                    each(device, key, value);
                }
            }
            (Some(value), None) => {
                if let Some(value) = number(value) {
                    each(device, b"", value);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
