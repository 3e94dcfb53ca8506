//! How text is set on a terminal: to a width, with hanging indents; and times as people read them.

use std::io;
use std::time::{Duration, SystemTime};

use rustix::termios::tcgetwinsize;

/// Where the output is no terminal, and what everything fits on.
const WIDTH: usize = 80;

/// Columns of the terminal, or as many as any has.
pub(super) fn width() -> usize {
    let columns = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    if columns >= 40 { columns } else { WIDTH }
}

/// Breaks `text` into lines of at most `width` columns: `first` before the first one, as many blanks before the others. A
/// word that is longer than a line stays whole, so that a path can be copied.
pub(super) fn wrap(first: &str, text: &str, width: usize) -> String {
    let indent = first.chars().count();
    let room = width.saturating_sub(indent).max(20);
    let mut out = String::new();
    let mut line = String::new();
    let mut lead = first.to_owned();
    let mut end = |line: &mut String| {
        out += format!("{lead}{line}").trim_end();
        out.push('\n');
        lead = " ".repeat(indent);
        line.clear();
    };
    for word in text.split_whitespace() {
        let length = line.chars().count();
        if length > 0 && length + 1 + word.chars().count() > room {
            end(&mut line);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    end(&mut line);
    out
}

/// `text` in at most `width` columns, with a mark where something was cut off. One line, whatever it was.
pub(super) fn cut(text: &str, width: usize) -> String {
    let text = text.replace('\n', " | ");
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept.trim_end().to_owned() + "…"
}

/// `12:00:01.123`, with the date where it is another day's; what is no time stays as it is.
pub(super) fn clock(time: &str, now: SystemTime) -> String {
    let today = humantime::format_rfc3339_seconds(now).to_string();
    let same_day = time.get(..10) == today.get(..10);
    match (time.get(..10), time.get(11..23)) {
        (Some(_), Some(clock)) if same_day => clock.to_owned(),
        (Some(date), Some(clock)) => format!("{date} {clock}"),
        _ => time.to_owned(),
    }
}

/// `3 s ago`, `in 2 min`
pub(super) fn relative(time: &str, now: SystemTime) -> String {
    let Ok(at) = humantime::parse_rfc3339(time) else { return String::new() };
    match now.duration_since(at) {
        Ok(passed) if passed < Duration::from_secs(1) => "just now".to_owned(),
        Ok(passed) => format!("{} ago", span(passed)),
        Err(ahead) if ahead.duration() < Duration::from_secs(1) => "within a second".to_owned(),
        Err(ahead) => format!("in {}", span(ahead.duration())),
    }
}

/// The two largest units: `3 s`, `2 min 5 s`, `4 h 1 min`, `3 d 2 h`.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut words = Vec::new();
    for (size, unit) in units.iter().skip(first).take(2) {
        let many = rest / size;
        rest %= size;
        if many > 0 {
            words.push(format!("{many} {unit}"));
        }
    }
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_and_hang() {
        assert_eq!(wrap("  ", "one two three four five six", 22), "  one two three four\n  five six\n");
        assert_eq!(
            wrap("* ", "/a/path/that/is/much/longer/than/that is", 22),
            "* /a/path/that/is/much/longer/than/that\n  is\n"
        );
        assert_eq!(wrap("* ", "", 22), "*\n");
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("a\nb", 9), "a | b");
    }

    #[test]
    fn times_are_told_both_ways() {
        let now = humantime::parse_rfc3339("2026-11-26T12:00:10Z").expect("this is a time");
        let tell = |time: &str| (clock(time, now), relative(time, now));
        assert_eq!(tell("2026-11-26T12:00:07.123456Z"), ("12:00:07.123".into(), "2 s ago".into()));
        assert_eq!(tell("2026-11-25T10:58:10.000000Z"), ("2026-11-25 10:58:10.000".into(), "1 d 1 h ago".into()));
        assert_eq!(tell("2026-11-26T12:02:15.000000Z").1, "in 2 min 5 s");
        assert_eq!(tell("2026-11-26T12:00:10.500000Z").1, "within a second");
        assert_eq!(tell("never"), ("never".into(), String::new()));
    }
}
