//! Lets every namespace bind services to low ports without root.
#![forbid(unsafe_code)]

use pernet_plugin_api::prelude::*;

struct LowPorts;

impl Plugin for LowPorts {
    type Config = NoConfig;

    fn init(reg: &mut Registrar, _host: Host, _config: NoConfig) -> Result<Self> {
        reg.pernet_subsys("low-ports", LowPorts)?;
        Ok(LowPorts)
    }
}

impl PernetOps for LowPorts {
    type State = ();

    fn init(&self, net: &Net<'_>) -> Result<()> {
        std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
        tracing::info!(netns = net.name(), "low ports are open to all");
        Ok(())
    }
}

export_plugin!(LowPorts, name = "low-ports", description = "opens low ports to ordinary users");
