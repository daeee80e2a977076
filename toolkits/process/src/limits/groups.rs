//! Where the control groups of the process can be seen.
//!
//! `/proc/PID/cgroup` says which group it is in, and `mountinfo` which groups its
//! mount namespace shows. Both are relative to the reader's cgroup namespace
//! (cgroup_namespaces(7)), so they match each other in whatever namespace the target
//! is, and our own mounts match them too.

use agent_model::Text;
use agent_system::parse::{self as common, Mount};
use agent_system::{Cause, CgroupDirectory, Failure, Process, Run, own};
use schemars::JsonSchema;
use serde::Serialize;

use super::parse::{self, Hierarchy};

/// One of the control groups that the process is in.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Group {
    /// Version of its hierarchy: 1 or 2.
    #[schemars(extend("x-column" = "VERSION"))]
    pub version: u8,
    /// The controllers of a version 1 hierarchy, or its `name=…`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-column" = "CONTROLLERS"))]
    #[schemars(extend("x-class" = "word"))]
    pub controllers: Vec<Text>,
    /// Its path below the root of our own cgroup namespace; `/..` leads out of that.
    #[schemars(extend("x-column" = "PATH"))]
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Where its hierarchy is mounted; absent where no mount shows the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "MOUNT"))]
    #[schemars(extend("x-class" = "path"))]
    pub mount_point: Option<Text>,
    /// Through whose mounts it was read: `target`, or `agent` where the target's do
    /// not show it or may not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "VIEW"))]
    #[schemars(extend("x-class" = "word"))]
    pub view: Option<&'static str>,
}

/// A group and its visible ancestors.
#[derive(Debug)]
pub(super) struct Chain<'r> {
    /// 1 or 2.
    pub(super) version: u8,
    /// The process's own group first, then its parent, up to the visible root, but no
    /// more than [`LEVELS`].
    pub(super) levels: Vec<Level<'r>>,
    /// Whether there are more.
    pub(super) is_cut: bool,
    mount_point: Text,
}

/// How many levels of one hierarchy are looked at: each is held open. Kubernetes has
/// five or six, and a path has room for two thousand.
pub(super) const LEVELS: usize = 32;

/// How many mounts are tried to find one group.
const CANDIDATES: usize = 4;

/// One group of a [`Chain`].
#[derive(Debug)]
pub(super) struct Level<'r> {
    /// As [`Group::path`].
    pub(super) path: Text,
    /// As [`Group::view`].
    pub(super) view: &'static str,
    pub(super) directory: CgroupDirectory<'r>,
}

/// All hierarchies of the process.
#[derive(Debug)]
pub(super) struct Groups<'r> {
    found: Vec<(Hierarchy, Result<Chain<'r>, Failure>)>,
}

impl<'r> Groups<'r> {
    /// Finds the groups of `process`, and opens what of them can be seen.
    ///
    /// # Errors
    ///
    /// When `/proc/PID/cgroup` cannot be read.
    pub(super) fn open(run: &'r Run, process: &Process<'r>) -> Result<Self, Failure> {
        let mut text = Vec::with_capacity(4096);
        process.read("cgroup", &mut text)?;
        let hierarchies = parse::hierarchies(&text);
        let views = [
            View::of_target(process, &mut text),
            View { name: "agent", mounts: if run.is_live() { Ok(own::mounts()) } else { Ok(Vec::new()) } },
        ];
        let open = |view: &View, point: &[u8]| match view.name {
            "target" => process.cgroup_mount(point),
            _ => run.own_cgroup_mount(point),
        };
        let found = hierarchies.into_iter().map(|hierarchy| {
            let chain = chain(&hierarchy, &views, open);
            (hierarchy, chain)
        });
        Ok(Self { found: found.collect() })
    }

    /// `v1`, `v2`, or `hybrid` where controllers of version 1 stand beside a version
    /// 2 hierarchy.
    pub(super) fn mode(&self) -> &'static str {
        let has_v2 = self.found.iter().any(|(hierarchy, _)| hierarchy.is_v2());
        let has_v1 = self.found.iter().any(|(hierarchy, _)| !hierarchy.is_v2());
        match (has_v1, has_v2) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            _ => "v2",
        }
    }

    /// As they are printed: version 2 first, then by controllers.
    pub(super) fn list(&self) -> Vec<Group> {
        let mut all: Vec<&(Hierarchy, Result<Chain<'r>, Failure>)> = self.found.iter().collect();
        all.sort_by(|(a, _), (b, _)| a.controllers.cmp(&b.controllers));
        all.into_iter()
            .map(|(hierarchy, chain)| Group {
                version: if hierarchy.is_v2() { 2 } else { 1 },
                controllers: hierarchy.controllers.iter().map(|name| Text::from_bytes(name)).collect(),
                path: Text::from_bytes(&hierarchy.path),
                mount_point: chain.as_ref().ok().map(|chain| chain.mount_point.clone()),
                view: chain.as_ref().ok().and_then(|chain| chain.levels.first()).map(|level| level.view),
            })
            .collect()
    }

    /// The hierarchy that holds the process to the limits of `controller` (by its
    /// name in version 1): that of version 1 if there is one, else that of version 2.
    pub(super) fn of(&self, controller: &str) -> Option<&Result<Chain<'r>, Failure>> {
        let v1 = self.found.iter().find(|(hierarchy, _)| hierarchy.has(controller));
        v1.or_else(|| self.found.iter().find(|(hierarchy, _)| hierarchy.is_v2())).map(|(_, chain)| chain)
    }

    /// The version 2 hierarchy.
    pub(super) fn v2(&self) -> Option<&Result<Chain<'r>, Failure>> {
        self.found.iter().find(|(hierarchy, _)| hierarchy.is_v2()).map(|(_, chain)| chain)
    }
}

