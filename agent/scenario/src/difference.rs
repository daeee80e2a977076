//! What differs between two lists, by identity and not by position.

use std::collections::BTreeMap;

use crate::cel::{Fault, Seen, Value};

/// The members by which a row of each kind of list is known, the most telling first.
const IDENTITIES: [&[&str]; 7] =
    [&["pid", "start_ticks", "tid"], &["fd"], &["protocol", "inode"], &["start"], &["path"], &["kind"], &["name"]];

/// `diff(a, b)`: of two lists, or of the rows of two envelopes, what `appeared`, `went`, and `changed` (pairs of `before` and
/// `after`).
pub(crate) fn of<'a>(before: &Seen<'a>, after: &Seen<'a>) -> Result<Seen<'a>, Fault> {
    let rows = |side: &Seen<'a>| {
        let list = side.member("data").and_then(|data| data.member("rows")).unwrap_or_else(|| side.clone());
        list.items().ok_or_else(|| Fault::Wrong("diff takes two lists, or two envelopes with rows".to_owned()))
    };
    let known = |rows: Vec<Seen<'a>>| -> BTreeMap<String, Seen<'a>> {
        rows.into_iter().map(|row| (identity(&row), row)).collect()
    };
    let (mut before, after) = (known(rows(before)?), known(rows(after)?));
    let (mut appeared, mut changed) = (Vec::new(), Vec::new());
    for (key, now) in after {
        match before.remove(&key) {
            None => appeared.push(now),
            Some(then) if then.equals(&now) => {}
            Some(then) => {
                let members = vec![("before".to_owned(), then), ("after".to_owned(), now)];
                changed.push(Seen::new(Value::Map(members.into())));
            }
        }
    }
    let members = [("appeared", appeared), ("went", before.into_values().collect()), ("changed", changed)];
    let members: Vec<_> = members.into_iter().map(|(key, rows)| (key.to_owned(), Seen::list(rows))).collect();
    Ok(Seen::new(Value::Map(members.into())))
}

fn identity(row: &Seen<'_>) -> String {
    let keys = IDENTITIES.iter().find(|keys| keys.first().is_some_and(|key| row.member(key).is_some()));
    match keys {
        Some(keys) => {
            keys.iter().map(|key| row.member(key).map_or_else(String::new, |value| value.show()) + " ").collect()
        }
        None => row.show(),
    }
}
