//! Go's build information, as `go version -m` prints it
//! (Go's `debug/buildinfo` and `runtime/debug`).

use agent_model::Text;
use goblin::elf::section_header::SHT_NOBITS;
use schemars::JsonSchema;
use serde::Serialize;

use crate::elf::{ElfFile, Source, read_vec};

/// The first bytes, at an address that is a multiple of 16.
const MAGIC: &[u8] = b"\xff Go buildinf:";
const HEADER: usize = 32;
/// Bytes of a data segment in which it is looked for where there are no sections:
/// the linker puts it first.
const SEARCHED: usize = 1 << 20;
/// Bytes of the module information. 2,000 dependencies are 200 KiB.
const MAX_INFO: usize = 4 << 20;
/// Bytes of the version.
const MAX_VERSION: usize = 1024;
/// Dependencies and settings that are kept.
const MAX_LINES: usize = 20_000;

/// A Go module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Module {
    /// Its path.
    #[schemars(extend("x-column" = "MODULE"))]
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Its version; `(devel)` where it was built from a working tree.
    #[schemars(extend("x-column" = "VERSION"))]
    #[schemars(extend("x-class" = "id"))]
    pub version: Text,
    /// The hash of `go.sum`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub sum: Option<Text>,
    /// The module that was built in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<Box<Module>>,
}

/// One setting of the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Setting {
    /// `GOARCH`, `CGO_ENABLED`, `vcs.revision`, `vcs.modified`, …
    pub key: Text,
    /// Its value.
    pub value: Text,
}

/// What a Go executable says of its build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GoBuild {
    /// The version of Go.
    #[schemars(extend("x-class" = "id"))]
    pub go_version: Text,
    /// The package that is its `main`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub path: Option<Text>,
    /// The module of that package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub main: Option<Module>,
    /// The modules that were linked in, in the order of the file.
    pub dependencies: Vec<Module>,
    /// How it was built, VCS revision and time included.
    pub settings: Vec<Setting>,
}

/// Reads it; `None` where there is none. What cannot be read is told in words.
pub fn read<S: Source>(elf: &ElfFile<S>) -> Result<Option<GoBuild>, String> {
    let Some(at) = find(elf) else { return Ok(None) };
    let malformed = |what: &str| format!("Go build information: {what}");
    let header = read_vec(elf.source(), at, HEADER).map_err(|error| malformed(&error.to_string()))?;
    let (Some(&pointer), Some(&flags)) = (header.get(14), header.get(15)) else { return Err(malformed("truncated")) };
    let (version, info) = if flags & 2 != 0 {
        let start = at.checked_add(HEADER as u64).ok_or_else(|| malformed("offset"))?;
        let (version, next) = inline(elf, start, MAX_VERSION).ok_or_else(|| malformed("version"))?;
        let (info, _) = inline(elf, next, MAX_INFO).ok_or_else(|| malformed("module information"))?;
        (version, info)
    } else {
        // Before Go 1.18: two pointers to string headers.
        let big = flags & 1 != 0;
        let string = |index: usize, limit| {
            let width = usize::from(pointer);
            let address = uint(header.get(16 + index * width..)?.get(..width)?, big)?;
            let place = elf.source_offset_of(address)?;
            let pair = read_vec(elf.source(), place, width * 2).ok()?;
            let (data, length) = (uint(pair.get(..width)?, big)?, uint(pair.get(width..width * 2)?, big)?);
            let length = usize::try_from(length).ok().filter(|length| *length <= limit)?;
            read_vec(elf.source(), elf.source_offset_of(data)?, length).ok().filter(|bytes| bytes.len() == length)
        };
        if !matches!(pointer, 4 | 8) {
            return Err(malformed("pointer size"));
        }
        (string(0, MAX_VERSION).ok_or_else(|| malformed("version"))?, string(1, MAX_INFO).unwrap_or_default())
    };
    Ok(Some(parse(&version, &info)))
}

fn uint(bytes: &[u8], big: bool) -> Option<u64> {
    let fold = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    (bytes.len() <= 8).then(|| if big { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) })
}

/// A string with its length before it, as unsigned LEB128; and where it ends.
fn inline<S: Source>(elf: &ElfFile<S>, at: u64, limit: usize) -> Option<(Vec<u8>, u64)> {
    let head = read_vec(elf.source(), at, 10).ok()?;
    let mut length = 0_u64;
    let mut used = 0;
    for byte in &head {
        length |= u64::from(byte & 0x7f).checked_shl(7 * used)?;
        used += 1;
        if byte & 0x80 == 0 {
            let start = at.checked_add(u64::from(used))?;
            let length = usize::try_from(length).ok().filter(|length| *length <= limit)?;
            let bytes = read_vec(elf.source(), start, length).ok()?;
            return (bytes.len() == length).then(|| (bytes, start + length as u64));
        }
    }
    None
}

/// Its place: the section, else the first 16-byte boundary of a writable segment
/// that has the magic.
fn find<S: Source>(elf: &ElfFile<S>) -> Option<u64> {
    if let Some(section) = elf.section(".go.buildinfo").filter(|section| section.kind != SHT_NOBITS) {
        let magic = read_vec(elf.source(), section.offset, MAGIC.len()).ok()?;
        return (magic == MAGIC).then_some(section.offset);
    }
    let is_go = elf.facts().go_build_id.is_some() || elf.facts().debug.go_function_table;
    if !elf.sections().is_empty() || (!is_go && elf.facts().is_dynamic) {
        return None;
    }
    elf.facts().loads().filter(|load| load.flags & 2 != 0).find_map(|load| {
        let offset = elf.source_offset_of(load.svma)?;
        let size = usize::try_from(load.file_size).unwrap_or(usize::MAX).min(SEARCHED);
        let bytes = read_vec(elf.source(), offset, size).ok()?;
        let at = bytes.chunks(16).position(|chunk| chunk.starts_with(MAGIC))?;
        Some(offset + at as u64 * 16)
    })
}

