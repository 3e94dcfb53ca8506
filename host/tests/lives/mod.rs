//! What a probe recorded, judged by the rules that hold whatever happened: each life of a namespace whole, each device
//! of it there once.
//!
//! A test binary that has this has `mod machine;` too. Knows nothing of what the test did.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::Call;

/// One life of a namespace, as one plugin saw it.
#[derive(Debug, Default)]
pub struct Life {
    inits: usize,
    exits: usize,
    /// Devices that are registered, by name.
    devices: BTreeSet<String>,
    pub netns: String,
}

/// A namespace's life, whose number is never reused.
pub type Lives = BTreeMap<(u64, u32), Life>;

/// Reads the record of one probe and checks, at every call, what may come then. Panics with what led there.
#[track_caller]
pub fn check(calls: &[Call]) -> Lives {
    let mut lives = Lives::new();
    for (at, call) in calls.iter().enumerate() {
        let (Some(cookie), Some(generation)) = (call.cookie, call.generation) else { continue };
        let life = lives.entry((cookie, generation)).or_default();
        if let Err(what) = life.take(call) {
            let same = calls[..=at].iter().filter(|c| c.cookie == call.cookie);
            let story: Vec<String> = same.map(|c| format!("{} #{:?}", c.trace(), c.generation)).collect();
            panic!("{what}: {}", story.join("\n"));
        }
    }
    lives
}

/// Checks that every life has ended, and returns how many there were.
#[track_caller]
pub fn all_ended(lives: &Lives) -> usize {
    for (which, life) in lives {
        assert!(life.inits == 1 && life.exits == 1 && life.devices.is_empty(), "{which:?}: {life:?}");
    }
    lives.len()
}

impl Life {
    fn take(&mut self, call: &Call) -> Result<(), &'static str> {
        self.netns.clone_from(&call.netns);
        let alive = self.inits == 1 && self.exits == 0;
        match &*call.hook {
            "pernet.init" if self.inits > 0 => return Err("a second init"),
            "pernet.init" => self.inits += 1,
            _ if !alive => return Err("a call before the init or after the exit"),
            "pernet.exit" if !self.devices.is_empty() => return Err("an exit with devices left"),
            "pernet.exit" => self.exits += 1,
            hook => return hook.strip_prefix("netdev.").map_or(Ok(()), |event| self.device(event, call)),
        }
        if call.area_is_mine == Some(false) { Err("somebody else's area") } else { Ok(()) }
    }

    /// A name that a device got by a renaming counts from then on; nobody tells here which one it had.
    fn device(&mut self, event: &str, call: &Call) -> Result<(), &'static str> {
        let name = call.device.clone().unwrap_or_default();
        match event {
            "register" if !self.devices.insert(name.clone()) => Err("registered twice"),
            "register" => Ok(()),
            "unregister" if !self.devices.remove(&name) => Err("unregistered without being registered"),
            "unregister" => Ok(()),
            _ if !self.devices.contains(&name) => Err("an event of a device that is not registered"),
            _ => Ok(()),
        }
    }

    /// Its registered devices.
    pub fn devices(&self) -> Vec<&str> {
        self.devices.iter().map(String::as_str).collect()
    }

    /// Whether it goes on.
    pub fn goes_on(&self) -> bool {
        self.exits == 0
    }
}
