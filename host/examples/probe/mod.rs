//! A plugin that records each call of its hooks, and goes wrong where its configuration says. For tests of the daemon.
//!
//! A plugin's name is part of its file, so several examples share this source; each says `NAME` and `BUILD`. All that
//! share a `record` file write their lines to it one after another, so its order is the order of the calls.

mod acts;
mod config;
mod files;
mod netdevs;
mod record;
mod socks;
mod spec;
mod work;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, thread};

use pernet_plugin_api::prelude::*;

use acts::Acts;
use config::{Action, Config};
use files::Files;
use netdevs::Netdevs;
use record::{Line, Record};
use socks::{Echo, Socks};
use work::Works;

/// Counts the instances of this mapping, so that a fresh one can be told from the one before.
static INSTANCES: AtomicU64 = AtomicU64::new(1);

/// The plugin.
pub(crate) struct Probe {
    shared: Arc<Shared>,
}

/// What all hooks of an instance see.
struct Shared {
    config: Config,
    record: Record,
    /// Calls so far, by hook and namespace.
    counts: Mutex<HashMap<(String, String), u64>>,
    works: Works,
    netdevs: Netdevs,
    acts: Acts,
    socks: Socks,
    host: Host,
    /// Internal mounts, for as long as the instance.
    kern_mounts: Mutex<Vec<KernMount>>,
}

impl Shared {
    /// Writes a line about something that is no hook's call.
    fn note(&self, line: Line<'_>) {
        self.record.write(&line, None);
    }

    /// Writes the call's line, then does what the configuration asks for there.
    fn call(&self, line: Line<'_>) -> Result<()> {
        let (hook, netns) = (line.hook, line.netns);
        let nth = self.count(hook, netns);
        let fault = self.config.fault(&line, nth);
        self.record.write(&line, fault.map(|f| f.action.word()));
        if let Some(fault) = fault {
            self.carry_out(&fault.action, hook, netns)?;
        }
        Ok(())
    }

    /// The same for what is called too often to be recorded: only where something goes wrong there.
    fn call_if_faulty(&self, line: Line<'_>) -> Result<()> {
        if !self.config.has_fault(line.hook, line.device) {
            return Ok(());
        }
        self.call(line)
    }

    fn count(&self, hook: &str, netns: &str) -> u64 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((hook.to_owned(), netns.to_owned())).or_default();
        *count += 1;
        *count
    }

    /// Mounts what the configuration asks for, in a namespace's init.
    fn mount_internally(&self, net: &Net<'_>) {
        for wanted in self.config.kern_mounts.iter().filter(|wanted| wanted.netns == net.name()) {
            let mounted = self.host.kern_mount(&wanted.fs, Some(net.cookie()), &wanted.options);
            let errno = mounted.as_ref().err().map_or(0, Error::errno);
            let message = mounted.as_ref().err().map(ToString::to_string);
            self.note(Line { errno: Some(errno), message: message.as_deref(), ..Line::of("kern_mount", "", net) });
            self.kern_mounts.lock().unwrap_or_else(PoisonError::into_inner).extend(mounted.ok());
        }
    }

    fn carry_out(&self, action: &Action, hook: &str, netns: &str) -> Result<()> {
        match action {
            Action::Fail(errno) => Err(Error::new(*errno, format!("as asked, in {hook} of {netns}"))),
            Action::Panic => panic!("as asked, in {hook} of {netns}"),
            Action::Until(file) => {
                wait_for(file);
                Ok(())
            }
        }
    }
}

/// Hangs until the file is there.
fn wait_for(file: &Path) {
    while fs::symlink_metadata(file).is_err() {
        thread::sleep(Duration::from_millis(1));
    }
}

impl Plugin for Probe {
    type Config = Config;

