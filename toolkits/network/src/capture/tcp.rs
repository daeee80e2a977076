//! What a TCP connection went through, judged from its segments as they pass.
//!
//! The rules for retransmissions, segments out of order, duplicate
//! acknowledgments and zero windows are those that Wireshark documents ("TCP
//! Analysis" in its User's Guide), so that both say the same of one capture.

use super::decode::{Tcp, flags};

/// What one segment was, besides an ordinary one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// It carries what was sent before.
    pub retransmission: bool,
    /// It was overtaken by a later one.
    pub out_of_order: bool,
    /// It repeats an acknowledgment.
    pub duplicate_ack: bool,
    /// Its sender has no room.
    pub zero_window: bool,
    /// It checks whether the other end is there.
    pub keep_alive: bool,
    /// Segments before it were not seen.
    pub lost_before: bool,
}

impl Marks {
    /// The words for them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (self.retransmission, "retransmission"),
            (self.out_of_order, "out_of_order"),
            (self.duplicate_ack, "duplicate_ack"),
            (self.zero_window, "zero_window"),
            (self.keep_alive, "keep_alive"),
            (self.lost_before, "segment_not_captured"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
    }
}

/// Times between things, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// The longest.
    pub max: u64,
    /// All together.
    pub sum: u64,
}

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: u64) {
        self.min = if self.count == 0 { time } else { self.min.min(time) };
        self.max = self.max.max(time);
        self.sum = self.sum.saturating_add(time);
        self.count += 1;
    }

    /// The mean; `None` of none.
    pub fn mean(&self) -> Option<u64> {
        self.sum.checked_div(self.count)
    }
}

/// One end of a connection, as its own segments show it.
#[derive(Debug, Clone, Copy, Default)]
pub struct End {
    /// The sequence number after the highest that it has sent.
    next: Option<u32>,
    next_ns: u64,
    /// Its last acknowledgment number.
    ack: Option<u32>,
    ack_ns: u64,
    window: u16,
    repeats: u32,
    was_keep_alive: bool,
    was_probe: bool,
    /// The sequence number whose acknowledgment is waited for, and since when.
    timed: Option<(u32, u64)>,
    largest: u32,
    stuck: u32,
    /// Segments that carried what was sent before.
    pub retransmissions: u64,
    /// Segments that were overtaken.
    pub out_of_order: u64,
    /// Acknowledgments that were repeated.
    pub duplicate_acks: u64,
    /// Segments that said there was no room.
    pub zero_windows: u64,
    /// Segments before which others were not seen.
    pub gaps: u64,
    /// SYN segments.
    pub syns: u64,
    /// Its maximum segment size.
    pub mss: Option<u16>,
    /// Whether it has sent FIN.
    pub fin: bool,
    /// How long the other end took to acknowledge its data, as seen from where the
    /// capture stands.
    pub rtt: Times,
    /// Its largest segments were repeated again and again, without an answer.
    pub is_stuck: bool,
}

/// How a handshake went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Handshake {
    syn: Option<(u32, u64)>,
    syn_ack_ns: Option<u64>,
    /// From the last SYN to the SYN-ACK, in nanoseconds.
    pub answer_ns: Option<u64>,
    /// From the last SYN to the acknowledgment that ends it, in nanoseconds.
    pub whole_ns: Option<u64>,
}

/// A connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connection {
    /// The client's end, and the server's.
    pub ends: [End; 2],
    /// Its beginning.
    pub handshake: Handshake,
    /// Which end reset it first.
    pub reset_by: Option<usize>,
    /// Whether data has passed.
    pub has_data: bool,
}

/// Repetitions of full segments, none acknowledged, from which on the path is
/// suspected to drop large packets.
const STUCK: u32 = 3;
/// Segments smaller than this fit anywhere (the least MTU of IPv6).
const SMALL: u32 = 1100;
/// A fast retransmission follows the acknowledgment by less than this.
const FAST_NS: u64 = 20_000_000;
/// Without a handshake to go by: a segment that comes later than this was not
/// merely overtaken.
const OVERTAKEN_NS: u64 = 3_000_000;

