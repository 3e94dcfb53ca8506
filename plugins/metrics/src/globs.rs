//! Globs of names, some of them with a `!` in front: what such a one matches is left out.

use glob::Pattern;

/// Any that leaves out wins, else any that takes in.
#[derive(Debug, Clone)]
pub(crate) struct Globs {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    /// `*` and nothing else, as it mostly is.
    all: bool,
}

impl Globs {
    /// What is wrong is told with its place in the list.
    pub(crate) fn new(globs: &[String]) -> Result<Self, (usize, String)> {
        let (mut include, mut exclude) = (Vec::new(), Vec::new());
        for (at, glob) in globs.iter().enumerate() {
            let (list, text) = match glob.strip_prefix('!') {
                Some(rest) => (&mut exclude, rest),
                None => (&mut include, glob.as_str()),
            };
            if text.is_empty() {
                return Err((at, "an empty glob matches nothing".to_owned()));
            }
            list.push(Pattern::new(text).map_err(|e| (at, format!("`{text}` is no glob: {e}")))?);
        }
        if include.is_empty() && !exclude.is_empty() {
            let what =
                format!("`{}` only leaves out, so nothing at all would be taken in: put \"*\" before it", globs[0]);
            return Err((0, what));
        }
        let all = exclude.is_empty() && include.iter().any(|glob| glob.as_str() == "*");
        Ok(Globs { include, exclude, all })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        let any = |globs: &[Pattern]| globs.iter().any(|glob| glob.matches(name));
        self.all || (any(&self.include) && !any(&self.exclude))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(list: &[&str]) -> Result<Globs, (usize, String)> {
        Globs::new(&list.iter().map(|&glob| glob.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_leaves_out_wins() {
        let some = globs(&["*", "!veth*"]).expect("well-formed");
        assert!(some.has("eth0") && !some.has("veth0"));
        assert!(globs(&["*"]).expect("well-formed").has("anything"));
        assert_eq!(globs(&["!a", "!b"]).expect_err("nothing is taken in").0, 0);
        assert!(!globs(&[]).expect("well-formed").has("a"), "no device at all may be meant");
        assert_eq!(globs(&["a", "b["]).expect_err("no glob").0, 1);
        assert_eq!(globs(&["!"]).expect_err("empty").0, 0);
    }
}
