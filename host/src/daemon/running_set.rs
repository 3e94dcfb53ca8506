//! The instances that exist, on their way from one set to another: the walk that a reload, and its way back, is.
//!
//! Works under the write token and calls hooks. What the sets are, and what is told of the walk, is `reload.rs`.

use std::collections::HashSet;
use std::sync::Arc;

use pernet_plugin_api::ExitReason;

use crate::engine::{self, WriteToken};

use super::enlist::{delist, enlist};
use super::plugins::{Entry, Live, Trouble};
use super::prepared::Prepared;
use super::reload::{Shared, destroy, register_new};

/// A plugin that could not be put up, and why.
pub(super) type Failed = (Prepared, Trouble);

/// One instance while the set is rearranged.
pub(super) struct Running {
    pub(super) live: Live,
    /// False while it steps aside for one that it requires.
    pub(super) registered: bool,
}

/// The instances that exist, in registration order, on their way from one set to another. The way back after an
/// error is the same walk towards the old set, so there is no second undo to keep in step.
pub(super) struct RunningSet<'a> {
    pub(super) shared: &'a Shared,
    pub(super) write: &'a WriteToken,
    pub(super) running: Vec<Running>,
}

impl RunningSet<'_> {
    /// Brings the set to `target`: what does not belong exits newest first, then what is missing is made and
    /// registered in order. What may not fail and does ends the walk where it stands; what may is returned.
    pub(super) fn arrange(
        &mut self,
        target: &[Prepared],
        reason: ExitReason,
        may_fail: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Failed>, Box<Failed>> {
        self.take_down(target, reason);
        let places: Vec<(Arc<str>, usize)> =
            target.iter().enumerate().map(|(place, p)| (p.config.name.as_str().into(), place)).collect();
        engine::renumber(self.write, &places);
        let mut failures: Vec<Failed> = Vec::new();
        for (place, prepared) in target.iter().enumerate() {
            let missing = failures.iter().find(|(failed, _)| prepared.requires.contains(&failed.config.name));
            let result = match missing {
                Some((failed, why)) => Err(Trouble::required(&failed.config.name, why)),
                None => self.put_up(prepared, place),
            };
            match result {
                Ok(()) => {}
                Err(trouble) if may_fail(&prepared.config.name) => failures.push((prepared.clone(), trouble)),
                Err(trouble) => return Err(Box::new((prepared.clone(), trouble))),
            }
        }
        self.running.sort_by_key(|r| target.iter().position(|p| p.config.name == r.live.prepared.config.name));
        Ok(failures)
    }

    /// Takes down what is not in `target` as it stands, newest first; what requires such a one only steps aside.
    fn take_down(&mut self, target: &[Prepared], reason: ExitReason) {
        // One that panicked is done for, wanted or not: a fresh instance takes its place.
        let stays = |live: &Live| !live.instance.poisoned() && target.iter().any(|p| live.prepared.same_as(p));
        let comes = |p: &&Prepared| !self.running.iter().any(|r| r.live.prepared.same_as(p));
        let leaving = self.running.iter().filter(|r| !stays(&r.live)).map(|r| &r.live.prepared);
        let changing: HashSet<String> =
            leaving.chain(target.iter().filter(comes)).map(|p| p.config.name.clone()).collect();
        let aside: HashSet<Arc<str>> = changing.iter().flat_map(|n| self.shared.list.dependents(n)).collect();
        for mut it in std::mem::take(&mut self.running).into_iter().rev() {
            let name = it.live.prepared.config.name.clone();
            let stays = stays(&it.live);
            if stays && !aside.contains(name.as_str()) {
                self.running.push(it);
                continue;
            }
            let follows = stays || target.iter().any(|p| p.config.name == name);
            let reason = if reason == ExitReason::Replaced && !follows { ExitReason::Removed } else { reason };
            if std::mem::take(&mut it.registered) {
                delist(self.shared, self.write, &it.live, reason);
            }
            if stays { self.running.push(it) } else { destroy(self.shared, it.live) }
        }
        self.running.reverse();
    }

    /// Makes sure that one plugin of the target runs, at its place. One that stepped aside and cannot come back is ended:
    /// nothing of it is registered, and whoever wants it again makes a fresh instance.
    fn put_up(&mut self, prepared: &Prepared, place: usize) -> Result<(), Trouble> {
        let Some(at) = self.running.iter().position(|r| r.live.prepared.same_as(prepared)) else {
            let live = register_new(self.shared, self.write, prepared, place)?;
            self.running.push(Running { live, registered: true });
            return Ok(());
        };
        if self.running[at].registered {
            return Ok(());
        }
        if let Err(trouble) = enlist(self.shared, self.write, &self.running[at].live) {
            destroy(self.shared, self.running.remove(at).live);
            return Err(trouble);
        }
        self.running[at].registered = true;
        Ok(())
    }

    /// The rows to show: what runs and what failed, in the order of `target`.
    pub(super) fn entries(self, target: &[Prepared], failures: Vec<Failed>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.running.into_iter().map(|r| Entry::Live(r.live)).collect();
        entries.extend(failures.into_iter().map(|(prepared, trouble)| Entry::Failed(prepared, trouble)));
        entries.sort_by_key(|e| target.iter().position(|p| p.config.name == e.name()));
        entries
    }
}
