//! From evidence to the sections of a page.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;

use super::{Cell, Finding, Part, Section, Subject, Table, flame};

/// The most rows of one table.
const MOST_ROWS: usize = 200;

/// The most rows of a table that is sorted by size.
const MOST_SORTED: usize = 30;

/// All sections that there is something to say in.
pub(super) fn sections(subject: &Subject) -> Vec<Section> {
    let all = [
        findings(subject),
        timeline(subject),
        tree(subject),
        flame(subject),
        memory(subject),
        sockets(subject),
        descriptors(subject),
        gaps(subject),
        manifest(subject),
    ];
    all.into_iter().flatten().filter(|section| !section.parts.is_empty()).collect()
}

/// The title of the page.
pub(super) fn title(subject: &Subject) -> String {
    let about = &subject.about;
    let argv = about["argv"].as_array().into_iter().flatten().skip(1).filter_map(Value::as_str);
    let mut what: String = argv.take(2).collect::<Vec<_>>().join(" ");
    if what.is_empty() {
        what = kind(about).to_owned();
    }
    let target = about["target"]["name"].as_str().map(|name| format!(" on {name}")).unwrap_or_default();
    let incident = about["session"]["incident"].as_str().map(|id| format!("{id}: ")).unwrap_or_default();
    format!("{incident}{what}{target}")
}

/// The command of an envelope.
fn kind(envelope: &Value) -> &str {
    let schema = envelope["schema"].as_str().unwrap_or_default();
    schema.strip_prefix("agent.").and_then(|name| name.split('/').next()).unwrap_or_default()
}

/// What the looks of `command` saw, in their order: those of its own, and the part of a snapshot.
fn of_kind<'a>(subject: &'a Subject, command: &str) -> Vec<(&'a str, &'a Value)> {
    let part = match command {
        "ps" => "processes",
        "fds" => "descriptors",
        "maps" => "mappings",
        other => other,
    };
    let looks = subject.looks.iter().filter_map(|look| {
        let data = match kind(&look.envelope) {
            name if name == command => &look.envelope["data"],
            "snapshot" => look.envelope["data"].get(part)?,
            _ => return None,
        };
        Some((look.name.as_str(), data))
    });
    looks.collect()
}

fn rows(data: &Value) -> &[Value] {
    data["rows"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(String::new, str::to_owned)
}

/// A table of these rows, of which at most `most` stand in it.
fn table(head: &[&str], mut rows: Vec<Vec<Cell>>, most: usize) -> Option<Part> {
    let left_out = rows.len().saturating_sub(most);
    rows.truncate(most);
    let says = |cell: Option<&Cell>| !matches!(cell, Some(Cell::Text(text)) if text.is_empty());
    let kept: Vec<usize> = (0..head.len()).filter(|at| rows.iter().any(|row| says(row.get(*at)))).collect();
    for row in &mut rows {
        *row = kept.iter().filter_map(|at| row.get(*at).cloned()).collect();
    }
    let head = kept.iter().map(|at| head[*at].to_owned()).collect();
    (!rows.is_empty()).then_some(Part::Table(Table { head, rows, left_out }))
}

fn findings(subject: &Subject) -> Option<Section> {
    let finding = |finding: &Value| {
        let places: Vec<String> = finding["evidence"]
            .as_array()
            .into_iter()
            .flatten()
            .take(5)
            .map(|place| word(&place["artifact"]) + &word(&place["at"]))
            .collect();
        let is_bad = !matches!(finding["level"].as_str(), Some("pass" | "info"));
        let more = [
            ("Next", word(&finding["remedy"])),
            ("Seen in", places.join(", ")),
            ("Rule", word(&finding["id"])),
            ("Read", word(&finding["playbook"])),
        ];
        Part::Finding(Finding {
            level: word(&finding["level"]),
            message: word(&finding["message"]),
            // Of what is well the sentence is enough.
            more: more.into_iter().filter(|(_, words)| is_bad && !words.is_empty()).collect(),
        })
    };
    let mut parts: Vec<Part> = subject.findings.iter().map(finding).collect();
    if parts.is_empty() {
        parts.push(Part::Line("No scenario was run: there is nothing that was concluded.".to_owned()));
    }
    Some(Section { title: "Findings", parts })
}

/// How many thousandths of `all` are `part`.
fn thousandths(part: u64, all: u64) -> u64 {
    u64::try_from(u128::from(part) * 1000 / u128::from(all.max(1))).unwrap_or(1000)
}

/// A time of an envelope, in microseconds.
fn time_us(value: &Value) -> Option<u64> {
    let time = humantime::parse_rfc3339(value.as_str()?).ok()?;
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_micros()).ok()
}

