//! What looks like a secret, or stands where one stands.
//!
//! Most strings have none: each look begins with the cheap question whether it can.

use std::borrow::Cow;

/// What stands in the place of something removed.
pub(super) fn mark(class: &str) -> String {
    format!("‹redacted:{class}›")
}

/// Called with the class of each thing that is removed.
pub(super) type Count<'a> = &'a mut dyn FnMut(&'static str);

/// Names whose value is a secret, alone or as the end of a name: `--db-password`, `REDIS_AUTH`, `apiKey`.
const SECRET_WORDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "secret",
    "secrets",
    "token",
    "tokens",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "authkey",
    "signingkey",
    "encryptionkey",
    "masterkey",
    "accountkey",
    "sharedkey",
    "sharedaccesskey",
    "credential",
    "credentials",
    "requirepass",
    "masterauth",
    "bearer",
    "cookie",
    "sessionkey",
    "storepass",
    "keypass",
    "authtoken",
    "accesstoken",
    "refreshtoken",
    "clientsecret",
    "connectionstring",
    "authorization",
    "sig",
    "signature",
    "sas",
    "jwt",
    "otp",
    "pin",
    "sessionid",
    "sid",
    "auth",
    "key64",
];

/// Names that end like one and hold none: where something is, or how it is made.
const HARMLESS_ENDS: &[&str] = &[
    "file",
    "files",
    "path",
    "dir",
    "directory",
    "name",
    "type",
    "url",
    "uri",
    "ttl",
    "size",
    "length",
    "timeout",
    "expiry",
    "issuer",
    "method",
    "mode",
    "policy",
    "provider",
    "id",
];

/// True when the value of something called `name` is a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    // Enough for every name that is one; a longer one is data.
    if name.is_empty() || name.len() > 64 {
        return false;
    }
    let words = words(name);
    let Some(last) = words.last() else { return false };
    if HARMLESS_ENDS.contains(&last.as_str()) {
        return false;
    }
    // Those of a language model are counted.
    if last == "tokens" && words.iter().any(|word| matches!(word.as_str(), "max" | "min" | "num" | "total" | "new")) {
        return false;
    }
    if SECRET_WORDS.contains(&last.as_str()) {
        // `--compass`, `--bypass` and `pinned` are words of their own; so is a lone `sid` or `pin`.
        return !matches!(last.as_str(), "auth" | "sid" | "pin" | "sig" | "sas" | "signature") || words.len() > 1;
    }
    // `api_key`, `secretAccessKey`, `private-key`.
    if words.len() > 1 && last == "key" {
        let before = words[words.len() - 2].as_str();
        return matches!(
            before,
            "api"
                | "access"
                | "secret"
                | "private"
                | "auth"
                | "signing"
                | "encryption"
                | "master"
                | "account"
                | "shared"
        );
    }
    let joined = words.concat();
    matches!(joined.as_str(), "dbpass" | "dbpassword" | "mysqlpwd" | "pgpassword" | "rootpassword" | "userpass")
        || joined.ends_with("password")
        || joined.ends_with("passwd")
        || joined.ends_with("apikey")
        || joined.ends_with("secretkey")
        || joined.ends_with("accesskey")
}

