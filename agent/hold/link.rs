//! A command in the session of a hold: it joins before it is confined, and records through the hold.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use agent_model::{Gap, RedactionLevel};
use agent_session::audit::{Data, Head, Kind, Unrecorded, Witness, hex};
use agent_session::{Identity, Limits};
use agent_system::channel::{Channel, LONGEST_MESSAGE};
use agent_system::keep::OwnFile;
use agent_system::own;
use serde_json::json;

use super::place::Place;
use super::standing;
use super::wire::{Denial, FromHold, RANDOM, Role, ToHold, Welcome, is_same, proof};
use crate::verdict::Status;

/// So long the hold has for an answer: it may have to wait for who reads its log.
const PATIENCE: Duration = Duration::from_secs(3);

/// So long a command has to tell what it has seen when the session is over.
const GRACE: Duration = Duration::from_secs(5);

/// A session that is held.
pub(crate) struct Link {
    channel: Arc<Channel>,
    welcome: Welcome,
    /// Set when the session is over.
    over: Arc<AtomicBool>,
    /// What the hold says, once a thread listens; until then it is asked for.
    said: Option<Receiver<FromHold>>,
    /// Why the command may not begin: the hold has recorded that, and listens no more.
    denial: Option<Denial>,
}

/// The hold does not let a command begin, or somebody else answers in its place.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

/// The hold of this container that takes commands, if there is one.
pub(super) fn alive() -> Option<Place> {
    let place = Place::read()?;
    // A channel is never closed by itself, and who says no more would be taken for a stranger.
    let (channel, _) = greet(&place).ok()??;
    channel.end();
    Some(place)
}

/// Whether a session is held in this container.
pub(crate) fn is_held() -> bool {
    alive().is_some()
}

/// Connects and has the hold prove what it is; `None` when nobody takes connections.
fn greet(place: &Place) -> Result<Option<(Channel, String)>, Refused> {
    let refused = |words: &str| Refused(words.to_owned());
    let until = Instant::now() + PATIENCE;
    let mut random = [0; RANDOM];
    own::random(&mut random);
    let nonce = hex(&random);
    let secret = place.secret.as_bytes();
    // Where many connect the hold lets go of who has not proved itself yet: then it is asked again.
    let (channel, answer) = loop {
        let channel = match Channel::connect(&place.socket, PATIENCE) {
            Ok(channel) => channel,
            Err(error) if error.kind() == ErrorKind::TimedOut => return Err(refused("the hold takes no connection")),
            Err(_) => return Ok(None),
        };
        let answer = say(&channel, &ToHold::Hello { nonce: nonce.clone() }).ok().and_then(|()| hear(&channel));
        match answer {
            Some(answer) => break (channel, answer),
            None if Instant::now() < until => {
                channel.end();
                std::thread::sleep(Duration::from_millis(10));
            }
            None => return Err(refused("the hold does not answer")),
        }
    };
    let FromHold::Challenge { nonce: theirs, proof: proved } = answer else {
        return Err(refused("what answers in the hold's place is something else"));
    };
    if !is_same(&proved, &proof(secret, Role::Hold, &nonce, &theirs)) {
        return Err(refused("what answers in the hold's place does not know the secret of this container"));
    }
    Ok(Some((channel, proof(secret, Role::Command, &nonce, &theirs))))
}

fn say(channel: &Channel, what: &ToHold) -> std::io::Result<()> {
    channel.send(&serde_json::to_vec(what)?, PATIENCE)
}

fn hear(channel: &Channel) -> Option<FromHold> {
    let message = channel.receive(Some(PATIENCE)).ok()??;
    serde_json::from_slice(&message).ok()
}

