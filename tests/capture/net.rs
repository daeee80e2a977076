//! Two network namespaces with a bad link between them, servers in one, clients in the other, and captures beside each
//! other in either.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::common::{AGENT, Child, SOON, assert_valid, has_tool, is_root, signal, skip, wait_until};

/// The server's address.
pub(crate) const SERVER: &str = "192.0.2.2";
/// An address of the link that nobody has.
pub(crate) const NOBODY: &str = "192.0.2.77";
/// The server's address within a tunnel.
pub(crate) const INNER: &str = "198.51.100.2";

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// The namespaces, and the program between them.
pub(crate) struct Net {
    names: [String; 2],
    /// Held for as long as the link is to last.
    _shaper: Child,
    /// It stands for a target.
    idle: Child,
    pub(crate) directory: TempDir,
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).stderr(Stdio::null()).status().expect("ip").success()
}

impl Net {
    /// Makes them, or says why there can be none. Delay in microseconds; every `lose`-th large frame is lost, and every
    /// `overtake`-th is overtaken.
    pub(crate) fn new(name: &str, delay_us: u32, lose: u32, overtake: u32, tools: &[&str]) -> Option<Self> {
        if !is_root() {
            skip(name, "network namespaces need root");
            return None;
        }
        if let Some(missing) = ["ip", "tcpdump", "tshark"].iter().chain(tools).find(|tool| !has_tool(tool)) {
            skip(name, &format!("{missing} is not installed"));
            return None;
        }
        if !Path::new("/dev/net/tun").exists() {
            skip(name, "there is no /dev/net/tun");
            return None;
        }
        let names = ["c", "s"].map(|side| format!("agent-{}-{name}-{side}", std::process::id()));
        for name in &names {
            assert!(ip(&["netns", "add", name]), "ip netns add {name}");
        }
        let mut shaper = Command::new(agent_targets::build("shaper", &["-O2"]));
        shaper.args(&names).args([delay_us, lose, overtake].map(|number| number.to_string()));
        let shaper = Child::ready(&mut shaper);
        for (name, address) in names.iter().zip(["192.0.2.1/24", "192.0.2.2/24"]) {
            // Without the chatter of IPv6 the truth is simpler; loopback keeps it.
            assert!(ip(&["netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.agent0.disable_ipv6=1"]));
            assert!(ip(&["-n", name, "addr", "add", address, "dev", "agent0"]));
            assert!(ip(&["-n", name, "link", "set", "agent0", "mtu", "1500", "up"]));
            assert!(ip(&["-n", name, "link", "set", "lo", "up"]));
        }
        // With an address of the link layer: else nothing would be sent to nobody.
        let nobody = ["neigh", "add", NOBODY, "lladdr", "02:00:00:00:00:77", "dev", "agent0"];
        assert!(ip(&[&["-n", &names[0]][..], &nobody].concat()));
        let idle = Child::start(Command::new("ip").args(["netns", "exec", &names[0], "sleep", "10000"]));
        Some(Self { names, _shaper: shaper, idle, directory: tempfile::tempdir().expect("a temporary directory") })
    }

