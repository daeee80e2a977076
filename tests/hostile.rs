//! Targets that are hostile or unlucky, for every command that looks at one: it ends, in bounded time and memory, and
//! what could be seen is there.
#![allow(clippy::disallowed_methods, reason = "a test: it makes files and starts programs")]

mod common;

use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use agent_pod::{Pod, PodSpec};
use common::namespace::Namespace;
use common::{AGENT, Answer, Child, bytes, gaps_at, is_root, json, rows, run, skip};
use serde_json::{Value, json};

/// Every command that looks at a target and ends by itself.
const LOOKS: [&str; 9] = ["ps", "fds", "sockets", "maps", "stacks", "limits", "modules", "env", "snapshot"];

/// What the program itself takes, in KiB: much in a build for tests.
static ITSELF: LazyLock<u64> = LazyLock::new(|| peak_kib(&common::json(["version"])));

fn peak_kib(envelope: &Value) -> u64 {
    envelope["cost"]["peak_rss_kib"].as_u64().expect("a peak")
}

/// Peak resident set, in KiB, beside [`ITSELF`], that no command may exceed over a small target. A snapshot holds all processes of the
/// machine, and the other tests' too.
fn most_kib(command: &str) -> u64 {
    if command == "snapshot" { 96 << 10 } else { 48 << 10 }
}

/// Runs `command` over `pid`: it must answer, within the time and memory that it has.
fn look(command: &str, pid: u32) -> Value {
    let begin = Instant::now();
    let answer = run([command, "--pid", &pid.to_string(), "-o", "json"]);
    assert!(matches!(answer.status, 0 | 3), "{command}: {}: {}", answer.status, answer.stderr);
    assert!(begin.elapsed() < Duration::from_secs(60), "{command} took {:?}", begin.elapsed());
    let envelope = answer.json();
    let peak = peak_kib(&envelope).saturating_sub(*ITSELF);
    assert!(peak < most_kib(command), "{command}: {peak} KiB");
    envelope
}

#[test]
fn twenty_thousand_short_lived_processes_lose_nobody_else() {
    // It says how many it has forked when its standard input is closed.
    let source = r#"
        #include <poll.h>
        #include <stdio.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(void) {
            struct pollfd input = {.fd = 0, .events = POLLIN};
            int forked = 0;
            puts("\"ready\"");
            fflush(stdout);
            /* Eight at a time: the table changes while it is read. */
            while (forked < 20000 || !poll(&input, 1, 0)) {
                for (int i = 0; i < 8; i++, forked++)
                    if (fork() == 0) _exit(0);
                while (waitpid(-1, 0, 0) > 0);
            }
            printf("%d\n", forked);
        }
    "#;
    let mut forker = Child::ready(&mut Command::new(common::compile_c(source, &["-O2"])));
    let steady = Child::target("sleeper", &["-O2"], ["600"]);
    let mut looks = 0;
    while looks < 10 {
        let envelope = json(["ps", "--threads", "--details", "-o", "json", "--allow-gaps"]);
        for pid in [forker.pid(), steady.pid()] {
            assert!(rows(&envelope).iter().any(|row| row["pid"] == pid), "{pid} is not there");
        }
        let mut pids: Vec<u64> = rows(&envelope).iter().filter_map(|row| row["pid"].as_u64()).collect();
        pids.dedup();
        let count = pids.len();
        pids.sort_unstable();
        pids.dedup();
        assert_eq!(pids.len(), count, "a process is listed twice");
        looks += 1;
    }
    for command in LOOKS {
        look(command, forker.pid());
    }
    forker.tell("enough");
    let forked: u64 = forker.line().parse().expect("a number");
    assert!(forked >= 20_000, "{forked}");
}

