//! One container under `runc run`: started, watched, signalled, and certainly ended.

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::capture::Capture;
use crate::error::{At, PodError};

/// How long a container may take to start, and to vanish once killed, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Mounts the container's root in a mount namespace of the supervisor's own, then becomes runc.
///
/// `volatile`: nobody needs the upper layer on disk when the container is gone.
const SUPERVISOR: &str = r#"
set -eu
lower=$1 bundle=$2; shift 2
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$bundle/upper,workdir=$bundle/work,volatile" "$bundle/rootfs"
exec "$@"
"#;

/// What a container needs to start.
pub(crate) struct Launch<'a> {
    pub(crate) name: &'a str,
    pub(crate) id: &'a str,
    pub(crate) bundle: PathBuf,
    pub(crate) runc_root: PathBuf,
    pub(crate) config: &'a Value,
    /// The image's files.
    pub(crate) lower: PathBuf,
}

/// The container's standard streams.
pub(crate) struct Streams {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

impl Streams {
    /// Standard output and error through pipes, as containerd's shim does it; nothing to read.
    pub(crate) fn piped() -> Result<(Self, PipeReader, PipeReader), PodError> {
        let (out_reader, out_writer) = std::io::pipe().at("make", "pipe")?;
        let (err_reader, err_writer) = std::io::pipe().at("make", "pipe")?;
        let streams = Self { stdin: Stdio::null(), stdout: out_writer.into(), stderr: err_writer.into() };
        Ok((streams, out_reader, err_reader))
    }
}

/// A started container. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) bundle: PathBuf,
    pub(crate) runc_root: PathBuf,
    pub(crate) init: Pid,
    pub(crate) started: Instant,
    init_fd: Option<OwnedFd>,
    exit: Exit,
}

impl Container {
    /// Starts it and waits until its own program runs.
    ///
    /// `stderr` is where runc's complaint is, when it does not start.
    pub(crate) fn start(launch: Launch<'_>, streams: Streams, stderr: &Capture) -> Result<Self, PodError> {
        let config_path = launch.bundle.join("config.json");
        fs::write(&config_path, launch.config.to_string()).at("write", config_path)?;
        let started = Instant::now();
        let mut supervisor = Command::new("unshare");
        supervisor.args(["--mount", "--propagation", "private", "sh", "-c", SUPERVISOR, "sh"]);
        supervisor.arg(&launch.lower).arg(&launch.bundle).args(["runc", "--root"]).arg(&launch.runc_root);
        supervisor.args(["--log-format", "json", "--log"]).arg(launch.bundle.join("runc.log"));
        supervisor.args(["run", "--bundle"]).arg(&launch.bundle);
        supervisor.arg("--pid-file").arg(launch.bundle.join("init.pid")).arg(launch.id);
        let exit = Exit::of(supervisor, streams)?;
        let init = wait_for_init(&launch, &exit, stderr)?;
        // The supervisor reaps the init process, so a container that has ended by now has no pidfd.
        let init_fd = pidfd_open(init, PidfdFlags::empty()).ok().filter(|_| belongs(init, launch.id));
        Ok(Self {
            id: launch.id.to_owned(),
            name: launch.name.to_owned(),
            bundle: launch.bundle,
            runc_root: launch.runc_root,
            init,
            started,
            init_fd,
            exit,
        })
    }

    /// Sends a signal to the container's init process; one that has ended takes none.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(init) = &self.init_fd {
            let _ = pidfd_send_signal(init, signal);
        }
    }

    /// Waits for the end; `None` while it runs.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        self.exit.wait(limit)
    }

    /// Kills the container and waits until runc has cleaned up behind it.
    pub(crate) fn kill(&self) -> Option<ExitStatus> {
        self.signal(Signal::KILL);
        self.wait(PATIENCE)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.wait(Duration::ZERO).is_none() && self.kill().is_none() {
            // The cgroup's removal, when the pod goes, kills whatever this is.
            let mut delete = Command::new("runc");
            delete.arg("--root").arg(&self.runc_root).args(["delete", "--force", &self.id]);
            let _ = delete.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.bundle);
    }
}

