//! The formats of profilers: pprof, folded stacks, speedscope, flame graphs.
//!
//! All of them say the same as the rows: every microsecond of every row stands in
//! each of them once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;

use agent_model::{Listing, Text};
use agent_session::redact::scrubbed;
use agent_system::Enveloped;
use flate2::write::GzEncoder;
use pprof::protos;
use serde_json::{Value, json};

use super::{Row, Summary};
use crate::frame::Frame;

#[cfg(test)]
mod tests;

/// The word for a state, as people write it.
fn state_words(row: &Row) -> &'static str {
    if row.state == "on_cpu" { "on-CPU" } else { "off-CPU" }
}

/// What a frame is called that has no function.
fn place_words(frame: &Frame) -> String {
    match (&frame.module, &frame.offset) {
        (Some(module), Some(offset)) => format!("{module}+{offset}"),
        (Some(module), None) => format!("{module}@{}", frame.address),
        _ => frame.address.to_string(),
    }
}

/// The functions of one frame, outermost first: what was inlined is one too.
fn functions(frame: &Frame) -> impl Iterator<Item = (String, Option<&Text>, Option<u32>)> {
    let own = frame.function.as_ref().map_or_else(|| place_words(frame), ToString::to_string);
    let unnamed = || "[inlined]".to_owned();
    let inlined =
        frame.inlined.iter().rev().map(move |one| {
            (one.function.as_ref().map_or_else(unnamed, ToString::to_string), one.file.as_ref(), one.line)
        });
    std::iter::once((own, frame.file.as_ref(), frame.line)).chain(inlined)
}

/// The thread of a row, if they are told apart.
fn thread_words(row: &Row) -> Option<String> {
    row.thread.as_ref().map(|thread| format!("{} ({})", thread.name, thread.tid))
}

/// A row as one line of folded stacks, outermost function first, without its count.
fn folded_line(row: &Row) -> String {
    let mut line = state_words(row).to_owned();
    let mut push = |name: &str| {
        line.push(';');
        // What separates functions and lines cannot be in a name.
        line.extend(name.chars().map(|c| if c == ';' || c == '\n' { ':' } else { c }));
    };
    if let Some(thread) = thread_words(row) {
        push(&thread);
    }
    if row.frames.is_empty() {
        push("[no stack]");
    }
    for frame in row.frames.iter().rev() {
        functions(frame).for_each(|(name, _, _)| push(&name));
    }
    line
}

/// The folded lines and their microseconds; equal ones are joined.
fn folded_lines(data: &Listing<Row, Summary>) -> Vec<(String, u64)> {
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut lines: Vec<(String, u64)> = Vec::new();
    for row in &data.rows {
        let line = folded_line(row);
        match index.get(&line) {
            Some(at) => lines[*at].1 += row.time_us,
            None => {
                index.insert(line.clone(), lines.len());
                lines.push((line, row.time_us));
            }
        }
    }
    lines.sort();
    lines
}

/// A line a stack: `on-CPU;main;work 1234`, in microseconds.
///
/// # Errors
///
/// When it cannot be written.
pub(super) fn folded(_: &Enveloped<'_>, data: &Listing<Row, Summary>, out: &mut dyn io::Write) -> io::Result<()> {
    for (line, time_us) in folded_lines(data) {
        writeln!(out, "{line} {time_us}")?;
    }
    Ok(())
}

/// A flame graph, whose widths are microseconds.
///
/// # Errors
///
/// When it cannot be written, or nothing was seen.
pub(super) fn svg(envelope: &Enveloped<'_>, data: &Listing<Row, Summary>, out: &mut dyn io::Write) -> io::Result<()> {
    let lines: Vec<String> =
        folded_lines(data).into_iter().map(|(line, time_us)| format!("{line} {time_us}")).collect();
    let mut options = inferno::flamegraph::Options::default();
    options.title = match &envelope.target {
        Some(target) => format!("{} ({})", target.name, target.pid),
        None => "profile".to_owned(),
    };
    options.subtitle = Some(format!("{}  session {}", envelope.observed.start, envelope.session.id));
    options.count_name = "us".to_owned();
    options.deterministic = true;
    inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out)
}

