//! Tells whoever listens about every call of a hook.
//!
//! Publishing is what every hook on every worker pays for, so it costs one counter and one load while nobody listens.
//! A listener that does not keep up loses lines, which it can see from the gaps in `seq`; nobody ever waits for one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::wire::{self, Hook, HookResult};

/// Lines that a listener may be behind before it loses some.
const QUEUE: usize = 4096;

/// One call of a hook, as the one who called it tells it.
#[derive(Clone, Copy, Debug)]
pub struct HookLine<'a> {
    /// The plugin.
    pub plugin: &'a str,
    /// The hook's name in the operator's contract: `pernet.init`, `netdev.up`, …
    pub hook: &'a str,
    /// The namespace's name.
    pub netns: &'a str,
    /// The device concerned, if any.
    pub device: Option<&'a str>,
    /// What it failed with; `None` if it did not.
    pub error: Option<&'a str>,
    /// How long it took.
    pub duration_us: u64,
}

/// The bus from hook calls to listeners.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Lines published so far, heard or not.
    seq: AtomicU64,
    /// The number of listeners, so that `publish` need not take the lock to see that there are none.
    listening: AtomicUsize,
    listeners: Mutex<Vec<Listener>>,
}

#[derive(Debug)]
struct Listener {
    id: u64,
    lines: Sender<Arc<Hook>>,
}

/// Receives lines until dropped.
#[derive(Debug)]
pub struct Subscription {
    monitor: Arc<Monitor>,
    id: u64,
    lines: Receiver<Arc<Hook>>,
}

impl Monitor {
    /// A bus with nobody listening.
    #[must_use]
    pub fn new() -> Arc<Monitor> {
        Arc::new(Monitor::default())
    }

    /// Tells everybody who listens. Never blocks on a listener.
    pub fn publish(&self, line: HookLine<'_>) {
        if self.listening.load(Ordering::Acquire) == 0 {
            self.seq.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.tell(line);
    }

    /// The number comes under the lock, so that every listener's lines are in the order of their numbers.
    #[cold]
    fn tell(&self, line: HookLine<'_>) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let hook = Arc::new(Hook {
            seq: self.seq.fetch_add(1, Ordering::Relaxed),
            time: wire::time(SystemTime::now()),
            plugin: line.plugin.to_owned(),
            hook: line.hook.to_owned(),
            netns: line.netns.to_owned(),
            device: line.device.map(str::to_owned),
            result: if line.error.is_some() { HookResult::error } else { HookResult::ok },
            error: line.error.map(str::to_owned),
            duration_us: line.duration_us,
        });
        for listener in listeners.iter() {
            // Full: this listener is too slow and loses the line.
            let _ = listener.lines.try_send(Arc::clone(&hook));
        }
    }

    /// Listens from now on.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        self.subscribe_with(QUEUE)
    }

    fn subscribe_with(self: &Arc<Self>, queue: usize) -> Subscription {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let (sender, lines) = bounded(queue);
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Listener { id, lines: sender });
        self.listening.store(listeners.len(), Ordering::Release);
        Subscription { monitor: Arc::clone(self), id, lines }
    }
}

impl Subscription {
    /// The lines, in order of `seq`.
    #[must_use]
    pub fn lines(&self) -> &Receiver<Arc<Hook>> {
        &self.lines
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut listeners = self.monitor.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|l| l.id != self.id);
        self.monitor.listening.store(listeners.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(plugin: &str) -> HookLine<'_> {
        HookLine { plugin, hook: "pernet.init", netns: "a", device: None, error: None, duration_us: 1 }
    }

    #[test]
    fn a_slow_listener_loses_lines_and_sees_a_gap() {
        let monitor = Monitor::new();
        let slow = monitor.subscribe_with(2);
        for _ in 0..5 {
            monitor.publish(line("p"));
        }
        let heard: Vec<u64> = slow.lines().try_iter().map(|h| h.seq).collect();
        assert_eq!(heard, [0, 1]);
        monitor.publish(line("p"));
        assert_eq!(slow.lines().try_recv().map(|h| h.seq), Ok(5));
    }

    #[test]
    fn numbers_go_on_while_nobody_listens() {
        let monitor = Monitor::new();
        monitor.publish(line("p"));
        drop(monitor.subscribe());
        monitor.publish(line("p"));
        let ears = monitor.subscribe();
        monitor.publish(HookLine { error: Some("no"), ..line("p") });
        let heard = ears.lines().try_recv().map(|h| (h.seq, h.result.clone(), h.error.clone()));
        assert_eq!(heard, Ok((2, HookResult::error, Some("no".into()))));
    }
}
