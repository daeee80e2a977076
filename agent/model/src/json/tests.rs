//! `serde_json` is the judge.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use serde_json::json;

use crate::{Data, Eye, Json, Listing, Place, write_json};

#[derive(Serialize, Clone)]
enum Kind {
    Unit,
    Newtype(u8),
    Tuple(i64, &'static str),
    Struct { z: bool, a: char },
}

#[derive(Serialize, Clone)]
struct Unit;

#[derive(Serialize, Clone)]
struct Meter(u64);

#[derive(Serialize, Clone)]
struct Inner {
    q: u128,
    b: [i8; 2],
}

#[derive(Serialize, Clone)]
#[serde(rename_all = "kebab-case")]
struct All {
    text: String,
    escaped: &'static str,
    kinds: Vec<Kind>,
    unit: Unit,
    nothing: (),
    meter: Meter,
    pair: (u16, Option<i32>),
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<u8>,
    numbers: BTreeMap<u32, i128>,
    truths: BTreeMap<bool, ()>,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
    #[serde(serialize_with = "displayed")]
    shown: &'static str,
    bytes: &'static [u8],
}

fn displayed<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{text}\t{:?}", text))
}

fn all() -> All {
    All {
        text: "é\u{1f600}\u{7f}".to_owned(),
        escaped: "\"\\\u{8}\u{c}\n\r\t\u{0}\u{1f}/",
        kinds: vec![Kind::Unit, Kind::Newtype(255), Kind::Tuple(i64::MIN, "x"), Kind::Struct { z: true, a: '"' }],
        unit: Unit,
        nothing: (),
        meter: Meter(u64::MAX),
        pair: (1, Some(-2)),
        absent: None,
        numbers: [(7, i64::MIN.into()), (10, 0)].into(),
        truths: [(true, ()), (false, ())].into(),
        inner: Inner { q: u64::MAX.into(), b: [-128, 127] },
        more: [("m\"".to_owned(), json!({"z": [], "a": {}, "n": null}))].into(),
        shown: "\"tab\"",
        bytes: b"\x00a",
    }
}

/// Shows everything as it is.
struct Open;

impl Eye for Open {
    fn restart(&self) {}
    fn member(&self, _: Place, _: &str, _: &mut usize) -> Place {
        None
    }
    fn items(&self, _: Place) -> Place {
        None
    }
    fn begin_list(&self, _: Place) {}
    fn text<'t>(&self, _: Place, text: &'t str, _: bool) -> std::borrow::Cow<'t, str> {
        text.into()
    }
    fn leaves(&self, _: Place) -> bool {
        true
    }
    fn key<'t>(&self, _: Place, key: &'t str, _: &mut usize) -> (std::borrow::Cow<'t, str>, Place) {
        (key.into(), None)
    }
}

/// `serde_json` is the judge: of all that serde knows, with and without a trait object.
#[test]
fn it_is_what_serde_json_writes() {
    struct Erased(Listing<All, All>);
    impl Serialize for Erased {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }
    impl Data for Erased {}
    // Rows enough to be let go of before the end.
    let listing = Listing { rows: vec![all(); 300], summary: all() };
    let wanted = serde_json::to_string(&listing).expect("JSON");
    for data in [&listing as &dyn Data, &Erased(listing.clone())] {
        let mut written = Vec::new();
        write_json(data, (&Open, None), &mut written).expect("written");
        assert_eq!(String::from_utf8(written).expect("UTF-8"), wanted);
        let seal = crate::seal(data, (&Open, None), 1 << 20).expect("a seal");
        assert_eq!(seal.bytes, wanted.len() as u64);
        let mut kept = Vec::new();
        seal.json.expect("kept").write_to(&mut kept).expect("written");
        assert_eq!(String::from_utf8_lossy(&kept), wanted);
        // The map of serde_json is sorted, and all its keys are ASCII here.
        let sorted: serde_json::Value = serde_json::from_str(&wanted).expect("JSON");
        let digest = crate::digest(&sorted).expect("a digest");
        assert_eq!(seal.digest, digest);
    }
}

#[test]
fn who_no_longer_reads_ends_it() {
    struct Closed(usize);
    impl io::Write for Closed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 1 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut closed = Closed(0);
    let listing = Listing { rows: vec![all(); 3_000], summary: () };
    let error = write_json(&listing, (&Open, None), &mut closed).expect_err("closed");
    assert_eq!((error.kind(), closed.0), (io::ErrorKind::BrokenPipe, 2));
}

#[test]
fn what_has_no_place_in_data_is_an_error() {
    struct Wrong<T>(T);
    impl<T: Serialize> Serialize for Wrong<T> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }
    impl<T: Serialize + Send + 'static> Data for Wrong<T> {
        fn write(&self, json: &mut Json<'_>) -> Result<(), serde_json::Error> {
            self.0.serialize(json)
        }
    }
    let wrong: [&dyn Data; 3] =
        [&Wrong(1.5_f64), &Wrong(BTreeMap::from([(vec![1], 2)])), &Wrong(BTreeMap::from([(Some(1), 2), (None, 3)]))];
    for data in wrong {
        assert!(write_json(data, (&Open, None), &mut Vec::new()).is_err());
        assert!(crate::seal(data, (&Open, None), 100).is_err());
    }
}
