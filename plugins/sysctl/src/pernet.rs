//! What happens in each namespace: its settings written at the init, and undone at an exit that undoes.
//!
//! Owns the private area, which the notifier in `netdev` reads too.

use std::sync::{Arc, Mutex};

use pernet_plugin_api::prelude::*;

use crate::config::{Plan, Rule, Wanted};
use crate::setting::Tree;
use crate::written::{Changes, Written, asked_by, lock};

/// The subsystem.
pub(crate) struct Settings {
    pub(crate) plan: Plan,
    pub(crate) tree: Arc<Tree>,
}

/// The private area. Which profiles fit is decided at the init: a namespace that is renamed keeps them.
pub(crate) struct Here {
    pub(crate) rules: Vec<Arc<Rule>>,
    /// One hook runs at a time in a namespace, so nobody ever waits for this.
    pub(crate) written: Mutex<Written>,
}

impl PernetOps for Settings {
    type State = Here;

    fn init(&self, net: &Net<'_>) -> Result<Here> {
        let mut written = Written::take_over(net);
        let rules = self.plan.rules(net.name());
        if rules.is_empty() {
            self.forget_devices(&mut written);
        }
        let wanted = self.plan.wanted(net.name());
        match write_all(&self.tree, &mut written.settings, &wanted) {
            Ok(()) => Ok(Here { rules, written: Mutex::new(written) }),
            Err(e) => {
                // What is left of the record is about devices, and the old generation's again if it comes back.
                written.leave(net);
                Err(e)
            }
        }
    }

    fn exit(&self, net: &Net<'_>, here: &Here, reason: ExitReason) -> Result<()> {
        let written = std::mem::take(&mut *lock(&here.written));
        match reason {
            ExitReason::Replaced => {
                written.leave(net);
                Ok(())
            }
            reason if reason.undoes() => written.undo(&self.tree),
            _ => Ok(()),
        }
    }
}

impl Settings {
    /// The generation before had rules for devices here and this one has none, so no event will tell of them.
    fn forget_devices(&self, written: &mut Written) {
        let devices = Written { devices: std::mem::take(&mut written.devices), ..Written::default() };
        if let Err(e) = devices.undo(&self.tree) {
            tracing::warn!("a device's setting that is no more configured stays: {e}");
        }
    }
}

/// Writes a namespace's settings, all or none.
fn write_all(tree: &Tree, changes: &mut Changes, wanted: &Wanted<'_>) -> Result<()> {
    changes.keep_only(tree, wanted, None);
    for (key, setting) in wanted {
        if let Err(e) = changes.set(tree, key, &setting.value, None) {
            let e = asked_by(&setting.profile, &e);
            return Err(match std::mem::take(changes).undo(tree, None) {
                Ok(()) => e,
                Err(second) => Error::new(e.errno(), format!("{e}; and putting back what was there: {second}")),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::tests::{tree, value};

    fn plan(text: &str) -> Plan {
        Plan::new(&toml::from_str(text).expect("well-formed")).expect("sound")
    }

    #[test]
    fn a_refused_setting_puts_back_the_ones_before_it() {
        let (root, tree) = tree(&[("net/a", "1"), ("net/b", "1")]);
        let plan = plan("[[profile]]\nname='p'\nsettings={'net.a'=2,'net.b'=2,'net.c'=2}");
        let mut changes = Changes::default();
        let failure = write_all(&tree, &mut changes, &plan.wanted("blue")).expect_err("there is no c");
        assert!(failure.message().starts_with("profile `p`: net.c = 2: No such file"), "{failure}");
        assert_eq!((value(&root, "net/a"), value(&root, "net/b")), ("1".to_owned(), "1".to_owned()));
        assert!(changes.is_empty());
    }

    #[test]
    fn a_new_configuration_undoes_what_it_dropped_and_keeps_the_first_old_value() {
        let (root, tree) = tree(&[("net/a", "1"), ("net/b", "1")]);
        let mut changes = Changes::default();
        let old = plan("[[profile]]\nname='p'\nsettings={'net.a'=2,'net.b'=2}");
        write_all(&tree, &mut changes, &old.wanted("blue")).expect("written");
        let new = plan("[[profile]]\nname='p'\nsettings={'net.b'=3}");
        write_all(&tree, &mut changes, &new.wanted("blue")).expect("written");
        assert_eq!((value(&root, "net/a"), value(&root, "net/b")), ("1".to_owned(), "3".to_owned()));
        changes.undo(&tree, None).expect("undone");
        assert_eq!(value(&root, "net/b"), "1");
    }
}
