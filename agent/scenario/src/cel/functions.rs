//! What an expression can call.

use std::cmp::Ordering;

use super::eval::{Fault, Watcher, order, wrong};
use super::value::{Seen, Value};

type Evaluated<'a> = Result<Seen<'a>, Fault>;

/// Calls the function `name`. Its arguments are as many as the parser let through.
pub(super) fn call<'a>(name: &str, arguments: Vec<Seen<'a>>, watcher: &Watcher<'_>) -> Evaluated<'a> {
    watcher.pay(arguments.iter().filter_map(Seen::size).sum::<usize>() as u64)?;
    let mut rest = arguments.into_iter();
    let (Some(first), second, third) = (rest.next(), rest.next(), rest.next()) else {
        return wrong(format!("{name} takes an argument"));
    };
    let senseless = |first: &Seen<'a>| wrong(format!("{name} does not take a {}", first.kind()));
    match (name, &first.value, second) {
        ("orValue", Value::Optional(inner), Some(other)) => Ok(inner.as_deref().cloned().unwrap_or(other)),
        ("hasValue", Value::Optional(inner), _) => Ok(Seen::new(Value::Bool(inner.is_some()))),
        ("value", Value::Optional(inner), _) => match inner {
            Some(inner) => Ok((**inner).clone()),
            None => wrong("the value is absent"),
        },
        ("type", ..) => Ok(Seen::new(Value::Type(first.kind()))),
        ("string", ..) => Ok(Seen::text(first.show())),
        ("int", Value::Int(number), _) => Ok(Seen::new(Value::Int(*number))),
        ("int", Value::Text(text), _) => match text.parse() {
            Ok(number) => Ok(Seen { value: Value::Int(number), place: first.place.clone() }),
            Err(_) => wrong(format!("{text:?} is no number of 64 bits")),
        },
        ("duration", Value::Text(text), _) => match crate::time::microseconds(text) {
            Some(time) => Ok(Seen::new(Value::Int(i64::try_from(time).unwrap_or(i64::MAX)))),
            None => wrong(format!("{text:?} is no time such as 10s")),
        },
        ("size", ..) => match first.size() {
            Some(size) => {
                watcher.walked(&first);
                Ok(Seen::new(Value::Int(size as i64)))
            }
            None => senseless(&first),
        },
        ("asBytes" | "asTime" | "asPercent", Value::Int(number), _) => Ok(Seen::text(shown(name, *number))),
        ("elapsed", _, Some(second)) => elapsed(&first, &second),
        ("diff", _, Some(second)) => crate::difference::of(&first, &second, watcher.schemas),
        ("keys", ..) => match first.keys() {
            Some(keys) => Ok(Seen::list(keys.into_iter().map(Seen::text).collect())),
            None => senseless(&first),
        },
        (_, Value::Text(text), second) => of_text(name, text, second.as_ref()),
        (_, _, second) => match first.items() {
            Some(items) => {
                watcher.walked(&first);
                of_list(name, items, second, third)
            }
            None => senseless(&first),
        },
    }
}

fn of_text<'a>(name: &str, text: &str, second: Option<&Seen<'a>>) -> Evaluated<'a> {
    let other = match second.map(|second| &second.value) {
        None if name == "dirname" => {
            let end = text.rfind('/').unwrap_or(0);
            return Ok(Seen::text(text[..end].to_owned()));
        }
        None if name == "lowerAscii" => return Ok(Seen::text(text.to_ascii_lowercase())),
        Some(Value::Text(other)) => other,
        _ => return wrong(format!("{name} does not take this of a string")),
    };
    Ok(match name {
        "contains" => Seen::new(Value::Bool(text.contains(&**other))),
        "startsWith" => Seen::new(Value::Bool(text.starts_with(&**other))),
        "endsWith" => Seen::new(Value::Bool(text.ends_with(&**other))),
        "split" => Seen::list(text.split(&**other).map(|part| Seen::text(part.to_owned())).collect()),
        _ => return wrong(format!("{name} does not take a string")),
    })
}

