//! Puts the origin of the binary into the binary: the commit, and the list of the crates inside.
//!
//! For `main` there are two variables: `AGENT_COMMIT`, and `AGENT_DEPENDENCIES_PATH`, a file for `include_str!`. For
//! scanners (cargo-audit, rust-audit-info, trivy, syft) the same list is in the ELF section `.dep-v0`, as
//! cargo-auditable writes it, so that they find it in an image that holds no package database.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a build script, not part of the agent: it runs cargo and git, and speaks to cargo on stdout"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};

/// The tracked paths that the binary is made from. An edit elsewhere (a test, a page) leaves the binary as it was, so
/// it neither marks the commit as dirty nor builds the agent anew.
const SOURCES: [&str; 6] = [".cargo", "Cargo.lock", "Cargo.toml", "agent", "scripts/scenarios", "toolkits"];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    for source in SOURCES {
        rerun_if_changed(source);
    }
    println!("cargo:rustc-env=AGENT_COMMIT={}", commit());

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let list = out.join("dependencies.json");
    let json = dependencies()?.to_string();
    fs::write(&list, &json)?;
    println!("cargo:rustc-env=AGENT_DEPENDENCIES_PATH={}", list.display());
    pack_schemas(&out)?;
    link_section(&out, json.as_bytes())
}

/// Packs `agent/schemas/NAME.json` each, and writes a list of them, and of the classes beside them, for `include!`.
fn pack_schemas(out: &Path) -> Result<()> {
    let mut list = Vec::new();
    let directory = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("agent/schemas");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&directory).into_iter().flatten().map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|kind| kind == "json"));
    files.sort();
    for file in files {
        let name = file.file_stem().and_then(|stem| stem.to_str()).ok_or("a schema without a name")?;
        let mut packer = ZlibEncoder::new(Vec::new(), Compression::best());
        packer.write_all(&fs::read(&file)?)?;
        let packed = out.join(format!("{name}.schema"));
        fs::write(&packed, packer.finish()?)?;
        let classes = file.with_extension("classes");
        let [packed, classes] = [&packed, &classes].map(|path| path.display().to_string());
        list.push(format!("({name:?}, include_bytes!({packed:?}), include_str!({classes:?}))"));
    }
    fs::write(out.join("schemas.rs"), format!("&[{}]", list.join(", ")))?;
    Ok(())
}

/// Asks cargo to run this script again when `path` changes. A path that does not exist would make it run every time.
fn rerun_if_changed(path: impl AsRef<Path>) {
    let path = path.as_ref();
    if path.exists() {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}

/// The commit that is checked out, with `-dirty` when a source differs from it. Empty outside a git work tree.
fn commit() -> String {
    // A commit changes the branch's file, not HEAD. The directory stands for the branch, whose own file may not exist.
    for path in ["HEAD", "refs/heads", "packed-refs"] {
        if let Some(path) = git(&["rev-parse", "--git-path", path]) {
            rerun_if_changed(path);
        }
    }
    let Some(commit) = git(&["rev-parse", "--verify", "--quiet", "HEAD"]) else {
        return String::new();
    };
    let mut status = vec!["status", "--porcelain", "--untracked-files=no", "--"];
    status.extend(SOURCES);
    match git(&status) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + "-dirty",
    }
}

/// What git prints, or `None` where it fails or is not installed.
fn git(arguments: &[&str]) -> Option<String> {
    let git = Command::new("git").env("GIT_OPTIONAL_LOCKS", "0").args(arguments).output().ok()?;
    let text = String::from_utf8(git.stdout).ok()?;
    git.status.success().then(|| text.trim_end().to_owned())
}

