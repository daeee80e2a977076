//! The crate `cel` as the judge: what both know has the same value, and what is a fault to one is to the other.

use cel::objects::Value as Theirs;
use serde_json::json;

use super::*;

fn artifact() -> serde_json::Value {
    json!({
        "data": {
            "rows": [
                {"fd": 1, "type": "file", "size": 10, "path": "/a/b"},
                {"fd": 2, "type": "socket", "peer": {"port": 80}},
                {"fd": 3, "type": "file", "size": 30, "path": "/a/c"},
            ],
            "limit": "unlimited", "none": null, "yes": true, "few": [3, 1, 2],
        },
    })
}

/// The value as text, or `None` where there is none.
fn ours(text: &str) -> Option<String> {
    let artifact = artifact();
    let mut scope = Scope::default();
    scope.bind("a", Ok(Seen::json(&artifact, Some(Place::root("a")))));
    let gaps = std::collections::BTreeSet::new();
    let watcher = Watcher::new(&gaps);
    let program = Program::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    program.value(&scope, &watcher).ok().map(|value| value.show())
}

/// JSON whose numbers are CEL's int: the crate makes uint of those that are not negative.
struct Ints<'a>(&'a serde_json::Value);

impl serde::Serialize for Ints<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            serde_json::Value::Number(number) => serializer.serialize_i64(number.as_i64().expect("an int")),
            serde_json::Value::Array(items) => serializer.collect_seq(items.iter().map(Ints)),
            serde_json::Value::Object(members) => {
                serializer.collect_map(members.iter().map(|(key, value)| (key, Ints(value))))
            }
            other => other.serialize(serializer),
        }
    }
}

fn theirs(text: &str) -> Option<String> {
    let mut context = cel::Context::default();
    context.add_variable("a", Ints(&artifact())).expect("a variable");
    let program = cel::Program::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    program.execute(&context).ok().map(|value| shown(&value))
}