fn of_list<'a>(
    name: &str,
    mut items: Vec<Seen<'a>>,
    second: Option<Seen<'a>>,
    third: Option<Seen<'a>>,
) -> Evaluated<'a> {
    let index = |seen: Option<&Seen<'a>>| match seen.map(|seen| &seen.value) {
        Some(Value::Int(number)) => Ok(usize::try_from(*number).unwrap_or(0)),
        _ => wrong(format!("{name} takes a number")),
    };
    Ok(match name {
        "first" => Seen::new(Value::Optional(items.into_iter().next().map(Box::new))),
        "last" => Seen::new(Value::Optional(items.pop().map(Box::new))),
        "isSorted" => {
            let sorted = items.windows(2).map(|pair| order(&pair[0], &pair[1])).collect::<Option<Vec<_>>>();
            match sorted {
                Some(orders) => Seen::new(Value::Bool(orders.iter().all(|order| order.is_le()))),
                None => return wrong("isSorted takes values of one type that has an order"),
            }
        }
        "culprit" => Seen::text(culprit(&items)),
        "reverse" => {
            items.reverse();
            Seen::list(items)
        }
        "distinct" => {
            let mut distinct: Vec<Seen<'a>> = Vec::new();
            for item in items {
                if !distinct.iter().any(|known| known.equals(&item)) {
                    distinct.push(item);
                }
            }
            Seen::list(distinct)
        }
        "flatten" => {
            Seen::list(items.into_iter().flat_map(|item| item.items().unwrap_or_else(|| vec![item])).collect())
        }
        "slice" => {
            let (from, to) = (index(second.as_ref())?, index(third.as_ref())?);
            Seen::list(items.into_iter().take(to).skip(from).collect())
        }
        "take" => {
            items.truncate(index(second.as_ref())?);
            Seen::list(items)
        }
        "join" => {
            let between = second.as_ref().map_or_else(String::new, Seen::show);
            Seen::text(items.iter().map(Seen::show).collect::<Vec<_>>().join(&between))
        }
        "sum" => {
            let mut sum = 0_i64;
            for item in &items {
                let Value::Int(number) = item.value else { return wrong("sum takes numbers") };
                sum = sum.saturating_add(number);
            }
            Seen::new(Value::Int(sum))
        }
        "min" | "max" => {
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let mut items = items.into_iter();
            let Some(mut best) = items.next() else { return wrong(format!("{name} of an empty list")) };
            for item in items {
                match order(&item, &best) {
                    Some(found) if found == wanted => best = item,
                    Some(_) => {}
                    None => return wrong(format!("{name} takes values of one type")),
                }
            }
            best
        }
        _ => return wrong(format!("{name} does not take a list")),
    })
}

/// Walks through a list for the macro `name`, which has so many expressions, with `body`, which gives the value of one of
/// them for an item.
pub(super) fn walk<'a>(
    (name, bodies): (&str, usize),
    of: &Seen<'a>,
    watcher: &Watcher<'_>,
    mut body: impl FnMut(Seen<'a>, usize) -> Evaluated<'a>,
) -> Evaluated<'a> {
    let items = match of.items() {
        Some(items) => {
            watcher.walked(of);
            items
        }
        None => match of.keys() {
            Some(keys) => keys.into_iter().map(Seen::text).collect(),
            None => return wrong(format!("{name} walks through a list or a map, and not a {}", of.kind())),
        },
    };
    let mut first = |item: &Seen<'a>| body(item.clone(), 0);
    let is = |value: &Seen<'a>| match value.value {
        Value::Bool(flag) => Ok(flag),
        _ => wrong(format!("{name} takes a condition")),
    };
    let truth = |flag: bool| Ok(Seen::new(Value::Bool(flag)));
    match name {
        "all" | "exists" => {
            let decides = name == "exists";
            let mut fault = None;
            for item in &items {
                match first(item).and_then(|value| is(&value)) {
                    Ok(flag) if flag == decides => return truth(decides),
                    Ok(_) => {}
                    Err(found) => fault = fault.or(Some(found)),
                }
            }
            fault.map_or_else(|| truth(!decides), Err)
        }
        "exists_one" | "existsOne" => {
            let mut count = 0;
            for item in &items {
                count += usize::from(is(&first(item)?)?);
            }
            truth(count == 1)
        }
        "filter" => {
            let mut kept = Vec::new();
            for item in items {
                if is(&first(&item)?)? {
                    kept.push(item);
                }
            }
            Ok(Seen::list(kept))
        }
        "map" => {
            let mut mapped = Vec::new();
            for item in items {
                if bodies == 1 {
                    mapped.push(body(item, 0)?);
                } else if is(&body(item.clone(), 0)?)? {
                    mapped.push(body(item, 1)?);
                }
            }
            Ok(Seen::list(mapped))
        }
        "sortBy" => {
            let keyed = items.into_iter().map(|item| Ok((first(&item)?, item))).collect::<Result<Vec<_>, Fault>>()?;
            sorted(keyed)
        }
        _ => {
            let mut keyed = Vec::new();
            for item in items {
                let key = body(item.clone(), 0)?;
                let weight = match bodies {
                    1 => 1,
                    _ => match body(item.clone(), 1)?.value {
                        Value::Int(weight) => weight,
                        _ => return wrong("countBy takes a number to add up"),
                    },
                };
                keyed.push((key, weight, item));
            }
            Ok(counted(keyed))
        }
    }
}

