//! Versions of well-known runtimes and libraries, as they stand in their own
//! read-only data: nothing is run.
//!
//! A rule names the files that it is about, so that nobody else's data is
//! searched, and how the version is written there.

use std::ops::ControlFlow;

use agent_model::Text;
use memchr::memmem::Finder;
use schemars::JsonSchema;
use serde::Serialize;

use crate::elf::{ElfFile, ElfType, Section, Source, read_vec};

/// Bytes of a section that are searched. Node's read-only data has 20 MiB.
const MAX_SEARCHED: u64 = 96 << 20;
/// Bytes that are searched at once.
const CHUNK: usize = 256 * 1024;
/// The longest version.
const LONGEST: usize = 256;

/// A runtime or library, and its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Runtime {
    /// `cpython`, `openjdk`, `node`, `ruby`, `php`, `dotnet`, `go`, `glibc`, `musl`,
    /// `openssl`.
    #[schemars(extend("x-column" = "RUNTIME"))]
    #[schemars(extend("x-class" = "word"))]
    pub name: &'static str,
    /// As it writes it.
    #[schemars(extend("x-column" = "VERSION"))]
    #[schemars(extend("x-class" = "id"))]
    pub version: Text,
}

/// How a version is found.
#[derive(Clone, Copy)]
enum How {
    /// Between `before` and the first of `until`, or a NUL byte.
    After { before: &'static [u8], until: &'static [u8] },
    /// The whole of a string of which this holds, and which begins with digits and
    /// dots of the file's own name (`3.11` of `libpython3.11.so.1.0`).
    Whole(fn(&[u8]) -> bool),
    /// A string that this symbol is.
    Symbol(&'static [u8]),
    /// `Py_Version`: a word of the bytes major, minor, micro and release.
    PyVersion,
}

struct Rule {
    name: &'static str,
    applies: fn(file: &str, elf_type: ElfType) -> bool,
    how: &'static [How],
}

fn is_python(file: &str, _: ElfType) -> bool {
    let rest = file.strip_prefix("libpython").or_else(|| file.strip_prefix("python"));
    rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || ".so-dmtabi".contains(c)))
}

fn begins(file: &str, names: &[&str]) -> bool {
    names.iter().any(|name| file.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphabetic())))
}

/// `1.2.3`.
fn is_triple(text: &[u8]) -> bool {
    let parts: Vec<&[u8]> = text.split(|byte| *byte == b'.').collect();
    parts.len() == 3
        && parts.iter().all(|part| !part.is_empty() && part.len() < 4 && part.iter().all(u8::is_ascii_digit))
}

/// `3.11.7`, `3.14.0rc2`.
fn is_python_version(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| matches!(byte, b'a' | b'b' | b'r')).unwrap_or(text.len());
    text.len() < 16 && text.starts_with(b"3.") && is_triple(&text[..end])
}

fn is_musl_version(text: &[u8]) -> bool {
    is_triple(text) && text.starts_with(b"1.")
}

const RULES: &[Rule] = &[
    Rule { name: "cpython", applies: is_python, how: &[How::PyVersion, How::Whole(is_python_version)] },
    Rule {
        name: "openjdk",
        applies: |file, _| file == "libjvm.so",
        how: &[How::After { before: b" JRE (", until: b")" }],
    },
    Rule {
        name: "node",
        applies: |file, _| begins(file, &["node", "nodejs", "libnode"]),
        how: &[
            How::After { before: b"nodejs.org/download/release/v", until: b"/" },
            How::After { before: b"node.js/v", until: b" " },
        ],
    },
    Rule { name: "ruby", applies: |file, _| begins(file, &["ruby", "libruby"]), how: &[How::Symbol(b"ruby_version")] },
    Rule {
        name: "php",
        applies: |file, _| begins(file, &["php", "libphp", "php-fpm", "php-cgi"]),
        how: &[How::After { before: b"X-Powered-By: PHP/", until: b"\r\n" }],
    },
    Rule {
        name: "dotnet",
        applies: |file, _| file == "libcoreclr.so",
        how: &[How::After { before: b"@(#)Version ", until: b" " }],
    },
    Rule {
        name: "glibc",
        applies: |file, kind| file == "libc.so.6" || matches!(kind, ElfType::Static | ElfType::StaticPie),
        how: &[
            How::After { before: b" stable release version ", until: b",\n" },
            How::After { before: b"GNU C Library development release version ", until: b",\n" },
        ],
    },
    Rule {
        name: "musl",
        applies: |file, _| file.starts_with("ld-musl-") || file.starts_with("libc.musl-"),
        how: &[How::Whole(is_musl_version)],
    },
    Rule {
        name: "openssl",
        applies: |file, _| begins(file, &["libcrypto", "node", "nodejs", "libnode"]),
        how: &[How::After { before: b"\0OpenSSL ", until: b" " }],
    },
];

/// The runtimes in the module whose file is called `file`, in the order of the
/// rules.
pub fn find<S: Source>(elf: &ElfFile<S>, file: &str) -> Vec<Runtime> {
    let facts = elf.facts();
    let soname = facts.soname.as_deref().unwrap_or(file);
    let mut found = Vec::new();
    if facts.debug.go_function_table {
        // Go's own is in its build information.
        return found;
    }
    for rule in RULES {
        if !(rule.applies)(file, facts.elf_type) && !(rule.applies)(soname, facts.elf_type) {
            continue;
        }
        if let Some(version) = rule.how.iter().find_map(|how| look(elf, *how, soname, file)) {
            found.push(Runtime { name: rule.name, version: Text::from_bytes(&version) });
        }
    }
    found
}

