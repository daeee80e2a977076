//! Scenarios of one's own: what is no scenario is refused with a place, and what is one runs.

use std::fs;

use crate::common::{AGENT, Answer, Child, Installed, agent, has_tool, is_root, json, row, rows, skip};

/// A file with `text`.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
    fs::write(file.path(), text).expect("written");
    file
}

/// The words with which `plan` refuses `text`.
fn refused(text: &str) -> String {
    let file = file(text);
    let answer = Answer::of(agent().arg("plan").arg(file.path()));
    assert_eq!(answer.status, 1, "{text}");
    assert!(answer.stdout.is_empty(), "{text}");
    answer.stderr
}

const OWN: &str = "\
name: own
title: Whether it has threads
parameters:
  most: {default: 3, about: the most that there may be}
steps:
  - collect: ps
  - wait: 10ms
  - name: later
    collect: ps
    until: {condition: 'later.data.rows.exists(row, row.pid == later.target.pid)', every: 10ms, holds: 20ms}
    deadline: 10s
judge:
  - id: threads
    asks: it has many threads
    each: later.data.rows.filter(row, row.pid == later.target.pid)
    when: item.threads > param.most
    level: warn
    message: '{item.name} has {item.threads} threads, and {{most}} is {param.most}'
    evidence: [item.threads]
    remedy: fewer
    otherwise: '{ps.target.name} has {param.most} threads or fewer'
";

#[test]
fn ones_own_scenario_runs_and_is_judged_again_by_its_own_rules() {
    let target = Child::target("faults", &["-O2"], ["healthy"]);
    let pid = target.pid().to_string();
    let own = file(OWN);
    let path = own.path().to_str().expect("UTF-8");
    let envelope = json(["run", path, "--pid", &pid]);
    let finding = row(&envelope, "id", "own/threads");
    assert_eq!(finding["message"], "faults has 4 threads, and {most} is 3");
    assert_eq!(finding["level"], "warn");
    assert_eq!(finding["evidence"][0]["artifact"], "later");
    super::judged_again(&envelope);
    let passes = json(["run", path, "--pid", &pid, "--param", "most=4"]);
    assert_eq!(row(&passes, "id", "own/threads")["message"], "faults has 4 threads or fewer");
    // Newer rules on older evidence.
    let evidence = file(&serde_json::to_string(&envelope).unwrap());
    let newer = file(&OWN.replace("level: warn", "level: fail"));
    let judged = json(["judge", evidence.path().to_str().unwrap(), "--scenario", newer.path().to_str().unwrap()]);
    assert_eq!(row(&judged, "id", "own/threads")["level"], "fail");
    assert_eq!(judged["data"]["summary"]["same_scenario"], false);
}

#[test]
fn what_is_no_scenario_is_refused_with_its_place_and_what_was_meant() {
    let misspelt = refused(&OWN.replace("    deadline: 10s", "    dedline: 10s"));
    assert!(misspelt.contains("line ") && misspelt.contains("column "), "{misspelt}");
    assert!(misspelt.contains("unknown field `dedline`") && misspelt.contains("did you mean deadline?"), "{misspelt}");
    let cases = [
        (OWN.replace("param.most", "param2.most"), "nothing before it is called param2; did you mean param?"),
        (OWN.replace("item.threads > param.most", "item.threads >"), "rule threads: column"),
        (OWN.replace("later.data.rows.exists(", "later.data.rows.exsts("), "no function exsts; did you mean exists?"),
        (OWN.replace("collect: ps\n  - wait", "name: ps\n    collect: pss\n  - wait"), "there is no such command"),
        (OWN.replace("level: warn", "level: pass"), "must be fail, warn or info"),
        (OWN.replace("level: warn", "level: bad"), "unknown variant `bad`"),
        (OWN.replace("wait: 10ms", "wait: soon"), "no time such as"),
        (OWN.replace("    deadline: 10s\n", ""), "needs a `deadline`"),
        (OWN.replace("name: later\n", "name: ps\n"), "there is another of that name"),
        (OWN.replace("collect: ps\n  - wait", "collect: ps\n    options: {no-such: true}\n  - wait"), "--no-such"),
        (OWN.replace("name: own", "name: Own One"), "lower-case"),
        ("steps: [".to_owned(), "line "),
        ("just words".to_owned(), "invalid type"),
        (String::new(), ""),
        // A bomb of aliases, and a text that is not one.
        (
            format!(
                "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
                ('b'..='j')
                    .map(|c| format!("{c}: &{c} [{}]\n", vec![format!("*{}", (c as u8 - 1) as char); 9].join(",")))
                    .collect::<String>()
            ),
            "unknown field",
        ),
    ];
    for (text, word) in cases {
        let words = refused(&text);
        assert!(words.contains(word), "{word:?} is not in: {words}");
    }
}

