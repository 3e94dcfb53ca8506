//! A plugin that logs: from a hook, and from threads of its own. For tests of the daemon's log.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use pernet_plugin_api::prelude::*;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// As every probe has it; nothing is recorded.
    #[serde(rename = "record")]
    _record: PathBuf,
    /// Said in a namespace's init, then padded with dots to this length.
    #[serde(default)]
    say: String,
    #[serde(default)]
    length: usize,
    /// So many lines are said there after it, by another thread.
    #[serde(default)]
    flood: usize,
}

type Threads = Arc<Mutex<Vec<JoinHandle<()>>>>;

struct Talker(Threads);

impl Plugin for Talker {
    type Config = Config;

    fn init(reg: &mut Registrar, _: Host, config: Config) -> Result<Self> {
        let threads = Threads::default();
        reg.pernet_subsys("talk", Ops { config, threads: Arc::clone(&threads) })?;
        Ok(Talker(threads))
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        for thread in std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            let _ = thread.join();
        }
    }
}

struct Ops {
    config: Config,
    threads: Threads,
}

impl PernetOps for Ops {
    type State = ();

    fn init(&self, net: &Net<'_>) -> Result<()> {
        let Config { say, length, flood, .. } = &self.config;
        let dots = ".".repeat(length.saturating_sub(say.len()));
        tracing::warn!(netns = "elsewhere", device = "eth7", answer = 42, "{say}{dots}");
        let (netns, flood) = (net.name().to_owned(), *flood);
        let thread = thread::spawn(move || {
            tracing::info!(netns, why = "it may", "from a thread of its own");
            (0..flood).for_each(|n| tracing::info!("line {n} of the flood"));
        });
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }
}

export_plugin!(Talker, name = "probe-log", description = "logs");
