//! `diff`: what has become of what was seen.

use agent_model::{Gap, Gathered, Listing, Reason, Text};
use agent_scenario::diff::{self, Change, What};
use agent_system::collector::TargetUse;
use agent_system::{Cause, Collector, Failure, Run};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::read;

/// The collector of differences.
pub(crate) struct Diff;

/// Options of `diff`.
#[derive(Debug, Clone, clap::Args, Serialize, JsonSchema)]
pub(crate) struct Options {
    /// The look of before: a bundle, or the JSON of a command
    #[arg(value_name = "BEFORE")]
    #[schemars(extend("x-class" = "path"))]
    before: String,
    /// The look of after, of the same command or scenario; - is standard input
    #[arg(value_name = "AFTER")]
    #[schemars(extend("x-class" = "path"))]
    after: String,
}

/// About both.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Summary {
    appeared: u64,
    went: u64,
    changed: u64,
    /// Whether both are of the same process, from its start to its end: then processes, descriptors and mappings are known by
    /// their numbers, else by what they are.
    same_life: bool,
    /// What was compared.
    compared: Vec<Compared>,
}

/// Two looks.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Compared {
    /// The artifact, or the command.
    #[schemars(extend("x-column" = "IN", "x-class" = "word"))]
    artifact: String,
    /// When the first began.
    #[schemars(extend("x-column" = "BEFORE", "x-class" = "id"))]
    before: String,
    /// When the second began.
    #[schemars(extend("x-column" = "AFTER", "x-class" = "id"))]
    after: String,
}

impl Collector for Diff {
    const NAME: &'static str = "diff";
    const ABOUT: &'static str = "What appeared, went and changed between two looks: by identity, not by line";
    const MANUAL: &'static str = "\
Two bundles, or two answers of one command. Of the same process a descriptor is known by its number, a process by its
ID and start, a mapping by its address, a socket by its inode and addresses. Of another process (after a restart, or
in another pod of the same deployment) they are known by what they are: kind, path, arguments, peer; addresses,
inodes and times are then not compared. Rows of one identity are counted. Numbers have deltas.
Of a step that looks several times the last look counts.

  agent fds -o json > before.json; sleep 60; agent fds -o json > after.json
  agent diff before.json after.json
  agent diff web-1.dbg.tar.zst web-2.dbg.tar.zst -o table";
    const TARGET: TargetUse = TargetUse::None;
    type Options = Options;
    /// In the order of the parts that they are in.
    type Data = Listing<Change, Summary>;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Listing<Change, Summary>>, Failure> {
        let before = looks(run, &options.before)?;
        let after = looks(run, &options.after)?;
        let (mut rows, mut gaps, mut compared) = (Vec::new(), Vec::new(), Vec::new());
        let (mut same_life, mut is_in_both) = (true, false);
        for (name, then) in &before {
            let Some((_, now)) = after.iter().find(|(other, _)| other == name) else {
                gaps.push(alone(name, &options.before));
                continue;
            };
            if then["schema"] != now["schema"] {
                let detail = format!("{name} is of two schemas, and cannot be compared");
                gaps.push(Gap::new("/rows", Reason::Unsupported).detail(detail));
                continue;
            }
            let both = [(then, "before"), (now, "after")];
            gaps.extend(both.into_iter().filter_map(|(look, when)| unseen(name, look, when)));
            is_in_both = true;
            // What a limit has kept from being seen is no state to compare with.
            if both.iter().any(|(look, _)| look["data"].is_null()) {
                continue;
            }
            same_life &= diff::is_same_life(then, now);
            rows.extend(diff::of(name, then, now, super::schemas()));
            let start = |look: &Value| look["observed"]["start"].as_str().unwrap_or_default().to_owned();
            compared.push(Compared { artifact: name.clone(), before: start(then), after: start(now) });
        }
        let missing = after.iter().filter(|(name, _)| !before.iter().any(|(other, _)| other == name));
        gaps.extend(missing.map(|(name, _)| alone(name, &options.after)));
        if !is_in_both {
            let words = format!("it has nothing in common with {}: they are of different commands", options.after);
            return Err(Failure::new(options.before.as_str(), Cause::Invalid(words)));
        }
        let of = |what| rows.iter().filter(|row| row.what == what).map(|row| row.count.unwrap_or(1)).sum();
        let (appeared, went, changed) = (of(What::Appeared), of(What::Went), of(What::Changed));
        let summary = Summary { appeared, went, changed, same_life, compared };
        Ok(Gathered { data: Listing { rows, summary }, gaps })
    }
}

fn alone(name: &str, file: &str) -> Gap {
    let detail = format!("{name} is in this file alone");
    Gap::new("/rows", Reason::NotFound).detail(detail).path(Text::from(file))
}

/// What was not seen at one time cannot be told from what was not there.
fn unseen(name: &str, look: &Value, when: &str) -> Option<Gap> {
    let gaps = look["gaps"].as_array()?;
    let first = gaps.first()?;
    let at = first["at"].as_str().unwrap_or_default();
    let words = first["detail"].as_str().or(first["reason"].as_str()).unwrap_or_default();
    let more = if gaps.len() > 1 { format!(", and {} more", gaps.len() - 1) } else { String::new() };
    let detail =
        format!("{name} of {when} has gaps ({at}: {words}{more}): what differs there may only not have been seen");
    Some(Gap::new("/rows", Reason::Incomplete).detail(detail))
}

/// The looks in a file by their names: of each step the last.
fn looks(run: &Run, path: &str) -> Result<Vec<(String, Value)>, Failure> {
    let mut looks: Vec<(String, Value)> = Vec::new();
    let mut add = |name: &str, envelope: Value| {
        let name = name.split('[').next().unwrap_or_default().to_owned();
        // The last that saw anything.
        if envelope["data"].is_null() && looks.iter().any(|(other, _)| *other == name) {
            return;
        }
        looks.retain(|(other, _)| *other != name);
        looks.push((name, envelope));
    };
    match read::file(run, path)? {
        read::File::Bundle(bundle) => {
            let bundle = read::good(path, *bundle)?;
            read::artifacts(&bundle).for_each(|artifact| add(&artifact.name, artifact.envelope));
        }
        read::File::Envelope(mut envelope) => match envelope.pointer_mut("/data/summary/artifacts").map(Value::take) {
            Some(Value::Array(artifacts)) => {
                for mut artifact in artifacts {
                    let name = artifact["name"].as_str().unwrap_or_default().to_owned();
                    add(&name, artifact["envelope"].take());
                }
            }
            _ => {
                let schema = envelope["schema"].as_str().unwrap_or_default().to_owned();
                let name = schema.trim_start_matches("agent.").split('/').next().unwrap_or_default();
                add(name, envelope);
            }
        },
    }
    Ok(looks)
}
