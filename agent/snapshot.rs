//! `snapshot`: all collectors at one instant, as near as can be, and what in one of
//! them is about something in another.
//!
//! It stands beside the toolkits and knows their answers by their JSON alone: the
//! documented keys by which one fact has one identity (`pid`, `tid`, `fd`, `inode`,
//! `device`). A reference is a JSON Pointer (RFC 6901) into `data`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agent_binaries::modules::Modules;
use agent_memory::maps::Maps;
use agent_model::data::{LeftOut, json_bytes};
use agent_model::{Data, Gap, Gathered, Json, Reason, json};
use agent_network::sockets::Sockets;
use agent_process::fds::Fds;
use agent_process::limits::Limits;
use agent_process::ps::Ps;
use agent_stacks::stacks::Stacks;
use agent_system::{Capability, Cause, Collector, Failure, Need, Run};
use clap::{Args, FromArgMatches};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// The collector of everything.
pub(crate) struct Snapshot;

/// Options of `snapshot`.
#[derive(Debug, Clone, Default, Args, Serialize, JsonSchema)]
pub(crate) struct Options {
    /// Do not walk the page tables of the target: no figures of its mappings
    #[arg(long)]
    no_smaps: bool,
    /// Hold running threads for a moment, so that their stacks are there as well
    #[arg(long)]
    stop: bool,
}

/// The answers of all collectors, each as its own command prints it; one that has none
/// is absent, with a gap.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Everything {
    // By their names, as the canonical form has them: rows can go into the digest as they come.
    /// `fds --peers --shared`: the target's descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptors: Option<<Fds as Collector>::Data>,
    /// `limits`: the target's limits and control groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<<Limits as Collector>::Data>,
    /// `maps`: the target's mappings.
    #[serde(skip_serializing_if = "Option::is_none")]
    mappings: Option<<Maps as Collector>::Data>,
    /// `modules`: the ELF files among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    modules: Option<<Modules as Collector>::Data>,
    /// `ps --details --threads --self`: all processes and threads of the pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<<Ps as Collector>::Data>,
    /// What is about what. Each leads to something that is there; one that would not
    /// is a gap.
    references: References,
    /// `sockets`: those of the target's network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets: Option<<Sockets as Collector>::Data>,
    /// `stacks --flat --stop never`, or with --stop as it is by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    stacks: Option<<Stacks as Collector>::Data>,
    /// How many rows parts had of which some were left out.
    #[serde(skip)]
    cut: HashMap<&'static str, usize>,
}

impl Data for Everything {
    fn write(&self, json: &mut Json<'_>) -> Result<(), json::Error> {
        self.serialize(json)
    }

    fn leave_out(&mut self, excess: u64) -> Option<LeftOut> {
        fn of<D: Data>(part: &mut Option<D>) -> (u64, Option<&mut dyn Data>) {
            let part = part.as_mut().map(|part| part as &mut dyn Data);
            (part.as_ref().and_then(|part| json_bytes(part)).unwrap_or(0), part)
        }
        let parts = [
            ("descriptors", of(&mut self.descriptors)),
            ("limits", of(&mut self.limits)),
            ("mappings", of(&mut self.mappings)),
            ("modules", of(&mut self.modules)),
            ("processes", of(&mut self.processes)),
            ("sockets", of(&mut self.sockets)),
            ("stacks", of(&mut self.stacks)),
        ];
        let largest = parts.into_iter().max_by_key(|(_, (bytes, _))| *bytes)?;
        let (name, (bytes, Some(part))) = largest else { return None };
        let count = part.row_count().unwrap_or(0);
        let all = *self.cut.entry(name).or_insert(count);
        // Rows are not alike, and what leads to them goes as well: somewhat more than is needed.
        let share = (excess as f64 / bytes.max(1) as f64).max(0.02) * 1.05;
        let kept = (count as f64 * (1.0 - share)).max(0.0) as usize;
        if kept > 0 && part.cut(kept) {
            let at = format!("/{name}/rows");
            let is_gone = |place: &str| {
                let number = place.strip_prefix(&at).and_then(|rest| rest.strip_prefix('/'));
                number.and_then(|number| number.parse().ok()).is_some_and(|number: usize| number >= kept)
            };
            self.references.leave_out(is_gone);
            return Some(LeftOut { rows: Some((kept, all)), at });
        }
        match name {
            "descriptors" => self.descriptors = None,
            "limits" => self.limits = None,
            "mappings" => self.mappings = None,
            "modules" => self.modules = None,
            "processes" => self.processes = None,
            "sockets" => self.sockets = None,
            _ => self.stacks = None,
        }
        let at = format!("/{name}");
        let prefix = format!("{at}/");
        self.references.leave_out(|place| place.starts_with(&prefix));
        Some(LeftOut::whole(at))
    }
}

