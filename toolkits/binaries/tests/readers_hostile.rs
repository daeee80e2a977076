//! Hostile input for every reader of modules: files that compilers made here, changed and cut in thousands of ways
//! that a seed repeats, and tables whose counts, sizes and offsets lie. Nothing may panic, take long, or keep more
//! than a few times what there is. (scripts/fuzz lets libFuzzer search; here the seeds
//! and the mutations are fixed.) More rounds with `AGENT_TEST_ALL=1`.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use agent_binaries::elf::{ElfFile, Source};
use agent_binaries::modules::{ask, compare};
use agent_binaries::packages::{apk, dpkg, os_release};
use agent_binaries::provenance::{cargo, comment, compilers, go, runtime};
use agent_binaries::{hardening, mapped};
use agent_model::Hex;

/// The linear congruential generator of Knuth's MMIX: the same on every machine.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Everything that a collector asks of a module.
fn ask_all(bytes: &[u8]) {
    for elf in [ElfFile::parse(bytes), ElfFile::parse_mapped(bytes, 0x7f00_0000_0000)].into_iter().flatten() {
        ask_one(&elf);
    }
}

fn ask_one<S: Source>(elf: &ElfFile<S>) {
    let _ = hardening::of(elf);
    let versions = elf.versions();
    assert!(versions.required.len() <= 1024 && versions.names.len() <= 1 << 15);
    elf.imports(&mut |_| ControlFlow::Continue(()));
    let _ = compilers(elf);
    let _ = go::read(elf);
    let _ = cargo::read(elf);
    for name in ["node", "python3.11", "libc.so.6", "libjvm.so", "ruby", "ld-musl-x86_64.so.1"] {
        let _ = runtime::find(elf, name);
    }
    for pattern in ["*", "main", "*_chk*", "_Z*"] {
        let (found, _) = ask::named(elf, Some(0x5555_0000_0000), pattern);
        assert!(found.len() <= ask::MAX_NAMED);
    }
    let piece = mapped::Piece { avma: 0x1000..u64::MAX, offset: 0, executable: true, writable: false };
    let place = mapped::Mapped { path: b"/x".to_vec(), deleted: false, device: (0, 0), inode: 1, pieces: vec![piece] };
    let _ = ask::located(elf, &place, &[Hex(0x1000), Hex(u64::MAX - 1), Hex(elf.facts().entry.max(0x1000))]);
}

struct Seeds(PathBuf);

