//! The first line of HTTP/1 messages (RFC 9112), and the names of header fields.
//!
//! Values are never kept: not those of header fields, not those in a query, and no
//! user information.

/// The longest target that is kept, in bytes.
const LONGEST_TARGET: usize = 512;
/// The most header fields whose names are kept.
const MOST_FIELDS: usize = 32;

/// What a message begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A request.
    Request {
        /// Its method.
        method: &'static str,
        /// Its target, without values.
        target: Vec<u8>,
        /// The names of its header fields, as far as they were captured.
        fields: Vec<Vec<u8>>,
    },
    /// A response, and its status.
    Response(u16),
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Reads the beginning of a segment. `None` when no message begins there.
pub fn start(bytes: &[u8]) -> Option<Start> {
    // Most segments are neither: see that by the first byte.
    if !matches!(bytes.first()?, b'G' | b'H' | b'P' | b'D' | b'C' | b'O' | b'T') {
        return None;
    }
    if let Some(rest) = bytes.strip_prefix(b"HTTP/1.") {
        return match rest {
            [b'0' | b'1', b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
                let digit = |byte: &u8| u16::from(byte - b'0');
                Some(Start::Response(digit(a) * 100 + digit(b) * 10 + digit(c)))
            }
            _ => None,
        };
    }
    let (method, rest) = METHODS.iter().find_map(|method| {
        let rest = bytes.strip_prefix(method.as_bytes())?.strip_prefix(b" ")?;
        Some((*method, rest))
    })?;
    let end = rest.iter().position(|byte| *byte == b' ' || byte.is_ascii_control())?;
    if !rest[end..].starts_with(b" HTTP/1.") {
        return None;
    }
    let line_end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let fields = names(rest.get(line_end + 1..).unwrap_or_default());
    Some(Start::Request { method, target: without_values(&rest[..end]), fields })
}

/// A target in which each value of the query is `*`, and user information is gone.
fn without_values(target: &[u8]) -> Vec<u8> {
    let (path, query) = match target.iter().position(|byte| matches!(byte, b'?' | b';')) {
        Some(at) => target.split_at(at),
        None => (target, &b""[..]),
    };
    let mut kept = Vec::with_capacity(target.len().min(LONGEST_TARGET));
    let authority = path.windows(3).position(|three| three == b"://").map(|at| at + 3);
    match authority {
        Some(start) => {
            let end = path[start..].iter().position(|byte| *byte == b'/').map_or(path.len(), |at| start + at);
            let host = path[start..end].iter().rposition(|byte| *byte == b'@').map_or(start, |at| start + at + 1);
            kept.extend_from_slice(&path[..start]);
            kept.extend_from_slice(&path[host..]);
        }
        None => kept.extend_from_slice(path),
    }
    for parameter in query.split_inclusive(|byte| matches!(byte, b'&' | b';' | b'?')) {
        let (parameter, separator) = match parameter {
            [rest @ .., last @ (b'&' | b';' | b'?')] => (rest, Some(*last)),
            whole => (whole, None),
        };
        // What has no name is all value.
        let name = parameter.iter().position(|byte| *byte == b'=').map_or(0, |at| at + 1);
        kept.extend_from_slice(&parameter[..name]);
        kept.extend(parameter.get(name).map(|_| b'*').or((name > 0).then_some(b'*')));
        kept.extend(separator);
    }
    kept.truncate(LONGEST_TARGET);
    kept
}

/// The names of the header fields in `lines`, in lower case.
fn names(lines: &[u8]) -> Vec<Vec<u8>> {
    lines
        .split(|byte| *byte == b'\n')
        .map_while(|line| {
            let end = line.iter().position(|byte| *byte == b':')?;
            let name = &line[..end];
            let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
            (!name.is_empty() && name.iter().all(is_token)).then(|| name.to_ascii_lowercase())
        })
        .take(MOST_FIELDS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_kept() {
        let bytes = b"GET http://u:pw@host/a;s=1?q=secret&token=x=y&flag HTTP/1.1\r\nHost: host\r\nAuthorization: Bearer z\r\n\r\nbody: no";
        let Some(Start::Request { method, target, fields }) = start(bytes) else { panic!("a request") };
        assert_eq!((method, target.as_slice()), ("GET", &b"http://host/a;s=*?q=*&token=*&*"[..]));
        assert_eq!(fields, [b"host".to_vec(), b"authorization".to_vec()]);
    }

    #[test]
    fn tells_messages_from_anything_else() {
        assert_eq!(start(b"HTTP/1.1 204 No Content\r\n"), Some(Start::Response(204)));
        for other in [&b"GETX / HTTP/1.1"[..], b"GET /", b"HTTP/1.1 20", b"HTTP/2 200", b"POST  x", b"", b"PING\r\n"] {
            assert_eq!(start(other), None);
        }
    }
}
