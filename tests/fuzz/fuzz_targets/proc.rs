//! The files of proc(5).
#![no_main]

use agent_system::parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = parse::stat(bytes);
    let _ = parse::status(bytes);
    let _ = parse::mounts(bytes);
    let _ = parse::container_id(bytes);
    let _ = parse::mapping(bytes);
    let _ = parse::doing(bytes);
    let _ = parse::mapping_path(bytes);
});
