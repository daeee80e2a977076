//! Every figure of the agent against the kernel's own text and against pmap(1), in the same run.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::classic::{self, FIGURES, hex};
use super::common::{self, Child, SOON, has_tool, rows, skip, stop};
use super::{alone, maps};

fn python() -> Child {
    let program = "import json, sqlite3, sys, threading\nblock = threading.Event()\n\
        [threading.Thread(target=block.wait, daemon=True).start() for _ in range(3)]\n\
        print('\"ready\"', flush=True)\nsys.stdin.read()";
    Child::ready(Command::new("python3").args(["-c", program]))
}

/// nginx in one process: a worker outlives a master that is killed.
fn nginx(directory: &Path) -> Child {
    let place = directory.display();
    let socket = directory.join("nginx.socket");
    let text = format!(
        "daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/error.log; events {{}}\n\
         http {{ access_log off; server {{ listen unix:{}; }} }}\n",
        socket.display()
    );
    std::fs::write(directory.join("nginx.conf"), text).expect("a configuration");
    let file = directory.join("nginx.conf");
    let child = Child::start(Command::new("nginx").arg("-p").arg(directory).arg("-c").arg(file));
    common::wait_until("nginx", SOON, || socket.exists());
    child
}

/// Looks at `pid`, which is stopped, with the agent and in another way, until `differences` has none between the two.
/// The pages of libc are shared with whatever else starts and ends on this machine meanwhile, so one look is not enough
/// for PSS; what is wrong stays wrong.
fn agree<T>(
    pid: u32,
    options: &[&str],
    other: impl Fn() -> T,
    differences: impl Fn(&Value, T) -> Vec<String>,
) -> Value {
    let end = Instant::now() + SOON;
    loop {
        let seen = maps(pid, options);
        let found = differences(&seen, other());
        if found.is_empty() {
            return seen;
        }
        assert!(Instant::now() < end, "{pid}, {options:?}:\n{}", found.join("\n"));
    }
}

/// A line for each pair that is not equal.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn check(&mut self, what: &str, ours: impl Into<Value>, theirs: impl Into<Value>) {
        let (ours, theirs) = (ours.into(), theirs.into());
        if ours != theirs {
            self.0.push(format!("{what}: {ours} is not {theirs}"));
        }
    }
}

fn targets(directory: &Path) -> Vec<(&'static str, Child)> {
    let mut targets =
        vec![("sleep", Child::start(Command::new("sleep").arg("600"))), ("maps_truth", alone(directory, &["lazy"]))];
    match common::servers::redis(directory) {
        Ok(child) => targets.push(("redis", child)),
        Err(reason) => skip("redis", reason),
    }
    match has_tool("python3") {
        true => targets.push(("python", python())),
        false => skip("python", "no python3"),
    }
    match common::servers::java(directory) {
        Ok(child) => targets.push(("java", child)),
        Err(reason) => skip("java", reason),
    }
    match has_tool("nginx") {
        true => targets.push(("nginx", nginx(directory))),
        false => skip("nginx", "nginx is not installed"),
    }
    match common::servers::Postgres::start_in(directory, "127.0.0.1", common::servers::free_port(), |program| {
        Command::new(program)
    }) {
        Ok(postgres) => targets.push(("postgres", postgres.server)),
        Err(reason) => skip("postgres", reason),
    }
    for (name, target) in &targets {
        common::wait_until(name, SOON, || classic::text(target.pid(), "maps").contains("[stack]"));
        stop(target.pid());
    }
    targets
}

/// All rows against the mappings of smaps, or of pmap.
fn compare(seen: &Value, mut mappings: Vec<classic::Mapping>, by_pmap: bool) -> Vec<String> {
    let mut found = Differences::default();
    found.check("mappings", rows(seen).len(), mappings.len());
    for (row, mapping) in rows(seen).iter().zip(&mut mappings) {
        // pmap itself maps libc and the locale while it looks, so it sees them shared by one more than they are
        // without it. The agent shares nothing.
        if by_pmap && row["private_dirty_bytes"] != row["rss_bytes"] {
            allow_for_an_observer(&mut found, row, mapping);
        }
        compare_row(&mut found, row, mapping);
    }
    found.0
}