impl References {
    /// Leaves out what leads to a place that is gone, or comes from there.
    fn leave_out(&mut self, is_gone: impl Fn(&str) -> bool) {
        for list in [&mut self.descriptors, &mut self.sockets, &mut self.mappings, &mut self.stacks] {
            for reference in &mut *list {
                reference.to.retain(|to| !is_gone(to));
            }
            list.retain(|reference| !is_gone(&reference.from) && !reference.to.is_empty());
        }
        for container in &mut self.containers {
            container.to.retain(|to| !is_gone(to));
        }
        self.containers.retain(|container| !container.to.is_empty());
    }
}

/// What is about what: rows by their JSON Pointers.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct References {
    /// Of containers, by their IDs: to their processes.
    containers: Vec<Container>,
    /// Of descriptors: to their sockets, the processes at the other ends of their
    /// pipes and sockets, the process of a pidfd, and what an epoll watches.
    descriptors: Vec<Reference>,
    /// Of mappings: to their modules, and the threads whose stacks they are.
    mappings: Vec<Reference>,
    /// Of sockets: to the processes and, where they are the target's, descriptors that
    /// hold them.
    sockets: Vec<Reference>,
    /// Of stacks: to their threads.
    stacks: Vec<Reference>,
}

/// A container and the processes in it.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Container {
    /// Its ID, as `container_id` in rows of processes.
    #[schemars(extend("x-class" = "id"))]
    container_id: String,
    /// Its processes, in the order of their rows.
    #[schemars(extend("x-class" = "id"))]
    to: Vec<String>,
}

/// One row and those that it is about.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Reference {
    /// The row.
    #[schemars(extend("x-class" = "id"))]
    from: String,
    /// Those that it is about, in the order of its own fields.
    #[schemars(extend("x-class" = "id"))]
    to: Vec<String>,
}

impl Collector for Snapshot {
    const NAME: &'static str = "snapshot";
    const ABOUT: &'static str = "All of it at one instant: processes, descriptors, sockets, mappings, modules, stacks";
    const MANUAL: &'static str = "\
Each part is as the command of its own prints it: processes (ps --details --threads
--self), descriptors (fds --peers --shared), sockets, mappings (maps), modules, stacks
(--flat, without a stop unless --stop is given), limits. Processes are listed once, and
files are read once that say the same to several. `references` says what is about what,
as JSON Pointers into `data`: a descriptor's socket, a socket's holders, both ends of a
pipe, a mapping's module, a thread's stack, a container's processes. One that leads
nowhere, since a process or thread came or went meanwhile, is a gap.

  agent snapshot > evidence.json
  agent snapshot | jq -c '.data.references.descriptors[]'";
    const CAPABILITIES: &'static [Capability] = &[
        Capability::SYS_PTRACE,
        Capability::DAC_READ_SEARCH,
        Capability::DAC_OVERRIDE,
        Capability::CHECKPOINT_RESTORE,
    ];
    const NEEDS: &'static [Need] = &[Need::Stops, Need::Descriptors, Need::SocketDiagnostics];
    type Options = Options;
    type Data = Everything;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Everything>, Failure> {
        run.read_once();
        let gaps = &mut Vec::new();
        let stop = if options.stop { "auto" } else { "never" };
        let maps: &[&str] = if options.no_smaps { &["--no-smaps"] } else { &[] };
        // What changes fastest first, and close together.
        let processes = take::<Ps>(run, &["--details", "--threads", "--self"], "/processes", gaps)?;
        let stacks = take::<Stacks>(run, &["--flat", "--stop", stop], "/stacks", gaps)?;
        let sockets = take::<Sockets>(run, &[], "/sockets", gaps)?;
        let descriptors = take::<Fds>(run, &["--peers", "--shared"], "/descriptors", gaps)?;
        let mappings = take::<Maps>(run, maps, "/mappings", gaps)?;
        let modules = take::<Modules>(run, &[], "/modules", gaps)?;
        let limits = take::<Limits>(run, &[], "/limits", gaps)?;
        let mut data = Everything {
            processes,
            descriptors,
            sockets,
            mappings,
            modules,
            stacks,
            limits,
            references: References::default(),
            cut: HashMap::new(),
        };
        let target = run.target().map_or(0, |target| target.pid);
        data.references = join(&data, target, gaps);
        Ok(Gathered { data, gaps: std::mem::take(gaps) })
    }
}

