//! The image around the layer: config, manifest and index, in an OCI image layout.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use flate2::{Compression, GzBuilder};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType};

use crate::elf::{self, BinaryError};
use crate::layer;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The compression level. Level 9 takes twice as long to save half a percent.
const LEVEL: Compression = Compression::new(6);

/// The latest time that a ustar header holds: eleven octal digits, in the year 2242 (POSIX, pax(1), "ustar").
const MTIME_MAX: u64 = 0o777_7777_7777;

/// The user that the image names: not root, so that a pod with `runAsNonRoot` admits it, and no user of the target.
const USER: &str = "65532:65532";

/// Why no image could be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The binary cannot be the only file of an image.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// The reference is not `name:tag`.
    #[error(
        "`{0}` is not an image reference of the form name:tag: lower-case name, and a tag of at most 128 letters, \
         digits, `_`, `.` and `-`"
    )]
    Reference(String),
    /// The time does not fit the archive.
    #[error("{0} is not a time between 1970 and 2242, in seconds since the epoch")]
    Created(u64),
    /// Writing to memory failed, or a value did not fit its tar field.
    #[error("the archive cannot be put together")]
    Io(#[from] io::Error),
}

/// What the image says of itself. The fields that are unknown are left out of the image.
///
/// All but `reference` and `created` become the annotation, and the label, of that name under
/// `org.opencontainers.image.` (image-spec, annotations.md).
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// Image name and tag, as `agent:0.1.0`.
    pub reference: String,
    /// Seconds since the epoch: the time of every file, and of the image.
    pub created: Option<u64>,
    /// Title for people.
    pub title: Option<String>,
    /// What the image is for.
    pub description: Option<String>,
    /// Version of the packaged software.
    pub version: Option<String>,
    /// Commit from which the binary was built.
    pub revision: Option<String>,
    /// URL of the source.
    pub source: Option<String>,
    /// SPDX license expression.
    pub licenses: Option<String>,
}

/// An image archive and the digests by which registries and engines know its parts.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The tar archive of an OCI image layout (image-spec, image-layout.md).
    pub bytes: Vec<u8>,
    /// Architecture, as OCI names it.
    pub architecture: &'static str,
    /// Digest of the manifest: the digest of the image.
    pub manifest: String,
    /// Digest of the config: the image ID of podman and docker.
    pub config: String,
    /// Digest of the compressed layer.
    pub layer: String,
}

/// Packs `binary` as the image `description`. The same arguments give the same bytes.
pub fn archive(binary: &[u8], description: &Description) -> Result<Archive, ImageError> {
    check_reference(&description.reference)?;
    let mtime = description.created.unwrap_or(0);
    if mtime > MTIME_MAX {
        return Err(ImageError::Created(mtime));
    }
    let architecture = elf::architecture(binary)?;
    let layer = layer::layer(binary, mtime)?;
    let labels = description.labels();

    let mut blobs = Blobs::default();
    let diff_id = digest(&layer);
    let layer = blobs.add(LAYER, gzip(&layer)?);
    let config = config(architecture, &diff_id, description.rfc3339(), &labels);
    let config = blobs.add(CONFIG, config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [layer],
        "annotations": labels,
    });
    let mut manifest = blobs.add(MANIFEST, manifest.to_string().into_bytes());
    manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
    manifest["annotations"] = json!({
        "io.containerd.image.name": full_reference(&description.reference),
        "org.opencontainers.image.ref.name": description.reference,
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});

    let digest_of = |descriptor: &Value| descriptor["digest"].as_str().unwrap_or("").to_owned();
    Ok(Archive {
        bytes: layout(&index, &blobs, mtime)?,
        architecture,
        manifest: digest_of(&manifest),
        config: digest_of(&config),
        layer: digest_of(&layer),
    })
}

impl Description {
    fn rfc3339(&self) -> Option<String> {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(self.created?))?;
        Some(humantime::format_rfc3339_seconds(time).to_string())
    }

    /// The annotations, sorted by name so that their order is always the same.
    fn labels(&self) -> Map<String, Value> {
        let known = [
            ("created", self.rfc3339()),
            ("description", self.description.clone()),
            ("licenses", self.licenses.clone()),
            ("revision", self.revision.clone()),
            ("source", self.source.clone()),
            ("title", self.title.clone()),
            ("version", self.version.clone()),
        ];
        let named =
            |(name, value): (&str, Option<String>)| Some((format!("org.opencontainers.image.{name}"), value?.into()));
        known.into_iter().filter_map(named).collect()
    }
}

