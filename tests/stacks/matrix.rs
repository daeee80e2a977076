//! One program in each language, in each way to build it: our names are those of eu-stack and gdb, frame by frame.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::common::{self, Child, SOON, has_tool, skip, wait_until};
use super::peers::compare;
use super::{functions, stacks, thread};

/// Through a function in assembly, one that is jumped to instead of called, and one that is called through the PLT.
const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#define NAMED __attribute__((noinline, noclone))
int through_assembly(int (*)(int), int);
__asm__(".text\n.type through_assembly, @function\nthrough_assembly:\n.cfi_startproc\n"
        "push %rbx\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset %rbx, 0\nsub $0x230, %rsp\n.cfi_adjust_cfa_offset 0x230\n"
        "mov %rdi, %rbx\nmov %esi, %edi\ncall *%rbx\nadd $0x230, %rsp\n.cfi_adjust_cfa_offset -0x230\n"
        "pop %rbx\n.cfi_adjust_cfa_offset -8\n.cfi_restore %rbx\nret\n.cfi_endproc\n.size through_assembly, .-through_assembly\n");
static volatile int sink;
static NAMED int waits_here(int n) { char byte; int got = (int)read(0, &byte, 1); return got + n + sink; }
static NAMED int jumps(int n) { sink = n; return waits_here(n + 1); }
static NAMED int compares(const void *a, const void *b) { (void)a; (void)b; return jumps(3) + sink; }
NAMED int sorts(int n) { int all[2] = {n, 1}; qsort(all, 2, sizeof *all, compares); return all[0] + sink; }
int main(void) { puts("\"ready\""); fflush(stdout); return through_assembly(sorts, 2) + sink; }
"#;

/// It waits in a destructor that is run while an exception passes through.
const CPP: &str = r#"
#include <cstdio>
#include <functional>
#include <string>
#include <unistd.h>
#define NAMED __attribute__((noinline, noclone))
static volatile int sink;
namespace shop {
struct Item { std::string name; int price; };
struct Guard { int n; NAMED ~Guard() { char byte; sink = n + int(read(0, &byte, 1)); } };
template <typename T> NAMED int order(T item, int n) { Guard guard{n}; if (sink == 0) throw n; return sink + int(sizeof item); }
class Till {
public:
    NAMED virtual int pay(const Item &item) { auto later = [&](int n) NAMED { return order(item.price * 1.5, n) + sink; }; return later(4) + sink; }
    NAMED int operator()(int n) { return pay(Item{"tea", n}) + sink; }
    virtual ~Till() {}
};
}
namespace { NAMED int hidden(shop::Till &till) { return till(5) + sink; } }
int main() { std::puts("\"ready\""); std::fflush(stdout); shop::Till till; try { return hidden(till) + sink; } catch (int n) { return n; } }
"#;

const RUST: &str = r#"
use std::io::Read as _;
mod shop {
    pub trait Pay { fn pay(&self, amount: u64) -> u64; }
    pub struct Till<T>(pub T);
    impl<T: Copy + Into<u64>> Pay for Till<T> {
        #[inline(never)]
        fn pay(&self, amount: u64) -> u64 { super::waits_here(amount) + self.0.into() }
    }
}
#[inline(never)]
fn waits_here(n: u64) -> u64 { let mut byte = [0]; std::io::stdin().lock().read(&mut byte).map_or(n, |got| got as u64 + n) }
#[inline(never)]
fn outer(pay: &dyn shop::Pay) -> u64 { pay.pay(std::env::args().count() as u64) + 1 }
fn main() { println!("\"ready\""); std::process::exit(outer(&shop::Till(3_u32)) as i32) }
"#;

/// What becomes of a program after it is linked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    Nothing,
    Stripped,
    /// Its debug information stands in a file beside it.
    Separate,
    /// An xz-compressed symbol table is all that it keeps.
    Mini,
}

struct Language {
    compiler: &'static str,
    source: (&'static str, &'static str),
    always: &'static [&'static str],
    builds: &'static [&'static [&'static str]],
    /// Names that must stand one after the other, innermost first, where they are known.
    chain: &'static [&'static str],
}