impl Drop for Seeds {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const PROGRAM: &str = "#include <stdio.h>\n#include <string.h>\n__thread int t; int shared_object[4] = {1};\n\
    int exported(int a) { return a + t; }\n\
    int main(int argc, char **argv) { char b[64]; strcpy(b, argv[argc - 1]); return printf(\"%s\", b) + exported(1); }\n";

/// Small files that have each of the parts, made by the compiler and binutils.
fn seeds() -> Option<(Seeds, Vec<Vec<u8>>)> {
    // One a test: the first that ends takes its own away.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("agent-seeds-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let directory = Seeds(env::temp_dir().join(name));
    fs::create_dir_all(&directory.0).unwrap();
    let at = |name: &str| directory.0.join(name);
    fs::write(at("a.c"), PROGRAM).unwrap();
    fs::write(at("version.map"), "V1 { global: exported; };\nV2 { global: shared_object; local: *; } V1;\n").unwrap();
    // Go's build information, as Go 1.18 and later write it.
    let info = "path\tx\nmod\tx\tv1.0.0\th1:a=\ndep\ty\tv0.1.0\th1:b=\n=>\tz\tv0.2.0\th1:c=\nbuild\tvcs.revision=0\n";
    let mut build = b"\xff Go buildinf:\x08\x02".to_vec();
    build.resize(32, 0);
    build.push(8);
    build.extend_from_slice(b"go1.22.1");
    let whole = [&[0x30; 16][..], info.as_bytes(), &[0xf9; 16]].concat();
    build.extend([0x80 | (whole.len() & 0x7f) as u8, (whole.len() >> 7) as u8]);
    build.extend(whole);
    fs::write(at("go"), build).unwrap();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(br#"{"packages":[{"name":"a","version":"1.0.0","source":"local","root":true}]}"#).unwrap();
    fs::write(at("crates"), zlib.finish().unwrap()).unwrap();
    let run = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).current_dir(&directory.0).output();
        done.is_ok_and(|output| output.status.success())
    };
    let add = |from: &str, to: &str| {
        run(
            "objcopy",
            &[
                "--add-section",
                ".go.buildinfo=go",
                "--add-section",
                ".dep-v0=crates",
                "--add-gnu-debuglink=a.c",
                from,
                to,
            ],
        )
    };
    let made = run("cc", &["-O2", "-fstack-protector-all", "-D_FORTIFY_SOURCE=2", "-o", "plain", "a.c", "-w"])
        && run(
            "cc",
            &["-shared", "-fPIC", "-fcf-protection", "-Wl,--version-script=version.map", "-o", "lib.so", "a.c", "-w"],
        )
        && run("cc", &["-O2", "-no-pie", "-s", "-Wl,-z,norelro", "-Wl,--hash-style=sysv", "-o", "soft", "a.c", "-w"])
        && run("cc", &["-c", "-g", "-o", "object.o", "a.c", "-w"])
        && add("plain", "with")
        && add("lib.so", "with.so");
    if !made {
        return None;
    }
    let files = ["with", "with.so", "soft", "object.o"].map(|name| read(&at(name)));
    Some((directory, files.to_vec()))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

fn rounds(usual: u64) -> u64 {
    if env::var_os("AGENT_TEST_ALL").is_some() { usual * 20 } else { usual }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Lcg) {
    for _ in 0..=random.below(8) {
        let last = bytes.len().max(1) - 1;
        let at = match random.below(3) {
            0 => random.below(4096),
            1 => bytes.len() - random.below(bytes.len().min(4096)) - 1,
            _ => random.below(bytes.len()),
        }
        .min(last);
        match random.below(6) {
            0 => bytes[at] = 0xff,
            1 => bytes[at] = 0,
            2 => bytes[at] ^= 1 << random.below(8),
            3 => {
                // A word that lies about a size, a count or an offset.
                let words = [0, 1, u32::MAX, 0x7fff_ffff, 0x8000_0000, bytes.len() as u32, bytes.len() as u32 - 1];
                let word = words[random.below(words.len())].to_le_bytes();
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            4 => bytes[at] = random.next() as u8,
            _ if random.below(8) == 0 => bytes.truncate(at + 1),
            _ => {
                // Parts over each other.
                let (from, size) = (random.below(bytes.len()), random.below(64));
                let size = size.min(bytes.len() - from).min(bytes.len() - at);
                bytes.copy_within(from..from + size, at);
            }
        }
    }
}

#[test]
fn modules_changed_in_any_way_are_survived() {
    let Some((_directory, seeds)) = seeds() else {
        eprintln!("SKIP modules_changed_in_any_way_are_survived: no C compiler or objcopy");
        return;
    };
    let with = ElfFile::parse(&seeds[0][..]).unwrap();
    // The seeds have what is to be broken.
    assert_eq!(go::read(&with).unwrap().unwrap().dependencies.len(), 1);
    assert_eq!(cargo::read(&with).unwrap().unwrap().len(), 1);
    assert_eq!(ElfFile::parse(&seeds[1][..]).unwrap().versions().defined, ["V1", "V2"]);
    for (index, bytes) in seeds.iter().enumerate() {
        for seed in 0..rounds(400) {
            let mut mutant = bytes.clone();
            mutate(&mut mutant, &mut Lcg(seed));
            let started = Instant::now();
            ask_all(&mutant);
            let took = started.elapsed();
            assert!(took < Duration::from_secs(3), "seed {seed} of file {index}: {took:?}");
        }
        for cut in (0..bytes.len()).step_by(211) {
            ask_all(&bytes[..cut]);
        }
    }
}

#[test]
fn texts_changed_in_any_way_are_survived() {
    let status =
        b"Package: libc6\nArchitecture: amd64\nSource: glibc (2.36-9)\nVersion: 2.36-9\n\nPackage: x\n".to_vec();
    let installed = b"P:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\nR:libc.so\nZ:x\n\nP:zlib\n".to_vec();
    let release = b"ID=\"debian\"\nVERSION_ID='12'\nPRETTY_NAME=\"a \\\" b\"\n".to_vec();
    let envelope = br#"{"schema":"agent.modules/1","data":{"rows":[{"path":"/a","needed":[{"name":"b"}]}]}}"#.to_vec();
    let info =
        [&[0x30; 16][..], b"path\tx\nmod\tx\tv1\ndep\ty\tv0\n=>\tz\tv2\nbuild\t\"a\\n\"=\"b\n", &[0xf9; 16]].concat();
    let wanted = BTreeMap::from([(b"/lib/libc.so".to_vec(), b"/lib/libc.so".to_vec())]);
    for seed in 0..rounds(3000) {
        let mut random = Lcg(seed);
        let mut change = |text: &Vec<u8>| {
            let mut text = text.clone();
            mutate(&mut text, &mut random);
            text
        };
        let _ = dpkg::parse_status(&change(&status));
        let _ = apk::owners(&change(&installed), &wanted);
        let _ = os_release::parse(&change(&release));
        let _ = go::parse(b"go1.22", &change(&info));
        let _ = comment(&change(&info));
        if let Ok(rows) = compare::rows(&change(&envelope)) {
            let _ = compare::compare(&rows, &[]);
        }
    }
    // Depth is bounded by the parser of JSON.
    assert!(compare::rows(&[b'['; 1 << 20]).is_err());
}

#[test]
fn names_that_overlap_do_not_multiply() {
    let Some((_directory, seeds)) = seeds() else {
        eprintln!("SKIP names_that_overlap_do_not_multiply: no C compiler or objcopy");
        return;
    };
    // A symbol table of a million entries, each of which names the same 60,000 bytes.
    let mut bytes = seeds[0].clone();
    let symtab = ElfFile::parse(&bytes[..]).unwrap().section(".symtab").unwrap().clone();
    let entry =
        |at: u64| [&1_u32.to_le_bytes()[..], &[0x12, 0, 1, 0], &at.to_le_bytes(), &8_u64.to_le_bytes()].concat();
    let (table, count) = (bytes.len() as u64, 300_000_u64);
    for index in 0..count {
        bytes.extend(entry(0x1000 + index * 16));
    }
    let strings = bytes.len() as u64;
    bytes.push(0);
    bytes.extend(vec![b'A'; 60_000]);
    bytes.push(0);
    // In the section headers: the table's offset and size, and those of its strings.
    let headers = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
    let index = (0..64).find(|index| {
        let at = headers + index * 64;
        bytes[at + 24..at + 32] == symtab.offset.to_le_bytes() && bytes[at + 4..at + 8] == 2_u32.to_le_bytes()
    });
    let at = headers + index.unwrap() * 64;
    bytes[at + 24..at + 32].copy_from_slice(&table.to_le_bytes());
    bytes[at + 32..at + 40].copy_from_slice(&(count * 24).to_le_bytes());
    let at = headers + symtab.link as usize * 64;
    bytes[at + 24..at + 32].copy_from_slice(&strings.to_le_bytes());
    bytes[at + 32..at + 40].copy_from_slice(&60_002_u64.to_le_bytes());
    let started = Instant::now();
    let elf = ElfFile::parse(&bytes[..]).unwrap();
    let (found, more) = ask::named(&elf, None, "A*");
    let kept: usize = found.iter().map(|one| one.name.as_str().len()).sum();
    assert!(more && kept <= 8 << 20, "{kept}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
