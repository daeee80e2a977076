//! Running, talking to, ending and cleaning up containers.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent_pod::{DebugSpec, PodError, Profile, Signal, Stdin};

use crate::{LIMIT, debug, root_image, sample, shipped_image, start};

#[test]
fn exit_status_streams_and_arguments_come_through() {
    let (pod, image) = (start(sample()), root_image());
    assert_eq!(debug(&pod, &image, Profile::General, ["exit", "3"]).exit_code, 3);
    let spec = DebugSpec::new(&image, Profile::General, ["exit", "4"]).arguments_only();
    assert_eq!(pod.debug(spec).unwrap().exit_code, 4, "the image's entrypoint is kept");
    let spec = DebugSpec::new(&image, Profile::General, ["agent", "echo"]).stdin(Stdin::Bytes(b"a\0b".to_vec()));
    assert_eq!(pod.debug(spec).unwrap().stdout, b"a\0b");
    assert_eq!(debug(&pod, &image, Profile::General, ["echo"]).stdout, b"", "nothing to read without -i");
}

#[test]
fn missing_command_is_a_start_error() {
    let (pod, image) = (start(sample()), root_image());
    let error = pod.debug(DebugSpec::new(&image, Profile::General, ["nothing"]).target()).unwrap_err();
    assert!(
        matches!(&error, PodError::Start { message, .. } if message.ends_with("executable file not found in $PATH")),
        "{error}"
    );
}

#[test]
fn container_that_takes_too_long_is_killed() {
    let (pod, image) = (start(sample()), root_image());
    let spec = DebugSpec::new(&image, Profile::General, ["agent", "target"]).target();
    let out = pod.debug(spec.timeout(Duration::from_millis(100))).unwrap();
    assert_eq!((out.timed_out, out.exit_code, out.stdout_text().as_str()), (true, 137, "ready\n"));
}

#[test]
fn terminal_is_a_terminal() {
    let (pod, image) = (start(sample()), root_image());
    assert_eq!(debug(&pod, &image, Profile::General, ["tty"]).stdout_text(), "false\n");
    let out = pod.debug(DebugSpec::new(&image, Profile::General, ["agent", "tty"]).target().tty()).unwrap();
    assert_eq!(out.stdout_text().trim_end(), "true", "{out:?}");
}

#[test]
fn exec_has_the_container_s_identity() {
    for (image, profile, spec) in [
        (shipped_image(), Profile::General, sample().seccomp_runtime_default()),
        (shipped_image(), Profile::Restricted, sample().pod_user(1000, 1000).read_only_root()),
    ] {
        let pod = start(spec);
        let hold = pod.debug_spawn(DebugSpec::new(&image, profile, ["agent", "target"]).target()).unwrap();
        hold.stdout().wait_for("ready", LIMIT).unwrap();
        let mut inside = pod.exec(&hold, ["agent"]).unwrap().json().unwrap()["self"].take();
        let mut beside = debug(&pod, &image, profile, []).json().unwrap()["self"].take();
        (inside["pid"], beside["pid"]) = (0.into(), 0.into());
        assert_eq!(inside, beside, "{profile:?}");
        assert_eq!(pod.exec(&hold, ["agent", "exit", "7"]).unwrap().exit_code, 7);
        assert_eq!(pod.exec_with_stdin(&hold, ["agent", "echo"], "tar").unwrap().stdout, b"tar");
        assert!(hold.runs());
    }
}

#[test]
fn signals_and_pipes_reach_a_running_container() {
    let (pod, image) = (start(sample()), root_image());
    let spec = DebugSpec::new(&image, Profile::General, ["agent", "echo"]).target();
    let mut talking = pod.debug_spawn(spec.stdin(Stdin::Pipe).raw_stdout()).unwrap();
    let (mut input, output) = (talking.take_stdin().unwrap(), talking.take_stdout().unwrap());
    input.write_all(b"one\n").unwrap();
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    talking.signal(Signal::TERM);
    let out = talking.wait(LIMIT).unwrap();
    assert_eq!((out.exit_code, out.timed_out), (128 + 15, false));
}

#[test]
fn container_dies_with_its_target() {
    let (pod, image) = (start(sample()), root_image());
    let hold = pod.debug_spawn(DebugSpec::new(&image, Profile::General, ["agent", "target"]).target()).unwrap();
    assert!(pod.target_runs());
    pod.kill_target().unwrap();
    assert!(!pod.target_runs());
    let out = hold.wait(LIMIT).unwrap();
    assert_eq!((out.exit_code, out.timed_out), (137, false));
}

#[test]
fn termination_message_is_the_end_of_the_log() {
    let out = debug(&start(sample()), &root_image(), Profile::General, ["log", "2000"]);
    assert!(out.termination_log.starts_with(b"1 2 3 ") && out.termination_log.len() > 4096);
    assert_eq!(out.termination_message.len(), 4096);
    assert!(out.termination_message.ends_with(b" 1999 2000 "));
}

#[test]
fn dropping_leaves_nothing_behind() {
    let image = root_image();
    let pod = start(sample().share_process_namespace().memory_limit(64 << 20));
    let hold = pod.debug_spawn(DebugSpec::new(&image, Profile::General, ["agent", "target"]).target()).unwrap();
    let (uid, pids) = (pod.uid().to_owned(), [pod.target_pid(), hold.pid()]);
    let rootfs = image.rootfs();
    drop((pod, hold, image));
    assert!(!rootfs.exists());
    assert_eq!(traces(&std::env::temp_dir(), &uid), Vec::<String>::new());
    for pid in pids {
        assert!(rustix::process::test_kill_process(pid).is_err(), "{pid:?} lives");
    }
}

#[test]
fn what_a_killed_run_leaves_goes_with_the_next_start() {
    // A directory of its own, so that the next start is the one below and not that of another test.
    let temporary = std::env::temp_dir().join(format!("agent-pod-sweep-{}", std::process::id()));
    fs::create_dir_all(&temporary).unwrap();
    let run = |command: &[&str]| {
        let mut pod = Command::new(env!("CARGO_BIN_EXE_pod"));
        pod.arg("run").arg("--").args(command).env("TMPDIR", &temporary).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut killed = run(&["sleep", "infinity"]);
    let mut first = String::new();
    BufReader::new(killed.stdout.take().unwrap()).read_line(&mut first).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = fs::read_dir(temporary.join("agent-pod")).unwrap().flatten();
    let uid = left.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("pod-").map(str::to_owned)).next();
    let uid = uid.expect("a killed run leaves its pod");

    let mut next = run(&["true"]);
    let mut text = String::new();
    next.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(next.wait().unwrap().success(), "{text}");
    let started = Instant::now();
    while !traces(&temporary, &uid).is_empty() && started.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(traces(&temporary, &uid), Vec::<String>::new());
    fs::remove_dir_all(&temporary).unwrap();
}

/// Directories, cgroups and mounts that carry this pod's UID.
fn traces(temporary: &Path, uid: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<String> = mounts.lines().filter(|line| line.contains(uid)).map(str::to_owned).collect();
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let cgroups = hierarchies.map(|path| path.join("kubepods/burstable").join(format!("pod{uid}")));
    let own = [
        temporary.join("agent-pod").join(format!("pod-{uid}")),
        Path::new("/dev/shm").join(format!("agent-pod-{uid}")),
        Path::new("/sys/fs/cgroup/kubepods/burstable").join(format!("pod{uid}")),
    ];
    found.extend(cgroups.chain(own).filter(|path| path.exists()).map(|path| path.display().to_string()));
    found
}
