//! The ephemeral container: what `kubectl debug` starts, and what comes back from it.

use std::fs::File;
use std::io::{PipeReader, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::Value;

use crate::capture::Capture;
use crate::container::{Container, Exit, Launch, PATIENCE, Streams, exit_code, feed, read_log};
use crate::error::{At, PodError};
use crate::host::{container_id, debugger_name};
use crate::image::Image;
use crate::oci::{Namespaces, Spec};
use crate::pod::Shared;
use crate::security::{Profile, Security, User};

/// The kubelet reports this much of the end of a termination log (`MaxContainerTerminationMessageLength`).
const MESSAGE_LIMIT: usize = 4096;

/// Standard input of an ephemeral container.
#[derive(Clone, Debug, Default)]
pub enum Stdin {
    /// Empty: `kubectl debug` without `-i`.
    #[default]
    Null,
    /// These bytes, then the end: `kubectl debug -i < FILE`.
    Bytes(Vec<u8>),
    /// A pipe that [`DebugContainer::take_stdin`] hands out.
    Pipe,
}

/// One `kubectl debug` of the pod.
#[derive(Clone, Debug)]
pub struct DebugSpec {
    pub(crate) image: Image,
    pub(crate) profile: Profile,
    pub(crate) argv: Vec<String>,
    pub(crate) arguments_only: bool,
    pub(crate) name: Option<String>,
    pub(crate) target: bool,
    pub(crate) user: Option<User>,
    pub(crate) env: Vec<String>,
    pub(crate) stdin: Stdin,
    pub(crate) tty: bool,
    pub(crate) raw_stdout: bool,
    pub(crate) read_only_root: bool,
    pub(crate) timeout: Duration,
}

impl DebugSpec {
    /// `kubectl debug POD --image=IMAGE --profile=PROFILE -- ARGV`: without `--target`, not read from, 60 s at most.
    pub fn new<A: Into<String>>(image: &Image, profile: Profile, argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            image: image.clone(),
            profile,
            argv: argv.into_iter().map(Into::into).collect(),
            arguments_only: false,
            name: None,
            target: false,
            user: None,
            env: Vec::new(),
            stdin: Stdin::Null,
            tty: false,
            raw_stdout: false,
            read_only_root: false,
            timeout: Duration::from_secs(60),
        }
    }

    /// `--target=app`: in the pid namespace of the target.
    pub fn target(mut self) -> Self {
        self.target = true;
        self
    }

    /// `--arguments-only`: the command follows the image's entrypoint instead of replacing it.
    pub fn arguments_only(mut self) -> Self {
        self.arguments_only = true;
        self
    }

    /// `-c NAME`; otherwise `debugger-` and five random letters.
    pub fn container_name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// `runAsUser` and `runAsGroup` through `--custom`.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some(User::new(uid, gid));
        self
    }

    /// `--env NAME=VALUE`
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// `-i`
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// `-t`: a terminal, on which standard output and error are one stream.
    pub fn tty(mut self) -> Self {
        self.tty = true;
        self
    }

    /// Leaves standard output to the caller: [`DebugContainer::take_stdout`]. The output then has none of it.
    pub fn raw_stdout(mut self) -> Self {
        self.raw_stdout = true;
        self
    }

    /// `readOnlyRootFilesystem` through `--custom`.
    pub fn read_only_root(mut self) -> Self {
        self.read_only_root = true;
        self
    }

    /// Wall-clock time after which [`Pod::debug`](crate::Pod::debug) kills the container.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }
}

/// What came back from a container or from a command executed in it.
#[derive(Clone, Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error; empty under a terminal.
    pub stderr: Vec<u8>,
    /// As in the container's status: 128 and the signal's number for one that a signal has ended.
    pub exit_code: i32,
    /// What the kubelet would report: the last 4,096 bytes of the termination log.
    pub termination_message: Vec<u8>,
    /// The whole of `/dev/termination-log`.
    pub termination_log: Vec<u8>,
    /// From the start of the runtime to the end of the container's clean-up.
    pub wall: Duration,
    /// Whether the container was killed for taking too long.
    pub timed_out: bool,
}

impl Output {
    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as one JSON value.
    pub fn json(&self) -> serde_json::Result<Value> {
        serde_json::from_slice(&self.stdout)
    }
}

