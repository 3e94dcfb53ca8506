//! What a namespace costs and how soon it is set up, beside few and beside many others, by both methods.
//!
//! One population of namespaces grows from size to size. At each size the daemon is started anew by each method.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pernetd::linux::netns;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::daemon::{Daemon, Monitor};
use crate::numbers::{ms, per, percentile, us};
use crate::sandbox::{RUN_NETNS, wait_until};

const SIZES: [usize; 4] = [10, 1_000, 5_000, 10_000];
/// Namespaces added one by one, for the times.
const ONE_BY_ONE: usize = 300;
/// The time between two of them where nobody asks whether one is done.
const PACE: Duration = Duration::from_millis(4);
/// Namespaces added as fast as they can be made, for the cost.
const AT_ONCE: usize = 1_000;
const SYSCTL: &str = r#"
[[config.profile]]
name = "figures"
settings = { "net.ipv4.ip_default_ttl" = 99 }
"#;
const SOON: Duration = Duration::from_secs(60);

pub(crate) fn measure() {
    // A namespace is taken for new for as long as it was never set up; those that were are kept, and so their end, which
    // the kernel does in the background for long, falls into no measurement.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    netns::prepare_folder(Path::new(RUN_NETNS)).unwrap();
    let most = SIZES.into_iter().filter(|size| *size <= most_wanted()).collect::<Vec<_>>();
    println!("\nnamespaces, with loopback and sysctl (one key); times in ms, by the clock; CPU in us per namespace");
    println!(
        "{:>8} {:9} {:>7} {:>7} {:>7} {:>7}  {:>8} {:>8}  {:>7} {:>7} {:>5}  {:>7} {:>7} {:>7} {:>7}",
        "existing",
        "method",
        "p50",
        "p90",
        "p99",
        "max",
        "CPU 1by1",
        "CPU many",
        "Pss KiB",
        "Rss KiB",
        "fds",
        "start",
        "CPU",
        "again",
        "CPU"
    );
    let mut population = Population::default();
    let mut first: [Option<(u64, usize)>; 2] = [None, None];
    for size in most {
        population.grow(size);
        for (at, method) in ["fanotify", "inotify"].into_iter().enumerate() {
            let footprint = measure_one(&mut population, size, method);
            let (pss, fds) = *first[at].get_or_insert(footprint);
            if size >= 1_000 {
                let more = u64::try_from(size - SIZES[0]).unwrap();
                println!(
                    "{:>8} {method:9} per namespace: {} bytes of Pss, {:.3} fds",
                    "",
                    footprint.0.saturating_sub(pss) / more,
                    (footprint.1 - fds) as f64 / more as f64
                );
            }
        }
    }
}

fn most_wanted() -> usize {
    std::env::var("PERNET_FIGURES_MOST").ok().and_then(|most| most.parse().ok()).unwrap_or(usize::MAX)
}

/// One row; what the daemon holds (bytes, descriptors) when it is ready.
fn measure_one(population: &mut Population, size: usize, method: &str) -> (u64, usize) {
    let main = format!("discovery.method = \"{method}\"");
    let daemon = Daemon::start(&main, SYSCTL);
    let (start, start_cpu) = (daemon.ready_after, daemon.cpu());
    daemon.stop();
    let daemon = Daemon::start(&main, SYSCTL);
    let (again, again_cpu) = (daemon.ready_after, daemon.cpu());
    let ((pss, rss), fds) = (daemon.memory(), daemon.fds());
    let mut times = appear(&daemon, population);
    let paced = one_by_one(&daemon, population);
    let at_once = at_once(&daemon, population);
    daemon.stop();
    let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| ms(percentile(&mut times, percent)));
    println!(
        "{size:>8} {method:9} {p50:>7} {p90:>7} {p99:>7} {max:>7}  {:>8} {:>8}  {:>7} {:>7} {fds:>5}  {:>7.0} {:>7.0} {:>7.0} {:>7.0}",
        us(paced),
        us(at_once),
        pss / 1024,
        rss / 1024,
        start.as_secs_f64() * 1e3,
        start_cpu.as_secs_f64() * 1e3,
        again.as_secs_f64() * 1e3,
        again_cpu.as_secs_f64() * 1e3,
    );
    (pss, fds)
}

