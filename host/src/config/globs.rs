//! Which namespaces a plugin acts in: include and exclude globs over their names.

use std::ops::Range;

use glob::{MatchOptions, Pattern};

/// A name is one string, even where it is a path: `*` matches all of it, and a leading dot is nothing special.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: false, require_literal_leading_dot: false };

/// The namespaces of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub(super) include: Vec<Pattern>,
    pub(super) exclude: Vec<Pattern>,
}

/// How a selector judges a namespace, and by which of its globs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected<'a> {
    /// By this include.
    Included(&'a str),
    /// By this exclude, whatever the includes say.
    Excluded(&'a str),
    /// No include fits.
    NotIncluded,
}

impl Selector {
    /// From compiled globs.
    #[must_use]
    pub fn new(include: Vec<Pattern>, exclude: Vec<Pattern>) -> Selector {
        Selector { include, exclude }
    }

    /// Every namespace but the host's own: `include = ["*"]`.
    #[must_use]
    pub fn everything() -> Selector {
        Selector { include: Pattern::new("*").into_iter().collect(), exclude: Vec::new() }
    }

    /// Whether a namespace with these names is selected: any exclude wins, else any include.
    ///
    /// The host's own namespace has other names too (Docker's `default`), and a plugin shall act there only when its
    /// configuration says so: for it, only globs that begin with `@` count.
    pub fn selects<S: AsRef<str>>(&self, names: &[S], is_host: bool) -> bool {
        matches!(self.judge(names, is_host), Selected::Included(_))
    }

    /// The same with the glob that decides.
    pub fn judge<S: AsRef<str>>(&self, names: &[S], is_host: bool) -> Selected<'_> {
        let counts = |glob: &&Pattern| !is_host || glob.as_str().starts_with('@');
        let fits = |glob: &&Pattern| names.iter().any(|name| glob.matches_with(name.as_ref(), OPTIONS));
        let excluded = self.exclude.iter().find(|glob| counts(glob) && fits(glob));
        let included = self.include.iter().find(|glob| counts(glob) && fits(glob));
        match (excluded, included) {
            (Some(glob), _) => Selected::Excluded(glob.as_str()),
            (None, Some(glob)) => Selected::Included(glob.as_str()),
            (None, None) => Selected::NotIncluded,
        }
    }

    /// The include globs as written.
    pub fn include(&self) -> impl Iterator<Item = &str> {
        self.include.iter().map(Pattern::as_str)
    }

    /// The exclude globs as written.
    pub fn exclude(&self) -> impl Iterator<Item = &str> {
        self.exclude.iter().map(Pattern::as_str)
    }
}

/// Compiles a glob; an error comes with the byte of `text` that it is about.
pub(super) fn compile(glob: &str, text: &str, span: Range<usize>) -> Result<Pattern, (usize, String)> {
    Pattern::new(glob).map_err(|e| {
        // The glob's characters are the file's only where the string has no escapes; else its beginning must do.
        let raw = text.get(span.start + 1..).filter(|rest| rest.starts_with(glob));
        let offset = raw.map_or(0, |_| 1 + glob.chars().take(e.pos).map(char::len_utf8).sum::<usize>());
        (span.start + offset, e.msg.to_owned())
    })
}
