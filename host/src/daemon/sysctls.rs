//! The sysctls of pernetd and its plugins: where they are registered, and what `sysctl.d` says of them.
//!
//! Mirrors `net_sysctl_init`: the host's own set of tables is there before any namespace is. A table gets the values
//! that `sysctl.d` has for it while it is registered, before anybody can read it, so that a line counts whether its
//! plugin is there yet or comes later. A change of the lines, or of a namespace's names, is carried out where it makes a
//! difference; what was set by hand stays otherwise. What a table is, is the engine's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::bounded;
use pernet_plugin_api::NetCookie;

use crate::config::{self, Sysctls};
use crate::engine::{self, CtlHeader, CtlNode, CtlSet, CtlTable, Failure, HOST, Net};
use crate::logging::catalog;
use crate::plugin::InstanceRef;

use super::services::{Services, gone};

/// Whose directory it is in the host's set.
pub(super) const OWN: &str = "pernetd";

/// The root of the sysctls.
pub(super) struct NetSysctl {
    /// The host's own namespace has these.
    pub(super) init_net: Arc<CtlSet>,
    lines: RwLock<Arc<Sysctls>>,
    /// From `net_sysctl_init` on: before it, and where it is not called, nobody registers anything.
    is_open: AtomicBool,
}

/// The names of a namespace, by which lines are chosen.
struct Named {
    names: Vec<Arc<str>>,
    is_host: bool,
}

impl Named {
    fn of(net: &Net) -> Named {
        Named { names: net.names(), is_host: net.is_host }
    }

    fn init_net() -> Named {
        Named { names: vec![HOST.into()], is_host: true }
    }
}

impl NetSysctl {
    /// Without any table, and closed.
    pub(super) fn new(lines: &Sysctls) -> Arc<Self> {
        let lines = RwLock::new(Arc::new(lines.clone()));
        Arc::new(NetSysctl { init_net: Arc::default(), lines, is_open: AtomicBool::new(false) })
    }

    /// From here on tables can be registered; or no more.
    pub(super) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    pub(super) fn check_open(&self) -> Result<(), Failure> {
        let closed = || Failure::new(libc::ENODEV, "there are no sysctls: the initcall net_sysctl_init has not run");
        if self.is_open.load(Ordering::Relaxed) { Ok(()) } else { Err(closed()) }
    }

