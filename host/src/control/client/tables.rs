//! What people see: the same values as the JSON, as tables.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::Value;

use crate::control::wire::{
    Device, DeviceDetails, DeviceStats, Filesystem, Hook, MountEntry, Netns, NetnsError, Plugin, ReloadResult, Socket,
};

/// Columns only, so that the lines can be cut and searched.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table
}

/// Lines end where their text does.
pub(super) fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// What is not there.
pub(super) fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

fn netns_error(error: Option<&NetnsError>) -> String {
    or_dash(error.map(|e| format!("{} {}: {}", e.plugin, e.hook, e.message)))
}

/// `3 live, 1 failed`
fn join(counts: &[(u64, &str)]) -> String {
    counts.iter().map(|(n, word)| format!("{n} {word}")).collect::<Vec<_>>().join(", ")
}

pub(super) fn netns_list(namespaces: &[Netns]) -> String {
    let mut t = table(&["NAME", "STATE", "SUBSYSTEMS", "DEVICES", "COOKIE", "NSID", "ALSO", "ERROR"]);
    for ns in namespaces {
        let also: Vec<&str> = ns.names.iter().filter(|n| **n != ns.name).map(String::as_str).collect();
        t.add_row([
            ns.name.clone(),
            ns.state.as_str().to_owned(),
            or_dash((!ns.subsystems.is_empty()).then(|| ns.subsystems.join(","))),
            ns.devices.to_string(),
            ns.cookie.to_string(),
            or_dash(ns.nsid.map(|id| id.to_string())),
            or_dash((!also.is_empty()).then(|| also.join(","))),
            netns_error(ns.error.as_ref()),
        ]);
    }
    text(&t)
}

pub(super) fn plugin_list(plugins: &[Plugin]) -> String {
    let mut t = table(&["ORDER", "NAME", "VERSION", "STATE", "LEVEL", "GENERATION", "NAMESPACES", "FILE", "ERROR"]);
    for p in plugins {
        let error = p.error.as_ref().map(|e| {
            let netns = e.namespace.as_ref().map(|n| format!(" in {n}")).unwrap_or_default();
            format!("{}{netns}: {}", e.hook, e.message)
        });
        t.add_row([
            p.order.to_string(),
            p.name.clone(),
            p.version.clone(),
            p.state.as_str().to_owned(),
            p.level.clone(),
            p.generation.to_string(),
            p.namespaces.to_string(),
            p.file.clone(),
            or_dash(error),
        ]);
    }
    text(&t)
}

pub(super) fn plugin_info(metadata: &Value) -> String {
    let mut t = table(&[]);
    for (key, value) in metadata.as_object().into_iter().flatten() {
        t.add_row([key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)]);
    }
    text(&t)
}

pub(super) fn dev_list(devices: &[Device]) -> String {
    let mut t = table(&["NETNS", "IFINDEX", "NAME", "KIND", "UP", "MTU", "OWNER", "STATE", "ADDRESS", "ALSO"]);
    for d in devices {
        t.add_row([
            d.netns.clone(),
            d.ifindex.to_string(),
            d.name.clone(),
            or_dash(d.kind.clone()),
            if d.up { "up" } else { "down" }.to_owned(),
            d.mtu.to_string(),
            d.owner.clone(),
            d.reg_state.clone(),
            or_dash(d.address.clone()),
            or_dash((!d.alt_names.is_empty()).then(|| d.alt_names.join(","))),
        ]);
    }
    text(&t)
}

pub(super) fn sock_list(sockets: &[Socket]) -> String {
    let mut t = table(&["INO", "NETNS", "OWNER", "FAMILY", "TYPE", "PROTOCOL", "AGE", "STATE"]);
    for s in sockets {
        t.add_row([
            s.ino.to_string(),
            s.netns.clone(),
            s.owner.clone(),
            s.family.clone(),
            s.r#type.clone(),
            s.protocol.to_string(),
            humantime::format_duration(Duration::from_secs(s.age_ms / 1000)).to_string(),
            s.state.clone(),
        ]);
    }
    text(&t)
}

