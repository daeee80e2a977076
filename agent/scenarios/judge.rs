//! `judge`: the findings of evidence that was gathered before, offline.

use agent_model::{Gathered, Level, Listing};
use agent_scenario::{Evidence, Origin, built_in};
use agent_system::collector::TargetUse;
use agent_system::{Cause, Collector, Failure, Run};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::page::{self, Findings, OfScenario};
use super::source;
use crate::bundles::{self, read};

/// The collector of findings.
pub(crate) struct Judge;

/// Options of `judge`.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub(crate) struct Options {
    /// A bundle, or the JSON of `agent run`; - is standard input
    #[arg(value_name = "FILE")]
    #[schemars(extend("x-class" = "path"))]
    file: String,
    /// Judge by this scenario; by default by that of the same name in this agent, or else by the one in the evidence
    #[arg(long, value_name = super::NAME_OR_FILE)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    scenario: Option<String>,
}

/// By what was judged.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// The worst of the findings; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    worst: Option<Level>,
    /// The scenario whose rules were used.
    scenario: Origin,
    /// Whether it is, to the byte, the one by which the evidence was gathered.
    same_scenario: bool,
}

impl OfScenario for Summary {
    fn scenario(&self) -> &str {
        &self.scenario.name
    }
}

impl Collector for Judge {
    const NAME: &'static str = "judge";
    const ABOUT: &'static str = "Judge evidence again that `run` gathered: offline, by these rules or newer ones";
    const MANUAL: &'static str = "\
The same evidence and the same rules give the same findings, byte for byte.

  agent run fd-leak -o bundle > fd-leak.dbg.tar.zst
  agent judge fd-leak.dbg.tar.zst
  agent run fd-leak -o json > evidence.json
  agent judge evidence.json --scenario own.yaml";
    const TARGET: TargetUse = TargetUse::None;
    type Options = Options;
    type Data = Findings<Summary>;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Findings<Summary>>, Failure> {
        let mut evidence = match read::file(run, &options.file)? {
            read::File::Bundle(bundle) => read::evidence(&options.file, &read::good(&options.file, *bundle)?)?,
            read::File::Envelope(envelope) => evidence(&options.file, envelope)?,
        };
        evidence.schemas = bundles::schemas();
        let scenario = match &options.scenario {
            Some(source) => source::load(source, run)?,
            None => match (built_in::text(&evidence.scenario.name), &evidence.scenario.text) {
                // One's own is in the evidence, whatever it is called.
                (_, Some(text)) => source::parse("the scenario in the evidence", text)?,
                (Some(text), None) => source::parse(&evidence.scenario.name, text)?,
                (None, None) => {
                    let words =
                        format!("this agent has no scenario {}: name one with --scenario", evidence.scenario.name);
                    return Err(Failure::new(options.file.as_str(), Cause::Invalid(words)));
                }
            },
        };
        let rows = agent_scenario::judge(&scenario, &evidence);
        let origin = source::origin(&scenario);
        let summary = Summary {
            worst: rows.first().map(|finding| finding.level),
            same_scenario: origin.sha256 == evidence.scenario.sha256,
            scenario: origin,
        };
        let gaps = page::gaps(&rows).collect();
        Ok(Gathered { data: Findings(Listing { rows, summary }), gaps })
    }
}

/// The evidence in the JSON of `agent run`.
fn evidence(name: &str, mut value: Value) -> Result<Evidence, Failure> {
    let wrong = |words: String| Failure::new(name, Cause::Invalid(words));
    if !value["schema"].as_str().is_some_and(|schema| schema.starts_with("agent.run/")) {
        return Err(wrong("it is not the JSON of `agent run`".to_owned()));
    }
    let evidence = read::gathered(name, &mut value)?;
    if evidence.artifacts.iter().any(|artifact| artifact.file.is_some() && artifact.envelope.is_null()) {
        return Err(wrong("its evidence is in the bundle that was kept: judge that".to_owned()));
    }
    Ok(evidence)
}