    fn lines(&self) -> Arc<Sysctls> {
        Arc::clone(&self.lines.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has these lines count from here on, for tables that are registered then; those before.
    pub(super) fn replace(&self, lines: Arc<Sysctls>) -> Arc<Sysctls> {
        std::mem::replace(&mut *self.lines.write().unwrap_or_else(PoisonError::into_inner), lines)
    }

    /// Whether a line has something to say of one of the daemon's own.
    pub(super) fn says(&self, name: &str) -> bool {
        let host = Named::init_net();
        self.lines().counting(&host.names, host.is_host, &format!("{OWN}/{name}")).is_some()
    }

    /// Registers a table of the daemon's own in the host's namespace.
    pub(super) fn register(&self, path: &str, table: CtlTable) -> Result<Arc<CtlHeader>, Failure> {
        self.check_open()?;
        self.init_net.register(path, table, |header| self.first_values(&Named::init_net(), header))
    }

    /// Gives a table that is being registered the values that the lines have for it.
    fn first_values(&self, named: &Named, header: &Arc<CtlHeader>) {
        let lines = self.lines();
        for node in CtlNode::all_of(header) {
            if let Some(line) = lines.counting(&named.names, named.is_host, &node.path()) {
                set(&node, line, named);
            }
        }
    }

    /// Carries out what the lines say now of tables that are there, and said not before. Handlers are called for it: on a
    /// thread of its own, which is waited for only so long, or one that hangs would hold up all that comes after.
    pub(super) fn changed(self: &Arc<Self>, nets: Vec<Arc<Net>>, before: Arc<Sysctls>, patience: Duration) {
        if self.lines() == before {
            return;
        }
        let (me, (done, is_done)) = (Arc::clone(self), bounded(1));
        let carry_out = move || {
            for net in nets {
                // Asked for each time: while a handler hung, another reload may have brought others.
                let (lines, named) = (me.lines(), Named::of(&net));
                set_where_different(&net, (&before, &named), (&lines, &named));
            }
            let _ = done.send(());
        };
        match std::thread::Builder::new().name("sysctl.d".into()).spawn(carry_out) {
            Ok(_) if is_done.recv_timeout(patience).is_err() => {
                tracing::warn!(
                    message_id = catalog::SYSCTL_REFUSED,
                    "a handler does not return ({patience:?}): not all of sysctl.d's changes are carried out yet"
                );
            }
            Ok(_) => {}
            Err(e) => {
                tracing::error!(
                    message_id = catalog::THREADS_EXHAUSTED,
                    errno = e.raw_os_error(),
                    "sysctl.d's changes are not carried out: cannot start a thread: {e}; reload again"
                );
            }
        }
    }

    /// The same for a namespace that had these names before.
    pub(super) fn renamed(&self, net: &Net, names: Vec<Arc<str>>) {
        let (before, now) = (Named { names, is_host: net.is_host }, Named::of(net));
        let lines = self.lines();
        set_where_different(net, (&lines, &before), (&lines, &now));
    }
}

/// Sets what another value is asked for than was.
fn set_where_different(net: &Net, before: (&Sysctls, &Named), now: (&Sysctls, &Named)) {
    let nodes = net.sysctl().below("");
    for node in nodes {
        let path = node.path();
        let asked = |(lines, named): (&Sysctls, &Named)| {
            lines.counting(&named.names, named.is_host, &path).map(|(_, value, _)| value.to_owned())
        };
        let Some(line) = now.0.counting(&now.1.names, now.1.is_host, &path) else { continue };
        if asked(before).as_deref() != Some(line.1) {
            set(&node, line, now.1);
        }
    }
}

/// Writes what a line asks for; a refusal is logged, and the value stays.
fn set(node: &CtlNode, (line, value, quietly): (&config::SysctlLine, &str, bool), named: &Named) {
    let (place, netns) = (line.place(), named.names.first().cloned().unwrap_or_default());
    let (key, plugin) = (config::dotted(&node.path()), node.header().plugin());
    match node.set(format!("{value}\n").as_bytes()) {
        Ok(_) => tracing::debug!(%netns, plugin, "{place}: {key} = {value}"),
        Err(failure) if quietly => {
            tracing::debug!(%netns, plugin, "{place}: {key} = {value}: {failure}; it stays as it was")
        }
        Err(failure) => tracing::warn!(
            message_id = catalog::SYSCTL_REFUSED,
            %netns,
            plugin,
            errno = failure.errno,
            config_file = %line.file.display(),
            config_line = line.position.line,
            "{place}: {key} = {value}: {failure}; it stays as it was"
        ),
    }
}

impl Services {
    pub(super) fn register_table(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        path: &str,
        table: CtlTable,
    ) -> Result<u64, Failure> {
        self.sysctls.check_open()?;
        let (owner, net) = (self.owners.get(instance)?, self.net(cookie)?);
        if config::is_kernels(path) || path.split('/').next() == Some(OWN) {
            let what =
                format!("sysctl path `{}`: its first directory is not for plugins; take another", path.escape_debug());
            return Err(Failure::new(libc::EINVAL, what));
        }
        let named = Named::of(&net);
        let before = |header: &Arc<CtlHeader>| self.sysctls.first_values(&named, header);
        Ok(engine::register_net_sysctl(&net, &owner, path, table, before)?.id)
    }

    pub(super) fn unregister_table(&self, instance: &InstanceRef, cookie: u64, number: u64) -> Result<(), Failure> {
        let owner = self.owners.get(instance)?;
        let missing = || Failure::new(libc::ENOENT, "this sysctl table is not registered (any more)");
        let net = self.places.get(NetCookie(cookie)).ok_or_else(missing)?;
        let header = net.sysctl().find(number, &owner).ok_or_else(missing)?;
        let patience = self.list.upgrade().ok_or_else(gone)?.unregister_timeout();
        net.sysctl().unregister(&header, patience)
    }
}
