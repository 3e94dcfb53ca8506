//! Plugin files that are wrong in every way, and what each gets; the right ones, loaded and called at every hook.
//!
//! The files are the `bad_*` examples of this package. They are copied into a folder of the test, so that it does not
//! matter whose the checkout is. Nothing here touches a namespace: nets are in memory, the hooks are called directly.

use pernet_plugin_api::{EventKind, ExitReason, NetCookie, Verdict};
use pernetd::engine::{
    Area, At, Created, Failure, Link, LinkChange, LinkSpec, Links, Member, Namespace, Net, NetDevice, NetdevEvent,
    Owner, Queues, RegState, Wanted,
};
use pernetd::plugin::file::{PluginFile, open};
use pernetd::plugin::load::{AbiError, retired, use_folder_where_memfd_is_refused};
use pernetd::plugin::note::{Note, NoteError};
use pernetd::plugin::running::{current_hook, running};
use pernetd::plugin::trust::TrustError;
use pernetd::plugin::{
    Code, HookRecord, HostServices, Instance, InstanceRef, Judge, LogLine, PluginError, PluginState,
};
use proptest::prelude::*;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use tempfile::TempDir;

// ---- files ----

/// A library that the test run built.
fn example(name: &str) -> Vec<u8> {
    let exe = std::env::current_exe().expect("own path");
    let profile = exe.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let path = profile.join("examples").join(format!("lib{name}.so"));
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; build it with `cargo build -p pernetd --examples`", path.display()))
}

/// A file of the test's own, with the mode that an installed one has.
struct Placed {
    folder: TempDir,
    path: PathBuf,
}

impl Placed {
    fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plugin.so");
        let placed = Placed { folder, path };
        placed.replace(bytes);
        placed
    }

    /// As a package manager does: a new file, renamed over the old one.
    fn replace(&self, bytes: &[u8]) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, bytes).expect("write");
        std::fs::set_permissions(&new, Permissions::from_mode(0o644)).expect("chmod");
        std::fs::rename(&new, &self.path).expect("rename");
    }

    fn open(&self, name: Option<&str>) -> Result<PluginFile, PluginError> {
        open(&Judge::new(), &self.path, name)
    }

    fn load(&self) -> Result<Arc<Code>, PluginError> {
        Code::load(&self.open(None)?)
    }
}

/// The file with another text of the same length in it, wherever it stands.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let at = find(&bytes, from);
    assert!(!at.is_empty(), "{from} is not in the file");
    at.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to.as_bytes()));
    bytes
}

fn find(bytes: &[u8], text: &str) -> Vec<usize> {
    let hits = bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes());
    hits.map(|(at, _)| at).collect()
}

/// The good file with another note; searching the whole file takes a second in a debug build.
fn with_note(from: &str, to: &str) -> Vec<u8> {
    let (before, rest) = GOOD.split_at(*NOTE_AT);
    let (note, after) = rest.split_at(600);
    [before, &replaced(note, from, to), after].concat()
}

/// The good file with another mark, which it logs: another content that behaves visibly otherwise.
fn with_mark(mark: &str) -> Vec<u8> {
    static AT: LazyLock<Vec<usize>> = LazyLock::new(|| find(&GOOD, MARK));
    assert_eq!(mark.len(), MARK.len());
    let mut bytes = GOOD.clone();
    AT.iter().for_each(|at| bytes[*at..at + mark.len()].copy_from_slice(mark.as_bytes()));
    bytes
}

