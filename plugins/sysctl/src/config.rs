//! The configuration: as it is written, and as a plan that is known to be sound.
//!
//! Reads and judges; touches no world. The shape is in the crate's own documentation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use pernet_plugin_api::{ConfigError, field_key};
use serde::Deserialize as Derive;
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::key::Key;
use crate::select::Select;

/// The `[config]` table.
#[derive(Debug, Default, Derive)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    profile: Vec<Profile>,
}

#[derive(Debug, Derive)]
#[serde(deny_unknown_fields)]
struct Profile {
    name: String,
    #[serde(default = "all")]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    settings: BTreeMap<String, Value>,
    #[serde(default)]
    device: Vec<DeviceRule>,
}

#[derive(Debug, Derive)]
#[serde(deny_unknown_fields)]
struct DeviceRule {
    #[serde(default = "all")]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    settings: BTreeMap<String, Value>,
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

/// A value as it is written to the kernel.
#[derive(Debug)]
struct Value(String);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;
        impl Visitor<'_> for AnyValue {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer, a boolean or a string")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
                Ok(Value(u8::from(value).to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
                Ok(Value(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
                Ok(Value(value.to_string()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
                Ok(Value(value.trim().to_owned()))
            }
        }
        deserializer.deserialize_any(AnyValue)
    }
}

/// Settings by key, in the order in which they are written.
pub(crate) type Wanted<'a> = BTreeMap<&'a Key, &'a Setting>;

/// A value, and the profile that asks for it.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) value: String,
    pub(crate) profile: Arc<str>,
}

/// A sound configuration.
#[derive(Debug)]
pub(crate) struct Plan(Vec<Planned>);

#[derive(Debug)]
struct Planned {
    select: Select,
    settings: BTreeMap<Key, Setting>,
    devices: Vec<Arc<Rule>>,
}

/// Settings for some devices.
#[derive(Debug)]
pub(crate) struct Rule {
    select: Select,
    settings: BTreeMap<Key, Setting>,
}

impl Plan {
    /// Judges a configuration; a refusal names the field.
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let plan = |(at, profile): (usize, &Profile)| planned(profile, &format!("profile[{at}]"));
        config.profile.iter().enumerate().map(plan).collect::<Result<_, _>>().map(Plan)
    }

    /// Whether any profile is about devices.
    pub(crate) fn has_devices(&self) -> bool {
        self.0.iter().any(|profile| !profile.devices.is_empty())
    }

    /// What a namespace shall have: a later profile's value counts.
    pub(crate) fn wanted(&self, namespace: &str) -> Wanted<'_> {
        self.fitting(namespace).flat_map(|profile| &profile.settings).collect()
    }

    /// The rules for the devices of a namespace, in order.
    pub(crate) fn rules(&self, namespace: &str) -> Vec<Arc<Rule>> {
        self.fitting(namespace).flat_map(|profile| profile.devices.iter().cloned()).collect()
    }

    fn fitting(&self, namespace: &str) -> impl Iterator<Item = &Planned> {
        self.0.iter().filter(move |profile| profile.select.has_namespace(namespace))
    }
}

/// What a device shall have: a later rule's value counts.
pub(crate) fn wanted_by<'a>(rules: &'a [Arc<Rule>], device: &str) -> Wanted<'a> {
    rules.iter().filter(|rule| rule.select.has_device(device)).flat_map(|rule| &rule.settings).collect()
}

fn planned(profile: &Profile, field: &str) -> Result<Planned, ConfigError> {
    let name: Arc<str> = profile.name.as_str().into();
    let rule = |(at, rule): (usize, &DeviceRule)| {
        let field = format!("{field}.device[{at}]");
        let select = Select::new(&rule.include, &rule.exclude, &field)?;
        Ok(Arc::new(Rule { select, settings: settings(&rule.settings, &name, &field, true)? }))
    };
    Ok(Planned {
        select: Select::new(&profile.include, &profile.exclude, field)?,
        settings: settings(&profile.settings, &name, field, false)?,
        devices: profile.device.iter().enumerate().map(rule).collect::<Result<_, _>>()?,
    })
}

fn settings(
    table: &BTreeMap<String, Value>,
    profile: &Arc<str>,
    field: &str,
    of_device: bool,
) -> Result<BTreeMap<Key, Setting>, ConfigError> {
    let mut settings = BTreeMap::new();
    for (text, Value(value)) in table {
        let refuse = |why: String| ConfigError::at(format!("{field}.settings.{}", field_key(text)), why);
        let key = Key::parse(text).map_err(refuse)?;
        fits(&key, of_device).map_err(refuse)?;
        sound(value).map_err(refuse)?;
        let setting = Setting { value: value.clone(), profile: Arc::clone(profile) };
        if settings.insert(key, setting).is_some() {
            return Err(refuse(format!("`{text}` is here twice, once with dots and once with slashes")));
        }
    }
    Ok(settings)
}

