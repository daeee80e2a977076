//! A real chain, and every way to spoil it.

use serde_json::json;

use super::*;

fn at(mono_us: u64) -> At {
    At { ts: "2026-11-26T12:00:00.000000Z".to_owned(), mono_us }
}

fn data(value: Value) -> Data {
    value.as_object().cloned().unwrap_or_default()
}

/// A different key each time, and the same in every run.
fn random(seed: u8) -> impl FnMut(&mut [u8]) + Send {
    let mut counter = seed;
    move |bytes: &mut [u8]| {
        counter = counter.wrapping_add(1);
        let block = Sha256::digest([counter]);
        bytes.copy_from_slice(&block[..bytes.len()]);
    }
}

/// The lines of a session of `actions` actions.
fn chain(actions: u64) -> (Vec<String>, Head) {
    let (mut chain, mut bytes) =
        Chain::open("S1", (b"", b""), data(json!({"agent": "0.1.0", "actor": "ops"})), &at(0), random(0));
    for action in 0..actions {
        bytes.extend(chain.append(
            Kind::ActionStart,
            data(json!({"action": action, "command": "ps", "argv": ["ps", "--pid", "7"]})),
            &at(action * 1000),
        ));
        bytes.extend(chain.append(
            Kind::ActionEnd,
            data(json!({"action": action, "exit": 0, "access": {"count": 12, "sha256": "00"}})),
            &at(action * 1000 + 500),
        ));
    }
    bytes.extend(chain.close(data(json!({"actions": actions})), &at(actions * 1000)));
    let text = String::from_utf8(bytes).expect("UTF-8");
    (text.lines().map(str::to_owned).collect(), chain.head())
}

fn only(lines: &[String], witness: Option<&Head>) -> Verified {
    let report = verify(lines.join("\n").as_bytes(), witness);
    assert_eq!(report.chains.len(), 1, "{report:?}");
    report.chains.into_iter().next().expect("one")
}

/// Whether anything at all is wrong with `lines`.
fn is_found(lines: &[String]) -> bool {
    let report = verify(lines.join("\n").as_bytes(), None);
    report.chains.iter().any(|chain| chain.verdict == Verdict::Tampered)
}

#[test]
fn a_chain_verifies_whole_and_against_its_head() {
    let (lines, head) = chain(70);
    let found = only(&lines, Some(&head));
    assert_eq!(found.verdict, Verdict::Whole, "{found:?}");
    assert_eq!((found.records, found.signed), (head.count, head.count));
    assert_eq!(found.witnessed, Some(true));
    assert_eq!(lines.len() as u64, head.count);
    let checkpoints = lines.iter().filter(|line| line.contains("\"checkpoint\"")).count();
    assert_eq!(checkpoints, 3, "two after 64 records each, and the last");
    for line in &lines {
        assert!(line.len() <= LONGEST_LINE && line.is_ascii());
        let value: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(canonical::to_vec(&value).expect("canonical"), line.as_bytes());
    }
}

#[test]
fn the_log_of_a_container_has_other_lines_and_prefixes() {
    let (lines, head) = chain(3);
    let mut log = String::from("starting {\"level\":\"info\"}\n");
    for line in &lines {
        log.push_str(&format!("[pod/web/agent-7] 2026-11-26T12:00:00.1Z {line}\r\nother output\n\n"));
    }
    let report = verify(log.as_bytes(), Some(&head));
    assert_eq!(report.chains[0].verdict, Verdict::Whole);
    assert_eq!(report.other_lines, lines.len() as u64 + 1);
}

#[test]
fn a_flipped_bit_of_any_byte_is_found() {
    let (lines, _) = chain(1);
    for index in 0..lines.len() {
        for position in 0..lines[index].len() {
            let mut spoiled = lines.clone();
            let mut bytes = spoiled[index].clone().into_bytes();
            bytes[position] ^= 1;
            spoiled[index] = String::from_utf8(bytes).expect("ASCII");
            let report = verify(spoiled.join("\n").as_bytes(), None);
            let bad = report.chains.iter().any(|chain| chain.verdict != Verdict::Whole);
            assert!(bad || report.chains.is_empty(), "record {index}, byte {position}: {report:?}");
        }
    }
}

