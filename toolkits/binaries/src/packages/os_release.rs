//! os-release(5).

use agent_model::Text;
use schemars::JsonSchema;
use serde::Serialize;

/// Bytes of the file.
const MAX_FILE: usize = 64 * 1024;

/// Which distribution the target's root directory is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OsRelease {
    /// `debian`, `alpine`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub id: Option<Text>,
    /// What it is like, closest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub id_like: Option<Text>,
    /// `12`, `3.20.1`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub version_id: Option<Text>,
    /// The name of the release.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub version_codename: Option<Text>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub pretty_name: Option<Text>,
    /// The build of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub image_version: Option<Text>,
}

/// That of the target, if it has one: `/etc/os-release`, else `/usr/lib/os-release`.
///
/// # Errors
///
/// When neither can be read, and one is there.
pub fn of(process: &agent_system::Process<'_>) -> Result<Option<OsRelease>, agent_system::Failure> {
    for path in [&b"/etc/os-release"[..], b"/usr/lib/os-release"] {
        match super::read_file(process, path, MAX_FILE) {
            Ok(bytes) => return Ok(Some(parse(&bytes))),
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

/// Parses it; unknown keys are ignored.
pub fn parse(bytes: &[u8]) -> OsRelease {
    let mut release = OsRelease::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let Some(at) = line.iter().position(|byte| *byte == b'=').filter(|_| !line.starts_with(b"#")) else { continue };
        let place = match &line[..at] {
            b"ID" => &mut release.id,
            b"ID_LIKE" => &mut release.id_like,
            b"VERSION_ID" => &mut release.version_id,
            b"VERSION_CODENAME" => &mut release.version_codename,
            b"PRETTY_NAME" => &mut release.pretty_name,
            b"IMAGE_VERSION" => &mut release.image_version,
            _ => continue,
        };
        *place = Some(Text::from_bytes(&unquote(&line[at + 1..]))).filter(|text| !text.is_empty());
    }
    release
}

/// A value as a shell reads it: in single or double quotes, or none.
fn unquote(value: &[u8]) -> Vec<u8> {
    let inner = match value {
        [b'\'', inner @ .., b'\''] => return inner.to_vec(),
        [b'"', inner @ .., b'"'] => inner,
        plain => plain,
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        out.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_a_shell_reads_them() {
        let text = b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm) \\\"x\\\"\"\n# ID=no\nID=debian\nVERSION_ID='12'\n\
            VERSION_CODENAME=\nHOME_URL=x\nbroken\n";
        let release = parse(text);
        assert_eq!(release.pretty_name.unwrap().as_str(), "Debian GNU/Linux 12 (bookworm) \"x\"");
        assert_eq!((release.id.unwrap().as_str(), release.version_id.unwrap().as_str()), ("debian", "12"));
        assert_eq!(release.version_codename, None);
    }
}
