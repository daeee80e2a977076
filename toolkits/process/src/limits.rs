//! `limits`: the resource limits and control groups of the target, and how near it is
//! to each.

pub mod bound;
pub mod cgroup;
pub mod cpu;
mod files;
pub mod groups;
pub mod interval;
pub mod io;
pub mod memory;
pub mod nearest;
pub mod parse;
pub mod pids;
pub mod pressure;
pub mod rlimits;

use std::time::Duration;

use agent_model::data::LeftOut;
use agent_model::{Data, Gap, Gathered};
use agent_system::{Capability, Collector, Failure, Process, Run, clock};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use self::cgroup::Cgroup;
use self::groups::Groups;
use self::interval::Interval;
use self::nearest::Near;
use self::rlimits::Usage;

/// The collector of limits.
pub struct Limits;

/// Options of `limits`.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub struct Options {
    /// Look twice, this long apart, and tell what happened between
    #[arg(long = "for", value_name = "TIME", value_parser = microseconds)]
    #[serde(rename = "for_us", skip_serializing_if = "Option::is_none")]
    interval_us: Option<u64>,
    /// Also give the averages of pressure stall information, which fade by themselves
    #[arg(long)]
    pressure_averages: bool,
}

/// A time such as `500ms`, in microseconds.
fn microseconds(text: &str) -> Result<u64, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match u64::try_from(time.as_micros()) {
        Ok(0) => Err("it must be longer".to_owned()),
        Ok(time) => Ok(time),
        Err(_) => Err("it must be shorter".to_owned()),
    }
}

/// The limits of the target.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Found {
    /// The limits that the target is nearest to, nearest first, eight at the most.
    pub nearest: Vec<Near>,
    /// Its resource limits, in the kernel's order; absent with a gap where they could
    /// not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<rlimits::Row>>,
    /// Its control groups; absent with a gap where they could not be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Cgroup>,
    /// What happened in the interval of `--for`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

impl Data for Found {
    fn leave_out(&mut self, _: u64) -> Option<LeftOut> {
        // What is nearest stays.
        if self.cgroup.take().is_some() {
            return Some(LeftOut::whole("/cgroup"));
        }
        self.limits.take().map(|_| LeftOut::whole("/limits"))
    }
}

impl Collector for Limits {
    const NAME: &'static str = "limits";
    const ABOUT: &'static str = "Resource limits and control groups of the target, and how near it is to each";
    const MANUAL: &'static str = "\
`nearest` names the limits that are nearest, `limits` has every rlimit with its use,
`cgroup` memory, CPU, pids, I/O and pressure of the target's control group (v1, v2 or
hybrid) and of the ancestors that can be seen, with the tightest named. A limit that is
known not to be there is \"unlimited\"; what is not known is absent.

Control groups are read through the target's own mounts. From within a pod these show
the container's group alone; from the node, all above it.

  agent limits                      all of it
  agent limits --for 5s             and the share of throttled periods in 5 seconds
  agent limits | jq '.data.nearest[0]'
  agent limits | jq '.data.cgroup.memory | {usage_bytes, limit_bytes, events}'";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    type Options = Options;
    type Data = Found;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Found>, Failure> {
        let process = run.target_process()?;
        let mut gaps = Vec::new();
        let (cgroup, interval) = control_groups(run, &process, options, &mut gaps);
        let usage = Usage::read(run, &process);
        let limits = match rlimits::read(run, &process, &usage) {
            Ok(rows) => {
                gaps.extend(rows.gaps.into_iter().map(|gap| gap.below("/limits")));
                Some(rows.value)
            }
            Err(failure) if failure.is_exited() => return Err(failure),
            Err(failure) => {
                gaps.push(run.gap("/limits", &failure));
                None
            }
        };
        let nearest = nearest::nearest(limits.as_deref().unwrap_or_default(), cgroup.as_ref(), interval.as_ref());
        Ok(Gathered { data: Found { nearest, limits, cgroup, interval }, gaps })
    }
}

/// The control groups as they are now, or with `--for` after the interval.
fn control_groups(
    run: &Run,
    process: &Process<'_>,
    options: &Options,
    gaps: &mut Vec<Gap>,
) -> (Option<Cgroup>, Option<Interval>) {
    let groups = match Groups::open(run, process) {
        Ok(groups) => groups,
        Err(failure) => {
            gaps.push(run.gap("/cgroup", &failure));
            return (None, None);
        }
    };
    let mut text = Vec::with_capacity(4096);
    let cpus = process.read_piece("status", &mut text).ok().and_then(|()| parse::status_use(&text).cpus);
    let look = || (clock::boot_us(), Cgroup::read(run, &groups, options.pressure_averages, cpus.as_deref()));
    let waited = options.interval_us.map(|time| {
        let (start_us, before) = look();
        run.wait(Duration::from_micros(time)).map(|()| (start_us, before.value))
    });
    let (end_us, after) = look();
    gaps.extend(after.gaps.into_iter().map(|gap| gap.below("/cgroup")));
    let interval = match waited {
        Some(Ok((start_us, before))) => Some(Interval::between(&before, &after.value, end_us.saturating_sub(start_us))),
        Some(Err(failure)) => {
            gaps.push(run.gap("/interval", &failure));
            None
        }
        None => None,
    };
    (Some(after.value), interval)
}
