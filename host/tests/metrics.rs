//! The plugin `metrics` in the real daemon: what it tells is what the kernel and the daemon say, comes and goes with
//! namespaces and devices, and nobody who asks holds anything up.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;
mod scrape;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use machine::{Machine, SOON, inside, name_path, one, second_name};
use pernetd::linux::{ns, rtnetlink};
use rustix::process::Signal;
use sandbox::{Trial, cdylib, netns_add, netns_del, tie, wait_until};
use scrape::{DEFAULT, Scrape, answer, connect, exchange, request, text};
use serde_json::Value;

const DROP_IN: &str = "plugins.d/60-metrics.toml";
const FILE: &str = "/pernet/node/pernetd.prom";

fn main() -> ExitCode {
    let trials = [
        one("series come and go with namespaces and devices", come_and_go),
        one("counters of devices are those of ip", devices_agree),
        one("counters of namespaces are those of /proc/net", files_agree),
        one("promtool has no complaint", promtool).map_each(|t| t.ignored_if(!is_installed("promtool"))),
        one("names of any bytes are escaped", any_names),
        one("pernetd's own figures are what was called", own_figures),
        one("figures live through a reload and go with their plugin", figures_live_on),
        one("connection tracking, where the kernel has it", conntrack).map_each(|t| t.ignored_if(!has_conntrack())),
        one("the bound on series leaves out whole namespaces, the youngest, and counts them", bound),
        one("a hook that hangs holds up nobody, and its namespace is missing", hanging_hook),
        one("a setup does not wait for a scrape", setup_meanwhile),
        one("scrapes that overlap share", overlap),
        one("nothing is left open, and no namespace is kept", nothing_kept),
        one("what is not wanted is left out", selection),
        one("a textfile is whole, readable by all, and goes with the plugin", textfile),
        one("a reload moves to another address, or keeps the one it has", reload_address),
        one("an address that is in use is said, and a reload to it changes nothing", address_in_use),
        one("hostile and odd requests are answered as they should, or not at all", hostile),
        one("connections that hang keep nobody out", hanging_connections),
        one("a wrong configuration is refused by its field", refusals),
    ];
    sandbox::main(trials.into_iter().flatten().map(|t| t.ignored_if(!is_installed("ip"))).collect())
}

/// Trials, each changed.
trait MapEach {
    fn map_each(self, change: impl Fn(Trial) -> Trial) -> Self;
}

impl MapEach for Vec<Trial> {
    fn map_each(self, change: impl Fn(Trial) -> Trial) -> Self {
        self.into_iter().map(change).collect()
    }
}

fn is_installed(tool: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(tool).is_file())
}

fn has_conntrack() -> bool {
    fs::exists("/proc/thread-self/net/stat/nf_conntrack").unwrap_or(false)
}

