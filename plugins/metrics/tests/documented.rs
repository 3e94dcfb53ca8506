//! The configuration that the documentation and the shipped file show is accepted, by the entry that the daemon calls.
#![forbid(unsafe_code)]

use pernet_metrics::Metrics;

fn judge(config: &str) -> (i32, String, String) {
    let answer = pernet_plugin_api::__private::module::<Metrics>().check_config()(config.into());
    (answer.status.errno, answer.field.into_string(), answer.status.message.into_string())
}

fn json(text: &str) -> String {
    let file: toml::Table = text.parse().expect("TOML");
    serde_json::to_string(&file["config"]).expect("JSON")
}

#[test]
fn the_example_is_accepted() {
    let source = include_str!("../src/lib.rs");
    let example = source.split("//! ```toml").nth(1).and_then(|rest| rest.split("//! ```").next()).expect("an example");
    let lines: Vec<_> = example.lines().map(|line| line.trim_start_matches("//!")).collect();
    assert_eq!(judge(&json(&lines.join("\n"))), (0, String::new(), String::new()));
}

#[test]
fn the_shipped_file_is_accepted_with_every_key_in_force() {
    let shipped = include_str!("../../../etc/plugins.d/60-metrics.toml");
    let keys: Vec<_> = shipped.split("\n[config]\n").nth(1).expect("a table").lines().collect();
    let keys: Vec<_> =
        keys.iter().filter_map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' '))).collect();
    assert_eq!(keys.len(), 7);
    assert_eq!(judge(&json(&format!("[config]\n{}", keys.join("\n")))), (0, String::new(), String::new()));
}

#[test]
fn what_is_wrong_is_refused_by_its_field() {
    assert_eq!(judge("{}").0, 0);
    for (config, field) in [
        (r#"{"listen": "localhost:1"}"#, "listen"),
        (r#"{"max_series": -1}"#, "max_series"),
        (r#"{"metrics": ["pernet[0"]}"#, "metrics[0]"),
        (r#"{"timeouts": 1}"#, "timeouts"),
    ] {
        let (errno, named, message) = judge(config);
        assert_eq!((errno, named.as_str()), (22, field), "{message}");
    }
}
