//! A bundle that is made while a command looks: to standard output, or to the session's directory.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_model::{Gap, Reason, Text};
use agent_output::{Ended, Printed};
use agent_scenario::bundle::{self, Writer, artifact_path};
use agent_session::{Entry, Ledger, Limits, Session};
use agent_system::keep::{self, OwnFile, SESSION_DIRECTORY};
use agent_system::{Command, Keep, Kept, clock, own};
use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::hold::Link;
use crate::scenarios::RUN;
use crate::verdict::{AuditHead, Status};
use crate::{audit, cli, resource, version};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// What differs between two looks at an unchanged target, in every envelope.
const VOLATILE: [&str; 4] = ["/session", "/sequence", "/observed", "/cost"];

/// A bundle that is being made.
#[derive(Debug)]
pub(crate) struct Bundle {
    state: Mutex<State>,
    /// Its name in the session's directory or the hold's memory; `None` where it goes to standard output.
    name: Option<String>,
}

#[derive(Debug)]
struct State {
    /// `None` once it was closed.
    writer: Option<Writer>,
    artifacts: usize,
    /// What the manifest says besides its files.
    about: Map<String, Value>,
    /// How much is shown, and what was removed of each class.
    level: &'static str,
    removed: BTreeMap<String, u64>,
    accesses: Vec<u8>,
    /// Whether an envelope was left out because no more may be written.
    is_full: bool,
    so_far: SoFar,
}

/// What is written of the audit and of what was touched while the command goes on: it is all that there is of both in a
/// bundle that is cut off.
#[derive(Debug, Default)]
struct SoFar {
    audit: audit::Kept,
    ledger: Option<Arc<Ledger>>,
    /// How many pieces there are.
    pieces: usize,
    /// What they have of the audit and of [`State::accesses`], in bytes, and of the entries that are still in the ledger.
    audit_at: usize,
    accesses_at: usize,
    entries_at: usize,
}

/// Standard output: what is written is out.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match agent_output::print_with(|out| out.write_all(bytes))? {
            Ended::Whole => Ok(bytes.len()),
            Ended::Closed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What comes of asking for a bundle.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// The bundle, if there is one.
    pub(crate) bundle: Option<Arc<Bundle>>,
    /// Why there is none although it was asked for: there is no room for it.
    pub(crate) gap: Option<Gap>,
}

/// Where a bundle goes.
struct Place {
    out: Box<dyn Write + Send>,
    /// Its name; `None` for standard output.
    name: Option<String>,
    /// How large it may become, in bytes.
    most: u64,
}

/// Begins the bundle that the command line asks for, if it does: before the agent is confined. `argv` is as it may be
/// shown; with a `link` it can be kept in the memory of the hold.
///
/// # Errors
///
/// When it cannot be written where it should be.
pub(crate) fn open(
    global: &cli::Global,
    chosen: Option<cli::Chosen>,
    command: &Command,
    (session, link): (&Session, Option<&Link>),
    (argv, wall_us): (&[String], u64),
) -> anyhow::Result<Opened> {
    let start = clock::rfc3339(wall_us);
    let is_bundle = matches!(chosen, Some(cli::Chosen::Bundle));
    // What nobody could read is kept where that is possible.
    let on_terminal = is_bundle && io::stdout().is_terminal();
    let kept_in = global.keep.as_deref().or(link.filter(|_| on_terminal).map(|_| SESSION_DIRECTORY));
    let most = session.limits().out_bytes;
    let place = match kept_in {
        Some(directory) => match kept_place(directory, &name(session, &start), link)? {
            Ok(place) => Place { most: place.most.min(most), ..place },
            Err(gap) => return Ok(Opened { bundle: None, gap }),
        },
        None if on_terminal => anyhow::bail!("a bundle is nothing for a terminal: write it to a file, or --keep it"),
        None if is_bundle => Place { out: Box::new(Stdout), name: None, most },
        None => return Ok(Opened::default()),
    };
    begin(place, command, session, (argv, start)).map(|bundle| Opened { bundle: Some(Arc::new(bundle)), gap: None })
}

