//! The configuration, as it is written and as it counts.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use pernet_plugin_api::ConfigError;
use serde::Deserialize;

use crate::globs::Globs;

/// Milliseconds.
const INTERVAL: RangeInclusive<u64> = 1_000..=3_600_000;
const TIMEOUT: RangeInclusive<u64> = 100..=60_000;
/// The daemon's own series are always told, so fewer would make no sense.
const MAX_SERIES: RangeInclusive<u64> = 1_000..=50_000_000;

/// The `[config]` table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    listen: String,
    textfile: PathBuf,
    interval: u64,
    timeout: u64,
    max_series: u64,
    metrics: Vec<String>,
    devices: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: "127.0.0.1:9964".to_owned(),
            textfile: PathBuf::new(),
            interval: 15_000,
            timeout: 5_000,
            max_series: 1_000_000,
            metrics: vec!["*".to_owned()],
            devices: vec!["*".to_owned()],
        }
    }
}

/// What counts.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) textfile: Option<PathBuf>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) max_series: usize,
    pub(crate) metrics: Globs,
    pub(crate) devices: Globs,
}

impl Config {
    /// Judges it; a refusal names the field.
    pub(crate) fn settings(&self) -> Result<Settings, ConfigError> {
        let globs = |field: &str, list: &[String]| {
            Globs::new(list).map_err(|(at, why)| ConfigError::at(format!("{field}[{at}]"), why))
        };
        let (listen, textfile) = (self.address()?, self.file()?);
        if listen.is_none() && textfile.is_none() {
            return Err(ConfigError::at("listen", "nobody would be told: set `listen` or `textfile`"));
        }
        within("max_series", self.max_series, MAX_SERIES)?;
        Ok(Settings {
            listen,
            textfile,
            interval: Duration::from_millis(within("interval", self.interval, INTERVAL)?),
            timeout: Duration::from_millis(within("timeout", self.timeout, TIMEOUT)?),
            max_series: usize::try_from(self.max_series).unwrap_or(usize::MAX),
            metrics: globs("metrics", &self.metrics)?,
            devices: globs("devices", &self.devices)?,
        })
    }

    fn address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let wrong = |why: &str| ConfigError::at("listen", format!("`{}` {why}", self.listen));
        let form = "is not an address with a port, such as 127.0.0.1:9964 or [::1]:9964";
        let address: SocketAddr = self.listen.parse().map_err(|_| wrong(form))?;
        if address.port() == 0 {
            return Err(wrong("has no port"));
        }
        Ok(Some(address))
    }

    fn file(&self) -> Result<Option<PathBuf>, ConfigError> {
        if self.textfile.as_os_str().is_empty() {
            return Ok(None);
        }
        let wrong = |why: &str| ConfigError::at("textfile", format!("{} {why}", self.textfile.display()));
        if !self.textfile.is_absolute() {
            return Err(wrong("is no absolute path"));
        }
        if self.textfile.extension().is_none_or(|extension| extension != "prom") {
            return Err(wrong("does not end in .prom, so node_exporter would not read it"));
        }
        Ok(Some(self.textfile.clone()))
    }
}

fn within(field: &str, value: u64, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(ConfigError::at(field, format!("{value} is not within {} and {}", range.start(), range.end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let config: Config = toml::from_str(text).expect("well-formed");
        config.settings().expect_err("refused").field().to_owned()
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (text, field) in [
            ("listen = \"localhost:9964\"", "listen"),
            ("listen = \"127.0.0.1\"", "listen"),
            ("listen = \"127.0.0.1:0\"", "listen"),
            ("listen = \"\"", "listen"),
            ("textfile = \"metrics.prom\"", "textfile"),
            ("textfile = \"/var/lib/metrics.txt\"", "textfile"),
            ("interval = 999", "interval"),
            ("timeout = 60001", "timeout"),
            ("max_series = 1", "max_series"),
            ("metrics = [\"*\", \"a[\"]", "metrics[1]"),
            ("devices = [\"!\"]", "devices[0]"),
            ("devices = [\"!lo\"]", "devices[0]"),
        ] {
            assert_eq!(refusal(text), field, "{text}");
        }
        assert!(toml::from_str::<Config>("max_serie = 1").is_err());
    }

    #[test]
    fn both_ways_may_be_chosen_or_either() {
        let settings = |text: &str| toml::from_str::<Config>(text).expect("well-formed").settings().expect("accepted");
        let defaults = settings("");
        assert_eq!(defaults.listen.map(|at| at.ip().is_loopback()), Some(true));
        assert!(defaults.textfile.is_none());
        let file = settings("listen = \"\"\ntextfile = \"/a/b.prom\"");
        assert!(file.listen.is_none() && file.textfile.is_some());
        assert!(settings("listen = \"[::1]:9964\"").listen.is_some_and(|at| at.is_ipv6()));
    }
}
