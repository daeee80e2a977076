//! Reads an OCI image layout from a tar (OCI image-spec: image-layout, manifest, config and layer).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rustix::fs::{XattrFlags, lsetxattr};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

use crate::error::{At, PodError};
use crate::image::Config;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ImageConfig {
    #[serde(default)]
    config: Config,
}

/// Unpacks the archive's layers, in order, into `rootfs` and returns the image's config.
pub(crate) fn unpack(path: &Path, rootfs: &Path) -> Result<Config, PodError> {
    let layout = Layout::read(path)?;
    let index: Index = layout.json(layout.file("index.json")?)?;
    let manifest: Manifest = layout.json(layout.blob(layout.manifest(&index)?)?)?;
    for layer in &manifest.layers {
        let blob = layout.blob(layer)?;
        let reader: Box<dyn Read + '_> = match layer.media_type.rsplit_once("tar").map(|(_, suffix)| suffix) {
            Some("") => Box::new(blob),
            Some("+gzip" | ".gzip") => Box::new(GzDecoder::new(blob)),
            _ => return Err(layout.problem(format!("layer of media type {} is not supported", layer.media_type))),
        };
        layout.unpack_layer(reader, rootfs)?;
    }
    let image: ImageConfig = layout.json(layout.blob(&manifest.config)?)?;
    Ok(image.config)
}

/// The members of the outer tar; a debug agent's image fits in memory.
struct Layout {
    path: PathBuf,
    files: HashMap<PathBuf, Vec<u8>>,
}

impl Layout {
    fn read(path: &Path) -> Result<Self, PodError> {
        let mut files = HashMap::new();
        let mut archive = Archive::new(File::open(path).at("open", path)?);
        for entry in archive.entries().at("read", path)? {
            let mut entry = entry.at("read", path)?;
            let name = entry.path().at("read", path)?.components().filter(|part| part.as_os_str() != ".").collect();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).at("read", path)?;
            files.insert(name, bytes);
        }
        Ok(Self { path: path.to_owned(), files })
    }

    fn problem(&self, problem: impl Into<String>) -> PodError {
        PodError::Archive { path: self.path.clone(), problem: problem.into() }
    }

    fn file(&self, name: &str) -> Result<&[u8], PodError> {
        self.files.get(Path::new(name)).map(Vec::as_slice).ok_or_else(|| self.problem(format!("no member {name}")))
    }

    /// A blob whose size and digest are what its descriptor says.
    fn blob(&self, descriptor: &Descriptor) -> Result<&[u8], PodError> {
        let Some(hex) = descriptor.digest.strip_prefix("sha256:") else {
            return Err(self.problem(format!("digest {} is not sha256", descriptor.digest)));
        };
        let blob = self.file(&format!("blobs/sha256/{hex}"))?;
        let found: String = Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != hex || blob.len() as u64 != descriptor.size {
            return Err(self.problem(format!("blob {hex} has digest {found} and {} bytes", blob.len())));
        }
        Ok(blob)
    }

    fn json<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, PodError> {
        serde_json::from_slice(bytes).map_err(|error| self.problem(error.to_string()))
    }

    /// The manifest for this machine: the only one, or the one of its architecture.
    fn manifest<'a>(&self, index: &'a Index) -> Result<&'a Descriptor, PodError> {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let fits =
            |one: &&Descriptor| one.platform.as_ref().is_none_or(|platform| platform.architecture == architecture);
        let found = index.manifests.iter().find(fits);
        found.ok_or_else(|| self.problem(format!("no manifest for {architecture}")))
    }

    fn unpack_layer(&self, reader: impl Read, rootfs: &Path) -> Result<(), PodError> {
        let mut layer = Archive::new(reader);
        layer.set_preserve_permissions(true);
        layer.set_preserve_ownerships(true);
        for entry in layer.entries().at("read layer of", &self.path)? {
            let mut entry = entry.at("read layer of", &self.path)?;
            let name = entry.path().at("read layer of", &self.path)?.into_owned();
            if name.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".wh.")) {
                self.whiteout(&name, rootfs)?;
                continue;
            }
            let attributes = attributes(&mut entry).at("read layer of", &self.path)?;
            // A later layer may turn a file into a link; the tar crate would write through it.
            let target = rootfs.join(&name);
            if target.is_symlink() || (target.exists() && entry.header().entry_type() != EntryType::Directory) {
                fs::remove_file(&target).at("replace", &target)?;
            }
            if !entry.unpack_in(rootfs).at("unpack into", &target)? {
                return Err(self.problem(format!("layer member {} leaves the root", name.display())));
            }
            // After the owner, for a change of owner removes file capabilities.
            for (name, value) in attributes {
                lsetxattr(&target, &*name, &value, XattrFlags::empty()).at("set attribute of", &target)?;
            }
        }
        Ok(())
    }

    /// `.wh.NAME` in a layer removes NAME of the layers below (image-spec layer.md).
    fn whiteout(&self, name: &Path, rootfs: &Path) -> Result<(), PodError> {
        let hidden = name.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(".wh."));
        match hidden {
            Some(hidden) if hidden != ".wh..opq" => {
                let target = rootfs.join(name).with_file_name(hidden);
                let removed = if target.is_dir() { fs::remove_dir_all(&target) } else { fs::remove_file(&target) };
                removed.at("remove", target)
            }
            _ => Err(self.problem(format!("whiteout {} is not supported", name.display()))),
        }
    }
}

