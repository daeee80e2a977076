use serde_json::json;

use super::*;

/// What is meant to do harm in a page, in every place where a target can put words.
const HARM: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> ![x](http://evil/x) | `a` @all";

fn subject(words: &str) -> Subject {
    let look = |name: &str, envelope: Value| Artifact { name: name.to_owned(), envelope, file: None };
    let envelope = |command: &str, data: Value| {
        json!({"schema": format!("agent.{command}/1"), "observed": {"start": "2026-01-01T00:00:00.1Z", "end": "2026-01-01T00:00:00.3Z"},
            "cost": {"target_stopped_us": 1500}, "data": data, "gaps": [{"at": words, "path": words, "reason": words, "detail": words, "remedy": words}]})
    };
    let frames = |names: &[&str]| names.iter().map(|name| json!({"function": name})).collect::<Vec<_>>();
    let profile = json!({"rows": [
        {"state": "on_cpu", "time_us": 3000, "frames": frames(&["leaf", words, "main"])},
        {"state": "off_cpu", "time_us": 1000, "frames": frames(&["wait", "main"]), "system_call": words},
    ]});
    let types = |files| json!({"rows": [], "summary": {"types": {"file": files, words: 1}}});
    Subject {
        about: json!({"argv": ["agent", "run", words], "session": {"id": words, "incident": words, "actor": words},
            "target": {"pid": 7, "name": words, "executable": words}, "window": {"start": words}, "resource": {"host.name": words}}),
        findings: vec![json!({"level": words, "message": words, "id": words, "remedy": words, "playbook": words,
            "evidence": [{"artifact": words, "at": words}]})],
        gaps: vec![json!({"at": words, "reason": words, "detail": words, "remedy": words})],
        looks: vec![
            look(
                words,
                envelope(
                    "ps",
                    json!({"rows": [{"pid": 7, "ppid": 0, "depth": 0, "name": words, "state": words, "args": [words], "rss_bytes": 2048}]}),
                ),
            ),
            look("fds[0]", envelope("fds", types(1))),
            look("fds[1]", envelope("fds", types(9))),
            look(
                "maps",
                envelope(
                    "maps",
                    json!({"rows": [], "summary": {"kinds": [{"kind": words, "mappings": 2, "size_bytes": 4096, "rss_bytes": 1 << 20}]}}),
                ),
            ),
            look(
                "sockets",
                envelope(
                    "sockets",
                    json!({"rows": [{"protocol": words, "state": words, "remote_address": words, "remote_port": 80}]}),
                ),
            ),
            look("profile", envelope("profile", profile)),
        ],
        state: vec![words.to_owned()],
        files: vec![Listed {
            path: words.to_owned(),
            media_type: words.to_owned(),
            bytes: 12,
            sha256: words.to_owned(),
        }],
        records: vec![json!({"seq": 1, "ts": words, "type": words, "data": {"command": words, "detail": words}})],
    }
}

#[test]
fn a_page_has_every_section_and_no_word_of_the_target_is_markup() {
    let page = html(&subject(HARM));
    let titles = [
        "Findings",
        "Timeline",
        "Processes",
        "Flame graph",
        "Memory by kind",
        "Sockets by state and peer",
        "Descriptors",
        "Not seen",
        "Manifest",
    ];
    let mut rest = page.as_str();
    for title in titles {
        let at = rest.find(&format!("<h2>{title}</h2>")).unwrap_or_else(|| panic!("no {title}, or not in its place"));
        rest = &rest[at..];
    }
    assert_eq!(page.matches("<script>").count(), 1);
    assert!(!page.contains("<img") && !page.contains("onerror=alert(2)>"), "{page}");
    // Every tag is one of ours.
    let marked = page.split("<script>").next().unwrap();
    for tag in marked.split('<').skip(1) {
        let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
        let known = [
            "html", "head", "meta", "title", "style", "body", "h1", "h2", "section", "p", "b", "i", "div", "table",
            "thead", "tbody", "tr", "th", "td", "code", "script",
        ];
        assert!(known.contains(&name.as_str()) || tag.starts_with("!DOCTYPE"), "<{tag}");
    }
    // It asks the network for nothing.
    assert!(!page.contains("src=") || page.matches("src=").count() == page.matches("&lt;img src=x").count());
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn markdown_is_only_text_where_the_target_speaks() {
    let page = markdown(&subject(HARM));
    // In a fence it is text, and out of it there is none.
    let outside: String = page.split("```").step_by(2).collect();
    assert!(!outside.contains('<'), "{page}");
    assert_eq!(page.matches("```").count(), 2);
    assert!(!outside.replace("\\](", "").contains("]("), "{page}");
    assert!(!outside.contains("://") && !outside.contains("@all"), "{page}");
    // A bar in a cell is no new cell.
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells = line.replace("\\|", "").matches('|').count();
        assert!((3..=8).contains(&cells), "{cells} in {line}");
    }
    assert!(page.contains("## Findings") && page.contains("```text"), "{page}");
    assert!(page.len() < 20_000);
}

#[test]
fn a_flame_graph_has_the_outermost_frame_on_top_and_widths_by_value() {
    let subject = subject("middle");
    let boxes = flame::boxes(subject.looks[5].envelope["data"]["rows"].as_array().unwrap());
    let told: Vec<(&str, usize, u64, u64)> =
        boxes.iter().map(|one| (one.name.as_str(), one.depth, one.left / 1000, one.width / 1000)).collect();
    assert_eq!(
        told,
        [
            ("on cpu", 0, 0, 750),
            ("main", 1, 0, 750),
            ("middle", 2, 0, 750),
            ("leaf", 3, 0, 750),
            ("off cpu", 0, 750, 250),
            ("main", 1, 750, 250),
            ("wait", 2, 750, 250),
            ("[middle]", 3, 750, 250),
        ]
    );
}

#[test]
fn a_page_is_bounded_whatever_is_in_it() {
    let mut subject = subject("x");
    let frames: Vec<Value> = (0..5000).map(|n| json!({"function": format!("f{n}")})).collect();
    let rows: Vec<Value> =
        (0..3000).map(|n| json!({"state": format!("s{n}"), "count": u64::MAX, "frames": frames[..200]})).collect();
    subject.looks[5].envelope["data"]["rows"] = rows.into();
    let rows: Vec<Value> = (0..100_000)
        .map(|n| json!({"pid": n, "ppid": 0, "depth": u64::MAX, "name": "n", "rss_bytes": u64::MAX}))
        .collect();
    subject.looks[0].envelope["data"]["rows"] = rows.into();
    subject.looks[2].envelope["data"]["summary"]["types"]["file"] = u64::MAX.into();
    assert!(html(&subject).len() < 3 << 20);
    assert!(markdown(&subject).len() < 1 << 18);
    // Nothing at all is a page too.
    assert!(html(&Subject::default()).contains("nothing that was concluded"));
}