    /// A process of the client's namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.idle.pid()
    }

    /// A program on one side; `ip netns exec` becomes it.
    pub(crate) fn run(&self, side: Side, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[usize::from(side == Side::Server)], program]);
        command.stdin(Stdio::null());
        for name in ["OUTPUT", "SESSION_ID", "INCIDENT", "ACTOR", "TIMEOUT"] {
            command.env_remove(format!("AGENT_{name}"));
        }
        command
    }

    /// A program on the client's side.
    pub(crate) fn client(&self, program: &str) -> Command {
        self.run(Side::Client, program)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn listens(&self, protocol: &str, port: u16) {
        let file = if protocol == "udp" { "/proc/net/udp" } else { "/proc/net/tcp" };
        wait_until(&format!("a server on port {port}"), SOON, || {
            let output = self.run(Side::Server, "cat").arg(file).output().expect("cat");
            String::from_utf8_lossy(&output.stdout).contains(&format!(":{port:04X} "))
        });
    }

    /// nginx on port 80, with a file `large` of so many bytes.
    pub(crate) fn nginx(&self, bytes: usize) -> Child {
        fs::write(self.path("large"), vec![b'x'; bytes]).expect("a file to serve");
        let open = Command::new("chmod").args(["-R", "a+rX", &self.path("")]).status().expect("chmod");
        assert!(open.success());
        let configuration = format!(
            "daemon off; pid {0}; error_log {1}; events {{}} http {{ access_log off; server {{ listen 80; root {2}; }} }}",
            self.path("pid"),
            self.path("error"),
            self.path(""),
        );
        fs::write(self.path("nginx.conf"), configuration).expect("a configuration");
        let server = Child::start(self.run(Side::Server, "nginx").args(["-c", &self.path("nginx.conf")]));
        self.listens("tcp", 80);
        server
    }

    /// dnsmasq, which knows db.example and that there is nothing else.
    pub(crate) fn dnsmasq(&self) -> Child {
        let mut command = self.run(Side::Server, "dnsmasq");
        command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--conf-file=/dev/null"]);
        command.args(["--pid-file=", "--address=/db.example/10.9.8.7", "--local=/#/"]);
        let server = Child::start(command.stderr(Stdio::null()));
        self.listens("udp", 53);
        server
    }

    /// redis-server on its port.
    pub(crate) fn redis(&self) -> Child {
        let mut command = self.run(Side::Server, "redis-server");
        command.args(["--port", "6379", "--protected-mode", "no", "--save", "", "--bind", "0.0.0.0"]);
        let server = Child::start(command.args(["--dir", &self.path("")]));
        self.listens("tcp", 6379);
        server
    }

    /// The server's side says nothing to whom connects to `port`.
    pub(crate) fn server_drops(&self, port: u16) {
        let port = port.to_string();
        let mut command = self.run(Side::Server, "iptables");
        command.args(["-A", "INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP"]);
        assert!(command.status().expect("iptables").success());
    }

    /// A VXLAN over the link; false where this kernel has none.
    pub(crate) fn vxlan(&self, id: u32) -> bool {
        for (at, name) in self.names.iter().enumerate() {
            let remote = ["192.0.2.2", "192.0.2.1"][at];
            let id = id.to_string();
            let made = ip(&[
                "-n", name, "link", "add", "vx0", "type", "vxlan", "id", &id, "remote", remote, "dstport", "4789",
                "dev", "agent0",
            ]);
            if !made {
                return false;
            }
            let address = format!("198.51.100.{}/24", at + 1);
            assert!(ip(&["netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.vx0.disable_ipv6=1"]));
            assert!(ip(&["-n", name, "addr", "add", &address, "dev", "vx0"]));
            assert!(ip(&["-n", name, "link", "set", "vx0", "up"]));
        }
        true
    }

    /// Waits until `pid`, or what it has become, has a packet socket with a ring.
    pub(crate) fn wait_for_capture(&self, pid: u32) {
        wait_until("a packet socket", SOON, || {
            let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
            // The ring is mapped, and the filter is set just after.
            maps.lines().any(|line| line.contains("socket:["))
        });
        wait_until("the first look at the socket table", SOON, || waits_for_packets(pid));
    }
}

/// Whether `pid` waits in poll(2): its ring is empty.
fn waits_for_packets(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    stat.contains("poll") || fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|text| is_poll(&text))
}

/// poll(2) or ppoll(2), by their numbers on x86-64.
fn is_poll(syscall: &str) -> bool {
    syscall.starts_with("7 ") || syscall.starts_with("271 ")
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&["netns", "del", name]);
        }
    }
}