/// `a` before `b`, in sequence space (RFC 9293, section 3.4).
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Connection {
    /// Whether a SYN with this sequence number begins another connection of the same
    /// ports.
    pub fn is_another(&self, from: usize, tcp: &Tcp) -> bool {
        if !tcp.has(flags::SYN) || tcp.has(flags::ACK) {
            return false;
        }
        let over = self.reset_by.is_some() || (self.ends[0].fin && self.ends[1].fin);
        let same = from == 0 && self.handshake.syn.is_some_and(|(sequence, _)| sequence == tcp.sequence);
        !same && (over || self.has_data || self.handshake.syn.is_some())
    }

    /// What it is in.
    pub fn state(&self) -> &'static str {
        let [client, server] = &self.ends;
        let answered = server.next.is_some();
        match () {
            () if self.reset_by == Some(1) && client.syns > 0 && server.syns == 0 && !self.has_data => "refused",
            () if self.reset_by.is_some() => "reset",
            () if client.fin && server.fin => "closed",
            () if client.fin || server.fin => "closing",
            () if client.syns > 0 && !answered => "syn_unanswered",
            () if client.syns > 0 && self.handshake.whole_ns.is_none() && !self.has_data => "handshake",
            () => "open",
        }
    }

    /// Takes a segment from end `from` with `length` bytes of data.
    pub fn segment(&mut self, from: usize, tcp: &Tcp, length: u32, now_ns: u64) -> Marks {
        let marks = self.judge(from, tcp, length, now_ns);
        self.shake_hands(from, tcp, now_ns);
        self.count(from, tcp, length, marks);
        self.remember(from, tcp, length, now_ns, marks);
        marks
    }

    fn judge(&self, from: usize, tcp: &Tcp, length: u32, now_ns: u64) -> Marks {
        let (own, other) = (&self.ends[from], &self.ends[1 - from]);
        let mut marks = Marks::default();
        let plain = !tcp.has(flags::SYN | flags::FIN | flags::RST);
        marks.zero_window = plain && tcp.window == 0;
        let Some(next) = own.next else { return marks };
        marks.keep_alive = plain && length <= 1 && tcp.sequence == next.wrapping_sub(1);
        marks.lost_before = before(next, tcp.sequence) && !tcp.has(flags::RST);
        let is_probe = length == 1 && tcp.sequence == next && other.window == 0;
        marks.duplicate_ack = plain
            && length == 0
            && tcp.window != 0
            && tcp.window == own.window
            && tcp.sequence == next
            && tcp.has(flags::ACK)
            && own.ack == Some(tcp.acknowledgment)
            && !other.was_keep_alive
            && !other.was_probe;
        let occupies = length > 0 || tcp.has(flags::SYN | flags::FIN);
        if !occupies || marks.keep_alive || is_probe {
            return marks;
        }
        let end = tcp.sequence.wrapping_add(length);
        // What begins with the byte of a probe brings something new behind it.
        let advances = !before(tcp.sequence, next) || (length > 1 && tcp.sequence == next.wrapping_sub(1));
        if length > 0 && other.ack.is_some_and(|ack| !before(ack, end)) {
            // It was acknowledged already.
            marks.retransmission = true;
        } else if !advances {
            let fast =
                other.repeats >= 2 && other.ack == Some(tcp.sequence) && now_ns.saturating_sub(other.ack_ns) < FAST_NS;
            let patience = self.handshake.whole_ns.unwrap_or(OVERTAKEN_NS);
            // A FIN or SYN that comes again is no segment that another one has overtaken.
            let control = u32::from(tcp.has(flags::SYN | flags::FIN));
            let overtaken = now_ns.saturating_sub(own.next_ns) < patience && end.wrapping_add(control) != next;
            marks.retransmission = fast || !overtaken;
            marks.out_of_order = !marks.retransmission;
        }
        marks
    }

    fn shake_hands(&mut self, from: usize, tcp: &Tcp, now_ns: u64) {
        let hands = &mut self.handshake;
        match (tcp.has(flags::SYN), tcp.has(flags::ACK)) {
            (true, false) if from == 0 => hands.syn = Some((tcp.sequence, now_ns)),
            (true, true) if from == 1 => {
                if let Some((sequence, since)) = hands.syn
                    && tcp.acknowledgment == sequence.wrapping_add(1)
                {
                    hands.answer_ns = hands.answer_ns.or(Some(now_ns.saturating_sub(since)));
                    hands.syn_ack_ns = Some(now_ns);
                }
            }
            (false, true) if from == 0 && hands.whole_ns.is_none() && hands.syn_ack_ns.is_some() => {
                hands.whole_ns = hands.syn.map(|(_, since)| now_ns.saturating_sub(since));
            }
            _ => {}
        }
    }

    fn count(&mut self, from: usize, tcp: &Tcp, length: u32, marks: Marks) {
        if tcp.has(flags::RST) {
            self.reset_by = self.reset_by.or(Some(from));
        }
        self.has_data |= length > 0;
        let own = &mut self.ends[from];
        own.retransmissions += u64::from(marks.retransmission);
        own.out_of_order += u64::from(marks.out_of_order);
        own.duplicate_acks += u64::from(marks.duplicate_ack);
        own.zero_windows += u64::from(marks.zero_window);
        own.gaps += u64::from(marks.lost_before);
        own.fin |= tcp.has(flags::FIN);
        if tcp.has(flags::SYN) {
            own.syns += 1;
            own.mss = tcp.mss.or(own.mss);
        }
        if marks.retransmission && length >= SMALL && length >= own.largest {
            own.stuck += 1;
            own.is_stuck |= own.stuck >= STUCK;
        }
        own.largest = own.largest.max(length);
    }

    fn remember(&mut self, from: usize, tcp: &Tcp, length: u32, now_ns: u64, marks: Marks) {
        let (head, tail) = self.ends.split_at_mut(1);
        let (own, other) = if from == 0 { (&mut head[0], &mut tail[0]) } else { (&mut tail[0], &mut head[0]) };
        let is_probe = length == 1 && own.next == Some(tcp.sequence) && other.window == 0;
        let control = u32::from(tcp.has(flags::SYN)) + u32::from(tcp.has(flags::FIN));
        let end = tcp.sequence.wrapping_add(length).wrapping_add(control);
        let occupies = length > 0 || control > 0;
        if marks.retransmission || marks.out_of_order {
            // Whose acknowledgment would come cannot be told (Karn's algorithm).
            own.timed = None;
        }
        let advances = own.next.is_none_or(|next| before(next, end));
        if advances && !is_probe && !tcp.has(flags::RST) {
            own.next = Some(end);
            own.next_ns = now_ns;
            // The handshake is told apart.
            if occupies && length > 0 && own.timed.is_none() && !marks.retransmission {
                own.timed = Some((end, now_ns));
            }
        }
        if tcp.has(flags::ACK) {
            if let Some((awaited, since)) = other.timed
                && !before(tcp.acknowledgment, awaited)
            {
                other.rtt.add(now_ns.saturating_sub(since));
                other.timed = None;
            }
            if own.ack.is_none_or(|ack| before(ack, tcp.acknowledgment)) {
                other.stuck = 0;
            }
            // One that only opens the window repeats the number as well.
            own.repeats = if own.ack == Some(tcp.acknowledgment) { own.repeats } else { 0 };
            own.repeats += u32::from(marks.duplicate_ack);
            own.ack = Some(tcp.acknowledgment);
            own.ack_ns = now_ns;
        }
        own.window = tcp.window;
        own.was_keep_alive = marks.keep_alive;
        own.was_probe = is_probe;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn segment(flags: u8, sequence: u32, acknowledgment: u32) -> Tcp {
        Tcp { flags, sequence, acknowledgment, window: 500, ..Tcp::default() }
    }

    fn shaken() -> Connection {
        let mut connection = Connection::default();
        connection.segment(0, &segment(flags::SYN, u32::MAX, 0), 0, 0);
        connection.segment(1, &segment(flags::SYN | flags::ACK, 900, 0), 0, 10 * MS);
        connection.segment(0, &segment(flags::ACK, 0, 901), 0, 11 * MS);
        connection
    }

    #[test]
    fn times_the_handshake_from_the_last_syn() {
        let mut connection = Connection::default();
        connection.segment(0, &segment(flags::SYN, 7, 0), 0, 0);
        assert_eq!(connection.state(), "syn_unanswered");
        let marks = connection.segment(0, &segment(flags::SYN, 7, 0), 0, 1000 * MS);
        assert!(marks.retransmission);
        connection.segment(1, &segment(flags::SYN | flags::ACK, 900, 8), 0, 1010 * MS);
        assert_eq!(connection.state(), "handshake");
        connection.segment(0, &segment(flags::ACK, 8, 901), 0, 1011 * MS);
        assert_eq!(connection.handshake.answer_ns, Some(10 * MS));
        assert_eq!(connection.handshake.whole_ns, Some(11 * MS));
        assert_eq!((connection.ends[0].syns, connection.state()), (2, "open"));
    }

    #[test]
    fn times_data_over_the_wrap_of_the_sequence_space() {
        let mut connection = shaken();
        connection.segment(0, &segment(flags::ACK, 0, 901), 100, 20 * MS);
        connection.segment(1, &segment(flags::ACK, 901, 100), 0, 27 * MS);
        assert_eq!(connection.ends[0].rtt, Times { count: 1, min: 7 * MS, max: 7 * MS, sum: 7 * MS });
    }

    #[test]
    fn tells_retransmissions_from_overtaken_segments() {
        let mut connection = shaken();
        connection.segment(0, &segment(flags::ACK, 0, 901), 100, 20 * MS);
        connection.segment(0, &segment(flags::ACK, 200, 901), 100, 20 * MS);
        let overtaken = connection.segment(0, &segment(flags::ACK, 100, 901), 100, 21 * MS);
        assert!(overtaken.out_of_order && !overtaken.retransmission);
        let late = connection.segment(0, &segment(flags::ACK, 100, 901), 100, 221 * MS);
        assert!(late.retransmission);
        let end = &connection.ends[0];
        assert_eq!((end.retransmissions, end.out_of_order, end.gaps), (1, 1, 1));
        assert_eq!(end.rtt.count, 0, "no time is taken from what was repeated");
    }

    #[test]
    fn what_ends_where_the_last_one_ended_was_sent_again() {
        for (flags, length) in [(flags::FIN | flags::ACK, 0), (flags::FIN | flags::ACK, 50), (flags::ACK, 50)] {
            let mut connection = shaken();
            connection.segment(0, &segment(flags, 0, 901), length, 20 * MS);
            // At once, before the time that a handshake takes has passed.
            let again = connection.segment(0, &segment(flags, 0, 901), length, 21 * MS);
            assert!(again.retransmission && !again.out_of_order, "{flags:#x} {length}");
        }
        let mut connection = Connection::default();
        connection.segment(0, &segment(flags::SYN, 7, 0), 0, 0);
        assert!(connection.segment(0, &segment(flags::SYN, 7, 0), 0, MS).retransmission);
    }

    #[test]
    fn data_behind_the_byte_of_a_probe_is_new() {
        let mut connection = shaken();
        connection.segment(0, &segment(flags::ACK, 0, 901), 100, 20 * MS);
        let marks = connection.segment(0, &segment(flags::ACK, 99, 901), 50, 120 * MS);
        assert!(!marks.retransmission && !marks.out_of_order && !marks.keep_alive);
        // That one byte alone keeps the connection alive.
        assert!(connection.segment(0, &segment(flags::ACK, 148, 901), 1, 220 * MS).keep_alive);
    }

    #[test]
    fn counts_duplicate_acknowledgments_and_the_fast_retransmission() {
        let mut connection = shaken();
        for number in 0..4 {
            connection.segment(0, &segment(flags::ACK, number * 100, 901), 100, 20 * MS);
        }
        for time in 0..3 {
            connection.segment(1, &segment(flags::ACK, 901, 0), 0, (21 + time) * MS);
        }
        let fast = connection.segment(0, &segment(flags::ACK, 0, 901), 100, 25 * MS);
        assert!(fast.retransmission && !fast.out_of_order);
        assert_eq!(connection.ends[1].duplicate_acks, 3);
    }

    #[test]
    fn a_refused_connection_names_who_reset_it() {
        let mut connection = Connection::default();
        connection.segment(0, &segment(flags::SYN, 7, 0), 0, 0);
        connection.segment(1, &segment(flags::RST | flags::ACK, 0, 8), 0, MS);
        assert_eq!((connection.state(), connection.reset_by), ("refused", Some(1)));
        assert!(connection.is_another(0, &segment(flags::SYN, 99, 0)));
    }

    #[test]
    fn full_segments_that_never_arrive_are_a_suspicion_of_the_mtu() {
        let mut connection = shaken();
        connection.segment(0, &segment(flags::ACK, 0, 901), 1448, 20 * MS);
        for time in 1..4 {
            connection.segment(0, &segment(flags::ACK, 0, 901), 1448, 20 * MS + time * 400 * MS);
        }
        assert!(connection.ends[0].is_stuck);
    }
}
