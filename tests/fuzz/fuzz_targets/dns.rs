//! A DNS message.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = agent_network::capture::dns::message(bytes);
});
