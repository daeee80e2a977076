//! 64-bit words as JSON values.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// An address or another word that people read in hexadecimal: `"0x7f12…"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hex(pub u64);

/// A 64-bit number that may pass 2^53 (an inode on overlayfs, a device, a
/// cookie), as a decimal string, since a JSON reader may hold numbers as doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wide(pub u64);

impl Hex {
    /// Its digits, in `buffer`: lists have a hundred thousand of them, and the standard library's formatting takes ten times
    /// as long.
    fn digits(self, buffer: &mut [u8; 18]) -> &str {
        let count = (16 - self.0.leading_zeros() as usize / 4).max(1);
        buffer[..2].copy_from_slice(b"0x");
        for (place, digit) in buffer[2..2 + count].iter_mut().zip((0..count).rev()) {
            *place = b"0123456789abcdef"[(self.0 >> (4 * digit) & 0xf) as usize];
        }
        std::str::from_utf8(&buffer[..2 + count]).unwrap_or_default()
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digits(&mut [0; 18]))
    }
}

impl fmt::Display for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.digits(&mut [0; 18]))
    }
}

impl Serialize for Wide {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Hex {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Hex".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^0x[0-9a-f]+$"})
    }
}

impl JsonSchema for Wide {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Wide".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9]+$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_written_as_the_standard_library_writes_it() {
        let numbers =
            (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1_u64 << bit).wrapping_mul(0x9e37_79b9_7f4a_7c15)]);
        for number in numbers.chain([u64::MAX]) {
            let written = format!("{number:#x}");
            assert_eq!(Hex(number).to_string(), written);
            assert_eq!(serde_json::to_string(&Hex(number)).expect("JSON"), format!("\"{written}\""));
        }
    }
}
