//! A plugin with a device in each namespace whose operations go wrong as its configuration says. For tests of the host.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use pernet_plugin_api::prelude::*;
use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// The operation that goes wrong: `init`, `open`, …
    op: String,
    /// It panics instead of returning an error.
    panic: bool,
    /// It waits for this file first.
    until: Option<PathBuf>,
    /// Calls back from `pernet.init`: `run_in_two` these.
    run_in_two: Option<(u64, u64)>,
    /// Calls back from `pernet.init`: registers a notifier in this namespace.
    notifier: Option<u64>,
    /// Calls back from work in these two: registers a notifier in the first.
    notifier_in_two: Option<(u64, u64)>,
}

struct Plug {
    config: Config,
    host: Host,
}

impl Plugin for Plug {
    type Config = Config;

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        reg.pernet_device("devices", Plug { config: config.clone(), host: host.clone() })?;
        Ok(Plug { config, host })
    }
}

impl PernetOps for Plug {
    type State = Netdev;

    fn init(&self, net: &Net<'_>) -> Result<Netdev> {
        if let Some((first, second)) = self.config.run_in_two {
            self.host.run_in_two(NetCookie(first), NetCookie(second), |_, _| ())?;
        }
        if let Some(cookie) = self.config.notifier {
            let _ = self.host.register_netdevice_notifier_net(NetCookie(cookie), 3, Deaf)?;
        }
        if let Some((first, second)) = self.config.notifier_in_two {
            let host = self.host.clone();
            let work = move |first: &Net<'_>, _: &Net<'_>| {
                host.register_netdevice_notifier_net(first.cookie(), 3, Deaf).map(|_| ())
            };
            self.host.run_in_two(NetCookie(first), NetCookie(second), work)??;
        }
        let spec = NetdevSpec::tap("bad%d").alt_name("worse").mtu(1400).mtu_bounds(68, 9000).queues(2).offloads(true);
        let dev = self.host.alloc_netdev(spec, Ops(self.config.clone()))?;
        net.register_netdevice(&dev)?;
        Ok(dev)
    }
}

struct Deaf;

impl Notifier for Deaf {
    fn event(&self, _: &Net<'_>, _: &Event<'_>) -> Result<Verdict> {
        Ok(Verdict::Done)
    }
}

struct Ops(Config);

impl Ops {
    fn at(&self, op: &str) -> Result<()> {
        tracing::debug!("op {op}");
        if self.0.op != op {
            return Ok(());
        }
        while self.0.until.as_ref().is_some_and(|file| !file.exists()) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        assert!(!self.0.panic, "as asked, in {op}");
        Err(Error::new(libc::EBUSY, format!("as asked, in {op}")))
    }
}

impl NetDeviceOps for Ops {
    const XMIT: bool = true;

    fn init(&self, _: &Net<'_>, _: &NdoDevice<'_>) -> Result<()> {
        self.at("init")
    }

    fn uninit(&self, _: &Net<'_>, _: &NdoDevice<'_>) -> Result<()> {
        self.at("uninit")
    }

    fn open(&self, _: &Net<'_>, _: &NdoDevice<'_>) -> Result<()> {
        self.at("open")
    }

    fn stop(&self, _: &Net<'_>, _: &NdoDevice<'_>) -> Result<()> {
        self.at("stop")
    }

    fn change_mtu(&self, _: &Net<'_>, _: &NdoDevice<'_>, mtu: u32) -> Result<()> {
        tracing::debug!("mtu {mtu}");
        self.at("change_mtu")
    }

    fn set_mac_address(&self, _: &Net<'_>, _: &NdoDevice<'_>, address: &[u8]) -> Result<()> {
        tracing::debug!("address {address:?}");
        self.at("set_mac_address")
    }

    fn get_stats(&self) -> Stats {
        let _ = self.at("get_stats");
        Stats { tx_dropped: 4, ..Stats::default() }
    }

    fn get_ethtool_stats(&self) -> Vec<(Cow<'static, str>, u64)> {
        let _ = self.at("get_ethtool_stats");
        vec![("second".into(), 2), ("first".into(), u64::MAX)]
    }

    fn destructor(&self) {
        let _ = self.at("destructor");
    }

    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {
        let _ = self.at("start_xmit");
        let _ = queue.datapath().netif_rx_list(queue.index(), frames);
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        let _ = self.at("free");
    }
}

export_plugin!(Plug, name = "bad-devices", description = "has devices that go wrong where its configuration says");