#[test]
fn a_plan_says_what_will_be_done_and_what_it_may_cost() {
    let plan = json(["plan", "high-cpu", "--param", "for=30s"]);
    let step = row(&plan, "step", "profile");
    assert_eq!(step["does"], "profile --for=30s");
    assert_eq!(step["time_us"], 60_000_000);
    assert_eq!(step["stops"], 5000);
    assert_eq!(row(&plan, "step", "before")["stops"], 0);
    assert_eq!(plan["data"]["summary"]["time_us"], 90_000_000);
    // It touches nothing: not even /proc is listed.
    assert_eq!(plan["cost"]["files_opened"], 0);
    assert!(plan["target"].is_null());
    if is_root() {
        assert_eq!(plan["data"]["summary"]["has_all"], true, "{plan}");
        let installed = Installed::new();
        let bare = Answer::of(installed.as_user(65534, 65534).args(["plan", "high-cpu"])).json();
        assert_eq!(bare["data"]["summary"]["has_all"], false, "{bare}");
        let step = row(&bare, "step", "profile");
        assert!(step["lacks"].as_array().unwrap().contains(&"CAP_SYS_PTRACE".into()), "{step}");
        assert!(step["remedy"].as_str().unwrap().starts_with("kubectl debug --profile="), "{step}");
    }
    for (arguments, word) in [
        (["plan", "high-cpus"], "did you mean high-cpu?"),
        (["run", "fd-leek"], "did you mean fd-leak?"),
        (["plan", "/no/such/file.yaml"], "ENOENT"),
    ] {
        let answer = Answer::of(agent().args(arguments));
        assert!(answer.status != 0 && answer.stderr.contains(word), "{arguments:?}: {}", answer.stderr);
    }
    let answer = Answer::of(agent().args(["plan", "high-cpu", "--param", "fro=3s"]));
    assert!(answer.stderr.contains("has no parameter fro; did you mean for?"), "{}", answer.stderr);
}

