//! Names of devices: `dev_valid_name`, `dev_alloc_name` and alternative names.
//!
//! Which names there may be (K2.1), and which one a pattern gives among those that are taken. What is taken is the
//! caller's to say: the mirror of a namespace, and what the kernel refused meanwhile.

use super::failure::{EEXIST, EINVAL, ENFILE, ERANGE, Failure};
use super::links::Link;

/// `IFNAMSIZ` without its end.
const LONGEST: usize = 15;
/// `ALTIFNAMSIZ` without its end.
const LONGEST_ALT: usize = 127;
/// Units of a pattern: eight for each byte of a page.
const UNITS: u32 = 32768;

/// Whether the kernel takes it as a device's name (K2.1(1)). Bytes, not characters: its whitespace is that of Latin-1,
/// which has A0 too, and so refuses some names in UTF-8.
#[must_use]
pub fn dev_valid_name(name: &str) -> bool {
    let refused = |byte: u8| matches!(byte, b'/' | b':' | 0 | 0x09..=0x0d | b' ' | 0xa0);
    (1..=LONGEST).contains(&name.len()) && name != "." && name != ".." && !name.bytes().any(refused)
}

/// A name as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    Literal(&'a str),
    /// What stands before and after the `%d`.
    Pattern(&'a str, &'a str),
}

impl<'a> Wish<'a> {
    /// K2.1(1) and (3).
    pub(super) fn of(name: &'a str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::new(EINVAL, format!("`{}` is no device name: {why}", name.escape_debug()));
        if !dev_valid_name(name) {
            return Err(wrong("it must have 1 to 15 bytes, and no `/`, no `:` and no whitespace"));
        }
        match name.split_once("%d") {
            Some((before, after)) if !before.contains('%') && !after.contains('%') => Ok(Wish::Pattern(before, after)),
            None if !name.contains('%') => Ok(Wish::Literal(name)),
            _ => Err(wrong("a `%` must be the only one, and be followed by `d`")),
        }
    }

    /// The name that it gives where `taken` are: a pattern's lowest free unit (K2.1(4)).
    ///
    /// # Errors
    /// `EEXIST` if it is taken; `ENFILE` if every unit is.
    pub(super) fn resolve<'t>(self, taken: impl Iterator<Item = &'t str> + Clone) -> Result<String, Failure> {
        let name = match self {
            Wish::Literal(name) => name.to_owned(),
            Wish::Pattern(before, after) => with_unit(before, lowest_free(before, after, taken.clone())?, after)?,
        };
        // Of a pattern too: it may have been cut off to a name that exists (K2.1(5)).
        if taken.clone().any(|t| t == name) { Err(taken_already(&name)) } else { Ok(name) }
    }
}

pub(super) fn taken_already(name: &str) -> Failure {
    Failure::new(EEXIST, format!("a device is called `{}` already; choose another name", name.escape_debug()))
}

/// All names in use among these links (K2.1(4): alternative ones count).
pub(super) fn names_of<'a>(links: impl Iterator<Item = &'a Link> + Clone) -> impl Iterator<Item = &'a str> + Clone {
    links.flat_map(|link| std::iter::once(link.name.as_str()).chain(link.alt_names.iter().map(String::as_str)))
}

/// A pattern's name, cut off where the kernel cuts (K2.1(5)).
fn with_unit(before: &str, unit: u32, after: &str) -> Result<String, Failure> {
    let mut name = format!("{before}{unit}{after}");
    if name.len() > LONGEST {
        if !name.is_char_boundary(LONGEST) {
            return Err(Failure::new(
                EINVAL,
                format!("`{name}` cannot be cut off to a device name; choose a shorter one"),
            ));
        }
        name.truncate(LONGEST);
    }
    Ok(name)
}

/// The unit that a name occupies: only if printing it gives the same name again.
fn unit_of(before: &str, after: &str, name: &str) -> Option<u32> {
    let rest = name.strip_prefix(before)?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let unit = rest.get(..digits)?.parse().ok().filter(|unit| *unit < UNITS)?;
    (with_unit(before, unit, after).ok()? == name).then_some(unit)
}

fn lowest_free<'t>(before: &str, after: &str, taken: impl Iterator<Item = &'t str>) -> Result<u32, Failure> {
    let mut used: Vec<u32> = taken.filter_map(|name| unit_of(before, after, name)).collect();
    used.sort_unstable();
    used.dedup();
    let free = (0..UNITS).zip(used.iter().map(Some).chain(std::iter::repeat(None))).find(|(n, used)| *used != Some(n));
    free.map(|(unit, _)| unit)
        .ok_or_else(|| Failure::new(ENFILE, format!("all {UNITS} names of `{before}%d{after}` are taken")))
}

/// Whether it may be an alternative name (K2.1(9)): nearly anything may.
pub(super) fn check_alt_name(name: &str) -> Result<(), Failure> {
    if name.len() > LONGEST_ALT {
        return Err(Failure::new(ERANGE, format!("an alternative name has at most {LONGEST_ALT} bytes")));
    }
    if name.contains('\0') {
        return Err(Failure::new(EINVAL, "an alternative name has no NUL"));
    }
    Ok(())
}
