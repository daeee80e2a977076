//! Counters of a network namespace: `net/snmp`, `net/netstat`, `net/snmp6` and
//! `net/sockstat` (proc_pid_net(5)).

use std::ops::ControlFlow;

use agent_system::{Directory, Failure, parse};
use schemars::JsonSchema;
use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident = $key:literal,)*) => {
        /// Counters of the network namespace since it was made. What this kernel does
        /// not count is absent.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
        pub struct Counters {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<u64>,)*
        }

        impl Counters {
            /// The counter that the kernel calls `key`: `GROUP.NAME`.
            fn slot(&mut self, group: &[u8], name: &[u8]) -> Option<&mut Option<u64>> {
                $(if is_key($key, group, name) { return Some(&mut self.$field); })*
                None
            }
        }
    };
}

fn is_key(key: &str, group: &[u8], name: &[u8]) -> bool {
    let (wanted_group, wanted_name) = key.split_once('.').unwrap_or((key, ""));
    wanted_group.as_bytes() == group && wanted_name.as_bytes() == name
}

counters! {
    /// Connections that were refused since a listener's backlog was full.
    listen_overflows = "TcpExt.ListenOverflows",
    /// Connections that a listener dropped for whatever reason, overflows included.
    listen_drops = "TcpExt.ListenDrops",
    /// Times that a SYN queue was full and SYNs were dropped.
    request_queue_drops = "TcpExt.TCPReqQFullDrop",
    /// Times that a SYN queue was full and SYN cookies were sent instead.
    request_queue_cookies = "TcpExt.TCPReqQFullDoCookies",
    /// SYN cookies sent.
    syn_cookies_sent = "TcpExt.SyncookiesSent",
    /// SYN cookies received.
    syn_cookies_received = "TcpExt.SyncookiesRecv",
    /// SYN cookies received that were wrong.
    syn_cookies_failed = "TcpExt.SyncookiesFailed",
    /// Segments dropped since the socket's backlog was full.
    backlog_drops = "TcpExt.TCPBacklogDrop",
    /// Connections opened from here.
    active_opens = "Tcp.ActiveOpens",
    /// Connections accepted.
    passive_opens = "Tcp.PassiveOpens",
    /// Connections that failed before they were established.
    failed_attempts = "Tcp.AttemptFails",
    /// Established connections that were reset.
    established_resets = "Tcp.EstabResets",
    /// Connections that are established now, or in CLOSE_WAIT.
    established = "Tcp.CurrEstab",
    /// Segments received.
    segments_received = "Tcp.InSegs",
    /// Segments sent, without those sent again.
    segments_sent = "Tcp.OutSegs",
    /// Segments sent again.
    segments_retransmitted = "Tcp.RetransSegs",
    /// Segments received that were bad.
    segment_errors = "Tcp.InErrs",
    /// Resets sent.
    resets_sent = "Tcp.OutRsts",
    /// Timeouts of retransmission.
    timeouts = "TcpExt.TCPTimeouts",
    /// SYNs and SYN-ACKs sent again.
    syn_retransmits = "TcpExt.TCPSynRetrans",
    /// Fast retransmissions.
    fast_retransmits = "TcpExt.TCPFastRetrans",
    /// Retransmissions that were lost again.
    lost_retransmits = "TcpExt.TCPLostRetransmit",
    /// Probes of a loss at the tail.
    loss_probes = "TcpExt.TCPLossProbes",
    /// Connections reset since data came after they were closed.
    aborts_on_data = "TcpExt.TCPAbortOnData",
    /// Connections reset since they were closed with data unread.
    aborts_on_close = "TcpExt.TCPAbortOnClose",
    /// Connections given up after too many timeouts.
    aborts_on_timeout = "TcpExt.TCPAbortOnTimeout",
    /// Connections reset for want of memory.
    aborts_on_memory = "TcpExt.TCPAbortOnMemory",
    /// Times that TCP came under memory pressure.
    memory_pressures = "TcpExt.TCPMemoryPressures",
    /// Times that queued segments were thrown away for want of room.
    prunes = "TcpExt.PruneCalled",
    /// Segments dropped since the receive queue was full.
    receive_queue_drops = "TcpExt.TCPRcvQDrop",
    /// Segments dropped since the window was zero.
    zero_window_drops = "TcpExt.TCPZeroWindowDrop",
    /// Connections that had no room in TIME_WAIT.
    time_wait_overflows = "TcpExt.TCPTimeWaitOverflow",
    /// Acknowledgements held back as those of an attack.
    challenge_acks = "TcpExt.TCPChallengeACK",
    /// UDP datagrams delivered.
    udp_received = "Udp.InDatagrams",
    /// UDP datagrams sent.
    udp_sent = "Udp.OutDatagrams",
    /// UDP datagrams for a port at which nobody listens.
    udp_no_ports = "Udp.NoPorts",
    /// UDP datagrams received that could not be delivered.
    udp_errors = "Udp.InErrors",
    /// UDP datagrams dropped since the receive buffer was full.
    udp_receive_buffer_errors = "Udp.RcvbufErrors",
    /// UDP datagrams dropped since the send buffer was full.
    udp_send_buffer_errors = "Udp.SndbufErrors",
    /// UDP datagrams with a wrong checksum.
    udp_checksum_errors = "Udp.InCsumErrors",
    /// UDP datagrams over IPv6 delivered.
    udp6_received = "Udp6InDatagrams.",
    /// UDP datagrams over IPv6 sent.
    udp6_sent = "Udp6OutDatagrams.",
    /// UDP datagrams over IPv6 for a port at which nobody listens.
    udp6_no_ports = "Udp6NoPorts.",
    /// UDP datagrams over IPv6 dropped since the receive buffer was full.
    udp6_receive_buffer_errors = "Udp6RcvbufErrors.",
    /// UDP datagrams over IPv6 dropped since the send buffer was full.
    udp6_send_buffer_errors = "Udp6SndbufErrors.",
    /// TCP sockets in TIME_WAIT.
    tcp_time_wait = "TCP.tw",
    /// TCP sockets of the whole machine, every namespace together, that no process has any more, not counting TIME_WAIT;
    /// only with `--volatile`, as all that others move.
    machine_tcp_orphans = "TCP.orphan",
    /// Memory of all TCP sockets of the machine, in pages; only with `--volatile`.
    machine_tcp_memory_pages = "TCP.mem",
    /// Memory of all UDP sockets of the machine, in pages; only with `--volatile`.
    machine_udp_memory_pages = "UDP.mem",
}

