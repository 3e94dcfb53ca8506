//! What the daemon does for a plugin that calls it: log, defer, run in a namespace, and count its hooks.
//!
//! Called from any thread, in the middle of a hook or from a plugin's own thread. It owns nothing: a log line goes to
//! the subscriber, a hook's record to the monitor, work to the daemon loop, which alone decides when it runs.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use pernet_plugin_api::NetCookie;

use super::plugins::Trouble;
use super::{Daemon, Event};
use crate::control::monitor::{HookLine, Monitor};
use crate::engine::failure::Failure;
use crate::engine::rtnl;
use crate::logging;
use crate::plugin::host_api::{HookRecord, HostServices, LogLine};
use crate::plugin::instance::InstanceRef;

/// How long `run_in` waits: longer than a namespace's queue should ever be.
const RUN_IN: Duration = Duration::from_secs(30);

/// Work that a plugin wants run in one namespace, or in two with both locked.
pub struct Work {
    instance: InstanceRef,
    nets: Vec<NetCookie>,
    work: u64,
    /// Who waits for it (`run_in`); nobody for `defer`.
    reply: Option<Sender<Result<(), Failure>>>,
}

impl Drop for Work {
    /// Work that is dropped unrun is dropped in the plugin too, and whoever waits for it is told.
    fn drop(&mut self) {
        if self.work != 0 {
            self.instance.drop_work(self.work);
        }
    }
}

/// The services, as every plugin instance holds them.
pub(super) struct Services {
    pub(super) events: Sender<Event>,
    pub(super) monitor: Arc<Monitor>,
}

fn gone() -> Failure {
    Failure::new(libc::ESTALE, "the namespace or the plugin is gone")
}

impl HostServices for Services {
    fn log(&self, line: &LogLine<'_>) {
        let (plugin, generation, netns) = (line.plugin, line.generation, line.netns.unwrap_or("-"));
        // `tracing` wants its level at compile time.
        macro_rules! at {
            ($level:ident) => {
                tracing::event!(tracing::Level::$level, plugin, generation, netns, fields = line.fields, "{}", line.message)
            };
        }
        match line.level {
            1 => at!(ERROR),
            2 => at!(WARN),
            3 => at!(INFO),
            4 => at!(DEBUG),
            _ => at!(TRACE),
        }
    }

    fn log_level(&self) -> u8 {
        logging::level()
    }

    fn hook_called(&self, record: &HookRecord<'_>) {
        self.monitor.publish(HookLine {
            plugin: record.plugin,
            hook: record.hook,
            netns: record.netns,
            device: record.device,
            error: record.result.err().map(|f| f.message.as_str()),
            duration_us: u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX),
        });
    }

    fn defer(&self, instance: &InstanceRef, cookies: &[u64], work: u64) -> Result<(), Failure> {
        let nets = cookies.iter().map(|c| NetCookie(*c)).collect();
        let work = Work { instance: instance.clone(), nets, work, reply: None };
        self.events.send(Event::Work(work)).map_err(|_| gone())
    }

    fn run_in(&self, instance: &InstanceRef, cookie: u64, work: u64) -> Result<(), Failure> {
        let (reply, answer) = bounded(1);
        let work = Work { instance: instance.clone(), nets: vec![NetCookie(cookie)], work, reply: Some(reply) };
        self.events.send(Event::Work(work)).map_err(|_| gone())?;
        match answer.recv_timeout(RUN_IN) {
            Ok(result) => result,
            Err(e) if e.is_timeout() => Err(Failure::new(libc::ETIMEDOUT, format!("the namespace was busy for {} s", RUN_IN.as_secs()))),
            Err(_) => Err(gone()),
        }
    }

    fn poisoned(&self, plugin: &Arc<str>, hook: &str, netns: Option<&str>, message: &str) {
        let trouble = Trouble {
            namespace: netns.map(str::to_owned),
            hook: hook.to_owned(),
            message: format!("panicked: {message}"),
        };
        let _ = self.events.send(Event::Poisoned(Arc::clone(plugin), trouble));
    }
}
