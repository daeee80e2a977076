//! What names cost: the memory that a look takes over small programs, and over the largest that there are.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::packages::{GO, go_program};
use super::common::{self, Child, SOON, gaps_at, has_tool, rows, run, skip, wait_until};
use super::{functions, stacks, thread};

/// What the program itself takes, in KiB: 6 MiB when it is built for release, three times that for tests.
static ITSELF: LazyLock<u64> = LazyLock::new(|| peak_kib(&common::json(["version"])));

/// Beside that: with it, 16 MiB over a small program, and 48 MiB over a large one.
const SMALL_KIB: u64 = 10 << 10;
const LARGE_KIB: u64 = 42 << 10;

fn peak_kib(envelope: &Value) -> u64 {
    envelope["cost"]["peak_rss_kib"].as_u64().expect("a peak")
}

/// Looks without a stop: it must not take more than `most_kib`, and not long.
fn look(pid: u32, most_kib: u64) -> Value {
    let begin = Instant::now();
    let seen = stacks(pid, &["--stop", "never"]);
    let peak = peak_kib(&seen).saturating_sub(*ITSELF);
    assert!(peak < most_kib, "{peak} KiB: {}", seen["cost"]);
    // A second or two of this build, on a busy machine.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    seen
}

fn named_share(seen: &Value) -> (usize, usize) {
    let frames = || rows(seen).iter().flat_map(|row| row["frames"].as_array().expect("frames"));
    (frames().filter(|frame| frame["function"].is_string()).count(), frames().count())
}

#[test]
fn a_small_program_takes_little_memory() {
    // With debug information of the C library where libc6-dbg is installed, which holds nine megabytes.
    let target = Child::start(Command::new("sleep").arg("600"));
    wait_until("it to sleep", SOON, || common::state(target.pid()) == Some('S'));
    let seen = look(target.pid(), SMALL_KIB);
    let row = thread(&seen, &json!(target.pid()));
    assert!(functions(&row).iter().any(|name| name.contains("nanosleep")), "{row}");
    let threads = Child::target("threads", &["-O2"], ["200"]);
    look(threads.pid(), SMALL_KIB);
}

#[test]
fn a_browser_takes_no_more_than_48_mib() {
    let name = "a_browser_takes_no_more_than_48_mib";
    if !has_tool("chromium") {
        return skip(name, "there is no chromium");
    }
    let profile = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).arg("--remote-debugging-port=0");
    let target = Child::start(command.arg("about:blank").stderr(Stdio::null()));
    // Debian's /usr/bin/chromium is a script that becomes the browser.
    let port = profile.path().join("DevToolsActivePort");
    wait_until("the browser to be ready", SOON * 2, || port.exists());
    wait_until("it to wait", SOON, || common::state(target.pid()) == Some('S'));
    let seen = look(target.pid(), LARGE_KIB);
    assert!(rows(&seen).len() > 10, "{}", seen["data"]["summary"]);
    assert!(seen["data"]["summary"]["complete"].as_u64().expect("a number") > 0, "{}", seen["data"]["summary"]);
    // The browser itself is stripped: the C library's frames have names, its own have an offset and a build ID.
    let (named, all) = named_share(&seen);
    assert!(named > 10 && named < all, "{named} of {all}");
    let own = rows(&seen).iter().flat_map(|row| row["frames"].as_array().expect("frames")).find(|frame| {
        frame["module"].as_str().is_some_and(|module| module.ends_with("/chromium")) && frame.get("function").is_none()
    });
    let own = own.expect("a frame of the browser");
    assert!(own["build_id"].is_string() && own["offset"].is_string(), "{own}");
}

#[test]
fn node_takes_no_more_than_48_mib() {
    if !has_tool("node") {
        return skip("node_takes_no_more_than_48_mib", "there is no node");
    }
    let text = "setInterval(() => {}, 1000000); console.log('\"ready\"')";
    let target = Child::ready(Command::new("node").args(["-e", text]));
    wait_until("it to wait", SOON, || common::state(target.pid()) == Some('S'));
    let seen = look(target.pid(), LARGE_KIB);
    let row = thread(&seen, &json!(target.pid()));
    assert!(functions(&row).iter().any(|name| name == "uv_run"), "{row}");
}

#[test]
fn a_go_program_takes_no_more_than_48_mib_stripped_or_not() {
    let name = "a_go_program_takes_no_more_than_48_mib_stripped_or_not";
    // What it imports is in it: a server, its protocols and its cryptography.
    let source = "package main\n\nimport (\n\t\"crypto/tls\"\n\t\"encoding/xml\"\n\t\"fmt\"\n\t\"html/template\"\n\t\
        \"net/http\"\n\t\"os\"\n)\n\nfunc main() {\n\tvar kept = []any{http.ListenAndServe, xml.Unmarshal, \
        template.New, tls.Dial}\n\tfmt.Println(\"\\\"ready\\\"\")\n\tos.Stdin.Read(make([]byte, 1))\n\tfmt.Println(len(kept))\n}\n";
    let directory = tempfile::tempdir().expect("a directory");
    for flags in [&["-ldflags=-s -w"][..], &[]] {
        let program = match go_program(GO, directory.path(), source, flags) {
            Ok(program) => program,
            Err(reason) => return skip(name, &reason),
        };
        let target = Child::ready(&mut Command::new(program));
        wait_until("it to wait", SOON, || common::state(target.pid()) == Some('S'));
        let seen = look(target.pid(), LARGE_KIB);
        let (named, all) = named_share(&seen);
        assert!(named == all && all > 3, "{flags:?}: {named} of {all}");
        let found = rows(&seen).iter().any(|row| functions(row).iter().any(|name| name.starts_with("runtime.")));
        assert!(found, "{flags:?}: {}", seen["data"]["rows"]);
    }
}