/// Joins the session that is held in this container; `None` where none is. The hold may not let `command` begin
/// ([`Link::denied`]).
///
/// # Errors
///
/// When there is no hold that it could be asked of, or not one of this container.
pub(crate) fn join(command: &str, level: RedactionLevel) -> Result<Option<Link>, Refused> {
    let Some(place) = Place::read() else { return Ok(None) };
    let until = Instant::now() + PATIENCE;
    loop {
        let Some((channel, proof)) = greet(&place)? else { return Ok(None) };
        let begin = ToHold::Begin { proof, command: command.to_owned(), redaction: level.as_str().to_owned() };
        match say(&channel, &begin).ok().and_then(|()| hear(&channel)) {
            Some(FromHold::Welcome(welcome)) => {
                standing::keep(welcome.standing.clone(), welcome.past.clone());
                return Ok(Some(Link::new(channel, *welcome, None)));
            }
            Some(FromHold::TurnedAway { denial, welcome }) => {
                channel.end();
                return Ok(Some(Link::new(channel, *welcome, Some(denial))));
            }
            Some(FromHold::Refused { words }) => return Err(Refused(words)),
            // As in `greet`: a command that was welcomed is heard.
            None if Instant::now() < until => {
                channel.end();
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => {
                return Err(Refused("the hold does not let this command begin, and does not say why".to_owned()));
            }
        }
    }
}

/// What the hold of this container keeps in memory, by name; `None` where there is none.
pub(super) fn take() -> Option<Vec<(String, OwnedFd)>> {
    let (channel, proof) = greet(&Place::read()?).ok()??;
    say(&channel, &ToHold::Take { proof }).ok()?;
    let heard = channel.receive_files(PATIENCE);
    channel.end();
    let (message, files) = heard.ok()??;
    let Ok(FromHold::Kept { names }) = serde_json::from_slice(&message) else { return None };
    Some(names.into_iter().zip(files).collect())
}

impl Link {
    fn new(channel: Channel, welcome: Welcome, denial: Option<Denial>) -> Self {
        Self { channel: Arc::new(channel), welcome, over: Arc::default(), said: None, denial }
    }

    /// Why the command may not begin, for a person and as a gap; `None` where it may.
    pub(crate) fn denied(&self) -> Option<(String, Gap)> {
        self.denial.as_ref().map(|denial| (denial.words.clone(), denial.gap()))
    }

    /// A file in the hold's memory for a bundle called `name`: its name there, how large it may become, and it. Before the
    /// command is confined.
    ///
    /// # Errors
    ///
    /// When the hold has no room, or does not answer: why.
    pub(crate) fn keep(&self, name: &str) -> Result<(String, u64, OwnFile), String> {
        let silent = "the hold does not answer".to_owned();
        let asked = say(&self.channel, &ToHold::Keep { name: name.to_owned() });
        asked.map_err(|_| silent.clone())?;
        let Ok(Some((message, files))) = self.channel.receive_files(PATIENCE) else { return Err(silent) };
        match (serde_json::from_slice(&message), files.into_iter().next()) {
            (Ok(FromHold::Keeping { name, room_bytes }), Some(file)) => Ok((name, room_bytes, OwnFile::from(file))),
            (Ok(FromHold::Refused { words }), _) => Err(words),
            _ => Err(silent),
        }
    }

    /// The number of this command in the session.
    pub(crate) fn action(&self) -> u64 {
        self.welcome.action
    }

    /// The session's marks, with `own` as who looks: it may be somebody else than who has opened the session.
    ///
    /// # Errors
    ///
    /// When they are none: the hold is of another version.
    pub(crate) fn identity(&self, own: Option<&str>) -> anyhow::Result<Identity> {
        let of = |text: &Option<String>| text.clone();
        let Welcome { id, incident, actor, traceparent, .. } = &self.welcome;
        Ok(Identity::new(id)?
            .incident(of(incident).as_deref())?
            .actor(own.or(actor.as_deref()))?
            .traceparent(of(traceparent).as_deref())?
            .expires(self.welcome.expires.clone()))
    }

    /// Which of the marks that were asked for are not the session's.
    pub(crate) fn contradicts(&self, session: Option<&str>, incident: Option<&str>) -> Option<String> {
        let differs = |asked: Option<&str>, own: Option<&str>| asked.is_some() && asked != own;
        let id = self.welcome.id.as_str();
        if differs(session, Some(id)) {
            return Some(format!("this is session {id}: it can be no other while it is held"));
        }
        let own = self.welcome.incident.as_deref();
        differs(incident, own).then(|| format!("session {id} belongs to {}", own.unwrap_or("no incident")))
    }

    /// What the session may take.
    pub(crate) fn limits(&self) -> Limits {
        self.welcome.limits
    }

    /// When the session ends, on the clock that only goes on.
    pub(crate) fn deadline_us(&self) -> u64 {
        self.welcome.deadline_us
    }

    /// The key of the session's pseudonyms.
    pub(crate) fn key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(self.welcome.key.as_bytes().chunks_exact(2)) {
            *byte = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
        }
        key
    }

    /// Set when the session is over.
    pub(crate) fn over(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.over)
    }

    /// The next word of the hold that is an answer.
    fn answer(&mut self) -> Result<FromHold, Unrecorded> {
        loop {
            let word = match &self.said {
                Some(said) => said.recv_timeout(PATIENCE).map_err(|error| match error {
                    RecvTimeoutError::Timeout => Unrecorded("the hold does not answer".to_owned()),
                    RecvTimeoutError::Disconnected => Unrecorded("the hold has ended".to_owned()),
                }),
                None => hear(&self.channel).ok_or_else(|| Unrecorded("the hold has ended".to_owned())),
            };
            match word {
                Ok(FromHold::Over { .. }) => self.over.store(true, Relaxed),
                Ok(word) => return Ok(word),
                Err(error) => {
                    self.over.store(true, Relaxed);
                    return Err(error);
                }
            }
        }
    }
}