#[test]
fn a_fork_bomb_that_is_held_by_a_pids_limit_can_be_looked_at() {
    let name = "a_fork_bomb_that_is_held_by_a_pids_limit_can_be_looked_at";
    if !is_root() {
        return skip(name, "the pod emulator needs root");
    }
    let source = r#"
        #include <stdio.h>
        #include <unistd.h>
        int main(void) {
            puts("ready");
            fflush(stdout);
            for (;;)
                if (fork() < 0) usleep(20000);
        }
    "#;
    let program = common::compile_c(source, &["-static"]);
    let spec = PodSpec::new("bomb", ["/bomb"]).pids_limit(150).mount_read_only(program, "/bomb");
    let pod = Pod::start(spec).expect("a pod");
    let target = u32::try_from(pod.target_pid().as_raw_nonzero().get()).expect("a pid");
    common::wait_until("the bomb to fill its group", common::SOON, || {
        let limits = json(["limits", "--pid", &target.to_string(), "-o", "json", "--allow-gaps"]);
        limits["data"]["nearest"].as_array().is_some_and(|all| {
            all.iter().any(|one| one["name"] == "pids" && one["used"].as_u64().is_some_and(|used| used >= 150))
        })
    });
    for command in LOOKS {
        look(command, target);
    }
    // Nothing more can be started in that pod: an agent must be there before, or look from the node.
    let ps = json(["ps", "-o", "json", "--allow-gaps"]);
    let bombs = rows(&ps).iter().filter(|row| row["name"] == "bomb").count();
    assert!(bombs >= 100, "{bombs} of 150 are there");
}

#[test]
fn paths_of_four_kib_come_back_byte_for_byte() {
    // A path of 4,000 bytes with a newline, an escape byte and invalid UTF-8 in each part, open and mapped; and one
    // that is longer than the kernel tells.
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <sys/stat.h>
        #include <unistd.h>
        int main(int c, char **v) {
            char part[] = "\n\033[2J\xff\\x41 123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890";
            (void)c;
            if (chdir(v[1])) return 1;
            for (int deep = 0; deep < 60; deep++) {
                if (deep == 36) {
                    int fd = open("file", O_RDWR | O_CREAT, 0600);
                    if (fd < 0 || ftruncate(fd, 4096) || mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED) return 2;
                    char path[4097] = {0};
                    if (!getcwd(path, 4096)) return 3;
                    printf("{\"fd\": %d, \"path_hex\": \"", fd);
                    strcat(path, "/file");
                    for (char *at = path; *at; at++) printf("%02x", (unsigned char)*at);
                    puts("\"}");
                }
                if (mkdir(part, 0700) || chdir(part)) return 4;
            }
            int fd = open("file", O_RDWR | O_CREAT, 0600);
            if (fd < 0) return 5;
            printf("{\"long_fd\": %d}\n\"ready\"\n", fd);
            fflush(stdout);
            getchar();
        }
    "#;
    let directory = tempfile::tempdir().expect("a directory");
    let program = common::compile_c(source, &["-O1"]);
    let target = Child::ready(Command::new(program).arg(directory.path()));
    let path = common::unhex(&target.truth[0]["path_hex"]);
    assert!((3000..4096).contains(&path.len()), "{}", path.len());
    let fds = look("fds", target.pid());
    let row = common::row(&fds, "fd", target.truth[0]["fd"].as_u64().expect("a number"));
    assert_eq!(bytes(&row["target"]), path);
    assert_eq!(row["type"], "file");
    // readlink(2) says ENAMETOOLONG: the row is there, and the name is a gap.
    let long = target.truth[1]["long_fd"].as_u64().expect("a number");
    let at = rows(&fds).iter().position(|row| row["fd"] == long).expect("the long one");
    assert!(rows(&fds)[at].get("target").is_none(), "{}", rows(&fds)[at]);
    assert_eq!(gaps_at(&fds, &format!("/rows/{at}/target")).len(), 1, "{}", fds["gaps"]);
    let maps = look("maps", target.pid());
    assert!(rows(&maps).iter().any(|row| row.get("path").is_some_and(|text| bytes(text) == path)), "not mapped");
    for command in LOOKS {
        look(command, target.pid());
        let table = run([command, "--pid", &target.pid().to_string(), "-o", "table"]);
        let text = String::from_utf8(table.stdout).expect("UTF-8");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{command}: a control character in a table");
    }
    // A path that long cannot be removed by its name.
    drop(target);
    let removed = Command::new("rm").arg("-rf").arg(directory.path()).status().expect("rm");
    assert!(removed.success());
}

