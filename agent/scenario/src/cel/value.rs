//! Values, and where they were seen.

use std::borrow::Cow;
use std::rc::Rc;

use agent_model::Pointer;
use serde_json::Value as Json;

/// What an expression gives.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Text(Cow<'a, str>),
    Type(&'static str),
    List(Rc<Vec<Seen<'a>>>),
    Map(Rc<Vec<(String, Seen<'a>)>>),
    /// A list or map of an artifact, as it stands there.
    Json(&'a Json),
    /// A value that may be absent (`a.?b`).
    Optional(Option<Box<Seen<'a>>>),
}

/// A value and, if it is one of an artifact, its place there.
#[derive(Debug, Clone)]
pub(crate) struct Seen<'a> {
    pub(crate) value: Value<'a>,
    pub(crate) place: Option<Rc<Place>>,
}

/// A place in an artifact.
#[derive(Debug)]
pub(crate) struct Place {
    parent: Option<Rc<Place>>,
    /// The artifact's name at the root, else a member's name or an index.
    key: String,
}

impl Place {
    /// The whole artifact `name`.
    pub(crate) fn root(name: &str) -> Rc<Self> {
        Rc::new(Self { parent: None, key: name.to_owned() })
    }

    pub(crate) fn child(parent: &Rc<Self>, key: impl Into<String>) -> Rc<Self> {
        Rc::new(Self { parent: Some(Rc::clone(parent)), key: key.into() })
    }

    /// As findings refer to it.
    pub(crate) fn pointer(&self) -> Pointer {
        let mut keys = Vec::new();
        let mut place = self;
        while let Some(parent) = &place.parent {
            keys.push(place.key.replace('~', "~0").replace('/', "~1"));
            place = parent;
        }
        let at = keys.iter().rev().fold(String::new(), |at, key| at + "/" + key);
        Pointer { artifact: place.key.clone(), at }
    }
}

impl<'a> Seen<'a> {
    /// A value of nobody's.
    pub(crate) fn new(value: Value<'a>) -> Self {
        Self { value, place: None }
    }

    pub(crate) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::new(Value::Text(text.into()))
    }

    /// A part of an artifact.
    pub(crate) fn json(json: &'a Json, place: Option<Rc<Place>>) -> Self {
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Bool(*flag),
            // Evidence has no floats, and writes what may not fit as a string.
            Json::Number(number) => number.as_i64().map_or_else(|| Value::Text(number.to_string().into()), Value::Int),
            Json::String(text) => Value::Text(text.as_str().into()),
            Json::Array(_) | Json::Object(_) => Value::Json(json),
        };
        Self { value, place }
    }

    /// A JSON value that stands in no artifact.
    pub(crate) fn owned(json: Json) -> Self {
        Self::new(match json {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Bool(flag),
            Json::Number(number) => number.as_i64().map_or_else(|| Value::Text(number.to_string().into()), Value::Int),
            Json::String(text) => Value::Text(text.into()),
            Json::Array(items) => Value::List(Rc::new(items.into_iter().map(Self::owned).collect())),
            Json::Object(members) => {
                Value::Map(Rc::new(members.into_iter().map(|(key, value)| (key, Self::owned(value))).collect()))
            }
        })
    }

    pub(crate) fn list(items: Vec<Seen<'a>>) -> Self {
        Self::new(Value::List(Rc::new(items)))
    }

    fn place_of(&self, key: impl FnOnce() -> String) -> Option<Rc<Place>> {
        self.place.as_ref().map(|place| Place::child(place, key()))
    }

    /// The member `key`; `None` where there is none.
    pub(crate) fn member(&self, key: &str) -> Option<Seen<'a>> {
        match &self.value {
            Value::Json(Json::Object(members)) => {
                members.get(key).map(|value| Seen::json(value, self.place_of(|| key.to_owned())))
            }
            Value::Map(members) => members.iter().find(|member| member.0 == key).map(|member| member.1.clone()),
            _ => None,
        }
    }

    /// The items of a list; `None` if it is none.
    pub(crate) fn items(&self) -> Option<Vec<Seen<'a>>> {
        match &self.value {
            Value::Json(Json::Array(items)) => {
                let item = |(index, item): (usize, &'a Json)| Seen::json(item, self.place_of(|| index.to_string()));
                Some(items.iter().enumerate().map(item).collect())
            }
            Value::List(items) => Some(items.to_vec()),
            _ => None,
        }
    }

    /// Item `index` of a list.
    pub(crate) fn item(&self, index: usize) -> Option<Seen<'a>> {
        match &self.value {
            Value::Json(Json::Array(items)) => {
                items.get(index).map(|item| Seen::json(item, self.place_of(|| index.to_string())))
            }
            Value::List(items) => items.get(index).cloned(),
            _ => None,
        }
    }

    /// The keys of a map, sorted; `None` if it is none.
    pub(crate) fn keys(&self) -> Option<Vec<String>> {
        let mut keys: Vec<String> = match &self.value {
            Value::Json(Json::Object(members)) => members.keys().cloned().collect(),
            Value::Map(members) => members.iter().map(|member| member.0.clone()).collect(),
            _ => return None,
        };
        keys.sort_unstable();
        Some(keys)
    }

    /// How many items, members or characters it has.
    pub(crate) fn size(&self) -> Option<usize> {
        match &self.value {
            Value::Text(text) => Some(text.chars().count()),
            Value::List(items) => Some(items.len()),
            Value::Map(members) => Some(members.len()),
            Value::Json(Json::Array(items)) => Some(items.len()),
            Value::Json(Json::Object(members)) => Some(members.len()),
            _ => None,
        }
    }

    /// The name of its type, as `type()` gives it.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Text(_) => "string",
            Value::Type(_) => "type",
            Value::List(_) | Value::Json(Json::Array(_)) => "list",
            Value::Map(_) | Value::Json(_) => "map",
            Value::Optional(_) => "optional_type",
        }
    }

    /// Whether both are the same. Values of different types are not.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            _ => match (self.items(), other.items()) {
                (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equals(b)),
                (None, None) => match (self.keys(), other.keys()) {
                    (Some(a), Some(b)) => {
                        a == b
                            && a.iter()
                                .all(|key| self.member(key).zip(other.member(key)).is_some_and(|(a, b)| a.equals(&b)))
                    }
                    _ => false,
                },
                _ => false,
            },
        }
    }

    /// As it stands in a sentence.
    pub(crate) fn show(&self) -> String {
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(flag) => flag.to_string(),
            Value::Int(number) => number.to_string(),
            Value::Text(text) => text.to_string(),
            Value::Type(name) => (*name).to_owned(),
            Value::Optional(inner) => inner.as_ref().map_or_else(String::new, |inner| inner.show()),
            _ => match self.items() {
                Some(items) => items.iter().map(Seen::show).collect::<Vec<_>>().join(", "),
                None => {
                    let member = |key: &String| Some(format!("{key} {}", self.member(key)?.show()));
                    self.keys().unwrap_or_default().iter().filter_map(member).collect::<Vec<_>>().join(", ")
                }
            },
        }
    }
}
