//! `struct tcp_info` (linux/tcp.h): what the kernel knows of a TCP connection.

use schemars::JsonSchema;
use serde::Serialize;

use super::bytes::{u16_at, u32_at, u64_at};

/// A TCP connection from inside: `struct tcp_info`, and what stands beside it.
///
/// A field that this kernel does not have, or has not measured, is absent; most
/// stand here only with `--info`. They come in the order of their names, which is
/// that of the digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend("x-life" = ["min_rtt_us", "receive_rtt_us", "rto_us", "rtt_us", "rtt_var_us"]))]
pub struct Tcp {
    /// The largest segment that we told the peer to send, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised_mss_bytes: Option<u32>,
    /// How long an acknowledgement is held back for data to go with it, in
    /// microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ato_us: Option<u32>,
    /// How often the timeout was doubled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<u8>,
    /// How long data was on its way or waited to be sent, in microseconds. Ticks;
    /// only with `--volatile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy_us: Option<u64>,
    /// Bytes that the peer has acknowledged (RFC 4898).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_acked: Option<u64>,
    /// Bytes that were received in order (RFC 4898).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    /// Bytes that were sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_retransmitted: Option<u64>,
    /// Bytes that were sent, those sent again included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    /// The algorithm of congestion control, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub congestion_control: Option<Name>,
    /// What congestion control is at: `open`, `disorder`, `cwr` (the window was
    /// reduced), `recovery` (fast retransmission), `loss` (a timeout).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub congestion_state: Option<&'static str>,
    /// Congestion window, in segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub congestion_window: Option<u32>,
    /// Segments with data that were received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_segments_received: Option<u32>,
    /// Segments with data that were sent, those sent again included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_segments_sent: Option<u32>,
    /// Segments that were delivered, those sent again included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u32>,
    /// Segments among these that the peer says met congestion (ECE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_ce: Option<u32>,
    /// Bytes delivered with the mark CE (accurate ECN).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_ce_bytes: Option<u32>,
    /// Bytes delivered with the mark ECT(0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_e0_bytes: Option<u32>,
    /// Bytes delivered with the mark ECT(1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_e1_bytes: Option<u32>,
    /// Whether the rate of delivery was limited by the application, and not by the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_rate_app_limited: Option<bool>,
    /// The latest rate at which data was delivered, in bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_rate_bytes_per_second: Option<u64>,
    /// Segments that the peer says it had already (D-SACK).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dsack_duplicates: Option<u32>,
    /// How long ago the last acknowledgement was received, in microseconds to the
    /// millisecond. Ticks; only with `--volatile`, as the two that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ack_received_us: Option<u64>,
    /// How long ago data was last received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_data_received_us: Option<u64>,
    /// How long ago data was last sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_data_sent_us: Option<u64>,
    /// Segments that are taken for lost now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u32>,
    /// The most that pacing allows, in bytes a second; absent where there is no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pacing_rate_bytes_per_second: Option<u64>,
    /// Smallest round-trip time of late, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_rtt_us: Option<u32>,
    /// Bytes in the send queue that were not sent at all yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_sent_bytes: Option<u32>,
    /// What was agreed on: `timestamps`, `sack`, `window_scale`, `ecn`, `ecn_seen`,
    /// `syn_data`, `usec_timestamps`, `fast_open_child`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub options: Option<Bits>,
    /// Segments that came out of order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_order_segments: Option<u32>,
    /// The rate at which segments are paced, in bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pacing_rate_bytes_per_second: Option<u64>,
    /// The largest packet that the path takes, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_mtu_bytes: Option<u32>,
    /// Probes that are unanswered: of a zero window, or to keep alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<u8>,
    /// The size of segments that the peer sends, as estimated, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_mss_bytes: Option<u32>,
    /// Round-trip time as the receiving side estimates it, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_rtt_us: Option<u32>,
    /// What the application read within one round trip, by which the receive buffer
    /// is sized, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_space_bytes: Option<u32>,
    /// The window that we advertise at most, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_ssthresh_bytes: Option<u32>,
    /// The window that we advertise, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_window_bytes: Option<u32>,
    /// How long the peer's window held back what was to be sent, in microseconds.
    /// Ticks; only with `--volatile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_window_limited_us: Option<u64>,
    /// The power of two by which the window that we advertise is scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_window_scale: Option<u8>,
    /// Segments received that met congestion (CE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_ce: Option<u32>,
    /// Bytes received with the mark CE (accurate ECN).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_ce_bytes: Option<u32>,
    /// Bytes received with the mark ECT(0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_e0_bytes: Option<u32>,
    /// Bytes received with the mark ECT(1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_e1_bytes: Option<u32>,
    /// How often another path was tried after timeouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rehashes: Option<u32>,
    /// By how many segments packets are reordered at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reordering: Option<u32>,
    /// How often reordering was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reordering_seen: Option<u32>,
    /// How often the oldest segment was sent again, and is still unanswered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u8>,
    /// Segments on their way that were sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmitted: Option<u32>,
    /// Segments sent again since the connection began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmitted_total: Option<u32>,
    /// Recoveries from a timeout, unfinished ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_recoveries: Option<u16>,
    /// Time spent in them, in microseconds to the millisecond. Ticks; only with
    /// `--volatile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_recovery_us: Option<u64>,
    /// Timeouts since the connection began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_total: Option<u16>,
    /// Retransmission timeout, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_us: Option<u32>,
    /// Smoothed round-trip time, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    /// Its mean deviation, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_var_us: Option<u32>,
    /// Segments on their way that the peer says it has (SACK).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sacked: Option<u32>,
    /// Segments received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments_received: Option<u32>,
    /// Segments sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments_sent: Option<u32>,
    /// How long the send buffer held back what was to be sent, in microseconds.
    /// Ticks; only with `--volatile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_buffer_limited_us: Option<u64>,
    /// The size of segments that are sent, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_mss_bytes: Option<u32>,
    /// The window that the peer advertises, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_window_bytes: Option<u32>,
    /// The power of two by which that window is scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_window_scale: Option<u8>,
    /// Slow start threshold, in segments; absent before the first congestion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_threshold: Option<u32>,
    /// The upper layer protocol that was put on the connection: `tls`, `mptcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub ulp: Option<Name>,
    /// Segments on their way that are not acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacked: Option<u32>,
}

