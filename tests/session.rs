//! Sessions in bad weather: full disks, a clock that is somewhere else, a thousand commands. Each in a mount namespace of
//! its own, with a termination message as the kubelet mounts it.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

use std::process::Command;

use agent_session::audit::{Verdict, verify};
use common::{AGENT, Answer, is_root, skip};
use serde_json::Value;

/// What comes first: a `/dev` with nothing but a termination message. `$D` is a directory of the test's.
const DEV: &str = "set -e; touch $D/null; mount --bind /dev/null $D/null; mount -t tmpfs none /dev
touch /dev/null /dev/termination-log; mount --bind $D/null /dev/null
mount --bind /dev/termination-log /dev/termination-log\n";

/// The command of [`DEV`] and `script`, in `namespaces`; `None` where there can be none, and that is said.
fn shell(name: &str, namespaces: &[&str], script: &str) -> Option<(Command, tempfile::TempDir)> {
    if !is_root() {
        skip(name, "mounting needs root");
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("unshare");
    command.arg("-m").args(namespaces).args(["sh", "-c"]).arg(format!("{DEV}{script}"));
    command.env("A", AGENT).env("D", directory.path());
    Some((command, directory))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of_kind<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["type"] == kind).collect()
}

#[test]
fn a_thousand_commands_fifty_at_once_are_one_session_and_leave_nothing_behind() {
    let script = r#"
        $A hold --ttl 10m --limit commands=60 > $D/log 2> $D/err &
        hold=$!
        until grep -q session.open $D/log; do sleep 0.05; done
        many() { seq $1 | xargs -P 50 -I{} $A env --pid $hold --allow-gaps > $D/out 2>> $D/errors; grep RssAnon /proc/$hold/status; }
        many 250; many 250; many 250; many 250
        $A status -o json > $D/status
        $A end > $D/out
        wait $hold
        cat /dev/termination-log > $D/receipt"#;
    let Some((mut command, directory)) = shell("a_thousand_commands", &[], script) else { return };
    let answer = Answer::of(&mut command);
    let file = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    assert_eq!(answer.status, 0, "{} {}", answer.stderr, file("errors"));
    let rss: Vec<u64> = answer.text().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(rss.len(), 4, "{}", answer.text());
    // Its own memory; pages of the program come in as they are used. The allocator's arenas go up and down with how many
    // commands meet, by a MiB at times; what is kept of commands is there after each 250 of them.
    let least = rss.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).min();
    assert!(least < Some(256), "{rss:?} KiB: it grows with the commands");
    let log = file("log");
    let found = verify(log.as_bytes(), None);
    assert_eq!((found.chains.len(), found.chains[0].verdict), (1, Verdict::Whole), "{:?}", found.chains[0]);
    let records = lines(&log);
    for kind in ["action.start", "action.end"] {
        let mut actions: Vec<u64> =
            of_kind(&records, kind).iter().map(|record| record["data"]["action"].as_u64().expect("a number")).collect();
        actions.sort_unstable();
        assert!(actions.iter().copied().eq(1..=1002), "each {kind} once: {}", actions.len());
    }
    let receipt: Value = serde_json::from_str(&file("receipt")).expect("a receipt");
    assert_eq!((&receipt["commands"], &receipt["verdicts"]), (&1002.into(), &serde_json::json!({"0": 1002})));
    let status: Value = serde_json::from_str(&file("status")).expect("JSON");
    assert_eq!(status["data"]["summary"]["commands"], 1001);
    assert_eq!(common::rows(&status).len(), 100, "the last are remembered");
}

