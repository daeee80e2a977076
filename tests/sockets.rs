//! `agent sockets` against sockets of every kind and state whose holder says what they are, against ss(8) in the same
//! run, from another network namespace, without rights, and for 15,000 of them.
#![allow(clippy::disallowed_methods, reason = "a test: it starts programs and opens sockets")]

mod common;
#[path = "sockets/elsewhere.rs"]
mod elsewhere;
#[path = "sockets/holder.rs"]
mod holder;
#[path = "sockets/servers.rs"]
mod servers;
#[path = "sockets/ss.rs"]
mod ss;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use common::{SOON, bytes, row, rows, skip, unhex, wait_for};
use holder::{Holder, owners, tools};
use serde_json::{Value, json};

/// Compares what every protocol has.
pub(crate) fn assert_same(row: &Value, line: &ss::Line) {
    let what = format!("{row}\n{line:?}");
    assert_eq!(row["state"], line.state, "{what}");
    let is_listener = row["state"] == "listen";
    let keys = if is_listener { ["backlog", "backlog_limit"] } else { ["receive_queue_bytes", "send_queue_bytes"] };
    assert_eq!((&row[keys[0]], &row[keys[1]]), (&json!(line.receive_queue), &json!(line.send_queue)), "{what}");
    assert_eq!(owners(row), line.owners, "{what}");
    assert_eq!(row["inode"].as_str().unwrap_or("0"), line.inode, "{what}");
    assert_eq!(row["uid"], line.number("uid"), "{what}");
    if let Some(cookie) = line.cookie {
        assert_eq!(row["cookie"], cookie.to_string(), "{what}");
    }
    let timer = line.timer.as_ref().map(|(kind, retries)| {
        let kind = match kind.as_str() {
            "on" => "retransmit",
            "keepalive" => "keepalive",
            "timewait" => "time_wait",
            "persist" => "zero_window_probe",
            other => panic!("a timer {other}"),
        };
        (json!(kind), json!(retries))
    });
    assert_eq!(row.get("timer").map(|timer| (timer["kind"].clone(), timer["retries"].clone())), timer, "{what}");
    for (letters, key) in [
        ("r", "receive_bytes"),
        ("rb", "receive_limit_bytes"),
        ("t", "send_bytes"),
        ("tb", "send_limit_bytes"),
        ("f", "forward_bytes"),
        ("w", "send_queued_bytes"),
        ("o", "option_bytes"),
        ("bl", "backlog_bytes"),
    ] {
        assert_eq!(row["memory"][key].as_u64(), line.memory.get(letters).copied(), "{key} of {what}");
    }
    assert_eq!(row["drops"].as_u64(), line.memory.get("d").copied(), "{what}");
}

/// Compares what TCP has: each number of `ss -i` that is one of the kernel's.
fn assert_same_inside(tcp: &Value, line: &ss::Line) {
    let what = format!("{tcp}\n{line:?}");
    for (ours, theirs) in [
        ("send_mss_bytes", "mss"),
        ("path_mtu_bytes", "pmtu"),
        ("receive_mss_bytes", "rcvmss"),
        ("advertised_mss_bytes", "advmss"),
        ("congestion_window", "cwnd"),
        ("slow_start_threshold", "ssthresh"),
        ("bytes_sent", "bytes_sent"),
        ("bytes_retransmitted", "bytes_retrans"),
        ("bytes_acked", "bytes_acked"),
        ("bytes_received", "bytes_received"),
        ("segments_sent", "segs_out"),
        ("segments_received", "segs_in"),
        ("data_segments_sent", "data_segs_out"),
        ("data_segments_received", "data_segs_in"),
        ("delivered", "delivered"),
        ("receive_space_bytes", "rcv_space"),
        ("receive_ssthresh_bytes", "rcv_ssthresh"),
        ("send_window_bytes", "snd_wnd"),
        ("unacked", "unacked"),
        ("lost", "lost"),
        ("sacked", "sacked"),
        ("dsack_duplicates", "dsack_dups"),
        ("reordering_seen", "reord_seen"),
        ("out_of_order_segments", "rcv_ooopack"),
        ("not_sent_bytes", "notsent"),
        ("backoff", "backoff"),
    ] {
        assert_eq!(tcp[ours].as_u64().unwrap_or(0), line.number(theirs), "{ours} of {what}");
    }
    for (ours, theirs) in
        [("rto_us", "rto"), ("ato_us", "ato"), ("min_rtt_us", "minrtt"), ("receive_rtt_us", "rcv_rtt")]
    {
        assert_eq!(tcp[ours].as_u64().unwrap_or(0), line.micros(theirs), "{ours} of {what}");
    }
    let (rtt, var) = line.values.get("rtt").and_then(|both| both.split_once('/')).unwrap_or(("0", "0"));
    if tcp.get("rtt_us").is_some() || rtt != "0" {
        assert_eq!(
            (tcp["rtt_us"].as_u64(), tcp["rtt_var_us"].as_u64()),
            (Some(ss::micros(rtt)), Some(ss::micros(var)))
        );
    }
    for (ours, theirs) in
        [("pacing_rate_bytes_per_second", "pacing_rate"), ("delivery_rate_bytes_per_second", "delivery_rate")]
    {
        assert_eq!(tcp[ours].as_u64().unwrap_or(0), line.rate(theirs), "{ours} of {what}");
    }
    let has = |word: &str| line.words.iter().any(|one| one == word);
    assert_eq!(tcp["delivery_rate_app_limited"], has("app_limited"), "{what}");
    assert!(has(tcp["congestion_control"].as_str().expect("an algorithm")), "{what}");
    let options: Vec<&str> = tcp["options"].as_array().expect("options").iter().filter_map(Value::as_str).collect();
    assert_eq!((options.contains(&"timestamps"), options.contains(&"sack")), (has("ts"), has("sack")), "{what}");
    let scales = line.values.get("wscale").map(|both| both.replace(',', " "));
    let ours = tcp.get("send_window_scale").map(|send| format!("{send} {}", tcp["receive_window_scale"]));
    assert_eq!(ours, scales, "{what}");
}

