//! The console: the session that it holds, what is typed, and how it ends.

use std::sync::LazyLock;

use agent_pod::{DebugContainer, DebugSpec, FileCaps, Image, Pod, PodSpec, Profile};
use agent_session::audit::{Verdict, verify};
use serde_json::{Value, json};

use crate::common::{self, SOON, is_root, rows, skip, wait_until};
use crate::{IMAGE, answer, exec, of_kind, records};

/// The image of the other tests as root, who can make the session's directory; the image that is shipped has one that all can write to.
static ROOT_IMAGE: LazyLock<Image> =
    LazyLock::new(|| Image::from_binary(common::AGENT, "0", FileCaps::AllPermitted).expect("an image of the agent"));

/// The console, as a person in front of it: what they see, and what they type.
struct Console {
    container: DebugContainer,
    keyboard: std::fs::File,
    /// How much of the screen was read.
    read: usize,
}

impl Console {
    /// What is shown from now on, up to `text`.
    fn until(&mut self, text: &str) -> String {
        let mut shown = String::new();
        wait_until(text, SOON, || {
            let all = self.container.stdout().text();
            let new = &all[self.read..];
            let Some(at) = new.find(text) else { return false };
            shown = new[..at + text.len()].to_owned();
            true
        });
        self.read += shown.len();
        shown
    }

    fn types(&mut self, text: &str) {
        std::io::Write::write_all(&mut self.keyboard, text.as_bytes()).expect("a keyboard");
    }
}

#[test]
fn a_terminal_without_a_command_is_a_console() {
    let name = "a_terminal_without_a_command";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    let pod = Pod::start(PodSpec::new(name, ["sh", "-c", "echo ready; sleep 1000"])).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    let spec =
        DebugSpec::new(&ROOT_IMAGE, Profile::General, [""; 0]).target().arguments_only().env("AGENT_INCIDENT", "INC-7");
    let mut container = pod.debug_spawn(spec.tty().stdin(agent_pod::Stdin::Pipe)).expect("a console");
    let keyboard = container.take_stdin().expect("a keyboard");
    let mut console = Console { container, keyboard, read: 0 };
    let greeting = console.until("s> ");
    assert!(greeting.contains("session 01") && greeting.contains(" sh(1) 1"), "{greeting}");
    assert!(greeting.contains("audit: /session/"), "{greeting}");
    let id = greeting.split("session ").nth(1).and_then(|rest| rest.split(',').next()).expect("an ID");
    assert!(greeting.contains(&format!("agent …{} sh(1)", &id[id.len() - 6..])), "{greeting}");
    // A table, since this is a terminal; its session is the console's.
    console.types("ps\r");
    console.until(id);
    console.until("PID");
    console.until("sleep 1000");
    console.until("s> ");
    console.types("access | json\r");
    console.until("\"schema\"");
    console.until(id);
    console.until("INC-7");
    console.until("\"digest\"");
    console.until("s> ");
    // Each line is confined by itself: the next one may do what the one before could not. And it is completed.
    console.types("stac\t --stop never\r");
    console.until("COMPLETE");
    console.until("s> ");
    // Nothing is written over.
    console.types("fds | json > fds.json\r");
    console.until("fds.json");
    console.until("s> ");
    console.types("fds > fds.json\r");
    console.until("/session: ");
    console.until("s> ");
    console.types("ps | grep x\r");
    console.until("no other programs");
    console.until("s> ");
    // Ctrl-C ends what runs, and not the console.
    console.types("profile --for 60s\r");
    // The console, its copy that profiles, and the agent that looks for them.
    wait_until("the profile", SOON, || {
        let look = DebugSpec::new(&IMAGE, Profile::General, ["agent", "ps", "--self", "--allow-gaps"]).target();
        let seen = pod.debug(look).expect("a look").json().expect("an envelope");
        rows(&seen).iter().filter(|row| row["name"] == "agent").count() >= 3
    });
    console.types("\x03");
    console.until("s> ");
    console.types("help\r");
    console.until("what is wrong, in sentences");
    console.until("s> ");
    // All of it is one session, with one audit; what kubectl exec starts is part of it.
    let outside = exec(&pod, &console.container, &["ps"]);
    assert_eq!(answer(&outside)["session"]["id"], id, "{}", outside.stderr_text());
    console.types("status\r");
    console.until("ACTION");
    console.until("s> ");
    let fds = exec(&pod, &console.container, &["fetch", "fds.json"]);
    assert_eq!(answer(&fds)["schema"], "agent.fds/1", "{}", fds.stderr_text());
    let fetched = exec(&pod, &console.container, &["fetch", &format!("{id}.audit.ndjson")]);
    let log = fetched.stdout_text();
    assert_eq!(fetched.exit_code, 0, "{}", fetched.stderr_text());
    assert_eq!(verify(log.as_bytes(), None).chains[0].verdict, Verdict::Truncated, "it goes on");
    let started: Vec<String> = of_kind(&records(&log), "action.start")
        .iter()
        .map(|record| record["data"]["command"].as_str().expect("a command").to_owned())
        .collect();
    assert_eq!(started, ["ps", "access", "stacks", "fds", "profile", "ps", "status", "fetch", "fetch"]);
    console.types("exit\r");
    let Console { container, .. } = console;
    let (code, receipt) = closed(container);
    assert_eq!((code, &receipt["session"], &receipt["commands"]), (0, &json!(id), &json!(9)));
    assert_eq!(receipt["verdicts"]["0"], 8, "{receipt}");
    // It is the end of the chain of which the beginning was seen.
    assert!(receipt["audit"]["count"].as_u64().is_some_and(|count| count > records(&log).len() as u64), "{receipt}");
    assert_eq!(receipt["audit"]["key"], records(&log)[0]["data"]["key"]);
}

