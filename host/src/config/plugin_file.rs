//! One plugin's file, `plugins.d/NN-name.toml`.
//!
//! Owns the file's keys and their defaults, and the way back from a field of `[config]` to its place in the file,
//! which is needed when the plugin itself refuses a value.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use glob::Pattern;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::globs::{Selector, compile};
use super::section::{At, Section, Strict, as_integer};
use super::source::{ConfigError, Position, Source};

/// What happens when an init of the plugin fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnInitFailure {
    /// The kernel's rules: everything done is undone.
    #[default]
    Rollback,
    /// The plugin is absent there, the rest go on.
    Skip,
}

/// What becomes of the plugin's effects when the daemon ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// They stay, so that an upgrade is no outage.
    #[default]
    Leave,
    /// They are undone.
    Undo,
}

/// One plugin as configured.
#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// Its name.
    pub name: String,
    /// The drop-in's file name, which is its place: `10-loopback.toml`.
    pub file_name: String,
    /// The shared library.
    pub file: PathBuf,
    /// Whether it runs.
    pub enabled: bool,
    /// Where it acts.
    pub selector: Selector,
    /// It comes after these, if they are there: plugins, or pernetd's own initcalls.
    pub after: Vec<String>,
    /// It comes after these, and they must be there.
    pub requires: Vec<String>,
    /// What happens when an init of it fails.
    pub on_init_failure: OnInitFailure,
    /// What becomes of its effects when the daemon ends.
    pub on_stop: OnStop,
    /// Its `[config]` as JSON with sorted keys: equal texts are equal configurations. `{}` if there is none.
    pub config_json: String,
    /// Where all this was read.
    source: Arc<Source>,
}

/// Equal configurations, wherever they were read.
impl PartialEq for PluginConfig {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.file_name == other.file_name
            && self.file == other.file
            && self.enabled == other.enabled
            && self.selector == other.selector
            && self.after == other.after
            && self.requires == other.requires
            && self.on_init_failure == other.on_init_failure
            && self.on_stop == other.on_stop
            && self.config_json == other.config_json
    }
}

impl PluginConfig {
    /// The drop-in file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Whether it acts in a namespace with these names.
    pub fn selects<S: AsRef<str>>(&self, names: &[S], is_host: bool) -> bool {
        self.selector.selects(names, is_host)
    }

    /// The place of a field of `[config]`, written `a.b[2].c`; of the nearest thing around it that is there.
    #[must_use]
    pub fn field_position(&self, field: &str) -> Position {
        self.source.position(config_place(self.source.text(), field).unwrap_or(0))
    }

    /// An error of a field of `[config]` that the plugin refused.
    #[must_use]
    pub fn refusal(&self, field: &str, message: &str) -> ConfigError {
        let field_and_message = if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") };
        ConfigError {
            file: self.path().to_owned(),
            position: Some(self.field_position(field)),
            message: format!("plugin {} refuses its configuration: {field_and_message}", self.name),
            hint: "correct the value".to_owned(),
        }
    }

    /// An error about one of the plugin's own keys (`after`, `requires`, `file`, …), at its place.
    #[must_use]
    pub fn key_error(&self, key: &str, message: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        let place = DeTable::parse(self.source.text()).ok().and_then(|table| {
            let key = table.get_ref().get_key_value(key)?.0;
            Some(key.span().start)
        });
        self.source.error(place.unwrap_or(0), message, hint)
    }

    /// Where one of the plugin's own keys stands, as `FILE:LINE:COLUMN`; the file alone where it has its default.
    #[must_use]
    pub fn place_of(&self, key: &str) -> String {
        let table = DeTable::parse(self.source.text()).ok();
        let start = table.and_then(|table| Some(table.get_ref().get_key_value(key)?.0.span().start));
        self.place_at(start)
    }

    /// The key of `[config]` that a message of the plugin's names, and where it stands: the longest one, as a word.
    #[must_use]
    pub fn key_named_in(&self, message: &str) -> Option<(String, String)> {
        let table = DeTable::parse(self.source.text()).ok()?;
        let config = table.get_ref().get("config")?.get_ref();
        let mut keys = Vec::new();
        keys_of(config, &mut keys);
        let named = keys.into_iter().filter(|(key, _)| key.len() >= SHORTEST_KEY && has_word(message, key));
        let (key, start) = named.max_by_key(|(key, _)| key.len())?;
        Some((key.to_owned(), self.place_at(Some(start))))
    }

