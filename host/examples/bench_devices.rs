//! Registers as many devices as it is told in a namespace's init, unregisters them in its exit, and writes down how long
//! each took: the end until the last device's destructor, which comes after the unlock. For the figures; it does nothing
//! with its devices.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pernet_plugin_api::prelude::*;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// `tap`, or `veth` for pairs.
    kind: String,
    count: usize,
    /// Where the microseconds go, a line each.
    times: String,
}

struct Bench {
    host: Host,
    config: Config,
    ending: Arc<Ending>,
}

/// The end of all devices: when it began, and how many have not ended.
#[derive(Default)]
struct Ending(Mutex<Option<(Instant, usize)>>);

struct Ops {
    ending: Arc<Ending>,
    times: String,
}

impl NetDeviceOps for Ops {
    fn destructor(&self) {
        let mut ending = self.ending.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, left)) = &mut *ending else { return };
        *left -= 1;
        if *left == 0 {
            let _ = note(&self.times, *since);
        }
    }
}

fn note(times: &str, since: Instant) -> Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(times)?;
    writeln!(file, "{}", since.elapsed().as_micros())?;
    Ok(())
}

struct Devices;

impl Plugin for Devices {
    type Config = Config;

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        reg.pernet_device("bench-devices", Bench { host, config, ending: Arc::default() })?;
        Ok(Devices)
    }
}

impl Bench {
    fn alloc(&self, spec: NetdevSpec) -> Result<Netdev> {
        let (ending, times) = (Arc::clone(&self.ending), self.config.times.clone());
        self.host.alloc_netdev(spec, Ops { ending, times })
    }

    fn register(&self, net: &Net<'_>) -> Result<Netdev> {
        if self.config.kind == "tap" {
            let dev = self.alloc(NetdevSpec::tap("t%d"))?;
            net.register_netdevice(&dev)?;
            return Ok(dev);
        }
        let peer = self.alloc(NetdevSpec::veth("b%d"))?;
        let dev = self.alloc(NetdevSpec::veth("a%d").peer(&peer))?;
        net.register_netdevice_pair(&dev, net, &peer)?;
        Ok(dev)
    }
}

impl PernetOps for Bench {
    type State = Vec<Netdev>;

    fn init(&self, net: &Net<'_>) -> Result<Vec<Netdev>> {
        let since = Instant::now();
        let devices = (0..self.config.count).map(|_| self.register(net)).collect::<Result<Vec<_>>>()?;
        note(&self.config.times, since)?;
        Ok(devices)
    }

    fn exit(&self, net: &Net<'_>, devices: &Vec<Netdev>, _: ExitReason) -> Result<()> {
        let ends = if self.config.kind == "tap" { devices.len() } else { 2 * devices.len() };
        *self.ending.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), ends));
        net.unregister_many(&devices.iter().collect::<Vec<_>>())
    }
}

export_plugin!(Devices, name = "bench-devices", description = "registers devices, for the figures");
