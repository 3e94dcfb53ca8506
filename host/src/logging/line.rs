//! One line of the log before anybody formats it: level, text, and fields by name.
//!
//! The daemon's own lines come from `tracing`, a plugin's over the ABI with its own fields as JSON; both become the same.
//! Field names are lower case here (`netns`), as they are written at the calls; what the journal calls them is
//! [`super::journal`]'s. Not here: what is shown to whom.

use std::borrow::Cow;
use std::fmt::{Debug, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field as Named, Visit};
use tracing::{Event, Level};

use crate::plugin::LogLine;

/// A plugin's line keeps so many fields of its own: the journal drops entries with very many whole.
const MOST: usize = 200;

/// Names that only the host gives: a plugin's own field of such a name is `own_…`.
const HOSTS: [&str; 11] = [
    "plugin",
    "generation",
    "netns",
    "hook",
    "device",
    "target",
    "message",
    "priority",
    "config_file",
    "config_line",
    "config_column",
];

/// A field with its value as text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) value: Cow<'a, str>,
    /// The line's author counts on its being shown: a plugin's own. The host's own texts say all by themselves.
    pub(super) told: bool,
}

/// One line.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) level: Level,
    pub(super) message: Cow<'a, str>,
    pub(super) fields: Vec<Field<'a>>,
    /// File and line of the call, of the daemon's own.
    pub(super) code: Option<(&'a str, u32)>,
}

impl<'a> Line<'a> {
    /// One without fields.
    pub(super) fn bare(level: Level, message: impl Into<Cow<'a, str>>) -> Self {
        Line { level, message: message.into(), fields: Vec::new(), code: None }
    }

    /// A line of the daemon's own.
    pub(super) fn of_event(event: &Event<'a>) -> Self {
        let metadata = event.metadata();
        let mut line = Line { code: metadata.file().zip(metadata.line()), ..Line::bare(*metadata.level(), "") };
        event.record(&mut line);
        line
    }

    /// A line of a plugin's.
    pub(super) fn of_plugin(line: &LogLine<'a>) -> Self {
        let level = match line.level {
            0 | 1 => Level::ERROR,
            2 => Level::WARN,
            3 => Level::INFO,
            4 => Level::DEBUG,
            _ => Level::TRACE,
        };
        let mut told = Line::bare(level, line.message);
        told.put("plugin", line.plugin.to_string());
        told.put("generation", line.generation.to_string());
        let place = [("netns", &line.netns), ("device", &line.device)];
        for (name, value) in place.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            told.put(name, value.to_string());
        }
        if let Some(hook) = line.hook {
            told.put("hook", hook);
        }
        told.put("target", line.target);
        told.put_own(line.fields);
        told
    }

    /// The value of a field.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.name == name).map(|field| &*field.value)
    }

    pub(super) fn put(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        self.fields.push(Field { name: name.into(), value: value.into(), told: false });
    }

    /// A plugin's own fields, which come as a JSON object; empty for none.
    fn put_own(&mut self, json: &'a str) {
        if json.is_empty() {
            return;
        }
        let Ok(own) = serde_json::from_str::<Map<String, Value>>(json) else {
            // Only a plugin that is not made with the macro sends anything else.
            self.fields.push(Field { name: "fields".into(), value: json.into(), told: true });
            return;
        };
        let beyond = own.len().saturating_sub(MOST);
        for (name, value) in own.into_iter().take(MOST) {
            let value = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            self.put_one_of_own(name, value);
        }
        if beyond > 0 {
            self.fields.push(Field { name: "left_off".into(), value: beyond.to_string().into(), told: true });
        }
    }

    /// The namespace and the device are the plugin's to name where the host knows none: on its own threads.
    fn put_one_of_own(&mut self, name: String, value: String) {
        // The journal knows neither case nor punctuation: `Netns` would be a second PERNET_NETNS.
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let plain: String = name.chars().map(plain).collect();
        let known = self.get(&plain).map(|known| known == value);
        let name: Cow<'a, str> = match known {
            Some(true) => return,
            None if matches!(&*name, "netns" | "device") => name.into(),
            None if !HOSTS.contains(&&*plain) => name.into(),
            _ => format!("own_{name}").into(),
        };
        self.fields.push(Field { name, value: value.into(), told: true });
    }
}

/// Takes up the fields of an event; the one called `message` is the text.
impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Named, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.message.to_mut(), "{value:?}");
        } else {
            self.put(field.name(), format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Named, value: &str) {
        if field.name() == "message" {
            self.message.to_mut().push_str(value);
        } else {
            self.put(field.name(), value.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_plugin<'a>(netns: Option<&str>, fields: &'a str) -> Line<'a> {
        Line::of_plugin(&LogLine {
            plugin: "p".into(),
            generation: 3,
            netns: netns.map(Into::into),
            device: None,
            hook: netns.map(|_| "pernet.init"),
            level: 3,
            target: "p::q",
            message: "said",
            fields,
        })
    }

    #[test]
    fn a_plugins_fields_are_fields_of_the_line() {
        let line = of_plugin(Some("blue"), r#"{"key":"net.ipv4","n":3,"flag":true}"#);
        assert_eq!((line.get("key"), line.get("n"), line.get("flag")), (Some("net.ipv4"), Some("3"), Some("true")));
        assert_eq!(
            (line.get("plugin"), line.get("generation"), line.get("hook")),
            (Some("p"), Some("3"), Some("pernet.init"))
        );
    }

    #[test]
    fn what_the_host_knows_no_plugin_says_otherwise() {
        let line = of_plugin(Some("blue"), r#"{"netns":"red","plugin":"q","hook":"x","device":"eth0"}"#);
        assert_eq!((line.get("netns"), line.get("own_netns")), (Some("blue"), Some("red")));
        assert_eq!((line.get("plugin"), line.get("own_plugin")), (Some("p"), Some("q")));
        assert_eq!(line.get("own_hook"), Some("x"));
        assert_eq!(line.get("device"), Some("eth0"), "nobody else knows it");
        let line = of_plugin(Some("blue"), r#"{"Netns":"red","PLUGIN":"q","config-file":"/x"}"#);
        assert_eq!((line.get("own_Netns"), line.get("own_PLUGIN")), (Some("red"), Some("q")), "in any spelling");
        assert_eq!(line.get("own_config-file"), Some("/x"));
    }

    #[test]
    fn on_its_own_threads_a_plugin_says_where_it_is() {
        let line = of_plugin(None, r#"{"netns":"red","generation":9}"#);
        assert_eq!((line.get("netns"), line.get("hook")), (Some("red"), None));
        assert_eq!((line.get("generation"), line.get("own_generation")), (Some("3"), Some("9")));
        let same = of_plugin(Some("blue"), r#"{"netns":"blue"}"#);
        assert_eq!(same.fields.iter().filter(|f| f.value == "blue").count(), 1, "said once");
    }

    #[test]
    fn fields_that_are_no_json_and_fields_beyond_number_are_kept_in_sight() {
        assert_eq!(of_plugin(None, "what is this").get("fields"), Some("what is this"));
        let many: Map<String, Value> = (0..MOST + 5).map(|n| (format!("f{n}"), n.into())).collect();
        let json = serde_json::to_string(&many).expect("numbers");
        assert_eq!(of_plugin(None, &json).get("left_off"), Some("5"));
    }
}