/// Options of a connection by name, without memory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits(u8);

impl Bits {
    /// TCPI_OPT_* of linux/tcp.h, from the lowest bit.
    const NAMES: [&str; 8] =
        ["timestamps", "sack", "window_scale", "ecn", "ecn_seen", "syn_data", "usec_timestamps", "fast_open_child"];
}

impl Serialize for Bits {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..8).filter(|bit| self.0 >> bit & 1 == 1).map(|bit| Self::NAMES[bit]))
    }
}

/// A name of at most 16 bytes, as the kernel's algorithms have one, without memory
/// of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name([u8; 16]);

impl Name {
    /// The name at the start of `bytes`, which ends with a NUL byte; `None` where it
    /// is empty.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut name = [0; 16];
        let until = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()).min(16);
        name[..until].copy_from_slice(&bytes[..until]);
        (until > 0).then_some(Self(name))
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0[..self.0.iter().position(|byte| *byte == 0).unwrap_or(16)]
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&agent_model::text::escape(self.bytes()))
    }
}

impl JsonSchema for Name {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Name".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

impl JsonSchema for Bits {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Names".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Vec::<&'static str>::json_schema(generator)
    }
}

/// What stands for "no limit yet" as a slow start threshold.
const INFINITE: u32 = 0x7fff_ffff;

/// Times are 0 before they were measured, the smallest ones all ones.
fn is_measured(value: &u32) -> bool {
    *value != 0 && *value != u32::MAX
}

