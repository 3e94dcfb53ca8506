//! The main file's keys, their defaults, and how the layers are merged.
//!
//! Defaults, then the file, then `PERNETD_*` variables; the later wins. Each layer has passed the strict check on its
//! own before it gets here, because the merge itself is lenient: it would take `1.9` for 2 and ignore unknown keys.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use ::config::{Config as Layers, Environment, File, FileFormat};
use serde::Deserialize;

use super::blacklist::{self, Blacklisted};
use super::section::{Section, Strict, suggest};
use super::source::{ConfigError, Source};

/// How the names of namespaces are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Mount events where the kernel has them.
    Auto,
    /// Mount events (Linux 6.15 and later).
    Fanotify,
    /// inotify and mountinfo.
    Inotify,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the words say it
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Who may read over the control socket, beside root and the daemon's own user.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum ControlRead {
    /// Nobody else.
    Root,
    /// The members of a group.
    Group(String),
    /// Everybody.
    All,
}

impl From<String> for ControlRead {
    fn from(word: String) -> ControlRead {
        match word.as_str() {
            "root" => ControlRead::Root,
            "all" => ControlRead::All,
            _ => ControlRead::Group(word),
        }
    }
}

/// `[discovery]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discovery {
    /// How names are watched.
    pub method: Method,
    /// Where names are looked for; an earlier folder's names come first.
    pub folders: Vec<PathBuf>,
}

/// `[netlink]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Netlink {
    /// Bytes that the socket for link events may hold.
    pub receive_buffer: usize,
}

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Who may read.
    pub read: ControlRead,
}

/// `[filesystem]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filesystem {
    /// How long a call of a mounted file system is waited for, in seconds.
    pub timeout: u64,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// What is logged.
    pub level: LogLevel,
}

/// The main file, all layers merged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Main {
    /// Worker threads; 0 is one per core.
    pub workers: usize,
    /// How long an unregistration waits for references, in seconds.
    pub unregister_timeout: u64,
    /// Initcalls that are not called.
    pub initcall_blacklist: Vec<Blacklisted>,
    /// `[discovery]`
    pub discovery: Discovery,
    /// `[netlink]`
    pub netlink: Netlink,
    /// `[control]`
    pub control: Control,
    /// `[filesystem]`
    pub filesystem: Filesystem,
    /// `[log]`
    pub log: Log,
}

/// The scalar keys, which the environment may set too: the key, what it is, and its default.
const SCALARS: [(&str, Kind, &str); 7] = [
    ("workers", Kind::Integer(0, 1024), "0"),
    ("unregister_timeout", Kind::Integer(1, 3600), "10"),
    ("discovery.method", Kind::Word(&["auto", "fanotify", "inotify"]), "auto"),
    ("netlink.receive_buffer", Kind::Integer(4096, 1 << 30), "8388608"),
    ("control.read", Kind::Group, "root"),
    ("filesystem.timeout", Kind::Integer(1, 3600), "10"),
    ("log.level", Kind::Word(&["error", "warn", "info", "debug", "trace"]), "info"),
];

/// The folders by default.
const FOLDERS: [&str; 2] = ["/run/netns", "/run/docker/netns"];

#[derive(Clone, Copy)]
enum Kind {
    /// From, to.
    Integer(i64, i64),
    Word(&'static [&'static str]),
    /// root, all, or a group's name.
    Group,
}

/// What the strict check asks of a key's value, in words: each key of the main file with its type and range.
#[must_use]
pub fn main_keys() -> Vec<(&'static str, String)> {
    let lists = [("initcall_blacklist", "list of strings"), ("discovery.folders", "list of absolute paths")];
    let scalars = SCALARS.iter().map(|(key, kind, _)| (*key, kind.to_string()));
    scalars.chain(lists.map(|(key, kind)| (key, kind.to_owned()))).collect()
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Integer(from, to) => write!(f, "integer from {from} to {to}"),
            Kind::Word(words) => write!(f, "one of {}", words.join(", ")),
            Kind::Group => f.write_str("root, all, or a group's name"),
        }
    }
}

const GROUP_RULE: &str = "write \"root\", \"all\" or the name of a group";

