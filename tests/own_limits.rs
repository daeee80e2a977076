//! What the agent may take: at each limit there is a partial answer that says so, and exit status 4.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{AGENT, Answer, Child, agent, assert_valid, gaps_at, is_root, json, rows, run, skip};
use serde_json::Value;

/// The envelope of an answer that was cut off by a limit.
fn cut_off(answer: &Answer) -> Value {
    assert_eq!(answer.status, 4, "{} {}", answer.stderr, String::from_utf8_lossy(&answer.stdout));
    let envelope: Value = serde_json::from_slice(&answer.stdout).expect("one envelope");
    assert_valid(&envelope);
    assert_eq!(agent_model::digest(&envelope["data"]).expect("canonical"), envelope["digest"], "of what is there");
    let gaps = envelope["gaps"].as_array().expect("gaps");
    let limits: Vec<&Value> = gaps.iter().filter(|gap| gap["reason"] == "limit_reached").collect();
    assert!(!limits.is_empty(), "{gaps:?}");
    // And the audit has it.
    assert!(answer.audit.contains("\"type\":\"limit.hit\""), "{}", answer.audit);
    assert!(limits.iter().all(|gap| gap["remedy"].as_str().is_some_and(|words| words.contains("--"))), "{limits:?}");
    envelope
}

/// A recorded tree of `count` processes whose arguments have `bytes` bytes.
fn recorded(count: u32, bytes: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("stat"), "btime 1700000000\n").expect("stat");
    for pid in 1..=count {
        let process = directory.path().join(pid.to_string());
        fs::create_dir(&process).expect("a directory");
        let zeros = "0 ".repeat(33);
        fs::write(process.join("stat"), format!("{pid} (p) S 0 {pid} {pid} 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 7 {zeros}"))
            .expect("stat");
        let status = format!(
            "Name:\tp\nState:\tS (sleeping)\nTgid:\t{pid}\nPid:\t{pid}\nPPid:\t0\nUid:\t1 1 1 1\nGid:\t1 1 1 1\n"
        );
        fs::write(process.join("status"), status.replace(' ', "\t")).expect("status");
        fs::write(process.join("cmdline"), [vec![b'a'; bytes], vec![0]].concat()).expect("cmdline");
        fs::write(process.join("cgroup"), "0::/\n").expect("cgroup");
        std::os::unix::fs::symlink("/bin/p", process.join("exe")).expect("exe");
    }
    directory
}

#[test]
fn of_an_answer_that_is_too_long_the_rest_is_a_gap() {
    let tree = recorded(400, 200);
    let proc = tree.path().to_str().expect("UTF-8");
    let whole = common::json(["ps", "--proc", proc]);
    let cut = run(["ps", "--proc", proc, "--limit", "out=32K"]);
    assert!(cut.stdout.len() <= 32 << 10, "{}", cut.stdout.len());
    let envelope = cut_off(&cut);
    let kept = rows(&envelope).len();
    assert!((10..400).contains(&kept), "{kept}");
    assert_eq!(rows(&envelope), &rows(&whole)[..kept]);
    assert_eq!(envelope["data"]["summary"], whole["data"]["summary"]);
    for format in ["ndjson", "table"] {
        let cut = run(["ps", "--proc", proc, "--limit", "out=32K", "-o", format]);
        assert_eq!(cut.status, 4, "{format}: {}", cut.stderr);
        assert!((1..=32 << 10).contains(&cut.stdout.len()), "{format}: {}", cut.stdout.len());
    }
}

#[test]
fn a_snapshot_leaves_out_its_largest_parts() {
    let target = Child::start(Command::new("sleep").arg("600"));
    let cut = run(["snapshot", "--pid", &target.pid().to_string(), "--limit", "out=24K"]);
    assert!(cut.stdout.len() <= 24 << 10, "{}", cut.stdout.len());
    let envelope = cut_off(&cut);
    assert_references_resolve(&envelope);
}

fn assert_references_resolve(envelope: &Value) {
    for (_, list) in envelope["data"]["references"].as_object().expect("references") {
        for reference in list.as_array().expect("a list") {
            let to = reference["to"].as_array().expect("a list");
            // Of a container its ID is told.
            for at in to.iter().chain(reference.get("from")) {
                let at = at.as_str().expect("a pointer");
                assert!(envelope["data"].pointer(at).is_some(), "{at}");
            }
        }
    }
}

