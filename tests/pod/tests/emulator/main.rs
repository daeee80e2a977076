//! What the emulator promises: the facts measured with `kubectl debug` on a real cluster.

// These tests look at this machine directly.
#![allow(clippy::disallowed_methods)]

mod access;
mod capabilities;
mod containers;
mod lifecycle;

use std::time::Duration;

use agent_pod::{DebugSpec, FileCaps, Image, Output, Pod, PodSpec, Profile};

/// Long enough for a busy machine; nothing that succeeds waits so long.
const LIMIT: Duration = Duration::from_secs(20);

/// An image with USER root whose `agent` is the probe.
fn root_image() -> Image {
    Image::from_binary(env!("CARGO_BIN_EXE_probe"), "0", FileCaps::None).expect("the image can be made")
}

/// An image as the agent ships: another user, and every capability permitted.
fn shipped_image() -> Image {
    let probe = env!("CARGO_BIN_EXE_probe");
    Image::from_binary(probe, "65532:65532", FileCaps::AllPermitted).expect("the image can be made")
}

/// A pod whose target is a shell that says `ready` and sleeps.
fn sample() -> PodSpec {
    PodSpec::new("web", ["sh", "-c", "echo ready; exec sleep infinity"])
}

fn start(spec: PodSpec) -> Pod {
    let pod = Pod::start(spec).expect("the pod starts");
    pod.wait_for_output("ready", LIMIT).expect("the target is ready");
    pod
}

/// Runs the image's agent with these arguments in the target's pid namespace.
fn debug<const N: usize>(pod: &Pod, image: &Image, profile: Profile, arguments: [&str; N]) -> Output {
    let argv = ["agent"].into_iter().chain(arguments);
    pod.debug(DebugSpec::new(image, profile, argv).target()).expect("the container starts")
}
