//! The configuration that the documentation shows is accepted, by the entry that the daemon calls.
#![forbid(unsafe_code)]

use pernet_loopback::Loopback;

fn judge(config: &str) -> (i32, String) {
    let answer = pernet_plugin_api::__private::module::<Loopback>().check_config()(config.into());
    (answer.status.errno, answer.field.into_string())
}

#[test]
fn there_is_nothing_to_configure() {
    assert_eq!(judge("{}"), (0, String::new()));
    assert_eq!(judge(r#"{"up": true}"#), (22, "up".to_owned()));
}
