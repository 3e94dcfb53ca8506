//! Namespaces that a client is about to name: `netns add` sends the descriptor first and binds the name last.
//!
//! The connection is the lease. Until discovery sees the mount, the intended name counts as a name; if the client goes
//! before, the daemon looks for it once more, then undoes and lets go.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pernet_plugin_api::{ExitReason, NetCookie};

use crate::control::wire::Netns;
use crate::control::{ControlError, ErrorKind, LeaseId, NetnsAdd, Reply};
use crate::engine::{NetChange, NetState, Observation};
use crate::linux::ns::{self, Pin};

use super::{Daemon, Event, Phase};

/// One `netns add` under way.
pub(super) struct Lease {
    path: PathBuf,
    /// Known once the descriptor has been identified.
    cookie: Option<NetCookie>,
    /// Waits for the inits.
    inits: Option<Reply<Netns>>,
    /// Waits for the mount.
    seen: Option<Reply<Netns>>,
}

impl Daemon {
    pub(super) fn netns_add(&mut self, add: NetnsAdd) {
        if self.phase == Phase::Stopping {
            return add.inits.send(Err(ControlError::stopping()));
        }
        let place = || format!("namespace {}", add.name);
        if self.leases.values().any(|l| l.path == add.path) || self.names.shows(&add.path) {
            let error = ControlError::new(
                ErrorKind::Failed,
                place(),
                "the name is taken",
                "choose another, or delete that one first",
            );
            return add.inits.send(Err(error));
        }
        let NetnsAdd { path, ns, lease, inits, seen, .. } = add;
        self.leases.insert(lease, Lease { path, cookie: None, inits: Some(inits), seen: Some(seen) });
        let events = self.events.clone();
        self.workers.run_anywhere(Box::new(move || {
            let identity = ns::adopt(ns).map_err(|e| format!("the descriptor is not a network namespace: {e}"));
            let _ = events.send(Event::Leased(lease, identity));
        }));
    }

    /// The descriptor has been identified: from here on the intended name counts.
    pub(super) fn leased(&mut self, id: LeaseId, identity: Result<(NetCookie, Pin), String>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        match identity {
            Ok((cookie, pin)) => {
                lease.cookie = Some(cookie);
                let path = lease.path.clone();
                let known = self.nets.contains_key(&cookie);
                let changes = self.names.observe([Observation::Named(path, cookie)]);
                self.carry_out(changes, &mut HashMap::from([(cookie, pin)]));
                if known {
                    self.lease_set_up(cookie);
                }
            }
            Err(what) => {
                let place = lease.path.display().to_string();
                let error =
                    ControlError::new(ErrorKind::Invalid, place, what, "send a descriptor of a network namespace");
                if let Some(inits) = lease.inits.take() {
                    inits.send(Err(error));
                }
                self.leases.remove(&id);
            }
        }
    }

    /// A setup has ended: tells the clients whose namespace it is. A failed one ends its lease, and is undone.
    pub(super) fn lease_set_up(&mut self, cookie: NetCookie) {
        let Some(managed) = self.nets.get(&cookie) else { return };
        if managed.setting_up {
            return;
        }
        let failed = managed.net.state() == NetState::Failed;
        let netns = self.wire_netns(&managed.net, None);
        let mut ended = Vec::new();
        for (id, lease) in self.leases.iter_mut().filter(|(_, l)| l.cookie == Some(cookie)) {
            if let Some(inits) = lease.inits.take() {
                inits.send(Ok(netns.clone()));
                if failed {
                    ended.push(*id);
                }
            }
        }
        for id in ended {
            self.give_up(id);
        }
    }

    /// Discovery has seen a name: if it was leased, it is a name like any other now.
    pub(super) fn lease_seen(&mut self, path: &Path, cookie: NetCookie) {
        let found = self.leases.iter().find(|(_, l)| l.path == path && l.cookie == Some(cookie)).map(|(id, _)| *id);
        let Some(mut lease) = found.and_then(|id| self.leases.remove(&id)) else { return };
        if let (Some(seen), Some(managed)) = (lease.seen.take(), self.nets.get(&cookie)) {
            self.send_counted(self.wire_netns(&managed.net, None), seen);
        }
    }

    /// The client has gone: the mount may be there all the same.
    pub(super) fn lease_ended(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get(&id) else { return };
        let (path, cookie) = (lease.path.clone(), lease.cookie);
        match ns::identify_without_entering(&path) {
            Some(Ok((there, _))) if Some(there) == cookie => self.lease_seen(&path, there),
            _ => self.give_up(id),
        }
    }

    fn give_up(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.remove(&id) else { return };
        let Some(cookie) = lease.cookie else { return };
        let mut changes = self.names.observe([Observation::Unnamed(lease.path)]);
        // Nobody ever saw it under a name, so everything that was done in it is undone.
        if changes.extract_if(.., |c| matches!(c, NetChange::Died { cookie: died, .. } if *died == cookie)).count() > 0
        {
            self.end(cookie, ExitReason::RolledBack);
        }
        self.carry_out(changes, &mut HashMap::new());
    }

    /// Names that count although no mount carries them yet.
    pub(super) fn leased_names(&self) -> Vec<(PathBuf, NetCookie)> {
        self.leases.values().filter_map(|l| l.cookie.map(|c| (l.path.clone(), c))).collect()
    }
}