/// The file `name` in `directory`, or where none can be made in that of the session, in the memory of the hold. The gap is
/// why there is none, where the hold has no room.
fn kept_place(directory: &str, name: &str, link: Option<&Link>) -> anyhow::Result<Result<Place, Option<Gap>>> {
    let error = match create(directory, name) {
        Ok((file, name)) => return Ok(Ok(Place { out: Box::new(file), name: Some(name), most: u64::MAX })),
        Err(error) => error,
    };
    let Some(link) = link.filter(|_| directory == SESSION_DIRECTORY) else {
        let words = format!("{directory}: no bundle can be kept there (-o bundle writes one to standard output)");
        return Err(error).context(words);
    };
    // It looks at nothing, and its answer says why.
    if link.denied().is_some() {
        return Ok(Err(None));
    }
    Ok(match link.keep(name) {
        Ok((name, most, file)) => Ok(Place { out: Box::new(file), name: Some(name), most }),
        Err(words) => {
            let gap = Gap::new("", Reason::LimitReached).detail(format!("no bundle is kept: {words}"));
            let remedy = "-o bundle writes one to standard output, or hold a session with a higher --limit kept=";
            Err(Some(gap.path(format!("{directory}/{name}").as_str()).remedy(remedy)))
        }
    })
}

/// Bundles of one second that are told apart.
const ALIKE: usize = 100;

/// Makes the file `name` in `directory`, or one of another name if that is there; with its name.
fn create(directory: &str, name: &str) -> io::Result<(OwnFile, String)> {
    let mut there: Vec<String> = Vec::new();
    loop {
        let name = keep::another_name(name, |name| there.iter().all(|other| other != name));
        match OwnFile::create(directory, &name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && there.len() < ALIKE => there.push(name),
            made => return made.map(|file| (file, name)),
        }
    }
}

fn begin(
    Place { out, name, most }: Place,
    command: &Command,
    session: &Session,
    (argv, start): (&[String], String),
) -> anyhow::Result<Bundle> {
    let Value::Object(about) = json!({
        "session": session.info(),
        "agent": version::info(),
        "command": command.name,
        "argv": argv,
        "limits": limits(session.limits()),
        "window": {"start": start},
    }) else {
        anyhow::bail!("a bundle has no description")
    };
    let mut writer = Writer::new(out, most);
    let mut opening = about.clone();
    let level = session.redactor().level().as_str();
    opening.insert("redaction".to_owned(), level.into());
    // However little may be written.
    writer.add_last(bundle::OPEN, JSON, &serde_json::to_vec(&opening)?).context("the bundle")?;
    let state = State {
        writer: Some(writer),
        artifacts: 0,
        about,
        level,
        removed: BTreeMap::new(),
        accesses: Vec::new(),
        is_full: false,
        so_far: SoFar::default(),
    };
    Ok(Bundle { state: Mutex::new(state), name })
}

/// `INCIDENT__NAMESPACE__WORKLOAD__YYYYMMDDThhmmssZ__SESSION.dbg.tar.zst`: sorts by incident, place and time. What is not known
/// is left out; where no workload is, it is what the name of the host, which is the pod, says of one.
fn name(session: &Session, start: &str) -> String {
    let time: String =
        start.split('.').next().unwrap_or_default().chars().filter(|c| !matches!(c, '-' | ':' | 'Z')).collect();
    let info = session.info();
    let told = resource::told();
    let namespace = told.get(resource::NAMESPACE).map(String::as_str);
    let host = own::host_name();
    let workload = resource::WORKLOADS.iter().find_map(|key| told.get(*key)).map(String::as_str);
    let workload = workload.unwrap_or_else(|| resource::workload_of(&host));
    let incident = info.incident.as_ref().map(Text::as_str);
    let parts = [incident, namespace, Some(workload), Some(&format!("{time}Z")), Some(info.id.as_str())]
        .into_iter()
        .flatten()
        .map(|part| {
            let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '-' };
            part.chars().take(60).map(plain).collect::<String>().trim_start_matches('.').to_owned()
        })
        .collect::<Vec<_>>();
    format!("{}.dbg.tar.zst", parts.join("__"))
}