/// The `SCHILY.xattr.NAME` records of a member (the PAX extension of star, which OCI layers use).
fn attributes(entry: &mut tar::Entry<'_, impl Read>) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for extension in extensions {
        let extension = extension?;
        if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
            found.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of one layer with one file that has an extended attribute.
    fn sample(gzip: bool, spoil: bool) -> Vec<u8> {
        let mut layer = tar::Builder::new(Vec::new());
        let attribute: &[u8] = &[0, 0, 0, 2, 1];
        layer.append_pax_extensions([("SCHILY.xattr.user.sample", attribute)]).unwrap();
        append(&mut layer, "bin/agent", b"#!");
        let mut layer = layer.into_inner().unwrap();
        if gzip {
            let mut packed = Vec::new();
            flate2::read::GzEncoder::new(&layer[..], flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
            layer = packed;
        }
        let media =
            if gzip { "application/vnd.oci.image.layer.v1.tar+gzip" } else { "application/vnd.oci.image.layer.v1.tar" };
        let config = br#"{"config":{"User":"65532:65532","Env":["PATH=/bin"],"Entrypoint":["/bin/agent"]}}"#;
        let manifest = format!(
            r#"{{"config":{},"layers":[{}]}}"#,
            describe("application/vnd.oci.image.config.v1+json", config),
            describe(media, &layer)
        );
        let index = format!(
            r#"{{"manifests":[{}]}}"#,
            describe("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
        );
        if spoil {
            layer[0] ^= 1;
        }
        let mut outer = tar::Builder::new(Vec::new());
        append(&mut outer, "./index.json", index.as_bytes());
        for (blob, original) in [(&config[..], None), (manifest.as_bytes(), None), (&layer, Some(spoil))] {
            let mut unspoiled = blob.to_vec();
            if original == Some(true) {
                unspoiled[0] ^= 1;
            }
            append(&mut outer, &format!("blobs/sha256/{}", digest(&unspoiled)), blob);
        }
        outer.into_inner().unwrap()
    }

    fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive.append_data(&mut header, name, bytes).unwrap();
    }

    fn digest(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn describe(media: &str, bytes: &[u8]) -> String {
        format!(r#"{{"mediaType":"{media}","digest":"sha256:{}","size":{}}}"#, digest(bytes), bytes.len())
    }

    fn unpack_sample(name: &str, bytes: &[u8]) -> Result<(Config, Vec<u8>), PodError> {
        let directory = std::env::temp_dir().join(format!("agent-pod-archive-{}-{name}", std::process::id()));
        let rootfs = directory.join("rootfs");
        fs::create_dir_all(&rootfs).unwrap();
        let file = directory.join("image.tar");
        fs::write(&file, bytes).unwrap();
        let config = unpack(&file, &rootfs);
        let mut value = [0; 16];
        let length = rustix::fs::lgetxattr(rootfs.join("bin/agent"), "user.sample", &mut value[..]).unwrap_or(0);
        fs::remove_dir_all(directory).unwrap();
        Ok((config?, value[..length].to_vec()))
    }

    #[test]
    fn unpacks_plain_and_gzip_layers_with_attributes() {
        for (name, gzip) in [("plain", false), ("gzip", true)] {
            let (config, attribute) = unpack_sample(name, &sample(gzip, false)).unwrap();
            assert_eq!(config.user, "65532:65532");
            assert_eq!(config.entrypoint.unwrap(), ["/bin/agent"]);
            assert_eq!(attribute, [0, 0, 0, 2, 1]);
        }
    }

    #[test]
    fn refuses_a_blob_with_another_digest() {
        let error = unpack_sample("spoiled", &sample(false, true)).unwrap_err();
        assert!(error.to_string().contains("has digest"), "{error}");
    }

    #[test]
    fn names_the_missing_member() {
        let error = unpack_sample("empty", &tar::Builder::new(Vec::new()).into_inner().unwrap()).unwrap_err();
        assert!(error.to_string().contains("no member index.json"), "{error}");
    }
}