/// The answer of one collector, and its gaps below `at`. The failure is that the target
/// has ended, or that the time is over.
fn take<C: Collector>(
    run: &Run,
    arguments: &[&str],
    at: &str,
    gaps: &mut Vec<Gap>,
) -> Result<Option<C::Data>, Failure> {
    let line = C::Options::augment_args(clap::Command::new(C::NAME)).no_binary_name(true);
    let options = line.try_get_matches_from(arguments).and_then(|matches| C::Options::from_arg_matches(&matches));
    let options = options.map_err(|_| Failure::new(C::NAME, Cause::Unsupported("its options have changed")))?;
    match C::collect(run, &options) {
        Ok(gathered) => {
            gaps.extend(gathered.gaps.into_iter().map(|gap| gap.below(at)));
            Ok(Some(gathered.data))
        }
        Err(failure) if failure.is_exited() => Err(failure),
        Err(failure) => {
            gaps.push(run.gap(at, &failure));
            Ok(None)
        }
    }
}

/// The rows of a part, one at a time as JSON: a part may have tens of thousands.
fn rows<D: Data>(part: Option<&D>) -> impl Iterator<Item = (usize, Value)> {
    let count = part.and_then(Data::row_count).unwrap_or(0);
    (0..count).filter_map(move |at| Some((at, serde_json::to_value(part?.row(at)?).ok()?)))
}

/// A process, or with a thread ID a thread, to its row.
type Processes = HashMap<(u64, Option<u64>), usize>;

/// What makes up references, and what is missing.
struct Joiner<'a> {
    processes: Processes,
    target: u64,
    gaps: &'a mut Vec<Gap>,
}

fn join(data: &Everything, target: u32, gaps: &mut Vec<Gap>) -> References {
    let number = |row: &Value, key: &str| row[key].as_u64();
    let text = |row: &Value, key: &str| row[key].as_str().map(str::to_owned);
    let mut processes = HashMap::new();
    let mut containers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (at, row) in rows(data.processes.as_ref()) {
        processes.extend(number(&row, "pid").map(|pid| ((pid, number(&row, "tid")), at)));
        // Its threads are found by its pid.
        if let Some(container_id) = text(&row, "container_id").filter(|_| row["tid"].is_null()) {
            containers.entry(container_id).or_default().push(format!("/processes/rows/{at}"));
        }
    }
    let mut by_inode = HashMap::new();
    for (at, row) in rows(data.sockets.as_ref()) {
        by_inode.extend(text(&row, "inode").map(|inode| (inode, at)));
    }
    let mut descriptors = HashMap::new();
    for (at, row) in rows(data.descriptors.as_ref()) {
        descriptors.extend(number(&row, "fd").map(|fd| (fd, at)));
    }
    let mut modules = HashMap::new();
    for (at, row) in rows(data.modules.as_ref()) {
        modules.insert((text(&row, "device"), text(&row, "inode"), text(&row, "path")), at);
    }
    let mut joiner = Joiner { processes, target: u64::from(target), gaps };
    let containers = containers.into_iter().map(|(container_id, to)| Container { container_id, to }).collect();
    let mut references = References { containers, ..References::default() };
    for (at, row) in rows(data.descriptors.as_ref()) {
        let from = format!("/descriptors/rows/{at}");
        references.descriptors.extend(joiner.descriptor(from, &row, &by_inode, &descriptors));
    }
    for (at, row) in rows(data.sockets.as_ref()) {
        let from = format!("/sockets/rows/{at}");
        references.sockets.extend(joiner.socket(from, &row, &descriptors));
    }
    for (at, row) in rows(data.mappings.as_ref()) {
        let from = format!("/mappings/rows/{at}");
        let file = (text(&row, "device"), text(&row, "inode"), text(&row, "path"));
        references.mappings.extend(joiner.mapping(from, &row, modules.get(&file).copied()));
    }
    for (at, row) in rows(data.stacks.as_ref()) {
        let from = format!("/stacks/rows/{at}");
        let tids = row["threads"].as_array().into_iter().flatten().filter_map(|thread| thread["tid"].as_u64());
        let to = joiner.threads(&from, tids);
        references.stacks.extend(reference(from, to));
    }
    references
}

