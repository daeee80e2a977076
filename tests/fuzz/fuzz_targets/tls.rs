//! TLS records: hellos, whole and cut, and alerts.
#![no_main]

use agent_network::capture::tls;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = tls::may_be_hello(bytes);
    let _ = tls::hello_bytes(bytes);
    let _ = tls::hello(bytes);
    let _ = tls::alert(bytes);
});
