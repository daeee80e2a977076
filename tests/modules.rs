//! `agent modules` against live processes, and against ldd, dpkg, sha256sum, readelf and `go version -m` in the same
//! run. (The readers alone are compared with readelf and eu-readelf over the whole machine in toolkits/binaries/tests.)
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;
#[path = "modules/provenance.rs"]
mod provenance;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Child, gaps_at, has_tool, json, row, rows, run, skip};
use serde_json::{Value, json};

/// What a command prints, if it succeeds.
fn output(program: impl AsRef<Path>, args: &[&str]) -> Option<String> {
    let output = Command::new(program.as_ref()).args(args).env("LC_ALL", "C").output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    output.status.success().then(|| String::from_utf8_lossy(&text).into_owned())
}

fn modules(child: &Child, options: &[&str]) -> Value {
    let pid = child.pid().to_string();
    json([&["modules", "--pid", &pid, "-o", "json"], options].concat())
}

fn by_path(envelope: &Value) -> BTreeMap<String, &Value> {
    rows(envelope).iter().map(|row| (row["path"].as_str().unwrap().to_owned(), row)).collect()
}

/// A Python that has loaded extension modules, and says where it is and what it is.
fn python() -> Option<Child> {
    if !has_tool("python3") {
        return None;
    }
    let text = "import ssl, sqlite3, platform, sys, json, os\n\
        print(json.dumps({'executable': os.path.realpath('/proc/self/exe'), 'version': platform.python_version(),\n\
        'openssl': ssl.OPENSSL_VERSION.split()[1], 'libc': platform.libc_ver()[1], 'ssl': __import__('_ssl').__file__}))\n\
        print('\"ready\"', flush=True)\n\
        sys.stdin.read()\n";
    Some(Child::ready(Command::new("python3").args(["-c", text])))
}

/// The ELF files in the maps of a process.
fn mapped_elf(pid: u32) -> BTreeSet<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| line[at..].to_owned()));
    paths.filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"))).collect()
}

#[test]
fn extension_modules_of_python_are_told_from_what_it_was_linked_to() {
    let Some(child) = python() else { return skip("extension_modules_of_python", "no python3") };
    let truth = &child.truth[0];
    let answer = modules(&child, &["--hash"]);
    assert_eq!(answer["gaps"], json!([]));
    let found = by_path(&answer);
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), mapped_elf(child.pid()));

    // ldd says what the executable needs; all else came later.
    let executable = truth["executable"].as_str().unwrap();
    assert_eq!(found[executable]["loaded"], "executable");
    let ldd = output("ldd", &[executable]).expect("ldd");
    let resolved: BTreeMap<&str, PathBuf> = ldd
        .lines()
        .filter_map(|line| line.trim().split_once(" => "))
        .filter_map(|(name, path)| Some((name, fs::canonicalize(path.split(" (").next()?).ok()?)))
        .collect();
    let needed: BTreeSet<&str> = resolved.values().filter_map(|path| path.to_str()).collect();
    for (path, row) in &found {
        let expected = match path.as_str() {
            path if path == executable => "executable",
            path if path.contains("/ld-linux") || path.contains("/ld-2.") => "interpreter",
            path if needed.contains(path) => "needed",
            _ => "dlopen",
        };
        assert_eq!(row["loaded"], expected, "{path}");
        // What each needs was resolved as ldd resolves it.
        for one in row["needed"].as_array().unwrap() {
            let (name, got) = (one["name"].as_str().unwrap(), one["path"].as_str());
            let Some(by_ldd) = resolved.get(name) else { continue };
            assert_eq!(got, by_ldd.to_str(), "{path} needs {name}");
        }
    }
    assert_eq!(found[truth["ssl"].as_str().unwrap()]["loaded"], "dlopen");

    // Attributes as stat(2) and sha256sum(1) have them.
    use std::os::unix::fs::MetadataExt as _;
    let paths: Vec<&str> = found.keys().map(String::as_str).collect();
    let sums = output("sha256sum", &paths).expect("sha256sum");
    for line in sums.lines() {
        let (sum, path) = line.split_once("  ").unwrap();
        let stat = fs::metadata(path).unwrap();
        let row = found[path];
        assert_eq!((row["sha256"].as_str(), row["size_bytes"].as_u64()), (Some(sum), Some(stat.len())), "{path}");
        assert_eq!(row["inode"], stat.ino().to_string(), "{path}");
        assert!(!row["deleted"].as_bool().unwrap() && !row["replaced"].as_bool().unwrap());
    }

    // Runtimes by what they say of themselves.
    let runtimes: BTreeSet<(String, String)> = rows(&answer)
        .iter()
        .flat_map(|row| row["runtimes"].as_array().into_iter().flatten())
        .map(|one| (one["name"].as_str().unwrap().to_owned(), one["version"].as_str().unwrap().to_owned()))
        .collect();
    for (name, key) in [("cpython", "version"), ("openssl", "openssl"), ("glibc", "libc")] {
        let version = truth[key].as_str().unwrap().to_owned();
        assert!(runtimes.contains(&(name.to_owned(), version.clone())), "{name} {version} in {runtimes:?}");
    }

    // The same state gives the same bytes.
    assert_eq!(answer["digest"], modules(&child, &["--hash"])["digest"]);
}