/// As many functions as the largest programs have, each of some bytes.
fn many_functions(directory: &Path, count: usize) -> std::path::PathBuf {
    let source = directory.join("many.S");
    let text = format!(
        ".text\n.globl main\n.type main, @function\nmain:\n  .cfi_startproc\n  sub $24, %rsp\n  .cfi_adjust_cfa_offset 24\n  \
         lea said(%rip), %rdi\n  call puts@plt\n  xor %edi, %edi\n  call fflush@plt\n  call waits_here\n  add $24, %rsp\n  \
         .cfi_adjust_cfa_offset -24\n  ret\n  .cfi_endproc\n.size main, .-main\n\
         .altmacro\n.macro one n\nsome_function_of_a_large_program_\\n:\n.type some_function_of_a_large_program_\\n, @function\n\
         nop\n.size some_function_of_a_large_program_\\n, 1\n.endm\n\
         .set i, 0\n.rept {count}\none %i\n.set i, i+1\n.endr\n\
         .type waits_here, @function\nwaits_here:\n  .cfi_startproc\n  sub $8, %rsp\n  .cfi_adjust_cfa_offset 8\n  call pause@plt\n  \
         add $8, %rsp\n  .cfi_adjust_cfa_offset -8\n  ret\n  .cfi_endproc\n.size waits_here, .-waits_here\n\
         .section .rodata\nsaid: .asciz \"\\\"ready\\\"\"\n.section .note.GNU-stack,\"\",@progbits\n"
    );
    fs::write(&source, text).expect("a file");
    let program = directory.join("many");
    let output = Command::new("gcc").arg("-o").arg(&program).arg(&source).output().expect("gcc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
fn a_million_functions_fit_and_the_last_one_has_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let target = Child::ready(&mut Command::new(many_functions(directory.path(), 1_000_000)));
    wait_until("it to wait", SOON, || common::state(target.pid()) == Some('S'));
    let seen = look(target.pid(), LARGE_KIB);
    let row = thread(&seen, &json!(target.pid()));
    let names = functions(&row);
    assert!(names.windows(2).any(|two| two == ["waits_here", "main"]), "{names:?}");
    assert_eq!(gaps_at(&seen, "/rows/-/frames/-/function"), Vec::<&Value>::new());
}

#[test]
fn a_symbol_table_that_claims_to_be_endless_is_cut_and_that_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = many_functions(directory.path(), 10);
    // The size of .symtab in its section header: 2^40 entries.
    let mut bytes = fs::read(&program).expect("a file");
    let headers = u64::from_le_bytes(bytes[40..48].try_into().expect("eight")) as usize;
    let count = u16::from_le_bytes(bytes[60..62].try_into().expect("two")) as usize;
    let at = (0..count).map(|index| headers + index * 64).find(|at| bytes[at + 4..at + 8] == 2_u32.to_le_bytes());
    let at = at.expect("a symbol table");
    bytes[at + 32..at + 40].copy_from_slice(&(24_u64 << 40).to_le_bytes());
    fs::write(directory.path().join("other"), &bytes).expect("a file");
    fs::rename(directory.path().join("other"), &program).expect("renamed");
    let made = Command::new("chmod").arg("+x").arg(&program).status().expect("chmod");
    assert!(made.success());
    let target = Child::ready(&mut Command::new(&program));
    wait_until("it to wait", SOON, || common::state(target.pid()) == Some('S'));
    let answer = run(["stacks", "--flat", "--stop", "never", "--pid", &target.pid().to_string()]);
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    let seen: Value = serde_json::from_slice(&answer.stdout).expect("an envelope");
    assert!(peak_kib(&seen).saturating_sub(*ITSELF) < SMALL_KIB, "{}", seen["cost"]);
    let gaps = gaps_at(&seen, "/rows/-/frames/-/function");
    assert!(gaps.iter().any(|gap| gap["reason"] == "limit_reached" && gap["path"].as_str().is_some()), "{gaps:?}");
    // What stands before the end of the file is there.
    let row = thread(&seen, &json!(target.pid()));
    assert!(functions(&row).windows(2).any(|two| two == ["waits_here", "main"]), "{row}");
}

#[test]
fn the_second_look_of_a_command_reads_no_symbols_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let target = Child::ready(&mut Command::new(many_functions(directory.path(), 200_000)));
    wait_until("it to wait", SOON, || common::state(target.pid()) == Some('S'));
    let pid = target.pid().to_string();
    let bytes = |seen: &Value| seen["cost"]["bytes_read"].as_u64().expect("a number");
    let once = bytes(&common::json(["stacks", "--locks", "--stop", "never", "--pid", &pid]));
    // The scenario looks twice.
    let options = ["run", "deadlock", "--param", "interval=10ms", "--param", "stop=never", "--pid", &pid, "-o", "json"];
    let twice = bytes(&common::json(options));
    // Each symbol has 24 bytes.
    assert!(once > 200_000 * 24, "{once}");
    assert!(twice < once + once / 4, "{twice} bytes for two looks, {once} for one");
}
