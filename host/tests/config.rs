//! The configuration: what is refused and where, which layer wins, and that the files in etc/ say what is built in.

use std::fs;
use std::path::{Path, PathBuf};

use pernetd::config::{
    Config, ConfigError, ControlRead, LogLevel, Method, OnInitFailure, OnStop, Paths, Position, Selector,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A configuration folder of its own.
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

    fn load(&self) -> Result<Config, Vec<ConfigError>> {
        self.load_with(&[])
    }

    fn load_with(&self, environment: &[(&str, &str)]) -> Result<Config, Vec<ConfigError>> {
        let environment: Vec<_> = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load_with(&self.paths, &environment).map_err(|e| e.0)
    }

    /// The errors as lines, with the folder left out.
    fn refusals(&self) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        let errors = self.load().err().unwrap_or_default();
        errors.iter().map(|e| e.to_string().replace(&dir, "")).collect()
    }
}

fn at(line: usize, column: usize) -> Position {
    Position { line, column }
}

#[test]
fn nothing_written_is_the_built_in_configuration() -> Outcome {
    let config = Etc::new()?.load().map_err(|e| format!("{e:?}"))?;
    assert_eq!(config, Config::built_in()?);
    assert_eq!(config.main.discovery.method, Method::Auto);
    assert_eq!(config.main.discovery.folders, ["/run/netns", "/run/docker/netns"].map(PathBuf::from));
    assert_eq!(config.main.control.read, ControlRead::Root);
    assert!(config.workers() >= 1);
    Ok(())
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_known_one() -> Outcome {
    let etc = Etc::new()?;
    etc.write("pernetd.toml", "workers = 2\n\n[discovery]\nmehtod = \"auto\"\n")?;
    assert_eq!(
        etc.refusals(),
        [r#"pernetd.toml:4:1: unknown key "discovery.mehtod"; did you mean "method"? known here: method, folders"#]
    );
    Ok(())
}

#[test]
fn a_wrong_type_is_named_with_its_place_and_what_to_write() -> Outcome {
    let etc = Etc::new()?;
    etc.write("pernetd.toml", "workers = \"four\"\nunregister_timeout = 1.9\ncontrol = 3\n")?;
    assert_eq!(
        etc.refusals(),
        [
            r#"pernetd.toml:1:11: workers is the string "four", not an integer; write for example workers = 0"#,
            "pernetd.toml:2:22: unregister_timeout is the number 1.9, not an integer; \
             write for example unregister_timeout = 10",
            "pernetd.toml:3:11: control is the integer 3, not a table; \
             write for example control = { … }, or a line with its name in brackets",
        ]
    );
    Ok(())
}

#[test]
fn values_out_of_bounds_and_wrong_words_are_refused() -> Outcome {
    let etc = Etc::new()?;
    let text = "workers = -1\n[discovery]\nmethod = \"poll\"\nfolders = [\"run/netns\"]\n[log]\nlevel = \"loud\"\n";
    etc.write("pernetd.toml", text)?;
    let places: Vec<_> = etc.load().err().unwrap_or_default().iter().map(|e| e.position).collect();
    assert_eq!(places, [Some(at(1, 11)), Some(at(3, 10)), Some(at(4, 12)), Some(at(6, 9))]);
    assert!(etc.refusals()[0].ends_with("workers is -1; write a number from 0 to 1024"), "{:?}", etc.refusals());
    Ok(())
}

#[test]
fn all_errors_of_all_files_are_reported_at_once() -> Outcome {
    let etc = Etc::new()?;
    etc.write("pernetd.toml", "workers = true\nnonsense = 1\n")?;
    etc.write("first/plugins.d/10-a.toml", "enabled = 1\n")?;
    etc.write("first/plugins.d/20-b.toml", "= broken\n")?;
    etc.write("second/plugins.d/30.toml", "")?;
    let files: Vec<_> = etc.refusals().iter().map(|r| r.split(' ').next().map(str::to_owned)).collect();
    let expected = [
        "pernetd.toml:1:11:",
        "pernetd.toml:2:1:",
        "first/plugins.d/10-a.toml:1:11:",
        "first/plugins.d/20-b.toml:1:1:",
        "second/plugins.d/30.toml:",
    ];
    assert_eq!(files, expected.map(|f| Some(f.to_owned())));
    Ok(())
}

#[test]
fn environment_beats_file_beats_default() -> Outcome {
    let etc = Etc::new()?;
    etc.write("pernetd.toml", "workers = 2\n[log]\nlevel = \"warn\"\n[control]\nread = \"wheel\"\n")?;
    let environment = [("PERNETD_WORKERS", "7"), ("PERNETD_DISCOVERY__METHOD", "inotify"), ("PATH", "/bin")];
    let main = etc.load_with(&environment).map_err(|e| format!("{e:?}"))?.main;
    assert_eq!((main.workers, main.unregister_timeout), (7, 10));
    assert_eq!((main.discovery.method, main.log.level), (Method::Inotify, LogLevel::Warn));
    assert_eq!(main.control.read, ControlRead::Group("wheel".to_owned()));
    Ok(())
}

#[test]
fn environment_variables_are_checked_as_strictly_as_the_file() -> Outcome {
    let etc = Etc::new()?;
    let refused = |name: &str, value: &str| -> String {
        let errors = etc.load_with(&[(name, value)]).err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    };
    let worker = refused("PERNETD_WORKER", "2");
    assert!(
        worker.starts_with("environment variable PERNETD_WORKER: it sets nothing; did you mean \"PERNETD_WORKERS\"?"),
        "{worker}"
    );
    assert!(refused("PERNETD_WORKERS", "1.9").ends_with("it is \"1.9\"; write a number from 0 to 1024"));
    assert!(refused("PERNETD_LOG__LEVEL", "").contains("write one of error, warn, info, debug, trace"));
    assert!(refused("PERNETD_DISCOVERY__FOLDERS", "/x").contains("it sets nothing"));
    Ok(())
}

/// What the blacklist holds, each with its place.
fn blacklisted(config: &Config) -> Vec<(String, String)> {
    let listed = config.main.initcall_blacklist.iter();
    listed
        .map(|listed| (listed.name.clone(), listed.place().rsplit('/').next().unwrap_or_default().to_owned()))
        .collect()
}

#[test]
fn the_blacklist_knows_where_each_name_is_written() -> Outcome {
    let etc = Etc::new()?;
    etc.write("pernetd.toml", "workers = 2\ninitcall_blacklist = [\"plugin.a\",\n  \"sock_init\"]\n")?;
    let config = etc.load().map_err(|e| format!("{e:?}"))?;
    let place = |name: &str, place: &str| (name.to_owned(), place.to_owned());
    assert_eq!(blacklisted(&config), [place("plugin.a", "pernetd.toml:2"), place("sock_init", "pernetd.toml:3")]);
    assert_eq!(config.main.workers, 2, "the rest of the file counts, too");
    let variable = "environment variable PERNETD_INITCALL_BLACKLIST";
    let environment = [("PERNETD_INITCALL_BLACKLIST", "plugin.b, plugin.c"), ("PERNETD_WORKERS", "3")];
    let config = etc.load_with(&environment).map_err(|e| format!("{e:?}"))?;
    assert_eq!(blacklisted(&config), [place("plugin.b", variable), place("plugin.c", variable)]);
    assert_eq!(config.main.workers, 3);
    let config = etc.load_with(&[("PERNETD_INITCALL_BLACKLIST", "")]).map_err(|e| format!("{e:?}"))?;
    assert_eq!(blacklisted(&config), []);
    Ok(())
}

#[test]
fn a_blacklisted_name_must_be_able_to_be_one() -> Outcome {
    let etc = Etc::new()?;
    etc.write("pernetd.toml", "initcall_blacklist = [\"plugin.a\", \"Plugin.a\", 3, \"\"]\n")?;
    let places: Vec<_> = etc.load().err().unwrap_or_default().iter().map(|e| e.position).collect();
    assert_eq!(places, [Some(at(1, 35)), Some(at(1, 47)), Some(at(1, 50))]);
    etc.write("pernetd.toml", "initcall_blacklist = \"plugin.a\"\n")?;
    assert!(etc.refusals()[0].ends_with("not a list; write for example initcall_blacklist = [\"plugin.wire\"]"));
    etc.write("pernetd.toml", "")?;
    let errors = etc.load_with(&[("PERNETD_INITCALL_BLACKLIST", "a,,b c")]).err().unwrap_or_default();
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(
        said.len() == 2 && said[0].contains("\"\" is no initcall's name") && said[1].contains("\"b c\""),
        "{said:?}"
    );
    Ok(())
}

#[test]
fn what_nothing_is_called_is_told_with_what_was_meant() -> Outcome {
    let etc = Etc::new()?;
    etc.write("pernetd.toml", "initcall_blacklist = [\"plugin.a\", \"a\", \"sock_inti\", \"sock_init\"]\n")?;
    etc.write("first/plugins.d/10-a.toml", "enabled = false\n")?;
    let config = etc.load().map_err(|e| format!("{e:?}"))?;
    let told: Vec<String> = config.unknown_initcalls(&["sock_init"]).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains(":1:35: ") && told[0].ends_with("did you mean \"plugin.a\"?"), "{told:?}");
    assert!(told[1].contains(":1:40: ") && told[1].contains("did you mean \"sock_init\"?"), "{told:?}");
    let mistakes: Vec<String> = config.vital_initcalls(&["sock_init"]).iter().map(ToString::to_string).collect();
    assert!(
        mistakes.len() == 1 && mistakes[0].ends_with("without which pernetd cannot run; take it out"),
        "{mistakes:?}"
    );
    assert_eq!(config.vital_initcalls(&["control_init"]), []);
    Ok(())
}

#[test]
fn a_file_that_was_asked_for_must_be_there() -> Outcome {
    let mut etc = Etc::new()?;
    etc.paths.config_is_given = true;
    etc.paths.config_dirs_are_given = true;
    assert_eq!(etc.refusals().len(), 3);
    assert!(etc.refusals().iter().any(|r| r.starts_with("pernetd.toml: there is no such file")));
    Ok(())
}

#[test]
fn a_plugin_has_its_keys_and_their_defaults() -> Outcome {
    let etc = Etc::new()?;
    let text = "file = \"sub/x.so\"\nenabled = false\nafter = [\"a\"]\nrequires = [\"b-1\"]\n\
                on_init_failure = \"skip\"\non_stop = \"undo\"\n\
                namespaces = { include = [\"web-*\"], exclude = [\"web-9\"] }\n\
                [config]\nz = [1, 2.5, { b = true }]\na = 1979-05-27\n";
    etc.write("first/plugins.d/10-full.toml", text)?;
    etc.write("first/plugins.d/20-two-words.toml", "# nothing but defaults\n")?;
    let config = etc.load().map_err(|e| format!("{e:?}"))?;
    let [full, bare] = &config.plugins[..] else { return Err("not two plugins".into()) };
    assert_eq!((full.name.as_str(), full.file_name.as_str()), ("full", "10-full.toml"));
    assert_eq!((full.file.as_path(), full.enabled), (Path::new("/plugins/sub/x.so"), false));
    assert_eq!((&full.after[..], &full.requires[..]), (&["a".to_owned()][..], &["b-1".to_owned()][..]));
    assert_eq!((full.on_init_failure, full.on_stop), (OnInitFailure::Skip, OnStop::Undo));
    assert_eq!(full.config_json, r#"{"a":"1979-05-27","z":[1,2.5,{"b":true}]}"#);
    assert!(full.selects(&["web-1"], false) && !full.selects(&["web-9"], false) && !full.selects(&["db"], false));
    assert_eq!((bare.file.as_path(), bare.enabled), (Path::new("/plugins/libpernet_two_words.so"), true));
    assert_eq!((bare.on_init_failure, bare.on_stop), (OnInitFailure::Rollback, OnStop::Leave));
    assert_eq!(bare.config_json, "{}");
    assert_eq!(bare.selector, Selector::everything());
    Ok(())
}

#[test]
fn a_bad_glob_is_named_with_its_place_and_the_reason() -> Outcome {
    let etc = Etc::new()?;
    let text = "[namespaces]\ninclude = [\"ok\", \"we[b\"]\nexclude = [\"a***\"]\ninlude = []\n";
    etc.write("first/plugins.d/10-a.toml", text)?;
    let refusals = etc.refusals();
    assert_eq!(refusals.len(), 3, "{refusals:?}");
    assert!(
        refusals[0].starts_with("first/plugins.d/10-a.toml:2:21: the glob \"we[b\" is not valid: "),
        "{refusals:?}"
    );
    assert!(refusals[1].starts_with("first/plugins.d/10-a.toml:3:1"), "{refusals:?}");
    assert!(refusals[2].contains("4:1: unknown key \"namespaces.inlude\"; did you mean \"include\"?"), "{refusals:?}");
    Ok(())
}

#[test]
fn a_plugin_configured_twice_is_refused_with_both_files() -> Outcome {
    let etc = Etc::new()?;
    let first = etc.write("first/plugins.d/10-lo.toml", "#\n")?;
    let second = etc.write("second/plugins.d/20-lo.toml", "#\n")?;
    let errors = etc.load().err().unwrap_or_default();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].file, second);
    assert!(errors[0].message.contains(&first.display().to_string()));
    Ok(())
}

