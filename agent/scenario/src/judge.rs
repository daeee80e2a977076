//! From evidence to findings. Pure: the same evidence gives the same findings, byte for byte.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use agent_model::{Finding, Level, Pointer, Unseen};
use serde_json::Value as Json;

use crate::cel::{Fault, Missing, Place, Program, Scope, Seen, Value, Watcher};
use crate::evidence::{Evidence, Step, StepEnd};
use crate::scenario::{Rule, Scenario};
use crate::template::Template;

/// Of one rule, so many items are told one by one.
const TOLD: usize = 10;

/// So many places of evidence, and gaps, stand with one finding.
const POINTERS: usize = 20;

/// What `scenario` concludes from `evidence`: the worst first, and equal ones in the order of the rules.
pub fn judge(scenario: &Scenario, evidence: &Evidence) -> Vec<Finding> {
    let gaps = gaps(evidence);
    let places: BTreeSet<(String, String)> = gaps.keys().cloned().collect();
    let mut scope = Scope::default();
    let parameters = serde_json::Map::from_iter(evidence.parameters.clone());
    scope.bind("param", Ok(Seen::owned(Json::Object(parameters))));
    bind(&mut scope, evidence);
    // What a scenario of now asks for and the evidence of then does not have.
    for step in &scenario.document.steps {
        let name = step.name.as_deref().or(step.collect.as_deref()).unwrap_or_default();
        if step.collect.is_some() && !evidence.steps.iter().any(|known| known.name == name) {
            scope.bind(name, Err(missing(name, "it was not collected")));
        }
    }
    let mut judge = Judge { evidence, name: scenario.name(), gaps, places: &places, scope, behind: BTreeMap::new() };
    for (name, program) in &scenario.variables {
        judge.variable(name, program);
    }
    let mut findings: Vec<Finding> = scenario.rules.iter().flat_map(|rule| judge.rule(rule)).collect();
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// Lets the name of each step mean what it collected.
pub(crate) fn bind<'a>(scope: &mut Scope<'a>, evidence: &'a Evidence) {
    for step in &evidence.steps {
        let looks = format!("{}[", step.name);
        let of_step = evidence.artifacts.iter().filter(|artifact| artifact.name.starts_with(&looks));
        let looks: Vec<Seen<'a>> =
            of_step.map(|artifact| Seen::json(&artifact.envelope, Some(Place::root(&artifact.name)))).collect();
        let alone = evidence.artifacts.iter().find(|artifact| artifact.name == step.name);
        let value = match (alone, looks.is_empty()) {
            (Some(artifact), _) => Ok(Seen::json(&artifact.envelope, Some(Place::root(&artifact.name)))),
            (None, false) => Ok(Seen::list(looks)),
            (None, true) => Err(missing(&step.name, &why(step))),
        };
        scope.bind(&step.name, value);
    }
}

fn why(step: &Step) -> String {
    let words = step.gaps.first().and_then(|gap| gap.detail.clone());
    words.unwrap_or_else(|| "nothing was collected".to_owned())
}

fn missing(artifact: &str, words: &str) -> Fault {
    let pointer = Some(Pointer { artifact: artifact.to_owned(), at: String::new() });
    Fault::Missing(Missing { pointer, words: format!("{artifact}: {words}") })
}

/// The gaps of all envelopes, by artifact and place in the envelope.
fn gaps(evidence: &Evidence) -> BTreeMap<(String, String), Unseen> {
    let mut all = BTreeMap::new();
    for artifact in &evidence.artifacts {
        for gap in artifact.envelope["gaps"].as_array().into_iter().flatten() {
            let text = |key: &str| gap[key].as_str().map(str::to_owned);
            let at = format!("/data{}", text("at").unwrap_or_default());
            let detail = match (text("path"), text("errno"), text("detail")) {
                (path, errno, detail) if path.is_some() || errno.is_some() || detail.is_some() => {
                    Some([path, errno, detail].into_iter().flatten().collect::<Vec<_>>().join(": "))
                }
                _ => None,
            };
            let reason = text("reason").unwrap_or_else(|| "incomplete".to_owned());
            let name = artifact.name.clone();
            let unseen = Unseen { artifact: name.clone(), at: at.clone(), reason, detail, remedy: text("remedy") };
            all.entry((name, at)).or_insert(unseen);
        }
    }
    all
}

struct Judge<'a, 'g> {
    evidence: &'a Evidence,
    name: &'a str,
    gaps: BTreeMap<(String, String), Unseen>,
    places: &'g BTreeSet<(String, String)>,
    scope: Scope<'a>,
    /// Of each variable: the steps behind it, and the gaps that were come upon.
    behind: BTreeMap<String, (BTreeSet<String>, BTreeSet<(String, String)>)>,
}