/// One device after the other, with an empty line between them.
pub(super) fn dev_show(devices: &[DeviceDetails]) -> String {
    devices.iter().map(device).collect::<Vec<_>>().join("\n")
}

fn device(d: &DeviceDetails) -> String {
    let mut t = table(&[]);
    t.add_row(["name", &d.name]);
    t.add_row(["also", &or_dash((!d.alt_names.is_empty()).then(|| d.alt_names.join(", ")))]);
    t.add_row(["netns", &d.netns]);
    t.add_row(["ifindex", &d.ifindex.to_string()]);
    t.add_row(["kind", &or_dash(d.kind.clone())]);
    t.add_row(["owner", &d.owner]);
    let waiting = if d.waiting { format!("; waiting for {} to become free", d.name) } else { String::new() };
    t.add_row(["state", &format!("{}, {}{waiting}", d.reg_state, if d.up { "up" } else { "down" })]);
    t.add_row(["mtu", &d.mtu.to_string()]);
    t.add_row(["address", &or_dash(d.address.clone())]);
    t.add_row(["master", &or_dash(d.master.map(|ifindex| ifindex.to_string()))]);
    t.add_row(["serial", &or_dash(d.serial.map(|serial| serial.to_string()))]);
    for holder in &d.holders {
        t.add_row(["held by", &format!("{} for {}", holder.plugin, holder.purpose)]);
    }
    for (whose, stats) in [("kernel", &d.stats), (&*d.owner, &d.plugin_stats)] {
        for (direction, line) in stats.iter().flat_map(counters) {
            t.add_row([&format!("{direction} ({whose})"), &line]);
        }
    }
    for counter in &d.plugin_counters {
        t.add_row([format!("{} ({})", counter.name, d.owner), counter.value.to_string()]);
    }
    text(&t)
}

/// `12 packets, 840 bytes, 0 dropped, 0 errors`
fn counters(s: &DeviceStats) -> [(&'static str, String); 2] {
    let line = |packets, bytes, dropped, errors| {
        join(&[(packets, "packets"), (bytes, "bytes"), (dropped, "dropped"), (errors, "errors")])
    };
    [
        ("received", line(s.rx_packets, s.rx_bytes, s.rx_dropped, s.rx_errors)),
        ("sent", line(s.tx_packets, s.tx_bytes, s.tx_dropped, s.tx_errors)),
    ]
}

pub(super) fn fs_list(filesystems: &[Filesystem]) -> String {
    let mut t = table(&["TYPE", "OWNER", "FOR", "MOUNTS"]);
    for fs in filesystems {
        let who = if fs.user { "users" } else { "internal mounts" };
        t.add_row([fs.name.clone(), fs.owner.clone(), who.to_owned(), fs.mounts.to_string()]);
    }
    text(&t)
}

pub(super) fn mount_list(mounts: &[MountEntry]) -> String {
    let mut t = table(&["ID", "TYPE", "NETNS", "SOURCE", "TARGET", "OPTIONS", "CALLS"]);
    for m in mounts {
        t.add_row([
            m.id.to_string(),
            m.fs.clone(),
            or_dash(m.netns.clone()),
            m.source.clone(),
            m.target.clone(),
            or_dash((!m.options.is_empty()).then(|| m.options.clone())),
            m.calls.to_string(),
        ]);
    }
    text(&t)
}

pub(super) fn reload(result: &ReloadResult) -> String {
    let outcome = if result.ok { "done" } else { "failed; the old set runs" };
    let mut t = table(&["PLUGIN", "ACTION", "ERROR"]);
    for p in &result.plugins {
        t.add_row([p.name.clone(), p.action.as_str().to_owned(), or_dash(p.error.clone())]);
    }
    format!("reload {outcome}, generation {}\n{}", result.generation, text(&t))
}

pub(super) fn hook(hook: &Hook) -> String {
    let device = hook.device.as_ref().map(|d| format!(" dev {d}")).unwrap_or_default();
    let result = hook.error.as_ref().map_or_else(|| "ok".to_owned(), |e| format!("error: {e}"));
    let Hook { time, plugin, netns, duration_us, hook, .. } = hook;
    format!("{time} {netns}{device} {plugin} {hook} {result} ({duration_us} µs)\n")
}
