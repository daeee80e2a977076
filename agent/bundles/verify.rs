//! `bundle`: what is in one, and whether it is as it was written. Anywhere, without a cluster.

use std::fmt::Write as _;

use agent_model::{Data, Gap, Gathered, Reason};
use agent_scenario::bundle::{self, Bundle, Entry, Fault, Problem};
use agent_session::audit::{self, Head, Verified};
use agent_system::collector::TargetUse;
use agent_system::{Cause, Collector, Enveloped, ExtraFormat, Failure, Run};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::read;
use crate::verify::head_in;

/// The longest log that is read, in bytes.
const LONGEST_LOG: usize = 256 << 20;

/// The collector of bundles.
pub(crate) struct BundleFile;

/// Options of `bundle`.
#[derive(Debug, Clone, clap::Args, Serialize, JsonSchema)]
pub(crate) struct Options {
    /// What to do: verify it, list its files, show what it is about, or cat one of its files
    #[arg(value_name = "ACTION", value_parser = ["verify", "list", "show", "cat"])]
    #[schemars(extend("x-class" = "word"))]
    action: String,
    /// The bundle; - is standard input
    #[arg(value_name = "FILE")]
    #[schemars(extend("x-class" = "path"))]
    file: String,
    /// The file in it, for cat
    #[arg(value_name = "PATH", required_if_eq("action", "cat"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    path: Option<String>,
    /// What the audit must come to: a file with the container's termination message
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    witness: Option<String>,
    /// The log of the container whose hold the bundle was made in; the witness is then that of this log
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    log: Option<String>,
}

/// What a bundle was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// From its first file to its manifest, as it was written.
    Whole,
    /// It ends before its end; what is there is as it was written, as far as can be told.
    CutOff,
    /// Something is not as it was written.
    Tampered,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Row {
    /// Its path.
    #[schemars(extend("x-column" = "FILE", "x-class" = "word"))]
    path: String,
    /// Its size.
    #[schemars(extend("x-column" = "BYTES"))]
    bytes: u64,
    /// SHA-256 of its content, in hex.
    #[schemars(extend("x-class" = "id"))]
    sha256: String,
    /// Of an envelope, its schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SCHEMA", "x-class" = "word"))]
    schema: Option<String>,
    /// Whether the manifest, the audit, its schema and its digest say the same of it. Absent where nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "GOOD"))]
    good: Option<bool>,
}

/// About the whole.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Summary {
    state: State,
    files: u64,
    bytes: u64,
    /// What is wrong with it.
    problems: Vec<Problem>,
    /// What was to be in it, and is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-class" = "word"))]
    missing: Vec<String>,
    /// The chain of its audit; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<Verified>,
    /// Its manifest without the files, or, where it was cut off, how it began.
    #[schemars(extend("x-class" = "word"))]
    about: Value,
}

/// A bundle's files, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Files {
    rows: Vec<Row>,
    summary: Summary,
    /// The file that was asked for: as JSON, or its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    content: Option<Value>,
    #[serde(skip)]
    page: Option<String>,
    #[serde(skip)]
    raw: Option<Vec<u8>>,
}

impl Data for Files {
    fn row_count(&self) -> Option<usize> {
        Some(self.rows.len())
    }

    fn row(&self, index: usize) -> Option<&dyn erased_serde::Serialize> {
        self.rows.get(index).map(|row| row as _)
    }

    fn summary(&self) -> Option<&dyn erased_serde::Serialize> {
        Some(&self.summary)
    }

    fn page(&self, _: usize) -> Option<String> {
        self.page.clone()
    }
}

impl Collector for BundleFile {
    const NAME: &'static str = "bundle";
    const ABOUT: &'static str = "Verify, list, show or print the files of a bundle: anywhere, without a cluster";
    const MANUAL: &'static str = "\
A bundle is a tar archive in zstd (`zstd -dc FILE | tar tv` lists it too). It is written as the command goes, its
manifest last, so one that was cut off opens, and says what is missing. A bundle is