/// The words of a name in whatever case: `dbPassword`, `DB_PASSWORD`, `db-password`, `a.b.password`.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut was_lower = false;
    for c in name.chars() {
        let parts = !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && was_lower);
        if parts && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        was_lower = c.is_ascii_lowercase();
        if c.is_ascii_alphanumeric() {
            word.push(c.to_ascii_lowercase());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

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
fn may_hold_secret(text: &str) -> bool {
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

/// What looks like a key by itself.
fn tokens<'a>(text: Cow<'a, str>, count: Count<'_>) -> Cow<'a, str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '.' | '/' | '=' | '~');
    let mut out = String::new();
    let mut done = 0;
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        if is_part(c) {
            start.get_or_insert(at);
            continue;
        }
        let Some(from) = start.take() else { continue };
        // A path is looked at name by name, unless it is no path.
        let word = &text[from..at];
        for (offset, piece) in pieces(word) {
            if let Some(class) = key_class(piece) {
                count(class);
                out.push_str(&text[done..from + offset]);
                out.push_str(&mark(class));
                done = from + offset + piece.len();
            }
        }
    }
    if done == 0 {
        return text;
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// The parts of a word that could be keys, each with its place.
fn pieces(word: &str) -> Vec<(usize, &str)> {
    let mut pieces = Vec::new();
    // The padding of base64 stays with it.
    for (start, part) in split(word.trim_end_matches('='), &['=', '~']) {
        let is_one = key_class(part).is_some_and(|class| class == "jwt" || !part.contains('.')) && is_base64(part);
        match is_one {
            true => pieces.push((start, part)),
            false => pieces.extend(split(part, &['/']).map(|(at, name)| (start + at, name))),
        }
    }
    pieces
}

/// The parts of `text` between `signs`, each with its place.
fn split<'a>(text: &'a str, signs: &'a [char]) -> impl Iterator<Item = (usize, &'a str)> {
    text.split(signs)
        .map(move |part| (part.as_ptr() as usize - text.as_ptr() as usize, part))
        .filter(|(_, part)| !part.is_empty())
}

/// Whether a word with slashes can be base64, and not a path: no name of a path is as long and as mixed.
fn is_base64(word: &str) -> bool {
    if !word.contains('/') {
        return true;
    }
    let names = word.split('/').count();
    !word.starts_with('/') && word.len() / names >= 10 && word.bytes().any(|b| b.is_ascii_uppercase())
}

/// The class of key that `word` looks like.
fn key_class(word: &str) -> Option<&'static str> {
    const LEAST: usize = 16;
    if word.len() < LEAST {
        return None;
    }
    if word.starts_with("eyJ") && word.matches('.').count() >= 1 {
        return Some("jwt");
    }
    let prefixed = |prefix: &str, length: usize| {
        word.strip_prefix(prefix).is_some_and(|rest| {
            rest.len() >= length && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        })
    };
    const PREFIXES: &[(&str, usize)] = &[
        ("AKIA", 16),
        ("ASIA", 16),
        ("AGPA", 16),
        ("AROA", 16),
        ("AIza", 30),
        ("ghp_", 20),
        ("gho_", 20),
        ("ghu_", 20),
        ("ghs_", 20),
        ("ghr_", 20),
        ("github_pat_", 20),
        ("glpat-", 16),
        ("xoxb-", 12),
        ("xoxp-", 12),
        ("xoxa-", 12),
        ("xapp-", 12),
        ("sk_live_", 12),
        ("sk_test_", 12),
        ("rk_live_", 12),
        ("pk_live_", 12),
        ("sk-", 20),
        ("npm_", 20),
        ("pypi-", 16),
        ("hvs", 20),
        ("dop_v1_", 20),
        ("SG", 30),
        ("ya29", 20),
        ("GOCSPX-", 16),
        ("shpat_", 20),
        ("AGE-SECRET-KEY-", 16),
    ];
    if PREFIXES.iter().any(|(prefix, length)| prefixed(prefix, *length)) {
        return Some("cloud_key");
    }
    if word.starts_with("hvs.") || word.starts_with("ya29.") || (word.starts_with("SG.") && word.len() > 40) {
        return Some("cloud_key");
    }
    is_random(word).then_some("entropy")
}