/// Our rows of `protocol`, by their ends as ss writes them.
fn by_ends<'a>(envelope: &'a Value, protocol: &str) -> BTreeMap<(String, String), &'a Value> {
    let interface = |row: &Value| row.get("interface_index").map(|_| "lo");
    rows(envelope)
        .iter()
        .filter(|row| row["protocol"] == protocol)
        // Bound and no more: ss does not ask for these.
        .filter(|row| protocol != "tcp" || row["state"] != "unconnected")
        .map(|row| ((ss::endpoint(row, "local", interface(row)), ss::endpoint(row, "remote", None)), row))
        .collect()
}

#[test]
fn sockets_in_every_state_are_what_ss_says() {
    let name = "sockets_in_every_state_are_what_ss_says";
    let Some(holder) = Holder::start(name, &[]).filter(|_| tools(name, &["ss"])) else { return };
    for (protocol, option) in [("tcp", "-t"), ("udp", "-u")] {
        // A segment may be sent again between the two looks.
        wait_for(&format!("equal answers of ss and the agent on {protocol}"), SOON, || {
            let lines = || -> Vec<String> { ss::lines(&holder.enter(), &[option, "-p", "-e", "-m", "-o"]) };
            // What ticks in the lines is gone when only these are kept.
            let steady = |lines: &[String]| -> Vec<String> {
                lines.iter().map(|line| line.split("timer:").next().unwrap_or_default().to_owned()).collect()
            };
            let before = lines();
            let seen = holder.inside(&["--info", "--protocol", protocol]);
            if steady(&before) != steady(&lines()) {
                return None;
            }
            let ours = by_ends(&seen, protocol);
            assert_eq!(ours.len(), before.len(), "{seen}\n{before:#?}");
            for line in &before {
                let line = ss::Line::of(line);
                let row = ours.get(&(line.local.clone(), line.remote.clone()));
                assert_same(row.unwrap_or_else(|| panic!("not seen: {line:?}\n{seen}")), &line);
            }
            Some(())
        });
    }
    let seen = holder.inside(&["--info"]);
    for (socket, state) in [
        ("listener", "listen"),
        ("client", "established"),
        ("mapped", "established"),
        ("bound", "unconnected"),
        ("close_wait", "close_wait"),
        ("fin_wait2", "fin_wait2"),
        ("syn_sent", "syn_sent"),
        ("udp", "unconnected"),
        ("udp_client", "established"),
    ] {
        assert_eq!(holder.row(&seen, socket)["state"], state, "{socket}");
    }
    let listener = holder.row(&seen, "listener");
    assert_eq!((&listener["backlog"], &listener["backlog_limit"]), (&json!(3), &json!(5)));
    assert_eq!(holder.row(&seen, "server")["receive_queue_bytes"], 1000);
    assert!(holder.row(&seen, "stuck_sender")["send_queue_bytes"].as_u64() > Some(100_000));
    assert_eq!(holder.row(&seen, "stuck_sender")["timer"]["kind"], "zero_window_probe");
    assert_eq!(holder.row(&seen, "keepalive")["timer"]["kind"], "keepalive");
    assert_eq!(holder.row(&seen, "deaf")["shutdown"], "receive");
    assert_eq!(holder.row(&seen, "mapped")["local_address"], "::ffff:127.0.0.1");
    assert_eq!(holder.row(&seen, "udp_on_lo")["interface_index"], 1);
}