  whole      hashes, sizes, schemas and digests are right, and the audit is a whole chain that says the same
  cut_off    it has no end; what is there was written whole
  tampered   something was changed: which file, and what of it

The whole bundle can be replaced by another good one: only the termination message, which stays with the pod,
tells (--witness). In the session of a hold the bundle's audit is a chain of its own, which a record of the hold's chain
names: the container's log leads to it (--log), and the termination message to that. Anything but whole is a gap. Nothing
is unpacked to disk.

  agent run triage -o bundle > triage.dbg.tar.zst
  agent bundle verify triage.dbg.tar.zst
  agent bundle show triage.dbg.tar.zst -o table
  agent bundle verify triage.dbg.tar.zst --log log.txt --witness head.json
  agent bundle cat triage.dbg.tar.zst findings.json -o raw";
    const TARGET: TargetUse = TargetUse::None;
    const FORMATS: &'static [ExtraFormat<Files>] =
        &[ExtraFormat { name: "raw", about: "the file that was asked for, as it is", write: raw }];
    type Options = Options;
    type Data = Files;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Files>, Failure> {
        let witness = options.witness.as_deref().map(|path| head_in(run, path)).transpose()?;
        let bundle = read::any_bundle(run, &options.file)?;
        let checked = match &options.log {
            Some(log) => {
                let log = run.own_file(log, LONGEST_LOG)?;
                let mut checked = check(&bundle, None);
                checked.problems.extend(unnamed(&checked, &audit::verify(&log, witness.as_ref())));
                checked.settle(&bundle);
                checked
            }
            None => check(&bundle, witness.as_ref()),
        };
        let gaps = gaps(&checked);
        let mut files = files(&bundle, checked);
        match options.action.as_str() {
            "cat" => {
                let path = options.path.as_deref().unwrap_or_default();
                let entry = bundle.file(path);
                let entry = entry.ok_or_else(|| Failure::new(path, Cause::Malformed("the bundle has no such file")))?;
                let content = entry.json().unwrap_or_else(|| String::from_utf8_lossy(&entry.bytes).into());
                files.page = Some(printable(&match &content {
                    Value::String(text) => text.clone(),
                    content => serde_json::to_string_pretty(content).unwrap_or_default() + "\n",
                }));
                files.content = Some(content);
                files.raw = Some(entry.bytes.clone());
            }
            "show" => files.page = Some(printable(&shown(&files.summary, &bundle))),
            _ => {}
        }
        Ok(Gathered { data: files, gaps })
    }
}

fn raw(_: &Enveloped<'_>, files: &Files, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    match &files.raw {
        Some(bytes) => out.write_all(bytes),
        None => Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "only cat prints a file as it is")),
    }
}

/// `text` as a terminal may get it: the lines of a stranger.
fn printable(text: &str) -> String {
    text.lines().map(|line| agent_model::Text::from(line).as_str().replace("\\\\", "\\") + "\n").collect()
}

/// What was found out about a bundle.
pub(super) struct Checked {
    problems: Vec<Problem>,
    /// Of each file the schema that it names.
    schemas: Vec<Option<String>>,
    audit: Option<Verified>,
    missing: Vec<String>,
    state: State,
}

impl Checked {
    /// Says what the problems come to.
    fn settle(&mut self, bundle: &Bundle) {
        let is_cut_off = |problem: &Problem| problem.fault == Fault::CutOff;
        self.state = match &self.problems[..] {
            [] => State::Whole,
            problems if problems.iter().all(is_cut_off) => State::CutOff,
            _ => State::Tampered,
        };
        self.missing = if self.state == State::Whole { Vec::new() } else { missing(bundle) };
    }

    /// What is wrong and what is missing, a line each; empty where it is whole.
    pub(super) fn in_words(&self) -> Vec<String> {
        let head = match self.state {
            State::Whole => return Vec::new(),
            State::CutOff => "The bundle was cut off: what is in it was written whole.",
            State::Tampered => "The bundle was TAMPERED WITH: it proves nothing.",
        };
        let problem = |problem: &Problem| {
            format!("{} {}", problem.path.as_deref().unwrap_or_default(), problem.why).trim().to_owned()
        };
        let missing = self.missing.iter().map(|missing| format!("Missing: {missing}"));
        [head.to_owned()].into_iter().chain(self.problems.iter().map(problem)).chain(missing).collect()
    }
}

