//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount ID.
    pub id: u64,
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// The directory of the file system that is its root.
    pub root: Vec<u8>,
    /// Where it is mounted.
    pub point: Vec<u8>,
    /// File system type.
    pub fs_type: Vec<u8>,
    /// Source.
    pub source: Vec<u8>,
    /// Options of the superblock.
    pub super_options: Vec<u8>,
}

impl Mount {
    /// Whether its files are somebody else's to answer for, a server or a process
    /// that may be dead: looking at one can then take for ever.
    pub fn may_hang(&self) -> bool {
        const REMOTE: [&[u8]; 16] = [
            b"nfs", b"nfs4", b"cifs", b"smb3", b"smbfs", b"ceph", b"9p", b"afs", b"lustre", b"gfs2", b"ocfs2",
            b"ncpfs", b"coda", b"beegfs", b"gpfs", b"autofs",
        ];
        REMOTE.contains(&self.fs_type.as_slice()) || self.fs_type.starts_with(b"fuse")
    }

    /// The one of `mounts` that `path` is on, as long as no symbolic link leads
    /// elsewhere.
    pub fn of<'m>(path: &[u8], mounts: &'m [Self]) -> Option<&'m Self> {
        let holds = |mount: &&Self| {
            let point = mount.point.strip_suffix(b"/").unwrap_or(&mount.point);
            path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        // The last of those at one place covers the others.
        mounts.iter().filter(holds).max_by_key(|mount| mount.point.len())
    }
}

/// Parses `mountinfo`. Lines that break the format are left out.
pub fn mounts(bytes: &[u8]) -> Vec<Mount> {
    bytes.split(|b| *b == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = super::number(fields.next()?)?;
    let device = fields.nth(1)?;
    let colon = device.iter().position(|b| *b == b':')?;
    let device = (super::number(&device[..colon])?, super::number(&device[colon + 1..])?);
    let root = octal(fields.next()?);
    let point = octal(fields.next()?);
    // Optional fields end with a lone hyphen.
    fields.find(|field| *field == b"-")?;
    Some(Mount {
        id,
        device,
        root,
        point,
        fs_type: octal(fields.next()?),
        source: octal(fields.next()?),
        super_options: octal(fields.next().unwrap_or_default()),
    })
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn octal(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| matches!(b, b'0'..=b'7')));
        if let Some(digits) = digits {
            let value = digits.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
            out.push(value as u8);
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// The pod UID and the container name, from the files that the kubelet mounts
/// into every container: the root of `/dev/termination-log` ends in
/// `/pods/UID/containers/NAME/HASH`, that of `/etc/hosts` in `/pods/UID/etc-hosts`.
pub fn kubelet_names(mounts: &[Mount]) -> (Option<String>, Option<String>) {
    let (mut pod, mut container) = (None, None);
    for mount in mounts {
        let Ok(root) = std::str::from_utf8(&mount.root) else { continue };
        let parts: Vec<&str> = root.rsplit('/').collect();
        match (mount.point.as_slice(), &parts[..]) {
            (b"/dev/termination-log", [_, name, "containers", uid, "pods", ..]) => {
                pod = Some((*uid).to_owned());
                container = Some((*name).to_owned());
            }
            (b"/etc/hosts", ["etc-hosts", uid, "pods", ..]) if pod.is_none() => {
                pod = Some((*uid).to_owned());
            }
            _ => {}
        }
    }
    (pod, container)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"2101 1923 0:315 / / rw,relatime master:5 - overlay overlay rw,lowerdir=/a:/b\n\
        2107 2101 8:1 /var/lib/kubelet/pods/6f1c/etc-hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw\n\
        2108 2102 8:1 /var/lib/kubelet/pods/6f1c/containers/app/9a8b /dev/termination-log rw - ext4 /dev/sda1 rw\n\
        2109 2101 0:7 / /mnt/with\\040space\\134 rw shared:1 propagate_from:2 - tmpfs none rw\nbroken line\n";

    #[test]
    fn reads_mounts_and_their_escapes() {
        let all = mounts(TEXT);
        assert_eq!(all.len(), 4);
        assert_eq!(all[3].point, b"/mnt/with space\\");
        assert_eq!(all[0].device, (0, 315));
        assert_eq!(all[0].super_options, b"rw,lowerdir=/a:/b");
    }

    #[test]
    fn files_of_servers_and_user_space_may_hang() {
        let mount = |fs_type: &str| mounts(format!("1 2 0:3 / /x rw - {fs_type} s rw").as_bytes()).remove(0);
        for remote in ["nfs4", "fuse", "fuse.sshfs", "fuseblk", "cifs", "9p"] {
            assert!(mount(remote).may_hang(), "{remote}");
        }
        for local in ["ext4", "overlay", "tmpfs", "xfs", "nfsd", "proc"] {
            assert!(!mount(local).may_hang(), "{local}");
        }
    }

    #[test]
    fn a_path_is_on_the_deepest_mount_above_it() {
        let text = b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /data rw - nfs b rw\n3 1 0:3 / /data rw - tmpfs c rw\n";
        let all = mounts(text);
        let on = |path: &[u8]| Mount::of(path, &all).map(|mount| mount.id);
        assert_eq!([on(b"/data/x"), on(b"/data"), on(b"/database"), on(b"/")], [Some(3), Some(3), Some(1), Some(1)]);
        assert_eq!(on(b"relative"), None);
    }

    #[test]
    fn names_the_pod_and_the_container() {
        assert_eq!(kubelet_names(&mounts(TEXT)), (Some("6f1c".to_owned()), Some("app".to_owned())));
        assert_eq!(kubelet_names(&[]), (None, None));
    }
}
