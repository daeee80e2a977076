//! A scenario that was understood: every name and expression in it has a meaning.

use std::collections::{BTreeMap, BTreeSet};

use agent_model::Level;
use serde_json::Value as Json;

use crate::cel::{Program, Scope, Seen, SyntaxError, Watcher};
use crate::format::{self, Document, FormatError, OnGap, Setting, StepDocument};
use crate::near::nearest;
use crate::template::Template;
use crate::time::microseconds;

/// A scenario that was understood.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub(crate) document: Document,
    pub(crate) text: String,
    pub(crate) variables: Vec<(String, Program)>,
    pub(crate) rules: Vec<Rule>,
    /// Of each step: `when`, and the condition of `until`.
    conditions: Vec<(Option<Program>, Option<Program>)>,
}

/// One rule that was understood.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) asks: String,
    pub(crate) each: Option<Program>,
    pub(crate) when: Option<Program>,
    pub(crate) level: Level,
    pub(crate) message: Template,
    pub(crate) evidence: Vec<Program>,
    pub(crate) remedy: Option<Template>,
    pub(crate) otherwise: Option<Template>,
}

impl Rule {
    /// The names in what decides it.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.each.iter().chain(&self.when).flat_map(Program::names).collect()
    }

    fn all_names(&self) -> BTreeSet<String> {
        let templates = [Some(&self.message), self.remedy.as_ref(), self.otherwise.as_ref()];
        let programs = templates.into_iter().flatten().flat_map(Template::programs).chain(&self.evidence);
        programs.flat_map(Program::names).chain(self.names()).collect()
    }
}

/// What will be done: a scenario with its parameters filled in.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// The parameters, defaults filled in.
    pub parameters: BTreeMap<String, Json>,
    /// The steps in their order.
    pub steps: Vec<PlannedStep>,
    /// The most time that all of it may take, in microseconds.
    pub time_us: u64,
    /// The most bytes that it may read.
    pub bytes: u64,
    /// How often it may hold a thread of the target.
    pub stops: u64,
}

/// One step, with its parameters filled in.
#[derive(Debug, Clone)]
pub struct PlannedStep {
    /// Its name.
    pub name: String,
    /// Where this does not hold it is left out.
    pub when: Option<Condition>,
    /// What it does.
    pub action: Action,
    /// Whether a gap ends the run.
    pub ends_on_gap: bool,
    /// The most time that it may take, in microseconds.
    pub deadline_us: u64,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Lets time go by.
    Wait {
        /// How much, in microseconds.
        time_us: u64,
    },
    /// Looks.
    Collect {
        /// The command.
        command: String,
        /// Its options, as on a command line.
        arguments: Vec<String>,
        /// How often.
        looks: Looks,
    },
}

/// How often a step looks.
#[derive(Debug, Clone)]
pub enum Looks {
    /// Once.
    Once,
    /// A number of times.
    Repeat {
        /// How often.
        count: u64,
        /// The time from one to the next, in microseconds.
        interval_us: u64,
    },
    /// Until a condition holds.
    Until {
        /// The condition.
        condition: Condition,
        /// The time from one look to the next, in microseconds.
        every_us: u64,
        /// For how long it must hold, in microseconds.
        holds_us: u64,
    },
}

/// A condition over the artifacts.
#[derive(Debug, Clone)]
pub struct Condition(pub(crate) Program);

impl PlannedStep {
    /// What it does, for a person.
    pub fn does(&self) -> String {
        match &self.action {
            Action::Wait { time_us } => format!("wait {}", show_time(*time_us)),
            Action::Collect { command, arguments, looks } => {
                let mut words = command.clone();
                for argument in arguments {
                    words.push(' ');
                    words.push_str(argument);
                }
                match looks {
                    Looks::Once => {}
                    Looks::Repeat { count, interval_us } => {
                        words.push_str(&format!(", {count} times, every {}", show_time(*interval_us)));
                    }
                    Looks::Until { condition, every_us, holds_us } => {
                        words.push_str(&format!(", every {}, until {}", show_time(*every_us), condition.0.text()));
                        if *holds_us > 0 {
                            words.push_str(&format!(" for {}", show_time(*holds_us)));
                        }
                    }
                }
                words
            }
        }
    }
}