#[test]
fn fifteen_thousand_sockets_are_bounded() {
    let source = r#"
        #include <stdio.h>
        #include <sys/resource.h>
        #include <sys/socket.h>
        int main(void) {
            struct rlimit all;
            getrlimit(RLIMIT_NOFILE, &all);
            all.rlim_cur = all.rlim_max;
            setrlimit(RLIMIT_NOFILE, &all);
            int count = 0, pair[2];
            while (count < 15000 && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) count += 2;
            printf("{\"sockets\": %d}\n\"ready\"\n", count);
            fflush(stdout);
            getchar();
        }
    "#;
    let target = Child::ready(&mut Command::new(common::compile_c(source, &["-O1"])));
    let count = target.truth[0]["sockets"].as_u64().expect("a number");
    if count < 15_000 {
        return skip("fifteen_thousand_sockets_are_bounded", "the hard limit of descriptors is too low");
    }
    let fds = look("fds", target.pid());
    assert_eq!(fds["data"]["summary"]["types"]["socket"], count);
    let sockets = json(["sockets", "--process", &target.pid().to_string(), "-o", "json", "--allow-gaps"]);
    assert_eq!(rows(&sockets).len() as u64, count);
    let peers = json(["fds", "--pid", &target.pid().to_string(), "--peers", "-o", "json", "--allow-gaps"]);
    let paired = rows(&peers).iter().filter(|row| row["peers"].as_array().is_some_and(|peers| !peers.is_empty()));
    assert!(paired.count() as u64 >= count);
    // All of it at once: both tables and what leads from one to the other, but no second copy of them.
    let everything = json(["snapshot", "--pid", &target.pid().to_string(), "--allow-gaps"]);
    let listed = |part: &str| everything["data"][part]["rows"].as_array().map_or(0, Vec::len) as u64;
    assert!(listed("descriptors") >= count && listed("sockets") >= count, "{}", everything["gaps"]);
    let peak = peak_kib(&everything).saturating_sub(*ITSELF);
    assert!(peak < 72 << 10, "{peak} KiB");
}