/// From just before mount(2) until the last init is done, as the daemon's own time stamp says, for one after the other.
fn appear(daemon: &Daemon, population: &mut Population) -> Vec<Duration> {
    let mut monitor = Monitor::open(|| {
        let one = population.prepare();
        one.bind();
        daemon.wait(one.name());
        population.remove(one);
    });
    let mut times = Vec::with_capacity(ONE_BY_ONE);
    for _ in 0..ONE_BY_ONE {
        let new = population.prepare();
        let before = SystemTime::now();
        new.bind();
        let done = monitor.wait("sysctl", "pernet.init", new.name());
        // The stamp is cut to whole microseconds.
        times.push((done + Duration::from_micros(1)).duration_since(before).unwrap());
        population.remove(new);
        // In reverse order, so this one is the last.
        monitor.wait("loopback", "pernet.exit", &population.last_name());
    }
    times
}

/// The daemon's CPU time per namespace when each comes alone: nothing is done in one go with another. Nobody listens.
fn one_by_one(daemon: &Daemon, population: &mut Population) -> Duration {
    let before = daemon.cpu();
    let mut new = Vec::with_capacity(ONE_BY_ONE);
    for _ in 0..ONE_BY_ONE {
        let next = Instant::now() + PACE;
        let one = population.prepare();
        one.bind();
        new.push(one);
        // A rhythm, not a wait: whoever asks whether it is done, or looks into the namespace, changes what is measured.
        while Instant::now() < next {
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
    }
    let spent = daemon.cpu() - before;
    population.remove_all(daemon, new);
    per(spent, ONE_BY_ONE)
}

/// The same when they come as fast as the kernel makes them.
fn at_once(daemon: &Daemon, population: &mut Population) -> Duration {
    let before = daemon.cpu();
    let new: Vec<New> = (0..AT_ONCE)
        .map(|_| {
            let one = population.prepare();
            one.bind();
            one
        })
        .collect();
    new.iter().for_each(|one| daemon.wait(one.name()));
    let asked = daemon.cpu();
    // What the questions cost is not the namespaces' cost.
    new.iter().for_each(|one| daemon.wait(one.name()));
    let questions = daemon.cpu() - asked;
    population.remove_all(daemon, new);
    per((asked - before).saturating_sub(questions), AT_ONCE)
}

#[derive(Default)]
struct Population {
    made: usize,
    existing: usize,
    last: String,
    /// Namespaces without a name, kept from ending.
    kept: Vec<OwnedFd>,
}

/// A namespace whose name is taken and shows nothing yet.
struct New {
    path: PathBuf,
    netns: OwnedFd,
}

impl Population {
    fn grow(&mut self, size: usize) {
        for _ in self.existing..size {
            let name = self.next_name();
            netns::take_name(&name).unwrap();
            netns::bind(netns::create().unwrap().as_fd(), &name).unwrap();
        }
        self.existing = size;
    }

    fn next_name(&mut self) -> PathBuf {
        self.made += 1;
        Path::new(RUN_NETNS).join(OsString::from(format!("n{}", self.made)))
    }

    /// In the order of `ip netns add`: the name first, then the namespace.
    fn prepare(&mut self) -> New {
        let path = self.next_name();
        netns::take_name(&path).unwrap();
        New { path, netns: netns::create().unwrap() }
    }

    fn remove(&mut self, new: New) {
        self.last = new.name().to_owned();
        netns::remove(&new.path).unwrap();
        self.kept.push(new.netns);
    }

    fn last_name(&self) -> String {
        self.last.clone()
    }

    fn remove_all(&mut self, daemon: &Daemon, new: Vec<New>) {
        let names: Vec<String> = new.iter().map(|one| one.name().to_owned()).collect();
        new.into_iter().for_each(|one| self.remove(one));
        for name in names {
            wait_until("the namespaces are gone", SOON, || !daemon.knows(&name));
        }
    }
}

impl New {
    fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }

    fn bind(&self) {
        netns::bind(self.netns.as_fd(), &self.path).unwrap();
    }
}