/// The error of a file with these bytes; it must be one.
fn refusal(bytes: &[u8]) -> String {
    Placed::new(bytes).open(None).expect_err("such a file must be refused").to_string()
}

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| example("bad_on_demand"));
static NOTE_AT: LazyLock<usize> = LazyLock::new(|| find(&GOOD, r#"{"name":"bad-on-demand""#)[0]);
const MARK: &str = "mark:first-content";

// ---- a daemon in memory ----

#[derive(Default)]
struct Recorder {
    logs: Mutex<Vec<String>>,
    hooks: Mutex<Vec<String>>,
    poisoned: Mutex<Vec<String>>,
    deferred: Mutex<Vec<(Vec<u64>, u64)>>,
    run_in: Mutex<Vec<String>>,
}

impl HostServices for Recorder {
    fn log(&self, line: LogLine<'_>) {
        let hook = line.hook.unwrap_or("-");
        let netns = line.netns.as_deref().unwrap_or("-");
        let text = format!("{}#{} {hook} {netns} {} {}", line.plugin, line.generation, line.message, line.fields);
        self.logs.lock().expect("logs").push(text);
    }

    fn log_level(&self) -> u8 {
        5
    }

    fn hook_called(&self, record: HookRecord<'_>) {
        let device = record.device.map_or(String::new(), |d| format!(" {d}"));
        let result = record.result.map_or_else(|f| f.message.clone(), |()| "ok".into());
        let text = format!("{} {}{device}: {result}", record.hook, record.netns);
        self.hooks.lock().expect("hooks").push(text);
    }

    fn defer(&self, _instance: &InstanceRef, cookies: &[u64], work: u64) -> Result<(), Failure> {
        self.deferred.lock().expect("deferred").push((cookies.to_vec(), work));
        Ok(())
    }

    fn run_in(&self, instance: &InstanceRef, cookie: u64, work: u64) -> Result<(), Failure> {
        let hook = current_hook().map_or("-", |h| h.hook);
        self.run_in.lock().expect("run_in").push(format!("{cookie} from {hook}"));
        assert!(running().iter().any(|r| r.hook == hook), "what runs is visible to others");
        instance.run_work(work, &[At { net: &net(cookie), areas: &[] }])
    }

    fn poisoned(&self, plugin: &str, _generation: u64, failure: &Failure) {
        self.poisoned.lock().expect("poisoned").push(format!("{plugin}: {}", failure.message));
    }
}

impl Recorder {
    fn last_hook(&self) -> String {
        self.hooks.lock().expect("hooks").last().cloned().unwrap_or_default()
    }

    fn logged(&self, text: &str) -> bool {
        self.logs.lock().expect("logs").iter().any(|line| line.contains(text))
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
        Err(Failure::new(38, "no links are made here"))
    }
    fn delete(&self, _: u32) -> Result<(), Failure> {
        Err(Failure::new(38, "no links are made here"))
    }
    fn change(&self, _: u32, _: &LinkChange<'_>) -> Result<(), Failure> {
        Err(Failure::new(38, "no links are made here"))
    }
    fn reopen(&self, _: u32, _: &LinkSpec, _: Queues) -> Result<Queues, Failure> {
        Err(Failure::new(38, "no links are made here"))
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

fn instance(code: &Arc<Code>, config: &str) -> (Result<Instance, PluginError>, Arc<Recorder>) {
    let services = Arc::new(Recorder::default());
    (Instance::create(code, 3, config, Arc::clone(&services) as Arc<dyn HostServices>), services)
}

fn member(instance: &Instance) -> Member {
    instance.member(Arc::new(Owner::new(Arc::clone(instance.name()), instance.generation(), 0)))
}

/// Calls one hook of the instance's op or notifier, as the engine would.
fn call(member: &Member, hook: &str, at: At<'_>) -> Result<(), Failure> {
    let ops = &member.ops()[0].1;
    let reason = ExitReason::Removed;
    match hook {
        "pernet.init" => ops.init(&at).map(|_| ()),
        "pernet.pre_exit" => ops.pre_exit(&at, reason),
        "pernet.exit" => ops.exit(&at, reason),
        "pernet.exit_batch" => ops.exit_batch(&[at], reason),
        "free" => ops.free(at.areas[0]),
        "netdev" => {
            let link = Link { ifindex: 2, name: "eth0".into(), ..Link::default() };
            let device = NetDevice { link, serial: 9, reg_state: RegState::Registered, own: None };
            let event = NetdevEvent { kind: EventKind::Up, replay: false, device: &device, old_name: None };
            let verdict = member.notifiers()[0].1.call(&at, &event)?;
            assert_eq!(verdict, Verdict::Stop, "the plugin's verdict arrives");
            Ok(())
        }
        other => panic!("{other}?"),
    }
}

// ---- refused before any of its code runs ----

#[test]
fn a_good_file_says_what_it_is() {
    let file = Placed::new(&GOOD).open(Some("bad-on-demand")).expect("good");
    assert_eq!(file.note.name, "bad-on-demand");
    assert_eq!(file.note.api, (1, 2));
    assert_eq!(file.note.level, "subsys");
    assert_eq!(file.note.after, ["before-it"]);
    assert_eq!(file.note.panic, "unwind");
    assert_eq!(file.sha256.len(), 64);
    assert!(file.note.rustc.starts_with("1."), "{}", file.note.rustc);
    let json = serde_json::to_value(&file.note).expect("for pernetctl");
    assert_eq!(json["description"], "goes wrong where its configuration says");
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let good = &*GOOD;
    let lengths = (0..200).chain((200..good.len()).step_by(good.len() / 400)).chain(good.len() - 64..good.len());
    for len in lengths {
        let error = Note::of_plugin(&good[..len]).expect_err("truncated");
        assert!(matches!(error, NoteError::Format(_)), "{len}: {error}");
    }
    assert!(refusal(&good[..good.len() / 2]).contains("truncated"));
    assert!(refusal(b"").contains("no ELF file"));
    assert!(refusal(b"#!/bin/sh\n").contains("no ELF file"));
}

#[test]
fn a_file_for_another_machine_is_refused() {
    let with = |at: usize, value: u8| {
        let mut bytes = GOOD.clone();
        bytes[at] = value;
        refusal(&bytes)
    };
    assert!(with(18, 0xf3 ^ GOOD[18]).contains("another processor"));
    assert!(with(4, 1).contains("32-bit"));
    assert!(with(5, 3 - GOOD[5]).contains("endian"));
    assert!(with(16, 2).contains("no shared library"));
}

#[test]
fn a_library_that_is_no_plugin_is_refused() {
    assert!(refusal(&example("bad_no_note")).contains("no pernet note"));
    assert!(refusal(&example("bad_no_entry")).contains("exports no plugin entry"));
    assert!(refusal(&example("bad_defines_libc")).contains("`setns`"));
}

#[test]
fn a_note_that_says_something_wrong_is_refused() {
    let with = |from, to| refusal(&with_note(from, to));
    assert!(with(r#""api":[1,2]"#, r#""api":[1,9]"#).contains("interface 1.9, this daemon has 1.2: update pernetd"));
    assert!(with(r#""api":[1,2]"#, r#""api":[2,0]"#).contains("update pernetd"));
    assert!(with(r#""api":[1,2]"#, r#""api":[0,0]"#).contains("rebuild the plugin"));
    assert!(with(r#""panic":"unwind""#, r#""panic":"aborts""#).contains("panic"));
    assert!(with(r#""level":"subsys""#, r#""level":"system""#).contains("`level` (\"system\")"));
    assert!(with(r#"{"name":"bad-on-demand""#, r#"{"name":"Bad-on-demand""#).contains("`name`"));
    assert!(with(r#"{"name":"bad-on-demand""#, r#"["name":"bad-on-demand""#).contains("cannot be read"));
    assert!(with(r#"["before-it"]"#, r#"["before/it"]"#).contains("`after`"));
    let own = with_note(r#"["before-it"]"#, r#"["before_it"]"#);
    assert_eq!(
        Placed::new(&own).open(None).expect("a good note").note.after,
        ["before_it"],
        "an initcall of pernetd's own"
    );
    let linux = with("-linux-", "-minix-");
    assert!(linux.contains("rebuild it for"), "{linux}");
}

#[test]
fn a_plugin_under_another_name_is_refused() {
    let error = Placed::new(&GOOD).open(Some("loopback")).expect_err("another plugin");
    assert!(error.to_string().contains("holds the plugin `bad-on-demand`, not `loopback`"), "{error}");
}

#[test]
fn what_others_can_write_is_refused() {
    let placed = Placed::new(&GOOD);
    let chmod = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    let refused = || placed.open(None).expect_err("writable by others");

    chmod(&placed.path, 0o646);
    assert!(matches!(refused(), PluginError::Trust(TrustError::Writable { who: "everybody", .. })));
    chmod(&placed.path, 0o644);
    chmod(placed.folder.path(), 0o757);
    let error = refused();
    assert!(error.to_string().contains("chmod o-w"), "{error}");
    chmod(placed.folder.path(), 0o755);
    placed.open(None).expect("below /tmp, which is sticky and root's");
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo.so");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("a FIFO");
    for path in [folder.path(), &fifo, Path::new("/dev/null")] {
        let error = open(&Judge::new(), path, None).expect_err("no regular file");
        assert!(matches!(error, PluginError::Trust(TrustError::NotRegular { .. })), "{error}");
    }
    let missing = open(&Judge::new(), &folder.path().join("missing.so"), None).expect_err("nothing there");
    assert!(matches!(missing, PluginError::Open { .. }), "{missing}");
}

#[test]
fn a_refused_files_constructor_does_not_run() {
    let bytes = example("bad_constructor_leaves_mark");
    let mark = std::env::temp_dir().join(format!("pernet-test-mark-{}", std::process::id()));
    let placed = Placed::new(&bytes);
    placed.open(Some("another")).expect_err("another name");
    placed.replace(&replaced(&bytes, r#""api":[1,2]"#, r#""api":[1,9]"#));
    placed.load().err().expect("another interface");
    placed.replace(&bytes);
    std::fs::set_permissions(&placed.path, Permissions::from_mode(0o666)).expect("chmod");
    placed.load().err().expect("writable by others");
    assert!(!mark.exists(), "code of a refused file ran");

    placed.replace(&bytes);
    placed.load().expect("a good file");
    assert!(mark.exists(), "the constructor does leave its mark when it may run");
    std::fs::remove_file(mark).expect("remove");
}

/// Where damage matters: the headers, the note, and the tables that are read.
fn interesting() -> Vec<usize> {
    let note = *NOTE_AT;
    let headers = 0..64 + 56 * usize::from(GOOD[56]);
    let sections = usize::try_from(u64::from_le_bytes(GOOD[40..48].try_into().expect("8"))).expect("small");
    headers.chain(note - 24..note + 400).chain(sections..GOOD.len()).collect()
}

static INTERESTING: LazyLock<Vec<usize>> = LazyLock::new(interesting);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Reading never panics, whatever the bytes; nothing is ever run by it.
    #[test]
    fn damaged_bytes_are_judged_without_a_crash(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..6)
    ) {
        let mut bytes = GOOD.clone();
        for (index, flip) in flips {
            bytes[*index.get(&INTERESTING)] ^= flip;
        }
        if let Err(error) = Note::of_plugin(&bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn random_bytes_after_a_good_header_are_refused(rest in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut bytes = GOOD[..64].to_vec();
        bytes.extend(rest);
        prop_assert!(Note::of_plugin(&bytes).is_err());
    }
}

// ---- loaded ----

#[test]
fn tables_of_another_shape_are_refused_and_stay_so() {
    let placed = Placed::new(&example("bad_layout"));
    for _ in 0..2 {
        let error = placed.load().err().expect("another layout");
        assert!(matches!(&error, PluginError::Abi { source: AbiError::Layout(_), .. }), "{error}");
        assert!(error.to_string().len() < 1000, "{error}");
    }
    let error = Placed::new(&example("bad_root_module")).load().err().expect("its constructor panics");
    assert!(matches!(&error, PluginError::Abi { source: AbiError::Constructor(_), .. }), "{error}");
}

#[test]
fn code_is_known_by_its_content_and_not_by_its_path() {
    let placed = Placed::new(&GOOD);
    let first = placed.load().expect("good");
    let other_place = Placed::new(&GOOD).load().expect("good");
    assert!(Arc::ptr_eq(&first, &other_place), "the same content is mapped once");

    placed.replace(&with_mark("mark:other-content"));
    let second = placed.load().expect("good");
    assert_ne!(first.sha256, second.sha256);
    let (made, services) = instance(&second, "{}");
    let second_instance = made.expect("made");
    assert!(services.logged("mark:other-content"), "the new code runs: {:?}", services.logs);
    let (made, services) = instance(&first, "{}");
    let first_instance = made.expect("made");
    assert!(services.logged("mark:first-content"), "the old code is still there");

    let is_retired = |code: &Arc<Code>| retired().iter().any(|c| c.sha256 == code.sha256);
    assert!(!is_retired(&second));
    second_instance.destroy().expect("ended");
    assert!(is_retired(&second), "its code stays mapped, and is counted");
    drop(first_instance);
}

#[test]
fn every_hook_reports_its_error_with_its_name() {
    let code = Placed::new(&GOOD).load().expect("good");
    let net = net(10);
    for hook in ["pernet.init", "pernet.pre_exit", "pernet.exit", "pernet.exit_batch", "netdev"] {
        let (made, services) = instance(&code, &format!(r#"{{"hook":"{hook}"}}"#));
        let made = made.expect("made");
        assert_eq!(made.state(), PluginState::Live);
        let member = member(&made);
        let mut area = Area::default();
        if hook != "pernet.init" {
            area = member.ops()[0].1.init(&At { net: &net, areas: &[Area::default()] }).expect("init");
            assert_ne!(area, Area::default());
        }
        let failure = call(&member, hook, At { net: &net, areas: &[area] }).expect_err("as asked");
        assert_eq!((failure.errno, failure.panicked), (libc::EBUSY, false), "{hook}");
        assert!(failure.message.contains(hook), "{}", failure.message);
        let shown = if hook == "netdev" { "netdev.up net10 eth0" } else { &format!("{hook} net10") };
        assert!(services.last_hook().starts_with(&format!("{shown}: as asked")), "{}", services.last_hook());
        assert!(!made.poisoned(), "an error is no panic");
        if area != Area::default() {
            member.ops()[0].1.free(area).expect("freed");
        }
        made.destroy().expect("ended");
        assert_eq!(services.last_hook(), "plugin.drop : ok");
    }
}

#[test]
fn a_panic_at_any_hook_stops_in_the_plugin_and_poisons_it() {
    let code = Placed::new(&GOOD).load().expect("good");
    let net = net(10);
    for hook in ["pernet.init", "pernet.pre_exit", "pernet.exit", "pernet.exit_batch", "netdev", "free"] {
        let (made, services) = instance(&code, &format!(r#"{{"hook":"{hook}","panic":true}}"#));
        let made = made.expect("made");
        let member = member(&made);
        let mut area = Area::default();
        if hook != "pernet.init" {
            area = member.ops()[0].1.init(&At { net: &net, areas: &[area] }).expect("init");
        }
        let at = At { net: &net, areas: &[area] };
        let failure = call(&member, hook, at).expect_err("panics");
        assert!(failure.panicked && failure.message.contains(hook), "{hook}: {failure:?}");
        assert!(made.poisoned());
        assert_eq!(services.poisoned.lock().expect("poisoned").len(), 1);

        let refused = call(&member, "netdev", at).expect_err("nothing but exits any more");
        assert!(refused.errno == libc::EIO && !refused.panicked && refused.message.contains("panicked earlier"));
        if hook == "netdev" {
            call(&member, "pernet.exit", at).expect("an exit is still called");
            call(&member, "free", at).expect("an area is still freed");
        }
        made.destroy().expect("its end is still called");
        assert_eq!(services.poisoned.lock().expect("poisoned").len(), 1, "told once");
    }
}

#[test]
fn a_failing_or_panicking_init_leaves_nothing() {
    let code = Placed::new(&with_mark("mark:failing-init.")).load().expect("good");
    for (config, panicked) in [(r#"{"hook":"init"}"#, false), (r#"{"hook":"init","panic":true}"#, true)] {
        let (made, services) = instance(&code, config);
        match made.err().expect("fails") {
            PluginError::Init { plugin, failure } => {
                assert_eq!((plugin.as_str(), failure.panicked), ("bad-on-demand", panicked));
                assert!(failure.message.contains("as asked, in init"), "{}", failure.message);
            }
            other => panic!("{other}"),
        }
        assert!(services.last_hook().starts_with("plugin.init : "), "{}", services.last_hook());
        assert!(retired().iter().any(|c| c.sha256 == code.sha256), "no instance uses the code");
    }
}

#[test]
fn a_panicking_drop_ends_the_instance_all_the_same() {
    let code = Placed::new(&GOOD).load().expect("good");
    let (made, services) = instance(&code, r#"{"hook":"drop","panic":true}"#);
    let made = made.expect("made");
    let error = made.destroy().expect_err("panics");
    assert!(matches!(&error, PluginError::Drop { failure, .. } if failure.panicked), "{error}");
    assert!(services.last_hook().starts_with("plugin.drop : panicked"), "{}", services.last_hook());
    assert_eq!(made.state(), PluginState::Going);
    made.destroy().expect("it is over");
}

#[test]
fn a_refused_configuration_names_the_field() {
    let code = Placed::new(&GOOD).load().expect("good");
    code.check_config("{}").expect("good");
    let refusal = code.check_config(r#"{"defer":"x"}"#).expect_err("wrong type");
    assert_eq!(refusal.field, "defer");
    let refusal = code.check_config(r#"{"hook":"check"}"#).expect_err("as asked");
    assert_eq!((refusal.field.as_str(), refusal.message.as_str()), ("hook", "as asked, in check"));
    let refusal = code.check_config(r#"{"hook":"check","panic":true}"#).expect_err("as asked");
    assert!(refusal.message.contains("panicked"), "{}", refusal.message);
}

#[test]
fn nonsense_of_a_c_plugin_is_refused_or_made_an_errno() {
    let code = Placed::new(&example("bad_answers")).load().expect("its tables are right");
    let wrong = [("class", "class 9"), ("number", "its turn is 1"), ("many", "more than"), ("handle", "no instance")];
    for (config, what) in wrong {
        let error = instance(&code, config).0.err().expect("refused");
        assert!(matches!(&error, PluginError::Registrations { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let (made, _services) = instance(&code, "");
    let made = made.expect("made");
    let member = member(&made);
    let net = net(1);
    let at = At { net: &net, areas: &[Area::default()] };
    for (hook, answered) in [("pernet.init", "-16"), ("pernet.exit", "70000"), ("netdev", "200")] {
        let failure = call(&member, hook, at).expect_err("nonsense");
        assert_eq!((failure.errno, failure.panicked), (libc::EIO, false));
        assert!(failure.message.contains(answered), "{}", failure.message);
    }
}

// ---- calling back ----

#[test]
fn a_hook_that_would_wait_for_itself_gets_edeadlk() {
    let code = Placed::new(&GOOD).load().expect("good");
    for (target, deadlock) in [(10, true), (4, true), (11, false)] {
        let (made, services) = instance(&code, &format!(r#"{{"run_in":{target}}}"#));
        let made = made.expect("made");
        let member = member(&made);
        let here = net(10);
        let result = member.ops()[0].1.init(&At { net: &here, areas: &[Area::default()] });
        let asked = services.run_in.lock().expect("run_in").clone();
        if deadlock {
            assert_eq!(result.expect_err("at once").errno, libc::EDEADLK);
            assert!(asked.is_empty(), "{asked:?}");
        } else {
            let area = result.expect("the ordered case is the host's to decide");
            assert_eq!(asked, ["11 from pernet.init"]);
            let hooks = services.hooks.lock().expect("hooks").clone();
            assert_eq!(hooks[1..], ["work.run net11: ok", "pernet.init net10: ok"]);
            member.ops()[0].1.free(area).expect("freed");
        }
    }
}

#[test]
fn what_init_defers_is_queued_when_it_has_returned() {
    let code = Placed::new(&GOOD).load().expect("good");
    let (made, services) = instance(&code, r#"{"defer":5}"#);
    let made = made.expect("made");
    let deferred = services.deferred.lock().expect("deferred").clone();
    let [(cookies, work)] = deferred.as_slice() else { panic!("{deferred:?}") };
    assert_eq!(cookies, &[5]);
    let net = net(5);
    let at = At { net: &net, areas: &[Area::default()] };
    made.downgrade().run_work(*work, &[at]).expect("runs");
    assert!(services.logged("bad-on-demand#3 work.run net5 deferred work in net5"), "{:?}", services.logs);
    let again = made.downgrade().run_work(*work, &[at]).expect_err("once");
    assert_eq!(again.errno, libc::ENOENT);
}

#[test]
fn nothing_is_called_after_the_end() {
    let code = Placed::new(&GOOD).load().expect("good");
    let (made, services) = instance(&code, r#"{"defer":5}"#);
    let made = made.expect("made");
    let (member, way) = (member(&made), made.downgrade());
    let work = services.deferred.lock().expect("deferred")[0].1;
    made.destroy().expect("ended");
    assert!(services.logged("plugin.drop - dropped"), "the author's Drop ran: {:?}", services.logs);
    let count = services.hooks.lock().expect("hooks").len();
    let net = net(5);
    let at = At { net: &net, areas: &[Area::default()] };
    for hook in ["pernet.init", "pernet.exit", "netdev", "free"] {
        assert_eq!(call(&member, hook, at).expect_err("gone").errno, libc::ESTALE, "{hook}");
    }
    assert_eq!(way.run_work(work, &[at]).expect_err("gone").errno, libc::ESTALE);
    assert_eq!(way.drop_work(work).expect_err("gone").errno, libc::ESTALE);
    assert_eq!(services.hooks.lock().expect("hooks").len(), count, "and nothing is told of it");
    drop((made, member));
    assert_eq!(way.run_work(work, &[at]).expect_err("gone").errno, libc::ESTALE);
}

#[test]
fn logs_carry_plugin_generation_namespace_and_fields() {
    let code = Placed::new(&GOOD).load().expect("good");
    let (made, services) = instance(&code, "{}");
    let made = made.expect("made");
    assert!(services.logged("bad-on-demand#3 plugin.init - mark:"), "{:?}", services.logs);
    assert!(services.logged(r#""answer":42"#), "{:?}", services.logs);
    let net = net(8);
    let area = member(&made).ops()[0].1.init(&At { net: &net, areas: &[Area::default()] }).expect("init");
    assert!(services.logged("bad-on-demand#3 pernet.init net8 init in net8"), "{:?}", services.logs);
    member(&made).ops()[0].1.free(area).expect("freed");
}

#[test]
fn where_no_memfd_may_be_executed_the_private_folder_takes_its_place() {
    let state = tempfile::tempdir().expect("a folder");
    let folder = state.path().join("code");
    let content = |mark| Placed::new(&with_mark(mark));
    let (first, second) = (content("mark:no-folder-yet"), content("mark:into-a-folder"));
    let thread = std::thread::spawn({
        let folder = folder.clone();
        move || {
            forbid_memfd();
            let error = first.load().err().expect("nowhere to put it");
            assert!(error.to_string().contains("vm.memfd_noexec"), "{error}");
            use_folder_where_memfd_is_refused(folder);
            second.load().map(|code| instance(&code, "{}"))
        }
    });
    let (made, services) = thread.join().expect("no panic").expect("loaded");
    made.expect("made");
    assert!(services.logged("mark:into-a-folder"), "{:?}", services.logs);
    assert_eq!(std::fs::read_dir(folder).expect("made").count(), 0, "nothing is left in it");
}

/// Has the kernel answer EACCES to `memfd_create`, for this thread only.
#[allow(unsafe_code)]
fn forbid_memfd() {
    let stmt = |code: u32, k: u32, jt, jf| libc::sock_filter { code: u16::try_from(code).expect("small"), jt, jf, k };
    let number = u32::try_from(libc::SYS_memfd_create).expect("small");
    let filter = [
        stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        stmt(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 0, 1),
        stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EACCES.unsigned_abs(), 0, 0),
        stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut() };
    // SAFETY: both calls act on this thread only; the program and its filter live until the second returns.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn many_threads_load_and_call_at_once() {
    let placed = Placed::new(&with_mark("mark:many-threads."));
    std::thread::scope(|scope| {
        for cookie in 100..108 {
            let placed = &placed;
            scope.spawn(move || {
                let code = placed.load().expect("good");
                let (made, services) = instance(&code, "{}");
                let made = made.expect("made");
                let (member, net) = (member(&made), net(cookie));
                for _ in 0..200 {
                    let area = member.ops()[0].1.init(&At { net: &net, areas: &[Area::default()] }).expect("init");
                    let at = At { net: &net, areas: &[area] };
                    for hook in ["netdev", "pernet.pre_exit", "pernet.exit", "pernet.exit_batch", "free"] {
                        call(&member, hook, at).expect(hook);
                    }
                }
                made.destroy().expect("ended");
                assert_eq!(services.hooks.lock().expect("hooks").len(), 2 + 200 * 5);
            });
        }
    });
}
