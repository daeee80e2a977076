//! Real servers and runtimes from Debian's packages, as targets.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Child, SOON, has_tool, is_root, wait_until};

/// The user whom a server runs as that refuses to run as root (`nobody`).
const NOBODY: u32 = 65534;

/// A port of loopback that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// A PostgreSQL server with a new, empty cluster.
pub(crate) struct Postgres {
    /// The postmaster.
    pub(crate) server: Child,
    /// Where it listens.
    pub(crate) port: u16,
    _directory: Option<tempfile::TempDir>,
}

impl Postgres {
    /// Starts one on loopback; the error says why there is none.
    pub(crate) fn start() -> Result<Self, &'static str> {
        Self::start_at("127.0.0.1", free_port(), |program| Command::new(program))
    }

    /// Starts one that listens at `address`, where `run` runs programs.
    pub(crate) fn start_at(address: &str, port: u16, run: impl Fn(&str) -> Command) -> Result<Self, &'static str> {
        let directory = tempfile::tempdir().expect("a directory");
        let postgres = Self::start_in(directory.path(), address, port, run)?;
        Ok(Self { _directory: Some(directory), ..postgres })
    }

    /// Starts one whose files are in `directory`, which must stay: it ends when they are gone.
    pub(crate) fn start_in(
        directory: &Path,
        address: &str,
        port: u16,
        run: impl Fn(&str) -> Command,
    ) -> Result<Self, &'static str> {
        let programs = Self::programs().ok_or("postgresql is not installed")?;
        if !is_root() || !has_tool("setpriv") {
            return Err("needs root and setpriv: postgres refuses to run as root");
        }
        let data = directory.join("data");
        fs::create_dir(&data).expect("a directory");
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("permissions");
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("an owner");
        let as_nobody = |program: &str| {
            let mut command = run("setpriv");
            command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "--"]);
            command.arg(programs.join(program)).arg("-D").arg(&data).current_dir(&data);
            command
        };
        let made = as_nobody("initdb")
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "--locale=C"])
            .output()
            .expect("starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let rules = data.join("pg_hba.conf");
        let text = fs::read_to_string(&rules).expect("its rules");
        fs::write(&rules, text + "host all all all trust\n").expect("its rules");
        let mut command = as_nobody("postgres");
        command.arg("-k").arg(&data).args(["-p", &port.to_string(), "-c", &format!("listen_addresses={address}")]);
        command.stderr(Stdio::null());
        let server = Child::start(&mut command);
        let lock = data.join("postmaster.pid");
        wait_until("postgres to be ready", SOON, || {
            fs::read_to_string(&lock).is_ok_and(|text| text.lines().any(|line| line.trim() == "ready"))
        });
        Ok(Self { server, port, _directory: None })
    }

    /// Where Debian keeps the programs of its newest version.
    fn programs() -> Option<PathBuf> {
        let mut versions: Vec<PathBuf> =
            fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin")).collect();
        versions.retain(|path| path.join("postgres").is_file() && path.join("initdb").is_file());
        versions.sort();
        versions.pop()
    }

    /// A connection that has not said who it is: a backend waits for that.
    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).expect("connects")
    }

    /// The processes that the postmaster has started.
    pub(crate) fn children(&self) -> Vec<u32> {
        children(self.server.pid())
    }
}

/// A Java program that waits: a JVM with its threads and libraries. The error says why there is none.
pub(crate) fn java(directory: &Path) -> Result<Child, &'static str> {
    let text = "public class Wait { public static void main(String[] a) throws Exception {\n\
        System.out.println(\"\\\"ready\\\"\"); System.in.read(); } }\n";
    java_of(directory, text)
}

fn java_of(directory: &Path, text: &str) -> Result<Child, &'static str> {
    if !has_tool("java") || !has_tool("javac") {
        return Err("no java or javac");
    }
    fs::write(directory.join("Wait.java"), text).expect("a file");
    let made = Command::new("javac").arg("Wait.java").current_dir(directory).status().expect("javac");
    assert!(made.success());
    Ok(Child::ready(Command::new("java").args(["-Xmx64m", "Wait"]).current_dir(directory)))
}