impl Tcp {
    /// What tells at a glance how a connection is doing. `bytes` is a `struct
    /// tcp_info` of any kernel: fields past its end are absent, what a newer kernel
    /// has after those known here is ignored.
    pub fn brief(bytes: &[u8]) -> Self {
        let u32 = |at| u32_at(bytes, at);
        Self {
            bytes_acked: u64_at(bytes, 120),
            bytes_received: u64_at(bytes, 128),
            congestion_state: bytes.get(1).copied().map(congestion_state),
            congestion_window: u32(80),
            delivery_rate_bytes_per_second: u64_at(bytes, 160),
            lost: u32(32),
            not_sent_bytes: u32(144),
            retransmits: bytes.get(2).copied(),
            retransmitted: u32(36),
            retransmitted_total: u32(100),
            rto_us: u32(8),
            rtt_us: u32(68).filter(is_measured),
            rtt_var_us: u32(72),
            send_mss_bytes: u32(16),
            slow_start_threshold: u32(76).filter(|segments| *segments < INFINITE),
            unacked: u32(24),
            ..Self::default()
        }
    }

    /// All of `bytes`, as [`Tcp::brief`] takes them.
    pub fn whole(bytes: &[u8]) -> Self {
        let byte = |at: usize| bytes.get(at).copied();
        let u16 = |at| u16_at(bytes, at);
        let u32 = |at| u32_at(bytes, at);
        let u64 = |at| u64_at(bytes, at);
        let rate = |at| u64(at).filter(|rate| *rate != u64::MAX && *rate != u64::from(u32::MAX));
        let has_scale = byte(5).map(|options| options & 4 != 0);
        let scale = |shift: u32| byte(6).filter(|_| has_scale == Some(true)).map(|both| both >> shift & 15);
        Self {
            advertised_mss_bytes: u32(84),
            ato_us: u32(12),
            backoff: byte(4),
            bytes_acked: u64(120),
            bytes_received: u64(128),
            bytes_retransmitted: u64(208),
            bytes_sent: u64(200),
            congestion_state: byte(1).map(congestion_state),
            congestion_window: u32(80),
            data_segments_received: u32(152),
            data_segments_sent: u32(156),
            delivered: u32(192),
            delivered_ce: u32(196),
            delivered_ce_bytes: u32(260),
            delivered_e0_bytes: u32(256),
            delivered_e1_bytes: u32(252),
            delivery_rate_app_limited: byte(7).map(|bits| bits & 1 == 1),
            delivery_rate_bytes_per_second: u64(160),
            dsack_duplicates: u32(216),
            lost: u32(32),
            max_pacing_rate_bytes_per_second: rate(112),
            min_rtt_us: u32(148).filter(is_measured),
            not_sent_bytes: u32(144),
            options: byte(5).map(Bits),
            out_of_order_segments: u32(224),
            pacing_rate_bytes_per_second: rate(104),
            path_mtu_bytes: u32(60),
            probes: byte(3),
            receive_mss_bytes: u32(20),
            receive_rtt_us: u32(92).filter(is_measured),
            receive_space_bytes: u32(96),
            receive_ssthresh_bytes: u32(64),
            receive_window_bytes: u32(232),
            receive_window_scale: scale(4),
            received_ce: u32(248),
            received_ce_bytes: u32(272),
            received_e0_bytes: u32(268),
            received_e1_bytes: u32(264),
            rehashes: u32(236),
            reordering: u32(88),
            reordering_seen: u32(220),
            retransmits: byte(2),
            retransmitted: u32(36),
            retransmitted_total: u32(100),
            rto_recoveries: u16(242),
            rto_total: u16(240),
            rto_us: u32(8),
            rtt_us: u32(68).filter(is_measured),
            rtt_var_us: u32(72),
            sacked: u32(28),
            segments_received: u32(140),
            segments_sent: u32(136),
            send_mss_bytes: u32(16),
            send_window_bytes: u32(228),
            send_window_scale: scale(0),
            slow_start_threshold: u32(76).filter(|segments| *segments < INFINITE),
            unacked: u32(24),
            ..Self::default()
        }
    }

    /// Adds what ticks although nothing happens.
    pub fn add_volatile(&mut self, bytes: &[u8]) {
        let ms = |at| u32_at(bytes, at).map(|ms| u64::from(ms) * 1000);
        self.busy_us = u64_at(bytes, 168);
        self.last_ack_received_us = ms(56);
        self.last_data_received_us = ms(52);
        self.last_data_sent_us = ms(44);
        self.receive_window_limited_us = u64_at(bytes, 176);
        self.rto_recovery_us = ms(244);
        self.send_buffer_limited_us = u64_at(bytes, 184);
    }
}

