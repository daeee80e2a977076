//! What looks like a key by itself, wherever it stands.

use std::borrow::Cow;

use super::{Count, mark};

/// What looks like a key by itself.
pub(super) fn tokens<'a>(text: Cow<'a, str>, count: Count<'_>) -> Cow<'a, str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '.' | '/' | '=' | '~');
    let mut out = String::new();
    let mut done = 0;
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        if is_part(c) {
            start.get_or_insert(at);
            continue;
        }
        let Some(from) = start.take() else { continue };
        // A path is looked at name by name, unless it is no path.
        let word = &text[from..at];
        for (offset, piece) in pieces(word) {
            if let Some(class) = key_class(piece) {
                count(class);
                out.push_str(&text[done..from + offset]);
                out.push_str(&mark(class));
                done = from + offset + piece.len();
            }
        }
    }
    if done == 0 {
        return text;
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// The parts of a word that could be keys, each with its place.
fn pieces(word: &str) -> Vec<(usize, &str)> {
    let mut pieces = Vec::new();
    // The padding of base64 stays with it.
    for (start, part) in split(word.trim_end_matches('='), &['=', '~']) {
        let is_one = key_class(part).is_some_and(|class| class == "jwt" || !part.contains('.')) && is_base64(part);
        match is_one {
            true => pieces.push((start, part)),
            false => pieces.extend(split(part, &['/']).map(|(at, name)| (start + at, name))),
        }
    }
    pieces
}

/// The parts of `text` between `signs`, each with its place.
fn split<'a>(text: &'a str, signs: &'a [char]) -> impl Iterator<Item = (usize, &'a str)> {
    text.split(signs)
        .map(move |part| (part.as_ptr() as usize - text.as_ptr() as usize, part))
        .filter(|(_, part)| !part.is_empty())
}

/// Whether a word with slashes can be base64, and not a path: no name of a path is as long and as mixed.
fn is_base64(word: &str) -> bool {
    if !word.contains('/') {
        return true;
    }
    let names = word.split('/').count();
    !word.starts_with('/') && word.len() / names >= 10 && word.bytes().any(|b| b.is_ascii_uppercase())
}

/// The class of key that `word` looks like.
fn key_class(word: &str) -> Option<&'static str> {
    const LEAST: usize = 16;
    if word.len() < LEAST {
        return None;
    }
    if word.starts_with("eyJ") && word.matches('.').count() >= 1 {
        return Some("jwt");
    }
    let prefixed = |prefix: &str, length: usize| {
        word.strip_prefix(prefix).is_some_and(|rest| {
            rest.len() >= length && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        })
    };
    const PREFIXES: &[(&str, usize)] = &[
        ("AKIA", 16),
        ("ASIA", 16),
        ("AGPA", 16),
        ("AROA", 16),
        ("AIza", 30),
        ("ghp_", 20),
        ("gho_", 20),
        ("ghu_", 20),
        ("ghs_", 20),
        ("ghr_", 20),
        ("github_pat_", 20),
        ("glpat-", 16),
        ("xoxb-", 12),
        ("xoxp-", 12),
        ("xoxa-", 12),
        ("xapp-", 12),
        ("sk_live_", 12),
        ("sk_test_", 12),
        ("rk_live_", 12),
        ("pk_live_", 12),
        ("sk-", 20),
        ("npm_", 20),
        ("pypi-", 16),
        ("hvs", 20),
        ("dop_v1_", 20),
        ("SG", 30),
        ("ya29", 20),
        ("GOCSPX-", 16),
        ("shpat_", 20),
        ("AGE-SECRET-KEY-", 16),
    ];
    if PREFIXES.iter().any(|(prefix, length)| prefixed(prefix, *length)) {
        return Some("cloud_key");
    }
    if word.starts_with("hvs.") || word.starts_with("ya29.") || (word.starts_with("SG.") && word.len() > 40) {
        return Some("cloud_key");
    }
    is_random(word).then_some("entropy")
}

/// True when `word` is as mixed as only random text is. Hex is not: digests, build IDs and UUIDs are hex,
/// and no secret more often than one.
fn is_random(word: &str) -> bool {
    let word = word.trim_end_matches('=');
    if word.len() < 20 || word.len() > 512 {
        return false;
    }
    let (mut lower, mut upper, mut digits, mut signs, mut changes) = (0, 0, 0, 0, 0);
    let mut seen = [0_u8; 128];
    let mut kind_before = 0;
    for byte in word.bytes() {
        let kind = match byte {
            b'a'..=b'z' => {
                lower += 1;
                1
            }
            b'A'..=b'Z' => {
                upper += 1;
                2
            }
            b'0'..=b'9' => {
                digits += 1;
                3
            }
            b'+' | b'-' | b'_' | b'/' => {
                signs += 1;
                4
            }
            // A dot parts names: what has one is looked at as none.
            _ => return false,
        };
        if kind != kind_before && kind_before != 0 {
            changes += 1;
        }
        kind_before = kind;
        seen[usize::from(byte)] = seen[usize::from(byte)].saturating_add(1);
    }
    // Letters of both cases and digits, changing as often as in random text: there in 2 of 3 places;
    // in `CamelCaseName2` in 1 of 4.
    let length = word.len();
    let distinct = seen.iter().filter(|times| **times > 0).count();
    // A key of 40 characters is one of AWS: it may have few digits.
    let mixed = lower >= 3 && upper >= 3 && (digits >= 2 || digits == 1 && length == 40) && signs * 6 <= length;
    mixed && changes * 5 >= length * 2 && distinct * 2 >= length.min(40)
}
