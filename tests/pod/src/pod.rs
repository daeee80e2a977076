//! A pod: its target container, and all that its containers share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::caps::CapSet;
use crate::capture::Capture;
use crate::cgroup::{Limits, PodCgroup};
use crate::container::{Container, Launch, PATIENCE, Streams, exit_code};
use crate::debug::{DebugContainer, DebugSpec, Output};
use crate::error::{At, PodError};
use crate::host::{PodDirectory, container_id};
use crate::image::DEFAULT_PATH;
use crate::oci::{Namespaces, Spec};
use crate::seccomp::Containerd;
use crate::security::{Security, User};

/// A bind mount into a container, like a `hostPath` volume.
#[derive(Clone, Debug)]
pub struct Mount {
    /// File or directory of this machine.
    pub source: PathBuf,
    /// Absolute path in the container; made if it is not there.
    pub destination: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
}

/// What to run as the target, and in what kind of pod.
///
/// The target's root filesystem is this machine's own root under an overlay, so that installed programs run in it.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) name: String,
    pub(crate) container: String,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) container_user: Option<User>,
    pub(crate) pod_user: Option<User>,
    pub(crate) capabilities: CapSet,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: bool,
    pub(crate) containerd: Containerd,
    pub(crate) limits: Limits,
    pub(crate) read_only_root: bool,
    pub(crate) share_process_namespace: bool,
    pub(crate) cgroup_namespace: Option<bool>,
    pub(crate) mounts: Vec<Mount>,
}

impl PodSpec {
    /// A pod named `name` (its hostname), whose container `app` runs `argv` as root with the runtime's defaults.
    pub fn new<A: Into<String>>(name: &str, argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            name: name.to_owned(),
            container: "app".to_owned(),
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            container_user: None,
            pod_user: None,
            capabilities: CapSet::RUNTIME_DEFAULT,
            no_new_privs: false,
            seccomp: false,
            containerd: Containerd::default(),
            limits: Limits::default(),
            read_only_root: false,
            share_process_namespace: false,
            cgroup_namespace: None,
            mounts: Vec::new(),
        }
    }

    /// The target container's name; `app` by default.
    pub fn container_name(mut self, name: &str) -> Self {
        self.container = name.to_owned();
        self
    }

    /// Adds a variable to the target's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// `securityContext.runAsUser` and `runAsGroup` of the *container*: an ephemeral container does not inherit it.
    pub fn container_user(mut self, uid: u32, gid: u32) -> Self {
        self.container_user = Some(User::new(uid, gid));
        self
    }

    /// `securityContext.runAsUser` and `runAsGroup` of the *pod*: every container has it, ephemeral ones too.
    pub fn pod_user(mut self, uid: u32, gid: u32) -> Self {
        self.pod_user = Some(User::new(uid, gid));
        self
    }

    /// Sets the target's capabilities.
    pub fn capabilities(mut self, capabilities: CapSet) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// `allowPrivilegeEscalation: false` for the target.
    pub fn no_new_privs(mut self) -> Self {
        self.no_new_privs = true;
        self
    }

    /// `seccompProfile: RuntimeDefault` of the pod: for the target, and for ephemeral containers but `sysadmin`.
    pub fn seccomp_runtime_default(mut self) -> Self {
        self.seccomp = true;
        self
    }

    /// Whose `RuntimeDefault` that is; the release that the facts were measured under by default.
    pub fn containerd(mut self, release: Containerd) -> Self {
        self.containerd = release;
        self
    }

    /// What Pod Security Standard "restricted" asks of a pod: a user other than root, `RuntimeDefault` seccomp,
    /// and for its container all capabilities dropped and no privilege escalation.
    pub fn pod_security_restricted(self, uid: u32, gid: u32) -> Self {
        self.pod_user(uid, gid).seccomp_runtime_default().capabilities(CapSet::NONE).no_new_privs()
    }

    /// Memory limit in bytes, of the target and of the pod as a whole.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.limits.memory = Some(bytes);
        self
    }

    /// Limit of processes and threads of the pod as a whole (the kubelet's `podPidsLimit`).
    pub fn pids_limit(mut self, count: u64) -> Self {
        self.limits.pids = Some(count);
        self
    }

    /// CPU limit in thousandths of a CPU, of the target and of the pod as a whole.
    pub fn cpu_limit_millis(mut self, millis: u64) -> Self {
        self.limits.cpu_millis = Some(millis);
        self
    }

    /// `readOnlyRootFilesystem` of the target.
    pub fn read_only_root(mut self) -> Self {
        self.read_only_root = true;
        self
    }

    /// `shareProcessNamespace`: PID 1 of the pod is `pause`, and every container sees every process.
    pub fn share_process_namespace(mut self) -> Self {
        self.share_process_namespace = true;
        self
    }

    /// Whether containers have a cgroup namespace; by default as containerd does it: only on cgroup v2 alone.
    pub fn cgroup_namespace(mut self, own: bool) -> Self {
        self.cgroup_namespace = Some(own);
        self
    }

    /// Mounts a file or directory of this machine into the target, read-only.
    pub fn mount_read_only(mut self, source: impl Into<PathBuf>, destination: &str) -> Self {
        self.mounts.push(Mount { source: source.into(), destination: destination.to_owned(), read_only: true });
        self
    }

    /// Mounts a file or directory of this machine into the target.
    pub fn mount(mut self, source: impl Into<PathBuf>, destination: &str) -> Self {
        self.mounts.push(Mount { source: source.into(), destination: destination.to_owned(), read_only: false });
        self
    }
}

