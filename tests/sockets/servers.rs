//! Sockets of this test itself and of real servers, filters, digests, counters, and very many sockets.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::servers::{Postgres, free_port};
use crate::common::{self, Child, SOON, bytes, json, row, rows, run, skip, wait_until};
use crate::holder::{Holder, owners, tools};
use crate::{assert_same, ss};

fn own_pid() -> String {
    std::process::id().to_string()
}

/// The inode of one of our sockets.
fn inode(fd: RawFd) -> String {
    fs::metadata(format!("/proc/self/fd/{fd}")).expect("a descriptor").ino().to_string()
}

/// The sockets of this process, as the agent sees them.
fn own(arguments: &[&str]) -> Value {
    json([&["sockets", "--pid", &own_pid(), "--process", &own_pid()], arguments].concat())
}

fn own_row(seen: &Value, fd: RawFd) -> &Value {
    let row = row(seen, "inode", inode(fd));
    assert!(owners(row).contains(&(std::process::id().into(), u64::try_from(fd).expect("a descriptor"))), "{row}");
    row
}

#[test]
fn sockets_of_this_test_are_seen_as_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).expect("connects");
    let (mut server, peer) = listener.accept().expect("accepts");
    (&client).write_all(b"hello").expect("writes");
    server.set_nonblocking(false).expect("blocks");
    server.peek(&mut [0; 5]).expect("peeks");
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let six = TcpListener::bind("[::1]:0").ok();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("a\nb\u{1b}[2J");
    let unix = UnixListener::bind(&path).expect("binds");
    let (one, other) = UnixStream::pair().expect("a pair");

    let seen = own(&[]);
    let line = own_row(&seen, listener.as_raw_fd());
    assert_eq!((&line["protocol"], &line["state"], &line["backlog"]), (&json!("tcp"), &json!("listen"), &json!(0)));
    assert_eq!((&line["local_address"], &line["local_port"]), (&json!("127.0.0.1"), &json!(address.port())));
    let line = own_row(&seen, server.as_raw_fd());
    assert_eq!((&line["state"], &line["receive_queue_bytes"]), (&json!("established"), &json!(5)));
    assert_eq!((&line["remote_address"], &line["remote_port"]), (&json!("127.0.0.1"), &json!(peer.port())));
    assert_eq!((&line["tcp"]["bytes_received"], &line["tcp"]["lost"]), (&json!(5), &json!(0)));
    let line = own_row(&seen, client.as_raw_fd());
    assert_eq!((&line["local_port"], &line["tcp"]["bytes_acked"]), (&json!(peer.port()), &json!(6)));
    let name = line["owners"][0]["name"].as_str().expect("a name");
    let comm = fs::read_to_string("/proc/self/comm").expect("comm");
    assert_eq!(name, comm.trim_end());
    let line = own_row(&seen, datagrams.as_raw_fd());
    assert_eq!((&line["protocol"], &line["state"]), (&json!("udp"), &json!("unconnected")));
    if let Some(six) = &six {
        let line = own_row(&seen, six.as_raw_fd());
        assert_eq!((&line["family"], &line["local_address"]), (&json!("ipv6"), &json!("::1")));
    }
    let line = own_row(&seen, unix.as_raw_fd());
    assert_eq!((bytes(&line["path"]), &line["type"]), (path.as_os_str().as_encoded_bytes().to_vec(), &json!("stream")));
    assert_eq!(own_row(&seen, one.as_raw_fd())["peer_inode"], inode(other.as_raw_fd()));

    // What was read is gone from the queue.
    server.read_exact(&mut [0; 5]).expect("reads");
    assert_eq!(own_row(&own(&["--protocol", "tcp"]), server.as_raw_fd())["receive_queue_bytes"], 0);
}