/// Whose mounts are looked through.
struct View {
    name: &'static str,
    mounts: Result<Vec<Mount>, Failure>,
}

impl View {
    fn of_target(process: &Process<'_>, text: &mut Vec<u8>) -> Self {
        Self { name: "target", mounts: process.read("mountinfo", text).map(|()| common::mounts(text)) }
    }
}

/// The levels of `hierarchy`: each through the first of `views` that shows it.
fn chain<'r>(
    hierarchy: &Hierarchy,
    views: &[View; 2],
    open: impl Fn(&View, &[u8]) -> Result<CgroupDirectory<'r>, Failure>,
) -> Result<Chain<'r>, Failure> {
    let place = Place::of(&hierarchy.path);
    let mut levels: Vec<Level<'r>> = Vec::new();
    let mut mount_point = None;
    let mut why = None;
    let mut is_cut = false;
    for view in views {
        let mounts = match &view.mounts {
            Ok(mounts) => mounts,
            Err(failure) => {
                why.get_or_insert_with(|| failure.clone());
                continue;
            }
        };
        let mut candidates: Vec<(&Mount, usize)> = mounts
            .iter()
            .filter(|mount| shows(mount, hierarchy))
            .filter_map(|mount| Some((mount, place.levels_below(&Place::of(&mount.root))?)))
            .collect();
        // What shows most of the ancestors; then where it is expected.
        candidates.sort_by_key(|(mount, count)| {
            (std::cmp::Reverse(*count), !mount.point.starts_with(b"/sys/fs/cgroup"), mount.point.len())
        });
        for (mount, count) in candidates.into_iter().take(CANDIDATES) {
            if count < levels.len() {
                break;
            }
            is_cut |= count >= LEVELS;
            let opened = match is_local(mount, mounts) {
                true => open(view, &mount.point).and_then(|root| climb(&root, &place, count, levels.len(), view.name)),
                false => Err(Failure::new(
                    Text::from_bytes(&mount.point),
                    Cause::Unsupported("it lies below a file system that a process or a server answers for"),
                )),
            };
            match opened {
                Ok(more) => {
                    levels.extend(more);
                    mount_point.get_or_insert_with(|| Text::from_bytes(&mount.point));
                    break;
                }
                Err(failure) => {
                    why.get_or_insert(failure);
                }
            }
        }
    }
    match mount_point {
        Some(mount_point) => Ok(Chain { version: if hierarchy.is_v2() { 2 } else { 1 }, levels, is_cut, mount_point }),
        None => Err(why.unwrap_or_else(|| {
            let cause = match hierarchy.deleted {
                true => "the control group was removed while the process was still in it",
                false => "no mount of the target or of the agent shows this control group",
            };
            Failure::new(Text::from_bytes(&hierarchy.path), Cause::Unsupported(cause))
        })),
    }
}

/// Opens the groups of `place` below `root`, which shows `count` of its path's
/// components, from the innermost but `skip` outwards.
fn climb<'r>(
    root: &CgroupDirectory<'r>,
    place: &Place<'_>,
    count: usize,
    skip: usize,
    view: &'static str,
) -> Result<Vec<Level<'r>>, Failure> {
    let shown = &place.names[place.names.len() - count..];
    (skip..=count)
        .take_while(|above| *above < LEVELS)
        .map(|above| {
            let relative = shown[..count - above].join(&b'/');
            Ok(Level { path: place.ancestor(above), view, directory: root.group(&relative)? })
        })
        .collect()
}

/// A path below the root of our cgroup namespace, or beside it.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    /// How many levels it first leads out.
    out: usize,
    names: Vec<&'a [u8]>,
}

impl<'a> Place<'a> {
    fn of(path: &'a [u8]) -> Self {
        let all: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
        let out = all.iter().take_while(|name| **name == b"..").count();
        Self { out, names: all[out..].to_vec() }
    }

    /// How many components of it lie below `root`; `None` where it does not lie there,
    /// or where the names between the two are hidden by our cgroup namespace.
    fn levels_below(&self, root: &Self) -> Option<usize> {
        (self.out == root.out && self.names.starts_with(&root.names)).then(|| self.names.len() - root.names.len())
    }

