//! Packets of our network namespace, through libpcap (pcap(3PCAP)).
//!
//! The library opens a packet(7) socket with a ring that the kernel fills, and
//! the filter runs in the kernel. Nothing is sent and no interface is set up.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use agent_model::Text;
use agent_session::Access;
use pcap::{Active, Linktype};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{Cause, Failure, Run};

/// How packets are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureOptions<'a> {
    /// The interface, or `any` for all of them.
    pub interface: &'a str,
    /// The filter (pcap-filter(7)); empty for all packets.
    pub filter: &'a str,
    /// The most that is kept of a packet, in bytes.
    pub snaplen: u32,
    /// The ring that the kernel fills, in bytes.
    pub buffer_bytes: u32,
    /// The longest that the kernel keeps a packet back to hand over more at once.
    pub hold: Duration,
    /// Whether `any` is to give the older of its link headers, which does not name the
    /// interface.
    pub is_for_old_tools: bool,
}

/// A packet as it was captured.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// How long it was on the wire, in bytes.
    pub wire_bytes: u32,
    /// Its first bytes, [`CaptureOptions::snaplen`] at most.
    pub bytes: &'a [u8],
}

/// What the kernel counted since the capture was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Packets that passed the filter, those dropped included.
    pub received: u64,
    /// Packets dropped since the ring was full.
    pub dropped: u64,
    /// Packets that the interface or its driver dropped.
    pub interface_dropped: u64,
}

/// An interface that packets can be captured on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub is_up: bool,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<std::net::IpAddr>,
}

/// One instruction of a compiled filter, as the kernel takes it (`struct
/// sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if it is true.
    pub jump_true: u8,
    /// How many to skip if not.
    pub jump_false: u8,
    /// Its operand.
    pub k: u32,
}

/// A capture that is running.
pub struct Capture<'r> {
    run: &'r Run,
    handle: pcap::Capture<Active>,
    counted: Counts,
    last: pcap::Stat,
}

impl std::fmt::Debug for Capture<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("counted", &self.counted).finish_non_exhaustive()
    }
}

/// The word for the socket in failures: [`crate::gate`] knows what opens it.
const SOCKET: &str = "socket(AF_PACKET)";

/// The interface that stands for all.
pub const ANY: &str = "any";

/// `LINKTYPE_LINUX_SLL2`, which `any` gives: the only one that says which
/// interface each packet was on.
const SLL2: Linktype = Linktype(276);

fn fail(cause: impl Into<Cause>) -> Failure {
    Failure::new(SOCKET, cause)
}

/// What libpcap says is for people: it goes where failures name their place.
fn told(what: &str, error: &pcap::Error, cause: &'static str) -> Failure {
    let words = match error {
        pcap::Error::PcapError(words) => words.clone(),
        other => other.to_string(),
    };
    Failure::new(Text::from(format!("{what}: {words}").as_str()), Cause::Unsupported(cause))
}

/// Whether packet sockets may be opened: asks for one that receives nothing.
///
/// # Errors
///
/// With the kernel's error, EPERM without NET_RAW.
pub fn may_capture(run: &Run) -> Result<(), Failure> {
    if !run.is_live() {
        return Err(fail(Cause::Unsupported("a recorded tree has no packets")));
    }
    run.permit(Access::Socket, &SOCKET).map_err(fail)?;
    rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).map(drop).map_err(fail)
}

/// The network interfaces of our namespace, and `any`, in the library's order: up
/// before down, then the kernel's.
///
/// # Errors
///
/// When they cannot be listed.
pub fn interfaces(run: &Run) -> Result<Vec<Interface>, Failure> {
    if !run.is_live() {
        return Err(fail(Cause::Unsupported("a recorded tree has no interfaces")));
    }
    run.permit(Access::Socket, &"getifaddrs").map_err(fail)?;
    keep_dbus_out();
    let listed = pcap::Device::list().map_err(|error| told("getifaddrs", &error, "libpcap cannot list interfaces"))?;
    // Buses, netfilter logs and the like, which are no interfaces of the namespace.
    let foreign = |name: &str| {
        ["nflog", "nfqueue"].contains(&name) || ["usbmon", "bluetooth", "dbus-"].iter().any(|it| name.starts_with(it))
    };
    Ok(listed
        .into_iter()
        .filter(|device| !foreign(&device.name))
        .map(|device| Interface {
            is_up: device.flags.is_up(),
            is_loopback: device.flags.is_loopback(),
            addresses: device.addresses.iter().map(|address| address.addr).collect(),
            name: device.name,
        })
        .collect())
}