/// A time, in milliseconds or, of ten seconds and more, in seconds.
fn time(microseconds: u64) -> Cell {
    Cell::Number(match microseconds {
        0..10_000_000 => format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100),
        _ => format!("{}.{} s", microseconds / 1_000_000, microseconds % 1_000_000 / 100_000),
    })
}

fn timeline(subject: &Subject) -> Option<Section> {
    let spans: Vec<(String, String, u64, u64, u64)> = subject
        .looks
        .iter()
        .filter_map(|look| {
            let observed = &look.envelope["observed"];
            let stopped = look.envelope["cost"]["target_stopped_us"].as_u64().unwrap_or(0);
            let what = kind(&look.envelope).to_owned();
            Some((look.name.clone(), what, time_us(&observed["start"])?, time_us(&observed["end"])?, stopped))
        })
        .collect();
    let window = |key: &str| time_us(&subject.about["window"][key]);
    let first = spans.iter().map(|span| span.2).chain(window("start")).min()?;
    let last = spans.iter().map(|span| span.3).chain(window("end")).max()?;
    let all = last.saturating_sub(first).max(1);
    let at = |moment: u64| thousandths(moment.saturating_sub(first), all);
    let row = |(name, what, start, end, stopped): (String, String, u64, u64, u64)| {
        vec![
            Cell::text(name),
            Cell::text(what),
            time(start.saturating_sub(first)),
            time(end.saturating_sub(start)),
            if stopped > 0 { time(stopped) } else { Cell::text("") },
            Cell::Bar(at(start), at(end).max(at(start) + 2).min(1000)),
        ]
    };
    let mut parts = Vec::new();
    parts.extend(table(
        &["look", "command", "begins after", "takes", "target held", ""],
        spans.into_iter().map(row).collect(),
        MOST_ROWS,
    ));
    let records = subject.records.iter().map(|record| {
        let data = &record["data"];
        let words = ["command", "path", "detail", "exit"].iter().filter_map(|key| match &data[*key] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(format!("{key} {number}")),
            _ => None,
        });
        let words = words.collect::<Vec<_>>().join(" ");
        vec![
            Cell::count(record["seq"].as_u64().unwrap_or(0)),
            Cell::text(word(&record["ts"])),
            Cell::text(word(&record["type"])),
            Cell::text(words),
        ]
    });
    parts.extend(table(&["record", "time", "audit", ""], records.collect(), MOST_ROWS));
    Some(Section { title: "Timeline", parts })
}