fn shown(value: &Theirs) -> String {
    match value {
        Theirs::Int(number) => number.to_string(),
        Theirs::UInt(number) => number.to_string(),
        Theirs::Bool(truth) => truth.to_string(),
        Theirs::String(text) => text.to_string(),
        Theirs::Null => "null".to_owned(),
        Theirs::List(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_scenarios_say_is_what_it_says() {
    let texts = [
        "a.data.rows.size() == 3",
        "size(a.data.rows)",
        "a.data.rows[0].path",
        "a.data.rows[1].peer.port + 1",
        "a.data.rows.filter(r, r.type == 'file').map(r, r.size)",
        "a.data.rows.map(r, r.type == 'file', r.fd)",
        "a.data.rows.all(r, r.fd > 0)",
        "a.data.rows.exists(r, has(r.peer) && r.peer.port == 80)",
        "a.data.rows.exists_one(r, r.type == 'socket')",
        "a.data.rows.exists_one(r, r.type == 'file')",
        "has(a.data.rows[1].size)",
        "has(a.data.none)",
        "a.data.none == null",
        "a.data.limit != 'unlimited'",
        "a.data.rows[7]",
        "a.data.rows[0].nothing",
        "a.nothing.at.all",
        "2 in a.data.few",
        "'x' in ['a', 'b']",
        "'fd' in a.data.rows[0]",
        "a.data.rows[0].path.startsWith('/a') && a.data.rows[0].path.endsWith('b')",
        "a.data.rows[0].path.contains('/')",
        "a.data.yes ? 'on' : 'off'",
        "a.data.few.map(x, x * 10) == [30, 10, 20]",
        "a.data.few.filter(x, x > 5).size()",
        "[1, 2] + [3] == [1, 2, 3]",
        "'a' + 'b' == \"ab\"",
        "'\\n\\t\\\\\\'' == \"\\n\\t\\\\'\"",
        "1 + 2 * 3 - 4 / 2 % 3",
        "-7 / 2",
        "-7 % 3",
        "1 / 0",
        "1 % 0",
        "9223372036854775807 + 1",
        "-9223372036854775807 - 1",
        "9223372036854775807 * 2",
        "'a' < 'b' && 'B' < 'a'",
        "1 + 'a'",
        "!1",
        "true && 1 / 0 == 1",
        "false && 1 / 0 == 1",
        "true || 1 / 0 == 1",
        "1 / 0 == 1 || true",
        "1 / 0 == 1 && false",
        "(1 / 0 == 1) ? 1 : 2",
        "string(12) + '!'",
        "int('12') + 1",
        "int('x')",
        "size('añb')",
    ];
    let apart: Vec<_> = texts.iter().map(|text| (text, ours(text), theirs(text))).filter(|(_, a, b)| a != b).collect();
    assert!(apart.is_empty(), "{apart:#?}");
}

/// A xorshift generator: the same expressions each time.
struct Random(u64);

impl Random {
    fn below(&mut self, count: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % count
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len() as u64) as usize]
    }

    fn number(&mut self, depth: u64) -> String {
        if depth == 0 {
            let known = [
                "0",
                "1",
                "-3",
                "7",
                "a.data.rows[0].size",
                "a.data.few[1]",
                "9223372036854775807",
                "a.data.rows[1].size",
            ];
            return self.one(&known).to_owned();
        }
        match self.below(6) {
            0 => format!("({} ? {} : {})", self.truth(depth - 1), self.number(depth - 1), self.number(depth - 1)),
            1 => format!("size({})", self.list(depth - 1)),
            2 => format!("{}[{}]", self.list(depth - 1), self.number(0)),
            _ => {
                let operator = self.one(&["+", "-", "*", "/", "%"]);
                format!("({} {operator} {})", self.number(depth - 1), self.number(depth - 1))
            }
        }
    }

    fn truth(&mut self, depth: u64) -> String {
        if depth == 0 {
            return self
                .one(&["true", "false", "a.data.yes", "has(a.data.none)", "has(a.data.rows[1].size)"])
                .to_owned();
        }
        match self.below(6) {
            0 => format!("!{}", self.truth(depth - 1)),
            1 => format!("({} {} {})", self.truth(depth - 1), self.one(&["&&", "||"]), self.truth(depth - 1)),
            2 => format!("({} in {})", self.number(depth - 1), self.list(depth - 1)),
            3 => {
                let macros = self.one(&["all", "exists", "exists_one"]);
                format!(
                    "{}.{macros}(x, x {} {})",
                    self.list(depth - 1),
                    self.one(&["<", "==", ">="]),
                    self.number(depth - 1)
                )
            }
            4 => format!("({} {} {})", self.list(depth - 1), self.one(&["==", "!="]), self.list(depth - 1)),
            _ => {
                let operator = self.one(&["<", "<=", ">", ">=", "==", "!="]);
                format!("({} {operator} {})", self.number(depth - 1), self.number(depth - 1))
            }
        }
    }

    fn list(&mut self, depth: u64) -> String {
        if depth == 0 {
            return self.one(&["[]", "[1, 2]", "a.data.few", "[7, 7]"]).to_owned();
        }
        match self.below(4) {
            0 => format!("({} + {})", self.list(depth - 1), self.list(depth - 1)),
            1 => format!("{}.map(x, x + {})", self.list(depth - 1), self.number(0)),
            2 => format!("{}.filter(x, x > {})", self.list(depth - 1), self.number(0)),
            _ => format!("[{}, {}]", self.number(depth - 1), self.number(depth - 1)),
        }
    }
}

#[test]
fn any_expression_has_the_value_that_it_says() {
    let mut random = Random(42);
    let mut values = 0;
    for _ in 0..1_500 {
        let depth = 1 + random.below(4);
        let text = match random.below(3) {
            0 => random.number(depth),
            1 => random.truth(depth),
            _ => random.list(depth),
        };
        let (own, judge) = (ours(&text), theirs(&text));
        assert_eq!(own, judge, "{text}");
        values += usize::from(own.is_some());
    }
    assert!(values > 250, "{values}");
}