/// Starts an interpreter that waits for its standard input, and takes its version from `version`.
fn runtime(program: &str, args: &[&str]) -> Option<Child> {
    has_tool(program).then(|| Child::ready(Command::new(program).args(args)))
}

fn has_runtime(answer: &Value, name: &str) -> Vec<String> {
    let all = rows(answer).iter().flat_map(|row| row["runtimes"].as_array().into_iter().flatten());
    all.filter(|one| one["name"] == name).map(|one| one["version"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn interpreters_have_the_version_that_they_say() {
    let wait = "console.log('\"ready\"'); process.stdin.resume()";
    let ruby = "puts '\"ready\"'; $stdout.flush; $stdin.read";
    let php = "echo \"\\\"ready\\\"\\n\"; fgets(STDIN);";
    for (name, program, args, version) in [
        ("node", "node", vec!["-e", wait], "--version"),
        ("ruby", "ruby", vec!["-e", ruby], "--version"),
        ("php", "php", vec!["-r", php], "--version"),
    ] {
        let Some(child) = runtime(program, &args) else {
            skip("interpreters_have_the_version_that_they_say", &format!("no {program}"));
            continue;
        };
        let said = output(program, &[version]).expect("its version");
        let answer = modules(&child, &[]);
        let found = has_runtime(&answer, name);
        let [version] = &found[..] else { panic!("{name}: {found:?}") };
        assert!(said.contains(version.as_str()), "{name}: {version} in {said}");
    }
}

#[test]
fn libraries_of_a_jvm_are_listed_with_its_version() {
    let directory = tempfile::tempdir().unwrap();
    let child = match common::servers::java(directory.path()) {
        Ok(child) => child,
        Err(reason) => return skip("libraries_of_a_jvm_are_listed_with_its_version", reason),
    };
    let answer = modules(&child, &["--verify"]);
    let found = has_runtime(&answer, "openjdk");
    let said = output("java", &["-version"]).expect("its version");
    assert!(found.len() == 1 && said.contains(&found[0]), "{found:?} in {said}");
    assert_eq!(by_path(&answer).keys().cloned().collect::<BTreeSet<_>>(), mapped_elf(child.pid()));
    let jvm = rows(&answer).iter().find(|row| row["soname"] == "libjvm.so").expect("libjvm.so");
    assert_eq!(jvm["loaded"], "dlopen");
    assert_eq!(answer["data"]["summary"]["modified"], 0);
}

const LIBRARY: &str = "int agent_test_function(int a);\nint agent_test_function(int a) { return a * 3; }\n";

/// Loads what is named on its command line, says where a function is, patches it if asked to, and waits.
const LOADER: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int patched(int a);
__attribute__((noinline, aligned(64))) int patched(int a) { __asm__(""); return a + 1; }
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--patch")) {
            char *page = (char *)((unsigned long)patched & ~4095UL);
            if (mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)) return 2;
            *((volatile unsigned char *)patched + 1) = 0xcc;
            void *both = mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            printf("{\"patched\": \"%p\", \"both\": \"%p\"}\n", (void *)patched, both);
            continue;
        }
        void *library = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
        if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
        printf("{\"function\": \"%p\"}\n", dlsym(library, "agent_test_function"));
    }
    printf("\"ready\"\n");
    fflush(stdout);
    char c;
    while (read(0, &c, 1) > 0) { }
    return 0;
}
"#;