/// As many descriptors, sockets and mappings as there may be, over several processes: RLIMIT_NOFILE is one process's.
#[test]
fn a_snapshot_of_sixty_thousand_sockets_and_mappings_is_bounded() {
    let source = r#"
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/mman.h>
        #include <sys/resource.h>
        #include <sys/socket.h>
        #include <unistd.h>
        int main(int c, char **v) {
            struct rlimit all;
            getrlimit(RLIMIT_NOFILE, &all);
            all.rlim_cur = all.rlim_max;
            setrlimit(RLIMIT_NOFILE, &all);
            int count = 0, pair[2], mapped = 0, most = c > 1 ? atoi(v[1]) : 0;
            while (count < 15000 && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) count += 2;
            /* Neighbours with other rights are no one mapping. */
            while (mapped < most && mmap(0, 4096, mapped % 2 ? PROT_READ : PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) mapped++;
            printf("{\"sockets\": %d, \"mapped\": %d}\n\"ready\"\n", count, mapped);
            fflush(stdout);
            getchar();
        }
    "#;
    let name = "a_snapshot_of_sixty_thousand_sockets_and_mappings_is_bounded";
    if !is_root() {
        return skip(name, "a network namespace of its own, so that no other test sees these sockets, needs root");
    }
    let program = common::compile_c(source, &["-O1"]);
    let target = Child::ready(Command::new("unshare").arg("--net").arg(&program).arg("60000"));
    let inside = |program: &std::path::Path| {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &target.pid().to_string()]).arg(program);
        command
    };
    let others: Vec<Child> = (0..3).map(|_| Child::ready(&mut inside(&program))).collect();
    let of = |child: &Child, key: &str| child.truth[0][key].as_u64().expect("a number");
    let sockets: u64 = of(&target, "sockets") + others.iter().map(|child| of(child, "sockets")).sum::<u64>();
    let mapped = of(&target, "mapped");
    if sockets < 60_000 || mapped < 60_000 {
        let reason = format!("{sockets} sockets and {mapped} mappings are all that a process may have here");
        return skip(name, &reason);
    }
    let begin = Instant::now();
    let mut agent = inside(std::path::Path::new(AGENT));
    let answer = Answer::of(agent.args(["snapshot", "--pid", &target.pid().to_string(), "--no-smaps", "-o", "json"]));
    assert!(begin.elapsed() < Duration::from_secs(100), "{:?}", begin.elapsed());
    // All of it, or as much as may be written and a gap that says how much is not.
    assert!(matches!(answer.status, 0 | 3 | 4), "{}: {}", answer.status, answer.stderr);
    let seen: Value = serde_json::from_slice(&answer.stdout).expect("one envelope");
    common::assert_valid(&seen);
    let listed = |part: &str| seen["data"][part]["rows"].as_array().map_or(0, Vec::len) as u64;
    let left_out = |part: &str| -> u64 {
        let gaps = gaps_at(&seen, &format!("/{part}/rows"));
        let words = gaps.iter().filter(|gap| gap["reason"] == "limit_reached").filter_map(|gap| gap["detail"].as_str());
        words.filter_map(|words| words.split(' ').next()?.parse::<u64>().ok()).max().unwrap_or(0)
    };
    for (part, count) in [("descriptors", 15_000), ("sockets", sockets), ("mappings", mapped)] {
        assert!(listed(part) + left_out(part) >= count, "{part}: {} and {}", listed(part), left_out(part));
    }
    let references = seen["data"]["references"].as_object().expect("references");
    for reference in references.values().flat_map(|list| list.as_array().expect("a list")) {
        for to in reference["to"].as_array().expect("a list") {
            let to = to.as_str().expect("a pointer");
            assert!(seen["data"].pointer(to).is_some(), "{reference} leads nowhere");
        }
    }
    let peak = peak_kib(&seen).saturating_sub(*ITSELF);
    assert!(peak < 160 << 10, "{peak} KiB");
}

#[test]
fn a_target_in_another_user_namespace_is_denied_by_that_gate() {
    let name = "a_target_in_another_user_namespace_is_denied_by_that_gate";
    if let Some(reason) = Namespace::lacks() {
        return skip(name, reason);
    }
    let mut apart = Command::new("unshare");
    apart.args(["--user", "--map-root-user"]).arg(agent_targets::build("sleeper", &["-O2"])).arg("600");
    let target = Child::ready(&mut apart);
    let pid = target.pid().to_string();
    // From the namespace that owns it all is open.
    let outside = json(["access", "--pid", &pid]);
    assert_eq!(common::row(&outside, "evidence", "memory")["available"], true);
    // From a sibling of it nothing is, whatever capabilities there are.
    let sibling = |command: &str| {
        Answer::of(Command::new("unshare").args(["--user", "--map-root-user", AGENT, command, "--pid", &pid]))
    };
    let access = sibling("access").json();
    let memory = common::row(&access, "evidence", "memory");
    assert_eq!((&memory["available"], &memory["gate"]), (&json!(false), &json!("user_namespace")), "{memory}");
    for command in ["fds", "maps", "stacks"] {
        let answer = sibling(command);
        assert_eq!(answer.status, 3, "{command}: {}", answer.stderr);
        let seen = answer.json();
        let gap = &gaps_at(&seen, "/rows")[0];
        assert_eq!(gap["reason"], "permission_denied", "{command}: {gap}");
        assert!(needs_the_namespace(gap), "{gap}");
    }
    // Of each the rest is there: what proc(5) shows to everybody.
    for (command, denied) in [
        ("ps", "executable"),
        ("sockets", "/rows"),
        ("modules", "/rows"),
        ("env", "/rows"),
        ("snapshot", "/descriptors/rows"),
        ("snapshot", "/mappings/rows"),
        ("snapshot", "/modules/rows"),
    ] {
        let answer = sibling(command);
        assert_eq!(answer.status, 3, "{command}: {}", answer.stderr);
        let seen = answer.json();
        let gaps = seen["gaps"].as_array().expect("gaps");
        let is_there = |gap: &&Value| gap["at"].as_str().is_some_and(|at| at.contains(denied));
        let gap = gaps.iter().find(|gap| is_there(gap) && needs_the_namespace(gap));
        assert!(gap.is_some_and(|gap| gap["reason"] == "permission_denied"), "{command} {denied}: {gaps:?}");
        let processes = if command == "snapshot" { &seen["data"]["processes"] } else { &seen["data"] };
        if matches!(command, "ps" | "snapshot") {
            let rows = processes["rows"].as_array().expect("rows");
            let row = rows.iter().find(|row| row["pid"] == target.pid()).expect("the target");
            assert!(row["args"].as_array().is_some_and(|args| args.len() == 2), "{row}");
        }
    }
    // Of its limits and their use all is shown to everybody.
    let limits = sibling("limits").json();
    assert!(limits["data"]["limits"].as_array().is_some_and(|limits| limits.len() >= 16), "{limits}");
}