fn sorted<'a>(mut keyed: Vec<(Seen<'a>, Seen<'a>)>) -> Evaluated<'a> {
    let alike = keyed.windows(2).all(|pair| order(&pair[0].0, &pair[1].0).is_some());
    if !alike {
        return wrong("sortBy takes keys of one type that has an order");
    }
    keyed.sort_by(|a, b| order(&a.0, &b.0).unwrap_or(Ordering::Equal));
    Ok(Seen::list(keyed.into_iter().map(|(_, item)| item).collect()))
}

/// Groups by key: a map with `key`, `count`, `sum` (of the weights) and `items` each, the largest sum first and equal
/// ones by their keys.
fn counted<'a>(keyed: Vec<(Seen<'a>, i64, Seen<'a>)>) -> Seen<'a> {
    let mut groups: std::collections::BTreeMap<String, (Seen<'a>, i64, Vec<Seen<'a>>)> =
        std::collections::BTreeMap::new();
    for (key, weight, item) in keyed {
        let group = groups.entry(key.show()).or_insert_with(|| (key, 0, Vec::new()));
        group.1 = group.1.saturating_add(weight);
        group.2.push(item);
    }
    let mut groups: Vec<(Seen<'a>, i64, Vec<Seen<'a>>)> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.1));
    let group = |(key, sum, items): (Seen<'a>, i64, Vec<Seen<'a>>)| {
        let count = Value::Int(items.len() as i64);
        let members = [
            ("key", key),
            ("count", Seen::new(count)),
            ("sum", Seen::new(Value::Int(sum))),
            ("items", Seen::list(items)),
        ];
        Seen::new(Value::Map(
            members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Vec<_>>().into(),
        ))
    };
    Seen::list(groups.into_iter().map(group).collect())
}

/// Of the frames of a stack, innermost first, the function that is to be read first: the innermost that is not the C
/// library's or the loader's. With its file and line where these are known.
fn culprit(frames: &[Seen<'_>]) -> String {
    let text = |frame: &Seen<'_>, key: &str| frame.member(key).map(|value| value.show());
    let is_of_library = |frame: &&Seen<'_>| {
        let module = text(frame, "module").unwrap_or_default();
        let file = module.rsplit('/').next().unwrap_or_default();
        let function = text(frame, "function").unwrap_or_default();
        ["libc.", "libc-", "libpthread", "ld-", "[vdso]"].iter().any(|known| file.starts_with(known))
            || function.starts_with("__")
            || function.starts_with("pthread_")
    };
    let named = |frame: &&Seen<'_>| frame.member("function").is_some();
    let own = frames.iter().filter(|frame| !is_of_library(frame));
    let Some(frame) = own.clone().find(named).or_else(|| own.clone().next()).or_else(|| frames.first()) else {
        return "(no stack)".to_owned();
    };
    let place = match (text(frame, "file"), text(frame, "line")) {
        (Some(file), Some(line)) => format!(" ({file}:{line})"),
        _ => String::new(),
    };
    match (text(frame, "function"), text(frame, "module"), text(frame, "offset")) {
        (Some(function), ..) => format!("{function}{place}"),
        (None, Some(module), Some(offset)) => format!("{module}+{offset}"),
        _ => text(frame, "address").unwrap_or_default(),
    }
}

/// The time from one envelope to another, in microseconds.
fn elapsed<'a>(from: &Seen<'a>, to: &Seen<'a>) -> Evaluated<'a> {
    let start =
        |envelope: &Seen<'a>| match envelope.member("observed").and_then(|observed| observed.member("start"))?.value {
            Value::Text(text) => crate::time::rfc3339(&text),
            _ => None,
        };
    match start(from).zip(start(to)) {
        Some((from, to)) => Ok(Seen::new(Value::Int(to.saturating_sub(from)))),
        None => wrong("elapsed takes two envelopes"),
    }
}

/// A number for a sentence.
fn shown(name: &str, number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    let size = number.unsigned_abs();
    let tenths = |size: u64, unit: u64| {
        let tenths = (u128::from(size) * 10 + u128::from(unit) / 2) / u128::from(unit);
        if tenths % 10 == 0 { format!("{}", tenths / 10) } else { format!("{}.{}", tenths / 10, tenths % 10) }
    };
    let (units, last): (&[(u64, &str)], &str) = match name {
        "asBytes" => (&[(1 << 40, " TiB"), (1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB")], " bytes"),
        "asTime" => (&[(3_600_000_000, " h"), (60_000_000, " min"), (1_000_000, " s"), (1000, " ms")], " µs"),
        _ => return format!("{sign}{} %", tenths(size, 10)),
    };
    match units.iter().find(|unit| size >= unit.0) {
        Some((unit, word)) => format!("{sign}{}{word}", tenths(size, *unit)),
        None => format!("{sign}{size}{last}"),
    }
}