fn show_time(time_us: u64) -> String {
    humantime::format_duration(std::time::Duration::from_micros(time_us)).to_string()
}

impl Scenario {
    /// Reads the text of a scenario.
    ///
    /// # Errors
    ///
    /// When it is none: an unknown key, an expression that is none or names what is not there.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let document = format::document(text)?;
        let at = |what: &str, error: SyntaxError| FormatError::new(format!("{what}: {error}"));
        if !is_name(&document.name, '-') {
            return Err(FormatError::new("a scenario's name has lower-case letters, digits and hyphens"));
        }
        let mut variables = Vec::new();
        for (name, expression) in &document.variables {
            let expression = expression.as_str();
            let text = expression.ok_or_else(|| FormatError::new(format!("variable {name}: it must be a text")))?;
            variables.push((name.clone(), Program::compile(text).map_err(|e| at(&format!("variable {name}"), e))?));
        }
        let rules = document.judge.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        let mut conditions = Vec::new();
        for step in &document.steps {
            let program = |text: Option<&String>| {
                let program = text.map(|text| Program::compile(text)).transpose();
                program.map_err(|error| at(&format!("step {}", name_of(step)), error))
            };
            conditions
                .push((program(step.when.as_ref())?, program(step.until.as_ref().map(|until| &until.condition))?));
        }
        let scenario = Self { document, text: text.to_owned(), variables, rules, conditions };
        scenario.check()?;
        scenario.plan(&BTreeMap::new())?;
        Ok(scenario)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.document.name
    }

    /// In one line, what it finds out.
    pub fn title(&self) -> &str {
        &self.document.title
    }

    /// The page for a person, in Markdown.
    pub fn playbook(&self) -> &str {
        &self.document.playbook
    }

    /// The parameters by name: their defaults, and what they are.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Json, &str)> {
        let parameters = self.document.parameters.iter();
        parameters.map(|(name, parameter)| (name.as_str(), &parameter.default, parameter.about.as_str()))
    }

    /// Its text, as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// That every name means something.
    fn check(&self) -> Result<(), FormatError> {
        let mut known = BTreeSet::from(["param".to_owned()]);
        if self.document.steps.is_empty() {
            return Err(FormatError::new("there are no steps"));
        }
        for (step, (when, condition)) in self.document.steps.iter().zip(&self.conditions) {
            check_step(step)?;
            let name = name_of(step);
            if let Some(when) = when {
                all_known(when.names(), &known, &format!("step {name}"))?;
            }
            if step.collect.is_some() && !known.insert(name.to_owned()) {
                return Err(FormatError::new(format!("step {name}: there is another of that name")));
            }
            if let Some(condition) = condition {
                all_known(condition.names(), &known, &format!("step {name}"))?;
            }
        }
        for (name, program) in &self.variables {
            all_known(program.names(), &known, &format!("variable {name}"))?;
            if !is_name(name, '_') || !known.insert(name.clone()) {
                return Err(FormatError::new(format!(
                    "variable {name}: it is no name, or has one before it of its own name"
                )));
            }
        }
        let mut ids = BTreeSet::new();
        for rule in &self.rules {
            let mut known = known.clone();
            known.extend(rule.each.as_ref().map(|_| "item".to_owned()));
            all_known(rule.all_names(), &known, &format!("rule {}", rule.id))?;
            if !ids.insert(&rule.id) {
                return Err(FormatError::new(format!("rule {}: there is another of that id", rule.id)));
            }
        }
        Ok(())
    }

    /// What it will do with `given` parameters, as `--param NAME=VALUE` has them.
    ///
    /// # Errors
    ///
    /// When there is no such parameter, or it is of another kind.
    pub fn plan(&self, given: &BTreeMap<String, String>) -> Result<Plan, FormatError> {
        let parameters = self.fill_in(given)?;
        let all = serde_json::Map::from_iter(parameters.clone());
        let mut scope = Scope::default();
        scope.bind("param", Ok(Seen::owned(Json::Object(all))));
        let filler = Filler { scope };
        let budget = &self.document.budget;
        let mut steps = Vec::new();
        for (step, (when, condition)) in self.document.steps.iter().zip(&self.conditions) {
            let when = when.clone().map(Condition);
            steps.push(PlannedStep { when, ..filler.step(step, condition.as_ref())? });
        }
        Ok(Plan {
            name: self.document.name.clone(),
            parameters,
            steps,
            time_us: filler.time("the budget", &budget.time)?,
            bytes: budget.bytes,
            stops: budget.stops,
        })
    }

    fn fill_in(&self, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, Json>, FormatError> {
        for name in given.keys() {
            let names = self.document.parameters.keys().map(String::as_str);
            if !self.document.parameters.contains_key(name) {
                let near = nearest(name, names).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                return Err(FormatError::new(format!("{} has no parameter {name}{near}", self.document.name)));
            }
        }
        let value = |(name, parameter): (&String, &format::Parameter)| {
            let value = match (given.get(name), &parameter.default) {
                (None, default) => Some(default.clone()),
                (Some(text), Json::String(_)) => Some(text.as_str().into()),
                (Some(text), Json::Bool(_)) => text.parse().ok().map(Json::Bool),
                (Some(text), Json::Number(_)) => text.parse::<u64>().ok().map(Json::from),
                (Some(_), _) => None,
            };
            let kind = "a number, true or false, or a text, as its default is";
            let value = value.filter(|value| !(value.is_array() || value.is_object() || value.is_null()));
            Ok((name.clone(), value.ok_or_else(|| FormatError::new(format!("parameter {name} must be {kind}")))?))
        };
        self.document.parameters.iter().map(value).collect()
    }
}

