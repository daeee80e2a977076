//! Secrets in every dress, and ordinary values that must survive.

use agent_model::RedactionLevel;

use super::*;

/// The secret of all of these. Nothing of it may be left.
const CANARY: &str = "hunter2-CaNaRy";

fn redactor(level: RedactionLevel) -> Redactor {
    Redactor::new(level, key_of("INC-42", b"of a test"))
}

/// Command lines with a secret: `§` stands for it.
const SECRET_LINES: &[&str] = &[
    "app --password §",
    "app --password=§",
    "app -password §",
    "app --db-password §",
    "app --dbPassword=§",
    "java -Ddb.password=§ -jar app.jar",
    "java -Djavax.net.ssl.keyStorePassword=§ Main",
    "env PGPASSWORD=§ psql -h db",
    "mysql -uroot -p§ -h db",
    "mysqldump -u root -p§ shop",
    "redis-cli -a § ping",
    "redis-server --requirepass §",
    "curl -u alice:§ https://example.org/",
    "curl --user alice:§ https://example.org/",
    "curl -H 'Authorization: Bearer §' https://example.org/",
    "curl https://alice:§@example.org/path",
    "curl https://example.org/path?token=§&page=2",
    "app --dsn postgres://app:§@db:5432/shop?sslmode=require",
    "app --dsn app:§@tcp(db:3306)/shop",
    "app --url amqp://guest:§@mq:5672/%2f",
    "app mongodb+srv://root:§@cluster0.example.net/?retryWrites=true",
    "sh -c mysql --password=§ -e 'select 1'",
    "sh -c 'exec app --api-key §'",
    "bash -c 'export API_TOKEN=§; app'",
    "app --connection 'Server=db;User Id=sa;Password=§;Encrypt=true'",
    "app {\"apiKey\":\"§\",\"port\":80}",
    "sshpass -p § ssh host",
    "docker login -u bob -p § registry",
    "vault login -token=§",
    "app --client-secret=§",
    "app --jwt-secret §",
    "app --aws-secret-access-key §",
    "app secret=§",
    "app --basic-auth-password=§",
    "app --set=auth.password=§",
    "smtp://mailer:§@smtp.example.org:587",
    "app --cookie-secret=§",
    "etcdctl --user root:x --password=§ get /",
    "ldapsearch -x -w § -b dc=example",
];

/// An argv as a shell would make it, of single-quoted and plain words.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words
}

#[test]
fn secrets_in_arguments_are_removed_in_every_dress() {
    for level in [RedactionLevel::Default, RedactionLevel::Strict] {
        for line in SECRET_LINES {
            let argv = words(&line.replace('§', CANARY));
            let redactor = redactor(level);
            let shown = redactor.argv(&argv).join(" ");
            assert!(!shown.contains("CaNaRy") && !shown.contains("hunter2"), "{line}: {shown}");
            assert!(!redactor.take_report().removed.is_empty(), "{line}");
            // The same as one string: a title, or a line of a log.
            let one = redactor.argv([line.replace('§', CANARY).replace('\'', "")]).concat();
            if !line.contains("-c ") {
                assert!(!one.contains("CaNaRy"), "{line} as one: {one}");
            }
        }
    }
}

#[test]
fn keys_are_known_by_their_look() {
    let keys = [
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "xoxb-123456789012-1234567890123-AbCdEfGhIjKl",
        "AIzaSyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe",
        "glpat-aBcDeFgHiJkLmNoPqRsT",
        "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "-----BEGIN RSA PRIVATE KEY-----\\x0aMIIEowIBAAKCAQEA\\x0a-----END RSA PRIVATE KEY-----",
        "hvs.CAESIJlWh3Ck8mmNuYx3Ck8mmNuYx",
        "dGhpcyBpcyBhIHNlY3JldCBrZXkgMTIzNDU2Nzg5MA==",
        "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MGFiY2RlZmdoaWprbG1ub3A",
    ];
    for key in keys {
        // A file name has no slash.
        let file = if key.contains('/') { key.to_owned() } else { format!("/tmp/{key}") };
        for text in [key.to_owned(), format!("prefix {key} suffix"), file, format!("x={key}")] {
            let shown = redactor(RedactionLevel::Default).text(Class::Text, &text).into_owned();
            assert!(shown.contains("‹redacted:"), "{text}: {shown}");
            assert!(!shown.contains(&key[key.len() - 8..]), "{text}: {shown}");
        }
    }
}

