//! `agent capture` against tcpdump beside it, and against tshark on what it wrote, on real traffic over a bad link.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and reads files")]

mod common;

#[path = "capture/crafted.rs"]
mod crafted;
#[path = "capture/net.rs"]
mod net;
#[path = "capture/peers.rs"]
mod peers;

use std::process::Stdio;

use serde_json::Value;

use common::{Answer, Child, SOON, rows, run, skip};
use net::{Net, SERVER, capture, tshark};
use peers::assert_as_tcpdump;

/// A number in an answer.
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The sum of a member over all rows.
fn sum(envelope: &Value, pointer: &str) -> u64 {
    rows(envelope).iter().filter_map(|row| row.pointer(pointer)?.as_u64()).sum()
}

#[test]
fn a_filter_that_is_none_is_a_usage_error() {
    let answer = run(["capture", "--filter", "tcp prot 80"]);
    assert_eq!(answer.status, 2);
    assert!(answer.stderr.contains("syntax error"), "{}", answer.stderr);
}

#[test]
fn a_dry_run_tells_interfaces_and_the_filter_and_opens_nothing_else() {
    let envelope = common::json(["capture", "--dry-run", "--interface", "lo", "--filter", "udp port 53"]);
    let interfaces = envelope["data"]["interfaces"].as_array().expect("interfaces");
    let loopback = interfaces.iter().find(|one| one["name"] == "lo").expect("lo");
    assert_eq!(loopback["loopback"], true);
    let program = envelope["data"]["program"].as_array().expect("a program");
    assert_eq!(program.last().map(|last| (number(&last["code"]), number(&last["k"]))), Some((6, 0)));
    assert!(envelope["data"].get("rows").is_none());
}

#[test]
fn without_net_raw_there_is_a_gap_with_the_way_out() {
    if !common::is_root() {
        return skip("without_net_raw", "needs root to become another user");
    }
    let installed = common::Installed::new();
    for format in ["json", "ndjson"] {
        let answer = Answer::of(installed.as_user(65534, 65534).args(["capture", "--for", "1s", "-o", format]));
        assert_eq!(answer.status, 3);
        let value: Value = serde_json::from_slice(&answer.stdout).expect("one JSON value");
        let envelope = if format == "json" { &value } else { &value["end"] };
        let gap = &envelope["gaps"][0];
        assert_eq!((&gap["reason"], &gap["errno"]), (&"permission_denied".into(), &"EPERM".into()));
        assert_eq!(
            (&gap["needs"][0], &gap["remedy"]),
            (&"CAP_NET_RAW".into(), &"kubectl debug --profile=netadmin".into())
        );
        assert!(envelope["data"].get("rows").is_none(), "denied is no empty list");
    }
}

/// Datagrams of one socket to ever other addresses of loopback, whose flows are more than are kept.
const MANY_FLOWS: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(120_000):
    s.sendto(b'x', (f'127.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}', 9))
";

#[test]
fn a_hundred_thousand_flows_are_bounded_and_those_left_out_counted() {
    let Some(net) = Net::new("flows", 0, 0, 0, &["python3"]) else { return };
    // Little is written, and what is printed is cut: the table of flows is what this is about.
    let line = "--interface lo --no-owners --ring --max-packets 10 --limit out=1M -o pcap";
    let arguments: Vec<&str> = line.split(' ').collect();
    let captured = capture(&net, net::Side::Client, &arguments, "udp dst port 9", || {
        let mut python = net.client("python3");
        assert!(python.args(["-c", MANY_FLOWS]).status().expect("python3").success());
    });
    let summary = &captured.envelope["data"]["summary"];
    let seen = number(&summary["packets"]);
    assert_eq!(seen + number(&summary["kernel_dropped"]), 120_000, "{summary}");
    let kept = number(&summary["flows"]);
    assert_eq!((kept, number(&summary["flows_evicted"])), (100_000, seen - 100_000), "{summary}");
    let gaps = captured.envelope["gaps"].as_array().expect("gaps");
    let told = format!("{} flows are not listed", seen - kept);
    assert!(gaps.iter().any(|gap| gap["detail"].as_str().is_some_and(|detail| detail.starts_with(&told))), "{gaps:?}");
    // The goal for a collector that must hold what it saw: no more than the default limit of a session.
    assert!(number(&captured.envelope["cost"]["peak_rss_kib"]) < 128 << 10, "{}", captured.envelope["cost"]);
}

