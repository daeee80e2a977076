use serde_json::json;

use super::*;

fn schema(_: &str) -> Option<Value> {
    Some(json!({
        "properties": {"data": {"$ref": "#/$defs/Data"}},
        "$defs": {
            "Data": {"properties": {"rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}}, "summary": {"type": "object"}}},
            "Row": {
                "x-key": ["pid", "fd"], "x-alike": ["type", "target"], "x-life": ["inode"],
                "properties": {"watches": {"anyOf": [
                    {"type": "array", "items": {"x-key": ["fd"]}}, {"type": "null"}]}}
            }
        }
    }))
}

fn envelope(start: u64, rows: Value) -> Value {
    json!({"schema": "agent.fds/1", "target": {"pid": 1, "start_ticks": start}, "data": {"rows": rows, "summary": {"open": 3, "kinds": {"file": 1}}}})
}

fn changes(before: &Value, after: &Value) -> Vec<(What, String)> {
    let changes = of("fds", before, after, Schemas(Some(schema)));
    let told = |change: &Change| {
        let members: Vec<String> =
            change.members.iter().map(|member| format!("{} {:?}", member.member, member.delta)).collect();
        let count = change.count.map(|count| format!(" x{count}")).unwrap_or_default();
        format!("{} {}{count} {}", change.at, Value::Object(change.key.clone()), members.join(", "))
    };
    changes.iter().map(|change| (change.what, told(change).trim_end().to_owned())).collect()
}

#[test]
fn rows_are_known_by_their_key_wherever_they_stand() {
    let before = envelope(5, json!([{"fd": 0, "size_bytes": 10}, {"fd": 1, "type": "pipe"}, {"fd": 2}]));
    let after = envelope(5, json!([{"fd": 3}, {"fd": 2}, {"fd": 0, "size_bytes": 25}]));
    assert_eq!(
        changes(&before, &after),
        [
            (What::Appeared, "/rows {\"fd\":3}".to_owned()),
            (What::Changed, "/rows {\"fd\":0} size_bytes Some(15)".to_owned()),
            (What::Went, "/rows {\"fd\":1}".to_owned()),
        ]
    );
    assert_eq!(changes(&before, &before), []);
}

#[test]
fn rows_of_one_identity_are_counted() {
    let row = |size| json!({"fd": 7, "size": size});
    let before = envelope(5, json!([row(1), row(1), row(2)]));
    let after = envelope(5, json!([row(1), row(3), row(1), row(4), row(4)]));
    assert_eq!(
        changes(&before, &after),
        [
            (What::Changed, "/rows {\"fd\":7} size Some(1)".to_owned()),
            (What::Appeared, "/rows {\"fd\":7} x2".to_owned()),
        ]
    );
}

#[test]
fn in_another_life_rows_are_known_by_what_they_are() {
    let row = |fd, target: &str, inode| json!({"fd": fd, "type": "socket", "target": target, "inode": inode});
    let before = envelope(5, json!([row(4, "socket:[11]", "11"), row(5, "socket:[12]", "12")]));
    let after = envelope(9, json!([row(8, "socket:[77]", "77"), row(9, "socket:[78]", "78"), row(1, "/log", "3")]));
    assert_eq!(
        changes(&before, &after),
        [(What::Appeared, "/rows {\"type\":\"socket\",\"target\":\"/log\"}".to_owned())]
    );
}

#[test]
fn totals_are_told_with_deltas_and_lists_in_rows_with_the_key_of_their_row() {
    let mut after = envelope(5, json!([{"fd": 3, "watches": [{"fd": 9}, {"fd": 8}]}]));
    after["data"]["summary"] = json!({"open": 5, "kinds": {"file": 1, "pipe": 2}});
    let before = envelope(5, json!([{"fd": 3, "watches": [{"fd": 8}]}]));
    let changes = changes(&before, &after);
    assert_eq!(
        changes,
        [
            (What::Appeared, "/rows/watches {\"fd\":9}".to_owned()),
            (What::Changed, " {} summary/open Some(2), summary/kinds/pipe None".to_owned()),
        ]
    );
}

#[test]
fn what_has_no_schema_is_compared_as_it_stands() {
    let (before, after) = (json!({"data": {"rows": [1]}}), json!({"data": {"rows": [2]}}));
    let changes = of("x", &before, &after, Schemas::default());
    assert_eq!((changes.len(), changes[0].members[0].member.as_str()), (1, "rows"));
}

#[test]
fn places_pair_what_is_equal_first() {
    let rows =
        |all: &[(&str, &str)]| all.iter().map(|(key, row)| ((*key).to_owned(), (*row).to_owned())).collect::<Vec<_>>();
    let places =
        places(&rows(&[("a", "1"), ("a", "2"), ("b", "1")]), &rows(&[("a", "2"), ("a", "3"), ("c", "1"), ("a", "4")]));
    assert_eq!(places.changed, [(0, 1)]);
    assert_eq!(places.appeared, [2, 3]);
    assert_eq!(places.went, [2]);
}
