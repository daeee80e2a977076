//! What each string of an envelope is: the class of every place in a JSON Schema.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;

use serde_json::Value;

/// The extension key by which a field or a type says what its strings are:
/// `#[schemars(extend("x-class" = "path"))]`.
pub use agent_model::CLASS;

/// What a string is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Class {
    /// A word of ours, or of the kernel's: one of a known set.
    Word,
    /// A number, a digest, a build ID, a time: it names a thing and says nothing of it.
    Id,
    /// Words of the target's own: what looks like a secret in them is removed.
    #[default]
    Text,
    /// The name of a file or socket.
    Path,
    /// The name of a program, a thread, a user, a function.
    Name,
    /// A host or an address of one.
    Host,
    /// A URL, or the part of one from the path on.
    Url,
    /// Arguments of a program: one in each string of a list.
    Argv,
    /// What is never shown.
    Secret,
}

impl Class {
    /// The word that stands for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Id => "id",
            Self::Text => "text",
            Self::Path => "path",
            Self::Name => "name",
            Self::Host => "host",
            Self::Url => "url",
            Self::Argv => "argv",
            Self::Secret => "secret",
        }
    }

    fn of(word: &str) -> Option<Self> {
        const ALL: [Class; 9] = [
            Class::Word,
            Class::Id,
            Class::Text,
            Class::Path,
            Class::Name,
            Class::Host,
            Class::Url,
            Class::Argv,
            Class::Secret,
        ];
        ALL.into_iter().find(|class| class.as_str() == word)
    }

    /// Whether level strict puts a pseudonym in its place. Names of programs and functions stay: without
    /// them there is no evidence.
    pub(super) fn is_pseudonymized(self) -> bool {
        matches!(self, Self::Text | Self::Path | Self::Host | Self::Url)
    }

    /// Whether `text` is found on every system, and says nothing of this one.
    pub(super) fn is_common(self, text: &str) -> bool {
        const PLACES: [&str; 14] = [
            "/proc/",
            "/sys/",
            "/dev/",
            "/usr/",
            "/lib",
            "/bin/",
            "/sbin/",
            "/etc/ld",
            "[",
            "anon_inode:",
            "socket:",
            "pipe:",
            "/",
            "memfd:",
        ];
        match self {
            Self::Path => PLACES.iter().any(|place| if *place == "/" { text == "/" } else { text.starts_with(place) }),
            Self::Host => matches!(text, "127.0.0.1" | "::1" | "0.0.0.0" | "::" | "*" | "localhost"),
            _ => text.bytes().all(|byte| byte.is_ascii_digit() || b".:,-+ ".contains(&byte)),
        }
    }
}

/// A place in an envelope; an index into [`Classes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node(usize);

impl Node {
    pub(super) fn at(index: usize) -> Self {
        Self(index)
    }

    pub(super) fn index(self) -> usize {
        self.0
    }
}

/// The classes of one kind of envelope.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// The first is the whole envelope.
    places: Vec<Place>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
struct Place {
    class: Class,
    fields: Vec<(Cow<'static, str>, usize)>,
    /// Items of a list, or values of a map.
    items: Option<usize>,
}

/// What is known while a schema is read.
#[derive(Default)]
struct Known {
    /// By what refers to it.
    places: HashMap<String, usize>,
    /// The places that are not whole yet, outermost first.
    open: Vec<usize>,
    /// Which place says the same as one that was not whole, and what class it was given.
    later: Vec<(usize, usize, Option<Class>)>,
}

impl Classes {
    /// Those of `schema`, a JSON Schema with [`CLASS`] at its strings.
    pub fn of(schema: &Value) -> Self {
        let mut classes = Self::default();
        let mut known = Known::default();
        classes.place(schema, schema, &mut known, None, 0);
        // What stands in itself is known now; one may wait for the other.
        for (index, from, own) in known.later.iter().chain(known.later.iter().rev()) {
            let mut place = std::mem::take(&mut classes.places[*index]);
            classes.merge(&mut place, *from, *own);
            classes.places[*index] = place;
        }
        classes.shared()
    }

