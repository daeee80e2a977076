//! Markdown that fits into a ticket.

use std::fmt::Write as _;

use super::{Cell, Part, Subject, Table, facts};

/// Rows of a table in a ticket.
const MOST_ROWS: usize = 25;

/// The page as Markdown.
pub fn markdown(subject: &Subject) -> String {
    let mut page = format!("# {}\n", escaped(&facts::title(subject)));
    for section in facts::sections(subject) {
        let _ = writeln!(page, "\n## {}\n", section.title);
        for part in &section.parts {
            match part {
                Part::Line(line) => {
                    let _ = writeln!(page, "{}\n", escaped(line));
                }
                Part::Finding(finding) => {
                    let _ = writeln!(page, "- **{}** {}", escaped(&finding.level), prose(&finding.message));
                    for (name, words) in &finding.more {
                        let _ = writeln!(page, "  - {name}: {}", prose(words));
                    }
                }
                Part::Table(table) => write_table(&mut page, table),
                Part::Flame(boxes) => {
                    let _ = writeln!(page, "```text");
                    let all = super::flame::total(boxes);
                    for one in boxes.iter().filter(|one| one.depth < 24 && one.value >= all / 50).take(60) {
                        let plain = |c: char| if c == '`' || c.is_control() { '\'' } else { c };
                        let name: String = one.name.chars().map(plain).collect();
                        let _ = writeln!(
                            page,
                            "{:>3}% {}{name}",
                            one.value.saturating_mul(100) / all,
                            "  ".repeat(one.depth)
                        );
                    }
                    let _ = writeln!(page, "```\n");
                }
            }
        }
    }
    page
}

fn write_table(page: &mut String, table: &Table) {
    // What is drawn says nothing here.
    let is_drawn = |at: usize| table.rows.iter().any(|row| matches!(row.get(at), Some(Cell::Bar(..))));
    let columns: Vec<usize> = (0..table.head.len()).filter(|at| !is_drawn(*at)).collect();
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let head = columns.iter().map(|at| escaped(&table.head[*at])).collect();
    let rule = columns.iter().map(|at| {
        let is_number = table.rows.iter().all(|row| matches!(row.get(*at), Some(Cell::Number(_))));
        if is_number { "--:".to_owned() } else { "---".to_owned() }
    });
    let _ = writeln!(page, "{}\n{}", line(head), line(rule.collect()));
    for row in table.rows.iter().take(MOST_ROWS) {
        let cells = columns.iter().map(|at| match row.get(*at) {
            Some(Cell::Text(text) | Cell::Number(text)) => escaped(text),
            Some(Cell::Deep(depth, text)) => "&ensp;".repeat((*depth).min(40) as usize) + &escaped(text),
            _ => String::new(),
        });
        let _ = writeln!(page, "{}", line(cells.collect()));
    }
    let left_out = table.left_out + table.rows.len().saturating_sub(MOST_ROWS);
    if left_out > 0 {
        let _ = writeln!(page, "\n{left_out} more.");
    }
    page.push('\n');
}

/// A sentence, with the commands in it as code: what else stands between backticks may be of the target's, and is text.
fn prose(text: &str) -> String {
    let is_command = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" -_./=".contains(&byte))
    };
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escaped(text);
    }
    let marked = parts.iter().enumerate().map(|(at, part)| match at % 2 {
        1 if is_command(part) => format!("`{part}`"),
        1 => escaped(&format!("`{part}`")),
        _ => escaped(part),
    });
    marked.collect()
}

/// Text that is nothing but text: no markup, no link, no picture, nobody's name.
fn escaped(text: &str) -> String {
    let shown = super::escaped(text, |c, out| match c {
        '@' => out.push_str("&#64;"),
        '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' => out.extend(['\\', c]),
        c if c.is_control() => out.push(' '),
        c => out.push(c),
    });
    // An address would become a link.
    shown.replace("://", ":&#47;/")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_command_is_code_and_nothing_else_is() {
        assert_eq!(super::prose("run `agent ps -o table` twice"), "run `agent ps -o table` twice");
        assert_eq!(super::prose("a `[x](y)` b"), "a \\`\\[x\\](y)\\` b");
        assert_eq!(super::prose("a ` b"), "a \\` b");
    }
}
