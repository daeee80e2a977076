//! The lines that draw a tree.

/// The lines that lead to each row of a tree. Rows come parent first.
#[derive(Default)]
pub(super) struct Tree {
    /// How deep each row stands, and whether another one follows it below the same parent.
    rows: Vec<(usize, bool)>,
    /// The latter of the ancestors of the row that was drawn last, itself included.
    open: Vec<bool>,
}

impl Tree {
    /// Columns that a level takes.
    pub(super) const WIDTH: usize = 3;

    pub(super) fn new(depths: Vec<usize>) -> Self {
        let mut rows: Vec<(usize, bool)> = depths.into_iter().map(|depth| (depth, false)).collect();
        // From the end: the depths at which a later row stands, below the same parent.
        let mut later: Vec<bool> = Vec::new();
        for (depth, follows) in rows.iter_mut().rev() {
            later.resize(*depth + 1, false);
            *follows = std::mem::replace(&mut later[*depth], true);
        }
        Self { rows, open: Vec::new() }
    }

    /// What stands before row `index`; rows are drawn in their order.
    pub(super) fn prefix(&mut self, index: usize) -> String {
        let Some(&(depth, follows)) = self.rows.get(index) else { return String::new() };
        self.open.resize(depth, false);
        let mut prefix = String::new();
        for open in self.open.iter().skip(1) {
            prefix.push_str(if *open { "│  " } else { "   " });
        }
        if depth > 0 {
            prefix.push_str(if follows { "├─ " } else { "└─ " });
        }
        self.open.push(follows);
        prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_drawn_from_depths() {
        let drawn = |depths: &[usize]| {
            let mut tree = Tree::new(depths.to_vec());
            (0..depths.len()).map(|index| tree.prefix(index)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(&[0, 1, 2, 1, 0, 1]), ["", "├─ ", "│  └─ ", "└─ ", "", "└─ "]);
        assert_eq!(drawn(&[0, 1, 2, 3, 2, 0]), ["", "└─ ", "   ├─ ", "   │  └─ ", "   └─ ", ""]);
        // A row may stand deeper than its parent's depth and one: the parent was not seen.
        assert_eq!(drawn(&[2, 1, 3]), ["   └─ ", "└─ ", "      └─ "]);
    }
}
