//! The pages of the two programs: pernetd(8), pernetctl(1), and one for each command of the latter.
//!
//! A command's own commands (`netns add`) are sections of its page: nobody looks for a page of theirs.

use std::io;

use clap::{Arg, Command};
use clap_mangen::Man;

use crate::roff::{Page, bold, plain, prose, title};

/// What is said by hand, by the page's name; a page without is whole, too.
const TEXTS: [(&str, &str); 16] = [
    ("pernetd", include_str!("text/pernetd.8")),
    ("pernetctl", include_str!("text/pernetctl.1")),
    ("pernetctl-boot", include_str!("text/pernetctl-boot.1")),
    ("pernetctl-dev", include_str!("text/pernetctl-dev.1")),
    ("pernetctl-fs", include_str!("text/pernetctl-fs.1")),
    ("pernetctl-monitor", include_str!("text/pernetctl-monitor.1")),
    ("pernetctl-mount", include_str!("text/pernetctl-mount.1")),
    ("pernetctl-netns", include_str!("text/pernetctl-netns.1")),
    ("pernetctl-plugin", include_str!("text/pernetctl-plugin.1")),
    ("pernetctl-reload", include_str!("text/pernetctl-reload.1")),
    ("pernetctl-sock", include_str!("text/pernetctl-sock.1")),
    ("pernetctl-status", include_str!("text/pernetctl-status.1")),
    ("pernetctl-sysctl", include_str!("text/pernetctl-sysctl.1")),
    ("pernetctl-umount", include_str!("text/pernetctl-umount.1")),
    ("pernetctl-why", include_str!("text/pernetctl-why.1")),
    ("mount.pernetfs", include_str!("text/mount.pernetfs.8")),
];

/// Every page but that of the configuration.
pub(crate) fn pages(date: &str) -> io::Result<Vec<Page>> {
    let daemon = built(pernetd::cli::command());
    let client = built(pernetd::control::client::command());
    let mut pages = vec![program(&daemon, '8', date)?, program(&client, '1', date)?];
    for command in client.get_subcommands() {
        pages.push(of_command(command, date)?);
    }
    for helper in ["mount.pernetfs", "mount.netctl"] {
        let text = format!("{}{}", title(helper, '8', date), by_hand("mount.pernetfs").1.replace("@HELPER@", helper));
        pages.push(Page { name: helper.to_owned(), section: '8', text });
    }
    Ok(pages)
}

fn built(command: Command) -> Command {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    command
}

/// A program's page: its commands are listed, with where more is said of each.
fn program(command: &Command, section: char, date: &str) -> io::Result<Page> {
    let name = command.get_name().to_owned();
    let mut text = head(command, &name, section, date)?;
    text += &rendered(command, Man::render_options_section)?;
    if command.has_subcommands() {
        text += ".SH COMMANDS\n";
    }
    for sub in command.get_subcommands() {
        text += &match section {
            '1' => format!(
                ".TP\n{}\n{} See {}.\n",
                bold(sub.get_name()),
                plain(&sentence(sub)),
                page_of(&name, sub.get_name())
            ),
            _ => nested(sub)?,
        };
    }
    text += by_hand(&name).1;
    Ok(Page { name, section, text })
}

/// The page of a command of `pernetctl`.
fn of_command(command: &Command, date: &str) -> io::Result<Page> {
    let name = format!("pernetctl-{}", command.get_name());
    let mut text = head(command, &name, '1', date)?;
    let own = without_globals(command);
    if own.get_arguments().any(|argument| !argument.is_hide_set()) {
        text += &rendered(&own, Man::render_options_section)?;
    }
    if own.has_subcommands() {
        text += ".SH COMMANDS\n";
    }
    for sub in own.get_subcommands() {
        text += &nested(sub)?;
    }
    text += ".PP\nThe options of \\fBpernetctl\\fR(1) may stand anywhere on the command line.\n";
    text += &with_the_usual(by_hand(&name).1);
    Ok(Page { name, section: '1', text })
}

/// The sections written by hand, with those that every command has: each where it belongs.
fn with_the_usual(written: &str) -> String {
    let (before, see_also) = written.split_at(written.find(".SH \"SEE ALSO\"").unwrap_or(written.len()));
    let status = match before.contains(".SH \"EXIT STATUS\"") {
        true => "",
        false => ".SH \"EXIT STATUS\"\n0 done, 1 failed, 2 wrong usage, 3 the daemon cannot be reached.\n",
    };
    let usual = ".SH \"SEE ALSO\"\n.BR pernetctl (1),\n.BR pernetd (8)\n";
    format!("{before}{status}{}", if see_also.is_empty() { usual } else { see_also })
}

