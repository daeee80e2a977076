//! Bundles as they are made, and as strangers make them.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;

use super::*;

const ALL: u64 = 64 << 20;

/// What is written, for who looks at it afterwards.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bundle() -> Vec<u8> {
    let out = Shared::default();
    let mut writer = Writer::new(Box::new(out.clone()), ALL);
    writer.add(OPEN, "application/json", b"{}").unwrap();
    for number in 0..4 {
        let path = artifact_path(number, &format!("look[{number}]"));
        let rows: Vec<_> = (0..200 * number).map(|pid| json!({"pid": pid, "name": format!("p{pid}")})).collect();
        writer.add(&path, "application/json", json!({"data": {"rows": rows}}).to_string().as_bytes()).unwrap();
    }
    writer.end(json!({"command": "run"})).unwrap();
    let bytes = out.0.lock().unwrap();
    bytes.clone()
}

/// A tar archive of regular files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (path, bytes) in files {
        all.extend(member(path, tar::EntryType::Regular, bytes.len() as u64));
        all.extend_from_slice(bytes);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all
}

/// The header of a member, whatever its path.
fn member(path: &str, kind: tar::EntryType, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_link_name("/etc/passwd").unwrap();
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn packed(archive: &[u8]) -> Vec<u8> {
    compress_to_vec(archive, CompressionLevel::Fastest)
}

fn faults(bytes: &[u8]) -> Vec<Fault> {
    read(bytes, ALL).problems.iter().map(|problem| problem.fault).collect()
}

#[test]
fn what_was_added_is_read_back_and_equal_content_is_equal_bytes() {
    let bytes = bundle();
    assert_eq!(bytes, bundle());
    let read = read(&bytes, ALL);
    assert_eq!(read.problems, []);
    let paths: Vec<&str> = read.entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths[..2], ["open.json", "artifacts/000-look[0].json"]);
    assert_eq!(paths.last(), Some(&MANIFEST));
    assert_eq!(artifact_name(paths[1]), Some("look[0]"));
    assert_eq!(read.manifest().unwrap()["command"], "run");
    assert_eq!(read.file(paths[3]).unwrap().json().unwrap()["data"]["rows"].as_array().unwrap().len(), 400);
    assert!(bytes.len() < 12_000, "{} bytes", bytes.len());
}

#[test]
fn wherever_it_is_cut_off_it_opens_with_all_that_was_whole_by_then() {
    let bytes = bundle();
    let whole = read(&bytes, ALL);
    let mut most = 0;
    for length in 0..bytes.len() {
        let cut = read(&bytes[..length], ALL);
        // The manifest is the last but the end of the archive, which says nothing.
        if cut.manifest().is_some() {
            assert!(length > bytes.len() - 40, "{length} of {}", bytes.len());
            continue;
        }
        assert!(cut.is_cut_off(), "{length}: {:?}", cut.problems);
        assert_eq!(cut.entries, whole.entries[..cut.entries.len()]);
        assert!(cut.entries.len() >= most, "{length}");
        most = cut.entries.len();
    }
    assert_eq!(most, whole.entries.len() - 1);
}

#[test]
fn paths_that_lead_elsewhere_are_told_and_left_out() {
    for path in ["../x", "/etc/passwd", "a/../../b", "artifacts/.hidden", "a//b", "a/\u{1b}[2J", "a b", ""] {
        let read = read(&packed(&archive(&[(path, b"{}")])), ALL);
        assert!(read.entries.is_empty(), "{path:?}");
        assert_eq!(read.problems[0].fault, Fault::Path, "{path:?}");
        assert!(read.problems[0].path.as_ref().unwrap().chars().all(|c| !c.is_control()));
    }
}

#[test]
fn links_directories_and_devices_are_told_and_left_out() {
    use tar::EntryType::{Char, Directory, Fifo, GNULongName, GNUSparse, Link, Symlink, XHeader};
    for kind in [Symlink, Link, Directory, Char, Fifo, GNULongName, GNUSparse, XHeader] {
        let read = read(&packed(&member("open.json", kind, 0)), ALL);
        assert!(read.entries.is_empty(), "{kind:?}");
        assert_eq!(read.problems[0].fault, Fault::Kind, "{kind:?}");
    }
}

#[test]
fn a_second_file_of_the_same_path_is_told_and_left_out() {
    let read = read(&packed(&archive(&[("open.json", b"1"), ("open.json", b"2")])), ALL);
    assert_eq!(read.entries.len(), 1);
    assert_eq!(read.entries[0].bytes, b"1");
    assert_eq!(read.problems[0].fault, Fault::Duplicate);
}

#[test]
fn what_unpacks_to_more_than_is_read_is_not_unpacked() {
    // 64 MiB of nothing in some KiB, and in one file that says how large it is.
    let mut bomb = member("open.json", tar::EntryType::Regular, 64 << 20);
    bomb.resize(64 << 20, 0);
    let bomb = packed(&bomb);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let read = read(&bomb, 1 << 20);
    assert_eq!(read.problems[0].fault, Fault::TooLarge);
    assert!(read.entries.is_empty());
    // One that says that it is larger than it is.
    let lie = member("open.json", tar::EntryType::Regular, 1 << 33);
    assert_eq!(faults(&packed(&lie)), [Fault::CutOff]);
    // Many small files.
    let many: Vec<u8> = (0..25_000).flat_map(|n| member(&format!("a/{n}"), tar::EntryType::Regular, 0)).collect();
    assert_eq!(super::read(&packed(&many), ALL).problems[0].fault, Fault::TooLarge);
    // A frame that asks for a window of 2 GiB.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    assert_eq!(faults(&frame), [Fault::Malformed]);
}

