//! An exported plugin, driven through its table as the daemon drives it, with a host that is a few statics.
//!
//! One plugin serves all tests; its configuration says where it fails or panics. The tests run one at a time, since the
//! threads of a plugin log as the newest instance of the file.
#![forbid(unsafe_code)]

mod stub_host;

use std::sync::{Mutex, MutexGuard, PoisonError};

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RSlice, RStr, RString, RVec};
use pernet_plugin_api::abi::{
    AreaHandle, DeviceEvent, HoldReturn, HostMod, HostModRef, InstanceHandle, LogRecord, NamesReturn, NetInfo,
    NetdevChange, NetdevHandle, NetdevReturn, NetdevSpec, NetdevState, PluginModRef, Registration, Status,
};
use pernet_plugin_api::prelude::*;
use serde::Deserialize;

// ---- the plugin ----

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// The place that panics, and the one that fails.
    panic_in: String,
    fail_in: String,
    limit: u8,
    list: Vec<Entry>,
    settings: std::collections::BTreeMap<String, u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "width")]
    _width: u8,
}

/// A place in the plugin's code: leaves a trace, and does there what the configuration asks for.
fn at(place: &'static str) -> Result<()> {
    note(&TRACE, place.to_owned());
    let (panic_in, fail_in) = lock(&ORDERS).clone();
    assert!(panic_in != place, "as told at {place}");
    if fail_in == place { Err(Error::new(libc::EBUSY, format!("failed at {place}"))) } else { Ok(()) }
}

/// Marks its drop.
struct Mark(&'static str);

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = at(self.0);
    }
}

struct Probe {
    _mark: Mark,
}

impl Plugin for Probe {
    type Config = Config;

    fn check(config: &Config) -> std::result::Result<(), ConfigError> {
        assert!(config.limit != 99, "check cannot count that far");
        if config.limit > 100 {
            return Err(ConfigError::at("limit", format!("{} is more than 100", config.limit)));
        }
        Ok(())
    }

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        *lock(&ORDERS) = (config.panic_in, config.fail_in);
        let first = reg.pernet_subsys("first", First { _mark: Mark("ops.drop") })?;
        reg.pernet_device("second", Second { first })?;
        reg.notifier("watch", 7, Watch { first })?;
        *lock(&HANDLE) = Some((host, first));
        at("init")?;
        Ok(Probe { _mark: Mark("plugin.drop") })
    }
}

struct First {
    _mark: Mark,
}

struct FirstState {
    value: u64,
    _mark: Mark,
}

impl PernetOps for First {
    type State = FirstState;

    fn init(&self, net: &Net<'_>) -> Result<FirstState> {
        at("first.init")?;
        Ok(FirstState { value: net.cookie().0 * 10, _mark: Mark("first.free") })
    }

    fn pre_exit(&self, _: &Net<'_>, _: &FirstState, _: ExitReason) -> Result<()> {
        at("first.pre_exit")
    }

    fn exit(&self, net: &Net<'_>, state: &FirstState, _: ExitReason) -> Result<()> {
        assert_eq!(state.value, net.cookie().0 * 10);
        at("first.exit")
    }

    fn exit_batch(&self, nets: &[Net<'_>], reason: ExitReason) -> Result<()> {
        note(&TRACE, format!("batch of {}: {reason:?}", nets.len()));
        at("first.exit_batch")
    }
}

struct Second {
    first: PernetId<FirstState>,
}

impl PernetOps for Second {
    type State = ();