/// What outlives any one container of the pod. The last owner removes it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) spec: PodSpec,
    pub(crate) directory: PodDirectory,
    pub(crate) cgroup: PodCgroup,
}

impl Shared {
    /// Environment of every container: the runtime's, then the kubelet's, then the caller's.
    pub(crate) fn environment(&self, image: &[String], own: &[String]) -> Vec<String> {
        let mut env = Vec::new();
        if !image.iter().any(|variable| variable.starts_with("PATH=")) {
            env.push(DEFAULT_PATH.to_owned());
        }
        env.push(format!("HOSTNAME={}", self.directory.name));
        env.extend_from_slice(image);
        env.extend(["KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"].map(str::to_owned));
        env.extend_from_slice(own);
        env
    }

    pub(crate) fn cgroup_namespace(&self) -> bool {
        self.spec.cgroup_namespace.unwrap_or_else(|| self.cgroup.unified())
    }

    /// Starts a container that runs on this machine's own files: the target, or pause.
    fn start(&self, name: &str, spec: &Spec<'_>, id: &str) -> Result<(Container, Capture, Capture), PodError> {
        let (streams, stdout, stderr) = Streams::piped()?;
        let (stdout, stderr) = (Capture::of(stdout), Capture::of(stderr));
        let launch = Launch {
            name,
            id,
            bundle: self.directory.bundle(id)?,
            runc_root: self.directory.runc_root(),
            config: &spec.config(&self.directory),
            lower: PathBuf::from("/"),
        };
        Ok((Container::start(launch, streams, &stderr)?, stdout, stderr))
    }

    fn start_pause(&self) -> Result<Container, PodError> {
        // Any program whose file is called so. With SIGCHLD ignored the kernel reaps what init inherits.
        let argv = ["env", "--ignore-signal=CHLD", "/pause", "infinity"].map(str::to_owned);
        let sleep = [Mount { source: find_program("sleep")?, destination: "/pause".to_owned(), read_only: true }];
        let id = container_id();
        let spec = Spec {
            argv: &argv,
            env: vec![DEFAULT_PATH.to_owned()],
            directory: "/",
            terminal: false,
            security: Security::of_pause(&self.spec),
            containerd: self.spec.containerd,
            namespaces: Namespaces::New,
            cgroup_namespace: self.cgroup_namespace(),
            cgroups_path: self.cgroup.container(&id),
            memory: None,
            cpu_millis: None,
            read_only_root: false,
            termination_log: None,
            mounts: &sleep,
        };
        Ok(self.start("pause", &spec, &id)?.0)
    }

    fn start_target(&self, pause: Option<Pid>) -> Result<(Container, Capture, Capture), PodError> {
        let id = container_id();
        let spec = Spec {
            argv: &self.spec.argv,
            env: self.environment(&[], &self.spec.env),
            directory: "/",
            terminal: false,
            security: Security::of_target(&self.spec),
            containerd: self.spec.containerd,
            namespaces: pause.map_or(Namespaces::New, Namespaces::Join),
            cgroup_namespace: self.cgroup_namespace(),
            cgroups_path: self.cgroup.container(&id),
            memory: self.spec.limits.memory,
            cpu_millis: self.spec.limits.cpu_millis,
            read_only_root: self.spec.read_only_root,
            termination_log: Some(self.directory.termination_log(&self.spec.container)?),
            mounts: &self.spec.mounts,
        };
        self.start(&self.spec.container, &spec, &id)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.cgroup.remove(Duration::from_secs(5));
    }
}

/// A running pod. Dropping it kills its containers and removes what it made.
#[derive(Debug)]
pub struct Pod {
    // In the order in which they must end.
    target: Container,
    pause: Option<Container>,
    stdout: Capture,
    stderr: Capture,
    shared: Arc<Shared>,
}

impl Pod {
    /// Starts the target and returns when its program has been executed.
    ///
    /// Whether the program is *ready* is the program's to say: [`Pod::wait_for_output`].
    pub fn start(spec: PodSpec) -> Result<Self, PodError> {
        let directory = PodDirectory::new(&spec.name)?;
        let cgroup = PodCgroup::of(&directory.uid)?;
        let limits = spec.limits;
        let shared = Arc::new(Shared { spec, directory, cgroup });
        shared.cgroup.create(limits)?;
        let pause = shared.spec.share_process_namespace.then(|| shared.start_pause()).transpose()?;
        let (target, stdout, stderr) = shared.start_target(pause.as_ref().map(|pause| pause.init))?;
        Ok(Self { target, pause, stdout, stderr, shared })
    }

