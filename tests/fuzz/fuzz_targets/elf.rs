//! An ELF file, from a file and from memory: everything that is asked of a module.
#![no_main]

use std::ops::ControlFlow;

use agent_binaries::elf::ElfFile;
use agent_binaries::hardening;
use agent_binaries::modules::ask;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for elf in [ElfFile::parse(bytes), ElfFile::parse_mapped(bytes, 0x7f00_0000_0000)].into_iter().flatten() {
        let _ = hardening::of(&elf);
        let _ = elf.versions();
        elf.imports(&mut |_| ControlFlow::Continue(()));
        let symbols = elf.symbols();
        let _ = symbols.lookup(&elf, elf.facts().entry);
        for pattern in ["*", "main", "_Z*"] {
            let (found, _) = ask::named(&elf, Some(0x5555_0000_0000), pattern);
            assert!(found.len() <= ask::MAX_NAMED);
        }
    }
});
