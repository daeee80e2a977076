//! Servers and runtimes of Debian's packages as targets, and what a runtime may leave behind.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::common::servers::{self, Postgres};
use super::common::{self, Child, SOON, has_tool, rows, run, skip, wait_until};
use super::{compare_with_eu_stack, functions, stacks, thread};

#[test]
fn agrees_with_eu_stack_on_nginx() {
    let name = "agrees_with_eu_stack_on_nginx";
    let directory = tempfile::tempdir().expect("a directory");
    let server = match servers::nginx(directory.path(), 2) {
        Ok(server) => server,
        Err(reason) => return skip(name, reason),
    };
    let waits = |pid: u32, call: &str| {
        let seen = stacks(pid, &[]);
        rows(&seen).iter().any(|row| row["system_call"] == call)
    };
    wait_until("the master to wait for a signal", SOON, || waits(server.pid(), "rt_sigsuspend"));
    for worker in servers::children(server.pid()) {
        wait_until("a worker to wait", SOON, || waits(worker, "epoll_wait"));
        compare_with_eu_stack(name, worker);
    }
    compare_with_eu_stack(name, server.pid());
}

#[test]
fn agrees_with_eu_stack_on_postgres() {
    let name = "agrees_with_eu_stack_on_postgres";
    let postgres = match Postgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip(name, reason),
    };
    let before = postgres.children().len();
    let _client = postgres.connect();
    wait_until("a backend", SOON, || postgres.children().len() > before);
    for pid in postgres.children().into_iter().chain([postgres.server.pid()]) {
        let blocked = || {
            let text = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            common::state(pid) == Some('S') && text.starts_with(|c: char| c.is_ascii_digit())
        };
        wait_until("a process to wait", SOON, blocked);
        compare_with_eu_stack(name, pid);
    }
}

#[test]
fn every_thread_of_a_runtime_has_its_answer_without_a_stop() {
    let name = "every_thread_of_a_runtime_has_its_answer_without_a_stop";
    let directory = tempfile::tempdir().expect("a directory");
    let mut targets = Vec::new();
    match servers::java(directory.path()) {
        Ok(child) => targets.push(("java", child)),
        Err(reason) => skip(name, reason),
    }
    if has_tool("node") {
        let text = "setInterval(() => {}, 1000); console.log('\"ready\"')";
        targets.push(("node", Child::ready(Command::new("node").args(["-e", text]))));
    } else {
        skip(name, "no node");
    }
    for (name, target) in targets {
        let seen = run(["stacks", "--flat", "--stop", "never", "--pid", &target.pid().to_string()]).json();
        assert_eq!(seen["cost"]["stops"], 0, "{name}");
        let mut blocked = 0;
        for tid in common::threads(target.pid()) {
            let row = thread(&seen, &json!(tid));
            // A thread that ran just then has no frames, and a gap.
            if row["method"] != "no_stop" {
                continue;
            }
            blocked += 1;
            assert!(row["system_call"].is_string(), "{name}: {row}");
            let frames = row["frames"].as_array().map_or(0, Vec::len);
            assert!(frames > 1, "{name}: {row}");
            // What is not complete says where it ends.
            assert!(row["complete"] == true || row["complete"] == false, "{name}: {row}");
        }
        assert!(blocked >= 5, "{name}: {blocked} threads");
        // Its native threads begin where glibc starts them.
        let whole = rows(&seen).iter().filter(|row| row["threads"][0]["complete"] == true || row["complete"] == true);
        assert!(whole.count() >= 4, "{name}");
    }
}

#[test]
fn a_perf_map_of_a_gigabyte_is_read_as_far_as_is_reasonable() {
    let source = r#"
        #include <stdio.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <unistd.h>
        int main(void) {
            char path[64];
            unsigned char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            memcpy(code, "\xeb\xfe", 2);
            snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
            FILE *map = fopen(path, "w");
            fprintf(map, "%lx 10 first\n", (unsigned long)code);
            fflush(map);
            if (ftruncate(fileno(map), 1L << 30)) return 1;
            puts("\"ready\"");
            fflush(stdout);
            ((void (*)(void))code)();
        }
    "#;
    let target = Child::ready(&mut Command::new(common::compile_c(source, &["-O1"])));
    let seen = common::wait_for("it to spin", SOON, || {
        let answer = run(["stacks", "--flat", "--pid", &target.pid().to_string()]);
        // Not all of the map was read: that is a limit that was reached.
        assert_eq!(answer.status, 4, "{}", answer.stderr);
        let seen: Value = serde_json::from_slice(&answer.stdout).expect("an envelope");
        let row = thread(&seen, &json!(target.pid()));
        functions(&row).iter().any(|name| name == "first").then_some(seen)
    });
    let _ = fs::remove_file(format!("/tmp/perf-{}.map", target.pid()));
    assert!(seen["cost"]["peak_rss_kib"].as_u64().expect("a peak") < 64 << 10, "{}", seen["cost"]);
    let gaps = seen["gaps"].as_array().expect("gaps");
    assert!(gaps.iter().any(|gap| gap["reason"] == "limit_reached"), "{gaps:?}");
}
