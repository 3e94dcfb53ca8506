//! The real `pernetd` as a child: started as systemd does it, and looked at from outside through /proc.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::sandbox::{cdylib, example_cdylib, plugins_dir, tie};

const HOME: &str = "/pernet";
/// For what is there soon on any machine.
const SOON: Duration = Duration::from_secs(60);
/// So long without using the processor is at rest.
const REST: Duration = Duration::from_millis(30);

pub(crate) struct Daemon {
    child: Child,
    /// Where it tells how it is, to the end.
    _told: UnixDatagram,
    /// From before the start until it said that what was there is set up.
    pub(crate) ready_after: Duration,
}

impl Daemon {
    /// Starts it with `loopback` and `sysctl` and waits until it is ready.
    pub(crate) fn start(main: &str, sysctl: &str) -> Daemon {
        // An empty file would mask it.
        configure(main, &[("10-loopback.toml", "enabled = true\n"), ("20-sysctl.toml", sysctl)]);
        Self::run()
    }

    /// Starts it with these plugins.
    pub(crate) fn start_with(plugins: &[(&str, &str)]) -> Daemon {
        configure("", plugins);
        Self::run()
    }

    fn run() -> Daemon {
        let notify = Path::new(HOME).join("notify");
        let _ = fs::remove_file(&notify);
        let told = UnixDatagram::bind(&notify).unwrap();
        told.set_read_timeout(Some(SOON)).unwrap();
        let log = File::create(format!("{HOME}/log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pernetd"));
        command.args(["--config", "/pernet/pernetd.toml", "--config-dir", HOME, "--plugin-dir", "/plugins"]);
        command.args(["--runtime-dir", "/pernet/run", "--state-dir", "/pernet/state"]);
        command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let start = Instant::now();
        let child = tie(&mut command).spawn().unwrap();
        let mut message = [0; 1024];
        loop {
            let Ok(len) = told.recv(&mut message) else { panic!("never ready: {}", log_text()) };
            if String::from_utf8_lossy(&message[..len]).lines().any(|line| line == "READY=1") {
                break;
            }
        }
        Daemon { child, ready_after: start.elapsed(), _told: told }
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    /// CPU time of all its threads, kernel part included, once it has nothing left to do.
    pub(crate) fn cpu(&self) -> Duration {
        let start = Instant::now();
        let (mut last, mut same) = (self.cpu_now(), Instant::now());
        while same.elapsed() < REST {
            assert!(start.elapsed() < SOON, "the daemon does not come to rest");
            thread::park_timeout(Duration::from_millis(2));
            let now = self.cpu_now();
            if now != last {
                (last, same) = (now, Instant::now());
            }
        }
        last
    }

    /// Threads that end take theirs along; the ones that matter live as long as the daemon.
    fn cpu_now(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten();
        let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
        texts.map(|text| Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())).sum()
    }

    /// CPU time of all its threads, also of those that have ended, to a hundredth of a second.
    pub(crate) fn all_cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // Behind the name: the 14th and 15th field of all.
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
    }

    /// Proportional and resident set size in bytes.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let rollup = self.proc("smaps_rollup");
        let field = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
        };
        (field("Pss:"), field("Rss:"))
    }

    /// Open descriptors.
    pub(crate) fn fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// One question to the control socket.
    pub(crate) fn ask(&self, method: &str, parameters: &Value) -> Value {
        let mut connection = Connection::open(method, parameters, false);
        let reply = connection.next();
        assert!(reply.get("error").is_none(), "{method}: {reply}");
        reply["parameters"].clone()
    }

    /// Whether it knows a namespace of this name, in any state.
    pub(crate) fn knows(&self, name: &str) -> bool {
        let reply = Connection::open("NetnsGet", &serde_json::json!({ "name": name }), false).next();
        reply.get("error").is_none_or(|error| error != "io.pernetd.NotFound")
    }

    /// Waits until a namespace is set up.
    pub(crate) fn wait(&self, name: &str) {
        let answer = self.ask("NetnsWait", &serde_json::json!({ "name": name, "timeout": SOON.as_secs() }));
        assert_eq!(answer["namespace"]["state"], "live", "{answer}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as an operator does.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().unwrap().success(), "{}", log_text());
    }
}

fn log_text() -> String {
    fs::read_to_string(format!("{HOME}/log")).unwrap_or_default()
}

fn configure(main: &str, plugins: &[(&str, &str)]) {
    let _ = fs::remove_dir_all(Path::new(HOME).join("plugins.d"));
    for folder in ["plugins.d", "run", "state"] {
        fs::create_dir_all(Path::new(HOME).join(folder)).unwrap();
    }
    let mut files = ["loopback", "metrics", "sysctl", "wire"].map(cdylib).to_vec();
    files.extend(["bench_devices", "bench_sockets"].map(example_cdylib).into_iter().filter(|file| file.exists()));
    plugins_dir(&files);
    let write = |file: &str, text: &str| fs::write(Path::new(HOME).join(file), text).unwrap();
    write("pernetd.toml", &format!("log.level = \"warn\"\ndiscovery.folders = [\"/run/netns\"]\n{main}\n"));
    plugins.iter().for_each(|(file, text)| write(&format!("plugins.d/{file}"), text));
}

/// A call on the control socket, and its replies.
pub(crate) struct Connection(BufReader<UnixStream>);

impl Connection {
    pub(crate) fn connect() -> Connection {
        let stream = UnixStream::connect("/pernet/run/io.pernetd").unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Connection(BufReader::new(stream))
    }

    fn open(method: &str, parameters: &Value, more: bool) -> Connection {
        let mut connection = Connection::connect();
        connection.send(method, parameters, more);
        connection
    }

    fn send(&mut self, method: &str, parameters: &Value, more: bool) {
        let parameters = if parameters.is_null() { serde_json::json!({}) } else { parameters.clone() };
        let call =
            serde_json::json!({ "method": format!("io.pernetd.{method}"), "parameters": parameters, "more": more });
        self.0.get_mut().write_all(format!("{call}\0").as_bytes()).unwrap();
    }

    /// One call, and its reply.
    pub(crate) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.send(method, parameters, false);
        self.next()
    }

    fn next(&mut self) -> Value {
        let mut reply = Vec::new();
        self.0.read_until(0, &mut reply).unwrap_or_else(|e| panic!("no reply: {e}; {}", log_text()));
        serde_json::from_slice(reply.strip_suffix(&[0]).unwrap()).unwrap()
    }
}

/// The hook calls, as `pernetctl monitor` sees them.
pub(crate) struct Monitor(Connection);

impl Monitor {
    /// Listens. `cause` makes a hook be called: the daemon does not say when it has begun to tell.
    pub(crate) fn open(mut cause: impl FnMut()) -> Monitor {
        let mut connection = Connection::open("Monitor", &Value::Null, true);
        connection.0.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        loop {
            cause();
            if connection.0.fill_buf().is_ok() {
                break;
            }
        }
        connection.0.get_ref().set_read_timeout(Some(SOON)).unwrap();
        Monitor(connection)
    }

    /// When this hook of this plugin was done in this namespace.
    pub(crate) fn wait(&mut self, plugin: &str, hook: &str, netns: &str) -> SystemTime {
        loop {
            let line = self.0.next();
            let line = &line["parameters"]["hook"];
            assert_ne!(line["result"], "error", "{line}");
            if line["plugin"] == plugin && line["hook"] == hook && line["netns"] == netns {
                return humantime::parse_rfc3339(line["time"].as_str().unwrap()).unwrap();
            }
        }
    }
}