/// True when `word` is as mixed as only random text is. Hex is not: digests, build IDs and UUIDs are hex,
/// and no secret more often than one.
fn is_random(word: &str) -> bool {
    let word = word.trim_end_matches('=');
    if word.len() < 20 || word.len() > 512 {
        return false;
    }
    let (mut lower, mut upper, mut digits, mut signs, mut changes) = (0, 0, 0, 0, 0);
    let mut seen = [0_u8; 128];
    let mut kind_before = 0;
    for byte in word.bytes() {
        let kind = match byte {
            b'a'..=b'z' => {
                lower += 1;
                1
            }
            b'A'..=b'Z' => {
                upper += 1;
                2
            }
            b'0'..=b'9' => {
                digits += 1;
                3
            }
            b'+' | b'-' | b'_' | b'/' => {
                signs += 1;
                4
            }
            // A dot parts names: what has one is looked at as none.
            _ => return false,
        };
        if kind != kind_before && kind_before != 0 {
            changes += 1;
        }
        kind_before = kind;
        seen[usize::from(byte)] = seen[usize::from(byte)].saturating_add(1);
    }
    // Letters of both cases and digits, changing as often as in random text: there in 2 of 3 places;
    // in `CamelCaseName2` in 1 of 4.
    let length = word.len();
    let distinct = seen.iter().filter(|times| **times > 0).count();
    // A key of 40 characters is one of AWS: it may have few digits.
    let mixed = lower >= 3 && upper >= 3 && (digits >= 2 || digits == 1 && length == 40) && signs * 6 <= length;
    mixed && changes * 5 >= length * 2 && distinct * 2 >= length.min(40)
}

/// What the arguments before the next one mean for it.
#[derive(Debug, Default)]
pub struct Argv {
    seen: usize,
    /// The name of the program, without its path.
    program: String,
    /// What follows it.
    first: String,
    /// The next argument is the value of a secret flag.
    expects: bool,
    /// The next is user and password.
    expects_user: bool,
}

/// Programs whose `-p` or `-a` takes a password, glued to it or not.
const PASSWORD_FLAGS: &[(&str, &str, bool)] = &[
    ("mysql", "-p", true),
    ("mysqldump", "-p", true),
    ("mysqladmin", "-p", true),
    ("mariadb", "-p", true),
    ("mariadb-dump", "-p", true),
    ("mariadb-admin", "-p", true),
    ("redis-cli", "-a", false),
    ("sshpass", "-p", true),
    ("mongosh", "-p", false),
    ("mongo", "-p", false),
    ("mongodump", "-p", false),
    ("ldapsearch", "-w", true),
    ("rabbitmqadmin", "-p", false),
    ("sqlcmd", "-P", false),
    ("docker", "-p", false),
    ("htpasswd", "-b", false),
    ("smbclient", "-U", false),
    ("mosquitto_sub", "-P", false),
    ("mosquitto_pub", "-P", false),
    ("cqlsh", "-p", false),
    ("clickhouse-client", "--pw", false),
    ("7z", "-p", true),
    ("zip", "-P", false),
    ("unzip", "-P", false),
];

impl Argv {
    /// Whether the last argument was the program itself.
    pub(super) fn is_program(&self) -> bool {
        self.seen == 1
    }

    /// The next argument, without what is secret in it.
    pub(super) fn next<'a>(&mut self, argument: &'a str, count: Count<'_>) -> Cow<'a, str> {
        self.seen += 1;
        if self.seen == 1 {
            let path = argument.split(' ').next().unwrap_or_default();
            self.program = path.rsplit('/').next().unwrap_or_default().to_owned();
            // A title that a program has given itself is one argument: it may hold a whole line.
            return line(argument, count);
        }
        if self.seen == 2 {
            self.first = argument.to_owned();
        }
        if std::mem::take(&mut self.expects) && !(argument.starts_with("--") && argument.len() > 2) {
            if is_harmless_value(argument) || argument.is_empty() {
                return Cow::Borrowed(argument);
            }
            count("flag");
            return Cow::Owned(mark("flag"));
        }
        if std::mem::take(&mut self.expects_user) && argument.contains(':') {
            count("userinfo");
            return Cow::Owned(mark("userinfo"));
        }
        for (program, flag, is_glued) in PASSWORD_FLAGS {
            // `docker run -p` is a port.
            if self.program != *program || *program == "docker" && self.first != "login" {
                continue;
            }
            if argument == *flag {
                // `mysql -p` alone asks for it.
                self.expects = !is_glued || matches!(*program, "sshpass" | "ldapsearch");
                return Cow::Borrowed(argument);
            }
            if *is_glued && argument.len() > 2 && argument.starts_with(flag) && !argument.starts_with("--") {
                count("flag");
                return Cow::Owned(format!("{flag}{}", mark("flag")));
            }
        }
        if matches!(self.program.as_str(), "curl" | "wget")
            && matches!(argument, "-u" | "--user" | "-U" | "--proxy-user")
        {
            self.expects_user = true;
            return Cow::Borrowed(argument);
        }
        if argument.starts_with('-') && !argument.contains(['=', ' ', ':']) {
            self.expects = is_secret_name(argument.trim_start_matches('-')) && argument.len() > 2;
            if self.expects {
                return Cow::Borrowed(argument);
            }
        }
        line(argument, count)
    }
}

