//! The files of `sysctl.d`: what is refused and where, which file and which line counts, and that the one in etc/ is right.

use std::fs;
use std::path::{Path, PathBuf};

use pernetd::config::{Asks, Config, ConfigError, Paths, SysctlKey, Sysctls, dotted, is_kernels, parse_sysctls};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Configuration folders of their own, `first` before `second`.
struct Etc {
    dir: tempfile::TempDir,
    paths: Paths,
}

impl Etc {
    fn new() -> std::io::Result<Etc> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let paths = Paths {
            config: at("pernetd.toml"),
            config_is_given: false,
            config_dirs: vec![at("first"), at("second")],
            config_dirs_are_given: false,
            plugin_dir: "/plugins".into(),
            plugin_dir_is_given: false,
            runtime_dir: at("run"),
            state_dir: at("state"),
        };
        Ok(Etc { dir, paths })
    }

    fn write(&self, name: &str, text: &str) -> std::io::Result<PathBuf> {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(&path, text)?;
        Ok(path)
    }

    fn load(&self) -> Result<Sysctls, Vec<ConfigError>> {
        Config::load_with(&self.paths, &[]).map(|config| config.sysctls).map_err(|e| e.0)
    }

    /// The errors as lines, with the folder left out.
    fn refusals(&self) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        let errors = self.load().err().unwrap_or_default();
        errors.iter().map(|e| e.to_string().replace(&dir, "")).collect()
    }
}

/// Lines of one file.
fn lines(text: &str) -> Result<Sysctls, Box<dyn std::error::Error>> {
    let etc = Etc::new()?;
    etc.write("first/sysctl.d/50-x.conf", text)?;
    etc.load().map_err(|e| format!("{e:?}").into())
}

/// The value that counts.
fn value(sysctls: &Sysctls, netns: &str, path: &str) -> Option<String> {
    sysctls.counting(&[netns], netns == "@host", path).map(|(_, value, _)| value.to_owned())
}

#[test]
fn lines_are_read_as_sysctl_d_has_them() -> Outcome {
    let text = "# a comment\n; another\n\n  a.b = 1 2  3 \t\r\na/c=x = y # not a comment\n\t-a.d =\n-x.y\n a . b = 9\n";
    let refused = parse_sysctls(Path::new("f"), text).map_err(|e| e[0].to_string());
    assert_eq!(refused.err().as_deref(), Some("f:8:2: `a . b` has a blank or a colon in it; correct the key"));
    let found =
        parse_sysctls(Path::new("f"), text.rsplit_once(" a . b").ok_or("there")?.0).map_err(|e| e[0].to_string())?;
    let set = |value: &str, quietly| Asks::Set { value: value.into(), quietly };
    let read: Vec<_> = found.iter().map(|line| (line.key.path(), line.asks.clone(), line.place())).collect();
    assert_eq!(
        read,
        [
            ("a/b", set("1 2  3", false), "f:4".to_owned()),
            ("a/c", set("x = y # not a comment", false), "f:5".to_owned()),
            ("a/d", set("", true), "f:6".to_owned()),
            ("x/y", Asks::Exclude, "f:7".to_owned()),
        ]
    );
    Ok(())
}

#[test]
fn a_mistake_is_named_with_its_place_and_what_to_do() -> Outcome {
    for (text, expected) in [
        ("a.b\n", "1:1: `a.b` is no assignment; write key = value, or -key to leave a key out of patterns"),
        ("\n  = 5", "2:3: there is no key; write for example neighbour.count"),
        ("a..b = 1", "1:1: `a..b` has a component that is empty, or no name; correct the key"),
        ("a/ = 1", "1:1: `a/` has a component that is empty, or no name; correct the key"),
        ("/a/b = 1", "1:1: `/a/b` has a component that is empty, or no name; correct the key"),
        ("a/../b = 1", "1:1: `a/../b` has a component that is empty, or no name; correct the key"),
        (
            "x = 1\nnet.ipv4.ip_forward = 1",
            "2:1: `net.ipv4.ip_forward` is a sysctl of the kernel's; the plugin `sysctl` sets those: write it into its `[config]`, in plugins.d",
        ),
        (
            "blue:kernel/hostname=x",
            "1:6: `kernel/hostname` is a sysctl of the kernel's; the plugin `sysctl` sets those: write it into its `[config]`, in plugins.d",
        ),
        (":a.b = 1", "1:1: there is no namespace before the colon; name one, or a pattern, or leave it out"),
        ("bl[ue:a.b = 1", "1:3: `bl[ue`: invalid range pattern; correct the pattern of namespaces"),
        ("blue: a.[b = 1", "1:7: `a.[b`: invalid range pattern; correct the pattern"),
        (
            "pernetd.log_level = debug",
            "1:1: `pernetd.log_level` is a sysctl of the host's own namespace only; write @host:pernetd.log_level = …",
        ),
        (
            "  -*:pernetd.workers = 2",
            "1:6: `pernetd.workers` is a sysctl of the host's own namespace only; write @host:pernetd.workers = …",
        ),
    ] {
        let etc = Etc::new()?;
        etc.write("first/sysctl.d/50-x.conf", text)?;
        assert_eq!(etc.refusals(), [format!("first/sysctl.d/50-x.conf:{expected}")], "{text:?}");
    }
    Ok(())
}