#[test]
fn refused_unanswered_and_unreachable_are_told_apart() {
    let Some(net) = Net::new("refused", 1000, 0, 0, &["curl", "dig"]) else { return };
    let captured = capture(&net, net::Side::Client, &[], "", || {
        let curl = |place: &str| {
            let mut curl = net.client("curl");
            curl.args(["-s", "--max-time", "1", &format!("http://{place}/")])
                .stdout(Stdio::null())
                .status()
                .expect("curl");
        };
        curl(&format!("{SERVER}:81"));
        net.server_drops(82);
        curl(&format!("{SERVER}:82"));
        // A datagram to a port without anybody: ICMP says so.
        net.client("dig")
            .args([&format!("@{SERVER}"), "+tries=1", "+time=1", "x"])
            .stdout(Stdio::null())
            .status()
            .expect("dig");
    });
    let of = |port: u64| common::row(&captured.envelope, "server_port", port);
    assert_eq!((&of(81)["state"], &of(81)["tcp"]["reset_by"]), (&"refused".into(), &"server".into()));
    assert_eq!(of(82)["state"], "syn_unanswered");
    let error = &captured.envelope["data"]["icmp_errors"][0];
    assert_eq!((&error["error"], &error["destination_port"]), (&"port_unreachable".into(), &53.into()));
    assert_eq!(of(53)["icmp_errors"], error["count"]);
    assert!(number(&captured.envelope["data"]["summary"]["not_ip"]) > 0, "ARP is there, too");
    assert_as_tcpdump(&captured);
}

#[test]
fn signals_and_limits_end_in_a_valid_file() {
    let Some(net) = Net::new("limits", 0, 0, 0, &["ping"]) else { return };
    for (arguments, ended, status) in [
        (&["--max-packets", "10"][..], "max_packets", 0),
        (&["--max-bytes", "500"], "max_bytes", 4),
        (&["--ring", "--max-packets", "7"], "signal", 0),
        (&["-o", "pcap"], "signal", 0),
        (&["--snaplen", "30"], "signal", 0),
    ] {
        let captured = capture(&net, net::Side::Client, arguments, "icmp or icmp6", || {
            let mut ping = net.client("ping");
            ping.args(["-q", "-c", "12", "-i", "0.01", SERVER]).stdout(Stdio::null());
            assert!(ping.status().expect("ping").success());
        });
        let summary = &captured.envelope["data"]["summary"];
        assert_eq!((&summary["ended"], captured.status), (&ended.into(), status), "{arguments:?}: {}", captured.stderr);
        let written = tshark(&captured.pcapng, "", &["frame.len"]).len() as u64;
        assert_eq!(written, number(&summary["packets"]) - number(&summary["overwritten"]), "{arguments:?}");
        if arguments.contains(&"--ring") {
            assert_eq!((written, number(&summary["packets"])), (7, 24));
        }
    }
}

#[test]
fn ndjson_is_a_line_a_packet_without_payload() {
    let Some(net) = Net::new("ndjson", 0, 0, 0, &["ping"]) else { return };
    let mut command = net.run(net::Side::Client, common::AGENT);
    command.args(["capture", "-o", "ndjson", "--interface", "agent0", "--filter", "icmp", "--max-packets", "6"]);
    command.args(["--pid", &net.pid().to_string()]);
    let mut agent = Child::start(&mut command);
    net.wait_for_capture(agent.pid());
    let mut ping = net.client("ping");
    ping.args(["-q", "-c", "3", "-i", "0.01", "-p", "5e", SERVER]).stdout(Stdio::null());
    assert!(ping.status().expect("ping").success());
    for _ in 0..6 {
        let line: Value = serde_json::from_str(&agent.line()).expect("a line of JSON");
        assert_eq!((&line["schema"], &line["protocol"]), (&"agent.capture/1".into(), &"icmp".into()));
        assert_eq!((number(&line["wire_bytes"]), number(&line["payload_bytes"])), (98, 56));
        assert!(number(&line["captured_bytes"]) == 42);
    }
    let end: Value = serde_json::from_str(&agent.line()).expect("the end");
    common::assert_valid(&end["end"]);
    assert_eq!(number(&end["end"]["data"]["summary"]["packets"]), 6);
}

