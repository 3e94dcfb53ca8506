//! A plugin as its author writes it: a type, its configuration, what its start registers.
//!
//! Mirrors a kernel module's `module_init` and `module_exit`, the latter being the type's `Drop`. Owns the check of
//! the configuration; what is registered is in [`crate::Registrar`], what may be called later in [`crate::Host`].

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::field;
use crate::{Error, Host, Registrar, Result};

/// A plugin. One value of it is one instance: a reload with a changed configuration makes a new one.
///
/// The daemon calls, in this order: [`check`](Plugin::check) (also alone, by `pernetd --check` and in the first phase
/// of a reload); [`init`](Plugin::init); then the hooks of what `init` registered; then `Drop`, after every
/// registration is undone and every private area is dropped. After `Drop` no code of the instance runs, except in
/// threads that it started itself and did not join: join them there.
///
/// A panic in any of these calls is caught and reported; it poisons the instance, whose exits are then called once.
pub trait Plugin: Send + Sized + 'static {
    /// The plugin's `[config]` table. Use [`NoConfig`] for none, and `#[serde(deny_unknown_fields)]`, so that a
    /// mistyped key is refused by name.
    type Config: DeserializeOwned;

    /// Judges a configuration beyond what its types say, and names the field that is wrong.
    ///
    /// Called outside every namespace, without any instance, and possibly often: it must have no effects.
    #[expect(unused_variables, reason = "the default accepts everything")]
    fn check(config: &Self::Config) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Registers what the plugin has, and makes the instance.
    ///
    /// Called in the daemon's own namespace, before any hook of this instance, with a configuration that `check`
    /// accepted. The registrations are carried out when this returns, in their order; if one of them fails, all are
    /// undone in reverse and the instance is dropped (K1.2). [`Host::defer`] is fine here and runs later;
    /// [`Host::run_in`] is refused, since the instance is not there yet.
    fn init(reg: &mut Registrar, host: Host, config: Self::Config) -> Result<Self>;
}

/// The configuration of a plugin that has none: any key is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// A refused configuration: which field, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: String,
    message: String,
}

impl ConfigError {
    /// Refuses one field, named as in `a.b[2].c`, from the plugin's own table on.
    ///
    /// A key that is more than letters, digits, `_` and `-` is quoted as in TOML, see [`field_key`](crate::field_key).
    pub fn at(field: impl Into<String>, message: impl Into<String>) -> Self {
        ConfigError { field: field.into(), message: message.into() }
    }

    /// Refuses the configuration as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        ConfigError::at("", message)
    }

    /// The refused field; empty for the whole.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Why it is refused.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// For an `init` that finds fault with the configuration: `EINVAL`, with the field in the sentence.
impl From<ConfigError> for Error {
    fn from(refusal: ConfigError) -> Self {
        let place = if refusal.field.is_empty() { String::new() } else { format!(" `{}`", refusal.field) };
        Error::new(libc::EINVAL, format!("configuration{place}: {}", refusal.message))
    }
}

/// Parses and judges a configuration. The empty text counts as the empty table.
pub(crate) fn read_config<P: Plugin>(json: &str) -> Result<P::Config, ConfigError> {
    let json = if json.trim().is_empty() { "{}" } else { json };
    let mut text = serde_json::Deserializer::from_str(json);
    let config = serde_path_to_error::deserialize(&mut text)
        .map_err(|e| ConfigError::at(field::from_path(e.path()), plain_message(e.inner())))?;
    text.end().map_err(|e| ConfigError::whole(plain_message(&e)))?;
    P::check(&config)?;
    Ok(config)
}

/// A parser's message without its `at line 1 column 9`: that is a place in the JSON, which no operator ever sees.
fn plain_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}
