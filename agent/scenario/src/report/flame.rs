//! A flame graph as boxes.

use std::collections::BTreeMap;

use serde_json::Value;

/// One box, in thousandths of a thousandth of the width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Box {
    pub(super) name: String,
    pub(super) value: u64,
    pub(super) left: u64,
    pub(super) width: u64,
    pub(super) depth: usize,
}

/// The whole width.
pub(super) const WIDTH: u64 = 1_000_000;

/// What is narrower is not drawn.
const NARROWEST: u64 = WIDTH / 2000;

/// The deepest box, and the most of them.
const DEEPEST: usize = 80;
const MOST: usize = 4000;

#[derive(Debug, Default)]
struct Node {
    value: u64,
    below: BTreeMap<String, Node>,
}

/// The boxes of the rows of `profile` (by time) or `stacks` (by threads); the outermost frames first.
pub(super) fn boxes(rows: &[Value]) -> Vec<Box> {
    let mut root = Node::default();
    for row in rows {
        let value = row["time_us"].as_u64().or(row["count"].as_u64()).unwrap_or(0);
        let frames = row["frames"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut names = vec![row["state"].as_str().unwrap_or("?").replace('_', " ")];
        names.extend(frames.iter().rev().take(DEEPEST - 2).map(frame));
        names.extend(row["system_call"].as_str().map(|call| format!("[{call}]")));
        let mut node = &mut root;
        node.value = node.value.saturating_add(value);
        for name in names {
            node = node.below.entry(name).or_default();
            node.value = node.value.saturating_add(value);
        }
    }
    let mut boxes = Vec::new();
    if root.value > 0 {
        place(&root, (0, root.value), 0, &mut boxes);
    }
    boxes
}

/// The value of all, at least 1.
pub(super) fn total(boxes: &[Box]) -> u64 {
    boxes.iter().filter(|one| one.depth == 0).fold(0, |all: u64, one| all.saturating_add(one.value)).max(1)
}

fn frame(frame: &Value) -> String {
    let function = frame["function"].as_str().map(str::to_owned);
    let module = || frame["module"].as_str().map(|path| path.rsplit('/').next().unwrap_or(path).to_owned());
    function.or_else(module).unwrap_or_else(|| "?".to_owned())
}

fn place(node: &Node, (mut before, all): (u64, u64), depth: usize, boxes: &mut Vec<Box>) {
    let scaled = |value: u64| u64::try_from(u128::from(value) * u128::from(WIDTH) / u128::from(all)).unwrap_or(WIDTH);
    let mut children: Vec<(&String, &Node)> = node.below.iter().collect();
    children.sort_by_key(|(name, child)| (std::cmp::Reverse(child.value), (*name).clone()));
    for (name, child) in children {
        let (left, width) = (scaled(before), scaled(child.value));
        if width >= NARROWEST && depth < DEEPEST && boxes.len() < MOST {
            boxes.push(Box { name: name.clone(), value: child.value, left, width, depth });
            place(child, (before, all), depth + 1, boxes);
        }
        before = before.saturating_add(child.value);
    }
}