fn ip(arguments: &str) -> Vec<u8> {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Writes the drop-in: keys of the plugin, then those of its table.
fn configure(m: &Machine, keys: &str, config: &str) {
    m.install_file(&cdylib("metrics"), "/plugins/libpernet_metrics.so".as_ref());
    m.write(DROP_IN, &format!("{keys}\n[config]\n{config}\n"));
}

fn start(m: &mut Machine, config: &str) {
    // The machine's own loopback, over which it is asked.
    rtnetlink::set_up(1).unwrap();
    configure(m, "", config);
    m.start();
}

fn add(m: &Machine, name: &str) {
    netns_add(name);
    m.wait_state(name, "live");
}

/// A veth pair, one end in the namespace as `eth0`, the other out here by the name of the namespace.
fn cable(name: &str) {
    let (_, there) = inside(name, ns::current).unwrap();
    rtnetlink::create_veth(name, "eth0", Some(there.as_fd())).unwrap();
}

/// The plugin as `plugin list` shows it.
fn plugin(m: &Machine) -> Value {
    let all = m.ctl(["plugin", "list"]);
    all.as_array().unwrap().iter().find(|row| row["name"] == "metrics").cloned().unwrap_or_default()
}

fn come_and_go(mut m: Machine) {
    start(&mut m, "");
    assert_eq!(Scrape::of(DEFAULT).values("netns"), [""; 0], "the host's own is not meant unless it is said");
    add(&m, "blue");
    add(&m, "red");
    let scrape = Scrape::of(DEFAULT);
    assert_eq!(
        (scrape.values("netns"), scrape.values("device")),
        (vec!["blue".into(), "red".into()], vec!["lo".into()])
    );
    let of = |device| [("netns", "blue"), ("device", device)];
    assert_eq!(scrape.get("pernet_network_up", &of("lo")), Some(0.0));
    cable("blue");
    ip("-n blue link set eth0 up mtu 1400");
    let scrape = Scrape::of(DEFAULT);
    assert_eq!(scrape.get("pernet_network_up", &of("eth0")), Some(1.0));
    assert_eq!(scrape.get("pernet_network_carrier", &of("eth0")), Some(0.0), "the other end is down");
    assert_eq!(scrape.get("pernet_network_mtu_bytes", &of("eth0")), Some(1400.0));
    let info = |kind, owner, state| {
        [of("eth0").as_slice(), &[("kind", kind), ("owner", owner), ("operstate", state)]].concat()
    };
    assert_eq!(scrape.get("pernet_network_info", &info("veth", "kernel", "up")), None);
    rtnetlink::set_up(rtnetlink::find("blue").unwrap().ifindex).unwrap();
    wait_until("it has a carrier", SOON, || {
        Scrape::of(DEFAULT).get("pernet_network_info", &info("veth", "kernel", "up")) == Some(1.0)
    });
    ip("-n blue link set eth0 name eth1");
    let scrape = Scrape::of(DEFAULT);
    assert_eq!((scrape.count("device", "eth0"), scrape.get("pernet_network_up", &of("eth1"))), (0, Some(1.0)));
    // Another name is another label.
    second_name("red", "crimson");
    netns_del("red");
    wait_until("it has the other name", SOON, || Scrape::of(DEFAULT).values("netns") == ["blue", "crimson"]);
    netns_del("blue");
    m.wait_gone("blue");
    assert_eq!(Scrape::of(DEFAULT).values("netns"), ["crimson"]);
    netns_del("crimson");
    m.wait_gone("crimson");
    let scrape = Scrape::of(DEFAULT);
    assert!(scrape.values("netns").is_empty() && scrape.values("device").is_empty(), "{:?}", scrape.values("device"));
    assert_eq!(scrape.get("pernetd_metrics_missing_namespaces_total", &[]), Some(0.0));
    m.stop();
}

fn devices_agree(mut m: Machine) {
    start(&mut m, "");
    add(&m, "blue");
    ip("-n blue link set lo up");
    ip("netns exec blue ping -q -c 3 -i 0.01 -s 500 127.0.0.1");
    let scrape = Scrape::of(DEFAULT);
    let links: Value = serde_json::from_slice(&ip("-n blue -j -s -s link show lo")).unwrap();
    let stats = &links[0]["stats64"];
    let labels = [("netns", "blue"), ("device", "lo")];
    let mut compared = 0;
    for (side, there) in [("receive", "rx"), ("transmit", "tx")] {
        for (name, value) in stats[there].as_object().unwrap() {
            let name = match name.as_str() {
                "multicast" | "nohandler" | "otherhost_dropped" | "bytes" | "packets" | "errors" | "dropped" => {
                    name.clone()
                }
                "over_errors" | "length_errors" | "crc_errors" | "frame_errors" | "fifo_errors" | "missed_errors" => {
                    name.clone()
                }
                "aborted_errors" | "window_errors" | "heartbeat_errors" | "collisions" => name.clone(),
                "carrier_errors" => name.clone(),
                _ => continue,
            };
            let told = scrape.get(&format!("pernet_network_{side}_{name}_total"), &labels);
            assert_eq!(told, value.as_f64(), "{side} {name} of {stats}");
            compared += 1;
        }
    }
    assert!(compared >= 10, "{stats}");
    assert!(scrape.get("pernet_network_receive_packets_total", &labels) >= Some(6.0));
    m.stop();
}

/// The counters of `snmp` and `netstat` as a reader of the files sees them, by the names of this plugin's.
fn files_agree(mut m: Machine) {
    start(&mut m, "");
    add(&m, "blue");
    ip("-n blue link set lo up");
    ip("netns exec blue ping -q -c 2 -i 0.01 127.0.0.1");
    let read = |file: &'static str| {
        inside("blue", move || fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default())
    };
    let scrape = Scrape::of(DEFAULT);
    let snmp = read("snmp");
    let column = |protocol: &str, name: &str| {
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.split(' ').position(|it| it == name).unwrap();
        values.split(' ').nth(at).unwrap().parse::<f64>().unwrap()
    };
    let netns = [("netns", "blue")];
    for (protocol, name, metric) in [
        ("Ip", "InReceives", "ip_in_receives_total"),
        ("Ip", "Forwarding", "ip_forwarding"),
        ("Ip", "DefaultTTL", "ip_default_ttl"),
        ("Icmp", "InEchos", "icmp_in_echos_total"),
        ("Icmp", "OutEchoReps", "icmp_out_echo_reps_total"),
        ("Tcp", "MaxConn", "tcp_max_conn"),
        ("Udp", "InDatagrams", "udp_in_datagrams_total"),
    ] {
        assert_eq!(scrape.get(&format!("pernet_netstat_{metric}"), &netns), Some(column(protocol, name)), "{metric}");
    }
    assert!(scrape.get("pernet_netstat_icmp_in_echos_total", &netns) >= Some(2.0), "they are the namespace's");
    assert_eq!(scrape.get("pernet_netstat_tcp_rto_min_seconds", &netns), Some(0.2));
    let columns = |file: &str| {
        let lines: Vec<String> =
            read(if file == "snmp" { "snmp" } else { "netstat" }).lines().map(str::to_owned).collect();
        lines.iter().step_by(2).map(|line| line.split_whitespace().count() - 1).sum::<usize>()
    };
    let all = scrape.series.keys().filter(|(name, _)| name.starts_with("pernet_netstat_")).count();
    let v6 = read("snmp6").lines().count();
    assert_eq!(all, columns("snmp") + columns("netstat") + v6, "each of them has a series");
    let used = scrape.get("pernet_sockstat_sockets_used", &netns);
    assert!(used.is_some() && scrape.get("pernet_sockstat_tcp_inuse", &netns) == Some(0.0));
    assert_eq!(scrape.get("pernet_sockstat_tcp6_inuse", &netns).is_some(), v6 > 0);
    assert!(scrape.series.keys().any(|(name, labels)| name == "pernet_sockstat_tcp_mem_bytes" && labels.is_empty()));
    m.stop();
}