#[test]
fn filters_leave_only_what_is_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    let (server, _) = listener.accept().expect("accepts");
    let (_one, _other) = UnixStream::pair().expect("a pair");
    let inodes = |arguments: &[&str]| -> BTreeSet<String> {
        let seen = own(arguments);
        rows(&seen).iter().filter_map(|row| row["inode"].as_str().map(str::to_owned)).collect()
    };
    let [listener, client, server] = [listener.as_raw_fd(), client.as_raw_fd(), server.as_raw_fd()].map(inode);
    let port = port.to_string();
    assert_eq!(inodes(&["--port", &port]), BTreeSet::from([listener.clone(), client.clone(), server.clone()]));
    assert_eq!(inodes(&["--port", &port, "--listening"]), BTreeSet::from([listener.clone()]));
    assert_eq!(inodes(&["--port", &port, "--state", "listen,syn_sent"]), BTreeSet::from([listener]));
    assert_eq!(inodes(&["--port", &port, "--state", "established"]), BTreeSet::from([client, server]));
    assert!(inodes(&["--port", &port, "--protocol", "udp,unix"]).is_empty());
    let seen = own(&["--protocol", "unix"]);
    assert!(!rows(&seen).is_empty() && rows(&seen).iter().all(|row| row["protocol"] == "unix"));
    for wrong in [
        &["--state", "open"][..],
        &["--protocol", "http"],
        &["--port", "x"],
        &["--process", "0"],
        &["--process", "1", "--no-owners"],
    ] {
        let answer = run([&["sockets"], wrong].concat());
        assert_eq!((answer.status, answer.stdout.len()), (2, 0), "{wrong:?}: {}", answer.stderr);
    }
    let gone = json(["sockets", "--pid", &own_pid(), "--process", "4194303"]);
    let gaps = crate::common::gaps_at(&gone, "/rows");
    assert!(rows(&gone).is_empty() && gaps.iter().any(|gap| gap["reason"] == "exited"), "{gaps:?}");
}

#[test]
fn rows_are_sorted_and_an_unchanged_namespace_has_the_same_digest() {
    let Some(holder) = Holder::start("rows_are_sorted_and_an_unchanged_namespace_has_the_same_digest", &["quiet"])
    else {
        return;
    };
    for arguments in [&[][..], &["--info"], &["--protocol", "tcp,unix", "--counters"]] {
        let (one, two) = (holder.inside(arguments), holder.inside(arguments));
        assert_eq!(one["data"]["summary"], two["data"]["summary"]);
        for (one, two) in rows(&one).iter().zip(rows(&two)) {
            assert_eq!(one, two, "{arguments:?}");
        }
        assert_eq!(one["data"], two["data"], "{arguments:?}");
        assert_eq!(one["digest"], two["digest"]);
    }
    // The time since something happened is another each time.
    let first = holder.inside(&["--volatile"]);
    wait_until("another time", SOON, || holder.inside(&["--volatile"])["digest"] != first["digest"]);
    let seen = holder.inside(&[]);
    let protocols = ["tcp", "mptcp", "udp", "udplite", "icmp", "raw", "unix", "packet", "netlink", "vsock", "other"];
    let families = ["ipv4", "ipv6"];
    let address = |row: &Value, key: &str| row[key].as_str().and_then(|text| text.parse::<std::net::IpAddr>().ok());
    let keys: Vec<_> = rows(&seen)
        .iter()
        .map(|row| {
            let protocol = protocols.iter().position(|name| row["protocol"] == *name).expect("a protocol");
            let family = families.iter().position(|name| row["family"] == *name);
            let name = row.get("abstract_name").map(|name| [vec![0], bytes(name)].concat());
            let name = name.or_else(|| row.get("path").map(bytes));
            let local = (address(row, "local_address"), row["local_port"].as_u64());
            let remote = (address(row, "remote_address"), row["remote_port"].as_u64());
            let inode = row["inode"].as_str().map_or(0, |inode| inode.parse::<u64>().expect("a number"));
            (protocol, family, local, remote, name, inode)
        })
        .collect();
    assert!(keys.is_sorted(), "{keys:#?}");
}