#[test]
fn wherever_the_disk_of_the_audit_is_full_nothing_is_done_that_is_not_recorded() {
    // A disk of which so many bytes are left, and a command whose audit goes there.
    let script = r#"
        mkdir $D/disk; mount -t tmpfs -o size=8k tmpfs $D/disk
        for left in $(seq 0 128 4000); do
            yes '' | head -c $((8192 - left)) > $D/disk/log
            set +e; $A version -o json > $D/out 2>> $D/disk/log; code=$?; set -e
            echo "$left $code $(wc -c < $D/out)"
            tail -c $left $D/disk/log > $D/log.$left
        done"#;
    let Some((mut command, directory)) = shell("wherever_the_disk_of_the_audit_is_full", &[], script) else { return };
    let answer = Answer::of(&mut command);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    let mut seen = std::collections::BTreeSet::new();
    for line in answer.text().lines() {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [left, code, printed] = numbers[..] else { panic!("{line}") };
        let log = std::fs::read(directory.path().join(format!("log.{left}"))).expect("a log");
        let is_whole = verify(&log, None).chains.first().is_some_and(|chain| chain.verdict == Verdict::Whole);
        let has_begun = of_kind(&lines(&String::from_utf8_lossy(&log)), "action.start").len() == 1;
        // Where the last byte has no room, all is there that a reader needs, and the agent says that something is not.
        let is_written = is_whole && log.ends_with(b"\n");
        assert_eq!(code, if is_written { 0 } else { 4 }, "{left} bytes are left");
        assert!(printed == 0 || has_begun, "{left} bytes are left: it was done, and not announced");
        seen.insert((is_whole, has_begun, printed > 0));
    }
    // Before its beginning, in the middle, and with room for all.
    assert!(seen.contains(&(false, false, false)) && seen.contains(&(false, true, true)), "{seen:?}");
    assert!(seen.contains(&(true, true, true)), "{seen:?}");
}

#[test]
fn a_hold_whose_log_is_full_ends_and_so_do_its_commands() {
    let script = r#"
        mkdir $D/disk; mount -t tmpfs -o size=8k tmpfs $D/disk
        $A hold --ttl 10m > $D/disk/log 2> $D/err &
        hold=$!
        until grep -q session.open $D/disk/log; do sleep 0.05; done
        for n in $(seq 50); do
            set +e; $A env --pid $$ --allow-gaps > $D/out 2> $D/errors; code=$?; set -e
            echo "$code $(wc -c < $D/out)"
            [ $code = 0 ] || break
        done
        set +e; wait $hold; echo "hold $?"
        cp $D/disk/log $D/log"#;
    let Some((mut command, directory)) = shell("a_hold_whose_log_is_full", &[], script) else { return };
    let answer = Answer::of(&mut command);
    let words: Vec<&str> = answer.text().lines().collect();
    let [done @ .., refused, hold] = &words[..] else { panic!("{} {}", answer.text(), answer.stderr) };
    assert!(done.len() > 1 && done.iter().all(|line| line.starts_with("0 ")), "{words:?}");
    assert!(refused.starts_with("4 ") && *hold == "hold 4", "{words:?}");
    // What was answered has a beginning in the log; of what is there nothing was changed.
    let log = std::fs::read(directory.path().join("log")).expect("a log");
    let begun = of_kind(&lines(&String::from_utf8_lossy(&log)), "action.start").len();
    assert!(begun >= done.len() + usize::from(!refused.ends_with(" 0")), "{begun} {words:?}");
}

