//! The node's directories: one for each pod and image, locked while its owner lives, swept afterwards.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::PodCgroup;
use crate::error::{At, PodError};

/// A directory of the emulator that its owner holds by a lock, and that vanishes with the owner.
#[derive(Debug)]
pub(crate) struct Owned {
    path: PathBuf,
    /// Locked as long as this value lives; the kernel unlocks it when the process dies.
    _lock: File,
}

impl Owned {
    /// Makes a new directory `<kind>-<name>`; removes what dead owners have left.
    pub(crate) fn new(kind: &str, name: &str) -> Result<Self, PodError> {
        let base = base()?;
        let gate_path = base.join("lock");
        let gate = File::options().create(true).append(true).open(&gate_path).at("open", &gate_path)?;
        gate.lock().at("lock", &gate_path)?;
        sweep(&base);
        let path = base.join(format!("{kind}-{name}"));
        fs::create_dir(&path).at("create", &path)?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).at("create", &lock_path)?;
        lock.lock().at("lock", &lock_path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// `$TMPDIR/agent-pod`, for root alone.
fn base() -> Result<PathBuf, PodError> {
    if !rustix::process::geteuid().is_root() {
        return Err(PodError::NotRoot);
    }
    let temporary = std::env::temp_dir();
    let base = temporary.canonicalize().at("resolve", temporary)?.join("agent-pod");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&base);
    made.at("create", &base)?;
    let metadata = base.symlink_metadata().at("stat", &base)?;
    if !metadata.is_dir() || metadata.uid() != 0 {
        let foreign = std::io::Error::other("it is not a directory of root's");
        return Err(PodError::io("use", base, foreign));
    }
    // It is the lower and upper layer of overlays, whose options separate paths by these.
    if base.as_os_str().as_encoded_bytes().iter().any(|byte| b":,\\".contains(byte)) {
        let unusable = std::io::Error::other("':', ',' or '\\' in the path: set TMPDIR");
        return Err(PodError::io("use", base, unusable));
    }
    Ok(base)
}

/// Removes the directories whose lock nobody holds: their owner was killed.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(lock) = File::open(path.join("lock")) else {
            // Killed between making the directory and its lock, which only the holder of the gate does.
            if path.is_dir() {
                let _ = fs::remove_dir_all(&path);
            }
            continue;
        };
        if lock.try_lock().is_err() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap_or_default();
        if let Some(uid) = name.strip_prefix("pod-") {
            if let Ok(cgroup) = PodCgroup::of(uid) {
                cgroup.remove(Duration::from_secs(2));
            }
            let _ = fs::remove_dir_all(shared_memory(uid));
        }
        let _ = fs::remove_dir_all(&path);
    }
}

/// The pod's `/dev/shm`, a directory of the node's own so that it is a tmpfs without another mount.
fn shared_memory(uid: &str) -> PathBuf {
    Path::new("/dev/shm").join(format!("agent-pod-{uid}"))
}

/// The directories of one pod, laid out as on a node with containerd.
#[derive(Debug)]
pub(crate) struct PodDirectory {
    pub(crate) uid: String,
    pub(crate) name: String,
    sandbox: PathBuf,
    shared_memory: PathBuf,
    // Last, so that it is dropped last.
    owned: Owned,
}

impl PodDirectory {
    pub(crate) fn new(name: &str) -> Result<Self, PodError> {
        let uid = uuid();
        let owned = Owned::new("pod", &uid)?;
        let sandbox = owned.path().join("var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes").join(container_id());
        let pod = Self { shared_memory: shared_memory(&uid), uid, name: name.to_owned(), sandbox, owned };
        let hosts = format!(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t{name}\n"
        );
        write(&pod.etc_hosts(), &hosts)?;
        write(&pod.hostname(), &format!("{name}\n"))?;
        let resolver = "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        write(&pod.resolv_conf(), resolver)?;
        fs::create_dir(&pod.shared_memory).at("create", &pod.shared_memory)?;
        let mode = Permissions::from_mode(0o1777);
        fs::set_permissions(&pod.shared_memory, mode).at("chmod", &pod.shared_memory)?;
        let runc = pod.runc_root();
        fs::create_dir_all(&runc).at("create", runc)?;
        Ok(pod)
    }

    fn kubelet(&self) -> PathBuf {
        self.owned.path().join("var/lib/kubelet/pods").join(&self.uid)
    }

    pub(crate) fn etc_hosts(&self) -> PathBuf {
        self.kubelet().join("etc-hosts")
    }

    pub(crate) fn hostname(&self) -> PathBuf {
        self.sandbox.join("hostname")
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.sandbox.join("resolv.conf")
    }

    pub(crate) fn shared_memory(&self) -> &Path {
        &self.shared_memory
    }

    /// runc's state directory (`runc --root`).
    pub(crate) fn runc_root(&self) -> PathBuf {
        self.owned.path().join("run/containerd/runc/k8s.io")
    }

    /// Makes the bundle directory of a container.
    pub(crate) fn bundle(&self, id: &str) -> Result<PathBuf, PodError> {
        let bundle = self.owned.path().join("run/containerd/io.containerd.runtime.v2.task/k8s.io").join(id);
        for part in ["rootfs", "upper", "work"] {
            let directory = bundle.join(part);
            fs::create_dir_all(&directory).at("create", directory)?;
        }
        Ok(bundle)
    }

    /// Makes the file behind `/dev/termination-log`, open to every user as the kubelet makes it.
    pub(crate) fn termination_log(&self, container: &str) -> Result<PathBuf, PodError> {
        let file = self.kubelet().join("containers").join(container).join(hex(&random::<4>()));
        write(&file, "")?;
        fs::set_permissions(&file, Permissions::from_mode(0o666)).at("chmod", &file)?;
        Ok(file)
    }
}

impl Drop for PodDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.shared_memory);
    }
}

fn write(path: &Path, text: &str) -> Result<(), PodError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    fs::write(path, text).at("write", path)
}

/// A container ID as containerd makes them: 64 hexadecimal digits.
pub(crate) fn container_id() -> String {
    hex(&random::<32>())
}

/// A pod UID as the API server makes them: a version 4 UUID.
fn uuid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// `debugger-xxxxx`, the name that kubectl gives to an ephemeral container.
pub(crate) fn debugger_name() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let letters = random::<5>().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
    format!("debugger-{}", letters.iter().collect::<String>())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .expect("/dev/urandom is always there");
    bytes
}