    /// One place where several say the same, and none that nothing leads to.
    fn shared(mut self) -> Self {
        loop {
            // Each place gets the number of the first that is like it, in the order in which the root leads to them.
            let mut first = HashMap::new();
            let like: Vec<usize> =
                self.places.iter().enumerate().map(|(at, place)| *first.entry(place).or_insert(at)).collect();
            let mut kept = vec![0];
            let mut at = 0;
            while let Some(place) = kept.get(at).and_then(|index| self.places.get(*index)) {
                for next in place.fields.iter().map(|(_, index)| *index).chain(place.items) {
                    if !kept.contains(&like[next]) {
                        kept.push(like[next]);
                    }
                }
                at += 1;
            }
            let number = |index: usize| kept.iter().position(|known| *known == like[index]).unwrap_or_default();
            let of = |index: &usize| {
                let Place { class, fields, items } = &self.places[*index];
                let fields = fields.iter().map(|(name, index)| (name.clone(), number(*index))).collect();
                Place { class: *class, fields, items: items.map(number) }
            };
            let places: Vec<Place> = kept.iter().map(of).collect();
            if places == self.places {
                return self;
            }
            self.places = places;
        }
    }

    /// Those that [`Display`](fmt::Display) has written; `None` where it has not.
    pub fn read(text: &'static str) -> Option<Self> {
        let place = |line: &'static str| {
            let mut words = line.split(' ');
            let class = words.next().and_then(Class::of)?;
            let items =
                words.next().map(|items| if items == "-" { Some(None) } else { items.parse().ok().map(Some) })??;
            let field = |word: &'static str| {
                let (name, index) = word.split_once('=')?;
                Some((Cow::Borrowed(name), index.parse().ok()?))
            };
            Some(Place { class, fields: words.map(field).collect::<Option<_>>()?, items })
        };
        Some(Self { places: text.lines().map(place).collect::<Option<_>>()? })
    }

    /// The whole envelope.
    pub fn root(&self) -> Node {
        Node(0)
    }

    /// The place of `field` in `node`; what no schema tells is text.
    pub fn field(&self, node: Option<Node>, field: &str) -> Option<Node> {
        let place = self.places.get(node?.0)?;
        place.fields.iter().find(|(name, _)| name == field).map(|(_, index)| Node(*index)).or(place.items.map(Node))
    }

    /// As [`Classes::field`], and whether the schema names the field. `hint` is where to
    /// look first: fields mostly come in the order of the schema.
    pub(super) fn next_field(&self, node: Option<Node>, field: &str, hint: &Cell<usize>) -> (Option<Node>, bool) {
        let Some(place) = node.and_then(|node| self.places.get(node.0)) else { return (None, false) };
        let (before, after) = place.fields.split_at(hint.get().min(place.fields.len()));
        let start = before.len();
        let found = after.iter().position(|(name, _)| name == field).map(|at| start + at);
        match found.or_else(|| before.iter().position(|(name, _)| name == field)) {
            Some(at) => {
                hint.set(at + 1);
                (Some(Node(place.fields[at].1)), true)
            }
            None => (place.items.map(Node), false),
        }
    }

    /// The place of the items of the list at `node`.
    pub fn items(&self, node: Option<Node>) -> Option<Node> {
        self.places.get(node?.0)?.items.map(Node)
    }

    /// The class of the strings at `node`.
    pub fn class(&self, node: Option<Node>) -> Class {
        node.and_then(|node| self.places.get(node.0)).map_or(Class::Text, |place| place.class)
    }

    fn place(
        &mut self,
        root: &Value,
        schema: &Value,
        known: &mut Known,
        inherited: Option<Class>,
        depth: usize,
    ) -> usize {
        let own = schema.get(CLASS).and_then(Value::as_str).and_then(Class::of).or(inherited);
        let reference = schema.get("$ref").and_then(Value::as_str);
        let key = reference.map(|name| format!("{name} {own:?}"));
        if let Some(index) = key.as_ref().and_then(|key| known.places.get(key)) {
            return *index;
        }
        let index = self.places.len();
        self.places.push(Place::default());
        known.open.push(index);
        if let Some(key) = key {
            known.places.insert(key, index);
        }
        let mut place = Place { class: own.unwrap_or_else(|| class_of(schema)), ..Place::default() };
        if depth < 64 {
            let target = reference.and_then(|name| root.pointer(name.trim_start_matches('#')));
            let alternatives = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array());
            for other in target.into_iter().chain(alternatives.flatten()) {
                let from = self.place(root, other, known, own, depth + 1);
                if known.open.contains(&from) {
                    known.later.push((index, from, own));
                } else {
                    self.merge(&mut place, from, own);
                }
            }
            for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let field = self.place(root, field, known, None, depth + 1);
                place.fields.push((name.clone().into(), field));
            }
            for name in ["items", "additionalProperties", "prefixItems", "contains"] {
                let items = schema.get(name).map(|items| items.get(0).unwrap_or(items));
                if let Some(items) = items.filter(|items| items.is_object()) {
                    place.items = Some(self.place(root, items, known, own, depth + 1));
                }
            }
        }
        // A class said of any value at all holds for all that is in it.
        if own.is_some() && place.items.is_none() && place.fields.is_empty() {
            place.items = Some(index);
        }
        self.places[index] = place;
        known.open.pop();
        index
    }

    /// Adds what an alternative of a place says to it: the more careful of two classes.
    fn merge(&self, place: &mut Place, from: usize, own: Option<Class>) {
        let other = &self.places[from];
        if own.is_none() && rank(other.class) > rank(place.class) {
            place.class = other.class;
        }
        for (name, index) in &other.fields {
            match place.fields.iter_mut().find(|(known, _)| known == name) {
                Some((_, before)) if rank(self.places[*before].class) < rank(self.places[*index].class) => {
                    *before = *index;
                }
                Some(_) => {}
                None => place.fields.push((name.clone(), *index)),
            }
        }
        place.items = place.items.or(other.items);
    }
}

