//! Reading a chain back: is it whole, cut short, or changed, and where.

use std::collections::HashSet;

use ed25519_dalek::{Signature, VerifyingKey};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Head, Kind, from_hex, genesis, hash_of, hex, signed_bytes};

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Its hash is not that of its content.
    Edited,
    /// One or more records before it are not there.
    Missing,
    /// It stands where it was not written.
    Moved,
    /// It stands there a second time.
    Repeated,
    /// Its hash is right, and it does not follow from the one before: it was written anew.
    Rewritten,
    /// A signature is not that of the key that the checkpoint before names, or a checkpoint is not
    /// where it must be.
    Signature,
    /// It follows the end of its chain.
    AfterTheEnd,
    /// The chain is not the one that the witness saw.
    Witness,
}

/// What a chain was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// From its first record to its last checkpoint.
    Whole,
    /// All there is is as it was written, and the end is not there: the agent was killed, or the log
    /// was cut.
    Truncated,
    /// Something was changed.
    Tampered,
}

/// One chain in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Verified {
    /// The session it belongs to.
    #[schemars(extend("x-column" = "SESSION"))]
    #[schemars(extend("x-class" = "name"))]
    pub session: String,
    /// Whole, truncated or tampered with.
    #[schemars(extend("x-column" = "VERDICT"))]
    pub verdict: Verdict,
    /// The records that were found good, before the first bad one.
    #[schemars(extend("x-column" = "RECORDS"))]
    pub records: u64,
    /// How many of them a checkpoint signs: what comes after could have been added by whoever took
    /// over the agent.
    #[schemars(extend("x-column" = "SIGNED"))]
    pub signed: u64,
    /// The line of the log with the first bad record, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "LINE"))]
    pub line: Option<u64>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "FAULT"))]
    pub fault: Option<Fault>,
    /// The same for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "WHY", "x-class" = "text"))]
    pub why: Option<String>,
    /// The hash of the last good record.
    #[schemars(extend("x-class" = "id"))]
    pub head: String,
    /// The public key that the chain begins with.
    #[schemars(extend("x-class" = "id"))]
    pub key: String,
    /// Whether the witness saw this very chain; absent where none was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witnessed: Option<bool>,
    /// What the chains of bundles come to that its good records name: a bundle that was made in the session of a hold has a
    /// chain of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundles: Vec<Head>,
}

/// What is in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its chains, in the order in which they begin.
    pub chains: Vec<Verified>,
    /// Lines that are no records.
    pub other_lines: u64,
}

/// Reads the chains in `log`: the lines of a container's log, with whatever stands between them and
/// with or without the prefixes that `kubectl logs --timestamps --prefix` puts before them.
///
/// `witness` is what a chain in it must come to.
pub fn verify(log: &[u8], witness: Option<&Head>) -> Report {
    let mut state = State::default();
    for (index, line) in log.split(|byte| *byte == b'\n').enumerate() {
        let line_number = index as u64 + 1;
        match read(line) {
            Line::Record(record) => state.take(line_number, *record),
            Line::Damaged => state.damaged(line_number),
            Line::Other if line.is_empty() => {}
            Line::Other => state.other_lines += 1,
        }
    }
    state.report(witness)
}

enum Line {
    Record(Box<Record>),
    /// What was a record.
    Damaged,
    Other,
}

struct Record {
    session: String,
    seq: u64,
    kind: Option<Kind>,
    prev: String,
    hash: String,
    /// The record without its hash.
    members: Map<String, Value>,
    /// Whether the hash is right and the line canonical.
    is_intact: bool,
}

/// Marks of a record: what has most of them and is none was one.
const MARKS: [&str; 6] = ["\"hash\":\"", "\"prev\":\"", "\"seq\":", "\"mono_us\":", "\"session\":\"", "\"type\":\""];

