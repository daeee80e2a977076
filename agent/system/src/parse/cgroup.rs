//! `/proc/PID/cgroup` (cgroups(7)): which container a process is in.

/// The container ID in the control group path of `bytes`, the text of
/// `/proc/PID/cgroup`: the last path component that holds 64 hex digits, as
/// containerd, CRI-O and Docker write it (`cri-containerd-ID.scope`, `ID`,
/// `crio-ID.scope`, `docker-ID.scope`).
pub fn container_id(bytes: &[u8]) -> Option<&str> {
    bytes.split(|b| *b == b'\n').find_map(|line| {
        let path = line.splitn(3, |b| *b == b':').nth(2)?;
        path.split(|b| *b == b'/').rev().find_map(id_in)
    })
}

fn id_in(component: &[u8]) -> Option<&str> {
    let component = component.strip_suffix(b".scope").unwrap_or(component);
    let id = component.get(component.len().checked_sub(64)?..)?;
    let before = component[..component.len() - 64].last();
    let is_hex = id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex && before.is_none_or(|b| *b == b'-' || *b == b':') { std::str::from_utf8(id).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn finds_the_id_in_the_paths_of_each_runtime() {
        for path in [
            format!("0::/kubepods/burstable/pod0f1a/{ID}\n"),
            format!("0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-{ID}.scope\n"),
            format!("12:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n"),
            format!("0::/system.slice/crio-{ID}.scope/container\n"),
            format!("0::/system.slice/kubepods-pod1.slice:cri-containerd:{ID}\n"),
        ] {
            assert_eq!(container_id(path.as_bytes()), Some(ID), "{path}");
        }
    }

    #[test]
    fn a_path_without_one_has_none() {
        for path in ["0::/\n", "0::/user.slice\n", "", "junk", &format!("0::/{ID}0f\n"), &format!("0::/x{ID}\n")] {
            assert_eq!(container_id(path.as_bytes()), None, "{path}");
        }
    }
}
