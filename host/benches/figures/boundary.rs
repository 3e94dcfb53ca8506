//! What a call across the plugin boundary costs more than a call of the same code in the same file.
//!
//! The call is an exit of `loopback` at a namespace's death, which has nothing to do and does nothing. It goes the
//! daemon's whole way: admitted, shown as running, timed, told to a monitor that nobody listens to.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pernet_plugin_api::{ExitReason, NetCookie};
use pernetd::control::monitor::{HookLine, Monitor};
use pernetd::engine::{Area, At, Created, Failure, Link, LinkChange, Links, Namespace, Net, Operations, Owner, Wanted};
use pernetd::plugin::file::open;
use pernetd::plugin::{Code, HookRecord, HostServices, Instance, InstanceRef, Judge, LogLine};

use crate::sandbox::{cdylib, plugins_dir};

const CALLS: u32 = 2_000_000;
const ROUNDS: usize = 7;

pub(crate) fn measure() {
    let file = plugins_dir(&[cdylib("loopback")]).join("libpernet_loopback.so");
    let code = Code::load(&open(&Judge::new(), &file, None).unwrap()).unwrap();
    let services = Arc::new(Services(Monitor::new()));
    let instance = Instance::create(&code, 1, "{}", services).unwrap();
    let owner = Owner::new(Arc::clone(instance.name()), instance.generation(), 0);
    let member = instance.member(Arc::new(owner));
    let across = &*member.ops()[0].1;
    let net = Net::new(NetCookie(1), 1, Box::new(Here), false);
    net.set_names(vec!["here".into()]);
    let areas = [across.init(&At { net: &net, areas: &[] }).unwrap()];
    let at = At { net: &net, areas: &areas };
    let (direct, across) = (fastest(&Direct, &at), fastest(across, &at));
    println!("\na call that does nothing, in ns: direct {direct:.1}, across the boundary {across:.1}");
}

/// Nanoseconds per call, of the round that was least disturbed.
fn fastest(ops: &dyn Operations, at: &At<'_>) -> f64 {
    let round = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            black_box(black_box(ops).exit(black_box(at), black_box(ExitReason::Died))).unwrap();
        }
        start.elapsed()
    };
    (0..ROUNDS).map(|_| round()).min().unwrap_or(Duration::MAX).as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// The same decision as `loopback`'s, on this side.
struct Direct;

impl Operations for Direct {
    fn init(&self, _: &At<'_>) -> Result<Area, Failure> {
        Ok(Area(0))
    }
    fn pre_exit(&self, _: &At<'_>, _: ExitReason) -> Result<(), Failure> {
        Ok(())
    }
    fn exit(&self, at: &At<'_>, reason: ExitReason) -> Result<(), Failure> {
        black_box(at.areas[0].0 != 0 && reason.undoes());
        Ok(())
    }
    fn exit_batch(&self, _: &[At<'_>], _: ExitReason) -> Result<(), Failure> {
        Ok(())
    }
    fn free(&self, _: Area) -> Result<(), Failure> {
        Ok(())
    }
}

/// The caller's own namespace.
pub(crate) struct Here;

impl Namespace for Here {
    fn enter(&self) -> Result<(), Failure> {
        Ok(())
    }
    fn home(&self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Links for Here {
    fn list(&self) -> Result<Vec<Link>, Failure> {
        Ok(Vec::new())
    }
    fn create(&self, _: &Wanted<'_>, _: Option<(&Net, &Wanted<'_>)>) -> Result<(Created, Option<Created>), Failure> {
        Err(Failure::new(38, "no links are made here"))
    }
    fn delete(&self, _: u32) -> Result<(), Failure> {
        Err(Failure::new(38, "no links are made here"))
    }
    fn change(&self, _: u32, _: &LinkChange<'_>) -> Result<(), Failure> {
        Err(Failure::new(38, "no links are made here"))
    }
    fn fence(&self) -> Result<u64, Failure> {
        Ok(0)
    }
    fn look(&self, _: u32) -> Result<Option<Link>, Failure> {
        Ok(None)
    }
}

/// Tells hooks to the monitor, as the daemon's does.
struct Services(Arc<Monitor>);

impl HostServices for Services {
    fn log(&self, _: LogLine<'_>) {}

    fn log_level(&self) -> u8 {
        0
    }

    fn hook_called(&self, record: HookRecord<'_>) {
        self.0.publish(HookLine {
            plugin: record.plugin,
            hook: record.hook,
            netns: record.netns,
            device: record.device,
            error: None,
            duration_us: u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX),
        });
    }

    fn defer(&self, _: &InstanceRef, _: &[u64], _: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn run_in(&self, _: &InstanceRef, _: u64, _: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn poisoned(&self, _: &str, _: u64, failure: &Failure) {
        panic!("{failure}");
    }
}
