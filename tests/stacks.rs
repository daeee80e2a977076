//! `agent stacks` against programs that say where their threads are, against eu-stack, and against what must not happen
//! to a target.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

#[path = "stacks/dwz.rs"]
mod dwz;
#[path = "stacks/files.rs"]
mod files;
#[path = "stacks/go.rs"]
mod go;
#[path = "stacks/harm.rs"]
mod harm;
#[path = "stacks/large.rs"]
mod large;
#[path = "stacks/matrix.rs"]
mod matrix;
#[path = "stacks/musl.rs"]
mod musl;
#[path = "stacks/peers.rs"]
mod peers;
#[path = "stacks/real.rs"]
mod real;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use common::{Child, SOON, gaps_at, has_tool, json, row, rows, run, skip, wait_until};
use harm::assert_unharmed;
use serde_json::{Value, json};

fn stacks(pid: u32, options: &[&str]) -> Value {
    // Stops are long where other tests want the same processor.
    json(
        ["stacks", "--flat", "--stop-budget", "30s", "--limit", "stop=5s/60s", "--pid", &pid.to_string()]
            .iter()
            .chain(options),
    )
}

/// The row of one thread of a flat listing.
fn thread(envelope: &Value, tid: &Value) -> Value {
    let mut found = rows(envelope).iter().filter(|row| row["threads"][0]["tid"] == *tid);
    found.next().unwrap_or_else(|| panic!("no thread {tid}")).clone()
}

fn functions(row: &Value) -> Vec<String> {
    let frames = row["frames"].as_array().expect("frames");
    frames.iter().map(|frame| frame["function"].as_str().unwrap_or("?").to_owned()).collect()
}

/// Whether the names of `chain` stand in `functions` one after the other.
fn contains_chain(functions: &[String], chain: &Value) -> bool {
    let chain: Vec<&str> = chain.as_array().expect("a chain").iter().filter_map(Value::as_str).collect();
    functions.windows(chain.len()).any(|window| window == chain)
}

#[test]
fn says_of_500_blocked_threads_where_they_are_without_a_stop() {
    let target = Child::target("threads", &["-O2"], ["500"]);
    let seen = stacks(target.pid(), &["--stop", "never"]);
    for said in &target.truth {
        let row = thread(&seen, &said["tid"]);
        assert_eq!(row["threads"][0]["name"], said["name"]);
        assert_eq!(row["system_call"], said["syscall"], "{row}");
        assert_eq!(row["method"], "no_stop", "{row}");
        assert_eq!(row["complete"], true, "{row}");
        assert!(
            contains_chain(&functions(&row), &said["chain"]),
            "{:?} is not in {:?}",
            said["chain"],
            functions(&row)
        );
    }
    assert_eq!(target.truth.len(), 500);
    assert_eq!(rows(&seen).len(), 501);
    assert_eq!(seen["cost"]["stops"], 0);
    assert_eq!(seen["gaps"], json!([]));
}

/// Code that keeps a frame pointer, which a thread does not tell unless it is held.
#[test]
fn unoptimized_code_is_read_without_a_stop_too() {
    for flags in [&["-O0"][..], &["-O2", "-fno-omit-frame-pointer"]] {
        let target = Child::target("threads", flags, ["60"]);
        for options in [&["--stop", "never"][..], &[]] {
            let seen = stacks(target.pid(), options);
            for said in &target.truth {
                let row = thread(&seen, &said["tid"]);
                if row["complete"] == true {
                    assert!(contains_chain(&functions(&row), &said["chain"]), "{row}");
                } else {
                    // What an optimized function pushes for a call, it may never take back.
                    assert_eq!((&row["end"], flags[0]), (&json!("needs_register"), "-O2"), "{row}");
                }
            }
            let summary = &seen["data"]["summary"];
            let whole = summary["complete"].as_u64().expect("a count");
            assert!(whole >= if flags[0] == "-O0" { 61 } else { 50 }, "{summary}");
            assert!(options.is_empty() || seen["cost"]["stops"] == 0, "{}", seen["cost"]);
        }
        assert_unharmed(target.pid());
    }
}