    fn init(&self, net: &Net<'_>) -> Result<()> {
        note(&TRACE, format!("second sees {:?}", net.private(&self.first).map(|s| s.value)));
        Ok(())
    }
}

struct Watch {
    first: PernetId<FirstState>,
}

impl Notifier for Watch {
    fn event(&self, net: &Net<'_>, event: &Event<'_>) -> Result<Verdict> {
        let state = net.private(&self.first).map(|s| s.value);
        note(&TRACE, format!("{} {} {:?} {state:?}", event.kind.as_str(), event.device.name, event.old_name));
        at("watch.event")?;
        Ok(Verdict::Stop)
    }
}

export_plugin!(Probe, level = "late", after = ["x"], name = "probe");

// ---- the host ----

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static TRACE: Mutex<Vec<String>> = Mutex::new(Vec::new());
static ORDERS: Mutex<(String, String)> = Mutex::new((String::new(), String::new()));
static HANDLE: Mutex<Option<(Host, PernetId<FirstState>)>> = Mutex::new(None);
static LOG: Mutex<Vec<Line>> = Mutex::new(Vec::new());
static DEFERRED: Mutex<Vec<(Vec<u64>, u64)>> = Mutex::new(Vec::new());
static LEVEL: Mutex<u8> = Mutex::new(5);
/// Whom `run_in` calls back, as the one instance of the test.
static RUNNING: Mutex<Option<(PluginModRef, InstanceHandle)>> = Mutex::new(None);

#[derive(Clone, Debug)]
struct Line {
    token: u64,
    level: u8,
    message: String,
    fields: serde_json::Value,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note<T>(list: &Mutex<Vec<T>>, item: T) {
    lock(list).push(item);
}

fn taken<T>(list: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut lock(list))
}

extern "C" fn log_level() -> u8 {
    *lock(&LEVEL)
}

extern "C" fn log(token: u64, record: &LogRecord<'_>) {
    // A failing test's own panic comes this way too.
    eprintln!("{token}: {} {}", record.message, record.fields);
    let fields = if record.fields.is_empty() { "{}" } else { record.fields.as_str() };
    let fields = serde_json::from_str(fields).expect("fields are JSON");
    note(&LOG, Line { token, level: record.level, message: record.message.into(), fields });
}

fn status(errno: i32, message: &str) -> Status {
    Status { errno, panicked: 0, message: RString::from(message) }
}

/// Cookie 404 is no namespace.
extern "C" fn defer(_: u64, cookies: RSlice<'_, u64>, work: u64) -> Status {
    if cookies.contains(&404) {
        return status(libc::ENOENT, "no such namespace");
    }
    note(&DEFERRED, (cookies.to_vec(), work));
    status(0, "")
}

/// Cookie 405 goes away while the work waits.
extern "C" fn run_in(_: u64, cookie: u64, work: u64) -> Status {
    let (module, instance) = (*lock(&RUNNING)).expect("an instance");
    if cookie == 405 {
        return module.drop_work()(instance, work);
    }
    module.run_work()(instance, work, RSlice::from_slice(&[net(cookie, &[])]))
}

/// A stand-in host without devices.
fn no_devices() -> Status {
    status(libc::ENOSYS, "no devices here")
}

extern "C" fn run_in_two(_: u64, _: u64, _: u64, _: u64) -> Status {
    no_devices()
}

extern "C" fn alloc_netdev(_: u64, _: &NetdevSpec<'_>) -> NetdevReturn {
    NetdevReturn { status: no_devices(), dev: NetdevHandle(0) }
}

extern "C" fn register_netdevice(_: u64, _: u64, _: NetdevHandle, _: u64) -> Status {
    no_devices()
}

extern "C" fn unregister_netdevices(_: u64, _: RSlice<'_, NetdevHandle>) -> Status {
    no_devices()
}

extern "C" fn free_netdev(_: u64, _: NetdevHandle) -> Status {
    no_devices()
}

extern "C" fn netdev_change(_: u64, _: NetdevHandle, _: &NetdevChange<'_>) -> Status {
    no_devices()
}

extern "C" fn netdev_state(_: u64, _: NetdevHandle) -> NetdevState {
    NetdevState {
        status: no_devices(),
        reg_state: 0,
        cookie: 0,
        ifindex: 0,
        serial: 0,
        mtu: 0,
        flags: 0,
        master: 0,
        name: RString::new(),
        address: RVec::new(),
    }
}

extern "C" fn netdev_hold(_: u64, _: u64, _: u32, _: u64, _: RStr<'_>) -> HoldReturn {
    HoldReturn { status: no_devices(), reference: 0 }
}

extern "C" fn netdev_put(_: u64, _: u64) -> Status {
    no_devices()
}

extern "C" fn register_notifier(_: u64, _: u64, _: i32, _: u32) -> Status {
    no_devices()
}

extern "C" fn unregister_notifier(_: u64, _: u64, _: u32) -> Status {
    no_devices()
}

/// Cookie 404 is no namespace.
extern "C" fn net_names(_: u64, cookie: u64) -> NamesReturn {
    if cookie == 404 {
        return NamesReturn { status: status(libc::ENOENT, "no such namespace"), names: RVec::new() };
    }
    NamesReturn { status: status(0, ""), names: vec!["blue".into(), format!("also-{cookie}").into()].into() }
}

fn host() -> HostModRef {
    HostMod {
        log_level,
        log,
        defer,
        run_in,
        run_in_two,
        alloc_netdev,
        register_netdevice,
        unregister_netdevices,
        free_netdev,
        netdev_change,
        netdev_state,
        netdev_hold,
        netdev_put,
        register_notifier,
        unregister_notifier,
        net_names,
        register_net_sysctl: stub_host::register_net_sysctl,
        unregister_net_sysctl: stub_host::unregister_net_sysctl,
        kern_mount: stub_host::kern_mount,
        kern_unmount: stub_host::kern_unmount,
        sock_create: stub_host::sock_create,
        sock_release: stub_host::sock_release,
        sock_connect: stub_host::sock_connect,
        figures: stub_host::figures,
    }
    .leak_into_prefix()
}

fn net(cookie: u64, areas: &[AreaHandle]) -> NetInfo<'_> {
    NetInfo { cookie, generation: 1, name: "blue".into(), areas: areas.into() }
}

