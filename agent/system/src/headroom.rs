//! How much memory is left before a control group's limit: the pod's covers us too.

use crate::{Process, parse};

/// What can be asked for before the limit of the target's control group is reached, in bytes.
struct Place {
    point: &'static [u8],
    limit: &'static str,
    usage: &'static str,
    /// The key of `memory.stat` for page cache that goes first when memory is short.
    inactive: &'static [u8],
}

/// Version 2, and version 1 (cgroups(7)), where runtimes mount them.
const PLACES: [Place; 2] = [
    Place { point: b"/sys/fs/cgroup", limit: "memory.max", usage: "memory.current", inactive: b"inactive_file " },
    Place {
        point: b"/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        inactive: b"total_inactive_file ",
    },
];

impl Process<'_> {
    /// The memory that its container may still take, in bytes, as its own mount of the
    /// control group says; `None` where there is no limit or it cannot be seen. The pod's
    /// own limit is the sum of its containers', and is not to be seen from inside.
    pub(crate) fn memory_headroom(&self) -> Option<u64> {
        PLACES.iter().find_map(|place| self.headroom_at(place))
    }

    fn headroom_at(&self, place: &Place) -> Option<u64> {
        let directory = self.cgroup_mount(place.point).ok()?;
        let mut text = Vec::new();
        let mut number = |name: &str| -> Option<u64> {
            directory.read(name, &mut text).ok()?;
            parse::number(text.trim_ascii())
        };
        // `max` is no number, and 2^63 less a page is none either.
        let limit = number(place.limit).filter(|limit| *limit < 1 << 60)?;
        let usage = number(place.usage)?;
        directory.read("memory.stat", &mut text).ok()?;
        let mut lines = text.split(|byte| *byte == b'\n');
        let inactive = lines.find_map(|line| line.strip_prefix(place.inactive)).and_then(parse::number::<u64>);
        Some(limit.saturating_sub(usage.saturating_sub(inactive.unwrap_or(0))))
    }
}