    fn place_at(&self, start: Option<usize>) -> String {
        let file = self.path().display();
        match start.map(|start| self.source.position(start)) {
            Some(at) => format!("{file}:{}:{}", at.line, at.column),
            None => file.to_string(),
        }
    }

    /// Whether it asks for the same, wherever it stands: its place in the order may differ.
    #[must_use]
    pub fn same_meaning(&self, other: &PluginConfig) -> bool {
        *self == PluginConfig { file_name: self.file_name.clone(), ..other.clone() }
    }

    /// Reads a plugin's file. The errors are all that is wrong with it.
    pub(super) fn parse(name: &str, source: Arc<Source>, plugin_dir: &Path) -> Result<PluginConfig, Vec<ConfigError>> {
        let strict = Strict::new(&source);
        let parsed = strict.parse().map(|table| read(name, &strict, &table, plugin_dir));
        let errors = strict.into_errors();
        match parsed {
            Some(config) if errors.is_empty() => Ok(PluginConfig { source: Arc::clone(&source), ..config }),
            _ => Err(errors),
        }
    }
}

fn read(name: &str, strict: &Strict<'_>, table: &DeTable<'_>, plugin_dir: &Path) -> PluginConfig {
    let mut top = Section::top(strict, table);
    let config = PluginConfig {
        name: name.to_owned(),
        file_name: strict.source.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
        file: file(name, strict, &mut top, plugin_dir),
        enabled: top.boolean("enabled").unwrap_or(true),
        selector: selector(strict, &mut top),
        after: plugin_names(name, strict, &mut top, "after"),
        requires: plugin_names(name, strict, &mut top, "requires"),
        on_init_failure: match top.word("on_init_failure", &["rollback", "skip"]) {
            Some("skip") => OnInitFailure::Skip,
            _ => OnInitFailure::Rollback,
        },
        on_stop: match top.word("on_stop", &["leave", "undo"]) {
            Some("undo") => OnStop::Undo,
            _ => OnStop::Leave,
        },
        config_json: top.table("config").map_or_else(|| "{}".to_owned(), |t| table_json(strict, t.value).to_string()),
        source: Arc::new(Source::new("", "")),
    };
    top.finish();
    config
}

/// The library: absolute, or in the plugin folder; by default `libpernet_<name>.so`.
fn file(name: &str, strict: &Strict<'_>, top: &mut Section<'_, '_>, plugin_dir: &Path) -> PathBuf {
    let default = format!("libpernet_{}.so", name.replace('-', "_"));
    let Some(given) = top.string("file", &format!("{default:?}")) else {
        return plugin_dir.join(default);
    };
    let path = Path::new(given.value);
    if given.value.is_empty() || path.components().any(|c| c == Component::ParentDir) {
        let message = format!("file is {:?}", given.value);
        strict.refuse(given.span.start, message, "write an absolute path, or one within the plugin folder, without ..");
    }
    plugin_dir.join(path)
}

