//! The image as its users meet it: the bytes, the contents, and what skopeo and podman make of it.
//!
//! Where a tool is missing a test says `SKIP name: reason` on stderr and passes.
#![allow(clippy::disallowed_methods, reason = "a test: it reads files and runs container tools")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use agent_oci::{Archive, BinaryError, Description, ImageError};
use flate2::read::{GzDecoder, ZlibDecoder};
use goblin::elf::Elf;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// What `setcap all=p` writes on Linux 5.9 and later: revision 2, bits 0 to 40 permitted, none inheritable, not
/// effective. Spelled out here so that the test does not believe the code.
const ALL_PERMITTED: [u8; 20] = [0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0x01, 0, 0, 0, 0, 0, 0];

#[test]
fn is_the_same_to_the_byte_when_made_again() {
    let again = agent_image();
    assert_eq!(again.manifest, IMAGE.manifest);
    assert!(again.bytes == IMAGE.bytes, "the archives differ");
}

#[test]
fn names_each_blob_by_its_digest() {
    let files = files(&IMAGE);
    let mut blobs = 0;
    for (path, data) in &files {
        if let Some(hash) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(hash, sha256(data));
            blobs += 1;
        }
    }
    assert_eq!(blobs, 3, "config, layer and manifest");
    let layout: Value = serde_json::from_slice(&files["oci-layout"]).unwrap();
    assert_eq!(layout, json!({"imageLayoutVersion": "1.0.0"}));
    assert_eq!(files.len(), 5);
}

#[test]
fn says_what_it_is_and_where_it_comes_from() {
    let files = files(&IMAGE);
    let annotations = json!({
        "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
        "org.opencontainers.image.description": "what it is for",
        "org.opencontainers.image.licenses": "MIT",
        "org.opencontainers.image.revision": "0123456789abcdef",
        "org.opencontainers.image.source": "https://source.example/agent",
        "org.opencontainers.image.title": "agent",
        "org.opencontainers.image.version": "1.2.3",
    });

    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1));
    let entry = &index["manifests"][0];
    assert_eq!(entry["digest"], IMAGE.manifest.as_str());
    assert_eq!(
        entry["annotations"],
        json!({
            "io.containerd.image.name": "localhost/agent:1.2.3",
            "org.opencontainers.image.ref.name": "agent:1.2.3",
        })
    );

    let manifest: Value = serde_json::from_slice(blob(&files, entry)).unwrap();
    assert_eq!(manifest["annotations"], annotations);
    assert_eq!(manifest["config"]["digest"], IMAGE.config.as_str());

    let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])).unwrap();
    let layer = unzip(GzDecoder::new(blob(&files, &manifest["layers"][0])));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    assert_eq!(config["architecture"], architecture);
    assert_eq!(config["os"], "linux");
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(&layer))]));
    assert_eq!(
        config["config"],
        json!({
            "User": "65532:65532",
            "Env": ["PATH=/bin"],
            "Entrypoint": ["/bin/agent"],
            "WorkingDir": "/",
            "Labels": annotations,
        })
    );
}

#[test]
fn leaves_out_what_is_unknown() {
    let description = Description { reference: "agent:latest".to_owned(), ..Description::default() };
    let image = agent_oci::archive(&fs::read(AGENT).unwrap(), &description).unwrap();
    let files = files(&image);
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let manifest: Value = serde_json::from_slice(blob(&files, &index["manifests"][0])).unwrap();
    let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])).unwrap();
    assert_eq!(manifest["annotations"], json!({}));
    assert_eq!(config.get("created"), None);
}

#[test]
fn holds_the_agent_and_nothing_else() {
    let binary = fs::read(AGENT).unwrap();
    let layer = layer(&IMAGE);
    let mut archive = tar::Archive::new(layer.as_slice());
    let mut entries = archive.entries().unwrap();

    let directory = entries.next().unwrap().unwrap();
    assert_eq!(directory.path().unwrap(), Path::new("bin/"));
    assert!(directory.header().entry_type().is_dir());
    assert_eq!(owner_mode_time(&directory), (0, 0, 0o755, 1_700_000_000));

    let mut agent = entries.next().unwrap().unwrap();
    assert_eq!(agent.path().unwrap(), Path::new("bin/agent"));
    assert!(agent.header().entry_type().is_file());
    assert_eq!(owner_mode_time(&agent), (0, 0, 0o755, 1_700_000_000));
    let records: Vec<(String, Vec<u8>)> = agent
        .pax_extensions()
        .unwrap()
        .expect("the capabilities")
        .map(|record| record.unwrap())
        .map(|record| (record.key().unwrap().to_owned(), record.value_bytes().to_vec()))
        .collect();
    assert_eq!(records, [("SCHILY.xattr.security.capability".to_owned(), ALL_PERMITTED.to_vec())]);
    assert!(unzip(&mut agent) == binary, "the binary was changed");

    let tar = entries.next().unwrap().unwrap();
    assert_eq!(tar.path().unwrap(), Path::new("bin/tar"));
    assert_eq!(tar.link_name().unwrap().as_deref(), Some(Path::new("agent")));

    let session = entries.next().unwrap().unwrap();
    assert_eq!(session.path().unwrap(), Path::new("session/"));
    assert_eq!(owner_mode_time(&session), (0, 0, 0o1777, 1_700_000_000));

    assert!(entries.next().is_none());
}

