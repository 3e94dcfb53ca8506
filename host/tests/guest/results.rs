//! What the tests of a boot said, parsed: a theme's section ends with the test binary's exit status.

use std::collections::HashMap;

/// One theme of a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    pub tests: Vec<(String, Outcome)>,
    /// The binary's exit status; `None` where the boot ended before it.
    pub status: Option<i32>,
    /// All that it said.
    pub text: String,
}

/// How a test came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    /// And why.
    Ignored(String),
}

impl Section {
    /// Whether everything that ran passed, and anything ran.
    pub fn passed(&self) -> bool {
        self.status == Some(0) && !self.tests.is_empty() && self.failed().next().is_none()
    }

    pub fn failed(&self) -> impl Iterator<Item = &str> {
        self.tests.iter().filter(|(_, outcome)| *outcome == Outcome::Failed).map(|(name, _)| name.as_str())
    }

    pub fn ignored(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tests.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Ignored(why) => Some((name.as_str(), why.as_str())),
            _ => None,
        })
    }
}

/// The sections by theme.
pub fn sections(text: &str) -> HashMap<String, Section> {
    let mut all: HashMap<String, Section> = HashMap::new();
    let mut reasons: HashMap<&str, &str> = HashMap::new();
    let mut current: Option<&str> = None;
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        if let Some(name) = line.strip_prefix("== begin ") {
            all.insert(name.to_owned(), Section::default());
            (current, reasons) = (Some(name), HashMap::new());
            continue;
        }
        let Some(section) = current.and_then(|name| all.get_mut(name)) else { continue };
        if let Some(end) = line.strip_prefix("== end ") {
            section.status = end.split(' ').nth(1).and_then(|status| status.parse().ok());
            current = None;
            continue;
        }
        section.text += &format!("{line}\n");
        if let Some((name, why)) = line.strip_prefix("ignored: ").and_then(|rest| rest.rsplit_once(" -- ")) {
            reasons.insert(name, why);
        }
        section.tests.extend(test(line, &reasons));
    }
    all
}

/// `test NAME ... ok`
fn test(line: &str, reasons: &HashMap<&str, &str>) -> Option<(String, Outcome)> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let name = name.trim_end();
    let outcome = match outcome {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Ignored((*reasons.get(name).unwrap_or(&"no reason was given")).to_owned()),
        _ => return None,
    };
    Some((name.to_owned(), outcome))
}

/// Tried before anything is booted: a parser that finds no failure would make every boot a success.
pub fn parser_tells_them_apart() {
    let text = "noise\r\n== begin links\r\nignored: b: c -- no tun\r\ntest a  ... ok\r\ntest b: c ... ignored\r\n\
                test d ... FAILED\r\nthread panicked\r\n== end links 101 at 3.5\r\n== begin cut\ntest e ... ok\n";
    let sections = sections(text);
    let (links, cut) = (&sections["links"], &sections["cut"]);
    assert_eq!(links.ignored().collect::<Vec<_>>(), [("b: c", "no tun")]);
    assert_eq!((links.failed().collect::<Vec<_>>(), links.status, links.passed()), (vec!["d"], Some(101), false));
    assert!(links.text.contains("thread panicked"));
    assert_eq!((cut.tests.len(), cut.status, cut.passed()), (1, None, false));
    let passed = Section { status: Some(0), tests: vec![("a".into(), Outcome::Passed)], text: String::new() };
    assert!(passed.passed() && !Section { tests: Vec::new(), ..passed }.passed());
}