/// The end of a child process, awaited by a thread so that waiting can have a deadline.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    shared: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
    pid: u32,
}

impl Exit {
    /// Starts the program. Its standard streams are closed here, so that readers see their end.
    pub(crate) fn of(mut command: Command, streams: Streams) -> Result<Self, PodError> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
        let mut child = command.spawn().map_err(|source| PodError::Program { program, source })?;
        drop(command);
        let exit = Self { shared: Arc::default(), pid: child.id() };
        let ended = exit.clone();
        thread::spawn(move || {
            let status = child.wait().expect("a child is awaited once");
            *ended.shared.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
            ended.shared.1.notify_all();
        });
        Ok(exit)
    }

    /// Waits for the end; `None` when it did not come in time.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let guard = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, _) = self
            .shared
            .1
            .wait_timeout_while(guard, limit, |status| status.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        *status
    }

    /// Kills the child itself, for one that never came to be a container.
    pub(crate) fn kill(&self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let (Some(pid), None) = (pid, self.wait(Duration::ZERO)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// Waits for runc's pid file, and then until runc's own init has executed the container's program.
fn wait_for_init(launch: &Launch<'_>, exit: &Exit, stderr: &Capture) -> Result<Pid, PodError> {
    let pid_file = launch.bundle.join("init.pid");
    let deadline = Instant::now() + PATIENCE;
    let mut last = "runc has not written its pid file".to_owned();
    loop {
        let ended = exit.wait(Duration::from_millis(1)).is_some();
        if let Some(pid) = fs::read_to_string(&pid_file).ok().and_then(|text| Pid::from_raw(text.parse().ok()?)) {
            let comm = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
            match comm {
                // runc's init names itself so until it executes.
                Ok(comm) if comm.starts_with("runc:[") && !ended => last = format!("init is still {}", comm.trim()),
                _ => return Ok(pid),
            }
        } else if ended {
            return Err(start_error(launch, stderr));
        }
        if Instant::now() > deadline {
            exit.kill();
            return Err(PodError::Deadline { what: format!("start of {} ({last})", launch.name), limit: PATIENCE });
        }
    }
}

fn start_error(launch: &Launch<'_>, stderr: &Capture) -> PodError {
    stderr.wait_end(PATIENCE);
    let log = fs::read_to_string(launch.bundle.join("runc.log")).unwrap_or_default();
    let errors: Vec<String> = log.lines().filter_map(logged_error).collect();
    // Without an error of runc's, it was a mount before runc that failed.
    let message = if errors.is_empty() { stderr.text().trim().to_owned() } else { errors.join("; ") };
    PodError::Start { container: launch.name.to_owned(), message }
}

/// The message of a line of runc's log, if the line tells of an error.
fn logged_error(line: &str) -> Option<String> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let error = matches!(entry["level"].as_str(), Some("error" | "fatal"));
    error.then(|| entry["msg"].as_str().unwrap_or_default().to_owned())
}

/// Whether this process is the one that runc started, and not one that has taken its number since.
fn belongs(pid: Pid, container: &str) -> bool {
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()));
    cgroup.is_ok_and(|lines| lines.contains(container))
}

/// A container's exit status as Kubernetes reports it. runc itself turns a signal into 128 and its number.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Feeds a container's standard input from a thread and closes it.
pub(crate) fn feed(mut writer: PipeWriter, bytes: Vec<u8>) {
    thread::spawn(move || {
        // A container that does not read its input breaks the pipe, which is its right.
        let _ = writer.write_all(&bytes);
    });
}

/// The bytes of a file that a container may have written without bound.
pub(crate) fn read_log(path: &Path) -> Result<Vec<u8>, PodError> {
    use std::io::Read;
    const LIMIT: u64 = 1 << 20;
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes)).at("read", path)?;
    Ok(bytes)
}