#[test]
fn ordinary_command_lines_survive() {
    let lines: Vec<&str> = include_str!("corpus.txt").lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.len() >= 200, "{}", lines.len());
    let mut wrong = Vec::new();
    for line in &lines {
        let argv = words(line);
        let shown = redactor(RedactionLevel::Default).argv(&argv);
        if shown != argv {
            wrong.push(format!("{line}\n    {}", shown.join(" ")));
        }
    }
    // Counted: a change that makes it worse must say so here.
    assert_eq!(wrong.len(), FALSE_POSITIVES, "{} of {}:\n{}", wrong.len(), lines.len(), wrong.join("\n"));
}

/// So many of the ordinary command lines of corpus.txt lose something.
const FALSE_POSITIVES: usize = 0;

#[test]
fn pseudonyms_join_within_an_incident_and_not_across() {
    let (a, b) = (redactor(RedactionLevel::Strict), redactor(RedactionLevel::Strict));
    let other = Redactor::new(RedactionLevel::Strict, key_of("INC-43", b"of a test"));
    let shown = a.text(Class::Host, "10.1.2.3").into_owned();
    assert_eq!(shown, b.text(Class::Host, "10.1.2.3"));
    assert_ne!(shown, other.text(Class::Host, "10.1.2.3"));
    assert!(shown.starts_with("~host.") && shown.len() == 26, "{shown}");
    assert_eq!(a.text(Class::Host, "127.0.0.1"), "127.0.0.1");
    let argv = a.argv(["/usr/bin/app", "--port", "8080", "--name", "shop-db", "serve", "--level=debug", "-v"]);
    assert_eq!(argv[..3], ["/usr/bin/app", "--port", "8080"]);
    assert!(argv[4].starts_with("~arg."), "{argv:?}");
    assert_eq!(argv[5..], ["serve", "--level=debug", "-v"]);
}

#[test]
fn hmac_is_that_of_rfc_4231() {
    let digest = crate::audit::hex(&hmac(b"Jefe", b"what do ya want for nothing?"));
    assert_eq!(digest, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    let long = crate::audit::hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"));
    assert_eq!(long, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

#[test]
fn off_shows_everything() {
    let redactor = redactor(RedactionLevel::Off);
    assert_eq!(redactor.argv(["app", "--password", CANARY])[2], CANARY);
    assert_eq!(redactor.text(Class::Secret, CANARY), CANARY);
}

#[test]
fn a_value_is_redacted_by_the_class_of_its_place() {
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "word": {"type": "string", "x-class": "word"},
            "args": {"type": "array", "x-class": "argv", "items": {"$ref": "#/$defs/Text"}},
            "child": {"anyOf": [{"$ref": "#/$defs/Child"}, {"type": "null"}]},
            "map": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Text"}},
        },
        "$defs": {
            "Text": {"type": "string", "x-class": "text"},
            "Child": {"type": "object", "properties": {
                "value": {"type": "string", "x-class": "secret"},
                "child": {"$ref": "#/$defs/Child"},
            }},
        },
    });
    assert!(unclassified(&schema).is_empty());
    let classes = Classes::of(&schema);
    let value = serde_json::json!({
        "word": "password=x-x-x-x-x",
        "args": ["app", "--token", CANARY, "-v"],
        "child": {"value": CANARY, "child": {"value": CANARY}},
        "map": {"a": format!("secret={CANARY}"), "unknown": 7},
        "elsewhere": format!("https://u:{CANARY}@h/"),
    });
    let redactor = redactor(RedactionLevel::Default);
    let shown = serde_json::to_value(Redacted::new(&value, &redactor, &classes, Some(classes.root()))).expect("JSON");
    assert!(!shown.to_string().contains("CaNaRy"), "{shown}");
    assert_eq!(shown["word"], "password=x-x-x-x-x");
    assert_eq!(shown["args"], serde_json::json!(["app", "--token", "‹redacted:flag›", "-v"]));
    assert_eq!(shown["map"]["unknown"], 7);
    let removed = redactor.take_report().removed;
    assert_eq!((removed["secret"], removed["flag"], removed["value"], removed["userinfo"]), (2, 1, 1, 1));
    let missing = serde_json::json!({"properties": {"a": {"type": "string"}, "b": {"enum": ["x"], "type": "string"}}});
    assert_eq!(unclassified(&missing), ["/properties/a"]);
}

