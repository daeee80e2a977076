//! `struct tcp_info` (linux/tcp.h): what the kernel knows of a TCP connection.

use schemars::JsonSchema;
use serde::Serialize;

use super::bytes::{u16_at, u32_at, u64_at};

/// A TCP connection from inside: `struct tcp_info`, and what stands beside it.
///
/// A field that this kernel does not have, or has not measured, is absent. The
/// fields stand in the order of their names, which is that of the digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
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
    pub congestion_control: Option<Name>,
    /// What congestion control is at: `open`, `disorder`, `cwr` (the window was
    /// reduced), `recovery` (fast retransmission), `loss` (a timeout).
    #[serde(skip_serializing_if = "Option::is_none")]
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
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let until = self.0.iter().position(|byte| *byte == 0).unwrap_or(16);
        serializer.serialize_str(&agent_model::text::escape(&self.0[..until]))
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

impl Tcp {
    /// Reads `bytes`, a `struct tcp_info` of any kernel: fields past its end are
    /// absent, what a newer kernel has after those known here is ignored. What
    /// ticks by itself is read only if `volatile` is set.
    pub fn read(bytes: &[u8], volatile: bool) -> Self {
        let byte = |at: usize| bytes.get(at).copied();
        let u16 = |at| u16_at(bytes, at);
        let u32 = |at| u32_at(bytes, at);
        let u64 = |at| u64_at(bytes, at);
        // 0 before the first measurement.
        let measured = |at| u32(at).filter(|value| *value != 0 && *value != u32::MAX);
        let rate = |at| u64(at).filter(|rate| *rate != u64::MAX && *rate != u64::from(u32::MAX));
        let ticking = |at| u64(at).filter(|_| volatile);
        let ticking_ms = |at| u32(at).filter(|_| volatile).map(|ms| u64::from(ms) * 1000);
        let has_scale = byte(5).map(|options| options & 4 != 0);
        let scale = |shift: u32| byte(6).filter(|_| has_scale == Some(true)).map(|both| both >> shift & 15);
        Self {
            advertised_mss_bytes: u32(84),
            ato_us: u32(12),
            backoff: byte(4),
            busy_us: ticking(168),
            bytes_acked: u64(120),
            bytes_received: u64(128),
            bytes_retransmitted: u64(208),
            bytes_sent: u64(200),
            congestion_control: None,
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
            last_ack_received_us: ticking_ms(56),
            last_data_received_us: ticking_ms(52),
            last_data_sent_us: ticking_ms(44),
            lost: u32(32),
            max_pacing_rate_bytes_per_second: rate(112),
            min_rtt_us: measured(148),
            not_sent_bytes: u32(144),
            options: byte(5).map(Bits),
            out_of_order_segments: u32(224),
            pacing_rate_bytes_per_second: rate(104),
            path_mtu_bytes: u32(60),
            probes: byte(3),
            receive_mss_bytes: u32(20),
            receive_rtt_us: measured(92),
            receive_space_bytes: u32(96),
            receive_ssthresh_bytes: u32(64),
            receive_window_bytes: u32(232),
            receive_window_limited_us: ticking(176),
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
            rto_recovery_us: ticking_ms(244),
            rto_total: u16(240),
            rto_us: u32(8),
            rtt_us: measured(68),
            rtt_var_us: u32(72),
            sacked: u32(28),
            segments_received: u32(140),
            segments_sent: u32(136),
            send_buffer_limited_us: ticking(184),
            send_mss_bytes: u32(16),
            send_window_bytes: u32(228),
            send_window_scale: scale(0),
            slow_start_threshold: u32(76).filter(|segments| *segments < INFINITE),
            ulp: None,
            unacked: u32(24),
        }
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
