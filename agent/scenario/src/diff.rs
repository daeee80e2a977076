//! What differs between two looks, by identity and not by line.
//!
//! Which members of a row say which thing it is stands in the schema of its type ([`agent_model::KEY`]); where that is another
//! life of the same program, or another pod of the same deployment, [`agent_model::ALIKE`] does, and [`agent_model::LIFE`] names
//! what means nothing there. Rows of one identity are counted: two before and three after are one that appeared.

use std::collections::{BTreeMap, BTreeSet};

use agent_model::{ALIKE, ENDS, KEY, LIFE};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// What has become of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is new.
    Appeared,
    /// It is not there any more.
    Went,
    /// It is another.
    Changed,
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Change {
    /// The artifact, or the schema of the envelopes.
    #[schemars(extend("x-column" = "IN", "x-class" = "word"))]
    pub artifact: String,
    /// What has become of it.
    #[schemars(extend("x-column" = "WHAT"))]
    pub what: What,
    /// How many of the same identity, unless it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "COUNT"))]
    pub count: Option<u64>,
    /// The list that it is in, or the object that has changed, as a JSON Pointer into `data`.
    #[schemars(extend("x-column" = "AT", "x-class" = "word"))]
    pub at: String,
    /// By what it is known; empty of what is there once only.
    #[schemars(extend("x-column" = "WHICH", "x-class" = "word"))]
    pub key: Map<String, Value>,
    /// What it is, where that is not by what it is known.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schemars(extend("x-column" = "IS", "x-class" = "word"))]
    pub is: Map<String, Value>,
    /// What has changed of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-lines" = true))]
    pub members: Vec<Member>,
    /// The whole of what has appeared or went.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub row: Option<Value>,
}

/// One member that has changed.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Member {
    /// Its name; of what is deeper, names with slashes.
    #[schemars(extend("x-column" = "MEMBER", "x-class" = "word"))]
    pub member: String,
    /// What it was; absent where it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "BEFORE", "x-class" = "word"))]
    pub before: Option<Value>,
    /// What it is; absent where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "AFTER", "x-class" = "word"))]
    pub after: Option<Value>,
    /// Of numbers, by how much it became more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "DELTA"))]
    pub delta: Option<i64>,
}

/// Where the schema of an envelope comes from: by its name, `agent.NAME/VERSION`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Schemas(pub Option<fn(&str) -> Option<Value>>);

impl PartialEq for Schemas {
    fn eq(&self, _: &Self) -> bool {
        // It is no evidence.
        true
    }
}

impl Schemas {
    /// The schema called `name`.
    pub fn get(&self, name: &str) -> Option<Value> {
        self.0?(name)
    }
}

/// Whether two envelopes are of one life: of the same process, or, where neither is of one, of the same boot.
pub fn is_same_life(before: &Value, after: &Value) -> bool {
    let life = |envelope: &Value| {
        let target = &envelope["target"];
        [&target["pid"], &target["start_ticks"], &target["boot_id"], &envelope["resource"]["host.name"]]
            .map(Clone::clone)
    };
    life(before) == life(after)
}

/// What differs between the data of two envelopes of one schema; `artifact` is what they are called.
pub fn of(artifact: &str, before: &Value, after: &Value, schemas: Schemas) -> Vec<Change> {
    let schema = after["schema"].as_str().and_then(|name| schemas.get(name)).unwrap_or_default();
    let data = property(&schema, Some(&schema), "data");
    let mut differ = Differ { root: &schema, same_life: is_same_life(before, after), artifact, changes: Vec::new() };
    differ.value("", &Map::new(), data, (&before["data"], &after["data"]));
    differ.changes
}

struct Differ<'a> {
    root: &'a Value,
    same_life: bool,
    artifact: &'a str,
    changes: Vec<Change>,
}

/// What the schema says of the identity of a list's items.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    key: Vec<String>,
    ignored: Vec<String>,
    /// What says what it is, beside the key.
    alike: Vec<String>,
    /// Of connections in another life, their ends.
    ends: Option<Ends>,
}

/// The ends of connections.
#[derive(Debug)]
struct Ends {
    local_address: String,
    local_port: String,
    remote_address: String,
    remote_port: String,
    /// The ports on which rows without a peer are found.
    listening: BTreeSet<u64>,
}

/// Where ports begin that are lent for one connection, if nobody has set that (net.ipv4.ip_local_port_range).
const LENT: u64 = 32_768;

