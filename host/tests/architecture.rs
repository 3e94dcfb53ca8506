//! The house rules that a reader relies on, checked on the source text: which module may import which, where `unsafe`
//! may stand, that every file says what it is, and that the manifest keeps the daemon free of async runtimes.

use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host/ has a parent").to_path_buf()
}

/// Every Rust file below `dir`, as (path relative to the workspace, text without its test module).
fn sources(dir: &str) -> Vec<(String, String)> {
    let root = workspace();
    let mut found = Vec::new();
    let mut todo = vec![root.join(dir)];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("directory entry").path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("readable source");
                let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
                found.push((path.strip_prefix(&root).expect("below the root").display().to_string(), code));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {dir}");
    found.sort();
    found
}

/// The code lines of a file: comments and attributes that carry prose are not code.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, l)| (n + 1, l.trim())).filter(|(_, l)| !l.starts_with("//"))
}

fn violations(dir: &str, forbidden: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(dir) {
        for (n, line) in code_lines(&text) {
            found.extend(forbidden.iter().filter(|f| line.contains(**f)).map(|f| format!("{path}:{n}: {f}")));
        }
    }
    found
}

#[test]
fn every_file_says_what_it_is() {
    for dir in ["host/src", "host/tests", "plugin-api/src", "plugins"] {
        for (path, text) in sources(dir) {
            assert!(text.starts_with("//!"), "{path} does not open with //!");
        }
    }
}

#[test]
fn the_engine_knows_no_world() {
    let forbidden = [
        "std::fs::",
        "std::net",
        "std::os::fd",
        "std::process",
        "std::time::SystemTime",
        "SystemTime::now",
        "libc::",
        "rustix",
        "libloading",
        "abi_stable",
        "plugin_api::abi",
        "tracing::",
        "crate::discovery",
        "crate::linux",
        "crate::plugin",
        "crate::control",
        "crate::daemon",
        "crate::config",
        "crate::systemd",
    ];
    assert_eq!(violations("host/src/engine", &forbidden), Vec::<String>::new());
    // Time is known in one place only: the writer's deadline.
    let clocks = violations("host/src/engine", &["Instant::now"]);
    let elsewhere = clocks.iter().filter(|v| !v.contains("engine/gate.rs") && !v.contains("/tests/"));
    assert_eq!(elsewhere.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn arrows_point_one_way() {
    let rules: [(&str, &[&str]); 4] = [
        (
            "host/src/discovery",
            &["crate::linux::worker", "crate::plugin", "crate::control", "crate::daemon", "crate::config"],
        ),
        ("host/src/linux", &["crate::discovery", "crate::plugin", "crate::control", "crate::daemon", "crate::config"]),
        ("host/src/plugin", &["crate::discovery", "crate::linux", "crate::control", "crate::daemon"]),
        ("host/src/control", &["crate::discovery", "crate::engine", "crate::daemon"]),
    ];
    for (dir, forbidden) in rules {
        assert_eq!(violations(dir, forbidden), Vec::<String>::new());
    }
}

#[test]
fn dlopen_and_the_abi_library_stay_behind_their_doors() {
    for (path, text) in sources("host/src").into_iter().chain(sources("plugins")) {
        if path.starts_with("host/src/plugin/") {
            continue;
        }
        for (n, line) in code_lines(&text) {
            for word in ["libloading", "dlopen", "abi_stable"] {
                assert!(!line.contains(word), "{path}:{n}: {word}");
            }
        }
    }
}

#[test]
fn fuse_is_spoken_in_one_place() {
    for (path, text) in sources("host/src").into_iter().filter(|(path, _)| !path.starts_with("host/src/linux/fuse")) {
        for (n, line) in code_lines(&text) {
            for word in ["fuse_wire::", "FUSE_", "fsopen(", "move_mount("] {
                assert!(!line.contains(word), "{path}:{n}: {word}");
            }
        }
    }
}

#[test]
fn unsafe_stands_only_where_the_design_allows_it() {
    for dir in ["host/src", "plugin-api/src", "plugins"] {
        for (path, text) in sources(dir) {
            let allowed = [
                "host/src/plugin/",
                "host/src/linux/",
                "host/src/discovery/",
                "plugin-api/src/abi.rs",
                "plugin-api/src/area.rs",
                "plugin-api/src/export.rs",
                "plugin-api/src/lent.rs",
                "plugin-api/src/packet.rs",
            ];
            if allowed.iter().any(|a| path.starts_with(a)) {
                continue;
            }
            for (n, line) in code_lines(&text) {
                assert!(!line.contains("unsafe {") && !line.contains("allow(unsafe_code)"), "{path}:{n}: unsafe");
            }
        }
    }
}

#[test]
fn no_async_runtime_in_the_daemon() {
    let manifest = fs::read_to_string(workspace().join("host/Cargo.toml")).expect("host/Cargo.toml");
    for runtime in ["tokio", "smol", "async-std", "futures"] {
        assert!(!manifest.contains(runtime), "host/Cargo.toml names {runtime}");
    }
}

#[test]
fn plugins_never_depend_on_the_host() {
    for plugin in fs::read_dir(workspace().join("plugins")).expect("plugins/") {
        let manifest = plugin.expect("directory entry").path().join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("a plugin's manifest");
        assert!(!text.lines().any(|l| l.starts_with("pernetd")), "{}", manifest.display());
        assert!(!text.contains("abi_stable"), "{}", manifest.display());
    }
}
