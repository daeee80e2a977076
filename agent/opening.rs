//! The session of one command: alone, or within that of a hold.

use std::time::Duration;

use agent_model::RedactionLevel;
use agent_session::redact::{self, Redactor};
use agent_session::{Identity, LEAST_OUT, Limits, Session};
use agent_system::collector::TargetUse;
use agent_system::{Command, clock, own};

use crate::hold::Link;
use crate::{bundles, cli};

/// The memory of a command that looks at nothing but files that it is given, in bytes: there a whole bundle has room.
const OFFLINE_RSS: u64 = 512 << 20;

/// The session of a command that lasts so long by itself, alone or in the session of a hold; and the key of its
/// pseudonyms.
pub(crate) fn open_session(
    global: &cli::Global,
    command: Option<&Command>,
    (now_us, lasts): (u64, Duration),
    link: Option<&Link>,
) -> anyhow::Result<(Session, [u8; 32])> {
    let identity = match link {
        Some(link) => link.identity(global.actor.as_deref())?,
        None => Identity::new(&global.session.clone().unwrap_or_else(new_session_id))?
            .incident(global.incident.as_deref())?
            .actor(global.actor.as_deref())?
            .traceparent(global.traceparent.clone().or_else(|| std::env::var("TRACEPARENT").ok()).as_deref())?,
    };
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut limits = Limits::default();
    if command.is_some_and(|command| command.target == TargetUse::None) {
        limits.rss_bytes = OFFLINE_RSS;
    }
    // Who is asked to look for long may hold threads for longer, in all.
    limits.stops_us = limits.stops_us.max(micros(lasts) / 50);
    limits = limits.with(global.limit.unwrap_or_default());
    limits.wall_us = limits.wall_us.min(micros(global.timeout.saturating_add(lasts)));
    if let Some(link) = link {
        let Limits { rss_bytes, out_bytes, .. } = limits;
        limits = limits.within(link.limits());
        if command.is_some_and(|command| bundles::brings_out(command.name)) {
            // What was written once was counted then.
            (limits.rss_bytes, limits.out_bytes) = (rss_bytes, out_bytes);
        }
        limits.wall_us = limits.wall_us.min(link.deadline_us().saturating_sub(now_us));
    }
    let mut key = link.map(Link::key).unwrap_or_default();
    match &global.incident {
        _ if link.is_some() => {}
        Some(incident) => key = redact::key_of(incident, b""),
        None => own::random(&mut key),
    }
    let asked = global.redact.level();
    let is_denied = link.is_some_and(|link| link.denied().is_some());
    if is_denied {
        // That is told, whatever was used up.
        limits.out_bytes = limits.out_bytes.max(LEAST_OUT);
    }
    // What may not begin does not show everything either.
    let level = if is_denied && asked == RedactionLevel::Off { RedactionLevel::Default } else { asked };
    let redactor = Redactor::new(level, key);
    let is_logged = global.access_log || global.keep.is_some() || global.output.as_deref() == Some("bundle");
    let session = Session::open(identity, limits, now_us, is_logged).redacting(redactor);
    Ok((session.ending(link.map(Link::over).unwrap_or_default()), key))
}

/// A new ULID: its time first, so that sessions sort by when they began.
fn new_session_id() -> String {
    let mut random = [0_u8; 16];
    own::random(&mut random);
    ulid::Ulid::from_parts(clock::wall_us() / 1000, u128::from_ne_bytes(random)).to_string()
}