/// A running ephemeral container. Dropping it kills it.
#[derive(Debug)]
pub struct DebugContainer {
    container: Container,
    stdout: Capture,
    stderr: Capture,
    stdin_pipe: Option<File>,
    stdout_pipe: Option<PipeReader>,
    termination_log: PathBuf,
    process: Value,
    shared: Arc<Shared>,
}

impl DebugContainer {
    pub(crate) fn start(shared: Arc<Shared>, spec: DebugSpec, namespaces: Namespaces) -> Result<Self, PodError> {
        let name = spec.name.clone().unwrap_or_else(debugger_name);
        let security = Security::of_ephemeral(&shared.spec, &spec, &name)?;
        let id = container_id();
        let termination_log = shared.directory.termination_log(&name)?;
        let image = spec.image.config();
        let argv = match spec.arguments_only {
            true => [spec.image.entrypoint(), &spec.argv].concat(),
            false => spec.argv.clone(),
        };
        let config = Spec {
            argv: &argv,
            env: shared.environment(image.env.as_deref().unwrap_or_default(), &spec.env),
            directory: if image.working_dir.is_empty() { "/" } else { &image.working_dir },
            terminal: spec.tty,
            security,
            containerd: shared.spec.containerd,
            namespaces,
            cgroup_namespace: shared.cgroup_namespace() && !security.privileged,
            cgroups_path: shared.cgroup.container(&id),
            memory: None,
            cpu_millis: None,
            read_only_root: spec.read_only_root,
            termination_log: Some(termination_log.clone()),
            mounts: &[],
        }
        .config(&shared.directory);
        let Wiring { streams, stdout, stderr, stdin_pipe, stdout_pipe } = Wiring::of(&spec)?;
        let launch = Launch {
            name: &name,
            id: &id,
            bundle: shared.directory.bundle(&id)?,
            runc_root: shared.directory.runc_root(),
            config: &config,
            lower: spec.image.rootfs(),
        };
        let container = Container::start(launch, streams, if spec.tty { &stdout } else { &stderr })?;
        let process = config["process"].clone();
        Ok(Self { container, stdout, stderr, stdin_pipe, stdout_pipe, termination_log, process, shared })
    }

    /// The container's name, as in `kubectl exec -c NAME`.
    pub fn name(&self) -> &str {
        &self.container.name
    }

    /// The container ID: 64 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.container.id
    }

    /// The container's first process, in this machine's pid namespace.
    pub fn pid(&self) -> Pid {
        self.container.init
    }

    /// Sends a signal to the container's first process.
    pub fn signal(&self, signal: Signal) {
        self.container.signal(signal);
    }

    /// Standard output so far.
    pub fn stdout(&self) -> &Capture {
        &self.stdout
    }

    /// Standard error so far.
    pub fn stderr(&self) -> &Capture {
        &self.stderr
    }

    /// The writing end of standard input, once, if the container was started with [`Stdin::Pipe`].
    pub fn take_stdin(&mut self) -> Option<File> {
        self.stdin_pipe.take()
    }

    /// The reading end of standard output, once, if the container was started with [`DebugSpec::raw_stdout`].
    pub fn take_stdout(&mut self) -> Option<PipeReader> {
        self.stdout_pipe.take()
    }

    /// Whether the container still runs.
    pub fn runs(&self) -> bool {
        self.container.wait(Duration::ZERO).is_none()
    }

    /// Waits for the end; kills the container when it does not come in time.
    pub fn wait(self, limit: Duration) -> Result<Output, PodError> {
        let in_time = self.container.wait(limit);
        let timed_out = in_time.is_none();
        let status = in_time.or_else(|| self.container.kill());
        let wall = self.container.started.elapsed();
        let Some(status) = status else {
            return Err(PodError::Deadline { what: format!("end of {}", self.name()), limit: PATIENCE });
        };
        let log = read_log(&self.termination_log)?;
        Ok(output(status, &self.stdout, &self.stderr, log, wall, timed_out))
    }

    /// Runs a command in the container, with the container's user, capabilities and seccomp filter.
    pub(crate) fn exec<A: Into<String>>(
        &self,
        argv: impl IntoIterator<Item = A>,
        stdin: Vec<u8>,
    ) -> Result<Output, PodError> {
        let mut process = self.process.clone();
        process["args"] = argv.into_iter().map(|arg| Value::String(arg.into())).collect();
        process["terminal"] = Value::Bool(false);
        let bundle = &self.container.bundle;
        let label = container_id();
        let file = bundle.join(format!("exec-{}.json", &label[..8]));
        std::fs::write(&file, process.to_string()).at("write", &file)?;
        let (mut streams, stdout, stderr) = Streams::piped()?;
        let (reader, writer) = std::io::pipe().at("make", "pipe")?;
        streams.stdin = reader.into();
        let (stdout, stderr) = (Capture::of(stdout), Capture::of(stderr));
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(&self.container.runc_root).args(["exec", "--process"]).arg(&file).arg(self.id());
        let started = Instant::now();
        let exit = Exit::of(runc, streams)?;
        feed(writer, stdin);
        let limit = Duration::from_secs(60);
        let Some(status) = exit.wait(limit) else {
            exit.kill();
            return Err(PodError::Deadline { what: format!("end of exec in {}", self.name()), limit });
        };
        Ok(output(status, &stdout, &stderr, Vec::new(), started.elapsed(), false))
    }

    /// The container's cgroup, as in `/proc/PID/cgroup`.
    pub fn cgroup(&self) -> String {
        self.shared.cgroup.container(&self.container.id)
    }
}

