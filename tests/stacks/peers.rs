//! eu-stack and gdb as peers: the same threads in the same run, frame by frame and name by name. Where the names differ,
//! the symbol tables of the module decide, as nm(1) reads them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::common::{self, SOON, has_tool, rows, skip, wait_until};
use super::stacks;

/// A frame as a peer has it.
#[derive(Debug, Clone)]
struct Frame {
    address: u64,
    name: Option<String>,
    /// Functions that are inlined there, innermost first; `None` where the peer does not say.
    inlined: Option<Vec<String>>,
}

type Threads = BTreeMap<u64, Vec<Frame>>;

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_else(|_| panic!("{text} is no address"))
}

/// What eu-stack prints of each thread.
fn eu_stack(pid: u32) -> Threads {
    let output = Command::new("eu-stack").args(["-p", &pid.to_string()]).output().expect("eu-stack");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut threads = Threads::new();
    let mut current = 0;
    for line in text.lines() {
        if let Some(tid) = line.strip_prefix("TID ") {
            current = tid.trim_end_matches(':').parse().expect("a tid");
        } else if line.starts_with('#') {
            // `#0  0x00007f… - 1 name`: return addresses are printed one less, so that they lie in the call.
            let rest = line.split_once("0x").expect("an address").1;
            let (address, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let rest = rest.trim().trim_start_matches("- 1").trim();
            let name = (!rest.is_empty()).then(|| rest.to_owned());
            threads.entry(current).or_default().push(Frame { address: hex(address), name, inlined: None });
        }
    }
    threads
}

/// What gdb says to its own Python. It puts in a frame for each call that was a jump, where debug information tells of
/// one: that is on no stack, and eu-stack has none either.
const ASK_GDB: &str = "set backtrace past-main on\nset backtrace past-entry on\npython\nimport gdb, json\nout = []\n\
    for t in gdb.selected_inferior().threads():\n t.switch()\n f = gdb.newest_frame()\n frames = []\n \
    while f is not None and len(frames) < 300:\n  \
    kind = {gdb.INLINE_FRAME: 'inline', gdb.TAILCALL_FRAME: 'tail'}.get(f.type(), '')\n  \
    frames.append([f.pc(), f.name(), kind])\n  \
    try: f = f.older()\n  except gdb.error: break\n out.append([t.ptid[1], frames])\n\
    print('FRAMES ' + json.dumps(out))\nend\n";

fn gdb(pid: u32) -> Threads {
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("script");
    fs::write(&script, ASK_GDB).expect("a file");
    let mut command = Command::new("gdb");
    command.args(["-p", &pid.to_string(), "-batch", "-nx", "-iex", "set debuginfod enabled off", "-x"]).arg(&script);
    let output = command.output().expect("gdb");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find_map(|line| line.strip_prefix("FRAMES "));
    let said: Value = serde_json::from_str(said.unwrap_or_else(|| panic!("gdb: {text}"))).expect("JSON");
    let mut threads = Threads::new();
    for thread in said.as_array().expect("threads") {
        let mut frames = Vec::new();
        let mut inlined = Vec::new();
        for frame in thread[1].as_array().expect("frames") {
            let name = frame[1].as_str().map(str::to_owned);
            if frame[2] == "inline" {
                inlined.push(name.unwrap_or_default());
                continue;
            }
            let inlined = Some(std::mem::take(&mut inlined));
            if frame[2] != "tail" {
                frames.push(Frame { address: frame[0].as_u64().expect("a pc"), name, inlined });
            }
        }
        threads.insert(thread[0].as_u64().expect("a tid"), frames);
    }
    threads
}

/// The functions of a module by name: where they start, and their size.
#[derive(Debug, Default)]
struct Symbols(HashMap<String, Vec<(u64, u64)>>);

impl Symbols {
    /// Of the file and of that with its debug information.
    fn of(module: &str, build_id: Option<&str>) -> Self {
        let mut symbols = Self::default();
        let debug = build_id.and_then(|id| id.split_at_checked(2));
        let debug = debug.map(|(first, rest)| PathBuf::from(format!("/usr/lib/debug/.build-id/{first}/{rest}.debug")));
        let files = [Some(PathBuf::from(module)), debug];
        for file in files.into_iter().flatten().filter(|file| file.exists()) {
            for option in ["-a", "-D"] {
                let output = Command::new("nm").args(["-C", "-S", option]).arg(&file).output().expect("nm");
                for line in String::from_utf8_lossy(&output.stdout).lines() {
                    let mut words = line.splitn(4, ' ');
                    let (Some(start), Some(size), Some(_), Some(name)) =
                        (words.next(), words.next(), words.next(), words.next())
                    else {
                        continue;
                    };
                    if start.len() == 16 && size.len() == 16 {
                        symbols.0.entry(plain(name)).or_default().push((hex(start), hex(size)));
                    }
                }
            }
        }
        symbols
    }

    /// Where the function of that name starts that holds `svma`.
    fn holds(&self, name: &str, svma: u64) -> Option<u64> {
        let all = self.0.get(name)?.iter();
        all.copied().find(|(start, size)| svma >= *start && svma - start < *size).map(|(start, _)| start)
    }
}

/// A name without its parameters, version, and what compilers put behind it.
fn plain(name: &str) -> String {
    let mut name = name.split(" [clone").next().unwrap_or_default();
    if !name.starts_with('@') {
        name = name.split('@').next().unwrap_or_default();
    }
    let parameters = name.match_indices('(').find(|(at, _)| {
        let (before, behind) = name.split_at(*at);
        !behind.starts_with("(anonymous") && !before.ends_with("operator")
    });
    let mut name = parameters.map_or(name, |(at, _)| &name[..at]);
    for clone in [".isra.", ".part.", ".constprop.", ".cold", ".lto_priv.", ".abi0", ".abiinternal"] {
        name = name.split(clone).next().unwrap_or_default();
    }
    name.trim().to_owned()
}

/// The function's own name: gdb makes that of an inlined one out of its namespaces (`impls::{impl#0}::read`), where we
/// have what the compiler calls it (`<&mut T as Read>::read`).
fn last(name: &str) -> String {
    let mut depth = 0;
    // In Rust, what stands in parentheses within `<…>` is part of a type.
    let name = if name.starts_with('<') { name.replace("->", "") } else { plain(name) };
    let outside = name.chars().fold(String::new(), |mut kept, c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        if depth == 0 && c != '>' {
            kept.push(c);
        }
        kept
    });
    outside.rsplit("::").find(|part| !part.is_empty()).unwrap_or_default().to_owned()
}

