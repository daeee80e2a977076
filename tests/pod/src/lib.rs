//! The pod emulator: starts containers the way the kubelet and containerd do, on runc alone.
//!
//! An end-to-end test needs the thing it tests to live where it will live: in an ephemeral
//! container beside a target, with the capabilities, user, namespaces, cgroups and seccomp filter
//! that `kubectl debug` gives it. This crate builds those OCI bundles without a cluster:
//!
//! ```no_run
//! use agent_pod::{DebugSpec, FileCaps, Image, Pod, PodSpec, Profile};
//!
//! # fn main() -> Result<(), agent_pod::PodError> {
//! let image = Image::from_binary("target/agent", "65532:65532", FileCaps::AllPermitted)?;
//! let pod = Pod::start(PodSpec::new("web", ["sleep", "infinity"]).container_user(1000, 1000))?;
//! let out = pod.debug(DebugSpec::new(&image, Profile::General, ["agent", "ps"]).target())?;
//! assert_eq!(out.exit_code, 0, "{}", out.stderr_text());
//! # Ok(())
//! # }
//! ```
//!
//! Everything a [`Pod`] makes (processes, cgroups, directories) goes away when it is dropped.
//! Mounts live in a mount namespace of each container's own supervisor and cannot be left behind.
//! What a killed test run leaves is removed by the next [`Pod::start`].

// A test harness, not the agent: it is here to open files, start programs and mount things.
#![allow(clippy::disallowed_methods)]

mod archive;
mod caps;
mod capture;
mod cgroup;
mod container;
mod debug;
mod error;
mod host;
mod image;
mod oci;
mod pod;
mod seccomp;
mod security;

pub use caps::{CapSet, FileCaps, file_capability};
pub use capture::Capture;
pub use debug::{DebugContainer, DebugSpec, Output, Stdin};
pub use error::PodError;
pub use image::Image;
pub use pod::{Mount, Pod, PodSpec};
pub use rustix::process::{Pid, Signal};
pub use seccomp::Containerd;
pub use security::{Profile, User};
