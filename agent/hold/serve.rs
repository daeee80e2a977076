//! The hold's side of a channel: who connects, what may begin, and the end of all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_model::RedactionLevel;
use agent_session::Limits;
use agent_session::audit::{Kind, hex};
use agent_system::channel::{Channel, LONGEST_MESSAGE, Peer};
use agent_system::{clock, own};
use serde_json::{Value, json};

use super::standing;
use super::state::{Running, State};
use super::wire::{Denial, FromHold, Past, RANDOM, Role, Standing, ToHold, Welcome, is_same, proof, strictness};
use crate::audit;
use crate::look::Began;
use crate::verdict::{Status, head_of};

/// So long who connects has for each step of proving itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// So long commands have to say what they have seen when the session is over.
const GRACE: Duration = Duration::from_secs(3);

/// Connections at once of those who have not proved themselves: anybody in the pod can make them.
const MOST_UNPROVED: usize = 64;

/// Commands that are remembered for `status`.
const REMEMBERED: usize = 100;

/// The one copy of what its threads share.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) secret: String,
    pub(super) welcome: Welcome,
    pub(super) limits: Limits,
    pub(super) level: RedactionLevel,
    pub(super) began: Began,
    pub(super) unproved: Unproved,
}

/// Connections of those who have not proved themselves yet, the oldest first.
#[derive(Default)]
pub(super) struct Unproved(Mutex<VecDeque<(u64, Option<Peer>, Channel)>>);

impl Unproved {
    fn all(&self) -> MutexGuard<'_, VecDeque<(u64, Option<Peer>, Channel)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, and lets go of another where there are too many: the oldest of the process that has the most, so that
    /// one that makes many only loses its own.
    fn add(&self, number: u64, channel: &Channel) {
        let Ok(other) = channel.share() else { return };
        let peer = channel.peer();
        let mut all = self.all();
        all.push_back((number, peer, other));
        if all.len() > MOST_UNPROVED {
            let of = |peer: &Option<Peer>| all.iter().filter(|one| one.1 == *peer).count();
            let most = all.iter().map(|one| of(&one.1)).max();
            let at = all.iter().position(|one| Some(of(&one.1)) == most);
            if let Some((_, _, channel)) = at.and_then(|at| all.remove(at)) {
                channel.end();
            }
        }
    }

    /// Takes one away: it has proved itself, or is gone.
    fn remove(&self, number: u64) {
        self.all().retain(|one| one.0 != number);
    }
}