/// An instance as the daemon has it.
struct Loaded {
    module: PluginModRef,
    instance: InstanceHandle,
    registrations: Vec<Registration>,
}

/// The plugin's traces are the process's: a test has them to itself for as long as this lives.
fn turn() -> MutexGuard<'static, ()> {
    lock(&ONE_AT_A_TIME)
}

fn create(token: u64, config: &str) -> std::result::Result<Loaded, Status> {
    drop((taken(&TRACE), taken(&LOG), taken(&DEFERRED)));
    *lock(&LEVEL) = 5;
    let module = pernet_plugin_api::__private::module::<Probe>();
    let made = module.create()(host(), token, config.into());
    if made.status.errno != 0 {
        assert_eq!(made.instance, InstanceHandle(0));
        return Err(made.status);
    }
    *lock(&RUNNING) = Some((module, made.instance));
    let registrations = made.registrations.into_vec();
    Ok(Loaded { module, instance: made.instance, registrations })
}

fn loaded(config: &str) -> Loaded {
    create(7, config).expect("an instance")
}

impl Loaded {
    fn init(&self, op: u32, cookie: u64, areas: &[AreaHandle]) -> std::result::Result<AreaHandle, Status> {
        let answer = self.module.pernet_init()(self.instance, op, &net(cookie, areas));
        if answer.status.errno == 0 { Ok(answer.area) } else { Err(answer.status) }
    }

    fn free(&self, op: u32, area: AreaHandle) -> Status {
        self.module.pernet_free()(self.instance, op, area)
    }

    fn destroy(&self) -> Status {
        *lock(&HANDLE) = None;
        self.module.destroy()(self.instance)
    }

    fn event(&self, kind: EventKind, areas: &[AreaHandle]) -> (Status, u8) {
        let event = DeviceEvent {
            kind: kind as u8,
            replay: 0,
            ifindex: 2,
            mtu: 1500,
            flags: 1,
            master: 0,
            serial: 1,
            name: "eth0".into(),
            old_name: "veth0".into(),
            link_kind: "veth".into(),
            address: RSlice::EMPTY,
        };
        let answer = self.module.netdev_event()(self.instance, 0, &net(3, areas), &event);
        (answer.status, answer.verdict)
    }
}

fn plugin_host() -> (Host, PernetId<FirstState>) {
    lock(&HANDLE).clone().expect("the plugin's init left it")
}

