//! What a binary says it was built from: Go's build information, cargo-auditable's list, runtimes' version strings.
#![no_main]

use agent_binaries::elf::ElfFile;
use agent_binaries::provenance::{cargo, compilers, go, runtime};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = cargo::parse(bytes);
    let (version, info) = bytes.split_at(bytes.len() / 4);
    let _ = go::parse(version, info);
    if let Ok(elf) = ElfFile::parse(bytes) {
        let _ = compilers(&elf);
        let _ = go::read(&elf);
        let _ = cargo::read(&elf);
        for name in ["node", "python3.11", "libc.so.6", "libjvm.so", "ruby", "ld-musl-x86_64.so.1"] {
            let _ = runtime::find(&elf, name);
        }
    }
});