/// What is digested and printed in one pass is what the serializer shows, string by string.
#[test]
fn the_digest_is_over_what_is_shown() {
    #[derive(serde::Serialize)]
    struct Row {
        pid: u32,
        argv: Vec<String>,
        name: &'static str,
        path: Option<&'static str>,
        environment: std::collections::BTreeMap<&'static str, &'static str>,
        #[serde(flatten)]
        more: std::collections::BTreeMap<&'static str, Vec<&'static str>>,
        unknown: &'static str,
        words: (&'static str, &'static str),
        nested: Option<Box<Row>>,
    }
    let row = |nested| Row {
        pid: 7,
        argv: words(&"app --password § --port 80 https://u:§@example.org/".replace('§', CANARY)),
        name: "AKIAIOSFODNN7EXAMPLE",
        path: Some("/srv/x?token=hunter2-CaNaRy"),
        environment: [("PGPASSWORD", CANARY), ("password=hunter2-CaNaRy", "x")].into(),
        more: [("hosts", vec!["10.0.0.1", "db.example"]), ("token=hunter2-CaNaRy", vec!["y"])].into(),
        unknown: "password=hunter2-CaNaRy",
        words: ("AKIAIOSFODNN7EXAMPLE", "token"),
        nested,
    };
    let class = |class: &str| serde_json::json!({"type": "string", "x-class": class});
    let list = |class: &serde_json::Value| serde_json::json!({"type": "array", "items": class});
    let members = serde_json::json!({"properties": {
        "pid": {"type": "integer"},
        "words": list(&class("word")),
        "argv": list(&class("argv")),
        "name": class("name"),
        "path": class("path"),
        "environment": {"type": "object", "additionalProperties": class("secret")},
        "hosts": list(&class("host")),
        // A type that holds itself.
        "nested": {"anyOf": [{"$ref": "#/$defs/Row"}, {"type": "null"}]},
    }});
    let schema = serde_json::json!({
        "properties": {"data": {"properties": {
            "rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}},
            "summary": class("text"),
        }}},
        "$defs": {"Row": members},
    });
    let classes = Classes::of(&schema);
    let place = classes.field(Some(classes.root()), "data");
    let data = agent_model::Listing {
        rows: vec![row(Some(Box::new(row(Some(Box::new(row(None))))))), row(None)],
        summary: format!("password={CANARY}"),
    };
    for level in [RedactionLevel::Default, RedactionLevel::Strict, RedactionLevel::Off] {
        let redactor = redactor(level);
        let shown = Redacted::new(&data as &dyn agent_model::Data, &redactor, &classes, place);
        let wanted = serde_json::to_string(&shown).expect("JSON");
        let removed = redactor.take_report();
        assert_eq!(wanted.contains(CANARY), level == RedactionLevel::Off, "{wanted}");
        let seal = shown.seal(1 << 20).expect("a seal");
        let mut kept = Vec::new();
        seal.json.expect("kept").write_to(&mut kept).expect("written");
        assert_eq!(String::from_utf8_lossy(&kept), wanted);
        assert_eq!(redactor.take_report(), removed);
        let value: serde_json::Value = serde_json::from_str(&wanted).expect("JSON");
        assert_eq!(seal.digest, agent_model::digest(&value).expect("a digest"));
        let mut written = Vec::new();
        agent_model::Shown::write_json(&shown, &mut written).expect("written");
        assert_eq!(String::from_utf8(written).expect("UTF-8"), wanted);
    }
}