/// How a console ended, and what stays with the pod.
fn closed(container: DebugContainer) -> (i32, Value) {
    let output = container.wait(SOON).expect("its end");
    (output.exit_code, serde_json::from_slice(&output.termination_log).unwrap_or(Value::Null))
}

#[test]
fn a_console_ends_with_its_session_and_what_runs_in_it_as_well() {
    let name = "a_console_ends_with_its_session";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    let pod = Pod::start(PodSpec::new(name, ["sh", "-c", "echo ready; sleep 1000"])).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    let arguments = ["--ttl", "4s", "--session", "brief", "--audit"];
    let spec = DebugSpec::new(&IMAGE, Profile::General, arguments).target().arguments_only();
    let mut container = pod.debug_spawn(spec.tty().stdin(agent_pod::Stdin::Pipe)).expect("a console");
    let keyboard = container.take_stdin().expect("a keyboard");
    let mut console = Console { container, keyboard, read: 0 };
    // The audit is asked for: on a terminal it is between all else.
    let opened = console.until("session brief, for 4s");
    assert!(opened.contains("session.open"), "{opened}");
    console.types("profile --for 60s --session brief\r");
    console.until("\"action.start\"");
    let end = console.until("\"session.close\"");
    assert!(end.contains("the session is over"), "{end}");
    let Console { container, .. } = console;
    let (code, receipt) = closed(container);
    assert_eq!((code, &receipt["session"], &receipt["verdicts"]), (0, &json!("brief"), &json!({"4": 1})));
}

#[test]
fn where_no_file_can_be_written_the_audit_of_a_console_is_kept_in_memory() {
    let name = "where_no_file_can_be_written_the_audit";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    let pod = Pod::start(PodSpec::new("console-memory", ["sh", "-c", "echo ready; sleep 1000"])).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    let spec = DebugSpec::new(&IMAGE, Profile::Restricted, ["--session", "unseen"]).target().arguments_only();
    let mut container = pod.debug_spawn(spec.read_only_root().tty().stdin(agent_pod::Stdin::Pipe)).expect("a console");
    let keyboard = container.take_stdin().expect("a keyboard");
    let mut console = Console { container, keyboard, read: 0 };
    let opened = console.until("s> ");
    assert!(opened.contains("audit: in memory while the session lasts: agent fetch unseen.audit.ndjson"), "{opened}");
    console.types("ps --allow-gaps\r");
    console.until("PID");
    console.until("s> ");
    // A bundle is nothing for a terminal: it is kept there as well.
    console.types("ps --allow-gaps -o bundle\r");
    console.until("kept: agent fetch ");
    let name = console.until(".dbg.tar.zst");
    console.until("s> ");
    let bundle = exec(&pod, &console.container, &["fetch", &name]);
    assert_eq!(agent_scenario::bundle::read(&bundle.stdout, 64 << 20).problems, [], "{}", bundle.stderr_text());
    let fetched = exec(&pod, &console.container, &["fetch", "unseen.audit.ndjson"]);
    let log = fetched.stdout_text();
    assert_eq!(fetched.exit_code, 0, "{}", fetched.stderr_text());
    assert_eq!(verify(log.as_bytes(), None).chains[0].verdict, Verdict::Truncated, "it goes on");
    assert_eq!(of_kind(&records(&log), "action.end").len(), 3);
    console.types("exit\r");
    let (code, receipt) = closed(console.container);
    assert_eq!((code, &receipt["commands"]), (0, &json!(4)));
    assert_eq!(receipt["audit"]["key"], records(&log)[0]["data"]["key"]);
}