#[test]
fn equal_stacks_are_one_row() {
    let target = Child::target("threads", &["-O2"], ["200"]);
    let seen = json(["stacks", "--pid", &target.pid().to_string()]);
    let all = rows(&seen);
    assert!(all.len() < 60, "{} rows", all.len());
    let counts: Vec<u64> = all.iter().map(|row| row["count"].as_u64().expect("a count")).collect();
    assert_eq!(counts.iter().sum::<u64>(), 201);
    assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
    assert_eq!(seen["data"]["summary"]["threads"], 201);
}

#[test]
fn a_running_thread_is_held_once_and_goes_on() {
    let target = Child::target("spinner", &["-O2"], [""; 0]);
    let said = target.truth[0].clone();
    let seen = stacks(target.pid(), &[]);
    let row = thread(&seen, &said["tid"]);
    assert_eq!(row["method"], "stopped");
    assert_eq!(row["complete"], true, "{row}");
    assert!(contains_chain(&functions(&row), &said["chain"]), "{:?}", functions(&row));
    assert_eq!(seen["cost"]["stops"], 1);
    assert_unharmed(target.pid());

    let never = stacks(target.pid(), &["--stop", "never"]);
    let row = thread(&never, &said["tid"]);
    assert_eq!((&row["method"], &row["state"]), (&json!("syscall_only"), &json!("running")));
    let gap = gaps_at(&never, "/rows/")[0];
    assert!(gap["remedy"].as_str().is_some_and(|text| text.contains("--stop=auto")), "{gap}");
    assert_eq!(never["cost"]["stops"], 0);
}

#[test]
fn a_stack_of_10000_frames_is_read_whole_or_said_to_be_cut() {
    let target = Child::target("deep", &["-O2"], ["10000"]);
    let said = target.truth[0].clone();
    let whole = stacks(target.pid(), &["--max-frames", "65536", "--stop", "never"]);
    let row = thread(&whole, &said["tid"]);
    assert_eq!(row["complete"], true, "{}", row["end"]);
    assert_eq!(functions(&row).iter().filter(|name| *name == "recurse").count(), 10_000);
    let cut = run(["stacks", "--flat", "--stop", "never", "--pid", &target.pid().to_string()]);
    assert_eq!(cut.status, 4, "{}", cut.stderr);
    let envelope: Value = serde_json::from_slice(&cut.stdout).expect("JSON");
    let row = thread(&envelope, &said["tid"]);
    assert_eq!((row["frames"].as_array().map(Vec::len), &row["end"]), (Some(256), &json!("truncated")));
    assert!(gaps_at(&envelope, "/rows/").iter().any(|gap| gap["reason"] == "limit_reached"));
}

#[test]
fn a_deep_stack_that_moves_is_said_to_have_gone_on() {
    let target = Child::target("deep", &["-O2"], ["10000", "moves"]);
    let tid = &target.truth[0]["tid"];
    // What a look finds is chance: nothing, since it never stood still, or the inner frames. The rest is too much to be read
    // between two sleeps.
    let mut ends = BTreeSet::new();
    wait_until("a look that came at the right moment", SOON, || {
        let seen = stacks(target.pid(), &["--max-frames", "65536", "--stop", "never"]);
        let row = thread(&seen, tid);
        let end = row["end"].as_str().unwrap_or("nothing").to_owned();
        if end == "went_on" {
            assert!(row["complete"] == false && functions(&row).contains(&"recurse".to_owned()), "{row}");
            let gaps = gaps_at(&seen, "/rows/");
            let says = |gap: &&Value| gap["detail"].as_str().is_some_and(|text| text.contains("the thread went on"));
            let gap = gaps.into_iter().find(says).expect("a gap");
            assert_eq!(gap["reason"], "incomplete");
        }
        ends.insert(end);
        ends.contains("went_on")
    });
    assert!(!ends.contains("unreadable_stack"), "{ends:?}");
}

#[test]
fn a_stack_that_is_deeper_than_what_is_copied_of_a_held_thread_says_so() {
    let target = Child::target("deep", &["-O2"], ["100000"]);
    let tid = &target.truth[0]["tid"];
    let seen = stacks(target.pid(), &["--max-frames", "65536", "--stop", "consistent"]);
    let row = thread(&seen, tid);
    assert_eq!((&row["end"], &row["method"]), (&json!("not_copied"), &json!("stopped")), "{}", row["end"]);
    let gap = gaps_at(&seen, "/rows/")[0];
    assert!(gap["remedy"].as_str().is_some_and(|text| text.contains("--stop=never")), "{gap}");
}

