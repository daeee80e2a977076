//! The scenarios that the agent has: the files of scripts/scenarios.

/// Name and text of each, sorted by name.
pub const ALL: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

/// The text of the one called `name`.
pub fn text(name: &str) -> Option<&'static str> {
    ALL.iter().find(|known| known.0 == name).map(|known| known.1)
}

/// The name that is nearest to `name`, if any is near.
pub fn nearest(name: &str) -> Option<&'static str> {
    crate::near::nearest(name, ALL.iter().map(|known| known.0))
}
