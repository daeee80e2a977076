//! Lines and inlined functions as the crate addr2line finds them, which holds all sections
//! of a file in memory: the same for every address.
#![allow(clippy::disallowed_methods, reason = "a test: it reads files and runs compilers")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;

use addr2line::Context;
use agent_binaries::demangle::demangle;
use agent_binaries::elf::ElfFile;
use agent_binaries::mapped::Image;
use agent_model::Text;
use gimli::{EndianArcSlice, RunTimeEndian};

use super::lines::{Line, Lines};
use super::section::Pages;
use crate::frame::Inlined;

type Judge = Context<EndianArcSlice<RunTimeEndian>>;

fn judge(bytes: &[u8], elf: &ElfFile<Image<'_>>) -> Judge {
    let dwarf = gimli::Dwarf::load(|id| {
        let section = elf.section(id.name()).filter(|section| section.kind != 8);
        let content = section
            .map_or(&[][..], |section| &bytes[section.offset as usize..(section.offset + section.size) as usize]);
        let plain = if section.is_some_and(|section| section.flags & 0x800 != 0) {
            let mut plain = Vec::new();
            flate2::read::ZlibDecoder::new(&content[24..]).read_to_end(&mut plain).expect("zlib");
            plain
        } else {
            content.to_vec()
        };
        Ok::<_, gimli::Error>(EndianArcSlice::new(plain.into(), RunTimeEndian::Little))
    });
    Context::from_dwarf(dwarf.expect("DWARF")).expect("DWARF")
}

fn judged(judge: &Judge, svma: u64) -> Line {
    let mut frames = judge.find_frames(svma).skip_all_loads().expect("frames");
    let mut all = Vec::new();
    while let Some(frame) = frames.next().expect("frames") {
        let function = frame.function.as_ref().and_then(|function| function.raw_name().ok()).map(|name| {
            let shown = demangle(&name);
            Text::from(shown.as_deref().unwrap_or(&name))
        });
        let location = frame.location.as_ref();
        all.push(Inlined {
            function,
            file: location.and_then(|location| location.file).map(Text::from),
            line: location.and_then(|location| location.line).filter(|line| *line != 0),
        });
    }
    let own = all.pop();
    Line { file: own.as_ref().and_then(|own| own.file.clone()), line: own.and_then(|own| own.line), inlined: all }
}

fn elf(bytes: Vec<u8>) -> ElfFile<Image<'static>> {
    ElfFile::parse(Image::Copy(Arc::new(bytes))).expect("ELF")
}

/// Compares both for addresses all over the code of `path`; how many there were, with how many inlined functions.
fn compare(path: &Path) -> (usize, usize) {
    compare_with(path, path)
}

/// The same, with a judge who reads another file with the same lines.
fn compare_with(path: &Path, other: &Path) -> (usize, usize) {
    compare_all(path, None, other)
}

/// The same, where `alternate` has what the file has in common with others.
fn compare_all(path: &Path, alternate: Option<&Path>, other: &Path) -> (usize, usize) {
    let elf_of = |path: &Path| {
        let bytes = std::fs::read(path).expect("a file");
        (elf(bytes.clone()), bytes)
    };
    let ((elf, _), (judged_elf, judged_bytes)) = (elf_of(path), elf_of(other));
    let judge = judge(&judged_bytes, &judged_elf);
    let pages = Rc::new(Pages::default());
    let alternate = alternate.map(|path| elf_of(path).0);
    let mut lines = Lines::of(&elf, alternate.as_ref(), &pages).expect("lines");
    let text = elf.section(".text").expect("code");
    let step = (text.size / 150).max(1) | 1;
    let (mut known, mut inlined) = (0, 0);
    for at in (0..text.size).step_by(step as usize) {
        let svma = text.svma + at;
        let (ours, theirs) = (lines.find(svma), judged(&judge, svma));
        assert_eq!(ours, theirs, "{} {svma:#x}", path.display());
        known += usize::from(ours.line.is_some());
        inlined += ours.inlined.len();
    }
    (known, inlined)
}