    fn check(config: &Config) -> Result<(), ConfigError> {
        match &config.refuse {
            Some(reason) => Err(ConfigError::at("refuse", reason)),
            None => Ok(()),
        }
    }

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        let instance = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let record = Record::new(&config, instance);
        let (works, netdevs) = (Works::new(host.clone(), record.clone()), Netdevs::new(host.clone()));
        let (acts, socks, kern_mounts) = (Acts::default(), Socks::new(host.clone()), Mutex::default());
        let counts = Mutex::default();
        let shared = Arc::new(Shared { config, record, counts, works, netdevs, acts, socks, host, kern_mounts });
        let config = &shared.config;
        if config.subsys {
            reg.pernet_subsys("subsys", Ops { shared: Arc::clone(&shared), op: "subsys" })?;
        }
        if config.device_op {
            reg.pernet_device("device", Ops { shared: Arc::clone(&shared), op: "device" })?;
        }
        if let Some(priority) = config.notifier {
            reg.notifier("devices", priority, Devices(Arc::clone(&shared)))?;
        }
        for name in &config.families {
            reg.sock_family(name, Echo(Arc::clone(&shared), name.clone()))?;
        }
        for wanted in &config.filesystems {
            let files = Files { shared: Arc::clone(&shared), host: shared.host.clone() };
            if wanted.internal {
                reg.internal_filesystem(&wanted.name, files)?;
            } else {
                reg.filesystem(&wanted.name, files)?;
            }
        }
        shared.call(Line::at_home("init"))?;
        if let Some(file) = shared.config.acts.clone() {
            shared.acts.begin(&shared, file);
        }
        Ok(Probe { shared })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.acts.end();
        self.shared.works.end();
        self.shared.kern_mounts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.netdevs.end();
        self.shared.socks.end();
        let _ = self.shared.call(Line::at_home("drop"));
    }
}

struct Ops {
    shared: Arc<Shared>,
    op: &'static str,
}

/// A namespace's private area.
struct Area {
    shared: Arc<Shared>,
    op: &'static str,
    netns: String,
    cookie: NetCookie,
    generation: u32,
}

impl Drop for Area {
    fn drop(&mut self) {
        let line = Line { op: Some(self.op), netns: &self.netns, ..Line::at_home("pernet.free") };
        let _ = self.shared.call(line);
    }
}

impl Ops {
    fn exit(&self, hook: &str, net: &Net<'_>, area: &Area, reason: ExitReason) -> Result<()> {
        let mine = area.cookie == net.cookie() && area.generation == net.generation() && area.op == self.op;
        let reason = reason_word(reason);
        self.shared.call(Line { reason: Some(reason), area_is_mine: Some(mine), ..Line::of(hook, self.op, net) })?;
        self.shared.works.begin(&self.shared.config, hook, net);
        self.shared.socks.begin(&self.shared, hook, net);
        if hook == "pernet.exit" {
            self.shared.socks.leave(net);
        }
        Ok(())
    }
}

impl PernetOps for Ops {
    type State = Area;

    fn init(&self, net: &Net<'_>) -> Result<Area> {
        self.shared.works.met(net);
        self.shared.call(Line::of("pernet.init", self.op, net))?;
        self.shared.mount_internally(net);
        self.shared.works.begin(&self.shared.config, "pernet.init", net);
        self.shared.socks.begin(&self.shared, "pernet.init", net);
        if self.op == "device" {
            self.shared.netdevs.listen(&self.shared, net)?;
            self.shared.netdevs.register(&self.shared, net)?;
        }
        Ok(Area {
            shared: Arc::clone(&self.shared),
            op: self.op,
            netns: net.name().to_owned(),
            cookie: net.cookie(),
            generation: net.generation(),
        })
    }

    fn pre_exit(&self, net: &Net<'_>, area: &Area, reason: ExitReason) -> Result<()> {
        self.exit("pernet.pre_exit", net, area, reason)
    }

    fn exit(&self, net: &Net<'_>, area: &Area, reason: ExitReason) -> Result<()> {
        self.exit("pernet.exit", net, area, reason)
    }

    fn exit_batch(&self, nets: &[Net<'_>], reason: ExitReason) -> Result<()> {
        let names: Vec<&str> = nets.iter().map(Net::name).collect();
        let line = Line { op: Some(self.op), reason: Some(reason_word(reason)), ..Line::at_home("pernet.exit_batch") };
        self.shared.call(Line { netns: &names.join(","), ..line })
    }
}

struct Devices(Arc<Shared>);

impl Notifier for Devices {
    fn event(&self, net: &Net<'_>, event: &Event<'_>) -> Result<Verdict> {
        let hook = format!("netdev.{}", event.kind.as_str());
        let line =
            Line { device: Some(event.device.name), replay: Some(event.replay), ..Line::of(&hook, "notifier", net) };
        self.0.call(line)?;
        self.0.works.begin(&self.0.config, &hook, net);
        self.0.socks.begin(&self.0, &hook, net);
        if event.kind == EventKind::Register {
            self.0.netdevs.hold(&self.0, net, event);
        }
        Ok(Verdict::Ok)
    }
}

fn reason_word(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Died => "Died",
        ExitReason::Removed => "Removed",
        ExitReason::Replaced => "Replaced",
        ExitReason::RolledBack => "RolledBack",
        ExitReason::Stopped => "Stopped",
    }
}