#[test]
fn has_the_capabilities_that_setcap_writes() {
    const NAME: &str = "has_the_capabilities_that_setcap_writes";
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("layer.tar"), layer(&IMAGE)).unwrap();
    let unpack = run(
        "tar",
        [
            "-C".as_ref(),
            directory.path().as_os_str(),
            "--xattrs".as_ref(),
            "--xattrs-include=security.capability".as_ref(),
            "-xf".as_ref(),
            path("layer.tar").as_os_str(),
        ],
    );
    let ours = path("bin/agent");
    let theirs = path("theirs");
    fs::write(&theirs, b"").unwrap();
    let set = run("setcap", ["all=p".as_ref(), theirs.as_os_str()]);
    let (Some(unpack), Some(set)) = (unpack, set) else {
        return skip(NAME, "tar or setcap (libcap2-bin) is not installed");
    };
    if !unpack.status.success() || !set.status.success() {
        return skip(NAME, "setting file capabilities needs CAP_SETFCAP");
    }
    let getcap = |path: &Path| {
        let output = run("getcap", [path]).expect("getcap comes with setcap");
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(getcap(&ours), "=p");
    assert_eq!(getcap(&ours), getcap(&theirs));
}

#[test]
fn refuses_a_binary_that_would_not_start_alone() {
    let pack = |binary: &[u8]| match agent_oci::archive(binary, &description()) {
        Err(ImageError::Binary(error)) => error,
        other => panic!("{:?}", other.map(|image| image.manifest)),
    };
    assert!(matches!(pack(b"#!/bin/sh\n"), BinaryError::NotElf(_)));

    let dynamic = fs::read("/bin/sh").ok();
    match dynamic.filter(|sh| Elf::parse(sh).is_ok_and(|elf| elf.interpreter.is_some())) {
        None => skip("refuses_a_binary_that_would_not_start_alone", "/bin/sh is not a dynamic executable"),
        Some(sh) => {
            let error = pack(&sh);
            assert!(matches!(error, BinaryError::Dynamic(_)));
            assert!(error.to_string().contains("crt-static"), "says the remedy");
        }
    }
}

#[test]
fn carries_the_list_of_its_crates() {
    let binary = fs::read(AGENT).unwrap();
    let elf = Elf::parse(&binary).unwrap();
    let section = elf
        .section_headers
        .iter()
        .find(|section| elf.shdr_strtab.get_at(section.sh_name) == Some(".dep-v0"))
        .expect("a section .dep-v0");
    assert_eq!(section.sh_flags, 0, "takes no memory at run time");
    let list = unzip(ZlibDecoder::new(&binary[section.file_range().unwrap()]));
    let list: Value = serde_json::from_slice(&list).unwrap();
    let packages = list["packages"].as_array().unwrap();

    let roots: Vec<&Value> = packages.iter().filter(|p| p["root"] == true).collect();
    assert_eq!(roots.len(), 1);
    assert_eq!(roots[0]["name"], "agent");
    assert_eq!(roots[0]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(roots[0]["source"], "local");
    let named = |name: &str| packages.iter().find(|package| package["name"] == name);
    assert!(named("miniz_oxide").is_some(), "agent/build.rs compresses");
    assert!(named("agent-oci").is_none(), "only the tests use it");
    for package in packages {
        for index in package["dependencies"].as_array().unwrap_or(&Vec::new()) {
            let index = index.as_u64().unwrap() as usize;
            assert!(index < packages.len(), "{package}");
        }
    }
}

#[test]
fn skopeo_accepts_the_archive() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("agent.oci.tar");
    fs::write(&archive, &IMAGE.bytes).unwrap();
    let Some(inspect) = run("skopeo", ["inspect", &format!("oci-archive:{}:agent:1.2.3", archive.display())]) else {
        return skip("skopeo_accepts_the_archive", "skopeo is not installed");
    };
    let inspect: Value = serde_json::from_str(&stdout(inspect)).unwrap();
    assert_eq!(inspect["Digest"], IMAGE.manifest.as_str());
    assert_eq!(inspect["Labels"]["org.opencontainers.image.version"], "1.2.3");
}

