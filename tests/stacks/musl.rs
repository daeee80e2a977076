//! Programs whose C library is musl, as those of small images are: it has no call frame information, keeps no frame pointer, and
//! exports few of its functions.

use std::path::Path;

use serde_json::{Value, json};

use super::common::{self, Child, SOON, rows, skip, wait_until};
use super::{contains_chain, functions, stacks, thread};

/// What makes gcc musl's compiler (package musl-tools), with the kernel's headers behind musl's own.
const SPECS: &str = "/usr/lib/x86_64-linux-musl/musl-gcc.specs";

fn flags<'a>(more: &[&'a str]) -> Option<Vec<&'a str>> {
    const MUSL: [&str; 3] = [
        "-specs=/usr/lib/x86_64-linux-musl/musl-gcc.specs",
        "-idirafter/usr/include",
        "-idirafter/usr/include/x86_64-linux-gnu",
    ];
    Path::new(SPECS).exists().then(|| MUSL.into_iter().chain(more.iter().copied()).collect())
}

#[test]
fn threads_of_a_musl_program_are_seen_whole_without_a_stop() {
    let name = "threads_of_a_musl_program_are_seen_whole_without_a_stop";
    for build in [&["-O2"][..], &["-O0"], &["-O3"], &["-O2", "-static"], &["-O0", "-static-pie"]] {
        let Some(flags) = flags(build) else { return skip(name, "no musl-tools") };
        let target = Child::target("threads", &flags, ["60"]);
        let seen = stacks(target.pid(), &[]);
        assert_eq!(seen["cost"]["stops"], 0, "{build:?}");
        assert_eq!(seen["gaps"], json!([]), "{build:?}");
        let mut looked_at = 0;
        for truth in &target.truth {
            let row = thread(&seen, &truth["tid"]);
            assert!(row["method"] == "no_stop" && row["complete"] == true, "{build:?}: {row}");
            assert!(contains_chain(&functions(&row), &truth["chain"]), "{build:?} {truth}: {row}");
            looked_at += 1;
        }
        assert!(looked_at >= 60, "{build:?}: {looked_at}");
        // What is not exported has no name, and not that of its neighbour.
        let all: Vec<Value> = rows(&seen).to_vec();
        let names = all.iter().flat_map(functions).collect::<Vec<_>>();
        assert!(!names.iter().any(|name| name.starts_with("mem")), "{build:?}: {names:?}");
        assert!(names.iter().any(|name| name == "_start") && names.iter().any(|name| name == "main"), "{names:?}");
    }
}

/// Through a function of the library that calls back, and one thread that computes.
const CALLBACK: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#define NAMED __attribute__((noinline, noclone))
static volatile int sink;
static NAMED int compares(const void *a, const void *b) { char byte; (void)a; (void)b; return (int)read(0, &byte, 1) + sink; }
static NAMED int sorts(void) { int all[4] = {3, 1, 2, 0}; qsort(all, 4, sizeof *all, compares); return all[0] + sink; }
static NAMED void computes(void) { for (;;) sink++; }
static void *begins(void *nothing) { computes(); return nothing; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, begins, 0);
    puts("\"ready\"");
    fflush(stdout);
    return sorts() + sink;
}
"#;

#[test]
fn callbacks_and_running_threads_of_a_musl_program_are_seen_whole() {
    let name = "callbacks_and_running_threads_of_a_musl_program_are_seen_whole";
    for build in [&["-O2"][..], &["-O1", "-static"]] {
        let Some(flags) = flags(build) else { return skip(name, "no musl-tools") };
        let target = Child::ready(&mut std::process::Command::new(common::compile_c(CALLBACK, &flags)));
        wait_until("it to wait", SOON, || common::state(target.pid()) == Some('S'));
        let seen = stacks(target.pid(), &[]);
        let main = thread(&seen, &json!(target.pid()));
        assert_eq!(main["complete"], true, "{build:?}: {main}");
        let names = functions(&main);
        let place = |wanted: &str| names.iter().position(|name| name == wanted);
        let order = [place("compares"), place("sorts"), place("main"), place("_start")];
        assert!(order.is_sorted() && order.iter().all(Option::is_some), "{build:?}: {names:?}");
        assert!(place("sorts") > place("compares").map(|at| at + 1), "the library is between them: {names:?}");
        let running = rows(&seen).iter().find(|row| row["method"] == "stopped").expect("a thread that computes");
        assert_eq!(running["complete"], true, "{build:?}: {running}");
        assert_eq!(functions(running)[..1], ["computes"], "{running}");
    }
}
