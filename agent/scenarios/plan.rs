//! `plan`: what a scenario will do, what it needs, and what it may cost. Touches no target.

use agent_model::{Gathered, Listing, Text};
use agent_scenario::Action;
use agent_system::collector::TargetUse;
use agent_system::{Capabilities, Capability, Collector, Failure, Run};
use schemars::JsonSchema;
use serde::Serialize;

use super::{host, source};

/// The collector of what would be done.
pub(crate) struct PlanScenario;

/// One step.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Row {
    /// Its name.
    #[schemars(extend("x-column" = "STEP"))]
    #[schemars(extend("x-class" = "word"))]
    step: String,
    /// What it does.
    #[schemars(extend("x-column" = "DOES"))]
    #[schemars(extend("x-class" = "word"))]
    does: String,
    /// The most time that it may take, in microseconds.
    #[schemars(extend("x-column" = "AT MOST"))]
    time_us: u64,
    /// How often it may hold a thread of the target: the whole budget where it can at all.
    #[schemars(extend("x-column" = "STOPS"))]
    stops: u64,
    /// Capabilities that help it where the target has other IDs than the agent, or guards itself; those for which one
    /// is enough stand side by side.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-column" = "WANTS"))]
    #[schemars(extend("x-class" = "word"))]
    wants: Vec<&'static str>,
    /// Of them those that this container does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-column" = "LACKS"))]
    #[schemars(extend("x-class" = "word"))]
    lacks: Vec<&'static str>,
    /// The flags of `kubectl debug` that grant them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "REMEDY"))]
    #[schemars(extend("x-class" = "word"))]
    remedy: Option<&'static str>,
}

/// All of it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// The scenario.
    #[schemars(extend("x-class" = "word"))]
    scenario: String,
    /// What it finds out.
    #[schemars(extend("x-class" = "word"))]
    title: String,
    /// Its parameters, defaults filled in.
    parameters: std::collections::BTreeMap<String, serde_json::Value>,
    /// The most time that all of it may take, in microseconds.
    time_us: u64,
    /// The most bytes that it may read, from the kernel and the target.
    read_bytes: u64,
    /// How often it may hold a thread of the target, in all.
    stops: u64,
    /// Whether this container has all that the steps want.
    has_all: bool,
    /// What that means.
    note: Text,
}

impl Collector for PlanScenario {
    const NAME: &'static str = "plan";
    const ABOUT: &'static str = "What a scenario would do, need and cost; touches nothing";
    const MANUAL: &'static str = "\
Each step with its command line, the most time it may take, how often it may hold a
thread of the target, and the access it wants and this container lacks. Limits are
kept by `agent run`: it ends at them, with what was seen. Whether a capability is really
needed depends on the target, at which a plan does not look: `agent access` does.

  agent plan triage
  agent plan high-cpu --param for=30s";
    const TARGET: TargetUse = TargetUse::None;
    type Options = source::Chosen;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, options: &source::Chosen) -> Result<Gathered<Self::Data>, Failure> {
        let scenario = options.load(run)?;
        let plan = options.plan(&scenario)?;
        host::check(&plan)?;
        // As it was before the process was confined.
        let permitted = run.rights().map(|rights| rights.permitted).unwrap_or_default();
        let mut rows = Vec::new();
        for step in &plan.steps {
            let (mut wanted, mut can_stop) = (Capabilities::default(), false);
            if let Action::Collect { command, arguments, .. } = &step.action {
                let (found, matches) = host::command(command, arguments, Some(1))?;
                wanted = found.wants(&matches);
                can_stop = matches!(command.as_str(), "stacks" | "profile" | "snapshot")
                    && !arguments.iter().any(|argument| argument == "--stop=never");
            }
            let lacked = lacked(wanted, permitted);
            rows.push(Row {
                step: step.name.clone(),
                does: step.does(),
                time_us: step.deadline_us.min(plan.time_us),
                stops: if can_stop { plan.stops } else { 0 },
                wants: wanted.names(),
                lacks: lacked.names(),
                remedy: remedy(lacked),
            });
        }
        let has_all = rows.iter().all(|row| row.lacks.is_empty());
        let note = match has_all {
            true => "this container has all that the steps want",
            false => {
                "what is lacked is needed only where the target runs under other IDs or guards itself: agent access"
            }
        };
        let summary = Summary {
            scenario: plan.name,
            title: scenario.title().to_owned(),
            parameters: plan.parameters,
            time_us: plan.time_us,
            read_bytes: plan.bytes,
            stops: plan.stops,
            has_all,
            note: note.into(),
        };
        Ok(Gathered::complete(Listing { rows, summary }))
    }
}

/// Of `wanted` those that are not granted. One of those that override the permission to read is enough.
fn lacked(wanted: Capabilities, permitted: Capabilities) -> Capabilities {
    let reading = Capability::DAC_READ_SEARCH.only().union(Capability::DAC_OVERRIDE.only());
    let lacked = wanted.without(permitted);
    if permitted.intersection(reading) == Capabilities::default() { lacked } else { lacked.without(reading) }
}

fn remedy(lacked: Capabilities) -> Option<&'static str> {
    let netadmin = Capability::NET_ADMIN.only().union(Capability::NET_RAW.only());
    if lacked == Capabilities::default() {
        None
    } else if lacked.without(netadmin) == Capabilities::default() {
        Some("kubectl debug --profile=netadmin")
    } else if lacked.without(Capability::SYS_PTRACE.only()) == Capabilities::default() {
        Some("kubectl debug --profile=general")
    } else {
        Some("kubectl debug --profile=sysadmin")
    }
}
