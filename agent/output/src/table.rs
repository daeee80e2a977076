//! Tables for people.
//!
//! A listing becomes a table, an object a block of `name  value` lines. Which
//! fields of a row are columns, and which column draws the tree, stands in the
//! schema.

mod cell;
mod columns;
mod tree;

use std::borrow::Cow;
use std::io::{self, Write};

use agent_model::Gap;
use schemars::Schema;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::Printed;
use cell::{cell, clip};
use columns::{Column, all_plain, below, columns, is_plain, resolve};
use tree::Tree;

/// The width of a page that is not for a terminal, in columns.
const PAGE_WIDTH: usize = 100;

/// Rows by their index: a table goes over them twice, and keeps none.
type Rows<'a> = &'a dyn Fn(usize) -> io::Result<Cow<'a, Value>>;

/// Writes `envelope` as a table. Without a `width` nothing is cut off.
pub(crate) fn write(
    out: &mut dyn Write,
    envelope: &Printed<'_>,
    schema: &Schema,
    width: Option<usize>,
) -> io::Result<()> {
    heading(out, envelope)?;
    if envelope.data.is_absent() {
        return gaps(out, &envelope.gaps);
    }
    if let Some(page) = envelope.data.page(width.unwrap_or(PAGE_WIDTH)) {
        out.write_all(page.as_bytes())?;
        return gaps(out, &envelope.gaps);
    }
    let root = schema.as_value();
    let data = resolve(root, root.pointer("/properties/data").unwrap_or(&Value::Null));
    if let Some(count) = envelope.data.row_count() {
        let item = resolve(root, data.pointer("/properties/rows/items").unwrap_or(&Value::Null));
        let row = |index| {
            let row = envelope.data.row(index).map(serde_json::to_value).transpose()?;
            Ok(Cow::Owned(row.unwrap_or_default()))
        };
        rows_table(out, (count, &row), columns(root, item), &below(root, item), width, "")?;
        if let Some(summary) = envelope.data.summary() {
            writeln!(out)?;
            block(out, &serde_json::to_value(summary)?, &Value::Null, root, width, "")?;
        }
    } else {
        block(out, &serde_json::to_value(envelope.data)?, data, root, width, "")?;
    }
    gaps(out, &envelope.gaps)
}

fn heading(out: &mut dyn Write, envelope: &Printed<'_>) -> io::Result<()> {
    if let Some(target) = &envelope.target {
        let executable = target.executable.as_ref().map(|path| format!(" {path}")).unwrap_or_default();
        writeln!(out, "target {} {}{executable}  session {}", target.pid, target.name, envelope.session.id)?;
    }
    Ok(())
}

/// What has to be known of all rows before the first is written.
struct Layout {
    columns: Vec<Column>,
    widths: Vec<usize>,
    /// Whether a column holds nothing but numbers, which stand to the right.
    numeric: Vec<bool>,
    tree: Tree,
}