/// An argument that may be a command line itself: `sh -c 'mysql --password hunter2'`.
fn line<'a>(argument: &'a str, count: Count<'_>) -> Cow<'a, str> {
    let scrubbed = scrub(argument, count);
    if !argument.contains(' ') {
        return scrubbed;
    }
    let text = scrubbed.as_ref();
    let mut state = Argv::default();
    let mut out = String::new();
    let mut changed = false;
    let mut is_start = true;
    for word in text.split_inclusive([' ', '|', ';', '&', '\n']) {
        let end = word.trim_end_matches([' ', '|', ';', '&', '\n']).len();
        let (bare, rest) = word.split_at(end);
        if bare.is_empty() {
            is_start |= rest.contains(['|', ';', '&', '\n']);
            out.push_str(rest);
            continue;
        }
        // `VAR=x program`: the program is what comes first without a sign.
        if is_start && !bare.contains('=') {
            state =
                Argv { seen: 1, program: bare.rsplit('/').next().unwrap_or_default().to_owned(), ..Argv::default() };
            is_start = false;
            out.push_str(bare);
        } else if bare.starts_with('‹') {
            state.expects = false;
            out.push_str(bare);
        } else {
            let quotes: &[char] = &['"', '\''];
            let inner = bare.trim_matches(quotes);
            let shown = state.next(inner, count);
            changed |= shown != inner;
            out.push_str(&bare.replacen(inner, &shown, usize::from(!inner.is_empty())));
        }
        is_start |= rest.contains(['|', ';', '&', '\n']);
        out.push_str(rest);
    }
    if changed { Cow::Owned(out) } else { scrubbed }
}

/// An argument at level strict: flag names, numbers and enumerated words stay, `pseudonym` gives the rest.
pub(super) fn strict_argument<'a>(
    argument: &'a str,
    is_program: bool,
    pseudonym: &dyn Fn(&str) -> String,
) -> Cow<'a, str> {
    let stays = |text: &str| {
        text.is_empty()
            || text.contains('‹')
            || text.bytes().all(|b| b.is_ascii_digit() || b".,:%".contains(&b))
            || is_harmless_value(text) && !text.contains('/')
            || matches!(text, "start" | "stop" | "run" | "serve" | "server" | "exec" | "daemon" | "debug" | "info" | "warn" | "error" | "json" | "tcp" | "udp" | "http" | "https")
            // 10s, 4k, 512MB.
            || text.starts_with(|c: char| c.is_ascii_digit()) && text.len() <= 8 && text.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    if is_program {
        // A title with more in it than the program.
        return match argument.split_once(' ') {
            Some((program, rest)) if !rest.is_empty() => Cow::Owned(format!("{program} {}", pseudonym(rest))),
            _ => Cow::Borrowed(argument),
        };
    }
    if stays(argument) {
        return Cow::Borrowed(argument);
    }
    if argument.starts_with('-') {
        return match argument.split_once('=') {
            Some((_, value)) if stays(value) => Cow::Borrowed(argument),
            Some((flag, value)) => Cow::Owned(format!("{flag}={}", pseudonym(value))),
            // A flag is a word; what is glued to one may be anything.
            None if is_flag(argument) => Cow::Borrowed(argument),
            None => Cow::Owned(pseudonym(argument)),
        };
    }
    Cow::Owned(pseudonym(argument))
}

fn is_flag(argument: &str) -> bool {
    let name = argument.trim_start_matches('-');
    argument.len() <= 40
        && (argument.starts_with("--") || name.len() <= 2 || name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