/// Listens to the hold: its answers go on to who waits for them, and its end ends this command.
fn listen(channel: &Channel, over: &AtomicBool, answers: &std::sync::mpsc::Sender<FromHold>) {
    loop {
        match channel.receive(None) {
            Ok(Some(message)) => match serde_json::from_slice(&message) {
                Ok(FromHold::Over { words }) => {
                    over.store(true, Relaxed);
                    agent_output::tell(&format!("the session is over: {words}"));
                }
                Ok(answer) => {
                    let _ = answers.send(answer);
                }
                Err(_) => break,
            },
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    // What was seen is told, if that takes no long.
    over.store(true, Relaxed);
    std::thread::sleep(GRACE);
    own::end(Status::Refused as u8)
}

impl Witness for Link {
    fn record(&mut self, kind: Kind, data: Data) -> Result<(), Unrecorded> {
        let action = data.get("action").cloned();
        let message = |data| serde_json::to_vec(&ToHold::Record { kind: kind.as_str().to_owned(), data });
        let mut bytes = message(data).map_err(|error| Unrecorded(error.to_string()))?;
        if bytes.len() > LONGEST_MESSAGE {
            let mut cut = crate::audit::data(json!({"cut": true, "bytes": bytes.len()}));
            cut.extend(action.map(|action| ("action".to_owned(), action)));
            bytes = message(cut).map_err(|error| Unrecorded(error.to_string()))?;
        }
        self.channel.send(&bytes, PATIENCE).map_err(|_| {
            self.over.store(true, Relaxed);
            Unrecorded("the hold has ended".to_owned())
        })?;
        match self.answer()? {
            FromHold::Recorded => Ok(()),
            FromHold::Refused { words } => Err(Unrecorded(words)),
            _ => Err(Unrecorded("the hold gives another answer".to_owned())),
        }
    }

    fn last_words(&mut self, records: Vec<(Kind, Data)>) {
        let message = |(kind, data): (Kind, Data)| {
            serde_json::to_vec(&ToHold::Record { kind: kind.as_str().to_owned(), data }).ok()
        };
        self.channel.last_words(records.into_iter().filter_map(message).collect());
    }

    fn head(&self) -> Option<Head> {
        None
    }

    fn confined(&mut self) {
        let (answers, said) = channel();
        let (channel, over) = (Arc::clone(&self.channel), Arc::clone(&self.over));
        // Without it the deadline still ends this command, and the next record notices.
        let spawned =
            std::thread::Builder::new().stack_size(256 << 10).spawn(move || listen(&channel, &over, &answers));
        self.said = spawned.is_ok().then_some(said);
    }
}