/// A copy of a program or library of its own, in `directory`.
fn copy(directory: &Path, name: &str, from: &Path) -> PathBuf {
    let to = directory.join(name);
    // Not by this process: a thread that forks meanwhile would keep the copy open for writing (ETXTBSY).
    assert!(Command::new("cp").arg(from).arg(&to).status().unwrap().success());
    to
}

fn library() -> PathBuf {
    common::compile_c(LIBRARY, &["-shared", "-fPIC", "-Wl,-soname,libagenttest.so.1", "-Wl,--build-id"])
}

fn loader() -> PathBuf {
    common::compile_c(LOADER, &["-O1", "-ldl"])
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn preloaded_deleted_and_replaced_modules_are_marked() {
    let directory = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(directory.path()).unwrap();
    let [preloaded, deleted, replaced] =
        ["pre.so", "deleted.so", "replaced.so"].map(|name| copy(&place, name, &library()));
    let executable = copy(&place, "loader", &loader());
    let child = Child::ready(Command::new(&executable).args([&deleted, &replaced]).env("LD_PRELOAD", &preloaded));
    let build_id = modules(&child, &[]);
    let build_id = row(&build_id, "path", text(&deleted))["build_id"].clone();
    assert!(build_id.is_string());
    fs::remove_file(&deleted).unwrap();
    fs::remove_file(&executable).unwrap();
    let newer = copy(&place, "newer", &loader());
    fs::rename(newer, &replaced).unwrap();

    let answer = modules(&child, &["--hash"]);
    let marks = |path: &Path| {
        let row = row(&answer, "path", text(path));
        (row["loaded"].as_str().unwrap(), row["deleted"].as_bool().unwrap(), row["replaced"].as_bool().unwrap())
    };
    assert_eq!(marks(&preloaded), ("preload", false, false));
    assert_eq!(marks(&deleted), ("dlopen", true, false));
    assert!(marks(&replaced).0 == "dlopen" && (marks(&replaced).1 || marks(&replaced).2));
    assert_eq!(marks(&executable), ("executable", true, false));
    // What it is, is known without the file.
    let gone = row(&answer, "path", text(&deleted));
    assert_eq!((&gone["build_id"], &gone["soname"]), (&build_id, &json!("libagenttest.so.1")));
    // The executable's file is still there for whoever has its link.
    let gone = row(&answer, "path", text(&executable));
    let sum = output("sha256sum", &[text(&loader())]).unwrap();
    assert_eq!((gone["source"].as_str(), gone["sha256"].as_str()), (Some("file"), sum.split(' ').next()));
    let summary = &answer["data"]["summary"];
    assert_eq!((&summary["deleted_or_replaced"], &summary["preloaded"]), (&json!(3), &json!(1)));
}

#[test]
fn a_patched_function_is_found_by_verify_and_writable_code_is_told() {
    let child = Child::ready(Command::new(loader()).arg("--patch"));
    let answer = modules(&child, &["--verify"]);
    let executable = rows(&answer).iter().find(|row| row["loaded"] == "executable").unwrap();
    let verified = &executable["verified"];
    assert_eq!((&verified["changed_pages"], &answer["data"]["summary"]["modified"]), (&json!(1), &json!(1)));
    let change = &verified["changes"][0];
    let patched = u64::from_str_radix(&child.truth[0]["patched"].as_str().unwrap()[2..], 16).unwrap();
    assert_eq!(change["address"], format!("{:#x}", patched + 1));
    assert_eq!(
        (&change["function"], &change["offset"], &change["memory"]),
        (&json!("patched"), &json!(1), &json!("cc"))
    );
    // The other modules are as their files.
    for row in rows(&answer).iter().filter(|row| row["loaded"] != "executable") {
        assert_eq!(row["verified"]["changed_pages"], 0, "{}", row["path"]);
    }
    assert_eq!(executable["writable_code"].as_array().map(Vec::len), Some(1));
    let nameless = answer["data"]["summary"]["writable_code"].as_array().unwrap();
    assert!(nameless.iter().any(|range| range["address"] == child.truth[0]["both"]), "{nameless:?}");
}

#[test]
fn symbols_and_addresses_are_named() {
    let library = library();
    let child = Child::ready(Command::new(loader()).arg(&library));
    let function = child.truth[0]["function"].as_str().unwrap();
    let answer = modules(&child, &["--symbols", "agent_test_f*"]);
    let [only] = rows(&answer) else { panic!("{answer}") };
    let symbol = &only["symbols"][0];
    assert_eq!((&symbol["address"], &symbol["name"]), (&json!(function), &json!("agent_test_function")));
    assert_eq!((&symbol["type"], &symbol["defined"]), (&json!("function"), &json!(true)));

    let inside = format!("{:#x}", u64::from_str_radix(&function[2..], 16).unwrap() + 2);
    let answer = modules(&child, &["--address", &inside, "--address", "0x10"]);
    let [only] = rows(&answer) else { panic!("{answer}") };
    let located = &only["addresses"][0];
    assert_eq!(only["path"], text(&fs::canonicalize(&library).unwrap()));
    assert_eq!((&located["function"], &located["offset"]), (&json!("agent_test_function"), &json!(2)));
    assert_eq!(located["section"], ".text");
    assert_eq!(gaps_at(&answer, "/rows").len(), 1, "an address in no module is a gap");

    // Versions, as readelf has them.
    if !has_tool("readelf") {
        return skip("symbols_and_addresses_are_named", "no readelf");
    }
    let answer = modules(&child, &["--symbols", "pthread_c*"]);
    let libc = rows(&answer).iter().find(|row| row["soname"] == "libc.so.6").unwrap();
    let found: BTreeSet<(String, u64)> = libc["symbols"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["table"] == "dynsym")
        .map(|one| {
            let mark = if one["default_version"] == true { "@@" } else { "@" };
            let name = format!("{}{mark}{}", one["name"].as_str().unwrap(), one["version"].as_str().unwrap());
            (name, one["size_bytes"].as_u64().unwrap())
        })
        .collect();
    let said = output("readelf", &["-W", "--dyn-syms", libc["path"].as_str().unwrap()]).unwrap();
    let expected: BTreeSet<(String, u64)> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() >= 8 && words[7].starts_with("pthread_c") && words[6] != "UND")
        .map(|words| (words[7].to_owned(), words[2].parse().unwrap()))
        .collect();
    assert!(expected.len() > 10);
    assert_eq!(found, expected);
}

