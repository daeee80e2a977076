//! `profile`: where the threads of a process spend their time.

mod budget;
mod formats;
mod gather;
mod sampler;

use std::time::Duration;

use agent_model::{Gap, Gathered, Hex, Listing, Reason, Text};
use agent_system::{Capability, Collector, ExtraFormat, Failure, Need, Run};
use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;

use crate::frame::Frame;
use crate::stacks::as_text;
use budget::Percent;

/// The collector of profiles.
pub struct Profile;

/// When a running thread of the target may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Stop {
    /// Never: time on a processor then has no stack
    Never,
    /// A running thread for a moment; a blocked one never
    Auto,
}

/// Options of `profile`.
#[derive(Debug, Clone, Args, Serialize, JsonSchema)]
pub struct Options {
    /// For how long to look
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    #[serde(rename = "for", serialize_with = "as_text")]
    #[schemars(with = "String", extend("x-class" = "id"))]
    duration: Duration,
    /// How often a second to look; less often where the budget asks for it
    #[arg(long, value_name = "N", default_value_t = 49, value_parser = clap::value_parser!(u32).range(1..=1000))]
    hz: u32,
    /// What the agent's CPU time and the stops may take together, in percent of one core
    #[arg(long, value_name = "PERCENT", default_value = "1")]
    budget: Percent,
    /// When a running thread may be held for a moment
    #[arg(long, value_enum, default_value_t = Stop::Auto)]
    stop: Stop,
    /// What the stops alone may take, in percent of the time
    #[arg(long, value_name = "PERCENT", default_value = "1")]
    stop_budget: Percent,
    /// Tell the threads apart
    #[arg(long)]
    threads: bool,
    /// The most frames of one stack
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_frames: u32,
}

/// Time that was spent at one place.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["frames.function", "state", "system_call", "thread.name"], "x-life" = ["frames", "thread"]))]
pub struct Row {
    /// `on_cpu`: it ran, or waited for a processor. `off_cpu`: it waited for something
    /// else.
    #[schemars(extend("x-column" = "STATE"))]
    #[schemars(extend("x-class" = "word"))]
    pub state: &'static str,
    /// The time, summed over the threads, in microseconds.
    #[schemars(extend("x-column" = "TIME"))]
    pub time_us: u64,
    /// How often it was seen there.
    #[schemars(extend("x-column" = "SAMPLES"))]
    pub samples: u64,
    /// The thread; only with `--threads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "THREAD"))]
    pub thread: Option<Thread>,
    /// How many threads were seen there.
    #[schemars(extend("x-column" = "THREADS"))]
    pub threads: u64,
    /// The system call that it waited in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SYSTEM CALL"))]
    #[schemars(extend("x-class" = "word"))]
    pub system_call: Option<Text>,
    /// How the stack was read: `no_stop`, `stopped`, or `syscall_only`, without any.
    #[schemars(extend("x-class" = "word"))]
    pub method: &'static str,
    /// Whether it reaches the outermost frame, with no frame guessed.
    pub complete: bool,
    /// The frames, innermost first.
    #[schemars(extend("x-lines" = true))]
    pub frames: Vec<Frame>,
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Thread {
    /// Thread ID.
    pub tid: u32,
    /// Its name (`comm`), as it was at first.
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
}

/// A module that holds code, as symbolizers want it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Module {
    /// Its path.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Where its code starts (AVMA).
    pub start: Hex,
    /// Where its code ends.
    pub end: Hex,
    /// Where the code starts in the file, in bytes.
    pub file_offset: Hex,
    /// Its build ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub build_id: Option<String>,
}

/// Totals, and what was really done.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// From the start to the last look, in microseconds.
    pub duration_us: u64,
    /// Threads seen.
    pub threads: u64,
    /// How often all threads were looked at.
    pub ticks: u64,
    /// Sum of `samples` over the rows.
    pub samples: u64,
    /// Sum of `time_us` over the rows that are `on_cpu`.
    pub on_cpu_us: u64,
    /// Sum of `time_us` over the rows that are `off_cpu`.
    pub off_cpu_us: u64,
    /// What the kernel says that the threads ran meanwhile (`schedstat`): the truth
    /// that `on_cpu_us` estimates, less `run_queue_us`. Absent where it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor_us: Option<u64>,
    /// What the kernel says that they waited for a processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_queue_us: Option<u64>,
    /// CPU time of the agent while it looked, in microseconds.
    pub agent_cpu_us: u64,
    /// How often a thread was held.
    pub stops: u64,
    /// For how long in all, in microseconds.
    pub stopped_us: u64,
    /// Looks that came later than asked for, to stay within the budget.
    pub delayed_ticks: u64,
    /// Why it ended: `time`, `timeout`, `signal`, `target_exited`.
    #[schemars(extend("x-class" = "word"))]
    pub ended: &'static str,
    /// The modules that stand in the frames, by address.
    pub modules: Vec<Module>,
}

impl Collector for Profile {
    const NAME: &'static str = "profile";
    const ABOUT: &'static str = "Where threads spend their time, on the processor and off it";
    const MANUAL: &'static str = "\
Each look asks every thread where it is, and counts the time since the last look for
that place. A thread that has not run since is not looked at again: it costs one read.
A blocked thread is never held; a running one is, for some tens of microseconds,
unless --stop=never. Looks come at slightly uneven times, so that they do not fall in
step with what the target does at a fixed rate.

The agent's CPU time and the stops together stay below --budget: where that does not
allow the rate that was asked for, it sinks. summary says what was done.

Rows come by time, the most first. It ends early, with what was seen by then, on
SIGINT, SIGTERM, and when the target ends.

  agent profile --for 10s                        the hottest stacks
  agent profile --for 30s -o pprof > p.pb.gz     for `go tool pprof`
  agent profile --for 30s -o svg > flame.svg     a flame graph, for a browser
  agent profile --threads -o ndjson | jq 'select(.state == \"on_cpu\")'";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    const NEEDS: &'static [Need] = &[Need::Stops, Need::Interrupts];
    const FORMATS: &'static [ExtraFormat<Self::Data>] = &[
        ExtraFormat { name: "pprof", about: "profile.proto, gzipped, for pprof", write: formats::pprof },
        ExtraFormat { name: "folded", about: "a line a stack, with its microseconds", write: formats::folded },
        ExtraFormat { name: "speedscope", about: "JSON for speedscope", write: formats::speedscope },
        ExtraFormat { name: "svg", about: "a flame graph, for a browser", write: formats::svg },
    ];
    type Options = Options;
    type Data = Listing<Row, Summary>;

    fn lasts(options: &Options) -> Duration {
        options.duration
    }

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let process = run.target_process()?;
        let mut sampler = sampler::Sampler::open(run, &process, options)?;
        sampler.look()?;
        let (rows, summary, mut gaps) = sampler.finish();
        let cut: u64 = rows.iter().filter(|row| !row.complete).map(|row| row.time_us).sum();
        let all: u64 = summary.on_cpu_us + summary.off_cpu_us;
        if cut > 0 {
            let detail = format!("{cut} of {all} us have a stack that does not reach its outermost frame, or none");
            gaps.push(Gap::new("/rows/-/frames", Reason::Incomplete).detail(detail));
        }
        Ok(Gathered { data: Listing { rows, summary }, gaps })
    }
}