#[test]
fn a_manifest_that_lies_is_found_out() {
    let manifest = |files: serde_json::Value| json!({"schema": SCHEMA, "files": files}).to_string();
    let file = |path: &str, bytes: u64, sha256: &str| json!({"path": path, "media_type": "application/json", "bytes": bytes, "sha256": sha256});
    let of = |manifest: &str| faults(&packed(&archive(&[("open.json", b"{}"), (MANIFEST, manifest.as_bytes())])));
    let right = sha256(b"{}");
    assert_eq!(of(&manifest(json!([file("open.json", 2, &right)]))), []);
    assert_eq!(of(&manifest(json!([file("open.json", 3, &right)]))), [Fault::Changed]);
    assert_eq!(of(&manifest(json!([file("open.json", 2, &right.replace(['0', '1'], "2"))]))), [Fault::Changed]);
    assert_eq!(of(&manifest(json!([]))), [Fault::Unlisted]);
    let twice = json!([file("open.json", 2, &right), file("open.json", 2, &right)]);
    assert_eq!(of(&manifest(twice)), [Fault::Duplicate]);
    let other = json!([file("open.json", 2, &right), file("../../etc/passwd", 1, &right)]);
    assert_eq!(of(&manifest(other)), [Fault::Missing]);
    for nonsense in ["", "[]", "{\"schema\":\"agent.bundle/1\"}", "{\"schema\":\"other/1\",\"files\":[]}"] {
        assert_eq!(of(nonsense), [Fault::Malformed], "{nonsense}");
    }
    let after =
        archive(&[(MANIFEST, manifest(json!([file("open.json", 2, &right)])).as_bytes()), ("open.json", b"{}")]);
    assert_eq!(faults(&packed(&after)), [Fault::AfterTheEnd]);
    let mut more = bundle();
    more.extend(packed(&archive(&[("artifacts/009-more.json", b"{}")])));
    assert_eq!(faults(&more), [Fault::AfterTheEnd]);
}

#[test]
fn no_change_of_a_bundle_goes_unnoticed() {
    let bytes = bundle();
    let whole = read(&bytes, ALL);
    let mut seed = 7_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for round in 0..1500 {
        let mut changed = bytes.clone();
        for _ in 0..=random(4) {
            let at = random(changed.len());
            match random(4) {
                0 => changed[at] ^= 1 << random(8),
                1 => changed[at] = random(256) as u8,
                2 => drop(changed.drain(at..(at + 1 + random(64)).min(bytes.len()).min(changed.len()))),
                _ => changed.splice(at..at, (0..random(40)).map(|n| n as u8)).for_each(drop),
            }
            if changed.is_empty() {
                break;
            }
        }
        let read = read(&changed, ALL);
        // Of the end of the archive not every bit says something.
        assert!(!read.problems.is_empty() || read.entries == whole.entries, "round {round}");
    }
}

#[test]
fn a_bundle_stays_within_what_may_be_written_and_closes_all_the_same() {
    let out = Shared::default();
    let mut writer = Writer::new(Box::new(out.clone()), 70 << 10);
    writer.add(OPEN, "application/json", b"{}").unwrap();
    let mut seed = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    })
    .take(20_000)
    .collect();
    let error = writer.add("artifacts/000-x.json", "application/json", &noise).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    writer.end(json!({})).unwrap();
    assert_eq!(read(&out.0.lock().unwrap(), ALL).problems, []);
}

#[test]
fn a_bundle_that_cannot_be_written_is_not_written_on() {
    struct Full(u32);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 == 2 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut writer = Writer::new(Box::new(Full(0)), ALL);
    writer.add("a", "text/plain", b"").unwrap();
    assert!(writer.add("b", "text/plain", b"").is_err());
    assert!(writer.add("c", "text/plain", b"").is_err(), "what follows a torn frame could not be read");
}

#[test]
fn what_zstd_and_tar_made_is_read_too() {
    let read = read(&packed(&archive(&[("open.json", b"{}"), ("artifacts/000-ps.json", b"{}")])), ALL);
    assert_eq!(read.entries.len(), 2);
    assert!(read.is_cut_off(), "it has no manifest");
}

#[test]
fn a_value_of_another_shape_is_told_with_its_place() {
    let schema = json!({
        "type": "object", "required": ["rows"],
        "properties": {"rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}}},
        "$defs": {"Row": {"type": "object", "required": ["pid"], "properties": {
            "pid": {"type": "integer"}, "state": {"anyOf": [{"const": "a"}, {"type": "null"}]}}}}
    });
    let at = |value| misfit(&schema, &value).map(|(at, _)| at);
    assert_eq!(at(json!({"rows": [{"pid": 1}, {"pid": 2, "state": null, "new": 3}]})), None);
    assert_eq!(at(json!({"rows": [{"pid": 1}, {"pid": "2"}]})).as_deref(), Some("/rows/1/pid"));
    assert_eq!(at(json!({"rows": [{}]})).as_deref(), Some("/rows/0"));
    assert_eq!(at(json!({"rows": [{"pid": 1, "state": "b"}]})).as_deref(), Some("/rows/0/state"));
    assert_eq!(at(json!([])).as_deref(), Some(""));
    // A schema that refers to itself ends.
    let circle = json!({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}});
    assert!(misfit(&circle, &json!(1)).is_some());
}
