//! `diff(a, b)`: what differs between two lists, by identity and not by position.

use serde_json::Value as Json;

use crate::cel::{Fault, Seen, Value};
use crate::diff::{Identity, Schemas, is_same_life, places};

/// Of two lists, or of the rows of two envelopes, what `appeared`, `went`, and `changed` (pairs of `before` and `after`). Rows
/// of envelopes are known as their schema says, and items of other lists by all that they are.
pub(crate) fn of<'a>(before: &Seen<'a>, after: &Seen<'a>, schemas: Schemas) -> Result<Seen<'a>, Fault> {
    let identity = match (&before.value, &after.value) {
        (Value::Json(before), Value::Json(after)) => {
            let schema = after["schema"].as_str().and_then(|name| schemas.get(name));
            let identity = schema.and_then(|schema| Identity::of_rows(&schema, is_same_life(before, after)));
            let rows = |envelope: &'a Json| envelope["data"]["rows"].as_array().map_or(&[][..], Vec::as_slice);
            identity.map(|identity| identity.among(rows(before), rows(after)))
        }
        _ => None,
    };
    let rows = |side: &Seen<'a>| {
        let list = side.member("data").and_then(|data| data.member("rows")).unwrap_or_else(|| side.clone());
        list.items().ok_or_else(|| Fault::Wrong("diff takes two lists, or two envelopes with rows".to_owned()))
    };
    let known = |row: &Seen<'a>| {
        let text = row.show();
        let key = match (&row.value, &identity) {
            (Value::Json(row), Some(identity)) => Json::Object(identity.of(row)).to_string(),
            _ => text.clone(),
        };
        (key, text)
    };
    let (before, after) = (rows(before)?, rows(after)?);
    let keys = |rows: &[Seen<'a>]| rows.iter().map(known).collect::<Vec<_>>();
    let places = places(&keys(&before), &keys(&after));
    let pick = |rows: &[Seen<'a>], places: &[usize]| -> Vec<Seen<'a>> {
        places.iter().filter_map(|place| rows.get(*place).cloned()).collect()
    };
    let pair = |(then, now): &(usize, usize)| {
        let members = vec![("before".to_owned(), before[*then].clone()), ("after".to_owned(), after[*now].clone())];
        Seen::new(Value::Map(members.into()))
    };
    let changed = places.changed.iter().map(pair).collect();
    let members =
        [("appeared", pick(&after, &places.appeared)), ("went", pick(&before, &places.went)), ("changed", changed)];
    let members: Vec<_> = members.into_iter().map(|(key, rows)| (key.to_owned(), Seen::list(rows))).collect();
    Ok(Seen::new(Value::Map(members.into())))
}