const PROGRAM: &str = r#"
#include <algorithm>
#include <map>
#include <string>
#include <vector>
struct Shape { virtual ~Shape() {} virtual int area(int x) const = 0; };
struct Square : Shape { int area(int x) const override { return x * x; } };
template <class T> static T total(const std::vector<T> &all) { T sum{}; for (auto &one : all) sum += one; return sum; }
int main(int c, char **v) {
    std::map<std::string, std::vector<int>> words;
    for (int i = 0; i < c; i++) words[v[i]].push_back(i * 3);
    std::vector<int> sums;
    for (auto &word : words) sums.push_back(total(word.second) + Square().area(c));
    std::sort(sums.begin(), sums.end(), [](int a, int b) { return a > b; });
    return sums[0] & 1;
}
"#;

fn built(directory: &Path, compiler: &str, flags: &[&str]) -> PathBuf {
    let (source, program) = (directory.join("program.cpp"), directory.join(flags.join("")));
    std::fs::write(&source, PROGRAM).expect("a file");
    let output = Command::new(compiler).args(flags).arg("-o").arg(&program).arg(&source).output().expect(compiler);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
fn programs_have_the_lines_that_addr2line_finds() {
    let directory = tempfile::tempdir().expect("a directory");
    for flags in [
        &["-g", "-O2"][..],
        &["-g", "-O2", "-gdwarf-4"],
        &["-g", "-O0", "-gz=zlib"],
        &["-g", "-O2", "-flto", "-gdwarf-5"],
        &["-g1", "-O3", "-ffunction-sections"],
    ] {
        let (known, inlined) = compare(&built(directory.path(), "g++", flags));
        assert!(known > 100, "{flags:?}: {known}");
        assert!(inlined > 40 || flags.contains(&"-O0"), "{flags:?}: {inlined}");
    }
}

#[test]
fn sections_in_zstd_have_the_same_lines() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = built(directory.path(), "g++", &["-g", "-O2"]);
    let packed = directory.path().join("packed");
    let mut objcopy = Command::new("objcopy");
    let output = objcopy.arg("--compress-debug-sections=zstd").args([&plain, &packed]).output().expect("objcopy");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let info = elf(std::fs::read(&packed).expect("a file")).section(".debug_info").expect("one").clone();
    assert_eq!(info.flags & 0x800, 0x800, "it is compressed");
    let (known, inlined) = compare_with(&packed, &plain);
    assert!(known > 100 && inlined > 40, "{known} {inlined}");
}

#[test]
fn what_two_programs_have_in_common_is_found_in_the_third_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let (one, two) = (["-g", "-O2"], ["-g", "-O3"]);
    let plain = built(directory.path(), "g++", &one);
    let [first, second, common] = ["first", "second", "common"].map(|name| directory.path().join(name));
    std::fs::copy(&plain, &first).expect("copied");
    std::fs::copy(built(directory.path(), "g++", &two), &second).expect("copied");
    let output = Command::new("dwz").arg("-m").arg(&common).args([&first, &second]).output().expect("dwz");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let link = elf(std::fs::read(&first).expect("a file")).facts().debug.debug_alt_link.clone().expect("a link");
    let facts = elf(std::fs::read(&common).expect("a file")).into_facts().0;
    assert_eq!((Some(link.build_id), Path::new(&link.file)), (facts.build_id, common.as_path()));
    let (known, inlined) = compare_all(&first, Some(&common), &plain);
    assert!(known > 100 && inlined > 40, "{known} {inlined}");
}

#[test]
fn this_program_has_the_lines_that_addr2line_finds() {
    // Rust's names, and DWARF of two compilers. Most of it is without debug information of its own.
    let (known, _) = compare(&std::env::current_exe().expect("/proc/self/exe"));
    assert!(known > 30, "{known}");
}

#[test]
fn the_c_library_has_the_lines_that_addr2line_finds() {
    let path = "/lib/x86_64-linux-gnu/libc.so.6";
    let build_id = std::fs::read(path).ok().and_then(|bytes| ElfFile::parse(&bytes[..]).ok()?.into_facts().0.build_id);
    let Some((first, rest)) = build_id.as_deref().and_then(|id| id.split_at_checked(2)) else { return };
    let debug = PathBuf::from(format!("/usr/lib/debug/.build-id/{first}/{rest}.debug"));
    if debug.exists() {
        // It is compressed. Its `.text` has no bytes, but addresses.
        let (known, _) = compare(&debug);
        assert!(known > 120, "{known}");
    }
}
