//! A capture: packets of every link type through the decoders, the flows and the summary. The input is a list of
//! packets, each with a link type, a length and the time since the one before.
#![no_main]

use agent_network::capture::decode::decode;
use agent_network::capture::summary::Watch;

/// Ethernet, raw IP, Linux cooked v1 and v2, loopback (LINKTYPE_ values).
const LINKS: [u16; 6] = [1, 101, 113, 276, 0, 228];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut watch = Watch::default();
    let (mut rest, mut now_ns) = (bytes, 0_u64);
    while let [link, length, later, more, after @ ..] = rest {
        let length = (usize::from(*length) * 2).min(after.len());
        let (packet, next) = after.split_at(length);
        let wire = length as u32 + u32::from(*more) * 8;
        now_ns += u64::from(*later) * 1_000_000;
        let decoded = decode(LINKS[usize::from(*link) % LINKS.len()], packet, wire);
        watch.packet(&decoded, wire, now_ns);
        rest = next;
    }
    let _ = watch.finish();
});
