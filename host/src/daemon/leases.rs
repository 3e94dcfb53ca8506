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
        if self.leases.values().any(|l| l.path == add.path) {
            return add.inits.send(Err(taken(&add.path)));
        }
        let NetnsAdd { path, ns, lease, inits, seen, .. } = add;
        self.leases.insert(lease, Lease { path: path.clone(), cookie: None, inits: Some(inits), seen: Some(seen) });
        let events = self.events.clone();
        self.looks.run_anywhere(Box::new(move || {
            // By the world, not by our view of it: news of a name that was just deleted may still be on its way.
            let identity = match ns::identify(&path) {
                Ok(_) => Err(taken(&path)),
                Err(_) => ns::adopt(ns).map_err(|e| no_namespace(&path, &e)),
            };
            let _ = events.send(Event::Leased(lease, identity));
        }));
    }

    /// The descriptor has been identified: from here on the intended name counts.
    pub(super) fn leased(&mut self, id: LeaseId, identity: Result<(NetCookie, Pin), ControlError>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        match identity {
            Ok((cookie, pin)) => {
                lease.cookie = Some(cookie);
                let path = lease.path.clone();
                let changes = self.names.observe([Observation::Named(path, cookie)]);
                self.carry_out(changes, &mut HashMap::from([(cookie, pin)]));
            }
            Err(error) => self.refuse_lease(id, error),
        }
    }

    fn refuse_lease(&mut self, id: LeaseId, error: ControlError) {
        if let Some(inits) = self.leases.remove(&id).and_then(|lease| lease.inits) {
            inits.send(Err(error));
        }
    }

    /// A setup has ended, or the new name has been judged: tells the clients whose namespace it is. A failed one ends
    /// its lease, and is undone.
    pub(super) fn lease_set_up(&mut self, cookie: NetCookie) {
        let Some(managed) = self.nets.get(&cookie) else { return };
        // One that is dying may have a next life, which is the client's.
        if managed.setting_up || managed.net.dying() {
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

    /// The client has gone: the mount may be there all the same, and the news of it on its way. One more look tells.
    pub(super) fn lease_ended(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get(&id) else { return };
        let (path, events) = (lease.path.clone(), self.events.clone());
        self.looks.run_anywhere(Box::new(move || {
            let there = ns::identify(&path).map(|(cookie, _)| cookie);
            let _ = events.send(Event::LeaseLooked(id, there.ok()));
        }));
    }

    /// What the lease's path shows after its client has gone.
    pub(super) fn lease_looked(&mut self, id: LeaseId, there: Option<NetCookie>) {
        let Some(lease) = self.leases.get(&id) else { return };
        if there.is_some() && there == lease.cookie {
            self.leases.remove(&id);
        } else {
            self.give_up(id);
        }
    }

    /// A life is over and none follows: so is what was promised of it.
    pub(super) fn lease_died(&mut self, cookie: NetCookie) {
        let over: Vec<LeaseId> =
            self.leases.iter().filter(|(_, l)| l.cookie == Some(cookie)).map(|(id, _)| *id).collect();
        for id in over {
            let Some(path) = self.leases.get(&id).map(|l| l.path.clone()) else { continue };
            self.refuse_lease(id, taken(&path));
        }
    }

    /// Whether a client is about to name a namespace there.
    pub(super) fn is_leased(&self, path: &Path) -> bool {
        self.leases.values().any(|l| l.path == path && l.cookie.is_some())
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

fn taken(path: &Path) -> ControlError {
    let place = format!("namespace {}", path.display());
    ControlError::new(ErrorKind::Failed, place, "the name is taken", "choose another, or delete that one first")
}

fn no_namespace(path: &Path, e: &std::io::Error) -> ControlError {
    let what = format!("the descriptor is not a network namespace: {e}");
    ControlError::new(ErrorKind::Invalid, path.display().to_string(), what, "send a descriptor of a network namespace")
}
