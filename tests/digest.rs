//! The same state gives the same bytes: every command twice over a target that stands still, in a pod of its own.
#![allow(clippy::disallowed_methods, reason = "a test: it writes the image to a file")]

mod common;

use agent_pod::{DebugSpec, FileCaps, Image, Pod, PodSpec, Profile};
use common::{AGENT, is_root, json, skip};
use serde_json::Value;

/// Threads, a listener, a connection, a pipe and files; static, so that it shares no page with other programs.
const TARGET: &str = r#"
    #include <netinet/in.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <sys/socket.h>
    #include <unistd.h>
    static void *waits(void *at) { for (;;) pause(); return at; }
    int main(void) {
        struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t length = sizeof here;
        int ends[2], listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
        pthread_t thread;
        if (pipe(ends) || bind(listener, (void *)&here, length) || listen(listener, 5)) return 1;
        if (getsockname(listener, (void *)&here, &length) || connect(client, (void *)&here, length)) return 2;
        if (accept(listener, 0, 0) < 0) return 3;
        for (int i = 0; i < 5; i++) pthread_create(&thread, 0, waits, 0);
        for (int i = 0; i < 50; i++) *(volatile char *)malloc(100000) = 1;
        puts("ready");
        fflush(stdout);
        for (;;) pause();
    }
"#;

/// Looks twice, and again where the state has changed in between after all (the kernel sums up what a control group
/// uses some time later): what is not deterministic differs each time. The last two answers, which are equal.
fn twice<T: PartialEq + std::fmt::Debug>(what: &str, look: impl Fn() -> T, same: impl Fn(&T, &T) -> bool) -> (T, T) {
    for _ in 0..4 {
        let (first, second) = (look(), look());
        if same(&first, &second) {
            return (first, second);
        }
    }
    panic!("{what} differs each time:\n{:#?}\n{:#?}", look(), look());
}

#[test]
fn every_command_gives_the_same_digest_twice_over_a_target_that_stands_still() {
    let name = "every_command_gives_the_same_digest_twice_over_a_target_that_stands_still";
    if !is_root() {
        return skip(name, "the pod emulator needs root");
    }
    let program = common::compile_c(TARGET, &["-O1", "-static"]);
    // A user of its own, whose processes are counted (RLIMIT_NPROC).
    let spec = PodSpec::new("still", ["/still"]).pod_user(48_213, 48_213).mount_read_only(program, "/still");
    let pod = Pod::start(spec).expect("a pod");
    pod.wait_for_output("ready", common::SOON).expect("a target that is ready");
    let target = u32::try_from(pod.target_pid().as_raw_nonzero().get()).expect("a pid");
    common::stop(target);
    let same = |first: &Value, second: &Value| {
        (&first["digest"], first["data"].to_string()) == (&second["digest"], second["data"].to_string())
    };
    // From the node: a container of our own would be in the pod's control groups.
    for command in ["fds", "sockets", "maps", "stacks", "modules", "env", "access"] {
        let look = || json([command, "--pid", &target.to_string(), "-o", "json"]);
        let (first, second) = twice(command, look, same);
        assert!(first["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{command}");
        assert_ne!(first["session"]["id"], second["session"]["id"], "{command}");
    }
    // Of the groups above the target's own other processes have their share: these do not stand still.
    let look = || {
        let mut limits = json(["limits", "--pid", &target.to_string(), "-o", "json"])["data"].take();
        limits["nearest"].take();
        for group in limits["cgroup"].as_object_mut().expect("groups").values_mut().filter_map(Value::as_object_mut) {
            group.remove("ancestors");
            group.remove("tightest");
        }
        limits
    };
    let (first, _) = twice("limits", look, Value::eq);
    assert!(first["cgroup"]["memory"].is_object() && first["limits"].as_array().is_some_and(|all| all.len() == 16));
    // From within: the table of processes is the pod's.
    let image = Image::from_binary(AGENT, "65532:65532", FileCaps::AllPermitted).expect("an image");
    for command in ["ps", "fds", "stacks", "version"] {
        let look = || {
            let spec = DebugSpec::new(&image, Profile::General, ["agent", command]).target();
            pod.debug(spec).expect("a container").json().expect("an envelope")
        };
        twice(&format!("{command} from within"), look, same);
    }
    common::cont(target);
}
