//! Which namespaces and devices a profile is for: globs, any exclude before any include.

use glob::Pattern;
use pernet_plugin_api::ConfigError;

/// Two lists of globs.
#[derive(Debug)]
pub(crate) struct Select {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Select {
    /// Compiles the globs; a bad one is refused by its place below `field`.
    pub(crate) fn new(include: &[String], exclude: &[String], field: &str) -> Result<Self, ConfigError> {
        Ok(Select {
            include: compiled(include, &format!("{field}.include"))?,
            exclude: compiled(exclude, &format!("{field}.exclude"))?,
        })
    }

    /// Whether a namespace is meant. The host's own, `@host`, is never meant by accident: only a glob that begins with
    /// `@` matches it.
    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        let matches = |glob: &Pattern| glob.as_str().starts_with('@') == name.starts_with('@') && glob.matches(name);
        !self.exclude.iter().any(matches) && self.include.iter().any(matches)
    }

    /// Whether a device is meant.
    pub(crate) fn has_device(&self, name: &str) -> bool {
        let matches = |glob: &Pattern| glob.matches(name);
        !self.exclude.iter().any(matches) && self.include.iter().any(matches)
    }
}

fn compiled(globs: &[String], field: &str) -> Result<Vec<Pattern>, ConfigError> {
    let compile = |(at, glob): (usize, &String)| {
        Pattern::new(glob)
            .map_err(|e| ConfigError::at(format!("{field}[{at}]"), format!("bad glob `{glob}`: {}", e.msg)))
    };
    globs.iter().enumerate().map(compile).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(include: &[&str], exclude: &[&str]) -> Select {
        let owned = |globs: &[&str]| globs.iter().map(ToString::to_string).collect::<Vec<_>>();
        Select::new(&owned(include), &owned(exclude), "profile[0]").expect("good globs")
    }

    #[test]
    fn any_exclude_wins() {
        let some = select(&["*"], &["lab-*"]);
        assert!(some.has_namespace("blue") && some.has_namespace("/run/docker/netns/x"));
        assert!(!some.has_namespace("lab-1"));
        assert!(!select(&[], &[]).has_namespace("blue"));
    }

    #[test]
    fn the_host_must_be_named() {
        assert!(!select(&["*"], &[]).has_namespace("@host"));
        assert!(select(&["@host"], &["*"]).has_namespace("@host"));
        assert!(!select(&["@*"], &["@h*"]).has_namespace("@host"));
    }

    #[test]
    fn a_bad_glob_is_refused_by_its_place() {
        let refusal = Select::new(&[], &["ok".into(), "a[".into()], "profile[0]").expect_err("bad");
        assert_eq!(refusal.field(), "profile[0].exclude[1]");
    }
}
