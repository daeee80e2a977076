//! Evidence that was gathered before: a bundle, or the JSON of a command.

use agent_model::Unseen;
use agent_scenario::bundle::{self, Bundle, Problem, artifact_name};
use agent_scenario::{Artifact, Evidence, Origin, Step, StepEnd};
use agent_system::{Cause, Failure, Run};
use serde::Deserialize;
use serde_json::Value;

/// What zstd begins with.
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// A file that a person names.
pub(crate) enum File {
    /// A bundle, as far as it can be read.
    Bundle(Box<Bundle>),
    /// One envelope.
    Envelope(Value),
}

/// Reads the bundle or envelope at `path`. Neither may have more than a quarter of the memory that we may take: read, it
/// takes more.
///
/// # Errors
///
/// When it cannot be read, or is neither.
pub(crate) fn file(run: &Run, path: &str) -> Result<File, Failure> {
    let most = run.session().limits().rss_bytes / 4;
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    let bytes = match run.own_file(path, limit) {
        // What the hold keeps in memory is known by its name alone.
        Err(failure) if failure.is_not_found() => match crate::hold::kept(path) {
            Some(file) => run.kept_file(path, file, limit)?,
            None => return Err(failure),
        },
        read => read?,
    };
    if bytes.starts_with(&MAGIC) {
        let bundle = bundle::read(&bytes, most);
        return Ok(File::Bundle(Box::new(bundle)));
    }
    let wrong = |words: String| Failure::new(path, Cause::Invalid(words));
    let mut value: Value =
        serde_json::from_slice(&bytes).map_err(|error| wrong(format!("it is no bundle, and not JSON: {error}")))?;
    bundle::make_plain(&mut value);
    match value["schema"].as_str() {
        Some(_) => Ok(File::Envelope(value)),
        None => Err(wrong("it is no bundle, and not the JSON of a command".to_owned())),
    }
}

/// Reads the bundle at `path`, whatever is wrong with it.
///
/// # Errors
///
/// When it cannot be read, or is none.
pub(crate) fn any_bundle(run: &Run, path: &str) -> Result<Bundle, Failure> {
    match file(run, path)? {
        File::Bundle(bundle) => Ok(*bundle),
        File::Envelope(_) => Err(Failure::new(path, Cause::Malformed("it is an envelope, and no bundle"))),
    }
}

/// The bundle, unless it is worthless as evidence: cut off is not.
///
/// # Errors
///
/// When something in it was changed.
pub(crate) fn good(path: &str, bundle: Bundle) -> Result<Bundle, Failure> {
    match bundle.worst() {
        None => Ok(bundle),
        Some(Problem { path: at, why, .. }) => {
            let at = at.as_deref().filter(|at| !at.is_empty()).map(|at| format!("{at}: ")).unwrap_or_default();
            let words = format!("{at}{why} (`agent bundle verify` tells all)");
            Err(Failure::new(path, Cause::Invalid(words)))
        }
    }
}

/// The evidence in `bundle`: what `run` had gathered, or the artifacts of another command.
///
/// # Errors
///
/// When it has none.
pub(crate) fn evidence(path: &str, bundle: &Bundle) -> Result<Evidence, Failure> {
    let wrong = |words: String| Failure::new(path, Cause::Invalid(words));
    let Some(findings) = bundle.file(bundle::FINDINGS) else { return cut_off(path, bundle) };
    let mut findings = findings.json().ok_or_else(|| wrong("its findings are not JSON".to_owned()))?;
    let mut evidence = gathered(path, &mut findings)?;
    for artifact in &mut evidence.artifacts {
        let Some(file) = &artifact.file else { continue };
        let entry = bundle.file(&file.path).filter(|entry| bundle::sha256(&entry.bytes) == file.sha256);
        let envelope = entry.and_then(bundle::Entry::json);
        artifact.envelope = envelope.ok_or_else(|| wrong(format!("the artifact {} is not what it was", file.path)))?;
    }
    Ok(evidence)
}

/// The evidence in the envelope of a run.
///
/// # Errors
///
/// When it has none.
pub(crate) fn gathered(path: &str, envelope: &mut Value) -> Result<Evidence, Failure> {
    let wrong = |words: String| Failure::new(path, Cause::Invalid(format!("its evidence: {words}")));
    if envelope["data"].is_null() {
        let why = envelope["gaps"][0]["detail"].as_str().unwrap_or("nobody says why");
        return Err(wrong(format!("nothing was gathered ({})", agent_model::Text::from(why))));
    }
    serde_json::from_value(envelope["data"]["summary"].take()).map_err(|error| wrong(error.to_string()))
}

/// What a run had planned.
#[derive(Deserialize)]
struct Announced {
    scenario: Origin,
    parameters: std::collections::BTreeMap<String, Value>,
    steps: Vec<PlannedStep>,
}

#[derive(Deserialize)]
struct PlannedStep {
    name: String,
    does: String,
    /// How many artifacts it makes.
    looks: u64,
}

/// The evidence of a run that was ended before it could say what it had found.
fn cut_off(path: &str, bundle: &Bundle) -> Result<Evidence, Failure> {
    let announced = bundle.file(bundle::SCENARIO).and_then(bundle::Entry::json);
    let announced = announced.and_then(|value| Announced::deserialize(value).ok());
    let Some(announced) = announced else {
        return Err(Failure::new(path, Cause::Malformed("no scenario was run in this bundle")));
    };
    let artifacts: Vec<Artifact> = artifacts(bundle).collect();
    let steps = announced.steps.into_iter().map(|PlannedStep { name, does, looks: planned }| {
        let looks = looks_of(bundle, &name);
        // Of a step that only waits nothing tells how it ended.
        if looks > 0 && looks >= planned {
            return Step { name, does, end: StepEnd::Done, looks, gaps: Vec::new() };
        }
        let words = format!("the run was ended before step {name} was done");
        let unseen = Unseen {
            artifact: name.clone(),
            at: String::new(),
            reason: "incomplete".to_owned(),
            detail: Some(words),
            remedy: None,
        };
        Step { name, does, end: StepEnd::CutOff, looks, gaps: vec![unseen] }
    });
    let steps = steps.collect();
    Ok(Evidence {
        scenario: announced.scenario,
        parameters: announced.parameters,
        steps,
        artifacts,
        ..Evidence::default()
    })
}

/// How many artifacts of step `name` are in `bundle`.
pub(crate) fn looks_of(bundle: &Bundle, name: &str) -> u64 {
    let names = bundle.entries.iter().filter_map(|entry| artifact_name(&entry.path));
    names.filter(|artifact| artifact.split('[').next() == Some(name)).count() as u64
}

/// The envelopes in `bundle`, in their order.
pub(crate) fn artifacts(bundle: &Bundle) -> impl Iterator<Item = Artifact> {
    bundle.entries.iter().filter_map(|entry| {
        let name = artifact_name(&entry.path)?.to_owned();
        Some(Artifact { name, envelope: entry.json()?, file: None })
    })
}
