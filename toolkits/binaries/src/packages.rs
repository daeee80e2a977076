//! Who owns a file, and which distribution this is: from the plain files below the
//! target's root directory.

pub mod apk;
pub mod dpkg;
pub mod os_release;
pub mod rpm;

use std::collections::BTreeMap;

use agent_model::{Gap, Reason, Text};
use agent_system::root::TargetFile;
use agent_system::{Cause, Failure, Process};
use schemars::JsonSchema;
use serde::Serialize;

pub use os_release::OsRelease;

/// Bytes of one package database file.
const MAX_FILE: usize = 64 << 20;

/// The package that a file belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Package {
    /// Whose database says so: `dpkg`, `apk`, `rpm`.
    #[schemars(extend("x-class" = "word"))]
    pub manager: &'static str,
    /// Its name.
    #[schemars(extend("x-column" = "PACKAGE"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// Its version; absent where the database does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "VERSION"))]
    #[schemars(extend("x-class" = "id"))]
    pub version: Option<Text>,
    /// Its architecture, as its manager names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub architecture: Option<Text>,
    /// The source package that it was built from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub source: Option<Text>,
}

/// The owners of files, by path.
pub type Owners = BTreeMap<Vec<u8>, Package>;

/// Reads a whole file of the target's.
///
/// # Errors
///
/// When it cannot be opened or read, or is too large.
pub fn read_file(process: &Process<'_>, path: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let file: TargetFile<'_> = process.open_in_root(path)?;
    // It may grow while it is read.
    let mut bytes = vec![0; usize::try_from(file.length).unwrap_or(usize::MAX).min(limit) + 1];
    let read = file.read_at(0, &mut bytes)?;
    if read > limit {
        let cause = Cause::TooLarge(limit);
        return Err(Failure { path: file.path().clone(), cause, pid: Some(process.pid()) });
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// The names that the file at `path` may have in a database: distributions that
/// merged `/lib` into `/usr/lib` list files under either.
pub fn aliases(path: &[u8]) -> Vec<Vec<u8>> {
    let mut names = vec![path.to_vec()];
    for directory in [&b"/lib"[..], b"/bin", b"/sbin"] {
        if let Some(rest) = path.strip_prefix(b"/usr")
            && rest.starts_with(directory)
        {
            names.push(rest.to_vec());
        } else if path.starts_with(directory) {
            names.push([b"/usr", path].concat());
        }
    }
    names
}

/// The owners of the files at `paths`, from whichever database the target has.
/// What could not be read is a gap at `/rows`.
pub fn owners(process: &Process<'_>, paths: &[Vec<u8>], gaps: &mut Vec<Gap>) -> Owners {
    let mut wanted: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for path in paths {
        for alias in aliases(path) {
            wanted.insert(alias, path.clone());
        }
    }
    let run = process.run();
    let mut any = false;
    let mut owners = Owners::new();
    match dpkg::owners(process, &wanted) {
        Ok(Some(found)) => {
            any = true;
            owners.extend(found);
        }
        Ok(None) => {}
        Err(failure) => gaps.push(run.gap("/rows", &failure)),
    }
    match read_file(process, apk::INSTALLED, MAX_FILE) {
        Ok(bytes) => {
            any = true;
            owners.extend(apk::owners(&bytes, &wanted));
        }
        Err(failure) if failure.is_not_found() => {}
        Err(failure) => gaps.push(run.gap("/rows", &failure)),
    }
    for path in rpm::DATABASES {
        match rpm(process, path, &wanted) {
            Ok(found) => {
                any = true;
                owners.extend(found);
            }
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => gaps.push(run.gap("/rows", &failure)),
        }
    }
    if any {
        return owners;
    }
    for directory in [&b"/var/lib/rpm"[..], b"/usr/lib/sysimage/rpm"] {
        if process.list_in_root(directory, 64).is_ok_and(|names| !names.is_empty()) {
            let gap = Gap::new("/rows", Reason::Unsupported).path(Text::from_bytes(directory));
            gaps.push(gap.detail("the database of rpm is in the format of Berkeley DB or ndb: packages are not named"));
            break;
        }
    }
    owners
}

/// The owners by the database of rpm at `path`.
fn rpm(process: &Process<'_>, path: &[u8], wanted: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Owners, Failure> {
    let file = process.open_in_root(path)?;
    let mut failed = None;
    let read = &mut |offset: u64, buffer: &mut [u8]| match file.read_at(offset, buffer) {
        Ok(read) => Some(read),
        Err(failure) => {
            failed = Some(failure);
            None
        }
    };
    let found = rpm::owners(read, wanted);
    let fail = |words| Failure { path: file.path().clone(), cause: Cause::Malformed(words), pid: Some(process.pid()) };
    match (found, failed) {
        (Ok(owners), None) => Ok(owners),
        (_, Some(failure)) => Err(failure),
        (Err(words), None) => Err(fail(words)),
    }
}
