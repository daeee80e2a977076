//! What looks like a secret, or stands where one stands.
//!
//! Most strings have none: each look begins with the cheap question whether it can.

mod argv;
mod keys;
mod names;

use std::borrow::Cow;

pub use argv::Argv;
pub(super) use argv::strict_argument;
use keys::tokens;
pub(super) use names::is_secret_name;

/// What stands in the place of something removed.
pub(super) fn mark(class: &str) -> String {
    format!("‹redacted:{class}›")
}

/// Called with the class of each thing that is removed.
pub(super) type Count<'a> = &'a mut dyn FnMut(&'static str);

/// Removes from `text` what looks like a secret.
pub(super) fn scrub<'a>(text: &'a str, count: Count<'_>) -> Cow<'a, str> {
    if !may_hold_secret(text) {
        return Cow::Borrowed(text);
    }
    let mut out = Cow::Borrowed(text);
    if out.contains("-----BEGIN") {
        out = pem(out, count);
    }
    if out.contains("://") {
        out = urls(out, count);
    }
    if out.contains(['=', ':']) {
        out = assignments(out, count);
    }
    tokens(out, count)
}

/// The cheap question: a run of so many characters of a token, or a sign that gives a value.
pub(super) fn may_hold_secret(text: &str) -> bool {
    const RUN: usize = 16;
    let mut run = 0;
    for byte in text.bytes() {
        match byte {
            b'=' | b':' | b'@' => return true,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'+' => {
                run += 1;
                if run >= RUN {
                    return true;
                }
            }
            _ => run = 0,
        }
    }
    false
}

/// Everything from `-----BEGIN` to the end of the last `-----END …-----`.
fn pem<'a>(text: Cow<'a, str>, count: Count<'_>) -> Cow<'a, str> {
    let Some(start) = text.find("-----BEGIN") else { return text };
    let end = text[start..].rfind("-----END").map_or(text.len(), |end| {
        let rest = &text[start + end + 8..];
        let close = rest.find("-----").map_or(rest.len(), |close| close + 5);
        start + end + 8 + close
    });
    count("pem");
    Cow::Owned(format!("{}{}{}", &text[..start], mark("pem"), &text[end..]))
}

/// Where a URL, or a word on a command line, ends.
fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '(' | ')' | '‹')
}