impl Ends {
    fn of(names: &[String]) -> Option<Self> {
        let [local_address, local_port, remote_address, remote_port] = names else { return None };
        Some(Self {
            local_address: local_address.clone(),
            local_port: local_port.clone(),
            remote_address: remote_address.clone(),
            remote_port: remote_port.clone(),
            listening: BTreeSet::new(),
        })
    }

    /// The ports of `row`: ours, and the peer's.
    fn ports(&self, row: &Value) -> (Option<u64>, Option<u64>) {
        (row[&self.local_port].as_u64(), row[&self.remote_port].as_u64().filter(|port| *port > 0))
    }

    /// Takes note of the ports that `rows` listen on.
    fn listen(&mut self, rows: &[Value]) {
        let ports = rows.iter().map(|row| self.ports(row));
        let found: Vec<u64> = ports.filter_map(|(local, remote)| local.filter(|_| remote.is_none())).collect();
        self.listening.extend(found);
    }

    /// The port by which `row` is known: of a connection that which somebody listens on.
    fn port<'a>(&'a self, row: &Value) -> Option<&'a String> {
        match self.ports(row) {
            (None, None) => None,
            (Some(_), None) => Some(&self.local_port),
            (Some(local), Some(_)) if self.listening.contains(&local) => Some(&self.local_port),
            (Some(local), Some(remote)) if local < LENT && remote >= LENT => Some(&self.local_port),
            (_, Some(_)) => Some(&self.remote_port),
        }
    }
}

impl Identity {
    /// Of the rows of envelopes of `schema`; `None` where it names none.
    pub(crate) fn of_rows(schema: &Value, same_life: bool) -> Option<Self> {
        let rows = property(schema, property(schema, Some(schema), "data"), "rows");
        Self::of_items(schema, rows, same_life)
    }

    fn of_items(root: &Value, list: Option<&Value>, same_life: bool) -> Option<Self> {
        let list = resolved(root, list?)?;
        let item = resolved(root, list.get("items")?)?;
        let names = |extension: &str| {
            let names = item.get(extension)?.as_array()?;
            Some(names.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())
        };
        let key = names(KEY)?;
        if same_life {
            let alike = names(ALIKE).unwrap_or_default();
            let alike = alike.into_iter().filter(|name| !key.contains(name)).collect();
            return Some(Self { key, ignored: Vec::new(), alike, ends: None });
        }
        let mut ignored = names(LIFE).unwrap_or_default();
        let mut alike = names(ALIKE).unwrap_or_else(|| key.clone());
        // What is alike but for the kernel's numbers is the same.
        ignored.extend(key.into_iter().chain(alike.iter().cloned()));
        let ends = names(ENDS).as_deref().and_then(Ends::of);
        if let Some(ends) = &ends {
            alike.retain(|name| *name != ends.local_port && *name != ends.remote_port);
            // Of what has no peer it is a fact.
            ignored.retain(|name| *name != ends.local_address);
        }
        Some(Self { key: alike, ignored, alike: Vec::new(), ends })
    }

    /// The same, for rows of both lists: which ports somebody listens on is seen in them.
    pub(crate) fn among(mut self, old: &[Value], new: &[Value]) -> Self {
        if let Some(ends) = &mut self.ends {
            ends.listen(old);
            ends.listen(new);
        }
        self
    }

    /// The members of a row known by `key` that are not compared.
    fn ignored_of(&self, key: &Map<String, Value>) -> Vec<String> {
        let connected = self.ends.iter().filter(|ends| key.contains_key(&ends.remote_address));
        let own = connected.flat_map(|ends| [&ends.local_address, &ends.local_port]);
        self.ignored.iter().chain(own).cloned().collect()
    }

    /// By what `row` is known.
    pub(crate) fn of(&self, row: &Value) -> Map<String, Value> {
        let member = |path: &String| Some((path.clone(), at(row, path, self.ignored.is_empty())?));
        let port = self.ends.as_ref().and_then(|ends| ends.port(row));
        self.key.iter().chain(port).filter_map(member).collect()
    }

    /// What `row` is.
    fn is(&self, row: &Value) -> Map<String, Value> {
        self.alike.iter().filter_map(|path| Some((path.clone(), at(row, path, true)?))).collect()
    }
}

