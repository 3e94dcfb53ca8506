//! Devices of a plugin's own at the call edge: a real plugin file, asked as the engine asks, and a daemon in memory.
//!
//! Nothing here touches a namespace or makes a device: nets are in memory, datagram sockets stand for a tap's queues.

use pernet_plugin_api::{NetCookie, RegState};
use pernetd::engine::{
    Area, At, Created, Failure, Link, LinkChange, LinkSpec, Links, Member, Namespace, Net, NetDevice, NetDeviceOps,
    NotifierBlock, Owner, Queues, Wanted,
};
use pernetd::plugin::file::open;
use pernetd::plugin::{
    ChangeNetdev, Code, HookRecord, HostServices, Instance, InstanceRef, Judge, LogLine, NetdevSnapshot,
};
use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The example, copied to where it does not matter whose the checkout is.
fn code() -> Arc<Code> {
    let exe = std::env::current_exe().expect("own path");
    let profile = exe.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let built = profile.join("examples/libbad_devices.so");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plugin.so");
    std::fs::copy(&built, &path)
        .unwrap_or_else(|e| panic!("{}: {e}; build it with `cargo build -p pernetd --examples`", built.display()));
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
    Code::load(&open(&Judge::new(), &path, None).expect("good")).expect("loaded")
}

/// What the plugin asked for.
#[derive(Default)]
struct Recorder {
    asked: Mutex<Vec<String>>,
    hooks: Mutex<Vec<String>>,
    logs: Mutex<Vec<String>>,
    poisoned: Mutex<usize>,
    device: Mutex<Option<(LinkSpec, Arc<dyn NetDeviceOps>)>>,
}

impl Recorder {
    fn ask(&self, what: String) -> Result<(), Failure> {
        lock(&self.asked).push(what);
        Ok(())
    }

    fn ops(&self) -> Arc<dyn NetDeviceOps> {
        Arc::clone(&lock(&self.device).as_ref().expect("allocated").1)
    }
}

impl HostServices for Recorder {
    fn log(&self, line: LogLine<'_>) {
        lock(&self.logs).push(line.message.to_owned());
    }
    fn log_level(&self) -> u8 {
        5
    }
    fn hook_called(&self, record: HookRecord<'_>) {
        let device = record.device.map_or(String::new(), |d| format!(" {d}"));
        let result = record.result.map_or_else(|f| f.message.clone(), |()| "ok".into());
        lock(&self.hooks).push(format!("{} {}{device}: {result}", record.hook, record.netns));
    }
    fn defer(&self, _: &InstanceRef, _: &[u64], _: u64) -> Result<(), Failure> {
        Ok(())
    }
    fn run_in(&self, _: &InstanceRef, _: u64, _: u64) -> Result<(), Failure> {
        Ok(())
    }
    fn poisoned(&self, _: &str, _: u64, _: &Failure) {
        *lock(&self.poisoned) += 1;
    }
    fn run_in_two(&self, instance: &InstanceRef, first: u64, second: u64, work: u64) -> Result<(), Failure> {
        self.ask(format!("run_in_two {first} {second}"))?;
        let (one, other) = (net(first), net(second));
        instance.run_work(work, &[At { net: &one, areas: &[] }, At { net: &other, areas: &[] }])
    }
    fn alloc_netdev(
        &self,
        _: &InstanceRef,
        spec: LinkSpec,
        peer: u64,
        ops: Arc<dyn NetDeviceOps>,
    ) -> Result<u64, Failure> {
        assert_eq!(peer, 0);
        *lock(&self.device) = Some((spec, ops));
        Ok(41)
    }
    fn register_netdevice(&self, _: &InstanceRef, cookie: u64, dev: u64, peer: u64) -> Result<(), Failure> {
        self.ask(format!("register {dev} in {cookie} {peer}"))
    }
    fn free_netdev(&self, _: &InstanceRef, dev: u64) -> Result<(), Failure> {
        self.ask(format!("free {dev}"))
    }
    fn netdev_change(&self, _: &InstanceRef, _: u64, _: ChangeNetdev<'_>) -> Result<(), Failure> {
        unreachable!("it changes nothing")
    }
    fn netdev_state(&self, _: &InstanceRef, _: u64) -> Result<NetdevSnapshot, Failure> {
        unreachable!("it asks for nothing")
    }
    fn register_notifier(
        &self,
        _: &InstanceRef,
        cookie: u64,
        priority: i32,
        _: Arc<dyn NotifierBlock>,
        _: u32,
    ) -> Result<(), Failure> {
        self.ask(format!("notifier in {cookie} at {priority}"))
    }
}