/// Compiles `filter` for the links that `interface` may have. This opens nothing.
///
/// # Errors
///
/// In libpcap's words, when it is no filter (pcap-filter(7)).
pub fn compile(interface: &str, filter: &str) -> Result<Vec<Instruction>, String> {
    let links = if interface == ANY { [SLL2, Linktype::ETHERNET] } else { [Linktype::ETHERNET, Linktype::RAW] };
    let mut first = None;
    for link in links {
        let compiled = pcap::Capture::dead(link).and_then(|dead| dead.compile(filter, true));
        match compiled {
            Ok(program) => return Ok(program.get_instructions().iter().filter_map(instruction).collect()),
            Err(pcap::Error::PcapError(words)) => first = first.or(Some(words)),
            Err(other) => first = first.or(Some(other.to_string())),
        }
    }
    Err(first.unwrap_or_default())
}

/// The crate shows an instruction only in words: its four numbers in decimal.
fn instruction(shown: &pcap::BpfInstruction) -> Option<Instruction> {
    let text = shown.to_string();
    let mut words = text.split(' ');
    Some(Instruction {
        code: words.next()?.parse().ok()?,
        jump_true: words.next()?.parse().ok()?,
        jump_false: words.next()?.parse().ok()?,
        k: words.next()?.parse().ok()?,
    })
}

impl<'r> Capture<'r> {
    /// Opens a capture. The filter is compiled before anything is opened, and no
    /// packet that it does not let through is ever handed out.
    ///
    /// # Errors
    ///
    /// When the filter is none, the interface is not there, or the kernel refuses:
    /// EPERM without NET_RAW.
    pub fn open(run: &'r Run, options: &CaptureOptions<'_>) -> Result<Self, Failure> {
        let CaptureOptions { interface, filter, snaplen, buffer_bytes, hold, is_for_old_tools } = *options;
        compile(interface, filter).map_err(|words| {
            Failure::new(format!("filter: {words}").as_str(), Cause::Malformed("not a filter of pcap-filter(7)"))
        })?;
        // libpcap reports in words alone; this gives the error number.
        may_capture(run)?;
        if interface != ANY && !interfaces(run)?.iter().any(|known| known.name == interface) {
            return Err(Failure::new(format!("interface {interface}").as_str(), Errno::NODEV));
        }
        run.permit(Access::Socket, &format_args!("{SOCKET} on {interface}")).map_err(fail)?;
        keep_dbus_out();
        let size = |bytes: u32| i32::try_from(bytes).unwrap_or(i32::MAX);
        let opened = pcap::Capture::from_device(interface).and_then(|inactive| {
            let inactive = inactive.snaplen(size(snaplen)).buffer_size(size(buffer_bytes));
            // Nanoseconds, and no promiscuous mode: that would set up the interface.
            let inactive = inactive.precision(pcap::Precision::Nano).promisc(false);
            inactive.timeout(i32::try_from(hold.as_millis()).unwrap_or(i32::MAX)).open()
        });
        let what = format!("capture on {interface}");
        let refused = |error: &pcap::Error| told(&what, error, "libpcap cannot capture here");
        let mut handle = opened.and_then(pcap::Capture::setnonblock).map_err(|error| refused(&error))?;
        if interface == ANY && !is_for_old_tools {
            handle.set_datalink(SLL2).map_err(|error| refused(&error))?;
        }
        handle.filter(filter, true).map_err(|error| refused(&error))?;
        let last = pcap::Stat { received: 0, dropped: 0, if_dropped: 0 };
        Ok(Self { run, handle, counted: Counts::default(), last })
    }

