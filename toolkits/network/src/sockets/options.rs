//! What is asked for.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::socket::{Depth, Socket};
use super::words::{Protocol, State};

/// Options of `sockets`.
#[derive(Debug, Clone, Default, Args, Serialize, JsonSchema)]
pub struct Options {
    /// Only sockets in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_enum)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) state: Vec<State>,
    /// Only sockets of these protocols
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',', value_enum)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) protocol: Vec<Protocol>,
    /// Only sockets with one of these ports, on either side
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) port: Vec<u32>,
    /// Only sockets that this process holds
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<u32>,
    /// Only sockets that wait: listeners, and those of protocols without connections
    #[arg(long)]
    pub(crate) listening: bool,
    /// Do not look for the processes that hold the sockets
    #[arg(long, conflicts_with = "process")]
    pub(crate) no_owners: bool,
    /// All that is known: tcp_info whole, memory, cookies
    #[arg(long)]
    pub(crate) info: bool,
    /// Also what ticks although nothing happens: timers, times since, times busy
    #[arg(long)]
    pub(crate) volatile: bool,
    /// Also the counters of the namespace: listen overflows, resets, retransmissions
    #[arg(long)]
    pub(crate) counters: bool,
    /// Watch for a time, and list only the sockets that came or went meanwhile
    #[arg(long, conflicts_with_all = ["state", "listening", "counters"])]
    pub(crate) follow: bool,
    /// With --follow: for how long
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = agent_system::watch::microseconds)]
    pub(crate) for_us: u64,
    /// With --follow: the time from one look at the tables to the next
    #[arg(long = "interval", value_name = "TIME", default_value = "200ms", value_parser = agent_system::watch::microseconds)]
    pub(crate) interval_us: u64,
}

impl Options {
    /// How much of each socket is shown.
    pub(crate) fn depth(&self) -> Depth {
        Depth { whole: self.info, volatile: self.volatile }
    }

    /// Whether the table of `protocol` is asked for.
    pub(crate) fn wants(&self, protocol: Protocol) -> bool {
        self.protocol.is_empty() || self.protocol.contains(&protocol)
    }

    /// Whether sockets of no table are asked for: they have neither state nor port.
    pub(crate) fn wants_others(&self) -> bool {
        self.wants(Protocol::Other)
            && self.state.is_empty()
            && self.port.is_empty()
            && !self.listening
            // What is in a table is only known when all of them were read.
            && self.protocol.is_empty()
    }

    /// The states that the kernel is asked for, as bits.
    pub(crate) fn states(&self) -> u32 {
        let all = self.state.iter().fold(0, |mask, state| mask | state.mask());
        let all = if self.state.is_empty() { u32::MAX } else { all };
        if self.listening { all & (State::Listen.mask() | State::Unconnected.mask()) } else { all }
    }

    /// Whether `socket`, whose owners are not known yet, is asked for.
    pub(crate) fn keeps(&self, socket: &Socket) -> bool {
        (self.state.is_empty() || socket.state.is_some_and(|state| self.state.contains(&state)))
            && (self.port.is_empty() || socket.has_port(&self.port))
            && (!self.listening || socket.is_listening())
    }
}
