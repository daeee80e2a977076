//! What ss(8) prints, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// A line of `ss -H -O -n -a -p -e -m -i -o` for one of the IP protocols.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(crate) state: &'static str,
    pub(crate) receive_queue: u64,
    pub(crate) send_queue: u64,
    pub(crate) local: String,
    pub(crate) remote: String,
    pub(crate) owners: BTreeSet<(u64, u64)>,
    /// Of a unix socket it is that of the file.
    pub(crate) inode: String,
    pub(crate) cookie: Option<u64>,
    pub(crate) timer: Option<(String, u64)>,
    /// By the letters of `skmem`.
    pub(crate) memory: BTreeMap<String, u64>,
    /// `key:value`.
    pub(crate) values: BTreeMap<String, String>,
    /// `key value`.
    pub(crate) words: Vec<String>,
}

/// The agent's name for a state of ss.
pub(crate) fn state(name: &str) -> &'static str {
    match name {
        "ESTAB" => "established",
        "SYN-SENT" => "syn_sent",
        "SYN-RECV" => "syn_recv",
        "FIN-WAIT-1" => "fin_wait1",
        "FIN-WAIT-2" => "fin_wait2",
        "TIME-WAIT" => "time_wait",
        "UNCONN" => "unconnected",
        "CLOSE-WAIT" => "close_wait",
        "LAST-ACK" => "last_ack",
        "LISTEN" => "listen",
        "CLOSING" => "closing",
        other => panic!("a state {other}"),
    }
}

/// `"name",pid=1,fd=2` in `users:((…),(…))`.
fn owners(text: &str) -> BTreeSet<(u64, u64)> {
    let number = |part: &str, key: &str| -> u64 {
        let digits = part.split_once(key).expect("a key").1;
        digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse().ok()).expect("a number")
    };
    text.split("),(").map(|part| (number(part, "pid="), number(part, "fd="))).collect()
}

fn memory(text: &str) -> BTreeMap<String, u64> {
    let parts = text.trim_start_matches("skmem:(").trim_end_matches(')').split(',');
    parts
        .map(|part| {
            let digits = part.find(|c: char| c.is_ascii_digit()).expect("a number");
            (part[..digits].to_owned(), part[digits..].parse().expect("a number"))
        })
        .collect()
}

impl Line {
    /// Reads a line of one of the IP protocols.
    pub(crate) fn of(line: &str) -> Self {
        let mut parts = line.split_whitespace();
        let mut next = || parts.next().expect("a column");
        let mut read = Self {
            state: state(next()),
            receive_queue: next().parse().expect("a queue"),
            send_queue: next().parse().expect("a queue"),
            local: next().to_owned(),
            remote: next().to_owned(),
            ..Self::default()
        };
        for part in parts {
            match part.split_once(':') {
                Some(("users", list)) => read.owners = owners(list),
                Some(("skmem", _)) => read.memory = memory(part),
                Some(("timer", timer)) => {
                    let mut fields = timer.trim_matches(['(', ')']).split(',');
                    let kind = fields.next().expect("a kind").to_owned();
                    read.timer = Some((kind, fields.next_back().and_then(|n| n.parse().ok()).expect("retries")));
                }
                Some(("ino", inode)) => read.inode = inode.to_owned(),
                Some(("sk", cookie)) => read.cookie = u64::from_str_radix(cookie, 16).ok(),
                Some((key, value)) => {
                    read.values.insert(key.to_owned(), value.to_owned());
                }
                None => read.words.push(part.to_owned()),
            }
        }
        read
    }

    /// The number behind `key:`, or 0, which ss leaves out.
    pub(crate) fn number(&self, key: &str) -> u64 {
        self.values.get(key).map_or(0, |value| value.parse().unwrap_or_else(|error| panic!("{key}:{value}: {error}")))
    }

    /// A time in milliseconds with a fraction behind `key:`, in microseconds.
    pub(crate) fn micros(&self, key: &str) -> u64 {
        self.values.get(key).map_or(0, |value| micros(value))
    }

    /// The rate behind the word `key`, in bytes a second.
    pub(crate) fn rate(&self, key: &str) -> u64 {
        let at = self.words.iter().position(|word| word == key);
        let rate = at.and_then(|at| self.words.get(at + 1)).map_or("0bps", String::as_str);
        rate.strip_suffix("bps").and_then(|bits| bits.parse::<u64>().ok()).expect("a rate") / 8
    }
}

/// Milliseconds with up to three decimals, as microseconds.
pub(crate) fn micros(text: &str) -> u64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let padded = format!("{fraction:0<3}");
    whole.parse::<u64>().expect("a time") * 1000 + padded[..3].parse::<u64>().expect("a time")
}

/// What ss prints for `arguments`, run by `prefix` (nsenter, or nothing), as lines.
pub(crate) fn lines(prefix: &[String], arguments: &[&str]) -> Vec<String> {
    let all: Vec<&str> = prefix.iter().map(String::as_str).chain(["ss", "-H", "-O", "-n", "-a"]).collect();
    let mut command = Command::new(all[0]);
    let output = command.args(&all[1..]).args(arguments).output().expect("ss");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The address and port of our row as ss writes them.
pub(crate) fn endpoint(row: &Value, side: &str, interface: Option<&str>) -> String {
    let Some(address) = row[format!("{side}_address")].as_str() else {
        // Without a peer.
        let is_four = row["family"] == "ipv4";
        return if is_four {
            "0.0.0.0:*"
        } else if row["ipv6_only"] == false {
            "*:*"
        } else {
            "[::]:*"
        }
        .to_owned();
    };
    let port = row[format!("{side}_port")].as_u64().expect("a port");
    let interface = interface.map(|name| format!("%{name}")).unwrap_or_default();
    match address {
        "::" if row["ipv6_only"] == false => format!("*{interface}:{port}"),
        six if six.contains(':') => format!("[{six}]{interface}:{port}"),
        four => format!("{four}{interface}:{port}"),
    }
}
