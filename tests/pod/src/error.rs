//! What can go wrong on the way to a running container.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a container, an image or a pod could not be made.
///
/// What happens *inside* a container that did start is not an error: it is the exit status and the
/// streams of its [`Output`](crate::Output).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// The emulator mounts, creates cgroups and runs runc.
    #[error("the pod emulator must run as root (it runs runc): start it under sudo")]
    NotRoot,
    /// A program that the emulator calls is missing.
    #[error("cannot start {program}: {source}")]
    Program {
        /// The name that was looked up in `PATH`.
        program: String,
        /// What `execve` or the lookup said.
        source: io::Error,
    },
    /// A file or directory of the emulator's own could not be used.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: "read", "create".
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kubelet's `CreateContainerConfigError`: `runAsNonRoot` is set, the user would be root.
    #[error("container has runAsNonRoot and image will run as root (container: {container})")]
    RunAsNonRoot {
        /// Name of the refused container.
        container: String,
    },
    /// The runtime could not start the container.
    #[error("container {container} did not start: {message}")]
    Start {
        /// Name of the container.
        container: String,
        /// What runc and the mounts before it said.
        message: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}")]
    Deadline {
        /// What was waited for, with the last state seen.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// An OCI archive does not say what it must.
    #[error("OCI archive {}: {problem}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Which part is missing or wrong.
        problem: String,
    },
    /// A user that is neither empty, `root`, `UID` nor `UID:GID`.
    #[error("user {0:?} is not numeric: an image without /etc/passwd needs UID or UID:GID")]
    User(String),
}

impl PodError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }
}

/// Short for the many `map_err` calls on paths.
pub(crate) trait At<T> {
    /// Names the action and the path of a failed system call.
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, PodError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, PodError> {
        self.map_err(|source| PodError::io(action, path, source))
    }
}
