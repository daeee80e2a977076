//! From an expression to its value.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::rc::Rc;

use agent_model::Pointer;

use super::functions;
use super::parse::{Expr, Literal};
use super::value::{Seen, Value};
use crate::diff::Schemas;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// Something that it needs is not there.
    Missing(Missing),
    /// It makes no sense: a rule that is wrong.
    Wrong(String),
}

/// What is not there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Missing {
    /// Where it would stand, if that is in an artifact.
    pub(crate) pointer: Option<Pointer>,
    /// What it is, in words.
    pub(crate) words: String,
}

/// What a name means.
pub(crate) type Binding<'a> = Result<Seen<'a>, Fault>;

/// What names mean. To copy one costs nothing, so that each item of a list has its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope<'a> {
    last: Option<Rc<Bound<'a>>>,
}

#[derive(Debug)]
struct Bound<'a> {
    name: Rc<str>,
    value: Binding<'a>,
    before: Option<Rc<Bound<'a>>>,
}

impl<'a> Scope<'a> {
    /// Lets `name` mean `value`, and hides what it meant before.
    pub(crate) fn bind(&mut self, name: &str, value: Binding<'a>) {
        *self = self.with(name.into(), value);
    }

    fn with(&self, name: Rc<str>, value: Binding<'a>) -> Self {
        Self { last: Some(Rc::new(Bound { name, value, before: self.last.clone() })) }
    }

    fn get(&self, name: &str) -> Option<&Binding<'a>> {
        let mut bound = self.last.as_ref();
        while let Some(one) = bound {
            if &*one.name == name {
                return Some(&one.value);
            }
            bound = one.before.as_ref();
        }
        None
    }
}

/// Sees what an evaluation looks for, and bounds what it costs.
#[derive(Debug)]
pub(crate) struct Watcher<'g> {
    /// Places in artifacts that have gaps, as `ARTIFACT POINTER`.
    gaps: &'g BTreeSet<(String, String)>,
    /// Of them those that were come upon.
    hit: RefCell<BTreeSet<(String, String)>>,
    left: Cell<u64>,
    pub(super) schemas: Schemas,
}

/// The operations that one rule may take: a walk over 100,000 rows has some millions.
const MOST: u64 = 20_000_000;

impl<'g> Watcher<'g> {
    /// Watches for `gaps`: pairs of an artifact's name and a JSON Pointer into its envelope.
    pub(crate) fn new(gaps: &'g BTreeSet<(String, String)>) -> Self {
        Self { gaps, hit: RefCell::default(), left: Cell::new(MOST), schemas: Schemas::default() }
    }

    /// The same, that knows the schemas of envelopes.
    pub(crate) fn knowing(self, schemas: Schemas) -> Self {
        Self { schemas, ..self }
    }

    /// The gaps that were come upon.
    pub(crate) fn hit(&self) -> BTreeSet<(String, String)> {
        self.hit.borrow().clone()
    }

    pub(super) fn pay(&self, operations: u64) -> Result<(), Fault> {
        let left = self.left.get().checked_sub(operations);
        let left = left.ok_or_else(|| Fault::Wrong("the rule takes too many operations".to_owned()))?;
        self.left.set(left);
        Ok(())
    }

    /// Something at `pointer` was looked for and is not there.
    fn absent(&self, pointer: &Pointer) {
        self.above(pointer);
        let below = format!("{}/", pointer.at);
        let from = (pointer.artifact.clone(), below.clone());
        let found = self.gaps.range(from..).take_while(|gap| gap.0 == pointer.artifact && gap.1.starts_with(&below));
        self.hit.borrow_mut().extend(found.cloned());
    }

    /// The list at `pointer` was walked through: it may be cut off, or be another's that was not seen.
    pub(crate) fn walked(&self, list: &Seen<'_>) {
        if !self.gaps.is_empty()
            && let Some(place) = &list.place
        {
            self.above(&place.pointer());
        }
    }

    /// The gaps at a place and around it.
    fn above(&self, pointer: &Pointer) {
        let mut at = pointer.at.as_str();
        loop {
            let gap = (pointer.artifact.clone(), at.to_owned());
            if self.gaps.contains(&gap) {
                self.hit.borrow_mut().insert(gap);
            }
            match at.rfind('/') {
                Some(end) => at = &at[..end],
                None => return,
            }
        }
    }

    /// `of` has no member `key`.
    fn missing(&self, of: &Seen<'_>, key: &str) -> Missing {
        let pointer = of.place.as_ref().map(|place| {
            let mut pointer = place.pointer();
            pointer.at.push('/');
            pointer.at.push_str(&key.replace('~', "~0").replace('/', "~1"));
            pointer
        });
        if let Some(pointer) = pointer.as_ref().filter(|_| !self.gaps.is_empty()) {
            self.absent(pointer);
        }
        let words = match &pointer {
            Some(pointer) => format!("{} of {} is not there", pointer.at, pointer.artifact),
            None => format!("there is no {key}"),
        };
        Missing { pointer, words }
    }
}

type Evaluated<'a> = Result<Seen<'a>, Fault>;