/// The envelope without data that says why there is none, of an answer in `format`.
fn without_data(answer: &Answer, format: &str) -> Value {
    assert_eq!(answer.status, 4, "{format}: {}", answer.stderr);
    assert!(answer.audit.contains("\"type\":\"limit.hit\""), "{format}: {}", answer.audit);
    let last = |text: &str| serde_json::from_str::<Value>(text.lines().last().unwrap_or_default()).expect("JSON");
    let envelope = match format {
        "json" => last(answer.text()),
        "ndjson" => last(answer.text())["end"].take(),
        // No stack is half of one: it is told beside them, as of what is written as it goes.
        _ => {
            assert!(answer.stdout.is_empty(), "{format}: {}", String::from_utf8_lossy(&answer.stdout));
            let line = answer.stderr.lines().find(|line| line.starts_with('{')).expect("an envelope");
            serde_json::from_str(line).expect("JSON")
        }
    };
    assert_valid(&envelope);
    assert_eq!(envelope["data"], Value::Null, "{format}");
    assert_eq!(envelope["digest"], agent_model::digest(&Value::Null).expect("canonical"));
    let gap = &envelope["gaps"][0];
    assert_eq!((&gap["at"], &gap["reason"]), (&Value::from(""), &Value::from("limit_reached")), "{format}: {gap}");
    assert!(gap["remedy"].as_str().is_some_and(|words| words.contains("--")), "{format}: {gap}");
    envelope
}

#[test]
fn where_a_limit_comes_before_all_else_there_is_an_envelope_in_every_format() {
    let target = Child::start(Command::new("sleep").arg("600"));
    let pid = target.pid().to_string();
    let look = |command: &str, format: &str| {
        run([command, "--pid", &pid, "--limit", "wall=1us", "-o", format, "--incident", "INC-9"])
    };
    for command in ["ps", "limits", "snapshot", "stacks"] {
        for format in ["json", "ndjson"] {
            let envelope = without_data(&look(command, format), format);
            assert_eq!(envelope["schema"], format!("agent.{command}/1"));
            assert_eq!(envelope["session"]["incident"], "INC-9");
            assert_eq!(envelope["options"], without_data(&look(command, "json"), "json")["options"]);
        }
    }
    for (command, format) in [("profile", "pprof"), ("profile", "svg"), ("modules", "cyclonedx")] {
        without_data(&look(command, format), format);
    }
    let table = look("limits", "table");
    assert!(table.status == 4 && table.text().contains("limit_reached"), "{} {}", table.status, table.text());
    // And a bundle of it is whole.
    let bundle = look("ps", "bundle");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("b");
    fs::write(&file, &bundle.stdout).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let verified = json(["bundle", "verify", file]);
    assert_eq!((bundle.status, &verified["data"]["summary"]["state"]), (4, &Value::from("whole")), "{verified}");
    let shown = json(["bundle", "cat", file, "artifacts/000-ps.json"]);
    assert_eq!(shown["data"]["content"]["gaps"][0]["reason"], "limit_reached", "{shown}");
}

/// Neither rows nor parts could go.
#[test]
fn an_answer_that_cannot_be_cut_smaller_is_an_envelope_without_data() {
    let tree = recorded(1, 30_000);
    let proc = tree.path().to_str().expect("UTF-8");
    let file = tree.path().join("b").to_str().expect("UTF-8").to_owned();
    fs::write(&file, run(["ps", "--proc", proc, "-o", "bundle"]).stdout).expect("a file");
    let cat = ["bundle", "cat", &file, "artifacts/000-ps.json", "--limit", "out=16K", "-o"];
    for format in ["json", "ndjson"] {
        let answer = run(cat.iter().chain([&format]));
        without_data(&answer, format);
        assert!(answer.stdout.len() <= 16 << 10, "{}", answer.stdout.len());
    }
}

