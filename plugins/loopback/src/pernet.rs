//! What happens in each namespace: `lo` up at the init, and down at an exit that undoes.
//!
//! Owns the decision whether to undo. How a link is asked and set is in `link`.

use pernet_plugin_api::prelude::*;

use crate::link::Lo;

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

    fn init(&self, _net: &Net<'_>) -> Result<Before> {
        let lo = Lo::open()?;
        if lo.is_up()? {
            return Ok(Before::Up);
        }
        lo.set_up(true)?;
        Ok(Before::Down)
    }

    fn exit(&self, _net: &Net<'_>, before: &Before, reason: ExitReason) -> Result<()> {
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
