//! What the daemon does for a plugin that calls it: log, defer, run in a namespace, and count its hooks.
//!
//! Called from any thread, in the middle of a hook or from a plugin's own thread. It owns nothing: a log line goes to
//! the subscriber, a hook's record to the monitor, work to the daemon loop, which alone decides when it runs.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use pernet_plugin_api::NetCookie;

use super::place::Place;
use super::plugins::Trouble;
use super::{Daemon, Event};
use crate::control::monitor::{HookLine, Monitor};
use crate::engine::{self, At, Failure, Net, NotDeferred, Owner, PernetList};
use crate::logging;
use crate::plugin::{HookRecord, HostServices, InstanceRef, LogLine};

/// How long `run_in` waits: longer than a namespace's queue should ever be.
const RUN_IN: Duration = Duration::from_secs(30);

/// How often it looks whether there is still somebody to wait for.
const LOOK: Duration = Duration::from_millis(50);

/// A namespace, and the way into it.
type Inhabited = (Arc<Net>, Arc<Place>);

/// Managed namespaces by cookie, for those who are not the loop. The lock is held for a look-up only.
#[derive(Default)]
pub(super) struct Places(RwLock<HashMap<NetCookie, Inhabited>>);

impl Places {
    pub(super) fn insert(&self, net: &Arc<Net>, place: &Arc<Place>) {
        let mut places = self.0.write().unwrap_or_else(PoisonError::into_inner);
        places.insert(net.cookie, (Arc::clone(net), Arc::clone(place)));
    }

    pub(super) fn remove(&self, cookie: NetCookie) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&cookie);
    }

    fn get(&self, cookie: NetCookie) -> Option<Inhabited> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&cookie).cloned()
    }
}

/// Work that a plugin wants run in one namespace, or in two with both locked.
pub(crate) struct Work {
    instance: InstanceRef,
    owner: Arc<Owner>,
    nets: Vec<Inhabited>,
    /// The plugin's number for it; taken when it runs.
    work: Option<u64>,
    /// Who waits for it (`run_in`); nobody for `defer`.
    reply: Option<Sender<Result<(), Failure>>>,
}

impl Work {
    /// Runs it inside its first namespace, under the lock of each: nothing else of a plugin runs there meanwhile.
    fn run(mut self) {
        let result = self.run_locked();
        if let (Err(failure), None) = (&result, &self.reply) {
            let plugin = &self.instance.plugin;
            tracing::warn!(%plugin, netns = %self.nets[0].0.name(), "deferred work: {failure}");
        }
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }

    fn run_locked(&mut self) -> Result<(), Failure> {
        let _one;
        let _two;
        match &self.nets[..] {
            [(a, _), (b, _)] => _two = engine::lock_two(a.rtnl(), b.rtnl())?,
            [(only, _), ..] => _one = only.rtnl().lock_within(RUN_IN)?,
            [] => return Err(gone()),
        }
        // Under the lock: an exit that was first has taken the plugin away from here.
        let areas: Option<Vec<_>> = self.nets.iter().map(|(net, _)| net.areas_in_force(&self.owner)).collect();
        let areas = areas.ok_or_else(gone)?;
        let at: Vec<At<'_>> = self.nets.iter().zip(&areas).map(|((net, _), areas)| At { net, areas }).collect();
        let work = self.work.take().ok_or_else(gone)?;
        self.nets[0].1.visit(|| self.instance.run_work(work, &at))?
    }
}

impl Drop for Work {
    /// Work that never ran is dropped in the plugin too; whoever waits for it learns it from the closed channel.
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && let Err(failure) = self.instance.drop_work(work)
        {
            tracing::debug!(plugin = %self.instance.plugin, "work that never ran: {failure}");
        }
    }
}

impl Daemon {
    /// Work from outside the lock of its namespace: a job of its own, after those that are queued.
    pub(super) fn work(&mut self, work: Work) {
        let Some(cookie) = work.nets.first().map(|(net, _)| net.cookie) else { return };
        // Unless it can be queued it is dropped, on a worker: a closure's drop is the plugin's code.
        if !self.submit(cookie, Box::new(move |_| work.run())) {
            tracing::debug!("work came while the daemon is stopping");
        }
    }
}

