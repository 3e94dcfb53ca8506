//! A plugin with a sysctl of each kind in each namespace, for tests of the daemon. It writes down which values its knobs
//! have when they are registered, and what a thread sees that is in one of its handlers.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pernet_plugin_api::prelude::*;
use serde::Deserialize;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Where lines go.
    record: PathBuf,
    /// The directory of its tables.
    #[serde(default = "probe")]
    path: String,
    /// Leaves its table registered at its exit.
    #[serde(default)]
    leave: bool,
    /// Registers these besides, in this order; a refusal fails the init.
    #[serde(default)]
    more: Vec<More>,
    /// What its `own` begins with: tells instances apart.
    #[serde(default)]
    label: String,
}

/// A table of plain numbers.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct More {
    path: String,
    names: Vec<String>,
}

fn probe() -> String {
    "probe".to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Probe;

impl Plugin for Probe {
    type Config = Config;

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        reg.pernet_subsys("probe", Ops { host, config })?;
        Ok(Probe)
    }
}

struct Ops {
    host: Host,
    config: Config,
}

/// What a namespace has.
struct State {
    headers: Mutex<Vec<CtlHeader>>,
    own: Arc<Own>,
}

impl PernetOps for Ops {
    type State = State;

    fn init(&self, net: &Net<'_>) -> Result<State> {
        let knobs = Knobs::new();
        let own = Arc::new(Own {
            host: self.host.clone(),
            net: net.cookie(),
            record: self.config.record.clone(),
            text: Mutex::new(self.config.label.clone()),
            header: Mutex::default(),
        });
        let header = self.host.register_net_sysctl(net.cookie(), &self.config.path, knobs.table(&own))?;
        own.record(&format!("registered {} {}", net.name(), knobs.spelled()));
        tracing::debug!("the probe has its sysctls");
        *lock(&own.header) = Some(header);
        let mut headers = Vec::new();
        for more in &self.config.more {
            let number = IntKnob::new(0);
            let table = more.names.iter().fold(CtlTable::new(), |table, name| table.int(name, &number, ..));
            headers.push(self.host.register_net_sysctl(net.cookie(), &more.path, table)?);
        }
        Ok(State { headers: Mutex::new(headers), own })
    }

    fn exit(&self, net: &Net<'_>, state: &State, _: ExitReason) -> Result<()> {
        let header = lock(&state.own.header).take();
        if self.config.leave {
            std::mem::forget(header);
            return Ok(());
        }
        lock(&state.headers).clear();
        let ended = header.map_or(Ok(()), CtlHeader::unregister);
        state.own.record(&format!("unregistered {} {}", net.name(), errno(&ended)));
        ended
    }
}

fn errno(result: &Result<()>) -> i32 {
    result.as_ref().err().map_or(0, Error::errno)
}

struct Knobs {
    int: IntKnob,
    bounded: IntKnob,
    uint: UintKnob,
    interval: UintKnob,
    bool: BoolKnob,
    ulong: UlongKnob,
    vector: IntKnob,
    ulongs: UlongKnob,
    text: TextKnob,
    globs: TextKnob,
}

impl Knobs {
    fn new() -> Knobs {
        Knobs {
            int: IntKnob::new(3),
            bounded: IntKnob::new(128),
            uint: UintKnob::new(u32::MAX),
            interval: UintKnob::new(1_000),
            bool: BoolKnob::new(true),
            ulong: UlongKnob::new(7),
            vector: IntKnob::vector([4096, 131_072, 6_291_456]),
            ulongs: UlongKnob::vector([1, 2, 3]),
            text: TextKnob::new(15, "quiet"),
            globs: TextKnob::checked(63, "*", |text| match text.contains("[[") {
                true => Err(Error::new(libc::EINVAL, format!("`{text}` is no pattern"))),
                false => Ok(()),
            }),
        }
    }

    fn table(&self, own: &Arc<Own>) -> CtlTable {
        let (reader, writer, shown) = (Arc::clone(own), Arc::clone(own), Arc::clone(own));
        let constant = UintKnob::new(42);
        CtlTable::new()
            .int("int", &self.int, ..)
            .int("bounded", &self.bounded, 1..)
            .uint("uint", &self.uint, ..)
            .uint("interval", &self.interval, 10..=60_000)
            .bool("bool", &self.bool)
            .ulong("ulong", &self.ulong, 0..=1_000_000)
            .int("vector", &self.vector, 1..)
            .ulong("ulongs", &self.ulongs, ..)
            .text("text", &self.text)
            .text("globs", &self.globs)
            .own("own", move || Ok(lock(&reader.text).clone()), move |text| writer.written(text))
            .show("where", move || Ok(shown.place()))
            .uint("fixed", &constant, ..)
            .mode(0o444)
            .uint("secret", &constant, ..)
            .mode(0o600)
            .uint("sink", &self.interval, ..)
            .mode(0o200)
    }

    fn spelled(&self) -> String {
        let Knobs { int, interval, bool, vector, text, .. } = self;
        let vector = vector.values();
        format!(
            "int={} interval={} bool={} vector={vector:?} text={}",
            int.get(),
            interval.get(),
            bool.get(),
            text.get()
        )
    }
}

/// The handlers of its own.
struct Own {
    host: Host,
    net: NetCookie,
    record: PathBuf,
    text: Mutex<String>,
    header: Mutex<Option<CtlHeader>>,
}

impl Own {
    /// Some words are orders, for the worse mostly.
    fn written(&self, text: &str) -> Result<()> {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("panic", _) => panic!("as asked, in a handler"),
            ("fail", errno) => Err(Error::new(errno.parse().unwrap_or(libc::EIO), "as asked, in a handler")),
            ("until", file) => {
                self.hang(file);
                Ok(())
            }
            ("run_in", file) => {
                if !file.is_empty() {
                    self.hang(file);
                }
                let found = self.host.run_in(self.net, |net| format!("{} {}", net.name(), inside()))?;
                *lock(&self.text) = found;
                Ok(())
            }
            ("unregister", _) => {
                // Taken out first: the lock is not held while it waits.
                let header = lock(&self.header).take();
                let ended = header.map_or(Ok(()), CtlHeader::unregister);
                self.record(&format!("from a handler {}", errno(&ended)));
                ended
            }
            _ => {
                text.clone_into(&mut lock(&self.text));
                Ok(())
            }
        }
    }

    /// Until the file is there.
    fn hang(&self, file: &str) {
        self.record("hanging");
        while fs::symlink_metadata(Path::new(file)).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Where a handler runs.
    fn place(&self) -> String {
        inside()
    }

    /// In one write: many handlers write at once.
    fn record(&self, line: &str) {
        let file = OpenOptions::new().append(true).create(true).open(&self.record);
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }
}

/// The namespace in which this thread is: `net:[inode]`.
fn inside() -> String {
    fs::read_link("/proc/thread-self/ns/net").unwrap_or_default().display().to_string()
}

export_plugin!(Probe, name = "probe-sysctl", level = "subsys", description = "has sysctls of each kind, for tests");
