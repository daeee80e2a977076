//! The database of apk: `lib/apk/db/installed` (apk-tools, "apk-installed").

use std::collections::BTreeMap;

use agent_model::Text;

use super::{Owners, Package};

/// Where it is.
pub const INSTALLED: &[u8] = b"/lib/apk/db/installed";

/// The owners of `wanted`: names that a database may have, each with the path that
/// was asked for.
pub fn owners(bytes: &[u8], wanted: &BTreeMap<Vec<u8>, Vec<u8>>) -> Owners {
    let mut owners = Owners::new();
    for block in bytes.split(|byte| *byte == b'\n').collect::<Vec<_>>().split(|line| line.is_empty()) {
        let mut package =
            Package { manager: "apk", name: Text::default(), version: None, architecture: None, source: None };
        let mut directory: &[u8] = b"";
        for line in block {
            let Some((key, value)) = line.split_at_checked(2) else { continue };
            match key {
                b"P:" => package.name = Text::from_bytes(value),
                b"V:" => package.version = Some(Text::from_bytes(value)),
                b"A:" => package.architecture = Some(Text::from_bytes(value)),
                b"o:" => package.source = Some(Text::from_bytes(value)),
                b"F:" => directory = value,
                b"R:" => {
                    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
                    let path = [b"/", directory, slash, value].concat();
                    if let Some(asked) = wanted.get(&path) {
                        owners.insert(asked.clone(), package.clone());
                    }
                }
                _ => {}
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_their_packages() {
        let text = b"C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\no:musl\nF:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\nZ:Q1x=\n\
            R:libc.musl-x86_64.so.1\n\nP:zlib\nV:1.3.1-r1\nF:usr/lib\nR:libz.so.1\nbad\n\n";
        let wanted: BTreeMap<Vec<u8>, Vec<u8>> = [&b"/lib/ld-musl-x86_64.so.1"[..], b"/usr/lib/libz.so.1", b"/x"]
            .iter()
            .map(|path| (path.to_vec(), path.to_vec()))
            .collect();
        let owners = owners(text, &wanted);
        assert_eq!(owners.len(), 2);
        let musl = &owners[&b"/lib/ld-musl-x86_64.so.1"[..]];
        assert_eq!((musl.name.as_str(), musl.version.as_ref().unwrap().as_str()), ("musl", "1.2.5-r0"));
        assert_eq!(owners[&b"/usr/lib/libz.so.1"[..]].architecture, None);
    }
}
