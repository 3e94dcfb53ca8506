//! A line as people read it: on a terminal with colours, in a pipe or a file without, always one line per event:
//!
//! ```text
//! 2026-03-01T12:30:00.000000Z WARN  neighbour    blue             cannot announce addresses: …
//! ```
//!
//! Time (UTC, as `pernetctl` shows it), level, plugin and namespace stand in fixed places, `-` for none, so that columns can
//! be cut out. What names and texts say cannot begin a line or reach the terminal: control characters are escaped.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::SystemTime;

use tracing::Level;

use super::line::Line;

/// The width of the columns; what is longer moves the rest of its line.
const PLUGIN: usize = 12;
const NETNS: usize = 16;

/// A whole line, with its end.
pub(super) fn line(line: &Line<'_>, time: SystemTime, colours: bool) -> String {
    let time = humantime::format_rfc3339_micros(time);
    let (level, colour) = level(line.level);
    let plugin = word(line.get("plugin").unwrap_or("-"));
    let netns = word(line.get("netns").unwrap_or("-"));
    let (dim, colour, bold, plain) = if colours { ("\x1b[2m", colour, "\x1b[1m", "\x1b[0m") } else { ("", "", "", "") };
    let mut text =
        format!("{dim}{time}{plain} {colour}{level}{plain} {bold}{plugin:PLUGIN$}{plain} {bold}{netns:NETNS$}{plain} ");
    escape_into(&mut text, &told(line));
    text.push('\n');
    text
}

/// The line as a sentence that needs no columns: whose it is and where are said unless the text says so itself.
pub(super) fn sentence(line: &Line<'_>) -> String {
    let told = told(line);
    let unsaid = |name| line.get(name).filter(|value| !value.is_empty() && !says(&line.message, value));
    match (unsaid("plugin"), unsaid("netns")) {
        (Some(plugin), Some(netns)) => format!("{plugin} in {netns}: {told}"),
        (Some(one), None) | (None, Some(one)) => format!("{one}: {told}"),
        (None, None) => told.into_owned(),
    }
}

/// The sentence on one line, with the mark by which systemd knows its priority on a stream.
pub(super) fn for_stream(line: &Line<'_>) -> String {
    let mut text = format!("<{}>", super::journal::priority(line.level));
    escape_into(&mut text, &sentence(line));
    text.push('\n');
    text
}

/// The text with those of a plugin's own fields that it does not say.
fn told<'a>(line: &'a Line<'_>) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(&*line.message);
    for field in line.fields.iter().filter(|field| field.told && !is_shown_elsewhere(&field.name)) {
        if says(&line.message, &field.value) {
            continue;
        }
        let quoted = field.value.is_empty() || field.value.contains([' ', '"', '=']);
        let text = text.to_mut();
        let separator = if text.is_empty() { "" } else { " " };
        let _ = match quoted {
            true => write!(text, "{separator}{}={:?}", field.name, field.value),
            false => write!(text, "{separator}{}={}", field.name, field.value),
        };
    }
    if text.is_empty() { "(no text)".into() } else { text }
}

/// In a column, or for the journal only.
fn is_shown_elsewhere(name: &str) -> bool {
    matches!(name, "netns" | "message_id")
}

/// Whether the text has this as a word of its own. A bare number is too likely to be there by chance.
fn says(text: &str, value: &str) -> bool {
    let is_number = value.bytes().all(|b| b.is_ascii_digit());
    let part_of_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    !is_number
        && text.match_indices(value).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + value.len()..].chars().next();
            !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
        })
}

fn level(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::ERROR => ("ERROR", "\x1b[31m"),
        Level::WARN => ("WARN ", "\x1b[33m"),
        Level::INFO => ("INFO ", "\x1b[32m"),
        Level::DEBUG => ("DEBUG", "\x1b[34m"),
        Level::TRACE => ("TRACE", "\x1b[2m"),
    }
}

/// A name as one word.
fn word(name: &str) -> String {
    let mut word = String::with_capacity(name.len());
    escape_into(&mut word, name);
    word.replace(' ', "\\x20")
}

/// Text of several lines for a terminal: what would reach it as more than text is escaped, line ends are kept.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            out.push('\n');
        }
        escape_into(&mut out, line);
    }
    out
}