/// Checks all that can be: `witness` is what the audit must come to.
pub(super) fn check(bundle: &Bundle, witness: Option<&Head>) -> Checked {
    let mut problems = bundle.problems.clone();
    // Each is read once, and let go of before the next.
    let mut schemas = Vec::new();
    for entry in &bundle.entries {
        let value = if entry.path.ends_with(".json") { entry.json() } else { None };
        schemas.push(value.as_ref().and_then(|value| value["schema"].as_str().map(str::to_owned)));
        problems.extend(envelope_problem(entry, value));
    }
    let audit = check_audit(bundle, witness, &mut problems);
    let mut checked = Checked { problems, schemas, audit, missing: Vec::new(), state: State::Whole };
    checked.settle(bundle);
    checked
}

/// Why `log`, that of a hold, does not lead to the bundle; `None` where it does.
fn unnamed(checked: &Checked, log: &audit::Report) -> Option<Problem> {
    let problem = |why: String| Some(Problem { path: Some(bundle::AUDIT.to_owned()), fault: Fault::Audit, why });
    let Some(own) = &checked.audit else {
        return problem("the bundle has no audit that the log could name".to_owned());
    };
    let own = Head { count: own.records, head: own.head.clone(), key: own.key.clone() };
    let names = |chain: &&Verified| chain.bundles.contains(&own);
    match log.chains.iter().find(names) {
        Some(chain) if chain.verdict == audit::Verdict::Tampered => {
            let why = chain.why.as_deref().unwrap_or_default();
            problem(format!("the log that names it was tampered with: {why}"))
        }
        Some(_) => None,
        None => problem("no good record of the log names this chain".to_owned()),
    }
}

/// What is wrong with an envelope: its schema, or its digest.
fn envelope_problem(entry: &Entry, envelope: Option<Value>) -> Option<Problem> {
    let is_envelope = entry.path == bundle::FINDINGS || bundle::artifact_name(&entry.path).is_some();
    if !is_envelope {
        return None;
    }
    let problem = |fault, why: String| Some(Problem { path: Some(entry.path.clone()), fault, why });
    let Some(envelope) = envelope else { return problem(Fault::Schema, "it is not JSON".to_owned()) };
    let name = envelope["schema"].as_str().unwrap_or_default();
    // One of an agent that knows more than this one cannot be checked.
    if let Some(command) = crate::commands().find(|command| command.schema_name() == name)
        && let Some((at, words)) = bundle::misfit(crate::schemas::of(command).as_value(), &envelope)
    {
        return problem(Fault::Schema, format!("{at} is not as {name} says: {words}"));
    }
    match agent_model::digest(&envelope["data"]) {
        Ok(digest) if envelope["digest"] == digest => None,
        _ => problem(Fault::Digest, "its digest is not that of its data".to_owned()),
    }
}

