//! A plugin that does as its configuration says: works, or fails or panics at the named hook. For tests of the host.

use pernet_plugin_api::prelude::*;
use serde::Deserialize;

/// What a test changes in the file's bytes, to have another content that behaves visibly otherwise.
const MARK: &str = "mark:first-content";

struct OnDemand {
    config: Config,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// The hook that goes wrong: `check`, `init`, `drop`, `pernet.init`, `free`, `netdev`, …
    hook: String,
    /// It panics instead of returning an error.
    panic: bool,
    /// Calls back from `pernet.init`: `run_in` this cookie.
    run_in: Option<u64>,
    /// Calls back from `init`: `defer` to this cookie.
    defer: Option<u64>,
}

impl Config {
    fn at(&self, hook: &str) -> Result<()> {
        if self.hook != hook {
            return Ok(());
        }
        assert!(!self.panic, "as asked, in {hook}");
        Err(Error::new(libc::EBUSY, format!("as asked, in {hook}")))
    }
}

impl Plugin for OnDemand {
    type Config = Config;

    fn check(config: &Config) -> Result<(), ConfigError> {
        config.at("check").map_err(|e| ConfigError::at("hook", e.message()))
    }

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        tracing::info!(target: "on_demand", answer = 42, "{MARK}");
        if let Some(cookie) = config.defer {
            host.defer(NetCookie(cookie), |net| tracing::info!("deferred work in {}", net.name()))?;
        }
        reg.pernet_subsys("ops", Ops { config: config.clone(), host })?;
        reg.notifier("devices", 7, Devices { config: config.clone() })?;
        config.at("init")?;
        Ok(OnDemand { config })
    }
}

impl Drop for OnDemand {
    fn drop(&mut self) {
        tracing::info!("dropped");
        let _ = self.config.at("drop");
    }
}

struct Ops {
    config: Config,
    host: Host,
}

/// A namespace's private area.
struct Area {
    config: Config,
}

impl Drop for Area {
    fn drop(&mut self) {
        let _ = self.config.at("free");
    }
}

impl PernetOps for Ops {
    type State = Area;

    fn init(&self, net: &Net<'_>) -> Result<Area> {
        tracing::debug!("init in {}", net.name());
        if let Some(cookie) = self.config.run_in {
            self.host.run_in(NetCookie(cookie), |_| ())?;
        }
        self.config.at("pernet.init")?;
        Ok(Area { config: self.config.clone() })
    }

    fn pre_exit(&self, _net: &Net<'_>, _state: &Area, _reason: ExitReason) -> Result<()> {
        self.config.at("pernet.pre_exit")
    }

    fn exit(&self, _net: &Net<'_>, _state: &Area, _reason: ExitReason) -> Result<()> {
        self.config.at("pernet.exit")
    }

    fn exit_batch(&self, _nets: &[Net<'_>], _reason: ExitReason) -> Result<()> {
        self.config.at("pernet.exit_batch")
    }
}

struct Devices {
    config: Config,
}

impl Notifier for Devices {
    fn event(&self, _net: &Net<'_>, event: &Event<'_>) -> Result<Verdict> {
        tracing::trace!("{} {}", event.kind.as_str(), event.device.name);
        self.config.at("netdev")?;
        Ok(Verdict::Stop)
    }
}

export_plugin!(
    OnDemand,
    name = "bad-on-demand",
    level = "subsys",
    after = ["before-it"],
    license = "MIT OR Apache-2.0",
    description = "goes wrong where its configuration says"
);