#[test]
fn tcp_from_inside_is_what_ss_says() {
    let name = "tcp_from_inside_is_what_ss_says";
    let Some(holder) = Holder::start(name, &["quiet"]).filter(|_| tools(name, &["ss"])) else { return };
    let option = ["-t", "-p", "-e", "-m", "-o", "-i"];
    let before = ss::lines(&holder.enter(), &option);
    let seen = holder.inside(&["--info", "--volatile", "--protocol", "tcp"]);
    let after = ss::lines(&holder.enter(), &option);
    let ours = by_ends(&seen, "tcp");
    let after: BTreeMap<_, _> = after
        .iter()
        .map(|line| ss::Line::of(line))
        .map(|line| ((line.local.clone(), line.remote.clone()), line))
        .collect();
    let mut connections = 0;
    for line in before.iter().map(|line| ss::Line::of(line)) {
        let ends = (line.local.clone(), line.remote.clone());
        let row = ours[&ends];
        assert_same(row, &line);
        let Some(tcp) = row.get("tcp") else { continue };
        connections += 1;
        assert_same_inside(tcp, &line);
        for (ours, theirs) in [
            ("last_data_sent_us", "lastsnd"),
            ("last_data_received_us", "lastrcv"),
            ("last_ack_received_us", "lastack"),
        ] {
            let range = line.number(theirs) * 1000..=after[&ends].number(theirs) * 1000;
            let us = tcp[ours].as_u64().expect("ticks");
            assert!(range.contains(&us), "{ours} {us} is not in {range:?}");
        }
    }
    assert!(connections >= 11, "{connections}");
    // By default there is less, and it is the same.
    let brief = holder.inside(&["--protocol", "tcp"]);
    for (row, whole) in common::pairs(rows(&brief), rows(&seen)) {
        for (key, value) in row["tcp"].as_object().into_iter().flatten() {
            assert_eq!(*value, whole["tcp"][key], "{key}");
        }
        assert_eq!(row.get("memory"), None);
        assert!(row["tcp"].get("last_data_sent_us").is_none() && row.get("cookie").is_none());
    }
}

#[test]
fn unix_sockets_have_names_peers_and_owners() {
    let name = "unix_sockets_have_names_peers_and_owners";
    let Some(holder) = Holder::start(name, &["quiet"]) else { return };
    let seen = holder.inside(&["--info", "--protocol", "unix"]);
    let pid = u64::from(holder.pid());
    for said in holder.child.truth.iter().filter(|said| said.get("name_hex").is_some() || said.get("peer").is_some()) {
        let row = row(&seen, "inode", said["inode"].clone());
        assert_eq!(owners(row), BTreeSet::from([(pid, said["fd"].as_u64().expect("fd"))]), "{said}");
        if let Some(peer) = said.get("peer") {
            assert_eq!(row["peer_inode"], *peer, "{said}");
            let peer = holder.child.said("inode", peer.clone());
            assert_eq!(row["peer_owners"][0]["fd"], peer["fd"], "{said}");
            assert_eq!(row["peer_owners"][0]["pid"], pid, "{said}");
        }
        if let Some(name) = said.get("name_hex") {
            let name = unhex(name);
            let (key, expected) = if name[0] == 0 { ("abstract_name", &name[1..]) } else { ("path", &name[..]) };
            assert_eq!(bytes(&row[key]), expected, "{said}");
            if key == "path" {
                let file = fs::symlink_metadata(Path::new(std::ffi::OsStr::from_bytes(&name))).expect("the file");
                assert_eq!(row["file_inode"], file.ino().to_string());
                let device = format!("{}:{}", nix::sys::stat::major(file.dev()), nix::sys::stat::minor(file.dev()));
                assert_eq!(row["file_device"], device);
            }
            // One client waits.
            if row["state"] == "listen" {
                assert_eq!((&row["backlog"], &row["backlog_limit"]), (&json!(1), &json!(7)), "{said}");
            }
        }
    }
    let kind = |name: &str| holder.row(&seen, name)["type"].clone();
    assert_eq!(kind("unix"), "stream");
    assert_eq!(kind("unix_packets"), "seqpacket");
    assert_eq!(kind("unix_datagrams"), "datagram");
    assert_eq!(holder.row(&seen, "unix_server")["receive_queue_bytes"], 33);
    assert_eq!(holder.row(&seen, "pair0")["shutdown"], "send");
    assert_eq!(holder.row(&seen, "pair1")["shutdown"], "receive");
    if !tools(name, &["ss"]) {
        return;
    }
    // u_str ESTAB 0 0 NAME INODE * PEER: the names with blanks and newlines in them are not comparable there.
    let mut compared = 0;
    for line in ss::lines(&holder.enter(), &["-x", "-p", "-m"]) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [netid, state, receive, send, _, inode, "*", peer, ..] = words[..] else { continue };
        if !netid.starts_with("u_") || inode.parse::<u64>().is_err() {
            continue;
        }
        compared += 1;
        let line = ss::Line::of(&format!("{state} {receive} {send} - - ino:{inode} {}", words[8..].join(" ")));
        let row = row(&seen, "inode", inode);
        let of_unix = ss::Line { cookie: None, timer: None, ..line };
        assert_same(row, &of_unix);
        assert_eq!(row["peer_inode"].as_str().unwrap_or("0"), peer, "{row}");
    }
    assert!(compared >= 10, "{compared}");
}

