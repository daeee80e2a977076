//! Options of `capture`.

use std::time::Duration;

use agent_system::capture;
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

/// Of a packet, when payload is not kept: all headers, and what a DNS message or a
/// TLS hello takes.
const SNAPLEN: u32 = 2048;
/// The largest that libpcap takes, segmentation offload included.
const LARGEST_SNAPLEN: u32 = 262_144;

/// Options of `capture`.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub struct Options {
    /// For how long
    #[arg(long = "for", default_value = "60s", value_name = "TIME", value_parser = agent_system::watch::microseconds)]
    #[serde(rename = "for_us")]
    pub(crate) for_us: u64,
    /// Which packets (pcap-filter(7)), with numbers for addresses and ports
    #[arg(long, short, default_value = "", value_name = "EXPRESSION", value_parser = filter)]
    #[schemars(extend("x-class" = "text"))]
    pub(crate) filter: String,
    /// On which interface
    #[arg(long, short, default_value = capture::ANY, value_name = "NAME")]
    #[schemars(extend("x-class" = "name"))]
    pub(crate) interface: String,
    /// The most that is looked at of a packet [default: 2048, with --payload 262144]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=LARGEST_SNAPLEN as i64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snaplen: Option<u32>,
    /// End when this much of packets was kept; with --ring: keep this much
    #[arg(long, default_value = "16M", value_name = "BYTES", value_parser = size)]
    pub(crate) max_bytes: u64,
    /// End after so many packets; with --ring: keep so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_packets: Option<u64>,
    /// Keep the last packets and not the first, and write them at the end
    #[arg(long)]
    pub(crate) ring: bool,
    /// Keep payload, which may hold secrets
    #[arg(long)]
    pub(crate) payload: bool,
    /// The ring that the kernel fills
    #[arg(long, default_value = "4M", value_name = "BYTES", value_parser = size)]
    pub(crate) buffer_bytes: u64,
    /// Do not find out which processes own the sockets
    #[arg(long)]
    pub(crate) no_owners: bool,
    /// Only tell the interfaces, the compiled filter, and what access is missing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl Options {
    /// For how long.
    pub(crate) fn time(&self) -> Duration {
        if self.dry_run { Duration::ZERO } else { Duration::from_micros(self.for_us) }
    }

    /// The most that the kernel hands over of a packet, in bytes.
    pub(crate) fn snaplen(&self) -> u32 {
        self.snaplen.unwrap_or(if self.payload { LARGEST_SNAPLEN } else { SNAPLEN })
    }
}

/// The filter, checked by compiling it, which opens nothing.
fn filter(text: &str) -> Result<String, String> {
    capture::compile(capture::ANY, text)
        .or_else(|_| capture::compile("", text))
        .map(|_| text.to_owned())
        .map_err(|words| words.trim().to_owned())
}

/// A number of bytes, with a binary unit if one is given.
fn size(text: &str) -> Result<u64, String> {
    let text = text.trim_end_matches("iB").trim_end_matches('B');
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| "a number of bytes, as 65536, 64K or 16M".to_owned())?;
    // More than a 32-bit machine could hold, or libpcap could be told.
    const MOST: u64 = 2 << 30;
    match number.checked_mul(1 << shift) {
        Some(bytes @ 1..=MOST) => Ok(bytes),
        _ => Err("from 1 byte to 2G".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(
            [size("16M"), size("64KiB"), size("5"), size("2G")],
            [Ok(16 << 20), Ok(64 << 10), Ok(5), Ok(2 << 30)]
        );
        for bad in ["", "M", "0", "3G", "-1", "1.5M", "99999999999999999999", "x"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_before_anything_else() {
        assert!(filter("tcp port 80").is_ok());
        assert!(filter("tcp prot 80").is_err_and(|words| words.contains("syntax")));
    }
}
