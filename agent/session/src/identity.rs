//! Who looks, and what their looking belongs to.

use agent_model::{SessionInfo, Text};

/// The longest session ID, incident or actor, in bytes.
const LONGEST: usize = 128;

/// The marks that all evidence of one session carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    info: SessionInfo,
}

/// Why a mark was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is empty, too long or holds characters that do not print.
    #[error("{name} must be 1 to {LONGEST} printable characters without spaces or quotation marks")]
    Unprintable {
        /// Which mark.
        name: &'static str,
    },
    /// It is not a W3C trace context.
    #[error("traceparent must look like 00-<32 hex>-<16 hex>-<2 hex> (W3C Trace Context)")]
    Traceparent,
}

impl Identity {
    /// An identity with the session ID `id`.
    ///
    /// # Errors
    ///
    /// When `id` is not 1 to 128 printable characters without spaces or quotation marks.
    pub fn new(id: &str) -> Result<Self, IdentityError> {
        let id = mark("session", id)?;
        Ok(Self { info: SessionInfo { id, incident: None, actor: None, traceparent: None, expires: None } })
    }

    /// Adds the incident. Errors as [`Identity::new`].
    pub fn incident(mut self, incident: Option<&str>) -> Result<Self, IdentityError> {
        self.info.incident = incident.map(|text| mark("incident", text)).transpose()?;
        Ok(self)
    }

    /// Adds who looks. Errors as [`Identity::new`].
    pub fn actor(mut self, actor: Option<&str>) -> Result<Self, IdentityError> {
        self.info.actor = actor.map(|text| mark("actor", text)).transpose()?;
        Ok(self)
    }

    /// Adds the trace that this belongs to.
    ///
    /// # Errors
    ///
    /// When it is not a `traceparent` of the W3C Trace Context, version 00.
    pub fn traceparent(mut self, traceparent: Option<&str>) -> Result<Self, IdentityError> {
        if let Some(text) = traceparent {
            if !is_traceparent(text) {
                return Err(IdentityError::Traceparent);
            }
            self.info.traceparent = Some(text.into());
        }
        Ok(self)
    }

    /// Adds when the session ends (RFC 3339).
    #[must_use]
    pub fn expires(mut self, at: String) -> Self {
        self.info.expires = Some(at);
        self
    }

    pub(crate) fn into_info(self) -> SessionInfo {
        self.info
    }
}

fn mark(name: &'static str, text: &str) -> Result<Text, IdentityError> {
    let escaped = Text::from(text);
    let fits = (1..=LONGEST).contains(&text.len());
    // A quotation mark would make it longer in JSON, and the receipt has no room for that.
    let fits = fits && !text.contains('"');
    if fits && escaped.as_str() == text && !text.contains(char::is_whitespace) {
        Ok(escaped)
    } else {
        Err(IdentityError::Unprintable { name })
    }
}

/// W3C Trace Context, section 3.2: lower-case hex, neither ID all zero.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let nonzero = |part: &str| part.bytes().any(|b| b != b'0');
    matches!(parts[..], [version, trace, parent, flags]
        if version == "00" && hex(trace, 32) && nonzero(trace)
            && hex(parent, 16) && nonzero(parent) && hex(flags, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_that_could_forge_a_log_line_are_refused() {
        for bad in ["", "a b", "a\"b", "a\nb", "a\u{1b}[2J", "a\\b", "\u{202e}x", &"x".repeat(129)] {
            assert!(Identity::new(bad).is_err(), "{bad:?}");
        }
        assert!(Identity::new("INC-42/é").is_ok());
    }

    #[test]
    fn traceparents_are_those_of_the_specification() {
        let with = |text| Identity::new("s").expect("valid").traceparent(Some(text));
        assert!(with("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").is_ok());
        for bad in [
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "",
        ] {
            assert!(with(bad).is_err(), "{bad:?}");
        }
    }
}