impl<'a> Judge<'a, '_> {
    fn variable(&mut self, name: &str, program: &Program) {
        let watcher = Watcher::new(self.places).knowing(self.evidence.schemas);
        let value = program.value(&self.scope, &watcher);
        let (steps, mut hit) = self.behind(&program.names());
        hit.extend(watcher.hit());
        self.behind.insert(name.to_owned(), (steps, hit));
        self.scope.bind(name, value);
    }

    /// The steps behind `names`, and the gaps that variables among them came upon.
    fn behind(&self, names: &BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<(String, String)>) {
        let (mut steps, mut hit) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            match self.behind.get(name) {
                Some((of_steps, of_gaps)) => {
                    steps.extend(of_steps.iter().cloned());
                    hit.extend(of_gaps.iter().cloned());
                }
                None => {
                    steps.insert(name.clone());
                }
            }
        }
        (steps, hit)
    }

    fn rule(&self, rule: &Rule) -> Vec<Finding> {
        let watcher = Watcher::new(self.places).knowing(self.evidence.schemas);
        let held = self.held(rule, &watcher);
        let (steps, mut hit) = self.behind(&rule.names());
        hit.extend(watcher.hit());
        // What holds for all rows of an artifact holds for its totals as well.
        for (place, unseen) in &self.gaps {
            let step = unseen.artifact.split('[').next().unwrap_or_default();
            if matches!(unseen.at.as_str(), "/data" | "/data/" | "/data/rows") && steps.contains(step) {
                hit.insert(place.clone());
            }
        }
        let mut gaps: Vec<Unseen> = hit.iter().filter_map(|place| self.gaps.get(place)).cloned().collect();
        for step in self.evidence.steps.iter().filter(|step| steps.contains(&step.name)) {
            if matches!(step.end, StepEnd::Failed | StepEnd::CutOff | StepEnd::Skipped) {
                gaps.extend(step.gaps.iter().cloned());
            }
        }
        match held {
            Ok(scopes) if !scopes.is_empty() => self.told(rule, &scopes, gaps),
            Ok(_) if gaps.is_empty() => {
                let Some(otherwise) = &rule.otherwise else { return Vec::new() };
                let mut finding = self.finding(rule, Level::Pass, otherwise, &self.scope, gaps);
                finding.remedy = None;
                vec![finding]
            }
            Ok(_) => vec![self.unknown(rule, gaps, "a part of what it needs was not seen")],
            Err(Fault::Missing(missing)) => {
                if gaps.is_empty() {
                    let pointer = missing.pointer.unwrap_or(Pointer { artifact: String::new(), at: String::new() });
                    gaps.push(Unseen {
                        artifact: pointer.artifact,
                        at: pointer.at,
                        reason: "not_found".to_owned(),
                        detail: Some(missing.words.clone()),
                        remedy: None,
                    });
                }
                vec![self.unknown(rule, gaps, &missing.words)]
            }
            Err(Fault::Wrong(words)) => vec![self.unknown(rule, gaps, &format!("the rule is wrong: {words}"))],
        }
    }

    /// The scopes in which the rule holds: one, or one for each item.
    fn held(&self, rule: &Rule, watcher: &Watcher<'_>) -> Result<Vec<Scope<'a>>, Fault> {
        let holds = |scope: &Scope<'a>| match &rule.when {
            None => Ok(true),
            Some(when) => match when.value(scope, watcher)?.value {
                Value::Bool(flag) => Ok(flag),
                _ => Err(Fault::Wrong("`when` is neither true nor false".to_owned())),
            },
        };
        let Some(each) = &rule.each else {
            return Ok(if holds(&self.scope)? { vec![self.scope.clone()] } else { Vec::new() });
        };
        let list = each.value(&self.scope, watcher)?;
        let items = list.items().ok_or_else(|| Fault::Wrong("`each` is no list".to_owned()))?;
        watcher.walked(&list);
        let mut held = Vec::new();
        let mut fault = None;
        for item in items {
            let mut scope = self.scope.clone();
            scope.bind("item", Ok(item));
            match holds(&scope) {
                Ok(true) => held.push(scope),
                Ok(false) => {}
                Err(found) => fault = fault.or(Some(found)),
            }
        }
        // One that is found is told, whatever could not be told of the others.
        if held.is_empty() { fault.map_or(Ok(held), Err) } else { Ok(held) }
    }

    fn told(&self, rule: &Rule, scopes: &[Scope<'a>], gaps: Vec<Unseen>) -> Vec<Finding> {
        let finding = |scope: &Scope<'a>| self.finding(rule, rule.level, &rule.message, scope, gaps.clone());
        let mut findings: Vec<Finding> = scopes.iter().take(TOLD).map(finding).collect();
        if scopes.len() > TOLD
            && let Some(last) = findings.last_mut()
        {
            last.message.push_str(&format!(" ({} more like it are not listed.)", scopes.len() - TOLD));
        }
        findings
    }

    fn unknown(&self, rule: &Rule, mut gaps: Vec<Unseen>, words: &str) -> Finding {
        gaps.truncate(POINTERS);
        let detail = gaps.first().and_then(|gap| gap.detail.clone()).unwrap_or_else(|| words.to_owned());
        let remedy = gaps.iter().find_map(|gap| gap.remedy.clone());
        Finding {
            level: Level::Unknown,
            id: format!("{}/{}", self.name, rule.id),
            message: format!("It could not be told whether {}: {detail}", rule.asks),
            evidence: Vec::new(),
            remedy,
            playbook: Some(self.playbook()),
            gaps,
        }
    }

    fn finding(
        &self,
        rule: &Rule,
        level: Level,
        message: &Template,
        scope: &Scope<'a>,
        mut gaps: Vec<Unseen>,
    ) -> Finding {
        let none = BTreeSet::new();
        let watcher = Watcher::new(&none).knowing(self.evidence.schemas);
        let mut evidence = Vec::new();
        for program in &rule.evidence {
            let Ok(seen) = program.value(scope, &watcher) else { continue };
            match &seen.place {
                Some(place) => evidence.push(place.pointer()),
                None => {
                    let items = seen.items().unwrap_or_default();
                    evidence.extend(items.iter().filter_map(|item| item.place.as_ref()).map(|place| place.pointer()));
                }
            }
        }
        evidence.truncate(POINTERS);
        gaps.truncate(POINTERS);
        Finding {
            level,
            id: format!("{}/{}", self.name, rule.id),
            message: message.tell(scope, &watcher),
            evidence,
            remedy: rule.remedy.as_ref().map(|remedy| remedy.tell(scope, &watcher)),
            playbook: Some(self.playbook()),
            gaps,
        }
    }

    fn playbook(&self) -> Cow<'static, str> {
        format!("agent scenarios {}", self.name).into()
    }
}