pub(super) fn accept(shared: &Arc<Shared>, channel: Channel, number: u64) {
    shared.unproved.add(number, &channel);
    let shared = Arc::clone(shared);
    // Where no thread can be had the command is told by the end of its channel.
    let spawned = std::thread::Builder::new().stack_size(256 << 10).spawn({
        let shared = Arc::clone(&shared);
        move || shared.serve(&channel, number)
    });
    if spawned.is_err() {
        shared.unproved.remove(number);
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One command, from its first word to its last.
    fn serve(&self, channel: &Channel, number: u64) {
        let peer = channel.peer();
        let greeting = self.greet(channel);
        self.unproved.remove(number);
        let (command, redaction) = match greeting {
            Greeting::Proved(command, redaction) => (command, redaction),
            Greeting::Taker => return self.hand_out(channel),
            // Somebody who only wants to know whether there is a hold.
            Greeting::Left => return,
            Greeting::Stranger => return self.state().stranger(peer),
        };
        let welcome = match self.begin(&command, &redaction, peer, channel) {
            Ok(welcome) => welcome,
            Err(turned_away) => return say(channel, &turned_away),
        };
        let action = welcome.action;
        say(channel, &FromHold::Welcome(Box::new(welcome)));
        while let Ok(Some(message)) = channel.receive(None) {
            let (kind, data) = match serde_json::from_slice(&message) {
                Ok(ToHold::Record { kind, data }) => (kind, data),
                Ok(ToHold::Keep { name }) => {
                    self.keep(channel, action, &name);
                    continue;
                }
                _ => break,
            };
            let answer = match self.state().record(action, &kind, data) {
                Ok(()) => FromHold::Recorded,
                Err(words) => FromHold::Refused { words },
            };
            say(channel, &answer);
        }
        self.state().gone(action);
    }

    /// Gives a command the file in memory that its bundle goes to.
    fn keep(&self, channel: &Channel, action: u64, name: &str) {
        let mut state = self.state();
        let most = self.limits.kept_bytes;
        let refused = match state.kept.make(name, action, most) {
            Ok((name, room_bytes, file)) => {
                let message = serde_json::to_vec(&FromHold::Keeping { name, room_bytes });
                let _ = message.map(|message| channel.send_files(&message, &[file], PATIENCE));
                return;
            }
            Err(words) => words,
        };
        let what = json!({"action": action, "limit": "kept", "why": refused});
        state.append(Kind::LimitHit, audit::data(what));
        drop(state);
        say(channel, &FromHold::Refused { words: refused });
    }

    /// Gives somebody of this container what is kept in memory.
    fn hand_out(&self, channel: &Channel) {
        let state = self.state();
        let message = serde_json::to_vec(&FromHold::Kept { names: state.kept.names() });
        let _ = message.map(|message| channel.send_files(&message, &state.kept.files(), PATIENCE));
    }

    /// Proves that this is the hold, and asks for the same.
    fn greet(&self, channel: &Channel) -> Greeting {
        let receive = || channel.receive(Some(PATIENCE));
        let hello = match receive() {
            Ok(Some(message)) => serde_json::from_slice(&message),
            _ => return Greeting::Left,
        };
        let Ok(ToHold::Hello { nonce }) = hello else { return Greeting::Stranger };
        let mut random = [0; RANDOM];
        own::random(&mut random);
        let own = hex(&random);
        let proved = proof(self.secret.as_bytes(), Role::Hold, &nonce, &own);
        say(channel, &FromHold::Challenge { nonce: own.clone(), proof: proved });
        let begin = match receive() {
            Ok(Some(message)) => serde_json::from_slice(&message),
            Ok(None) => return Greeting::Left,
            Err(_) => return Greeting::Stranger,
        };
        let expected = proof(self.secret.as_bytes(), Role::Command, &nonce, &own);
        match begin {
            Ok(ToHold::Begin { proof: theirs, command, redaction }) if is_same(&theirs, &expected) => {
                Greeting::Proved(command, redaction)
            }
            Ok(ToHold::Take { proof: theirs }) if is_same(&theirs, &expected) => Greeting::Taker,
            _ => Greeting::Stranger,
        }
    }

    /// Lets a command begin, unless the session does not allow it: then what is said in the place of a welcome.
    fn begin(
        &self,
        command: &str,
        redaction: &str,
        peer: Option<Peer>,
        channel: &Channel,
    ) -> Result<Welcome, FromHold> {
        let mut state = self.state();
        // What is taken out is as it was made.
        let denial = if crate::bundles::brings_out(command) { None } else { self.too_lax(redaction) };
        if let Some(denial) = denial.or_else(|| state.objection(command, &self.limits, self.welcome.deadline_us)) {
            let pid = peer.map(|peer| peer.pid);
            let mut what = json!({"command": command, "pid": pid, "why": denial.words});
            let kind = match &denial.limit {
                Some(limit) => {
                    what["limit"] = limit.as_str().into();
                    Kind::LimitHit
                }
                None => Kind::AuthzDeny,
            };
            state.append(kind, audit::data(what));
            return Err(FromHold::TurnedAway { denial, welcome: Box::new(self.welcome(&state, command, 0)) });
        }
        state.standing.commands += 1;
        let action = state.standing.commands;
        let began_us = clock::boot_us();
        let name = command.to_owned();
        let channel = channel.share().ok();
        state.running.push(Running { action, command: name, began_us, channel, has_begun: false, has_ended: false });
        state.past.push_back(Past {
            action,
            began: clock::rfc3339(clock::wall_us()),
            pid: peer.map(|peer| peer.pid),
            uid: peer.map(|peer| peer.uid),
            actor: self.welcome.actor.clone(),
            state: "running".to_owned(),
            argv: Vec::new(),
        });
        if state.past.len() > REMEMBERED {
            state.past.pop_front();
        }
        Ok(self.welcome(&state, command, action))
    }

    /// Why no command of this level of redaction may begin.
    fn too_lax(&self, redaction: &str) -> Option<Denial> {
        let levels = [RedactionLevel::Off, RedactionLevel::Default, RedactionLevel::Strict];
        let own = self.level.as_str();
        let words = match levels.into_iter().find(|level| level.as_str() == redaction) {
            Some(asked) if strictness(asked) >= strictness(self.level) => return None,
            Some(_) => format!("this session shows no more than --redact {own}"),
            None => "there is no such level of redaction".to_owned(),
        };
        Some(Denial { words, limit: None, remedy: format!("ask for --redact {own}") })
    }

    /// What the command with the number `action` gets from the session.
    fn welcome(&self, state: &State, command: &str, action: u64) -> Welcome {
        let totals = state.totals();
        let standing = Standing {
            left_us: self.welcome.deadline_us.saturating_sub(clock::boot_us()),
            running: state.running.len() as u64,
            audit_records: state.chain.head().count,
            began: clock::rfc3339(self.began.wall_us),
            expires: self.expires(),
            kept: if standing::is_about_session(command) { state.kept.names() } else { Vec::new() },
            kept_bytes: state.kept.bytes(),
            kept_limit_bytes: self.limits.kept_bytes,
            ..state.standing.clone().with(&totals)
        };
        // Only who asks how it stands is told; and even `end` must get through, whatever was typed before.
        let past = if standing::is_about_session(command) { fitting(&state.past) } else { Vec::new() };
        let limits = totals.left(self.welcome.limits);
        Welcome { action, limits, expires: self.expires(), standing, past, ..self.welcome.clone() }
    }

    /// When the session ends, as the clock on the wall says it now: that may have been set since it began. By whole seconds,
    /// so that all who ask are told the same while it was not.
    fn expires(&self) -> String {
        let Began { wall_us, boot_us } = self.began;
        let since = |now_us: u64, then_us: u64| i128::from(now_us) - i128::from(then_us);
        let set_us = since(clock::wall_us(), wall_us) - since(clock::boot_us(), boot_us);
        let set_us = (set_us + 500_000).div_euclid(1_000_000) * 1_000_000;
        let at_us = i128::from(wall_us) + since(self.welcome.deadline_us, boot_us) + set_us;
        clock::rfc3339(u64::try_from(at_us).unwrap_or(0))
    }

    /// Ends the session: tells its commands, waits for them, and closes the audit.
    pub(super) fn finish(&self, why: &str) -> Status {
        {
            let mut state = self.state();
            state.over = Some(why.to_owned());
            for running in &state.running {
                if let Some(channel) = &running.channel {
                    say(channel, &FromHold::Over { words: why.to_owned() });
                }
            }
        }
        let until_us = clock::boot_us() + u64::try_from(GRACE.as_micros()).unwrap_or(0);
        while clock::boot_us() < until_us && !self.state().running.is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut state = self.state();
        // Those that have not ended by then are left to themselves: the end of their channel ends them.
        // Of the others what they have seen is told.
        let undone: Vec<u64> = state.running.iter().map(|running| running.action).collect();
        for action in &undone {
            if let Some(channel) =
                state.running.iter().find_map(|one| one.channel.as_ref().filter(|_| one.action == *action))
            {
                channel.end();
            }
            state.gone(*action);
        }
        let status = if state.is_broken { Status::Refused } else { Status::Complete };
        let commands = state.standing.commands;
        let closing =
            json!({"actions": commands, "cut_off": state.cut_off, "exit": status as u8, "undone": undone, "why": why});
        let closing = with_gone(closing, &state.kept.names());
        let lines = state.chain.close(audit::data(closing), &audit::now());
        state.write(&lines);
        let head = head_of(state.chain.head());
        let mut receipt = state.receipt.clone();
        receipt.ended(status as u8, head);
        if let Some(Err(error)) = state.message.as_mut().map(|message| message.write(&receipt.message())) {
            agent_output::tell(&format!("the termination message could not be written: {error}"));
        }
        status
    }
}

/// Names of bundles that `session.close` has room for.
const NAMED: usize = 16;

/// `closing` with the `names` of what was kept in memory: it ends with the hold, and nobody is to look for it.
fn with_gone(mut closing: Value, names: &[String]) -> Value {
    if !names.is_empty() {
        closing["gone"] = json!({"count": names.len(), "names": names[..names.len().min(NAMED)]});
    }
    closing
}

/// The newest of `past` that have room in half a message.
fn fitting(past: &VecDeque<Past>) -> Vec<Past> {
    let mut left = LONGEST_MESSAGE / 2;
    let fits = past.iter().rev().take_while(|past| {
        let bytes = serde_json::to_vec(past).map_or(left, |json| json.len()) + 1;
        let has_room = left >= bytes;
        left = left.saturating_sub(bytes);
        has_room
    });
    let mut newest: Vec<Past> = fits.cloned().collect();
    newest.reverse();
    newest
}

/// Who has connected.
enum Greeting {
    /// A command of this container, and how much it wants to show.
    Proved(String, String),
    /// Somebody of this container who only wants what is kept.
    Taker,
    /// Nobody any more.
    Left,
    /// Somebody who does not know the secret.
    Stranger,
}

/// Says something to a command. One that does not listen is noticed when it says nothing any more.
fn say(channel: &Channel, what: &FromHold) {
    let _ = serde_json::to_vec(what).map(|message| channel.send(&message, PATIENCE));
}
