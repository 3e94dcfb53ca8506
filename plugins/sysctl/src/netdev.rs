//! What happens to each device: its settings written when it is there, appears, or is renamed.
//!
//! Owns the device part of the private area. Undoing at the end is the subsystem's exit, which knows the reason.

use std::sync::Arc;

use pernet_plugin_api::prelude::*;

use crate::config::{Rule, wanted_by};
use crate::pernet::Here;
use crate::setting::Tree;
use crate::written::{Written, asked_by, lock};

/// The notifier.
pub(crate) struct Devices {
    pub(crate) id: PernetId<Here>,
    pub(crate) tree: Arc<Tree>,
}

impl Notifier for Devices {
    fn event(&self, net: &Net<'_>, event: &Event<'_>) -> Result<Verdict> {
        let Some(here) = net.private(&self.id) else { return Ok(Verdict::Done) };
        let mut written = lock(&here.written);
        let device = &event.device;
        match event.kind {
            EventKind::Register | EventKind::ChangeName => {
                is_there(&self.tree, &mut written, &here.rules, device.serial, device.name)?;
            }
            // In a replay the device stays: the exit that follows decides what becomes of its settings.
            EventKind::Unregister if !event.replay => drop(written.devices.remove(&device.serial)),
            _ => return Ok(Verdict::Done),
        }
        Ok(Verdict::Ok)
    }
}

/// Gives a device what the rules want for its name. What they wanted for an earlier name only is undone. A setting that
/// is refused keeps none of the others from being written; the first refusal is told.
fn is_there(tree: &Tree, written: &mut Written, rules: &[Arc<Rule>], serial: u64, name: &str) -> Result<()> {
    let mut device = written.devices.remove(&serial).unwrap_or_default();
    name.clone_into(&mut device.name);
    let wanted = wanted_by(rules, name);
    device.settings.keep_only(tree, &wanted, Some(name));
    let mut first = Ok(());
    for (key, setting) in wanted {
        match device.settings.set(tree, key, &setting.value, Some(name)) {
            Err(_) if tree.lacks_device(key, name) => {
                tracing::debug!(device = name, "{key}: the device has no such key")
            }
            Err(e) if first.is_ok() => first = Err(asked_by(&setting.profile, &e)),
            _ => {}
        }
    }
    if !device.settings.is_empty() {
        written.devices.insert(serial, device);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Plan;
    use crate::setting::tests::{tree, value};

    const RULES: &str = r#"
        [[profile]]
        name = "p"
        device = [
            { include = ["eth*"], settings = { "net.conf.<dev>.a" = 2, "net.conf.<dev>.b" = 2 } },
            { include = ["lan*"], settings = { "net.conf.<dev>.b" = 3 } },
        ]
    "#;

    fn rules() -> Vec<Arc<Rule>> {
        Plan::new(&toml::from_str(RULES).expect("well-formed")).expect("sound").rules("blue")
    }

    #[test]
    fn a_device_has_what_its_name_asks_for_and_is_undone_by_its_last_name() {
        let (root, tree) = tree(&[("net/conf/eth0/a", "1"), ("net/conf/eth0/b", "1")]);
        let (mut written, rules) = (Written::default(), rules());
        is_there(&tree, &mut written, &rules, 5, "eth0").expect("written");
        assert_eq!((value(&root, "net/conf/eth0/a"), value(&root, "net/conf/eth0/b")), ("2".into(), "2".into()));
        std::fs::rename(root.path().join("net/conf/eth0"), root.path().join("net/conf/lan0")).expect("renamed");
        is_there(&tree, &mut written, &rules, 5, "lan0").expect("written");
        assert_eq!((value(&root, "net/conf/lan0/a"), value(&root, "net/conf/lan0/b")), ("1".into(), "3".into()));
        written.undo(&tree).expect("undone");
        assert_eq!(value(&root, "net/conf/lan0/b"), "1");
    }

    #[test]
    fn a_device_that_went_is_no_failure_and_a_wrong_key_is() {
        let (_root, tree) = tree(&[("net/conf/eth0/a", "1")]);
        let (mut written, rules) = (Written::default(), rules());
        is_there(&tree, &mut written, &rules, 6, "eth1").expect("it is gone already");
        assert_eq!(written, Written::default());
        let refusal = is_there(&tree, &mut written, &rules, 5, "eth0").expect_err("there is no b");
        assert!(refusal.message().starts_with("profile `p`: net.conf.eth0.b = 2: No such file"), "{refusal}");
        assert_eq!(written.devices.len(), 1, "a was written all the same");
    }
}