/// The lines of the module information: a word, then its fields, by tabs.
pub fn parse(version: &[u8], info: &[u8]) -> GoBuild {
    let mut build = GoBuild { go_version: Text::from_bytes(version), ..GoBuild::default() };
    // Sixteen bytes mark either end, so that a core dump can be searched for it.
    let big_endian_is_no_matter = info.len() >= 33 && info[info.len() - 17] == b'\n';
    let info = if big_endian_is_no_matter { &info[16..info.len() - 16] } else { &[] };
    // Which module a `=>` line is about.
    let mut last: Option<bool> = None;
    for line in info.split(|byte| *byte == b'\n').take(MAX_LINES) {
        let mut fields = line.split(|byte| *byte == b'\t');
        let word = fields.next().unwrap_or_default();
        let rest = line.get(word.len() + 1..).unwrap_or_default();
        match word {
            b"path" => build.path = Some(Text::from_bytes(rest)),
            b"mod" => {
                build.main = Some(module(fields));
                last = Some(true);
            }
            b"dep" => {
                build.dependencies.push(module(fields));
                last = Some(false);
            }
            b"=>" => {
                let replaced = match last {
                    Some(true) => build.main.as_mut(),
                    Some(false) => build.dependencies.last_mut(),
                    None => None,
                };
                if let Some(replaced) = replaced {
                    replaced.replaced_by = Some(Box::new(module(fields)));
                }
                last = None;
            }
            b"build" => {
                let (key, value) = setting(rest);
                build.settings.push(Setting { key: Text::from_bytes(&key), value: Text::from_bytes(&value) });
            }
            _ => {}
        }
    }
    build
}

fn module<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Module {
    Module {
        path: Text::from_bytes(fields.next().unwrap_or_default()),
        version: Text::from_bytes(fields.next().unwrap_or_default()),
        sum: fields.next().filter(|sum| !sum.is_empty()).map(Text::from_bytes),
        replaced_by: None,
    }
}

/// `key=value`, either of which is quoted as a Go string where it must be.
fn setting(text: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (key, rest) = if text.first() == Some(&b'"') { unquote(text) } else { split_key(text) };
    let value = rest.strip_prefix(b"=").unwrap_or(rest);
    let value = if value.first() == Some(&b'"') { unquote(value).0 } else { value.to_vec() };
    (key, value)
}

fn split_key(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let end = text.iter().position(|byte| *byte == b'=').unwrap_or(text.len());
    (text[..end].to_vec(), &text[end..])
}

/// Undoes Go's `strconv.Quote` as far as build settings use it.
fn unquote(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut out = Vec::new();
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => break,
            b'\\' => {
                let escaped = text.get(at).copied().unwrap_or(b'\\');
                at += 1;
                out.push(match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    other => other,
                });
            }
            other => out.push(other),
        }
    }
    (out, text.get(at..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(text: &str) -> Vec<u8> {
        [&[0x30; 16][..], text.as_bytes(), &[0xf9; 16]].concat()
    }

    #[test]
    fn lines_of_a_go_1_21_executable_are_read() {
        let info = "path\texample.com/app/cmd/serve\nmod\texample.com/app\tv1.4.0\th1:abc=\n\
            dep\tgithub.com/x/y\tv0.3.1\th1:def=\n=>\t../y\t(devel)\t\ndep\tgolang.org/x/sys\tv0.15.0\th1:ghi=\n\
            build\t-compiler=gc\nbuild\t-ldflags=\"-X main.v=1\\\"2\"\nbuild\tvcs.revision=0123abc\n\
            build\tvcs.modified=true\nnew\tthing\n";
        let build = parse(b"go1.21.5", &marked(info));
        assert_eq!(build.go_version.as_str(), "go1.21.5");
        assert_eq!(build.path.unwrap().as_str(), "example.com/app/cmd/serve");
        let main = build.main.unwrap();
        assert_eq!((main.version.as_str(), main.sum.unwrap().as_str()), ("v1.4.0", "h1:abc="));
        assert_eq!(build.dependencies.len(), 2);
        let replaced = build.dependencies[0].replaced_by.as_ref().unwrap();
        assert_eq!((replaced.path.as_str(), replaced.version.as_str(), &replaced.sum), ("../y", "(devel)", &None));
        let setting = |key: &str| build.settings.iter().find(|one| one.key.as_str() == key).unwrap().value.as_str();
        assert_eq!(setting("-ldflags"), "-X main.v=1\"2");
        assert_eq!((setting("vcs.revision"), setting("vcs.modified")), ("0123abc", "true"));
    }

    #[test]
    fn what_is_cut_off_gives_what_there_is() {
        for info in [&b""[..], b"path", &[b'\n'; 40], &marked("=>\tx\ndep\nmod\nbuild\nbuild\t\"")] {
            let _ = parse(b"", info);
        }
        assert_eq!(parse(b"go1.4", b"").dependencies, []);
    }
}