impl Layout {
    fn of(mut columns: Vec<Column>, (count, rows): (usize, Rows<'_>)) -> io::Result<Self> {
        let mut present = vec![count == 0; columns.len()];
        let mut numeric = vec![true; columns.len()];
        let mut widths: Vec<usize> = columns.iter().map(|column| column.heading.width()).collect();
        let mut depths = Vec::new();
        for index in 0..count {
            let row = rows(index)?;
            for (at, column) in columns.iter().enumerate() {
                let value = column.value(&row);
                present[at] |= value.is_some();
                numeric[at] &= matches!(value, None | Some(Value::Number(_) | Value::Null));
                let mut width = column.cell(&row).width();
                if let Some(key) = &column.tree {
                    let depth = row.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
                    width += Tree::WIDTH * depth;
                    depths.push(depth);
                }
                widths[at] = widths[at].max(width);
            }
        }
        // What no row has is not worth a column; an empty table keeps its headings.
        let mut kept = present.iter();
        columns.retain(|_| *kept.next().unwrap_or(&true));
        let kept = |at: &usize| present[*at];
        let widths = (0..widths.len()).filter(kept).map(|at| widths[at]).collect();
        let numeric = (0..numeric.len()).filter(kept).map(|at| numeric[at]).collect();
        Ok(Self { columns, widths, numeric, tree: Tree::new(depths) })
    }

    /// One line of cells, each as wide as its column.
    fn line(&self, indent: &str, mut text: impl FnMut(&Column) -> String) -> String {
        let mut line = String::from(indent);
        for (at, column) in self.columns.iter().enumerate() {
            if at > 0 {
                line.push_str("  ");
            }
            let text = text(column);
            let pad = std::iter::repeat_n(' ', self.widths[at].saturating_sub(text.width()));
            if self.numeric[at] {
                line.extend(pad);
                line.push_str(&text);
            } else {
                line.push_str(&text);
                line.extend(pad);
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn rows_table(
    out: &mut dyn Write,
    rows: (usize, Rows<'_>),
    columns: Vec<Column>,
    below: &[(String, Vec<Column>)],
    width: Option<usize>,
    indent: &str,
) -> io::Result<()> {
    let mut layout = Layout::of(columns, rows)?;
    let mut tree = std::mem::take(&mut layout.tree);
    let (count, rows) = rows;
    writeln!(out, "{}", clip(&layout.line(indent, |column| column.heading.clone()), width))?;
    for index in 0..count {
        let row = rows(index)?;
        let line = layout.line(indent, |column| match column.tree {
            Some(_) => tree.prefix(index) + &column.cell(&row),
            None => column.cell(&row),
        });
        writeln!(out, "{}", clip(&line, width))?;
        for (key, columns) in below {
            for item in row.get(key).and_then(Value::as_array).into_iter().flatten() {
                let mut line = format!("{indent}     ");
                for column in columns {
                    line.push_str("  ");
                    line.push_str(&column.cell(item));
                }
                writeln!(out, "{}", clip(&line, width))?;
            }
        }
    }
    Ok(())
}

/// An object as `name  value` lines; lists of objects in it as tables.
fn block(
    out: &mut dyn Write,
    value: &Value,
    schema: &Value,
    root: &Value,
    width: Option<usize>,
    indent: &str,
) -> io::Result<()> {
    let Some(members) = value.as_object() else {
        return writeln!(out, "{indent}{}", cell("", value));
    };
    let name_width = members.iter().filter(|(_, v)| is_plain(v)).map(|(key, _)| key.width()).max().unwrap_or(0);
    for (key, member) in members {
        let below = resolve(root, schema.pointer(&format!("/properties/{key}")).unwrap_or(&Value::Null));
        let deeper = format!("{indent}  ");
        match member {
            Value::Array(list) if list.iter().any(Value::is_object) => {
                writeln!(out, "{indent}{key}")?;
                let row = resolve(root, below.get("items").unwrap_or(&Value::Null));
                let mut chosen = columns(root, row);
                if chosen.is_empty() {
                    chosen = all_plain(list);
                }
                let row = |index: usize| Ok(Cow::Borrowed(list.get(index).unwrap_or(&Value::Null)));
                rows_table(out, (list.len(), &row), chosen, &[], width, &deeper)?;
            }
            Value::Object(inner) if !inner.is_empty() => {
                writeln!(out, "{indent}{key}")?;
                block(out, member, below, root, width, &deeper)?;
            }
            plain => {
                let line = format!("{indent}{key:name_width$}  {}", cell(key, plain));
                writeln!(out, "{}", clip(&line, width))?;
            }
        }
    }
    Ok(())
}

/// Gaps, those of one cause together.
fn gaps(out: &mut dyn Write, gaps: &[Gap]) -> io::Result<()> {
    if gaps.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nnot seen:")?;
    let mut told: Vec<(String, &Gap, usize)> = Vec::new();
    for gap in gaps {
        // `/rows/17/exe` and `/rows/18/exe` are one line.
        let place: Vec<&str> =
            gap.at.split('/').map(|part| if part.parse::<u32>().is_ok() { "*" } else { part }).collect();
        let place = place.join("/");
        let same = |(at, first, _): &&mut (String, &Gap, usize)| {
            *at == place && first.reason == gap.reason && first.needs == gap.needs && first.remedy == gap.remedy
        };
        match told.iter_mut().find(same) {
            Some((_, _, count)) => *count += 1,
            None => told.push((place, gap, 1)),
        }
    }
    for (place, gap, count) in told {
        let reason = serde_json::to_value(gap.reason)?;
        let mut line = format!("  {place}: {}", cell("", &reason));
        if let Some(errno) = &gap.errno {
            line.push_str(&format!(" ({errno})"));
        }
        if let Some(path) = &gap.path {
            line.push_str(&format!(" {path}"));
        }
        if count > 1 {
            line.push_str(&format!(" and {} more", count - 1));
        }
        if let Some(detail) = &gap.detail {
            line.push_str(&format!(": {detail}"));
        }
        if !gap.needs.is_empty() {
            let needs: Vec<&str> = gap.needs.iter().map(|need| need.as_str()).collect();
            line.push_str(&format!("; any of {} would do", needs.join(", ")));
        }
        writeln!(out, "{line}")?;
        if let Some(remedy) = &gap.remedy {
            writeln!(out, "    {remedy}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_empty_ones_are_left_out() {
        let column = |key: &str, items: &[&str]| Column {
            key: key.to_owned(),
            heading: key.to_uppercase(),
            tree: (key == "name").then(|| "depth".to_owned()),
            items: items.iter().map(|item| (*item).to_owned()).collect(),
            ..Column::default()
        };
        let rows = [
            json!({"pid": 1, "name": "init", "depth": 0, "socket": {"a": 1, "c": "x"}}),
            json!({"pid": 12345, "name": "worker", "depth": 1, "size_bytes": 2048}),
        ];
        let mut out = Vec::new();
        let columns = vec![
            column("pid", &[]),
            column("name", &[]),
            column("none", &[]),
            column("size_bytes", &[]),
            column("socket", &["c", "b", "a"]),
        ];
        let row = |index: usize| Ok(Cow::Borrowed(&rows[index]));
        rows_table(&mut out, (2, &row), columns, &[], None, "").expect("writes to memory");
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            "  PID  NAME       SIZE_BYTES  SOCKET\n    1  init                -  x 1\n12345  └─ worker        2.0K  -\n"
        );
    }

    #[test]
    fn columns_of_an_object_stand_among_those_of_the_row_and_units_are_those_of_the_row() {
        let inner = json!({"properties": {"swap_bytes": {"x-column": "SWAP"}, "more": {}}});
        let schema = json!({"$defs": {"Details": inner}, "properties": {
            "used": {"x-column": "USED", "x-unit": "unit"},
            "details": {"x-inline": true, "anyOf": [{"$ref": "#/$defs/Details"}, {"type": "null"}]},
            "unit": {"x-column": "UNIT"},
        }});
        let rows = [
            json!({"used": 8_388_608, "unit": "bytes", "details": {"swap_bytes": 2048, "more": 1}}),
            json!({"used": 8192, "unit": "files"}),
            json!({"used": "unlimited", "unit": "us"}),
            json!({"used": 1500}),
        ];
        let mut out = Vec::new();
        let row = |index: usize| Ok(Cow::Borrowed(&rows[index]));
        rows_table(&mut out, (4, &row), columns(&schema, &schema), &[], None, "").expect("writes to memory");
        let text = String::from_utf8(out).expect("UTF-8");
        let cells: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let mut expected = vec![
            vec!["8.0M", "2.0K", "bytes"],
            vec!["8192", "-", "files"],
            vec!["unlimited", "-", "us"],
            vec!["1500", "-", "-"],
        ];
        // The order is that of the schema's members.
        let at = |heading: &str| cells[0].iter().position(|cell| *cell == heading).expect("a column");
        let order = [at("USED"), at("SWAP"), at("UNIT")];
        for (line, expected) in cells[1..].iter().zip(&mut expected) {
            assert_eq!(order.map(|at| line[at]).to_vec(), *expected);
        }
    }

    #[test]
    fn gaps_of_one_cause_are_one_line() {
        let mut out = Vec::new();
        let all = [
            Gap::new("/rows/1/exe", agent_model::Reason::PermissionDenied),
            Gap::new("/rows/2/exe", agent_model::Reason::PermissionDenied),
        ];
        gaps(&mut out, &all).expect("writes to memory");
        let text = String::from_utf8(out).expect("UTF-8");
        assert_eq!(text.matches("/rows/*/exe").count(), 1, "{text}");
        assert!(text.contains("and 1 more"), "{text}");
    }
}