#[test]
fn all_that_is_wrong_is_told_with_the_other_files_mistakes() -> Outcome {
    let etc = Etc::new()?;
    etc.write("pernetd.toml", "nonsense = 1\n")?;
    etc.write("first/sysctl.d/10-a.conf", "a\nb = 1\nc\n")?;
    etc.write("second/sysctl.d/20-b.conf", "vm.x = 1\n")?;
    let places: Vec<String> =
        etc.refusals().iter().map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect();
    assert_eq!(
        places,
        [
            "pernetd.toml:1:1",
            "first/sysctl.d/10-a.conf:1:1",
            "first/sysctl.d/10-a.conf:3:1",
            "second/sysctl.d/20-b.conf:1:1"
        ]
    );
    Ok(())
}

#[test]
fn the_first_file_of_a_name_wins_and_an_empty_one_masks() -> Outcome {
    let etc = Etc::new()?;
    etc.write("first/sysctl.d/50-x.conf", "a.one = 1\n")?;
    etc.write("second/sysctl.d/50-x.conf", "a.one = 2\na.two = 2\n")?;
    etc.write("second/sysctl.d/60-y.conf", "a.three = 3\n")?;
    etc.write("second/sysctl.d/70-z.conf", "a.four = 4\n")?;
    etc.write("first/sysctl.d/60-y.conf", "")?;
    std::os::unix::fs::symlink("/dev/null", etc.dir.path().join("first/sysctl.d/70-z.conf"))?;
    etc.write("first/sysctl.d/README", "no lines\n")?;
    etc.write("first/sysctl.d/.50-x.conf.swp", "no lines\n")?;
    let sysctls = etc.load().map_err(|e| format!("{e:?}"))?;
    let values = ["one", "two", "three", "four"].map(|name| value(&sysctls, "blue", &format!("a/{name}")));
    assert_eq!(values, [Some("1".to_owned()), None, None, None]);
    std::os::unix::fs::symlink("nowhere", etc.dir.path().join("first/sysctl.d/80-w.conf"))?;
    assert!(etc.refusals()[0].contains("80-w.conf: it is a link to a file that is not there"), "{:?}", etc.refusals());
    Ok(())
}

#[test]
fn the_last_file_and_the_last_line_count() -> Outcome {
    let etc = Etc::new()?;
    etc.write("second/sysctl.d/10-a.conf", "a.x = 1\na.y = 1\na.x = 2\n")?;
    etc.write("first/sysctl.d/20-b.conf", "a/y = 3\n")?;
    let sysctls = etc.load().map_err(|e| format!("{e:?}"))?;
    assert_eq!((value(&sysctls, "blue", "a/x"), value(&sysctls, "blue", "a/y")), (Some("2".into()), Some("3".into())));
    assert_eq!((value(&sysctls, "blue", "a"), value(&sysctls, "blue", "a/x/y")), (None, None));
    Ok(())
}

