//! `run`, `plan`, `scenarios` and `judge`: each scenario finds its fault, and is silent on a healthy program.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;
#[path = "scenarios/document.rs"]
mod document;
#[path = "scenarios/pod.rs"]
mod pod;

use std::fs;
use std::process::{Command, Stdio};

use common::{AGENT, Answer, Child, SOON, agent, has_tool, is_root, rows, skip, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A pid and a network namespace with the program `faults` as PID 1, without the capability that a scenario warns of.
struct Space {
    /// Ends all when it is dropped.
    _unshare: Child,
    truth: Vec<Value>,
    init: u32,
}

impl Space {
    /// Starts it; `None`, and a word about it, where that cannot be.
    fn of(test: &str, arguments: &[&str]) -> Option<Self> {
        if !is_root() || ["unshare", "nsenter", "setpriv", "ip"].iter().any(|tool| !has_tool(tool)) {
            skip(test, "needs root, util-linux and iproute2");
            return None;
        }
        let faults = agent_targets::build("faults", &["-O2", "-fno-omit-frame-pointer"]);
        let script = "ip link set lo up && exec setpriv --bounding-set=-sys_admin -- \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--pid", "--net", "--fork", "--mount-proc", "--kill-child=SIGKILL", "sh", "-c", script, "sh"]);
        let mut unshare = Child::ready(command.arg(faults).args(arguments));
        let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
        let init = wait_for("PID 1 of the namespace", SOON, || fs::read_to_string(&children).ok()?.trim().parse().ok());
        let truth = std::mem::take(&mut unshare.truth);
        Some(Self { _unshare: unshare, truth, init })
    }

    fn agent(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--pid", "--mount", "--net", "--", AGENT]);
        for name in ["OUTPUT", "SESSION_ID", "INCIDENT", "ACTOR", "TIMEOUT"] {
            command.env_remove(format!("AGENT_{name}"));
        }
        command
    }

    fn run(&self, scenario: &str, parameters: &[&str]) -> Value {
        let mut command = self.agent();
        command.args(["run", scenario]);
        parameters.iter().for_each(|parameter| {
            command.arg(format!("--param={parameter}"));
        });
        Answer::of(&mut command).json()
    }

    /// The value of `key` in its truth, as text.
    fn said(&self, key: &str) -> String {
        let found = self.truth.iter().find_map(|line| line.get(key));
        let found = found.unwrap_or_else(|| panic!("no {key} in {:?}", self.truth));
        found.as_str().map_or_else(|| found.to_string(), str::to_owned)
    }
}

/// Parameters with which a scenario takes a moment.
fn quick(scenario: &str) -> &'static [&'static str] {
    match scenario {
        "fd-leak" | "memory-growth" => &["interval=150ms"],
        "high-cpu" => &["for=600ms"],
        "slow-dns" => &["for=700ms"],
        // How busy this machine is is no matter of the target's.
        "cpu-throttled" => &["for=400ms", "pressure=1001"],
        "stuck-io" => &["interval=100ms", "pressure=1001"],
        "deadlock" => &["interval=100ms"],
        "connection-leak" => &["interval=100ms"],
        "crash-loop" => &["interval=60ms"],
        "triage" => &["for=100ms"],
        _ => &[],
    }
}

/// The findings of `level`.
fn of_level<'a>(envelope: &'a Value, level: &str) -> Vec<&'a Value> {
    rows(envelope).iter().filter(|row| row["level"] == level).collect()
}

/// The one finding of rule `id` of a level that is bad; its evidence leads to something.
fn bad<'a>(envelope: &'a Value, id: &str) -> &'a Value {
    let mut found =
        rows(envelope).iter().filter(|row| row["id"] == id && (row["level"] == "fail" || row["level"] == "warn"));
    let first =
        found.next().unwrap_or_else(|| panic!("no {id} in {}", serde_json::to_string_pretty(rows(envelope)).unwrap()));
    let artifacts = envelope["data"]["summary"]["artifacts"].as_array().expect("artifacts");
    let evidence = first["evidence"].as_array().expect("evidence");
    assert!(!evidence.is_empty(), "{first}");
    for place in evidence {
        let artifact = artifacts.iter().find(|artifact| artifact["name"] == place["artifact"]);
        let artifact = artifact.unwrap_or_else(|| panic!("no artifact {place}"));
        let at = place["at"].as_str().expect("a pointer");
        assert!(artifact["envelope"].pointer(at).is_some(), "{place} leads nowhere");
    }
    assert!(!first["message"].as_str().unwrap().contains("(not seen)"), "{first}");
    first
}

