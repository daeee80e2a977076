//! TLS as far as it is in the clear (RFC 8446, RFC 5246, RFC 6066, RFC 7301): the
//! two hellos and alerts.

/// The most bytes of a direction that are kept until its hello is whole: key shares
/// after quantum computers make it nearly 2 KiB.
pub const LARGEST_HELLO: usize = 8 << 10;

/// A hello.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// Whether it is the server's.
    pub is_server: bool,
    /// The server that is asked for (SNI).
    pub server_name: Option<Vec<u8>>,
    /// The version that the server has chosen, or the highest that the client
    /// offers, as on the wire (0x0303 is TLS 1.2).
    pub version: u16,
    /// The application protocol that was chosen, or the first that is offered. In
    /// TLS 1.3 the choice is encrypted.
    pub alpn: Option<Vec<u8>>,
}

/// What the first bytes of a direction are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The beginning of a hello: more is needed.
    Partial,
    /// A whole hello.
    Hello(Hello),
    /// Something else.
    Other,
}

/// An alert that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alert {
    /// 1 warning, 2 fatal.
    pub level: u8,
    /// Its description (RFC 8446, section 6).
    pub description: u8,
}

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(usize::from(u16::from_be_bytes([pair[0], pair[1]])))
}

/// Whether `bytes` may be the beginning of a hello.
pub fn may_be_hello(bytes: &[u8]) -> bool {
    match bytes {
        [HANDSHAKE, 3, 0..=4, _, _, first, ..] => matches!(first, 1 | 2),
        [HANDSHAKE, 3, 0..=4, ..] | [HANDSHAKE, 3] | [HANDSHAKE] => true,
        _ => false,
    }
}

/// The length of the hello at the beginning of `bytes`, record headers included, as
/// far as it is there: what has to be kept of it.
pub fn hello_bytes(bytes: &[u8]) -> usize {
    if !may_be_hello(bytes) {
        return 0;
    }
    let Some(record) = u16_at(bytes, 3) else { return bytes.len() };
    let length = match bytes.get(6..9) {
        Some(length) => usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]),
        None => return bytes.len(),
    };
    // A hello in one record, as nearly all are, ends within it; else with its records.
    if length + 4 <= record { (length + 9).min(bytes.len()) } else { bytes.len().min(LARGEST_HELLO) }
}

/// Reads the hello at the beginning of a direction.
pub fn hello(bytes: &[u8]) -> Progress {
    if !may_be_hello(bytes) {
        return Progress::Other;
    }
    // A handshake message may be spread over records.
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let [kind, a, b, c, body @ ..] = &message[..] {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if length > LARGEST_HELLO {
                return Progress::Other;
            }
            if let Some(body) = body.get(..length) {
                let read = if *kind == 1 { client(body) } else { server(body) };
                return read.map_or(Progress::Other, Progress::Hello);
            }
        }
        if rest.is_empty() {
            return Progress::Partial;
        }
        if rest[0] != HANDSHAKE {
            return Progress::Other;
        }
        let Some(length) = u16_at(rest, 3) else { return Progress::Partial };
        if length == 0 {
            return Progress::Other;
        }
        let record = &rest[5..];
        message.extend_from_slice(&record[..record.len().min(length)]);
        rest = record.get(length..).unwrap_or_default();
    }
}

/// Reads fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn word(&mut self) -> Option<usize> {
        self.take(2).and_then(|pair| u16_at(pair, 0))
    }

    /// A vector with a length of one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length)
    }

    /// A vector with a length of two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.word()?;
        self.take(length)
    }
}

fn client(body: &[u8]) -> Option<Hello> {
    let mut fields = Fields(body);
    let mut hello = Hello { version: fields.word()? as u16, ..Hello::default() };
    fields.take(32)?;
    fields.short()?;
    fields.long()?;
    fields.short()?;
    extensions(&mut fields, |kind, mut data| match kind {
        0 => {
            let mut names = Fields(data.long()?);
            if names.take(1)? == [0] {
                hello.server_name = names.long().map(<[u8]>::to_vec);
            }
            Some(())
        }
        16 => {
            hello.alpn = Fields(data.long()?).short().map(<[u8]>::to_vec);
            Some(())
        }
        43 => {
            let offered = data.short()?.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            // GREASE values (RFC 8701) are no versions.
            hello.version = offered.filter(|version| version >> 8 == 3).max().unwrap_or(hello.version);
            Some(())
        }
        _ => Some(()),
    })?;
    Some(hello)
}

