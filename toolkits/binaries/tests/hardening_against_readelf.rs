//! Hardening, symbol versions, imports and compiler strings against binutils' readelf, and build ID, SONAME and
//! needed libraries against elfutils' eu-readelf, over the binaries of the machine that runs the tests: a sample, or
//! all of them with `AGENT_TEST_ALL=1`.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

mod support;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use agent_binaries::elf::ElfFile;
use agent_binaries::{hardening, provenance};
use support::OnDisk;

/// What readelf says, in the words of the reader under test.
#[derive(Debug, Default, PartialEq)]
struct Said {
    relro: &'static str,
    bind_now: bool,
    nx: Option<bool>,
    branch_targets: bool,
    return_addresses: bool,
    text_relocations: bool,
    imports: BTreeSet<String>,
    required: Vec<(String, Vec<String>)>,
    defined: Vec<String>,
    compilers: Vec<String>,
}

fn output(tool: &str, args: &[&str], path: &Path) -> String {
    let output = Command::new(tool).args(args).arg(path).env("LC_ALL", "C").output();
    String::from_utf8_lossy(&output.unwrap_or_else(|error| panic!("{tool}: {error}")).stdout).into_owned()
}

fn readelf(path: &Path) -> Said {
    let text = output("readelf", &["-W", "-l", "-d", "-V", "-n", "--dyn-syms", "-p", ".comment"], path);
    let mut said = Said::default();
    let (mut has_relro, mut part) = (false, "");
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with("Version needs section") {
            part = "needs";
        } else if line.starts_with("Version definition section") {
            part = "defines";
        } else if line.starts_with("Version symbols section") || line.starts_with("Displaying notes") {
            part = "";
        } else if line.starts_with("Symbol table '.dynsym'") {
            part = "symbols";
        } else if line.starts_with("String dump of section '.comment'") {
            part = "comment";
        }
        match words.first() {
            Some(&"GNU_RELRO") => has_relro = true,
            Some(&"GNU_STACK") => {
                said.nx = Some(!words.contains(&"RWE") && words[6..words.len() - 1].iter().all(|w| !w.contains('E')))
            }
            _ => {}
        }
        said.bind_now |= line.contains("(BIND_NOW)")
            || (line.contains("(FLAGS)") && words.contains(&"BIND_NOW"))
            || (line.contains("(FLAGS_1)") && words.contains(&"NOW"));
        said.text_relocations |= line.contains("(TEXTREL)") || (line.contains("(FLAGS)") && words.contains(&"TEXTREL"));
        if line.contains("x86 feature: ") && !line.contains("used") {
            said.branch_targets |= line.contains("IBT");
            said.return_addresses |= line.contains("SHSTK");
        }
        let after = |key: &str| Some(words[words.iter().position(|word| *word == key)? + 1].to_owned());
        match part {
            "needs" => {
                if let Some(file) = after("File:") {
                    said.required.push((file, Vec::new()));
                } else if let (Some(name), Some(last)) = (after("Name:"), said.required.last_mut()) {
                    last.1.push(name);
                }
            }
            "defines" if line.contains("Index:") && !line.contains("Flags: BASE") => {
                said.defined.extend(after("Name:"));
            }
            "symbols" if words.len() >= 8 && words[6] == "UND" => {
                let name = words[7].split('@').next().unwrap_or_default();
                said.imports.insert(name.to_owned());
            }
            "comment" if line.starts_with("  [") => {
                let string = line.split_once("]  ").map_or("", |(_, string)| string).to_owned();
                if !said.compilers.contains(&string) {
                    said.compilers.push(string);
                }
            }
            _ => {}
        }
    }
    said.relro = match (has_relro, said.bind_now) {
        (true, true) => "full",
        (true, false) => "partial",
        (false, _) => "none",
    };
    said
}

fn found(path: &Path) -> (Said, hardening::Hardening, Vec<String>) {
    let elf = ElfFile::parse(OnDisk::open(path)).unwrap();
    let hardening = hardening::of(&elf);
    let versions = elf.versions();
    let mut imports = BTreeSet::new();
    elf.imports(&mut |name| {
        imports.insert(String::from_utf8_lossy(name).into_owned());
        ControlFlow::Continue(())
    });
    let said = Said {
        relro: hardening.relro,
        bind_now: hardening.bind_now,
        nx: hardening.nx,
        branch_targets: hardening.branch_targets == Some(true),
        return_addresses: hardening.return_addresses == Some(true),
        text_relocations: hardening.text_relocations,
        imports,
        required: versions.required.iter().map(|one| (one.library.clone(), one.versions.clone())).collect(),
        defined: versions.defined.clone(),
        compilers: provenance::compilers(&elf).iter().map(|one| String::from_utf8_lossy(one).into_owned()).collect(),
    };
    let problems = versions.problems.iter().map(ToString::to_string).collect();
    (said, hardening, problems)
}

/// The lines of two values in which they differ.
fn differing(expected: &Said, said: &Said) -> String {
    let (expected, said) = (format!("{expected:#?}"), format!("{said:#?}"));
    let lines = |a: &str, b: &str, mark: &str| -> String {
        let known: BTreeSet<&str> = b.lines().collect();
        a.lines().filter(|line| !known.contains(line)).take(20).map(|line| format!("  {mark}{line}\n")).collect()
    };
    lines(&expected, &said, "readelf") + &lines(&said, &expected, "found  ")
}

