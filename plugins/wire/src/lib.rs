//! Virtual cables between namespaces, good ones and bad ones.
//!
//! A cable has two ends. Each is a device of its own in a namespace that the configuration names; what is sent into the
//! one comes out of the other, later, less often or in another order, if that is asked for. It is for test beds: the
//! kernel's netem is not needed. An end comes and goes with its namespace. In `plugins.d/50-wire.toml`:
//!
//! ```toml
//! [[config.cables]]
//! name = "uplink"                       # for messages
//! a = { netns = "blue", device = "eth0" }
//! b = { netns = "red", device = "eth0", address = "02:00:00:00:00:02", mtu = 1400, up = false }
//! queues = 1                            # of each device, each with a thread; the default
//! offloads = "auto"                     # or true, false: whether the kernel may hand over frames of up to 64 KiB
//! pcap = "/var/lib/pernetd/uplink.pcap" # frames of both directions, as they arrive
//! snaplen = 96                          # bytes of each frame that are kept; the default is all
//! seed = 42                             # the same dice at each start; the default is another at each, in the log
//!
//! [config.cables.both]                  # each way; a key in a_to_b or b_to_a counts over the same key here
//! delay = "20ms"
//! jitter = "5ms"                        # how much the delay varies; frames may overtake each other
//! distribution = "uniform"              # the default: evenly; "normal": the jitter is the standard deviation
//! loss = "10%"                          # or a number from 0 to 1
//! duplicate = "1%"
//! reorder = "25%"                       # the chance that a frame jumps ahead of the delay
//! gap = 5                               # only each fifth frame may jump; 1 is the default
//! rate = "10mbit"                       # the frame's bytes count, as it is
//! limit = 1000                          # most frames that wait, the default; the next ones are dropped
//!
//! [config.cables.a_to_b]
//! loss = 0.5
//! pcap = "/var/lib/pernetd/there.pcap"  # of this direction, instead of the cable's
//! ```
//!
//! All keys but `name`, `a` and `b` may be left out; a cable without any is as good as a veth pair. Both ends may be in
//! one namespace. A namespace is written by any of its names, which count when its plugins are set up; an end whose
//! namespace never came is told in the log when the plugin ends. One in the host's own namespace is written `@host`, and
//! is made only if `namespaces` of the plugin has `@host` too. A device's name is taken as it is; one that is there
//! already, and is not this plugin's, fails the namespace's init.
//!
//! Offloads let a frame of up to 64 KiB pass as one, which is quick, but it would be lost, delayed and counted as one:
//! with "auto" they are on only where the cable does nothing to single frames.
//!
//! While the other end is not there, or down, what is sent is dropped and counted. `pernetctl dev show` has, for each
//! device, what became of what was sent since it was made: frames that have `arrived` at the other end; were `lost`,
//! `duplicated` or `reordered` by chance; found `no_room` in the queue, or no memory; found the other end `unplugged`; are
//! `waiting` now; and are missing in the capture file, whichever way they went (`pcap_missed`). Those that were dropped are
//! the device's `tx_dropped`, too. What found the kernel's queue in front of the cable full never came here: that is
//! dropped by the kernel, and counted in its own row. When the plugin ends it logs the same of all that ever passed.
//!
//! A capture file is a pcap with times in nanoseconds, for tcpdump and its like. It is made with mode 0600, never
//! through a symbolic link; one of an earlier run is continued, without the record that a kill may have left unfinished;
//! any other file is refused. What the disk is too slow for is missing in the file and counted; the cable never waits for
//! it.
//!
//! Frames pass through the daemon, so when it stops, the devices go whatever `on_stop` says. A start, and a reload with
//! another configuration, makes them anew: addresses and routes on them have to be set again.

#![forbid(unsafe_code)]

mod unit;
mod impair;
mod config;
mod plan;
mod queue;
mod counters;
mod direction;
mod pcap;
mod capture;
mod cable;
mod netdev;
mod pernet;

use std::sync::Arc;

use pernet_plugin_api::prelude::*;

use crate::cable::Cable;
use crate::config::Config;
use crate::pernet::Ends;
use crate::plan::Plan;

/// The plugin: the cables, and a pernet device that plugs their ends in.
pub struct Wire {
    cables: Vec<Arc<Cable>>,
}

impl Plugin for Wire {
    type Config = Config;

    fn check(config: &Config) -> std::result::Result<(), ConfigError> {
        Plan::new(config).map(drop)
    }

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        let plan = Plan::new(&config)?;
        host.set_frame_memory(plan.frame_memory());
        // Here and not in a hook: a thread stays in the namespace in which it starts.
        let cables: Vec<_> =
            plan.cables.iter().map(|cable| Cable::new(cable, &host).map(Arc::new)).collect::<Result<_>>()?;
        if !cables.is_empty() {
            reg.pernet_device("wire", Ends { host, plan, cables: cables.clone() })?;
        }
        Ok(Wire { cables })
    }
}

impl Drop for Wire {
    /// Not left to the cables' own drop: a device that does not end keeps its cable.
    fn drop(&mut self) {
        self.cables.iter().for_each(|cable| cable.end());
    }
}

export_plugin!(
    Wire,
    name = "wire",
    level = "device",
    description = "virtual cables between namespaces, with delay, loss, rate and capture",
    license = "MIT OR Apache-2.0",
);
