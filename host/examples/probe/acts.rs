//! What a test lets a probe do with its own devices while it runs: a thread of the probe's reads one act from a file, does
//! it, and removes the file.
//!
//! `up NAME`, `down NAME`, `mtu NAME BYTES`, `rename NAME NEW`, `move NAME NETNS`, `unregister NAME`, and `register`,
//! which registers what the configuration wants and is not there. Refusals are expected, and recorded.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pernet_plugin_api::prelude::*;

use super::Shared;
use super::record::Line;

/// The thread, if there is one.
#[derive(Default)]
pub(super) struct Acts {
    over: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Acts {
    pub(super) fn begin(&self, shared: &Arc<Shared>, file: PathBuf) {
        let (over, shared) = (Arc::clone(&self.over), Arc::clone(shared));
        let serve = move || {
            while !over.load(Ordering::Relaxed) {
                if let Ok(words) = fs::read_to_string(&file) {
                    let done = act(&shared, &words.split_whitespace().collect::<Vec<_>>());
                    let errno = Some(done.err().map_or(0, |e| e.errno()));
                    shared.note(Line { device: Some(&words), errno, ..Line::at_home("act") });
                    let _ = fs::remove_file(&file);
                }
                thread::sleep(Duration::from_millis(1));
            }
        };
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::spawn(serve));
    }

    /// Waits for what it is at: none of the plugin's code may run after its end.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

fn act(shared: &Arc<Shared>, words: &[&str]) -> Result<()> {
    let host = &shared.netdevs.host;
    if words == ["register"] {
        shared.netdevs.register_again(shared);
        return Ok(());
    }
    let wrong = || Error::new(libc::EINVAL, format!("no act: {words:?}"));
    let [what, name, rest @ ..] = words else { return Err(wrong()) };
    let (dev, net) = shared.netdevs.of_name(name)?;
    let one = dev.clone();
    match (*what, rest) {
        ("up", []) => host.run_in(net, move |net| net.dev_open(&one))?,
        ("down", []) => host.run_in(net, move |net| net.dev_close(&one))?,
        ("mtu", [mtu]) => {
            let mtu = mtu.parse().map_err(|_| wrong())?;
            host.run_in(net, move |net| net.dev_set_mtu(&one, mtu))?
        }
        ("rename", [new]) => {
            let new = (*new).to_owned();
            host.run_in(net, move |net| net.dev_change_name(&one, &new))?
        }
        ("move", [netns]) => {
            let to = shared.works.cookie(netns);
            host.run_in_two(net, to, move |net, to| net.dev_change_net_namespace(&one, to))?
        }
        ("unregister", []) => host.unregister_netdev(&dev),
        _ => Err(wrong()),
    }
}