#[test]
fn two_captures_are_compared() {
    let directory = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(directory.path()).unwrap();
    let plugin = copy(&place, "plugin.so", &library());
    let with = Child::ready(Command::new(loader()).arg(&plugin));
    let before = place.join("before.json");
    fs::write(&before, modules(&with, &[]).to_string()).unwrap();
    let answer = modules(&with, &["--compare", text(&before)]);
    let comparison = &answer["data"]["summary"]["comparison"];
    assert_eq!(comparison["differences"], json!([]), "nothing differs from itself");

    // Another pod: another build of the plugin, and one module more.
    let other = common::compile_c(&LIBRARY.replace('3', "4"), &["-shared", "-fPIC", "-Wl,--build-id"]);
    fs::remove_file(&plugin).unwrap();
    copy(&place, "plugin.so", &other);
    let added = copy(&place, "added.so", &library());
    let other = Child::ready(Command::new(loader()).args([&plugin, &added]));
    let pid = other.pid().to_string();
    let ndjson = place.join("before.ndjson");
    fs::write(&ndjson, run(["modules", "--pid", &with.pid().to_string(), "-o", "ndjson", "--allow-gaps"]).stdout)
        .unwrap();
    let answer = json(["modules", "--pid", &pid, "-o", "json", "--compare", text(&before)]);
    let differences = answer["data"]["summary"]["comparison"]["differences"].as_array().unwrap();
    let told: Vec<_> =
        differences.iter().map(|one| (one["path"].as_str().unwrap(), one["change"].as_str().unwrap())).collect();
    assert_eq!(told, [(text(&added), "added"), (text(&plugin), "changed")]);
    let fields: Vec<&str> =
        differences[1]["fields"].as_array().unwrap().iter().map(|field| field["field"].as_str().unwrap()).collect();
    assert!(fields.contains(&"build_id") && fields.contains(&"soname"), "{fields:?}");
    let answer = json(["modules", "--pid", &pid, "-o", "json", "--compare", text(&ndjson)]);
    assert!(answer["data"]["summary"]["comparison"]["modules"].as_u64().unwrap() >= 4);

    fs::write(&before, "no capture").unwrap();
    let answer = json(["modules", "--pid", &pid, "-o", "json", "--compare", text(&before)]);
    assert_eq!(gaps_at(&answer, "/summary/comparison").len(), 1);
}