/// The member of `row` at `path`, names with points between them; of each of a list. Unless `exact`, without the numbers that
/// the kernel gives: `socket:[4711]`.
fn at(row: &Value, path: &str, exact: bool) -> Option<Value> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let value = row.get(name)?;
    let deeper = |value: &Value| match rest {
        Some(rest) => at(value, rest, exact),
        None => Some(value.clone()),
    };
    match value {
        Value::Array(items) if rest.is_some() => Some(items.iter().filter_map(deeper).collect()),
        Value::String(text) if !exact => Some(text.split(":[").next().unwrap_or(text).into()),
        value => deeper(value),
    }
}

/// `schema` itself, what it refers to, or the one shape of several that is more than null.
fn resolved<'a>(root: &'a Value, mut schema: &'a Value) -> Option<&'a Value> {
    for _ in 0..16 {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            schema = root.pointer(name.strip_prefix('#')?)?;
        } else if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
            schema = any.iter().find(|one| one.get("type").is_none_or(|kind| kind != "null"))?;
        } else {
            return Some(schema);
        }
    }
    None
}

fn property<'a>(root: &'a Value, schema: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    let schema = resolved(root, schema?)?;
    let own = schema.get("properties").and_then(|properties| properties.get(name));
    own.or_else(|| schema.get("additionalProperties").filter(|others| others.is_object()))
}

fn in_list(list: &Value, name: &str) -> bool {
    list.as_array().is_some_and(|names| names.iter().any(|one| one == name))
}

/// The members below `key` as they stand in a pointer.
fn below(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

impl Differ<'_> {
    /// Compares two values of `schema` at `at`, which belong to what `key` names.
    fn value(&mut self, at: &str, key: &Map<String, Value>, schema: Option<&Value>, pair: (&Value, &Value)) {
        if pair.0 == pair.1 {
            return;
        }
        let mut members = Vec::new();
        self.members(at, "", (key, &[]), schema, pair, &mut members);
        if !members.is_empty() {
            let (artifact, key) = (self.artifact.to_owned(), key.clone());
            let what = What::Changed;
            let is = Map::new();
            self.changes.push(Change { artifact, what, count: None, at: at.to_owned(), key, is, members, row: None });
        }
    }

    /// Notes what differs in `members`, called `name` and what is below; lists whose items have an identity are told by
    /// themselves.
    fn members(
        &mut self,
        at: &str,
        name: &str,
        (key, ignored): (&Map<String, Value>, &[String]),
        schema: Option<&Value>,
        (before, after): (&Value, &Value),
        members: &mut Vec<Member>,
    ) {
        if before == after {
            return;
        }
        match (before, after) {
            (Value::Object(old), Value::Object(new)) => {
                let names = new.keys().chain(old.keys().filter(|name| !new.contains_key(*name)));
                let life = schema.filter(|_| !self.same_life).and_then(|schema| resolved(self.root, schema)?.get(LIFE));
                let means_nothing = |member: &String| life.is_some_and(|life| in_list(life, member));
                for member in names.filter(|member| !ignored.contains(member) && !means_nothing(member)) {
                    let path = if name.is_empty() { member.clone() } else { format!("{name}/{member}") };
                    let schema = property(self.root, schema, member);
                    let pair = (old.get(member).unwrap_or(&Value::Null), new.get(member).unwrap_or(&Value::Null));
                    self.members(&below(at, member), &path, (key, &[]), schema, pair, members);
                }
            }
            (Value::Array(old), Value::Array(new)) => match Identity::of_items(self.root, schema, self.same_life) {
                Some(identity) => self.list(at, key, &identity.among(old, new), schema, (old, new)),
                None => members.push(member(name, before, after)),
            },
            _ => members.push(member(name, before, after)),
        }
    }

    fn list(
        &mut self,
        at: &str,
        of: &Map<String, Value>,
        identity: &Identity,
        schema: Option<&Value>,
        (old, new): (&[Value], &[Value]),
    ) {
        let item = schema.and_then(|list| resolved(self.root, list)).and_then(|list| list.get("items"));
        for Group { key, mut before, mut after } in groups(identity, (old, new)) {
            let ignored = identity.ignored_of(&key);
            let mut full = of.clone();
            full.extend(key);
            pair_equal(&mut before, &mut after, &ignored);
            let pairs = before.len().min(after.len());
            for (old, new) in before.drain(..pairs).zip(after.drain(..pairs)) {
                let mut members = Vec::new();
                self.members(at, "", (&full, &ignored), item, (old, new), &mut members);
                if !members.is_empty() {
                    self.tell((What::Changed, at), (&full, identity.is(new)), members, (None, 1));
                }
            }
            for (what, rows) in [(What::Went, before), (What::Appeared, after)] {
                if let Some(first) = rows.first() {
                    let is = identity.is(first);
                    self.tell((what, at), (&full, is), Vec::new(), (Some((*first).clone()), rows.len()));
                }
            }
        }
    }

    fn tell(
        &mut self,
        (what, at): (What, &str),
        (key, is): (&Map<String, Value>, Map<String, Value>),
        members: Vec<Member>,
        (row, count): (Option<Value>, usize),
    ) {
        let count = (count > 1).then_some(count as u64);
        let (artifact, at, key) = (self.artifact.to_owned(), at.to_owned(), key.clone());
        self.changes.push(Change { artifact, what, count, at, key, is, members, row });
    }
}