/// What the agent and tcpdump have captured of the same traffic.
pub(crate) struct Captured {
    /// The agent's file.
    pub(crate) pcapng: PathBuf,
    /// tcpdump's.
    pub(crate) tcpdump: PathBuf,
    /// The agent's answer.
    pub(crate) envelope: Value,
    /// All that it wrote to standard error.
    pub(crate) stderr: String,
    /// Its exit status, gaps allowed.
    pub(crate) status: i32,
}

/// Captures with both while `traffic` lasts, on `side`. Both are ended by SIGINT.
pub(crate) fn capture(net: &Net, side: Side, arguments: &[&str], filter: &str, traffic: impl FnOnce()) -> Captured {
    let (pcapng, tcpdump) = (net.directory.path().join("agent.pcapng"), net.directory.path().join("tcpdump.pcap"));
    let errors = net.directory.path().join("agent.stderr");
    let interface = arguments.iter().position(|it| *it == "--interface").map_or("agent0", |at| arguments[at + 1]);
    let mut beside = net.run(side, "tcpdump");
    // -U: each packet at once, so that the end loses none; root's files are for root. Both have room for all of it,
    // however busy the machine is.
    beside.args(["-Z", "root", "-U", "--immediate-mode", "-s", "2048", "-B", "65536", "-i", interface, "-w"]);
    let mut beside = beside.arg(&tcpdump).arg(filter).stderr(Stdio::null()).spawn().expect("tcpdump");
    let mut command = net.run(side, AGENT);
    command.args(["capture", "--for", "120s", "--filter", filter, "--pid", &net.pid().to_string()]);
    if !arguments.contains(&"--buffer-bytes") {
        command.args(["--buffer-bytes", "64M"]);
    }
    if !arguments.contains(&"-o") {
        command.args(["-o", "pcapng"]);
    }
    if !arguments.contains(&"--interface") {
        command.args(["--interface", interface]);
    }
    // The target is in the client's namespace: on the other side that is a gap.
    command.args(arguments).arg("--allow-gaps");
    command.stdout(File::create(&pcapng).expect("a file")).stderr(File::create(&errors).expect("a file"));
    let mut agent = command.spawn().expect("the agent");
    net.wait_for_capture(agent.id());
    wait_until("tcpdump's file", SOON, || fs::metadata(&tcpdump).is_ok_and(|file| file.len() >= 24));
    traffic();
    // The link may still hold some, and whoever ends tcpdump before it has taken all from its ring loses the rest.
    let counters = || fs::read_to_string(format!("/proc/{}/net/dev", beside.id())).unwrap_or_default();
    let mut last = String::new();
    wait_until("a quiet link", SOON, || {
        let before = std::mem::replace(&mut last, counters());
        std::thread::sleep(std::time::Duration::from_millis(300));
        before == last
    });
    wait_until("tcpdump to have taken all", SOON, || waits_for_packets(beside.id()));
    if agent.try_wait().expect("the agent").is_none() {
        signal(agent.id(), Signal::SIGINT);
    }
    let status = agent.wait().expect("the agent").code().unwrap_or(-1);
    signal(beside.id(), Signal::SIGINT);
    beside.wait().expect("tcpdump");
    let (stderr, _) = crate::common::part(&fs::read_to_string(&errors).expect("standard error"));
    let envelope: Value = serde_json::from_str(&stderr).unwrap_or_else(|error| panic!("{error} in {stderr}"));
    assert_valid(&envelope);
    Captured { pcapng, tcpdump, envelope, stderr, status }
}

/// The `fields` of the packets that `filter` lets through, by tshark, which must have nothing to complain about.
pub(crate) fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(file).args(["-T", "fields", "-E", "occurrence=f"]);
    for field in fields {
        command.args(["-e", field]);
    }
    if !filter.is_empty() {
        command.args(["-Y", filter]);
    }
    let output = command.output().expect("tshark");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("Running as user")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{complaints:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}
