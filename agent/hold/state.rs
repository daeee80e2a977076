//! What a hold knows: its audit, its commands, and what they have taken.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use agent_session::audit::{Chain, Kind};
use agent_session::{Limits, Refusal, Taken, Totals};
use agent_system::channel::{Channel, Peer};
use agent_system::clock;
use agent_system::keep::{self, OwnFile, SESSION_DIRECTORY};
use agent_system::own::TerminationMessage;
use serde_json::{Map, Value, json};

use super::kept::Files;
use super::place::Place;
use super::standing;
use super::wire::{Denial, Past, Standing};
use crate::audit;
use crate::verdict::{Receipt, Status};

/// Strangers that are recorded each; more are counted.
const RECORDED_STRANGERS: u64 = 16;

pub(super) struct State {
    pub(super) chain: Chain,
    pub(super) place: Place,
    pub(super) out: Out,
    /// `None` for a console where there is none.
    pub(super) message: Option<TerminationMessage>,
    pub(super) receipt: Receipt,
    pub(super) standing: Standing,
    pub(super) past: VecDeque<Past>,
    pub(super) running: Vec<Running>,
    pub(super) totals: Totals,
    /// Bundles in memory.
    pub(super) kept: Files,
    /// When it ends by itself, on the clock that only goes on.
    pub(super) deadline_us: u64,
    /// Commands that its end has cut off.
    pub(super) cut_off: Vec<u64>,
    /// Why the session is over, once it is.
    pub(super) over: Option<String>,
    /// A record could not be written: nothing more may be done.
    pub(super) is_broken: bool,
}

/// A command that runs.
pub(super) struct Running {
    pub(super) action: u64,
    pub(super) command: String,
    pub(super) began_us: u64,
    pub(super) channel: Option<Channel>,
    /// Whether its beginning, and its end, were recorded.
    pub(super) has_begun: bool,
    pub(super) has_ended: bool,
}

/// Where the lines of the audit go.
pub(super) enum Out {
    /// Standard output: the container's log.
    Log,
    /// Standard error.
    Error,
    /// A file of the session's directory.
    File(OwnFile),
    /// A file in memory of this name, which has room for so many bytes more: it is there while the session lasts, and what
    /// it comes to stays in the receipt.
    Memory(String, OwnFile, u64),
}

impl Out {
    /// That of a console, and where that is, for a person: on its terminal the lines would drown what a person came for. In
    /// memory it has `most` bytes.
    pub(super) fn of_console(
        (is_asked, has_place): (bool, bool),
        session: &str,
        most: u64,
    ) -> std::io::Result<(Self, String)> {
        if is_asked || !std::io::stderr().is_terminal() {
            return Ok((Self::Error, "on standard error".to_owned()));
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
        let name = format!("{}.audit.ndjson", session.chars().map(plain).collect::<String>());
        // Elsewhere than in a container of ours nobody expects a file.
        let made = has_place.then(|| OwnFile::create(SESSION_DIRECTORY, &name));
        if let Some(Ok(file)) = made {
            return Ok((Self::File(file), format!("{SESSION_DIRECTORY}/{name}")));
        }
        let words = format!("in memory while the session lasts: agent fetch {name} (--audit shows it here)");
        let file = OwnFile::from(keep::in_memory(&name)?);
        Ok((Self::Memory(name, file, most), words))
    }

    /// The file in memory, and its name.
    pub(super) fn in_memory(&self) -> Option<(String, BorrowedFd<'_>)> {
        match self {
            Self::Memory(name, file, _) => Some((name.clone(), file.as_fd())),
            _ => None,
        }
    }

    fn write(&mut self, lines: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Log => agent_output::record_out(lines),
            Self::Error => agent_output::record(lines),
            Self::File(file) => file.write_all(lines),
            Self::Memory(_, file, left) => {
                *left = left.checked_sub(lines.len() as u64).ok_or(std::io::ErrorKind::StorageFull)?;
                file.write_all(lines)
            }
        }
    }
}

impl State {
    /// What was taken so far, by those that still run as well.
    pub(super) fn totals(&self) -> Totals {
        let now_us = clock::boot_us();
        let ran = self.running.iter().filter(|running| !running.has_ended);
        let wall_us = ran.map(|running| now_us.saturating_sub(running.began_us)).sum();
        let mut totals = self.totals;
        totals.add(Taken { wall_us, ..Taken::default() });
        totals
    }

    /// Why `command` may not begin; whoever wants to know how the session stands, to end it, or to take out what is kept, may
    /// until that is over.
    pub(super) fn objection(&self, command: &str, limits: &Limits, deadline_us: u64) -> Option<Denial> {
        let denial = |words: String, limit: Option<Refusal>, remedy: &str| {
            Some(Denial { words, limit: limit.map(|limit| limit.limit().to_owned()), remedy: remedy.to_owned() })
        };
        if let Some(words) = &self.over {
            let limit = (clock::boot_us() >= deadline_us).then_some(Refusal::Deadline);
            let remedy = "hold another session: agent hold --ttl";
            return denial(format!("the session is over: {words}"), limit, remedy);
        }
        if standing::always_may(command) {
            return None;
        }
        if self.running.len() >= limits.commands as usize {
            let words = format!("limit_reached: {} commands run already, and no more may", self.running.len());
            let remedy = "wait until one of them has ended, or hold a session with a higher --limit commands=";
            return denial(words, Some(Refusal::Commands), remedy);
        }
        let limit = self.totals().used_up()?;
        let name = limit.limit();
        let words = format!("limit_reached: the {name} that all commands of this session may take was used up");
        denial(
            words,
            Some(limit),
            &format!("agent status tells what was used; hold a session with a higher --limit {name}="),
        )
    }

