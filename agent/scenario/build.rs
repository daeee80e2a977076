//! Lists the files of scripts/scenarios, so that a scenario is added by adding its file.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a build script, not part of the agent")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../scripts/scenarios");
    println!("cargo:rerun-if-changed={}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            println!("cargo:rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    files.sort();
    let mut list = String::from("&[\n");
    for path in files {
        let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or("a file name is not UTF-8")?;
        list += &format!("    ({name:?}, include_str!({:?})),\n", fs::canonicalize(&path)?);
    }
    list += "]\n";
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("built_in.rs"), list)?;
    Ok(())
}
