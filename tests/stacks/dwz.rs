//! Debug information of which dwz(1) has put into a file of its own what several programs have in common.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::common::{self, Child, SOON, gaps_at, has_tool, rows, skip, wait_until};
use super::peers::compare;
use super::{stacks, thread, tool};

/// Two functions that are inlined, one into the other.
const SOURCE: &str = r#"
#include <stdio.h>
#include <unistd.h>
struct item { const char *name; long price; struct item *next; };
static inline __attribute__((always_inline)) int inner_of_both(char *b, struct item *all)
{
    int got = (int)read(0, b, 1);
    for (; all; all = all->next) got += (int)all->price;
    return got;
}
static inline __attribute__((always_inline)) int middle_of_both(char *b, struct item *all)
{
    return inner_of_both(b, all) + 1;
}
__attribute__((noinline)) int outer(char *b, struct item *all)
{
    int r = middle_of_both(b, all);
    __asm__ volatile("" ::: "memory");
    return r + NUMBER;
}
int main(void)
{
    char b;
    struct item all[1] = {{"tea", 3, 0}};
    puts("\"ready\"");
    fflush(stdout);
    return outer(&b, all);
}
"#;

/// Builds `first` and `second` in `directory`, and puts what they have in common into `common`.
fn build(directory: &Path, flags: &[&str], name: &[&str]) {
    fs::write(directory.join("both.c"), SOURCE).expect("a file");
    let perform = |command: &mut Command| {
        let output = command.current_dir(directory).output().expect("a tool");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for (program, number) in [("first", "-DNUMBER=1"), ("second", "-DNUMBER=2")] {
        let mut gcc = Command::new("gcc");
        perform(gcc.args(["-O2", "-g", "-Wl,--build-id", number, "-o", program, "both.c"]).args(flags));
    }
    perform(Command::new("dwz").args(["-m", "common"]).args(name).args(["first", "second"]));
    assert!(directory.join("common").exists(), "they have something in common");
}

/// Function and line of each level of a frame, the innermost first.
fn levels(frame: &Value) -> Vec<(String, u64)> {
    let inlined = frame["inlined"].as_array().into_iter().flatten();
    let level = |one: &Value| {
        (one["function"].as_str().unwrap_or("?").to_owned(), one["line"].as_u64().unwrap_or_else(|| panic!("{frame}")))
    };
    inlined.chain([frame]).map(level).collect()
}

fn outer(pid: u32) -> (Value, Value) {
    wait_until("it to read", SOON, || common::state(pid) == Some('S'));
    let seen = stacks(pid, &["--stop", "never"]);
    let row = thread(&seen, &json!(pid));
    let frames = row["frames"].as_array().expect("frames");
    let frame = frames.iter().find(|frame| frame["function"] == "outer").unwrap_or_else(|| panic!("no outer in {row}"));
    (frame.clone(), seen)
}

#[test]
fn what_programs_have_in_common_is_named_as_gdb_and_eu_addr2line_name_it() {
    let name = "what_programs_have_in_common_is_named_as_gdb_and_eu_addr2line_name_it";
    if let Some(missing) = ["gcc", "dwz", "gdb", "eu-stack", "eu-addr2line"].iter().find(|tool| !has_tool(tool)) {
        return skip(name, &format!("{missing} is not installed"));
    }
    let directory = tempfile::tempdir().expect("a directory");
    for flags in [&["-gdwarf-5"][..], &["-gdwarf-4"]] {
        build(directory.path(), flags, &[]);
        for program in ["first", "second"] {
            let program = directory.path().join(program);
            let target = Child::ready(&mut Command::new(&program));
            wait_until("it to read", SOON, || common::state(target.pid()) == Some('S'));
            let found = compare(name, target.pid());
            assert!(found.threads == 2 && found.same >= 4, "{flags:?}: {found:?}");
            let (frame, seen) = outer(target.pid());
            assert_eq!(seen["gaps"], json!([]), "{flags:?}");
            let names: Vec<_> = levels(&frame).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["inner_of_both", "middle_of_both", "outer"], "{flags:?}: {frame}");
            for frame in rows(&seen)[0]["frames"].as_array().expect("frames") {
                if frame["module"] == program.to_str().expect("UTF-8") && frame["line"].is_u64() {
                    assert_eq!(levels(frame), addr2line(&program, frame), "{flags:?}: {frame}");
                }
            }
        }
    }
}

