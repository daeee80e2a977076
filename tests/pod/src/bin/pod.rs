//! The pod emulator by hand: `pod run` starts a target, `pod try` also runs the agent beside it.

// For people at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent_pod::{Capture, DebugSpec, FileCaps, Image, Pod, PodError, PodSpec, Profile, User};
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Starts containers as the kubelet does, on runc alone. Needs root.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a target, say where it is, and keep it until it ends.
    Run {
        #[command(flatten)]
        target: Target,
        /// The target's command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Start a target, run the agent in an ephemeral container beside it, print what it prints.
    Try {
        #[command(flatten)]
        target: Target,
        /// The agent: an OCI archive, or the binary itself (then as it ships: user 65532, all capabilities permitted).
        #[arg(long)]
        agent: PathBuf,
        /// As of `kubectl debug`: legacy, baseline, general, netadmin, restricted or sysadmin.
        #[arg(long, default_value = "general")]
        profile: Profile,
        /// The target's command, split at spaces.
        #[arg(long, default_value = "sleep infinity")]
        target_cmd: String,
        /// Seconds after which the agent's container is killed.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
        /// The command in the agent's image.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// What kind of pod.
#[derive(Args)]
struct Target {
    /// The target container's UID or UID:GID; the agent does not inherit it.
    #[arg(long, value_name = "UID[:GID]")]
    user: Option<User>,
    /// The pod's UID or UID:GID; the agent inherits it.
    #[arg(long, value_name = "UID[:GID]")]
    pod_user: Option<User>,
    /// RuntimeDefault seccomp profile for the pod.
    #[arg(long)]
    seccomp: bool,
    /// What Pod Security "restricted" asks for, as user 1000.
    #[arg(long, conflicts_with_all = ["user", "pod_user"])]
    restricted: bool,
    /// shareProcessNamespace: PID 1 is pause.
    #[arg(long)]
    share: bool,
    /// Memory limit of the pod in MiB.
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
}

impl Target {
    fn start(&self, command: &[String]) -> Result<Pod, PodError> {
        let mut spec = PodSpec::new("sample", command);
        if let Some(user) = self.user {
            spec = spec.container_user(user.uid, user.gid);
        }
        if let Some(user) = self.pod_user {
            spec = spec.pod_user(user.uid, user.gid);
        }
        if self.seccomp {
            spec = spec.seccomp_runtime_default();
        }
        if self.restricted {
            spec = spec.pod_security_restricted(1000, 1000);
        }
        if self.share {
            spec = spec.share_process_namespace();
        }
        if let Some(mebibytes) = self.memory {
            spec = spec.memory_limit(mebibytes << 20);
        }
        Pod::start(spec)
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { target, command } => run(&target, &command),
        Command::Try { target, agent, profile, target_cmd, timeout, command } => {
            let target_cmd: Vec<String> = target_cmd.split_whitespace().map(str::to_owned).collect();
            try_agent(&target, &target_cmd, &agent, profile, Duration::from_secs(timeout), command)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("pod: {error}");
        ExitCode::FAILURE
    })
}

/// Shows the target's output as it comes, until it ends or somebody presses Ctrl-C.
fn run(target: &Target, command: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    // Taken from a descriptor instead of killing us, so that the pod is cleaned up. Children start with an empty mask.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let pod = target.start(command)?;
    println!("pod {} uid {}", pod.name(), pod.uid());
    println!("container {} pid {}", pod.target_id(), pod.target_pid().as_raw_nonzero());
    println!("cgroup {}", pod.target_cgroup());
    let (mut shown, mut complained) = (0, 0);
    loop {
        let ended = pod.wait_target(Duration::from_millis(100));
        show(pod.stdout(), &mut shown, &mut io::stdout())?;
        show(pod.stderr(), &mut complained, &mut io::stderr())?;
        if let Some(code) = ended {
            return Ok(ExitCode::from(code as u8));
        }
        if signals.read_signal()?.is_some() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Writes what has come since the last time.
fn show(stream: &Capture, shown: &mut usize, to: &mut impl Write) -> io::Result<()> {
    let bytes = stream.bytes();
    to.write_all(&bytes[*shown..])?;
    *shown = bytes.len();
    to.flush()
}

fn try_agent(
    target: &Target,
    target_command: &[String],
    agent: &Path,
    profile: Profile,
    timeout: Duration,
    command: Vec<String>,
) -> Result<ExitCode, Box<dyn Error>> {
    let image = match agent.extension() {
        Some(extension) if extension == "tar" => Image::from_oci_archive(agent)?,
        _ => Image::from_binary(agent, "65532:65532", FileCaps::AllPermitted)?,
    };
    let pod = target.start(target_command)?;
    let out = pod.debug(DebugSpec::new(&image, profile, command).target().timeout(timeout))?;
    io::stdout().write_all(&out.stdout)?;
    io::stderr().write_all(&out.stderr)?;
    Ok(ExitCode::from(out.exit_code as u8))
}