/// The name of a state of congestion control (TCP_CA_* of linux/tcp.h).
fn congestion_state(state: u8) -> &'static str {
    match state {
        0 => "open",
        1 => "disorder",
        2 => "cwr",
        3 => "recovery",
        4 => "loss",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One in which every field that is looked at differs; see `recorded.rs` for a real
    /// one.
    fn made_up() -> Vec<u8> {
        let mut bytes = vec![0; 280];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &[1, 3, 2, 1, 4, 0b10_0111, 0x7a, 1]);
        for (at, value) in
            [(8, 204_000_u32), (16, 32_768), (24, 5), (32, 6), (44, 7), (52, 8), (68, 23), (76, INFINITE)]
        {
            put(at, &value.to_ne_bytes());
        }
        put(112, &u64::MAX.to_ne_bytes());
        put(120, &(1_u64 << 40).to_ne_bytes());
        put(148, &u32::MAX.to_ne_bytes());
        put(168, &99_u64.to_ne_bytes());
        put(240, &[1, 0, 2, 0]);
        bytes
    }

    #[test]
    fn reads_the_fields_at_their_offsets() {
        let tcp = Tcp::whole(&made_up());
        assert_eq!((tcp.retransmits, tcp.probes, tcp.backoff), (Some(2), Some(1), Some(4)));
        assert_eq!((tcp.send_window_scale, tcp.receive_window_scale), (Some(10), Some(7)));
        assert_eq!((tcp.rto_us, tcp.unacked, tcp.lost, tcp.rtt_us), (Some(204_000), Some(5), Some(6), Some(23)));
        assert_eq!((tcp.bytes_acked, tcp.rto_total, tcp.rto_recoveries), (Some(1 << 40), Some(1), Some(2)));
        assert_eq!((tcp.congestion_state, tcp.delivery_rate_app_limited), (Some("recovery"), Some(true)));
        let options = serde_json::to_value(tcp.options).expect("serializable");
        assert_eq!(options, serde_json::json!(["timestamps", "sack", "window_scale", "syn_data"]));
    }

    #[test]
    fn what_was_not_measured_or_has_no_limit_is_absent() {
        let tcp = Tcp::whole(&made_up());
        assert_eq!(
            (tcp.slow_start_threshold, tcp.min_rtt_us, tcp.max_pacing_rate_bytes_per_second),
            (None, None, None)
        );
    }

    #[test]
    fn what_ticks_is_only_there_on_demand() {
        let (bytes, mut tcp) = (made_up(), Tcp::whole(&made_up()));
        assert_eq!((tcp.busy_us, tcp.last_data_sent_us, tcp.last_data_received_us), (None, None, None));
        tcp.add_volatile(&bytes);
        assert_eq!((tcp.busy_us, tcp.last_data_sent_us, tcp.last_data_received_us), (Some(99), Some(7000), Some(8000)));
    }

    #[test]
    fn the_brief_look_is_a_part_of_the_whole() {
        let json = |tcp: Tcp| serde_json::to_value(tcp).expect("serializable");
        let (brief, whole) = (json(Tcp::brief(&made_up())), json(Tcp::whole(&made_up())));
        let brief = brief.as_object().expect("an object");
        assert!(brief.len() > 10 && brief.iter().all(|(key, value)| whole[key] == *value));
    }

    #[test]
    fn an_older_kernel_has_fewer_fields_and_nothing_panics() {
        let bytes = made_up();
        for end in 0..bytes.len() {
            let _ = (Tcp::brief(&bytes[..end]), Tcp::whole(&bytes[..end]));
        }
        let old = Tcp::whole(&bytes[..104]);
        assert_eq!((old.rtt_us, old.bytes_acked, old.rto_total), (Some(23), None, None));
        assert_eq!(Tcp::whole(&[bytes, vec![1; 64]].concat()), Tcp::whole(&made_up()), "a newer kernel has more");
    }

    #[test]
    fn fields_stand_in_the_order_of_the_digest() {
        let schema = schemars::schema_for!(Tcp);
        let names: Vec<&String> =
            schema.get("properties").and_then(|p| p.as_object()).expect("properties").keys().collect();
        assert!(names.len() > 60 && names.is_sorted(), "{names:?}");
    }
}
