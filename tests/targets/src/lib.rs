//! Programs with a known truth, for the end-to-end tests.
//!
//! Each program in `c/` states on its standard output what the agent must report of it, one JSON object a line, then
//! `"ready"`; then it stays as it said until its standard input is closed or SIGTERM comes. The comment at its head
//! says what it claims. They are C so that a test can choose how they are built: `-O0` or `-O2`, static or not, with
//! or without frame pointers. Bytes that JSON cannot hold are given in hex, in members whose names end in `_hex`.
#![allow(clippy::disallowed_methods, reason = "for tests: it runs the C compiler")]

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

/// What every program is built with, before the flags that a test gives. The programs are free of warnings.
const COMMON: [&str; 6] = ["-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pthread"];

/// Builds the program `name` (its source is `c/NAME.c`) with `flags`, unless that was done since its source last
/// changed, and returns where it is. The compiler is `cc`, which Rust needs as a linker anyway, or what `CC` names.
///
/// # Panics
///
/// When it does not compile.
pub fn build(name: &str, flags: &[&str]) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("c");
    let source = sources.join(format!("{name}.c"));
    let program = directory().join(file_name(name, flags));
    let newest = [&source, &sources.join("truth.h")].map(|path| modified(path)).into_iter().max().flatten();
    if newest.is_none() || modified(&program) < newest {
        let _ = fs::remove_file(&program);
        compile_file(&source, &program, flags, &sources);
    }
    program
}

/// Compiles the C program whose text is `source` with `flags`, unless that was done before, and returns where it is.
///
/// # Panics
///
/// When it does not compile.
pub fn compile(source: &str, flags: &[&str]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let name = format!("text-{:016x}", hasher.finish());
    let program = directory().join(file_name(&name, flags));
    if !program.exists() {
        let text = unique(&program).with_extension("c");
        fs::write(&text, source).unwrap_or_else(|error| panic!("{}: {error}", text.display()));
        compile_file(&text, &program, flags, &Path::new(env!("CARGO_MANIFEST_DIR")).join("c"));
        let _ = fs::remove_file(text);
    }
    program
}

fn compile_file(source: &Path, program: &Path, flags: &[&str], include: &Path) {
    // Another test may be building the same: each to a name of its own.
    let made = unique(program);
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(COMMON).arg("-I").arg(include).arg("-o").arg(&made).arg(source).args(flags);
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    // The first one stays: it may run already, and must not be seen as replaced.
    let placed = fs::hard_link(&made, program);
    let _ = fs::remove_file(&made);
    if let Err(error) = placed {
        assert!(program.exists(), "{}: {error}", program.display());
    }
}

/// `NAME` and the flags, as one file name.
fn file_name(name: &str, flags: &[&str]) -> String {
    let mut file = name.to_owned();
    for flag in flags {
        file.extend(flag.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }));
    }
    file
}

/// A name beside `program` that nobody else has.
fn unique(program: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    program.with_extension(format!("{}-{number}", std::process::id()))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Beside the test that runs (`target/…/debug/targets`): cargo cleans it, and every test of a build shares it.
fn directory() -> PathBuf {
    let test = std::env::current_exe().expect("/proc/self/exe");
    let deps = test.ancestors().find(|path| path.ends_with("deps"));
    let beside = deps.and_then(Path::parent).map_or_else(std::env::temp_dir, Path::to_path_buf).join("targets");
    fs::create_dir_all(&beside).unwrap_or_else(|error| panic!("{}: {error}", beside.display()));
    beside
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    /// Every program in `c/`.
    fn names() -> Vec<String> {
        let sources = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("c")).expect("c/");
        let mut names: Vec<String> = sources
            .flatten()
            .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".c")?.to_owned()))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_program_is_built_without_warnings_and_says_that_it_is_ready() {
        assert!(names().len() >= 12, "{:?}", names());
        // Their arguments name the program whose clocks are shifted, which state one is to be in, and the interfaces
        // that one stands between.
        let want_arguments = ["clock", "odd", "shaper"];
        for name in names() {
            for flags in [&["-O0"][..], &["-O2", "-fomit-frame-pointer"], &["-O2", "-static"]] {
                let program = build(&name, flags);
                if want_arguments.contains(&name.as_str()) {
                    continue;
                }
                // Without standard input it ends when it has said all.
                let output = Command::new(&program).stdin(Stdio::null()).output().expect("starts");
                let stderr = String::from_utf8_lossy(&output.stderr);
                if name == "setuid" && stderr.contains("Operation not permitted") {
                    continue;
                }
                assert!(output.status.success(), "{name} {flags:?}: {} {stderr}", output.status);
                let stdout = String::from_utf8(output.stdout).expect("UTF-8");
                assert!(stdout.ends_with("}\n\"ready\"\n"), "{name} {flags:?}: {stdout}");
            }
        }
    }

    #[test]
    fn the_same_text_is_compiled_once() {
        let text = "int main(void)\n{\n    return 7;\n}\n";
        let program = compile(text, &["-O1"]);
        let first = modified(&program);
        assert_eq!(Command::new(&program).status().expect("starts").code(), Some(7));
        assert_eq!((compile(text, &["-O1"]), modified(&program)), (program, first));
    }
}