    /// What the packets begin with: a `LINKTYPE_` value of the tcpdump.org registry,
    /// as files have it.
    pub fn link_type(&self) -> u16 {
        match self.handle.get_datalink().0 {
            // DLT_RAW is the one of ours that differs from its LINKTYPE.
            12 => 101,
            other => u16::try_from(other).unwrap_or(u16::MAX),
        }
    }

    /// The file to wait on until there are packets.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Hands out the packets that are there, without waiting, and returns how many
    /// there were.
    ///
    /// # Errors
    ///
    /// When the interface went away.
    pub fn packets(&mut self, mut each: impl FnMut(Packet<'_>)) -> Result<usize, Failure> {
        let mut bytes = 0;
        let handed = self.handle.dispatch(None, |packet| {
            bytes += packet.data.len();
            let seconds = u64::try_from(packet.header.ts.tv_sec).unwrap_or(0);
            // In nanosecond precision `tv_usec` counts nanoseconds.
            let nanoseconds = u64::try_from(packet.header.ts.tv_usec).unwrap_or(0);
            each(Packet {
                time_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds),
                wire_bytes: packet.header.len,
                bytes: packet.data,
            });
        });
        self.run.ledger().read(bytes);
        handed.map_err(|error| told("capture", &error, "libpcap cannot capture any more"))
    }

    /// What the kernel has counted so far. The library's counters have 32 bits: asked
    /// often enough, these do not wrap.
    pub fn counts(&mut self) -> Counts {
        if let Ok(now) = self.handle.stats() {
            self.counted.received += u64::from(now.received.wrapping_sub(self.last.received));
            self.counted.dropped += u64::from(now.dropped.wrapping_sub(self.last.dropped));
            self.counted.interface_dropped += u64::from(now.if_dropped.wrapping_sub(self.last.if_dropped));
            self.last = now;
        }
        self.counted
    }
}

/// Debian's libpcap.a is built with D-Bus capture, whose own libraries no static
/// binary should carry. pcap.o refers to it through these two symbols alone: with
/// them defined here the linker leaves its member of the archive, and all behind
/// it, out.
mod dbus {
    use std::ffi::{c_char, c_int, c_void};

    /// `pcap_t *dbus_create(const char *device, char *ebuf, int *is_ours)`: this
    /// device is none of D-Bus.
    // SAFETY: the name is defined nowhere else in the binary, and the signature is
    // that of pcap-dbus.h.
    #[unsafe(no_mangle)]
    extern "C" fn dbus_create(_device: *const c_char, _error: *mut c_char, is_ours: *mut c_int) -> *mut c_void {
        // SAFETY: libpcap passes the address of a variable of its own; a null pointer
        // gives no reference.
        if let Some(is_ours) = unsafe { is_ours.as_mut() } {
            *is_ours = 0;
        }
        std::ptr::null_mut()
    }

    /// `int dbus_findalldevs(pcap_if_list_t *devlistp, char *err_str)`: there are no
    /// buses, and that is no error.
    // SAFETY: as for `dbus_create`.
    #[unsafe(no_mangle)]
    extern "C" fn dbus_findalldevs(_devices: *mut c_void, _error: *mut c_char) -> c_int {
        0
    }

    /// The two, so that whoever links libpcap links them.
    pub(super) static BOTH: (
        extern "C" fn(*const c_char, *mut c_char, *mut c_int) -> *mut c_void,
        extern "C" fn(*mut c_void, *mut c_char) -> c_int,
    ) = (dbus_create, dbus_findalldevs);
}

/// Refers to the two symbols, so that they are linked before libpcap is searched.
fn keep_dbus_out() {
    std::hint::black_box(&dbus::BOTH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_compiled_without_opening_anything() {
        let program = compile("eth0", "tcp port 5432").expect("a filter");
        // The last instruction of a filter returns 0: "not this packet".
        assert_eq!(program.last().map(|last| (last.code, last.k)), Some((6, 0)));
        assert!(compile("any", "ifindex 2 and udp").is_ok());
        assert!(!compile("eth0", "").expect("all packets").is_empty());
        let words = compile("eth0", "tcp prot 5432").expect_err("no filter");
        assert!(words.contains("syntax error"), "{words}");
        assert!(compile("eth0", "tcp\0").is_err());
    }
}