/// Puts the agent's figures in place of those that the observer changes, where both can be true.
fn allow_for_an_observer(found: &mut Differences, row: &Value, mapping: &mut classic::Mapping) {
    let kib = |key: &str| row[key].as_u64().expect("a figure") / 1024;
    let pages = ["Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty"];
    let keys = ["shared_clean_bytes", "shared_dirty_bytes", "private_clean_bytes", "private_dirty_bytes"];
    let sum: u64 = pages.iter().map(|name| mapping.figures[*name]).sum();
    found.check(&format!("{row}: all pages"), keys.map(kib).iter().sum::<u64>(), sum);
    found.check(&format!("{row}: PSS is less by pmap"), mapping.figures["Pss"] <= kib("pss_bytes"), true);
    for (name, key) in pages.into_iter().zip(keys).chain([("Pss", "pss_bytes"), ("Pss_Dirty", "pss_dirty_bytes")]) {
        mapping.figures.insert(name.to_owned(), kib(key));
    }
}

fn compare_row(found: &mut Differences, row: &Value, mapping: &classic::Mapping) {
    let mut check =
        |key: &str, theirs: Value| found.check(&format!("{} {key}", row["start"]), row[key].clone(), theirs);
    let bytes_of = |name: &str| mapping.figures.get(name).map_or(Value::Null, |kib| json!(kib * 1024));
    check("start", json!(format!("{:#x}", mapping.start)));
    check("permissions", json!(mapping.permissions));
    check("size_bytes", bytes_of("Size"));
    for (key, name) in FIGURES {
        check(key, bytes_of(name));
    }
    check("thp_eligible", mapping.figures.get("THPeligible").map_or(Value::Null, |flag| json!(*flag == 1)));
    check("protection_key", mapping.figures.get("ProtectionKey").map_or(Value::Null, |key| json!(key)));
    if mapping.end != 0 {
        check("end", json!(format!("{:#x}", mapping.end)));
    }
    if mapping.inode == "0" {
        let name = mapping.path.trim_start_matches("[anon:").trim_matches(['[', ']']);
        check("name", if name.is_empty() { Value::Null } else { json!(name) });
        check("path", Value::Null);
        check("inode", Value::Null);
    } else {
        let device: Vec<String> = mapping.device.split(':').map(|part| hex(part).to_string()).collect();
        check("device", json!(device.join(":")));
        check("inode", json!(mapping.inode));
        check("offset", json!(format!("{:#x}", mapping.offset)));
        let path = row["path"].as_str().unwrap_or_default();
        // What these parsers here cannot take apart is compared with the truth elsewhere.
        if !path.contains('\\') && !path.contains("  ") {
            check("path", json!(mapping.path.trim_end_matches(" (deleted)")));
            check("deleted", json!(mapping.path.ends_with(" (deleted)")));
        }
    }
    let flags = row["vm_flags"].as_array().expect("flags");
    found.check(&format!("{row}: flags"), flags.len(), mapping.flags.len());
    found.check(&format!("{row}: unknown flags"), flags.contains(&json!("unknown")), false);
}

#[test]
fn every_figure_is_that_of_smaps_and_of_pmap() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, target) in targets(directory.path()) {
        let pid = target.pid();
        let seen =
            agree(pid, &[], || classic::text(pid, "smaps"), |seen, text| compare(seen, classic::smaps(&text), false));
        assert_eq!(seen["gaps"], json!([]), "{name}");
        assert_sums(&seen, name);
        if !has_tool("pmap") {
            skip("every_figure_is_that_of_smaps_and_of_pmap", "no pmap");
            continue;
        }
        agree(pid, &[], || classic::pmap_all(pid), |seen, mappings| compare(seen, mappings, true));
        agree(
            pid,
            &[],
            || classic::pmap_totals(pid),
            |seen, [size, resident, dirty]| {
                let summary = &seen["data"]["summary"];
                let mut found = Differences::default();
                // pmap counts the kernel's [vsyscall] as the process's, and VmSize does not.
                let gate = rows(seen)
                    .iter()
                    .filter(|row| row["kind"] == "vsyscall")
                    .filter_map(|row| row["size_bytes"].as_u64());
                found.check("size", summary["size_bytes"].clone(), size * 1024 - gate.sum::<u64>());
                found.check("resident", summary["rss_bytes"].clone(), resident * 1024);
                let parts =
                    ["private_dirty_bytes", "shared_dirty_bytes"].map(|key| summary[key].as_u64().expect("a figure"));
                found.check("dirty", parts.iter().sum::<u64>(), dirty * 1024);
                found.0
            },
        );
    }
}

