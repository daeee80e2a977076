//! A session that lasts: one container, many commands, one audit.
//!
//! The hold is the container's own process. It looks at nothing: a command that `kubectl exec` starts
//! looks by itself, with the hold's session, limits and pseudonyms, and sends each record of the audit to
//! the hold, which alone writes the chain and answers when a record is out. So what a command announces is
//! in the container's log before it is done. The hold ends by itself at its deadline, on SIGTERM, or by
//! `agent end`; what runs then is told, says what it has seen, and ends.

mod kept;
mod link;
mod place;
mod serve;
mod standing;
mod state;
mod wire;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_session::audit::{Chain, hex};
use agent_session::{Limits, Session, Totals};
use agent_system::channel::Listener;
use agent_system::child::{self, Beside, Other};
use agent_system::interrupt::{Interrupted, Interrupts};
use agent_system::own::{self, TerminationMessage};
use agent_system::{Need, clock, confine};
use clap::{Args, FromArgMatches};
use serde_json::json;

use crate::look::Began;
use crate::verdict::{Receipt, Status};
use crate::version::VERSION;
use crate::{audit, cli};

pub(crate) use kept::{kept, kept_names, take};
pub(crate) use link::{Link, is_held, join};
use place::Place;
use serve::{Shared, Unproved, accept};
pub(crate) use standing::{COMMANDS, has_standing};
use state::{Out, State};
use wire::{Standing, Welcome};

/// The subcommand.
pub(crate) const NAME: &str = "hold";

/// Its option for how long.
pub(crate) const TTL: &str = "ttl";

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

/// How often the hold looks at its clock.
const TICK: Duration = Duration::from_millis(200);

/// So many connections are taken before it looks at its clock again.
const AT_ONCE: usize = 64;

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

/// The same for a console or hold without a command.
pub(crate) fn ttl_argument() -> Option<clap::Arg> {
    Options::augment_args(clap::Command::new(NAME)).get_arguments().find(|argument| argument.get_id() == TTL).cloned()
}

/// Holds a session until it is over.
pub(crate) fn run(matches: &clap::ArgMatches) -> Status {
    told(begin(matches))
}