#[test]
fn a_bundle_on_a_full_disk_is_told_and_what_is_there_opens() {
    let script = r#"
        mkdir $D/disk; mount -t tmpfs -o size=4k tmpfs $D/disk
        set +e; $A maps --pid $$ --keep=$D/disk -o json > $D/out 2> $D/errors; echo $?
        cp $D/disk/*.dbg.tar.zst $D/bundle"#;
    let Some((mut command, directory)) = shell("a_bundle_on_a_full_disk", &[], script) else { return };
    let answer = Answer::of(&mut command);
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let errors = std::fs::read_to_string(path("errors")).expect("words");
    assert!(answer.text().starts_with('1') && errors.contains("the bundle"), "{} {errors}", answer.text());
    let verified = common::json(["bundle", "verify", &path("bundle")]);
    assert_eq!(verified["data"]["summary"]["state"], "cut_off", "{verified}");
    assert!(!common::rows(&verified).is_empty());
}

/// The clock of deadlines is the one that only goes on (CLOCK_BOOTTIME): in a time namespace it is set, and nothing else.
#[test]
fn deadlines_and_the_audit_follow_the_clock_that_nobody_sets() {
    const AHEAD_S: u64 = 864_000;
    let name = "deadlines_and_the_audit_follow";
    let ahead = AHEAD_S.to_string();
    let has_time = Command::new("unshare").args(["-T", "--boottime", &ahead, "true"]).output();
    if !is_root() || !has_time.is_ok_and(|output| output.status.success()) {
        return skip(name, "there are no time namespaces");
    }
    // On the wall it is another year in both; a person sets that clock, and daemons do.
    let script = r#"
        set +e
        $A hold --ttl 3s > $D/log 2> $D/err & hold=$!
        until grep -q session.open $D/log; do sleep 0.05; done
        $A profile --pid $$ --for 60s -o json > $D/profile 2> $D/errors; echo $?
        wait $hold; echo $?"#;
    let Some((mut command, directory)) = shell(name, &["-T", "--boottime", &ahead], script) else { return };
    let before_us = boot_us();
    let answer = Answer::of(&mut command);
    let took_us = boot_us() - before_us;
    assert_eq!(answer.text(), "4\n0\n", "{}", answer.stderr);
    assert!(took_us < 30_000_000, "the deadline is 3 s after the beginning, on any clock: {took_us}");
    let log = std::fs::read_to_string(directory.path().join("log")).expect("a log");
    let records = lines(&log);
    let open = &records[0];
    let mono_us = open["mono_us"].as_u64().expect("a number");
    let expected_us = before_us + AHEAD_S * 1_000_000;
    assert!((expected_us..expected_us + 30_000_000).contains(&mono_us), "{mono_us} {expected_us}");
    let close = of_kind(&records, "session.close")[0];
    assert_eq!(close["data"]["why"], "its time is over");
    let lasted_us = close["mono_us"].as_u64().expect("a number") - mono_us;
    assert!((3_000_000..20_000_000).contains(&lasted_us), "{lasted_us}");
}

/// The hold and what is about it: what they call is on the list, with bundles in memory as well.
#[test]
fn strace_sees_a_hold_call_nothing_that_is_not_listed() {
    let name = "strace_sees_a_hold_call_nothing";
    if !common::has_tool("strace") {
        return skip(name, "there is no strace");
    }
    // Nothing can be written where bundles are kept.
    let script = r#"
        mkdir /session; trap 'umount /session; rmdir /session' EXIT; mount -t tmpfs -o ro none /session
        trace() { strace -f -o $D/trace.$1 $A "$@"; }
        trace hold --ttl 5m > $D/log 2> $D/err & hold=$!
        until grep -q session.open $D/log; do sleep 0.05; done
        trace env --pid $$ --allow-gaps --keep > $D/out 2> $D/errors
        name=$(sed -n 's/^agent: kept: agent fetch //p' $D/errors)
        trace fetch $name > $D/bundle; trace tar cf - /session/$name > $D/tar; trace bundle list $name > $D/list
        trace status -o json > $D/status; trace end > $D/out
        set +e; wait $hold; echo $?"#;
    let Some((mut command, directory)) = shell(name, &[], script) else { return };
    let answer = Answer::of(&mut command);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    assert_eq!(answer.text(), "0\n", "{} {} {}", answer.stderr, read("err"), read("errors"));
    for command in ["hold", "env", "fetch", "tar", "bundle", "status", "end"] {
        let trace = read(&format!("trace.{command}"));
        assert!(trace.contains("SECCOMP_SET_MODE_FILTER") && !trace.contains("--- SIGSYS"), "{command}");
        let unknown = common::strace::unlisted(command, &trace);
        assert!(unknown.is_empty(), "{command} calls {unknown:?}");
    }
    // Who took it out is in the audit of the session.
    let log = read("log");
    let records = lines(&log);
    let started: Vec<&Value> =
        of_kind(&records, "action.start").iter().map(|record| &record["data"]["command"]).collect();
    assert_eq!(started, ["env", "fetch", "tar", "status", "end"]);
    assert_eq!(verify(log.as_bytes(), None).chains[0].verdict, Verdict::Whole);
    let status: Value = serde_json::from_str(&read("status")).expect("JSON");
    let written = status["data"]["summary"]["written_bytes"].as_u64().expect("a number");
    let bundle = std::fs::metadata(directory.path().join("bundle")).expect("a bundle").len();
    assert!(written >= bundle && written < 4 * bundle + (16 << 10), "what is taken out is counted once: {written}");
}

/// A command of a session that has no memory left says so in the audit of the hold, and in an envelope.
#[test]
fn a_command_that_is_out_of_memory_ends_with_a_word_to_its_hold() {
    let script = r#"
        $A hold --ttl 5m > $D/log 2> $D/err & hold=$!
        until grep -q session.open $D/log; do sleep 0.05; done
        (printf '['; yes 1, | head -n 700000 | tr -d '\n'; printf '1]') > $D/other
        set +e; $A modules --pid $$ --compare $D/other --limit rss=12M -o json > $D/modules; echo $?; set -e
        $A end > $D/out
        set +e; wait $hold; echo $?"#;
    let Some((mut command, directory)) = shell("a_command_that_is_out_of_memory", &[], script) else { return };
    let answer = Answer::of(&mut command);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    assert_eq!(answer.text(), "4\n0\n", "{} {}", answer.stderr, read("err"));
    let envelope: Value = serde_json::from_str(&read("modules")).expect("an envelope");
    common::assert_valid(&envelope);
    assert_eq!((&envelope["data"], &envelope["gaps"][0]["reason"]), (&Value::Null, &"limit_reached".into()));
    let log = read("log");
    assert_eq!(verify(log.as_bytes(), None).chains[0].verdict, Verdict::Whole);
    let records = lines(&log);
    assert_eq!(of_kind(&records, "limit.hit")[0]["data"]["limit"], "rss");
    let end = &of_kind(&records, "action.end")[0]["data"];
    assert_eq!((&end["action"], &end["exit"], &end["lost"]), (&1.into(), &4.into(), &Value::Null), "{end}");
}

/// As the clock of the tests' own says it.
fn wall_us() -> i64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).expect("a clock");
    now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000
}

/// Microseconds since 1970.
fn rfc3339_us(value: &Value) -> i64 {
    let time = humantime::parse_rfc3339(value.as_str().expect("a time")).expect("RFC 3339");
    let since = time.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("not that far")
}

/// A shell in which `$C` runs a program whose clocks are set with `jump WALL BOOT`, in seconds.
fn with_clocks(name: &str, script: &str) -> Option<(Command, tempfile::TempDir)> {
    let script = format!(
        "jump() {{ echo $1 $2 > $D/jump.new; mv $D/jump.new $D/jump; }}\njump 0 0\nC=\"$CLOCK $D/jump\"\n{script}"
    );
    let (mut command, directory) = shell(name, &[], &script)?;
    command.env("CLOCK", agent_targets::build("clock", &[]));
    Some((command, directory))
}

/// Somebody sets the clock on the wall, an hour on and then one back from where it was.
#[test]
fn a_clock_that_jumps_moves_no_deadline_and_is_told_as_it_is() {
    const HOUR_US: i64 = 3_600_000_000;
    const TTL_US: i64 = 600_000_000;
    let script = r#"
        $C $A hold --ttl 10m > $D/log 2> $D/err & hold=$!
        until grep -q session.open $D/log; do sleep 0.05; done
        look() { $C $A env --pid $$ --allow-gaps -o json > $D/env.$1; $C $A status -o json > $D/status.$1; }
        look 0; jump 3600 0; look 1; jump -3600 0; look 2; jump 0 0; look 3
        $C $A end > $D/out
        set +e; wait $hold; echo $?
        cp /dev/termination-log $D/receipt"#;
    let Some((mut command, directory)) = with_clocks("a_clock_that_jumps", script) else { return };
    let (began_us, answer) = (wall_us(), Answer::of(&mut command));
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    assert_eq!(answer.text(), "0\n", "{} {}", answer.stderr, read("err"));
    let took_us = wall_us() - began_us;
    let mut left_us = TTL_US;
    for (number, hours) in [0, 1, -1, 0].into_iter().enumerate() {
        let json = |name: &str| serde_json::from_str::<Value>(&read(&format!("{name}.{number}"))).expect("JSON");
        let (env, status) = (json("env"), json("status"));
        // What is left is less each time, by the time that went by.
        let left = status["data"]["summary"]["left_us"].as_i64().expect("a number");
        assert!((TTL_US - took_us..left_us).contains(&left), "{number}: {left} of {left_us}, after {took_us}");
        left_us = left;
        // When that is, is told by the clock as it stands now.
        let ends_us = rfc3339_us(&status["data"]["summary"]["expires"]);
        let expected_us = began_us + TTL_US + hours * HOUR_US;
        assert!((expected_us - 2_000_000..expected_us + took_us + 2_000_000).contains(&ends_us), "{number}: {status}");
        assert_eq!(env["session"]["expires"], status["data"]["summary"]["expires"], "{number}");
        let seen_us = rfc3339_us(&env["observed"]["start"]) - hours * HOUR_US;
        assert!((began_us..began_us + took_us).contains(&seen_us), "{number}: {}", env["observed"]);
        assert!(env["cost"]["wall_us"].as_i64().is_some_and(|cost| (0..took_us).contains(&cost)), "{}", env["cost"]);
    }
    let log = read("log");
    let chain = &verify(log.as_bytes(), None).chains[0];
    assert_eq!(chain.verdict, Verdict::Whole, "{:?}", chain.why);
    let records = lines(&log);
    let receipt: Value = serde_json::from_str(&read("receipt")).expect("a receipt");
    assert_eq!(receipt["audit"]["head"], records.last().expect("records")["hash"]);
    // One clock only goes on; the other says what it said then.
    let mono: Vec<i64> = records.iter().map(mono_us).collect();
    assert!(mono.is_sorted() && mono[mono.len() - 1] - mono[0] <= took_us, "{mono:?}");
    let jumps = of_kind(&records, "action.start").into_iter().map(|record| {
        let wall_us = rfc3339_us(&record["ts"]) - rfc3339_us(&records[0]["ts"]);
        (wall_us - (mono_us(record) - mono_us(&records[0])) + HOUR_US / 2).div_euclid(HOUR_US)
    });
    assert_eq!(jumps.collect::<Vec<_>>(), [0, 0, 1, 1, -1, -1, 0, 0, 0]);
}

fn mono_us(record: &Value) -> i64 {
    record["mono_us"].as_i64().expect("a number")
}

/// A node that was suspended: the time has gone by for the session as well.
#[test]
fn a_session_whose_time_went_by_while_the_machine_slept_is_over_at_once() {
    let script = r#"
        $C $A hold --ttl 10m > $D/log 2> $D/err & hold=$!
        until grep -q session.open $D/log; do sleep 0.05; done
        $C $A profile --pid $$ --for 5m -o json > $D/profile 2> $D/errors & profile=$!
        until grep -q '"command":"profile"' $D/log; do sleep 0.05; done
        jump 0 3600
        set +e; wait $profile; echo $?; wait $hold; echo $?"#;
    let Some((mut command, directory)) = with_clocks("a_session_whose_time_went_by", script) else { return };
    let began = std::time::Instant::now();
    let answer = Answer::of(&mut command);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    assert_eq!(answer.text(), "4\n0\n", "{} {} {}", answer.stderr, read("err"), read("errors"));
    assert!(began.elapsed() < common::SOON, "{:?}", began.elapsed());
    // What was seen by then is told.
    let profile: Value = serde_json::from_str(&read("profile")).expect("an envelope");
    common::assert_valid(&profile);
    assert!(profile["gaps"].as_array().expect("gaps").iter().any(|gap| gap["reason"] == "limit_reached"), "{profile}");
    let log = read("log");
    assert_eq!(verify(log.as_bytes(), None).chains[0].verdict, Verdict::Whole);
    let records = lines(&log);
    assert_eq!(of_kind(&records, "session.close")[0]["data"]["why"], "its time is over");
    assert_eq!(of_kind(&records, "action.end").len(), 1);
}

/// The time since boot, in microseconds.
fn boot_us() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("a clock");
    now.tv_sec().cast_unsigned() * 1_000_000 + now.tv_nsec().cast_unsigned() / 1000
}
