//! Registers as many devices as it is told in a namespace's init, unregisters them in its exit, and writes down how long
//! each took. For the figures; it does nothing with its devices.

use std::fs::OpenOptions;
use std::io::Write as _;
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
}

struct NoOps;

impl NetDeviceOps for NoOps {}

struct Devices;

impl Plugin for Devices {
    type Config = Config;

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        reg.pernet_device("bench-devices", Bench { host, config })?;
        Ok(Devices)
    }
}

impl Bench {
    fn note(&self, since: Instant) -> Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.config.times)?;
        writeln!(file, "{}", since.elapsed().as_micros())?;
        Ok(())
    }

    fn register(&self, net: &Net<'_>) -> Result<Netdev> {
        if self.config.kind == "tap" {
            let dev = self.host.alloc_netdev(NetdevSpec::tap("t%d"), NoOps)?;
            net.register_netdevice(&dev)?;
            return Ok(dev);
        }
        let peer = self.host.alloc_netdev(NetdevSpec::veth("b%d"), NoOps)?;
        let dev = self.host.alloc_netdev(NetdevSpec::veth("a%d").peer(&peer), NoOps)?;
        net.register_netdevice_pair(&dev, net, &peer)?;
        Ok(dev)
    }
}

impl PernetOps for Bench {
    type State = Vec<Netdev>;

    fn init(&self, net: &Net<'_>) -> Result<Vec<Netdev>> {
        let since = Instant::now();
        let devices = (0..self.config.count).map(|_| self.register(net)).collect::<Result<Vec<_>>>()?;
        self.note(since)?;
        Ok(devices)
    }

    fn exit(&self, net: &Net<'_>, devices: &Vec<Netdev>, _: ExitReason) -> Result<()> {
        let since = Instant::now();
        net.unregister_many(&devices.iter().collect::<Vec<_>>())?;
        self.note(since)
    }
}

export_plugin!(Devices, name = "bench-devices", description = "registers devices, for the figures");