    /// Runs an ephemeral container to its end: `kubectl debug POD --image=… --target=app -- …`.
    pub fn debug(&self, spec: DebugSpec) -> Result<Output, PodError> {
        let limit = spec.timeout;
        self.debug_spawn(spec)?.wait(limit)
    }

    /// Starts an ephemeral container and leaves it running.
    pub fn debug_spawn(&self, spec: DebugSpec) -> Result<DebugContainer, PodError> {
        let namespaces = match (&self.pause, spec.target) {
            (_, true) => Namespaces::Join(self.target.init),
            (Some(pause), false) => Namespaces::Join(pause.init),
            (None, false) => Namespaces::PodButPid(self.target.init),
        };
        DebugContainer::start(Arc::clone(&self.shared), spec, namespaces)
    }

    /// Runs a command in a running ephemeral container: `kubectl exec POD -c NAME -- …`.
    pub fn exec<A: Into<String>>(
        &self,
        container: &DebugContainer,
        argv: impl IntoIterator<Item = A>,
    ) -> Result<Output, PodError> {
        container.exec(argv, Vec::new())
    }

    /// As [`Pod::exec`], with standard input: `kubectl exec -i`, which is also how `kubectl cp` sends its tar.
    pub fn exec_with_stdin<A: Into<String>>(
        &self,
        container: &DebugContainer,
        argv: impl IntoIterator<Item = A>,
        stdin: impl Into<Vec<u8>>,
    ) -> Result<Output, PodError> {
        container.exec(argv, stdin.into())
    }

    /// Waits until the target has written `needle` to its standard output.
    pub fn wait_for_output(&self, needle: &str, limit: Duration) -> Result<(), PodError> {
        self.stdout.wait_for(needle, limit).map_err(|error| match error {
            PodError::Deadline { what, limit } => {
                PodError::Deadline { what: format!("{what}; standard error: {:?}", self.stderr.text()), limit }
            }
            other => other,
        })
    }

    /// The target's standard output.
    pub fn stdout(&self) -> &Capture {
        &self.stdout
    }

    /// The target's standard error.
    pub fn stderr(&self) -> &Capture {
        &self.stderr
    }

    /// The target's init process, in this machine's pid namespace.
    pub fn target_pid(&self) -> Pid {
        self.target.init
    }

    /// The same process as the containers of the pod see it: 1, unless the process namespace is shared.
    pub fn target_pid_in_pod(&self) -> Result<Pid, PodError> {
        let path = format!("/proc/{}/status", self.target.init.as_raw_nonzero());
        let status = fs::read_to_string(&path).at("read", &path)?;
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last());
        inner
            .and_then(|pid| Pid::from_raw(pid.parse().ok()?))
            .ok_or_else(|| PodError::io("find NSpid in", path, std::io::Error::from(std::io::ErrorKind::InvalidData)))
    }

    /// Kills the target, and waits until it is gone. Its pid namespace dies with it.
    pub fn kill_target(&self) -> Result<(), PodError> {
        self.target.kill().map(drop).ok_or(PodError::Deadline { what: "end of the target".into(), limit: PATIENCE })
    }

    /// Waits for the end of the target; its exit status, or `None` while it runs.
    pub fn wait_target(&self, limit: Duration) -> Option<i32> {
        let status = self.target.wait(limit)?;
        // All of its output is here, too.
        self.stdout.wait_end(PATIENCE);
        self.stderr.wait_end(PATIENCE);
        Some(exit_code(status))
    }

    /// Sends a signal to the target's init process.
    pub fn signal_target(&self, signal: Signal) {
        self.target.signal(signal);
    }

    /// Whether the target still runs.
    pub fn target_runs(&self) -> bool {
        self.target.wait(Duration::ZERO).is_none()
    }

    /// The pod's name, which is its hostname.
    pub fn name(&self) -> &str {
        &self.shared.directory.name
    }

    /// The pod's UID, as `/proc/self/mountinfo` and the cgroup path show it.
    pub fn uid(&self) -> &str {
        &self.shared.directory.uid
    }

    /// The target's container ID: 64 hexadecimal digits.
    pub fn target_id(&self) -> &str {
        &self.target.id
    }

    /// The target's cgroup, as in `/proc/PID/cgroup`.
    pub fn target_cgroup(&self) -> String {
        self.shared.cgroup.container(&self.target.id)
    }
}

fn find_program(name: &str) -> Result<PathBuf, PodError> {
    let found = ["/usr/bin", "/bin"].iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists());
    found.ok_or_else(|| PodError::Program { program: name.to_owned(), source: std::io::ErrorKind::NotFound.into() })
}
