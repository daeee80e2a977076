//! A session that lasts: one container, many commands, one audit.
//!
//! The hold is the container's own process. It looks at nothing: a command that `kubectl exec` starts
//! looks by itself, with the hold's session, limits and pseudonyms, and sends each record of the audit to
//! the hold, which alone writes the chain and answers when a record is out. So what a command announces is
//! in the container's log before it is done. The hold ends by itself at its deadline, on SIGTERM, or by
//! `agent end`; what runs then is told, says what it has seen, and ends.

mod link;
mod place;
mod standing;
mod wire;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_model::RedactionLevel;
use agent_session::Limits;
use agent_session::audit::{Chain, Kind, hex};
use agent_system::channel::{Channel, LONGEST_MESSAGE, Listener, Peer};
use agent_system::interrupt::{Interrupted, Interrupts};
use agent_system::own::{self, TerminationMessage};
use agent_system::{Need, clock, confine};
use clap::{Args, FromArgMatches};
use serde_json::{Map, Value, json};

use crate::verdict::{Receipt, Status, head_of};
use crate::version::VERSION;
use crate::{audit, cli};

pub(crate) use link::{Link, join};
use place::Place;
pub(crate) use standing::{COMMANDS, has_standing};
use wire::{FromHold, Past, RANDOM, Role, Standing, ToHold, Welcome, is_same, proof, strictness};

/// The subcommand.
pub(crate) const NAME: &str = "hold";

/// What a hold does, for the help.
const ABOUT: &str = "Hold a session open in this container: what is run in it with kubectl exec is part of it";

const MANUAL: &str = "\
The audit goes to standard output, which is the container's log. Without a command and without a
terminal the agent holds.

  kubectl debug -q POD -c agent-1 --image=agent --target=app --arguments-only -- hold --ttl 15m --incident INC-42
  kubectl exec POD -c agent-1 -- agent ps       part of that session
  kubectl exec POD -c agent-1 -- agent status   time left, and who ran what
  kubectl exec POD -c agent-1 -- agent end      ends it";

/// What it calls beyond what every command may.
pub(crate) const NEEDS: &[Need] = &[Need::Connections];

/// The longest a session may last.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// So long who connects has for each step of proving itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// So long commands have to say what they have seen when the session is over.
const GRACE: Duration = Duration::from_secs(3);

/// How often the hold looks at its clock.
const TICK: Duration = Duration::from_millis(200);

/// Connections at once, whoever they are from.
const MOST_CONNECTIONS: usize = 128;

/// Commands that are remembered for `status`.
const REMEMBERED: usize = 100;

/// Strangers that are recorded each; more are counted.
const RECORDED_STRANGERS: u64 = 16;

/// Options of `hold`.
#[derive(Debug, Args)]
struct Options {
    /// How long the session lasts, up to 24h
    #[arg(long, env = "AGENT_TTL", default_value = "15m", value_name = "TIME", value_parser = ttl)]
    ttl: Duration,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = ttl >= Duration::from_secs(1) && ttl <= LONGEST_TTL;
    if fits { Ok(ttl) } else { Err("a session lasts for 1s to 24h".to_owned()) }
}

/// Its part of the command line.
pub(crate) fn arguments() -> clap::Command {
    Options::augment_args(clap::Command::new(NAME)).about(ABOUT).long_about(None).after_long_help(MANUAL)
}

/// What the agent does where it is given no command, and there is no terminal.
pub(crate) fn by_default(argv: &[OsString]) -> Status {
    let line = cli::Global::augment_args(clap::Command::new("agent")).subcommand(arguments());
    let argv = argv.iter().cloned().chain([NAME.into()]);
    match line.try_get_matches_from(argv) {
        Ok(matches) => matches.subcommand().map_or(Status::Usage, |(_, matches)| run(matches)),
        Err(error) => crate::usage(&error),
    }
}

/// Holds a session until it is over.
pub(crate) fn run(matches: &clap::ArgMatches) -> Status {
    begin(matches).unwrap_or_else(|Ended { status, words }| {
        agent_output::tell(&words);
        status
    })
}

/// Why there is no hold.
struct Ended {
    status: Status,
    words: String,
}

fn ended(status: Status, words: impl Into<String>) -> Ended {
    Ended { status, words: words.into() }
}

/// The one copy of what its threads share.
struct Shared {
    state: Mutex<State>,
    secret: String,
    welcome: Welcome,
    limits: Limits,
    level: RedactionLevel,
    began: String,
    connections: AtomicUsize,
}

