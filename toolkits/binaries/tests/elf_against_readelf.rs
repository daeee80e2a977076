//! The reader against binutils' readelf and elfutils' eu-addr2line, over the
//! binaries of the machine that runs the tests: a sample of 150, or all of them
//! with `AGENT_TEST_ALL=1`.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use agent_binaries::elf::{ElfFile, ElfType, Source, SymbolOrigin};

/// A file read with pread(2), as the agent reads it.
struct OnDisk(File, u64);

impl OnDisk {
    fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        Self(file, len)
    }
}

impl Source for OnDisk {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
}

/// Every ELF file below `/usr/bin` and `/usr/lib`, each inode once, sorted.
fn elf_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    let mut folders = vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/lib")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_file() && meta.len() > 64 && seen.insert((meta.dev(), meta.ino())) {
                let mut magic = [0; 4];
                let readable = File::open(&path).and_then(|file| file.read_exact_at(&mut magic, 0));
                if readable.is_ok() && magic == *b"\x7fELF" {
                    files.push(path);
                }
            }
        }
    }
    files.sort();
    files
}

fn sample(count: usize) -> Vec<PathBuf> {
    let all = elf_files();
    assert!(!all.is_empty(), "no ELF file below /usr/bin and /usr/lib");
    if env::var_os("AGENT_TEST_ALL").is_some() {
        return all;
    }
    let step = (all.len() / count).max(1);
    all.into_iter().step_by(step).take(count).collect()
}

/// What readelf says, in the words of the reader under test.
#[derive(Debug, Default, PartialEq)]
struct Said {
    elf_type: String,
    build_id: Option<String>,
    interpreter: Option<String>,
    needed: Vec<String>,
    soname: Option<String>,
    symtab: bool,
    symbols: usize,
}

