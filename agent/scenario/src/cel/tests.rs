use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::diff::Schemas;

/// The value of `text` over an artifact called `a`, as text; or what went wrong.
fn value(text: &str) -> Result<String, String> {
    value_with(text, &BTreeSet::new()).0
}

/// Rows are known by `fd`.
fn schema(_: &str) -> Option<serde_json::Value> {
    let row = json!({"x-key": ["fd"]});
    Some(json!({"properties": {"data": {"properties": {"rows": {"type": "array", "items": row}}}}}))
}

fn value_with(text: &str, gaps: &BTreeSet<(String, String)>) -> (Result<String, String>, BTreeSet<(String, String)>) {
    let artifact = json!({
        "schema": "agent.fds/1",
        "data": {
            "rows": [
                {"fd": 1, "type": "file", "size": 10, "path": "/a/b"},
                {"fd": 2, "type": "socket", "peer": {"port": 80}},
                {"fd": 3, "type": "file", "size": 30, "path": "/a/c"},
            ],
            "limit": "unlimited", "wide": "9007199254740993", "none": null, "yes": true,
        },
        "observed": {"start": "2026-01-01T00:00:00.000000Z"},
    });
    let later = json!({"schema": "agent.fds/1", "observed": {"start": "2026-01-01T00:00:01.500000Z"}, "data": {"rows": [
        {"fd": 1, "type": "file", "size": 11, "path": "/a/b"}, {"fd": 4, "type": "pipe"}, {"fd": 3, "type": "file", "size": 30, "path": "/a/c"},
    ]}});
    let mut scope = Scope::default();
    scope.bind("a", Ok(Seen::json(&artifact, Some(Place::root("a")))));
    scope.bind("b", Ok(Seen::json(&later, Some(Place::root("b")))));
    scope.bind("lost", Err(Fault::Missing(Missing { pointer: None, words: "lost".to_owned() })));
    let watcher = Watcher::new(gaps).knowing(Schemas(Some(schema)));
    let program = Program::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let value = match program.value(&scope, &watcher) {
        Ok(value) => Ok(value.show()),
        Err(Fault::Missing(missing)) => Err(format!("missing: {}", missing.words)),
        Err(Fault::Wrong(words)) => Err(words),
    };
    (value, watcher.hit())
}

fn is(text: &str, expected: &str) {
    assert_eq!(value(text), Ok(expected.to_owned()), "{text}");
}

#[test]
fn operators_bind_as_in_cel() {
    is("1 + 2 * 3 - 4 / 2 % 3", "5");
    is("-2 + 3 == 1 && !(1 > 2) || false", "true");
    is("1 < 2 ? 'yes' : 2 < 1 ? 'no' : 'never'", "yes");
    is("'a' + \"b\\n\" + 'c'", "ab\nc");
    is("[1, 2] + [3]", "1, 2, 3");
    is("{'x': 1}.x + {'y': 2}['y']", "3");
    is("2 in [1, 2] && 'x' in {'x': 1} && !(3 in [1])", "true");
    is("1 == '1'", "false");
    is("[1, {'a': [2]}] == [1, {'a': [2]}]", "true");
    is("7 / -2", "-3");
    is("0x10 // a comment\n + 1", "17");
}

#[test]
fn a_side_that_decides_makes_the_others_fault_void() {
    for text in ["false && lost", "lost && false", "a.data.nothing == 1 && false"] {
        is(text, "false");
    }
    is("true || lost", "true");
    is("lost || true", "true");
    assert_eq!(value("lost || false"), Err("missing: lost".to_owned()));
    assert_eq!(value("true && lost"), Err("missing: lost".to_owned()));
    is("a.data.rows.exists(r, r.size == 30)", "true");
    assert!(value("a.data.rows.all(r, r.size > 0)").is_err());
    is("a.data.rows.all(r, r.size > 10)", "false");
}

#[test]
fn what_makes_no_sense_is_a_fault_and_never_a_panic() {
    for text in [
        "9223372036854775807 + 1",
        "-9223372036854775807 - 2",
        "1 / 0",
        "1 % 0",
        "-(-9223372036854775807 - 1)",
        "1 + 'a'",
        "!1",
        "-'a'",
        "'a' < 1",
        "1 ? 2 : 3",
        "a.data.rows.filter(r, 1)",
        "1.size()",
        "[].min()",
        "[1, 'a'].max()",
        "['a'].sum()",
        "'x'.int()",
        "a.data.limit.x",
        "1[0]",
        "[1]['a']",
        "{1: 2}",
        "nobody",
        "a.data.rows.sortBy(r, r)",
        "'a'.duration()",
        "elapsed(a, 1)",
        "diff(1, 2)",
        "[1][5]",
        "[1][-1]",
        "a.data.rows[9]",
        "optional",
        "'a'.first()",
        "a.?b.value()",
    ] {
        assert!(value(text).is_err(), "{text}: {:?}", value(text));
    }
}

