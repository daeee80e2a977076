//! Servers and runtimes of Debian's packages as targets, and what a runtime may leave behind.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::common::servers::{self, Postgres};
use super::common::{self, Child, SOON, has_tool, rows, run, skip, wait_until};
use super::peers::{compare, wait_blocked};
use super::{functions, stacks, thread};

#[test]
fn nginx_is_named_as_eu_stack_and_gdb_name_it() {
    let name = "nginx_is_named_as_eu_stack_and_gdb_name_it";
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
    for pid in servers::children(server.pid()).into_iter().chain([server.pid()]) {
        wait_blocked(pid);
        // Its own functions have no names: Debian strips it, and it exports some of them to its modules.
        let found = compare(name, pid);
        assert!(found.threads >= 1 && found.same >= 3 && found.beyond + found.generated == 0, "{found:?}");
    }
}

#[test]
fn postgres_is_named_as_eu_stack_and_gdb_name_it() {
    let name = "postgres_is_named_as_eu_stack_and_gdb_name_it";
    let postgres = match Postgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip(name, reason),
    };
    let before = postgres.children().len();
    let _client = postgres.connect();
    wait_until("a backend", SOON, || postgres.children().len() > before);
    for pid in postgres.children().into_iter().chain([postgres.server.pid()]) {
        wait_blocked(pid);
        let found = compare(name, pid);
        assert!(found.threads >= 1 && found.same >= 5 && found.beyond + found.generated == 0, "{found:?}");
    }
}

#[test]
fn redis_is_named_as_eu_stack_and_gdb_name_it() {
    let name = "redis_is_named_as_eu_stack_and_gdb_name_it";
    if !has_tool("redis-server") {
        return skip(name, "redis-server is not installed");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("s");
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--logfile", ""]).arg("--unixsocket").arg(&socket);
    let target = Child::start(command.current_dir(directory.path()));
    wait_until("redis to listen", SOON, || socket.exists());
    wait_blocked(target.pid());
    // It looks at its clock ten times a second.
    let found = common::wait_for("all of its threads to be seen", SOON, || {
        let found = compare(name, target.pid());
        (found.threads >= 2 * 4).then_some(found)
    });
    assert!(found.same >= 20 && found.beyond + found.generated == 0, "{found:?}");
    let seen = stacks(target.pid(), &[]);
    let main = thread(&seen, &json!(target.pid()));
    assert_eq!(main["system_call"], "epoll_wait");
    assert!(functions(&main).iter().any(|name| name == "aeMain"), "{:?}", functions(&main));
}

#[test]
fn python_is_named_as_eu_stack_and_gdb_name_it() {
    let name = "python_is_named_as_eu_stack_and_gdb_name_it";
    if !has_tool("python3") {
        return skip(name, "python3 is not installed");
    }
    let text = "import threading, time\n\
                for n in range(3): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n\
                print('\"ready\"', flush=True)\n\
                time.sleep(600)\n";
    let target = Child::ready(Command::new("python3").args(["-c", text]));
    wait_until("python's threads", SOON, || common::threads(target.pid()).len() == 4);
    wait_blocked(target.pid());
    let found = compare(name, target.pid());
    assert!(found.threads >= 4 && found.same >= 20 && found.beyond + found.generated == 0, "{found:?}");
}

#[test]
fn java_is_named_as_eu_stack_and_gdb_name_it() {
    let name = "java_is_named_as_eu_stack_and_gdb_name_it";
    let directory = tempfile::tempdir().expect("a directory");
    let target = match servers::java(directory.path()) {
        Ok(target) => target,
        Err(reason) => return skip(name, reason),
    };
    let found = compare(name, target.pid());
    // Of the threads that run Java there is the part in the JVM, and behind it the interpreter's.
    assert!(found.threads >= 10 && found.same >= 30, "{found:?}");
}

#[test]
fn node_is_named_as_eu_stack_and_gdb_name_it() {
    let name = "node_is_named_as_eu_stack_and_gdb_name_it";
    if !has_tool("node") {
        return skip(name, "no node");
    }
    let text = "setInterval(() => {}, 1000000); console.log('\"ready\"')";
    let target = Child::ready(Command::new("node").args(["-e", text]));
    wait_blocked(target.pid());
    let found = compare(name, target.pid());
    assert!(found.threads >= 5 && found.same >= 20, "{found:?}");
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