    /// The path, `above` levels up.
    fn ancestor(&self, above: usize) -> Text {
        let kept = &self.names[..self.names.len() - above];
        let mut path: Vec<u8> = b"/..".repeat(self.out);
        for name in kept {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Text::from_bytes(&path)
    }
}

/// True when `mount` is one of `hierarchy`.
fn shows(mount: &Mount, hierarchy: &Hierarchy) -> bool {
    match mount.fs_type.as_slice() {
        b"cgroup2" => hierarchy.is_v2(),
        b"cgroup" => {
            let mut options = mount.super_options.split(|b| *b == b',');
            options.any(|option| hierarchy.controllers.iter().any(|controller| controller == option))
        }
        _ => false,
    }
}

/// True when nothing on the way to `mount` is answered for by a process or a server,
/// which could make us wait for ever. The root directory itself is: the program runs
/// from it.
fn is_local(mount: &Mount, all: &[Mount]) -> bool {
    const LOCAL: [&[u8]; 12] = [
        b"sysfs",
        b"tmpfs",
        b"cgroup",
        b"cgroup2",
        b"overlay",
        b"ext4",
        b"xfs",
        b"btrfs",
        b"ramfs",
        b"rootfs",
        b"squashfs",
        b"erofs",
    ];
    all.iter()
        .filter(|other| other.point != b"/" && leads_to(&other.point, &mount.point))
        .all(|other| LOCAL.contains(&other.fs_type.as_slice()))
}

fn leads_to(upper: &[u8], lower: &[u8]) -> bool {
    lower.strip_prefix(upper).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(path: &str, root: &str) -> Option<usize> {
        Place::of(path.as_bytes()).levels_below(&Place::of(root.as_bytes()))
    }

    #[test]
    fn a_group_is_found_below_the_roots_that_mounts_show() {
        // A node, or a container of cgroup v1: no cgroup namespaces.
        assert_eq!(below("/kubepods/pod1/c1", "/"), Some(3));
        assert_eq!(below("/kubepods/pod1/c1", "/kubepods/pod1/c1"), Some(0));
        assert_eq!(below("/kubepods/pod1/c1", "/kubepods/pod1/c"), None);
        // A sibling container, seen from one with a cgroup namespace of its own.
        assert_eq!(below("/../c1", "/../c1"), Some(0));
        assert_eq!(below("/../c1/init.scope", "/../c1"), Some(1));
        assert_eq!(below("/../c1", "/"), None);
        // A mount of more than our namespace: the names between are not to be had.
        assert_eq!(below("/../c1", "/../../.."), None);
        assert_eq!(below("/", "/"), Some(0));
    }

    #[test]
    fn ancestors_have_paths() {
        let path = |text: &str, above| Place::of(text.as_bytes()).ancestor(above).as_str().to_owned();
        assert_eq!([path("/a/b", 0), path("/a/b", 1), path("/a/b", 2)], ["/a/b", "/a", "/"]);
        assert_eq!([path("/../c/x", 0), path("/../c/x", 1)], ["/../c/x", "/../c"]);
    }

    const POD: &[u8] = b"90 60 0:40 / / rw - overlay overlay rw\n\
        95 90 0:45 / /sys ro - sysfs sysfs ro\n\
        96 95 0:46 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        97 96 0:29 /pod/c /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
        98 96 0:37 /pod/c /sys/fs/cgroup/systemd ro - cgroup systemd rw,name=systemd\n\
        99 95 0:50 / /sys/fs/cgroup/hidden rw - fuse.lxcfs lxcfs rw\n\
        99 95 0:51 /pod/c /sys/fs/cgroup/hidden/memory rw - cgroup cgroup rw,memory\n\
        99 90 0:52 /pod/c /mnt/unified rw - cgroup2 none rw\n";

    #[test]
    fn mounts_are_matched_by_controller() {
        let mounts = common::mounts(POD);
        let of = |line: &[u8]| {
            let all = parse::hierarchies(line);
            let found: Vec<String> = mounts
                .iter()
                .filter(|mount| shows(mount, &all[0]))
                .map(|mount| String::from_utf8_lossy(&mount.point).into_owned())
                .collect();
            found.join(" ")
        };
        assert_eq!(of(b"4:cpu,cpuacct:/pod/c"), "/sys/fs/cgroup/cpu,cpuacct");
        assert_eq!(of(b"1:name=systemd:/pod/c"), "/sys/fs/cgroup/systemd");
        assert_eq!(of(b"0::/pod/c"), "/mnt/unified");
        assert_eq!(of(b"5:rdma:/pod/c"), "");
    }

    #[test]
    fn a_mount_below_one_that_could_hang_is_not_entered() {
        let mounts = common::mounts(POD);
        let local = |point: &[u8]| is_local(mounts.iter().find(|mount| mount.point == point).expect("there"), &mounts);
        assert!(local(b"/sys/fs/cgroup/cpu,cpuacct"));
        assert!(!local(b"/sys/fs/cgroup/hidden/memory"));
    }
}