fn complaints(text: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tie(&mut command).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn promtool(mut m: Machine) {
    assert_ne!(complaints("# TYPE a counter\na 1\n"), "", "it complains about what is wrong");
    m.probe(10, "a", "", "notifier = 1\nfaults = [{ hook = \"netdev.up\", netns = \"blue\", action = { fail = 5 } }]");
    start(&mut m, "");
    add(&m, "blue");
    netns_add("odd \"name\\");
    cable("blue");
    ip("-n blue link set lo up");
    ip("-n blue link set eth0 up");
    assert_eq!(m.reload().code, 0);
    wait_until("the hooks have been called", SOON, || {
        let labels = [("plugin", "probe-a"), ("hook", "netdev.up")];
        Scrape::of(DEFAULT).get("pernetd_hook_errors_total", &labels) >= Some(1.0)
    });
    let text = text(DEFAULT);
    assert_eq!(complaints(&text), "", "{text}");
    m.stop();
}

fn any_names(mut m: Machine) {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    start(&mut m, "");
    netns_add("quote\"back\\slash");
    netns_add(OsStr::from_bytes(b"line\nfeed\xff"));
    let names: Vec<String> = {
        let mut names = Vec::new();
        wait_until("both are there", SOON, || {
            let all = m.ctl(["netns", "list"]);
            let live = all.as_array().unwrap().iter().filter(|n| n["name"] != "@host" && n["state"] == "live");
            names = live.map(|n| n["name"].as_str().unwrap().to_owned()).collect();
            names.len() == 2
        });
        names.sort();
        names
    };
    // The label is the name as the operator knows it.
    assert_eq!(Scrape::of(DEFAULT).values("netns"), names);
    let path = name_path("quote\"back\\slash");
    assert!(path.exists());
    // A device's name has any bytes but / and blanks.
    let device = OsStr::from_bytes(b"d\"\\\xc3");
    let mut command = Command::new("ip");
    let made =
        command.args(["link", "add"]).arg(device).args(["type", "veth", "peer", "name", "plain"]).output().unwrap();
    if made.status.success() {
        add(&m, "blue");
        let moved = Command::new("ip").args(["link", "set"]).arg(device).args(["netns", "blue"]).status().unwrap();
        assert!(moved.success());
        assert_eq!(Scrape::of(DEFAULT).count("device", "d\"\\x5c\\xc3"), Scrape::of(DEFAULT).count("device", "lo") / 3);
    }
    m.stop();
}

fn own_figures(mut m: Machine) {
    let fault = "faults = [{ hook = \"pernet.init\", netns = \"bad\", action = { fail = 5 } }]";
    m.probe(10, "a", "on_init_failure = \"skip\"", fault);
    start(&mut m, "");
    for name in ["one", "two"] {
        add(&m, name);
    }
    netns_add("bad");
    m.wait_state("bad", "degraded");
    netns_del("one");
    m.wait_gone("one");
    let calls = |scrape: &Scrape, suffix: &str, hook: &str| {
        scrape.get(&format!("pernetd_hook_{suffix}"), &[("plugin", "probe-a"), ("hook", hook)])
    };
    let scrape = Scrape::of(DEFAULT);
    let recorded = |hook: &str| m.calls().iter().filter(|call| call.hook == hook).count() as f64;
    // It is tried again all the while.
    let inits = calls(&scrape, "duration_seconds_count", "pernet.init").unwrap();
    assert!(inits >= 3.0 && inits <= recorded("pernet.init"), "{inits} of {}", recorded("pernet.init"));
    assert_eq!(calls(&scrape, "duration_seconds_count", "pernet.exit"), Some(recorded("pernet.exit")));
    assert_eq!(calls(&scrape, "errors_total", "pernet.exit"), Some(0.0));
    assert_eq!(calls(&scrape, "errors_total", "pernet.init"), Some(inits - 2.0));
    assert!(calls(&scrape, "duration_seconds_sum", "pernet.init") > Some(0.0));
    let buckets: Vec<f64> = {
        let is = |name: &str, labels: &[(String, String)]| {
            name == "pernetd_hook_duration_seconds_bucket"
                && labels.contains(&("plugin".into(), "probe-a".into()))
                && labels.contains(&("hook".into(), "pernet.init".into()))
        };
        let of = scrape.series.iter().filter(|((name, labels), _)| is(name, labels));
        let mut sorted: Vec<(f64, f64)> = of
            .map(|((_, labels), value)| {
                let le = &labels.iter().find(|(name, _)| name == "le").unwrap().1;
                (if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() }, *value)
            })
            .collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        sorted.into_iter().map(|(_, count)| count).collect()
    };
    assert!(buckets.is_sorted() && buckets.last() == Some(&inits), "{buckets:?}");
    let states = |state: &str| scrape.get("pernetd_namespaces", &[("state", state)]);
    assert_eq!((states("live"), states("degraded"), states("failed")), (Some(2.0), Some(1.0), Some(0.0)));
    assert_eq!(scrape.get("pernetd_plugins", &[("state", "live")]), Some(2.0));
    assert_eq!(scrape.get("pernetd_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    wait_until("it is tried again", SOON, || {
        Scrape::of(DEFAULT).get("pernetd_namespace_retries_total", &[]) >= Some(1.0)
    });
    assert_eq!(m.reload().code, 0);
    m.write("pernetd.toml", "nonsense");
    assert_eq!(m.reload().code, 1);
    let scrape = Scrape::of(DEFAULT);
    let reloads = |result| scrape.get("pernetd_reloads_total", &[("result", result)]);
    assert_eq!((reloads("ok"), reloads("error")), (Some(1.0), Some(1.0)));
    m.stop();
}

