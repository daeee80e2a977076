//! The package databases and os-release of a target's root.
#![no_main]

use std::collections::BTreeMap;

use agent_binaries::packages::{apk, dpkg, os_release};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let wanted: BTreeMap<Vec<u8>, Vec<u8>> =
        [b"usr/bin/a".to_vec(), b"lib/b.so".to_vec()].map(|path| (path.clone(), path)).into();
    let _ = apk::owners(bytes, &wanted);
    let _ = dpkg::parse_status(bytes);
    let _ = os_release::parse(bytes);
});