/// The image's config (image-spec, config.md).
fn config(architecture: &str, diff_id: &str, created: Option<String>, labels: &Map<String, Value>) -> Value {
    let mut config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": USER,
            "Env": ["PATH=/bin"],
            "Entrypoint": ["/bin/agent"],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "agent-oci"}],
    });
    if let Some(created) = created {
        config["history"][0]["created"] = json!(created);
        config["created"] = json!(created);
    }
    config
}

/// Blobs by the hexadecimal part of their digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Keeps a blob and returns its descriptor (image-spec, descriptor.md).
    fn add(&mut self, media_type: &str, blob: Vec<u8>) -> Value {
        let hash = sha256(&blob);
        let digest = format!("sha256:{hash}");
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": blob.len()});
        self.0.insert(hash, blob);
        descriptor
    }
}

/// The image layout as a tar archive.
fn layout(index: &Value, blobs: &Blobs, mtime: u64) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for path in ["blobs/", "blobs/sha256/"] {
        layer::append(&mut tar, EntryType::Directory, path, 0o755, mtime, &[])?;
    }
    let mut file = |path: &str, data: &[u8]| layer::append(&mut tar, EntryType::Regular, path, 0o644, mtime, data);
    for (hash, blob) in &blobs.0 {
        file(&format!("blobs/sha256/{hash}"), blob)?;
    }
    file("index.json", index.to_string().as_bytes())?;
    file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.into_inner()
}

/// Compresses with nothing of the machine in the header: no name, no time, and "unknown" (255) as the operating
/// system (RFC 1952). The bytes depend on flate2's backend, which Cargo.toml and Cargo.lock pin.
fn gzip(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), LEVEL);
    gzip.write_all(data)?;
    gzip.finish()
}

fn digest(data: &[u8]) -> String {
    format!("sha256:{}", sha256(data))
}

fn sha256(data: &[u8]) -> String {
    let hash = Sha256::digest(data);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The reference with a host, as kubelet and containerd need it: without one they would read `agent:0.1.0` as an
/// image of the default registry, whereas podman names it `localhost/agent:0.1.0` by itself.
fn full_reference(reference: &str) -> String {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => reference.to_owned(),
        _ => format!("localhost/{reference}"),
    }
}

/// Checks the characters of `name:tag` (distribution-spec, "Pulling manifests"): what an engine would refuse on
/// loading is better refused here.
fn check_reference(reference: &str) -> Result<(), ImageError> {
    let valid = reference.rsplit_once(':').is_some_and(|(name, tag)| {
        let name_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/:".contains(&byte);
        let tag_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
            && name.bytes().all(name_byte)
            && (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(tag_byte)
    });
    if valid { Ok(()) } else { Err(ImageError::Reference(reference.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_image_as_kubelet_will_ask_for_it() {
        assert_eq!(full_reference("agent:1"), "localhost/agent:1");
        assert_eq!(full_reference("team/agent:1"), "localhost/team/agent:1");
        assert_eq!(full_reference("localhost/agent:1"), "localhost/agent:1");
        assert_eq!(full_reference("registry.example/agent:1"), "registry.example/agent:1");
        assert_eq!(full_reference("host:5000/agent:1"), "host:5000/agent:1");
    }

    #[test]
    fn refuses_references_that_engines_refuse() {
        for good in ["agent:0.1.0", "host:5000/team/agent:v1_2-rc.1"] {
            assert!(check_reference(good).is_ok(), "{good}");
        }
        for bad in ["agent", "agent:", ":1", "Agent:1", "agent:1+build", "agent:-1", "host:5000/agent"] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn says_the_time_in_utc() {
        let at = |created| {
            let description = Description { created, ..Description::default() };
            description.rfc3339()
        };
        assert_eq!(at(Some(0)).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(at(Some(1_709_164_800)).as_deref(), Some("2024-02-29T00:00:00Z"));
        assert_eq!(at(None), None);
    }
}
