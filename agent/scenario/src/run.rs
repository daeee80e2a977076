//! Running a plan: its steps in order, until the last or until something ends it.

use std::collections::BTreeSet;

use agent_model::Unseen;
use serde_json::Value as Json;

use crate::cel::{Scope, Value, Watcher};
use crate::evidence::{Artifact, Evidence, Origin, Step, StepEnd};
use crate::judge;
use crate::scenario::{Action, Condition, Looks, Plan, PlannedStep};

/// What runs a plan: performs commands, lets time go by.
pub trait Host {
    /// Microseconds on a clock that only goes on.
    fn now_us(&mut self) -> u64;

    /// Performs `command` with `arguments`, and is done by `deadline_us` on that clock.
    ///
    /// # Errors
    ///
    /// When there is no envelope.
    fn collect(&mut self, command: &str, arguments: &[String], deadline_us: u64) -> Result<Json, Failed>;

    /// Lets `time_us` go by.
    ///
    /// # Errors
    ///
    /// When the run must end: a signal, the target's end, a limit.
    fn wait(&mut self, time_us: u64) -> Result<(), Failed>;

    /// Tells a person what is about to be done.
    fn tell(&mut self, progress: &Progress<'_>);
}

/// What is about to be done.
#[derive(Debug)]
pub struct Progress<'a> {
    /// The step, from 1.
    pub step: usize,
    /// Of how many.
    pub of: usize,
    /// Its name.
    pub name: &'a str,
    /// What it does.
    pub does: &'a str,
    /// Which look of the step, from 1, and of how many where that is known.
    pub look: Option<(u64, Option<u64>)>,
}

/// Why there is no envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The reason, as that of a gap.
    pub reason: String,
    /// In words.
    pub words: String,
    /// What a person can do about it.
    pub remedy: Option<String>,
    /// Whether the run must end.
    pub ends: bool,
}

/// Runs `plan`. Whatever happens, what was gathered by then is there.
pub fn run(plan: &Plan, origin: Origin, host: &mut dyn Host) -> Evidence {
    let ends_us = host.now_us().saturating_add(plan.time_us);
    let evidence = Evidence { scenario: origin, parameters: plan.parameters.clone(), ..Evidence::default() };
    let mut runner = Runner { host, evidence, ends_us, ended: None };
    for (index, step) in plan.steps.iter().enumerate() {
        runner.step(step, (index + 1, plan.steps.len()));
    }
    runner.evidence
}

/// What a look that began before the deadline of its step may take beyond it, in microseconds.
const LAST_LOOK_US: u64 = 5_000_000;

struct Runner<'h> {
    host: &'h mut dyn Host,
    evidence: Evidence,
    ends_us: u64,
    /// Why no step is begun any more.
    ended: Option<Failed>,
}

