//! Frames that no tool sends: every outer header, fragments, and what breaks the format of each layer.

use serde_json::{Value, json};

use super::net::{Net, Side, capture, tshark};
use super::{assert_as_tcpdump, number, rows};

#[test]
fn every_outer_header_is_seen_through_and_what_is_malformed_is_counted() {
    let Some(net) = Net::new("crafted", 0, 0, 0, &["python3"]) else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/capture/crafted.py");
    let captured = capture(&net, Side::Client, &["--no-owners"], "", || {
        assert!(net.client("python3").args([script, "agent0"]).status().expect("python3").success());
    });
    let data = &captured.envelope["data"];
    let flow = |client: &str| {
        let mut found = rows(&captured.envelope).iter().filter(|row| row["client_address"] == client);
        let row = found.next().unwrap_or_else(|| panic!("no flow of {client}"));
        assert!(found.next().is_none(), "two flows of {client}");
        assert_eq!(
            (&row["protocol"], &row["client_port"], &row["server_port"]),
            (&json!("udp"), &json!(40000), &json!(2000))
        );
        row
    };
    let outer = |client: &str| {
        let row = flow(client);
        assert_eq!(number(&row["client_packets"]), 1, "{row}");
        assert_eq!(number(&row["client_payload_bytes"]), 40, "{row}");
        ["vlan", "tunnel", "tunnel_id"].map(|key| row[key].clone())
    };
    let expected: [(&str, [Value; 3]); 9] = [
        ("10.1.0.1", [json!(100), json!(null), json!(null)]),
        ("10.2.0.1", [json!(200), json!(null), json!(null)]),
        ("10.3.0.1", [json!(null), json!("gre"), json!(5)]),
        ("fd00:4::1", [json!(null), json!("gre"), json!(null)]),
        ("10.5.0.1", [json!(null), json!("vxlan"), json!(42)]),
        ("10.6.0.1", [json!(null), json!("geneve"), json!(77)]),
        ("10.7.0.1", [json!(null), json!("ip"), json!(null)]),
        ("fd00:8::1", [json!(null), json!("ip"), json!(null)]),
        ("fd00:9::1", [json!(null), json!(null), json!(null)]),
    ];
    for (client, expected) in expected {
        assert_eq!(outer(client), expected, "{client}");
    }
    for client in ["10.10.0.1", "fd00:11::1"] {
        let row = flow(client);
        assert_eq!((number(&row["client_packets"]), number(&row["fragments"])), (2, 2), "{row}");
    }
    let malformed = json!({"link": 1, "network": 3, "transport": 3, "tunnel": 2, "dns": 2});
    assert_eq!(data["summary"]["malformed"], malformed, "{}", data["summary"]);
    // Nothing of them is lost from the file, and tshark reads it as it reads tcpdump's.
    assert_as_tcpdump(&captured);
    let fields = ["frame.protocols", "ip.src", "ipv6.src", "udp.dstport", "vlan.id"];
    let (own, theirs) = (tshark(&captured.pcapng, "udp", &fields), tshark(&captured.tcpdump, "udp", &fields));
    // Of what is malformed only what was understood is kept, and of fragments no payload to put together.
    let headers = |rows: &[Vec<String>]| rows.iter().map(|row| row[1..].to_vec()).collect::<Vec<_>>();
    let (own, theirs) = (headers(&own), headers(&theirs));
    assert_eq!(own[..10], theirs[..10]);
    assert!(own.iter().all(|row| theirs.contains(row)), "{own:?}");
}