/// JSON for speedscope: a profile of each state, whose weights are microseconds.
///
/// # Errors
///
/// When it cannot be written.
pub(super) fn speedscope(
    envelope: &Enveloped<'_>,
    data: &Listing<Row, Summary>,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let mut frames: Vec<Value> = Vec::new();
    let mut index: HashMap<(String, Option<&Text>, Option<u32>), usize> = HashMap::new();
    let mut profiles = Vec::new();
    for (state, name) in [("on_cpu", "on-CPU"), ("off_cpu", "off-CPU")] {
        let (mut samples, mut weights) = (Vec::new(), Vec::new());
        for row in data.rows.iter().filter(|row| row.state == state) {
            let mut sample = Vec::new();
            let thread = thread_words(row).map(|thread| (thread, None, None));
            let none = row.frames.is_empty().then(|| ("[no stack]".to_owned(), None, None));
            for key in thread.into_iter().chain(none).chain(row.frames.iter().rev().flat_map(functions)) {
                let next = frames.len();
                let at = *index.entry(key.clone()).or_insert(next);
                if at == next {
                    let mut frame = json!({"name": key.0});
                    if let Some(file) = key.1 {
                        frame["file"] = json!(file);
                    }
                    if let Some(line) = key.2 {
                        frame["line"] = json!(line);
                    }
                    frames.push(frame);
                }
                sample.push(at);
            }
            samples.push(sample);
            weights.push(row.time_us);
        }
        let end: u64 = weights.iter().sum();
        profiles.push(json!({
            "type": "sampled", "name": name, "unit": "microseconds", "startValue": 0, "endValue": end,
            "samples": samples, "weights": weights,
        }));
    }
    let target = envelope.target.as_ref().map_or("profile", |target| target.name.as_str());
    let file = json!({
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "name": target,
        "activeProfileIndex": 0,
        "exporter": format!("agent@{}", envelope.agent.version),
        "shared": {"frames": frames},
        "profiles": profiles,
    });
    serde_json::to_writer(&mut *out, &file)?;
    out.write_all(b"\n")
}

/// `profile.proto`, gzipped: three values a sample (samples, time on and off the
/// processor), mappings with build IDs, and labels.
///
/// # Errors
///
/// When it cannot be written.
pub(super) fn pprof(envelope: &Enveloped<'_>, data: &Listing<Row, Summary>, out: &mut dyn io::Write) -> io::Result<()> {
    use protos::Message as _;
    let mut builder = Builder::new(data);
    for row in &data.rows {
        builder.sample(row);
    }
    let mut profile = builder.finish();
    let start = envelope.observed.start.as_str();
    let (session, at) = (envelope.session.id.as_str(), start);
    let comment = format!("session {session}, from {at}");
    profile.string_table.push(comment);
    profile.comment = vec![profile.string_table.len() as i64 - 1];
    for text in &mut profile.string_table {
        if let Cow::Owned(shown) = scrubbed(envelope.redaction.level, text) {
            *text = shown;
        }
    }
    profile.duration_nanos = nanoseconds(data.summary.duration_us);
    let bytes = profile.encode_to_vec();
    let mut gzip = GzEncoder::new(out, flate2::Compression::default());
    io::Write::write_all(&mut gzip, &bytes)?;
    gzip.finish().map(|_| ())
}

fn nanoseconds(time_us: u64) -> i64 {
    i64::try_from(time_us.saturating_mul(1000)).unwrap_or(i64::MAX)
}

/// A profile in the making: all that has a number there.
struct Builder<'a> {
    profile: protos::Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<u64, Vec<(&'a Frame, u64)>>,
    modules: Vec<(u64, u64)>,
}