/// Of looks one after another those that fit are told, and then that there is no room for more.
#[test]
fn the_last_of_many_envelopes_says_that_there_is_no_room_for_another() {
    let target = Child::start(Command::new("sleep").arg("600"));
    let pid = target.pid().to_string();
    let watch = |looks: &str, limit: &str| {
        run(["maps", "--pid", &pid, "--watch", looks, "--interval", "1ms", "--limit", limit, "-o", "json"])
    };
    let first: Value = serde_json::from_slice(&watch("1", "out=1M").stdout).expect("JSON");
    let data = serde_json::to_vec(&first["data"]).expect("JSON").len();
    // What it is taken for with all that is around it, and behind it not enough for another without a single row.
    let most = data + 192 * rows(&first).len() + (15 << 10);
    let answer = watch("40", &format!("out={most}"));
    assert!(answer.stdout.len() <= most, "{} of {most}", answer.stdout.len());
    without_data(&answer, "json");
    let envelopes: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [whole, last] = &envelopes[..] else { panic!("{} envelopes", envelopes.len()) };
    assert_valid(whole);
    assert_eq!((rows(whole).len(), &whole["gaps"]), (rows(&first).len(), &first["gaps"]));
    assert_eq!((&whole["sequence"], &last["sequence"]), (&1.into(), &2.into()));
}

/// Of a part that is too large, the rows that fit stay.
#[test]
fn a_snapshot_leaves_out_rows_of_its_largest_parts() {
    let mut processes = Vec::new();
    for _ in 0..60 {
        processes.push(Child::start(Command::new("sleep").arg("600")));
    }
    let pid = processes[0].pid().to_string();
    let whole = json(["snapshot", "--pid", &pid]);
    let bytes = serde_json::to_vec(&whole).expect("JSON").len();
    let most = bytes * 3 / 4;
    let cut = run(["snapshot", "--pid", &pid, "--limit", &format!("out={most}")]);
    assert!((most / 2..=most).contains(&cut.stdout.len()), "{} of {most}", cut.stdout.len());
    let envelope = cut_off(&cut);
    // The processes, or the sockets where this machine has more of them.
    let gaps = envelope["gaps"].as_array().expect("gaps");
    let gap = gaps.iter().find(|gap| gap["reason"] == "limit_reached").expect("a gap");
    let at = gap["at"].as_str().expect("a pointer");
    assert!(["/processes/rows", "/sockets/rows"].contains(&at), "{gap}");
    let rows = envelope["data"].pointer(at).expect("rows");
    let left_out: usize =
        gap["detail"].as_str().and_then(|text| text.split(' ').next()?.parse().ok()).expect("a number");
    let left = rows.as_array().expect("rows").len();
    assert!(left > 10 && left_out > 10, "{gap}");
    assert!(gap["detail"].as_str().is_some_and(|text| text.contains(&format!("of {} rows", left + left_out))), "{gap}");
    assert_references_resolve(&envelope);
}

/// What is no list has parts that can go.
#[test]
fn limits_leave_out_what_is_not_nearest() {
    let tree = recorded(1, 10);
    let process = tree.path().join("1");
    fs::copy("/proc/self/limits", process.join("limits")).expect("limits");
    let groups: String = (2..400).map(|number| format!("{number}:name=h{number}:/{number:060}\n")).collect();
    fs::write(process.join("cgroup"), groups).expect("groups");
    let proc = tree.path().to_str().expect("UTF-8");
    let whole = json(["limits", "--proc", proc, "--pid", "1", "--allow-gaps"]);
    assert!(whole["data"]["cgroup"]["groups"].as_array().is_some_and(|groups| groups.len() == 398), "{whole}");
    let cut = run(["limits", "--proc", proc, "--pid", "1", "--limit", "out=16K"]);
    let envelope = cut_off(&cut);
    assert!(cut.stdout.len() <= 16 << 10, "{}", cut.stdout.len());
    assert_eq!(envelope["data"]["cgroup"], Value::Null);
    assert_eq!(envelope["data"]["limits"], whole["data"]["limits"]);
    assert!(gaps_at(&envelope, "/cgroup").iter().any(|gap| gap["reason"] == "limit_reached"), "{}", envelope["gaps"]);
}