/// A redis-server without a file or a port: it listens on a socket in `directory`. The error says why there is none.
pub(crate) fn redis(directory: &Path) -> Result<Child, &'static str> {
    if !has_tool("redis-server") {
        return Err("redis-server is not installed");
    }
    let socket = directory.join("redis");
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--daemonize", "no", "--unixsocket"]);
    let child = Child::start(command.arg(&socket).current_dir(directory));
    wait_until("redis", SOON, || socket.exists());
    Ok(child)
}

/// A Python program that listens at `port` of loopback, keeps whoever connects, and has a descriptor of each kind
/// that its event loop and its child need.
pub(crate) fn python(directory: &Path, port: u16) -> Result<Child, &'static str> {
    if !has_tool("python3") {
        return Err("python3 is not installed");
    }
    let text = format!(
        "import asyncio, subprocess, sys, tempfile\n\
         held, log = [], open('log', 'a')\n\
         async def serve(reader, writer):\n\
         \x20   byte = await reader.read(1)\n\
         \x20   if not byte: return writer.close()\n\
         \x20   held.append(writer); writer.write(byte); await writer.drain()\n\
         async def main():\n\
         \x20   server = await asyncio.start_server(serve, '127.0.0.1', {port})\n\
         \x20   held.append(subprocess.Popen(['sleep', '1000'], stdin=subprocess.PIPE))\n\
         \x20   held.append(tempfile.TemporaryFile())\n\
         \x20   print('\"ready\"', flush=True)\n\
         \x20   await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)\n\
         asyncio.run(main())\n"
    );
    fs::write(directory.join("server.py"), text).expect("a program");
    Ok(Child::ready(Command::new("python3").arg("server.py").current_dir(directory)))
}

/// A Java program that listens at `port` of loopback, answers the first byte of whoever connects, and keeps them.
pub(crate) fn java_server(directory: &Path, port: u16) -> Result<Child, &'static str> {
    let text = format!(
        "import java.net.*; import java.util.*;\n\
         public class Wait {{ public static void main(String[] a) throws Exception {{\n\
         ServerSocket server = new ServerSocket({port}, 50, InetAddress.getByName(\"127.0.0.1\"));\n\
         Thread serve = new Thread(() -> {{ List<Socket> held = new ArrayList<>(); try {{ while (true) {{\n\
         Socket one = server.accept(); int b = one.getInputStream().read(); if (b < 0) {{ one.close(); continue; }}\n\
         held.add(one); one.getOutputStream().write(b); }} }}\n\
         catch (Exception e) {{ }} }}); serve.setDaemon(true); serve.start();\n\
         System.out.println(\"\\\"ready\\\"\"); System.in.read(); }} }}\n"
    );
    java_of(directory, &text)
}

/// The processes that the first thread of `pid` has started, and that are still there.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// nginx with so many workers, which listens at a unix socket in `directory`. The error says why there is none.
pub(crate) fn nginx(directory: &Path, workers: usize) -> Result<Child, &'static str> {
    if !has_tool("nginx") {
        return Err("nginx is not installed");
    }
    let inside = |file: &str| directory.join(file).display().to_string();
    let config = format!(
        "daemon off; worker_processes {workers}; pid {}; error_log {};\nevents {{}}\n\
         http {{ access_log {}; server {{ listen unix:{}; }} }}\n",
        inside("pid"),
        inside("error.log"),
        inside("access.log"),
        inside("socket"),
    );
    fs::write(inside("nginx.conf"), config).expect("a configuration");
    let server = Child::start(Command::new("nginx").args(["-c", &inside("nginx.conf"), "-p", &inside("")]));
    wait_until("the workers of nginx", SOON, || children(server.pid()).len() == workers);
    Ok(server)
}