impl<'a> Builder<'a> {
    fn new(data: &Listing<Row, Summary>) -> Self {
        let mut new = Self {
            profile: protos::Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
            modules: Vec::new(),
        };
        // The first string is the empty one.
        new.string("");
        let kinds = [("samples", "count"), ("on_cpu", "nanoseconds"), ("off_cpu", "nanoseconds")];
        new.profile.sample_type = kinds.map(|(kind, unit)| new.value_type(kind, unit)).to_vec();
        new.profile.default_sample_type = new.string("on_cpu");
        new.profile.period_type = Some(new.value_type("wall", "nanoseconds"));
        let ticks = data.summary.ticks.max(1);
        new.profile.period = nanoseconds(data.summary.duration_us / ticks);
        for (at, module) in data.summary.modules.iter().enumerate() {
            let mapping = protos::Mapping {
                id: at as u64 + 1,
                memory_start: module.start.0,
                memory_limit: module.end.0,
                file_offset: module.file_offset.0,
                filename: new.string(module.path.as_str()),
                build_id: module.build_id.as_deref().map_or(0, |id| new.string(id)),
                has_functions: true,
                ..protos::Mapping::default()
            };
            new.profile.mapping.push(mapping);
            new.modules.push((module.start.0, module.end.0));
        }
        new
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(at) = self.strings.get(text) {
            return *at;
        }
        let at = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), at);
        at
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> protos::ValueType {
        protos::ValueType { ty: self.string(kind), unit: self.string(unit) }
    }

    fn function(&mut self, name: &str, file: Option<&Text>) -> u64 {
        let key = (self.string(name), file.map_or(0, |file| self.string(file.as_str())));
        if let Some(id) = self.functions.get(&key) {
            return *id;
        }
        let id = self.profile.function.len() as u64 + 1;
        let (name, filename) = key;
        self.profile.function.push(protos::Function { id, name, system_name: name, filename, start_line: 0 });
        self.functions.insert(key, id);
        id
    }

    fn location(&mut self, frame: &'a Frame) -> u64 {
        let known = self.locations.get(&frame.address.0).and_then(|list| list.iter().find(|(one, _)| *one == frame));
        if let Some((_, id)) = known {
            return *id;
        }
        let id = self.profile.location.len() as u64 + 1;
        let mut lines: Vec<protos::Line> = functions(frame)
            .map(|(name, file, line)| protos::Line {
                function_id: self.function(&name, file),
                line: line.map_or(0, i64::from),
            })
            .collect();
        // Here the innermost comes first.
        lines.reverse();
        // A byte within the call: the address behind it may be another function's.
        let behind = u64::from(frame.kind == "return_address");
        let address = frame.address.0.saturating_sub(behind);
        let mapping = self.modules.iter().position(|(start, end)| (*start..*end).contains(&address));
        self.profile.location.push(protos::Location {
            id,
            mapping_id: mapping.map_or(0, |at| at as u64 + 1),
            address,
            line: lines,
            is_folded: false,
        });
        self.locations.entry(frame.address.0).or_default().push((frame, id));
        id
    }

    fn sample(&mut self, row: &'a Row) {
        let time = nanoseconds(row.time_us);
        let is_on = row.state == "on_cpu";
        let count = i64::try_from(row.samples).unwrap_or(i64::MAX);
        let mut label = Vec::new();
        let mut text = |key: &str, value: &str, builder: &mut Self| {
            let (key, str) = (builder.string(key), builder.string(value));
            label.push(protos::Label { key, str, num: 0, num_unit: 0 });
        };
        text("state", row.state, self);
        if let Some(call) = &row.system_call {
            text("system_call", call.as_str(), self);
        }
        if let Some(thread) = &row.thread {
            text("thread", thread.name.as_str(), self);
            let key = self.string("thread_id");
            label.push(protos::Label { key, str: 0, num: i64::from(thread.tid), num_unit: 0 });
        }
        let location_id = row.frames.iter().map(|frame| self.location(frame)).collect();
        let value = vec![count, if is_on { time } else { 0 }, if is_on { 0 } else { time }];
        self.profile.sample.push(protos::Sample { location_id, value, label });
    }

    fn finish(self) -> protos::Profile {
        self.profile
    }
}