fn assert_panicked(status: &Status, place: &str) {
    assert_eq!((status.errno, status.panicked), (libc::EIO, 1), "{place}: {status:?}");
    assert!(status.message.contains(&format!("as told at {place}")), "{status:?}");
    assert!(status.message.contains("tests/calls.rs:"), "the place is missing: {status:?}");
    let lines = taken(&LOG);
    assert!(lines.iter().any(|l| l.token == 7 && l.level == 1 && l.message.contains(place)), "{lines:?}");
}

// ---- the tests ----

#[test]
fn registrations_come_in_order() {
    let _turn = turn();
    let plugin = loaded("");
    let seen: Vec<_> =
        plugin.registrations.iter().map(|r| (r.class, r.number, r.priority, r.name.to_string())).collect();
    let expected = [(0, 0, 0, "first"), (1, 1, 0, "second"), (2, 0, 7, "watch")];
    assert_eq!(seen, expected.map(|(class, number, priority, name)| (class, number, priority, name.to_owned())));
    assert_eq!(plugin.destroy().errno, 0);
}

/// K1.1(5)e: a private area is readable from the other hooks until it is freed, after every exit.
#[test]
fn private_areas_live_from_init_to_free() {
    let _turn = turn();
    let plugin = loaded("{}");
    let first = plugin.init(0, 3, &[]).expect("first");
    let second = plugin.init(1, 3, &[first, AreaHandle(0)]).expect("second");
    assert!(first.0 != 0 && second.0 != 0 && first != second, "a state without size has an area too");
    let areas = [first, second];
    assert_eq!(plugin.event(EventKind::Register, &areas), (status(0, ""), Verdict::Stop as u8));
    assert_eq!(plugin.event(EventKind::ChangeName, &[]), (status(0, ""), Verdict::Stop as u8));
    let at = net(3, &areas);
    assert_eq!(plugin.module.pernet_pre_exit()(plugin.instance, 0, &at, 1).errno, 0);
    assert_eq!(plugin.module.pernet_exit()(plugin.instance, 0, &at, 1).errno, 0);
    let batch = RSlice::from_slice(std::slice::from_ref(&at));
    assert_eq!(plugin.module.pernet_exit_batch()(plugin.instance, 0, batch, 0).errno, 0);
    assert_eq!(plugin.free(0, second).errno, libc::EINVAL, "another op's area");
    assert_eq!((plugin.free(1, second).errno, plugin.free(0, first).errno), (0, 0));
    assert_eq!(plugin.destroy().errno, 0);
    let expected = [
        "init",
        "first.init",
        "second sees Some(30)",
        "register eth0 None Some(30)",
        "watch.event",
        "changename eth0 Some(\"veth0\") None",
        "watch.event",
        "first.pre_exit",
        "first.exit",
        "batch of 1: Died",
        "first.exit_batch",
        "first.free",
        "plugin.drop",
        "ops.drop",
    ];
    assert_eq!(taken(&TRACE), expected);
}

#[test]
fn an_id_of_another_instance_finds_nothing() {
    let _turn = turn();
    let old = loaded("");
    let (_, old_id) = plugin_host();
    assert_eq!(old.destroy().errno, 0);
    drop(old);
    let plugin = loaded("");
    let area = plugin.init(0, 3, &[]).expect("first");
    let (host, id) = plugin_host();
    host.defer(NetCookie(3), move |net| {
        note(&TRACE, format!("{} {}", net.private(&id).is_some(), net.private(&old_id).is_some()));
    })
    .expect("queued");
    let (_, work) = taken(&DEFERRED).remove(0);
    let areas = [area];
    let nets = [net(3, &areas)];
    assert_eq!(plugin.module.run_work()(plugin.instance, work, RSlice::from_slice(&nets)).errno, 0);
    assert!(taken(&TRACE).contains(&"true false".to_owned()));
    assert_eq!((plugin.free(0, area).errno, plugin.destroy().errno), (0, 0));
}

