//! The Debian packages as `.ci/packages` leaves them: what is in them, whose it is, what they need, and that what is in
//! them works together. Installing them, in a system that runs, is the theme `booted`.
//!
//! Where nobody has built the packages there is nothing to look at: the trials are ignored.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};

const NAMES: [&str; 3] = ["pernetd", "pernetd-plugins", "pernetd-dev"];

fn main() -> ExitCode {
    let packages: Vec<PathBuf> = NAMES.iter().filter_map(|name| built(name)).collect();
    let here = packages.len() == NAMES.len() && is_there("dpkg-deb");
    if !here {
        eprintln!("packages: ignored: no packages in target/debian, or no dpkg-deb here; .ci/packages makes them");
    }
    let lintian = here && is_there("lintian");
    if here && !lintian {
        eprintln!("packages: ignored: no lintian here");
    }
    let trial = |name: &str, needed: bool, run: fn()| {
        let test = Trial::test(name, move || {
            run();
            Ok(())
        });
        test.with_ignored_flag(!needed)
    };
    let trials = vec![
        trial("everything_is_roots_and_nobody_else_can_write_it", here, modes),
        trial("the_daemons_package_has_what_belongs_to_it", here, daemon_contents),
        trial("the_plugins_package_has_every_plugin_and_enables_none", here, plugin_contents),
        trial("the_authors_package_is_the_crate_and_a_plugin", here, dev_contents),
        trial("what_is_configured_by_hand_survives_an_upgrade", here, conffiles),
        trial("dependencies_are_those_of_the_programs", here, dependencies),
        trial("the_sums_are_those_of_the_files", here, sums),
        trial("maintainer_scripts_are_plain_sh_and_know_the_units", here, scripts),
        trial("every_plugin_of_the_package_loads_in_the_daemon_of_the_package", here, plugins_load),
        trial("a_plugin_built_from_the_authors_package_alone_loads", here, example_loads),
        trial("lintian_has_no_complaint", lintian, lint),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn is_there(tool: &str) -> bool {
    let asked = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// A package's file, if there is one.
fn built(name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(workspace().join("target/debian")).ok()?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}_"))))
}

fn deb(name: &str) -> PathBuf {
    built(name).unwrap_or_else(|| panic!("no package {name}"))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// What a package installs: the path, without a dot in front, and mode and owner as `ls -l` shows them.
fn contents(name: &str) -> BTreeMap<String, (String, String)> {
    let listing = output(Command::new("dpkg-deb").arg("-c").arg(deb(name)));
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (mode, owner) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let path = words.skip(3).collect::<Vec<_>>().join(" ");
        (path.trim_start_matches('.').to_owned(), (mode, owner))
    };
    listing.lines().map(entry).collect()
}

fn files(name: &str) -> BTreeSet<String> {
    contents(name).into_keys().filter(|path| !path.ends_with('/')).collect()
}

/// The package's files in a folder, and its control files in `DEBIAN` there.
fn unpacked(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    output(Command::new("dpkg-deb").arg("-R").arg(deb(name)).arg(&root));
    folder
}

fn names_in(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(workspace().join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn modes() {
    for name in NAMES {
        for (path, (mode, owner)) in contents(name) {
            assert_eq!(owner, "root/root", "{name}: {path}");
            let expected = match path.as_str() {
                folder if folder.ends_with('/') => "drwxr-xr-x",
                link if link.contains(" -> ") => "lrwxrwxrwx",
                program if program.starts_with("/usr/bin/") => "-rwxr-xr-x",
                _ => "-rw-r--r--",
            };
            assert_eq!(mode, expected, "{name}: {path}");
        }
    }
}

fn daemon_contents() {
    let files = files("pernetd");
    let units = names_in("systemd").into_iter().filter(|name| !name.ends_with(".catalog"));
    let mut wanted: Vec<String> = units.map(|unit| format!("/usr/lib/systemd/system/{unit}")).collect();
    if names_in("systemd").contains("pernetd.catalog") {
        wanted.push("/usr/lib/systemd/catalog/pernetd.catalog".to_owned());
    }
    let fixed = [
        "/usr/bin/pernetd",
        "/usr/bin/pernetctl",
        "/usr/sbin/mount.pernetfs -> ../bin/pernetctl",
        "/usr/sbin/mount.netctl -> ../bin/pernetctl",
        "/etc/pernetd/pernetd.toml",
        "/etc/pernetd/plugins.d/README",
        "/etc/pernetd/sysctl.d/README",
        "/usr/share/bash-completion/completions/pernetd",
        "/usr/share/bash-completion/completions/pernetctl",
        "/usr/share/zsh/vendor-completions/_pernetd",
        "/usr/share/zsh/vendor-completions/_pernetctl",
        "/usr/share/fish/vendor_completions.d/pernetd.fish",
        "/usr/share/fish/vendor_completions.d/pernetctl.fish",
        "/usr/share/man/man1/pernetctl.1.gz",
        "/usr/share/man/man1/pernetctl-netns.1.gz",
        "/usr/share/man/man5/pernetd.toml.5.gz",
        "/usr/share/man/man8/pernetd.8.gz",
        "/usr/share/man/man8/mount.pernetfs.8.gz",
        "/usr/share/man/man8/mount.netctl.8.gz",
        "/usr/share/pernetd/io.pernetd.varlink",
        "/usr/share/doc/pernetd/copyright",
        "/usr/share/doc/pernetd/README.md",
        "/usr/share/doc/pernetd/changelog.gz",
        "/usr/share/doc/pernetd/changelog.Debian.gz",
        "/usr/share/doc/pernetd/examples/sysctl.d/50-example.conf",
        "/usr/share/lintian/overrides/pernetd",
    ];
    wanted.extend(fixed.map(str::to_owned));
    let missing: Vec<_> = wanted.iter().filter(|path| !files.contains(*path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // Nothing else but more pages of commands.
    let is_page = |path: &str| path.starts_with("/usr/share/man/man1/pernetctl-") && path.ends_with(".1.gz");
    let more: Vec<_> = files.iter().filter(|path| !wanted.contains(path) && !is_page(path)).collect();
    assert!(more.is_empty(), "{more:?}");
}

fn plugin_contents() {
    let files = files("pernetd-plugins");
    let below = |folder: &str| -> BTreeSet<String> {
        files.iter().filter_map(|path| path.strip_prefix(folder)).map(str::to_owned).collect()
    };
    let plugins = names_in("plugins").into_iter().map(|name| format!("libpernet_{}.so", name.replace('-', "_")));
    assert_eq!(below("/usr/lib/pernetd/plugins/"), plugins.collect());
    assert_eq!(below("/usr/share/pernetd/plugins.d/"), names_in("etc/plugins.d"));
    // Where the daemon looks for plugins' files there is none.
    let enabled = ["/etc/", "/run/", "/usr/lib/pernetd/plugins.d"];
    assert!(!files.iter().any(|path| enabled.iter().any(|folder| path.starts_with(folder))), "{files:?}");
}

fn dev_contents() {
    let files = files("pernetd-dev");
    let example = "/usr/share/doc/pernetd-dev/examples/low-ports";
    for path in [
        "/usr/share/pernetd/plugin-api/Cargo.toml".to_owned(),
        "/usr/share/pernetd/plugin-api/src/lib.rs".to_owned(),
        format!("{example}/Cargo.toml"),
        format!("{example}/src/lib.rs"),
        format!("{example}/50-low-ports.toml"),
    ] {
        assert!(files.contains(&path), "no {path} in {files:?}");
    }
    let root = unpacked("pernetd-dev");
    let manifest = fs::read_to_string(root.path().join("root/usr/share/pernetd/plugin-api/Cargo.toml")).unwrap();
    assert!(!manifest.contains("workspace = true"), "it needs a workspace that is not there:\n{manifest}");
}

fn conffiles() {
    let root = unpacked("pernetd");
    let listed = fs::read_to_string(root.path().join("root/DEBIAN/conffiles")).unwrap();
    let listed: BTreeSet<_> = listed.lines().map(str::to_owned).collect();
    let in_etc: BTreeSet<_> = files("pernetd").into_iter().filter(|path| path.starts_with("/etc/")).collect();
    assert_eq!(listed, in_etc);
    let shipped = fs::read(root.path().join("root/etc/pernetd/pernetd.toml")).unwrap();
    assert_eq!(shipped, fs::read(workspace().join("etc/pernetd.toml")).unwrap());
    for name in ["pernetd-plugins", "pernetd-dev"] {
        assert!(!unpacked(name).path().join("root/DEBIAN/conffiles").exists(), "{name}");
    }
}

fn field(name: &str, field: &str) -> String {
    output(Command::new("dpkg-deb").arg("-f").arg(deb(name)).arg(field)).trim().to_owned()
}

fn dependencies() {
    let of = |name: &str| -> Vec<String> {
        let depends = field(name, "Depends");
        depends.split(", ").filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let daemon = of("pernetd");
    assert!(
        !daemon.is_empty() && daemon.iter().all(|d| d.starts_with("libc6 (>= ") || d.starts_with("libgcc-s1 ")),
        "{daemon:?}"
    );
    let version = concat!("pernetd (>= ", env!("CARGO_PKG_VERSION"), ")");
    assert!(of("pernetd-plugins").iter().any(|d| d == version), "{:?}", of("pernetd-plugins"));
    assert_eq!(of("pernetd-dev"), Vec::<String>::new());
    assert_eq!(field("pernetd-dev", "Architecture"), "all");
    assert_eq!(field("pernetd", "Recommends"), "pernetd-plugins");
    let versions: BTreeSet<_> = NAMES.iter().map(|name| field(name, "Version")).collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
}

fn sums() {
    for name in NAMES {
        let root = unpacked(name);
        let check = Command::new("md5sum")
            .args(["-c", "--quiet", "DEBIAN/md5sums"])
            .current_dir(root.path().join("root"))
            .output();
        let check = check.unwrap();
        assert!(check.status.success(), "{name}: {}", String::from_utf8_lossy(&check.stdout));
        let sums = fs::read_to_string(root.path().join("root/DEBIAN/md5sums")).unwrap();
        let plain = files(name).iter().filter(|path| !path.contains(" -> ")).count();
        assert_eq!(sums.lines().count(), plain, "{name}");
    }
}

fn scripts() {
    let root = unpacked("pernetd");
    let enabled = names_in("systemd").into_iter().filter(|name| {
        fs::read_to_string(workspace().join("systemd").join(name)).unwrap().lines().any(|line| line == "[Install]")
    });
    let enabled: BTreeSet<String> = enabled.collect();
    for script in ["postinst", "prerm", "postrm"] {
        let path = root.path().join("root/DEBIAN").join(script);
        output(Command::new("sh").arg("-n").arg(&path));
        let text = fs::read_to_string(&path).unwrap();
        let units = text.lines().find_map(|line| line.strip_prefix("units=\"")?.strip_suffix('"')).unwrap();
        assert_eq!(units.split(' ').map(str::to_owned).collect::<BTreeSet<_>>(), enabled, "{script}");
    }
    let triggers = fs::read_to_string(root.path().join("root/DEBIAN/triggers")).unwrap();
    assert!(triggers.contains("interest-noawait /usr/lib/pernetd/plugins\n"), "{triggers}");
}

/// What the daemon of the package says of a configuration, which is fully good.
fn check(plugins: &Path, config_dir: &Path) -> String {
    let daemon = unpacked("pernetd");
    let mut check = Command::new(daemon.path().join("root/usr/bin/pernetd"));
    check.arg("--check").arg("--config").arg(daemon.path().join("root/etc/pernetd/pernetd.toml"));
    output(check.arg("--config-dir").arg(config_dir).arg("--plugin-dir").arg(plugins))
}

fn plugins_load() {
    let root = unpacked("pernetd-plugins");
    let at = |path: &str| root.path().join("root").join(path);
    let said = check(&at("usr/lib/pernetd/plugins"), &at("usr/share/pernetd"));
    let count = names_in("plugins").len();
    assert!(said.contains(&format!(" {count} plugins ")), "{said}");
}

fn example_loads() {
    let root = unpacked("pernetd-dev");
    let installed = root.path().join("root/usr/share");
    let example = root.path().join("low-ports");
    let status =
        Command::new("cp").arg("-r").arg(installed.join("doc/pernetd-dev/examples/low-ports")).arg(&example).status();
    assert!(status.unwrap().success());
    // The package lies elsewhere than it would be installed.
    let manifest = fs::read_to_string(example.join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\"/usr/share/pernetd/plugin-api\""), "{manifest}");
    let manifest = manifest.replace("/usr/share", &installed.display().to_string());
    fs::write(example.join("Cargo.toml"), manifest).unwrap();
    // The crates that are here already will do: a test needs no network.
    fs::copy(workspace().join("Cargo.lock"), example.join("Cargo.lock")).unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("low-ports");
    let mut cargo = Command::new(env!("CARGO"));
    output(cargo.args(["build", "--offline", "--target-dir"]).arg(&target).current_dir(&example));
    // Alone in a folder, as it would be installed.
    let plugins = root.path().join("plugins");
    fs::create_dir_all(&plugins).unwrap();
    fs::copy(target.join("debug/libpernet_low_ports.so"), plugins.join("libpernet_low_ports.so")).unwrap();
    let config_dir = root.path().join("config");
    fs::create_dir_all(config_dir.join("plugins.d")).unwrap();
    fs::copy(example.join("50-low-ports.toml"), config_dir.join("plugins.d/50-low-ports.toml")).unwrap();
    let said = check(&plugins, &config_dir);
    assert!(said.contains(" 1 plugins "), "{said}");
}

/// What is known and accepted stands in each package's overrides, with the reason.
fn lint() {
    let mut lintian = Command::new("lintian");
    let output = lintian.arg("--allow-root").args(NAMES.map(deb)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.is_empty(), "{said}");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}
