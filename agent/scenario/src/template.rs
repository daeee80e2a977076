//! Texts with expressions in braces.

use crate::cel::{Fault, Program, Scope, SyntaxError, Watcher};

/// A text that was understood. Two braces stand for one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Expression(Program),
}

impl Template {
    /// Reads `text`.
    pub(crate) fn compile(text: &str) -> Result<Self, SyntaxError> {
        let wrong = |words: &str| SyntaxError { column: 1, words: format!("{words} in {text:?}") };
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
            } else if brace == "}" {
                return Err(wrong("a single `}`"));
            } else {
                let end = end_of(rest).ok_or_else(|| wrong("a `{` without its `}`"))?;
                parts.push(Part::Text(std::mem::take(&mut plain)));
                parts.push(Part::Expression(Program::compile(&rest[..end])?));
                rest = &rest[end + 1..];
            }
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        Ok(Self { parts })
    }

    /// The expressions in it.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &Program> {
        self.parts.iter().filter_map(|part| match part {
            Part::Expression(program) => Some(program),
            Part::Text(_) => None,
        })
    }

    /// The text with the values filled in.
    pub(crate) fn fill(&self, scope: &Scope<'_>, watcher: &Watcher<'_>) -> Result<String, Fault> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Expression(program) => text.push_str(&program.value(scope, watcher)?.show()),
            }
        }
        Ok(text)
    }

    /// The same for a person: what is missing stands there as `(not seen)`.
    pub(crate) fn tell(&self, scope: &Scope<'_>, watcher: &Watcher<'_>) -> String {
        let part = |part: &Part| match part {
            Part::Text(plain) => plain.clone(),
            Part::Expression(program) => {
                program.value(scope, watcher).map_or_else(|_| "(not seen)".to_owned(), |value| value.show())
            }
        };
        self.parts.iter().map(part).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Where the brace is that ends an expression: not one in a string or of a map.
fn end_of(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), character) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}