fn selector(strict: &Strict<'_>, top: &mut Section<'_, '_>) -> Selector {
    let Some(mut section) = top.section("namespaces", "namespaces.") else {
        return Selector::everything();
    };
    let include = section.strings("include", r#"["web-*"]"#);
    let exclude = section.strings("exclude", r#"["test-*"]"#).unwrap_or_default();
    section.finish();
    let exclude = globs(strict, &exclude);
    match include {
        Some(include) => Selector::new(globs(strict, &include), exclude),
        None => Selector { exclude, ..Selector::everything() },
    }
}

fn globs(strict: &Strict<'_>, written: &[At<&str>]) -> Vec<Pattern> {
    let compiled = written.iter().filter_map(|glob| {
        let refused = |(byte, reason): (usize, String)| {
            let message = format!("the glob {:?} is not valid: {reason}", glob.value);
            strict.refuse(byte, message, "write *, ?, [abc] or [!abc], and [*] for a plain *");
        };
        compile(glob.value, strict.source.text(), glob.span.clone()).map_err(refused).ok()
    });
    compiled.collect()
}

fn plugin_names(own: &str, strict: &Strict<'_>, top: &mut Section<'_, '_>, key: &'static str) -> Vec<String> {
    let written = top.strings(key, r#"["loopback"]"#).unwrap_or_default();
    for name in &written {
        if name.value == own {
            strict.refuse(name.span.start, format!("{key} names the plugin itself"), "take it out");
        } else if !is_plugin_name(&name.value.replace('_', "-")) {
            // pernetd's own initcalls (`sock_init`) can be named too, and have `_` in their names.
            strict.refuse(name.span.start, format!("{:?} is no plugin's name", name.value), NAME_RULE);
        }
    }
    written.iter().map(|n| n.value.to_owned()).collect()
}

/// What a plugin's name is made of.
pub(super) const NAME_RULE: &str = "a plugin's name is made of a-z, 0-9 and -, and does not begin with -";

/// Whether it can be a plugin's name. Lower case only: so it can be part of a file name or an option anywhere.
pub(super) fn is_plugin_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn table_json(strict: &Strict<'_>, table: &DeTable<'_>) -> Value {
    let entries = table.iter();
    Value::Object(
        entries
            .map(|(k, v)| (k.get_ref().to_string(), value_json(strict, v.get_ref(), v.span().start)))
            .collect::<Map<_, _>>(),
    )
}

fn value_json(strict: &Strict<'_>, value: &DeValue<'_>, byte: usize) -> Value {
    let number = |n: Option<Value>| {
        n.unwrap_or_else(|| {
            strict.refuse(byte, "this number cannot be passed to a plugin", "write a finite number of at most 64 bits");
            Value::Null
        })
    };
    match value {
        DeValue::String(s) => Value::from(s.as_ref()),
        DeValue::Integer(_) => number(as_integer(value).map(Value::from)),
        DeValue::Float(x) => number(x.as_str().parse().ok().and_then(serde_json::Number::from_f64).map(Value::Number)),
        DeValue::Boolean(b) => Value::from(*b),
        DeValue::Datetime(d) => Value::from(d.to_string()),
        DeValue::Array(items) => items.iter().map(|i| value_json(strict, i.get_ref(), i.span().start)).collect(),
        DeValue::Table(table) => table_json(strict, table),
    }
}

/// The byte where a field of `[config]` stands.
fn config_place(text: &str, field: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let (key, value) = document.get_ref().get_key_value("config")?;
    let (mut place, mut value) = (key.span().start, value.get_ref());
    for step in steps(field) {
        let next = match value {
            DeValue::Table(table) => table.get_key_value(step).map(|(k, v)| (k.span().start, v)),
            DeValue::Array(array) => step.parse().ok().and_then(|n: usize| array.get(n)).map(|v| (v.span().start, v)),
            _ => None,
        };
        let Some((start, found)) = next else { break };
        (place, value) = (start, found.get_ref());
    }
    Some(place)
}

/// Shorter keys are words of any sentence.
const SHORTEST_KEY: usize = 4;

/// All keys below a value, with the bytes where they stand.
fn keys_of<'t>(value: &'t DeValue<'_>, keys: &mut Vec<(&'t str, usize)>) {
    match value {
        DeValue::Table(table) => {
            for (key, value) in table {
                keys.push((key.get_ref(), key.span().start));
                keys_of(value.get_ref(), keys);
            }
        }
        DeValue::Array(items) => items.iter().for_each(|item| keys_of(item.get_ref(), keys)),
        _ => {}
    }
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// `a.b[2].c` as `a`, `b`, `2`, `c`. A key that has dots itself is written in quotes.
fn steps(field: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        let quoted = rest.strip_prefix('"').and_then(|r| r.split_once('"'));
        let (step, after) = quoted.unwrap_or_else(|| rest.split_at(rest.find(['.', '[', ']']).unwrap_or(rest.len())));
        if !step.is_empty() {
            steps.push(step);
        }
        rest = after.trim_start_matches(['.', '[', ']']);
    }
    steps
}
