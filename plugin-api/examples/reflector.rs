//! Gives every namespace a tap device that sends back whatever is sent through it.
#![forbid(unsafe_code)]

use pernet_plugin_api::prelude::*;

struct Reflector {
    host: Host,
}

impl Plugin for Reflector {
    type Config = NoConfig;

    fn init(reg: &mut Registrar, host: Host, _config: NoConfig) -> Result<Self> {
        reg.pernet_device("reflector", Reflector { host: host.clone() })?;
        Ok(Reflector { host })
    }
}

impl PernetOps for Reflector {
    /// The device is freed when this is dropped, after the namespace's end has unregistered it.
    type State = Netdev;

    fn init(&self, net: &Net<'_>) -> Result<Netdev> {
        let dev = self.host.alloc_netdev(NetdevSpec::tap("reflect%d"), Mirror)?;
        net.register_netdevice(&dev)?;
        net.dev_open(&dev)?;
        Ok(dev)
    }
}

struct Mirror;

impl NetDeviceOps for Mirror {
    const XMIT: bool = true;

    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {
        for frame in frames.iter_mut() {
            // The two addresses of the Ethernet header change places.
            let (to, from) = frame.bytes_mut()[..12].split_at_mut(6);
            to.swap_with_slice(from);
        }
        // What cannot go in is dropped, and counted there.
        let _ = queue.datapath().netif_rx_list(queue.index(), frames);
    }
}

export_plugin!(Reflector, name = "reflector", description = "a tap device that sends back what is sent through it");