/// The totals, and the roll-ups by kind and by file, are the sums of the rows.
fn assert_sums(seen: &Value, what: &str) {
    let summary = &seen["data"]["summary"];
    let sum = |rows: &[Value], key: &str| -> u64 { rows.iter().filter_map(|row| row[key].as_u64()).sum() };
    assert_eq!(summary["mappings"], rows(seen).len(), "{what}");
    for (key, _) in FIGURES.iter().skip(2) {
        assert_eq!(summary[key], sum(rows(seen), key), "{key}: {what}");
    }
    let keys = ["size_bytes", "rss_bytes", "pss_bytes", "private_clean_bytes", "private_dirty_bytes", "swap_bytes"];
    let kinds = summary["kinds"].as_array().expect("kinds");
    let files = summary["files"].as_array().expect("files");
    for key in keys {
        assert_eq!(sum(kinds, key), sum(rows(seen), key), "{key}: {what}");
        let of_files: Vec<Value> = rows(seen).iter().filter(|row| !row["inode"].is_null()).cloned().collect();
        assert_eq!(sum(files, key), sum(&of_files, key), "{key}: {what}");
    }
    for file in files {
        let same = |row: &&Value| ["path", "inode", "device"].iter().all(|key| row[*key] == file[*key]);
        let own: Vec<Value> = rows(seen).iter().filter(same).cloned().collect();
        assert_eq!(file["mappings"], own.len(), "{what}: {file}");
        assert_eq!(sum(&own, "pss_bytes"), file["pss_bytes"].as_u64().expect("a figure"), "{what}: {file}");
        let is_module = own.iter().any(|row| row["permissions"].as_str().is_some_and(|letters| letters.contains('x')));
        assert_eq!(file["module"], is_module, "{what}: {file}");
    }
}

#[test]
fn the_summary_is_the_kernels_own() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, target) in targets(directory.path()) {
        let pid = target.pid();
        let rollup = || classic::smaps(&classic::text(pid, "smaps_rollup")).remove(0).figures;
        let seen = agree(pid, &["--summary"], rollup, |seen, figures| {
            let more = [
                ("pss_anonymous_bytes", "Pss_Anon"),
                ("pss_file_bytes", "Pss_File"),
                ("pss_shared_memory_bytes", "Pss_Shmem"),
            ];
            let mut found = Differences::default();
            for (key, kernel) in FIGURES.into_iter().skip(2).chain(more) {
                let theirs = figures.get(kernel).map_or(Value::Null, |kib| json!(kib * 1024));
                found.check(key, seen["data"]["summary"][key].clone(), theirs);
            }
            found.0
        });
        assert!(seen["data"]["rows"].is_null() && seen["data"]["summary"]["kinds"].is_null(), "{name}");
        let size_bytes = &seen["data"]["summary"]["size_bytes"];
        agree(pid, &[], rollup, |seen, figures| {
            let summary = &seen["data"]["summary"];
            let mut found = Differences::default();
            found.check("size", summary["size_bytes"].clone(), size_bytes.clone());
            found.check("resident", summary["rss_bytes"].clone(), figures["Rss"] * 1024);
            // The rows' figures are cut to KiB, each by less than one.
            let lost = (figures["Pss"] * 1024).checked_sub(summary["pss_bytes"].as_u64().expect("a figure"));
            let most = 1024 * summary["mappings"].as_u64().expect("a count");
            found.check(&format!("{lost:?} lost of PSS"), lost.is_some_and(|lost| lost <= most), true);
            found.0
        });
    }
}