fn finds(fault: &str, scenario: &str, more: &[&str], rule: &str, says: impl FnOnce(&Space) -> Vec<String>) {
    let Some(space) = Space::of(&format!("{scenario} finds {fault}"), &[fault]) else { return };
    let parameters: Vec<&str> = quick(scenario).iter().chain(more).copied().collect();
    let envelope = space.run(scenario, &parameters);
    let id = format!("{scenario}/{rule}");
    let finding = bad(&envelope, &id);
    let message = finding["message"].as_str().expect("a sentence");
    for word in says(&space) {
        assert!(message.contains(&word), "{word:?} is not in: {message}");
    }
    assert!(finding["remedy"].as_str().is_some_and(|remedy| remedy.len() > 10), "{finding}");
    judged_again(&envelope);
}

/// `judge` says the same of the evidence, byte for byte, wherever it is.
fn judged_again(envelope: &Value) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), serde_json::to_vec(envelope).unwrap()).unwrap();
    let answer = Answer::of(agent().arg("judge").arg(file.path()));
    let judged = answer.json();
    assert_eq!(rows(&judged), rows(envelope));
    assert_eq!(judged["data"]["summary"]["same_scenario"], true);
    let findings = |value: &Value| serde_json::to_string(&value["data"]["rows"]).unwrap();
    assert_eq!(findings(&judged), findings(envelope));
    let again = Answer::of(agent().arg("judge").arg(file.path())).json();
    assert_eq!(again["digest"], judged["digest"]);
}

fn words<const N: usize>(all: [&str; N]) -> Vec<String> {
    all.into_iter().map(str::to_owned).collect()
}

#[test]
fn leaked_descriptors_are_found_by_their_kind_and_place() {
    for (fault, kind, place) in [
        ("leak-files", "file", "in /"),
        ("leak-sockets", "socket", "neither bound nor connected"),
        ("leak-pipes", "pipe", "more in each of 4 looks"),
        ("leak-events", "eventfd", "more in each of 4 looks"),
    ] {
        finds(fault, "fd-leak", &[], "grows", |_| {
            words([&format!("{kind} descriptors pile up"), place, "The limit is"])
        });
    }
}

#[test]
fn growing_memory_is_found_by_its_kind() {
    finds("grow-heap", "memory-growth", &[], "grows", |_| words(["The heap", "more in each of 4 looks"]));
    finds("grow-mappings", "memory-growth", &[], "grows", |_| words(["Anonymous memory", "MiB"]));
}

#[test]
fn the_function_that_spins_and_threads_that_multiply_are_found() {
    finds("spin", "high-cpu", &["busy=50"], "busy", |_| {
        words(["burn_in_circles", "serve_requests", "of one processor"])
    });
    finds("threads", "high-cpu", &[], "threads-grow", |_| words(["threads", "more"]));
}

#[test]
fn deadlocks_and_convoys_are_found_with_threads_and_functions() {
    for fault in ["ring-2", "ring-3"] {
        finds(fault, "deadlock", &[], "circle", |space| {
            let tids = space.truth[0]["tids"].as_array().unwrap();
            let mut says: Vec<String> = tids
                .iter()
                .filter(|tid| **tid != 0)
                .map(|tid| format!("thread {tid} faults in transfer_money"))
                .collect();
            says.push(format!("Deadlock of {} threads", &fault[5..]));
            says
        });
    }
    finds("convoy", "deadlock", &[], "convoy", |space| {
        let owner = format!("thread {}", space.said("owner"));
        words(["12 threads wait for the mutex", &owner, "hold_and_wait", "want_lock"])
    });
}

