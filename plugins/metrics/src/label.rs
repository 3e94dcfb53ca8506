//! Values of labels, escaped twice: names may have any bytes, and the text format has rules of its own.

/// A name of the kernel's as text: bytes that are not UTF-8, control characters and the backslash become `\xNN`, as in the
/// daemon's names of namespaces. No two names become the same text.
pub(crate) fn readable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                let mut utf8 = [0; 4];
                c.encode_utf8(&mut utf8).bytes().for_each(|byte| hex(&mut text, byte));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| hex(&mut text, *byte));
    }
    text
}

fn hex(text: &mut String, byte: u8) {
    text.push_str(&format!("\\x{byte:02x}"));
}

/// `name="value"`, after a comma unless it is the first; the format escapes the backslash, the quote and the line feed.
pub(crate) fn push(labels: &mut String, name: &str, value: &str) {
    labels.push_str(if labels.is_empty() { "" } else { "," });
    labels.push_str(name);
    labels.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            _ => labels.push(c),
        }
    }
    labels.push('"');
}

/// Several at once.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut labels = String::new();
    pairs.iter().for_each(|(name, value)| push(&mut labels, name, value));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_readable_and_told_apart() {
        assert_eq!(readable(b"eth0"), "eth0");
        assert_eq!(readable("grün".as_bytes()), "grün");
        assert_eq!(readable(b"a\\x41\x01\xff\""), "a\\x5cx41\\x01\\xff\"");
        assert_ne!(readable(b"\xff"), readable(b"\\xff"));
    }

    #[test]
    fn the_formats_own_characters_are_escaped() {
        let labels = labels(&[("netns", "a\"b\\c\nd"), ("device", "eth0")]);
        assert_eq!(labels, "netns=\"a\\\"b\\\\c\\nd\",device=\"eth0\"");
    }
}