const LANGUAGES: [Language; 3] = [
    Language {
        compiler: "gcc",
        source: ("program.c", C),
        always: &["-g", "-Wl,--build-id"],
        builds: &[
            &["-O0"],
            &["-O2"],
            &["-O2", "-fno-omit-frame-pointer", "-no-pie"],
            &["-O2", "-static"],
            &["-O0", "-fomit-frame-pointer", "-static-pie"],
        ],
        chain: &["sorts", "through_assembly", "main"],
    },
    Language {
        compiler: "g++",
        source: ("program.cpp", CPP),
        always: &["-g", "-Wl,--build-id"],
        builds: &[&["-O0", "-fomit-frame-pointer"], &["-O2"], &["-O2", "-fno-omit-frame-pointer", "-static"]],
        chain: &[
            "shop::Till::pay(shop::Item const&)",
            "shop::Till::operator()(int)",
            "(anonymous namespace)::hidden(shop::Till&)",
            "main",
        ],
    },
    Language {
        compiler: "rustc",
        source: ("program.rs", RUST),
        always: &["--edition=2021", "-g", "-Clink-arg=-Wl,--build-id"],
        builds: &[&["-Copt-level=0"], &["-O"], &["-O", "-Cforce-frame-pointers=yes", "-Ctarget-feature=+crt-static"]],
        chain: &[
            "program::waits_here",
            "<program::shop::Till<T> as program::shop::Pay>::pay",
            "program::outer",
            "program::main",
        ],
    },
];

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Language {
    fn build(&self, directory: &Path, flags: &[&str], after: After) -> PathBuf {
        let (source, built) = (directory.join(self.source.0), directory.join("built"));
        let program =
            directory.join(format!("{}-{after:?}{}", self.compiler, flags.concat()).replace(['=', ',', '+'], "_"));
        fs::write(&source, self.source.1).expect("a file");
        run(Command::new(self.compiler).args(self.always).args(flags).arg("-o").arg(&built).arg(&source));
        let objcopy = |args: &[&str], from: &Path, to: &Path| run(Command::new("objcopy").args(args).arg(from).arg(to));
        let named = |option: &str, file: &Path| format!("{option}{}", file.display());
        match after {
            After::Nothing => fs::rename(&built, &program).expect("renamed"),
            After::Stripped => objcopy(&["--strip-all"], &built, &program),
            After::Separate => {
                let debug = program.with_extension("debug");
                objcopy(&["--only-keep-debug"], &built, &debug);
                objcopy(&["--strip-all", &named("--add-gnu-debuglink=", &debug)], &built, &program);
            }
            After::Mini => {
                let mini = program.with_extension("mini");
                objcopy(&["--only-keep-debug", "--strip-debug"], &built, &mini);
                run(Command::new("xz").arg("-f").arg(&mini));
                let section = named("--add-section=.gnu_debugdata=", &mini.with_extension("mini.xz"));
                objcopy(&["--strip-all", &section], &built, &program);
            }
        }
        program
    }

    fn check(&self, name: &str, directory: &Path, flags: &[&str], after: After) {
        let program = self.build(directory, flags, after);
        let target = Child::ready(&mut Command::new(&program));
        wait_until("it to wait", SOON, || common::state(target.pid()) == Some('S'));
        let about = format!("{name} {} {flags:?} {after:?}", self.compiler);
        let found = compare(&about, target.pid());
        assert!(found.threads == 2 && found.same >= 4, "{about}: {found:?}");
        assert_eq!((found.generated, found.beyond, found.behind_top), (0, 0, 0), "{about}: {found:?}");
        let names = functions(&thread(&stacks(target.pid(), &[]), &json!(target.pid())));
        let has_names = after != After::Stripped;
        assert_eq!(names.windows(self.chain.len()).any(|part| part == self.chain), has_names, "{about}: {names:?}");
        // What is jumped to leaves nothing of the function that jumped, except where nothing is optimized.
        if self.compiler == "gcc" && has_names {
            assert_eq!(names.iter().any(|name| name == "jumps"), flags.contains(&"-O0"), "{about}: {names:?}");
        }
    }
}

/// Whether what the tests need is there.
fn has_all(name: &str, tools: &[&str]) -> bool {
    let missing = tools.iter().find(|tool| !has_tool(tool));
    if let Some(tool) = missing {
        skip(name, &format!("{tool} is not installed"));
    }
    missing.is_none()
}

#[test]
fn programs_of_every_build_are_named_as_eu_stack_and_gdb_name_them() {
    let name = "programs_of_every_build_are_named_as_eu_stack_and_gdb_name_them";
    if !has_all(name, &["gcc", "g++", "rustc", "eu-stack", "gdb"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    for language in &LANGUAGES {
        for flags in language.builds {
            language.check(name, directory.path(), flags, After::Nothing);
        }
    }
}

#[test]
fn stripped_programs_are_named_as_eu_stack_and_gdb_name_them() {
    let name = "stripped_programs_are_named_as_eu_stack_and_gdb_name_them";
    if !has_all(name, &["gcc", "g++", "rustc", "eu-stack", "gdb", "objcopy", "xz"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    for language in &LANGUAGES {
        for after in [After::Stripped, After::Separate, After::Mini] {
            language.check(name, directory.path(), language.builds[1], after);
        }
    }
    // Static, where the C library is stripped as well.
    LANGUAGES[0].check(name, directory.path(), &["-O2", "-static"], After::Separate);
}