/// Whether `gap` says that it is the user namespace which is in the way.
fn needs_the_namespace(gap: &Value) -> bool {
    gap["needs"].as_array().is_some_and(|needs| needs.contains(&json!("user_namespace")))
}

#[test]
fn links_out_of_the_targets_root_are_not_followed() {
    let name = "links_out_of_the_targets_root_are_not_followed";
    if let Some(reason) = Namespace::lacks() {
        return skip(name, reason);
    }
    // A root whose files are links to what is outside of it, with ".." and absolute; the program itself is static.
    let root = tempfile::tempdir().expect("a root");
    let secret = tempfile::tempdir().expect("a place outside");
    std::fs::write(secret.path().join("os-release"), "NAME=canary-of-the-host\n").expect("a file");
    std::fs::write(secret.path().join("passwd"), "canary:x:0:0::/:/bin/sh\n").expect("a file");
    std::fs::create_dir_all(root.path().join("etc")).expect("etc");
    std::fs::create_dir_all(root.path().join("var/lib")).expect("var");
    let outside = secret.path().display().to_string();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.path().join(at)).expect("a link");
    link(&format!("{outside}/os-release"), "etc/os-release");
    link(&format!("../../../../../../../..{outside}/passwd"), "etc/passwd");
    link("/proc/self/root", "usr");
    link(&format!("../../../../../../../..{outside}"), "var/lib/dpkg");
    link("loop", "loop");
    let program = agent_targets::build("sleeper", &["-O2", "-static"]);
    std::fs::copy(program, root.path().join("program")).expect("the program");
    let target = Child::ready(Command::new("chroot").arg(root.path()).args(["/program", "600"]));
    for command in LOOKS {
        let text = look(command, target.pid()).to_string();
        assert!(!text.contains("canary"), "{command} read a file outside of the target's root");
    }
    let modules = look("modules", target.pid());
    let row = rows(&modules).iter().find(|row| row["path"].as_str().is_some_and(|path| path.ends_with("/program")));
    assert!(row.is_some_and(|row| row["type"] == "static"), "{modules}");
}