/// Merges defaults, the main file (if there is one) and the environment; errors are those of all layers.
pub(super) fn load(file: Option<&Source>, environment: &[(String, String)]) -> Result<Main, Vec<ConfigError>> {
    let (mut errors, in_file) = file.map(check_file).unwrap_or_default();
    let (environment, in_variable) = check_environment(environment, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let main = merge(file, environment).map_err(|e| {
        // Both layers passed the strict check, so this is a difference between the two checks: still no panic.
        let path = file.map_or(Path::new("the built-in defaults"), Source::path);
        vec![ConfigError::whole(path, e.to_string(), "correct the value")]
    })?;
    // With the places, which the merge loses.
    Ok(Main { initcall_blacklist: in_variable.unwrap_or(in_file), ..main })
}

fn merge(file: Option<&Source>, environment: HashMap<String, String>) -> Result<Main, ::config::ConfigError> {
    let mut layers = Layers::builder().set_default("discovery.folders", FOLDERS.to_vec())?;
    layers = layers.set_default("initcall_blacklist", Vec::<String>::new())?;
    for (key, kind, default) in SCALARS {
        layers = match kind {
            Kind::Integer(..) => layers.set_default(key, default.parse::<i64>().unwrap_or_default())?,
            Kind::Word(_) | Kind::Group => layers.set_default(key, default)?,
        };
    }
    if let Some(file) = file {
        layers = layers.add_source(File::from_str(file.text(), FileFormat::Toml));
    }
    let variables = Environment::with_prefix("PERNETD").prefix_separator("_").separator("__");
    layers.add_source(variables.try_parsing(true).source(Some(environment))).build()?.try_deserialize()
}

/// The strict pass over the file: what is wrong, and the blacklist with its places.
fn check_file(source: &Source) -> (Vec<ConfigError>, Vec<Blacklisted>) {
    let strict = Strict::new(source);
    let mut blacklist = Vec::new();
    if let Some(table) = strict.parse() {
        let mut top = Section::top(&strict, &table);
        scalars(&mut top, &strict, "");
        blacklist = blacklist::in_file(&mut top, &strict);
        for (name, prefix) in [
            ("discovery", "discovery."),
            ("netlink", "netlink."),
            ("control", "control."),
            ("filesystem", "filesystem."),
            ("log", "log."),
        ] {
            let Some(mut section) = top.section(name, prefix) else { continue };
            scalars(&mut section, &strict, prefix);
            if name == "discovery" {
                folders(&mut section, &strict);
            }
            section.finish();
        }
        top.finish();
    }
    (strict.into_errors(), blacklist)
}

/// Checks the scalar keys of one section.
fn scalars(section: &mut Section<'_, '_>, strict: &Strict<'_>, prefix: &str) {
    for (key, kind, default) in SCALARS {
        let Some(key) = key.strip_prefix(prefix).filter(|k| !k.contains('.')) else { continue };
        match kind {
            Kind::Integer(from, to) => drop(section.integer(key, from..to + 1, default)),
            Kind::Word(words) => drop(section.word(key, words)),
            Kind::Group => {
                let written = section.string(key, &format!("{default:?}"));
                if let Some(group) = written.filter(|g| !is_group_name(g.value)) {
                    strict.refuse(group.span.start, format!("{prefix}{key} is {:?}", group.value), GROUP_RULE);
                }
            }
        }
    }
}

fn folders(section: &mut Section<'_, '_>, strict: &Strict<'_>) {
    let example = format!("{FOLDERS:?}");
    for folder in section.strings("folders", &example).unwrap_or_default() {
        if !Path::new(folder.value).is_absolute() {
            let message = format!("discovery.folders has {:?} in it, which is no absolute path", folder.value);
            strict.refuse(folder.span.start, message, format!("write for example folders = {example}"));
        }
    }
}

fn is_group_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_control() || c.is_whitespace() || c == ':')
}

/// The strict pass over the environment: the variables that may take part in the merge, and the blacklist if one is it.
fn check_environment(
    variables: &[(String, String)],
    errors: &mut Vec<ConfigError>,
) -> (HashMap<String, String>, Option<Vec<Blacklisted>>) {
    let names: Vec<String> = SCALARS.iter().map(|(key, ..)| variable(key)).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).chain([blacklist::VARIABLE]).collect();
    let mut taken = HashMap::new();
    let mut listed = None;
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("PERNETD_")) {
        if name == blacklist::VARIABLE {
            listed = Some(blacklist::in_variable(value, errors));
            continue;
        }
        let place = PathBuf::from(format!("environment variable {name}"));
        let refused = match SCALARS.iter().zip(&names).find(|(_, n)| *n == name) {
            None => Some(("it sets nothing".to_owned(), suggest(name, &known))),
            Some(((_, kind, _), _)) => scalar_error(*kind, value).map(|hint| (format!("it is {value:?}"), hint)),
        };
        match refused {
            Some((message, hint)) => errors.push(ConfigError::whole(&place, message, hint)),
            None => drop(taken.insert(name.clone(), value.clone())),
        }
    }
    (taken, listed)
}

/// `discovery.method` as `PERNETD_DISCOVERY__METHOD`.
fn variable(key: &str) -> String {
    format!("PERNETD_{}", key.replace('.', "__").to_uppercase())
}

/// What to write instead of a variable's value that is not valid.
fn scalar_error(kind: Kind, value: &str) -> Option<String> {
    match kind {
        Kind::Integer(from, to) => {
            let valid = value.parse::<i64>().is_ok_and(|n| (from..=to).contains(&n));
            (!valid).then(|| format!("write a number from {from} to {to}"))
        }
        Kind::Word(words) => (!words.contains(&value)).then(|| format!("write one of {}", words.join(", "))),
        Kind::Group => (!is_group_name(value)).then(|| GROUP_RULE.to_owned()),
    }
}
