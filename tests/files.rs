//! `files`: what is at a path of the target, seen and not opened.
#![allow(clippy::disallowed_methods, reason = "a test: it makes files")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use common::{Child, gaps_at, row, rows};
use serde_json::json;

#[test]
fn what_is_there_and_what_is_not_is_told_as_stat_does() {
    let target = Child::target("sleeper", &["-O2"], ["10"]);
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("file"), "12345").unwrap();
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o640)).unwrap();
    nix::unistd::mkfifo(at("fifo").as_str(), nix::sys::stat::Mode::S_IRUSR).unwrap();
    std::os::unix::fs::symlink("file", at("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
    std::os::unix::fs::symlink("loop", at("loop")).unwrap();
    // As far in the future as the file system lets it be.
    let far = nix::sys::time::TimeSpec::new(i64::MAX / 2, 0);
    let flags = nix::sys::stat::UtimensatFlags::FollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, at("fifo").as_str(), &far, &far, flags).unwrap();
    let paths = [at("file"), at("fifo"), at("link"), at("dangling"), at("none"), at("file/x"), at("loop"), at("")];
    let pid = target.pid().to_string();
    let envelope = common::json(["files", "--pid", &pid].into_iter().chain(paths.iter().map(String::as_str)));
    let of = |name: &str| row(&envelope, "path", at(name));
    let meta = fs::metadata(at("file")).unwrap();
    let file = of("file");
    assert_eq!(
        (&file["present"], &file["type"], &file["size_bytes"], &file["mode"], &file["uid"]),
        (&json!(true), &json!("file"), &json!(5), &json!("0640"), &json!(meta.uid()))
    );
    assert_eq!(of("link")["size_bytes"], 5);
    assert_eq!(of("fifo")["type"], "fifo");
    assert_eq!(of("")["type"], "directory");
    for name in ["dangling", "none", "file/x"] {
        assert_eq!(of(name)["present"], false, "{name}");
    }
    // A circle of links is neither there nor not.
    let index = rows(&envelope).iter().position(|row| row["path"] == at("loop")).unwrap();
    assert!(of("loop").get("present").is_none());
    assert_eq!(gaps_at(&envelope, &format!("/rows/{index}")).len(), 1, "{envelope}");
    assert_eq!(envelope["data"]["summary"], json!({"present": 4, "absent": 3}));
    assert_eq!(common::run(["files", "relative", "--pid", &pid]).status, 2);
    assert_eq!(common::run(["files", "--pid", &pid]).status, 2);
}
