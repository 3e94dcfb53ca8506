//! The configuration that the documentation shows is accepted, by the entry that the daemon calls.
#![forbid(unsafe_code)]

use pernet_sysctl::Sysctl;

fn judge(config: &str) -> (i32, String, String) {
    let answer = pernet_plugin_api::__private::module::<Sysctl>().check_config()(config.into());
    (answer.status.errno, answer.field.into_string(), answer.status.message.into_string())
}

/// The `[config]` table of the example at the head of the crate, as the daemon passes it on.
fn documented() -> String {
    let source = include_str!("../src/lib.rs");
    let example = source.split("//! ```toml").nth(1).and_then(|rest| rest.split("//! ```").next()).expect("an example");
    let lines: Vec<_> = example.lines().map(|line| line.trim_start_matches("//!")).collect();
    let file: toml::Table = lines.join("\n").parse().expect("TOML");
    serde_json::to_string(&file["config"]).expect("JSON")
}

#[test]
fn the_example_is_accepted() {
    assert_eq!(judge(&documented()), (0, String::new(), String::new()));
}

#[test]
fn a_wrong_example_is_not() {
    let wrong = documented().replace("net.ipv4.ip_forward", "vm.swappiness");
    let (errno, field, message) = judge(&wrong);
    assert_eq!((errno, field.as_str()), (22, "profile[0].settings.\"vm.swappiness\""));
    assert!(message.contains("whole host"), "{message}");
    let wrong = documented().replace("exclude", "exlude");
    assert_eq!(judge(&wrong).1, "profile[0].exlude");
    let wrong = documented().replace("<dev>", "eth0");
    assert_eq!(judge(&wrong).1, "profile[0].device[0].settings.\"net.ipv4.conf.eth0.rp_filter\"");
}