#[test]
fn loopback_and_any_see_what_tcpdump_sees() {
    let Some(net) = Net::new("any", 0, 0, 0, &["ping"]) else { return };
    for interface in ["lo", "any"] {
        let captured = capture(&net, net::Side::Client, &["--interface", interface], "icmp6 or icmp", || {
            for address in ["127.0.0.1", "::1", SERVER] {
                let mut ping = net.client("ping");
                ping.args(["-q", "-c", "3", "-i", "0.01", address]).stdout(Stdio::null());
                assert!(ping.status().expect("ping").success());
            }
        });
        assert_as_tcpdump(&captured);
        let expected = if interface == "lo" { "ethernet" } else { "linux_sll2" };
        assert_eq!(captured.envelope["data"]["link_type"], expected);
        // Each echo once, though loopback shows the kernel two.
        let flows: Vec<u64> = rows(&captured.envelope)
            .iter()
            .filter(|row| number(&row["client_packets"]) + number(&row["server_packets"]) >= 6)
            .map(|row| number(&row["client_packets"]) + number(&row["server_packets"]))
            .collect();
        assert_eq!(flows, if interface == "lo" { vec![6, 6] } else { vec![6, 6, 6] });
    }
}

#[test]
fn tunnels_show_the_flow_within() {
    let Some(net) = Net::new("vxlan", 0, 0, 0, &["ping"]) else { return };
    if !net.vxlan(42) {
        return skip("tunnels_show_the_flow_within", "this kernel has no VXLAN");
    }
    let captured = capture(&net, net::Side::Client, &[], "udp port 4789", || {
        let mut ping = net.client("ping");
        ping.args(["-q", "-c", "3", "-i", "0.01", "-s", "1400", net::INNER]).stdout(Stdio::null());
        assert!(ping.status().expect("ping").success());
    });
    let row = rows(&captured.envelope).iter().find(|row| row["protocol"] == "icmp").expect("the flow within");
    assert_eq!((&row["tunnel"], number(&row["tunnel_id"])), (&"vxlan".into(), 42));
    assert_eq!(row["server_address"], net::INNER);
    assert_as_tcpdump(&captured);
}

#[test]
fn captures_in_an_otherwise_empty_root() {
    let Some(net) = Net::new("chroot", 0, 0, 0, &["ping", "chroot"]) else { return };
    let installed = common::Installed::new();
    let root = installed.path().parent().expect("a directory").to_owned();
    std::fs::create_dir(root.join("proc")).expect("proc");
    let script = format!(
        "mount -t proc proc '{0}/proc' && exec chroot '{0}' /agent capture \
        --interface agent0 --max-packets 2 --filter icmp -o json",
        root.display()
    );
    let mut command = net.run(net::Side::Client, "unshare");
    command.args(["--mount", "sh", "-c", &script]);
    let mut agent = Child::start(&mut command);
    net.wait_for_capture(agent.pid());
    let mut ping = net.client("ping");
    ping.args(["-q", "-c", "1", SERVER]).stdout(Stdio::null());
    assert!(ping.status().expect("ping").success());
    let envelope: Value = serde_json::from_str(&agent.line()).expect("an envelope");
    assert_eq!(number(&envelope["data"]["summary"]["packets"]), 2, "{envelope}");
}