struct State {
    chain: Chain,
    place: Place,
    message: TerminationMessage,
    receipt: Receipt,
    standing: Standing,
    past: VecDeque<Past>,
    running: Vec<Running>,
    /// Why the session is over, once it is.
    over: Option<String>,
    /// A record could not be written: nothing more may be done.
    is_broken: bool,
}

/// A command that runs.
struct Running {
    action: u64,
    command: String,
    channel: Option<Channel>,
    /// Whether its beginning, and its end, were recorded.
    has_begun: bool,
    has_ended: bool,
}

fn begin(matches: &clap::ArgMatches) -> Result<Status, Ended> {
    let usage = |error: &dyn std::fmt::Display| ended(Status::Usage, error.to_string());
    let global = cli::Global::from_arg_matches(matches).map_err(|error| usage(&error))?;
    let options = Options::from_arg_matches(matches).map_err(|error| usage(&error))?;
    // One that was killed has left its place behind.
    let before = match Place::read() {
        Some(place) if link::is_alive(&place) => {
            let words = format!("session {} is held in this container already: agent status, agent end", place.session);
            return Err(ended(Status::Refused, words));
        }
        before => before,
    };
    let none = "there is no termination message in which commands could find the hold: run each command alone";
    let mut message = match TerminationMessage::open() {
        Ok(Some(message)) => message,
        Ok(None) => return Err(ended(Status::Failed, none)),
        Err(error) => return Err(ended(Status::Failed, format!("{none} ({error})"))),
    };
    let (began_us, wall_us) = (clock::boot_us(), clock::wall_us());
    let ttl_us = u64::try_from(options.ttl.as_micros()).unwrap_or(u64::MAX);
    let (session, key) =
        crate::open_session(&global, None, (began_us, Duration::ZERO), None).map_err(|error| usage(&error))?;
    let mut info = session.info().clone();
    let expires = clock::rfc3339(wall_us.saturating_add(ttl_us));
    info.expires = Some(expires.clone());
    let limits = *session.limits();
    let failed = |what: &str, error: std::io::Error| ended(Status::Failed, format!("{what}: {error}"));
    let place = Place::new(info.id.as_str());
    let listener = Listener::bind(&place.socket).map_err(|error| failed("the socket of the hold", error))?;
    message.write(&place.text()).map_err(|error| failed("the termination message", error))?;
    let level = global.redact.level();
    let opening = audit::data(json!({
        "agent": VERSION,
        "actor": info.actor,
        "incident": info.incident,
        "pid": own::pid(),
        "redaction": level.as_str(),
        "traceparent": info.traceparent,
        "expires": expires,
        "limits": Limits { wall_us: u64::MAX, ..limits }.to_string(),
        // The session before this one in the container, which ended without a word.
        "after": before.map(|place| json!({"session": place.session, "count": place.count, "head": place.head})),
    }));
    let (chain, lines) = Chain::open(info.id.as_str(), (b"", b""), opening, &audit::now(), own::random);
    let (id, incident, actor, traceparent) = wire::marks(&info);
    let began = clock::rfc3339(wall_us);
    let standing = Standing {
        began: began.clone(),
        expires: expires.clone(),
        left_us: ttl_us,
        commands: 0,
        running: 0,
        commands_limit: limits.commands,
        audit_records: 0,
        read_bytes: 0,
        stops: 0,
        stopped_us: 0,
        strangers: 0,
    };
    let welcome = Welcome {
        action: 0,
        id,
        incident,
        actor,
        traceparent,
        expires,
        deadline_us: began_us.saturating_add(ttl_us),
        limits: Limits { wall_us: u64::MAX, ..limits }.to_string(),
        key: hex(&key),
        standing: standing.clone(),
        past: Vec::new(),
    };
    let mut state = State {
        chain,
        receipt: Receipt::new(&info),
        message,
        standing,
        past: VecDeque::new(),
        running: Vec::new(),
        over: None,
        is_broken: false,
        place,
    };
    state.write(&lines);
    if state.is_broken {
        return Err(ended(Status::Refused, "the audit cannot be written, so nothing is held"));
    }
    let signals = Interrupts::alone().map_err(|failure| ended(Status::Failed, failure.to_string()))?;
    // Before other threads are there.
    confine::alone(NEEDS);
    let secret = state.place.secret.clone();
    let connections = AtomicUsize::new(0);
    let shared = Arc::new(Shared { state: Mutex::new(state), secret, welcome, limits, level, began, connections });
    Ok(hold(&shared, &listener, signals))
}

