//! The block I/O controllers: cgroup-v2.rst ("IO"), cgroup-v1/blkio-controller.rst.

use std::collections::BTreeMap;

use agent_model::{Noted, Text};
use agent_system::Run;
use agent_system::parse::number;
use schemars::JsonSchema;
use serde::Serialize;

use super::bound::Bound;
use super::files::Files;
use super::groups::Chain;
use super::parse::{self, Device};

/// Block I/O of the process's control group and its descendants.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Io {
    /// The group, as in `groups`.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
    /// Version of its hierarchy.
    pub version: u8,
    /// Devices that it used or that it is limited on, by number.
    pub devices: Vec<DeviceIo>,
}

/// I/O of one device since the group was made, and its limits there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DeviceIo {
    /// `MAJOR:MINOR`.
    #[schemars(extend("x-column" = "DEVICE"))]
    #[schemars(extend("x-class" = "id"))]
    pub device: String,
    /// Bytes read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "READ"))]
    pub read_bytes: Option<u64>,
    /// Bytes written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "WRITTEN"))]
    pub write_bytes: Option<u64>,
    /// Read operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "READS"))]
    pub reads: Option<u64>,
    /// Write operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "WRITES"))]
    pub writes: Option<u64>,
    /// Bytes discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_bytes: Option<u64>,
    /// Discard operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discards: Option<u64>,
    /// Bytes that may be read a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "READ LIMIT"))]
    pub read_limit_bytes_per_s: Option<Bound>,
    /// Bytes that may be written a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "WRITE LIMIT"))]
    pub write_limit_bytes_per_s: Option<Bound>,
    /// Reads that may be done a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_limit_per_s: Option<Bound>,
    /// Writes that may be done a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_limit_per_s: Option<Bound>,
}

type Devices = BTreeMap<Device, DeviceIo>;

fn at(devices: &mut Devices, device: Device) -> &mut DeviceIo {
    let name = || format!("{}:{}", device.0, device.1);
    devices.entry(device).or_insert_with(|| DeviceIo { device: name(), ..DeviceIo::default() })
}

/// Reads the I/O controller of a group; gaps relative to it.
pub(super) fn read(run: &Run, chain: &Chain<'_>, text: &mut Vec<u8>) -> Option<Noted<Io>> {
    let own = chain.levels.first()?;
    let mut files = Files::of(own, text);
    let mut devices = Devices::new();
    if chain.version == 1 {
        v1(&mut devices, &mut files)
    } else {
        v2(&mut devices, &mut files)
    }
    let gaps = Vec::from_iter(files.gap(run, ""));
    let io = Io { path: own.path.clone(), version: chain.version, devices: devices.into_values().collect() };
    Some(Noted { value: io, gaps })
}

fn v2(devices: &mut Devices, files: &mut Files<'_, '_>) {
    parse::nested_keyed(files.text("io.stat").unwrap_or_default(), |device, key, value| {
        let Some(value) = number(value) else { return };
        let one = at(devices, device);
        match key {
            b"rbytes" => one.read_bytes = Some(value),
            b"wbytes" => one.write_bytes = Some(value),
            b"rios" => one.reads = Some(value),
            b"wios" => one.writes = Some(value),
            b"dbytes" => one.discard_bytes = Some(value),
            b"dios" => one.discards = Some(value),
            _ => {}
        }
    });
    parse::nested_keyed(files.text("io.max").unwrap_or_default(), |device, key, value| {
        let (limit, one) = (parse::bound(value), at(devices, device));
        match key {
            b"rbps" => one.read_limit_bytes_per_s = limit,
            b"wbps" => one.write_limit_bytes_per_s = limit,
            b"riops" => one.read_limit_per_s = limit,
            b"wiops" => one.write_limit_per_s = limit,
            _ => {}
        }
    });
}

fn v1(devices: &mut Devices, files: &mut Files<'_, '_>) {
    // Without `_recursive` an older kernel counts the group alone.
    let mut each = |names: &[&str], set: fn(&mut DeviceIo, &[u8], u64)| {
        let there = names.iter().find_map(|name| files.text(&format!("blkio.throttle.{name}")).map(<[u8]>::to_vec));
        parse::blkio(&there.unwrap_or_default(), |device, key, value| set(at(devices, device), key, value));
    };
    each(&["io_service_bytes_recursive", "io_service_bytes"], |one, key, value| match key {
        b"Read" => one.read_bytes = Some(value),
        b"Write" => one.write_bytes = Some(value),
        b"Discard" => one.discard_bytes = Some(value),
        _ => {}
    });
    each(&["io_serviced_recursive", "io_serviced"], |one, key, value| match key {
        b"Read" => one.reads = Some(value),
        b"Write" => one.writes = Some(value),
        b"Discard" => one.discards = Some(value),
        _ => {}
    });
    each(&["read_bps_device"], |one, _, value| one.read_limit_bytes_per_s = Some(Bound::At(value)));
    each(&["write_bps_device"], |one, _, value| one.write_limit_bytes_per_s = Some(Bound::At(value)));
    each(&["read_iops_device"], |one, _, value| one.read_limit_per_s = Some(Bound::At(value)));
    each(&["write_iops_device"], |one, _, value| one.write_limit_per_s = Some(Bound::At(value)));
}
