//! `report`: one page about what was seen.

use std::io;

use agent_model::{Data, Gathered};
use agent_scenario::Artifact;
use agent_scenario::bundle::{self, Entry, Listed};
use agent_scenario::report::{self, Subject};
use agent_system::collector::TargetUse;
use agent_system::{Collector, Enveloped, ExtraFormat, Failure, Run};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::read;

/// The collector of pages.
pub(crate) struct Report;

/// Options of `report`.
#[derive(Debug, Clone, clap::Args, Serialize, JsonSchema)]
pub(crate) struct Options {
    /// A bundle, or the JSON of a command; - is standard input
    #[arg(value_name = "FILE")]
    #[schemars(extend("x-class" = "path"))]
    file: String,
}

/// A page.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Page {
    /// The page in Markdown.
    #[schemars(extend("x-class" = "word"))]
    markdown: String,
    #[serde(skip)]
    subject: Subject,
}

impl Data for Page {
    fn page(&self, _: usize) -> Option<String> {
        Some(self.markdown.clone())
    }
}

impl Collector for Report {
    const NAME: &'static str = "report";
    const ABOUT: &'static str = "One page about what was seen, for a browser or a ticket";
    const MANUAL: &'static str = "\
Findings first, then the timeline, processes, flame graph, memory, sockets, descriptors, what was not seen, and the
manifest: as far as the file has them. The page is one file, asks the network for nothing, and prints; only the zoom
of the flame graph needs JavaScript.

  agent report triage.dbg.tar.zst -o html > triage.html
  agent report triage.dbg.tar.zst -o md | gh issue comment 42 -F -
  agent snapshot -o json | agent report - -o html > now.html";
    const TARGET: TargetUse = TargetUse::None;
    const FORMATS: &'static [ExtraFormat<Page>] = &[
        ExtraFormat { name: "html", about: "a page for a browser, by itself", write: html },
        ExtraFormat { name: "md", about: "Markdown, for a ticket", write: markdown },
    ];
    type Options = Options;
    type Data = Page;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Page>, Failure> {
        let subject = match read::file(run, &options.file)? {
            read::File::Bundle(bundle) => of_bundle(&bundle),
            read::File::Envelope(envelope) => of_envelope(envelope),
        };
        Ok(Gathered::complete(Page { markdown: report::markdown(&subject), subject }))
    }
}

fn html(_: &Enveloped<'_>, page: &Page, out: &mut dyn io::Write) -> io::Result<()> {
    out.write_all(report::html(&page.subject).as_bytes())
}

fn markdown(_: &Enveloped<'_>, page: &Page, out: &mut dyn io::Write) -> io::Result<()> {
    out.write_all(page.markdown.as_bytes())
}

/// What is wrong with a bundle stands in its page.
fn of_bundle(bundle: &bundle::Bundle) -> Subject {
    let checked = super::verify::check(bundle, None);
    let about = bundle.manifest().or_else(|| bundle.file(bundle::OPEN)?.json()).unwrap_or_default();
    let findings = bundle.file(bundle::FINDINGS).and_then(Entry::json).unwrap_or_default();
    let mut looks: Vec<Artifact> = read::artifacts(bundle).collect();
    if looks.len() == 1 && looks[0].name.contains('[') {
        looks[0].name = looks[0].name.split('[').next().unwrap_or_default().to_owned();
    }
    let files = bundle.entries.iter().map(|entry| Listed {
        path: entry.path.clone(),
        media_type: String::new(),
        bytes: entry.bytes.len() as u64,
        sha256: bundle::sha256(&entry.bytes),
    });
    let audit = bundle.file(bundle::AUDIT).map(|entry| entry.bytes.as_slice()).unwrap_or_default();
    let records = audit.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut record = serde_json::from_slice(line).ok()?;
        bundle::make_plain(&mut record);
        Some(record)
    });
    Subject {
        about,
        findings: findings["data"]["rows"].as_array().cloned().unwrap_or_default(),
        looks,
        gaps: gaps_of_run(&findings),
        state: checked.in_words(),
        files: files.collect(),
        records: records.collect(),
    }
}

/// The gaps of the envelope of a run that are not those of its findings, which tell them themselves.
fn gaps_of_run(envelope: &Value) -> Vec<Value> {
    let gaps = envelope["gaps"].as_array().into_iter().flatten();
    gaps.filter(|gap| !gap["at"].as_str().is_some_and(|at| at.starts_with("/rows/"))).cloned().collect()
}

fn of_envelope(mut envelope: Value) -> Subject {
    let mut subject = Subject::default();
    if envelope["schema"].as_str().is_some_and(|schema| schema.starts_with("agent.run/")) {
        subject.findings = envelope["data"]["rows"].as_array().cloned().unwrap_or_default();
        subject.gaps = gaps_of_run(&envelope);
        for mut artifact in
            envelope["data"]["summary"]["artifacts"].as_array_mut().map(std::mem::take).into_iter().flatten()
        {
            let name = artifact["name"].as_str().unwrap_or_default().to_owned();
            subject.looks.push(Artifact { name, envelope: artifact["envelope"].take(), file: None });
        }
    } else {
        let schema = envelope["schema"].as_str().unwrap_or_default();
        let name = schema.trim_start_matches("agent.").split('/').next().unwrap_or_default().to_owned();
        subject.looks.push(Artifact { name, envelope: envelope.clone(), file: None });
    }
    envelope["window"] = envelope["observed"].take();
    envelope["data"] = Value::Null;
    subject.about = envelope;
    subject
}