fn read(line: &[u8]) -> Line {
    let Some(start) = line.iter().position(|byte| *byte == b'{') else { return Line::Other };
    let text = String::from_utf8_lossy(&line[start..]);
    let text = text.trim_end();
    let damaged = || {
        let marks = MARKS.iter().filter(|mark| text.contains(**mark)).count();
        if marks >= 4 { Line::Damaged } else { Line::Other }
    };
    let Ok(Value::Object(mut members)) = serde_json::from_str(text) else { return damaged() };
    // Members that stand twice, spaces and escapes vanish when it is parsed: the line must be as it was written.
    let is_canonical = agent_model::canonical::to_vec(&members).is_ok_and(|bytes| bytes == text.as_bytes());
    let word = |members: &Map<String, Value>, key: &str| members.get(key).and_then(Value::as_str).map(str::to_owned);
    let Some(Value::String(hash)) = members.remove("hash") else { return damaged() };
    let (Some(session), Some(prev), Some(kind)) =
        (word(&members, "session"), word(&members, "prev"), word(&members, "type"))
    else {
        return damaged();
    };
    let Some(seq) = members.get("seq").and_then(Value::as_u64) else { return damaged() };
    let is_intact = is_canonical
        && members.get("v").and_then(Value::as_u64) == Some(1)
        && hash_of(&members).as_deref() == Some(hash.as_str());
    Line::Record(Box::new(Record { session, seq, kind: Kind::of(&kind), prev, hash, members, is_intact }))
}

/// A chain as far as it was read.
struct Reading {
    found: Verified,
    /// The key of the next checkpoint; `None` after the last.
    key: Option<VerifyingKey>,
    epoch: u64,
    has_ended: bool,
    /// The hashes of all records, to tell a repeated one.
    seen: HashSet<String>,
}

#[derive(Default)]
struct State {
    chains: Vec<Reading>,
    other_lines: u64,
    opened: HashSet<String>,
}

impl State {
    fn take(&mut self, line: u64, record: Record) {
        let current = self.chains.iter().rposition(|chain| chain.found.session == record.session);
        // Its number may be what was changed: the kind says that a chain begins.
        let begins = record.seq == 0 && record.kind == Some(Kind::SessionOpen);
        if begins && record.is_intact && self.opened.insert(record.hash.clone()) {
            self.chains.push(Reading::open(line, &record));
            return;
        }
        match current {
            Some(index) => self.chains[index].take(line, &record),
            // The last chain that was touched is the one that an edited session ID was in.
            None if !record.is_intact && !self.chains.is_empty() => {
                if let Some(last) = self.chains.last_mut() {
                    last.bad(line, Fault::Edited, edited(record.seq));
                }
            }
            None => {
                let mut chain = Reading::open(line, &record);
                chain.found.records = 0;
                let (fault, why) = match record.is_intact {
                    false => (Fault::Edited, edited(record.seq)),
                    true => (Fault::Missing, format!("the chain begins with record {}", record.seq)),
                };
                chain.found.verdict = Verdict::Truncated;
                chain.bad(line, fault, why);
                self.chains.push(chain);
            }
        }
    }

    fn damaged(&mut self, line: u64) {
        let open = self.chains.iter_mut().rev().find(|chain| chain.found.verdict != Verdict::Tampered);
        if let Some(chain) = open {
            chain.bad(line, Fault::Edited, "this line was a record and is none any more".to_owned());
        } else {
            self.other_lines += 1;
        }
    }

    fn report(self, witness: Option<&Head>) -> Report {
        let mut chains: Vec<Verified> = self.chains.into_iter().map(|chain| chain.found).collect();
        if let Some(witness) = witness {
            let same = |chain: &Verified| {
                chain.head == witness.head && chain.records == witness.count && chain.key == witness.key
            };
            let any = chains.iter().any(same);
            for chain in &mut chains {
                chain.witnessed = Some(same(chain));
                // Cut off behind what the witness saw is cut off; all else is another chain.
                if !any && chain.verdict == Verdict::Whole {
                    chain.verdict = Verdict::Tampered;
                    chain.fault = Some(Fault::Witness);
                    let (count, head) = (witness.count, &witness.head);
                    chain.why = Some(format!("the witness saw {count} records that end in {head}"));
                }
            }
        }
        Report { chains, other_lines: self.other_lines }
    }
}

/// What the chain in a bundle comes to, where `record` is about one.
fn bundle_of(record: &Record) -> Option<Head> {
    let audit = record.members.get("data")?.get("audit")?;
    let word = |key: &str| audit.get(key)?.as_str().map(str::to_owned);
    Some(Head { count: audit.get("count")?.as_u64()?, head: word("head")?, key: word("key")? })
}

fn edited(seq: u64) -> String {
    format!("record {seq} was edited: its hash is not that of its content")
}