/// How often the peers and we agree, and why we do not.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// Threads that were compared.
    pub(super) threads: usize,
    /// Frames whose names are the same.
    pub(super) same: usize,
    /// Two names of one function.
    pub(super) aliases: usize,
    /// Only we have a name.
    pub(super) only_ours: usize,
    /// The peer has the nearest name before, of a function that has ended there.
    pub(super) wrong: usize,
    /// Frames of code that a runtime has made, which no module holds, and those behind the first of them.
    pub(super) generated: usize,
    /// Frames that a peer has not: it ends before the root.
    pub(super) beyond: usize,
    /// Frames that only a peer has: behind what Go says that nothing has called.
    pub(super) behind_top: usize,
}

/// Waits until each thread of `pid` waits.
pub(super) fn wait_blocked(pid: u32) {
    let blocked = |tid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).unwrap_or_default();
        text.starts_with(|c: char| c.is_ascii_digit())
    };
    wait_until("a process to wait", SOON, || common::threads(pid).iter().all(blocked));
}

/// Compares what we say of the threads of `pid` with what each peer says. All differences that are not explained are
/// in the error.
pub(super) fn compare(name: &str, pid: u32) -> Agreement {
    let mut agreement = Agreement::default();
    let mut symbols = HashMap::new();
    for (peer, ask) in [("eu-stack", eu_stack as fn(u32) -> Threads), ("gdb", gdb)] {
        if !has_tool(peer) {
            skip(name, &format!("{peer} is not installed"));
            continue;
        }
        let theirs = ask(pid);
        // It has just been let go of, and its system calls begin anew.
        wait_blocked(pid);
        let ours = stacks(pid, &[]);
        assert!(!theirs.is_empty(), "{peer} printed nothing");
        for row in rows(&ours) {
            let tid = row["threads"][0]["tid"].as_u64().expect("a tid");
            // What runs is somewhere else by now.
            let waits = row["state"] == "sleeping" && row["method"] != "syscall_only";
            let Some(frames) = theirs.get(&tid).filter(|_| waits) else { continue };
            agreement.threads += 1;
            if let Err(why) = thread(row, frames, &mut symbols, &mut agreement) {
                panic!("{name}, {peer}, thread {tid}: {why}\nours: {:#?}\ntheirs: {frames:#x?}", brief(row));
            }
        }
    }
    agreement
}

