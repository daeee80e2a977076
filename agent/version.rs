//! `version`: what this binary is and what it was built from.

use agent_binaries::elf::{ElfFile, Source};
use agent_model::{Data, Gathered};
use agent_system::collector::TargetUse;
use agent_system::{Collector, Failure, NoOptions, Run, own};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The platform it was built for.
const PLATFORM: &str = if cfg!(target_arch = "x86_64") { "linux/amd64" } else { "linux/arm64" };

/// The version of the agent.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The collector of the agent's own facts.
pub(crate) struct Version;

/// What this binary is.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct About {
    /// The agent's version.
    #[schemars(extend("x-class" = "word"))]
    version: &'static str,
    /// GNU build ID, in hex; absent if it was linked without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    build_id: Option<String>,
    /// The git commit it was built from; `-dirty` behind it if that was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    commit: Option<&'static str>,
    /// What it was built for.
    #[schemars(extend("x-class" = "word"))]
    platform: &'static str,
    /// The crates that it was built from, by name and version. Image scanners read
    /// the same list from the ELF section `.dep-v0` (cargo-auditable's format).
    crates: Vec<Crate>,
}

/// One crate.
#[derive(Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Crate {
    /// Its name.
    #[schemars(extend("x-column" = "CRATE"))]
    #[schemars(extend("x-class" = "name"))]
    name: String,
    /// Its version.
    #[schemars(extend("x-column" = "VERSION"))]
    #[schemars(extend("x-class" = "id"))]
    version: String,
}

impl Data for About {}

/// The list that the build script wrote.
#[derive(Deserialize)]
struct Dependencies {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    #[serde(flatten)]
    itself: Crate,
    kind: Option<String>,
}

impl Collector for Version {
    const NAME: &'static str = "version";
    const ABOUT: &'static str = "What this binary is, and the crates it was built from";
    const MANUAL: &'static str = "Crates come by name and version; those used only to build it are left out.";
    const TARGET: TargetUse = TargetUse::None;
    type Options = NoOptions;
    type Data = About;

    fn collect(_: &Run, _: &NoOptions) -> Result<Gathered<About>, Failure> {
        let mut crates: Vec<Crate> =
            serde_json::from_str::<Dependencies>(include_str!(env!("AGENT_DEPENDENCIES_PATH")))
                .map(|list| list.packages)
                .unwrap_or_default()
                .into_iter()
                .filter(|package| package.kind.as_deref() != Some("build"))
                .map(|package| package.itself)
                .collect();
        crates.sort();
        Ok(Gathered::complete(About {
            version: VERSION,
            build_id: build_id(),
            commit: Some(env!("AGENT_COMMIT")).filter(|commit| !commit.is_empty()),
            platform: PLATFORM,
            crates,
        }))
    }
}

/// Our own build ID, in hex.
pub(crate) fn build_id() -> Option<String> {
    let itself = own::Executable::open().ok()?;
    let elf = ElfFile::parse(Itself(itself)).ok()?;
    elf.facts().build_id.clone()
}

/// As an envelope carries it.
pub(crate) fn info() -> agent_model::AgentInfo {
    agent_model::AgentInfo { version: VERSION, build_id: build_id() }
}

/// Our own executable as a source of ELF.
struct Itself(own::Executable);

impl Source for Itself {
    fn len(&self) -> u64 {
        self.0.length
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_at(offset, buf)
    }
}
