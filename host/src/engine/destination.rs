//! What a device is called in the namespace where it moves, and which index it has (K2.8).
//!
//! Judged by a list of what the kernel has there now, since the mirror may lag behind: what is refused is refused before
//! the device is closed. What another program takes between the list and the move is tried otherwise, where the caller
//! leaves a choice. The move itself is `relocate.rs`'s.

use super::failure::{EBUSY, EEXIST, Failure};
use super::links::Link;
use super::name::{Wish, names_of, taken_already};
use super::net::Net;

/// Where it goes.
pub(super) struct Destination<'p> {
    /// A new one, where it cannot keep its own.
    pub(super) name: Option<String>,
    /// 0: the kernel's choice.
    pub(super) ifindex: u32,
    pattern: Option<&'p str>,
    /// The index that is wanted; 0: its own if that is free, else any.
    wanted: u32,
    /// Names that were free in a list, and taken when it was moved.
    refused: Vec<String>,
}

impl<'p> Destination<'p> {
    /// K2.8: everything that may be wrong, before anything is done. `links`: those that are there.
    pub(super) fn of(
        link: &Link,
        to: &Net,
        links: &[Link],
        pattern: Option<&'p str>,
        wanted: u32,
    ) -> Result<Self, Failure> {
        let mut there = Destination { name: None, ifindex: 0, pattern, wanted, refused: Vec::new() };
        there.name = there.name_among(link, links)?;
        there.ifindex = there.index_among(link, to, links)?;
        Ok(there)
    }

    fn name_among(&self, link: &Link, links: &[Link]) -> Result<Option<String>, Failure> {
        let taken = names_of(links.iter()).chain(self.refused.iter().map(String::as_str));
        let clashes = |name: &str| taken.clone().any(|taken| taken == name);
        let name = match (clashes(&link.name), self.pattern) {
            (false, _) => None,
            (true, None) => return Err(taken_already(&link.name)),
            // Its own alternative names come along.
            (true, Some(pattern)) => {
                let own = link.alt_names.iter().map(String::as_str);
                Some(Wish::of(pattern)?.resolve(taken.clone().chain(own))?)
            }
        };
        link.alt_names.iter().find(|alt| clashes(alt)).map_or(Ok(name), |alt| Err(taken_already(alt)))
    }

    fn index_among(&self, link: &Link, to: &Net, links: &[Link]) -> Result<u32, Failure> {
        let in_use = |index| links.iter().any(|link| link.ifindex == index);
        match self.wanted {
            // One that nobody has had, so that it is found there by it.
            0 if in_use(link.ifindex) => Ok(1 + links.iter().map(|link| link.ifindex).max().unwrap_or(0)),
            0 => Ok(link.ifindex),
            wanted if in_use(wanted) => {
                Err(Failure::new(EBUSY, format!("index {wanted} is in use in `{}`", to.name())))
            }
            wanted => Ok(wanted),
        }
    }

    /// What it shall be instead, after the kernel has refused the move. `links`: those that are there now.
    ///
    /// # Errors
    /// The refusal itself, where nothing else can be tried; or why nothing else is free.
    pub(super) fn instead(&mut self, link: &Link, links: &[Link], refused: Failure) -> Result<(), Failure> {
        let tried = self.name.as_ref().unwrap_or(&link.name);
        match refused.errno {
            EEXIST if self.pattern.is_some() && names_of(links.iter()).any(|name| name == tried) => {
                self.refused.push(tried.clone());
                self.name = self.name_among(link, links)?;
            }
            // It is found there by its name then.
            EBUSY if self.wanted == 0 && self.ifindex != 0 => self.ifindex = 0,
            _ => return Err(refused),
        }
        Ok(())
    }
}