/// Packs this test program instead of the agent and has it report from inside, so that the test stands on what the
/// kernel says and not on what the agent can do.
#[test]
fn podman_starts_it_without_root_and_without_effective_capabilities() {
    const NAME: &str = "podman_starts_it_without_root_and_without_effective_capabilities";
    let podman = match Podman::new() {
        Ok(podman) => podman,
        Err(reason) => return skip(NAME, &reason),
    };
    let this_program = fs::read(std::env::current_exe().unwrap()).unwrap();
    let image = agent_oci::archive(&this_program, &description()).unwrap();
    let archive = podman.storage.path().join("agent.oci.tar");
    fs::write(&archive, &image.bytes).unwrap();

    let loaded = stdout(podman.run(["load".as_ref(), "-i".as_ref(), archive.as_os_str()]));
    assert!(loaded.contains("localhost/agent:1.2.3"), "{loaded}");

    let mut arguments = vec!["run", "--rm", "--network=none"];
    // By default podman raises these limits, which not every machine lets it; lowering them works everywhere.
    arguments.extend(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
    arguments.extend(["--cap-drop=all", "--cap-add=CAP_SYS_PTRACE"]);
    arguments.extend(["localhost/agent:1.2.3", "--exact", "reports_from_inside"]);
    arguments.extend(["--ignored", "--nocapture", "--test-threads=1"]);
    let status = stdout(podman.run(arguments));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in:\n{status}")).trim()
    };
    assert_eq!(field("Uid:"), "65532\t65532\t65532\t65532");
    assert_eq!(field("Gid:"), "65532\t65532\t65532\t65532");
    let ptrace_only = format!("{:016x}", 1 << 19); // CAP_SYS_PTRACE (linux/capability.h)
    assert_eq!(field("CapPrm:"), ptrace_only, "cut to the bounding set");
    assert_eq!(field("CapEff:"), "0000000000000000");
}

#[test]
#[ignore = "is no test: runs inside the container that the test above starts"]
fn reports_from_inside() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    io::stdout().write_all(status.as_bytes()).unwrap();
}

fn description() -> Description {
    let text = |text: &str| Some(text.to_owned());
    Description {
        reference: "agent:1.2.3".to_owned(),
        created: Some(1_700_000_000),
        title: text("agent"),
        description: text("what it is for"),
        version: text("1.2.3"),
        revision: text("0123456789abcdef"),
        source: text("https://source.example/agent"),
        licenses: text("MIT"),
    }
}

/// The agent's image, made once for all tests that only read it.
static IMAGE: LazyLock<Archive> = LazyLock::new(agent_image);

fn agent_image() -> Archive {
    agent_oci::archive(&fs::read(AGENT).unwrap(), &description()).unwrap()
}

/// The regular files of the archive by path.
fn files(image: &Archive) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(image.bytes.as_slice());
    let entries = archive.entries().unwrap().map(Result::unwrap);
    entries
        .filter(|entry| entry.header().entry_type().is_file())
        .map(|mut entry| {
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            (path, unzip(&mut entry))
        })
        .collect()
}

/// The blob that a descriptor names, whose size it must tell.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap();
    let blob = &files[&digest.replacen("sha256:", "blobs/sha256/", 1)];
    assert_eq!(descriptor["size"], blob.len());
    blob
}

/// The uncompressed layer.
fn layer(image: &Archive) -> Vec<u8> {
    let path = image.layer.replacen("sha256:", "blobs/sha256/", 1);
    unzip(GzDecoder::new(files(image)[&path].as_slice()))
}

fn unzip(mut reader: impl Read) -> Vec<u8> {
    let mut data = Vec::new();
    reader.read_to_end(&mut data).unwrap();
    data
}

fn sha256(data: &[u8]) -> String {
    let hash = Sha256::digest(data);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn owner_mode_time(entry: &tar::Entry<'_, impl Read>) -> (u64, u64, u32, u64) {
    let header = entry.header();
    let owner = (header.uid().unwrap(), header.gid().unwrap());
    (owner.0, owner.1, header.mode().unwrap(), header.mtime().unwrap())
}

/// A podman with a storage of its own, so that a test leaves nothing behind.
struct Podman {
    storage: tempfile::TempDir,
    runtime: Option<&'static str>,
}

impl Podman {
    fn new() -> Result<Self, String> {
        // podman refuses a run root of more than 50 characters.
        let storage = tempfile::Builder::new().prefix("oci").tempdir_in("/tmp");
        let podman = Self {
            storage: storage.map_err(|error| format!("no directory for podman: {error}"))?,
            // crun cannot start a container where cgroup v1 and v2 are mixed.
            runtime: run("runc", ["--version"]).map(|_| "runc"),
        };
        let info = podman.command(["info"]).output();
        match info {
            Err(error) => Err(format!("podman cannot be run: {error}")),
            Ok(info) if info.status.success() => Ok(podman),
            Ok(info) => Err(format!("`podman info` fails: {}", String::from_utf8_lossy(&info.stderr).trim())),
        }
    }

    fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let directory = |name: &str| -> PathBuf { self.storage.path().join(name) };
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(directory("root"));
        podman.arg("--runroot").arg(directory("run"));
        podman.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"]);
        podman.args(self.runtime.map(|name| format!("--runtime={name}")));
        podman.args(arguments);
        podman
    }

    fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.command(arguments).output().unwrap()
    }
}

/// What the program prints, or `None` if it is not installed.
fn run(program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        output => Some(output.unwrap()),
    }
}

fn stdout(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Says that a test did not run, past the harness, which keeps what a passing test prints to itself.
fn skip(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}
