//! A bundle of a stranger: what it unpacks to is bounded, and its pages are only text.
#![no_main]

use agent_scenario::bundle::{artifact_name, read};
use agent_scenario::report::{Subject, html, markdown};
use agent_scenario::{Artifact, diff};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    const MOST: u64 = 8 << 20;
    let bundle = read(bytes, MOST);
    assert!(bundle.entries.iter().map(|entry| entry.bytes.len() as u64).sum::<u64>() <= MOST);
    let look = |entry: &agent_scenario::bundle::Entry| {
        let name = artifact_name(&entry.path)?.to_owned();
        Some(Artifact { name, envelope: entry.json()?, file: None })
    };
    let subject = Subject { looks: bundle.entries.iter().filter_map(look).collect(), ..Subject::default() };
    assert_eq!(html(&subject).matches("<script").count(), 1);
    markdown(&subject);
    if let [first, .., last] = &subject.looks[..] {
        diff::of("x", &first.envelope, &last.envelope, diff::Schemas::default());
    }
});
