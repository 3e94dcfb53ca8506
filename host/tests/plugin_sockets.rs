//! Sockets and protocol families at the call edge: a real plugin file, asked as the engine asks, and a daemon in memory.
//!
//! Nothing here touches a namespace: nets are in memory, and the socket is one that this test has anyway.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pernet_plugin_api::NetCookie;
use pernetd::engine::{
    Area, At, Call, Created, Failure, Families, Link, LinkChange, LinkSpec, Links, Member, Namespace, Net, Owner,
    PernetList, Queues, Sock, SockFs, SockSpec, Ucred, Wanted, register, setup_net, sock_connect, sock_register,
    sock_release,
};
use pernetd::plugin::file::open;
use pernetd::plugin::{
    Code, HookRecord, HostServices, Instance, InstanceRef, Judge, LogLine, Registered, RegisteredKind,
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The example, copied to where it does not matter whose the checkout is.
fn code() -> Arc<Code> {
    let exe = std::env::current_exe().expect("own path");
    let profile = exe.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let built = profile.join("examples/libbad_sockets.so");
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
    /// Where its sockets are.
    fs: Mutex<Option<(Arc<SockFs>, Arc<Owner>)>>,
}

impl Recorder {
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.asked))
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
        let result = record.result.map_or_else(|f| f.message.clone(), |()| "ok".into());
        lock(&self.hooks).push(format!("{} {}: {result}", record.hook, record.netns));
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
    fn sock_create(&self, _: &InstanceRef, cookie: u64, spec: SockSpec) -> Result<(u64, i32), Failure> {
        let SockSpec { family, kind, protocol } = spec;
        lock(&self.asked).push(format!("create {family} {kind} {protocol} in {cookie}"));
        Ok((40 + cookie, 0))
    }
    fn sock_release(&self, _: &InstanceRef, ino: u64) -> Result<(), Failure> {
        lock(&self.asked).push(format!("release {ino}"));
        match &*lock(&self.fs) {
            Some((fs, owner)) => sock_release(fs, owner, ino),
            None => Ok(()),
        }
    }
    fn sock_connect(&self, _: &InstanceRef, cookie: u64, family: &str, kind: i32) -> Result<(u64, i32), Failure> {
        lock(&self.asked).push(format!("connect {family} {kind} in {cookie}"));
        Err(Failure::new(libc::EAFNOSUPPORT, "nobody offers it"))
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

/// A socket of which only the number is of interest.
struct Number(i32);

impl Sock for Number {
    fn number(&self) -> i32 {
        self.0
    }
    fn shut(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// An instance in a list of its own, live in one namespace, with its families registered.
struct Bench {
    made: Instance,
    member: Arc<Member>,
    services: Arc<Recorder>,
    list: PernetList,
    net: Arc<Net>,
    families: Families,
    fs: Arc<SockFs>,
}

fn bench(config: &str) -> Bench {
    let services = Arc::new(Recorder::default());
    let made = Instance::create(&code(), 1, config, Arc::clone(&services) as Arc<dyn HostServices>).expect("made");
    let owner = Arc::new(Owner::new(Arc::clone(made.name()), 1, 0));
    let member = Arc::new(made.member(Arc::clone(&owner)));
    let (list, families, fs) = (PernetList::new(), Families::default(), SockFs::new(10, (5, 6)));
    for (name, ops) in made.families() {
        sock_register(&families, &owner, name, ops).expect(name);
    }
    register(&list.write(Duration::from_secs(1)).expect("free"), Arc::clone(&member), &[]).expect("registered");
    let net = net(10);
    setup_net(&list.read().expect("free"), &net);
    *lock(&services.fs) = Some((Arc::clone(&fs), owner));
    services.asked();
    lock(&services.hooks).clear();
    lock(&services.logs).clear();
    Bench { made, member, services, list, net, families, fs }
}

impl Bench {
    fn connect(&self, family: &str) -> Result<(), Failure> {
        let family = self.families.find(family).expect("registered");
        let peer = Ucred { uid: 5, gid: 6, pid: 7 };
        let call = Call { kind: libc::SOCK_SEQPACKET, sock: Box::new(Number(1)), peer, born: Instant::now() };
        let patience = Duration::from_secs(5);
        sock_connect(&self.list, None, &self.fs, (&self.net, &family), call, patience)
    }

    /// Its init in another namespace, which calls back.
    fn init(&self, cookie: u64) -> Result<Area, Failure> {
        self.member.ops()[0].1.init(&At { net: &net(cookie), areas: &[Area::default()] })
    }
}

#[test]
fn families_are_registered_with_what_else_init_registers() {
    let bench = bench("{}");
    let registered = |kind, name: &str| Registered { kind, name: name.into() };
    let expected = [
        registered(RegisteredKind::PernetSubsys, "subsys"),
        registered(RegisteredKind::Family, "one"),
        registered(RegisteredKind::Family, "two"),
    ];
    assert_eq!(bench.made.registrations(), expected);
    assert_eq!(bench.made.families().map(|(name, _)| name).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(bench.member.ops().len(), 1, "a family is none of the engine's list");
}

#[test]
fn a_connection_crosses_as_it_is() {
    let bench = bench("{}");
    bench.connect("two").expect("taken");
    assert_eq!(*lock(&bench.services.logs), ["net10 5 5 6 7 socket:[2] 1"]);
    assert_eq!(*lock(&bench.services.hooks), ["sock.connected net10: ok"]);
    // It is the plugin's, which has dropped it.
    assert_eq!((bench.services.asked(), bench.fs.in_use()), (vec!["release 2".to_owned()], 0));
}

#[test]
fn a_connection_that_is_refused_is_closed_and_told() {
    let bench = bench(r#"{"connected":"fail"}"#);
    let failure = bench.connect("one").expect_err("as asked");
    assert_eq!((failure.errno, failure.panicked), (libc::EBUSY, false));
    assert_eq!(*lock(&bench.services.hooks), ["sock.connected net10: as asked"]);
    assert_eq!((bench.services.asked(), bench.fs.in_use()), (vec!["release 2".to_owned()], 0));
}

#[test]
fn after_a_panic_nobody_is_connected_any_more() {
    let bench = bench(r#"{"connected":"panic"}"#);
    let failure = bench.connect("one").expect_err("as asked");
    assert!(failure.panicked && failure.message.contains("as asked"), "{failure}");
    assert_eq!(*lock(&bench.services.poisoned), 1);
    assert_eq!(
        (bench.services.asked(), bench.fs.in_use()),
        (vec!["release 2".to_owned()], 0),
        "dropped on the way out"
    );
    assert_eq!(bench.connect("two").expect_err("poisoned").errno, libc::EAFNOSUPPORT);
    assert_eq!(bench.fs.in_use(), 0);
}

/// A socket needs no lock, a connection is a hook's call: one in 10 may wait for what comes after it only.
#[test]
fn a_socket_is_made_from_any_hook_and_a_connection_only_in_lock_order() {
    for cookie in [4, 10, 11] {
        let bench = bench(&format!(r#"{{"create_in":{cookie}}}"#));
        bench.init(10).expect("made");
        let asked = bench.services.asked();
        let expected = [
            format!("create 2 2 17 in {cookie}"),
            "create 17 3 0 in 10".to_owned(),
            "release 50".to_owned(),
            format!("release {}", 40 + cookie),
        ];
        assert_eq!(asked, expected);
    }
    for (cookie, expected) in [(4, libc::EDEADLK), (10, libc::EDEADLK), (11, libc::EAFNOSUPPORT)] {
        let bench = bench(&format!(r#"{{"connect_in":{cookie}}}"#));
        assert_eq!(bench.init(10).expect_err("refused").errno, expected);
        let asked = bench.services.asked();
        assert_eq!(asked.len(), usize::from(cookie == 11), "{asked:?}");
    }
}

#[test]
fn a_plugin_gives_back_its_sockets_in_its_own_end() {
    let bench = bench(r#"{"connected":"keep"}"#);
    bench.connect("one").expect("taken");
    bench.connect("two").expect("taken");
    assert_eq!((bench.services.asked(), bench.fs.in_use()), (vec![], 2));
    bench.made.destroy().expect("ended");
    assert_eq!((bench.services.asked(), bench.fs.in_use()), (vec!["release 2".to_owned(), "release 3".to_owned()], 0));
    let failure = bench.connect("one").expect_err("it is gone");
    assert_eq!((failure.errno, bench.fs.in_use()), (libc::ESTALE, 0));
}
