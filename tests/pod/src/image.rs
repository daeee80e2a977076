//! Images: what the agent's container sees as its root.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{XattrFlags, setxattr};

use crate::archive;
use crate::caps::FileCaps;
use crate::error::{At, PodError};
use crate::host::{Owned, container_id};
use crate::security::User;

/// The `PATH` of an image that sets none, as containerd fills it in.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An unpacked image. Clones share the files, which are removed with the last clone.
#[derive(Clone, Debug)]
pub struct Image {
    directory: Arc<Owned>,
    config: Config,
}

/// The fields of an OCI image config that a runtime uses.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Config {
    pub(crate) user: String,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: String,
}

impl Image {
    /// An image with one file, `/bin/agent`, a copy of `binary` with these file capabilities.
    ///
    /// `user` is as in a Dockerfile's `USER`, numeric: `"0"`, `"65532:65532"`; empty is root.
    pub fn from_binary(binary: impl AsRef<Path>, user: &str, caps: FileCaps) -> Result<Self, PodError> {
        let directory = Owned::new("image", &container_id()[..16])?;
        let bin = directory.path().join("rootfs/bin");
        fs::create_dir_all(&bin).at("create", &bin)?;
        let agent = bin.join("agent");
        fs::copy(&binary, &agent).at("copy", binary.as_ref())?;
        fs::set_permissions(&agent, Permissions::from_mode(0o755)).at("chmod", &agent)?;
        if let Some(attribute) = caps.attribute() {
            setxattr(&agent, "security.capability", &attribute, XattrFlags::empty())
                .at("set capabilities of", &agent)?;
        }
        let config = Config {
            user: user.to_owned(),
            env: Some(vec![DEFAULT_PATH.to_owned()]),
            entrypoint: Some(vec!["/bin/agent".to_owned()]),
            ..Config::default()
        };
        let image = Self { directory: Arc::new(directory), config };
        image.user()?;
        Ok(image)
    }

    /// Unpacks an OCI image layout (a tar, as `podman save --format oci-archive` writes it): every blob's
    /// digest is checked, and extended attributes come from the layers' `SCHILY.xattr.` records.
    pub fn from_oci_archive(archive: impl AsRef<Path>) -> Result<Self, PodError> {
        let directory = Owned::new("image", &container_id()[..16])?;
        let rootfs = directory.path().join("rootfs");
        fs::create_dir(&rootfs).at("create", &rootfs)?;
        let config = archive::unpack(archive.as_ref(), &rootfs)?;
        let image = Self { directory: Arc::new(directory), config };
        image.user()?;
        Ok(image)
    }

    /// The image's own user.
    pub fn user(&self) -> Result<User, PodError> {
        self.config.user.parse()
    }

    /// The image's entrypoint, which `kubectl debug -- COMMAND` replaces and `--arguments-only` keeps.
    pub fn entrypoint(&self) -> &[String] {
        self.config.entrypoint.as_deref().unwrap_or_default()
    }

    /// Where the image is unpacked on this machine.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }
}