#[test]
fn counters_are_those_of_the_namespace() {
    let Some(holder) = Holder::start("counters_are_those_of_the_namespace", &[]) else { return };
    let seen = holder.outside(&["--counters", "--protocol", "tcp"]);
    let counters = &seen["data"]["summary"]["counters"];
    // The listener whose backlog is full, and the connections of this namespace alone.
    assert!(counters["listen_overflows"].as_u64() >= Some(1), "{counters}");
    assert!(counters["listen_drops"].as_u64() >= counters["listen_overflows"].as_u64(), "{counters}");
    assert!((10..40).contains(&counters["active_opens"].as_u64().expect("a number")), "{counters}");
    assert_eq!(counters["udp_sent"], 1);
    let text = fs::read_to_string(format!("/proc/{}/net/snmp", holder.pid())).expect("snmp");
    let tcp: Vec<Vec<&str>> = text.lines().filter(|l| l.starts_with("Tcp:")).map(|l| l.split(' ').collect()).collect();
    for (name, key) in
        [("ActiveOpens", "active_opens"), ("EstabResets", "established_resets"), ("OutRsts", "resets_sent")]
    {
        let at = tcp[0].iter().position(|one| *one == name).expect("a heading");
        assert_eq!(counters[key].to_string(), tcp[1][at], "{name}");
    }
    assert_eq!(holder.outside(&["--protocol", "tcp"])["data"]["summary"].get("counters"), None);
    // What is the machine's is called so, and left out unless it is asked for: somebody else's traffic moves it.
    let all = holder.outside(&["--counters", "--volatile", "--protocol", "tcp"]);
    for name in ["machine_tcp_orphans", "machine_tcp_memory_pages", "machine_udp_memory_pages"] {
        assert!(counters.get(name).is_none(), "{counters}");
        assert!(all["data"]["summary"]["counters"][name].is_u64(), "{all}");
    }
}

#[test]
fn fifteen_thousand_connections_need_little_memory() {
    let arguments = ["many", "7500"];
    let Some(holder) = Holder::start("fifteen_thousand_connections_need_little_memory", &arguments) else { return };
    let seen = holder.inside(&["--protocol", "tcp"]);
    assert_eq!(rows(&seen).len(), 15_001);
    let child = holder.said("child")["pid"].as_u64().expect("a pid");
    let both = BTreeSet::from([u64::from(holder.pid()), child]);
    let mut seen_owners = BTreeSet::new();
    for row in rows(&seen) {
        // Both hold the listener.
        let count = if row["state"] == "listen" { 2 } else { 1 };
        let owners = owners(row);
        assert_eq!(owners.len(), count, "{row}");
        for (pid, fd) in owners {
            assert!(both.contains(&pid) && seen_owners.insert((pid, fd)), "{row}");
        }
        if row["state"] == "established" {
            let bytes = (row["tcp"]["bytes_received"].as_u64(), row["tcp"]["bytes_acked"].as_u64());
            assert!(matches!(bytes, (Some(10), Some(0)) | (Some(0), Some(11))), "{row}");
        }
    }
    // Beside what the program itself takes, which is much in a build for tests.
    let peak = |envelope: &Value| envelope["cost"]["peak_rss_kib"].as_u64().expect("a number");
    let taken = peak(&seen) - peak(&json(["version"]));
    assert!(taken <= 7 << 10, "{taken} KiB");
}

