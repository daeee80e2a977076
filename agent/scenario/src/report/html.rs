//! One page of HTML, by itself: no network, and no script but the flame graph's.

use std::fmt::Write as _;

use sha2::Digest as _;

use super::flame::{Box, WIDTH};
use super::{Cell, Part, Subject, Table, facts};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The height of a box of a flame graph, in pixels.
const HEIGHT: usize = 17;

/// The page as HTML.
pub fn html(subject: &Subject) -> String {
    let title = escaped(&facts::title(subject));
    // Whatever got past the escapes could do nothing.
    let hash = base64(&sha2::Sha256::digest(SCRIPT));
    // As it stands redaction would take it for a key.
    let hash: String = hash.bytes().map(|byte| format!("&#{byte};")).collect();
    let policy = format!("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'");
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    for section in facts::sections(subject) {
        let _ = writeln!(page, "<section>\n<h2>{}</h2>", escaped(section.title));
        for part in &section.parts {
            match part {
                Part::Line(line) => {
                    let _ = writeln!(page, "<p>{}</p>", prose(line));
                }
                Part::Finding(finding) => {
                    let level =
                        if finding.level.chars().all(|c| c.is_ascii_lowercase()) { &finding.level } else { "unknown" };
                    let _ = writeln!(
                        page,
                        "<div class=\"finding {level}\"><p><b>{}</b> {}</p>",
                        escaped(&finding.level),
                        prose(&finding.message)
                    );
                    for (name, words) in &finding.more {
                        let _ = writeln!(page, "<p class=\"more\"><i>{name}</i> {}</p>", prose(words));
                    }
                    page.push_str("</div>\n");
                }
                Part::Table(table) => write_table(&mut page, table),
                Part::Flame(boxes) => write_flame(&mut page, boxes),
            }
        }
        page.push_str("</section>\n");
    }
    let _ = writeln!(page, "<script>{SCRIPT}</script>\n</body>\n</html>");
    page
}

fn write_table(page: &mut String, table: &Table) {
    // What is wider than the page is moved by itself.
    page.push_str("<div class=\"wide\">\n<table>\n");
    if table.head.iter().any(|name| !name.is_empty()) {
        page.push_str("<thead><tr>");
        for (at, name) in table.head.iter().enumerate() {
            let is_number = table.rows.first().is_some_and(|row| matches!(row.get(at), Some(Cell::Number(_))));
            let _ = write!(page, "<th{}>{}</th>", if is_number { " class=\"n\"" } else { "" }, escaped(name));
        }
        page.push_str("</tr></thead>\n");
    }
    page.push_str("<tbody>\n");
    for row in &table.rows {
        page.push_str("<tr>");
        for cell in row {
            let _ = match cell {
                Cell::Text(text) => write!(page, "<td>{}</td>", escaped(text)),
                Cell::Number(text) => write!(page, "<td class=\"n\">{}</td>", escaped(text)),
                Cell::Deep(depth, text) => {
                    write!(page, "<td style=\"padding-left:{}em\">{}</td>", (*depth).min(40) + 1, escaped(text))
                }
                Cell::Bar(from, to) => {
                    let (from, to) = ((*from).min(1000), (*to).min(1000));
                    let width = to.saturating_sub(from);
                    let part = |thousandths: u64| format!("{}.{}%", thousandths / 10, thousandths % 10);
                    write!(
                        page,
                        "<td class=\"b\"><div style=\"margin-left:{};width:{}\"></div></td>",
                        part(from),
                        part(width)
                    )
                }
            };
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
    if table.left_out > 0 {
        let _ = writeln!(page, "<p>{} more.</p>", table.left_out);
    }
}

fn write_flame(page: &mut String, boxes: &[Box]) {
    let deepest = boxes.iter().map(|one| one.depth).max().unwrap_or(0);
    let all = super::flame::total(boxes);
    let _ = writeln!(page, "<div class=\"flame\" style=\"height:{}px\">", (deepest + 1) * HEIGHT);
    for one in boxes {
        let share = one.value.saturating_mul(1000) / all;
        let part = |millionths: u64| format!("{}.{:04}", millionths / (WIDTH / 100), millionths % (WIDTH / 100));
        let name = escaped(&one.name);
        let _ = writeln!(
            page,
            "<div tabindex=\"0\" data-x=\"{left}\" data-w=\"{width}\" data-d=\"{depth}\" title=\"{name} {}.{}% ({})\" \
             style=\"left:{left}%;width:{width}%;top:{}px;background:hsl({},70%,78%)\">{name}</div>",
            share / 10,
            share % 10,
            one.value,
            one.depth * HEIGHT,
            hue(&one.name),
            left = part(one.left),
            width = part(one.width),
            depth = one.depth,
        );
    }
    page.push_str("</div>\n");
}

/// The same name has the same colour in every page.
fn hue(name: &str) -> u32 {
    name.bytes().fold(17_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte))) % 60
}

/// A sentence, with what stands between backticks as code.
fn prose(text: &str) -> String {
    let parts: Vec<String> = text.split('`').map(escaped).collect();
    // One that has no other is itself.
    if parts.len().is_multiple_of(2) {
        return parts.join("`");
    }
    let marked = parts.iter().enumerate();
    marked.map(|(at, part)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part.clone() }).collect()
}

/// Text that is nothing but text, between tags and in quotes.
fn escaped(text: &str) -> String {
    super::escaped(text, |c, out| match c {
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&#39;"),
        c if c.is_control() => out.push('\u{fffd}'),
        c => out.push(c),
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_stands_between_backticks_is_code_and_nothing_but_text() {
        assert_eq!(super::prose("run `agent ps` or `x<y`."), "run <code>agent ps</code> or <code>x&lt;y</code>.");
        assert_eq!(super::prose("a ` alone & more"), "a ` alone &amp; more");
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
    }
}
