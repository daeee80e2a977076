//! `agent-oci`: reads the agent's binary, writes its image archive and says the digests in one JSON line.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a build tool, not part of the agent: it reads and writes files and prints"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_oci::{Description, archive, layer};
use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;

/// Packs the agent's static binary as a reproducible OCI image archive.
///
/// Needs no container engine, no root and no setcap. Prints one JSON line with the digests. Load the archive with
/// `podman load -i`, `ctr -n k8s.io images import` or `skopeo copy oci-archive:FILE`.
#[derive(Parser)]
#[command(name = "agent-oci", disable_version_flag = true)]
struct Cli {
    /// The static binary that becomes /bin/agent
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// The image archive to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Write the layer too, as a plain tar archive (what the Containerfile adds)
    #[arg(long, value_name = "FILE")]
    layer: Option<PathBuf>,
    /// Image name and tag [default: agent:VERSION, or agent:latest without a version]
    #[arg(long, value_name = "NAME:TAG")]
    reference: Option<String>,
    /// Time of the image and of its files, in seconds since the epoch [default: none, and 0 for the files]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    created: Option<u64>,
    /// org.opencontainers.image.title
    #[arg(long, default_value = "agent")]
    title: String,
    /// org.opencontainers.image.description
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// org.opencontainers.image.version
    #[arg(long)]
    version: Option<String>,
    /// org.opencontainers.image.revision
    #[arg(long, value_name = "COMMIT")]
    revision: Option<String>,
    /// org.opencontainers.image.source
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// org.opencontainers.image.licenses
    #[arg(long, value_name = "SPDX")]
    licenses: Option<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent-oci: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let binary = fs::read(&cli.binary).with_context(|| format!("cannot read {}", cli.binary.display()))?;
    let tag = cli.version.as_deref().unwrap_or("latest");
    let description = Description {
        reference: cli.reference.unwrap_or_else(|| format!("agent:{tag}")),
        created: cli.created,
        title: Some(cli.title),
        description: cli.description,
        version: cli.version,
        revision: cli.revision,
        source: cli.source,
        licenses: cli.licenses,
    };
    let image = archive(&binary, &description).with_context(|| format!("cannot pack {}", cli.binary.display()))?;
    write(&cli.output, &image.bytes)?;
    if let Some(path) = &cli.layer {
        write(path, &layer(&binary, cli.created.unwrap_or(0))?)?;
    }
    let report = json!({
        "archive": cli.output,
        "reference": description.reference,
        "architecture": image.architecture,
        "manifest": image.manifest,
        "config": image.config,
        "layer": image.layer,
        "size": image.bytes.len(),
    });
    println!("{report}");
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(path, bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}
