//! pernetd.toml(5): the keys of the main file and of a plugin's.
//!
//! Their descriptions and defaults are those of the files that are shipped in `etc/`, their types those of the strict
//! check; what is around them is `text/pernetd.toml.5`.

use pernetd::config::main_keys;

use crate::roff::{Page, bold, plain, prose, title};

const MAIN: &str = include_str!("../../../etc/pernetd.toml");
const PLUGIN: &str = include_str!("../../../etc/plugins.d/10-loopback.toml");
const AROUND: &str = include_str!("text/pernetd.toml.5");

/// A key as a shipped file shows it.
struct Key {
    name: String,
    default: String,
    /// Empty where it shares that of the key before.
    description: String,
}

pub(crate) fn page(date: &str) -> Page {
    let types = main_keys();
    let type_of = |key: &Key| types.iter().find(|(name, _)| *name == key.name).map(|(_, kind)| kind.clone());
    let of_main = entries(&keys(MAIN), type_of);
    let of_plugin = entries(&keys(PLUGIN), |_| None);
    let around = AROUND.replace("@MAIN_KEYS@\n", &of_main).replace("@PLUGIN_KEYS@\n", &of_plugin);
    Page { name: "pernetd.toml".to_owned(), section: '5', text: title("pernetd.toml", '5', date) + &around }
}

/// Keys that share a description stand together in front of it.
fn entries(keys: &[Key], type_of: impl Fn(&Key) -> Option<String>) -> String {
    let mut text = String::new();
    let mut description = String::new();
    for key in keys {
        let first = !key.description.is_empty();
        if first {
            text += &description;
            description = format!("{}\n", prose(&key.description));
        }
        text += &format!("{}\n{}\n", if first { ".TP" } else { ".TQ" }, tag(key, type_of(key)));
    }
    text + &description
}

fn tag(key: &Key, kind: Option<String>) -> String {
    let kind = kind.map(|kind| format!("{}; ", plain(&kind))).unwrap_or_default();
    // The file that is shipped for one plugin stands for all.
    let default = key.default.replace("loopback", "NAME");
    format!("{} ({kind}default {})", bold(&key.name), plain(&default))
}

/// A file's keys with what its comments say of them. Comments with nothing after them are about the file.
fn keys(text: &str) -> Vec<Key> {
    let (mut found, mut said, mut section) = (Vec::new(), Vec::new(), String::new());
    for line in text.lines() {
        let code = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty()).unwrap_or(line);
        if let Some(name) = code.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name) {
            section = format!("{name}.");
        } else if let Some(comment) = line.strip_prefix("# ") {
            said.push(comment);
            continue;
        } else if let Some((name, default)) = code.split_once(" = ") {
            let (name, default) = (format!("{section}{name}"), default.to_owned());
            found.push(Key { name, default, description: said.join("\n") });
        }
        said.clear();
    }
    found
}
