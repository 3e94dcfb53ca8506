//! The table of message ids, the calls that use them, and `systemd/pernetd.catalog` say the same. That systemd
//! can read it is `journal.rs`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pernetd::logging::catalog::ALL;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host/ has a parent").to_path_buf()
}

/// The entries of the catalog: id, and the rest of each.
fn entries() -> BTreeMap<String, String> {
    let text = fs::read_to_string(workspace().join("systemd/pernetd.catalog")).expect("the catalog");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let text = lines.join("\n");
    let mut entries = BTreeMap::new();
    for entry in text.split("-- ").skip(1) {
        let (id, rest) = entry.split_once('\n').expect("an id on a line of its own");
        assert!(entries.insert(id.to_owned(), rest.to_owned()).is_none(), "{id} is there twice");
    }
    entries
}

/// The daemon's sources without their tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![workspace().join("host/src")];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                todo.push(path);
            } else if !path.ends_with("logging/catalog.rs") && !path.components().any(|c| c.as_os_str() == "tests") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                found.push((path, text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()));
            }
        }
    }
    found
}

/// Every call of these macros: where, and what is between its brackets.
fn calls<'a>(macros: &[&str], sources: &'a [(PathBuf, String)]) -> Vec<(String, &'a str)> {
    let mut found = Vec::new();
    for (path, text) in sources {
        for name in macros {
            for (at, opening) in text.match_indices(&format!("tracing::{name}!(")) {
                let inside = &text[at + opening.len()..];
                let mut depth = 1;
                let end = inside.find(|c| {
                    depth += i32::from(c == '(') - i32::from(c == ')');
                    depth == 0
                });
                let line = text[..at].lines().count();
                found.push((format!("{}:{line}", path.display()), &inside[..end.expect("a closing bracket")]));
            }
        }
    }
    found
}

#[test]
fn ids_are_ids_and_unique() {
    let mut seen = BTreeSet::new();
    for (name, id) in ALL {
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{name}");
        assert!(seen.insert(id), "{name} has another's id");
    }
}

#[test]
fn every_id_has_an_entry_and_every_entry_an_id() {
    let entries = entries();
    let ids: BTreeSet<&str> = ALL.iter().map(|(_, id)| *id).collect();
    assert_eq!(entries.keys().map(String::as_str).collect::<BTreeSet<_>>(), ids);
    for (name, id) in ALL {
        let entry = &entries[*id];
        for part in ["Subject: ", "Defined-By: pernetd\n", "Support: ", "Documentation: "] {
            assert!(entry.contains(part), "{name}: {part}");
        }
        assert!(entry.split_once("\n\n").is_some_and(|(_, body)| body.len() > 60), "{name} says nothing");
    }
}

#[test]
fn every_id_is_used() {
    let sources = sources();
    for (name, _) in ALL {
        let used = format!("catalog::{name}");
        let is_used = |text: &str| {
            text.match_indices(&used)
                .any(|(at, _)| !text[at + used.len()..].starts_with(|c: char| c == '_' || c.is_alphanumeric()))
        };
        assert!(sources.iter().any(|(_, text)| is_used(text)), "{name} is used nowhere");
    }
}

#[test]
fn what_an_operator_may_have_to_act_on_has_an_id() {
    let sources = sources();
    let calls = calls(&["error", "warn"], &sources);
    assert!(calls.len() > 40, "{} calls", calls.len());
    for (place, call) in calls {
        assert!(call.trim_start().starts_with("message_id"), "{place}: no message_id comes first");
    }
}

/// A catalog's variable that an entry lacks is shown by its name.
#[test]
fn each_variable_of_an_entry_is_a_field_of_each_of_its_calls() {
    let (entries, sources) = (entries(), sources());
    let mut checked = 0;
    for (place, call) in calls(&["error", "warn", "info", "debug"], &sources) {
        let Some(name) = call.trim_start().strip_prefix("message_id = catalog::") else { continue };
        let name = name.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let id = ALL.iter().find(|(known, _)| *known == name).map(|(_, id)| *id).expect("a name of the table");
        let fields = call.split('"').next().unwrap_or_default();
        let fields: Vec<&str> = fields
            .split([',', '\n'])
            .filter_map(|field| field.trim().trim_start_matches(['%', '?']).split([' ', '.']).next())
            .collect();
        for variable in entries[id].split('@').skip(1).step_by(2) {
            let field = variable.strip_prefix("PERNET_").expect("one of ours").to_lowercase();
            let literal = call.contains(&format!("{field} = \""));
            assert!(literal || fields.contains(&field.as_str()), "{place}: {name} lacks {field}");
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}
