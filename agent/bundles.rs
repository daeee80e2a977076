//! Bundles: kept while a command looks, and read again anywhere.

mod keeping;

pub(crate) use keeping::{Bundle, open};
