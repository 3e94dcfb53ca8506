//! A line as an entry of the journal, by its native protocol: `NAME=value`, or name, length and bytes where a value has
//! several lines. Values stay as they are: an escape or a newline is data here, and `journalctl` shows it safely.
//!
//! `netns` becomes `PERNET_NETNS`, and so on; what systemd has a field of its own for gets that one (`MESSAGE_ID`,
//! `ERRNO`). Not here: how an entry gets there ([`super::journal_socket`]).

use std::borrow::Cow;

use tracing::Level;

use super::line::Line;
use super::text;

/// As the journal allows.
const LONGEST_NAME: usize = 64;

/// The whole entry.
pub(super) fn entry(line: &Line<'_>) -> Vec<u8> {
    let message = text::sentence(line);
    let mut entry = Vec::with_capacity(message.len() + 256);
    put(&mut entry, "MESSAGE", &message);
    put(&mut entry, "PRIORITY", priority(line.level));
    put(&mut entry, "SYSLOG_IDENTIFIER", "pernetd");
    put(&mut entry, "TID", &rustix::thread::gettid().to_string());
    if let Some((file, at)) = line.code {
        put(&mut entry, "CODE_FILE", file);
        put(&mut entry, "CODE_LINE", &at.to_string());
    }
    for field in &line.fields {
        put(&mut entry, &journal_name(&field.name, &field.value), &field.value);
    }
    entry
}

/// As syslog counts. The journal tells debug and trace apart by nothing.
pub(super) fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// What the journal calls a field. One of systemd's own only where its value is what that field has to be.
fn journal_name(name: &str, value: &str) -> Cow<'static, str> {
    match name {
        "plugin" => "PERNET_PLUGIN".into(),
        "netns" => "PERNET_NETNS".into(),
        "hook" => "PERNET_HOOK".into(),
        "device" => "PERNET_DEVICE".into(),
        "generation" => "PERNET_GENERATION".into(),
        "message_id" if is_id(value) => "MESSAGE_ID".into(),
        "errno" if value.parse::<u16>().is_ok() => "ERRNO".into(),
        _ => {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            "PERNET_".chars().chain(name.chars().map(plain)).take(LONGEST_NAME).collect::<String>().into()
        }
    }
}

fn is_id(value: &str) -> bool {
    value.len() == 32 && value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(line: &Line<'_>, field: &[u8]) -> bool {
        entry(line).windows(field.len()).any(|part| part == field)
    }

    #[test]
    fn fields_have_the_names_that_an_operator_asks_for() {
        let mut line = Line::bare(Level::WARN, "it failed");
        line.put("netns", "blue");
        line.put("errno", "19");
        line.put("message_id", "dbe356c83f6d49df8c47e5546822f7a9");
        line.put("a.b-c", "1");
        let wanted: [&[u8]; 8] = [
            b"MESSAGE=blue: it failed\n",
            b"\nPRIORITY=4\n",
            b"\nSYSLOG_IDENTIFIER=pernetd\n",
            b"\nPERNET_NETNS=blue\n",
            b"\nERRNO=19\n",
            b"\nMESSAGE_ID=dbe356c83f6d49df8c47e5546822f7a9\n",
            b"\nPERNET_A_B_C=1\n",
            b"\nTID=",
        ];
        for field in wanted {
            assert!(has(&line, field), "{} in {}", field.escape_ascii(), entry(&line).escape_ascii());
        }
    }

    #[test]
    fn a_value_of_several_lines_cannot_become_a_field() {
        let line = Line::bare(Level::INFO, "one\nPRIORITY=0");
        assert!(entry(&line).starts_with(b"MESSAGE\n\x0e\0\0\0\0\0\0\0one\nPRIORITY=0\nPRIORITY=6\n"));
    }

    #[test]
    fn what_a_plugin_calls_a_systemd_field_is_one_only_with_its_value() {
        for (name, value, field) in [
            ("errno", "no number", &b"\nPERNET_ERRNO=no number\n"[..]),
            ("message_id", "not an id", b"\nPERNET_MESSAGE_ID=not an id\n"),
            ("priority", "0", b"\nPERNET_PRIORITY=0\n"),
            ("_pid", "1", b"\nPERNET__PID=1\n"),
        ] {
            let mut line = Line::bare(Level::INFO, "x");
            line.put(name, value);
            assert!(has(&line, field), "{}", entry(&line).escape_ascii());
        }
        assert_eq!(journal_name(&"x".repeat(200), "").len(), LONGEST_NAME);
    }
}
