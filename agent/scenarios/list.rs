//! `scenarios`: which there are, and the playbook of one.

use agent_model::{Data, Gathered};
use agent_scenario::{Action, Scenario, built_in};
use agent_system::collector::TargetUse;
use agent_system::{Collector, Failure, Run};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::source;

/// The collector of scenarios.
pub(crate) struct List;

/// Options of `scenarios`.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub(crate) struct Options {
    /// The playbook of this one: what it looks for, how to read it, false alarms
    #[arg(value_name = super::NAME_OR_FILE)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    scenario: Option<String>,
    /// The text of the scenario, to begin one's own with
    #[arg(long, requires = "scenario")]
    yaml: bool,
    /// The JSON Schema of a scenario's file, for editors
    #[arg(long, conflicts_with = "scenario")]
    json_schema: bool,
}

/// Scenarios, sorted by name.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Scenarios {
    /// One each.
    rows: Vec<Row>,
    #[serde(skip)]
    page: Option<String>,
}

/// One scenario.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Row {
    /// Its name, or with --json-schema `schema`.
    #[schemars(extend("x-column" = "NAME"))]
    #[schemars(extend("x-class" = "word"))]
    name: String,
    /// What it finds out.
    #[schemars(extend("x-column" = "FINDS OUT"))]
    #[schemars(extend("x-class" = "word"))]
    title: String,
    /// The commands that it performs, each once, in their order.
    #[schemars(extend("x-column" = "NEEDS"))]
    #[schemars(extend("x-class" = "word"))]
    commands: Vec<String>,
    /// The most time that it takes, in microseconds.
    #[schemars(extend("x-column" = "AT MOST"))]
    time_us: u64,
    /// How often it may hold a thread of the target.
    #[schemars(extend("x-column" = "STOPS"))]
    stops: u64,
    /// What can be set with --param.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parameters: Vec<Parameter>,
    /// The playbook, in Markdown; only of one that is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    playbook: Option<String>,
    /// The text of its file, or with --json-schema the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    text: Option<String>,
}

/// A parameter.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Parameter {
    /// Its name.
    #[schemars(extend("x-class" = "word"))]
    name: String,
    /// What it is.
    #[schemars(extend("x-class" = "word"))]
    about: String,
    /// Its value if it is not set.
    default: Value,
}

impl Data for Scenarios {
    fn row_count(&self) -> Option<usize> {
        Some(self.rows.len())
    }

    fn row(&self, index: usize) -> Option<&dyn erased_serde::Serialize> {
        self.rows.get(index).map(|row| row as _)
    }

    fn page(&self, _width: usize) -> Option<String> {
        self.page.clone()
    }
}

impl Collector for List {
    const NAME: &'static str = "scenarios";
    const ABOUT: &'static str = "The scenarios that `run` knows, and the playbook of each";
    const MANUAL: &'static str = "\
Sorted by name.

  agent scenarios
  agent scenarios fd-leak                what it looks for, how to read it, false alarms
  agent scenarios fd-leak --yaml -o table > own.yaml
  agent scenarios --json-schema -o table > scenario.schema.json";
    const TARGET: TargetUse = TargetUse::None;
    type Options = Options;
    type Data = Scenarios;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Scenarios>, Failure> {
        if options.json_schema {
            let schema = serde_json::to_string_pretty(&agent_scenario::schema()).unwrap_or_default() + "\n";
            let title = "the JSON Schema of a scenario's file".to_owned();
            let row = Row {
                name: "schema".to_owned(),
                title,
                commands: Vec::new(),
                time_us: 0,
                stops: 0,
                parameters: Vec::new(),
                playbook: None,
                text: Some(schema.clone()),
            };
            return Ok(Gathered::complete(Scenarios { rows: vec![row], page: Some(schema) }));
        }
        if let Some(name) = &options.scenario {
            let scenario = source::load(name, run)?;
            let mut row = row(name, &scenario)?;
            row.playbook = Some(scenario.playbook().to_owned());
            let page = if options.yaml { scenario.text().to_owned() } else { playbook(&row) };
            row.text = options.yaml.then(|| scenario.text().to_owned());
            return Ok(Gathered::complete(Scenarios { rows: vec![row], page: Some(page) }));
        }
        let rows = built_in::ALL.iter().map(|(name, text)| row(name, &source::parse(name, text)?));
        Ok(Gathered::complete(Scenarios { rows: rows.collect::<Result<_, _>>()?, page: None }))
    }
}

fn row(source: &str, scenario: &Scenario) -> Result<Row, Failure> {
    let chosen = source::Chosen { scenario: source.to_owned(), parameters: Vec::new() };
    let plan = chosen.plan(scenario)?;
    let mut commands: Vec<String> = Vec::new();
    for step in &plan.steps {
        if let Action::Collect { command, .. } = &step.action
            && !commands.contains(command)
        {
            commands.push(command.clone());
        }
    }
    let parameters = scenario
        .parameters()
        .map(|(name, default, about)| Parameter {
            name: name.to_owned(),
            about: about.to_owned(),
            default: default.clone(),
        })
        .collect();
    Ok(Row {
        name: scenario.name().to_owned(),
        title: scenario.title().to_owned(),
        commands,
        time_us: plan.time_us,
        stops: plan.stops,
        parameters,
        playbook: None,
        text: None,
    })
}

fn playbook(row: &Row) -> String {
    let mut page = format!("# {}: {}\n\n{}", row.name, row.title, row.playbook.as_deref().unwrap_or_default().trim());
    if !row.parameters.is_empty() {
        page.push_str("\n\n## Parameters\n");
        for parameter in &row.parameters {
            page.push_str(&format!(
                "\n- `--param {}={}`: {}",
                parameter.name,
                plain(&parameter.default),
                parameter.about
            ));
        }
    }
    page.push('\n');
    page
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
