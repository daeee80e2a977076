//! The rules of the code addresses that stacks have in common.

use std::fmt;

use super::rule::Rule;

/// Rules that are kept: 40 KiB. A process has a few hundred distinct return
/// addresses on its stacks at a time.
const SLOTS: usize = 1024;

/// A direct-mapped cache from look-up address to rule.
#[derive(Default)]
pub(super) struct Cache {
    slots: Vec<Option<(u64, Rule)>>,
}

impl Cache {
    pub(super) fn get(&self, avma: u64) -> Option<Rule> {
        match self.slots.get(slot_of(avma)) {
            Some(Some((kept, rule))) if *kept == avma => Some(*rule),
            _ => None,
        }
    }

    pub(super) fn insert(&mut self, avma: u64, rule: Rule) {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, None);
        }
        self.slots[slot_of(avma)] = Some((avma, rule));
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
    }
}

/// Fibonacci hashing: the high bits of a product with 2^64 divided by the
/// golden ratio.
fn slot_of(avma: u64) -> usize {
    const BITS: u32 = SLOTS.trailing_zeros();
    (avma.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS)) as usize
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.slots.iter().flatten().count();
        f.debug_struct("Cache").field("rules", &kept).finish()
    }
}
