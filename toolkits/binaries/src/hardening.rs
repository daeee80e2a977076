//! What a compiler and a linker did against exploits: the facts that checksec(1)
//! shows.

use std::ops::ControlFlow;

use goblin::elf::program_header::{PT_GNU_RELRO, PT_GNU_STACK};
use schemars::JsonSchema;
use serde::Serialize;

use crate::elf::{ElfFile, ElfType, Machine, Source, SymbolOrigin};

/// Hardening of one module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hardening {
    /// What of its data is read-only after start: `full` (all that the loader
    /// fills in, since it binds at once), `partial`, `none`.
    #[schemars(extend("x-class" = "word"))]
    pub relro: &'static str,
    /// Whether all symbols are bound at start (`-z now`).
    pub bind_now: bool,
    /// Whether it asks for a stack that cannot be run (PT_GNU_STACK). Absent where
    /// it does not say: then the kernel decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nx: Option<bool>,
    /// Whether it can be loaded at any address.
    pub pie: bool,
    /// Whether it has functions that check their stack (`-fstack-protector`).
    /// Absent where no symbols tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack_protector: Option<bool>,
    /// How many functions of libc it takes in their checked form
    /// (`-D_FORTIFY_SOURCE`). Absent where no symbols tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fortified_functions: Option<u64>,
    /// Whether all its indirect branches land where they may: CET-IBT on x86, BTI
    /// on Arm. Absent on other machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch_targets: Option<bool>,
    /// Whether its return addresses are protected: CET shadow stack on x86, pointer
    /// authentication on Arm. Absent on other machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_addresses: Option<bool>,
    /// Whether the loader writes into its code (DT_TEXTREL).
    pub text_relocations: bool,
    /// Whether one of its segments may be both written and run.
    pub writable_code: bool,
}

/// Reads it. Takes one pass over the imports, and where there are none over the
/// symbols of a static executable.
pub fn of<S: Source>(elf: &ElfFile<S>) -> Hardening {
    with_imports(elf).0
}

/// The same, and how many symbols it takes from other modules: `None` for one that
/// takes none by its form.
pub fn with_imports<S: Source>(elf: &ElfFile<S>) -> (Hardening, Option<u64>) {
    let facts = elf.facts();
    let segment = |kind| facts.segments.iter().find(|segment| segment.kind == kind);
    let relro = match (segment(PT_GNU_RELRO), facts.bind_now) {
        (Some(_), true) => "full",
        (Some(_), false) => "partial",
        (None, _) => "none",
    };
    let by_name =
        if facts.is_dynamic && facts.elf_type != ElfType::StaticPie { Some(imported(elf)) } else { linked_in(elf) };
    let has_features = matches!(facts.machine, Machine::X86_64 | Machine::I386 | Machine::AARCH64);
    let feature = |bit: fn(crate::elf::Features) -> bool| has_features.then(|| facts.features.is_some_and(bit));
    let hardening = Hardening {
        relro,
        bind_now: facts.bind_now,
        nx: segment(PT_GNU_STACK).map(|stack| !stack.is_executable()),
        pie: matches!(facts.elf_type, ElfType::Pie | ElfType::StaticPie | ElfType::Shared),
        stack_protector: by_name.map(|names| names.protector),
        fortified_functions: by_name.map(|names| names.fortified),
        branch_targets: feature(crate::elf::Features::branch_targets),
        return_addresses: feature(crate::elf::Features::return_addresses),
        text_relocations: facts.text_relocations,
        writable_code: facts.loads().any(|load| load.is_executable() && load.flags & 2 != 0),
    };
    (hardening, by_name.filter(|_| facts.is_dynamic).map(|names| names.imports))
}

/// What names tell.
#[derive(Debug, Clone, Copy, Default)]
struct Names {
    protector: bool,
    fortified: u64,
    imports: u64,
}

impl Names {
    fn see(&mut self, name: &[u8]) {
        if name.starts_with(b"__stack_chk_") {
            self.protector = true;
        } else if name.ends_with(b"_chk") && name.starts_with(b"__") {
            self.fortified += 1;
        }
    }
}

fn imported<S: Source>(elf: &ElfFile<S>) -> Names {
    let mut names = Names::default();
    elf.imports(&mut |name| {
        names.imports += 1;
        names.see(name);
        ControlFlow::Continue(())
    });
    // The module that defines the check (libc itself, the loader) uses it too.
    names
}

/// A static executable has all it uses in itself, if it still has names. That
/// libc's checked functions are in it says little: libc uses them itself.
fn linked_in<S: Source>(elf: &ElfFile<S>) -> Option<Names> {
    let mut names = Names::default();
    let mut any = false;
    elf.each_symbol(&mut |listed, name| {
        any |= listed.origin == SymbolOrigin::Symtab && listed.kind == "function";
        names.see(name);
        ControlFlow::Continue(())
    });
    any.then_some(names)
}