#[test]
fn a_stream_ends_whole_at_the_limit() {
    if !is_root() {
        return skip("a_stream_ends_whole_at_the_limit", "packets need root");
    }
    // Rows of a watch are many envelopes; a capture writes as it goes.
    let mut capture = agent()
        .args(["capture", "-i", "lo", "--for", "60s", "-o", "pcapng", "--limit", "out=20K"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the agent");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = socket.local_addr().expect("an address");
    common::wait_until("the end of the capture", common::SOON, || {
        for _ in 0..50 {
            socket.send_to(&[7; 100], to).expect("sent");
        }
        capture.try_wait().expect("wait").is_some()
    });
    let answer = Answer::from(capture.wait_with_output().expect("its output"));
    assert_eq!(answer.status, 4, "{}", answer.stderr);
    assert!((8 << 10..=20 << 10).contains(&answer.stdout.len()), "{}", answer.stdout.len());
    // Blocks of pcapng: type, length, ..., length. All of them are whole.
    let mut rest = &answer.stdout[..];
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[4..8].try_into().expect("four bytes")) as usize;
        assert_eq!(rest[length - 4..length], rest[4..8]);
        rest = &rest[length..];
    }
    let envelope: Value = serde_json::from_str(&answer.stderr).expect("an envelope");
    let gaps = envelope["gaps"].as_array().expect("gaps");
    assert!(gaps.iter().any(|gap| gap["reason"] == "limit_reached"), "{gaps:?}");
}

#[test]
fn memory_ends_the_look_and_what_was_seen_is_told() {
    let tree = recorded(300, 100_000);
    let proc = tree.path().to_str().expect("UTF-8");
    let envelope = cut_off(&run(["ps", "--proc", proc, "--limit", "rss=8M"]));
    let seen = rows(&envelope).len();
    assert!((1..300).contains(&seen), "{seen}");
    let peak = envelope["cost"]["peak_rss_kib"].as_u64().expect("a number");
    let unlimited = common::json(["ps", "--proc", proc]);
    assert!(peak + (4 << 10) < unlimited["cost"]["peak_rss_kib"].as_u64().expect("a number"), "{peak}");
}

#[test]
fn memory_that_is_asked_for_beyond_the_limit_is_not_given() {
    // One file that alone is larger than may be.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("other.json");
    fs::write(&file, vec![b' '; 12 << 20]).expect("a file");
    let target = Child::start(Command::new("sleep").arg("600"));
    let pid = target.pid().to_string();
    let file = file.to_str().expect("UTF-8");
    let answer = run(["modules", "--pid", &pid, "--compare", file, "--limit", "rss=8M", "-o", "json"]);
    // What was seen besides is told.
    let envelope = cut_off(&answer);
    assert_eq!(rows(&envelope)[0]["path"], "/usr/bin/sleep");
    assert!(envelope["gaps"].to_string().contains("memory limit"), "{}", envelope["gaps"]);
}

/// What is small to read and large to have.
fn bloated(directory: &std::path::Path) -> String {
    let file = directory.join("other.json");
    fs::write(&file, format!("[{}1]", "1,".repeat(700 << 10))).expect("a file");
    file.to_str().expect("UTF-8").to_owned()
}

/// No word can be made any more: they were ready before.
#[test]
fn where_there_is_no_memory_at_all_the_envelope_and_the_end_of_the_audit_are_there() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = bloated(directory.path());
    let target = Child::start(Command::new("sleep").arg("600"));
    let pid = target.pid().to_string();
    for format in ["json", "ndjson", "cyclonedx", "table"] {
        let answer = run(["modules", "--pid", &pid, "--compare", &file, "--limit", "rss=12M", "-o", format]);
        assert!(answer.stderr.contains("memory limit was reached (--limit rss=)"), "{format}: {}", answer.stderr);
        if format == "table" {
            assert!(answer.status == 4 && answer.text().contains("limit_reached"), "{}", answer.text());
        } else {
            let envelope = without_data(&answer, format);
            assert_eq!(envelope["target"]["pid"], target.pid());
            assert_eq!(envelope["options"]["compare"], file);
        }
        let chain = &agent_session::audit::verify(answer.audit.as_bytes(), None).chains[0];
        assert_eq!(chain.verdict, agent_session::audit::Verdict::Whole, "{format}: {:?}", chain.why);
        let kinds: Vec<Value> = answer
            .audit
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a record")["type"].take())
            .collect();
        assert_eq!(kinds[kinds.len() - 4..], ["limit.hit", "action.end", "session.close", "checkpoint"], "{format}");
    }
}

