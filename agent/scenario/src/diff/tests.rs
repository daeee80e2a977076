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
fn connections_of_another_pod_are_known_by_the_port_that_is_listened_on() {
    let schema = |_: &str| {
        let row = json!({
            "x-key": ["inode"], "x-alike": ["state", "remote_address", "remote_port"], "x-life": ["inode"],
            "x-ends": ["local_address", "local_port", "remote_address", "remote_port"]
        });
        Some(json!({"properties": {"data": {"properties": {"rows": {"type": "array", "items": row}}}}}))
    };
    let pod = |address: &str, client: u64, rows: &[(u64, &str, u64)]| {
        let mut all =
            vec![json!({"state": "listen", "local_address": "0.0.0.0", "local_port": 50051, "inode": client})];
        for (at, (local_port, remote_address, remote_port)) in rows.iter().enumerate() {
            all.push(json!({"state": "established", "local_address": address, "local_port": local_port,
                "remote_address": remote_address, "remote_port": remote_port, "inode": client + at as u64}));
        }
        json!({"schema": "agent.sockets/1", "resource": {"host.name": address}, "data": {"rows": all}})
    };
    // Two clients of it, even on a high port, and two connections of its own to a database: all ports that are lent differ.
    let rows = |lent: u64| {
        [
            (50051, "10.0.0.9", lent),
            (50051, "10.0.0.9", lent + 1),
            (lent, "10.0.0.5", 5432),
            (lent + 1, "10.0.0.5", 5432),
        ]
    };
    let one = pod("10.1.0.1", 7, &rows(40_000));
    let told = |other: &Value| {
        let changes = of("sockets", &one, other, Schemas(Some(schema)));
        changes.iter().map(|one| (one.what, Value::Object(one.key.clone()).to_string(), one.count)).collect::<Vec<_>>()
    };
    assert_eq!(told(&pod("10.1.0.2", 90, &rows(51_000))), []);
    // One more of each, and another database.
    let more =
        [&rows(52_000)[..], &[(50051, "10.0.0.9", 61_000), (61_001, "10.0.0.5", 5432), (61_002, "10.0.0.5", 6379)]];
    let appeared = |port: &str| {
        let address = if port.starts_with("\"local") { "10.0.0.9" } else { "10.0.0.5" };
        let state = "\"state\":\"established\"";
        (What::Appeared, format!("{{{state},\"remote_address\":\"{address}\",{port}}}"), None)
    };
    let expected = ["\"local_port\":50051", "\"remote_port\":5432", "\"remote_port\":6379"].map(appeared);
    assert_eq!(told(&pod("10.1.0.2", 90, &more.concat())), expected);
    // What it listens on is a fact.
    let mut local = pod("10.1.0.2", 90, &rows(53_000));
    local["data"]["rows"][0]["local_address"] = "127.0.0.1".into();
    assert_eq!(told(&local).len(), 1);
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
