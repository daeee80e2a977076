//! Pure parsers of the files that every toolkit needs: bytes in, types out.

mod cgroup;
mod maps;
mod mountinfo;
mod stat;
mod status;
mod syscall;

pub use cgroup::container_id;
pub use maps::{Mapping, mapping, mapping_path};
pub use mountinfo::{Mount, kubelet_names, mounts};
pub use stat::{Stat, policy_name, stat, state_name};
pub use status::{Ids, Status, status};
pub use syscall::{Blocked, Call, Doing, doing};

/// The decimal number that `bytes` is, or `None`.
pub fn number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes.trim_ascii()).ok()?.parse().ok()
}

/// The hexadecimal number that `bytes` is, or `None`.
pub fn hex(bytes: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(bytes.trim_ascii()).ok()?, 16).ok()
}

/// The first number in `bytes`, as `4096 kB` has one.
pub fn leading(bytes: &[u8]) -> Option<u64> {
    let bytes = bytes.trim_ascii_start();
    let end = bytes.iter().position(|b| !b.is_ascii_digit()).unwrap_or(bytes.len());
    number(&bytes[..end])
}

/// The inode in `net:[4026531840]`, as the links of namespaces(7) and of sockets
/// and pipes in `/proc/PID/fd` have it.
pub fn namespace_inode(link: &[u8]) -> Option<u64> {
    let open = link.iter().position(|b| *b == b'[')?;
    number(link.get(open + 1..link.len().checked_sub(1)?)?)
}