impl Counters {
    /// Reads the counters in `net`, a directory of proc(5). What could not be read
    /// is returned beside them; a file that is not there (IPv6 is off) is no failure.
    pub(crate) fn read(net: &Directory<'_>) -> (Self, Vec<Failure>) {
        let mut counters = Self::default();
        let mut failures = Vec::new();
        for name in ["snmp", "netstat", "snmp6", "sockstat"] {
            let mut heading = Vec::new();
            let result = net.lines(name, |line| {
                match name {
                    "snmp" | "netstat" => counters.table(&mut heading, line),
                    _ => counters.pairs(line),
                }
                ControlFlow::Continue(())
            });
            if let Err(failure) = result
                && !(name == "snmp6" && failure.is_not_found())
            {
                failures.push(failure);
            }
        }
        (counters, failures)
    }

    /// Without what the kernel counts for all network namespaces together: others move it (net/ipv4/proc.c,
    /// `sockstat_seq_show`).
    #[must_use]
    pub(crate) fn without_machine(self) -> Self {
        Self { machine_tcp_orphans: None, machine_tcp_memory_pages: None, machine_udp_memory_pages: None, ..self }
    }

    fn put(&mut self, group: &[u8], name: &[u8], value: &[u8]) {
        if let Some(slot) = self.slot(group, name) {
            *slot = parse::number(value);
        }
    }

    /// `GROUP: NAME NAME …`, and on the next line `GROUP: VALUE VALUE …`.
    fn table(&mut self, heading: &mut Vec<u8>, line: &[u8]) {
        if heading.is_empty() {
            heading.extend(line);
            return;
        }
        let mut names = heading.split(|b| *b == b' ');
        let mut values = line.split(|b| *b == b' ');
        if let (Some(group), Some(same)) = (names.next(), values.next())
            && let Some(group) = group.strip_suffix(b":").filter(|_| group == same)
        {
            for (name, value) in names.zip(values) {
                self.put(group, name, value);
            }
        }
        heading.clear();
    }

    /// `NAME VALUE` of `snmp6`, and `GROUP: NAME VALUE NAME VALUE …` of `sockstat`.
    fn pairs(&mut self, line: &[u8]) {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(first) = words.next() else { return };
        let Some(group) = first.strip_suffix(b":") else {
            if let Some(value) = words.next() {
                self.put(first, b"", value);
            }
            return;
        };
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            self.put(group, name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_tables_of_snmp_and_netstat() {
        let mut counters = Counters::default();
        let mut heading = Vec::new();
        for line in [
            &b"TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPNewInLaterKernels"[..],
            b"TcpExt: 1 22 333 4444",
            b"IpExt: InNoRoutes",
            b"IpExt: 5",
            b"Tcp: RtoAlgorithm MaxConn RetransSegs",
            b"Tcp: 1 -1 7 8 9",
            b"Udp: InDatagrams NoPorts",
            b"Broken: 1",
        ] {
            counters.table(&mut heading, line);
        }
        let expected = Counters {
            syn_cookies_sent: Some(1),
            listen_overflows: Some(22),
            listen_drops: Some(333),
            segments_retransmitted: Some(7),
            ..Counters::default()
        };
        assert_eq!(counters, expected);
    }

    #[test]
    fn reads_the_pairs_of_snmp6_and_sockstat() {
        let mut counters = Counters::default();
        for line in [
            &b"Udp6InDatagrams                 \t97"[..],
            b"Udp6NoPorts",
            b"sockets: used 31",
            b"TCP: inuse 3 orphan 1 tw 20 alloc 6 mem",
            b"",
        ] {
            counters.pairs(line);
        }
        let expected = Counters {
            udp6_received: Some(97),
            machine_tcp_orphans: Some(1),
            tcp_time_wait: Some(20),
            ..Counters::default()
        };
        assert_eq!(counters, expected);
        let expected = Counters { machine_tcp_orphans: None, ..expected };
        assert_eq!(counters.without_machine(), expected);
    }
}
