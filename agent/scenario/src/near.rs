//! What was probably meant.

/// The one of `names` that is nearest to `name`, if any is near.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = name.chars().count() / 3 + 1;
    names
        .into_iter()
        .map(|known| (distance(name, known), known))
        .filter(|(away, _)| *away <= far)
        .min()
        .map(|(_, known)| known)
}

/// How many characters must be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_what_was_meant_and_something_else_does_not() {
        let names = ["collect", "repeat", "wait", "until"];
        assert_eq!(nearest("colect", names), Some("collect"));
        assert_eq!(nearest("unitl", names), Some("until"));
        assert_eq!(nearest("database", names), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