fn fits(key: &Key, of_device: bool) -> Result<(), String> {
    match (key.wants_device(), of_device) {
        (true, false) => Err(format!("`{key}` is about each device: it belongs in [[config.profile.device]]")),
        (false, true) => Err(format!(
            "`{key}` has no component `<dev>`, so it is about no device: write net.ipv4.conf.<dev>.…, or move it to \
             [config.profile.settings]"
        )),
        _ => Ok(()),
    }
}

fn sound(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("an empty value changes nothing".to_owned());
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("the kernel reads one line: no control characters but tabs".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, ConfigError> {
        Plan::new(&toml::from_str(text).expect("well-formed"))
    }

    fn refused(text: &str) -> (String, String) {
        let refusal = plan(text).expect_err(text);
        (refusal.field().to_owned(), refusal.message().to_owned())
    }

    const TWO: &str = r#"
        [[profile]]
        name = "a"
        settings = { "net.ipv4.ip_forward" = true, "net.ipv4.x" = "1 2" }
        device = [{ settings = { "net.ipv4.conf.<dev>.rp_filter" = 0 } }]
        [[profile]]
        name = "b"
        include = ["blue*"]
        settings = { "net/ipv4/x" = -7 }
        [[profile.device]]
        include = ["eth*"]
        exclude = ["eth1"]
        settings = { "net.ipv4.conf.<dev>.rp_filter" = 2 }
    "#;

    #[test]
    fn a_later_profile_counts_where_both_fit() {
        let plan = plan(TWO).expect("sound");
        let values = |name: &str| -> Vec<_> {
            let wanted = plan.wanted(name);
            wanted.iter().map(|(key, s)| format!("{key}={} {}", s.value, s.profile)).collect()
        };
        assert_eq!(values("red"), ["net.ipv4.ip_forward=1 a", "net.ipv4.x=1 2 a"]);
        assert_eq!(values("blue1"), ["net.ipv4.ip_forward=1 a", "net.ipv4.x=-7 b"]);
        assert_eq!(values("@host"), [""; 0]);
    }

    #[test]
    fn a_later_rule_counts_for_a_device() {
        let plan = plan(TWO).expect("sound");
        let value = |namespace: &str, device: &str| {
            let rules = plan.rules(namespace);
            let wanted = wanted_by(&rules, device);
            wanted.values().next().map(|s| s.value.clone())
        };
        assert!(plan.has_devices());
        assert_eq!(value("red", "eth0").as_deref(), Some("0"));
        assert_eq!(value("blue1", "eth0").as_deref(), Some("2"));
        assert_eq!(value("blue1", "eth1").as_deref(), Some("0"));
        assert_eq!(value("@host", "eth0"), None);
    }

    #[test]
    fn refusals_name_the_field() {
        let (field, why) = refused("[[profile]]\nname = 'a'\nsettings = { 'kernel.hostname' = 'x' }");
        assert_eq!(field, "profile[0].settings.\"kernel.hostname\"");
        assert!(why.contains("whole host"), "{why}");
        let (field, why) = refused("[[profile]]\nname='a'\n[[profile.device]]\nsettings={'net.ipv4.conf.all.x'=1}");
        assert_eq!(field, "profile[0].device[0].settings.\"net.ipv4.conf.all.x\"");
        assert!(why.contains("<dev>"), "{why}");
        let (_, why) = refused("[[profile]]\nname='a'\nsettings={'net.ipv4.conf.<dev>.x'=1}");
        assert!(why.contains("[[config.profile.device]]"), "{why}");
        assert_eq!(refused("[[profile]]\nname='a'\n[[profile]]\nname='b'\ninclude=['**a']").0, "profile[1].include[0]");
        assert!(refused("[[profile]]\nname='a'\nsettings={'net.a.b'=1,'net/a/b'=2}").1.contains("twice"));
        assert!(refused("[[profile]]\nname='a'\nsettings={'net.a.b'=' '}").1.contains("empty"));
        assert!(refused("[[profile]]\nname='a'\nsettings={'net.a.b'=\"x\\ny\"}").1.contains("one line"));
    }

    #[test]
    fn a_value_is_an_integer_a_boolean_or_a_string() {
        let read =
            |value: &str| toml::from_str::<Config>(&format!("[[profile]]\nname='a'\nsettings={{'net.a.b'={value}}}"));
        for wrong in ["1.5", "[1]", "{ a = 1 }"] {
            let refusal = read(wrong).expect_err(wrong).to_string();
            assert!(refusal.contains("an integer, a boolean or a string"), "{refusal}");
        }
        assert!(toml::from_str::<Config>("[[profile]]\nname='a'\nsetings={}").is_err());
        assert!(read("9223372036854775807").is_ok());
    }
}
