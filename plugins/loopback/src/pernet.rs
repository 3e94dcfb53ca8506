//! What happens in each namespace: `lo` up at the init, and down at an exit that undoes.
//!
//! Owns the decision whether to undo, and what a generation leaves to the next. How a link is asked and set is `link`.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pernet_plugin_api::prelude::*;

use crate::link::Lo;

/// Namespaces, by cookie and life, whose `lo` a generation brought up before it was replaced. The generation that
/// follows is of the same file, so it finds this; one of another file adopts `lo` as it finds it.
static LEFT_UP: Mutex<BTreeSet<(u64, u32)>> = Mutex::new(BTreeSet::new());

/// The subsystem.
pub(crate) struct Up;

/// What the exit needs to know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// It was up when we came: somebody else's, and left to them.
    Up,
    /// We brought it up.
    Down,
}

impl PernetOps for Up {
    type State = Before;

    fn init(&self, net: &Net<'_>) -> Result<Before> {
        let is_ours = left_up().remove(&life(net));
        let lo = Lo::open()?;
        if lo.is_up()? {
            return Ok(if is_ours { Before::Down } else { Before::Up });
        }
        lo.set_up(true)?;
        Ok(Before::Down)
    }

    fn exit(&self, net: &Net<'_>, before: &Before, reason: ExitReason) -> Result<()> {
        if reason == ExitReason::Replaced && *before == Before::Down {
            left_up().insert(life(net));
        }
        if !undoes(before, reason) {
            return Ok(());
        }
        let lo = Lo::open()?;
        if lo.is_up()? {
            lo.set_up(false)?;
        }
        Ok(())
    }
}

fn life(net: &Net<'_>) -> (u64, u32) {
    (net.cookie().0, net.generation())
}

/// A set is sound whatever happened to the thread that had it.
fn left_up() -> MutexGuard<'static, BTreeSet<(u64, u32)>> {
    LEFT_UP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Only what we did, and only where the plugin's effect shall end.
fn undoes(before: &Before, reason: ExitReason) -> bool {
    *before == Before::Down && reason.undoes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_effect_is_undone_and_only_on_removal_or_rollback() {
        use ExitReason::{Died, Removed, Replaced, RolledBack, Stopped};
        for reason in [Died, Removed, Replaced, RolledBack, Stopped] {
            assert!(!undoes(&Before::Up, reason), "{reason:?}");
            assert_eq!(undoes(&Before::Down, reason), matches!(reason, Removed | RolledBack), "{reason:?}");
        }
    }
}
