//! The host's table, its entry about the daemon's own figures.
//!
//! The hooks' are kept here ([`super::figures`]); the other numbers are the daemon's to tell, through
//! [`super::HostServices`]. Nothing is waited for.

use super::figures::{BOUNDS, HookFigures, hook_figures};
use super::host_api::{find_open, guarded};
use abi_stable::std_types::{RString, RVec};
use pernet_plugin_api::abi::{self, FiguresReturn};

/// A number of the daemon's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What is counted.
    pub what: &'static str,
    /// The part of it that this number is about; empty for all of it.
    pub of: &'static str,
    /// How many.
    pub value: u64,
}

pub(super) extern "C" fn figures(token: u64) -> FiguresReturn {
    let (mut hooks, mut figures) = (RVec::new(), RVec::new());
    let status = guarded(|| {
        let services = &find_open(token)?.services;
        figures = services.figures().iter().map(told).collect();
        hooks = hook_figures(|plugin| services.is_configured(plugin)).iter().map(told_hook).collect();
        Ok(())
    });
    let version = RString::from(env!("CARGO_PKG_VERSION"));
    FiguresReturn { status, version, bounds: RVec::from(BOUNDS.to_vec()), hooks, figures }
}

fn told(figure: &Figure) -> abi::Figure {
    abi::Figure { what: figure.what.into(), of: figure.of.into(), value: figure.value }
}

fn told_hook(hook: &HookFigures) -> abi::HookFigures {
    abi::HookFigures {
        plugin: (&*hook.plugin).into(),
        hook: hook.hook.into(),
        errors: hook.errors,
        nanoseconds: hook.nanoseconds,
        calls: RVec::from(hook.calls.to_vec()),
    }
}
