//! Capture files: pcapng (draft-ietf-opsawg-pcapng) and the older pcap
//! (draft-ietf-opsawg-pcap). Pure functions: a block's content in, its bytes out.
//! Those of packets come behind what is in a buffer of the caller's.

/// Bytes of a block, in our own byte order, as the format asks.
#[derive(Debug, Default)]
struct Block(Vec<u8>);

impl Block {
    fn new(kind: u32) -> Self {
        let mut block = Self(Vec::with_capacity(256));
        // The length, once it is known.
        block.words([kind, 0]);
        block
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn words<const COUNT: usize>(&mut self, words: [u32; COUNT]) {
        self.0.extend_from_slice(words.map(u32::to_ne_bytes).as_flattened());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.pad(bytes.len());
    }

    /// Fills up after so many bytes.
    fn pad(&mut self, length: usize) {
        let missing = length.wrapping_neg() % 4;
        // A number of bytes that is known costs no call.
        self.0.extend_from_slice(&[0; 4]);
        self.0.truncate(self.0.len() - 4 + missing);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        // A longer one cannot be told: its length has 16 bits.
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.u16(code);
        self.u16(value.len() as u16);
        self.padded(value);
    }

    /// The comment `from END, to END`.
    fn ends(&mut self, [from, to]: [Option<&str>; 2]) {
        // The length, once it is known.
        self.words([option_head(COMMENT, 0)]);
        let start = self.0.len();
        if let Some(end) = from {
            self.0.extend_from_slice(b"from ");
            self.0.extend_from_slice(end.as_bytes());
        }
        if let Some(end) = to {
            self.0.extend_from_slice(if from.is_some() { b", to " } else { b"to " });
            self.0.extend_from_slice(end.as_bytes());
        }
        let length = self.0.len() - start;
        self.0[start - 2..start].copy_from_slice(&(length as u16).to_ne_bytes());
        self.pad(length);
    }

    /// A time as two words, the higher first.
    fn time(nanoseconds: u64) -> [u8; 8] {
        let mut bytes = [0; 8];
        let [high, low] = halves(nanoseconds);
        bytes[..4].copy_from_slice(&high.to_ne_bytes());
        bytes[4..].copy_from_slice(&low.to_ne_bytes());
        bytes
    }

    /// Ends the options, if there are any, and the block, which begins at `start`.
    fn end_from(mut self, start: usize, has_options: bool) -> Vec<u8> {
        if has_options {
            self.u32(0);
        }
        let length = (self.0.len() - start + 4) as u32;
        self.u32(length);
        self.0[start + 4..start + 8].copy_from_slice(&length.to_ne_bytes());
        self.0
    }

    fn end(self, has_options: bool) -> Vec<u8> {
        self.end_from(0, has_options)
    }
}

/// The option that comments on anything.
const COMMENT: u16 = 1;

/// The higher and the lower half of a number.
fn halves(number: u64) -> [u32; 2] {
    [(number >> 32) as u32, number as u32]
}

/// What an option begins with, as one word.
fn option_head(code: u16, length: u16) -> u32 {
    let [code, length] = [code, length].map(u16::to_ne_bytes);
    u32::from_ne_bytes([code[0], code[1], length[0], length[1]])
}

/// The section header: what wrote the file, and a comment on the whole.
pub fn section(application: &str, comment: &str) -> Vec<u8> {
    let mut block = Block::new(0x0a0d_0d0a);
    block.u32(0x1a2b_3c4d);
    block.u16(1);
    block.u16(0);
    // The section's length is not known.
    block.0.extend_from_slice(&(-1_i64).to_ne_bytes());
    block.option(COMMENT, comment.as_bytes());
    block.option(4, application.as_bytes());
    block.end(true)
}

/// An interface, with times in nanoseconds.
pub fn interface(link_type: u16, snaplen: u32, name: &str, filter: &str) -> Vec<u8> {
    let mut block = Block::new(1);
    block.u16(link_type);
    block.u16(0);
    block.u32(snaplen);
    block.option(2, name.as_bytes());
    block.option(9, &[9]);
    if !filter.is_empty() {
        // 0: the filter is in the words of libpcap.
        block.option(11, &[&[0], filter.as_bytes()].concat());
    }
    block.end(true)
}

/// A packet, and what is known of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tagged<'a> {
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Its length on the wire.
    pub wire_bytes: u32,
    /// What is kept of it.
    pub bytes: &'a [u8],
    /// Whether it left this host; `None` where that is not known.
    pub is_outgoing: Option<bool>,
    /// The process that owns its socket.
    pub pid: Option<u32>,
    /// The processes that sent it and that it is for, for a comment on it.
    pub ends: [Option<&'a str>; 2],
}

/// A packet of the first interface, behind what is in `buffer`.
pub fn packet(packet: &Tagged<'_>, buffer: &mut Vec<u8>) {
    let start = buffer.len();
    let mut block = Block(std::mem::take(buffer));
    let [high, low] = halves(packet.time_ns);
    // Its length comes when it is known.
    block.words([6, 0, 0, high, low, packet.bytes.len() as u32, packet.wire_bytes]);
    block.padded(packet.bytes);
    let has_comment = packet.ends.iter().any(Option::is_some);
    if has_comment {
        block.ends(packet.ends);
    }
    if let Some(is_outgoing) = packet.is_outgoing {
        block.words([option_head(2, 4), if is_outgoing { 2 } else { 1 }]);
    }
    if let Some(pid) = packet.pid {
        // The second half is the thread, of which nothing is known.
        block.words([option_head(8, 8), pid, 0]);
    }
    *buffer = block.end_from(start, has_comment || packet.is_outgoing.is_some() || packet.pid.is_some());
}

/// What was counted on the first interface.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    /// When the capture began, in nanoseconds since 1970.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Packets that passed the filter.
    pub received: u64,
    /// Packets that the interface dropped.
    pub interface_dropped: u64,
    /// Packets for which the kernel's ring had no room.
    pub kernel_dropped: u64,
    /// Packets that are in the file.
    pub delivered: u64,
}