/// A line a place: its class, the place of its items or `-`, and those of its fields. With them as text nobody has to read the
/// schema again.
impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Place { class, fields, items } in &self.places {
            f.write_str(class.as_str())?;
            match items {
                Some(index) => write!(f, " {index}")?,
                None => f.write_str(" -")?,
            }
            fields.iter().try_for_each(|(name, index)| write!(f, " {name}={index}"))?;
            f.write_str("\n")?;
        }
        Ok(())
    }
}

fn rank(class: Class) -> u8 {
    match class {
        Class::Word => 0,
        Class::Id => 1,
        Class::Name => 2,
        Class::Host => 3,
        Class::Path => 4,
        Class::Text | Class::Url => 5,
        Class::Argv => 6,
        Class::Secret => 7,
    }
}

/// The class of a schema that names none: what it lists, and what is no string, needs none.
fn class_of(schema: &Value) -> Class {
    let is_string = schema.get("type").is_some_and(|kind| {
        kind == "string" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "string"))
    });
    if is_string && !is_closed(schema) { Class::Text } else { Class::Word }
}

/// Whether the strings of `schema` are listed in it, or of a known shape.
fn is_closed(schema: &Value) -> bool {
    ["enum", "const", "pattern", "format"].iter().any(|key| schema.get(key).is_some())
}

/// The places in `schema` whose strings have no class: as JSON pointers into the schema.
pub fn unclassified(schema: &Value) -> Vec<String> {
    fn walk(schema: &Value, at: &str, inherited: bool, found: &mut Vec<String>) {
        let has = inherited || schema.get(CLASS).and_then(Value::as_str).is_some_and(|word| Class::of(word).is_some());
        if !has && class_of(schema) == Class::Text {
            found.push(at.to_owned());
        }
        for key in ["anyOf", "oneOf", "allOf", "prefixItems"] {
            for (index, other) in schema.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
                walk(other, &format!("{at}/{key}/{index}"), has, found);
            }
        }
        for key in ["items", "additionalProperties"] {
            if let Some(items) = schema.get(key).filter(|items| items.is_object()) {
                walk(items, &format!("{at}/{key}"), has, found);
            }
        }
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(field, &format!("{at}/properties/{name}"), false, found);
        }
    }
    let mut found = Vec::new();
    walk(schema, "", false, &mut found);
    for (name, definition) in schema.get("$defs").and_then(Value::as_object).into_iter().flatten() {
        walk(definition, &format!("/$defs/{name}"), false, &mut found);
    }
    found
}