fn figures_live_on(mut m: Machine) {
    m.probe(10, "a", "", "");
    start(&mut m, "");
    add(&m, "blue");
    let labels = [("plugin", "probe-a"), ("hook", "pernet.init")];
    let inits = || Scrape::of(DEFAULT).get("pernetd_hook_duration_seconds_count", &labels);
    // In blue and at home, if it is meant: with the default, blue.
    assert_eq!(inits(), Some(1.0));
    m.probe(10, "a", "", "device_op = true");
    assert_eq!(m.reload().code, 0);
    assert_eq!(inits(), Some(3.0), "a subsystem and a device more, nothing forgotten");
    m.no_probe(10, "a");
    assert_eq!(m.reload().code, 0);
    let scrape = Scrape::of(DEFAULT);
    assert_eq!(scrape.count("plugin", "probe-a"), 0);
    assert!(scrape.count("plugin", "metrics") > 0);
    m.stop();
}

fn conntrack(mut m: Machine) {
    start(&mut m, "");
    add(&m, "blue");
    let scrape = Scrape::of(DEFAULT);
    let entries = scrape.get("pernet_conntrack_entries", &[("netns", "blue")]);
    assert_eq!(entries, Some(0.0));
    let stat = inside("blue", || fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack").unwrap());
    let names = stat.lines().next().unwrap().split_whitespace().count();
    let told =
        scrape.series.keys().filter(|(name, labels)| name.starts_with("pernet_conntrack_") && !labels.is_empty());
    assert_eq!(told.count(), names, "{stat}");
    let limit = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<f64>().ok());
    assert_eq!(scrape.get("pernet_conntrack_entries_limit", &[]), limit);
    m.stop();
}