fn server(body: &[u8]) -> Option<Hello> {
    let mut fields = Fields(body);
    let mut hello = Hello { is_server: true, version: fields.word()? as u16, ..Hello::default() };
    fields.take(32)?;
    fields.short()?;
    fields.take(3)?;
    extensions(&mut fields, |kind, mut data| match kind {
        16 => {
            hello.alpn = Fields(data.long()?).short().map(<[u8]>::to_vec);
            Some(())
        }
        43 => {
            hello.version = data.word()? as u16;
            Some(())
        }
        _ => Some(()),
    })?;
    Some(hello)
}

/// Hands each extension to `each`. There may be none at all.
fn extensions<'a>(fields: &mut Fields<'a>, mut each: impl FnMut(usize, Fields<'a>) -> Option<()>) -> Option<()> {
    if fields.0.is_empty() {
        return Some(());
    }
    let mut list = Fields(fields.long()?);
    while !list.0.is_empty() {
        let kind = list.word()?;
        each(kind, Fields(list.long()?))?;
    }
    Some(())
}

/// The alert that `bytes` are, if they are one record with one that is not
/// encrypted.
pub fn alert(bytes: &[u8]) -> Option<Alert> {
    match bytes {
        [ALERT, 3, 0..=4, 0, 2, level @ (1 | 2), description, ..] => {
            Some(Alert { level: *level, description: *description })
        }
        _ => None,
    }
}

/// The name of a version.
pub fn version_name(version: u16) -> &'static str {
    match version {
        0x0300 => "ssl_3_0",
        0x0301 => "tls_1_0",
        0x0302 => "tls_1_1",
        0x0303 => "tls_1_2",
        0x0304 => "tls_1_3",
        _ => "unknown",
    }
}

/// The name of an alert (IANA, "TLS Alerts").
pub fn alert_name(description: u8) -> &'static str {
    match description {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "unknown",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ClientHello with SNI `name`, ALPN h2 and TLS 1.3 (and GREASE) offered, in
    /// records of at most `record` bytes.
    pub(crate) fn client_hello(name: &[u8], record: usize) -> Vec<u8> {
        let vector = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let extension = |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], &vector(data)].concat();
        let extensions = [
            extension(0x0a0a, b""),
            extension(0, &vector(&[&[0][..], &vector(name)].concat())),
            extension(16, &vector(b"\x02h2\x08http/1.1")),
            extension(43, b"\x06\x0a\x0a\x03\x04\x03\x03"),
        ]
        .concat();
        let body =
            [&[3, 3][..], &[7; 32], b"\x00", &vector(&[0x13, 1, 0x13, 2]), b"\x01\x00", &vector(&extensions)].concat();
        let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
        message.chunks(record).flat_map(|piece| [&[HANDSHAKE, 3, 1][..], &vector(piece)].concat()).collect()
    }

    #[test]
    fn reads_hellos_in_one_record_and_in_many() {
        for record in [16_000, 50, 7, 1] {
            let bytes = client_hello(b"db.example", record);
            let Progress::Hello(hello) = hello(&bytes) else { panic!("a hello in records of {record}") };
            assert_eq!(hello.server_name.as_deref(), Some(&b"db.example"[..]));
            assert_eq!((version_name(hello.version), hello.alpn.as_deref()), ("tls_1_3", Some(&b"h2"[..])));
        }
        let bytes = client_hello(b"db.example", 16_000);
        assert_eq!(hello_bytes(&[&bytes[..], b"early data"].concat()), bytes.len());
    }

    #[test]
    fn a_hello_that_is_cut_is_partial_and_never_panics() {
        let bytes = client_hello(b"db.example", 50);
        for end in 0..bytes.len() {
            assert_ne!(hello(&bytes[..end]), Progress::Hello(Hello::default()));
            let _ = hello_bytes(&bytes[..end]);
        }
        assert_eq!(hello(&bytes[..bytes.len() - 1]), Progress::Partial);
        assert_eq!(hello(b"GET / HTTP/1.1"), Progress::Other);
    }

    #[test]
    fn alerts_are_those_in_the_clear() {
        assert_eq!(alert(b"\x15\x03\x03\x00\x02\x02\x28"), Some(Alert { level: 2, description: 40 }));
        assert_eq!(alert(b"\x15\x03\x03\x00\x1a\x9a\x28\x11"), None, "encrypted");
    }
}
