//! The configuration that the documentation shows is accepted, by the entry that the daemon calls.
#![forbid(unsafe_code)]

use pernet_wire::Wire;

fn judge(config: &str) -> (i32, String, String) {
    let answer = pernet_plugin_api::__private::module::<Wire>().check_config()(config.into());
    (answer.status.errno, answer.field.into_string(), answer.status.message.into_string())
}

fn json(file: &str) -> String {
    let file: toml::Table = file.parse().expect("TOML");
    serde_json::to_string(&file["config"]).expect("JSON")
}

/// The `[config]` table of the example at the head of the crate, as the daemon passes it on.
fn documented() -> String {
    let source = include_str!("../src/lib.rs");
    let example = source.split("//! ```toml").nth(1).and_then(|rest| rest.split("//! ```").next()).expect("an example");
    let lines: Vec<_> = example.lines().map(|line| line.trim_start_matches("//!")).collect();
    json(&lines.join("\n"))
}

/// The same of the file that is installed, with its example's comment signs taken away.
fn shipped() -> String {
    let file = include_str!("../../../etc/plugins.d/50-wire.toml");
    let (_, example) = file.split_once("#[[config.cables]]").expect("an example");
    let keys = example.lines().filter(|line| !line.starts_with("# ")).map(|line| line.trim_start_matches('#'));
    json(&format!("[[config.cables]]\n{}", keys.collect::<Vec<_>>().join("\n")))
}

#[test]
fn the_examples_are_accepted() {
    for example in [documented(), shipped(), "{}".to_owned()] {
        assert_eq!(judge(&example), (0, String::new(), String::new()), "{example}");
    }
}

#[test]
fn a_wrong_example_is_not() {
    for (was, is, field, why) in [
        ("\"20ms\"", "20", "cables[0].both.delay", "such as \"20ms\""),
        ("\"10%\"", "10", "cables[0].both.loss", "a number from 0 to 1"),
        ("\"10mbit\"", "\"10mb\"", "cables[0].both.rate", "such as \"10mbit\""),
        ("\"auto\"", "\"maybe\"", "cables[0].offloads", "\"auto\", true or false"),
        ("\"uniform\"", "\"pareto\"", "cables[0].both.distribution", "`uniform` or `normal`"),
        ("\"gap\"", "\"gab\"", "cables[0].both.gab", "unknown field `gab`"),
        ("\"netns\":\"red\"", "\"netns\":\"@hots\"", "cables[0].b.netns", "@host"),
        ("/var/lib/pernetd/there.pcap", "there.pcap", "cables[0].a_to_b.pcap", "absolute"),
    ] {
        let wrong = documented().replace(was, is);
        assert_ne!(wrong, documented(), "{was} is not in the example");
        let (errno, found, message) = judge(&wrong);
        assert_eq!((errno, found.as_str()), (22, field), "{message}");
        assert!(message.contains(why), "{field}: {message}");
    }
}