#[test]
fn file_names_need_two_digits_and_a_plugins_name() -> Outcome {
    let etc = Etc::new()?;
    for wrong in ["lo.toml", "1-lo.toml", "100-lo.toml", "10-Lo.toml", "10-.toml", "1x-lo.toml", "10_lo.toml"] {
        let path = etc.write(&format!("first/plugins.d/{wrong}"), "#\n")?;
        let refusals = etc.refusals();
        assert_eq!(refusals.len(), 1, "{wrong}: {refusals:?}");
        assert!(refusals[0].contains("call it NN-name.toml"), "{refusals:?}");
        fs::remove_file(path)?;
    }
    for other in ["10-lo.toml~", ".10-lo.toml.swp", "README", ".hidden.toml"] {
        etc.write(&format!("first/plugins.d/{other}"), "not toml at all = = =")?;
    }
    assert!(etc.load().is_ok_and(|c| c.plugins.is_empty()));
    Ok(())
}

#[test]
fn the_first_folder_wins_an_empty_file_masks_and_the_order_is_by_name() -> Outcome {
    let etc = Etc::new()?;
    etc.write("second/plugins.d/05-early.toml", "#\n")?;
    etc.write("second/plugins.d/10-both.toml", "enabled = false\n")?;
    etc.write("first/plugins.d/10-both.toml", "enabled = true\n")?;
    etc.write("second/plugins.d/20-masked.toml", "this would not even parse\n")?;
    etc.write("first/plugins.d/20-masked.toml", "")?;
    etc.write("second/plugins.d/30-null.toml", "#\n")?;
    std::os::unix::fs::symlink("/dev/null", etc.dir.path().join("first/plugins.d/30-null.toml"))?;
    etc.write("first/plugins.d/99-late.toml", "#\n")?;
    let plugins = etc.load().map_err(|e| format!("{e:?}"))?.plugins;
    let seen: Vec<_> = plugins.iter().map(|p| (p.name.as_str(), p.enabled)).collect();
    assert_eq!(seen, [("early", true), ("both", true), ("late", true)]);
    std::os::unix::fs::symlink("nowhere", etc.dir.path().join("first/plugins.d/40-lost.toml"))?;
    let errors = etc.load().expect_err("a link that leads nowhere masks nothing by accident");
    let said = errors.first().ok_or("an error")?.to_string();
    assert!(said.contains("40-lost.toml: it is a link to a file that is not there; "), "{said}");
    Ok(())
}