/// A reference, if it is one to anything.
fn reference(from: String, mut to: Vec<String>) -> Option<Reference> {
    let mut known = BTreeSet::new();
    to.retain(|one| known.insert(one.clone()));
    (!to.is_empty()).then_some(Reference { from, to })
}

impl Joiner<'_> {
    /// The row of a process; a gap at `from` where there is none.
    fn process(&mut self, from: &str, pid: u64) -> Option<String> {
        self.look_up(from, (pid, None), &format!("process {pid}"))
    }

    /// The rows of threads of the target.
    fn threads(&mut self, from: &str, tids: impl Iterator<Item = u64>) -> Vec<String> {
        tids.filter_map(|tid| self.look_up(from, (self.target, Some(tid)), &format!("thread {tid}"))).collect()
    }

    fn look_up(&mut self, from: &str, key: (u64, Option<u64>), what: &str) -> Option<String> {
        let found = self.processes.get(&key).map(|at| format!("/processes/rows/{at}"));
        if found.is_none() {
            self.dangles(from, &format!("{what} is not in the table of processes: it came or went meanwhile"));
        }
        found
    }

    fn dangles(&mut self, from: &str, words: &str) {
        self.gaps.push(Gap::new(from, Reason::Incomplete).detail(words));
    }

    fn descriptor(
        &mut self,
        from: String,
        row: &Value,
        sockets: &HashMap<String, usize>,
        descriptors: &HashMap<u64, usize>,
    ) -> Option<Reference> {
        let mut to = Vec::new();
        // A socket of another network namespace is in no table, and has no `socket`.
        if let Some(inode) = row["inode"].as_str().filter(|_| row["socket"].is_object()) {
            match sockets.get(inode) {
                Some(at) => to.push(format!("/sockets/rows/{at}")),
                None => self.dangles(&from, &format!("socket {inode} is not in the table of sockets: it came or went")),
            }
        }
        for peer in row["peers"].as_array().into_iter().flatten() {
            let pid = peer["pid"].as_u64().unwrap_or(0);
            to.extend(self.process(&from, pid));
            let fd = peer["fd"].as_u64().filter(|_| pid == self.target);
            to.extend(fd.and_then(|fd| descriptors.get(&fd)).map(|at| format!("/descriptors/rows/{at}")));
        }
        if let Some(pid) = row["pidfd"]["pid"].as_u64() {
            to.extend(self.process(&from, pid));
        }
        // The number may be another file's by now, or none: it is only a hint.
        let watched = row["epoll"].as_array().into_iter().flatten().filter_map(|one| one["fd"].as_u64());
        to.extend(watched.filter_map(|fd| descriptors.get(&fd)).map(|at| format!("/descriptors/rows/{at}")));
        reference(from, to)
    }

    fn socket(&mut self, from: String, row: &Value, descriptors: &HashMap<u64, usize>) -> Option<Reference> {
        let mut to = Vec::new();
        for key in ["owners", "peer_owners"] {
            for owner in row[key].as_array().into_iter().flatten() {
                let pid = owner["pid"].as_u64().unwrap_or(0);
                to.extend(self.process(&from, pid));
                let fd = owner["fd"].as_u64().filter(|_| pid == self.target);
                let Some(fd) = fd else { continue };
                match descriptors.get(&fd) {
                    Some(at) => to.push(format!("/descriptors/rows/{at}")),
                    // The descriptors may not be looked at, and that has a gap of its own.
                    None if descriptors.is_empty() => {}
                    None => self.dangles(&from, &format!("descriptor {fd} of the target came or went meanwhile")),
                }
            }
        }
        reference(from, to)
    }

    fn mapping(&mut self, from: String, row: &Value, module: Option<usize>) -> Option<Reference> {
        let mut to: Vec<String> = module.map(|at| format!("/modules/rows/{at}")).into_iter().collect();
        let tids = row["tids"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        to.extend(self.threads(&from, tids));
        reference(from, to)
    }
}
