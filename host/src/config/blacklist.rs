//! `initcall_blacklist`: initcalls that are not called, each with the place where it is written.
//!
//! Mirrors the kernel's parameter of that name (K5.3): exact names, a comma between them in the environment. Which
//! initcalls there are, the daemon knows; here it is judged whether a name could be one, and what was meant instead.

use std::path::PathBuf;

use serde::Deserialize;

use super::Config;
use super::section::{Section, Strict, suggest};
use super::source::{ConfigError, Position};

/// The environment variable that takes the place of the list in the file.
pub(super) const VARIABLE: &str = "PERNETD_INITCALL_BLACKLIST";

const NAME_RULE: &str =
    "write plugin.NAME for a plugin, or the name of one of pernetd's own, as `pernetctl boot` shows it";

/// A name in the list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Blacklisted {
    /// The initcall's name.
    pub name: String,
    /// The file or environment variable.
    file: PathBuf,
    /// Where in the file.
    position: Option<Position>,
}

/// The merge of the layers knows no places; they are filled in from the strict pass.
impl From<String> for Blacklisted {
    fn from(name: String) -> Blacklisted {
        Blacklisted { name, file: PathBuf::new(), position: None }
    }
}

impl Blacklisted {
    /// Where it is written: `FILE:LINE`.
    #[must_use]
    pub fn place(&self) -> String {
        let line = self.position.map_or_else(String::new, |at| format!(":{}", at.line));
        format!("{}{line}", self.file.display())
    }

    fn wrong(&self, message: String, hint: impl Into<String>) -> ConfigError {
        ConfigError { position: self.position, ..ConfigError::whole(&self.file, message, hint) }
    }
}

/// The list of the main file.
pub(super) fn in_file(top: &mut Section<'_, '_>, strict: &Strict<'_>) -> Vec<Blacklisted> {
    let written = top.strings("initcall_blacklist", r#"["plugin.wire"]"#).unwrap_or_default();
    for name in written.iter().filter(|name| !can_be_a_name(name.value)) {
        strict.refuse(name.span.start, format!("{:?} is no initcall's name", name.value), NAME_RULE);
    }
    let file = strict.source.path();
    let listed = written.iter().map(|name| Blacklisted {
        name: name.value.to_owned(),
        file: file.to_owned(),
        position: Some(strict.source.position(name.span.start)),
    });
    listed.collect()
}

/// The list of the environment variable; an empty one blacklists nothing.
pub(super) fn in_variable(value: &str, errors: &mut Vec<ConfigError>) -> Vec<Blacklisted> {
    let file = PathBuf::from(format!("environment variable {VARIABLE}"));
    let names = value.split(',').map(str::trim).filter(|_| !value.trim().is_empty());
    let (good, bad): (Vec<&str>, Vec<&str>) = names.partition(|name| can_be_a_name(name));
    let wrong = |name: &str| ConfigError::whole(&file, format!("{name:?} is no initcall's name"), NAME_RULE);
    errors.extend(bad.into_iter().map(wrong));
    good.into_iter().map(|name| Blacklisted { file: file.clone(), ..Blacklisted::from(name.to_owned()) }).collect()
}

fn can_be_a_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.bytes().all(allowed)
}

impl Config {
    /// What is odd about the blacklist: names that no initcall has. `own` are the daemon's own.
    #[must_use]
    pub fn unknown_initcalls(&self, own: &[&str]) -> Vec<ConfigError> {
        let plugins: Vec<String> = self.plugins.iter().map(|p| initcall_of(&p.name)).collect();
        let known: Vec<&str> = own.iter().copied().chain(plugins.iter().map(String::as_str)).collect();
        let unknown = self.main.initcall_blacklist.iter().filter(|listed| !known.contains(&&*listed.name));
        let warning = |listed: &Blacklisted| {
            let full = initcall_of(&listed.name);
            let hint = match known.contains(&&*full) {
                true => format!("did you mean {full:?}?"),
                false => suggest(&listed.name, &known),
            };
            listed.wrong(format!("initcall_blacklist names {:?}, which no initcall is called", listed.name), hint)
        };
        unknown.map(warning).collect()
    }

    /// Blacklisted names without which nothing goes on: that is a mistake in the configuration.
    #[must_use]
    pub fn vital_initcalls(&self, vital: &[&str]) -> Vec<ConfigError> {
        let listed = self.main.initcall_blacklist.iter().filter(|listed| vital.contains(&&*listed.name));
        let message = |name: &str| format!("initcall_blacklist names {name:?}, without which pernetd cannot run");
        listed.map(|listed| listed.wrong(message(&listed.name), "take it out")).collect()
    }
}

/// What a plugin's initcall is called.
#[must_use]
pub fn initcall_of(plugin: &str) -> String {
    format!("plugin.{plugin}")
}