#[test]
fn names_of_other_plugins_are_checked() -> Outcome {
    let etc = Etc::new()?;
    etc.write("first/plugins.d/10-a.toml", "after = [\"sock_init\"]\nrequires = [\"b-c\", \"net_dev_init\"]\n")?;
    assert_eq!(etc.load().map_err(|e| format!("{e:?}"))?.plugins[0].requires, ["b-c", "net_dev_init"]);
    etc.write("first/plugins.d/10-a.toml", "after = [\"a\", \"No\"]\nrequires = \"b\"\nfile = \"../x.so\"\n")?;
    let places: Vec<_> = etc.load().err().unwrap_or_default().iter().filter_map(|e| e.position).collect();
    assert_eq!(places, [at(1, 10), at(1, 15), at(2, 12), at(3, 8)]);
    Ok(())
}

#[test]
fn a_field_that_the_plugin_refuses_is_found_in_the_file() -> Outcome {
    let etc = Etc::new()?;
    let text = "enabled = true\n[config]\nlimit = 3\na = { b = [1, 2, { c = \"x\" }] }\n\
                [[config.profile]]\nname = \"p\"\n[config.profile.settings]\n\"net.ipv4.ip_forward\" = 1\n";
    let path = etc.write("first/plugins.d/10-a.toml", text)?;
    let config = etc.load().map_err(|e| format!("{e:?}"))?;
    let plugin = &config.plugins[0];
    for (field, place) in [
        ("limit", at(3, 1)),
        ("a.b[2].c", at(4, 20)),
        ("a.b[1]", at(4, 15)),
        ("profile[0].name", at(6, 1)),
        ("profile[0].settings.\"net.ipv4.ip_forward\"", at(8, 1)),
        ("profile[0].missing", at(5, 1)),
        ("a.b[9].c", at(4, 7)),
        ("nowhere", at(2, 2)),
        ("", at(2, 2)),
    ] {
        assert_eq!(plugin.field_position(field), place, "{field}");
    }
    let refusal = plugin.refusal("limit", "must be even");
    let expected = "3:1: plugin a refuses its configuration: limit: must be even; correct the value";
    assert_eq!(refusal.to_string(), format!("{}:{expected}", path.display()));
    assert_eq!(plugin.key_error("enabled", "no", "yes").position, Some(at(1, 1)));
    Ok(())
}

