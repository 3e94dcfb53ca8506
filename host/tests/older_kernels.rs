//! The daemon on kernels that lack what the newest have: Debian's own of its two last releases, booted in qemu.
//!
//! Only with `PERNET_BOOTED=1`. Inside, the real test binaries of other themes run as root; each of a kernel's themes is a
//! trial here, and what a theme ignores inside is ignored here, by name and with the reason. `PERNET_KERNELS_ALL=1` runs
//! more themes, for longer. A filter chooses the kernels and themes that are booted.

mod guest;
mod sandbox;

use std::collections::HashMap;
use std::env;
use std::process::ExitCode;
use std::time::Duration;

use guest::boot::{self, Boot};
use guest::initramfs::{self, Theme};
use guest::kernel;
use guest::results::{Section, parser_tells_them_apart, sections};
use libtest_mimic::{Arguments, Trial};

/// A name, and the Debian release whose kernel it is.
const KERNELS: [(&str, &str); 2] = [("6.1", "bookworm"), ("6.12", "trixie")];
/// What is about facilities that older kernels lack, or about what the kernel says.
const THEMES: [&str; 7] = ["bad_start", "discovery", "entering", "links", "mounts_kept", "resync", "mounts"];
/// The rest of what acts on the kernel, with `PERNET_KERNELS_ALL=1`.
const MORE: [&str; 9] = [
    "lifecycle",
    "netdev",
    "devices_linux",
    "churn",
    "netns_commands",
    "netdev_restart",
    "sockets",
    "sysctl",
    "reload",
];

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let all = env::var_os("PERNET_KERNELS_ALL").is_some_and(|v| v == "1");
    let themes: Vec<&str> = THEMES.into_iter().chain(MORE.into_iter().filter(|_| all)).collect();
    let is_wanted = |title: &str| match &args.filter {
        Some(filter) if args.exact => title == filter,
        Some(filter) => title.contains(filter.as_str()),
        None => true,
    };
    let mut trials = vec![Trial::test("what a boot says is parsed", || {
        parser_tells_them_apart();
        Ok(())
    })];
    for (kernel, suite) in KERNELS {
        let wanted: Vec<&str> = themes.iter().copied().filter(|theme| is_wanted(&title(kernel, theme))).collect();
        if args.list || wanted.is_empty() {
            trials.extend(wanted.iter().map(|theme| Trial::test(title(kernel, theme), || Ok(()))));
            continue;
        }
        trials.extend(match ask(kernel, suite, &wanted, all) {
            Ok(boot) => judged(kernel, &wanted, &boot),
            Err(Lacking(why)) => {
                eprintln!("older_kernels: {kernel} ({suite}) is NOT TESTED: {why}");
                let ignored = |theme: &&str| Trial::test(title(kernel, theme), || Ok(())).with_ignored_flag(true);
                wanted.iter().map(ignored).collect()
            }
        });
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn title(kernel: &str, theme: &str) -> String {
    format!("{kernel}: {theme}")
}

/// This machine cannot boot such a kernel.
struct Lacking(String);

/// Boots the kernel and lets it run the themes.
fn ask(kernel: &str, suite: &str, themes: &[&str], all: bool) -> Result<Boot, Lacking> {
    if env::var_os("PERNET_BOOTED").is_none_or(|v| v != "1") {
        return Err(Lacking("PERNET_BOOTED=1 is not set".to_owned()));
    }
    boot::available().map_err(Lacking)?;
    let made = kernel::of(suite).map_err(Lacking)?;
    let folder = tempfile::tempdir().map_err(|e| Lacking(format!("a folder: {e}")))?;
    let (base, whole) = (folder.path().join("base"), folder.path().join("whole"));
    let built: Vec<Theme> = initramfs::build(themes).map_err(Lacking)?;
    initramfs::base(&built, &base).and_then(|()| initramfs::of(&made, &base, &whole)).map_err(Lacking)?;
    let at_most = Duration::from_secs(if all { 3600 } else { 1200 });
    let boot = boot::boot(kernel, &made, &whole, at_most).map_err(Lacking)?;
    eprintln!("older_kernels: {kernel} ({}), {}: {:.0?}", made.package, boot.accelerator, boot.took);
    Ok(boot)
}

/// A trial of each theme, and one of each test that was ignored inside.
fn judged(kernel: &str, themes: &[&str], boot: &Boot) -> Vec<Trial> {
    let sections = sections(&boot.results);
    let mut trials = Vec::new();
    for theme in themes {
        let section = sections.get(*theme).cloned().unwrap_or_default();
        tell(kernel, theme, &section);
        for (name, _) in section.ignored() {
            trials.push(Trial::test(format!("{kernel}: {theme}: {name}"), || Ok(())).with_ignored_flag(true));
        }
        let tail = boot.tail.clone();
        trials.push(Trial::test(title(kernel, theme), move || match (section.passed(), section.status) {
            (true, _) => Ok(()),
            (false, Some(status)) => Err(format!("exit status {status}\n{}", section.text).into()),
            (false, None) => Err(format!("the boot ended before it\n{}--- the console\n{tail}", section.text).into()),
        }));
    }
    trials
}

/// Each test inside, a line.
fn tell(kernel: &str, theme: &str, section: &Section) {
    let mut reasons: HashMap<&str, &str> = section.ignored().collect();
    for (name, outcome) in &section.tests {
        let why = reasons.remove(name.as_str()).map_or(String::new(), |why| format!(": {why}"));
        let word = match outcome {
            guest::results::Outcome::Passed => "ok",
            guest::results::Outcome::Failed => "FAILED",
            guest::results::Outcome::Ignored(_) => "ignored",
        };
        println!("{kernel}: {theme}: {name} ... {word}{why}");
    }
}