#[test]
fn says_of_hardening_and_versions_what_readelf_says() {
    let files = support::sample(150);
    let mut different = Vec::new();
    for path in &files {
        let expected = readelf(path);
        let (said, hardening, problems) = found(path);
        let protected = expected.imports.iter().any(|name| name.starts_with("__stack_chk_"));
        let fortified = expected.imports.iter().filter(|name| name.starts_with("__") && name.ends_with("_chk")).count();
        // A static executable has no imports: there the names that it defines count.
        let is_dynamic = !expected.imports.is_empty();
        let by_name = !is_dynamic
            || (hardening.stack_protector, hardening.fortified_functions) == (Some(protected), Some(fortified as u64));
        if said != expected || !by_name || !problems.is_empty() {
            different.push(format!("{}\n{}\n  {problems:?}", path.display(), differing(&expected, &said)));
        }
    }
    eprintln!("{} files compared with readelf", files.len());
    assert!(different.is_empty(), "{} of {}:\n{}", different.len(), files.len(), different.join("\n"));
}

#[test]
fn says_of_links_what_eu_readelf_says() {
    if Command::new("eu-readelf").arg("--version").output().is_err() {
        eprintln!("SKIP says_of_links_what_eu_readelf_says: eu-readelf (elfutils) is not installed");
        return;
    }
    let files = support::sample(150);
    let mut different = Vec::new();
    for path in &files {
        let text = output("eu-readelf", &["-n", "-d"], path);
        let bracketed = |line: &str| line.rsplit_once('[').map(|(_, name)| name.trim_end_matches(']').to_owned());
        let build_id = text.lines().find_map(|line| Some(line.trim().strip_prefix("Build ID: ")?.to_owned()));
        let needed: Vec<String> = text.lines().filter(|line| line.contains("NEEDED")).filter_map(bracketed).collect();
        let soname = text.lines().find(|line| line.contains("SONAME")).and_then(bracketed);
        let elf = ElfFile::parse(OnDisk::open(path)).unwrap();
        let facts = elf.facts();
        if (&facts.build_id, &facts.needed, &facts.soname) != (&build_id, &needed, &soname) {
            different.push(format!("{}: {build_id:?} {needed:?} {soname:?}; found {facts:?}", path.display()));
        }
    }
    eprintln!("{} files compared with eu-readelf", files.len());
    assert!(different.is_empty(), "{} of {}:\n{}", different.len(), files.len(), different.join("\n"));
}

/// A program whose compiler and linker were told what to do.
fn built(source: &str, name: &str, flags: &[&str]) -> Option<std::path::PathBuf> {
    let directory = std::env::temp_dir().join(format!("agent-hardening-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (text, program) = (directory.join(format!("{name}.c")), directory.join(name));
    std::fs::write(&text, source).unwrap();
    let done = Command::new("cc").args(flags).arg("-o").arg(&program).arg(&text).output();
    done.is_ok_and(|output| output.status.success()).then_some(program)
}

const PROGRAM: &str = "#include <stdio.h>\n#include <string.h>\n\
    int main(int argc, char **argv) { char b[64]; strcpy(b, argv[argc - 1]); return printf(\"%s\", b); }\n";

#[test]
fn flags_of_the_compiler_are_seen_as_checksec_sees_them() {
    let hardened = built(
        PROGRAM,
        "hard",
        &[
            "-O2",
            "-fPIE",
            "-pie",
            "-Wl,-z,relro,-z,now",
            "-fstack-protector-all",
            "-U_FORTIFY_SOURCE",
            "-D_FORTIFY_SOURCE=2",
            "-Wl,-z,noexecstack",
        ],
    );
    let soft = built(
        PROGRAM,
        "soft",
        &[
            "-O0",
            "-fno-pie",
            "-no-pie",
            "-Wl,-z,norelro,-z,lazy",
            "-fno-stack-protector",
            "-U_FORTIFY_SOURCE",
            "-Wl,-z,execstack",
            "-w",
        ],
    );
    let (Some(hardened), Some(soft)) = (hardened, soft) else {
        eprintln!("SKIP flags_of_the_compiler_are_seen_as_checksec_sees_them: no C compiler");
        return;
    };
    let hard = found(&hardened).1;
    assert_eq!((hard.relro, hard.bind_now, hard.nx, hard.pie), ("full", true, Some(true), true));
    assert_eq!(hard.stack_protector, Some(true));
    assert!(hard.fortified_functions >= Some(1), "{hard:?}");
    assert!(!hard.writable_code && !hard.text_relocations);
    let soft = found(&soft).1;
    assert_eq!((soft.relro, soft.bind_now, soft.nx, soft.pie), ("none", false, Some(false), false));
    assert_eq!((soft.stack_protector, soft.fortified_functions), (Some(false), Some(0)));

    // Every object of a program must have it, so crt1.o without it takes it away: a library alone can show it.
    if let Some(cet) = built(
        "int f(void) { return 1; }\n",
        "cet.so",
        &["-shared", "-fPIC", "-nostdlib", "-fcf-protection=full", "-Wl,-z,ibt,-z,shstk"],
    ) && cfg!(target_arch = "x86_64")
    {
        let cet = found(&cet).1;
        assert_eq!((cet.branch_targets, cet.return_addresses), (Some(true), Some(true)));
    }
    let _ = std::fs::remove_dir_all(std::env::temp_dir().join(format!("agent-hardening-{}", std::process::id())));
}
