//! Arguments: what one means for the next, and command lines within one.

use std::borrow::Cow;

use super::names::is_secret_name;
use super::{Count, is_harmless_value, mark, scrub};

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
    pub(in crate::redact) fn is_program(&self) -> bool {
        self.seen == 1
    }

    /// The next argument, without what is secret in it.
    pub(in crate::redact) fn next<'a>(&mut self, argument: &'a str, count: Count<'_>) -> Cow<'a, str> {
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
pub(in crate::redact) fn strict_argument<'a>(
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