    /// Writes lines of the audit; where that fails nothing more is done in this session.
    pub(super) fn write(&mut self, lines: &[u8]) {
        if self.is_broken {
            return;
        }
        self.is_broken = self.out.write(lines).is_err();
        self.place.reached(self.chain.head());
        // The log is the record; this only helps whoever comes after a hold that was killed.
        let text = self.place.text();
        let _ = self.message.as_mut().map(|message| message.write_over(&text));
    }

    /// Writes where the hold is found once more if somebody has written over it: a command that began before it did.
    pub(super) fn keep_place(&mut self) {
        let text = self.place.text();
        if let Some(message) = self.message.as_mut().filter(|message| !message.says(&text)) {
            let _ = message.write_over(&text);
        }
    }

    pub(super) fn append(&mut self, kind: Kind, data: Map<String, Value>) {
        let lines = self.chain.append(kind, data, &audit::now());
        self.write(&lines);
    }

    pub(super) fn stranger(&mut self, peer: Option<Peer>) {
        self.standing.strangers += 1;
        if self.standing.strangers <= RECORDED_STRANGERS {
            let (pid, uid) = (peer.map(|peer| peer.pid), peer.map(|peer| peer.uid));
            let why = "it does not know the secret of this container";
            self.append(Kind::AuthzDeny, audit::data(json!({"pid": pid, "uid": uid, "why": why})));
        }
    }

    /// Takes a record of the command with the number `action`.
    pub(super) fn record(&mut self, action: u64, kind: &str, data: Map<String, Value>) -> Result<(), String> {
        let own = [
            Kind::AuthzAllow,
            Kind::AuthzDeny,
            Kind::ActionStart,
            Kind::ActionEnd,
            Kind::Access,
            Kind::ArtifactAdd,
            Kind::LimitHit,
        ];
        let kind = Kind::of(kind).filter(|kind| own.contains(kind)).ok_or("a command makes no such record")?;
        if data.get("action") != Some(&action.into()) {
            return Err("a command makes records of its own alone".to_owned());
        }
        let is_over = self.over.is_some();
        let Some(at) = self.running.iter().position(|running| running.action == action) else {
            return Err("the command has ended".to_owned());
        };
        match kind {
            Kind::ActionStart if is_over => return Err("the session is over".to_owned()),
            Kind::ActionStart => {
                self.running[at].has_begun = true;
                let words = data.get("argv").and_then(Value::as_array).into_iter().flatten();
                let argv = words.take(32).filter_map(Value::as_str).map(|word| word.chars().take(200).collect());
                let argv = argv.collect();
                if let Some(past) = self.past.iter_mut().find(|past| past.action == action) {
                    past.argv = argv;
                    let actor = data.get("actor").and_then(Value::as_str);
                    past.actor = actor.map(|actor| actor.chars().take(128).collect()).or(past.actor.take());
                }
            }
            Kind::ActionEnd => {
                self.running[at].has_ended = true;
                let number = |key: &str| data.get(key).and_then(Value::as_u64).unwrap_or(0);
                self.standing.read_bytes = self.standing.read_bytes.saturating_add(number("bytes"));
                self.standing.stops = self.standing.stops.saturating_add(number("stops"));
                self.totals.add(Taken {
                    wall_us: clock::boot_us().saturating_sub(self.running[at].began_us),
                    cpu_us: number("cpu_us"),
                    out_bytes: if crate::bundles::brings_out(&self.running[at].command) {
                        0
                    } else {
                        number("written_bytes")
                    },
                    stopped_us: number("stopped_us"),
                });
                let exit = u8::try_from(number("exit")).unwrap_or(u8::MAX);
                self.receipt.add(exit);
                // A command has no more time than the session.
                let is_over = self.over.is_some() || clock::boot_us() >= self.deadline_us;
                if exit == Status::Refused as u8 && is_over {
                    self.cut_off.push(action);
                }
                if let Some(past) = self.past.iter_mut().find(|past| past.action == action) {
                    past.state = format!("exit {exit}");
                }
                if self.running[at].command == standing::END && exit == 0 {
                    self.over = Some("agent end".to_owned());
                }
            }
            // What closes a bundle is written after the end.
            Kind::ArtifactAdd if self.running[at].has_ended => {
                let out_bytes = data.get("written_bytes").and_then(Value::as_u64).unwrap_or(0);
                self.totals.add(Taken { out_bytes, ..Taken::default() });
            }
            _ => {}
        }
        self.append(kind, data);
        if self.is_broken { Err("the audit cannot be written".to_owned()) } else { Ok(()) }
    }

    /// A command is gone, after its last word or without one.
    pub(super) fn gone(&mut self, action: u64) {
        let Some(at) = self.running.iter().position(|running| running.action == action) else { return };
        let running = self.running.swap_remove(at);
        self.kept.done(action);
        if running.has_ended {
            return;
        }
        if let Some(past) = self.past.iter_mut().find(|past| past.action == action) {
            past.state = "lost".to_owned();
        }
        self.receipt.add(Status::Failed as u8);
        // What else it has taken nobody has told.
        let wall_us = clock::boot_us().saturating_sub(running.began_us);
        self.totals.add(Taken { wall_us, ..Taken::default() });
        if running.has_begun {
            self.append(Kind::ActionEnd, audit::data(json!({"action": action, "lost": true})));
        }
    }
}
