//! The record: one line of JSON for each call, appended by a single write.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use pernet_plugin_api::Net;
use serde_json::json;

use super::config::Config;
use crate::{BUILD, NAME};

/// What a call is about.
pub(super) struct Line<'a> {
    pub(super) hook: &'a str,
    /// Which of the plugin's ops.
    pub(super) op: Option<&'a str>,
    pub(super) netns: &'a str,
    pub(super) cookie: Option<u64>,
    pub(super) generation: Option<u32>,
    pub(super) reason: Option<&'a str>,
    pub(super) device: Option<&'a str>,
    pub(super) replay: Option<bool>,
    /// Whether the private area is the one that this op's init made for this life of this namespace.
    pub(super) area_is_mine: Option<bool>,
    /// The errno of what was asked of the daemon; 0 if it agreed.
    pub(super) errno: Option<i32>,
    /// What it said where it did not agree.
    pub(super) message: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// A call outside every namespace.
    pub(super) fn at_home(hook: &'a str) -> Line<'a> {
        Line {
            hook,
            op: None,
            netns: "",
            cookie: None,
            generation: None,
            reason: None,
            device: None,
            replay: None,
            area_is_mine: None,
            errno: None,
            message: None,
        }
    }

    /// A call in a namespace.
    pub(super) fn of(hook: &'a str, op: &'a str, net: &Net<'a>) -> Line<'a> {
        Line {
            op: Some(op),
            netns: net.name(),
            cookie: Some(net.cookie().0),
            generation: Some(net.generation()),
            ..Line::at_home(hook)
        }
    }
}

/// Appends to the file.
#[derive(Clone)]
pub(super) struct Record {
    file: Option<Arc<File>>,
    label: String,
    instance: u64,
    read: Option<PathBuf>,
}

impl Record {
    pub(super) fn new(config: &Config, instance: u64) -> Record {
        let file = OpenOptions::new().append(true).create(true).open(&config.record);
        let (label, read) = (config.label.clone(), config.read.clone());
        Record { file: file.ok().map(Arc::new), label, instance, read }
    }

    pub(super) fn write(&self, line: &Line<'_>, fault: Option<&str>) {
        let Some(mut file) = self.file.as_deref() else { return };
        let read = self.read.as_ref().map(|path| fs::read_to_string(path).unwrap_or_else(|e| e.to_string()));
        let inside = fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
        let json = json!({
            "plugin": NAME,
            "build": BUILD,
            "label": self.label,
            "instance": self.instance,
            "hook": line.hook,
            "op": line.op.unwrap_or_default(),
            "netns": line.netns,
            "cookie": line.cookie,
            "generation": line.generation,
            "reason": line.reason,
            "device": line.device,
            "replay": line.replay,
            "area_is_mine": line.area_is_mine,
            "errno": line.errno,
            "message": line.message,
            "fault": fault,
            "inside": inside,
            "read": read.map(|text| text.trim().to_owned()),
        });
        let _ = file.write_all(format!("{json}\n").as_bytes());
    }
}
