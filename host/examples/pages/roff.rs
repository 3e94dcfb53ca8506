//! A manual page as text in the `man` macros, and how prose becomes that.

/// One page.
pub(crate) struct Page {
    pub(crate) name: String,
    pub(crate) section: char,
    pub(crate) text: String,
}

/// The head line of a page.
pub(crate) fn title(name: &str, section: char, date: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH {} {section} \"{date}\" \"pernetd {version}\" \"pernetd\"\n", name.to_uppercase())
}

/// Prose with words between backticks, which are to be typed as they are.
pub(crate) fn prose(text: &str) -> String {
    let pieces = text.split('`').enumerate();
    pieces.map(|(n, piece)| if n % 2 == 1 { bold(piece) } else { plain(piece) }).collect()
}

pub(crate) fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", plain(text))
}

/// Text that means nothing to the formatter. A dash is one that can be copied.
pub(crate) fn plain(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    escaped.split('\n').map(guarded).collect::<Vec<_>>().join("\n")
}

/// A line that begins with a dot would be an order to the formatter.
fn guarded(line: &str) -> String {
    if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() }
}