/// User info and query values of every URL in `text`.
fn urls<'a>(text: Cow<'a, str>, count: Count<'_>) -> Cow<'a, str> {
    let mut out = String::new();
    let mut rest = &*text;
    let mut changed = false;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(ends_word).unwrap_or(after.len());
        let (url, tail) = after.split_at(end);
        // User info ends with the last @ before the path; a password may hold anything, / included.
        let authority_end = url.find(['/', '?', '#']).unwrap_or(url.len());
        let sign = url[..authority_end].rfind('@').or_else(|| {
            let sign = url.rfind('@')?;
            let colon = url.find(':')?;
            // `host:80/a@b` is a path with an @, `user:pa/ss@host` a password with a slash.
            let port = url[colon + 1..].split(['/', '?', '#']).next().unwrap_or_default();
            (colon < authority_end && (port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()))).then_some(sign)
        });
        let mut url = url;
        if let Some(sign) = sign {
            // What was removed already stays as it says.
            if url[..sign] != *"" {
                out.push_str(&mark("userinfo"));
                count("userinfo");
                changed = true;
            }
            out.push('@');
            url = &url[sign + 1..];
        }
        changed |= query(url, &mut out, count);
        rest = tail;
    }
    if !changed {
        return text;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Writes `url` to `out` with the values of its query removed; true where there was one.
fn query(url: &str, out: &mut String, count: Count<'_>) -> bool {
    let Some(at) = url.find('?') else {
        out.push_str(url);
        return false;
    };
    let (path, query) = url.split_at(at + 1);
    let (query, fragment) = query.split_at(query.find('#').unwrap_or(query.len()));
    out.push_str(path);
    let mut changed = false;
    for (index, pair) in query.split('&').enumerate() {
        if index > 0 {
            out.push('&');
        }
        match pair.split_once('=') {
            // A collector may have left nothing of it already.
            Some((name, value)) if !matches!(value, "" | "*") => {
                out.push_str(name);
                out.push('=');
                out.push_str(&mark("query"));
                count("query");
                changed = true;
            }
            _ => out.push_str(pair),
        }
    }
    out.push_str(fragment);
    changed
}

/// Removes what is secret from a URL, or from the part of one that begins with its path.
pub(super) fn scrub_url<'a>(text: &'a str, count: Count<'_>) -> Cow<'a, str> {
    let mut out = String::new();
    if !text.contains("://") && query(text, &mut out, count) {
        return Cow::Owned(scrub(&out, count).into_owned());
    }
    scrub(text, count)
}

/// Values behind secret names: `password=…`, `--token=…`, `"apiKey":"…"`, `user:pass@tcp(host)`, `Bearer …`.
fn assignments<'a>(text: Cow<'a, str>, count: Count<'_>) -> Cow<'a, str> {
    let mut out = String::new();
    let bytes = text.as_bytes();
    let mut done = 0;
    let mut at = 0;
    while at < bytes.len() {
        if !matches!(bytes[at], b'=' | b':') {
            at += 1;
            continue;
        }
        let name = name_before(&text[done..at]);
        // `://` is no value.
        let is_scheme = text[at..].starts_with("://");
        if is_scheme || !is_secret_name(name) {
            at += 1;
            continue;
        }
        let (start, end) = value_after(&text, at + 1);
        let value = &text[start..end];
        if value.is_empty() || is_harmless_value(value) || value.starts_with('‹') {
            at += 1;
            continue;
        }
        count("value");
        out.push_str(&text[done..start]);
        out.push_str(&mark("value"));
        done = end;
        at = end;
    }
    if done > 0 {
        out.push_str(&text[done..]);
        return dsn(Cow::Owned(out), count);
    }
    dsn(text, count)
}

/// The name right before a sign: letters, digits, `-`, `_`, `.`, and quotes around it.
fn name_before(text: &str) -> &str {
    let text = text.trim_end_matches(['"', '\'', ' ', '\\']);
    let start = text
        .char_indices()
        .rev()
        .find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
        .map_or(0, |(index, c)| index + c.len_utf8());
    &text[start..]
}

/// Where the value that begins at `start` begins and ends: in quotes to the closing one, else to the
/// end of the word.
fn value_after(text: &str, start: usize) -> (usize, usize) {
    let spaces = text[start..].len() - text[start..].trim_start_matches(' ').len();
    let mut begin = start + spaces.min(1);
    // `Authorization: Bearer abc`: the value is what comes after the scheme.
    for scheme in ["Bearer ", "Basic ", "bearer ", "basic ", "Token ", "token "] {
        if text[begin..].starts_with(scheme) {
            begin += scheme.len();
        }
    }
    let escaped = text[begin..].starts_with('\\');
    let quote_at = begin + usize::from(escaped);
    if let Some(quote @ ('"' | '\'')) = text[quote_at..].chars().next() {
        let open = quote_at + 1;
        let mut from = open;
        while let Some(found) = text[from..].find(quote) {
            let close = from + found;
            // A backslash is doubled where it is the target's own; a quote behind an odd number is escaped.
            let slashes = text[open..close].bytes().rev().take_while(|byte| *byte == b'\\').count();
            if escaped || slashes % 2 == 0 {
                return (open, close - usize::from(escaped && slashes > 0));
            }
            from = close + 1;
        }
        return (open, text.len());
    }
    let end = text[begin..]
        .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '&' | '}' | ')'))
        .map_or(text.len(), |end| begin + end);
    (begin, end)
}

/// Values that are no secrets whatever their name: switches, numbers, references to where one is.
fn is_harmless_value(value: &str) -> bool {
    let value = value.trim_matches(['"', '\'']);
    matches!(
        value.to_ascii_lowercase().as_str(),
        "" | "*"
            | "true"
            | "false"
            | "yes"
            | "no"
            | "on"
            | "off"
            | "none"
            | "null"
            | "0"
            | "1"
            | "-"
            | "enabled"
            | "disabled"
            | "optional"
            | "required"
            | "prompt"
            | "auto"
            | "default"
            | "stdin"
    ) || value.starts_with('/')
        || value.starts_with("./")
        || value.starts_with("$")
        || value.starts_with("file:")
        || value.starts_with("env:")
        || value.starts_with("@/")
}

/// `user:password@host` without a scheme, as drivers of databases take it.
fn dsn<'a>(text: Cow<'a, str>, count: Count<'_>) -> Cow<'a, str> {
    let Some(sign) = text.rfind('@') else { return text };
    let before = &text[..sign];
    let start = before
        .rfind(|c: char| ends_word(c) || matches!(c, '=' | ',' | '/' | '›'))
        .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let info = &before[start..];
    let Some((user, password)) = info.split_once(':') else { return text };
    let is_name =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.$".contains(&b));
    let host = text[sign + 1..].chars().next();
    // An image `name:tag@sha256:…` has an @ too.
    if !is_name(user)
        || password.is_empty()
        || text[sign + 1..].starts_with("sha256:")
        || !host.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '(' | '[' | '/' | '~'))
    {
        return text;
    }
    count("userinfo");
    Cow::Owned(format!("{}{}{}", &text[..start], mark("userinfo"), &text[sign..]))
}