/// A dead server: whoever asks for anything of its file system waits as long as the target lives.
#[test]
fn a_file_system_that_does_not_answer_holds_nobody_up() {
    let name = "a_file_system_that_does_not_answer_holds_nobody_up";
    if !common::is_root() || !std::path::Path::new("/dev/fuse").exists() {
        return skip(name, "a FUSE file system needs root and /dev/fuse");
    }
    let mut target = Child::start(&mut Command::new(agent_targets::build("hung", &["-O2"])));
    let said: Value = serde_json::from_str(&target.line()).expect("JSON");
    if let Some(reason) = said["unavailable"].as_str() {
        return skip(name, reason);
    }
    assert_eq!(target.line(), "\"ready\"");
    let pid = target.pid().to_string();
    let path = said["path"].as_str().expect("a path");
    for command in LOOKS.iter().chain(&["access", "profile"]) {
        let mut limited = Command::new("timeout");
        limited.args(["--signal=KILL", "40", AGENT, command, "--pid", &pid, "-o", "json"]);
        limited.args(if *command == "profile" { &["--for", "300ms"][..] } else { &[] });
        limited.args(if *command == "ps" { &["--details"][..] } else { &[] });
        let answer = Answer::of(&mut limited);
        assert!(matches!(answer.status, 0 | 3), "{command}: {}: {}", answer.status, answer.stderr);
        let seen = answer.json();
        let at = match *command {
            "modules" => "/rows",
            "snapshot" => "/modules/rows",
            _ => continue,
        };
        let gaps = common::gaps_at(&seen, at);
        let told = gaps.iter().find(|gap| gap["path"].as_str().is_some_and(|shown| shown.ends_with(path)));
        let told = told.unwrap_or_else(|| panic!("{command} does not say that {path} was not read: {gaps:?}"));
        assert!(told["detail"].as_str().is_some_and(|text| text.contains("--remote-files")), "{told}");
    }
    let fds = common::json(["fds", "--pid", &pid, "--allow-gaps"]);
    let row = common::row(&fds, "fd", said["fd"].clone());
    assert_eq!(row["target"], said["path"], "{row}");
    // Its arguments and environment are there as well: the kernel does not read these from a mapped file since Linux 4.17
    // (FOLL_ANON in get_mm_cmdline and environ_read, CVE-2018-1120), so it needs no patience of ours. That there is
    // something which was not seen is told.
    let ps = common::json(["ps", "--pid", &pid, "--allow-gaps"]);
    assert_eq!(common::row(&ps, "pid", target.pid())["args"], json!([]));
    let env = common::json(["env", "--pid", &pid, "--allow-gaps"]);
    assert_eq!((rows(&env).len(), &gaps_at(&env, "/rows")[0]["reason"]), (0, &json!("unsupported")), "{env}");
}

/// A pod whose limit of processes is reached has no thread for us either.
#[test]
fn without_a_second_thread_everything_is_seen_by_the_first() {
    let name = "without_a_second_thread_everything_is_seen_by_the_first";
    if !is_root() || !common::has_tool("setpriv") || !common::has_tool("prlimit") {
        return skip(name, "needs root, setpriv and prlimit");
    }
    const USER: [&str; 3] = ["--reuid=65511", "--regid=65511", "--clear-groups"];
    let script = "import json, os, socket, threading, time\n\
        for n in range(40): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n\
        held = [os.open('/dev/null', 0) for n in range(600)]\n\
        one = socket.socket(); one.bind(('127.0.0.1', 0)); one.listen()\n\
        print(json.dumps({'port': one.getsockname()[1]}), flush=True)\n\
        print('\"ready\"', flush=True)\n\
        input()\n";
    let target = Child::ready(Command::new("setpriv").args(USER).args(["/usr/bin/python3", "-c", script]));
    let pid = target.pid().to_string();
    let installed = common::Installed::new();
    // It counts all threads of the user: there is none left.
    let alone = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(USER).args(["prlimit", "--nproc=1:1"]).arg(installed.path()).args(args).args(["-o", "json"]);
        let answer = Answer::of(&mut command);
        assert!(matches!(answer.status, 0 | 3), "{args:?}: {}: {}", answer.status, answer.stderr);
        answer.json()
    };
    let stacks = alone(&["stacks", "--pid", &pid, "--stop", "never"]);
    assert_eq!(stacks["data"]["summary"]["threads"], 41, "{}", stacks["data"]["summary"]);
    assert!(rows(&alone(&["fds", "--pid", &pid])).len() > 600);
    let port = target.truth.iter().find_map(|said| said["port"].as_u64()).expect("a port");
    let sockets = alone(&["sockets", "--protocol", "tcp", "--listening"]);
    let listener = rows(&sockets).iter().find(|row| row["local_port"] == port);
    let listener = listener.unwrap_or_else(|| panic!("{port}: {}", sockets["data"]));
    assert_eq!(listener["owners"][0]["pid"], target.pid(), "{listener}");
}
