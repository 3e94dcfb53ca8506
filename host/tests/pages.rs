//! The manual pages and the completions say what the programs say of themselves: all of it, and nothing else.
//!
//! What there is to be said is asked of the real programs (`--help`, a refused key of the configuration), not of the
//! definitions that the pages are made of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};

const PERNETD: &str = env!("CARGO_BIN_EXE_pernetd");
const PERNETCTL: &str = env!("CARGO_BIN_EXE_pernetctl");

fn main() -> ExitCode {
    let made = Made::new();
    let root = made.root.path().to_owned();
    let trial = |name: &str, run: fn(&Path)| {
        let root = root.clone();
        Trial::test(name, move || {
            run(&root);
            Ok(())
        })
    };
    let without = |tool: &str| {
        let missing = !is_there(tool);
        if missing {
            eprintln!("pages: {tool} is not here: what needs it is ignored");
        }
        missing
    };
    let trials = vec![
        trial("help_and_pages_have_the_same_options_and_commands", help_is_in_the_pages),
        trial("a_line_of_use_says_what_each_option_takes", uses_are_whole),
        trial("every_key_of_the_main_file_is_described_and_no_other", main_keys_are_described),
        trial("every_key_of_a_plugin_file_is_described_and_no_other", plugin_keys_are_described),
        trial("every_page_has_its_sections_and_names_pages_that_are_there", pages_are_whole),
        trial("the_formatter_has_no_complaint", no_complaint).with_ignored_flag(without("man") || without("groff")),
        trial("bash_completes_every_command_and_option_of_help", bash_completes).with_ignored_flag(without("bash")),
        trial("zsh_and_fish_know_every_command_and_option_of_help", zsh_and_fish_know),
        trial("zsh_reads_its_completions", zsh_reads).with_ignored_flag(without("zsh")),
        trial("fish_reads_its_completions", fish_reads).with_ignored_flag(without("fish")),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn is_there(tool: &str) -> bool {
    let asked = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// What the generator made.
struct Made {
    root: tempfile::TempDir,
}

impl Made {
    fn new() -> Made {
        let root = tempfile::tempdir().expect("a folder");
        let generator = Path::new(PERNETD).with_file_name("examples").join("pages");
        let status = Command::new(&generator).arg(root.path()).arg("2026-01-02").status();
        let status =
            status.unwrap_or_else(|e| panic!("{}: {e}; cargo build -p pernetd --examples", generator.display()));
        assert!(status.success(), "{status}");
        Made { root }
    }
}

/// One command as its `--help` shows it.
struct Help {
    /// `["pernetctl", "netns", "wait"]`
    path: Vec<String>,
    options: BTreeSet<String>,
    /// Options that take something, with what that is called: `--netns NAME`.
    values: BTreeSet<String>,
    commands: Vec<String>,
}

/// A program and all commands below it.
fn helps(program: &str, path: &[String]) -> Vec<Help> {
    let output = Command::new(program).args(&path[1..]).arg("--help").output().expect("the program runs");
    assert!(output.status.success(), "{path:?}: {}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    let (mut options, mut values, mut commands, mut section) = (BTreeSet::new(), BTreeSet::new(), Vec::new(), "");
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match indent {
            0 if line.ends_with(':') => section = line,
            _ if section == "Commands:" && indent == 2 => {
                commands.extend(line.split_whitespace().next().map(str::to_owned));
            }
            2 | 6 if section == "Options:" && line.trim_start().starts_with('-') => {
                let words = line.split_whitespace().take(2).map(|word| word.trim_end_matches(','));
                options.extend(words.filter(|word| word.starts_with('-')).map(str::to_owned));
                let option = line.split('>').next().and_then(|option| option.split_once(" <"));
                let name = |names: &str| names.split_whitespace().last().map(str::to_owned);
                values.extend(option.and_then(|(names, value)| Some(format!("{} {value}", name(names)?))));
            }
            _ => {}
        }
    }
    // Clap's own way to the same text.
    commands.retain(|command| command != "help");
    let below = commands.iter().flat_map(|command| helps(program, &[path, std::slice::from_ref(command)].concat()));
    let below: Vec<Help> = below.collect();
    [Help { path: path.to_vec(), options, values, commands }].into_iter().chain(below).collect()
}

fn all_helps() -> Vec<Help> {
    let of = |program, name: &str| helps(program, &[name.to_owned()]);
    let found: Vec<Help> = of(PERNETD, "pernetd").into_iter().chain(of(PERNETCTL, "pernetctl")).collect();
    assert!(found.len() > 20 && found.iter().all(|help| help.options.contains("--help")), "help is not understood");
    found
}

/// A page as plain text, its headings as `.SH NAME`.
fn page(root: &Path, name: &str) -> String {
    let section = if name.starts_with("pernetctl") {
        '1'
    } else if name.ends_with(".toml") {
        '5'
    } else {
        '8'
    };
    let path = root.join(format!("man/man{section}/{name}.{section}"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    ["\\fB", "\\fI", "\\fR", "\\&"].iter().fold(text, |text, mark| text.replace(mark, "")).replace("\\-", "-")
}

/// The part of a page from a heading to the next of its kind, or one above.
fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("no {heading} in:\n{page}"));
    let rest = &page[start + heading.len()..];
    let ends = [rest.find("\n.SH "), rest.find("\n.SS ").filter(|_| heading.starts_with(".SS"))];
    &rest[..ends.into_iter().flatten().min().unwrap_or(rest.len())]
}

/// What stands in front of the descriptions, up to the first blank.
fn tags(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().collect();
    let tagged = lines.windows(2).filter(|pair| [".TP", ".TQ"].contains(&pair[0])).map(|pair| pair[1]);
    tagged.map(|line| line.trim_start_matches(".B ").split(' ').next().unwrap_or_default().to_owned()).collect()
}

/// Of a page's part, the options in front of the descriptions: `-t, --type <TYPE>`.
fn described_options(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().collect();
    let tagged = lines.windows(2).filter(|pair| pair[0] == ".TP" && pair[1].starts_with('-')).map(|pair| pair[1]);
    let words = tagged.flat_map(|line| line.split([' ', '=']).take(2)).map(|word| word.trim_end_matches(','));
    words.filter(|word| word.starts_with('-')).map(str::to_owned).collect()
}

/// Options that every command has are described once, with the program.
fn help_is_in_the_pages(root: &Path) {
    let all = all_helps();
    let of_program = |name: &str| all.iter().find(|help| help.path == [name]).expect("the program").options.clone();
    for help in &all {
        let program = help.path[0].as_str();
        let globals = of_program(program);
        let (page_name, nested) = match (program, help.path.len()) {
            ("pernetd", 1) | ("pernetctl", 1) => (program.to_owned(), false),
            ("pernetd", _) => (program.to_owned(), true),
            (_, n) => (help.path[..2].join("-"), n > 2),
        };
        let page = page(root, &page_name);
        let text = if nested { part(&page, &format!(".SS \"{}\"", help.path.join(" "))) } else { &page };
        let described = match (nested, help.path.len()) {
            (true, _) => described_options(text),
            _ if page.contains(".SH OPTIONS\n") => described_options(part(&page, ".SH OPTIONS")),
            _ => BTreeSet::new(),
        };
        let wanted: BTreeSet<_> = match help.path.len() {
            1 => help.options.clone(),
            _ => help.options.difference(&globals).cloned().collect(),
        };
        assert_eq!(described, wanted, "{:?} in {page_name}", help.path);
        for command in &help.commands {
            let listed = match help.path.len() {
                1 if program == "pernetctl" => format!(".TP\n{command}\n"),
                _ => format!(".SS \"{} {command}\"\n", help.path.join(" ")),
            };
            assert!(page.contains(&listed), "{listed:?} is not in {page_name}");
        }
    }
    // And no page of a command that there is not.
    let pages = fs::read_dir(root.join("man/man1")).expect("pages").count();
    assert_eq!(pages, 1 + all.iter().filter(|help| help.path[0] == "pernetctl" && help.path.len() == 2).count());
}

fn uses_are_whole(root: &Path) {
    let all = all_helps();
    let of_program = |name: &str| &all.iter().find(|help| help.path == [name]).expect("the program").values;
    let mut looked_at = 0;
    for help in all.iter().filter(|help| help.path.len() > 1) {
        let name = if help.path[0] == "pernetd" { "pernetd".to_owned() } else { help.path[..2].join("-") };
        let page = page(root, &name);
        let uses = part(&page, ".SH SYNOPSIS");
        let of_this = uses.lines().find(|line| line.starts_with(&format!("{} ", help.path.join(" "))));
        for value in help.values.difference(of_program(&help.path[0])) {
            assert!(of_this.is_some_and(|line| line.contains(value.as_str())), "{value} of {:?}:\n{uses}", help.path);
            looked_at += 1;
        }
    }
    assert!(looked_at >= 10, "only {looked_at}");
}

/// What the strict check says is known where `zzz` is not.
fn known(said: &str, unknown: &str) -> Option<Vec<String>> {
    let line = said.lines().find(|line| line.contains(&format!("unknown key \"{unknown}\"")))?;
    let (_, list) = line.split_once("known here: ")?;
    Some(list.split(", ").map(str::to_owned).collect())
}

/// What `pernetd --check` says of a configuration.
fn check(main: &str, plugin: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("plugins.d")).expect("mkdir");
    fs::write(at("pernetd.toml"), main).expect("write");
    fs::write(at("plugins.d/10-probe.toml"), plugin).expect("write");
    let mut check = Command::new(PERNETD);
    check.arg("--check").arg("--config").arg(at("pernetd.toml")).arg("--config-dir").arg(folder.path());
    let output = check.output().expect("the program runs");
    assert!(!output.status.success(), "it takes a key that is none");
    String::from_utf8(output.stderr).expect("text")
}

fn main_keys_are_described(root: &Path) {
    let top = known(&check("zzz = 1\n", ""), "zzz").expect("what is known at the top");
    let mut accepted = BTreeSet::new();
    for key in top {
        // Only of a table is it an unknown key; of anything else it is a wrong type.
        match known(&check(&format!("[{key}]\nzzz = 1\n"), ""), &format!("{key}.zzz")) {
            Some(keys) => accepted.extend(keys.iter().map(|inner| format!("{key}.{inner}"))),
            None => drop(accepted.insert(key)),
        }
    }
    assert!(accepted.contains("log.level") && accepted.contains("workers"), "{accepted:?}");
    assert_eq!(tags(part(&page(root, "pernetd.toml"), ".SH \"MAIN FILE\"")), accepted);
}

fn plugin_keys_are_described(root: &Path) {
    let accepted: BTreeSet<_> = known(&check("", "zzz = 1\n"), "zzz").expect("what is known").into_iter().collect();
    let described = tags(part(&page(root, "pernetd.toml"), ".SH \"PLUGIN FILES\""));
    let described: BTreeSet<_> = described.iter().map(|tag| tag.trim_matches(['[', ']']).to_owned()).collect();
    assert_eq!(described, accepted);
}

fn every_page(root: &Path) -> Vec<PathBuf> {
    let folders = ["man1", "man5", "man8"].map(|folder| root.join("man").join(folder));
    let listed = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder of pages"));
    listed.map(|entry| entry.expect("an entry").path()).collect()
}

fn pages_are_whole(root: &Path) {
    let pages = every_page(root);
    let names: BTreeSet<_> =
        pages.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
    for path in &pages {
        let text = fs::read_to_string(path).expect("a page");
        let mut wanted = vec!["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "\"SEE ALSO\""];
        if !path.to_string_lossy().ends_with(".5") {
            wanted.push("\"EXIT STATUS\"");
        }
        for heading in wanted {
            let count = text.matches(&format!(".SH {heading}\n")).count();
            assert_eq!(count, 1, "{heading} in {}", path.display());
        }
        assert!(!text.contains('@') || !text.contains("KEYS@") && !text.contains("HELPER@"), "{}", path.display());
        // `.BR pernetctl\-mount (1),`
        for line in text.lines().filter(|line| line.starts_with(".BR pernet") || line.starts_with(".BR mount.")) {
            let mut words = line[4..].split([' ', '(', ')']).filter(|word| !word.is_empty());
            if let (Some(name), Some(section)) = (words.next(), words.next())
                && ["1", "5", "8"].contains(&section)
            {
                let name = format!("{}.{section}", name.replace("\\-", "-"));
                assert!(names.contains(&name), "{}: there is no page {name}", path.display());
            }
        }
    }
}

fn no_complaint(root: &Path) {
    for path in every_page(root) {
        // Formatted only: what it says of the page is on standard error.
        let mut man = Command::new("man");
        man.args(["--warnings", "--encoding=UTF-8", "-Tutf8", "-Z", "--local-file"]).arg(&path);
        let output = man.env("LC_ALL", "C.UTF-8").env_remove("MANWIDTH").output().expect("man runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty() && output.stdout.len() > 1000,
            "{}:\n{said}",
            path.display()
        );
    }
}

/// What bash offers when the last of the words is completed.
fn offers(script: &Path, words: &[&str]) -> BTreeSet<String> {
    let program = words[0];
    let quoted = words.iter().map(|word| format!("'{word}' ")).collect::<String>();
    let asked = format!(
        "source '{}'; COMP_WORDS=({quoted}); COMP_CWORD={}; _{program} {program} '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let output = Command::new("bash").args(["--norc", "-c", &asked]).output().expect("bash runs");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").split_whitespace().map(str::to_owned).collect()
}

fn bash_completes(root: &Path) {
    for help in all_helps() {
        let script = root.join("bash-completion/completions").join(&help.path[0]);
        let words: Vec<&str> = help.path.iter().map(String::as_str).collect();
        let options = offers(&script, &[&words[..], &["-"]].concat());
        assert!(help.options.is_subset(&options), "{:?}: {:?} and only {options:?}", help.path, help.options);
        let commands = offers(&script, &[&words[..], &[""]].concat());
        let missing: Vec<_> = help.commands.iter().filter(|command| !commands.contains(*command)).collect();
        assert!(missing.is_empty(), "{:?} {missing:?}: {commands:?}", help.path);
    }
    let netns = offers(&root.join("bash-completion/completions/pernetctl"), &["pernetctl", "netns", "w"]);
    assert_eq!(netns, BTreeSet::from(["wait".to_owned()]));
}

/// Neither shell need be here: each command's own part of the file has its options and commands.
fn zsh_and_fish_know(root: &Path) {
    for help in all_helps() {
        let program = &help.path[0];
        let read = |path: String| fs::read_to_string(root.join(path)).expect("a completion");
        let zsh = read(format!("zsh/vendor-completions/_{program}"));
        let fish = read(format!("fish/vendor_completions.d/{program}.fish"));
        let last = &help.path[help.path.len() - 1];
        for command in &help.commands {
            assert!(zsh.contains(&format!("\n'{command}:")), "zsh: {:?} {command}", help.path);
            assert!(fish.contains(&format!(" -a \"{command}\"")), "fish: {:?} {command}", help.path);
        }
        // In zsh a command's options stand between its name as a case, within those of the commands above, and the next.
        let within = |text: &'_ str, command: &String| {
            let found = text.split_once(&format!("({command})\n_arguments"));
            found.unwrap_or_else(|| panic!("zsh has no case of {:?}", help.path)).1.to_owned()
        };
        let own = help.path[1..].iter().fold(zsh.clone(), |text, command| within(&text, command));
        let own = own.split("\n;;\n").next().unwrap_or_default();
        for option in &help.options {
            // `--check[…]`, `--netns=[…]`, `-p+[…]`
            let there = ["[", "=[", "+["].iter().any(|end| own.contains(&format!("{option}{end}")));
            assert!(there, "zsh: {:?} {option}", help.path);
            let flag = match option.strip_prefix("--") {
                Some(long) => format!(" -l {long}"),
                None => format!(" -s {}", &option[1..]),
            };
            let mut lines = fish.lines().filter(|line| help.path.len() == 1 || line.contains(last.as_str()));
            assert!(lines.any(|line| line.contains(&flag)), "fish: {:?} {option}", help.path);
        }
    }
}

fn zsh_reads(root: &Path) {
    reads("zsh", &root.join("zsh/vendor-completions"));
}

fn fish_reads(root: &Path) {
    reads("fish", &root.join("fish/vendor_completions.d"));
}

/// The shell finds no fault with the files; it runs nothing of them.
fn reads(shell: &str, folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let output = Command::new(shell).arg("-n").arg(&path).output().expect("the shell runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}:\n{said}", path.display());
    }
}