fn tree(subject: &Subject) -> Option<Section> {
    let (_, data) = of_kind(subject, "ps").pop()?;
    let processes = rows(data).iter().filter(|row| row["tid"].is_null() && row["self"] != true);
    let target = subject.about["target"]["pid"].as_u64();
    let row = |row: &Value| {
        let argv: Vec<&str> = row["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let command: String = argv.join(" ").chars().take(160).collect();
        let mark = if row["pid"].as_u64() == target && target.is_some() { " ◀ target" } else { "" };
        vec![
            Cell::Deep(row["depth"].as_u64().unwrap_or(0), format!("{} {}{mark}", row["pid"], word(&row["name"]))),
            Cell::text(word(&row["state"])),
            Cell::count(row["threads"].as_u64().unwrap_or(0)),
            Cell::bytes(row["rss_bytes"].as_u64().unwrap_or(0)),
            time(row["cpu_user_us"].as_u64().unwrap_or(0).saturating_add(row["cpu_system_us"].as_u64().unwrap_or(0))),
            Cell::text(command),
        ]
    };
    // A kernel thread is nobody's, and there are hundreds.
    let all = processes.filter(|row| row["rss_bytes"] != 0 || row["ppid"] == 0).map(row).collect();
    let parts = table(&["process", "state", "threads", "RSS", "CPU time", "command"], all, MOST_ROWS);
    Some(Section { title: "Processes", parts: parts.into_iter().collect() })
}

fn flame(subject: &Subject) -> Option<Section> {
    let (name, data, unit) = match of_kind(subject, "profile").pop() {
        Some((name, data)) => (name, data, "by time"),
        None => {
            let (name, data) = of_kind(subject, "stacks").pop()?;
            (name, data, "by threads, at one moment")
        }
    };
    let boxes = flame::boxes(rows(data));
    if boxes.is_empty() {
        return None;
    }
    let parts = vec![Part::Line(format!("Of {name}, {unit}: the outermost frame on top.")), Part::Flame(boxes)];
    Some(Section { title: "Flame graph", parts })
}

fn memory(subject: &Subject) -> Option<Section> {
    let looks = of_kind(subject, "maps");
    let (_, last) = looks.last()?;
    let number = |kind: &Value, key: &str| kind[key].as_u64().unwrap_or(0);
    let kinds = |data: &Value| data["summary"]["kinds"].as_array().cloned().unwrap_or_default();
    let first = kinds(looks.first()?.1);
    let mut kinds = kinds(last);
    kinds.sort_by_key(|kind| std::cmp::Reverse(number(kind, "rss_bytes")));
    let most = kinds.first().map_or(1, |kind| number(kind, "rss_bytes")).max(1);
    let is_series = looks.len() > 1;
    let row = |kind: &Value| {
        let rss = number(kind, "rss_bytes");
        let before =
            first.iter().find(|other| other["kind"] == kind["kind"]).map_or(0, |other| number(other, "rss_bytes"));
        let grown = match rss.checked_sub(before) {
            _ if !is_series => Cell::text(""),
            Some(0) => Cell::text("0"),
            Some(more) => match Cell::bytes(more) {
                Cell::Number(text) => Cell::Number(format!("+{text}")),
                cell => cell,
            },
            None => match Cell::bytes(before - rss) {
                Cell::Number(text) => Cell::Number(format!("-{text}")),
                cell => cell,
            },
        };
        vec![
            Cell::text(word(&kind["kind"])),
            Cell::count(number(kind, "mappings")),
            Cell::bytes(number(kind, "size_bytes")),
            Cell::bytes(rss),
            grown,
            Cell::Bar(0, thousandths(rss, most)),
        ]
    };
    let parts = table(
        &["kind", "mappings", "size", "RSS", if is_series { "since the first look" } else { "" }, ""],
        kinds.iter().map(row).collect(),
        MOST_ROWS,
    );
    Some(Section { title: "Memory by kind", parts: parts.into_iter().collect() })
}

fn sockets(subject: &Subject) -> Option<Section> {
    let (_, data) = of_kind(subject, "sockets").pop()?;
    let mut states: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut peers: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    let listens = |row: &&Value| row["state"] == "listen";
    let listening: Vec<u64> = rows(data).iter().filter(listens).filter_map(|row| row["local_port"].as_u64()).collect();
    for row in rows(data) {
        let (protocol, state) = (word(&row["protocol"]), word(&row["state"]));
        *states.entry((protocol.clone(), state.clone())).or_default() += 1;
        if let Some(address) = row["remote_address"].as_str() {
            // The ports of those who connect to us are lent to them.
            let port = row["local_port"].as_u64().filter(|port| listening.contains(port));
            let port = match (port, row["remote_port"].as_u64()) {
                (Some(port), _) => format!(" to our port {port}"),
                (None, Some(port)) => format!(" port {port}"),
                (None, None) => String::new(),
            };
            *peers.entry((protocol, state, format!("{address}{port}"))).or_default() += 1;
        }
    }
    let mut parts = Vec::new();
    let most = states.values().copied().max().unwrap_or(1);
    let row = |((protocol, state), count): ((String, String), u64)| {
        vec![Cell::text(protocol), Cell::text(state), Cell::count(count), Cell::Bar(0, thousandths(count, most))]
    };
    parts.extend(table(&["protocol", "state", "sockets", ""], states.into_iter().map(row).collect(), MOST_ROWS));
    let mut peers: Vec<_> = peers.into_iter().collect();
    peers.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let row = |((protocol, state, peer), count): ((String, String, String), u64)| {
        vec![Cell::text(peer), Cell::text(protocol), Cell::text(state), Cell::count(count)]
    };
    parts.extend(table(&["peer", "protocol", "state", "sockets"], peers.into_iter().map(row).collect(), MOST_SORTED));
    Some(Section { title: "Sockets by state and peer", parts })
}

fn descriptors(subject: &Subject) -> Option<Section> {
    let looks = of_kind(subject, "fds");
    let types = |data: &Value| data["summary"]["types"].as_object().cloned().unwrap_or_default();
    let mut names: Vec<String> =
        looks.iter().flat_map(|(_, data)| types(data).into_iter().map(|(name, _)| name)).collect();
    names.sort_unstable();
    names.dedup();
    // The first and the last, and what fits between.
    let shown: Vec<usize> = match looks.len() {
        0 => return None,
        many @ 9.. => (0..8).map(|at| at * (many - 1) / 7).collect(),
        few => (0..few).collect(),
    };
    let count = |look: usize, name: &str| {
        looks.get(look).and_then(|(_, data)| data["summary"]["types"][name].as_u64()).unwrap_or(0)
    };
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let most = names.iter().map(|name| count(looks.len() - 1, name)).max().unwrap_or(1).max(1);
    for name in &names {
        let mut row = vec![Cell::text(name.clone())];
        row.extend(shown.iter().map(|look| Cell::count(count(*look, name))));
        row.push(Cell::Bar(0, thousandths(count(looks.len() - 1, name), most)));
        rows.push(row);
    }
    let head: Vec<&str> = ["type"]
        .into_iter()
        .chain(shown.iter().filter_map(|look| looks.get(*look)).map(|look| look.0))
        .chain([""])
        .collect();
    let parts = table(&head, rows, MOST_ROWS);
    Some(Section { title: "Descriptors", parts: parts.into_iter().collect() })
}

fn gaps(subject: &Subject) -> Option<Section> {
    let mut all: Vec<Vec<Cell>> = Vec::new();
    let own = subject.gaps.iter().map(|gap| ("run", gap));
    let of_looks = subject
        .looks
        .iter()
        .flat_map(|look| look.envelope["gaps"].as_array().into_iter().flatten().map(|gap| (look.name.as_str(), gap)));
    for (look, gap) in own.chain(of_looks) {
        let why = [word(&gap["path"]), word(&gap["errno"]), word(&gap["detail"])];
        let why: Vec<String> = why.into_iter().filter(|words| !words.is_empty()).collect();
        all.push(vec![
            Cell::text(look.to_owned()),
            Cell::text(word(&gap["at"])),
            Cell::text(word(&gap["reason"])),
            Cell::text(why.join(": ")),
            Cell::text(word(&gap["remedy"])),
        ]);
    }
    let mut parts: Vec<Part> = subject.state.iter().cloned().map(Part::Line).collect();
    match table(&["look", "at", "reason", "why", "what opens it"], all, MOST_ROWS) {
        Some(table) => parts.push(table),
        None => parts.push(Part::Line("Everything that was looked for was seen.".to_owned())),
    }
    Some(Section { title: "Not seen", parts })
}

fn manifest(subject: &Subject) -> Option<Section> {
    let about = &subject.about;
    let argv: Vec<&str> = about["argv"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let number = |value: &Value| value.as_u64().map_or_else(String::new, |number| number.to_string());
    let target = &about["target"];
    let facts = [
        ("command", argv.join(" ")),
        ("session", word(&about["session"]["id"])),
        ("incident", word(&about["session"]["incident"])),
        ("who looked", word(&about["session"]["actor"])),
        ("from", word(&about["window"]["start"])),
        ("to", word(&about["window"]["end"])),
        ("host", word(&about["resource"]["host.name"])),
        ("pod", word(&about["resource"]["k8s.pod.uid"])),
        ("container", word(&about["resource"]["k8s.container.name"])),
        (
            "target",
            format!("{} {} {}", number(&target["pid"]), word(&target["name"]), word(&target["executable"]))
                .trim()
                .to_owned(),
        ),
        (
            "agent",
            format!("{} {}", word(&about["agent"]["version"]), word(&about["agent"]["build_id"])).trim().to_owned(),
        ),
        ("exit status", number(&about["exit"])),
        ("audit", word(&about["audit"]["head"])),
    ];
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty());
    let mut parts = Vec::new();
    parts.extend(table(
        &["", ""],
        facts.map(|(name, value)| vec![Cell::text(name), Cell::text(value)]).collect(),
        MOST_ROWS,
    ));
    let files = subject
        .files
        .iter()
        .map(|file| vec![Cell::text(file.path.clone()), Cell::bytes(file.bytes), Cell::text(file.sha256.clone())]);
    parts.extend(table(&["file", "size", "SHA-256"], files.collect(), MOST_ROWS));
    Some(Section { title: "Manifest", parts })
}