fn look<S: Source>(elf: &ElfFile<S>, how: How, soname: &str, file: &str) -> Option<Vec<u8>> {
    match how {
        How::After { before, until } => in_data(elf, before, |rest| {
            let end = rest.iter().position(|byte| *byte == 0 || until.contains(byte))?;
            let version = rest[..end].strip_suffix(b".").unwrap_or(&rest[..end]);
            let plausible =
                version.first().is_some_and(u8::is_ascii_digit) && version.iter().all(|b| (b' '..=b'~').contains(b));
            plausible.then(|| version.to_vec())
        }),
        How::Whole(accept) => {
            let digits = |name: &str| {
                let rest = name.trim_start_matches(|c: char| !c.is_ascii_digit());
                let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
                let version = rest[..end].trim_end_matches('.');
                if version.contains('.') { format!("{version}.").into_bytes() } else { Vec::new() }
            };
            let series = Some(digits(soname)).filter(|series| !series.is_empty()).unwrap_or_else(|| digits(file));
            let before = [b"\0", &series[..]].concat();
            let before: &[u8] = if series.is_empty() { b"\x001." } else { &before };
            in_data(elf, before, |rest| {
                let end = rest.iter().position(|byte| *byte == 0)?;
                let version = [&before[1..], &rest[..end]].concat();
                accept(&version).then_some(version)
            })
        }
        How::Symbol(name) => {
            let bytes = object(elf, name, LONGEST)?;
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            (end > 0).then(|| bytes[..end].to_vec())
        }
        How::PyVersion => {
            let word: [u8; 4] = object(elf, b"Py_Version", 8)?.get(..4)?.try_into().ok()?;
            let [serial, micro, minor, major] = word;
            let level = match serial >> 4 {
                0xa => format!("a{}", serial & 15),
                0xb => format!("b{}", serial & 15),
                0xc => format!("rc{}", serial & 15),
                _ => String::new(),
            };
            (major == 3).then(|| format!("{major}.{minor}.{micro}{level}").into_bytes())
        }
    }
}

/// The bytes of the object that a symbol names.
fn object<S: Source>(elf: &ElfFile<S>, name: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut found = None;
    elf.each_symbol(&mut |listed, its| {
        if its == name && listed.defined && listed.kind == "object" {
            found = Some((listed.svma, listed.size));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let (svma, size) = found?;
    let size = usize::try_from(size).unwrap_or(limit).min(limit);
    read_vec(elf.source(), elf.source_offset_of(svma)?, size).ok()
}

/// The first place in the constant data where `before` stands and `take` likes what
/// follows. `take` is given at least [`LONGEST`] bytes, or all up to the end.
fn in_data<S: Source>(elf: &ElfFile<S>, before: &[u8], take: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let finder = Finder::new(before);
    let sections = [".rodata", ".data.rel.ro", ".data"];
    let places =
        sections.iter().filter_map(|name| elf.section(name)).map(|section: &Section| (section.offset, section.size));
    let places: Vec<(u64, u64)> = if elf.sections().is_empty() {
        let loads = elf.facts().loads().filter(|load| !load.is_executable());
        loads.filter_map(|load| Some((elf.source_offset_of(load.svma)?, load.file_size))).collect()
    } else {
        places.collect()
    };
    for (offset, size) in places {
        let size = size.min(MAX_SEARCHED);
        let mut done = 0;
        while done < size {
            let wanted = usize::try_from(size - done).unwrap_or(usize::MAX).min(CHUNK);
            let Ok(bytes) = read_vec(elf.source(), offset.saturating_add(done), wanted) else { break };
            let is_last = bytes.len() < CHUNK;
            for at in finder.find_iter(&bytes) {
                let rest = &bytes[at + before.len()..];
                if let Some(version) = take(&rest[..rest.len().min(LONGEST)]) {
                    return Some(version);
                }
            }
            if is_last {
                break;
            }
            // What stands across the border is looked at again.
            done += (CHUNK - LONGEST - before.len()) as u64;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_about_the_files_they_name() {
        let applies =
            |rule: &str, file: &str| RULES.iter().any(|one| one.name == rule && (one.applies)(file, ElfType::Shared));
        for (rule, file) in [
            ("cpython", "python3.11"),
            ("cpython", "libpython3.11.so.1.0"),
            ("node", "node"),
            ("node", "libnode.so.108"),
            ("ruby", "libruby-3.1.so.3.1"),
            ("php", "php8.2"),
            ("php", "php-fpm8.2"),
            ("openssl", "libcrypto.so.3"),
            ("musl", "ld-musl-x86_64.so.1"),
        ] {
            assert!(applies(rule, file), "{rule} {file}");
        }
        for (rule, file) in [("cpython", "pythonic.so"), ("node", "nodemon-helper"), ("openssl", "libcryptsetup.so.12")]
        {
            assert!(!applies(rule, file), "{rule} {file}");
        }
    }

    #[test]
    fn versions_look_like_versions() {
        assert!(is_python_version(b"3.11.7") && is_python_version(b"3.14.0rc2") && is_musl_version(b"1.2.4"));
        assert!(!is_python_version(b"3.11") && !is_python_version(b"3.4.5.6") && !is_musl_version(b"2.0.0"));
    }
}