fn limits(limits: &Limits) -> Value {
    json!({
        "wall_us": limits.wall_us,
        "cpu_percent": limits.cpu_percent,
        "rss_bytes": limits.rss_bytes,
        "out_bytes": limits.out_bytes,
        "stop_us": limits.stop_us,
        "stops_us": limits.stops_us,
    })
}

impl State {
    /// Adds what was made to fit what may be written already.
    fn add_own(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.writer.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.add_last(path, JSON, bytes)
    }

    fn add(&mut self, path: &str, bytes: &[u8]) -> io::Result<String> {
        let writer = self.writer.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let added = writer.add(path, JSON, bytes).map(|listed| listed.sha256.clone());
        self.is_full |= added.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull);
        added
    }

    fn artifact(&mut self, name: &str, envelope: &[u8]) -> io::Result<Kept> {
        let path = artifact_path(self.artifacts, name);
        let sha256 = self.add(&path, envelope)?;
        self.artifacts += 1;
        Ok(Kept { path, sha256 })
    }

    fn removed(&mut self, redaction: &Value) {
        for (class, count) in redaction["removed"].as_object().into_iter().flatten() {
            *self.removed.entry(class.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }
}

impl State {
    /// Writes what the audit and the access log have since the last time. Where there is no room the rest goes on.
    fn write_so_far(&mut self) {
        let lines = self.so_far.audit.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let audit = lines.get(self.so_far.audit_at..).unwrap_or_default();
        let mut accesses = self.accesses.get(self.so_far.accesses_at..).unwrap_or_default().to_vec();
        let entries = self.so_far.ledger.as_ref().map(|ledger| ledger.entries_from(self.so_far.entries_at));
        let entries = entries.unwrap_or_default();
        accesses.extend(access_lines(&entries));
        let Some(writer) = &mut self.writer else { return };
        for (name, bytes) in [(bundle::AUDIT, audit), (bundle::ACCESS, &accesses[..])] {
            let path = bundle::piece_path(self.so_far.pieces, name);
            if !bytes.is_empty() && writer.add(&path, NDJSON, bytes).is_err() {
                return;
            }
        }
        self.so_far.pieces += 1;
        self.so_far.audit_at = lines.len();
        self.so_far.accesses_at = self.accesses.len();
        self.so_far.entries_at += entries.len();
    }
}

/// The lines of the access log, as they are digested for the audit.
fn access_lines(entries: &[Entry]) -> Vec<u8> {
    let mut lines = Vec::new();
    for entry in entries {
        let line = json!({"access": entry.access.as_str(), "path": Text::from(entry.path.as_str())});
        lines.extend(line.to_string().bytes());
        lines.push(b'\n');
    }
    lines
}

impl Keep for Bundle {
    fn artifact(&self, name: &str, envelope: &Value) -> io::Result<Kept> {
        let mut state = self.state();
        let kept = state.artifact(name, &serde_json::to_vec(envelope)?)?;
        state.removed(&envelope["redaction"]);
        state.write_so_far();
        Ok(kept)
    }

    fn file(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.add(path, bytes)?;
        if path == bundle::SCENARIO {
            let announced: Value = serde_json::from_slice(bytes)?;
            let scenario = json!({"name": announced["scenario"]["name"], "sha256": announced["scenario"]["sha256"]});
            state.about.insert("scenario".to_owned(), scenario);
        }
        state.write_so_far();
        Ok(())
    }
}

impl Bundle {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an envelope of the command itself: the findings of `run`, and of any other an artifact.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn saw(&self, command: &Command, envelope: &Printed<'_>) -> io::Result<()> {
        let mut state = self.state();
        let bytes = serde_json::to_vec(envelope)?;
        if command.name == RUN {
            state.add_own(bundle::FINDINGS, &bytes)?;
        } else {
            let watched = envelope.sequence > 1 || state.artifacts > 0;
            let name =
                if watched { format!("{}[{}]", command.name, envelope.sequence - 1) } else { command.name.to_owned() };
            let path = artifact_path(state.artifacts, &name);
            state.add_own(&path, &bytes)?;
            state.artifacts += 1;
            if watched {
                state.write_so_far();
            }
        }
        state.removed(&serde_json::to_value(&envelope.redaction)?);
        state.about["window"]["end"] = envelope.observed.end.clone().into();
        state.about.insert("resource".to_owned(), serde_json::to_value(&envelope.resource)?);
        if let Some(target) = &envelope.target {
            state.about.insert("target".to_owned(), serde_json::to_value(target)?);
        }
        Ok(())
    }

    /// Takes what was touched.
    pub(crate) fn touched(&self, entries: &[Entry]) {
        let mut state = self.state();
        let known = state.so_far.entries_at.min(entries.len());
        state.accesses.extend(access_lines(&entries[..known]));
        if known > 0 {
            (state.so_far.accesses_at, state.so_far.entries_at) = (state.accesses.len(), 0);
        }
        state.accesses.extend(access_lines(&entries[known..]));
    }

    /// Where it is kept: its name, or `-` for standard output.
    pub(crate) fn path(&self) -> &str {
        self.name.as_deref().unwrap_or("-")
    }

    /// Writes what there is of the audit and the access log by now.
    pub(crate) fn write_so_far(&self) {
        self.state().write_so_far();
    }

    /// Says where the audit is, and what was touched, while the command goes on.
    pub(crate) fn follow(&self, audit: audit::Kept, ledger: Arc<Ledger>) {
        let mut state = self.state();
        (state.so_far.audit, state.so_far.ledger) = (audit, Some(ledger));
    }

    /// What the audit says of each file so far.
    pub(crate) fn added(&self) -> Vec<Value> {
        let state = self.state();
        // Pieces of the audit are no evidence of their own.
        let files = state.writer.iter().flat_map(Writer::files).filter(|file| !bundle::is_piece(&file.path));
        files.map(|file| json!({"path": file.path, "bytes": file.bytes, "sha256": file.sha256})).collect()
    }

    /// What it has in a file of its own so far, in bytes: standard output is counted where it is written.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let writer = |state: &State| state.writer.as_ref().map_or(0, Writer::written_bytes);
        if self.name.is_some() { writer(&self.state()) } else { 0 }
    }

    /// Closes it: what its audit comes to, if that is known, and how the command ended. Returns what an audit says of it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn close(&self, head: Option<&AuditHead>, status: Status) -> io::Result<Value> {
        let mut state = self.state();
        let Some(mut writer) = state.writer.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let before = writer.written_bytes();
        let redaction = json!({"level": state.level, "removed": state.removed});
        writer.add_last(bundle::REDACTION, JSON, &serde_json::to_vec(&redaction)?)?;
        writer.add_last(bundle::ACCESS, NDJSON, &state.accesses)?;
        let audit = state.so_far.audit.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !audit.is_empty() {
            writer.add_last(bundle::AUDIT, NDJSON, &audit)?;
        }
        let mut about = std::mem::take(&mut state.about);
        about.insert("redaction".to_owned(), redaction);
        about.insert("exit".to_owned(), (status as u8).into());
        about.insert("complete".to_owned(), (!state.is_full).into());
        about.insert("volatile".to_owned(), json!(VOLATILE));
        if let Some(head) = head {
            about.insert("audit".to_owned(), serde_json::to_value(head)?);
        }
        let (bytes, sha256) = writer.end(about.into())?;
        if let Some(name) = &self.name {
            agent_output::tell(&format!("kept: agent fetch {name}"));
        }
        Ok(json!({"path": self.path(), "bytes": bytes, "sha256": sha256, "written_bytes": bytes - before}))
    }
}