#[test]
fn what_json_cannot_say_is_refused() -> Outcome {
    let etc = Etc::new()?;
    etc.write("first/plugins.d/10-a.toml", "[config]\na = inf\nb = [nan]\n")?;
    let places: Vec<_> = etc.load().err().unwrap_or_default().iter().filter_map(|e| e.position).collect();
    assert_eq!(places, [at(2, 5), at(3, 6)]);
    Ok(())
}

#[test]
fn only_globs_with_an_at_sign_mean_the_host() -> Outcome {
    let etc = Etc::new()?;
    for (globs, host, blue) in [
        (r#"include = ["*"]"#, false, true),
        (r#"include = ["@host"]"#, true, false),
        (r#"include = ["@*"]"#, true, false),
        (r#"include = ["default"]"#, false, false),
        (r#"include = ["*", "@host"], exclude = ["*"]"#, true, false),
        (r#"include = ["*", "@host"], exclude = ["@h*"]"#, false, true),
        (r#"include = ["[@]host"]"#, false, false),
        ("exclude = [\"green\"]", false, false),
        ("exclude = [\"red\"]", false, true),
        ("include = []", false, false),
    ] {
        etc.write("first/plugins.d/10-a.toml", &format!("namespaces = {{ {globs} }}\n"))?;
        let config = etc.load().map_err(|e| format!("{e:?}"))?;
        let plugin = &config.plugins[0];
        assert_eq!(plugin.selects(&["@host", "default"], true), host, "{globs}");
        assert_eq!(plugin.selects(&["blue", "green", "/run/docker/netns/.x"], false), blue, "{globs}");
    }
    Ok(())
}

#[test]
fn files_that_are_no_text_are_refused() -> Outcome {
    let etc = Etc::new()?;
    fs::create_dir(&etc.paths.config)?;
    assert!(etc.refusals()[0].starts_with("pernetd.toml: cannot be read: it is not a regular file"));
    fs::remove_dir(&etc.paths.config)?;
    fs::write(&etc.paths.config, b"workers = \"\xff\"")?;
    assert!(etc.refusals()[0].starts_with("pernetd.toml: cannot be read: "));
    fs::write(&etc.paths.config, "#".repeat((1 << 20) + 1))?;
    assert!(etc.refusals()[0].starts_with("pernetd.toml: cannot be read: it is larger than 1 MiB"));
    fs::remove_file(&etc.paths.config)?;
    etc.write("first/plugins.d", "a file, not a folder")?;
    assert!(etc.refusals()[0].starts_with("first/plugins.d: cannot be listed: "));
    Ok(())
}

/// The repository's own etc/.
fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc").join(name)
}

/// A shipped file with its settings uncommented: a `#` right before a letter, bracket or quote marks one.
fn uncommented(name: &str, until: &str) -> std::io::Result<String> {
    let text = fs::read_to_string(shipped(name))?;
    let text = text.split(until).next().unwrap_or_default();
    let setting =
        |line: &str| line.strip_prefix('#').filter(|l| l.starts_with(|c: char| !c.is_whitespace())).map(str::to_owned);
    Ok(text.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect())
}

#[test]
fn the_shipped_main_file_says_what_is_built_in() -> Outcome {
    let etc = Etc::new()?;
    etc.write("pernetd.toml", &fs::read_to_string(shipped("pernetd.toml"))?)?;
    assert_eq!(etc.load().map_err(|e| format!("{e:?}"))?, Config::built_in()?);
    let text = uncommented("pernetd.toml", "\0")?;
    etc.write("pernetd.toml", &text)?;
    assert_eq!(etc.load().map_err(|e| format!("{e:?}"))?, Config::built_in()?);
    for key in
        ["workers", "unregister_timeout", "initcall_blacklist", "method", "folders", "receive_buffer", "read", "level"]
    {
        assert!(text.lines().any(|l| l.starts_with(&format!("{key} = "))), "{key} is not in the shipped file");
    }
    Ok(())
}

#[test]
fn the_shipped_plugin_files_say_what_is_built_in() -> Outcome {
    for name in ["10-loopback.toml", "20-sysctl.toml", "50-wire.toml"] {
        let etc = Etc::new()?;
        let file = format!("plugins.d/{name}");
        etc.write(&format!("first/plugins.d/{name}"), "#\n")?;
        let defaults = etc.load().map_err(|e| format!("{e:?}"))?;
        etc.write(&format!("first/plugins.d/{name}"), &fs::read_to_string(shipped(&file))?)?;
        assert_eq!(etc.load().map_err(|e| format!("{e:?}"))?, defaults);
        let text = uncommented(&file, "#[[config")?;
        etc.write(&format!("first/plugins.d/{name}"), &text)?;
        assert_eq!(etc.load().map_err(|e| format!("{e:?}"))?, defaults);
        for key in ["file", "enabled", "namespaces", "after", "requires", "on_init_failure", "on_stop"] {
            assert!(text.lines().any(|l| l.starts_with(&format!("{key} = "))), "{key} is not in {name}");
        }
        // The example of the plugin's own configuration is at least well-formed.
        etc.write(&format!("first/plugins.d/{name}"), &uncommented(&file, "\0")?)?;
        assert!(etc.load().is_ok());
    }
    Ok(())
}

mod any_text {
    use super::*;
    use proptest::prelude::*;

    /// Bytes, or something closer to a configuration.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let near = "(?s)(\\[(config|namespaces|discovery|log)\\]\n|(workers|include|file|after|level|method|a) = |\\[\\[config.p\\]\\]\n|\"[a@*\\[é]{0,4}\"|\\[|\\]|\\{|\\}|,|\n|-?[0-9]{1,20}|true|=|.){0,40}";
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), near.prop_map(String::into_bytes)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        /// Whatever stands in the files: an answer, with places within the files, and never a panic.
        #[test]
        fn never_panics(main in text(), plugin in text(), field in "[a-z.\\[\\]\"0-9é]{0,20}") {
            let etc = Etc::new().map_err(|e| TestCaseError::fail(e.to_string()))?;
            etc.write("first/plugins.d/10-a.toml", "").map_err(|e| TestCaseError::fail(e.to_string()))?;
            let path = etc.dir.path().join("first/plugins.d/10-a.toml");
            fs::write(&etc.paths.config, &main).map_err(|e| TestCaseError::fail(e.to_string()))?;
            fs::write(path, &plugin).map_err(|e| TestCaseError::fail(e.to_string()))?;
            match etc.load() {
                Ok(config) => {
                    for plugin in &config.plugins {
                        let _ = plugin.field_position(&field);
                        let _ = plugin.refusal(&field, "no");
                    }
                }
                Err(errors) => prop_assert!(!errors.is_empty()),
            }
        }
    }
}