/// The same by eu-addr2line.
fn addr2line(program: &Path, frame: &Value) -> Vec<(String, u64)> {
    let svma = u64::from_str_radix(frame["offset"].as_str().expect("hex").trim_start_matches("0x"), 16).expect("hex");
    let svma = if frame["kind"] == "return_address" { svma - 1 } else { svma };
    let mut command = Command::new("eu-addr2line");
    let output = command.arg("-e").arg(program).args(["-i", "-f", &format!("{svma:#x}")]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let level = |pair: &[&str]| {
        let function = pair[0].split(" inlined at").next().unwrap_or_default();
        (function.to_owned(), pair[1].split(':').nth(1).and_then(|line| line.parse().ok()).unwrap_or_default())
    };
    lines.chunks_exact(2).map(level).collect()
}

#[test]
fn what_programs_have_in_common_is_found_in_the_root_of_the_target_by_path_and_build_id() {
    let name = "what_programs_have_in_common_is_found_in_the_root_of_the_target_by_path_and_build_id";
    if !common::is_root() || !["gcc", "dwz", "chroot", "objcopy", "readelf"].iter().all(|tool| has_tool(tool)) {
        return skip(name, "needs root, gcc, dwz, chroot, objcopy and readelf");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    fs::create_dir(root.join("proc")).expect("a directory");
    build(root, &["-static"], &["-M", "/usr/lib/debug/.dwz/shop/common"]);
    let build_id = |name: &str| {
        let output = Command::new("readelf").arg("-n").arg(root.join(name)).output().expect("readelf");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let id = text.split("Build ID: ").nth(1).and_then(|rest| rest.split_whitespace().next());
        id.expect("a build ID").to_owned()
    };
    let id = build_id("common");
    let place = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        path
    };
    let named = place("usr/lib/debug/.dwz/shop/common");
    let by_name = place("usr/lib/debug/.dwz/common");
    let by_build_id = |id: &str| place(&format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]));
    let by_id = by_build_id(&id);
    // The kernel tells the program's path as the reader sees it, so below the root only the debug file is found.
    fs::copy(root.join("first"), by_build_id(&build_id("first"))).expect("a copy");
    let target = Child::ready(Command::new("chroot").arg(root).arg("/first"));
    let found = |about: &str| {
        let (frame, seen) = outer(target.pid());
        assert!(gaps_at(&seen, "/rows/-/frames/-/").is_empty(), "{about}: {}", seen["gaps"]);
        assert_eq!(levels(&frame)[0].0, "inner_of_both", "{about}: {frame}");
    };
    for path in [&named, &by_name, &by_id] {
        fs::copy(root.join("common"), path).expect("a copy");
        found(&path.display().to_string());
        fs::remove_file(path).expect("removed");
    }
    // It is compressed.
    tool("objcopy", &["--compress-debug-sections=zlib".as_ref(), root.join("common").as_ref(), named.as_ref()]);
    found("compressed");

    // Not there, another file, one with another build ID, and one that is damaged.
    let whole = fs::read(root.join("common")).expect("a file");
    let bytes: Vec<u8> = (0..id.len() / 2).map(|at| u8::from_str_radix(&id[at * 2..][..2], 16).expect("hex")).collect();
    let at = whole.windows(bytes.len()).position(|window| window == bytes).expect("its build ID");
    let mut other = whole.clone();
    other[at] ^= 1;
    for (about, content) in [
        ("not there", None),
        ("no ELF file", Some(vec![7; 5000])),
        ("another build ID", Some(other)),
        ("cut", Some(whole[..whole.len() / 3].to_vec())),
    ] {
        let _ = fs::remove_file(&named);
        content.into_iter().for_each(|content| fs::write(&named, content).expect("a file"));
        let (frame, seen) = outer(target.pid());
        let levels = levels(&frame);
        assert_eq!((levels.len(), levels[0].0.as_str(), levels[0].1), (3, "?", 7), "{about}: {frame}");
        let gap = gaps_at(&seen, "/rows/-/frames/-/inlined")[0];
        assert_eq!(gap["reason"], "not_found", "{about}: {gap}");
        assert!(gap["path"].as_str().is_some_and(|path| path.ends_with("/first")), "{about}: {gap}");
        let detail = gap["detail"].as_str().expect("a detail");
        assert!(detail.contains("/usr/lib/debug/.dwz/shop/common") && detail.contains(&id), "{about}: {gap}");
    }
    // Damage within its sections: other names, or none, and no harm.
    for seed in 1..8 {
        let mut damaged = whole.clone();
        (at + 64..damaged.len()).step_by(7 * seed).for_each(|at| damaged[at] ^= 0x5a);
        fs::write(&named, damaged).expect("a file");
        let (frame, seen) = outer(target.pid());
        assert_eq!(frame["line"], 17, "{frame}");
        assert!(seen["cost"]["peak_rss_kib"].as_u64().expect("a peak") < 40 << 10, "{}", seen["cost"]);
    }
}