fn told(ended: Result<Status, Ended>) -> Status {
    ended.unwrap_or_else(|Ended { status, words }| {
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

fn usage(error: &dyn std::fmt::Display) -> Ended {
    ended(Status::Usage, error.to_string())
}

fn begin(matches: &clap::ArgMatches) -> Result<Status, Ended> {
    if let Some(place) = link::alive() {
        let words = format!("session {} is held in this container already: agent status, agent end", place.session);
        return Err(ended(Status::Refused, words));
    }
    let terms = Terms::of(matches)?;
    let none = "there is no termination message in which commands could find the hold: run each command alone";
    let message = match TerminationMessage::open() {
        Ok(Some(message)) => message,
        Ok(None) => return Err(ended(Status::Failed, none)),
        Err(error) => return Err(ended(Status::Failed, format!("{none} ({error})"))),
    };
    Ok(terms.open(Some(message), Out::Log)?.hold(None))
}

/// What a console is to know of its session.
pub(crate) struct Front {
    /// Its ID.
    pub(crate) session: String,
    /// When it ends, on the clock that only goes on; `None` where another one holds it, who knows.
    pub(crate) ends_us: Option<u64>,
    /// Where its audit is, for a person.
    pub(crate) audit: String,
}

/// Holds a session for `talk`, a console in a copy of this process, until that ends or the session is over; or lets it
/// talk in the session that is held in this container already.
pub(crate) fn with_console(matches: &clap::ArgMatches, talk: fn(&Front) -> Status) -> Status {
    told(begin_console(matches, talk))
}

fn begin_console(matches: &clap::ArgMatches, talk: fn(&Front) -> Status) -> Result<Status, Ended> {
    child::leave_interrupts();
    if let Some(place) = link::alive() {
        let audit = "in the log of the hold".to_owned();
        return Ok(talk(&Front { session: place.session, ends_us: None, audit }));
    }
    let terms = Terms::of(matches)?;
    let (session, ends_us) = (terms.place.session.clone(), Some(terms.ends_us()));
    // The commands of the console know it without the termination message, which may not be there.
    terms.place.clone().set_here();
    match child::beside().map_err(|error| ended(Status::Failed, format!("no process for the console: {error}")))? {
        Beside::Copy(mut original) => {
            // Nothing of the audit is in this copy: it begins when the other has what it needs.
            let Some(audit) = original.hear() else { own::end(Status::Refused as u8) };
            own::end(talk(&Front { session, ends_us, audit }) as u8)
        }
        Beside::Original(mut console) => {
            let message = TerminationMessage::open().ok().flatten();
            let most = terms.session.limits().kept_bytes;
            let out = Out::of_console((terms.global.audit, message.is_some()), &terms.place.session, most);
            let (out, words) =
                out.map_err(|error| ended(Status::Failed, format!("no place for the audit: {error}")))?;
            let held = terms.open(message, out)?;
            console.tell(&words);
            Ok(held.hold(Some(console)))
        }
    }
}

/// What a session is held with, known before it begins.
struct Terms {
    global: cli::Global,
    ttl_us: u64,
    began_us: u64,
    wall_us: u64,
    session: Session,
    key: [u8; 32],
    place: Place,
    /// What one that was killed has left behind.
    before: Option<Place>,
}

impl Terms {
    fn of(matches: &clap::ArgMatches) -> Result<Self, Ended> {
        let global = cli::Global::from_arg_matches(matches).map_err(|error| usage(&error))?;
        let options = Options::from_arg_matches(matches).map_err(|error| usage(&error))?;
        let (began_us, wall_us) = (clock::boot_us(), clock::wall_us());
        let ttl_us = u64::try_from(options.ttl.as_micros()).unwrap_or(u64::MAX);
        let (session, key) = crate::opening::open_session(&global, None, (began_us, Duration::ZERO), None)
            .map_err(|error| usage(&error))?;
        let place = Place::new(session.info().id.as_str());
        Ok(Self { global, ttl_us, began_us, wall_us, session, key, place, before: Place::read() })
    }

    fn ends_us(&self) -> u64 {
        self.began_us.saturating_add(self.ttl_us)
    }

    /// Opens the session: from now on commands can join it.
    fn open(self, mut message: Option<TerminationMessage>, out: Out) -> Result<Held, Ended> {
        let deadline_us = self.ends_us();
        let Self { global, ttl_us, began_us, wall_us, session, key, place, before } = self;
        let mut info = session.info().clone();
        let expires = clock::rfc3339(wall_us.saturating_add(ttl_us));
        info.expires = Some(expires.clone());
        let limits = Limits { wall_us: u64::MAX, cpu_us: u64::MAX, ..*session.limits() };
        let totals = Totals::new(&limits, global.limit.unwrap_or_default(), ttl_us);
        // How much one command writes, and for how long it holds threads, is its own affair within what all may.
        let limits = Limits { out_bytes: u64::MAX, stops_us: u64::MAX, ..limits };
        let failed = |what: &str, error: std::io::Error| ended(Status::Failed, format!("{what}: {error}"));
        let listener = Listener::bind(&place.socket).map_err(|error| failed("the socket of the hold", error))?;
        if let Some(message) = &mut message {
            message.write(&place.text()).map_err(|error| failed("the termination message", error))?;
        }
        let level = global.redact.level();
        let opening = audit::data(json!({
            "agent": VERSION,
            "actor": info.actor,
            "incident": info.incident,
            "pid": own::pid(),
            "redaction": level.as_str(),
            "traceparent": info.traceparent,
            "expires": expires,
            "limits": totals.left(limits).to_string(),
            // The session before this one in the container, which ended without a word.
            "after": before.map(|place| json!({"session": place.session, "count": place.count, "head": place.head})),
        }));
        let (chain, lines) = Chain::open(info.id.as_str(), (b"", b""), opening, &audit::now(), own::random);
        let (id, incident, actor, traceparent) = wire::marks(&info);
        let began = Began { boot_us: began_us, wall_us };
        let commands_limit = limits.commands;
        let standing = Standing { commands_limit, ..Standing::default() };
        let (secret, key, past) = (place.secret.clone(), hex(&key), Vec::new());
        let welcome = Welcome {
            action: 0,
            id,
            incident,
            actor,
            traceparent,
            expires,
            deadline_us,
            limits,
            key,
            standing: standing.clone(),
            past,
        };
        let mut kept = kept::Files::default();
        if let Some((name, file)) = out.in_memory() {
            kept.add(name, file).map_err(|error| failed("the audit", error))?;
        }
        let mut state = State {
            chain,
            out,
            receipt: Receipt::new(&info),
            message,
            standing,
            past: VecDeque::new(),
            running: Vec::new(),
            totals,
            kept,
            deadline_us,
            cut_off: Vec::new(),
            over: None,
            is_broken: false,
            place,
        };
        state.write(&lines);
        if state.is_broken {
            return Err(ended(Status::Refused, "the audit cannot be written, so nothing is held"));
        }
        let signals = Interrupts::alone().map_err(|failure| ended(Status::Failed, failure.to_string()))?;
        let (state, unproved) = (Mutex::new(state), Unproved::default());
        let shared = Arc::new(Shared { state, secret, welcome, limits, level, began, unproved });
        Ok(Held { shared, listener, signals })
    }
}

/// A session that is open.
struct Held {
    shared: Arc<Shared>,
    listener: Listener,
    signals: Interrupts,
}

impl Held {
    /// Takes commands until the session is over, or the console has ended.
    fn hold(self, mut console: Option<Other>) -> Status {
        use std::os::fd::AsFd as _;
        let Self { shared, listener, mut signals } = self;
        // Before other threads are there.
        confine::alone(NEEDS);
        let mut connections = 0;
        let why = loop {
            match signals.wait(listener.as_fd(), TICK) {
                // On a terminal it is for what runs.
                Some(Interrupted::Signal("SIGINT")) if console.is_some() => {}
                Some(Interrupted::Signal(name)) => break format!("it was ended by {name}"),
                _ => {}
            }
            if console.as_mut().is_some_and(Other::has_ended) {
                break "the console was closed".to_owned();
            }
            // Whoever connects without end does not keep it from its other duties.
            for _ in 0..AT_ONCE {
                let Ok(Some(channel)) = listener.accept() else { break };
                accept(&shared, channel, connections);
                connections += 1;
            }
            let mut state = shared.state();
            let lines = state.chain.tick(&audit::now());
            if !lines.is_empty() {
                state.write(&lines);
            }
            state.keep_place();
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
        if console.as_mut().is_some_and(|console| !console.has_ended()) {
            agent_output::tell(&format!("the session is over: {why}"));
        }
        shared.finish(&why)
    }
}