#[test]
fn an_error_keeps_its_errno_and_message() {
    let _turn = turn();
    let plugin = loaded(r#"{"fail_in": "first.init"}"#);
    assert_eq!(plugin.init(0, 3, &[]).expect_err("told to fail"), status(libc::EBUSY, "failed at first.init"));
    let (answer, _) = plugin.event(EventKind::Up, &[]);
    assert_eq!(answer.errno, 0);
    assert_eq!(plugin.init(9, 3, &[]).expect_err("no such op").errno, libc::EINVAL);
    let nowhere = plugin.module.pernet_exit()(InstanceHandle(0), 0, &net(3, &[]), 0);
    assert_eq!(nowhere.errno, libc::EINVAL);
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn a_failed_init_drops_what_it_made() {
    let _turn = turn();
    let refused = create(7, r#"{"fail_in": "init"}"#).map(|_| ()).expect_err("told to fail");
    assert_eq!(refused, status(libc::EBUSY, "failed at init"));
    assert_eq!(taken(&TRACE), ["init", "ops.drop"]);
}

#[test]
fn panics_stop_at_every_entry() {
    let _turn = turn();
    let refused = create(7, r#"{"panic_in": "init"}"#).map(|_| ()).expect_err("told to panic");
    assert_panicked(&refused, "init");

    let plugin = loaded(r#"{"panic_in": "first.init"}"#);
    assert_panicked(&plugin.init(0, 3, &[]).expect_err("told to panic"), "first.init");
    let order = |place: &str| lock(&ORDERS).0 = place.to_owned();
    order("");
    let area = plugin.init(0, 3, &[]).expect("first");
    let areas = [area];
    let at = net(3, &areas);
    order("first.pre_exit");
    assert_panicked(&plugin.module.pernet_pre_exit()(plugin.instance, 0, &at, 1), "first.pre_exit");
    order("first.exit");
    assert_panicked(&plugin.module.pernet_exit()(plugin.instance, 0, &at, 1), "first.exit");
    order("first.exit_batch");
    let batch = RSlice::from_slice(std::slice::from_ref(&at));
    assert_panicked(&plugin.module.pernet_exit_batch()(plugin.instance, 0, batch, 1), "first.exit_batch");
    order("watch.event");
    assert_panicked(&plugin.event(EventKind::Register, &areas).0, "watch.event");
    order("first.free");
    assert_panicked(&plugin.free(0, area), "first.free");
    order("plugin.drop");
    taken(&TRACE);
    assert_panicked(&plugin.destroy(), "plugin.drop");
    assert_eq!(taken(&TRACE), ["plugin.drop", "ops.drop"], "a panic leaves no part behind");
    drop(plugin);

    let plugin = loaded(r#"{"panic_in": "ops.drop"}"#);
    assert_panicked(&plugin.destroy(), "ops.drop");
}

#[test]
fn work_panics_are_caught_too() {
    let _turn = turn();
    let plugin = loaded(r#"{"panic_in": "work"}"#);
    let (host, _) = plugin_host();
    host.defer(NetCookie(3), |_| drop(at("work"))).expect("queued");
    let mark = Mark("work");
    host.defer(NetCookie(3), move |_| drop(mark)).expect("queued");
    let works = taken(&DEFERRED);
    let nets = [net(3, &[])];
    let run = plugin.module.run_work()(plugin.instance, works[0].1, RSlice::from_slice(&nets));
    assert_panicked(&run, "work");
    assert_panicked(&plugin.module.drop_work()(plugin.instance, works[1].1), "work");
    let lost: Result<()> = host.run_in(NetCookie(3), |_| drop(at("work")));
    assert!(lost.expect_err("told to panic").message().contains("as told at work"));
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn a_refused_configuration_names_its_field() {
    let _turn = turn();
    let module = pernet_plugin_api::__private::module::<Probe>();
    let judge = |json: &str| {
        let answer = module.check_config()(json.into());
        (answer.status.errno, answer.field.into_string(), answer.status.message.into_string())
    };
    assert_eq!(judge(r#"{"limit": 3}"#).0, 0);
    let refused = |json: &str, field: &str, message: &str| {
        let (errno, at, text) = judge(json);
        assert_eq!((errno, at.as_str()), (libc::EINVAL, field), "{json}: {text}");
        assert!(text.contains(message) && !text.contains("line 1"), "{json}: {text}");
    };
    refused(r#"{"limit": 101}"#, "limit", "101 is more than 100");
    refused(r#"{"limit": "x"}"#, "limit", "expected u8");
    refused(r#"{"limt": 1}"#, "limt", "unknown field");
    refused(r#"{"list": [{"width": 1}, {"width": -1}]}"#, "list[1].width", "expected u8");
    refused(r#"{"list": [{"width": 1, "height": 2}]}"#, "list[0].height", "unknown field");
    refused(r#"{"list": [{}]}"#, "list[0]", "missing field `width`");
    refused(r#"{"settings": {"net.ipv4.x": "y"}}"#, "settings.\"net.ipv4.x\"", "expected u8");
    refused("{} {}", "", "trailing");
    let panicked = module.check_config()(r#"{"limit": 99}"#.into());
    assert_eq!((panicked.status.errno, panicked.status.panicked), (libc::EIO, 1));
    assert!(panicked.status.message.contains("check cannot count that far"));
    let created = module.create()(host(), 7, r#"{"limit": 101}"#.into());
    assert_eq!(created.status, status(libc::EINVAL, "configuration `limit`: 101 is more than 100"));
}

#[test]
fn a_namespace_has_all_its_names() {
    let _turn = turn();
    let _plugin = loaded("");
    let (host, _) = plugin_host();
    assert_eq!(host.net_names(NetCookie(3)).expect("names"), ["blue", "also-3"]);
    assert_eq!(host.net_names(NetCookie(404)).expect_err("no such namespace").errno(), libc::ENOENT);
}

#[test]
fn the_hosts_figures_arrive_as_they_are() {
    let _turn = turn();
    let _plugin = loaded("");
    let (host, _) = plugin_host();
    let figures = host.figures().expect("figures");
    assert_eq!((figures.version.as_str(), figures.bounds.len()), ("9.9.9", 2));
    let [hook] = &figures.hooks[..] else { panic!("{figures:?}") };
    assert_eq!((&*hook.plugin, &*hook.hook, hook.errors), ("p", "pernet.init", 1));
    assert_eq!((hook.duration.as_nanos(), &hook.calls[..]), (2_500, &[1, 0, 2][..]));
    let [figure] = &figures.figures[..] else { panic!("{figures:?}") };
    assert_eq!((&*figure.what, &*figure.of, figure.value), ("namespaces", "live", 7));
}

#[test]
fn deferred_work_runs_once_or_is_dropped_once() {
    let _turn = turn();
    let plugin = loaded("");
    let (host, _) = plugin_host();
    let queue = |name: &'static str, cookie: u64| {
        let mark = Mark(name);
        host.defer(NetCookie(cookie), move |net| {
            note(&TRACE, format!("run in {}", net.cookie().0));
            drop(mark);
        })
    };
    taken(&TRACE);
    queue("ran", 3).expect("queued");
    queue("dropped", 3).expect("queued");
    queue("left", 3).expect("queued");
    assert_eq!(queue("refused", 404).expect_err("no such namespace").errno(), libc::ENOENT);
    let works = taken(&DEFERRED);
    let nets = [net(3, &[])];
    let run = |work: u64| plugin.module.run_work()(plugin.instance, work, RSlice::from_slice(&nets)).errno;
    assert_eq!((run(works[0].1), run(works[0].1)), (0, libc::ENOENT), "once");
    assert_eq!(plugin.module.drop_work()(plugin.instance, works[1].1).errno, 0);
    assert_eq!(plugin.module.drop_work()(plugin.instance, works[1].1).errno, libc::ENOENT, "once");
    assert_eq!(plugin.destroy().errno, 0);
    assert_eq!(taken(&TRACE), ["refused", "run in 3", "ran", "dropped", "left", "plugin.drop", "ops.drop"]);
    assert_eq!(queue("late", 3).expect_err("the instance is gone").errno(), libc::ESTALE);
    assert_eq!(taken(&TRACE), ["late"]);
}

#[test]
fn work_for_two_namespaces_gets_them_as_named() {
    let _turn = turn();
    let plugin = loaded("");
    let (host, _) = plugin_host();
    let both = |a: &Net<'_>, b: &Net<'_>| note(&TRACE, format!("{} then {}", a.cookie().0, b.cookie().0));
    host.defer_two(NetCookie(9), NetCookie(4), both).expect("queued");
    assert_eq!(host.defer_two(NetCookie(4), NetCookie(4), both).expect_err("the same twice").errno(), libc::EINVAL);
    let queued = taken(&DEFERRED);
    assert_eq!(queued[0].0, [9, 4]);
    let in_cookie_order = [net(4, &[]), net(9, &[])];
    let nets = RSlice::from_slice(&in_cookie_order);
    assert_eq!(plugin.module.run_work()(plugin.instance, queued[0].1, nets).errno, 0);
    assert!(taken(&TRACE).contains(&"9 then 4".to_owned()));
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn run_in_gives_the_value_or_an_error() {
    let _turn = turn();
    let plugin = loaded("");
    let (host, _) = plugin_host();
    assert_eq!(host.run_in(NetCookie(3), |net| net.name().to_owned()), Ok("blue".to_owned()));
    let mark = Mark("dropped");
    let lost = host.run_in(NetCookie(405), move |_| drop(mark));
    assert_eq!(lost.expect_err("dropped").errno(), libc::ECANCELED);
    assert_eq!(taken(&TRACE).last().map(String::as_str), Some("dropped"));
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn logs_arrive_with_their_instance_and_fields() {
    let _turn = turn();
    let plugin = loaded("");
    let (host, _) = plugin_host();
    let from_thread = || {
        let span = tracing::info_span!("outer", peer = "a", depth = 1);
        let _outer = span.enter();
        let inner = tracing::info_span!("inner", depth = 2, late = tracing::field::Empty);
        inner.record("late", true);
        inner.in_scope(|| tracing::warn!(count = 3u64, ratio = 0.5, "hello {}", "there"));
        tracing::info!(parent: None, "alone");
        assert_eq!(tracing::Span::current().id(), span.id());
    };
    std::thread::spawn(from_thread).join().expect("the thread");
    host.run_in(NetCookie(3), |net| tracing::info!(netns = net.name(), "inside")).expect("ran");
    let lines = taken(&LOG);
    assert_eq!(lines.iter().map(|l| (l.token, l.level)).collect::<Vec<_>>(), [(7, 2), (7, 3), (7, 3)]);
    assert_eq!(lines[0].message, "hello there");
    let fields = serde_json::json!({"peer": "a", "depth": 2, "late": true, "count": 3, "ratio": 0.5});
    assert_eq!(lines[0].fields, fields);
    assert_eq!((lines[1].message.as_str(), &lines[1].fields), ("alone", &serde_json::json!({})));
    assert_eq!(lines[2].fields, serde_json::json!({"netns": "blue"}));
    *lock(&LEVEL) = 2;
    std::thread::spawn(|| {
        tracing::info!("too much");
        tracing::error!("enough");
    })
    .join()
    .expect("the thread");
    assert_eq!(taken(&LOG).iter().map(|l| l.message.as_str()).collect::<Vec<_>>(), ["enough"]);
    assert_eq!(plugin.destroy().errno, 0);
    tracing::error!("nobody is there");
    assert_eq!(taken(&LOG).len(), 0);
}

#[test]
fn a_panic_in_a_thread_of_the_plugin_is_logged() {
    let _turn = turn();
    let plugin = loaded("");
    let old = plugin_host().0;
    let second = plugin.module.create()(host(), 8, "".into());
    assert_eq!(second.status.errno, 0);
    std::thread::spawn(|| panic!("on my own")).join().expect_err("told to panic");
    std::thread::spawn(move || old.attribute(|| tracing::error!("for the old one"))).join().expect("the thread");
    let lines = taken(&LOG);
    assert_eq!((lines[0].token, lines[0].message.as_str()), (8, "panicked: on my own"));
    assert!(lines[0].fields["location"].as_str().is_some_and(|l| l.contains("tests/calls.rs:")));
    assert_eq!((lines[1].token, lines[1].message.as_str()), (7, "for the old one"));
    assert_eq!(plugin.module.destroy()(second.instance).errno, 0);
    assert_eq!(plugin.destroy().errno, 0);
}
