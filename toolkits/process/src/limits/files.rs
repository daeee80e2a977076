//! Reading the files of one control group.

use agent_model::{Gap, Reason};
use agent_system::parse::number;
use agent_system::{Cause, CgroupDirectory, Errno, Failure, Run};

use super::bound::Bound;
use super::groups::{Chain, LEVELS, Level};
use super::parse;

/// Reads files of one control group; what goes wrong is remembered once, and what is
/// not there is simply not there: which files a group has depends on the kernel, its
/// configuration and the controllers that were handed down to the group.
pub(super) struct Files<'a, 'r> {
    directory: &'a CgroupDirectory<'r>,
    text: &'a mut Vec<u8>,
    failure: Option<Failure>,
}

impl<'a, 'r> Files<'a, 'r> {
    pub(super) fn of(level: &'a Level<'r>, text: &'a mut Vec<u8>) -> Self {
        Self { directory: &level.directory, text, failure: None }
    }

    /// The text of the file `name`.
    pub(super) fn text(&mut self, name: &str) -> Option<&[u8]> {
        match self.directory.read(name, self.text) {
            Ok(()) => Some(self.text),
            // Absent, or switched off (`cgroup.pressure`).
            Err(failure) if failure.is_not_found() || failure.errno() == Some(Errno::OPNOTSUPP) => None,
            Err(failure) => {
                self.failure.get_or_insert(failure);
                None
            }
        }
    }

    /// What `parse` makes of the file `name`, which is one value.
    pub(super) fn value<T>(&mut self, name: &str, parse: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        let value = parse(self.text(name)?);
        if value.is_none() {
            let path = format!("{}/{name}", self.directory.path());
            self.failure.get_or_insert(Failure {
                path: agent_model::Text::from_bytes(&agent_model::text::unescape(&path)),
                cause: Cause::Malformed("not as the kernel's documentation says"),
                pid: None,
            });
        }
        value
    }

    /// The number in the file `name`.
    pub(super) fn number(&mut self, name: &str) -> Option<u64> {
        self.value(name, number)
    }

    /// The limit in the file `name` of cgroup v2.
    pub(super) fn bound(&mut self, name: &str) -> Option<Bound> {
        self.value(name, parse::bound)
    }

    /// The gap at `at` for the first thing that went wrong.
    pub(super) fn gap(self, run: &Run, at: impl Into<String>) -> Option<Gap> {
        self.failure.map(|failure| run.gap(at, &failure))
    }
}

/// Reads each ancestor of a group with `read`, from its parent outwards; gaps stand
/// at `/ancestors/N`.
pub(super) fn ancestors<T>(
    run: &Run,
    chain: &Chain<'_>,
    text: &mut Vec<u8>,
    gaps: &mut Vec<Gap>,
    mut read: impl FnMut(&Level<'_>, &mut Files<'_, '_>) -> T,
) -> Vec<T> {
    if chain.is_cut {
        let detail = format!("only {LEVELS} levels of control groups are looked at");
        gaps.push(Gap::new("/ancestors", Reason::LimitReached).detail(detail));
    }
    let above = chain.levels.iter().skip(1).enumerate();
    above
        .map(|(index, level)| {
            let mut files = Files::of(level, text);
            let value = read(level, &mut files);
            gaps.extend(files.gap(run, format!("/ancestors/{index}")));
            value
        })
        .collect()
}
