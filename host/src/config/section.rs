//! The strict pass over one file: every key known, every value of its type, every error with its place.
//!
//! It walks the parsed document rather than deserialising it, because serde stops at the first error and an operator
//! wants to see all of them. A [`Section`] hands out the values that are there and remembers which keys it was asked
//! for; whatever else the table holds is unknown. The merge of the layers comes after this and can trust the values.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::source::{ConfigError, Source};

/// The errors of one file, as they are found.
#[derive(Debug)]
pub(super) struct Strict<'s> {
    /// The file.
    pub(super) source: &'s Source,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'s> Strict<'s> {
    /// A pass over a file.
    pub(super) fn new(source: &'s Source) -> Strict<'s> {
        Strict { source, errors: RefCell::default() }
    }

    /// The document; a syntax error ends the pass, since what follows it is guesswork.
    pub(super) fn parse(&self) -> Option<DeTable<'s>> {
        match DeTable::parse(self.source.text()) {
            Ok(table) => Some(table.into_inner()),
            Err(e) => {
                let at = e.span().map_or(0, |s| s.start);
                let message = format!("not valid TOML: {}", e.message().replace('\n', " "));
                self.refuse(at, message, "correct the line");
                None
            }
        }
    }

    /// Notes an error at a byte.
    pub(super) fn refuse(&self, byte: usize, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.borrow_mut().push(self.source.error(byte, message, hint));
    }

    /// All that was wrong, in the order of the file.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|e| e.position);
        errors
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    /// The value.
    pub(super) value: T,
    /// Its bytes in the file.
    pub(super) span: Range<usize>,
}

/// One table of a file.
#[derive(Debug)]
pub(super) struct Section<'a, 's> {
    strict: &'a Strict<'s>,
    table: &'a DeTable<'s>,
    /// `discovery.` for the keys of `[discovery]`; empty at the top.
    prefix: &'static str,
    known: Vec<&'static str>,
}

impl<'a, 's> Section<'a, 's> {
    /// The table at the top of a file.
    pub(super) fn top(strict: &'a Strict<'s>, table: &'a DeTable<'s>) -> Section<'a, 's> {
        Section { strict, table, prefix: "", known: Vec::new() }
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'s>>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// A value of one type. `example` is what to write instead of a wrong one.
    fn take<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        example: &str,
        read: impl FnOnce(&'a DeValue<'s>) -> Option<T>,
    ) -> Option<At<T>> {
        let found = self.get(key)?;
        match read(found.get_ref()) {
            Some(value) => Some(At { value, span: found.span() }),
            None => {
                let message = format!("{}{key} is {}, not {expected}", self.prefix, describe(found.get_ref()));
                self.strict.refuse(found.span().start, message, format!("write for example {key} = {example}"));
                None
            }
        }
    }

    /// An integer within bounds.
    pub(super) fn integer(&mut self, key: &'static str, bounds: Range<i64>, example: &str) -> Option<i64> {
        let found = self.take(key, "an integer", example, as_integer)?;
        if bounds.contains(&found.value) {
            return Some(found.value);
        }
        let message = format!("{}{key} is {}", self.prefix, found.value);
        let hint = format!("write a number from {} to {}", bounds.start, bounds.end - 1);
        self.strict.refuse(found.span.start, message, hint);
        None
    }

    /// A boolean.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        Some(self.take(key, "a boolean", "true", DeValue::as_bool)?.value)
    }

    /// A string.
    pub(super) fn string(&mut self, key: &'static str, example: &str) -> Option<At<&'a str>> {
        self.take(key, "a string", example, DeValue::as_str)
    }

    /// One word of a few.
    pub(super) fn word(&mut self, key: &'static str, words: &[&str]) -> Option<&'a str> {
        let found = self.string(key, &format!("{:?}", words[0]))?;
        if words.contains(&found.value) {
            return Some(found.value);
        }
        let message = format!("{}{key} is {:?}", self.prefix, found.value);
        self.strict.refuse(found.span.start, message, format!("write one of {}", list(words)));
        None
    }

    /// A list of strings.
    pub(super) fn strings(&mut self, key: &'static str, example: &str) -> Option<Vec<At<&'a str>>> {
        let array: &'a DeArray<'s> = self.take(key, "a list", example, DeValue::as_array)?.value;
        let mut strings = Vec::with_capacity(array.len());
        for item in array.iter() {
            match item.get_ref().as_str() {
                Some(value) => strings.push(At { value, span: item.span() }),
                None => {
                    let message = format!("{}{key} has {} in it", self.prefix, describe(item.get_ref()));
                    self.strict.refuse(item.span().start, message, format!("write strings, as in {key} = {example}"));
                }
            }
        }
        Some(strings)
    }

    /// A table within this one, of known keys; `prefix` is how its keys are called.
    pub(super) fn section(&mut self, key: &'static str, prefix: &'static str) -> Option<Section<'a, 's>> {
        let table = self.table(key)?.value;
        Some(Section { strict: self.strict, table, prefix, known: Vec::new() })
    }

    /// A table within this one, of any keys.
    pub(super) fn table(&mut self, key: &'static str) -> Option<At<&'a DeTable<'s>>> {
        self.take(key, "a table", "{ … }, or a line with its name in brackets", DeValue::as_table)
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys().filter(|k| !self.known.contains(&k.get_ref().as_ref())) {
            let message = format!("unknown key {:?}", format!("{}{}", self.prefix, key.get_ref()));
            self.strict.refuse(key.span().start, message, suggest(key.get_ref(), &self.known));
        }
    }
}

/// `a "b" or "c"`-like lists are harder to read than plain ones.
fn list(words: &[&str]) -> String {
    words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", ")
}

/// What to write instead of an unknown word.
pub(super) fn suggest(unknown: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|k| (strsim::jaro_winkler(unknown, k), k))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let known = known.join(", ");
    match near {
        Some((_, near)) => format!("did you mean {near:?}? known here: {known}"),
        None => format!("known here: {known}"),
    }
}

/// What was found in place of what was expected.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("the string {s:?}"),
        DeValue::Integer(i) => format!("the integer {}", i.as_str()),
        DeValue::Float(x) => format!("the number {}", x.as_str()),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The integer, if it is one that fits.
pub(super) fn as_integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