#[test]
fn connections_that_pile_up_are_found_with_their_holder() {
    finds("close-wait", "connection-leak", &[], "close-wait", |space| {
        words(["60 connections accepted on port", &space.said("port"), "faults (1)", "CLOSE_WAIT"])
    });
    finds("backlog", "connection-leak", &[], "backlog", |space| {
        words(["is full", &format!("port {}", space.said("port")), "3 may", "faults (1)"])
    });
    finds("ports", "connection-leak", &["ports=40"], "ports", |space| {
        words(["40 connections", &format!("port {}", space.said("port")), "EADDRNOTAVAIL"])
    });
}

#[test]
fn connections_that_become_more_and_those_turned_away_are_found() {
    finds("grow-connections", "connection-leak", &["many=10"], "grows", |space| {
        words([&format!("to 127.0.0.1 port {}", space.said("port")), "pile up", "10 or more of them new"])
    });
    finds("backlog", "connection-leak", &[], "overflows", |_| words(["were turned away", "was full"]));
}

#[test]
fn names_that_are_answered_late_in_vain_or_not_at_all_are_found() {
    finds("names-slow", "slow-dns", &["for=1500ms"], "slow", |space| {
        words([&space.said("name"), "on average", "127.0.0.1"])
    });
    finds("names-search", "slow-dns", &[], "search-domains", |space| {
        words([&space.said("name"), "2 search domains in vain", "cluster.local"])
    });
    finds("names-errors", "slow-dns", &[], "errors", |space| words([&space.said("name"), "nxdomain"]));
}

#[test]
fn a_library_that_was_replaced_is_found() {
    let target = Child::target("faults", &["-O2"], ["old-library"]);
    let envelope = common::json(["run", "what-runs-here", "--pid", &target.pid().to_string()]);
    let finding = bad(&envelope, "what-runs-here/replaced");
    let path = target.said("fault", "old-library")["path"].as_str().unwrap().to_owned();
    assert!(finding["message"].as_str().unwrap().contains(&path), "{finding}");
}

#[test]
fn a_name_server_that_does_not_answer_is_found() {
    finds("names", "slow-dns", &[], "unanswered", |space| {
        words(["The name server 127.0.0.1 did not answer", &space.said("name"), "billing.cluster.local"])
    });
}

#[test]
fn hanging_input_and_output_is_found_with_the_thread_and_its_peer() {
    finds("stopped-pipe", "stuck-io", &[], "blocked-writer", |space| {
        let thread = format!("Thread {}", space.said("tid"));
        let descriptor = format!("descriptor {}, a pipe", space.said("fd"));
        let reader = format!("log-shipper ({}), which is stopped", space.said("reader"));
        words([&thread, "write_log", &descriptor, &reader])
    });
    finds("disk-sleep", "stuck-io", &[], "uninterruptible", |space| {
        words([&format!("Thread {}", space.said("tid")), "state D", "vfork", "run_helper"])
    });
}

#[test]
fn processes_that_start_again_and_zombies_are_found() {
    finds("respawn", "crash-loop", &[], "restarts", |_| words(["worker is started again and again", "faults (1)"]));
    finds("zombies", "crash-loop", &[], "zombies", |_| words(["30 ended processes are zombies", "faults (1)"]));
}

#[test]
fn a_deleted_executable_is_found() {
    let target = Child::target("deleted_exe", &["-O2"], [] as [&str; 0]);
    let envelope = common::json(["run", "what-runs-here", "--pid", &target.pid().to_string()]);
    let finding = bad(&envelope, "what-runs-here/deleted");
    assert!(finding["message"].as_str().unwrap().contains("was deleted or replaced"), "{finding}");
}

#[test]
fn triage_finds_what_one_look_can_tell() {
    for (fault, rule) in [
        ("close-wait", "close-wait"),
        ("backlog", "backlog"),
        ("ring-3", "deadlock"),
        ("convoy", "convoy"),
        ("disk-sleep", "disk-sleep"),
        ("zombies", "zombies"),
    ] {
        finds(fault, "triage", &[], rule, |_| Vec::new());
    }
}

#[test]
fn every_scenario_is_silent_on_a_healthy_program() {
    let test = "every_scenario_is_silent_on_a_healthy_program";
    let Some(space) = Space::of(test, &[]) else { return };
    let names = scenarios();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let envelope = space.run(&name, quick(&name));
        for level in ["fail", "warn", "unknown"] {
            assert_eq!(of_level(&envelope, level), [] as [&Value; 0], "{name}");
        }
        assert!(!of_level(&envelope, "pass").is_empty(), "{name} says what it looked for");
        judged_again(&envelope);
    }
}

