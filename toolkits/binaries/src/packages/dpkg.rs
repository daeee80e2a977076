//! The database of dpkg: `var/lib/dpkg/info/*.list`, and `status` or, in images
//! without a package manager, `status.d/*` (dpkg(1), deb-control(5)).

use std::collections::{BTreeMap, BTreeSet};

use agent_model::Text;
use agent_system::{Failure, Process};

use super::{MAX_FILE, Owners, Package, read_file};

const INFO: &[u8] = b"/var/lib/dpkg/info";
const STATUS: &[u8] = b"/var/lib/dpkg/status";
const STATUS_D: &[u8] = b"/var/lib/dpkg/status.d";
/// Names in `info`: each package has some.
const MAX_NAMES: usize = 200_000;
/// Bytes of all lists together: a full desktop has 60 MiB.
const MAX_LISTS: usize = 256 << 20;

/// The owners of `wanted` (names that a database may have, each with the path that
/// was asked for); `None` where there is no such database.
///
/// # Errors
///
/// When it is there and cannot be read.
pub fn owners(process: &Process<'_>, wanted: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Option<Owners>, Failure> {
    let (directory, suffix) = match process.list_in_root(INFO, MAX_NAMES) {
        Ok(names) if names.iter().any(|name| name.ends_with(b".list")) => ((INFO, names), &b".list"[..]),
        Err(failure) if !failure.is_not_found() => return Err(failure),
        _ => match process.list_in_root(STATUS_D, MAX_NAMES) {
            Ok(names) => ((STATUS_D, names), &b".md5sums"[..]),
            Err(failure) if failure.is_not_found() => return Ok(None),
            Err(failure) => return Err(failure),
        },
    };
    let (place, names) = directory;
    let mut found: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut left: BTreeSet<&[u8]> = wanted.values().map(Vec::as_slice).collect();
    let mut read = 0;
    for name in &names {
        let Some(package) = name.strip_suffix(suffix) else { continue };
        if left.is_empty() || read > MAX_LISTS || process.run().is_over() {
            break;
        }
        let Ok(list) = read_file(process, &[place, b"/", name].concat(), MAX_FILE) else { continue };
        read += list.len();
        for line in list.split(|byte| *byte == b'\n') {
            let path = if suffix == b".list" { line.to_vec() } else { md5sums_path(line) };
            if let Some(asked) = wanted.get(&path)
                && left.remove(asked.as_slice())
            {
                found.insert(asked.clone(), package.to_vec());
            }
        }
    }
    let mut packages = BTreeMap::new();
    if place == INFO {
        let status = read_file(process, STATUS, MAX_FILE)?;
        packages = parse_status(&status);
    } else {
        for name in found.values().collect::<BTreeSet<_>>() {
            if let Ok(status) = read_file(process, &[STATUS_D, b"/", &name[..]].concat(), MAX_FILE) {
                let package = parse_status(&status).into_values().next();
                packages.extend(package.map(|package| (name.clone(), package)));
            }
        }
    }
    Ok(Some(found.into_iter().map(|(path, name)| (path, owner(&name, &packages))).collect()))
}

/// A line of `*.md5sums`: the sum, two spaces, and the path without its slash.
fn md5sums_path(line: &[u8]) -> Vec<u8> {
    line.get(34..).map_or_else(Vec::new, |path| [b"/", path].concat())
}

/// The package that a list `NAME` or `NAME:ARCHITECTURE` belongs to.
fn owner(name: &[u8], packages: &BTreeMap<Vec<u8>, Package>) -> Package {
    let bare = name.split(|byte| *byte == b':').next().unwrap_or(name);
    packages.get(name).or_else(|| packages.get(bare)).cloned().unwrap_or_else(|| Package {
        manager: "dpkg",
        name: Text::from_bytes(bare),
        version: None,
        architecture: None,
        source: None,
    })
}

/// The stanzas of `status`, under their names and under `NAME:ARCHITECTURE`.
pub fn parse_status(bytes: &[u8]) -> BTreeMap<Vec<u8>, Package> {
    let mut packages = BTreeMap::new();
    let mut fields: [Option<&[u8]>; 4] = [None; 4];
    let mut finish = |fields: &mut [Option<&[u8]>; 4]| {
        let [name, version, architecture, source] = std::mem::take(fields);
        let Some(name) = name else { return };
        let package = Package {
            manager: "dpkg",
            name: Text::from_bytes(name),
            version: version.map(Text::from_bytes),
            architecture: architecture.map(Text::from_bytes),
            // `glibc (2.36-9)` where the versions differ.
            source: source.and_then(|source| source.split(|byte| *byte == b' ').next()).map(Text::from_bytes),
        };
        if let Some(architecture) = architecture {
            packages.insert([name, b":", architecture].concat(), package.clone());
        }
        packages.insert(name.to_vec(), package);
    };
    for line in bytes.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            finish(&mut fields);
            continue;
        }
        for (at, key) in [&b"Package: "[..], b"Version: ", b"Architecture: ", b"Source: "].iter().enumerate() {
            if let Some(value) = line.strip_prefix(*key) {
                fields[at] = Some(value.trim_ascii());
            }
        }
    }
    finish(&mut fields);
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_found_by_name_and_architecture() {
        let text = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: same\n\
            Source: glibc (2.36-9)\nVersion: 2.36-9+deb12u4\nDescription: GNU C Library\n Version: not this\n\n\
            Package: adduser\nVersion: 3.134\n";
        let packages = parse_status(text);
        let libc = owner(b"libc6:amd64", &packages);
        assert_eq!((libc.version.unwrap().as_str(), libc.source.unwrap().as_str()), ("2.36-9+deb12u4", "glibc"));
        assert_eq!(owner(b"adduser", &packages).architecture, None);
        assert_eq!(owner(b"gone:i386", &packages).name.as_str(), "gone");
        assert!(parse_status(b"\n\n\nVersion: 1\n\n").is_empty());
    }

    #[test]
    fn a_line_of_sums_has_its_path_behind_them() {
        assert_eq!(md5sums_path(b"0123456789abcdef0123456789abcdef  usr/lib/libz.so.1"), b"/usr/lib/libz.so.1");
        assert!(md5sums_path(b"short").is_empty());
    }
}
