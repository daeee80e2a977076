//! A page about what was seen, for a person: findings first, then what they rest on.
//!
//! The sections are made once ([`facts`]) and written as HTML or as Markdown. All text is the target's, or a stranger's, until it
//! is escaped: that happens where it is written, and nowhere else.

mod facts;
mod flame;
mod html;
mod markdown;

pub use html::html;
pub use markdown::markdown;
use serde_json::Value;

use crate::bundle::Listed;
use crate::evidence::Artifact;

/// What a page is about.
#[derive(Debug, Default)]
pub struct Subject {
    /// What a manifest says, or the envelope without its data.
    pub about: Value,
    /// The findings of a scenario.
    pub findings: Vec<Value>,
    /// The envelopes.
    pub looks: Vec<Artifact>,
    /// What the run itself could not do: steps that were cut off, or nothing at all.
    pub gaps: Vec<Value>,
    /// Whether it is whole, and what is wrong or missing.
    pub state: Vec<String>,
    /// The files of a bundle.
    pub files: Vec<Listed>,
    /// The records of its audit.
    pub records: Vec<Value>,
}

/// `text` as it can stand between tags; what `other` makes of each character that means nothing there.
fn escaped(text: &str, other: impl Fn(char, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => other(c, &mut out),
        }
    }
    out
}

/// One section.
#[derive(Debug)]
struct Section {
    title: &'static str,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Line(String),
    Finding(Finding),
    Table(Table),
    Flame(Vec<flame::Box>),
}

#[derive(Debug)]
struct Finding {
    level: String,
    message: String,
    more: Vec<(&'static str, String)>,
}

#[derive(Debug, Default)]
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<Cell>>,
    /// How many rows were left out.
    left_out: usize,
}

#[derive(Debug, Clone)]
enum Cell {
    Text(String),
    Number(String),
    /// Text, and how deep it stands in a tree.
    Deep(u64, String),
    /// From where to where, in thousandths of the width.
    Bar(u64, u64),
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn count(number: u64) -> Self {
        Self::Number(number.to_string())
    }

    fn bytes(bytes: u64) -> Self {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut unit = 0;
        let mut tenths = u128::from(bytes) * 10;
        while tenths >= 10_240 && unit + 1 < UNITS.len() {
            tenths /= 1024;
            unit += 1;
        }
        let number = if unit == 0 { bytes.to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) };
        Self::Number(format!("{number} {}", UNITS[unit]))
    }
}

#[cfg(test)]
mod tests;
