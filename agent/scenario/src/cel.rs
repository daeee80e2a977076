//! Conditions: a part of CEL, the Common Expression Language (cel.dev), that is total and has what evidence has.
//!
//! Types are null, bool, int, string, list and map: evidence has no floats and no bytes. Of the language there are
//! all operators, `has`, the macros `all`, `exists`, `exists_one`, `filter` and `map`, optional members (`a.?b.orValue(c)`,
//! as in Kubernetes), and functions of the common extensions for strings and lists. Beside these stand `countBy`, which
//! groups a list, `diff` and `elapsed` of two artifacts, and `asBytes`, `asPercent` and `asTime` for sentences.
//!
//! Every value remembers where in the artifacts it stands, and what was looked for and is missing is remembered too. That is
//! what makes a finding's evidence, and what tells "it is not so" from "it could not be seen".

#[cfg(test)]
mod differential;
mod eval;
mod functions;
mod parse;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use eval::{Fault, Missing, Scope, Watcher};
pub use parse::SyntaxError;
pub(crate) use value::{Place, Seen, Value};

/// An expression that was understood, and its text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    text: String,
    root: parse::Expr,
}

impl Program {
    /// Reads `text` as an expression.
    ///
    /// # Errors
    ///
    /// When it is none, or calls what does not exist.
    pub(crate) fn compile(text: &str) -> Result<Self, SyntaxError> {
        Ok(Self { text: text.to_owned(), root: parse::parse(text)? })
    }

    /// Its text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Its value where names mean what `scope` says.
    pub(crate) fn value<'a>(&self, scope: &Scope<'a>, watcher: &Watcher<'_>) -> Result<Seen<'a>, Fault> {
        eval::value(&self.root, scope, watcher)
    }

    /// The names that it takes from its scope.
    pub(crate) fn names(&self) -> std::collections::BTreeSet<String> {
        let mut names = std::collections::BTreeSet::new();
        eval::free_names(&self.root, &mut Vec::new(), &mut names);
        names
    }
}