/// The statistics of the first interface.
pub fn statistics(counted: &Statistics) -> Vec<u8> {
    let mut block = Block::new(5);
    block.u32(0);
    block.0.extend_from_slice(&Block::time(counted.end_ns));
    block.option(2, &Block::time(counted.start_ns));
    block.option(3, &Block::time(counted.end_ns));
    block.option(5, &counted.interface_dropped.to_ne_bytes());
    block.option(6, &counted.received.to_ne_bytes());
    block.option(7, &counted.kernel_dropped.to_ne_bytes());
    block.option(8, &counted.delivered.to_ne_bytes());
    block.end(true)
}

/// The header of a pcap file with times in microseconds, which every tool reads.
pub fn old_header(link_type: u16, snaplen: u32) -> Vec<u8> {
    let mut header = Block::default();
    header.u32(0xa1b2_c3d4);
    header.u16(2);
    header.u16(4);
    header.u32(0);
    header.u32(0);
    header.u32(snaplen);
    header.u32(link_type.into());
    header.0
}

/// A packet of a pcap file, behind what is in `buffer`.
pub fn old_packet(packet: &Tagged<'_>, buffer: &mut Vec<u8>) {
    let mut record = Block(std::mem::take(buffer));
    let (seconds, nanoseconds) = (packet.time_ns / 1_000_000_000, packet.time_ns % 1_000_000_000);
    record.words([seconds as u32, (nanoseconds / 1000) as u32, packet.bytes.len() as u32, packet.wire_bytes]);
    record.0.extend_from_slice(packet.bytes);
    *buffer = record.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_say_their_length_twice_and_are_padded() {
        let ends = [Some("x (pid 7)"), Some("y (pid 8)")];
        let tagged = Tagged { bytes: &[1, 2, 3], pid: Some(7), ends, is_outgoing: Some(true), ..Tagged::default() };
        let packet = |tagged: &Tagged<'_>| {
            let mut buffer = b"the one before".to_vec();
            packet(tagged, &mut buffer);
            buffer.split_off(14)
        };
        let comment = b"from x (pid 7), to y (pid 8)";
        assert!(packet(&tagged).windows(comment.len()).any(|bytes| bytes == comment));
        let all = [
            section("agent", "session 1"),
            interface(1, 96, "eth0", "tcp"),
            packet(&tagged),
            packet(&Tagged::default()),
            statistics(&Statistics::default()),
        ];
        for block in all {
            let word =
                |at: usize| u32::from_ne_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]) as usize;
            assert_eq!((block.len() % 4, word(4), word(block.len() - 4)), (0, block.len(), block.len()));
        }
        assert_eq!(packet(&Tagged::default()).len(), 32, "no options, and no end of them");
    }
}
