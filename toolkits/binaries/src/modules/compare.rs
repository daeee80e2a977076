//! What differs between two captures: the drift between two pods of one
//! deployment, or of one pod over time.

use std::collections::BTreeMap;

use agent_model::Text;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// Bytes of the other capture.
pub const MAX_FILE: usize = 64 << 20;
/// Bytes of one value that are shown.
const MAX_SHOWN: usize = 4096;

/// The fields that are compared. Addresses, inodes and process IDs differ between
/// two processes that run the same code.
const FIELDS: &[&str] = &[
    "build_id",
    "go_build_id",
    "type",
    "machine",
    "interpreter",
    "soname",
    "loaded",
    "needed",
    "rpath",
    "runpath",
    "versions_required",
    "compilers",
    "hardening",
    "go",
    "crates",
    "package_note",
    "runtimes",
    "package",
    "size_bytes",
    "sha256",
    "deleted",
    "replaced",
    "outside_image",
    "mount_point",
    "changed_pages",
];

/// What differs from another capture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Comparison {
    /// Modules of the other capture.
    pub modules: u64,
    /// Modules of both with equal fields.
    pub same: u64,
    /// The others, by path.
    pub differences: Vec<Difference>,
}

/// A module that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Difference {
    /// Its path.
    #[schemars(extend("x-column" = "PATH"))]
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// `added` (it is here and not in the other capture), `removed`, `changed`.
    #[schemars(extend("x-column" = "CHANGE"))]
    #[schemars(extend("x-class" = "word"))]
    pub change: &'static str,
    /// What changed of it, in the order of the fields of a row.
    #[schemars(extend("x-column" = "FIELDS"))]
    pub fields: Vec<Field>,
}

/// A field that differs. A field that one capture did not ask for (`sha256`) or
/// could not see is not compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Field {
    /// Its key.
    #[schemars(extend("x-column" = "FIELD"))]
    #[schemars(extend("x-class" = "word"))]
    pub field: &'static str,
    /// In the other capture, as JSON.
    #[schemars(extend("x-column" = "BEFORE"))]
    pub before: Text,
    /// Here, as JSON.
    #[schemars(extend("x-column" = "AFTER"))]
    pub after: Text,
}

/// The rows of a capture: of an envelope, of its `data`, or of NDJSON.
///
/// # Errors
///
/// When it is none of these, in words.
pub fn rows(bytes: &[u8]) -> Result<Vec<Value>, &'static str> {
    let all: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>().collect();
    let mut all = all.map_err(|_| "neither JSON nor NDJSON")?;
    let is_other = |value: &Value| {
        value.get("schema").and_then(Value::as_str).is_some_and(|schema| !schema.starts_with("agent.modules/"))
    };
    if all.iter().any(is_other) {
        return Err("an envelope of another command");
    }
    if let [one] = all.as_mut_slice() {
        let place = if one.get("data").is_some() { "/data/rows" } else { "/rows" };
        if let Some(Value::Array(rows)) = one.pointer_mut(place) {
            return Ok(std::mem::take(rows));
        }
    }
    all.retain(|row| row.get("end").is_none());
    match all.iter().all(|row| row.get("path").is_some_and(Value::is_string)) {
        true if !all.is_empty() => Ok(all),
        _ => Err("no rows of modules"),
    }
}

/// Compares the rows of two captures.
pub fn compare(before: &[Value], after: &[Value]) -> Comparison {
    let by_path = |rows: &[Value]| -> BTreeMap<String, Value> {
        rows.iter().filter_map(|row| Some((row.get("path")?.as_str()?.to_owned(), row.clone()))).collect()
    };
    let (before, after) = (by_path(before), by_path(after));
    let mut comparison = Comparison { modules: before.len() as u64, ..Comparison::default() };
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for path in paths {
        let (change, fields) = match (before.get(path), after.get(path)) {
            (None, _) => ("added", Vec::new()),
            (_, None) => ("removed", Vec::new()),
            (Some(before), Some(after)) => ("changed", changed(before, after)),
        };
        if change == "changed" && fields.is_empty() {
            comparison.same += 1;
        } else {
            // Text of the agent, which is escaped already.
            let path = Text::from_bytes(&agent_model::text::unescape(path));
            comparison.differences.push(Difference { path, change, fields });
        }
    }
    comparison
}

fn changed(before: &Value, after: &Value) -> Vec<Field> {
    let whole = |row: &Value| row.get("source").and_then(Value::as_str) == Some("file");
    let is_whole = whole(before) && whole(after);
    FIELDS
        .iter()
        .filter_map(|field| {
            let value = |row: &Value| match *field {
                "changed_pages" => row.pointer("/verified/changed_pages").cloned(),
                // What they resolved to differs in path alone.
                "needed" => row.get("needed").map(names),
                field => row.get(field).cloned(),
            };
            let (before, after) = (value(before), value(after));
            let optional = matches!(*field, "sha256" | "package" | "changed_pages" | "outside_image" | "loaded");
            let both = before.is_some() && after.is_some();
            if before == after || !both && (optional || !is_whole) {
                return None;
            }
            Some(Field { field, before: shown(before), after: shown(after) })
        })
        .collect()
}

fn names(needed: &Value) -> Value {
    let list = needed.as_array().into_iter().flatten();
    list.map(|one| one.get("name").cloned().unwrap_or(Value::Null)).collect()
}

fn shown(value: Option<Value>) -> Text {
    let text = match value {
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let mut end = text.len().min(MAX_SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Text::from_bytes(&agent_model::text::unescape(&text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_found_in_each_form() {
        let row = json!({"path": "/a"});
        for text in [
            json!({"schema": "agent.modules/1", "data": {"rows": [row]}}).to_string(),
            json!({"rows": [row]}).to_string(),
            format!("{row}\n{}\n", json!({"schema": "agent.modules/1", "end": {}})),
        ] {
            assert_eq!(rows(text.as_bytes()).unwrap(), std::slice::from_ref(&row), "{text}");
        }
        for bad in ["", "{", "[]", "{\"schema\":\"agent.ps/1\",\"data\":{\"rows\":[]}}", "{\"a\":1}"] {
            assert!(rows(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_tells_two_pods_apart_differs() {
        let row = |path: &str, build: &str, address: &str| {
            json!({"path": path, "build_id": build, "address": address, "source": "file",
                "needed": [{"name": "libc.so.6", "path": address}]})
        };
        let before = [row("/a", "1", "0x1"), row("/b", "1", "0x1"), row("/c", "1", "0x1")];
        let mut changed = row("/b", "2", "0x2");
        changed["sha256"] = json!("x");
        let after = [row("/a", "1", "0x2"), changed, row("/d", "1", "0x2")];
        let found = compare(&before, &after);
        assert_eq!((found.modules, found.same), (3, 1));
        let told: Vec<_> = found.differences.iter().map(|one| (one.path.as_str(), one.change)).collect();
        assert_eq!(told, [("/b", "changed"), ("/c", "removed"), ("/d", "added")]);
        assert_eq!(found.differences[0].fields.len(), 1);
        assert_eq!(found.differences[0].fields[0].before.as_str(), "1");
    }
}
