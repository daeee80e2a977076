//! `run`: performs a scenario, and says what it found.

use std::time::Duration;

use agent_model::data::{LeftOut, json_bytes};
use agent_model::{Finding, Gap, Gathered, Level, Listing};
use agent_scenario::{Action, Evidence, Looks, Origin, Plan, PlannedStep, StepEnd, bundle};
use agent_system::{Capability, Cause, Collector, Failure, Need, Run};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::host::{self, Performer};
use super::page::{self, Findings, OfScenario};
use super::source;

/// The collector that runs others.
pub(crate) struct RunScenario;

/// What was done and gathered.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// The worst of the findings; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    worst: Option<Level>,
    /// What was gathered: enough to judge it again.
    #[serde(flatten)]
    evidence: Evidence,
}

impl OfScenario for Summary {
    fn scenario(&self) -> &str {
        &self.evidence.scenario.name
    }

    fn leave_out(&mut self) -> Option<LeftOut> {
        // The largest artifact.
        let artifacts = self.evidence.artifacts.iter_mut().enumerate();
        let sized = artifacts
            .filter(|(_, artifact)| !artifact.envelope["data"].is_null())
            .map(|(index, artifact)| (json_bytes(&artifact.envelope).unwrap_or(0), std::cmp::Reverse(index), artifact));
        let (_, std::cmp::Reverse(index), artifact) = sized.max_by_key(|(bytes, index, _)| (*bytes, *index))?;
        artifact.envelope["data"] = Value::Null;
        Some(LeftOut::whole(format!("/summary/artifacts/{index}/envelope/data")))
    }
}

/// A scenario of one's own has a budget that is not known before it is read.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Collector for RunScenario {
    const NAME: &'static str = "run";
    const ABOUT: &'static str = "Perform a scenario: collect, judge, and say what is wrong and what to do";
    const MANUAL: &'static str = "\
A scenario is a reviewed script: which commands to run, when, and what to conclude from
what they say. The findings are data.rows, worst first: fail, warn, unknown (it could
not be told, and why), pass, info. Each has a sentence, what it rests on (artifacts by
name, and JSON Pointers into them), and what to do next. The steps and all that was
collected are in data.summary, so that `agent judge` can judge it again, elsewhere.
Progress goes to standard error. Ctrl-C ends it with what was gathered by then.

  agent scenarios                        what there is
  agent plan fd-leak                     what it will do, and what it may cost
  agent run fd-leak
  agent run fd-leak --param interval=60s
  agent run triage -o json > evidence.json; agent judge evidence.json
  kubectl exec -i … -- agent run - < own.yaml";
    const CAPABILITIES: &'static [Capability] = &[
        Capability::SYS_PTRACE,
        Capability::DAC_READ_SEARCH,
        Capability::DAC_OVERRIDE,
        Capability::CHECKPOINT_RESTORE,
        Capability::NET_RAW,
        Capability::NET_ADMIN,
    ];
    const NEEDS: &'static [Need] =
        &[Need::Stops, Need::Descriptors, Need::SocketDiagnostics, Need::Packets, Need::Interrupts];
    type Options = source::Chosen;
    type Data = Findings<Summary>;

    fn lasts(options: &source::Chosen) -> Duration {
        options.lasts().unwrap_or(LONGEST)
    }

    fn collect(run: &Run, options: &source::Chosen) -> Result<Gathered<Findings<Summary>>, Failure> {
        let scenario = options.load(run)?;
        let plan = options.plan(&scenario)?;
        host::check(&plan)?;
        let mut performer = Performer::new(run, &plan)?;
        let origin = source::origin(&scenario);
        if let Some(keep) = run.keep() {
            let words = |_| Failure::new("bundle", Cause::Malformed("it cannot be written"));
            keep.file(bundle::SCENARIO, &announced(&plan, &origin)).map_err(words)?;
        }
        let mut evidence = agent_scenario::run(&plan, origin, &mut performer);
        agent_output::progress(plan.steps.len(), plan.steps.len(), "", true);
        let rows = agent_scenario::judge(&scenario, &evidence);
        let gaps = gaps(&evidence, &rows);
        // What is in the bundle is not told twice.
        for artifact in evidence.artifacts.iter_mut().filter(|artifact| artifact.file.is_some()) {
            artifact.envelope = Value::Null;
        }
        let worst = rows.first().map(|finding| finding.level);
        Ok(Gathered { data: Findings(Listing { rows, summary: Summary { worst, evidence } }), gaps })
    }
}

/// What will be done, as a bundle says it that is cut off.
fn announced(plan: &Plan, scenario: &Origin) -> Vec<u8> {
    let step = |step: &PlannedStep| {
        let looks = match &step.action {
            Action::Wait { .. } => 0,
            Action::Collect { looks: Looks::Repeat { count, .. }, .. } => *count,
            Action::Collect { .. } => 1,
        };
        serde_json::json!({"name": step.name, "does": step.does(), "looks": looks})
    };
    let steps: Vec<Value> = plan.steps.iter().map(step).collect();
    let announced = serde_json::json!({"scenario": scenario, "parameters": plan.parameters, "steps": steps});
    announced.to_string().into_bytes()
}

/// What could not be seen: of steps, and of what a finding needed.
fn gaps(evidence: &Evidence, findings: &[Finding]) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for (index, step) in evidence.steps.iter().enumerate() {
        // A condition that did not come true is an answer.
        if step.end != StepEnd::NotMet {
            gaps.extend(step.gaps.iter().map(|unseen| page::gap(format!("/summary/steps/{index}"), unseen)));
        }
    }
    gaps.extend(page::gaps(findings));
    gaps
}
