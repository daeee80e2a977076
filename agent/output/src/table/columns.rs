//! Which fields of a row are columns: what its schema says.

use agent_model::{COLUMN, INLINE, ITEMS, LINES, TREE, UNIT};
use serde_json::Value;

use super::cell::{cell, duration, size};

/// A column of a table.
#[derive(Default)]
pub(super) struct Column {
    /// The object of the row that it is a field of, if it is none of the row itself.
    pub(super) within: Option<String>,
    pub(super) key: String,
    pub(super) heading: String,
    /// The field by which it is indented.
    pub(super) tree: Option<String>,
    /// Of an object or a list of objects, the fields that are shown of each.
    pub(super) items: Vec<String>,
    /// The field beside it that says its unit.
    pub(super) unit: Option<String>,
}

/// Of a list in one cell, so many are shown.
const SHOWN_ITEMS: usize = 6;

impl Column {
    /// The value of a row, if it has one.
    pub(super) fn value<'a>(&self, row: &'a Value) -> Option<&'a Value> {
        self.object(row)?.get(&self.key)
    }

    fn object<'a>(&self, row: &'a Value) -> Option<&'a Value> {
        match &self.within {
            Some(within) => row.get(within),
            None => Some(row),
        }
    }

    /// The text of this column for one row.
    pub(super) fn cell(&self, row: &Value) -> String {
        let value = self.value(row).unwrap_or(&Value::Null);
        let unit = self.unit.as_ref().and_then(|unit| self.object(row)?.get(unit)?.as_str());
        match (unit, value.as_u64()) {
            (Some("bytes"), Some(bytes)) => return size(bytes),
            (Some("us"), Some(microseconds)) => return duration(microseconds),
            _ => {}
        }
        let item = |one: &Value| {
            let fields = self.items.iter().filter_map(|key| one.get(key).map(|value| cell(key, value)));
            fields.collect::<Vec<_>>().join(" ")
        };
        match value {
            Value::Array(list) if !self.items.is_empty() => {
                let mut text = list.iter().take(SHOWN_ITEMS).map(item).collect::<Vec<_>>().join(", ");
                if list.len() > SHOWN_ITEMS {
                    text.push_str(&format!(" and {} more", list.len() - SHOWN_ITEMS));
                }
                text
            }
            Value::Object(_) if !self.items.is_empty() => item(value),
            _ => cell(&self.key, value),
        }
    }
}

/// Follows `$ref` and the one member of `allOf` or the non-null one of `anyOf`.
pub(super) fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    for _ in 0..8 {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let Some(found) = root.pointer(name.trim_start_matches('#')) else { return schema };
            schema = found;
        } else if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
            let Some(found) = any.iter().find(|one| one.get("type") != Some(&Value::from("null"))) else {
                return schema;
            };
            schema = found;
        } else {
            return schema;
        }
    }
    schema
}

pub(super) fn columns(root: &Value, row: &Value) -> Vec<Column> {
    let Some(properties) = row.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let word = |schema: &Value, key: &str| schema.get(key).and_then(Value::as_str).map(str::to_owned);
    let all = properties.iter().flat_map(|(key, schema)| match schema.get(INLINE) {
        Some(_) => {
            let mut inner = columns(root, resolve(root, schema));
            inner.iter_mut().for_each(|column| column.within = Some(key.clone()));
            inner
        }
        None => {
            let Some(heading) = word(schema, COLUMN) else { return Vec::new() };
            let items = match schema.get(ITEMS).and_then(Value::as_array) {
                Some(named) => named.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                None => {
                    let item = resolve(root, resolve(root, schema).get("items").unwrap_or(&Value::Null));
                    columns(root, item).into_iter().map(|column| column.key).collect()
                }
            };
            let (tree, unit) = (word(schema, TREE), word(schema, UNIT));
            vec![Column { within: None, key: key.clone(), heading, tree, items, unit }]
        }
    });
    all.collect()
}

/// The lists of a row that are shown below it, with their items' columns.
pub(super) fn below(root: &Value, row: &Value) -> Vec<(String, Vec<Column>)> {
    let Some(properties) = row.get("properties").and_then(Value::as_object) else { return Vec::new() };
    properties
        .iter()
        .filter(|(_, schema)| schema.get(LINES).is_some())
        .map(|(key, schema)| (key.clone(), columns(root, resolve(root, schema.get("items").unwrap_or(&Value::Null)))))
        .collect()
}

pub(super) fn is_plain(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(list) => !list.iter().any(Value::is_object),
        _ => true,
    }
}

/// Every plain member of the objects in `list` as a column.
pub(super) fn all_plain(list: &[Value]) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for (key, value) in list.iter().filter_map(Value::as_object).flatten() {
        if is_plain(value) && !columns.iter().any(|column| column.key == *key) {
            columns.push(Column { key: key.clone(), heading: key.to_uppercase(), ..Column::default() });
        }
    }
    columns
}