#[test]
fn missing_members_say_where_they_would_stand() {
    assert_eq!(value("a.data.rows[1].size"), Err("missing: /data/rows/1/size of a is not there".to_owned()));
    is("has(a.data.rows[1].size) || has(a.data.rows[1].peer)", "true");
    is("a.data.rows[1].?peer.?port.orValue(0) + a.data.rows[0].?peer.port.orValue(1)", "81");
    is("a.data.rows[?7].?fd.hasValue()", "false");
    is("a.data.rows.first().fd.value()", "1");
    is("type(a.data.limit) == string && type(1) == int && type(a.data.none) == null_type", "true");
    is("int(a.data.wide)", "9007199254740993");
}

#[test]
fn lists_can_be_filtered_counted_and_sorted() {
    is("a.data.rows.filter(r, r.type == 'file').map(r, r.fd)", "1, 3");
    is("a.data.rows.map(r, has(r.size), r.size).sum()", "40");
    is("a.data.rows.exists_one(r, r.type == 'socket')", "true");
    is("a.data.rows.countBy(r, r.type).map(g, g.key + ' ' + string(g.count))", "file 2, socket 1");
    is(
        "a.data.rows.countBy(r, r.type, r.?size.orValue(100)).map(g, g.key + ' ' + string(g.sum))",
        "socket 100, file 40",
    );
    is("a.data.rows.sortBy(r, -r.fd).map(r, r.fd).take(2)", "3, 2");
    is("[3, 1, 3].distinct().reverse().join('-')", "1-3");
    is("[[1], [2, 3], 4].flatten().slice(1, 3)", "2, 3");
    is("[1, 1, 2].isSorted() && ![2, 1].isSorted()", "true");
    is("size('äö') + size([1]) + size({'a': 1})", "4");
    is("'/a/b/c'.dirname() + ' ' + 'a,b'.split(',').last().value() + ' ' + 'AB'.lowerAscii()", "/a/b b ab");
    is("'abc'.startsWith('ab') && 'abc'.endsWith('bc') && 'abc'.contains('b')", "true");
    is("{'b': 1, 'a': 2}.map(key, key)", "a, b");
    is("[2, 1].min() + [2, 5].max()", "6");
}

#[test]
fn numbers_are_shown_with_their_units() {
    is("asBytes(1536)", "1.5 KiB");
    is("asBytes(1023)", "1023 bytes");
    is("asBytes(-3145728)", "-3 MiB");
    is("asBytes(9223372036854775807)", "8388608 TiB");
    is("asTime(999)", "999 µs");
    is("asTime(1500000)", "1.5 s");
    is("asTime(5400000000)", "1.5 h");
    is("asPercent(987)", "98.7 %");
    is("duration('1m30s')", "90000000");
}

#[test]
fn envelopes_are_compared_by_identity_and_time() {
    is("elapsed(a, b)", "1500000");
    is("diff(a, b).appeared.map(r, r.fd)", "4");
    is("diff(a, b).went.map(r, r.fd)", "2");
    is("diff(a, b).changed.map(c, c.after.size - c.before.size)", "1");
    // Lists by themselves have no identity but all that they are, and equal items are counted.
    is("diff([1, 1, 2], [2, 1, 1, 1]).appeared", "1");
    is("diff(a.data.rows, b.data.rows).changed.size()", "0");
}

#[test]
fn gaps_are_come_upon_where_something_is_missing_or_a_list_is_walked() {
    let gap = |at: &str| BTreeSet::from([("a".to_owned(), at.to_owned())]);
    let hits = |text: &str, at: &str| !value_with(text, &gap(at)).1.is_empty();
    assert!(hits("has(a.data.rows[1].size)", "/data/rows/1/size"));
    assert!(hits("has(a.data.rows[1].size)", "/data/rows/1"));
    assert!(!hits("has(a.data.rows[1].size)", "/data/rows/2/size"));
    assert!(!hits("has(a.data.rows[0].size)", "/data/rows/1/size"));
    assert!(hits("a.data.?cgroup.hasValue()", "/data/cgroup/memory"));
    assert!(hits("a.data.rows.exists(r, r.fd == 9)", "/data/rows"));
    assert!(hits("a.data.rows.exists(r, r.fd == 9)", "/data"));
    assert!(hits("size(a.data.rows) > 0", "/data/rows"));
    assert!(!hits("a.data.rows.exists(r, r.fd == 9)", "/data/rows/0/path"));
    assert!(!hits("a.data.yes", "/data/rows"));
}

#[test]
fn an_expression_that_would_run_for_ever_ends() {
    let rows: Vec<u32> = (0..2000).collect();
    let artifact = json!({ "rows": rows });
    let mut scope = Scope::default();
    scope.bind("a", Ok(Seen::json(&artifact, None)));
    let gaps = BTreeSet::new();
    let text = "a.rows.all(x, a.rows.all(y, a.rows.all(z, x + y + z >= 0)))";
    let value = Program::compile(text).unwrap().value(&scope, &Watcher::new(&gaps));
    assert_eq!(value.err(), Some(Fault::Wrong("the rule takes too many operations".to_owned())));
}

#[test]
fn the_deepest_expression_is_evaluated_and_dropped() {
    let deep = format!("{}1{}", "(".repeat(90), ")".repeat(90));
    is(&deep, "1");
    is(&format!("{}true", "!".repeat(90)), "true");
    is(&vec!["1"; 100].join("+"), "100");
}
