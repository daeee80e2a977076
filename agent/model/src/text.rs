//! How bytes from the kernel or the target become text.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Bytes of the kernel or the target as a string that loses nothing and is safe
/// to print on a terminal.
///
/// Printable UTF-8 stays as it is. A byte of anything else is written `\xNN`
/// (lower-case hex) and a backslash is doubled, so [`unescape`] gives the bytes
/// back. "Anything else" is: invalid UTF-8, control characters (C0, DEL, C1),
/// and the invisible characters that change how the text around them is shown
/// (bidirectional controls, zero-width characters, line and paragraph
/// separators, byte order mark).
///
/// ```
/// use agent_model::Text;
/// assert_eq!(Text::from_bytes(b"caf\xc3\xa9 \x1b[2J\\ \xff").as_str(), "café \\x1b[2J\\\\ \\xff");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("x-class" = "text"))]
pub struct Text(String);

impl Text {
    /// Escapes `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match escape(bytes) {
            Cow::Borrowed(plain) => Self(plain.to_owned()),
            Cow::Owned(escaped) => Self(escaped),
        }
    }

    /// The escaped text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes that this text was made from.
    pub fn to_bytes(&self) -> Vec<u8> {
        unescape(&self.0)
    }

    /// Text that is escaped already: a part of another one, or words of ours.
    pub fn from_escaped(text: String) -> Self {
        Self(text)
    }

    /// True when there were no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Characters that print nothing themselves but change how their neighbours look.
fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{200b}'..='\u{200f}' // zero width, left-to-right and right-to-left marks
        | '\u{2028}'..='\u{202e}' // separators, embeddings and overrides
        | '\u{2060}'..='\u{206f}' // word joiner, invisible operators, isolates
        | '\u{061c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}') // tags
}

fn is_plain(c: char) -> bool {
    c != '\\' && !c.is_control() && !is_deceptive(c)
}

/// Escapes `bytes` as [`Text`] describes, without a copy where nothing needs it.
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    // Nearly all text is plain ASCII: see that at once.
    if bytes.iter().all(|b| matches!(b, 0x20..=0x7e) && *b != b'\\') {
        return String::from_utf8_lossy(bytes);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_plain(c) {
                out.push(c);
            } else if c == '\\' {
                out.push_str("\\\\");
            } else {
                let mut buffer = [0; 4];
                push_hex(&mut out, c.encode_utf8(&mut buffer).as_bytes());
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    Cow::Owned(out)
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push_str("\\x");
        out.push(DIGITS[usize::from(byte >> 4)] as char);
        out.push(DIGITS[usize::from(byte & 15)] as char);
    }
}

/// The bytes that [`escape`] made `text` from. A backslash that [`escape`] cannot
/// have written stays as it is.
pub fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let hex = |i: usize| rest.get(i).and_then(|b| (*b as char).to_digit(16));
        match (rest, hex(2), hex(3)) {
            ([b'\\', b'x', ..], Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 4;
            }
            ([b'\\', b'\\', ..], _, _) => {
                out.push(b'\\');
                at += 2;
            }
            _ => {
                out.push(rest[0]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_ascii_is_borrowed() {
        assert!(matches!(escape(b"/usr/sbin/nginx -g daemon off;"), Cow::Borrowed(_)));
    }

    #[test]
    fn every_byte_string_comes_back() {
        let mut seed = 1_u64;
        for length in 0..400 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 56) as u8
                })
                .collect();
            assert_eq!(unescape(&escape(&bytes)), bytes);
        }
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&escape(&every)), every);
    }

    #[test]
    fn nothing_that_moves_a_cursor_or_reorders_text_survives() {
        for hostile in ["\u{1b}[31m", "\u{9b}31m", "\r", "\n", "\u{202e}exe.txt", "\u{200b}", "\u{2028}"] {
            let escaped = escape(hostile.as_bytes());
            assert!(escaped.chars().all(|c| c == '\\' || is_plain(c)), "{escaped}");
            assert_eq!(unescape(&escaped), hostile.as_bytes());
        }
    }

    #[test]
    fn a_literal_escape_is_told_from_an_escaped_byte() {
        assert_eq!(escape(b"\\x1b"), "\\\\x1b");
        assert_eq!(unescape("\\\\x1b"), b"\\x1b");
    }
}