/// The names of all scenarios.
fn scenarios() -> Vec<String> {
    let listed = common::json(["scenarios"]);
    rows(&listed).iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_rule_whose_evidence_is_denied_is_unknown_and_says_what_opens_it() {
    if !is_root() {
        return skip(
            "a_rule_whose_evidence_is_denied_is_unknown_and_says_what_opens_it",
            "only root can change its IDs",
        );
    }
    let target = Child::target("faults", &["-O2"], ["leak-files"]);
    let installed = common::Installed::new();
    let mut command = installed.as_user(65534, 65534);
    let answer =
        Answer::of(command.args(["run", "fd-leak", "--param=interval=50ms", "--pid", &target.pid().to_string()]));
    let envelope = answer.json();
    assert_eq!(answer.status, 3, "{envelope}");
    // How many there are was told by another file than which they are.
    for row in rows(&envelope).iter().filter(|row| row["id"] != "fd-leak/near-limit") {
        assert_eq!(row["level"], "unknown", "{row}");
        assert!(row["message"].as_str().unwrap().starts_with("It could not be told whether"), "{row}");
        assert!(!row["gaps"].as_array().unwrap().is_empty(), "{row}");
    }
    let remedies = rows(&envelope).iter().filter_map(|row| row["remedy"].as_str()).collect::<Vec<_>>().join(" ");
    assert!(remedies.contains("kubectl debug"), "{remedies}");
    assert!(envelope["gaps"].as_array().unwrap().iter().any(|gap| gap["at"] == "/rows/0"), "{}", envelope["gaps"]);
}

#[test]
fn a_signal_ends_a_run_with_what_was_gathered() {
    let target = Child::target("faults", &["-O2"], ["leak-files"]);
    let mut command = agent();
    command.args([
        "run",
        "fd-leak",
        "--param=interval=300ms",
        "--param=looks=1000",
        "--pid",
        &target.pid().to_string(),
    ]);
    let directory = tempfile::tempdir().expect("a directory");
    let progress = directory.path().join("progress");
    let stderr = fs::File::create(&progress).expect("a file");
    let run = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("starts");
    let is_looking = || fs::read_to_string(&progress).ok()?.contains("step 2 of 2: fds").then_some(());
    wait_for("the second step", SOON, is_looking);
    kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), Signal::SIGINT).unwrap();
    let answer = Answer::from(
        run.wait_with_output().map(|output| std::process::Output { stderr: Vec::new(), ..output }).unwrap(),
    );
    assert_eq!(answer.status, 4);
    let envelope: Value = serde_json::from_slice(&answer.stdout).expect("an envelope");
    common::assert_valid(&envelope);
    let steps = envelope["data"]["summary"]["steps"].as_array().expect("steps");
    assert_eq!(steps.last().unwrap()["end"], "cut_off", "{steps:?}");
    assert!(steps.last().unwrap()["gaps"][0]["detail"].as_str().unwrap().contains("SIGINT"));
    judged_again(&envelope);
}

#[test]
fn the_end_of_the_target_ends_a_run() {
    let target = Child::target("faults", &["-O2"], ["healthy"]);
    let mut command = agent();
    command.args(["run", "fd-leak", "--param=interval=20s", "--pid", &target.pid().to_string()]);
    let mut run = Child::start(command.stderr(Stdio::null()));
    let reads = format!("/proc/{}/status", run.pid());
    wait_for("the run to wait", SOON, || {
        let status = fs::read_to_string(&reads).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
        (u64::from_str_radix(mask.trim(), 16).ok()? & 0b10 != 0).then_some(())
    });
    drop(target);
    let envelope: Value = serde_json::from_str(&run.line()).expect("an envelope");
    let steps = envelope["data"]["summary"]["steps"].as_array().expect("steps");
    assert!(steps.iter().any(|step| step["gaps"][0]["reason"] == "exited"), "{steps:?}");
    assert!(rows(&envelope).iter().all(|row| row["level"] != "pass" || row["gaps"].is_null()), "{envelope}");
}
