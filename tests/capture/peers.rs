//! The same traffic through tcpdump and tshark: equal packets, and figures that agree.

use std::collections::BTreeMap;
use std::process::Stdio;

use crate::common::servers::Postgres;
use crate::common::{self, rows};
use crate::net::{Captured, NOBODY, Net, SERVER, Side, capture, tshark};
use crate::{number, sum};

/// Equal packets for equal filters: those that tcpdump saw at the same time, byte for byte as far as they are kept.
pub(crate) fn assert_as_tcpdump(captured: &Captured) {
    let fields = ["frame.time_epoch", "frame.len"];
    let (own, theirs) = (tshark(&captured.pcapng, "", &fields), tshark(&captured.tcpdump, "", &fields));
    let of = |rows: &[Vec<String>]| -> Vec<(String, String)> {
        // tcpdump -w keeps microseconds, in which two packets may have the same time.
        let mut all: Vec<_> = rows.iter().map(|row| (row[0][..17].to_owned(), row[1].clone())).collect();
        all.sort();
        all
    };
    assert_eq!(own.len(), theirs.len(), "as many packets as tcpdump");
    assert_eq!(of(&own), of(&theirs));
    let summary = &captured.envelope["data"]["summary"];
    assert_eq!(number(&summary["packets"]) as usize, own.len());
    assert_eq!(number(&summary["kernel_dropped"]), 0);
    assert_eq!(
        sum(&captured.envelope, "/client_packets")
            + sum(&captured.envelope, "/server_packets")
            + number(&summary["not_ip"]),
        number(&summary["packets"])
    );
}

/// The packets of the connections whose client has one of these ports, and what tshark makes of each.
fn packets_of(captured: &Captured, is_meant: impl Fn(&u64) -> bool) -> String {
    let fields =
        ["frame.time_relative", "tcp.srcport", "tcp.dstport", "tcp.seq", "tcp.ack", "tcp.len", "tcp.flags.str"];
    let analysis = ["retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order", "lost_segment"];
    let analysis = analysis.map(|name| format!("tcp.analysis.{name}"));
    let fields: Vec<&str> = fields.into_iter().chain(analysis.iter().map(String::as_str)).collect();
    let rows = tshark(&captured.pcapng, "tcp", &fields);
    let is_of = |row: &&Vec<String>| {
        row[1..3].iter().filter_map(|port| port.parse().ok()).max().is_some_and(|port| is_meant(&port))
    };
    rows.iter().filter(is_of).map(|row| row.join(" ") + "\n").collect()
}

/// What tshark says of each TCP connection, by the client's port.
fn assert_as_tshark(captured: &Captured) {
    let count = |filter: &str| {
        let mut by_port: BTreeMap<u64, u64> = BTreeMap::new();
        for row in tshark(&captured.pcapng, filter, &["tcp.srcport", "tcp.dstport"]) {
            let ports: Vec<u64> = row.iter().filter_map(|port| port.parse().ok()).collect();
            *by_port.entry(*ports.iter().max().expect("ports")).or_default() += 1;
        }
        by_port
    };
    let both = |key: &str| -> BTreeMap<u64, u64> {
        let tcp = rows(&captured.envelope).iter().filter(|row| row["protocol"] == "tcp");
        tcp.map(|row| {
            let count = number(&row["tcp"]["client"][key]) + number(&row["tcp"]["server"][key]);
            (number(&row["client_port"]), count)
        })
        .filter(|(_, count)| *count > 0)
        .collect()
    };
    for (filter, key) in [
        ("tcp.analysis.retransmission", "retransmissions"),
        ("tcp.analysis.out_of_order", "out_of_order"),
        ("tcp.analysis.duplicate_ack", "duplicate_acks"),
        ("tcp.analysis.zero_window", "zero_windows"),
        ("tcp.flags.syn == 1", "syns"),
        ("tcp.analysis.lost_segment", "not_captured"),
    ] {
        let (own, theirs) = (both(key), count(filter));
        assert_eq!(own, theirs, "{filter}\n{}", packets_of(captured, |port| own.get(port) != theirs.get(port)));
    }
    let mut handshakes = 0;
    for row in tshark(
        &captured.pcapng,
        "tcp.analysis.initial_rtt",
        &["tcp.srcport", "tcp.dstport", "tcp.analysis.initial_rtt"],
    ) {
        let port = row[..2].iter().filter_map(|port| port.parse::<u64>().ok()).max().expect("ports");
        let theirs = (row[2].parse::<f64>().expect("seconds") * 1e6) as u64;
        let own = number(&common::row(&captured.envelope, "client_port", port)["handshake_us"]);
        assert!(own.abs_diff(theirs) <= 1, "handshake of {port}: {own} us, and {theirs} us by tshark");
        handshakes += 1;
    }
    assert!(handshakes > 0);
}

