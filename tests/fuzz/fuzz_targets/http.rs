//! The first line and the headers of HTTP/1.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = agent_network::capture::http::start(bytes);
});
