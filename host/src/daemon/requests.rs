//! Answers to clients, made from the loop's state.
//!
//! What needs a look into the kernel (the devices of namespaces that no plugin watches) is made on a thread for looks, so that
//! no answer, and no client, holds up the loop. A request that waits for something is kept as a [`Waiter`].

use std::collections::HashMap;
use std::sync::Arc;

use pernet_plugin_api::NetCookie;

use crate::control::wire::{self, Netns, NetnsError, NetnsState};
use crate::control::{ControlError, Reply, Request};
use crate::engine::{Net, NetState};
use crate::plugin;

use super::devices::{self, Inhabited};
use super::place::Place;
use super::{Daemon, Phase};

/// A request that is answered when something has happened.
pub(super) enum Waiter {
    /// Until the namespace is there and its setup over.
    SetUp {
        /// Any of its names.
        name: String,
        /// For the answer.
        reply: Reply<Netns>,
    },
    /// Until the setup of this namespace, asked for once more, is over.
    Retried {
        /// The name that it was asked for by.
        name: String,
        /// The namespace: it may lose its name, or its life, meanwhile.
        cookie: NetCookie,
        /// For the answer.
        reply: Reply<Netns>,
    },
    /// Until the name is gone, and the exits are done if it was the last.
    Gone {
        /// The name that goes.
        name: String,
        /// The namespace that it goes from.
        cookie: NetCookie,
        /// For the answer.
        reply: Reply<Netns>,
    },
}