fn rule(document: &format::RuleDocument) -> Result<Rule, FormatError> {
    let at = |error: SyntaxError| FormatError::new(format!("rule {}: {error}", document.id));
    let program = |text: &String| Program::compile(text).map_err(at);
    let template = |text: &String| Template::compile(text).map_err(at);
    let wrong = |words: &str| Err(FormatError::new(format!("rule {}: {words}", document.id)));
    if !is_name(&document.id, '-') {
        return wrong("an id has lower-case letters, digits and hyphens");
    }
    if matches!(document.level, Level::Pass | Level::Unknown) {
        return wrong("its level must be fail, warn or info: pass and unknown follow from the evidence");
    }
    if document.each.is_none() && document.when.is_none() {
        return wrong("it needs `when` or `each`");
    }
    if document.otherwise.is_none() && document.level != Level::Info {
        return wrong("it needs `otherwise`: the sentence for when it is not so");
    }
    Ok(Rule {
        id: document.id.clone(),
        asks: document.asks.clone(),
        each: document.each.as_ref().map(program).transpose()?,
        when: document.when.as_ref().map(program).transpose()?,
        level: document.level,
        message: template(&document.message)?,
        evidence: document.evidence.iter().map(program).collect::<Result<_, _>>()?,
        remedy: document.remedy.as_ref().map(template).transpose()?,
        otherwise: document.otherwise.as_ref().map(template).transpose()?,
    })
}

fn check_step(step: &StepDocument) -> Result<(), FormatError> {
    let name = name_of(step);
    let wrong = |words: &str| Err(FormatError::new(format!("step {name}: {words}")));
    if step.wait.is_some() == step.collect.is_some() {
        return wrong("it must have either `collect` or `wait`");
    }
    if step.wait.is_some() && (step.repeat.is_some() || step.until.is_some() || !step.options.is_empty()) {
        return wrong("a wait has no options, and is neither repeated nor until something");
    }
    if step.repeat.is_some() && step.until.is_some() {
        return wrong("it cannot have both `repeat` and `until`");
    }
    if step.until.is_some() && step.deadline.is_none() {
        return wrong("with `until` it needs a `deadline`");
    }
    if step.collect.is_some() && !is_name(name, '_') {
        return wrong("give it a `name` of lower-case letters, digits and underscores");
    }
    Ok(())
}

fn all_known(names: BTreeSet<String>, known: &BTreeSet<String>, of: &str) -> Result<(), FormatError> {
    match names.iter().find(|name| !known.contains(*name)) {
        None => Ok(()),
        Some(name) => {
            let near = nearest(name, known.iter().map(String::as_str));
            let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            Err(FormatError::new(format!("{of}: nothing before it is called {name}{near}")))
        }
    }
}