pub(super) fn wrong<T>(words: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Wrong(words.into()))
}

const TYPES: [&str; 7] = ["bool", "int", "list", "map", "null_type", "string", "type"];

/// The value of `expression`.
pub(super) fn value<'a>(expression: &Expr, scope: &Scope<'a>, watcher: &Watcher<'_>) -> Evaluated<'a> {
    watcher.pay(1)?;
    let eval = |expression: &Expr| value(expression, scope, watcher);
    match expression {
        Expr::Literal(literal) => Ok(Seen::new(match literal {
            Literal::Null => Value::Null,
            Literal::Bool(flag) => Value::Bool(*flag),
            Literal::Int(number) => Value::Int(*number),
            Literal::Text(text) => Value::Text(text.clone().into()),
        })),
        Expr::Name(name) => match scope.get(name) {
            Some(binding) => binding.clone(),
            None => match TYPES.iter().find(|known| *known == name) {
                Some(name) => Ok(Seen::new(Value::Type(name))),
                None => wrong(format!("there is no {name}")),
            },
        },
        Expr::List(items) => Ok(Seen::list(items.iter().map(eval).collect::<Result<_, _>>()?)),
        Expr::Map(members) => {
            let member = |(key, value): &(Expr, Expr)| match eval(key)?.value {
                Value::Text(key) => Ok((key.into_owned(), eval(value)?)),
                _ => wrong("a key of a map must be a string"),
            };
            let members = members.iter().map(member).collect::<Result<Vec<_>, Fault>>()?;
            Ok(Seen::new(Value::Map(members.into())))
        }
        Expr::Member { of, key, optional } => member(&eval(of)?, key, *optional, watcher),
        Expr::Index { of, index, optional } => item(&eval(of)?, &eval(index)?, *optional, watcher),
        Expr::Has { of, key } => {
            let of = eval(of)?;
            let there = of.member(key).is_some();
            if !there {
                watcher.missing(&of, key);
            }
            Ok(Seen::new(Value::Bool(there)))
        }
        Expr::Call { name, arguments } => {
            let arguments = arguments.iter().map(eval).collect::<Result<Vec<_>, _>>()?;
            functions::call(name, arguments, watcher)
        }
        Expr::Macro { name, of, variable, bodies } => {
            let of = eval(of)?;
            let variable: Rc<str> = variable.as_str().into();
            functions::walk((name, bodies.len()), &of, watcher, |item, body| match bodies.get(body) {
                Some(body) => value(body, &scope.with(Rc::clone(&variable), Ok(item)), watcher),
                None => wrong("an expression is missing"),
            })
        }
        Expr::Unary { operator, of } => unary(*operator, &eval(of)?),
        Expr::Binary { operator, left, right } => match *operator {
            "&&" => decided(eval(left), || eval(right), false),
            "||" => decided(eval(left), || eval(right), true),
            operator => binary(operator, &eval(left)?, &eval(right)?, watcher),
        },
        Expr::If { condition, yes, no } => match eval(condition)?.value {
            Value::Bool(true) => eval(yes),
            Value::Bool(false) => eval(no),
            _ => wrong("the condition of `? :` must be true or false"),
        },
    }
}

/// `&&` and `||`: whatever the order, a side that decides makes the other one's fault void.
fn decided<'a>(left: Evaluated<'a>, right: impl FnOnce() -> Evaluated<'a>, decides: bool) -> Evaluated<'a> {
    let flag = |side: Evaluated<'a>| match side?.value {
        Value::Bool(flag) => Ok(flag),
        _ => wrong("`&&` and `||` stand between truths"),
    };
    let left = flag(left);
    if left == Ok(decides) {
        return Ok(Seen::new(Value::Bool(decides)));
    }
    match (left, flag(right())) {
        (_, Ok(right)) if right == decides => Ok(Seen::new(Value::Bool(decides))),
        (Err(fault), _) | (Ok(_), Err(fault)) => Err(fault),
        (Ok(_), Ok(_)) => Ok(Seen::new(Value::Bool(!decides))),
    }
}

fn optional<'a>(value: Option<Seen<'a>>) -> Seen<'a> {
    Seen::new(Value::Optional(value.map(Box::new)))
}

fn member<'a>(of: &Seen<'a>, key: &str, is_optional: bool, watcher: &Watcher<'_>) -> Evaluated<'a> {
    if let Value::Optional(inner) = &of.value {
        // What is optional stays so: `a.?b.c`.
        let Some(inner) = inner else { return Ok(optional(None)) };
        return member(inner, key, true, watcher);
    }
    if of.keys().is_none() {
        return wrong(format!("a {} has no member {key}", of.kind()));
    }
    match of.member(key) {
        Some(value) => Ok(if is_optional { optional(Some(value)) } else { value }),
        None => {
            let missing = watcher.missing(of, key);
            if is_optional { Ok(optional(None)) } else { Err(Fault::Missing(missing)) }
        }
    }
}

