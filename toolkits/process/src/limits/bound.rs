//! A limit as a value.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// A limit: a number, or none at all.
///
/// In JSON `"unlimited"` is a limit that is known not to be there; a limit that is
/// not known is an absent member. A number of more than 2^53 is a decimal string,
/// since a JSON reader may hold numbers as doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// So much, and no more.
    At(u64),
    /// No limit.
    Unlimited,
}

/// Above this a number is no longer exact in a JSON reader that holds doubles.
const EXACT: u64 = 1 << 53;

impl Bound {
    /// The number, if there is one.
    pub fn number(self) -> Option<u64> {
        match self {
            Self::At(number) => Some(number),
            Self::Unlimited => None,
        }
    }

    /// How much of it `used` is, in thousandths, rounded down; more than 1000 where
    /// a limit was lowered below what was in use. `None` for no limit, and for one of
    /// 0, of which there is no share.
    pub fn permille(self, used: u64) -> Option<u64> {
        permille(used, self.number()?)
    }
}

/// `part` of `whole` in thousandths, rounded down; `None` if the whole is 0.
pub(super) fn permille(part: u64, whole: u64) -> Option<u64> {
    let share = (u128::from(part) * 1000).checked_div(u128::from(whole))?;
    Some(u64::try_from(share).unwrap_or(u64::MAX).min(EXACT))
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(number) if *number <= EXACT => serializer.serialize_u64(*number),
            Self::At(number) => serializer.collect_str(number),
            Self::Unlimited => serializer.serialize_str("unlimited"),
        }
    }
}

impl JsonSchema for Bound {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bound".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["integer", "string"], "minimum": 0, "pattern": "^(unlimited|[0-9]+)$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_down_and_may_pass_the_whole() {
        assert_eq!(Bound::At(3).permille(1), Some(333));
        assert_eq!(Bound::At(10).permille(25), Some(2500));
        assert_eq!(Bound::At(u64::MAX).permille(u64::MAX), Some(1000));
        assert_eq!(Bound::At(1).permille(u64::MAX), Some(EXACT));
        assert_eq!(Bound::At(0).permille(1), None);
        assert_eq!(Bound::Unlimited.permille(1), None);
    }
}