/// Takes commands until the session is over.
fn hold(shared: &Arc<Shared>, listener: &Listener, mut signals: Interrupts) -> Status {
    use std::os::fd::AsFd as _;
    let why = loop {
        if let Some(Interrupted::Signal(name)) = signals.wait(listener.as_fd(), TICK) {
            break format!("it was ended by {name}");
        }
        while let Ok(Some(channel)) = listener.accept() {
            accept(shared, channel);
        }
        let mut state = shared.state();
        let lines = state.chain.tick(&audit::now());
        if !lines.is_empty() {
            state.write(&lines);
        }
        if let Some(words) = &state.over {
            break words.clone();
        }
        if state.is_broken {
            break "its audit cannot be written".to_owned();
        }
        if clock::boot_us() >= shared.welcome.deadline_us {
            break "its time is over".to_owned();
        }
    };
    shared.finish(&why)
}

fn accept(shared: &Arc<Shared>, channel: Channel) {
    if shared.connections.fetch_add(1, Relaxed) >= MOST_CONNECTIONS {
        shared.connections.fetch_sub(1, Relaxed);
        return;
    }
    let shared = Arc::clone(shared);
    // Where no thread can be had the command is told by the end of its channel.
    let _ = std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
        shared.serve(&channel);
        shared.connections.fetch_sub(1, Relaxed);
    });
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One command, from its first word to its last.
    fn serve(&self, channel: &Channel) {
        let peer = channel.peer();
        let (command, redaction) = match self.greet(channel) {
            Greeting::Proved(command, redaction) => (command, redaction),
            // Somebody who only wants to know whether there is a hold.
            Greeting::Left => return,
            Greeting::Stranger => return self.state().stranger(peer),
        };
        let welcome = match self.begin(&command, &redaction, peer, channel) {
            Ok(welcome) => welcome,
            Err(words) => return say(channel, &FromHold::Refused { words }),
        };
        let action = welcome.action;
        say(channel, &FromHold::Welcome(Box::new(welcome)));
        while let Ok(Some(message)) = channel.receive(None) {
            let Ok(ToHold::Record { kind, data }) = serde_json::from_slice(&message) else { break };
            let answer = match self.state().record(action, &kind, data) {
                Ok(()) => FromHold::Recorded,
                Err(words) => FromHold::Refused { words },
            };
            say(channel, &answer);
        }
        self.state().gone(action);
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
        match begin {
            Ok(ToHold::Begin { proof: theirs, command, redaction })
                if is_same(&theirs, &proof(self.secret.as_bytes(), Role::Command, &nonce, &own)) =>
            {
                Greeting::Proved(command, redaction)
            }
            _ => Greeting::Stranger,
        }
    }

    /// Lets a command begin, unless the session does not allow it.
    fn begin(&self, command: &str, redaction: &str, peer: Option<Peer>, channel: &Channel) -> Result<Welcome, String> {
        let mut state = self.state();
        if let Some(words) = &state.over {
            return Err(format!("the session is over: {words}"));
        }
        let asked = [RedactionLevel::Off, RedactionLevel::Default, RedactionLevel::Strict]
            .into_iter()
            .find(|level| level.as_str() == redaction);
        let refused = match asked {
            Some(asked) if strictness(asked) < strictness(self.level) => {
                Some(format!("this session shows no more than --redact {}", self.level.as_str()))
            }
            None => Some("there is no such level of redaction".to_owned()),
            // Whoever wants to know how it stands, or to end it, always may.
            _ if state.running.len() >= self.limits.commands as usize && !standing::is_about_session(command) => {
                Some(format!("{} commands run already, and no more may (--limit commands=)", state.running.len()))
            }
            _ => None,
        };
        if let Some(words) = refused {
            let pid = peer.map(|peer| peer.pid);
            state.append(Kind::AuthzDeny, audit::data(json!({"command": command, "pid": pid, "why": words})));
            return Err(words);
        }
        state.standing.commands += 1;
        let action = state.standing.commands;
        let channel = channel.share().ok();
        let (name, command) = (command, command.to_owned());
        state.running.push(Running { action, command, channel, has_begun: false, has_ended: false });
        state.past.push_back(Past {
            action,
            began: clock::rfc3339(clock::wall_us()),
            pid: peer.map(|peer| peer.pid),
            uid: peer.map(|peer| peer.uid),
            state: "running".to_owned(),
            argv: Vec::new(),
        });
        if state.past.len() > REMEMBERED {
            state.past.pop_front();
        }
        let standing = Standing {
            left_us: self.welcome.deadline_us.saturating_sub(clock::boot_us()),
            running: state.running.len() as u64,
            audit_records: state.chain.head().count,
            began: self.began.clone(),
            ..state.standing.clone()
        };
        // Only who asks how it stands is told; and even `end` must get through, whatever was typed before.
        let past = if standing::is_about_session(name) { fitting(&state.past) } else { Vec::new() };
        Ok(Welcome { action, standing, past, ..self.welcome.clone() })
    }

    /// Ends the session: tells its commands, waits for them, and closes the audit.
    fn finish(&self, why: &str) -> Status {
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
        let closing = json!({"actions": commands, "exit": status as u8, "undone": undone, "why": why});
        let lines = state.chain.close(audit::data(closing), &audit::now());
        state.write(&lines);
        let head = head_of(state.chain.head());
        let mut receipt = state.receipt.clone();
        receipt.ended(status as u8, head);
        if let Err(error) = state.message.write(&receipt.message()) {
            agent_output::tell(&format!("the termination message could not be written: {error}"));
        }
        status
    }
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
    /// Nobody any more.
    Left,
    /// Somebody who does not know the secret.
    Stranger,
}