fn bound(mut m: Machine) {
    // Some 600 in each namespace, and the daemon's own.
    start(&mut m, "max_series = 2000");
    let names = ["n1", "n2", "n3", "n4", "n5", "n6"];
    for name in names {
        add(&m, name);
    }
    let size =
        |scrape: &Scrape| scrape.series.keys().filter(|(_, labels)| labels.iter().any(|(n, _)| n == "netns")).count();
    let first = Scrape::of(DEFAULT);
    let scrape = Scrape::of(DEFAULT);
    let told = scrape.values("netns");
    assert!(!told.is_empty() && told.len() < names.len(), "{told:?}");
    assert_eq!(told, names[..told.len()], "those that were made first");
    assert_eq!(first.values("netns").len(), told.len());
    let each = size(&scrape) / told.len();
    assert!(
        told.iter().all(|name| scrape.count("netns", name).abs_diff(each) < each / 4),
        "none of them is told by half"
    );
    assert!(scrape.series.len() <= 2000, "{}", scrape.series.len());
    let left = (names.len() - told.len()) as f64;
    let figure = |scrape: &Scrape, name: &str| scrape.get(&format!("pernetd_metrics_{name}"), &[]).unwrap();
    assert_eq!(figure(&scrape, "left_out_namespaces"), left);
    let left_out = figure(&scrape, "left_out_series");
    assert!((left_out / left - each as f64).abs() < each as f64 / 4.0, "{left_out}");
    assert_eq!(figure(&scrape, "left_out_series_total"), figure(&first, "left_out_series") + left_out);
    assert_eq!(figure(&scrape, "series"), scrape.series.len() as f64);
    // Where one goes, the next one in turn has its place.
    netns_del("n1");
    m.wait_gone("n1");
    let scrape = Scrape::of(DEFAULT);
    assert_eq!(scrape.values("netns"), names[1..=told.len()]);
    m.stop();
}

fn hanging_hook(mut m: Machine) {
    let fault =
        "notifier = 1\nfaults = [{ hook = \"netdev.up\", netns = \"blue\", action = { until = \"/pernet/go\" } }]";
    m.probe(10, "a", "", fault);
    start(&mut m, "");
    add(&m, "blue");
    add(&m, "red");
    assert_eq!(Scrape::of(DEFAULT).values("netns"), ["blue", "red"]);
    ip("-n blue link set lo up");
    m.wait_call("a netdev.up blue lo");
    let began = Instant::now();
    let scrape = Scrape::of(DEFAULT);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(scrape.values("netns"), ["red"]);
    assert_eq!(scrape.get("pernetd_metrics_missing_namespaces", &[]), Some(1.0));
    // The next one does not wait for it any more, nor ask it again.
    let began = Instant::now();
    let scrape = Scrape::of(DEFAULT);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(scrape.get("pernetd_metrics_missing_namespaces_total", &[]), Some(2.0));
    assert!(scrape.get("pernetd_hanging_hooks", &[]) >= Some(1.0));
    // Others come and go meanwhile.
    add(&m, "green");
    assert_eq!(Scrape::of(DEFAULT).values("netns"), ["green", "red"]);
    m.write("go", "");
    wait_until("it is back", SOON, || Scrape::of(DEFAULT).values("netns") == ["blue", "green", "red"]);
    m.stop();
}