#[test]
fn waits_where_it_has_used_its_share_of_the_processor() {
    let target = Child::start(Command::new("sleep").arg("600"));
    let pid = target.pid().to_string();
    let began = Instant::now();
    let answer =
        run(["maps", "--pid", &pid, "--watch", "60", "--interval", "1ms", "-o", "ndjson", "--limit", "cpu=20%"]);
    let took = began.elapsed();
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    let last: Value = serde_json::from_str(answer.text().lines().last().expect("a line")).expect("JSON");
    let cpu = Duration::from_micros(last["end"]["cost"]["cpu_us"].as_u64().expect("a number"));
    // 20 % of the time and of 2 s ahead, and what one look takes.
    let most = (took + Duration::from_secs(2)).mul_f64(0.2) + Duration::from_millis(200);
    assert!(cpu < most, "{cpu:?} of CPU time in {took:?}");
}

#[test]
fn what_lasts_too_long_is_cut_off() {
    let target = Child::start(Command::new("sleep").arg("600"));
    let pid = target.pid().to_string();
    let began = Instant::now();
    let envelope = cut_off(&run(["profile", "--pid", &pid, "--for", "10m", "--limit", "wall=1s"]));
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(envelope["schema"], "agent.profile/1");
}

#[test]
fn threads_are_held_for_no_longer_than_all_may_be() {
    let source = "#include <pthread.h>\n#include <stdio.h>\n\
        static void *spin(void *x) { for (volatile long i = 0;; i++) {} return x; }\n\
        int main(void) { pthread_t t; for (int i = 0; i < 5; i++) pthread_create(&t, 0, spin, 0);\n\
        puts(\"\\\"ready\\\"\"); fflush(stdout); spin(0); }\n";
    let target = Child::ready(&mut Command::new(common::compile_c(source, &["-O2", "-pthread"])));
    let pid = target.pid().to_string();
    for (limit, words) in [("stop=10s/1us", "time of all stops"), ("stop=1us/10s", "time of one stop")] {
        let answer = run(["stacks", "--flat", "--pid", &pid, "--limit", limit]);
        let envelope = cut_off(&answer);
        assert!(envelope["cost"]["stops"].as_u64().expect("a number") <= 2, "{}", envelope["cost"]);
        let told = envelope["gaps"].to_string();
        assert!(told.contains(words), "{limit}: {told}");
    }
    assert!(matches!(common::state(target.pid()), Some('R' | 'S')));
}

#[test]
fn limits_that_are_none_are_usage() {
    for bad in ["cpu=0", "walls=1s", "rss=1", "stop=soon"] {
        let answer = run(["ps", "--limit", bad]);
        assert_eq!(answer.status, 2, "{bad}: {}", answer.stderr);
        assert!(answer.stderr.contains("limit"), "{}", answer.stderr);
    }
}

#[test]
fn is_the_first_to_go_when_memory_is_short_and_behind_the_application() {
    let mut looking =
        agent().args(["ps", "--watch", "1", "--interval", "30s"]).stdout(Stdio::null()).spawn().expect("the agent");
    let pid = looking.id();
    common::wait_until("the filter", common::SOON, || {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("\nSeccomp:\t2\n"))
    });
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("its score");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    looking.kill().expect("kill");
    looking.wait().expect("its end");
    assert_eq!(score.trim(), "1000");
    // Field 19, behind the name.
    let nice = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(16));
    assert_eq!(nice, Some("10"), "{stat}");
    let data = limits.lines().find(|line| line.starts_with("Max data size")).expect("a line");
    assert!(!data.contains("unlimited"), "{data}");
}

#[test]
fn where_no_receipt_can_be_left_there_is_a_gap() {
    if !is_root() || !common::has_tool("unshare") {
        return skip("where_no_receipt_can_be_left_there_is_a_gap", "needs root and unshare");
    }
    // The file of the kubelet, on a file system that is read-only.
    let script = "mount -t tmpfs none /mnt && touch /mnt/f && [ -e /dev/termination-log ] || \
        { mount -t tmpfs none /dev && touch /dev/termination-log && mknod /dev/null c 1 3; } && \
        mount --bind /mnt/f /dev/termination-log && mount -o remount,bind,ro /dev/termination-log && exec \"$0\" ps";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, AGENT]);
    let answer = Answer::of(&mut command);
    let envelope = answer.json();
    assert_eq!(answer.status, 3);
    let gaps = common::gaps_at(&envelope, "");
    assert!(
        gaps.iter().any(|gap| gap["path"] == "/dev/termination-log" && gap["errno"] == "EROFS"),
        "{gaps:?} {}",
        answer.stderr
    );
}