/// Says something to a command. One that does not listen is noticed when it says nothing any more.
fn say(channel: &Channel, what: &FromHold) {
    let _ = serde_json::to_vec(what).map(|message| channel.send(&message, PATIENCE));
}

impl State {
    /// Writes lines of the audit; where that fails nothing more is done in this session.
    fn write(&mut self, lines: &[u8]) {
        if self.is_broken {
            return;
        }
        self.is_broken = agent_output::record_out(lines).is_err();
        self.place.reached(self.chain.head());
        // The log is the record; this only helps whoever comes after a hold that was killed.
        let _ = self.message.write_over(&self.place.text());
    }

    fn append(&mut self, kind: Kind, data: Map<String, Value>) {
        let lines = self.chain.append(kind, data, &audit::now());
        self.write(&lines);
    }

    fn stranger(&mut self, peer: Option<Peer>) {
        self.standing.strangers += 1;
        if self.standing.strangers <= RECORDED_STRANGERS {
            let (pid, uid) = (peer.map(|peer| peer.pid), peer.map(|peer| peer.uid));
            let why = "it does not know the secret of this container";
            self.append(Kind::AuthzDeny, audit::data(json!({"pid": pid, "uid": uid, "why": why})));
        }
    }

    /// Takes a record of the command with the number `action`.
    fn record(&mut self, action: u64, kind: &str, data: Map<String, Value>) -> Result<(), String> {
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
                }
            }
            Kind::ActionEnd => {
                self.running[at].has_ended = true;
                let number = |key: &str| data.get(key).and_then(Value::as_u64).unwrap_or(0);
                self.standing.read_bytes = self.standing.read_bytes.saturating_add(number("bytes"));
                self.standing.stops = self.standing.stops.saturating_add(number("stops"));
                self.standing.stopped_us = self.standing.stopped_us.saturating_add(number("stopped_us"));
                let exit = u8::try_from(number("exit")).unwrap_or(u8::MAX);
                self.receipt.add(exit);
                if let Some(past) = self.past.iter_mut().find(|past| past.action == action) {
                    past.state = format!("exit {exit}");
                }
                if self.running[at].command == standing::END && exit == 0 {
                    self.over = Some("agent end".to_owned());
                }
            }
            _ => {}
        }
        self.append(kind, data);
        if self.is_broken { Err("the audit cannot be written".to_owned()) } else { Ok(()) }
    }

    /// A command is gone, after its last word or without one.
    fn gone(&mut self, action: u64) {
        let Some(at) = self.running.iter().position(|running| running.action == action) else { return };
        let running = self.running.swap_remove(at);
        if running.has_ended {
            return;
        }
        if let Some(past) = self.past.iter_mut().find(|past| past.action == action) {
            past.state = "lost".to_owned();
        }
        self.receipt.add(Status::Failed as u8);
        if running.has_begun {
            self.append(Kind::ActionEnd, audit::data(json!({"action": action, "lost": true})));
        }
    }
}
