//! The image's one layer: `/bin/agent` with the file capabilities that let one image serve every profile, `/bin/tar` for
//! kubectl cp, and `/session` for what is kept.

use std::io;

use tar::{Builder, EntryType, Header};

/// The PAX record in which tar archives, and so OCI layers, carry the xattr `security.capability`
/// (image-spec, layer.md, "File Attributes").
pub const CAPABILITY_RECORD: &str = "SCHILY.xattr.security.capability";

/// The highest capability that exists: CAP_CHECKPOINT_RESTORE, since Linux 5.9 (linux/capability.h).
const CAP_LAST_CAP: u32 = 40;

/// The file capabilities `=p`, as `setcap all=p` writes them: struct `vfs_cap_data`, revision 2, little endian
/// (capabilities(7), linux/capability.h).
///
/// Every capability is permitted and none is effective. The kernel cuts the set to the container's bounding set
/// when it starts the agent, which raises what a command needs and no more. Were one bit effective, execve(2) would
/// fail with EPERM wherever the bounding set lacks it.
///
/// The set ends at `CAP_LAST_CAP`, not at bit 63. A kernel that knows fewer capabilities ignores the rest. One that
/// comes to know more will withhold the new one from the agent until the constant is raised, which is the safe way to
/// fail; and getcap(8) prints `=p` for this set, but `=p 41,42,…+p` for 64 bits.
pub const ALL_PERMITTED: [u8; 20] = vfs_cap_data((1 << (CAP_LAST_CAP + 1)) - 1);

const fn vfs_cap_data(permitted: u64) -> [u8; 20] {
    const VFS_CAP_REVISION_2: u32 = 0x0200_0000;
    let permitted = permitted.to_le_bytes();
    let revision = VFS_CAP_REVISION_2.to_le_bytes();
    let mut data = [0; 20];
    let mut byte = 0;
    while byte < 4 {
        data[byte] = revision[byte];
        data[4 + byte] = permitted[byte];
        data[12 + byte] = permitted[4 + byte];
        byte += 1;
    }
    data
}

/// The layer as an uncompressed tar archive. `mtime` is in seconds since the epoch.
pub fn layer(binary: &[u8], mtime: u64) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    append(&mut tar, EntryType::Directory, "bin/", 0o755, mtime, &[])?;
    tar.append_pax_extensions([(CAPABILITY_RECORD, ALL_PERMITTED.as_slice())])?;
    append(&mut tar, EntryType::Regular, "bin/agent", 0o755, mtime, binary)?;
    // kubectl cp runs tar, and the agent knows what it asks for.
    link(&mut tar, "bin/tar", "agent", mtime)?;
    // Whatever user the pod says: as /tmp, and nobody's but the agent's container.
    append(&mut tar, EntryType::Directory, "session/", 0o1777, mtime, &[])?;
    tar.into_inner()
}

fn link(tar: &mut Builder<Vec<u8>>, path: &str, to: &str, mtime: u64) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Symlink);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_size(0);
    tar.append_link(&mut header, path, to)
}

/// Appends an entry that says nothing of the machine it was made on: owner 0:0 without names, and the given time.
pub(crate) fn append(
    tar: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    mode: u32,
    mtime: u64,
    data: &[u8],
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, path, data)
}
