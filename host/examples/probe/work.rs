//! What a probe asks of the daemon: `defer` and `run_in`, from hooks and from a thread of its own.
//!
//! The answer and the work itself are lines of the record: `defer`, `defer_two`, `run_in` and `register_notifier` with an
//! errno, then `work.defer`, `work.defer_two` and `work.run_in` where the work runs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use pernet_plugin_api::prelude::*;

use super::config::{Ask, Config, Work};
use super::record::{Line, Record};

/// What is asked, and of whom.
pub(super) struct Works {
    host: Host,
    record: Record,
    /// Namespaces met so far: works name them, the daemon wants cookies.
    met: Mutex<HashMap<String, NetCookie>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Works {
    pub(super) fn new(host: Host, record: Record) -> Works {
        Works { host, record, met: Mutex::default(), threads: Mutex::default() }
    }

    pub(super) fn met(&self, net: &Net<'_>) {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).insert(net.name().to_owned(), net.cookie());
    }

    /// Asks what the configuration says for this hook.
    pub(super) fn begin(&self, config: &Config, hook: &str, net: &Net<'_>) {
        for work in config.works.iter().filter(|w| w.hook == hook && w.netns == net.name()) {
            let to = [&work.to, &work.and].map(|name| self.cookie(name));
            let (host, record, asked) = (self.host.clone(), self.record.clone(), work.clone());
            if work.own_thread {
                let thread = thread::spawn(move || ask(&host, &record, &asked, to));
                self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
            } else {
                ask(&host, &record, &asked, to);
            }
        }
    }

    pub(super) fn cookie(&self, name: &str) -> NetCookie {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.get(name).copied().unwrap_or(NetCookie(0))
    }

    /// Waits for the own threads: none of the plugin's code may run after its end.
    pub(super) fn end(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn ask(host: &Host, record: &Record, work: &Work, [to, and]: [NetCookie; 2]) {
    let (at_work, tag) = (record.clone(), work.tag.clone());
    let (word, answer) = match work.ask {
        Ask::Defer => {
            let deferred = move |net: &Net<'_>| {
                let device = Some(&*tag).filter(|tag| !tag.is_empty());
                at_work.write(&Line { device, ..Line::of("work.defer", "", net) }, None);
            };
            ("defer", host.defer(to, deferred))
        }
        Ask::DeferTwo => {
            let work = move |a: &Net<'_>, b: &Net<'_>| {
                at_work.write(&Line { device: Some(b.name()), ..Line::of("work.defer_two", "", a) }, None);
            };
            ("defer_two", host.defer_two(to, and, work))
        }
        Ask::Notifier => ("register_notifier", host.register_netdevice_notifier_net(to, 0, Silent).map(drop)),
        Ask::RunIn => ("run_in", host.run_in(to, move |net| at_work.write(&Line::of("work.run_in", "", net), None))),
    };
    let errno = Some(answer.err().map_or(0, |e| e.errno()));
    record.write(&Line { errno, netns: &work.netns, ..Line::at_home(word) }, None);
}

struct Silent;

impl Notifier for Silent {
    fn event(&self, _: &Net<'_>, _: &Event<'_>) -> Result<Verdict> {
        Ok(Verdict::Done)
    }
}