impl Daemon {
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Status { reply } => self.status(reply),
            Request::NetnsList { count, reply } => self.netns_list(count, reply),
            Request::NetnsGet { name, count, reply } => self.netns_get(&name, count, reply),
            Request::NetnsWait { name, reply } => self.wait(Waiter::SetUp { name, reply }),
            Request::NetnsRetry { name, reply } => self.netns_retry(name, reply),
            Request::NetnsAdd(add) => self.netns_add(add),
            Request::LeaseEnded { lease } => self.lease_ended(lease),
            Request::NetnsWaitGone { name, cookie, reply } => {
                self.netns_wait_gone(name, NetCookie(cookie), reply);
            }
            Request::PluginList { reply } => reply.send(Ok(self.plugin_rows())),
            Request::DevList { netns, reply } => self.dev_list(netns.as_deref(), reply),
            Request::DevShow { name, netns, reply } => self.dev_show(name, netns.as_deref(), reply),
            Request::Boot { netns, reply } => self.boot(netns.as_deref(), reply),
            Request::Why { name, kind, reply } => self.why(name, kind, reply),
            Request::FilesystemList { reply } => self.filesystem_list(reply),
            Request::MountList { reply } => self.mount_list(reply),
            Request::Mount(ask) => self.mount(ask),
            Request::Sysctls { netns, reply } => self.sysctl_sets(netns.as_deref(), reply),
            Request::Reload { reply } => self.reload(Some(reply)),
            Request::SockList { netns, reply } => self.sock_list(netns.as_deref(), reply),
            Request::SockConnect(ask) => self.sock_connect(ask),
        }
    }

    /// The namespace that an operator calls by this name.
    pub(super) fn by_name(&self, name: &str) -> Option<&Arc<Net>> {
        let cookie = self.names.find(name)?;
        self.nets.get(&cookie).map(|m| &m.net)
    }

    pub(super) fn in_order(&self) -> Vec<Inhabited> {
        let mut nets: Vec<_> = self.nets.values().map(|m| (Arc::clone(&m.net), Arc::clone(&m.place))).collect();
        nets.sort_by_cached_key(|(net, _)| (!net.is_host, net.name()));
        nets
    }

    fn status(&self, reply: Reply<wire::Status>) {
        let mut status = wire::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: match self.phase {
                Phase::Starting => wire::DaemonState::starting,
                Phase::Running if self.operations.reloading() => wire::DaemonState::reloading,
                Phase::Running => wire::DaemonState::running,
                Phase::Stopping => wire::DaemonState::stopping,
            },
            generation: self.generation,
            discovery: self.discovery.method.to_string(),
            namespaces: wire::NamespaceCounts { live: 0, degraded: 0, failed: 0, setup: 0, dying: 0 },
            plugins: wire::PluginCounts { live: 0, failed: 0, refused: 0 },
            devices: 0,
            resyncs: self.resyncs,
            retired_generations: plugin::load::retired_generations() as u64,
            last_reload: self.last_reload.clone(),
            folders: self.config.main.discovery.folders.iter().map(|f| f.display().to_string()).collect(),
            pinned: pinned(),
            facilities: self.facilities(),
            troubles: Vec::new(),
        };
        for managed in self.nets.values() {
            let n = &mut status.namespaces;
            *match shown_state(&managed.net) {
                NetnsState::live => &mut n.live,
                NetnsState::degraded => &mut n.degraded,
                NetnsState::failed => &mut n.failed,
                NetnsState::setup => &mut n.setup,
                NetnsState::dying => &mut n.dying,
            } += 1;
        }
        for row in self.shared.shown().iter() {
            match row.state {
                wire::PluginState::live => status.plugins.live += 1,
                wire::PluginState::failed => status.plugins.failed += 1,
                wire::PluginState::refused => status.plugins.refused += 1,
                wire::PluginState::retired => {}
            }
        }
        status.troubles = self.troubles(&status);
        let nets = self.in_order();
        self.looks.run_anywhere(Box::new(move || {
            status.devices = nets.iter().map(|(net, place)| count(devices::number(net, place))).sum();
            reply.send(Ok(status));
        }));
    }

    fn facilities(&self) -> Vec<wire::Facility> {
        let facility = |name: &str, used: bool, detail: &str| wire::Facility {
            name: name.to_owned(),
            used,
            detail: (!detail.is_empty()).then(|| detail.to_owned()),
            remedy: None,
        };
        vec![
            facility("mount discovery", true, &self.discovery.why),
            facility(
                "all-nsid link events",
                self.links.listening(),
                "opened only while some plugin wants device events",
            ),
        ]
    }

    fn netns_list(&self, count_devices: bool, reply: Reply<Vec<Netns>>) {
        let rows: Vec<_> =
            self.in_order().into_iter().map(|(net, place)| (self.wire_netns(&net, None), net, place)).collect();
        if !count_devices {
            return reply.send(Ok(rows.into_iter().map(|(row, ..)| row).collect()));
        }
        self.looks.run_anywhere(Box::new(move || {
            let fill = |(mut row, net, place): (Netns, Arc<Net>, Arc<Place>)| {
                row.devices = count(devices::number(&net, &place));
                row
            };
            reply.send(Ok(rows.into_iter().map(fill).collect()));
        }));
    }

    /// The rows are made where nobody waits for the loop: there may be many.
    fn boot(&self, netns: Option<&str>, reply: Reply<wire::BootRecord>) {
        let nets = match netns.map(|name| self.by_name(name).ok_or_else(|| ControlError::no_such_netns(name))) {
            None => self.in_order(),
            Some(Ok(net)) => self.in_order().into_iter().filter(|(it, _)| it.cookie == net.cookie).collect(),
            Some(Err(error)) => return reply.send(Err(error)),
        };
        let Some(boot) = self.shared.boot.get() else { return };
        let record = boot.row(self.ready);
        let setup = |net: Arc<Net>| Some((self.nets.get(&net.cookie)?.setup.clone()?, net));
        let setups: Vec<_> = nets.into_iter().filter_map(|(net, _)| setup(net)).collect();
        self.looks.run_anywhere(Box::new(move || {
            let setups = setups.iter().map(|(setup, net)| setup.row(net)).collect();
            reply.send(Ok(wire::BootRecord { setups, ..record }));
        }));
    }

    fn netns_get(&self, name: &str, count_devices: bool, reply: Reply<Netns>) {
        let Some(net) = self.by_name(name).cloned() else {
            return reply.send(Err(ControlError::no_such_netns(name)));
        };
        let row = self.wire_netns(&net, None);
        if count_devices { self.send_counted(row, reply) } else { reply.send(Ok(row)) }
    }

    /// Answers with a namespace, its devices counted where no mirror has them.
    pub(super) fn send_counted(&self, row: Netns, reply: Reply<Netns>) {
        let Some(managed) = self.nets.get(&NetCookie(row.cookie)) else { return reply.send(Ok(row)) };
        let (net, place) = (Arc::clone(&managed.net), Arc::clone(&managed.place));
        self.looks.run_anywhere(Box::new(move || {
            reply.send(Ok(Netns { devices: count(devices::number(&net, &place)), ..row }));
        }));
    }

    fn netns_retry(&mut self, name: String, reply: Reply<Netns>) {
        let Some(cookie) = self.by_name(&name).map(|n| n.cookie) else {
            return reply.send(Err(ControlError::no_such_netns(&name)));
        };
        self.retry(cookie);
        self.wait(Waiter::Retried { name, cookie, reply });
    }

    fn netns_wait_gone(&mut self, name: String, cookie: NetCookie, reply: Reply<Netns>) {
        if self.nets.contains_key(&cookie) {
            self.wait(Waiter::Gone { name, cookie, reply });
        } else {
            reply.send(Err(ControlError::no_such_netns(&name)));
        }
    }

    fn wait(&mut self, waiter: Waiter) {
        if self.phase == Phase::Stopping {
            // Dropped unanswered, which tells the client that the daemon is stopping.
            return;
        }
        self.waiters.push(waiter);
        self.check_waiters();
    }

    /// Answers those whose time has come, and forgets those who have gone.
    pub(super) fn check_waiters(&mut self) {
        for waiter in std::mem::take(&mut self.waiters) {
            match waiter {
                Waiter::SetUp { ref reply, .. }
                | Waiter::Retried { ref reply, .. }
                | Waiter::Gone { ref reply, .. }
                    if reply.abandoned() => {}
                Waiter::SetUp { name, reply } => match self.names.find(&name).and_then(|c| self.settled(c)) {
                    Some(row) => self.send_counted(row, reply),
                    None => self.waiters.push(Waiter::SetUp { name, reply }),
                },
                Waiter::Retried { name, cookie, reply } => match self.settled(cookie) {
                    Some(row) => self.send_counted(row, reply),
                    None => self.waiters.push(Waiter::Retried { name, cookie, reply }),
                },
                Waiter::Gone { name, cookie, reply } => match self.goes_on_without(&name, cookie) {
                    Some(row) => reply.send(Ok(row)),
                    None => self.waiters.push(Waiter::Gone { name, cookie, reply }),
                },
            }
        }
    }

    fn settled(&self, cookie: NetCookie) -> Option<Netns> {
        let managed = self.nets.get(&cookie)?;
        let over = matches!(managed.net.state(), NetState::Live | NetState::Degraded | NetState::Failed);
        (over && !managed.setting_up && !managed.net.dying()).then(|| self.wire_netns(&managed.net, None))
    }

    fn goes_on_without(&self, name: &str, cookie: NetCookie) -> Option<Netns> {
        let managed = self.nets.get(&cookie)?;
        let names = managed.net.names();
        let renamed = !managed.net.dying() && !names.is_empty() && self.names.find(name) != Some(cookie);
        renamed.then(|| self.wire_netns(&managed.net, None))
    }

    /// A life has ended: tells those who waited for it.
    pub(super) fn answer_gone(&mut self, net: &Arc<Net>) {
        let row = self.wire_netns(net, Some(NetnsState::dying));
        for waiter in std::mem::take(&mut self.waiters) {
            match waiter {
                Waiter::Gone { cookie, reply, .. } if cookie == net.cookie => reply.send(Ok(row.clone())),
                Waiter::Retried { name, cookie, reply } if cookie == net.cookie => {
                    reply.send(Err(ControlError::no_such_netns(&name)));
                }
                other => self.waiters.push(other),
            }
        }
    }

    /// The operator's view of a namespace; devices only where they are mirrored.
    pub(super) fn wire_netns(&self, net: &Net, state: Option<NetnsState>) -> Netns {
        let state = state.unwrap_or_else(|| shown_state(net));
        let error = net.error().map(|e| NetnsError {
            plugin: e.plugin.to_string(),
            hook: e.hook.to_owned(),
            message: e.failure.to_string(),
        });
        Netns {
            name: net.name().to_string(),
            names: net.names().iter().map(ToString::to_string).collect(),
            cookie: net.cookie.0,
            generation: net.generation.into(),
            nsid: self.links.subscription(net.cookie).and_then(|s| u64::try_from(s.nsid).ok()),
            state,
            subsystems: net.subsystems().iter().map(ToString::to_string).collect(),
            devices: count(net.device_count()),
            error,
        }
    }

    fn plugin_rows(&self) -> Vec<wire::Plugin> {
        let mut rows: Vec<wire::Plugin> = self.shared.shown().as_ref().clone();
        let mut counts: HashMap<Arc<str>, u64> = HashMap::new();
        for plugin in self.nets.values().flat_map(|m| m.net.subsystems()) {
            *counts.entry(plugin).or_default() += 1;
        }
        for row in rows.iter_mut().filter(|r| r.state == wire::PluginState::live) {
            row.namespaces = counts.get(row.name.as_str()).copied().unwrap_or_default();
        }
        rows
    }
}

/// Where a namespace is in its life. One whose names are gone is dying, even while a hook of its setup still runs.
pub(super) fn shown_state(net: &Net) -> NetnsState {
    if net.dying() { NetnsState::dying } else { state_word(net.state()) }
}

pub(super) fn state_word(state: NetState) -> NetnsState {
    match state {
        NetState::Setup => NetnsState::setup,
        NetState::Live => NetnsState::live,
        NetState::Degraded => NetnsState::degraded,
        NetState::Failed => NetnsState::failed,
        NetState::Dying => NetnsState::dying,
    }
}

/// Hooks that have been running for so long that an operator wants to know: each keeps its namespace alive.
fn pinned() -> Vec<wire::Pinned> {
    let long = std::time::Duration::from_secs(1);
    let running = plugin::running::running_for_longer_than(long).into_iter();
    running
        .map(|r| wire::Pinned {
            netns: r.netns.to_string(),
            plugin: r.plugin.to_string(),
            hook: r.hook.to_owned(),
            seconds: r.since.elapsed().as_secs(),
        })
        .collect()
}

fn count(n: usize) -> u64 {
    n as u64
}