#[test]
fn other_protocols_and_sockets_of_no_table_are_listed() {
    let Some(holder) = Holder::start("other_protocols_and_sockets_of_no_table_are_listed", &["quiet"]) else { return };
    let seen = holder.inside(&[]);
    let pid = u64::from(holder.pid());
    let expect = |name: &str, members: Value| {
        if holder.child.truth.iter().any(|line| line["missing"] == name) {
            skip(&format!("sockets {name}"), "this machine does not allow it");
            return;
        }
        let row = holder.row(&seen, name);
        for (key, value) in members.as_object().expect("members") {
            assert_eq!(row[key], *value, "{key} of {row}");
        }
        assert!(owners(row).contains(&(pid, holder.said(name)["fd"].as_u64().expect("fd"))), "{row}");
    };
    expect("raw", json!({"protocol": "raw", "family": "ipv4", "ip_protocol": 1, "state": "unconnected"}));
    expect("raw6", json!({"protocol": "raw", "family": "ipv6", "ip_protocol": 58}));
    expect("icmp", json!({"protocol": "icmp", "family": "ipv4", "local_address": "127.0.0.1", "local_port": 77}));
    expect("udplite", json!({"protocol": "udplite", "local_address": "127.0.0.1", "local_port": 4103}));
    expect("packet", json!({"protocol": "packet", "type": "raw", "ethernet_protocol": 3, "interface_index": 1}));
    expect("netlink", json!({"protocol": "netlink", "netlink_name": "route", "groups": "0x41"}));
    expect("unbound", json!({"protocol": "other", "kernel_name": "TCP"}));
    let child = holder.said("child")["pid"].as_u64().expect("a pid");
    let shared = holder.row(&seen, "shared");
    let fd = holder.said("shared")["fd"].as_u64().expect("fd");
    assert_eq!(owners(shared), BTreeSet::from([(pid, fd), (child, fd)]));
    if let Some(mptcp) = holder.child.truth.iter().find(|line| line["name"] == "mptcp") {
        // Its subflow is a TCP socket with the same inode.
        let both: Vec<&Value> = rows(&seen).iter().filter(|row| row["inode"] == mptcp["inode"]).collect();
        let protocols: Vec<&Value> = both.iter().map(|row| &row["protocol"]).collect();
        assert_eq!(protocols, [&json!("tcp"), &json!("mptcp")]);
        assert_eq!(both[1]["backlog_limit"], 9);
    }
    // The agent's own sockets are not among them: this namespace has nobody else.
    for row in rows(&seen).iter().filter(|row| row.get("inode").is_some()) {
        assert_ne!(row["owners"], json!([]), "{row}");
    }
    let summary = &seen["data"]["summary"];
    assert_eq!(summary["sockets"], rows(&seen).len());
    assert_eq!(summary["protocols"]["tcp"]["listen"], 3);
    assert_eq!(summary["protocols"]["unix"]["listen"], 4);
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).expect("ns/net");
    assert_eq!(link.to_str(), Some(&*format!("net:[{}]", summary["network_namespace"].as_str().expect("an inode"))));
    assert_eq!((&summary["own_namespace"], &summary["sources"]["tcp"]), (&json!(true), &json!("sock_diag")));
}