#[test]
fn a_changed_value_is_named_with_its_line() {
    let (lines, _) = chain(70);
    for index in 0..lines.len() {
        let mut spoiled = lines.clone();
        spoiled[index] = spoiled[index].replacen("12:00:00", "12:00:01", 1);
        let report = verify(spoiled.join("\n").as_bytes(), None);
        let found = &report.chains[0];
        assert_eq!(
            (found.verdict, found.fault, found.line),
            (Verdict::Tampered, Some(Fault::Edited), Some(index as u64 + 1))
        );
    }
}

#[test]
fn a_dropped_record_is_found() {
    let (lines, head) = chain(35);
    for index in 0..lines.len() {
        let mut spoiled = lines.clone();
        spoiled.remove(index);
        let found = only(&spoiled, Some(&head));
        if index + 1 == lines.len() {
            // Without its last line it is cut short, and the witness has seen more.
            assert_eq!((found.verdict, found.witnessed), (Verdict::Truncated, Some(false)));
        } else {
            assert_eq!((found.verdict, found.fault), (Verdict::Tampered, Some(Fault::Missing)), "{index}: {found:?}");
            assert_eq!(found.line, Some(index as u64 + 1));
        }
    }
}

#[test]
fn swapped_records_are_found() {
    let (lines, _) = chain(70);
    for index in 1..lines.len() {
        let mut spoiled = lines.clone();
        spoiled.swap(index - 1, index);
        assert!(is_found(&spoiled), "{index}");
    }
}

#[test]
fn a_repeated_record_is_found_wherever_it_stands() {
    let (lines, _) = chain(35);
    for index in 0..lines.len() {
        for place in [index + 1, lines.len()] {
            let mut spoiled = lines.clone();
            spoiled.insert(place, lines[index].clone());
            let report = verify(spoiled.join("\n").as_bytes(), None);
            let found = &report.chains[0];
            assert_eq!(
                (found.fault, found.line),
                (Some(Fault::Repeated), Some(place as u64 + 1)),
                "{index} at {place}: {report:?}"
            );
        }
    }
}

#[test]
fn truncation_is_told_from_tampering() {
    let (lines, head) = chain(70);
    for length in 1..lines.len() {
        let found = only(&lines[..length], Some(&head));
        assert_eq!((found.verdict, found.records), (Verdict::Truncated, length as u64));
        assert_eq!(found.witnessed, Some(false));
    }
    // In the middle of a line: the rest of it is no record, and what stands before is as it was.
    let mut spoiled = lines.clone();
    spoiled.truncate(9);
    let half = spoiled[8].len() / 8;
    spoiled[8].truncate(half);
    assert_eq!(only(&spoiled, None).verdict, Verdict::Truncated);
}

/// What an attacker can do who holds every secret but the keys that were destroyed: write everything
/// from record `from` on anew, each hash right, and sign with keys of their own.
fn rewrite(lines: &[String], from: usize) -> Vec<String> {
    let mut forged = lines.to_vec();
    let mut fresh = random(100);
    let mut key = None;
    let mut prev = String::new();
    for (index, line) in forged.iter_mut().enumerate() {
        let mut record = data(serde_json::from_str(line).expect("JSON"));
        let hash = record.remove("hash");
        if index >= from {
            if index > 0 {
                record.insert("prev".to_owned(), prev.clone().into());
            }
            if index == from {
                record.insert("ts".to_owned(), "2026-11-26T13:00:00.000000Z".into());
            }
            if record["type"] == "checkpoint" {
                let mine = key.take().unwrap_or_else(|| new_key(&mut fresh));
                let next = new_key(&mut fresh);
                if !record["data"]["next"].is_null() {
                    record["data"]["next"] = hex(next.verifying_key().as_bytes()).into();
                }
                use ed25519_dalek::Signer as _;
                let signature = mine.sign(&signed_bytes(&record).expect("canonical"));
                record["data"]["sig"] = hex(&signature.to_bytes()).into();
                key = Some(next);
            }
            if record["type"] == "session.open" {
                let mine = new_key(&mut fresh);
                record["data"]["key"] = hex(mine.verifying_key().as_bytes()).into();
                key = Some(mine);
            }
            let hash = hash_of(&record).expect("canonical");
            record.insert("hash".to_owned(), hash.into());
            *line = String::from_utf8(canonical::to_vec(&record).expect("canonical")).expect("UTF-8");
            prev = record["hash"].as_str().expect("a hash").to_owned();
        } else {
            prev = hash.and_then(|hash| hash.as_str().map(str::to_owned)).expect("a hash");
        }
    }
    forged
}