fn member(name: &str, before: &Value, after: &Value) -> Member {
    let delta = before.as_i64().zip(after.as_i64()).and_then(|(before, after)| after.checked_sub(before));
    let some = |value: &Value| Some(value.clone()).filter(|value| !value.is_null());
    Member { member: name.to_owned(), before: some(before), after: some(after), delta }
}

/// Rows of one identity.
struct Group<'v> {
    key: Map<String, Value>,
    before: Vec<&'v Value>,
    after: Vec<&'v Value>,
}

/// Rows by their identity, in the order of the rows after, and then of those before.
fn groups<'v>(identity: &Identity, (old, new): (&'v [Value], &'v [Value])) -> Vec<Group<'v>> {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut groups: Vec<Group<'v>> = Vec::new();
    for (rows, is_after) in [(new, true), (old, false)] {
        for row in rows {
            let key = identity.of(row);
            let index = *known.entry(Value::Object(key.clone()).to_string()).or_insert_with(|| {
                groups.push(Group { key, before: Vec::new(), after: Vec::new() });
                groups.len() - 1
            });
            if let Some(group) = groups.get_mut(index) {
                if is_after { group.after.push(row) } else { group.before.push(row) }
            }
        }
    }
    groups
}

/// Leaves out of both what is in both, but for the members `ignored`.
fn pair_equal(before: &mut Vec<&Value>, after: &mut Vec<&Value>, ignored: &[String]) {
    let shown = |row: &Value| {
        let mut row = row.clone();
        if let Some(members) = row.as_object_mut() {
            members.retain(|name, _| !ignored.contains(name));
        }
        row.to_string()
    };
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    before.iter().for_each(|row| *count.entry(shown(row)).or_default() += 1);
    let mut both: BTreeMap<String, usize> = BTreeMap::new();
    after.retain(|row| {
        let text = shown(row);
        let is_there = count.get_mut(&text).filter(|left| **left > 0).map(|left| *left -= 1).is_some();
        if is_there {
            *both.entry(text).or_default() += 1;
        }
        !is_there
    });
    before.retain(|row| both.get_mut(&shown(row)).filter(|left| **left > 0).map(|left| *left -= 1).is_none());
}

/// Rows that appeared, that went, and pairs of before and after: by their places in the lists.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) appeared: Vec<usize>,
    pub(crate) went: Vec<usize>,
    pub(crate) changed: Vec<(usize, usize)>,
}

/// The same of two lists of rows, each given by its identity and its whole as text.
pub(crate) fn places(before: &[(String, String)], after: &[(String, String)]) -> Places {
    let mut left: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, (key, _)) in before.iter().enumerate() {
        left.entry(key).or_default().push(index);
    }
    let mut open = Vec::new();
    for (index, (key, text)) in after.iter().enumerate() {
        let same = left.get_mut(key.as_str());
        let equal = same.and_then(|rows| rows.iter().position(|row| before[*row].1 == *text).map(|at| rows.remove(at)));
        if equal.is_none() {
            open.push(index);
        }
    }
    let mut places = Places::default();
    for index in open {
        match left.get_mut(after[index].0.as_str()).filter(|rows| !rows.is_empty()) {
            Some(rows) => places.changed.push((rows.remove(0), index)),
            None => places.appeared.push(index),
        }
    }
    places.went = left.into_values().flatten().collect();
    places.went.sort_unstable();
    places
}

#[cfg(test)]
mod tests;