#[test]
fn without_rights_the_threads_are_listed_and_the_rest_is_a_gap() {
    if !common::is_root() {
        return skip("without_rights_the_threads_are_listed_and_the_rest_is_a_gap", "needs root to be another user");
    }
    let target = Child::target("threads", &["-O2"], ["10"]);
    let installed = common::Installed::new();
    let mut command = installed.as_user(65534, 65534);
    let answer = common::Answer::of(command.args(["stacks", "--flat", "--pid", &target.pid().to_string()]));
    assert_eq!(answer.status, 3, "{}", answer.stderr);
    let seen = answer.json();
    assert_eq!(rows(&seen).len(), 11);
    for said in &target.truth {
        let row = thread(&seen, &said["tid"]);
        assert_eq!((&row["threads"][0]["name"], &row["method"]), (&said["name"], &json!("syscall_only")));
    }
    let gap = gaps_at(&seen, "/rows/-/frames")[0];
    assert_eq!(gap["reason"], "permission_denied");
    assert!(gap["remedy"].as_str().is_some_and(|text| text.starts_with("kubectl debug")), "{gap}");
    let _ = row(&json(["ps", "--pid", &target.pid().to_string()]), "pid", target.pid());
}

#[test]
fn a_consistent_look_holds_all_threads_and_lets_them_go() {
    let target = Child::target("threads", &["-O0"], ["50"]);
    let seen = stacks(target.pid(), &["--stop", "consistent"]);
    for said in &target.truth {
        let row = thread(&seen, &said["tid"]);
        assert_eq!((&row["method"], &row["complete"]), (&json!("stopped"), &json!(true)), "{row}");
        assert!(contains_chain(&functions(&row), &said["chain"]), "{row}");
    }
    assert_eq!(seen["cost"]["stops"], 51);
    assert_unharmed(target.pid());
}

/// A program whose `inner` is inlined into `outer`, and whose lines are known.
const INLINED: &str = "#include <stdio.h>\n#include <unistd.h>\n\
    static inline __attribute__((always_inline)) int inner(char *b)\n{\n    return (int)read(0, b, 1);\n}\n\
    static __attribute__((noinline)) int outer(char *b)\n{\n    int r = inner(b);\n\
    __asm__ volatile(\"\" ::: \"memory\");\n    return r;\n}\n\
    int main(void)\n{\n    char b;\n    puts(\"\\\"ready\\\"\");\n    fflush(stdout);\n    return outer(&b);\n}\n";

/// The frame of `outer` once the program reads.
fn outer_of(program: &std::path::Path) -> Value {
    let target = Child::ready(&mut Command::new(program));
    wait_until("it to read", SOON, || common::state(target.pid()) == Some('S'));
    let seen = stacks(target.pid(), &["--stop", "never"]);
    let row = thread(&seen, &json!(target.pid()));
    let frames = row["frames"].as_array().expect("frames");
    frames.iter().find(|frame| frame["function"] == "outer").unwrap_or_else(|| panic!("no outer in {row}")).clone()
}

fn assert_lines(frame: &Value) {
    let inlined = &frame["inlined"];
    assert_eq!(inlined.as_array().map(Vec::len), Some(1), "{frame}");
    assert_eq!((&inlined[0]["function"], &inlined[0]["line"], &frame["line"]), (&json!("inner"), &json!(5), &json!(9)));
    assert!(frame["file"].as_str().is_some_and(|file| file.ends_with(".c")), "{frame}");
}

#[test]
fn inlined_functions_and_lines_are_named() {
    assert_lines(&outer_of(&common::compile_c(INLINED, &["-O2", "-g"])));
    assert_lines(&outer_of(&common::compile_c(INLINED, &["-O2", "-g", "-gz=zlib", "-static"])));
    let plain = outer_of(&common::compile_c(INLINED, &["-O2"]));
    assert_eq!((plain.get("line"), plain.get("inlined")), (None, None));
}