/// A port that is free now.
fn connect(port: u16) -> TcpStream {
    wait_until(&format!("a server on port {port}"), SOON, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    TcpStream::connect(("127.0.0.1", port)).expect("connects")
}

/// Compares all sockets of `port` with ss.
fn assert_port_is_what_ss_says(port: u16, connections: usize) -> Value {
    let filter = format!("( sport = :{port} or dport = :{port} )");
    let text = port.to_string();
    let arguments = ["sockets", "--pid", &own_pid(), "--port", &text, "--protocol", "tcp", "--info"];
    let mut last = None;
    wait_until("a quiet server", SOON, || {
        let lines = || ss::lines(&[], &["-t", "-p", "-e", "-m", "-o", &filter]);
        let (before, seen) = (lines(), json(arguments));
        let established = rows(&seen).iter().filter(|row| row["state"] == "established").count();
        // Timers tick, and so do those that only tried the port, in TIME_WAIT.
        let steady = |lines: &[String]| -> Vec<String> {
            let lines = lines.iter().filter(|line| !line.starts_with("TIME-WAIT"));
            let kept = |line: &String| -> Vec<String> {
                line.split_whitespace().filter(|word| !word.starts_with("timer:")).map(str::to_owned).collect()
            };
            lines.map(|line| kept(line).join(" ")).collect()
        };
        let is_quiet = steady(&before) == steady(&lines()) && established == 2 * connections;
        let lines = before.into_iter().filter(|line| !line.starts_with("TIME-WAIT")).collect::<Vec<_>>();
        last = is_quiet.then_some((lines, seen));
        is_quiet
    });
    let (lines, seen) = last.expect("quiet");
    let ours: Vec<&Value> = rows(&seen).iter().filter(|row| row["state"] != "time_wait").collect();
    assert_eq!(ours.len(), lines.len());
    for line in lines.iter().map(|line| ss::Line::of(line)) {
        let row = ours.iter().find(|row| row["inode"] == line.inode);
        assert_same(row.unwrap_or_else(|| panic!("not seen: {line:?}")), &line);
    }
    seen
}

#[test]
fn sockets_of_redis_are_what_ss_says() {
    let name = "sockets_of_redis_are_what_ss_says";
    if !tools(name, &["redis-server", "ss"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.current_dir(&directory).args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
    let server = Child::start(&mut command);
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(port)).collect();
    for client in &mut clients {
        client.write_all(b"PING\r\n").expect("writes");
        let mut answer = [0; 7];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"+PONG\r\n");
    }
    let seen = assert_port_is_what_ss_says(port, clients.len());
    let of_redis = |row: &&Value| owners(row).iter().any(|(pid, _)| *pid == u64::from(server.pid()));
    let established = rows(&seen).iter().filter(of_redis).filter(|row| row["state"] == "established").count();
    assert_eq!(established, clients.len());
}

#[test]
fn sockets_of_postgres_are_what_ss_says() {
    let name = "sockets_of_postgres_are_what_ss_says";
    if !tools(name, &["ss"]) {
        return;
    }
    let postgres = match Postgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip(name, reason),
    };
    let clients: Vec<TcpStream> = (0..5).map(|_| postgres.connect()).collect();
    let backends = || {
        let seen = common::json(["sockets", "--allow-gaps"]);
        let is_held = |row: &Value| row["owners"].as_array().is_some_and(|owners| !owners.is_empty());
        let port = u64::from(postgres.port);
        let established = rows(&seen).iter().filter(|row| row["local_port"] == port && row["state"] == "established");
        established.filter(|row| is_held(row)).count()
    };
    wait_until("a backend for each client", SOON, || backends() == clients.len());
    let seen = assert_port_is_what_ss_says(postgres.port, clients.len());
    let listener = rows(&seen).iter().find(|row| row["state"] == "listen").expect("a listener");
    assert!(owners(listener).iter().any(|(pid, _)| *pid == u64::from(postgres.server.pid())), "{listener}");
}

/// Compares the sockets of a server that answers the first byte of each connection.
fn compare_with_ss(port: u16, server: u32) {
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(port)).collect();
    for client in &mut clients {
        client.write_all(b"x").expect("writes");
        client.read_exact(&mut [0]).expect("an answer");
    }
    let seen = assert_port_is_what_ss_says(port, clients.len());
    let of_server = |row: &&Value| owners(row).iter().any(|(pid, _)| *pid == u64::from(server));
    let states = rows(&seen).iter().filter(of_server).map(|row| row["state"].as_str().expect("a state"));
    let count = |wanted: &str| states.clone().filter(|state| *state == wanted).count();
    assert_eq!((count("listen"), count("established")), (1, clients.len()));
}