/// The services, as every plugin instance holds them.
pub(super) struct Services {
    pub(super) events: Sender<Event>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) places: Arc<Places>,
    /// The list in which a plugin's owner is looked up; set once it exists.
    pub(super) list: OnceLock<Weak<PernetList>>,
}

fn gone() -> Failure {
    Failure::new(libc::ESTALE, "the namespace is gone, or the plugin does not act there")
}

impl Services {
    fn work(&self, instance: &InstanceRef, cookies: &[u64], work: u64) -> Result<Work, Failure> {
        let list = self.list.get().and_then(Weak::upgrade).ok_or_else(gone)?;
        let mine = |o: &&Arc<Owner>| o.name == instance.plugin && o.generation == instance.generation;
        let members = list.members();
        let owner = members.iter().map(|m| &m.owner).find(mine).cloned().ok_or_else(gone)?;
        let places = cookies.iter().map(|c| self.places.get(NetCookie(*c)));
        let nets: Vec<_> = places.collect::<Option<_>>().ok_or_else(gone)?;
        Ok(Work { instance: instance.clone(), owner, nets, work: Some(work), reply: None })
    }
}

/// Waits for work in another namespace, but not beyond the instance's end: that end may be waiting for this very thread,
/// in a reload that holds the work back.
fn wait_for(answer: &Receiver<Result<(), Failure>>, instance: &InstanceRef) -> Result<(), Failure> {
    let until = Instant::now() + RUN_IN;
    loop {
        match answer.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(e) if e.is_disconnected() || instance.is_gone() => return Err(gone()),
            Err(_) if Instant::now() >= until => {
                let what = format!("the namespace was busy for {} s", RUN_IN.as_secs());
                return Err(Failure::new(libc::ETIMEDOUT, what));
            }
            Err(_) => {}
        }
    }
}

impl HostServices for Services {
    fn log(&self, line: LogLine<'_>) {
        let (plugin, generation, netns) = (&*line.plugin, line.generation, line.netns.as_deref());
        let fields = logging::readable(line.fields);
        // `tracing` wants its level at compile time.
        macro_rules! at {
            ($level:ident) => {
                tracing::event!(tracing::Level::$level, plugin, generation, netns, "{}{fields}", line.message)
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

    fn hook_called(&self, record: HookRecord<'_>) {
        self.monitor.publish(HookLine {
            plugin: record.plugin,
            hook: record.hook,
            netns: record.netns,
            device: record.device,
            error: record.result.err().map(|f| f.message.as_str()),
            duration_us: u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX),
        });
    }

    /// Onto the todo of a namespace that this thread has locked, so that it runs before the unlock returns; else it
    /// becomes a job of its own.
    fn defer(&self, instance: &InstanceRef, cookies: &[u64], work: u64) -> Result<(), Failure> {
        let work = self.work(instance, cookies, work)?;
        let locked = work.nets.iter().map(|(net, _)| Arc::clone(net)).find(|net| net.rtnl().held_by_me());
        let Some(net) = locked else {
            return self.events.send(Event::Work(work)).map_err(|_| gone());
        };
        net.rtnl().defer(Box::new(move || work.run())).map_err(|refused| match refused {
            NotDeferred::NobodyHolds(_) => gone(),
            NotDeferred::TooDeep(_) => Failure::new(libc::EDEADLK, "work that defers work that defers work: too deep"),
        })
    }

    fn run_in(&self, instance: &InstanceRef, cookie: u64, work: u64) -> Result<(), Failure> {
        let mut work = self.work(instance, &[cookie], work)?;
        let (reply, answer) = bounded(1);
        work.reply = Some(reply);
        if crate::plugin::running::current_hook().is_some() {
            // In a hook of an earlier namespace: this thread may take the later lock and go there itself.
            work.run();
        } else {
            self.events.send(Event::Work(work)).map_err(|_| gone())?;
        }
        wait_for(&answer, instance)
    }

    fn poisoned(&self, plugin: &str, generation: u64, failure: &Failure) {
        let trouble = Trouble::new("panic", format!("generation {generation} panicked: {}", failure.message));
        let _ = self.events.send(Event::Poisoned(plugin.into(), generation, trouble));
    }
}