/// What strace(1) sees of it: nothing of any process is opened, and nobody is asked or held.
#[test]
fn a_plan_touches_nothing() {
    if !has_tool("strace") {
        return skip("a_plan_touches_nothing", "there is no strace");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("trace");
    for arguments in [&["triage"][..], &["slow-dns"], &["deadlock", "-o", "table"]] {
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-o"]).arg(&trace).arg(AGENT).arg("plan").args(arguments);
        let answer = Answer::of(&mut strace);
        assert_eq!(answer.status, 0, "{}", answer.stderr);
        let trace = fs::read_to_string(&trace).expect("a trace");
        let calls: Vec<&str> = trace.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert!(calls.iter().any(|call| call.starts_with("openat(")), "it opens what is its own");
        for name in ["socket", "connect", "ptrace", "process_vm_readv", "pidfd_open", "kcmp", "kill"] {
            let called = calls.iter().find(|call| call.starts_with(&format!("{name}(")));
            assert_eq!(called, None, "{arguments:?}");
        }
        for line in trace.lines().filter(|line| line.contains("open") || line.contains("readlink")) {
            let Some((_, path)) = line.split_once("\"/proc/") else { continue };
            assert!(!path.starts_with(|c: char| c.is_ascii_digit()), "{arguments:?}: {line}");
        }
    }
}

/// The budget that `plan` prints is kept, in bytes and in stops, and the step that wanted more says so.
#[test]
fn a_run_takes_no_more_than_its_budget() {
    let target = Child::target("faults", &["-O2"], ["spin"]);
    let pid = target.pid().to_string();
    let budget = |bytes: u64, stops: u64| {
        let steps = "steps:\n  - collect: stacks\n  - collect: maps\n";
        let rule =
            "judge:\n  - {id: x, asks: q, when: 'size(maps.data.rows) > 0', level: warn, message: m, otherwise: o}\n";
        let own =
            file(&format!("name: own\ntitle: t\nbudget: {{time: 30s, bytes: {bytes}, stops: {stops}}}\n{steps}{rule}"));
        let path = own.path().to_str().unwrap();
        let plan = json(["plan", path]);
        assert_eq!(
            (&plan["data"]["summary"]["read_bytes"], &plan["data"]["summary"]["stops"]),
            (&bytes.into(), &stops.into())
        );
        let answer = Answer::of(agent().args(["run", path, "--pid", &pid]));
        let envelope: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("an envelope");
        (answer.status, envelope)
    };
    // A thread that runs has to be held for its stack.
    let (status, free) = budget(1 << 30, 100);
    assert_eq!((status, free["cost"]["stops"].as_u64() > Some(0)), (0, true), "{}", free["gaps"]);
    let (status, held) = budget(1 << 30, 0);
    assert_eq!((status, &held["cost"]["stops"]), (4, &0.into()), "{}", held["gaps"]);
    assert!(held["data"].to_string().contains("budget of the scenario was used up"), "{held}");
    // What was begun is read: one more file than may be.
    let (status, short) = budget(20_000, 100);
    let read = |envelope: &serde_json::Value| envelope["cost"]["bytes_read"].as_u64().expect("a number");
    assert_eq!(status, 4, "{}", short["gaps"]);
    assert!(read(&short) < 20_000 + (64 << 10) && read(&short) < read(&free), "{} of {}", read(&short), read(&free));
}

#[test]
fn every_scenario_has_a_title_a_plan_and_a_playbook() {
    for name in super::scenarios() {
        let one = json(["scenarios", &name]);
        let playbook = rows(&one)[0]["playbook"].as_str().expect("a playbook").to_owned();
        for part in ["## What it does", "## How to read it", "## False alarms"] {
            assert!(playbook.contains(part), "{name} lacks {part}");
        }
        let page = Answer::of(agent().args(["scenarios", &name, "-o", "table"]));
        assert!(page.text().starts_with(&format!("# {name}: ")), "{}", page.text());
        assert!(!rows(&json(["plan", &name])).is_empty(), "{name}");
    }
}

#[test]
fn the_files_of_scenarios_are_as_their_schema_says() {
    let answer = Answer::of(agent().args(["scenarios", "--json-schema", "-o", "table"]));
    let schema: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("a schema");
    let validator = jsonschema::validator_for(&schema).expect("a schema that is one");
    for name in super::scenarios() {
        let one = Answer::of(agent().args(["scenarios", &name, "--yaml", "-o", "table"]));
        let file = file(one.text());
        // Its own text is a scenario again.
        assert_eq!(json(["plan", file.path().to_str().unwrap()])["data"], json(["plan", &name])["data"]);
    }
    assert!(!validator.is_valid(&serde_json::json!({"name": "x"})));
    let least = serde_json::json!({
        "name": "x", "title": "y", "steps": [{"collect": "ps"}],
        "judge": [{"id": "a", "asks": "b", "when": "true", "level": "info", "message": "c"}],
    });
    assert!(validator.is_valid(&least));
    let unknown = serde_json::json!({"name": "x", "title": "y", "steps": [{"colect": "ps"}], "judge": []});
    assert!(!validator.is_valid(&unknown));
}

#[test]
fn a_step_that_waits_for_what_does_not_come_ends_at_its_deadline() {
    let target = Child::target("faults", &["-O2"], ["healthy"]);
    let text = OWN
        .replace("row.pid == later.target.pid)', every", "row.pid == 0)', every")
        .replace("deadline: 10s", "deadline: 60ms");
    let own = file(&text);
    let envelope = json(["run", own.path().to_str().unwrap(), "--pid", &target.pid().to_string()]);
    let steps = envelope["data"]["summary"]["steps"].as_array().expect("steps");
    assert_eq!(steps[2]["end"], "not_met", "{steps:?}");
    assert_eq!(row(&envelope, "id", "own/threads")["level"], "warn");
}

#[test]
fn a_gap_ends_the_run_where_it_is_told_to() {
    // A recorded tree without the target's files: looking has gaps, and no time goes by.
    let target = Child::target("faults", &["-O2"], ["healthy"]);
    let text = OWN.replace(
        "  - collect: ps\n  - wait",
        "  - collect: maps\n    options: {max-rows: 1}\n    on_gap: stop\n  - collect: ps\n  - wait",
    );
    let own = file(&text);
    let envelope = json(["run", own.path().to_str().unwrap(), "--pid", &target.pid().to_string()]);
    let ends: Vec<&str> = envelope["data"]["summary"]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["end"].as_str().unwrap())
        .collect();
    assert_eq!(ends, ["done", "skipped", "skipped", "skipped"]);
    let finding = row(&envelope, "id", "own/threads");
    assert_eq!(finding["level"], "unknown", "{finding}");
}