fn tool(name: &str, args: &[&std::ffi::OsStr]) {
    let output = Command::new(name).args(args).output().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn debug_information_is_found_in_a_file_of_its_own() {
    if !has_tool("objcopy") {
        return skip("debug_information_is_found_in_a_file_of_its_own", "objcopy is not installed");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (program, debug) = (directory.path().join("program"), directory.path().join("program.debug"));
    let built = common::compile_c(INLINED, &["-O2", "-g", "-Wl,--build-id"]);
    tool("objcopy", &["--only-keep-debug".as_ref(), built.as_ref(), debug.as_ref()]);
    let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
    link.push(&debug);
    tool("objcopy", &["--strip-all".as_ref(), link.as_ref(), built.as_ref(), program.as_ref()]);
    assert_lines(&outer_of(&program));
}

#[test]
fn what_debug_files_have_in_common_is_found_in_a_file_of_its_own() {
    let name = "what_debug_files_have_in_common_is_found_in_a_file_of_its_own";
    if !has_tool("dwz") {
        return skip(name, "dwz is not installed");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let [one, other, common] = ["one", "other", "common"].map(|name| directory.path().join(name));
    let built = common::compile_c(INLINED, &["-O2", "-g", "-Wl,--build-id"]);
    fs::copy(&built, &one).and_then(|_| fs::copy(&built, &other)).expect("copied");
    tool("dwz", &["-m".as_ref(), common.as_ref(), one.as_ref(), other.as_ref()]);
    assert_lines(&outer_of(&one));
    // Without debug information of its own it has nothing in common with others, though it still says where.
    let stripped = directory.path().join("stripped");
    tool("strip", &["--keep-section=.gnu_debugaltlink".as_ref(), "-o".as_ref(), stripped.as_ref(), one.as_ref()]);
    fs::remove_file(&common).expect("removed");
    let target = Child::ready(&mut Command::new(&stripped));
    assert!(stacks(target.pid(), &["--stop", "never"])["gaps"] == json!([]));
    // Another file in its place is not taken for it.
    fs::copy(&built, &common).expect("copied");
    let target = Child::ready(&mut Command::new(&one));
    wait_until("it to read", SOON, || common::state(target.pid()) == Some('S'));
    let answer = run(["stacks", "--flat", "--stop", "never", "--pid", &target.pid().to_string()]);
    assert_eq!(answer.status, 3, "{}", answer.stderr);
    let seen = answer.json();
    let gap = gaps_at(&seen, "/rows/-/frames")[0];
    let detail = gap["detail"].as_str().expect("words");
    assert!(gap["reason"] == "not_found" && detail.contains(common.to_str().expect("UTF-8")), "{gap}");
    assert!(functions(&rows(&seen)[0]).contains(&"outer".to_owned()), "{seen}");
}

#[test]
fn names_are_found_in_mini_debug_information() {
    if !has_tool("objcopy") || !has_tool("xz") {
        return skip("names_are_found_in_mini_debug_information", "objcopy or xz is not installed");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (program, mini) = (directory.path().join("program"), directory.path().join("mini"));
    let built = common::compile_c(INLINED, &["-O2", "-Wl,--build-id"]);
    tool("objcopy", &["--only-keep-debug".as_ref(), built.as_ref(), mini.as_ref()]);
    tool("xz", &[mini.as_ref()]);
    let mut section = std::ffi::OsString::from("--add-section=.gnu_debugdata=");
    section.push(mini.with_extension("xz"));
    tool("objcopy", &["--strip-all".as_ref(), section.as_ref(), built.as_ref(), program.as_ref()]);
    assert_eq!(outer_of(&program)["function"], "outer");
}

#[test]
fn code_that_a_runtime_has_made_is_named_by_its_perf_map() {
    let source = "#include <stdio.h>\n#include <string.h>\n#include <sys/mman.h>\n#include <unistd.h>\n\
        int main(void)\n{\n    char path[64];\n    FILE *map;\n\
        unsigned char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n\
        memcpy(code, \"\\xeb\\xfe\", 2);\n    snprintf(path, sizeof path, \"/tmp/perf-%d.map\", getpid());\n\
        map = fopen(path, \"w\");\n    fprintf(map, \"%lx 10 js:spin here\\n\", (unsigned long)code);\n\
        fclose(map);\n    puts(\"\\\"ready\\\"\");\n    fflush(stdout);\n    ((void (*)(void))code)();\n}\n";
    let target = Child::ready(&mut Command::new(common::compile_c(source, &["-O2"])));
    wait_until("it to spin", SOON, || {
        let seen = run(["stacks", "--flat", "--pid", &target.pid().to_string()]).stdout;
        String::from_utf8_lossy(&seen).contains("js:spin here")
    });
    let _ = fs::remove_file(format!("/tmp/perf-{}.map", target.pid()));
}
