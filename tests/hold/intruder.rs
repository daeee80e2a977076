//! A target that listens, squats, speaks or floods: what it reaches of the session, which is nothing.

use agent_pod::{Pod, PodSpec, Profile};
use agent_session::audit::{Verdict, verify};
use serde_json::{Value, json};

use crate::common::{self, SOON, is_root, skip};
use crate::{answer, ended, exec, hold, of_kind};

/// Connects to each socket of an agent in the network namespace, with the target's own rights, and says what came of it.
const INTRUDER: &str = r#"
import json, os, re, socket
names = {line.split()[-1][1:] for line in open('/proc/net/unix') if '@agent-' in line}
told = []
for name in sorted(names):
    for messages in ([b'{"hello":{"nonce":"00"}}', b'{"begin":{"proof":"00","command":"ps","redaction":"off"}}',
                      b'{"record":{"kind":"action.start","data":{"action":1}}}'],
                     [b'{"hello":{"nonce":"00"}}', b'{"take":{"proof":"00"}}'], [b'\xff' * 60000], [b'{}']):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect('\0' + name)
        s.settimeout(5)
        answers = []
        for message in messages:
            try:
                s.send(message)
                answers.append(s.recv(70000).decode())
            except OSError as error:
                answers.append(type(error).__name__)
        told.append(answers)
        s.close()
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        s.bind('\0' + name)
        told.append('squatted')
    except OSError:
        told.append('taken')
readable = []
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        if open(f'/proc/{pid}/comm').read() == 'agent\n':
            readable.append('there')
            for path in ('mem', 'environ', 'root/dev/termination-log', 'fd'):
                try:
                    os.listdir(f'/proc/{pid}/{path}') if path == 'fd' else open(f'/proc/{pid}/{path}', 'rb').read(1)
                    readable.append(path)
                except OSError:
                    pass
    except OSError:
        pass
print(json.dumps([sorted(names), told, readable]), flush=True)
"#;

#[test]
fn the_target_can_neither_read_nor_squat_nor_speak_in_it() {
    let name = "the_target_can_neither_read_nor_squat";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    if !common::has_tool("python3") {
        return skip(name, "there is no python3");
    }
    // The target has the uid of the agent, and looks when it is told to.
    let script = format!(
        "echo ready; while [ ! -e /tmp/go ]; do sleep 0.1; done; python3 -c '{}'; sleep 1000",
        INTRUDER.replace('\'', "'\\''")
    );
    let spec = PodSpec::new("intruder", ["sh", "-c", &script]).pod_user(65532, 65532);
    let pod = Pod::start(spec).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    let hold = hold(&pod, Profile::General, &["--ttl", "5m"]);
    let root = format!("/proc/{}/root/tmp/go", pod.target_pid().as_raw_nonzero().get());
    std::fs::write(root, "").expect("a file in the target's /tmp");
    pod.wait_for_output("]]", SOON).or_else(|_| pod.wait_for_output("[]]", SOON)).expect("what came of it");
    let text = pod.stdout().text();
    let line = text.lines().find(|line| line.starts_with("[[")).expect("what came of it");
    let told: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(told[0].as_array().map(Vec::len), Some(1), "one hold is seen: {told}");
    let answers = told[1].as_array().expect("answers");
    // It gets a number and a proof that is worth nothing to it, and not one word more.
    assert!(answers[0][0].as_str().is_some_and(|answer| answer.starts_with("{\"challenge\"")), "{told}");
    for answer in answers[..4].iter().flat_map(|answers| answers.as_array().expect("answers")) {
        let answer = answer.as_str().expect("text");
        assert!(!["welcome", "recorded", "kept"].iter().any(|word| answer.contains(word)), "{told}");
    }
    assert_eq!(answers[4], "taken");
    assert_eq!(told[2], json!(["there"]), "nothing of the agent's can be read");
    let status = answer(&exec(&pod, &hold, &["status"]));
    assert_eq!(status["data"]["summary"]["strangers"], 4);
    assert_eq!(exec(&pod, &hold, &["end"]).exit_code, 0);
    let (_, records, text, _) = ended(hold);
    assert_eq!(verify(text.as_bytes(), None).chains[0].verdict, Verdict::Whole);
    assert_eq!(of_kind(&records, "authz.deny").len(), 4);
    assert_eq!(of_kind(&records, "action.start").len(), 2, "only status and end");
}

/// Opens connections to the hold without end, from several processes: some say nothing, some begin to prove themselves.
const FLOOD: &str = r#"
import os, socket
names = {line.split()[-1][1:] for line in open('/proc/net/unix') if '@agent-' in line}
for _ in range(3):
    if os.fork() == 0:
        break
kept = []
count = 0
while True:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.setblocking(False)
    try:
        s.connect('\0' + sorted(names)[0])
        if count % 2:
            s.send(b'{"hello":{"nonce":"00"}}')
        kept.append(s)
        count += 1
        if len(kept) > 300:
            kept.pop(0).close()
        if count == 500:
            print('flooded', flush=True)
    except OSError:
        s.close()
"#;

#[test]
fn a_target_that_takes_all_connections_keeps_no_command_out() {
    let name = "a_target_that_takes_all_connections";
    if !is_root() {
        return skip(name, "a pod needs root");
    }
    if !common::has_tool("python3") {
        return skip(name, "there is no python3");
    }
    let script = format!(
        "echo ready; while [ ! -e /tmp/go ]; do sleep 0.1; done; exec python3 -c '{}'",
        FLOOD.replace('\'', "'\\''")
    );
    let pod = Pod::start(PodSpec::new("flood", ["sh", "-c", &script]).pod_user(65532, 65532)).expect("a pod");
    pod.wait_for_output("ready", SOON).expect("a target");
    let hold = hold(&pod, Profile::General, &["--ttl", "5m"]);
    let root = format!("/proc/{}/root/tmp/go", pod.target_pid().as_raw_nonzero().get());
    std::fs::write(root, "").expect("a file in the target's /tmp");
    pod.wait_for_output("flooded", SOON).expect("a flood");
    for _ in 0..5 {
        let limits = exec(&pod, &hold, &["limits", "--allow-gaps"]);
        assert_eq!(limits.exit_code, 0, "{}", limits.stderr_text());
        assert!(!limits.stderr_text().contains("session.open"), "it is part of the session");
    }
    assert_eq!(exec(&pod, &hold, &["end"]).exit_code, 0);
    let (_, records, text, _) = ended(hold);
    assert_eq!(verify(text.as_bytes(), None).chains[0].verdict, Verdict::Whole);
    assert_eq!(of_kind(&records, "action.end").len(), 6);
}