fn is_name(text: &str, joint: char) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == joint)
}

fn name_of(step: &StepDocument) -> &str {
    step.name.as_deref().or(step.collect.as_deref()).unwrap_or("wait")
}

/// What a look may take beside the time that it is asked to take.
const GRACE_US: u64 = 20_000_000;

/// Fills parameters in.
struct Filler {
    scope: Scope<'static>,
}

impl Filler {
    fn text(&self, of: &str, text: &str) -> Result<String, FormatError> {
        let wrong = |words: String| FormatError::new(format!("{of}: {words}"));
        let template = Template::compile(text).map_err(|error| wrong(error.to_string()))?;
        let gaps = BTreeSet::new();
        template
            .fill(&self.scope, &Watcher::new(&gaps))
            .map_err(|fault| wrong(format!("{text:?} has no value: {fault:?}")))
    }

    fn time(&self, of: &str, text: &str) -> Result<u64, FormatError> {
        let text = self.text(of, text)?;
        microseconds(&text).ok_or_else(|| FormatError::new(format!("{of}: {text:?} is no time such as 10s")))
    }

    fn number(&self, of: &str, setting: &Setting) -> Result<u64, FormatError> {
        match setting {
            Setting::Number(number) => Ok(*number),
            Setting::Text(text) => {
                let text = self.text(of, text)?;
                text.parse().map_err(|_| FormatError::new(format!("{of}: {text:?} is no number")))
            }
        }
    }

    fn step(&self, step: &StepDocument, condition: Option<&Program>) -> Result<PlannedStep, FormatError> {
        let name = name_of(step);
        let of = format!("step {name}");
        let (action, takes_us) = match (&step.collect, &step.wait) {
            (Some(command), _) => {
                let (looks, takes_us) = self.looks(step, condition, &of)?;
                (Action::Collect { command: command.clone(), arguments: self.arguments(step, &of)?, looks }, takes_us)
            }
            (None, wait) => {
                let time_us = self.time(&of, wait.as_deref().unwrap_or("0s"))?;
                (Action::Wait { time_us }, time_us)
            }
        };
        let grace_us = if matches!(action, Action::Wait { .. }) { 0 } else { GRACE_US };
        let deadline_us = match &step.deadline {
            Some(deadline) => self.time(&of, deadline)?,
            None => takes_us.saturating_add(grace_us),
        };
        Ok(PlannedStep {
            name: name.to_owned(),
            when: None,
            action,
            ends_on_gap: step.on_gap == OnGap::Stop,
            deadline_us,
        })
    }

    fn looks(&self, step: &StepDocument, condition: Option<&Program>, of: &str) -> Result<(Looks, u64), FormatError> {
        if let Some(repeat) = &step.repeat {
            let (count, interval_us) = (self.number(of, &repeat.count)?, self.time(of, &repeat.interval)?);
            if !(1..=1000).contains(&count) {
                return Err(FormatError::new(format!("{of}: it can repeat 1 to 1000 times")));
            }
            return Ok((Looks::Repeat { count, interval_us }, interval_us.saturating_mul(count - 1)));
        }
        let Some((until, condition)) = step.until.as_ref().zip(condition) else { return Ok((Looks::Once, 0)) };
        let (every_us, holds_us) = (self.time(of, &until.every)?, self.time(of, &until.holds)?);
        Ok((Looks::Until { condition: Condition(condition.clone()), every_us: every_us.max(1000), holds_us }, holds_us))
    }

    fn arguments(&self, step: &StepDocument, of: &str) -> Result<Vec<String>, FormatError> {
        let mut all = Vec::new();
        for (key, value) in &step.options {
            let flag = format!("--{key}");
            let values = match value {
                Json::Bool(true) => {
                    all.push(flag);
                    continue;
                }
                Json::Bool(false) => continue,
                Json::Array(values) => values.clone(),
                value => vec![value.clone()],
            };
            for value in values {
                let text = match value {
                    Json::String(text) => self.text(of, &text)?,
                    Json::Number(number) => number.to_string(),
                    _ => return Err(FormatError::new(format!("{of}: option {key} must be a text, a number or true"))),
                };
                all.push(format!("{flag}={text}"));
            }
        }
        Ok(all)
    }
}
