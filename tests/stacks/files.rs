//! Targets whose mapped files are hostile: what they say about themselves is a lie, a loop or a bomb. The stacks of one
//! process lead through all of them at once, and each has its answer.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::{self, Child, has_tool, rows, run, skip};
use super::{functions, thread};

/// What a stack through a file must come to.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// All of it, with the name of the file's function.
    Named,
    /// All of it, but that function has no name, or a cut one.
    Whole,
    /// What comes before the file's function; behind it there may be more.
    Before,
}

/// A file in which `through` calls what it is given.
struct Hostile {
    path: PathBuf,
    offset: u64,
    then: Then,
    about: &'static str,
}

struct Elf(Vec<u8>);

impl Elf {
    fn read(path: &Path) -> Self {
        Self(fs::read(path).expect("a file"))
    }

    fn number(&self, at: usize, size: usize) -> u64 {
        self.0[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Where each section header is.
    fn headers(&self) -> Vec<usize> {
        let (table, count) = (self.number(40, 8) as usize, self.number(60, 2) as usize);
        (0..count).map(|index| table + index * 64).collect()
    }

    /// The section header of that name.
    fn header(&self, name: &str) -> usize {
        let headers = self.headers();
        let names = self.number(headers[self.number(62, 2) as usize] + 24, 8) as usize;
        let is_it = |header: &&usize| {
            let at = names + self.number(**header, 4) as usize;
            self.0[at..].starts_with(name.as_bytes()) && self.0[at + name.len()] == 0
        };
        *headers.iter().find(is_it).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Where that section is in the file, and its size.
    fn section(&self, name: &str) -> (usize, usize) {
        let header = self.header(name);
        (self.number(header + 24, 8) as usize, self.number(header + 32, 8) as usize)
    }

    /// Where the entries of `.eh_frame` are, without the CIEs.
    fn descriptions(&self) -> Vec<usize> {
        let (mut at, size) = self.section(".eh_frame");
        let end = at + size;
        let mut found = Vec::new();
        while at + 8 < end && self.number(at, 4) != 0 {
            if self.number(at + 4, 4) != 0 {
                found.push(at);
            }
            at += 4 + self.number(at, 4) as usize;
        }
        found
    }
}

/// Compressed debug information that is whole, and such that is not: its bytes are others, or there are fewer.
const WHOLE_LINES: &str = "compressed debug information";
const DAMAGED_LINES: [&str; 2] = ["damaged compressed debug information", "cut compressed debug information"];
const NO_MINI: &str = "mini debug information that is none";

/// Makes the files in `directory`.
struct Maker<'a> {
    directory: &'a Path,
    made: Vec<Hostile>,
}

impl Maker<'_> {
    /// Compiles one with `flags`; `cfi` stands in the function, and `name` is what it is called in the symbol table.
    fn compile(&self, about: &str, name: &str, cfi: &str, flags: &[&str]) -> (PathBuf, u64) {
        let place = |end: &str| self.directory.join(format!("{}.{end}", about.replace(' ', "-")));
        let (source, path) = (place("c"), place("so"));
        let text = format!(
            "void through(void (*f)(void)) __asm__(\"{name}\");\nvoid through(void (*f)(void))\n{{\n    \
             __asm__ volatile(\"{cfi}\");\n    f();\n    __asm__ volatile(\"\" ::: \"memory\");\n}}\n"
        );
        fs::write(&source, text).expect("a file");
        let mut command = Command::new("gcc");
        command.args(["-shared", "-fPIC", "-O2", "-Wl,-z,noseparate-code", "-Wl,--build-id"]).args(flags);
        let output = command.arg("-o").arg(&path).arg(&source).output().expect("gcc");
        assert!(output.status.success(), "{about}: {}", String::from_utf8_lossy(&output.stderr));
        let output = Command::new("nm").arg("-D").arg("--defined-only").arg(&path).output().expect("nm");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains(" T ")).expect("the function");
        (path, u64::from_str_radix(&line[..16], 16).expect("hex"))
    }