/// Checks the chain of the audit, and what it says of the files.
fn check_audit(bundle: &Bundle, witness: Option<&Head>, problems: &mut Vec<Problem>) -> Option<Verified> {
    let mut tell = |path: &str, why: String| {
        problems.push(Problem { path: Some(path.to_owned()), fault: Fault::Audit, why });
    };
    let manifest = bundle.manifest();
    let told = manifest.as_ref().and_then(|manifest| {
        let audit = &manifest["audit"];
        let word = |key: &str| audit[key].as_str().map(str::to_owned);
        Some(Head { count: audit["count"].as_u64()?, head: word("head")?, key: word("key")? })
    });
    let Some(entry) = bundle.file(bundle::AUDIT) else {
        if told.is_some() || witness.is_some() {
            tell(bundle::AUDIT, "it is not there".to_owned());
        }
        // What was written of it before it was cut off.
        let mut report = audit::verify(&bundle.pieces(bundle::AUDIT), None);
        let chain = report.chains.pop()?;
        if chain.verdict == audit::Verdict::Tampered || !report.chains.is_empty() {
            tell(bundle::AUDIT, chain.why.clone().unwrap_or_else(|| "its pieces are no chain".to_owned()));
        }
        return Some(chain);
    };
    for name in [bundle::AUDIT, bundle::ACCESS] {
        let whole = bundle.file(name).map(|entry| entry.bytes.as_slice()).unwrap_or_default();
        if !whole.starts_with(&bundle.pieces(name)) {
            tell(name, "what was written of it on the way is something else".to_owned());
        }
    }
    let report = audit::verify(&entry.bytes, witness.or(told.as_ref()));
    let [chain] = &report.chains[..] else {
        tell(bundle::AUDIT, format!("it has {} chains, and not one", report.chains.len()));
        return None;
    };
    if chain.verdict != audit::Verdict::Whole {
        let why = chain.why.clone().unwrap_or_else(|| "the chain has no end".to_owned());
        tell(bundle::AUDIT, why);
    } else if witness.is_some() && told.as_ref() != witness {
        tell(bundle::MANIFEST, "it names another audit than the witness".to_owned());
    }
    for line in entry.bytes.split(|byte| *byte == b'\n') {
        let Ok(record) = serde_json::from_slice::<Value>(line) else { continue };
        let data = &record["data"];
        match record["type"].as_str() {
            Some("artifact.add") => {
                let path = data["path"].as_str().unwrap_or_default();
                let known = bundle.file(path).map(|entry| bundle::sha256(&entry.bytes));
                if known.as_deref() != data["sha256"].as_str() {
                    tell(path, "the audit says that it was another".to_owned());
                }
            }
            Some("access") => {
                let log = bundle.file(bundle::ACCESS).map(|entry| entry.bytes.as_slice()).unwrap_or_default();
                let lines = log.iter().filter(|byte| **byte == b'\n').count() as u64;
                let is_cut = data["count"].as_u64().is_some_and(|count| count > lines && lines >= 200_000);
                if !is_cut && data["sha256"].as_str() != Some(&bundle::sha256(log)) {
                    tell(bundle::ACCESS, "the audit says that something else was touched".to_owned());
                }
            }
            _ => {}
        }
    }
    Some(chain.clone())
}

/// What was to be in a bundle that has not all of it.
fn missing(bundle: &Bundle) -> Vec<String> {
    let mut missing = Vec::new();
    let opening = bundle.file(bundle::OPEN).and_then(Entry::json).unwrap_or_default();
    let is_run = opening["command"] == crate::scenarios::RUN;
    if is_run && bundle.file(bundle::FINDINGS).is_none() {
        let planned = bundle.file(bundle::SCENARIO).and_then(Entry::json).unwrap_or_default();
        for step in planned["steps"].as_array().into_iter().flatten() {
            let name = step["name"].as_str().unwrap_or_default();
            let does = agent_model::Text::from(step["does"].as_str().unwrap_or_default());
            match read::looks_of(bundle, name) {
                looks if looks > 0 && step["looks"].as_u64() == Some(looks) => {}
                0 => missing.push(format!("step {name}: {does}")),
                looks => missing.push(format!("step {name}: what came after {looks} of its looks ({does})")),
            }
        }
    }
    let command = opening["command"].as_str().filter(|_| !is_run && bundle.file(bundle::MANIFEST).is_none());
    if let Some(command) = command {
        let command = agent_model::Text::from(command);
        missing.push(
            match bundle.entries.iter().filter(|entry| bundle::artifact_name(&entry.path).is_some()).count() {
                0 => format!("the answer of {command}"),
                answers => format!("what came after {answers} answers of {command}"),
            },
        );
    }
    let last = [bundle::REDACTION, bundle::ACCESS, bundle::AUDIT, bundle::MANIFEST];
    let first = is_run.then_some(bundle::FINDINGS);
    let gone = first.into_iter().chain(last).filter(|path| bundle.file(path).is_none());
    missing.extend(gone.map(|path| match bundle.pieces(path).iter().filter(|byte| **byte == b'\n').count() {
        0 => path.to_owned(),
        lines => format!("{path}: what came after {lines} lines"),
    }));
    missing
}

