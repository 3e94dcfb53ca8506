//! A namespace's knobs: how often, how many times, which devices.
//!
//! Owns their values, and says what a table of sysctls over them is. They are read anew for each announcement.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use glob::Pattern;
use pernet_plugin_api::prelude::*;
use rustix::io::Errno;

/// What an interval may be, in milliseconds.
pub(crate) const INTERVAL: RangeInclusive<u32> = 10..=3_600_000;
/// How many announcements there may be.
pub(crate) const COUNT: RangeInclusive<u32> = 0..=100;

/// The knobs of one namespace.
#[derive(Debug)]
pub(crate) struct Knobs {
    interval: UintKnob,
    count: UintKnob,
    devices: Arc<RwLock<Devices>>,
}

impl Knobs {
    pub(crate) fn new(interval: u32, count: u32, devices: Devices) -> Self {
        let devices = Arc::new(RwLock::new(devices));
        Knobs { interval: UintKnob::new(interval), count: UintKnob::new(count), devices }
    }

    /// Others with the same values.
    pub(crate) fn copied(&self) -> Self {
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner).clone();
        Knobs::new(self.interval.get(), self.count.get(), devices)
    }

    pub(crate) fn table(&self) -> CtlTable {
        let (shown, set) = (Arc::clone(&self.devices), Arc::clone(&self.devices));
        let read = move || Ok(shown.read().unwrap_or_else(PoisonError::into_inner).to_string());
        let write = move |text: &str| {
            let devices = Devices::new(text.split_ascii_whitespace());
            let devices = devices.map_err(|(_, why)| Error::new(Errno::INVAL.raw_os_error(), why))?;
            *set.write().unwrap_or_else(PoisonError::into_inner) = devices;
            Ok(())
        };
        let table = CtlTable::new().uint("interval", &self.interval, INTERVAL).uint("count", &self.count, COUNT);
        table.own("devices", read, write)
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval.get().into())
    }

    pub(crate) fn count(&self) -> u32 {
        self.count.get()
    }

    /// Whether a device of this name is meant.
    pub(crate) fn means(&self, device: &str) -> bool {
        self.devices.read().unwrap_or_else(PoisonError::into_inner).mean(device)
    }
}

/// Globs of device names.
#[derive(Clone, Debug)]
pub(crate) struct Devices {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    /// As they were given.
    text: String,
}

impl Devices {
    /// Compiles globs; a bad one is refused by its place among them.
    pub(crate) fn new<'a>(globs: impl Iterator<Item = &'a str>) -> Result<Self, (usize, String)> {
        let mut devices = Devices { include: Vec::new(), exclude: Vec::new(), text: String::new() };
        for (at, glob) in globs.enumerate() {
            let (list, pattern) = match glob.strip_prefix('!') {
                Some(pattern) => (&mut devices.exclude, pattern),
                None => (&mut devices.include, glob),
            };
            if pattern.is_empty() || pattern.contains(char::is_whitespace) {
                return Err((at, format!("`{glob}` is no glob of a device's name, which has no blanks")));
            }
            list.push(Pattern::new(pattern).map_err(|e| (at, format!("bad glob `{glob}`: {}", e.msg)))?);
            devices.text += if devices.text.is_empty() { "" } else { " " };
            devices.text += glob;
        }
        Ok(devices)
    }

    /// Any exclude wins, else any include.
    fn mean(&self, device: &str) -> bool {
        let matches = |glob: &Pattern| glob.matches(device);
        !self.exclude.iter().any(matches) && self.include.iter().any(matches)
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(text: &str) -> Devices {
        Devices::new(text.split(' ')).expect("good globs")
    }

    #[test]
    fn any_exclude_wins() {
        let some = devices("eth* !eth0.* br[!0]");
        let meant: Vec<_> = ["eth0", "eth0.5", "eth10", "br0", "br1", "lo"].map(|name| some.mean(name)).into();
        assert_eq!(meant, [true, false, true, false, true, false]);
        assert_eq!(some.to_string(), "eth* !eth0.* br[!0]");
        assert!(!devices("!eth0").mean("eth1"), "what is not included is not meant");
    }

    #[test]
    fn none_is_none() {
        let none = Devices::new(std::iter::empty()).expect("nothing is wrong with it");
        assert!(!none.mean("eth0") && none.to_string().is_empty());
    }

    #[test]
    fn a_copy_is_its_own() {
        let knobs = Knobs::new(20, 2, devices("*"));
        let copy = knobs.copied();
        copy.count.set(7);
        *copy.devices.write().expect("sound") = devices("eth0");
        assert_eq!((knobs.count(), copy.count(), copy.interval()), (2, 7, Duration::from_millis(20)));
        assert_eq!((knobs.means("eth1"), copy.means("eth1")), (true, false));
    }
}
