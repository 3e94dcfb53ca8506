//! The configuration: what each namespace's knobs are at first.

use pernet_plugin_api::ConfigError;
use serde::Deserialize;

use crate::knobs::{COUNT, Devices, INTERVAL, Knobs};

/// The `[config]` table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    interval: u32,
    count: u32,
    devices: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config { interval: 1000, count: 3, devices: vec!["*".to_owned()] }
    }
}

impl Config {
    /// Judges it; a refusal names the field.
    pub(crate) fn knobs(&self) -> Result<Knobs, ConfigError> {
        within("interval", self.interval, INTERVAL)?;
        within("count", self.count, COUNT)?;
        let refused = |(at, why): (usize, String)| ConfigError::at(format!("devices[{at}]"), why);
        let devices = Devices::new(self.devices.iter().map(String::as_str)).map_err(refused)?;
        Ok(Knobs::new(self.interval, self.count, devices))
    }
}

fn within(field: &str, value: u32, range: std::ops::RangeInclusive<u32>) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let why = format!("{value} is not within {} and {}", range.start(), range.end());
    Err(ConfigError::at(field, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let config: Config = toml::from_str(text).expect("well-formed");
        config.knobs().expect_err("refused").field().to_owned()
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        assert_eq!(refusal("interval = 9"), "interval");
        assert_eq!(refusal("interval = 3600001"), "interval");
        assert_eq!(refusal("count = 101"), "count");
        assert_eq!(refusal("devices = [\"eth*\", \"a[\"]"), "devices[1]");
        assert_eq!(refusal("devices = [\"two words\"]"), "devices[0]");
        assert!(toml::from_str::<Config>("cuont = 1").is_err());
        assert!(toml::from_str::<Config>("").expect("the defaults").knobs().is_ok());
    }
}
