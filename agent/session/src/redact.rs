//! Redaction: what a look may show of what it saw, decided in one place.
//!
//! A collector's types say of each string what it is ([`Class`], `x-class` in the schema); [`Classes`]
//! is that of one envelope, and [`Redacted`] serializes a value through both. What is digested is what
//! is printed: both come from the same [`Redacted`].
//!
//! * `default` drops what is secret by its place (values of secret-named flags, user info and query
//!   values of URLs) or by its look (JWT, PEM, keys of clouds, high entropy): `‹redacted:class›` stands there.
//! * `strict` keeps words, numbers and names of ours, and puts a pseudonym in the place of the target's
//!   own names: `~path.1a2b…`, 80 bits of HMAC-SHA256 with a key of the incident.
//! * `off` shows everything.

mod classes;
mod clean;
mod secrets;
mod serialize;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Mutex;

use agent_model::{Gap, Redaction, RedactionLevel, Target, Text};
pub use classes::{CLASS, Class, Classes, Node, unclassified};
use clean::Clean;
pub use secrets::Argv;
pub use serialize::Redacted;
use sha2::{Digest as _, Sha256};

/// What redaction does, and what it has removed so far.
#[derive(Debug)]
pub struct Redactor {
    level: RedactionLevel,
    key: [u8; 32],
    removed: Mutex<BTreeMap<&'static str, u64>>,
    clean: Clean,
}

impl Redactor {
    /// A redactor of `level`. `key` is that of the incident's pseudonyms ([`key_of`]).
    pub fn new(level: RedactionLevel, key: [u8; 32]) -> Self {
        Self { level, key, removed: Mutex::default(), clean: Clean::default() }
    }

    /// Another one of the same level and key, that counts for itself.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.level, self.key)
    }

    /// Its level.
    pub fn level(&self) -> RedactionLevel {
        self.level
    }

    /// Takes what was removed since the last time.
    pub fn take_report(&self) -> Redaction {
        let removed = std::mem::take(&mut *self.counts());
        Redaction { level: self.level, removed }
    }

    /// Forgets what was counted: the same value is serialized anew.
    pub fn restart(&self) {
        self.counts().clear();
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.removed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn count(&self, class: &'static str) {
        *self.counts().entry(class).or_default() += 1;
    }

    /// Whether texts of `class` are shown as they are. An address or the name of a host
    /// is no secret; strict puts a pseudonym in its place.
    pub(crate) fn leaves(&self, class: Class) -> bool {
        match class {
            Class::Word | Class::Id => true,
            Class::Host => self.level != RedactionLevel::Strict,
            _ => self.level == RedactionLevel::Off,
        }
    }

    /// `text`, which is of `class`, as it may be shown.
    pub fn text<'a>(&self, class: Class, text: &'a str) -> Cow<'a, str> {
        match (self.level, class) {
            (_, class) if self.leaves(class) => Cow::Borrowed(text),
            (_, Class::Secret) => {
                self.count("secret");
                Cow::Owned(secrets::mark("secret"))
            }
            (RedactionLevel::Strict, class) if class.is_pseudonymized() => {
                // A place in the system is everybody's.
                // What was replaced stays: an answer may hold others.
                if text.is_empty() || class.is_common(text) || is_pseudonym(text) {
                    return Cow::Borrowed(text);
                }
                self.count(class.as_str());
                Cow::Owned(self.pseudonym(class.as_str(), text))
            }
            (_, Class::Url) => secrets::scrub_url(text, &mut |found| self.count(found)),
            _ if !secrets::may_hold_secret(text) || self.clean.has(text) => Cow::Borrowed(text),
            _ => {
                let mut is_clean = true;
                let shown = secrets::scrub(text, &mut |found| {
                    is_clean = false;
                    self.count(found);
                });
                if is_clean && matches!(shown, Cow::Borrowed(_)) {
                    self.clean.keep(text);
                }
                shown
            }
        }
    }

    /// The arguments of a program, first to last, as they may be shown.
    pub fn argv<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Vec<String> {
        let mut state = Argv::default();
        arguments.into_iter().map(|argument| self.argument(&mut state, argument.as_ref()).into_owned()).collect()
    }

    /// The next argument after those that `state` has seen.
    pub fn argument<'a>(&self, state: &mut Argv, argument: &'a str) -> Cow<'a, str> {
        if self.level == RedactionLevel::Off {
            return Cow::Borrowed(argument);
        }
        let scrubbed = state.next(argument, &mut |found| self.count(found));
        if self.level != RedactionLevel::Strict {
            return scrubbed;
        }
        let pseudonym = |text: &str| {
            self.count("argument");
            self.pseudonym("arg", text)
        };
        match secrets::strict_argument(&scrubbed, state.is_program(), &pseudonym) {
            Cow::Borrowed(_) => scrubbed,
            Cow::Owned(text) => Cow::Owned(text),
        }
    }

    /// `text`, which is of `class`, as it may be shown.
    pub fn shown(&self, class: Class, text: &Text) -> Text {
        match self.text(class, text.as_str()) {
            Cow::Borrowed(_) => text.clone(),
            Cow::Owned(shown) => Text::from_escaped(shown),
        }
    }

    /// A gap as it may be shown.
    pub fn gap(&self, gap: &Gap) -> Gap {
        let text = |text: &Option<String>| text.as_ref().map(|text| self.text(Class::Text, text).into_owned());
        // Remedies are words of ours.
        Gap {
            path: gap.path.as_ref().map(|path| self.shown(Class::Path, path)),
            detail: text(&gap.detail),
            ..gap.clone()
        }
    }

    /// A process as it may be named.
    pub fn target(&self, target: &Target) -> Target {
        let executable = target.executable.as_ref().map(|path| self.shown(Class::Path, path));
        Target { name: self.shown(Class::Name, &target.name), executable, ..target.clone() }
    }

    /// `~class.` and 80 bits of HMAC-SHA256 of `text`, in hex: the same within an incident.
    pub fn pseudonym(&self, class: &str, text: &str) -> String {
        let digest = hmac(&self.key, format!("{class}\n{text}").as_bytes());
        format!("~{class}.{}", crate::audit::hex(&digest[..10]))
    }
}

/// `text` without what looks like a secret in it, for formats that are not serialized: as `level` asks.
pub fn scrubbed(level: RedactionLevel, text: &str) -> Cow<'_, str> {
    match level {
        RedactionLevel::Off => Cow::Borrowed(text),
        _ => secrets::scrub(text, &mut |_| ()),
    }
}

/// The key of the pseudonyms of an incident. With a secret of the incident's own nobody can
/// try values against pseudonyms; without one they only keep from being read at a glance.
pub fn key_of(incident: &str, secret: &[u8]) -> [u8; 32] {
    hmac(secret, format!("agent-redact-v1\n{incident}").as_bytes())
}

fn is_pseudonym(text: &str) -> bool {
    let parts = text.strip_prefix('~').and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(_, digits)| digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// HMAC-SHA256 (RFC 2104).
pub fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut padded = [0_u8; BLOCK];
    if key.len() > BLOCK {
        padded[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let mut inner = Sha256::new();
    inner.update(padded.map(|byte| byte ^ 0x36));
    inner.update(message);
    let mut outer = Sha256::new();
    outer.update(padded.map(|byte| byte ^ 0x5c));
    outer.update(inner.finalize());
    outer.finalize().into()
}

#[cfg(test)]
mod tests;