#[test]
fn the_end_of_the_target_ends_the_capture() {
    let Some(net) = Net::new("target", 0, 0, 0, &["ping"]) else { return };
    let target = Child::start(net.run(net::Side::Client, "sleep").arg("1000"));
    let pid = target.pid();
    let mut command = net.run(net::Side::Client, common::AGENT);
    command.args(["capture", "--interface", "agent0", "--for", "60s", "--pid", &pid.to_string()]);
    let mut agent = Child::start(&mut command);
    net.wait_for_capture(agent.pid());
    drop(target);
    let envelope: Value = serde_json::from_str(&agent.line()).expect("an envelope");
    assert_eq!(envelope["data"]["summary"]["ended"], "target_exited");
}

/// A server and a client of which there was nothing when the capture began, over both families.
///
/// The agent looks at the table again after a tenth of a second, and 20 times as long as a look takes: as long as that, and
/// more, they stay.
const LATE: &str = "
import os, socket, time
kept = []

def look():
    for pid in os.listdir('/proc'):
        try:
            for fd in os.listdir(f'/proc/{pid}/fd'):
                os.readlink(f'/proc/{pid}/fd/{fd}')
        except OSError:
            pass

def stay():
    began = time.monotonic()
    for _ in range(40):
        look()
    time.sleep(max(0, began + 1 - time.monotonic()))

for family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
    server = socket.create_server((address, 7777), family=family)
    client = socket.create_connection((address, 7777))
    accepted, _ = server.accept()
    client.sendall(b'x')
    accepted.recv(1)
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((address, 7778))
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.connect((address, 7778))
    sender.send(b'x')
    kept += [server, client, accepted, datagrams, sender]
stay()
# By now the listeners are known, and who holds them: not so these clients.
for family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
    kept += [socket.create_connection((address, 7777))]
    kept[-1].sendall(b'x')
stay()
";

#[test]
fn owners_of_sockets_that_came_later_are_named() {
    let Some(net) = Net::new("late", 0, 0, 0, &["python3"]) else { return };
    let captured = capture(&net, net::Side::Client, &["--interface", "lo"], "port 7777 or port 7778", || {
        assert!(net.client("python3").args(["-c", LATE]).status().expect("python3").success());
    });
    assert_eq!(rows(&captured.envelope).len(), 6, "{}", captured.envelope);
    for row in rows(&captured.envelope) {
        for side in ["client_owner", "server_owner"] {
            assert!(row[side]["name"].as_str().is_some_and(|name| name.starts_with("python3")), "{side} of {row}");
        }
    }
}

/// Beside busy processes a ring would be full before a turn of the usual length came.
#[test]
fn short_turns_on_the_processor_are_asked_for() {
    let Some(net) = Net::new("turns", 0, 0, 0, &[]) else { return };
    let mut command = net.run(net::Side::Client, common::AGENT);
    let agent = Child::start(command.args(["capture", "--interface", "agent0", "--for", "60s"]));
    net.wait_for_capture(agent.pid());
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).expect("stat");
    let nice = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(16));
    assert_eq!(nice, Some("5"), "behind the application: {stat}");
    let sched = std::fs::read_to_string(format!("/proc/{}/sched", agent.pid())).unwrap_or_default();
    // In nanoseconds, since Linux 6.12 and where proc(5) has it (CONFIG_SCHED_DEBUG).
    let slice = sched.lines().find(|line| line.starts_with("se.slice"));
    let Some(slice) = slice else { return skip("short_turns", "this kernel does not tell the length of a turn") };
    assert_eq!(slice.rsplit(' ').next(), Some("100000"), "{slice}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let Some(net) = Net::new("pipe", 0, 0, 0, &["ping"]) else { return };
    let mut command = net.run(net::Side::Client, common::AGENT);
    command.args(["capture", "-o", "pcapng", "--no-owners", "--for", "60s", "--interface", "agent0"]);
    let mut agent = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the agent");
    net.wait_for_capture(agent.id());
    drop(agent.stdout.take());
    let status = common::wait_for("the end of the agent", SOON, || {
        let mut ping = net.client("ping");
        ping.args(["-q", "-c", "1", SERVER]).stdout(Stdio::null()).status().expect("ping");
        agent.try_wait().expect("the agent")
    });
    assert_eq!(status.code(), Some(0));
}