fn readelf(path: &Path) -> Said {
    let output = Command::new("readelf")
        .args(["-W", "-h", "-l", "-d", "-n", "-S", "-s"])
        .arg(path)
        .env("LC_ALL", "C")
        .output()
        .expect("readelf (binutils) is needed");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut said = Said::default();
    let mut header_type = "";
    let mut has_dynamic = false;
    let mut code_sections = BTreeSet::new();
    let mut table = "";
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines() {
        let bracketed = || Some(line.rsplit_once('[')?.1.trim_end_matches(']').to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(value) = line.strip_prefix("  Type:  ") {
            header_type = value.trim();
        } else if line.contains("Build ID: ") && said.build_id.is_none() {
            said.build_id = words.last().map(|id| (*id).to_owned());
        } else if line.contains("Requesting program interpreter: ") {
            let path = line.split_once(": ").unwrap().1;
            said.interpreter = Some(path.trim_end_matches(']').to_owned());
        } else if line.starts_with("Dynamic section at offset") {
            has_dynamic = true;
        } else if line.contains("(NEEDED)") {
            said.needed.extend(bracketed());
        } else if line.contains("(SONAME)") {
            said.soname = bracketed();
        } else if let Some(rest) = line.strip_prefix("  [")
            && let Some((index, rest)) = rest.split_once(']')
        {
            // Name, type, address, offset, size, entry size, flags, …: a name
            // may be missing, so count from the right: flags, link, info, align.
            let words: Vec<&str> = rest.split_whitespace().collect();
            let flags = words.len().checked_sub(4).map_or("", |at| words[at]);
            if flags.contains('X') && flags.chars().all(char::is_alphabetic) {
                code_sections.insert(index.trim().to_owned());
            }
            said.symtab |= words.contains(&"SYMTAB");
        } else if let Some(rest) = line.strip_prefix("Symbol table '") {
            table = rest.split_once('\'').unwrap().0;
        } else if words.len() >= 8 && words[0].ends_with(':') && !table.is_empty() {
            let (kind, section) = (words[3], words[6]);
            let function = matches!(kind, "FUNC" | "IFUNC") && section != "UND";
            let label = kind == "NOTYPE" && code_sections.contains(section);
            *counts.entry(table).or_default() += usize::from(function || label);
        }
    }
    let counted = |name| counts.get(name).copied().filter(|count| *count > 0);
    said.symbols = counted(".symtab").or_else(|| counted(".dynsym")).unwrap_or(0);
    let pie = header_type.contains("Position-Independent");
    let interpreted = said.interpreter.is_some();
    said.elf_type = match header_type.split(' ').next().unwrap_or_default() {
        "EXEC" if interpreted || has_dynamic => "executable",
        "EXEC" => "static",
        "DYN" if pie && !interpreted => "static_pie",
        "DYN" if pie || (interpreted && said.soname.is_none()) => "pie",
        "DYN" => "shared",
        "REL" => "relocatable",
        "CORE" => "core",
        _ => "other",
    }
    .to_owned();
    said
}

#[test]
fn says_what_readelf_says() {
    let files = sample(150);
    let mut different = Vec::new();
    for path in &files {
        let expected = readelf(path);
        let elf = ElfFile::parse(OnDisk::open(path)).unwrap();
        let facts = elf.facts();
        let symbols = elf.symbols();
        let found = Said {
            elf_type: facts.elf_type.as_str().to_owned(),
            build_id: facts.build_id.clone(),
            interpreter: facts.interpreter.clone(),
            needed: facts.needed.clone(),
            soname: facts.soname.clone(),
            symtab: facts.debug.symtab,
            symbols: symbols.len(),
        };
        if found != expected || !elf.problems().is_empty() || !symbols.problems().is_empty() {
            different.push(format!(
                "{}\n  readelf {expected:?}\n  found   {found:?}\n  problems {:?} {:?}",
                path.display(),
                elf.problems(),
                symbols.problems(),
            ));
        }
    }
    eprintln!("{} files compared with readelf", files.len());
    assert!(different.is_empty(), "{} of {}:\n{}", different.len(), files.len(), different.join("\n"));
}

/// Asks eu-addr2line for `name+0xoff` of many addresses at once.
fn eu_addr2line(path: &Path, addresses: &[u64]) -> Option<Vec<Option<u64>>> {
    let mut command = Command::new("eu-addr2line");
    // The file alone: not its debug information, which may be installed.
    command.arg("--debuginfo-path=/nonexistent").arg("-S").arg("-e").arg(path);
    command.args(addresses.iter().map(|address| format!("{address:#x}")));
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Two lines an address: the symbol, then the source line.
    let starts = text.lines().step_by(2).zip(addresses).map(|(line, address)| {
        let name = line.split(" (").next().unwrap_or_default();
        match name.rsplit_once("+0x") {
            Some(("" | "()", _)) => None,
            Some((_, offset)) => Some(address - u64::from_str_radix(offset, 16).ok()?),
            None if name.starts_with("??") || name.is_empty() => None,
            None => Some(*address),
        }
    });
    Some(starts.collect())
}

#[test]
fn names_the_function_that_eu_addr2line_names() {
    let files: Vec<_> = sample(30);
    let (mut compared, mut named, mut different) = (0, 0, Vec::new());
    for path in &files {
        let elf = ElfFile::parse(OnDisk::open(path)).unwrap();
        let Some(text) = elf.section(".text") else {
            continue;
        };
        let debug = &elf.facts().debug;
        // eu-addr2line reads `.gnu_debugdata`, this reader not yet.
        if elf.facts().elf_type == ElfType::Relocatable || debug.mini_debug_info {
            continue;
        }
        let step = (text.size / 100).max(1) | 1;
        let addresses: Vec<u64> = (0..100)
            .map(|index| text.svma + index * step)
            .take_while(|address| *address < text.svma + text.size)
            .collect();
        let Some(starts) = eu_addr2line(path, &addresses) else {
            eprintln!("eu-addr2line (elfutils) is not installed: nothing compared");
            return;
        };
        let symbols = elf.symbols();
        for (address, start) in addresses.iter().zip(starts) {
            let found = symbols.lookup(&elf, *address);
            compared += 1;
            named += usize::from(start.is_some());
            if found.as_ref().map(|symbol| symbol.svma) != start {
                different.push(format!("{} {address:#x}: eu {start:x?}, found {found:x?}", path.display()));
            }
        }
    }
    eprintln!("{compared} addresses compared with eu-addr2line, {named} of them named");
    // Tables that assembly keeps in .text are objects, which eu-addr2line names
    // too; no program counter is ever there.
    assert!(different.len() * 10_000 <= compared, "{} of {compared}:\n{}", different.len(), different.join("\n"));
}

/// An image as the loader would map it, without section headers.
fn mapped(bytes: &[u8]) -> Vec<u8> {
    let elf = ElfFile::parse(bytes).unwrap();
    let end = elf.facts().loads().map(|load| load.svma + load.mem_size).max().unwrap();
    let mut image = vec![0; end as usize];
    for load in elf.facts().loads() {
        let (from, to) = (load.offset as usize, load.svma as usize);
        let size = load.file_size as usize;
        image[to..to + size].copy_from_slice(&bytes[from..from + size]);
    }
    image
}

#[test]
fn reads_a_mapped_module_as_it_reads_the_file() {
    let libc = elf_files().into_iter().find(|path| path.ends_with("libc.so.6")).unwrap();
    let bytes = fs::read(libc).unwrap();
    let file = ElfFile::parse(&bytes[..]).unwrap();
    let image = mapped(&bytes);
    let module = ElfFile::parse_mapped(&image[..], 0x7f00_0000_0000).unwrap();
    assert!(module.problems().is_empty(), "{:?}", module.problems());
    let (from_file, from_memory) = (file.facts(), module.facts());
    assert_eq!(from_file.build_id, from_memory.build_id);
    assert_eq!(from_file.needed, from_memory.needed);
    assert_eq!(from_file.soname, from_memory.soname);
    assert_eq!(from_file.elf_type, from_memory.elf_type);
    assert_eq!(from_file.interpreter, from_memory.interpreter);

    let tables = (file.unwind_tables().unwrap(), module.unwind_tables().unwrap());
    assert_eq!(tables.0.eh_frame.svma, tables.1.eh_frame.svma);
    assert_eq!(tables.0.eh_frame_hdr.unwrap().svma, tables.1.eh_frame_hdr.unwrap().svma);

    let (dynsym, dynamic) = (file.symbols(), module.symbols());
    assert_eq!((dynsym.origin(), dynamic.origin()), (SymbolOrigin::Dynsym, SymbolOrigin::Dynamic));
    assert_eq!(dynsym.len(), dynamic.len());
    let text = file.section(".text").unwrap();
    for address in (text.svma..text.svma + text.size).step_by(997) {
        assert_eq!(dynsym.lookup(&file, address), dynamic.lookup(&module, address), "{address:#x}");
    }
}