fn item<'a>(of: &Seen<'a>, index: &Seen<'a>, is_optional: bool, watcher: &Watcher<'_>) -> Evaluated<'a> {
    if let Value::Optional(inner) = &of.value {
        let Some(inner) = inner else { return Ok(optional(None)) };
        return item(inner, index, true, watcher);
    }
    match &index.value {
        Value::Text(key) => member(of, key, is_optional, watcher),
        Value::Int(number) if of.items().is_some() || matches!(of.value, Value::List(_)) => {
            let found = usize::try_from(*number).ok().and_then(|index| of.item(index));
            match found {
                Some(value) => Ok(if is_optional { optional(Some(value)) } else { value }),
                None if is_optional => Ok(optional(None)),
                None => Err(Fault::Missing(watcher.missing(of, &number.to_string()))),
            }
        }
        _ => wrong(format!("a {} has no [{}]", of.kind(), index.show())),
    }
}

fn unary<'a>(operator: char, of: &Seen<'a>) -> Evaluated<'a> {
    let value = match (operator, &of.value) {
        ('!', Value::Bool(flag)) => Value::Bool(!flag),
        ('-', Value::Int(number)) => match number.checked_neg() {
            Some(number) => Value::Int(number),
            None => return wrong("the number is too large"),
        },
        _ => return wrong(format!("`{operator}` does not stand before a {}", of.kind())),
    };
    Ok(Seen::new(value))
}

fn binary<'a>(operator: &str, left: &Seen<'a>, right: &Seen<'a>, watcher: &Watcher<'_>) -> Evaluated<'a> {
    let senseless = || wrong(format!("`{operator}` does not stand between a {} and a {}", left.kind(), right.kind()));
    let value = match operator {
        "==" => Value::Bool(left.equals(right)),
        "!=" => Value::Bool(!left.equals(right)),
        "in" => match (right.items(), right.keys(), &left.value) {
            (Some(items), ..) => {
                watcher.pay(items.len() as u64)?;
                watcher.walked(right);
                Value::Bool(items.iter().any(|item| item.equals(left)))
            }
            (None, Some(keys), Value::Text(key)) => Value::Bool(keys.iter().any(|known| known == key)),
            _ => return senseless(),
        },
        "<" | "<=" | ">" | ">=" => {
            let Some(order) = order(left, right) else { return senseless() };
            Value::Bool(match operator {
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                _ => order.is_ge(),
            })
        }
        _ => return arithmetic(operator, left, right, senseless),
    };
    Ok(Seen::new(value))
}

/// Which is less, of two numbers, texts or truths.
pub(super) fn order(left: &Seen<'_>, right: &Seen<'_>) -> Option<Ordering> {
    match (&left.value, &right.value) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn arithmetic<'a>(
    operator: &str,
    left: &Seen<'a>,
    right: &Seen<'a>,
    senseless: impl FnOnce() -> Evaluated<'a>,
) -> Evaluated<'a> {
    match (operator, &left.value, &right.value) {
        ("+", Value::Text(a), Value::Text(b)) => Ok(Seen::text(format!("{a}{b}"))),
        (_, Value::Int(a), Value::Int(b)) => {
            let number = match operator {
                "+" => a.checked_add(*b),
                "-" => a.checked_sub(*b),
                "*" => a.checked_mul(*b),
                "/" => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            match number {
                Some(number) => Ok(Seen::new(Value::Int(number))),
                None => wrong(format!("{a} {operator} {b} is no number of 64 bits")),
            }
        }
        ("+", ..) => match (left.items(), right.items()) {
            (Some(mut a), Some(b)) => {
                a.extend(b);
                Ok(Seen::list(a))
            }
            _ => senseless(),
        },
        _ => senseless(),
    }
}

/// Adds the names that `expression` takes from its scope to `names`; `bound` are those of the macros around it.
pub(super) fn free_names(expression: &Expr, bound: &mut Vec<String>, names: &mut BTreeSet<String>) {
    match expression {
        Expr::Literal(_) => {}
        Expr::Name(name) => {
            if !bound.contains(name) && !TYPES.contains(&name.as_str()) {
                names.insert(name.clone());
            }
        }
        Expr::List(items) | Expr::Call { arguments: items, .. } => {
            items.iter().for_each(|item| free_names(item, bound, names));
        }
        Expr::Map(members) => members.iter().for_each(|(key, value)| {
            free_names(key, bound, names);
            free_names(value, bound, names);
        }),
        Expr::Member { of, .. } | Expr::Has { of, .. } | Expr::Unary { of, .. } => free_names(of, bound, names),
        Expr::Index { of, index, .. } => {
            free_names(of, bound, names);
            free_names(index, bound, names);
        }
        Expr::Macro { of, variable, bodies, .. } => {
            free_names(of, bound, names);
            bound.push(variable.clone());
            bodies.iter().for_each(|body| free_names(body, bound, names));
            bound.pop();
        }
        Expr::Binary { left, right, .. } => {
            free_names(left, bound, names);
            free_names(right, bound, names);
        }
        Expr::If { condition, yes, no } => {
            [condition, yes, no].into_iter().for_each(|part| free_names(part, bound, names));
        }
    }
}