/// Ends when a file of the target is gone: what a health check of many services looks for.
const HEALTH: &str = "\
name: health
title: What is so when the health file is gone
budget: {time: 60s}
steps:
  - name: health
    collect: files
    options: {paths: HEALTHFILE}
    until: {condition: '!health.data.rows[0].present', every: 20ms, holds: 40ms}
    deadline: 40s
  - collect: fds
judge:
  - id: gone
    asks: the health file is gone
    when: '!health.data.rows[0].present'
    level: warn
    message: '{health.data.rows[0].path} is gone, and {fds.data.summary.descriptors} descriptors are open'
    evidence: ['health.data.rows[0]']
    otherwise: The health file is there.
";

#[test]
fn a_run_begins_to_look_when_a_health_file_is_gone() {
    let target = Child::target("faults", &["-O2"], ["healthy"]);
    let directory = tempfile::tempdir().unwrap();
    let health = directory.path().join("healthy");
    std::fs::write(&health, "").unwrap();
    let own = file(&HEALTH.replace("HEALTHFILE", health.to_str().unwrap()));
    let mut command = agent();
    command.arg("run").arg(own.path()).args(["--pid", &target.pid().to_string()]).stderr(std::process::Stdio::piped());
    let mut run = command.stdout(std::process::Stdio::piped()).spawn().expect("starts");
    // It says that it looks, and goes on to do so.
    let mut told = std::io::BufReader::new(run.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("agent: step 1") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut told, &mut line).expect("a line") > 0, "it has ended");
    }
    assert!(run.try_wait().expect("wait").is_none());
    std::fs::remove_file(&health).unwrap();
    let rest = std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
    let answer = Answer::from(run.wait_with_output().expect("ends"));
    rest.join().expect("reads").expect("reads");
    let envelope = answer.json();
    let finding = row(&envelope, "id", "health/gone");
    assert_eq!(finding["level"], "warn", "{finding}");
    assert!(finding["message"].as_str().unwrap().contains("healthy is gone"), "{finding}");
    super::judged_again(&envelope);
}

#[test]
fn evidence_that_is_none_is_refused() {
    for (text, word) in [
        ("", "not JSON"),
        ("{}", "not the JSON of a command"),
        ("[1]", "not the JSON of a command"),
        (r#"{"schema":"agent.ps/1","data":{}}"#, "not the JSON of `agent run`"),
        (r#"{"schema":"agent.run/1"}"#, "its evidence"),
        (
            r#"{"schema":"agent.run/1","data":{"summary":{"scenario":{"name":"x","sha256":""},"parameters":{},"steps":[],"artifacts":[]}}}"#,
            "no scenario x",
        ),
    ] {
        let file = file(text);
        let answer = Answer::of(agent().arg("judge").arg(file.path()));
        assert_eq!(answer.status, 1, "{text}");
        assert!(answer.stderr.contains(word), "{word:?} is not in: {}", answer.stderr);
    }
    // A run that a limit has ended before it began.
    let answer = Answer::of(agent().args(["run", "fd-leak", "--limit", "wall=1us"]));
    let ended = file(std::str::from_utf8(&answer.stdout).expect("JSON"));
    let judged = Answer::of(agent().arg("judge").arg(ended.path()));
    assert!(judged.status == 1 && judged.stderr.contains("nothing was gathered (the time limit"), "{}", judged.stderr);
    let page = Answer::of(agent().arg("report").arg(ended.path()).args(["-o", "md"]));
    assert!(page.text().contains("the time limit of this command was reached"), "{}", page.text());
    // Evidence of less than the rules ask for is unknown, never a pass.
    let bare = r#"{"schema":"agent.run/1","data":{"summary":{"scenario":{"name":"fd-leak","sha256":""},"parameters":{"growth":8},"steps":[],"artifacts":[]}}}"#;
    let file = file(bare);
    let judged = json(["judge", file.path().to_str().unwrap()]);
    assert!(!rows(&judged).is_empty());
    assert!(rows(&judged).iter().all(|row| row["level"] == "unknown"), "{judged}");
}
