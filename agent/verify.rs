//! `audit verify` and `redact test`: what a person checks about the agent itself.

use agent_model::data::{Gathered, Listing};
use agent_model::{Data, Gap, Reason, RedactionLevel, Text};
use agent_session::audit::{self, Head, Verdict, Verified};
use agent_session::redact::{Redactor, key_of};
use agent_system::collector::TargetUse;
use agent_system::{Cause, Collector, Failure, Run};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest log that is read, in bytes.
const LONGEST: usize = 256 << 20;

/// `agent audit verify`.
pub(crate) struct Audit;

/// Options of `audit`.
#[derive(Debug, Clone, clap::Args, Serialize, JsonSchema)]
pub(crate) struct AuditOptions {
    /// What to do: verify a log
    #[arg(value_name = "ACTION", value_parser = ["verify"])]
    #[schemars(extend("x-class" = "word"))]
    action: String,
    /// The log of a container, as kubectl prints it; - is standard input
    #[arg(value_name = "FILE")]
    #[schemars(extend("x-class" = "path"))]
    file: String,
    /// What the chain must come to: a file with the container's termination message
    #[arg(long, value_name = "FILE")]
    #[schemars(extend("x-class" = "path"))]
    witness: Option<String>,
}

/// Totals over the chains.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Chains {
    whole: u64,
    truncated: u64,
    tampered: u64,
    /// Lines of the log that are no records.
    other_lines: u64,
}

/// The part of a termination message that names the chain.
#[derive(Debug, Deserialize)]
struct Receipt {
    audit: Witnessed,
}

#[derive(Debug, Deserialize)]
struct Witnessed {
    count: u64,
    head: String,
    key: String,
}

impl Collector for Audit {
    const NAME: &'static str = "audit";
    const ABOUT: &'static str = "Check the audit in a container's log: whole, cut short, or changed, and where";
    const MANUAL: &'static str = "\
A row a chain, in the order in which they begin. `whole` reaches from session.open to the last checkpoint;
`truncated` is as it was written and has no end (the agent was killed, or the log cut); `tampered` has a record
that was edited, dropped, moved, repeated or written anew: `line` and `why` say which. The whole chain can be
replaced by another good one: only the witness, which the kubelet keeps, tells. Anything but whole is a gap.

Examples:
  kubectl logs POD -c NAME | agent audit verify -
  kubectl get pod POD -o jsonpath='{.status.ephemeralContainerStatuses[0].state.terminated.message}' >head.json
  agent audit verify log.txt --witness head.json";
    const TARGET: TargetUse = TargetUse::None;
    type Options = AuditOptions;
    type Data = Listing<Verified, Chains>;

    fn collect(run: &Run, options: &AuditOptions) -> Result<Gathered<Self::Data>, Failure> {
        let witness = options.witness.as_deref().map(|path| head_in(run, path)).transpose()?;
        let log = run.own_file(&options.file, LONGEST)?;
        let report = audit::verify(&log, witness.as_ref());
        let mut gaps = Vec::new();
        if report.chains.is_empty() {
            gaps.push(Gap::new("/rows", Reason::NotFound).detail("there is no record of an audit in this log"));
        }
        for (index, chain) in report.chains.iter().enumerate() {
            let at = format!("/rows/{index}");
            let why = chain.why.clone().unwrap_or_default();
            match chain.verdict {
                Verdict::Whole if chain.witnessed == Some(false) => {}
                Verdict::Whole => {}
                Verdict::Truncated => {
                    let detail = "the chain has no end: the agent was killed, or the log was cut";
                    gaps.push(Gap::new(at, Reason::Incomplete).detail(detail));
                }
                Verdict::Tampered => gaps.push(Gap::new(at, Reason::Malformed).detail(why)),
            }
        }
        let of = |verdict| report.chains.iter().filter(|chain| chain.verdict == verdict).count() as u64;
        let summary = Chains {
            whole: of(Verdict::Whole),
            truncated: of(Verdict::Truncated),
            tampered: of(Verdict::Tampered),
            other_lines: report.other_lines,
        };
        Ok(Gathered { data: Listing { rows: report.chains, summary }, gaps })
    }
}

/// What the termination message at `path` says of the audit.
pub(crate) fn head_in(run: &Run, path: &str) -> Result<Head, Failure> {
    let bytes = run.own_file(path, 1 << 16)?;
    let receipt: Receipt = serde_json::from_slice(&bytes)
        .map_err(|_| Failure::new(path, Cause::Malformed("no termination message of the agent with an audit")))?;
    let Witnessed { count, head, key } = receipt.audit;
    Ok(Head { count, head, key })
}

/// `agent redact test`.
pub(crate) struct Redact;

/// Options of `redact`.
#[derive(Debug, Clone, clap::Args, Serialize, JsonSchema)]
pub(crate) struct RedactOptions {
    /// What to do: test a value
    #[arg(value_name = "ACTION", value_parser = ["test"])]
    #[schemars(extend("x-class" = "word"))]
    action: String,
    /// Arguments of a program, or one text
    #[arg(value_name = "VALUE", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    #[serde(skip)]
    #[schemars(skip)]
    value: Vec<String>,
}

/// What would be shown.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Redactions {
    /// At each level: the values, and what was removed of them.
    levels: Vec<Shown>,
}

impl Data for Redactions {}

/// What one level shows.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Shown {
    level: RedactionLevel,
    /// Each value as it would be printed.
    #[schemars(extend("x-class" = "word"))]
    shown: Vec<Text>,
    /// How many of each class were removed.
    removed: std::collections::BTreeMap<&'static str, u64>,
}

impl Collector for Redact {
    const NAME: &'static str = "redact";
    const ABOUT: &'static str = "Show what redaction would leave of a value";
    const MANUAL: &'static str = "\
The values are taken as the arguments of a program, the first as the program itself. Nothing of them is printed
but what the levels leave; pseudonyms of strict are those of --incident.

Examples:
  agent redact test mysql -uroot -phunter2
  agent redact test 'postgres://app:hunter2@db/shop'";
    const TARGET: TargetUse = TargetUse::None;
    type Options = RedactOptions;
    type Data = Redactions;

    fn collect(run: &Run, options: &RedactOptions) -> Result<Gathered<Redactions>, Failure> {
        let incident = run.session().info().incident.as_ref().map_or("", |incident| incident.as_str());
        let values: Vec<String> = options.value.iter().map(|value| Text::from(value.as_str()).to_string()).collect();
        let levels = [RedactionLevel::Default, RedactionLevel::Strict].into_iter().map(|level| {
            let redactor = Redactor::new(level, key_of(incident, b""));
            let shown = redactor.argv(&values).into_iter().map(Text::from_escaped).collect();
            Shown { level, shown, removed: redactor.take_report().removed }
        });
        Ok(Gathered::complete(Redactions { levels: levels.collect() }))
    }
}