impl Runner<'_> {
    fn step(&mut self, step: &PlannedStep, (number, of): (usize, usize)) {
        let does = step.does();
        let begun =
            Step { name: step.name.clone(), does: does.clone(), end: StepEnd::Done, looks: 0, gaps: Vec::new() };
        self.evidence.steps.push(begun);
        let now_us = self.host.now_us();
        if self.ended.is_none() && now_us >= self.ends_us {
            self.ended = Some(out_of_time("the time of the scenario was over"));
        }
        if let Some(ended) = self.ended.clone() {
            self.note(&step.name, &ended);
            return self.end(StepEnd::Skipped);
        }
        let deadline_us = now_us.saturating_add(step.deadline_us).min(self.ends_us);
        let mut progress = Progress { step: number, of, name: &step.name, does: &does, look: None };
        match &step.action {
            Action::Wait { time_us } => {
                self.host.tell(&progress);
                let left_us = deadline_us.saturating_sub(now_us);
                let waited = self.pause((*time_us).min(left_us), &step.name);
                if waited && *time_us > left_us {
                    self.cut_off(&step.name, &out_of_time("the time of the scenario was over"));
                }
            }
            Action::Collect { command, arguments, looks } => match looks {
                Looks::Once => {
                    self.host.tell(&progress);
                    self.look(step, command, arguments, &step.name, deadline_us);
                }
                Looks::Repeat { count, interval_us } => {
                    for look in 0..*count {
                        let due_us = now_us.saturating_add(interval_us.saturating_mul(look));
                        if due_us > deadline_us {
                            return self
                                .cut_off(&step.name, &out_of_time("the step's deadline came before its last look"));
                        }
                        let left_us = due_us.saturating_sub(self.host.now_us());
                        progress.look = Some((look + 1, Some(*count)));
                        self.host.tell(&progress);
                        let name = format!("{}[{look}]", step.name);
                        if !self.pause(left_us, &step.name) || !self.look(step, command, arguments, &name, deadline_us)
                        {
                            return;
                        }
                    }
                }
                Looks::Until { condition, every_us, holds_us } => {
                    self.until(step, (command, arguments), condition, (*every_us, *holds_us), deadline_us, progress);
                }
            },
        }
    }

    fn until(
        &mut self,
        step: &PlannedStep,
        (command, arguments): (&str, &[String]),
        condition: &Condition,
        (every_us, holds_us): (u64, u64),
        deadline_us: u64,
        mut progress: Progress<'_>,
    ) {
        let mut since_us = None;
        // The last look begins before the deadline, and is not cut off by it.
        let done_by_us = deadline_us.saturating_add(LAST_LOOK_US).min(self.ends_us);
        for look in 1.. {
            progress.look = Some((look, None));
            self.host.tell(&progress);
            // Only the last look is kept.
            self.evidence.artifacts.retain(|artifact| artifact.name != step.name);
            if !self.look(step, command, arguments, &step.name, done_by_us) {
                return;
            }
            let now_us = self.host.now_us();
            if !self.holds(condition) {
                since_us = None;
            } else if now_us.saturating_sub(*since_us.get_or_insert(now_us)) >= holds_us {
                return;
            }
            if now_us.saturating_add(every_us) > deadline_us {
                self.note(&step.name, &out_of_time("the condition did not come true before the deadline"));
                return self.end(StepEnd::NotMet);
            }
            if !self.pause(every_us, &step.name) {
                return;
            }
        }
    }

    /// Whether `condition` is so. What it needs and is not there makes it not so.
    fn holds(&self, condition: &Condition) -> bool {
        let gaps = BTreeSet::new();
        let mut scope = Scope::default();
        judge::bind(&mut scope, &self.evidence);
        let value = condition.0.value(&scope, &Watcher::new(&gaps));
        value.is_ok_and(|value| matches!(value.value, Value::Bool(true)))
    }

    /// Looks once; whether the step goes on.
    fn look(&mut self, step: &PlannedStep, command: &str, arguments: &[String], name: &str, deadline_us: u64) -> bool {
        match self.host.collect(command, arguments, deadline_us) {
            Ok(envelope) => {
                let has_gaps = envelope["gaps"].as_array().is_some_and(|gaps| !gaps.is_empty());
                self.evidence.artifacts.push(Artifact { name: name.to_owned(), envelope });
                if let Some(step) = self.evidence.steps.last_mut() {
                    step.looks += 1;
                }
                if has_gaps && step.ends_on_gap {
                    let words = format!("step {} had gaps, and was told to stop at them", step.name);
                    self.ended = Some(Failed { reason: "incomplete".to_owned(), words, remedy: None, ends: true });
                    return false;
                }
                true
            }
            Err(failed) if failed.ends => {
                self.cut_off(&step.name, &failed);
                false
            }
            Err(failed) => {
                self.note(&step.name, &failed);
                self.end(StepEnd::Failed);
                if step.ends_on_gap {
                    self.ended = Some(failed);
                }
                false
            }
        }
    }

    /// Waits; whether the step goes on.
    fn pause(&mut self, time_us: u64, name: &str) -> bool {
        match self.host.wait(time_us) {
            Ok(()) => true,
            Err(failed) => {
                self.cut_off(name, &failed);
                false
            }
        }
    }

    fn cut_off(&mut self, name: &str, failed: &Failed) {
        self.note(name, failed);
        self.end(StepEnd::CutOff);
        if failed.ends {
            self.ended = Some(failed.clone());
        }
    }

    fn note(&mut self, name: &str, failed: &Failed) {
        if let Some(step) = self.evidence.steps.last_mut() {
            step.gaps.push(Unseen {
                artifact: name.to_owned(),
                at: String::new(),
                reason: failed.reason.clone(),
                detail: Some(failed.words.clone()),
                remedy: failed.remedy.clone(),
            });
        }
    }

    fn end(&mut self, end: StepEnd) {
        if let Some(step) = self.evidence.steps.last_mut() {
            step.end = end;
        }
    }
}

fn out_of_time(words: &str) -> Failed {
    let remedy = Some("give the scenario a larger budget or the step a larger deadline".to_owned());
    Failed { reason: "timeout".to_owned(), words: words.to_owned(), remedy, ends: false }
}