fn new_key(random: &mut impl FnMut(&mut [u8])) -> ed25519_dalek::SigningKey {
    let mut seed = [0; 32];
    random(&mut seed);
    ed25519_dalek::SigningKey::from_bytes(&seed)
}

#[test]
fn records_that_are_written_and_signed_anew_are_found_at_the_next_checkpoint() {
    let (lines, head) = chain(35);
    let checkpoint_after = |from: usize| lines.iter().skip(from).position(|line| line.contains("\"checkpoint\""));
    for from in 1..lines.len() {
        let found = only(&rewrite(&lines, from), None);
        assert_eq!((found.verdict, found.fault), (Verdict::Tampered, Some(Fault::Signature)), "{from}");
        let expected = from + checkpoint_after(from).expect("the last line is one");
        assert_eq!(found.line, Some(expected as u64 + 1));
    }
    // A whole new chain is a good chain: the witness knows better.
    let anew = rewrite(&lines, 0);
    assert_eq!(only(&anew, None).verdict, Verdict::Whole);
    let found = only(&anew, Some(&head));
    assert_eq!((found.verdict, found.fault), (Verdict::Tampered, Some(Fault::Witness)));
}

#[test]
fn a_checkpoint_is_due_after_five_seconds_and_only_for_something() {
    let (mut chain, _) = Chain::open("S1", (b"", b""), Data::new(), &at(0), random(0));
    assert!(chain.tick(&at(4_999_999)).is_empty());
    assert!(!chain.tick(&at(5_000_000)).is_empty());
    assert!(chain.tick(&at(50_000_000)).is_empty(), "nothing happened since");
    let lines = chain.append(Kind::AuthzDeny, Data::new(), &at(51_000_000));
    assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 2);
    assert!(!chain.close(Data::new(), &at(52_000_000)).is_empty());
    assert!(chain.append(Kind::AuthzDeny, Data::new(), &at(53_000_000)).is_empty(), "it has ended");
}

#[test]
fn what_does_not_fit_is_named_by_its_hash() {
    let (mut chain, first) = Chain::open("S1", (b"", b""), Data::new(), &at(0), random(0));
    let long = data(json!({"action": 3, "argv": "x".repeat(20_000)}));
    let float = data(json!({"action": 4, "x": 0.5}));
    let wide = data(json!({"action": 5, "x": 1_u64 << 53}));
    let mut log = first;
    for bad in [long, float, wide] {
        let line = chain.append(Kind::ActionStart, bad, &at(1));
        assert!(line.len() <= LONGEST_LINE + 1);
        let value: Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(value["data"]["cut"], true);
        assert!(value["data"]["action"].is_u64());
        log.extend(line);
    }
    log.extend(chain.close(Data::new(), &at(2)));
    assert_eq!(verify(&log, Some(&chain.head())).chains[0].verdict, Verdict::Whole);
}

#[test]
fn several_chains_of_one_log_are_told_apart() {
    let (a, _) = chain(2);
    let (mut second, first) = Chain::open("S2", (b"", b""), Data::new(), &at(0), random(50));
    let mut log = a[..3].join("\n").into_bytes();
    log.push(b'\n');
    log.extend(first);
    log.extend(a[3..].join("\n").into_bytes());
    log.push(b'\n');
    log.extend(second.close(Data::new(), &at(1)));
    let report = verify(&log, None);
    let verdicts: Vec<_> = report.chains.iter().map(|chain| (chain.session.as_str(), chain.verdict)).collect();
    assert_eq!(verdicts, [("S1", Verdict::Whole), ("S2", Verdict::Whole)]);
}

#[test]
fn hostile_lines_do_no_harm() {
    let deep = "[".repeat(100_000);
    for line in
        ["{", "{}", "{\"hash\":1}", "\u{0}\u{1}", "{\"v\":1,\"hash\":\"\",\"prev\":\"\",\"seq\":-1}", deep.as_str()]
    {
        let report = verify(line.as_bytes(), None);
        assert!(report.chains.is_empty(), "{line:.40}");
    }
}