fn setup_meanwhile(mut m: Machine) {
    start(&mut m, "");
    for n in 0..40 {
        netns_add(format!("n{n}"));
    }
    wait_until("all are live", SOON, || m.status()["namespaces"]["live"] == 41);
    // Somebody scrapes without a pause.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scraping = scope.spawn(|| {
            let mut scrapes = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(Scrape::of(DEFAULT).get("pernetd_metrics_missing_namespaces", &[]), Some(0.0));
                scrapes += 1;
            }
            scrapes
        });
        for n in 0..10 {
            let began = Instant::now();
            add(&m, &format!("new{n}"));
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            netns_del(format!("new{n}"));
            m.wait_gone(&format!("new{n}"));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(scraping.join().unwrap() > 0);
    });
    m.stop();
}

fn overlap(mut m: Machine) {
    let fault =
        "notifier = 1\nfaults = [{ hook = \"netdev.up\", netns = \"blue\", action = { until = \"/pernet/go\" } }]";
    m.probe(10, "a", "", fault);
    start(&mut m, "");
    add(&m, "blue");
    ip("-n blue link set lo up");
    m.wait_call("a netdev.up blue lo");
    // The first waits for blue; those that come meanwhile get what it gets.
    let streams: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut stream = connect(DEFAULT);
            stream.write_all(&request("GET", "/metrics")).unwrap();
            stream
        })
        .collect();
    let scrapes: Vec<Scrape> = streams.into_iter().map(|stream| Scrape::read(&answer(stream).body)).collect();
    let missed = |scrape: &Scrape| scrape.get("pernetd_metrics_missing_namespaces_total", &[]);
    let shared = scrapes.iter().filter(|scrape| missed(scrape) == Some(1.0)).count();
    assert!(shared >= 2, "{:?}", scrapes.iter().map(missed).collect::<Vec<_>>());
    m.write("go", "");
    m.stop();
}

fn nothing_kept(mut m: Machine) {
    start(&mut m, "");
    add(&m, "blue");
    cable("blue");
    let fds = || fs::read_dir(format!("/proc/{}/fd", m.pid().as_raw_pid())).unwrap().count();
    Scrape::of(DEFAULT);
    wait_until("the connection is closed", SOON, || {
        let before = fds();
        std::thread::yield_now();
        before == fds()
    });
    let before = fds();
    (0..20).for_each(|_| drop(Scrape::of(DEFAULT)));
    wait_until("nothing more is open", SOON, || fds() <= before);
    netns_del("blue");
    m.wait_gone("blue");
    // The other end of the cable goes with the namespace itself.
    wait_until("the namespace is gone", SOON, || rtnetlink::find("blue").is_err());
    assert!(Scrape::of(DEFAULT).values("netns").is_empty());
    m.stop();
}

fn selection(mut m: Machine) {
    start(&mut m, "metrics = [\"pernet_*\", \"!pernet_netstat_*\"]\ndevices = [\"*\", \"!lo\"]");
    add(&m, "blue");
    cable("blue");
    let scrape = Scrape::of(DEFAULT);
    assert_eq!(scrape.values("device"), ["eth0"]);
    assert!(scrape.series.keys().all(|(name, _)| name.starts_with("pernet_") && !name.starts_with("pernet_netstat_")));
    assert!(scrape.get("pernet_sockstat_sockets_used", &[("netns", "blue")]).is_some());
    // Another namespace, and the host's own, are the operator's to choose.
    configure(&m, "namespaces = { include = [\"@host\"] }", "");
    assert_eq!(m.reload().code, 0);
    assert_eq!(Scrape::of(DEFAULT).values("netns"), ["@host"]);
    m.stop();
}

