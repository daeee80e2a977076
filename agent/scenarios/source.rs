//! Which scenario is meant, and with which parameters.

use std::collections::BTreeMap;

use agent_scenario::format::LARGEST;
use agent_scenario::{Origin, Plan, Scenario, built_in};
use agent_system::{Cause, Failure, Run};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// A scenario and its parameters, on a command line.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub(crate) struct Chosen {
    /// The name of a scenario (see `agent scenarios`), a file, or - for standard input
    #[arg(value_name = super::NAME_OR_FILE, value_parser = source)]
    #[schemars(extend("x-class" = "word"))]
    pub(crate) scenario: String,
    /// Set a parameter of the scenario
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    #[serde(rename = "parameters", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-class" = "word"))]
    pub(crate) parameters: Vec<(String, String)>,
}

/// A file's name has a dot or a slash, and a scenario's has neither.
fn is_file(text: &str) -> bool {
    text == "-" || text.contains(['.', '/'])
}

fn source(text: &str) -> Result<String, String> {
    if is_file(text) || built_in::text(text).is_some() {
        return Ok(text.to_owned());
    }
    let near = built_in::nearest(text).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    Err(format!("there is no such scenario{near} `agent scenarios` lists them; a file's name has a dot or a slash"))
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Chosen {
    /// Reads the scenario, through `run` if it is a file.
    pub(crate) fn load(&self, run: &Run) -> Result<Scenario, Failure> {
        load(&self.scenario, run)
    }

    /// What `scenario` will do with the parameters.
    pub(crate) fn plan(&self, scenario: &Scenario) -> Result<Plan, Failure> {
        let given: BTreeMap<String, String> = self.parameters.iter().cloned().collect();
        scenario.plan(&given).map_err(|error| Failure::new(self.scenario.as_str(), Cause::Invalid(error.to_string())))
    }

    /// The most time that it takes, if it is one of our own.
    pub(crate) fn lasts(&self) -> Option<std::time::Duration> {
        let scenario = Scenario::parse(built_in::text(&self.scenario)?).ok()?;
        Some(std::time::Duration::from_micros(self.plan(&scenario).ok()?.time_us))
    }
}

/// Reads a scenario by its name, or a file.
pub(crate) fn load(source: &str, run: &Run) -> Result<Scenario, Failure> {
    let bytes;
    let text = match built_in::text(source) {
        Some(text) => text,
        None => {
            bytes = run.own_file(source, LARGEST)?;
            std::str::from_utf8(&bytes).map_err(|_| Failure::new(source, Cause::Malformed("it is not UTF-8")))?
        }
    };
    parse(source, text)
}

/// Reads the text of a scenario that came from `source`.
pub(crate) fn parse(source: &str, text: &str) -> Result<Scenario, Failure> {
    Scenario::parse(text).map_err(|error| Failure::new(source, Cause::Invalid(error.to_string())))
}

/// What evidence says of its scenario.
pub(crate) fn origin(scenario: &Scenario) -> Origin {
    let is_ours = built_in::text(scenario.name()) == Some(scenario.text());
    let sha256 = Sha256::digest(scenario.text().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = (!is_ours).then(|| scenario.text().to_owned());
    Origin { name: scenario.name().to_owned(), sha256, text }
}