#[test]
fn every_process_of_a_container_is_looked_at_with_all() {
    let first = Child::ready(&mut Command::new(loader()));
    let second = Child::ready(Command::new(loader()).arg(library()));
    let answer = modules(&first, &["--all", "--allow-gaps"]);
    let of = |path: &Path| -> BTreeSet<u64> {
        let path = fs::canonicalize(path).unwrap();
        let row = row(&answer, "path", text(&path));
        row["pids"].as_array().unwrap().iter().map(|pid| pid.as_u64().unwrap()).collect()
    };
    let both = BTreeSet::from([first.pid().into(), second.pid().into()]);
    assert!(of(&loader()).is_superset(&both));
    assert!(of(&library()).contains(&second.pid().into()) && !of(&library()).contains(&first.pid().into()));
    assert!(answer["data"]["summary"]["processes"].as_u64().unwrap() >= 2);
}

#[test]
fn a_volume_is_told_from_the_image() {
    if !common::is_root() || !has_tool("unshare") {
        return skip("a_volume_is_told_from_the_image", "only root can mount, with unshare(1)");
    }
    let directory = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(directory.path()).unwrap();
    let volume = place.join("volume");
    fs::create_dir(&volume).unwrap();
    let script = format!(
        "mount -t tmpfs none {0} && cp {1} {0}/plugin.so && exec {2} {0}/plugin.so",
        text(&volume),
        text(&library()),
        text(&loader())
    );
    if !Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", text(&volume)]).status().unwrap().success()
    {
        return skip("a_volume_is_told_from_the_image", "mount(2) is not allowed here");
    }
    let child = Child::ready(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    let answer = modules(&child, &[]);
    let plugin = row(&answer, "path", text(&volume.join("plugin.so")));
    assert_eq!((&plugin["outside_image"], &plugin["mount_point"]), (&json!(true), &json!(text(&volume))));
    assert_eq!(plugin["source"], "file", "the target's mounts are looked through");
}

#[test]
fn what_stands_in_place_of_a_module_is_never_opened() {
    let directory = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(directory.path()).unwrap();
    let [fifo, device, cut] = ["fifo.so", "device.so", "cut.so"].map(|name| copy(&place, name, &library()));
    let child = Child::ready(Command::new(loader()).args([&fifo, &device, &cut]));
    fs::remove_file(&fifo).unwrap();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::remove_file(&device).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &device).unwrap();
    // Truncated below its mapping: the target would get SIGBUS there, and nobody else.
    fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(100).unwrap();
    let answer = modules(&child, &["--hash", "--verify", "--symbols", "*"]);
    // The others are all there.
    assert!(rows(&answer).iter().any(|row| row["soname"] == "libc.so.6"));
    let answer = modules(&child, &["--hash", "--verify"]);
    for path in [&fifo, &device] {
        let row = row(&answer, "path", text(path));
        assert!(row["deleted"] == true || row["replaced"] == true, "{row}");
        assert_eq!(row["soname"], "libagenttest.so.1", "from memory");
    }
    row(&answer, "path", text(&cut));
    assert!(!answer["gaps"].as_array().unwrap().is_empty());
    assert_eq!(common::state(child.pid()), Some('S'), "the target goes on");
}

