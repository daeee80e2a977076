//! The canonical form of JSON (RFC 8785), and the digest over it.
//!
//! `serde_json` already writes strings and integers as RFC 8785 asks. What is
//! left is the order of members, and that is done in place: an object is written
//! as it comes, and its members are put in order when it ends. So that 20,000 rows
//! need no second copy in memory, rows go into the hash when there are some of
//! them, with what stands before them: that is final if what comes behind them in the
//! same objects belongs there by itself (as `summary` does behind `rows`). Where it does
//! not, the data is written a second time with everything held back.
//!
//! The same pass can also keep the data as it came, for whoever prints it next.

use std::io::{self, Write};

use serde::Serialize;
use serde::ser::Error as _;
use serde_json::Error;
use sha2::{Digest, Sha256};

use crate::Data;
use crate::json::{Eye, Json, Place};
use crate::kept::Kept;

/// `sha256:` and the SHA-256, in hex, of the canonical form of `data`.
///
/// # Errors
///
/// When `data` holds a floating-point number (the contract of `data` has none) or
/// a map whose keys are not strings.
pub fn digest<T: Serialize + ?Sized>(data: &T) -> Result<String, Error> {
    sealed(None, 0, |json| data.serialize(json)).map(|seal| seal.digest)
}

/// What one pass over data gives.
#[derive(Debug, Clone)]
pub struct Seal {
    /// As [`digest`].
    pub digest: String,
    /// How many bytes its JSON has: the canonical form is as long as any other without white space.
    pub bytes: u64,
    /// That JSON with its members as they came, where it was to be kept.
    pub json: Option<Kept>,
}

/// The digest of `data` as `eye` shows it, which stands at its place; and its JSON if that takes no more than
/// `most` bytes of memory. Errors as [`digest`].
pub fn seal(data: &dyn Data, eye: (&dyn Eye, Place), most: usize) -> Result<Seal, Error> {
    sealed(Some(eye), most, |json| data.write(json))
}