/// Control characters, and what rearranges a line or ends it for some programs, become `\n`, `\x1b`, `\u{202e}`.
fn escape_into(out: &mut String, text: &str) {
    for c in text.chars() {
        let _ = match c {
            '\n' => out.write_str("\\n"),
            '\t' => out.write_str("\\t"),
            '\r' => out.write_str("\\r"),
            c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)),
            c if c.is_control() || rearranges(c) => write!(out, "\\u{{{:x}}}", u32::from(c)),
            c => out.write_char(c),
        };
    }
}

fn rearranges(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at_noon(given: &Line<'_>) -> String {
        line(given, SystemTime::UNIX_EPOCH + Duration::from_micros(1_772_368_200_000_007), false)
    }

    fn failed() -> Line<'static> {
        let mut line = Line::bare(Level::WARN, "pernet.init failed: no such device (ENODEV)");
        line.put("plugin", "neighbour");
        line.put("netns", "blue");
        line.put("hook", "pernet.init");
        line.put("errno", "19");
        line
    }

    fn own(name: &'static str, value: &'static str) -> super::super::line::Field<'static> {
        super::super::line::Field { name: name.into(), value: value.into(), told: true }
    }

    #[test]
    fn time_level_plugin_and_namespace_have_their_places() {
        assert_eq!(
            at_noon(&failed()),
            "2026-03-01T12:30:00.000007Z WARN  neighbour    blue             pernet.init failed: no such device (ENODEV)\n"
        );
        assert_eq!(
            at_noon(&Line::bare(Level::INFO, "ready")),
            "2026-03-01T12:30:00.000007Z INFO  -            -                ready\n"
        );
    }

    #[test]
    fn text_for_a_terminal_keeps_its_lines_and_nothing_else() {
        assert_eq!(printable("one\ntwo\n"), "one\ntwo\n");
        assert_eq!(printable("a\x1b[2Jb\rc\u{202e}\n→ é"), "a\\x1b[2Jb\\rc\\u{202e}\n→ é");
    }

    #[test]
    fn colours_change_nothing_but_colour() {
        let coloured = line(&failed(), SystemTime::UNIX_EPOCH, true);
        let mut plain = coloured.clone();
        for colour in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[33m"] {
            assert!(coloured.contains(colour));
            plain = plain.replace(colour, "");
        }
        assert_eq!(plain, line(&failed(), SystemTime::UNIX_EPOCH, false));
    }

    #[test]
    fn a_plugins_fields_are_shown_unless_the_text_says_them() {
        let mut line = Line::bare(Level::INFO, "announced 10.0.0.1 on eth0");
        line.fields.extend([
            own("address", "10.0.0.1"),
            own("tries", "1"),
            own("why", "it moved"),
            own("device", "eth0"),
        ]);
        assert_eq!(told(&line), "announced 10.0.0.1 on eth0 tries=1 why=\"it moved\"");
        line.message = "".into();
        assert!(told(&line).starts_with("address=10.0.0.1 tries=1"));
        assert_eq!(told(&Line::bare(Level::INFO, "")), "(no text)");
    }

    #[test]
    fn a_sentence_says_who_and_where_once() {
        assert_eq!(sentence(&failed()), "neighbour in blue: pernet.init failed: no such device (ENODEV)");
        let mut line = failed();
        line.message = "plugin `neighbour` failed".into();
        assert_eq!(sentence(&line), "blue: plugin `neighbour` failed");
        line.message = "neighbour-x failed in blue".into();
        assert_eq!(sentence(&line), "neighbour: neighbour-x failed in blue", "a part of a word is not the word");
    }

    #[test]
    fn nothing_that_somebody_says_begins_a_line_or_reaches_the_terminal() {
        let mut line =
            Line::bare(Level::INFO, "one\n2026-03-01T12:30:00.000007Z ERROR forged\r\x1b[2J\u{9b}31m\u{202e}");
        line.put("netns", "a b\n\x1b]0;x\x07");
        line.fields.push(own("why", "x\ny"));
        let shown = at_noon(&line);
        assert_eq!(shown.matches('\n').count(), 1, "{shown:?}");
        assert!(!shown.trim_end_matches('\n').chars().any(|c| c.is_control() || c == '\u{202e}'), "{shown:?}");
        assert!(
            shown.contains(
                r"a\x20b\n\x1b]0;x\x07 one\n2026-03-01T12:30:00.000007Z ERROR forged\r\x1b[2J\u{9b}31m\u{202e}"
            )
        );
        assert_eq!(for_stream(&line).matches('\n').count(), 1);
        assert!(for_stream(&line).starts_with("<6>a b"));
    }
}