struct Nowhere;

impl Namespace for Nowhere {
    fn enter(&self) -> Result<(), Failure> {
        Ok(())
    }
    fn home(&self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Links for Nowhere {
    fn list(&self) -> Result<Vec<Link>, Failure> {
        Ok(Vec::new())
    }
    fn create(&self, _: &Wanted<'_>, _: Option<(&Net, &Wanted<'_>)>) -> Result<(Created, Option<Created>), Failure> {
        Err(Failure::new(libc::ENOSYS, "no links are made here"))
    }
    fn delete(&self, _: u32) -> Result<(), Failure> {
        Err(Failure::new(libc::ENOSYS, "no links are made here"))
    }
    fn change(&self, _: u32, _: &LinkChange<'_>) -> Result<(), Failure> {
        Err(Failure::new(libc::ENOSYS, "no links are made here"))
    }
    fn reopen(&self, _: u32, _: &LinkSpec, _: Queues) -> Result<Queues, Failure> {
        Err(Failure::new(libc::ENOSYS, "no links are made here"))
    }
    fn fence(&self) -> Result<u64, Failure> {
        Ok(0)
    }
    fn look(&self, _: u32) -> Result<Option<Link>, Failure> {
        Ok(None)
    }
}

fn net(cookie: u64) -> Arc<Net> {
    let net = Net::new(NetCookie(cookie), 1, Box::new(Nowhere), false);
    net.set_names(vec![Arc::from(format!("net{cookie}"))]);
    net
}

/// An instance, its member, and what it asked of its daemon.
fn instance(config: &str) -> (Instance, Member, Arc<Recorder>) {
    let services = Arc::new(Recorder::default());
    let made = Instance::create(&code(), 1, config, Arc::clone(&services) as Arc<dyn HostServices>).expect("made");
    let member = made.member(Arc::new(Owner::new(Arc::clone(made.name()), 1, 0)));
    lock(&services.hooks).clear();
    (made, member, services)
}

/// The plugin's init in a namespace, which allocates and registers its device.
fn init(member: &Member, cookie: u64) -> Result<Area, Failure> {
    member.ops()[0].1.init(&At { net: &net(cookie), areas: &[Area::default()] })
}

fn device() -> NetDevice {
    let link = Link { ifindex: 5, name: "bad0".into(), mtu: 1400, ..Link::default() };
    NetDevice { link, serial: 50, reg_state: RegState::Registered, own: None }
}

const OPS: [&str; 9] =
    ["init", "open", "change_mtu", "set_mac_address", "get_stats", "get_ethtool_stats", "stop", "uninit", "destructor"];

fn call(ops: &dyn NetDeviceOps, op: &str) -> Result<(), Failure> {
    let (net, dev) = (net(10), device());
    let at = At { net: &net, areas: &[Area::default()] };
    match op {
        "init" => ops.init(&at, &dev),
        "uninit" => ops.uninit(&at, &dev),
        "open" => {
            let queues: Queues = Arc::new(vec![OwnedFd::from(UnixDatagram::pair().expect("a pair").0)]);
            ops.open(&at, &dev, Some(&queues))
        }
        "stop" => ops.stop(&at, &dev),
        "change_mtu" => ops.change_mtu(&at, &dev, 1300),
        "set_mac_address" => ops.set_mac_address(&at, &dev, &[2, 0, 0, 0, 0, 7]),
        "get_stats" => ops.get_stats().map(drop),
        "get_ethtool_stats" => ops.get_ethtool_stats().map(drop),
        "destructor" => ops.destructor(),
        other => panic!("{other}?"),
    }
}

#[test]
fn a_device_and_its_operations_cross_as_they_are() {
    let (_made, member, services) = instance("{}");
    let area = init(&member, 10).expect("init");
    assert_eq!(*lock(&services.asked), ["register 41 in 10 0"]);
    let spec = lock(&services.device).as_ref().expect("allocated").0.clone();
    let expected = LinkSpec {
        name: "bad%d".into(),
        alt_names: vec!["worse".into()],
        kind: "tap".into(),
        mtu: 1400,
        min_mtu: 68,
        max_mtu: 9000,
        queues: 2,
        offloads: true,
        ..LinkSpec::default()
    };
    assert_eq!(spec, expected);
    lock(&services.hooks).clear();
    let ops = services.ops();
    OPS.iter().for_each(|op| call(&*ops, op).expect(op));
    assert_eq!(ops.get_stats().expect("stats").tx_dropped, 4);
    let more: Vec<_> =
        ops.get_ethtool_stats().expect("stats").into_iter().map(|stat| (stat.name, stat.value)).collect();
    assert_eq!(more, [("second".to_owned(), 2), ("first".to_owned(), u64::MAX)], "in the plugin's order");
    let logs = std::mem::take(&mut *lock(&services.logs));
    assert!(
        logs.contains(&"mtu 1300".to_owned()) && logs.contains(&"address [2, 0, 0, 0, 0, 7]".to_owned()),
        "{logs:?}"
    );
    // A question and a release of memory are nobody's event.
    let told = ["init", "open", "change_mtu", "set_mac_address", "stop", "uninit"];
    assert_eq!(*lock(&services.hooks), told.map(|op| format!("netdev.ndo_{op} net10 bad0: ok")));
    ops.free().expect("freed");
    assert!(lock(&services.logs).contains(&"op free".to_owned()), "{:?}", services.logs);
    assert_eq!(ops.free().expect_err("once").errno, libc::EINVAL);
    member.ops()[0].1.free(area).expect("the state is dropped");
    assert_eq!(lock(&services.asked).len(), 1, "its ops are freed already: nothing more is asked");
}

#[test]
fn errors_of_operations_are_told_with_their_device() {
    for op in ["init", "open", "change_mtu", "set_mac_address", "stop", "uninit"] {
        let (_made, member, services) = instance(&format!(r#"{{"op":"{op}"}}"#));
        init(&member, 10).expect("init");
        let failure = call(&*services.ops(), op).expect_err("as asked");
        assert_eq!((failure.errno, failure.panicked), (libc::EBUSY, false), "{failure}");
        let last = lock(&services.hooks).last().cloned().unwrap_or_default();
        assert_eq!(last, format!("netdev.ndo_{op} net10 bad0: as asked, in {op}"));
    }
}

#[test]
fn after_a_panic_only_what_ends_is_called() {
    for op in OPS {
        let (_made, member, services) = instance(&format!(r#"{{"op":"{op}","panic":true}}"#));
        init(&member, 10).expect("init");
        let ops = services.ops();
        let failure = call(&*ops, op).expect_err("as asked");
        assert!(failure.panicked && failure.message.contains(&format!("as asked, in {op}")), "{failure}");
        assert_eq!(*lock(&services.poisoned), 1);
        assert!(lock(&services.hooks).last().is_some_and(|told| told.contains("as asked")), "a panic is always told");
        for later in OPS.into_iter().filter(|later| *later != op) {
            let ends = matches!(later, "stop" | "uninit" | "destructor");
            assert_eq!(call(&*ops, later).is_ok(), ends, "{later} after a panic in {op}");
        }
        ops.free().expect("freed all the same");
        assert_eq!(*lock(&services.poisoned), 1, "told once");
    }
}

/// The host's descriptors stay the host's; the plugin's duplicates are closed at its stop, or where nobody takes them.
#[test]
fn queues_are_lent_as_duplicates_and_given_back() {
    let (_made, member, services) = instance(r#"{"op":"uninit","panic":true}"#);
    init(&member, 10).expect("init");
    let ops = services.ops();
    let (near, far) = UnixDatagram::pair().expect("a pair");
    far.set_nonblocking(true).expect("nonblocking");
    let owned = vec![OwnedFd::from(near)];
    let queues: Queues = Arc::new(owned);
    let (net, dev) = (net(10), device());
    let at = At { net: &net, areas: &[Area::default()] };
    ops.open(&at, &dev, Some(&queues)).expect("open");
    // The plugin sends back what comes, its virtio header with it.
    let mut sent = vec![0; 12 + 60];
    sent[24..26].copy_from_slice(&[0x88, 0xb5]);
    far.send(&sent).expect("sent");
    assert_eq!(received(&far), sent);
    ops.stop(&at, &dev).expect("stop");
    assert_eq!(Arc::strong_count(&queues), 1);
    far.send(&sent).expect("the host's own is open still");
    call(&*ops, "uninit").expect_err("it panics");
    ops.open(&at, &dev, Some(&queues)).expect_err("poisoned");
    drop(queues);
    assert_eq!(far.send(&sent).expect_err("closed").raw_os_error(), Some(libc::ECONNREFUSED), "all duplicates are");
}

fn received(far: &UnixDatagram) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut bytes = vec![0; 4096];
    loop {
        match far.recv(&mut bytes) {
            Ok(len) => return bytes[..len].to_vec(),
            Err(error) => assert!(Instant::now() < deadline, "no frame came: {error}"),
        }
        std::thread::yield_now();
    }
}

/// The lock order is that of cookies: a hook in 10 may wait for what comes after it only.
#[test]
fn waiting_for_two_namespaces_is_judged_by_the_first_in_lock_order() {
    for (pair, may) in [((11, 12), true), ((12, 11), true), ((10, 11), false), ((11, 10), false), ((4, 11), false)] {
        let (_made, member, services) = instance(&format!(r#"{{"run_in_two":[{},{}]}}"#, pair.0, pair.1));
        let result = init(&member, 10);
        let asked = lock(&services.asked).clone();
        if may {
            result.expect("the ordered case is the host's to decide");
            assert_eq!(asked[0], format!("run_in_two {} {}", pair.0, pair.1));
        } else {
            assert_eq!((result.expect_err("at once").errno, asked.len()), (libc::EDEADLK, 0), "{pair:?}");
        }
    }
}

/// K3.7: a notifier of one namespace may be registered from that namespace's own hooks.
#[test]
fn a_hook_registers_notifiers_where_it_is_or_where_it_may_wait() {
    for (cookie, may) in [(10, true), (11, true), (4, false)] {
        let (_made, member, services) = instance(&format!(r#"{{"notifier":{cookie}}}"#));
        let result = init(&member, 10);
        if may {
            result.expect("registered");
            assert_eq!(lock(&services.asked)[0], format!("notifier in {cookie} at 3"));
        } else {
            assert_eq!(result.expect_err("at once").errno, libc::EDEADLK);
        }
    }
    // Of two whose locks are held, the earlier one is held, too.
    let (_made, member, services) = instance(r#"{"notifier_in_two":[11,12]}"#);
    init(&member, 10).expect("registered");
    assert_eq!(lock(&services.asked)[..2], ["run_in_two 11 12", "notifier in 11 at 3"]);
}
