//! `files`: whether files of the target are there, and what they are. They are not opened.

use agent_model::{Gathered, Listing, Noted, Text};
use agent_system::{Capability, Collector, Failure, Run, clock};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

/// The collector of files that are named.
pub struct Files;

/// Options of `files`.
#[derive(Debug, Clone, Default, Args, Serialize, JsonSchema)]
pub struct Options {
    /// Paths, as the target sees them
    #[arg(value_name = "PATH", required_unless_present = "paths", value_parser = absolute)]
    #[schemars(extend("x-class" = "path"))]
    path: Vec<String>,
    /// The same, for a scenario
    #[arg(long, value_name = "PATH", value_delimiter = ',', hide = true, value_parser = absolute)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-class" = "path"))]
    paths: Vec<String>,
}

fn absolute(path: &str) -> Result<String, String> {
    if path.starts_with('/') { Ok(path.to_owned()) } else { Err("it must begin with a slash".to_owned()) }
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["path"], "x-life" = ["inode"]))]
pub struct Row {
    /// The path, as it was asked for.
    #[schemars(extend("x-column" = "PATH", "x-class" = "path"))]
    pub path: Text,
    /// Whether something is there; absent where that could not be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PRESENT"))]
    pub present: Option<bool>,
    /// What it is: `file`, `directory`, `socket`, `fifo`, `character_device` or `block_device`. Symbolic links were followed.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "TYPE", "x-class" = "word"))]
    pub kind: Option<&'static str>,
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SIZE"))]
    pub size_bytes: Option<u64>,
    /// Its permissions, in octal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "MODE", "x-class" = "id"))]
    pub mode: Option<String>,
    /// Its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "UID"))]
    pub uid: Option<u32>,
    /// When its content was changed (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "MODIFIED", "x-class" = "id"))]
    pub modified: Option<String>,
}

/// Totals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Summary {
    /// How many are there.
    pub present: u64,
    /// How many are not.
    pub absent: u64,
}

impl Collector for Files {
    const NAME: &'static str = "files";
    const ABOUT: &'static str = "Whether files of the target are there: type, size, mode, last change";
    const MANUAL: &'static str = "\
Rows come in the order of the paths. A path is looked up as the target sees it; nothing is opened, and symbolic links do not
lead out of its root. That a file is not there is an answer, and no gap.

  agent files /tmp/healthy /var/run/app.pid
  until: {condition: \"!health.data.rows[0].present\"}     in a scenario: a health file gone";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    type Options = Options;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let process = run.target_process()?;
        let rows = options.path.iter().chain(&options.paths).map(|path| {
            let mut row = Row {
                path: Text::from(path.as_str()),
                present: Some(false),
                kind: None,
                size_bytes: None,
                mode: None,
                uid: None,
                modified: None,
            };
            match process.stat_in_root(path.as_bytes()) {
                Ok(Some(found)) => {
                    row.present = Some(true);
                    row.kind = Some(found.kind);
                    row.size_bytes = Some(found.size_bytes);
                    row.mode = Some(format!("{:04o}", found.mode));
                    row.uid = Some(found.uid);
                    row.modified = Some(clock::rfc3339_seconds(found.modified_s));
                    Noted::new(row)
                }
                Ok(None) => Noted::new(row),
                Err(failure) => {
                    row.present = None;
                    Noted { value: row, gaps: vec![run.gap("/present", &failure)] }
                }
            }
        });
        Ok(Gathered::rows(rows.collect(), Vec::new(), |rows| {
            let of = |present| rows.iter().filter(|row| row.present == Some(present)).count() as u64;
            Summary { present: of(true), absent: of(false) }
        }))
    }
}
