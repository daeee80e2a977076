//! Findings, and for a person: sentences, the worst first.

use std::fmt::Write as _;

use agent_model::data::LeftOut;
use agent_model::{Data, Finding, Gap, Level, Listing, Reason, Unseen};
use schemars::JsonSchema;
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

/// Findings of a scenario, the worst first, and what is said of all of them.
#[derive(Serialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Findings<S>(pub(crate) Listing<Finding, S>);

/// What is said of all findings.
pub(crate) trait OfScenario: Serialize + Send + 'static {
    /// The scenario's name.
    fn scenario(&self) -> &str;

    /// As [`Data::leave_out`]: what is found stays.
    fn leave_out(&mut self) -> Option<LeftOut> {
        None
    }
}

impl<S: OfScenario> Data for Findings<S> {
    fn row_count(&self) -> Option<usize> {
        self.0.row_count()
    }

    fn row(&self, index: usize) -> Option<&dyn erased_serde::Serialize> {
        self.0.row(index)
    }

    fn summary(&self) -> Option<&dyn erased_serde::Serialize> {
        self.0.summary()
    }

    fn leave_out(&mut self, _: u64) -> Option<LeftOut> {
        self.0.summary.leave_out()
    }

    fn page(&self, width: usize) -> Option<String> {
        Some(findings(self.0.summary.scenario(), &self.0.rows, width))
    }
}

/// The findings as a page of `width` columns.
pub(crate) fn findings(title: &str, findings: &[Finding], width: usize) -> String {
    let mut page = String::new();
    let counts: Vec<String> = [Level::Fail, Level::Warn, Level::Unknown, Level::Pass, Level::Info]
        .into_iter()
        .map(|level| (findings.iter().filter(|finding| finding.level == level).count(), level))
        .filter(|(count, _)| *count > 0)
        .map(|(count, level)| format!("{count} {}", level.as_str()))
        .collect();
    let counts = if counts.is_empty() { "nothing found".to_owned() } else { counts.join(", ") };
    let _ = writeln!(page, "{title}: {counts}\n");
    for finding in findings {
        let word = match finding.level {
            Level::Fail | Level::Warn | Level::Unknown => finding.level.as_str().to_uppercase(),
            Level::Pass | Level::Info => finding.level.as_str().to_owned(),
        };
        paragraph(&mut page, &format!("{word:9}"), &finding.message, width);
        let is_bad = matches!(finding.level, Level::Fail | Level::Warn | Level::Unknown);
        if let Some(remedy) = finding.remedy.as_ref().filter(|_| is_bad) {
            paragraph(&mut page, "    next:    ", remedy, width);
        }
        if is_bad && !finding.evidence.is_empty() {
            let mut places: Vec<String> =
                finding.evidence.iter().take(3).map(|place| format!("{}{}", place.artifact, place.at)).collect();
            if finding.evidence.len() > 3 {
                places.push(format!("and {} more", finding.evidence.len() - 3));
            }
            paragraph(&mut page, "    seen in: ", &places.join(", "), width);
        }
        if is_bad && let Some(playbook) = &finding.playbook {
            paragraph(&mut page, "    read:    ", playbook, width);
        }
    }
    page
}

/// Breaks `text` into lines of at most `width` columns, `head` before the first.
fn paragraph(page: &mut String, head: &str, text: &str, width: usize) {
    let indent = head.width();
    let mut line = head.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.width() + 1 + word.width() > width.max(indent + 20) {
            page.push_str(line.trim_end());
            page.push('\n');
            line = " ".repeat(indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    page.push_str(line.trim_end());
    page.push('\n');
}

/// A gap at `at` for what could not be seen.
pub(crate) fn gap(at: String, unseen: &Unseen) -> Gap {
    let reason = match unseen.reason.as_str() {
        "permission_denied" => Reason::PermissionDenied,
        "not_found" => Reason::NotFound,
        "exited" => Reason::Exited,
        "timeout" => Reason::Timeout,
        "limit_reached" => Reason::LimitReached,
        "refused_by_policy" => Reason::RefusedByPolicy,
        "unsupported" => Reason::Unsupported,
        "malformed" => Reason::Malformed,
        _ => Reason::Incomplete,
    };
    let mut gap = Gap::new(at, reason);
    gap.detail = unseen.detail.clone();
    gap.remedy = unseen.remedy.clone();
    gap
}

/// A gap for each finding that could not be told.
pub(crate) fn gaps(findings: &[Finding]) -> impl Iterator<Item = Gap> {
    let unknown = findings.iter().enumerate().filter(|(_, finding)| finding.level == Level::Unknown);
    unknown.filter_map(|(index, finding)| {
        let mut gap = gap(format!("/rows/{index}"), finding.gaps.first()?);
        // That a limit was reached is told by the step that reached it.
        if agent_model::data::was_refused(std::slice::from_ref(&gap)) {
            gap.reason = Reason::Incomplete;
        }
        Some(gap)
    })
}
