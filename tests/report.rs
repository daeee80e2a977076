//! `report`: a page about a program that would like to be markup, as a browser reads it.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Answer, Child, agent};

/// A program whose name and arguments are markup, and that leaks descriptors and burns time. Two of its threads wait, each for
/// something else.
const HARM: &str = "
import ctypes, sys, threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
threading.Thread(target=threading.Event().wait, daemon=True).start()
ctypes.CDLL(None).prctl(15, b'<script>x()', 0, 0, 0)
kept = []
print('\"ready\"', flush=True)
while True:
    kept.append(open('/etc/passwd'))
    sum(range(100000))
    time.sleep(0.02)
";

fn page(file: &Path, format: &str) -> String {
    let answer = Answer::of(agent().arg("report").arg(file).args(["-o", format]));
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    String::from_utf8(answer.stdout).expect("UTF-8")
}

/// The document as Chromium has it after its scripts have run.
fn document(html: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, profile) = (directory.path().join("page.html"), directory.path().join("profile"));
    fs::write(&file, html).expect("written");
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(format!("file://{}", file.display()));
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().expect("chromium");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn a_page_about_a_hostile_program_is_a_page_and_no_program() {
    let name = "a_page_about_a_hostile_program_is_a_page_and_no_program";
    if !common::has_tool("python3") {
        return common::skip(name, "there is no python3");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("x.py");
    fs::write(&script, HARM).expect("written");
    let target = Child::ready(Command::new("python3").arg(&script).args(["<img src=x onerror=x()>", "</table><h1>"]));
    let bundle = directory.path().join("x.dbg.tar.zst");
    let pid = target.pid().to_string();
    let answer = Answer::of(agent().args(["run", "triage", "--param=for=100ms", "--pid", &pid, "-o", "bundle"]));
    assert!(matches!(answer.status, 0 | 3), "{}", answer.stderr);
    fs::write(&bundle, &answer.stdout).expect("written");

    let markdown = page(&bundle, "md");
    assert!(markdown.starts_with("# run triage on &lt;script&gt;x()"), "{markdown}");
    for section in ["Findings", "Timeline", "Processes", "Memory by kind", "Not seen", "Manifest"] {
        assert!(markdown.contains(&format!("\n## {section}\n")), "{section} is not in {markdown}");
    }
    let html = page(&bundle, "html");
    assert!(html.contains("&lt;img src=x onerror=x()&gt;") && !html.contains("<img"), "{html}");
    assert_eq!(page(&bundle, "html"), html, "the same evidence gives the same page");

    if !common::has_tool("chromium") {
        return common::skip(name, "there is no chromium: what a browser makes of the page");
    }
    let read = document(&html);
    assert_eq!(read.matches("<script>").count(), 1, "{read}");
    assert!(read.contains("<h1>run triage on &lt;script&gt;x()</h1>"), "{read}");
    assert_eq!(read.matches("<h1>").count(), 1);
    // Its policy lets its own script run, and no other.
    assert!(read.contains("data-zoom=\"on\""), "{read}");
    let foreign = html.replace("</body>", "<script>document.title = 'taken over'</script></body>");
    assert!(!document(&foreign).contains("<title>taken over"));
    // A click fills the width with its box; what is beside it is gone.
    let click =
        "<script>[...document.querySelectorAll('.flame div')].find(one => one.dataset.w < 100).click()</script></body>";
    let at = html.find("<meta http-equiv").expect("a policy");
    let free = html.replace(&html[at..at + html[at..].find('\n').expect("a line")], "").replace("</body>", click);
    let zoomed = document(&free);
    let boxes: Vec<&str> = zoomed.lines().filter(|line| line.contains("data-w=")).collect();
    let narrow = boxes.iter().find(|line| !line.contains("data-w=\"100.0000\"")).expect("a box beside another");
    assert!(narrow.contains("width: 100%"), "{narrow}");
    assert!(boxes.iter().any(|line| line.contains("display: none")), "{boxes:?}");
}

#[test]
fn what_is_wrong_with_a_bundle_stands_in_its_page() {
    let target = Child::target("sleeper", &["-O2"], ["10"]);
    let answer = Answer::of(agent().args(["ps", "--pid", &target.pid().to_string(), "-o", "bundle"]));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("x.dbg.tar.zst");
    fs::write(&file, &answer.stdout[..answer.stdout.len() / 2]).expect("written");
    assert!(page(&file, "md").contains("The bundle was cut off"));
    let mut twice = answer.stdout.clone();
    twice.extend(&answer.stdout);
    fs::write(&file, &twice).expect("written");
    assert!(page(&file, "html").contains("The bundle was TAMPERED WITH"));
    fs::write(&file, "{}").expect("written");
    assert_eq!(Answer::of(agent().arg("report").arg(&file)).status, 1);
}