#[test]
fn agrees_with_tcpdump_and_tshark_on_http_over_a_bad_link() {
    let Some(net) = Net::new("http", 5000, 60, 37, &["curl", "nginx"]) else { return };
    let _nginx = net.nginx(3_000_000);
    for side in [Side::Client, Side::Server] {
        let captured = capture(&net, side, &[], "tcp port 80", || {
            for path in ["large?token=secret", "missing", "large"] {
                let got =
                    net.client("curl").args(["-s", "-o", "/dev/null", &format!("http://{SERVER}/{path}")]).status();
                assert!(got.expect("curl").success());
            }
        });
        assert_as_tcpdump(&captured);
        assert_as_tshark(&captured);
        let data = &captured.envelope["data"];
        let bad = number(&data["summary"]["retransmissions"]) + number(&data["summary"]["out_of_order"]);
        assert!(bad > 20, "the link is a bad one: {}", data["summary"]);
        let http: Vec<(&str, u64)> = data["http"]
            .as_array()
            .expect("http")
            .iter()
            .map(|one| (one["target"].as_str().expect("a target"), number(&one["status"])))
            .collect();
        assert_eq!(http, [("/large?token=*", 200), ("/missing", 404), ("/large", 200)]);
        assert!(data["http"].as_array().expect("http").iter().all(|one| number(&one["first_byte_us"]) < 1_000_000));
        for row in rows(&captured.envelope) {
            assert!(number(&row["handshake_us"]) >= 10_000, "5 ms each way");
            assert_eq!(
                (&row["server_address"], &row["server_port"], &row["state"]),
                (&SERVER.into(), &80.into(), &"closed".into())
            );
            if side == Side::Server {
                assert_eq!(row["server_owner"]["name"], "nginx");
            }
        }
        // Payload is not in the file: all that was asked for is 2048 bytes, and tcpdump has them.
        assert!(!contains(&captured.pcapng, b"secret") && contains(&captured.tcpdump, b"secret"));
        assert!(!captured.stderr.contains("secret"));
    }
}

fn contains(file: &std::path::Path, text: &[u8]) -> bool {
    std::fs::read(file).expect("a capture").windows(text.len()).any(|window| window == text)
}