fn textfile(mut m: Machine) {
    fs::create_dir(m.path("node")).unwrap();
    fs::write(m.path("node/other.prom"), "other 1\n").unwrap();
    start(&mut m, &format!("listen = \"\"\ntextfile = \"{FILE}\"\ninterval = 1000"));
    assert!(TcpStream::connect(DEFAULT).is_err(), "it does not listen");
    add(&m, "blue");
    let read = || fs::read_to_string(FILE).ok().map(|text| Scrape::read(&text));
    wait_until("blue is in the file", SOON, || read().is_some_and(|scrape| scrape.values("netns") == ["blue"]));
    let mode = fs::metadata(FILE).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
    netns_del("blue");
    m.wait_gone("blue");
    wait_until("blue is gone from it", SOON, || read().is_some_and(|scrape| scrape.values("netns").is_empty()));
    // Whoever reads it in between reads a whole one: `read` would have ended on any other.
    for _ in 0..2000 {
        assert!(
            read().is_some_and(|scrape| scrape.get("pernetd_metrics_series", &[]) == Some(scrape.series.len() as f64))
        );
    }
    // Both ways at once, and another place.
    let other = "/pernet/node/moved.prom";
    configure(&m, "", &format!("textfile = \"{other}\"\ninterval = 1000"));
    assert_eq!(m.reload().code, 0);
    wait_until("the other one is there", SOON, || fs::exists(other).unwrap());
    assert!(!fs::exists(FILE).unwrap() && Scrape::of(DEFAULT).get("pernetd_metrics_series", &[]).is_some());
    m.stop();
    let left: Vec<_> = fs::read_dir(m.path("node")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["other.prom"], "the plugin's goes with it");
    configure(&m, "", "textfile = \"/pernet/nowhere/a.prom\"");
    m.start();
    let row = plugin(&m);
    assert_eq!(row["state"], "failed");
    assert!(row["error"]["message"].as_str().unwrap().contains("there is no such folder"), "{row}");
    m.stop();
}