#[test]
fn namespaces_are_chosen_as_everywhere() -> Outcome {
    let sysctls =
        lines("a.x = all\nblue-*:a.x = blue\n@host:a.x = host\n@*:a.y = at\n*:a.z = star\nweird:na:a.x = colon\n")?;
    let x = |netns: &str| value(&sysctls, netns, "a/x");
    assert_eq!(x("red").as_deref(), Some("all"));
    assert_eq!(x("blue-1").as_deref(), Some("blue"));
    assert_eq!(x("weird:na").as_deref(), Some("colon"));
    assert_eq!(x("@host").as_deref(), Some("host"));
    let host = |path| value(&sysctls, "@host", path);
    assert_eq!((host("a/y").as_deref(), host("a/z")), (Some("at"), None));
    assert_eq!(value(&lines("a.x = all\n")?, "@host", "a/x"), None, "the host is meant only by its name");
    // Its other names, such as Docker's, are not taken for it either.
    let of_host = lines("default:a.x = 1\n")?;
    assert!(of_host.counting(&["@host", "default"], true, "a/x").is_none());
    assert!(of_host.counting(&["default", "blue"], false, "a/x").is_some(), "any name will do");
    Ok(())
}

#[test]
fn a_pattern_leaves_alone_what_is_named_or_excluded() -> Outcome {
    let sysctls = lines("a.x = 1\n*.x = 2\na.* = 3\n-a.out\n-blue:a.half\n-a.named = 9\n-a.named\n")?;
    let of = |netns: &str, path: &str| value(&sysctls, netns, path);
    assert_eq!(of("blue", "a/x").as_deref(), Some("1"), "though the patterns come later");
    assert_eq!((of("blue", "b/x").as_deref(), of("blue", "a/z").as_deref()), (Some("2"), Some("3")));
    assert_eq!((of("blue", "a/out"), of("blue", "a/half"), of("red", "a/half").as_deref()), (None, None, Some("3")));
    assert_eq!(of("blue", "a/named").as_deref(), Some("9"), "an exclusion is from patterns only");
    assert_eq!((of("blue", "a/b/x"), of("blue", "x")), (None, None), "a star stays within a component");
    let quietly = sysctls.counting(&["blue"], false, "a/named").map(|(_, _, quietly)| quietly);
    assert_eq!(quietly, Some(true));
    Ok(())
}

#[test]
fn keys_are_read_as_by_sysctl() {
    let path = |text: &str| SysctlKey::parse(text).map(|key| key.path().to_owned());
    for (text, expected) in [
        ("neighbour.count", "neighbour/count"),
        ("neighbour/count", "neighbour/count"),
        ("wire.eth0/100.rate", "wire/eth0.100/rate"),
        ("wire/eth0.100/rate", "wire/eth0.100/rate"),
        ("one", "one"),
    ] {
        assert_eq!(path(text).as_deref(), Ok(expected), "{text}");
    }
    assert_eq!(SysctlKey::parse("wire/eth0.100/rate").map(|key| key.to_string()).as_deref(), Ok("wire.eth0/100.rate"));
    assert_eq!(dotted("a/b.c"), "a.b/c");
    assert!(path("a.*").is_err_and(|fault| fault.message == "`a.*` is a pattern"));
    for kernels in ["net", "net/ipv4", "kernel/x", "vm/x", "fs/x", "user/x", "dev/x"] {
        assert!(is_kernels(kernels) && path(kernels).is_err(), "{kernels}");
    }
    assert!(!is_kernels("network/x") && !is_kernels("neighbour/net"));
}

#[test]
fn the_shipped_example_says_nothing_and_its_examples_are_right() -> Outcome {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc/sysctl.d/50-example.conf");
    let text = fs::read_to_string(shipped)?;
    assert!(lines(&text)?.is_empty());
    // A comment that is no prose is an example.
    let examples = text
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with([' ']) && !line.is_empty());
    let examples: Vec<&str> = examples.collect();
    assert_eq!(examples.len(), 10);
    assert_eq!(lines(&examples.join("\n"))?.len(), examples.len());
    Ok(())
}

mod any_text {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        /// Whatever stands in a file: lines, or errors with places within the file, and never a panic.
        #[test]
        fn never_panics(text in "(?s)([-@a-c.*:\\[\\]/= \t#;é0-9]|\n|blue-|net|pernetd){0,60}", netns in "[@a-b-]{0,4}") {
            match parse_sysctls(Path::new("f"), &text) {
                Ok(lines) => {
                    for line in &lines {
                        let _ = line.names(&netns, "a/b");
                        prop_assert!(line.position.line <= text.lines().count());
                    }
                }
                Err(errors) => {
                    for error in &errors {
                        let position = error.position.ok_or_else(|| TestCaseError::fail("an error has a place"))?;
                        let line = text.split('\n').nth(position.line - 1).unwrap_or_default();
                        prop_assert!(position.column <= line.chars().count() + 1, "{}", error);
                    }
                }
            }
        }
    }
}