#[test]
fn agrees_with_tshark_on_dns() {
    let Some(net) = Net::new("dns", 3000, 0, 0, &["dnsmasq", "dig"]) else { return };
    let _dnsmasq = net.dnsmasq();
    let captured = capture(&net, Side::Client, &[], "port 53", || {
        let ask = |arguments: &[&str]| {
            let at = format!("@{SERVER}");
            let output =
                net.client("dig").args([&at, "+tries=2", "+time=1"]).args(arguments).stdout(Stdio::null()).status();
            output.expect("dig");
        };
        ask(&["db.example", "A"]);
        ask(&["db.example", "AAAA"]);
        ask(&["+tcp", "db.example", "A"]);
        for name in ["api.ns.svc.cluster.local", "api.svc.cluster.local", "api.cluster.local", "api"] {
            ask(&[name, "A"]);
        }
        // There is nobody: unanswered.
        let mut nobody = net.client("dig");
        nobody.args([&format!("@{}", NOBODY), "+tries=2", "+time=1", "lost.example"]);
        nobody.stdout(Stdio::null()).status().expect("dig");
    });
    assert_as_tcpdump(&captured);
    let dns = &captured.envelope["data"]["dns"];
    let questions = dns["questions"].as_array().expect("questions");
    let question = |name: &str, kind: &str| {
        questions
            .iter()
            .find(|one| one["name"] == name && one["type"] == kind)
            .unwrap_or_else(|| panic!("{name} {kind}"))
    };
    assert_eq!(question("db.example", "A")["answers"], serde_json::json!({"noerror": 2}));
    assert_eq!(question("api", "A")["answers"], serde_json::json!({"nxdomain": 1}));
    let lost = question("lost.example", "A");
    assert!(number(&lost["unanswered"]) >= 1 && lost.get("latency").is_none(), "{lost}");
    let mut latencies: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for row in tshark(&captured.pcapng, "dns.time", &["dns.qry.name", "dns.qry.type", "dns.time"]) {
        let time = (row[2].parse::<f64>().expect("seconds") * 1e6).round() as u64;
        latencies.entry(format!("{} {}", row[0], if row[1] == "1" { "A" } else { "AAAA" })).or_default().push(time);
    }
    assert!(latencies.len() >= 6);
    for (name, times) in latencies {
        let (name, kind) = name.split_once(' ').expect("two words");
        let own = &question(name, kind)["latency"];
        assert_eq!(number(&own["samples"]) as usize, times.len(), "{name}");
        let (min, max) = (times.iter().min().expect("times"), times.iter().max().expect("times"));
        assert!(
            number(&own["min_us"]).abs_diff(*min) <= 1 && number(&own["max_us"]).abs_diff(*max) <= 1,
            "{name}: {own} {times:?}"
        );
    }
    let searches = dns["searches"].as_array().expect("searches");
    assert_eq!((searches.len(), &searches[0]["name"], number(&searches[0]["wasted_queries"])), (1, &"api".into(), 3));
    let summary = &captured.envelope["data"]["summary"];
    assert_eq!(summary["malformed"], serde_json::json!({}));
}

#[test]
fn agrees_with_tshark_on_redis_and_names_both_owners() {
    let Some(net) = Net::new("redis", 500, 0, 25, &["redis-server", "redis-benchmark"]) else { return };
    let _redis = net.redis();
    let captured = capture(&net, Side::Server, &[], "tcp port 6379", || {
        let mut benchmark = net.client("redis-benchmark");
        benchmark.args(["-h", SERVER, "-n", "2000", "-c", "5", "-d", "400", "-t", "set,get", "-q"]);
        assert!(benchmark.stdout(Stdio::null()).status().expect("redis-benchmark").success());
    });
    assert_as_tcpdump(&captured);
    assert_as_tshark(&captured);
    for row in rows(&captured.envelope) {
        assert_eq!(row["server_owner"]["name"], "redis-server");
    }
    // Each packet says whose it is.
    let comments = tshark(&captured.pcapng, "", &["frame.comment"]);
    assert!(comments.iter().all(|row| row[0].contains("redis-server (pid ")), "{:?}", comments.first());
}

#[test]
fn agrees_with_tshark_on_postgres() {
    let Some(net) = Net::new("postgres", 800, 40, 25, &["psql"]) else { return };
    let postgres = match Postgres::start_at(SERVER, 5432, |program| net.run(Side::Server, program)) {
        Ok(postgres) => postgres,
        Err(reason) => return common::skip("agrees_with_tshark_on_postgres", reason),
    };
    let port = postgres.port.to_string();
    let captured = capture(&net, Side::Server, &[], &format!("tcp port {port}"), || {
        for _ in 0..3 {
            let mut psql = net.client("psql");
            let query = "select repeat('canary-of-the-payload', 20) from generate_series(1, 400)";
            psql.args(["-h", SERVER, "-p", &port, "-U", "postgres", "-At", "-c", query]);
            assert!(psql.stdout(Stdio::null()).status().expect("psql").success());
        }
    });
    assert_as_tcpdump(&captured);
    assert_as_tshark(&captured);
    assert_eq!(rows(&captured.envelope).len(), 3);
    for row in rows(&captured.envelope) {
        assert_eq!(row["server_owner"]["name"], "postgres", "{row}");
        assert!(number(&row["handshake_us"]) > 0, "{row}");
    }
    assert!(!contains(&captured.pcapng, b"canary-of-the-payload"));
}