fn brief(row: &Value) -> Vec<String> {
    let frames = row["frames"].as_array().expect("frames").iter();
    frames
        .map(|frame| format!("{} {} {} {}", frame["address"], frame["function"], frame["offset"], frame["module"]))
        .collect()
}

fn thread(
    row: &Value,
    theirs: &[Frame],
    symbols: &mut HashMap<String, Symbols>,
    agreement: &mut Agreement,
) -> Result<(), String> {
    let ours = row["frames"].as_array().expect("frames");
    for (at, our) in ours.iter().enumerate() {
        let Some(module) = our["module"].as_str() else {
            // Tables describe neither what an interpreter makes nor what a compiler makes while it runs: what
            // lies behind is a guess of both.
            agreement.generated += ours.len() - at;
            return Ok(());
        };
        let Some(their) = theirs.get(at) else {
            agreement.beyond += ours.len() - at;
            return Ok(());
        };
        let address = hex(our["address"].as_str().expect("an address"));
        if address != their.address && address != their.address.wrapping_add(1) {
            return Err(format!("frame {at}: {address:#x} is not {:#x}", their.address));
        }
        let svma = our["offset"].as_str().map(hex);
        let svma = svma.map(|svma| if our["kind"] == "return_address" { svma - 1 } else { svma }).unwrap_or_default();
        let known = symbols.entry(module.to_owned()).or_insert_with(|| Symbols::of(module, our["build_id"].as_str()));
        let our_name = our["function"].as_str().map(plain);
        let their_name = their.name.as_deref().map(plain);
        let held = |name: &Option<String>| name.as_ref().and_then(|name| known.holds(name, svma));
        match (&our_name, &their_name) {
            (Some(a), Some(b)) if a == b => agreement.same += 1,
            (None, None) => agreement.same += 1,
            (Some(_), None) => agreement.only_ours += 1,
            _ => match (held(&our_name), held(&their_name)) {
                (Some(a), Some(b)) if a == b => agreement.aliases += 1,
                (_, None) => agreement.wrong += 1,
                (a, b) => return Err(format!("frame {at}: {our_name:?} ({a:x?}) is not {their_name:?} ({b:x?})")),
            },
        }
        if let Some(inlined) = &their.inlined {
            let list = our["inlined"].as_array().into_iter().flatten();
            let our_inlined: Vec<String> = list.map(|one| last(one["function"].as_str().unwrap_or_default())).collect();
            let their_inlined: Vec<String> = inlined.iter().map(|name| last(name)).collect();
            if our_inlined != their_inlined {
                return Err(format!("frame {at}: inlined {our_inlined:?} is not {their_inlined:?}"));
            }
        }
    }
    let more = theirs.len().saturating_sub(ours.len());
    let last = ours.last().and_then(|last| last["function"].as_str()).unwrap_or_default();
    if more > 0 && !last.starts_with("runtime.") {
        return Err(format!("{more} frames more"));
    }
    agreement.behind_top += more;
    Ok(())
}
