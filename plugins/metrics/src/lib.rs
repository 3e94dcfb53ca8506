//! Metrics for Prometheus: counters of namespaces and their devices, and pernetd's own figures.
//!
//! Per namespace and device the link counters and state; per namespace the counters of `/proc/net/{snmp,snmp6,netstat,
//! sockstat,sockstat6}` and of connection tracking; of pernetd the hooks' calls, errors and durations, and what there is
//! by state. Series have the labels `netns` and `device`, and vanish with them. They are read when somebody asks, inside
//! each namespace, in turns with its hooks; a namespace that is busy is left out of that scrape and counted.
//!
//! In `plugins.d/60-metrics.toml`, all with their defaults:
//!
//! ```toml
//! [config]
//! listen = "127.0.0.1:9964"   # where GET /metrics is answered; "" for nowhere
//! textfile = ""               # a file for node_exporter's textfile collector, *.prom
//! interval = 15000            # milliseconds between two writings of it
//! timeout = 5000              # milliseconds that a scrape takes at most
//! max_series = 1000000         # namespaces that do not fit are left out as a whole, and counted
//! metrics = ["*"]             # globs of metrics' names; what one with ! in front matches is left out
//! devices = ["*"]             # globs of devices' names, likewise
//! ```
//!
//! What metrics there are, and how they are called: [`kernel`] and [`link`] and [`own`]. Not here: histograms of what
//! passes in a namespace, and history: this is what the kernel and the daemon count anyway.

#![forbid(unsafe_code)]

mod config;
mod globs;
mod families;
mod label;
mod name;
mod kernel;
mod proc;
mod link;
mod own;
mod read;
mod spaces;
mod pernet;
mod encode;
mod collect;
mod http;
mod connections;
mod server;
mod textfile;

use std::sync::Arc;

use pernet_plugin_api::prelude::*;

use crate::collect::Collector;
use crate::config::Config;
use crate::pernet::Registers;
use crate::server::Server;
use crate::spaces::Spaces;
use crate::textfile::Textfile;

/// The plugin: a subsystem that knows the namespaces, and those who ask for metrics.
#[derive(Debug)]
pub struct Metrics {
    collector: Arc<Collector>,
    server: Option<Server>,
    textfile: Option<Textfile>,
}

impl Plugin for Metrics {
    type Config = Config;

    fn check(config: &Config) -> std::result::Result<(), ConfigError> {
        config.settings().map(drop)
    }

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        let settings = config.settings()?;
        let spaces = Arc::new(Spaces::default());
        reg.pernet_subsys("metrics", Registers { spaces: Arc::clone(&spaces) })?;
        let collector = Arc::new(Collector::new(host.clone(), spaces, &settings));
        // Dropping what was started before ends it, should the next one fail.
        let mut metrics = Metrics { collector: Arc::clone(&collector), server: None, textfile: None };
        metrics.server = settings.listen.map(|at| Server::start(at, &host, &collector)).transpose()?;
        let file = settings.textfile.map(|path| Textfile::start(path, settings.interval, &host, &collector));
        metrics.textfile = file.transpose()?;
        Ok(metrics)
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        // First, so that nobody whom the others wait for waits for a namespace.
        self.collector.stop();
        self.server.take();
        self.textfile.take();
    }
}

export_plugin!(
    Metrics,
    name = "metrics",
    level = "late",
    description = "counters of namespaces and devices, and pernetd's own figures, for Prometheus",
    license = "MIT OR Apache-2.0",
);
