//! What the image needs to know of the binary: that it starts alone, and on which architecture.

use goblin::elf::{Elf, header};

/// `DF_1_PIE` of `DT_FLAGS_1` (elf.h): tells a position-independent executable from a shared library.
const DF_1_PIE: u64 = 0x0800_0000;

/// Why a file cannot be the only file of an image.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// The file is not ELF, or its headers do not parse.
    #[error("not an ELF file")]
    NotElf(#[from] goblin::error::Error),
    /// An object file, a core file or a shared library.
    #[error("an ELF file, but not an executable: name the linked `agent` binary")]
    NotExecutable,
    /// The file needs a dynamic linker or shared libraries, and the image holds neither.
    #[error(
        "linked dynamically (needs {0}), and the image holds no other file: build with \
         `-C target-feature=+crt-static`, as .cargo/config.toml does unless RUSTFLAGS is set"
    )]
    Dynamic(String),
    /// An architecture for which the agent is not made.
    #[error("built for ELF machine {0}: only x86-64 (62) and AArch64 (183) have an image")]
    Machine(u16),
}

/// Checks that `binary` is a static executable and returns its architecture by the name that OCI uses (GOARCH).
pub fn architecture(binary: &[u8]) -> Result<&'static str, BinaryError> {
    let elf = Elf::parse(binary)?;
    if let Some(needed) = elf.interpreter.or(elf.libraries.first().copied()) {
        return Err(BinaryError::Dynamic(needed.to_owned()));
    }
    let is_pie = || {
        let dynamic = elf.dynamic.as_ref();
        dynamic.is_some_and(|dynamic| dynamic.info.flags_1 & DF_1_PIE != 0)
    };
    match elf.header.e_type {
        header::ET_EXEC => {}
        header::ET_DYN if is_pie() => {}
        _ => return Err(BinaryError::NotExecutable),
    }
    match elf.header.e_machine {
        header::EM_X86_64 => Ok("amd64"),
        header::EM_AARCH64 => Ok("arm64"),
        machine => Err(BinaryError::Machine(machine)),
    }
}