fn sealed(
    eye: Option<(&dyn Eye, Place)>,
    most: usize,
    mut write: impl FnMut(&mut Json<'_>) -> Result<(), Error>,
) -> Result<Seal, Error> {
    let mut plain = Plain { kept: (most > 0).then(Kept::default), most };
    let mut hash = Hash::default();
    if !pass(Canonical::sorted(&mut hash, &mut plain, true), eye, &mut write)? {
        hash = Hash::default();
        if let Some((eye, _)) = eye {
            eye.restart();
        }
        pass(Canonical::sorted(&mut hash, &mut Plain::default(), false), eye, &mut write)?;
    }
    let mut digest = String::from("sha256:");
    for byte in hash.hash.finalize() {
        digest.push_str(&format!("{byte:02x}"));
    }
    Ok(Seal { digest, bytes: hash.bytes, json: plain.kept })
}

/// The canonical form of `data`. Errors as [`digest`].
pub fn to_vec<T: Serialize + ?Sized>(data: &T) -> Result<Vec<u8>, Error> {
    let mut out = Sink(Vec::new());
    pass(Canonical::sorted(&mut out, &mut Plain::default(), false), None, &mut |json| data.serialize(json))?;
    Ok(out.0)
}

/// Writes the JSON of `data` as `eye` shows it to `to`, with its members as they come.
///
/// # Errors
///
/// When it cannot be written, or as [`digest`].
pub fn write_json(data: &dyn Data, eye: (&dyn Eye, Place), to: &mut dyn Write) -> io::Result<()> {
    let mut json = Json::new(Canonical::plain(to), Some(eye));
    let written = data.write(&mut json);
    json.out.finish()?;
    written.map_err(io::Error::from)
}

/// Lets `write` write, and all of it go where it belongs; false when it was to be fed early and the order forbade it.
fn pass<'a>(
    out: Canonical<'a>,
    eye: Option<(&'a dyn Eye, Place)>,
    write: &mut dyn FnMut(&mut Json<'_>) -> Result<(), Error>,
) -> Result<bool, Error> {
    let mut json = Json::new(out, eye);
    write(&mut json)?;
    let in_order = json.out.in_order;
    json.out.finish().map_err(Error::io)?;
    Ok(in_order)
}

/// So many bytes of rows are held back.
const HELD: usize = 16 << 10;

/// Where canonical bytes go.
trait Feed {
    fn feed(&mut self, bytes: &[u8]);
}

struct Sink(Vec<u8>);

impl Feed for Sink {
    fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

#[derive(Default)]
struct Hash {
    hash: Sha256,
    bytes: u64,
}

impl Feed for Hash {
    fn feed(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

/// Where what is written goes.
enum To<'a> {
    /// Members put in their order.
    Sorted(&'a mut dyn Feed),
    /// Members as they come. Once it cannot be written, nothing more is.
    Plain(&'a mut dyn Write, io::Result<()>),
}

/// Takes JSON as it is written.
pub(crate) struct Canonical<'a> {
    to: To<'a>,
    /// Written and not yet fed.
    out: Vec<u8>,
    /// All of it as it came, for as long as it has room.
    plain: Option<&'a mut Plain>,
    /// The open objects, outermost first.
    objects: Vec<Object>,
    /// The orders of objects that have ended, by depth, the last one first: rows are alike, and what is in them is of a few kinds.
    orders: Vec<Orders>,
    /// Of objects that have ended: for the next ones.
    unused: Vec<Vec<Member>>,
    spare: Vec<u8>,
    /// Open objects and arrays.
    depth: usize,
    early: bool,
    in_order: bool,
}

struct Object {
    /// Where its first member starts in `out`.
    start: usize,
    /// Start and end of each member, and the end of its key.
    members: Vec<Member>,
    /// Of one whose beginning was fed: the key of the member that was open then. What is
    /// left of that is its first member.
    fed: Option<Vec<u8>>,
}

#[derive(Clone, Copy)]
struct Member {
    start: usize,
    key_end: usize,
    end: usize,
}

/// Which keys an object had, one after another as they came, and the order in which
/// their members belong.
#[derive(Default)]
struct Order {
    keys: Vec<u8>,
    members: Vec<usize>,
}

type Orders = [Order; 6];

impl Order {
    /// Whether the object with `members` in `out` has the same keys.
    fn fits(&self, out: &[u8], members: &[Member]) -> bool {
        let mut rest = self.keys.as_slice();
        self.members.len() == members.len()
            && members.iter().all(|member| match rest.strip_prefix(&out[member.start..member.key_end]) {
                Some(after) => {
                    rest = after;
                    true
                }
                None => false,
            })
    }

    /// Makes it the order of that object.
    fn learn(&mut self, out: &[u8], members: &[Member]) {
        let key = |member: &Member| &out[member.start..member.key_end];
        self.keys.clear();
        for member in members {
            self.keys.extend_from_slice(key(member));
        }
        self.members.clear();
        self.members.extend(0..members.len());
        self.members.sort_by(|a, b| key_order(key(&members[*a]), key(&members[*b])));
    }
}

impl<'a> Canonical<'a> {
    fn new(to: To<'a>, plain: Option<&'a mut Plain>, early: bool) -> Self {
        Self {
            to,
            out: Vec::with_capacity(4096),
            plain,
            objects: Vec::new(),
            orders: Vec::new(),
            unused: Vec::new(),
            spare: Vec::new(),
            depth: 0,
            early,
            in_order: true,
        }
    }

    fn sorted(feed: &'a mut dyn Feed, plain: &'a mut Plain, early: bool) -> Self {
        let keeps = plain.kept.is_some();
        Self::new(To::Sorted(feed), Some(plain).filter(|_| keeps), early)
    }

    fn plain(to: &'a mut dyn Write) -> Self {
        Self::new(To::Plain(to, Ok(())), None, false)
    }

    fn is_sorted(&self) -> bool {
        matches!(self.to, To::Sorted(_))
    }

    /// Lets go of what is left.
    fn finish(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Sorted(feed) => feed.feed(&self.out),
            To::Plain(to, written) => {
                std::mem::replace(written, Ok(()))?;
                to.write_all(&self.out)?;
            }
        }
        self.out.clear();
        Ok(())
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        if let Some(plain) = &mut self.plain {
            plain.keep(bytes);
        }
    }

    pub(crate) fn begin_object(&mut self) {
        self.depth += 1;
        self.put(b"{");
        if self.is_sorted() {
            let start = self.out.len();
            let members = self.unused.pop().unwrap_or_default();
            self.objects.push(Object { start, members, fed: None });
        }
    }

    /// Puts `"text"`, of which nothing is to be escaped.
    pub(crate) fn put_quoted(&mut self, text: &str) {
        let start = self.out.len();
        self.out.reserve(text.len() + 2);
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
        if let Some(plain) = &mut self.plain {
            plain.keep(&self.out[start..]);
        }
    }

    pub(crate) fn begin_key(&mut self) {
        let Some(object) = self.objects.last_mut() else {
            // What was let go of ended with a row.
            if self.out.last() != Some(&b'{') {
                self.out.push(b',');
            }
            return;
        };
        if let Some(plain) = &mut self.plain
            && !object.members.is_empty()
        {
            // Members that are put in order get their commas with it.
            plain.keep(b",");
        }
        let start = self.out.len();
        object.members.push(Member { start, key_end: start, end: start });
    }

    pub(crate) fn end_key(&mut self) {
        let end = self.out.len();
        if let Some(object) = self.objects.last_mut()
            && let Some(member) = object.members.last_mut()
        {
            member.key_end = end;
            if let Some(fed) = &object.fed
                && key_order(fed, &self.out[member.start..end]).is_gt()
            {
                self.in_order = false;
            }
        }
        self.put(b":");
    }

    pub(crate) fn end_value(&mut self) {
        let end = self.out.len();
        if let Some(member) = self.objects.last_mut().and_then(|object| object.members.last_mut()) {
            member.end = end;
        }
    }

    pub(crate) fn end_object(&mut self) {
        self.depth -= 1;
        if let Some(mut object) = self.objects.pop() {
            let out = &mut self.out;
            let depth = self.objects.len();
            if self.orders.len() <= depth {
                self.orders.resize_with(depth + 1, Orders::default);
            }
            self.spare.clear();
            put_in_order(out, &object.members, object.fed.is_some(), &mut self.orders[depth], &mut self.spare);
            out.truncate(object.start);
            out.extend_from_slice(&self.spare);
            object.members.clear();
            self.unused.push(object.members);
        }
        self.put(b"}");
    }

    pub(crate) fn begin_array(&mut self) {
        self.depth += 1;
        self.put(b"[");
    }

    /// An item of an array has ended.
    ///
    /// # Errors
    ///
    /// When what was written has nowhere to go: [`Canonical::finish`] says why.
    pub(crate) fn end_item(&mut self) -> Result<(), Error> {
        if self.out.len() < HELD {
            return Ok(());
        }
        match &mut self.to {
            To::Sorted(_) => self.flush_rows(),
            To::Plain(to, written) => {
                *written = to.write_all(&self.out);
                self.out.clear();
                if written.is_err() {
                    return Err(Error::custom("it cannot be written"));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn end_array(&mut self) {
        self.depth -= 1;
        self.put(b"]");
    }

    /// Feeds what stands between two rows, where that is enough and where the open objects
    /// hold nothing yet that belongs behind the rows.
    fn flush_rows(&mut self) {
        if !self.early || self.depth != self.objects.len() + 1 {
            return;
        }
        let out = &self.out;
        let key = |member: &Member| &out[member.start..member.key_end];
        let follows = |object: &Object| {
            let (open, before) = object.members.split_last()?;
            // The rest of a member has no key any more; it comes first.
            let before = &before[usize::from(object.fed.is_some()).min(before.len())..];
            before.iter().all(|member| key_order(key(member), key(open)).is_lt()).then_some(())
        };
        if self.objects.iter().any(|object| follows(object).is_none()) {
            return;
        }
        self.spare.clear();
        let mut at = 0;
        for object in &mut self.objects {
            let Some((open, before)) = object.members.split_last() else { return };
            let is_rest = object.fed.is_some() && before.is_empty();
            self.spare.extend_from_slice(&out[at..object.start]);
            let had = put_in_order(out, before, object.fed.is_some(), &mut [Order::default()], &mut self.spare);
            if had && !is_rest {
                self.spare.push(b',');
            }
            at = open.start;
            if !is_rest {
                object.fed = Some(key(open).to_vec());
            }
            object.start = 0;
            object.members.clear();
            object.members.push(Member { start: 0, key_end: 0, end: 0 });
        }
        self.spare.extend_from_slice(&out[at..]);
        if let To::Sorted(feed) = &mut self.to {
            feed.feed(&self.spare);
        }
        self.out.clear();
    }
}

/// Writes `members` of `out` in their order, with commas between them; the first one, if
/// it `is_rest` of a member that was fed, as the first. Says whether there were any.
fn put_in_order(out: &[u8], members: &[Member], is_rest: bool, orders: &mut [Order], into: &mut Vec<u8>) -> bool {
    let (rest, members) = members.split_at(usize::from(is_rest).min(members.len()));
    rest.iter().for_each(|member| into.extend_from_slice(&out[member.start..member.end]));
    let known = orders.iter().position(|order| order.fits(out, members));
    let last = orders.len() - 1;
    orders[..=known.unwrap_or(last)].rotate_right(1);
    let order = &mut orders[0];
    if known.is_none() {
        order.learn(out, members);
    }
    for (index, member) in order.members.iter().map(|at| members[*at]).enumerate() {
        if index > 0 || is_rest {
            into.push(b',');
        }
        into.extend_from_slice(&out[member.start..member.end]);
    }
    is_rest || !members.is_empty()
}

/// What is kept as it comes.
#[derive(Default)]
struct Plain {
    kept: Option<Kept>,
    /// The most memory that it takes, in bytes.
    most: usize,
}

impl Plain {
    /// Adds `bytes`; lets go of all where that is too much.
    fn keep(&mut self, bytes: &[u8]) {
        if self.kept.as_mut().is_some_and(|kept| !kept.add(bytes, self.most)) {
            self.kept = None;
        }
    }
}

/// RFC 8785 sorts keys as arrays of UTF-16 code units; `key` has its quotes.
fn sort_key(key: &[u8]) -> Vec<u16> {
    let text: String = serde_json::from_slice(key).unwrap_or_default();
    text.encode_utf16().collect()
}

fn key_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let plain = |key: &[u8]| key.iter().all(|b| b.is_ascii() && *b != b'\\');
    if plain(a) && plain(b) {
        // The closing quote sorts before every character that follows it here.
        a[..a.len() - 1].cmp(&b[..b.len() - 1])
    } else {
        sort_key(a).cmp(&sort_key(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kept(seal: &Seal) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        seal.json.as_ref().map(|json| json.write_to(&mut out).expect("written"))?;
        Some(out)
    }

    fn text(value: &serde_json::Value) -> String {
        String::from_utf8(to_vec(value).expect("serializable")).expect("UTF-8")
    }

    #[test]
    fn members_are_sorted_at_every_depth() {
        let value = json!({"b": [{"z": 1, "a": {"y": null, "x": true}}], "a": "é\n\u{1f}\"\\", "": 0});
        assert_eq!(text(&value), r#"{"":0,"a":"é\n\u001f\"\\","b":[{"a":{"x":true,"y":null},"z":1}]}"#);
    }

    #[test]
    fn keys_sort_by_utf16_code_units_as_the_rfc_shows() {
        // RFC 8785, section 3.2.3.
        let value = json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7});
        assert_eq!(
            text(&value),
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}"
        );
    }

    #[test]
    fn prefixes_sort_before_longer_keys() {
        assert_eq!(text(&json!({"ab": 1, "a": 2, "a b": 3, "a!": 4})), r#"{"a":2,"a b":3,"a!":4,"ab":1}"#);
    }

    #[test]
    fn early_feeding_gives_the_same_digest() {
        let rows: Vec<_> =
            (0..3000).map(|n| json!({"pid": n, "name": format!("p{n}"), "b": {"d": [], "c": {}}})).collect();
        for value in
            [json!({"rows": rows, "summary": {"z": 1, "a": 2}}), json!({"summary": {"z": 1, "a": 2}, "rows": rows})]
        {
            let mut whole = Sha256::new();
            whole.update(to_vec(&value).expect("serializable"));
            let whole: String = whole.finalize().iter().map(|b| format!("{b:02x}")).collect();
            let plain = value.to_string().into_bytes();
            for (most, json) in [(0, None), (1000, None), (plain.len(), Some(plain.clone()))] {
                let seal = sealed(None, most, |json| value.serialize(json)).expect("serializable");
                assert_eq!((&seal.digest, seal.bytes), (&format!("sha256:{whole}"), plain.len() as u64));
                assert!(kept(&seal) == json, "what is kept is what serde_json writes, or nothing");
            }
        }
    }

    /// Rows in parts, as those of a snapshot: members in order, out of order, and small ones out of order before rows.
    #[test]
    fn rows_of_parts_are_fed_early_too() {
        #[derive(Serialize)]
        struct Part {
            name: &'static str,
            kind: &'static str,
            rows: Vec<serde_json::Value>,
            summary: serde_json::Value,
        }
        #[derive(Serialize)]
        struct Parts {
            a: Part,
            few: [u8; 2],
            b: Part,
            last: Part,
            references: Vec<Vec<String>>,
        }
        #[derive(Serialize)]
        struct OutOfOrder {
            z: Part,
            a: Part,
        }
        let part = |count: usize| Part {
            name: "p",
            kind: "k",
            rows: (0..count).map(|n| json!({"pid": n, "fds": [{"b": n, "a": 1}], "c": {}})).collect(),
            summary: json!({"z": 1, "a": 2}),
        };
        let references = vec![vec!["x".repeat(5000), "y".to_owned()]; 40];
        let parts = Parts { a: part(3000), few: [1, 2], b: part(2000), last: part(1), references };
        let out_of_order = OutOfOrder { z: part(2000), a: part(3000) };
        let small = OutOfOrder { z: part(10), a: part(3000) };
        let each: [(&dyn erased_serde::Serialize, bool); 3] = [(&parts, true), (&out_of_order, false), (&small, true)];
        for (value, is_fed_early) in each {
            let mut fed = Sink(Vec::new());
            let in_order = pass(Canonical::sorted(&mut fed, &mut Plain::default(), true), None, &mut |json| {
                erased_serde::serialize(value, json)
            });
            assert_eq!(in_order.expect("serializable"), is_fed_early);
            let whole = to_vec(value).expect("serializable");
            assert!(!is_fed_early || fed.0 == whole);
            let sorted: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
            // serde_json's own map sorts its members.
            assert_eq!(serde_json::to_vec(&sorted).expect("serializable"), whole);
        }
    }

    #[test]
    fn what_is_kept_has_its_members_as_they_came() {
        #[derive(Serialize)]
        struct Row {
            z: Option<&'static str>,
            a: Vec<i32>,
            m: std::collections::BTreeMap<&'static str, bool>,
        }
        let row = || Row { z: Some("\u{1}\"é"), a: vec![-1, 2], m: [("y", true), ("b", false)].into() };
        let rows = [row(), Row { z: None, a: Vec::new(), m: [].into() }, row()];
        let plain = serde_json::to_vec(&rows).expect("serializable");
        let seal = sealed(None, 1 << 10, |json| rows.serialize(json)).expect("serializable");
        assert_eq!(kept(&seal), Some(plain));
    }

    #[test]
    fn rows_that_are_not_alike_are_each_in_their_own_order() {
        let value = json!([{"b": 1, "a": 2}, {"b": 1, "a": 2}, {"b": 1}, {"ba": 3, "b": 1}, {"c": {"b": 1, "a": 2}, "b": 4}, {}]);
        assert_eq!(
            text(&value),
            r#"[{"a":2,"b":1},{"a":2,"b":1},{"b":1},{"b":1,"ba":3},{"b":4,"c":{"a":2,"b":1}},{}]"#
        );
    }

    #[test]
    fn floats_are_refused() {
        assert!(digest(&json!({"a": 1.5})).is_err());
    }
}
