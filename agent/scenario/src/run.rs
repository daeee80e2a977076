//! Running a plan: its steps in order, until the last or until something ends it.

use std::collections::BTreeSet;

use agent_model::Unseen;
use serde_json::Value as Json;

use crate::cel::{Scope, Seen, Value, Watcher};
use crate::diff::Schemas;
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

    /// The schemas of what it collects.
    fn schemas(&self) -> Schemas {
        Schemas::default()
    }

    /// Keeps `artifact` where evidence is kept beside the answer, and notes there where that is. It is called once
    /// for each, when no later look will take its place.
    ///
    /// # Errors
    ///
    /// When it cannot be kept.
    fn keep(&mut self, _artifact: &mut Artifact) -> Result<(), Failed> {
        Ok(())
    }

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
    let (parameters, schemas) = (plan.parameters.clone(), host.schemas());
    let evidence = Evidence { scenario: origin, parameters, schemas, ..Evidence::default() };
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
        if let Some(when) = step.when.as_ref().filter(|when| !self.holds(when)) {
            let words = format!("step {} was left out: it is not so that {}", step.name, when.0.text());
            let left_out = Failed { reason: "incomplete".to_owned(), words, remedy: None, ends: false };
            self.note(&step.name, &left_out);
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
                    self.keep(&step.name);
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
                        if !self.pause(left_us, &step.name) {
                            return;
                        }
                        let goes_on = self.look(step, command, arguments, &name, deadline_us);
                        if !self.keep(&name) || !goes_on {
                            return;
                        }
                    }
                }
                Looks::Until { condition, every_us, holds_us } => {
                    self.until(step, (command, arguments), condition, (*every_us, *holds_us), deadline_us, progress);
                    self.keep(&step.name);
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
        let parameters = serde_json::Map::from_iter(self.evidence.parameters.clone());
        scope.bind("param", Ok(Seen::owned(Json::Object(parameters))));
        judge::bind(&mut scope, &self.evidence);
        let value = condition.0.value(&scope, &Watcher::new(&gaps).knowing(self.evidence.schemas));
        value.is_ok_and(|value| matches!(value.value, Value::Bool(true)))
    }

    /// Looks once; whether the step goes on.
    fn look(&mut self, step: &PlannedStep, command: &str, arguments: &[String], name: &str, deadline_us: u64) -> bool {
        match self.host.collect(command, arguments, deadline_us) {
            Ok(envelope) => {
                let has_gaps = envelope["gaps"].as_array().is_some_and(|gaps| !gaps.is_empty());
                self.evidence.artifacts.push(Artifact { name: name.to_owned(), envelope, file: None });
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

    /// Lets the host keep artifact `name`, if it is there; whether the step goes on.
    fn keep(&mut self, name: &str) -> bool {
        let Some(artifact) = self.evidence.artifacts.last_mut().filter(|artifact| artifact.name == name) else {
            return true;
        };
        match self.host.keep(artifact) {
            Ok(()) => true,
            Err(failed) => {
                self.cut_off(name, &failed);
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use serde_json::json;

    use super::*;
    use crate::Scenario;

    /// A host whose clock goes on only while it waits, and that answers with what it was given.
    #[derive(Default)]
    struct Fake {
        now_us: u64,
        answers: VecDeque<Result<Json, Failed>>,
        asked: Vec<String>,
        wait_fails: Option<Failed>,
    }

    impl Host for Fake {
        fn now_us(&mut self) -> u64 {
            self.now_us
        }

        fn collect(&mut self, command: &str, arguments: &[String], deadline_us: u64) -> Result<Json, Failed> {
            assert!(self.now_us <= deadline_us);
            self.asked.push(format!("{} {command} {}", self.now_us / 1_000_000, arguments.join(" ")));
            self.answers.pop_front().unwrap_or_else(|| Ok(json!({"gaps": [], "data": {"n": self.now_us / 1_000_000}})))
        }

        fn wait(&mut self, time_us: u64) -> Result<(), Failed> {
            self.now_us += time_us;
            self.wait_fails.clone().map_or(Ok(()), Err)
        }

        fn tell(&mut self, _: &Progress<'_>) {}
    }

    fn failed(ends: bool) -> Failed {
        Failed { reason: "permission_denied".to_owned(), words: "no".to_owned(), remedy: None, ends }
    }

    fn run_with(steps: &str, host: &mut Fake) -> Evidence {
        let rule = "judge: [{id: a, asks: b, when: 'true', level: info, message: c}]";
        let text = format!("name: x\ntitle: y\nbudget: {{time: 100s}}\nsteps:\n{steps}\n{rule}\n");
        let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        run(&scenario.plan(&BTreeMap::new()).unwrap(), Origin::default(), host)
    }

    fn ends(evidence: &Evidence) -> Vec<StepEnd> {
        evidence.steps.iter().map(|step| step.end).collect()
    }

    #[test]
    fn steps_run_in_order_and_at_their_times() {
        let mut host = Fake::default();
        let steps = "  - {collect: a, options: {x: 1, y: true, z: [p, q], w: false}}\n  - {wait: 5s}\n  \
                     - {name: r, collect: b, repeat: {count: 3, interval: 10s}}";
        let evidence = run_with(steps, &mut host);
        assert_eq!(host.asked, ["0 a --x=1 --y --z=p --z=q", "5 b ", "15 b ", "25 b "]);
        assert_eq!(ends(&evidence), [StepEnd::Done; 3]);
        let names: Vec<&str> = evidence.artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
        assert_eq!(names, ["a", "r[0]", "r[1]", "r[2]"]);
    }

    #[test]
    fn a_condition_must_hold_for_its_time_and_only_the_last_look_is_kept() {
        let mut host = Fake::default();
        // It holds from 3 on, with a relapse at 5.
        let step = "  - {name: u, collect: a, until: {condition: 'u.data.n >= 3 && u.data.n != 5', every: 1s, holds: 2s}, deadline: 50s}";
        let evidence = run_with(step, &mut host);
        assert_eq!(host.now_us, 8_000_000);
        assert_eq!(ends(&evidence), [StepEnd::Done]);
        assert_eq!(evidence.artifacts.len(), 1);
        assert_eq!(evidence.artifacts[0].envelope["data"]["n"], 8);
        let mut host = Fake::default();
        let evidence = run_with(&step.replace("n >= 3", "nothing >= 3").replace("50s", "4s"), &mut host);
        assert_eq!(ends(&evidence), [StepEnd::NotMet]);
        assert_eq!(host.now_us, 4_000_000);
    }

    #[test]
    fn the_budget_of_time_ends_the_run() {
        let mut host = Fake::default();
        let evidence = run_with(
            "  - {wait: 90s}\n  - {name: r, collect: b, repeat: {count: 9, interval: 4s}}\n  - {collect: c}",
            &mut host,
        );
        assert_eq!(ends(&evidence), [StepEnd::Done, StepEnd::CutOff, StepEnd::Done]);
        assert_eq!(evidence.steps[1].looks, 3);
        assert_eq!(evidence.steps[1].gaps[0].reason, "timeout");
        let mut host = Fake::default();
        let evidence = run_with("  - {wait: 200s}\n  - {collect: c}", &mut host);
        assert_eq!(ends(&evidence), [StepEnd::CutOff, StepEnd::Skipped]);
        assert_eq!(host.now_us, 100_000_000);
    }

    #[test]
    fn what_fails_is_noted_or_ends_the_run() {
        let two = "  - {collect: a}\n  - {collect: b}";
        let mut host = Fake { answers: [Err(failed(false))].into(), ..Fake::default() };
        let evidence = run_with(two, &mut host);
        assert_eq!(ends(&evidence), [StepEnd::Failed, StepEnd::Done]);
        assert_eq!(evidence.steps[0].gaps[0].detail.as_deref(), Some("no"));
        let mut host = Fake { answers: [Err(failed(true))].into(), ..Fake::default() };
        assert_eq!(ends(&run_with(two, &mut host)), [StepEnd::CutOff, StepEnd::Skipped]);
        let mut host = Fake { answers: [Err(failed(false))].into(), ..Fake::default() };
        let stops = two.replace("collect: a", "collect: a, on_gap: stop");
        assert_eq!(ends(&run_with(&stops, &mut host)), [StepEnd::Failed, StepEnd::Skipped]);
        let gap = json!({"gaps": [{"at": "/rows", "reason": "incomplete"}], "data": {}});
        let mut host = Fake { answers: [Ok(gap)].into(), ..Fake::default() };
        assert_eq!(ends(&run_with(&stops, &mut host)), [StepEnd::Done, StepEnd::Skipped]);
        let mut host = Fake { wait_fails: Some(failed(true)), ..Fake::default() };
        assert_eq!(ends(&run_with("  - {wait: 5s}\n  - {collect: b}", &mut host)), [StepEnd::CutOff, StepEnd::Skipped]);
    }

    #[test]
    fn a_step_is_left_out_where_its_condition_does_not_hold() {
        let mut host = Fake::default();
        let steps = "  - {collect: a}\n  - {collect: b, when: 'a.data.n > 5'}\n  - {collect: c, when: 'a.data.n == 0'}\n  - {collect: d, when: 'a.data.gone'}";
        let evidence = run_with(steps, &mut host);
        assert_eq!(ends(&evidence), [StepEnd::Done, StepEnd::Skipped, StepEnd::Done, StepEnd::Skipped]);
        assert!(evidence.steps[1].gaps[0].detail.as_deref().unwrap().contains("a.data.n > 5"));
    }
}