fn reload_address(mut m: Machine) {
    start(&mut m, "");
    add(&m, "blue");
    // Another configuration at the same address.
    configure(&m, "", "timeout = 4000");
    assert_eq!(m.reload().code, 0);
    assert_eq!(Scrape::of(DEFAULT).values("netns"), ["blue"]);
    // With connections that were just answered, and one that is open.
    let open = connect(DEFAULT);
    configure(&m, "", "timeout = 3000");
    assert_eq!(m.reload().code, 0);
    assert_eq!(Scrape::of(DEFAULT).values("netns"), ["blue"]);
    drop(open);
    // A file of other content is another mapping; it takes the address over all the same.
    let file = fs::read("/plugins/libpernet_metrics.so").unwrap();
    fs::write("/plugins/new", [file, vec![0; 8]].concat()).unwrap();
    fs::set_permissions("/plugins/new", fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename("/plugins/new", "/plugins/libpernet_metrics.so").unwrap();
    let answer = m.reload();
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert_eq!(plugin(&m)["generation"], 4, "{}", plugin(&m));
    assert_eq!(Scrape::of(DEFAULT).values("netns"), ["blue"]);
    m.write(DROP_IN, "[config]\nlisten = \"127.0.0.2:9111\"\n");
    assert_eq!(m.reload().code, 0);
    assert!(TcpStream::connect(DEFAULT).is_err());
    assert_eq!(Scrape::of("127.0.0.2:9111").values("netns"), ["blue"]);
    // A restart of the daemon finds it free, too.
    m.stop();
    assert!(TcpStream::connect("127.0.0.2:9111").is_err());
    m.start();
    wait_until("it is told again", SOON, || Scrape::of("127.0.0.2:9111").values("netns") == ["blue"]);
    m.remove(DROP_IN);
    assert_eq!(m.reload().code, 0);
    assert!(TcpStream::connect("127.0.0.2:9111").is_err());
    m.stop();
}

fn address_in_use(mut m: Machine) {
    rtnetlink::set_up(1).unwrap();
    let other = TcpListener::bind(DEFAULT).unwrap();
    start(&mut m, "");
    let row = plugin(&m);
    assert_eq!(row["state"], "failed", "{row}");
    let message = row["error"]["message"].as_str().unwrap();
    assert!(message.contains("cannot listen at 127.0.0.1:9964") && message.contains("ss -ltnp"), "{message}");
    add(&m, "blue");
    drop(other);
    assert_eq!(m.reload().code, 0);
    assert_eq!(
        (plugin(&m)["state"].clone(), Scrape::of(DEFAULT).values("netns")),
        ("live".into(), vec!["blue".to_owned()])
    );
    let other = TcpListener::bind("127.0.0.1:9965").unwrap();
    m.write(DROP_IN, "[config]\nlisten = \"127.0.0.1:9965\"\n");
    let answer = m.reload();
    assert!(answer.code == 1 && answer.stderr.contains("another program listens there"), "{answer:?}");
    assert_eq!(Scrape::of(DEFAULT).values("netns"), ["blue"], "the old one listens again");
    drop(other);
    assert_eq!(m.reload().code, 0);
    assert_eq!(Scrape::of("127.0.0.1:9965").values("netns"), ["blue"]);
    m.write(DROP_IN, "[config]\nlisten = \"192.0.2.99:9964\"\n");
    let answer = m.reload();
    assert!(answer.code == 1 && answer.stderr.contains("the host has no such address"), "{answer:?}");
    m.stop();
}

fn hostile(mut m: Machine) {
    start(&mut m, "");
    add(&m, "blue");
    let status = |request: &[u8]| exchange(DEFAULT, request).status;
    assert_eq!(status(&request("GET", "/")), 200);
    assert_eq!(status(&request("GET", "/nothing")), 404);
    assert_eq!(status(&request("GET", "/metrics?collect[]=a")), 200);
    let head = exchange(DEFAULT, &request("HEAD", "/metrics"));
    assert!(head.status == 200 && head.body.is_empty() && head.head.contains("Content-Length: "), "{head:?}");
    let refused = exchange(DEFAULT, b"POST /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\nbody");
    assert!(refused.status == 405 && refused.head.contains("\r\nAllow: GET, HEAD"), "{refused:?}");
    assert_eq!(status(b"GET /metrics HTTP/3.0\r\n\r\n"), 505);
    assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\r\n\r\n"), 400);
    assert_eq!(status(b"GET /metrics HTTP/1.1\r\nA: b\n\n"), 200, "as the robust do it");
    let long = [b"GET /metrics HTTP/1.1\r\n".to_vec(), vec![b'a'; 9_000]].concat();
    assert_eq!(status(&long), 431);
    // Half of a request, and then nothing: told after a while; or an end, told at once.
    let mut half = connect(DEFAULT);
    half.write_all(b"GET /metrics HT").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(answer(half).status, 400);
    let mut slow = connect(DEFAULT);
    slow.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    assert_eq!(answer(slow).status, 408);
    // Nothing at all, or only a connection.
    let silent = connect(DEFAULT);
    silent.shutdown(std::net::Shutdown::Write).unwrap();
    drop(connect(DEFAULT));
    // Many requests one after the other on a connection: the first is answered.
    let twice = [request("GET", "/metrics"), request("GET", "/metrics")].concat();
    assert_eq!(exchange(DEFAULT, &twice).body.matches("HTTP/1.1 200").count(), 0);
    assert_eq!(Scrape::of(DEFAULT).values("netns"), ["blue"]);
    assert!(!m.log().contains("panicked"), "{}", m.log());
    m.stop();
}

fn hanging_connections(mut m: Machine) {
    start(&mut m, "");
    for n in 0..20 {
        netns_add(format!("n{n}"));
    }
    wait_until("all are live", SOON, || m.status()["namespaces"]["live"] == 21);
    // Some say nothing, some ask and take nothing; a scrape is larger than what the kernel keeps for them.
    let mut hanging = Vec::new();
    for n in 0..60 {
        let mut stream = connect(DEFAULT);
        if n % 2 == 0 {
            stream.write_all(&request("GET", "/metrics")).unwrap();
        }
        hanging.push(stream);
    }
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(Scrape::of(DEFAULT).values("netns").len(), 20);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    // They keep neither a reload nor the end.
    let began = Instant::now();
    configure(&m, "", "timeout = 4000");
    assert_eq!(m.reload().code, 0);
    m.signal(Signal::TERM);
    assert_eq!(m.end().code(), Some(0), "{}", m.log());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    for mut stream in hanging {
        // Ended, one way or the other.
        while matches!(stream.read(&mut [0; 65536]), Ok(1..)) {}
    }
}

fn refusals(m: Machine) {
    for (config, says) in [
        ("listen = \"localhost:9964\"", "is not an address with a port"),
        ("listen = \"\"", "nobody would be told"),
        ("textfile = \"/tmp/a.txt\"", "does not end in .prom"),
        ("max_series = 10", "10 is not within 1000 and 50000000"),
        ("metrics = [\"*\", \"a[\"]", "`a[` is no glob"),
        ("maximum = 10", "maximum"),
    ] {
        configure(&m, "", config);
        let (code, line) = m.check();
        assert_eq!(code, 1, "{config}");
        assert!(line.contains("60-metrics.toml:3:") && line.contains(says), "{line}");
    }
}