impl Reading {
    fn open(line: u64, record: &Record) -> Self {
        let key = record.members.get("data").and_then(|data| data.get("key")).and_then(Value::as_str);
        let key = key.unwrap_or_default().to_owned();
        let mut chain = Self {
            key: from_hex(&key).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok()),
            found: Verified {
                session: record.session.clone(),
                verdict: Verdict::Truncated,
                records: 1,
                signed: 0,
                line: None,
                fault: None,
                why: None,
                head: record.hash.clone(),
                key,
                witnessed: None,
                bundles: Vec::new(),
            },
            epoch: 0,
            has_ended: false,
            seen: HashSet::from([record.hash.clone()]),
        };
        if chain.key.is_none() && record.is_intact && record.seq == 0 {
            chain.bad(line, Fault::Signature, "the first record names no key".to_owned());
        }
        // A grant cannot be told from its hash alone; without one the beginning is known.
        let is_free = record.members.get("data").is_none_or(|data| data.get("grant").is_none());
        if is_free && record.is_intact && record.seq == 0 && record.prev != genesis(b"", b"") {
            chain.bad(line, Fault::Rewritten, "the first record does not follow from the genesis".to_owned());
        }
        chain
    }

    /// Notes the first fault: what comes after it is worth nothing.
    fn bad(&mut self, line: u64, fault: Fault, why: String) {
        if self.found.verdict != Verdict::Tampered {
            self.found.verdict = Verdict::Tampered;
            (self.found.line, self.found.fault, self.found.why) = (Some(line), Some(fault), Some(why));
        }
    }

    fn take(&mut self, line: u64, record: &Record) {
        if self.found.verdict == Verdict::Tampered {
            return;
        }
        let expected = self.found.records;
        let seq = record.seq;
        if !record.is_intact {
            return self.bad(line, Fault::Edited, edited(seq));
        }
        if self.seen.contains(&record.hash) {
            return self.bad(line, Fault::Repeated, format!("record {seq} stands here a second time"));
        }
        if self.has_ended {
            return self.bad(line, Fault::AfterTheEnd, format!("record {seq} follows the end of the chain"));
        }
        if seq > expected {
            let why = format!("record {expected} is not there: {seq} follows {}", expected - 1);
            return self.bad(line, Fault::Missing, why);
        }
        if seq < expected {
            return self.bad(line, Fault::Moved, format!("record {seq} stands after {}", expected - 1));
        }
        if record.prev != self.found.head {
            let why = format!("record {seq} does not follow from the one before: it, or that, was written anew");
            return self.bad(line, Fault::Rewritten, why);
        }
        if record.kind == Some(Kind::Checkpoint)
            && let Err(why) = self.check(record)
        {
            return self.bad(line, Fault::Signature, why);
        }
        self.seen.insert(record.hash.clone());
        self.found.records += 1;
        self.found.head = record.hash.clone();
        match record.kind {
            Some(Kind::Checkpoint) => self.found.signed = self.found.records,
            Some(Kind::ArtifactAdd) => self.found.bundles.extend(bundle_of(record)),
            _ => {}
        }
        if self.has_ended {
            self.found.verdict = Verdict::Whole;
        }
    }

    /// Checks a checkpoint, and goes on to the key that it names.
    fn check(&mut self, record: &Record) -> Result<(), String> {
        let seq = record.seq;
        let data = record.members.get("data").and_then(Value::as_object);
        let Some(data) = data else { return Err(format!("checkpoint {seq} says nothing")) };
        if data.get("epoch").and_then(Value::as_u64) != Some(self.epoch) {
            return Err(format!("checkpoint {seq} is not that of epoch {}", self.epoch));
        }
        let signature = data.get("sig").and_then(Value::as_str).and_then(from_hex).map(|b| Signature::from_bytes(&b));
        let bytes = signed_bytes(&record.members);
        let is_signed = self.key.zip(signature).zip(bytes).is_some_and(|((key, signature), bytes)| {
            // Strict: no second signature of the same bytes by a weak key.
            key.verify_strict(&bytes, &signature).is_ok()
        });
        if !is_signed {
            let key = self.key.map(|key| hex(key.as_bytes())).unwrap_or_default();
            return Err(format!("checkpoint {seq} is not signed by the key {key} that was named for it"));
        }
        self.epoch += 1;
        self.key = match data.get("next") {
            Some(Value::String(next)) => {
                let next = from_hex(next).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
                Some(next.ok_or_else(|| format!("checkpoint {seq} names no key"))?)
            }
            _ => {
                self.has_ended = true;
                None
            }
        };
        Ok(())
    }
}