#[test]
fn sockets_of_python_are_what_ss_says() {
    let name = "sockets_of_python_are_what_ss_says";
    let (directory, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
    if !tools(name, &["ss"]) {
        return;
    }
    match crate::common::servers::python(directory.path(), port) {
        Ok(server) => {
            compare_with_ss(port, server.pid());
            for child in crate::common::servers::children(server.pid()) {
                common::signal(child, nix::sys::signal::Signal::SIGKILL);
            }
        }
        Err(reason) => skip(name, reason),
    }
}

#[test]
fn sockets_of_java_are_what_ss_says() {
    let name = "sockets_of_java_are_what_ss_says";
    let (directory, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
    if !tools(name, &["ss"]) {
        return;
    }
    match crate::common::servers::java_server(directory.path(), port) {
        Ok(server) => compare_with_ss(port, server.pid()),
        Err(reason) => skip(name, reason),
    }
}

#[test]
fn a_listener_of_nginx_has_all_its_processes_as_owners() {
    let name = "a_listener_of_nginx_has_all_its_processes_as_owners";
    if !tools(name, &["nginx", "ss"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().display();
    let port = free_port();
    let configuration = format!(
        "daemon off; worker_processes 2; pid {path}/pid; error_log {path}/error.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {path}/a; proxy_temp_path {path}/b; fastcgi_temp_path {path}/c;\n\
         uwsgi_temp_path {path}/d; scgi_temp_path {path}/e; server {{ listen 127.0.0.1:{port}; location / {{ return 204; }} }} }}\n"
    );
    let file = directory.path().join("nginx.conf");
    fs::write(&file, configuration).expect("writes");
    let server = Child::start(Command::new("nginx").arg("-p").arg(directory.path()).arg("-c").arg(&file));
    let mut clients: Vec<TcpStream> = (0..4).map(|_| connect(port)).collect();
    for client in &mut clients {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("writes");
        assert!(client.read(&mut [0; 512]).expect("an answer") > 0);
    }
    let seen = assert_port_is_what_ss_says(port, clients.len());
    let listener = rows(&seen).iter().find(|row| row["state"] == "listen").expect("a listener");
    let pids: BTreeSet<u64> = owners(listener).into_iter().map(|(pid, _)| pid).collect();
    assert_eq!(pids.len(), 3, "the master and two workers: {listener}");
    assert!(pids.contains(&u64::from(server.pid())));
    let names: BTreeSet<&str> =
        listener["owners"].as_array().into_iter().flatten().filter_map(|owner| owner["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["nginx"]));
}

#[test]
fn connections_that_come_and_go_are_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let open = || {
        let client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
        let (server, _) = listener.accept().expect("accepts");
        (client, server)
    };
    let (kept, early) = (open(), open());
    let port_of = |ends: &(TcpStream, TcpStream)| ends.0.local_addr().expect("an address").port();
    let (kept_port, early_port) = (port_of(&kept), port_of(&early));
    let text = port.to_string();
    let args =
        ["sockets", "--follow", "--for", "60s", "--interval", "20ms", "--port", &text, "--allow-gaps", "-o", "json"];
    let mut agent = Child::start(common::agent().args(args));
    // It sleeps in ppoll(2) when it has looked.
    let sleeps =
        || fs::read_to_string(format!("/proc/{}/syscall", agent.pid())).is_ok_and(|text| text.starts_with("271 "));
    wait_until("the first look", SOON, sleeps);
    drop(early);
    let late = open();
    let late_port = port_of(&late);
    // Closed by the client first: it stays in TIME_WAIT, and is seen however short it lived.
    let brief = open();
    let brief_port = port_of(&brief);
    let (client, server) = brief;
    client.shutdown(std::net::Shutdown::Write).expect("shuts down");
    drop((server, client));
    let looks = || common::threads(agent.pid()).len();
    assert_eq!(looks(), 1);
    // Two more looks at least: it has gone to sleep twice since.
    for _ in 0..2 {
        let switches = || {
            let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).map(str::trim);
            line.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
        };
        let before = switches();
        wait_until("another look", SOON, || switches() > before + 1 && sleeps());
    }
    common::signal(agent.pid(), nix::sys::signal::Signal::SIGINT);
    let seen: Value = serde_json::from_str(&agent.line()).expect("an envelope");
    common::assert_valid(&seen);
    let follow = &seen["data"]["summary"]["follow"];
    assert_eq!(follow["ended"], "signal", "{follow}");
    let of = |port: u16| rows(&seen).iter().filter(move |row| row["local_port"] == port).collect::<Vec<_>>();
    assert!(of(kept_port).is_empty(), "it was there all the time");
    let us = u64::from(std::process::id());
    let [late] = of(late_port)[..] else { panic!("one of {late_port}: {seen}") };
    assert_eq!((&late["event"], &late["state"]), (&json!("opened"), &json!("established")));
    assert!(late["opened_us"].as_u64().is_some_and(|time| time > 0) && owners(late).iter().any(|(pid, _)| *pid == us));
    let [early] = of(early_port)[..] else { panic!("one of {early_port}: {seen}") };
    assert_eq!((&early["event"], early.get("opened_us")), (&json!("closed"), None));
    assert!(owners(early).iter().any(|(pid, _)| *pid == us), "{early}");
    let [brief] = of(brief_port)[..] else { panic!("one of {brief_port}: {seen}") };
    assert_eq!(brief["event"], "opened_and_closed", "{brief}");
    drop(kept);
}
