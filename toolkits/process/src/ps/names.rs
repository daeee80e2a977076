//! Names of users and groups, from the processes' own files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use agent_model::{Gap, Text};
use agent_system::{Cause, Failure, Process, Run, parse};

/// The bytes that are read of one file: some fifty thousand users.
const MOST_BYTES: usize = 4 << 20;

/// The containers whose files are read: those after these have numbers only.
const MOST_CONTAINERS: usize = 64;

/// The names in each mount namespace, read when they are first asked for.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: Mutex<HashMap<u64, Arc<Tables>>>,
}

#[derive(Debug, Default)]
struct Tables {
    users: HashMap<u32, Text>,
    groups: HashMap<u32, Text>,
}

/// The names of one mount namespace.
#[derive(Debug, Default)]
pub(super) struct Known(Arc<Tables>);

impl Known {
    /// The user's name, if it has one.
    pub(super) fn user(&self, id: u32) -> Option<Text> {
        self.0.users.get(&id).cloned()
    }

    /// The group's.
    pub(super) fn group(&self, id: u32) -> Option<Text> {
        self.0.groups.get(&id).cloned()
    }
}

impl Names {
    /// The names in the mount namespace `inode`, which `process` is in. What is
    /// wrong with the files is told where they are first needed.
    pub(super) fn of(&self, run: &Run, process: &Process<'_>, inode: u64, gaps: &mut Vec<Gap>) -> Known {
        // Held while the files are read: who needs the same ones waits for them.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tables) = known.get(&inode) {
            return Known(Arc::clone(tables));
        }
        if known.len() == MOST_CONTAINERS {
            return Known::default();
        }
        let mut table = |path: &str, at: &str| match read(process, path) {
            Ok(text) => names(&text),
            // An image without users has no such file, and a recorded tree may have none.
            Err(failure) => {
                let is_usual = failure.is_not_found() || matches!(failure.cause, Cause::Unsupported(_));
                if !is_usual {
                    gaps.push(run.gap(at, &failure));
                }
                HashMap::new()
            }
        };
        let tables = Arc::new(Tables {
            users: table("/etc/passwd", "/details/uids/effective/name"),
            groups: table("/etc/group", "/details/gids/effective/name"),
        });
        known.insert(inode, Arc::clone(&tables));
        Known(tables)
    }
}

fn read(process: &Process<'_>, path: &str) -> Result<Vec<u8>, Failure> {
    let file = process.open_in_root(path.as_bytes())?;
    let length = usize::try_from(file.length).unwrap_or(usize::MAX);
    if length > MOST_BYTES {
        return Err(Failure::new(file.path().as_str(), Cause::TooLarge(MOST_BYTES)));
    }
    let mut text = vec![0; length];
    let read = file.read_at(0, &mut text)?;
    text.truncate(read);
    Ok(text)
}

/// `passwd` or `group` (passwd(5), group(5)): the first field is the name, the third
/// the number. The first of several names for one number counts, as for getpwuid(3).
fn names(text: &[u8]) -> HashMap<u32, Text> {
    let mut names = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else { continue };
        if let Some(number) = parse::number(number).filter(|_| !name.is_empty() && name[0] != b'#') {
            names.entry(number).or_insert_with(|| Text::from_bytes(name));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_number_counts_and_garbage_is_passed_over() {
        let text =
            b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n\n#off:x:9:9\nx\n:x:5:\nweb:x:1000:1000::/:\n\
            bad:x:minus:1\n\xff\xfe:x:7:7\n+::::::\ncut:x:4";
        let names = names(text);
        let name = |id| names.get(&id).map(|name| name.as_str().to_owned());
        assert_eq!(name(0).as_deref(), Some("root"));
        assert_eq!(name(1000).as_deref(), Some("web"));
        assert_eq!(name(7).as_deref(), Some("\\xff\\xfe"));
        assert_eq!(name(4).as_deref(), Some("cut"));
        assert_eq!((name(9), name(5), names.len()), (None, None, 4));
    }
}
