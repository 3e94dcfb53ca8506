//! How a field of a configuration is named: `a.b[2].c`, a key that is not bare being quoted as in TOML.
//!
//! Owns both directions, so that the two sides of the ABI agree. Knows nothing of files, lines and columns.

use serde_path_to_error::{Path, Segment};

/// One step on the way to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldStep {
    /// Into a table, by key.
    Key(String),
    /// Into an array, by position.
    Index(usize),
}

/// A key as it stands in a field's name: as it is if bare, else quoted (`settings."net.ipv4.ip_forward"`).
#[must_use]
pub fn field_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_owned() } else { format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// The steps of a field's name. Takes any text, since a plugin may answer any: what does not parse is taken as bare.
#[must_use]
pub fn field_steps(field: &str) -> Vec<FieldStep> {
    let mut steps = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        let (step, after) = next_step(rest);
        steps.push(step);
        rest = after.strip_prefix('.').unwrap_or(after);
    }
    steps
}

fn next_step(text: &str) -> (FieldStep, &str) {
    if let Some(inner) = text.strip_prefix('"') {
        return quoted(inner);
    }
    if let Some((number, after)) = text.strip_prefix('[').and_then(|inner| inner.split_once(']'))
        && let Ok(index) = number.parse()
    {
        return (FieldStep::Index(index), after);
    }
    // A bracket at the start belongs to the key here: it was no index.
    let end = text.char_indices().skip(1).find(|(_, c)| matches!(c, '.' | '[')).map_or(text.len(), |(at, _)| at);
    (FieldStep::Key(text[..end].to_owned()), &text[end..])
}

fn quoted(inner: &str) -> (FieldStep, &str) {
    let mut key = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (FieldStep::Key(key), &inner[at + 1..]),
            '\\' => key.extend(chars.next().map(|(_, escaped)| escaped)),
            plain => key.push(plain),
        }
    }
    (FieldStep::Key(key), "")
}

/// The name of the field that serde stopped at.
pub(crate) fn from_path(path: &Path) -> String {
    let mut field = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => field.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !field.is_empty() {
                    field.push('.');
                }
                field.push_str(&field_key(key));
            }
            Segment::Unknown => {}
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_they_are_written() {
        use FieldStep::{Index, Key};
        let key = |k: &str| Key(k.to_owned());
        assert_eq!(field_steps("a.b[2].c"), [key("a"), key("b"), Index(2), key("c")]);
        assert_eq!(field_steps("[0][1]"), [Index(0), Index(1)]);
        let name = format!("s.{}.x", field_key("net.ipv4.\"x\\y\""));
        assert_eq!(field_steps(&name), [key("s"), key("net.ipv4.\"x\\y\""), key("x")]);
        assert_eq!(field_steps(""), []);
    }

    #[test]
    fn any_text_ends() {
        for odd in ["[", "a[", "\"open", "..", "[x].b", "a..b", "\"a\"b", "ä.[ö"] {
            let _ = field_steps(odd);
        }
    }
}