    fn add(&mut self, about: &'static str, then: Then, (path, offset): (PathBuf, u64)) {
        self.made.push(Hostile { path, offset, then, about });
    }

    /// A file that is changed after it was compiled.
    fn changed(&mut self, about: &'static str, then: Then, flags: &[&str], change: impl FnOnce(&mut Elf)) {
        let (path, offset) = self.compile(about, "through", "", flags);
        let mut elf = Elf::read(&path);
        change(&mut elf);
        fs::write(&path, elf.0).expect("a file");
        self.add(about, then, (path, offset));
    }

    /// A stripped file whose debug link names `NAME.debug`.
    fn linked(&mut self, about: &'static str, then: Then, make: impl FnOnce(&Path, &Path)) {
        let (path, offset) = self.compile(about, "through", "", &[]);
        let debug = path.with_extension("debug");
        let objcopy = |args: &[&std::ffi::OsStr]| {
            let output = Command::new("objcopy").args(args).output().expect("objcopy");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let whole = path.with_extension("whole");
        fs::copy(&path, &whole).expect("a copy");
        fs::write(&debug, b"x").expect("a file");
        let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
        link.push(&debug);
        objcopy(&["--strip-all".as_ref(), link.as_ref(), path.as_ref()]);
        fs::remove_file(&debug).expect("removed");
        make(&debug, &whole);
        self.add(about, then, (path, offset));
    }

    fn call_frame_information(&mut self) {
        let compiled =
            self.compile("an expression that never ends", "through", ".cfi_escape 0x0f, 0x03, 0x2f, 0xfd, 0xff", &[]);
        self.add("an expression that never ends", Then::Before, compiled);
        let compiled = self.compile("a frame without size", "through", ".cfi_def_cfa %rsp, 0", &[]);
        self.add("a frame without size", Then::Before, compiled);
        self.changed("a description that is its own CIE", Then::Before, &[], |elf| {
            for at in elf.descriptions() {
                elf.put(at + 4, &4_u32.to_le_bytes());
            }
        });
        self.changed("a description of 2^60 bytes", Then::Before, &[], |elf| {
            for at in elf.descriptions() {
                elf.put(at, &u32::MAX.to_le_bytes());
                elf.put(at + 4, &(1_u64 << 60).to_le_bytes());
            }
        });
        self.changed("a table of descriptions that leads everywhere", Then::Before, &[], |elf| {
            let (at, size) = elf.section(".eh_frame_hdr");
            elf.put(at + 8, &u32::MAX.to_le_bytes());
            for at in (at + 12..at + size - 7).step_by(8) {
                elf.put(at, &[0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0x7f]);
            }
        });
    }

    fn tables(&mut self) {
        self.changed("a symbol table of 2^40 entries", Then::Named, &[], |elf| {
            let header = elf.header(".symtab");
            elf.put(header + 32, &(24_u64 << 40).to_le_bytes());
        });
        self.changed("sections at the end of all addresses", Then::Before, &[], |elf| {
            for header in elf.headers() {
                elf.put(header + 16, &[0xff; 24]);
            }
        });
        self.changed("65,535 section headers in the last byte", Then::Before, &[], |elf| {
            let last = elf.0.len() as u64 - 1;
            elf.put(40, &last.to_le_bytes());
            elf.put(60, &[0xff; 4]);
        });
        self.changed("names that start behind their table", Then::Whole, &[], |elf| {
            for table in [".symtab", ".dynsym"] {
                let (at, size) = elf.section(table);
                (at..at + size).step_by(24).for_each(|at| elf.put(at, &u32::MAX.to_le_bytes()));
            }
        });
        self.changed("a note that is longer than all memory", Then::Named, &[], |elf| {
            let (at, _) = elf.section(".note.gnu.build-id");
            elf.put(at, &[0xf0, 0xff, 0xff, 0xff, 0xf0, 0xff, 0xff, 0xff]);
        });
        self.changed("the build ID of the C library", Then::Named, &[], |elf| {
            let libc = Elf::read(Path::new("/lib/x86_64-linux-gnu/libc.so.6"));
            let ((from, _), (to, _)) = (libc.section(".note.gnu.build-id"), elf.section(".note.gnu.build-id"));
            elf.put(to + 16, &libc.0[from + 16..from + 36]);
        });
    }

    fn debug_information(&mut self) {
        self.changed("debug information of 2^60 bytes", Then::Named, &["-g"], |elf| {
            // SHF_COMPRESSED, and the header that comes with it: zlib, and how much there is.
            let header = elf.header(".debug_info");
            let (at, _) = elf.section(".debug_info");
            elf.put(header + 8, &0x800_u64.to_le_bytes());
            elf.put(at, &1_u64.to_le_bytes());
            elf.put(at + 8, &(1_u64 << 60).to_le_bytes());
        });
        for (seed, about) in [
            (3, "debug information with errors 1"),
            (7, "debug information with errors 2"),
            (11, "debug information with errors 3"),
        ] {
            self.changed(about, Then::Named, &["-g"], |elf| {
                let mut seed: usize = seed;
                for name in [".debug_info", ".debug_abbrev", ".debug_line", ".debug_aranges"] {
                    let (at, size) = elf.section(name);
                    for _ in 0..size / 8 {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        elf.0[at + (seed >> 33) % size] = (seed >> 20) as u8;
                    }
                }
            });
        }
    }

    /// A file whose debug information is compressed; `change` is told where it stands.
    fn compressed(&mut self, about: &'static str, how: &str, change: impl FnOnce(&mut Elf, usize, usize)) {
        let (path, offset) = self.compile(about, "through", "", &["-g"]);
        let option = std::ffi::OsString::from(format!("--compress-debug-sections={how}"));
        let made = Command::new("objcopy").arg(option).arg(&path).status().expect("objcopy");
        assert!(made.success(), "{about}");
        let mut elf = Elf::read(&path);
        let (at, size) = elf.section(".debug_info");
        assert_eq!(elf.number(elf.header(".debug_info") + 8, 8) & 0x800, 0x800, "{about}: SHF_COMPRESSED");
        change(&mut elf, at + 24, size - 24);
        fs::write(&path, elf.0).expect("a file");
        self.add(about, Then::Named, (path, offset));
    }

    fn compressed_debug_information(&mut self) {
        self.compressed(WHOLE_LINES, "zlib", |_, _, _| {});
        self.compressed(DAMAGED_LINES[0], "zlib", |elf, at, size| elf.put(at, &vec![0xff; size]));
        self.compressed(DAMAGED_LINES[1], "zlib", |elf, _, size| {
            let header = elf.header(".debug_info");
            elf.put(header + 32, &(24 + size as u64 / 3).to_le_bytes());
        });
    }

    fn names(&mut self) {
        let pairs = |depth: usize| {
            let mut bomb = "_Z1fSt4pairI1A1AE".to_owned();
            (0..depth).for_each(|index| {
                bomb.push_str(&if index == 0 {
                    "St4pairIS_S_E".to_owned()
                } else {
                    format!("St4pairIS{0}_S{0}_E", index - 1)
                })
            });
            bomb
        };
        for (about, name) in [
            ("a C++ name that doubles each time", pairs(30)),
            ("a C++ name of 100,000 pointers", format!("_Z1f{}", "P".repeat(100_000))),
            ("a C++ name of 50,000 parts", format!("_ZN{}E", "1a".repeat(50_000))),
            ("a Rust name of 100,000 tuples", format!("_R{}", "T".repeat(100_000))),
            ("a Rust name that refers to itself", format!("_RNvC1a{}", "B0_".repeat(20_000))),
            ("a name of 100,000 letters", "a".repeat(100_000)),
        ] {
            let compiled = self.compile(about, &name, "", &[]);
            self.add(about, Then::Whole, compiled);
        }
    }

    fn mini_debug_information(&mut self) {
        let about = NO_MINI;
        let (path, offset) = self.compile(about, "through", "", &[]);
        let section = path.with_extension("xz");
        fs::write(&section, [7; 5000]).expect("a file");
        let mut add = std::ffi::OsString::from("--add-section=.gnu_debugdata=");
        add.push(&section);
        let made = Command::new("objcopy").arg("--strip-all").arg(add).arg(&path).status().expect("objcopy");
        assert!(made.success());
        self.add(about, Then::Named, (path, offset));
    }

    fn debug_links(&mut self) {
        self.linked("a debug link to a FIFO", Then::Named, |debug, _| {
            nix::unistd::mkfifo(debug, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        });
        self.linked("a debug link to endless zeros", Then::Named, |debug, _| {
            symlink("/dev/zero", debug).expect("a link")
        });
        self.linked("a debug link to itself", Then::Named, |debug, _| symlink(debug, debug).expect("a link"));
        self.linked("a debug link to a directory", Then::Named, |debug, _| fs::create_dir(debug).expect("a directory"));
        self.linked("a debug link to a file of holes", Then::Named, |debug, whole| {
            fs::copy(whole, debug).expect("a copy");
            fs::File::options().write(true).open(debug).and_then(|file| file.set_len(1 << 40)).expect("a large file");
        });
    }
}

#[test]
fn stacks_through_hostile_files_have_their_answers_and_the_others_too() {
    let name = "stacks_through_hostile_files_have_their_answers_and_the_others_too";
    if !has_tool("gcc") || !has_tool("objcopy") {
        return skip(name, "no gcc or no objcopy");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut maker = Maker { directory: directory.path(), made: Vec::new() };
    maker.changed("nothing wrong", Then::Named, &[], |_| {});
    maker.call_frame_information();
    maker.tables();
    maker.debug_information();
    maker.compressed_debug_information();
    maker.names();
    maker.debug_links();
    maker.mini_debug_information();
    maker.changed("cut to nothing after it was mapped", Then::Before, &[], |_| {});
    maker.changed("cut after its first page", Then::Before, &[], |elf| elf.0.resize(16 << 10, 0));
    // What is left of these is in memory: not their symbols, which nobody has mapped.
    maker.changed("replaced by another file", Then::Whole, &[], |_| {});
    maker.changed("replaced by a FIFO", Then::Whole, &[], |_| {});
    let files = maker.made;
    let arguments = files.iter().flat_map(|file| [file.path.display().to_string(), file.offset.to_string()]);
    let target = Child::target("mapper", &["-O2"], arguments);
    for file in &files {
        let cut = |length| fs::File::options().write(true).open(&file.path).and_then(|open| open.set_len(length));
        match file.about {
            "cut to nothing after it was mapped" => cut(0).expect("cut"),
            "cut after its first page" => cut(4096).expect("cut"),
            "replaced by another file" => {
                let other = file.path.with_extension("new");
                fs::write(&other, vec![7; 100_000]).expect("a file");
                fs::rename(&other, &file.path).expect("renamed");
            }
            "replaced by a FIFO" => {
                fs::remove_file(&file.path).expect("removed");
                nix::unistd::mkfifo(&file.path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
            }
            _ => {}
        }
    }
    for stop in ["never", "auto"] {
        let begin = Instant::now();
        let answer = run([
            "stacks",
            "--flat",
            "--stop",
            stop,
            "--stop-budget",
            "30s",
            "--limit",
            "stop=5s/60s",
            "--pid",
            &target.pid().to_string(),
        ]);
        assert!(matches!(answer.status, 3 | 4), "{}: {}", answer.status, answer.stderr);
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        let seen: Value = serde_json::from_slice(&answer.stdout).expect("an envelope");
        common::assert_valid(&seen);
        let itself = common::json(["version"])["cost"]["peak_rss_kib"].as_u64().expect("a peak");
        let peak = seen["cost"]["peak_rss_kib"].as_u64().expect("a peak") - itself;
        assert!(peak < 42 << 10, "{peak} KiB");
        check(&seen, &files, &target);
    }
}

fn check(seen: &Value, files: &[Hostile], target: &Child) {
    assert_eq!(rows(seen).len(), files.len() + 1);
    let main = thread(seen, &json!(target.pid()));
    assert!(main["complete"] == true && functions(&main).iter().any(|name| name == "main"), "{main}");
    let unread = files.iter().find(|file| file.about == NO_MINI).expect("a file").path.display().to_string();
    let gaps = common::gaps_at(seen, "/rows/-/frames/-/function");
    assert!(gaps.iter().any(|gap| gap["path"] == unread.as_str() && gap["reason"] == "incomplete"), "{gaps:?}");
    let lines = common::gaps_at(seen, "/rows/-/frames/-/line");
    for file in files.iter().filter(|file| file.about == WHOLE_LINES || DAMAGED_LINES.contains(&file.about)) {
        let path = file.path.display().to_string();
        let said: Vec<_> = lines.iter().filter(|gap| gap["path"] == path.as_str()).map(|gap| &gap["reason"]).collect();
        let expected = if file.about == WHOLE_LINES { vec![] } else { vec!["malformed"] };
        assert_eq!(said, expected, "{}: {lines:?}", file.about);
    }
    let threads = target.truth.iter().filter(|line| line["tid"].is_u64());
    for (file, said) in files.iter().zip(threads) {
        let row = thread(seen, &said["tid"]);
        let names = functions(&row);
        let about = file.about;
        assert!(
            names.iter().any(|name| name == "read") && names.iter().any(|name| name == "wait_here"),
            "{about}: {names:?}"
        );
        let whole = row["complete"] == true && names.iter().any(|name| name == "enter");
        assert!(whole || file.then == Then::Before, "{about}: {row}");
        assert!(names.iter().any(|name| name == "through") || file.then != Then::Named, "{about}: {names:?}");
        let frames = row["frames"].as_array().expect("frames");
        assert!(
            about != WHOLE_LINES || frames.iter().any(|frame| frame["function"] == "through" && frame["line"] == 5),
            "{row}"
        );
        // A name is cut where it is long, and no name is made of nothing.
        assert!(names.iter().all(|name| name.len() <= 4100), "{about}");
    }
}

#[test]
fn a_link_out_of_the_root_of_the_target_is_not_followed() {
    let name = "a_link_out_of_the_root_of_the_target_is_not_followed";
    if !common::is_root() || !has_tool("chroot") || !has_tool("objcopy") {
        return skip(name, "needs root, chroot and objcopy");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("root");
    fs::create_dir_all(root.join("proc")).expect("a directory");
    let whole = agent_targets::build("mapper", &["-O2", "-static", "-Wl,--build-id"]);
    let (program, outside) = (root.join("program"), directory.path().join("outside.debug"));
    let strip = Command::new("objcopy").arg("--strip-all").arg(&whole).arg(&program).status().expect("objcopy");
    let only = Command::new("objcopy").arg("--only-keep-debug").arg(&whole).arg(&outside).status().expect("objcopy");
    assert!(strip.success() && only.success());
    let output = Command::new("readelf").arg("-n").arg(&whole).output().expect("readelf");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id =
        text.split("Build ID: ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a build ID").to_owned();
    let place = root.join("usr/lib/debug/.build-id").join(&id[..2]);
    fs::create_dir_all(&place).expect("a directory");
    let link = place.join(format!("{}.debug", &id[2..]));
    let target = Child::ready(Command::new("chroot").arg(&root).arg("/program"));
    let names = || {
        let seen = super::stacks(target.pid(), &["--stop", "never"]);
        functions(&thread(&seen, &json!(target.pid())))
    };
    for to in [outside.clone(), PathBuf::from("../../../../../../../../outside.debug")] {
        symlink(&to, &link).expect("a link");
        assert!(!names().iter().any(|name| name == "main"), "{}", to.display());
        fs::remove_file(&link).expect("removed");
    }
    // The same file within the root has the names.
    fs::copy(&outside, &link).expect("a copy");
    assert!(names().iter().any(|name| name == "main"), "{:?}", names());
}