/// Maps each file that is named, and waits.
const MAPPER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int fd = open(argv[i], O_RDONLY);
        if (fd < 0 || mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED) return 1;
        close(fd);
    }
    printf("\"ready\"\n");
    fflush(stdout);
    char c;
    while (read(0, &c, 1) > 0) { }
    return 0;
}
"#;

#[test]
fn a_forged_file_is_a_gap_and_the_other_modules_still_come() {
    let directory = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(directory.path()).unwrap();
    let whole = fs::read(library()).unwrap();
    let mut forged = Vec::new();
    let mut make = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let path = place.join(name);
        fs::write(&path, bytes).unwrap();
        forged.push(path);
    };
    make("sections.so", &|bytes| bytes[40..48].fill(0xf0));
    make("count.so", &|bytes| bytes[60..62].fill(0xff));
    make("segments.so", &|bytes| bytes[32..40].fill(0x7f));
    make("short.so", &|bytes| bytes.truncate(70));
    make("class.so", &|bytes| bytes[4] = 9);
    // A build ID of a megabyte, in a note segment behind all else.
    make("note.so", &|bytes| {
        let at = bytes.len() as u64;
        let note = [&4_u32.to_le_bytes()[..], &(1_u32 << 20).to_le_bytes(), &3_u32.to_le_bytes(), b"GNU\0"].concat();
        bytes.extend(note);
        bytes.extend(vec![0xab; 1 << 20]);
        let phoff = u64::from_le_bytes(bytes[32..40].try_into().unwrap()) as usize;
        let index = (0..16).find(|index| bytes[phoff + index * 56..][..4] == 4_u32.to_le_bytes()).unwrap();
        let entry = phoff + index * 56;
        bytes[entry + 8..entry + 16].copy_from_slice(&at.to_le_bytes());
        bytes[entry + 32..entry + 40].copy_from_slice(&(16_u64 + (1 << 20)).to_le_bytes());
    });
    let child = Child::ready(Command::new(common::compile_c(MAPPER, &["-O1"])).args(&forged));
    let answer = modules(&child, &["--hash", "--verify", "--packages"]);
    let found = by_path(&answer);
    for path in &forged {
        assert!(found.contains_key(text(path)), "{}", path.display());
    }
    assert!(found.values().any(|row| row["soname"] == "libc.so.6" && row["build_id"].is_string()));
    assert_eq!(found[text(&forged[0])]["soname"], "libagenttest.so.1", "what is whole still comes");
    let malformed = answer["gaps"].as_array().unwrap().iter().filter(|gap| gap["reason"] == "malformed").count();
    assert!(malformed >= 4, "{}", answer["gaps"]);
    assert!(answer["cost"]["peak_rss_kib"].as_u64().unwrap() < 48 << 10);
}

#[test]
fn three_hundred_modules_need_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(directory.path()).unwrap();
    let libraries: Vec<PathBuf> =
        (0..300).map(|index| copy(&place, &format!("lib{index:03}.so"), &library())).collect();
    let child = Child::ready(Command::new(loader()).args(&libraries));
    let answer = modules(&child, &[]);
    assert!(rows(&answer).len() >= 302);
    assert!(answer["cost"]["peak_rss_kib"].as_u64().unwrap() <= 32 << 10, "{}", answer["cost"]);
}