/// Title, name, synopsis, description.
fn head(command: &Command, name: &str, section: char, date: &str) -> io::Result<String> {
    let about = about(command);
    let brief = about.lines().next().unwrap_or_default().trim_end_matches('.');
    let mut text = title(name, section, date);
    text += &format!(".SH NAME\n{} \\- {}\n", plain(name), plain(&lower_first(brief)));
    text += &format!(".SH SYNOPSIS\n{}", uses(command, name));
    // Exit codes have a section of their own.
    let long = command.get_long_about().map_or(about, ToString::to_string);
    let told: Vec<_> = long.split("\n\n").filter(|paragraph| !paragraph.starts_with("Exit status")).collect();
    text += &format!(".SH DESCRIPTION\n{}\n{}", paragraphs(&ended(&told.join("\n\n"))), by_hand(name).0);
    Ok(text)
}

/// The ways to call it, a line each.
fn uses(command: &Command, name: &str) -> String {
    let own = format!("{} [\\fIOPTIONS\\fR]", bold(name));
    let of_commands: Vec<_> = command.get_subcommands().map(synopsis).collect();
    match name {
        "pernetctl" => format!("{own} \\fICOMMAND\\fR\n"),
        "pernetd" => format!("{own}\n.br\n{}", of_commands.join(".br\n")),
        _ if of_commands.is_empty() => synopsis(command),
        _ => of_commands.join(".br\n"),
    }
}

/// One line of use, options that each command has left out. Clap's own leaves out what an option takes.
fn synopsis(command: &Command) -> String {
    let command = without_globals(command);
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let (words, options): (Vec<_>, Vec<_>) = shown.partition(|argument| argument.is_positional());
    let name = bold(command.get_bin_name().unwrap_or(command.get_name()));
    let parts = options.into_iter().chain(words).map(usage);
    format!("{}\n", std::iter::once(name).chain(parts).collect::<Vec<_>>().join(" "))
}

/// One option or word in a line of use.
fn usage(argument: &Arg) -> String {
    let names = [argument.get_short().map(|short| format!("-{short}")), argument.get_long().map(|l| format!("--{l}"))];
    let mut text = names.into_iter().flatten().map(|name| bold(&name)).collect::<Vec<_>>().join("|");
    if argument.get_action().takes_values() {
        let values = argument.get_value_names().unwrap_or_default();
        let value = values.iter().map(|value| plain(value)).collect::<Vec<_>>().join(" ");
        text += if text.is_empty() { "" } else { " " };
        text += &format!("\\fI{value}\\fR");
    }
    if !argument.is_required_set() {
        text = format!("[{text}]");
    }
    if argument.is_positional() && argument.get_num_args().is_some_and(|count| count.max_values() == usize::MAX) {
        text += "...";
    }
    text
}

/// A command within a page.
fn nested(command: &Command) -> io::Result<String> {
    let own = without_globals(command);
    let mut text = format!(".SS \"{}\"\n", plain(own.get_bin_name().unwrap_or(own.get_name())));
    let long = own.get_long_about().or(own.get_about()).map(ToString::to_string).unwrap_or_default();
    text += &format!("{}\n", paragraphs(&ended(&long)));
    if own.get_arguments().any(|argument| !argument.is_hide_set()) {
        text += rendered(&own, Man::render_options_section)?.trim_start_matches(".SH OPTIONS\n");
    }
    Ok(text)
}

/// The command without what every command has: `--json`, `--runtime-dir`, `--help`, and of the daemon its paths.
fn without_globals(command: &Command) -> Command {
    let global =
        |argument: &clap::Arg| argument.is_global_set() || ["help", "version"].contains(&argument.get_id().as_str());
    let ids: Vec<_> = command.get_arguments().filter(|a| global(a)).map(|a| a.get_id().clone()).collect();
    // The programs themselves keep theirs: there they are described.
    let is_program = ["pernetd", "pernetctl"].contains(&command.get_name());
    ids.into_iter().filter(|_| !is_program).fold(command.clone(), |command, id| command.mut_arg(id, |a| a.hide(true)))
}

fn rendered(command: &Command, part: fn(&Man, &mut dyn io::Write) -> io::Result<()>) -> io::Result<String> {
    let mut text = Vec::new();
    part(&Man::new(command.clone()), &mut text)?;
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    // What a whole page begins with is a definition of the apostrophe for old formatters, and a name for it.
    let own = text.lines().filter(|line| !line.is_empty() && !line.starts_with(".ie ") && !line.starts_with(".el "));
    Ok(own.map(|line| line.replace("\\*(Aq", "\\(aq") + "\n").collect())
}

/// What is said by hand: first what belongs to the description, then sections of its own.
fn by_hand(page: &str) -> (&'static str, &'static str) {
    let text = TEXTS.iter().find(|(name, _)| *name == page).map_or("", |(_, text)| text);
    text.split_at(text.find(".SH").unwrap_or(text.len()))
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn sentence(command: &Command) -> String {
    ended(&about(command))
}

fn ended(text: &str) -> String {
    if text.is_empty() || text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

fn page_of(program: &str, command: &str) -> String {
    format!("{}(1)", bold(&format!("{program}-{command}")))
}

fn paragraphs(text: &str) -> String {
    text.split("\n\n").map(prose).collect::<Vec<_>>().join("\n.PP\n")
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}