/// The crates in the binary and those that built it, in the format of cargo-auditable.schema.json (repository
/// rust-secure-code/cargo-auditable).
///
/// From `cargo tree` and not `cargo metadata`: the latter lists what any member of the workspace would switch on, and
/// offline it fails in a fresh clone, where the crates that only other members use were never downloaded.
fn dependencies() -> Result<Value> {
    let in_binary: BTreeSet<Package> = tree("normal,no-proc-macro")?.into_iter().map(|(_, package)| package).collect();
    let mut edges: BTreeMap<Package, BTreeSet<Package>> = BTreeMap::new();
    let mut path: Vec<Package> = Vec::new();
    for (depth, package) in tree("normal,build")? {
        path.truncate(depth);
        if let Some(parent) = path.last() {
            let dependencies = edges.entry(parent.clone()).or_default();
            dependencies.insert(package.clone());
        }
        edges.entry(package.clone()).or_default();
        path.push(package);
    }
    let root = path.first().ok_or("`cargo tree` printed nothing")?;
    let index: BTreeMap<&Package, usize> = edges.keys().zip(0..).collect();
    let packages: Vec<Value> = edges
        .iter()
        .map(|(package, dependencies)| {
            let mut entry = json!({
                "name": package.name,
                "version": package.version,
                "source": package.source,
            });
            if !in_binary.contains(package) {
                entry["kind"] = json!("build");
            }
            if !dependencies.is_empty() {
                let dependencies = dependencies.iter().map(|package| index[package]);
                entry["dependencies"] = dependencies.collect();
            }
            if package == root {
                entry["root"] = json!(true);
            }
            entry
        })
        .collect();
    // Format 1: procedural macros count as build dependencies.
    Ok(json!({"format": 1, "packages": packages}))
}

/// One crate at one version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    source: &'static str,
}

/// The root package's dependencies over the given kinds of edge, each with its depth below the root.
///
/// A package whose dependencies were already listed comes again without them, marked `(*)`.
fn tree(edges: &str) -> Result<Vec<(usize, Package)>> {
    let tree = Command::new(env::var("CARGO")?)
        .args(["tree", "--offline", "--locked", "--no-default-features"])
        .args(["--package", &env::var("CARGO_PKG_NAME")?])
        .args(["--features", &env::var("CARGO_CFG_FEATURE").unwrap_or_default()])
        .args(["--target", &env::var("TARGET")?])
        .args(["--edges", edges])
        .args(["--prefix", "depth", "--format", "\t{p}"])
        .output()?;
    if !tree.status.success() {
        let reason = String::from_utf8_lossy(&tree.stderr);
        return Err(format!("`cargo tree` failed, so the crates are unknown: {reason}").into());
    }
    let lines = String::from_utf8(tree.stdout)?;
    lines.lines().map(parse_line).collect()
}

/// Parses `DEPTH\tNAME vVERSION (SOURCE) (proc-macro) (*)`, where all in parentheses may be absent.
fn parse_line(line: &str) -> Result<(usize, Package)> {
    let malformed = || format!("`cargo tree` printed `{line}`");
    let (depth, package) = line.split_once('\t').ok_or_else(malformed)?;
    let (name, rest) = package.split_once(" v").ok_or_else(malformed)?;
    let (version, notes) = rest.split_once(' ').unwrap_or((rest, ""));
    let source = notes.replace("(proc-macro)", "").replace("(*)", "");
    let source = source.trim().trim_matches(['(', ')']);
    if source.starts_with('/') {
        rerun_if_changed(Path::new(source).join("Cargo.toml"));
    }
    let package = Package {
        name: name.to_owned(),
        version: version.to_owned(),
        source: match source {
            "" => "crates.io",
            path if path.starts_with('/') => "local",
            registry if registry.starts_with("registry ") => "registry",
            _ => "git",
        },
    };
    Ok((depth.parse()?, package))
}

/// Links `list`, compressed by zlib, as the section `.dep-v0`.
///
/// The linker driver assembles a file whose name ends in `.s`: no other compiler is needed, and a cross build takes
/// the right one. The section has no flags, so it takes no memory at run time. As cargo-auditable does, the linker is
/// told to look for its symbol, so that no linker's `--gc-sections` may drop it.
fn link_section(out: &Path, list: &[u8]) -> Result<()> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(list)?;
    let data = out.join("dep-v0.zlib");
    fs::write(&data, zlib.finish()?)?;

    const SYMBOL: &str = "AUDITABLE_VERSION_INFO";
    let assembly = out.join("dep-v0.s");
    let section = format!(
        ".section .dep-v0,\"\",%progbits\n.globl {SYMBOL}\n{SYMBOL}:\n.incbin \"{}\"\n.section .note.GNU-stack,\"\",%progbits\n",
        data.display()
    );
    fs::write(&assembly, section)?;
    println!("cargo:rustc-link-arg-bins={}", assembly.display());
    println!("cargo:rustc-link-arg-bins=-Wl,--undefined={SYMBOL}");
    Ok(())
}
