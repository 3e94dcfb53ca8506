//! What a plugin's init registered, carried out: what is there once first, then its hooks in every namespace.
//!
//! A file system type or a protocol family is there once, for the whole daemon. It comes before the plugin's hooks run
//! anywhere, so that an init may use it, and goes after its last exit. The undo is the exact reverse.

use std::sync::Arc;

use pernet_plugin_api::ExitReason;

use crate::engine::{self, WriteToken};

use super::filesystems;
use super::namespaces::complain;
use super::plugins::{Live, Trouble};
use super::reload::Shared;

/// Registers everything, or leaves nothing registered.
pub(super) fn enlist(shared: &Shared, write: &WriteToken, live: &Live) -> Result<(), Trouble> {
    filesystems::announce(shared, live)?;
    if let Err(trouble) = register_families(shared, live) {
        filesystems::withdraw(shared, live);
        return Err(trouble);
    }
    engine::register(write, live.member(), &shared.nets()).map_err(|errors| {
        unregister_families(shared, live);
        filesystems::withdraw(shared, live);
        errors.first().map_or_else(|| Trouble::new("pernet.init", "failed without saying why"), Trouble::from)
    })
}

/// Takes everything back that is registered.
pub(super) fn delist(shared: &Shared, write: &WriteToken, live: &Live, reason: ExitReason) {
    filesystems::end_mounts(shared, live);
    let name: &Arc<str> = live.instance.name();
    let (_, errors) = engine::unregister(write, name, &shared.nets(), reason);
    complain(&errors);
    unregister_families(shared, live);
    filesystems::withdraw(shared, live);
}

fn register_families(shared: &Shared, live: &Live) -> Result<(), Trouble> {
    for (name, ops) in live.instance.families() {
        if let Err(failure) = engine::sock_register(&shared.sockets.families, &live.owner, name, ops) {
            unregister_families(shared, live);
            return Err(Trouble::new("sock.register", failure));
        }
        tracing::info!(
            plugin = %live.owner.name,
            generation = live.generation,
            "registered protocol family {name}"
        );
    }
    Ok(())
}

/// Those that are registered and its own, newest first.
fn unregister_families(shared: &Shared, live: &Live) {
    let names: Vec<&str> = live.instance.families().map(|(name, _)| name).collect();
    for name in names.into_iter().rev() {
        // Not registered, or somebody else's: where its registration failed.
        let _ = engine::sock_unregister(&shared.sockets.families, &live.owner, name);
    }
}