fn gaps(checked: &Checked) -> Vec<Gap> {
    let problems = checked.problems.iter().enumerate();
    let gap = |(index, problem): (usize, &Problem)| {
        let reason = if problem.fault == Fault::CutOff { Reason::Incomplete } else { Reason::Malformed };
        let gap = Gap::new(format!("/summary/problems/{index}"), reason).detail(problem.why.clone());
        match &problem.path {
            Some(path) => gap.path(agent_model::Text::from_escaped(path.clone())),
            None => gap,
        }
    };
    problems.map(gap).collect()
}

fn files(bundle: &Bundle, checked: Checked) -> Files {
    let Checked { problems, schemas, audit, missing, state } = checked;
    let is_checked = bundle.manifest().is_some();
    let rows: Vec<Row> = bundle
        .entries
        .iter()
        .zip(schemas)
        .map(|(entry, schema)| {
            let is_wrong = problems.iter().any(|problem| problem.path.as_deref() == Some(&entry.path));
            let is_envelope = bundle::artifact_name(&entry.path).is_some();
            Row {
                path: entry.path.clone(),
                bytes: entry.bytes.len() as u64,
                sha256: bundle::sha256(&entry.bytes),
                schema,
                good: (is_wrong || is_checked || is_envelope).then_some(!is_wrong),
            }
        })
        .collect();
    let mut about = bundle.manifest().or_else(|| bundle.file(bundle::OPEN)?.json()).unwrap_or_default();
    if let Some(about) = about.as_object_mut() {
        about.remove("files");
    }
    let summary = Summary {
        state,
        files: rows.len() as u64,
        bytes: rows.iter().map(|row| row.bytes).sum(),
        problems,
        missing,
        audit,
        about,
    };
    Files { rows, summary, content: None, page: None, raw: None }
}

/// What a bundle is about, for a person.
fn shown(summary: &Summary, bundle: &Bundle) -> String {
    let mut page = String::new();
    let about = &summary.about;
    let state = match summary.state {
        State::Whole => "whole",
        State::CutOff => "cut off",
        State::Tampered => "TAMPERED WITH",
    };
    let _ = writeln!(page, "{state}: {} files, {} bytes", summary.files, summary.bytes);
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let argv = about["argv"].as_array().into_iter().flatten().skip(1).filter_map(Value::as_str);
    let target = &about["target"];
    let lines = [
        ("command", Some(argv.collect::<Vec<_>>().join(" "))),
        ("session", word(&about["session"]["id"])),
        ("incident", word(&about["session"]["incident"])),
        ("actor", word(&about["session"]["actor"])),
        ("from", word(&about["window"]["start"])),
        ("to", word(&about["window"]["end"])),
        ("host", word(&about["resource"]["host.name"])),
        ("pod", word(&about["resource"]["k8s.pod.uid"])),
        ("container", word(&about["resource"]["k8s.container.name"])),
        ("target", target["pid"].as_u64().map(|pid| format!("{pid} {}", target["name"].as_str().unwrap_or_default()))),
        ("exit", about["exit"].as_u64().map(|exit| exit.to_string())),
        ("audit", summary.audit.as_ref().map(|chain| format!("{} records, {}", chain.records, chain.head))),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            let _ = writeln!(page, "{name:10}{value}");
        }
    }
    for problem in &summary.problems {
        let _ = writeln!(page, "problem   {} {}", problem.path.as_deref().unwrap_or_default(), problem.why);
    }
    for missing in &summary.missing {
        let _ = writeln!(page, "missing   {missing}");
    }
    let findings = bundle.file(bundle::FINDINGS).and_then(Entry::json).unwrap_or_default();
    for finding in findings["data"]["rows"].as_array().into_iter().flatten() {
        let (level, message) = (finding["level"].as_str(), finding["message"].as_str());
        let _ = writeln!(page, "\n{:10}{}", level.unwrap_or_default(), message.unwrap_or_default());
    }
    page
}
