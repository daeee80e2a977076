//! DNS messages (RFC 1035): header and question, which is all that the summary
//! needs.

/// The most pointers that a compressed name may follow. Each must point backwards,
/// so that a loop cannot arise; the bound keeps a hostile name cheap.
const MOST_POINTERS: usize = 16;

/// The longest name, in bytes (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 255;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    /// The name, in lower case, labels joined by dots, without the last dot. A dot
    /// or backslash within a label has a backslash before it (RFC 4343).
    pub name: Vec<u8>,
    /// Its type (IANA, "Resource Record (RR) TYPEs").
    pub kind: u16,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The identification that question and answer share.
    pub id: u16,
    /// Whether it is an answer.
    pub is_response: bool,
    /// What is asked for: 0 is a query.
    pub opcode: u8,
    /// The answer code.
    pub rcode: u8,
    /// Whether it was cut to fit a datagram.
    pub is_truncated: bool,
    /// Resource records in the answer section.
    pub answers: u16,
    /// The first question; a few answers have none.
    pub question: Option<Question>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Reads a message. `None` when it is none, or cut off within the question.
pub fn message(bytes: &[u8]) -> Option<Message> {
    let flags = u16_at(bytes, 2)?;
    let questions = u16_at(bytes, 4)?;
    let answers = u16_at(bytes, 6)?;
    bytes.get(..12)?;
    let question = match questions {
        0 => None,
        _ => {
            let (name, end) = name(bytes, 12)?;
            Some(Question { name, kind: u16_at(bytes, end)? })
        }
    };
    Some(Message {
        id: u16_at(bytes, 0)?,
        is_response: flags & 0x8000 != 0,
        opcode: (flags >> 11 & 15) as u8,
        rcode: (flags & 15) as u8,
        is_truncated: flags & 0x0200 != 0,
        answers,
        question,
    })
}

/// The name at `at`, and where what follows it begins.
fn name(bytes: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let mut end = None;
    let mut pointers = 0;
    let mut length_on_wire = 1;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length >> 6 {
            0 if length == 0 => return Some((name, end.unwrap_or(at + 1))),
            0 => {
                let label = bytes.get(at + 1..at + 1 + length)?;
                length_on_wire += length + 1;
                if length_on_wire > LONGEST_NAME {
                    return None;
                }
                if !name.is_empty() {
                    name.push(b'.');
                }
                for byte in label {
                    if matches!(byte, b'.' | b'\\') {
                        name.push(b'\\');
                    }
                    name.push(byte.to_ascii_lowercase());
                }
                at += 1 + length;
            }
            3 => {
                let target = usize::from(u16_at(bytes, at)? & 0x3fff);
                pointers += 1;
                if target >= at || pointers > MOST_POINTERS {
                    return None;
                }
                end = end.or(Some(at + 2));
                at = target;
            }
            // 01 and 10 are not in use (RFC 6891).
            _ => return None,
        }
    }
}

/// The name of a type.
pub fn kind_name(kind: u16) -> String {
    let known = match kind {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        41 => "OPT",
        43 => "DS",
        48 => "DNSKEY",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        // RFC 3597.
        other => return format!("TYPE{other}"),
    };
    known.to_owned()
}

/// The name of an answer code.
pub fn rcode_name(rcode: u8) -> &'static str {
    match rcode {
        0 => "noerror",
        1 => "formerr",
        2 => "servfail",
        3 => "nxdomain",
        4 => "notimp",
        5 => "refused",
        6 => "yxdomain",
        7 => "yxrrset",
        8 => "nxrrset",
        9 => "notauth",
        10 => "notzone",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `dig +noedns example.com` and the answer of dnsmasq.
    const QUERY: &[u8] = b"\x1f\xf3\x01\x20\x00\x01\x00\x00\x00\x00\x00\x00\x07ExamplE\x03com\x00\x00\x01\x00\x01";
    const ANSWER: &[u8] = b"\x1f\xf3\x85\x83\x00\x01\x00\x01\x00\x00\x00\x00\x07example\x03com\x00\x00\x1c\x00\x01\
        \xc0\x0c\x00\x1c\x00\x01\x00\x00\x00\x00\x00\x04\x0a\x00\x00\x01";

    #[test]
    fn reads_questions_and_answers() {
        let query = message(QUERY).expect("a query");
        assert_eq!((query.id, query.is_response), (0x1ff3, false));
        assert_eq!(query.question, Some(Question { name: b"example.com".to_vec(), kind: 1 }));
        let answer = message(ANSWER).expect("an answer");
        assert_eq!((answer.is_response, answer.rcode, answer.answers, answer.is_truncated), (true, 3, 1, false));
        assert_eq!(answer.question.map(|question| kind_name(question.kind)).as_deref(), Some("AAAA"));
    }

    #[test]
    fn pointers_go_backwards_or_nowhere() {
        let with = |name: &[u8]| {
            let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            bytes.extend(name);
            bytes.extend([0, 1, 0, 1]);
            message(&bytes)
        };
        assert_eq!(with(b"\xc0\x0c"), None, "to itself");
        assert_eq!(with(b"\x01a\xc0\x0e"), None, "forwards");
        assert_eq!(with(b"\x01a\xc0\x0c"), None, "a loop over a label ends by the length of the name");
        assert_eq!(with(b"\xc0\xff"), None, "past the end");
        assert_eq!(with(b"\x40a\x00"), None, "a reserved label");
        let long = [b"\x3f".as_slice(), &[b'x'; 63]].concat().repeat(4);
        assert_eq!(with(&[&long[..], b"\x00"].concat()), None, "longer than a name may be");
        let name = with(b"\x03a.b\x01\\\x00").and_then(|message| message.question).expect("a name").name;
        assert_eq!(name, b"a\\.b.\\\\");
    }

    #[test]
    fn truncated_messages_never_panic() {
        for end in 0..ANSWER.len() {
            let _ = message(&ANSWER[..end]);
        }
    }
}
