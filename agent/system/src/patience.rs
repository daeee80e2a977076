//! File systems that may not answer.
//!
//! A server (NFS) or a process (FUSE) answers for them, and where it is dead whoever asks waits for ever, and often cannot
//! even be killed. So what lies on one is not touched, unless that is asked for (`--remote-files`). A root file system of
//! that kind cannot be left out (virtiofs, fuse-overlayfs): it is asked by a thread of its own, for which nobody waits long.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Cause, Errno, Process, parse};

/// How long a file system is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many times for one that is not known by its mount point: a link led there.
const TRIES: usize = 3;

const STACK: usize = 128 << 10;

pub(crate) const SILENT: &str = "the file system does not answer (its server or process may be dead)";

const CLOSED: &str = "it is on a network or FUSE file system, which may never answer: it was not touched; \
                      --remote-files reads it all the same";

/// The file systems of one process that somebody else answers for.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    /// Where they are mounted.
    points: Vec<Vec<u8>>,
    /// Whether they are asked all the same.
    is_asked: bool,
    /// Those that have not answered, once for each time.
    silent: Mutex<Vec<Vec<u8>>>,
}

impl Remote {
    pub(crate) fn of(process: &Process<'_>, is_asked: bool) -> Self {
        let mut text = Vec::new();
        // Where it cannot be read there is no file of the target to be read either.
        let read = process.read("mountinfo", &mut text);
        let mounts = if read.is_ok() { parse::mounts(&text) } else { Vec::new() };
        let points = mounts.into_iter().filter(parse::Mount::may_hang).map(|mount| mount.point).collect();
        Self { points, is_asked, silent: Mutex::default() }
    }

    /// The mount point above `path`; empty where none is.
    fn point(&self, path: &[u8]) -> &[u8] {
        let is_above = |point: &&Vec<u8>| {
            let inside = path.strip_prefix(point.strip_suffix(b"/").unwrap_or(point));
            inside.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.points.iter().filter(is_above).max_by_key(|point| point.len()).map_or(b"", Vec::as_slice)
    }

    /// Whether `point` is where one is mounted that is not to be touched.
    pub(crate) fn is_closed(&self, point: &[u8]) -> bool {
        !self.is_asked && point != b"/" && self.points.iter().any(|one| one == point)
    }

    /// Whether `path` lies on one that is not to be touched, or that has not answered.
    pub(crate) fn is_out_of_reach(&self, path: &[u8]) -> bool {
        let point = self.point(path);
        !point.is_empty() && (self.is_closed(point) || self.silent().iter().any(|one| one == point))
    }

    fn silent(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any is asked.
    fn asks(&self) -> bool {
        self.points.iter().any(|point| !self.is_closed(point))
    }

    /// What `work` gives, which asks for something at `path`.
    ///
    /// # Errors
    ///
    /// What it fails with, and [`Cause::Timeout`] where there is no answer.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        path: &[u8],
        work: impl FnOnce() -> Result<T, Cause> + Send + 'static,
    ) -> Result<T, Cause> {
        let closed = |cause| if matches!(cause, Cause::Os(Errno::REMOTE)) { Cause::Unsupported(CLOSED) } else { cause };
        if !self.asks() {
            return work().map_err(closed);
        }
        let point = self.point(path);
        let tries = if point.is_empty() { TRIES } else { 1 };
        if self.silent().iter().filter(|one| *one == point).count() >= tries {
            return Err(Cause::Timeout(SILENT));
        }
        let (tell, told) = sync_channel(1);
        let asking = move || {
            // Nobody waits any more where it has taken too long.
            let _ = tell.send(work());
        };
        if std::thread::Builder::new().stack_size(STACK).spawn(asking).is_err() {
            return Err(Cause::Unsupported("no thread could be started to ask the file system"));
        }
        match told.recv_timeout(PATIENCE) {
            Ok(answer) => answer.map_err(closed),
            Err(RecvTimeoutError::Disconnected) => Err(Cause::Unsupported("the thread that asks has ended")),
            Err(RecvTimeoutError::Timeout) => {
                self.silent().push(point.to_vec());
                Err(Cause::Timeout(SILENT))
            }
        }
    }
}

/// A file of one of them, read that way.
#[derive(Debug, Clone)]
pub(crate) struct Far {
    pub(crate) remote: Arc<Remote>,
    pub(crate) path: Vec<u8>,
}

impl Far {
    /// `path`, if any file system is one of them.
    pub(crate) fn of(remote: &Arc<Remote>, path: &[u8]) -> Option<Self> {
        remote.asks().then(|| Self { remote: Arc::clone(remote), path: path.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(points: &[&str]) -> Remote {
        let points = points.iter().map(|point| point.as_bytes().to_vec()).collect();
        Remote { points, is_asked: true, silent: Mutex::default() }
    }

    #[test]
    fn the_nearest_mount_point_above_is_found() {
        let remote = remote(&["/data", "/data/deep", "/srv"]);
        let found = [&b"/data/x"[..], b"/data", b"/database", b"/data/deep/y", b"/", b"/srv/"]
            .map(|path| String::from_utf8_lossy(remote.point(path)).into_owned());
        assert_eq!(found, ["/data", "/data", "", "/data/deep", "", "/srv"]);
        assert_eq!(super::tests::remote(&["/"]).point(b"/usr/bin/x"), b"/");
    }

    #[test]
    fn one_that_is_not_to_be_asked_is_closed_unless_it_is_the_root() {
        let remote = Remote { is_asked: false, ..remote(&["/data", "/"]) };
        assert!(remote.is_closed(b"/data") && !remote.is_closed(b"/data/x") && !remote.is_closed(b"/"));
        assert!(remote.is_out_of_reach(b"/data/x") && !remote.is_out_of_reach(b"/usr/x"));
        assert!(remote.asks());
        assert!(!Remote { is_asked: false, ..super::tests::remote(&["/data"]) }.asks());
    }

    #[test]
    fn one_that_does_not_answer_is_asked_once() {
        let remote = remote(&["/data"]);
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        let never = Arc::new(Mutex::new(never));
        let hang = |path: &[u8]| {
            let never = Arc::clone(&never);
            remote.ask(path, move || never.lock().map_err(|_| Cause::Timeout("")).map(|never| never.recv().is_ok()))
        };
        assert!(matches!(hang(b"/data/x"), Err(Cause::Timeout(SILENT))));
        let begin = std::time::Instant::now();
        assert!(matches!(hang(b"/data/y"), Err(Cause::Timeout(SILENT))));
        assert!(begin.elapsed() < PATIENCE);
        assert!(remote.is_out_of_reach(b"/data/x") && !remote.is_out_of_reach(b"/etc/passwd"));
        // The others answer.
        assert!(matches!(remote.ask(b"/etc/passwd", || Ok(7)), Ok(7)));
        assert!(matches!(super::tests::remote(&[]).ask(b"/data/x", || Ok(8)), Ok(8)));
    }
}