fn output(
    status: ExitStatus,
    stdout: &Capture,
    stderr: &Capture,
    termination_log: Vec<u8>,
    wall: Duration,
    timed_out: bool,
) -> Output {
    // All writers are dead; this is the reading threads' time to see it.
    stdout.wait_end(PATIENCE);
    stderr.wait_end(PATIENCE);
    let message = termination_log.len().saturating_sub(MESSAGE_LIMIT);
    Output {
        stdout: stdout.bytes(),
        stderr: stderr.bytes(),
        exit_code: exit_code(status),
        termination_message: termination_log[message..].to_vec(),
        termination_log,
        wall,
        timed_out,
    }
}

/// The container's streams, and our ends of them.
struct Wiring {
    streams: Streams,
    stdout: Capture,
    stderr: Capture,
    stdin_pipe: Option<File>,
    stdout_pipe: Option<PipeReader>,
}

impl Wiring {
    fn of(spec: &DebugSpec) -> Result<Self, PodError> {
        if spec.tty { Self::terminal(spec) } else { Self::pipes(spec) }
    }

    fn pipes(spec: &DebugSpec) -> Result<Self, PodError> {
        let (mut streams, stdout, stderr) = Streams::piped()?;
        let mut stdin_pipe = None;
        if !matches!(spec.stdin, Stdin::Null) {
            let (reader, writer) = std::io::pipe().at("make", "pipe")?;
            streams.stdin = reader.into();
            match &spec.stdin {
                Stdin::Bytes(bytes) => feed(writer, bytes.clone()),
                _ => stdin_pipe = Some(OwnedFd::from(writer).into()),
            }
        }
        let (stdout, stdout_pipe) =
            if spec.raw_stdout { (Capture::none(), Some(stdout)) } else { (Capture::of(stdout), None) };
        Ok(Self { streams, stdout, stderr: Capture::of(stderr), stdin_pipe, stdout_pipe })
    }

    /// runc copies between the terminal it makes in the container and the one it is started on, which is this.
    fn terminal(spec: &DebugSpec) -> Result<Self, PodError> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).at("open", "/dev/ptmx")?;
        unlockpt(&master).at("unlock", "/dev/ptmx")?;
        let end = || ioctl_tiocgptpeer(&master, flags).at("open the other end of", "/dev/ptmx");
        let streams = Streams { stdin: end()?.into(), stdout: end()?.into(), stderr: end()?.into() };
        let master = File::from(master);
        if let Stdin::Bytes(bytes) = &spec.stdin {
            let mut keyboard = &master;
            keyboard.write_all(bytes).at("write to", "terminal")?;
        }
        let keyboard = matches!(spec.stdin, Stdin::Pipe).then(|| master.try_clone()).transpose();
        let stdin_pipe = keyboard.at("duplicate", "terminal")?;
        let (stdout, stderr) = (Capture::of(master), Capture::none());
        Ok(Self { streams, stdout, stderr, stdin_pipe, stdout_pipe: None })
    }
}
