//! Makes as many sockets as it is told in a namespace's init, and writes down how long each took to make; those that it is
//! told to keep live as long as the namespace. For the figures; it does nothing with its sockets.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use pernet_plugin_api::prelude::*;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Family, type and protocol.
    kind: [i32; 3],
    /// Made and released again, one after the other.
    timed: usize,
    /// By a thread of the plugin's own instead of the hook's.
    by_thread: bool,
    /// Kept.
    kept: usize,
    /// Where the nanoseconds go, a line for each timed one: to make it, and to release it.
    times: String,
}

struct Bench {
    host: Host,
    config: Config,
}

struct Sockets;

impl Plugin for Sockets {
    type Config = Config;

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        reg.pernet_subsys("bench-sockets", Bench { host, config })?;
        Ok(Sockets)
    }
}

impl Bench {
    fn timed(&self, make: impl Fn() -> Result<Socket>) -> Result<String> {
        let mut lines = String::new();
        for _ in 0..self.config.timed {
            let since = Instant::now();
            let socket = make()?;
            let made = since.elapsed();
            drop(socket);
            let [made, released] = [made, since.elapsed() - made].map(|time: Duration| time.as_nanos());
            let _ = writeln!(lines, "{made} {released}");
        }
        Ok(lines)
    }
}

impl PernetOps for Bench {
    type State = Vec<Socket>;

    fn init(&self, net: &Net<'_>) -> Result<Vec<Socket>> {
        let [family, kind, protocol] = self.config.kind;
        let make = || net.sock_create(family, kind, protocol);
        if self.config.timed > 0 {
            let cookie = net.cookie();
            let from_outside = || self.host.sock_create(cookie, family, kind, protocol);
            let lines = if self.config.by_thread {
                let timed = std::thread::scope(|scope| scope.spawn(|| self.timed(from_outside)).join());
                timed.map_err(|_| Error::new(libc::EIO, "the thread panicked"))??
            } else {
                self.timed(make)?
            };
            fs::write(&self.config.times, lines)?;
        }
        (0..self.config.kept).map(|_| make()).collect()
    }
}

export_plugin!(Sockets, name = "bench-sockets", description = "makes sockets, for the figures");
