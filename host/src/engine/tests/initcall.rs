//! K5.2 and K5.3: initcalls, called one by one; and how one of several steps unwinds (K5.7, K6.7).

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use crate::engine::*;

const EIO: i32 = 5;

/// What was called, in order.
type Log = Vec<String>;

/// An initcall that notes that it was called; `errno` is what it fails with, 0 for not at all.
fn initcall(name: &str, level: Level, requires: &[&str], errno: i32) -> Initcall<'static, Log> {
    let said = name.to_owned();
    let run = move |log: &mut Log| {
        log.push(said.clone());
        if errno == 0 { Ok(()) } else { Err(Failure::new(errno, format!("{said} cannot"))) }
    };
    let requires = requires.iter().map(ToString::to_string).collect();
    Initcall { name: name.to_owned(), level, requires, vital: false, run: Box::new(run) }
}

/// A clock that is a millisecond later each time, and what was told.
#[derive(Default)]
struct Ticks(Cell<u64>, RefCell<Log>);

impl Watch for Ticks {
    fn now(&self) -> Duration {
        self.0.set(self.0.get() + 1);
        Duration::from_millis(self.0.get())
    }

    fn calling(&self, name: &str) {
        self.1.borrow_mut().push(format!("calling {name}"));
    }

    fn over(&self, called: &Called) {
        let errno = called.outcome.failure().map_or(0, |failure| failure.errno);
        self.1.borrow_mut().push(format!("{} returned {errno}", called.name));
    }
}

fn run(calls: Vec<Initcall<'_, Log>>, listed: &[&str]) -> (Log, Vec<Called>) {
    let mut log = Log::new();
    let blacklist = Blacklist(listed.iter().map(|name| (name.to_string(), "main.toml:1".to_owned())).collect());
    let called = do_initcalls(calls, &mut log, &blacklist, &Ticks::default());
    (log, called)
}

fn message<'a>(called: &'a [Called], name: &str) -> (i32, &'a str) {
    let failure = called.iter().find(|c| c.name == name).unwrap().outcome.failure().unwrap();
    (failure.errno, &failure.message)
}

#[test]
fn k5_1_levels_in_turn_and_within_a_level_as_given() {
    let mut calls: Vec<_> = Level::ALL.iter().rev().map(|l| initcall(&format!("{l}.1"), *l, &[], 0)).collect();
    calls.extend(Level::ALL.iter().map(|l| initcall(&format!("{l}.2"), *l, &[], 0)));
    let (log, called) = run(calls, &[]);
    let expected: Vec<String> = Level::ALL.iter().flat_map(|l| [format!("{l}.1"), format!("{l}.2")]).collect();
    assert_eq!(log, expected);
    assert_eq!(called.iter().map(|c| c.name.clone()).collect::<Vec<_>>(), expected);
}

#[test]
fn k5_2_strictly_serial_each_with_its_time() {
    let (_, called) = run(vec![initcall("a", Level::Core, &[], 0), initcall("b", Level::Core, &[], EIO)], &[]);
    let ms = Duration::from_millis;
    assert_eq!(called.iter().map(|c| (c.start, c.took)).collect::<Vec<_>>(), [(ms(1), ms(1)), (ms(3), ms(1))]);
    let (log, called) = run(vec![initcall("a", Level::Core, &[], 0)], &["a"]);
    assert_eq!((log, called[0].start, called[0].took), (Log::new(), ms(1), ms(0)), "what is not called takes no time");
}

#[test]
fn k5_3_each_call_is_told_before_and_after() {
    let calls = vec![initcall("a", Level::Core, &[], 0), initcall("b", Level::Core, &[], EIO)];
    let ticks = Ticks::default();
    let _ = do_initcalls(calls, &mut Log::new(), &Blacklist::default(), &ticks);
    assert_eq!(*ticks.1.borrow(), ["calling a", "a returned 0", "calling b", "b returned 5"]);
    let ticks = Ticks::default();
    let blacklist = Blacklist(vec![("a".into(), "here".into())]);
    let _ = do_initcalls(vec![initcall("a", Level::Core, &[], 0)], &mut Log::new(), &blacklist, &ticks);
    assert_eq!(*ticks.1.borrow(), ["a returned 1"]);
}

/// Where the kernel ignores the value, it counts here: but only for what requires it.
#[test]
fn k5_2_a_failing_one_stops_only_what_requires_it() {
    let calls = vec![
        initcall("a", Level::Core, &[], 0),
        initcall("b", Level::Core, &[], EIO),
        initcall("c", Level::Fs, &["a", "b"], 0),
        initcall("d", Level::Late, &["c"], 0),
        initcall("e", Level::Late, &["a"], 0),
    ];
    let (log, called) = run(calls, &[]);
    assert_eq!(log, ["a", "b", "e"]);
    assert_eq!(message(&called, "b"), (EIO, "b cannot"));
    assert_eq!(message(&called, "c"), (19, "requires `b`, which failed: b cannot"));
    assert_eq!(message(&called, "d"), (19, "requires `c`, which requires `b`, which failed: b cannot"));
    assert!(matches!(called[1].outcome, Outcome::Failed(_)));
    assert!(matches!((&called[2].outcome, &called[3].outcome), (Outcome::Refused(_), Outcome::Refused(_))));
}

#[test]
fn k5_3_a_blacklisted_one_gets_eperm_without_being_called() {
    let calls = || {
        let first = initcall("sock_init", Level::Core, &[], 0);
        vec![first, initcall("plugin.a", Level::Fs, &["sock_init"], 0), initcall("plugin.ab", Level::Fs, &[], 0)]
    };
    let (log, called) = run(calls(), &["sock_init", "plugin.a*", "plugin", "Plugin.ab", "plugin.a"]);
    assert_eq!(log, ["plugin.ab"], "names are exact");
    assert_eq!(message(&called, "sock_init"), (1, "blacklisted by initcall_blacklist, main.toml:1"));
    assert_eq!(message(&called, "plugin.a").0, 1, "its own reason comes first");
    assert!(matches!(called[0].outcome, Outcome::Blacklisted(_)));
    let (log, called) = run(calls(), &["sock_init"]);
    assert_eq!(log, ["plugin.ab"]);
    let why = "requires `sock_init`, which is blacklisted by initcall_blacklist, main.toml:1";
    assert_eq!(message(&called, "plugin.a"), (19, why));
    assert!(run(calls(), &[]).1.iter().all(|c| c.outcome == Outcome::Done));
}

#[test]
fn nothing_goes_on_without_a_vital_one() {
    let vital = Initcall { vital: true, ..initcall("v", Level::Core, &[], EIO) };
    let calls = vec![initcall("a", Level::Pure, &[], 0), vital, initcall("b", Level::Late, &[], 0)];
    let (log, called) = run(calls, &[]);
    assert_eq!(log, ["a", "v"]);
    assert_eq!(message(&called, "b"), (19, "nothing goes on without `v`, which failed"));
    assert!(called[1].vital && !called[0].vital);
}

#[test]
fn who_requires_what_has_no_turn_before_it_is_refused() {
    let (log, called) = run(vec![initcall("a", Level::Core, &["b"], 0), initcall("b", Level::Fs, &[], 0)], &[]);
    assert_eq!(log, ["b"]);
    assert_eq!(message(&called, "a").1, "requires `b`, which is not among those before it");
}

proptest! {
    /// Called is exactly who is not blacklisted and whose requirements, all the way down, were called and did not fail.
    #[test]
    fn k5_2_and_3_for_any_failures_and_any_blacklist(
        rows in prop::collection::vec((0..8usize, prop::collection::vec(0..12usize, 0..3), 0..4u8), 1..12),
    ) {
        let name = |n: usize| format!("n{n}");
        // Each requires only what comes before it.
        let mut rows: Vec<_> = rows;
        rows.sort_by_key(|row| row.0);
        let requires = |n: usize| -> Vec<usize> { rows[n].1.iter().copied().filter(|r| *r < n).collect() };
        let calls = (0..rows.len()).map(|n| {
            let names: Vec<String> = requires(n).into_iter().map(name).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            initcall(&name(n), Level::ALL[rows[n].0], &names, if rows[n].2 == 1 { EIO } else { 0 })
        });
        let listed: Vec<String> = (0..rows.len()).filter(|n| rows[*n].2 == 2).map(name).collect();
        let (log, called) = run(calls.collect(), &listed.iter().map(String::as_str).collect::<Vec<_>>());
        let mut there = vec![false; rows.len()];
        let mut expected = Log::new();
        for n in 0..rows.len() {
            if rows[n].2 != 2 && requires(n).into_iter().all(|r| there[r]) {
                expected.push(name(n));
                there[n] = rows[n].2 != 1;
            }
        }
        prop_assert_eq!(log, expected);
        let done: Vec<bool> = called.iter().map(|c| c.outcome == Outcome::Done).collect();
        prop_assert_eq!(done, there);
    }
}

/// What the steps did and undid, and which step fails.
#[derive(Clone, Default)]
struct Bench {
    log: Arc<Mutex<Vec<String>>>,
    fails: Option<usize>,
    panics: bool,
}

fn step<const N: usize>(bench: &mut Bench) -> Result<Undo, Failure> {
    if bench.fails == Some(N) {
        assert!(!bench.panics, "as asked");
        return Err(Failure::new(EIO, "no room"));
    }
    bench.log.lock().unwrap().push(format!("+{N}"));
    let log = bench.log.clone();
    Ok(Box::new(move || log.lock().unwrap().push(format!("-{N}"))))
}

const STEPS: [Step<Bench>; 4] = [
    Step { what: "the root", run: step::<0> },
    Step { what: "the cache", run: step::<1> },
    Step { what: "the type", run: step::<2> },
    Step { what: "the mount", run: step::<3> },
];

#[test]
fn k6_7_a_failure_at_any_step_unwinds_all_before_it_in_reverse() {
    let expected = [vec![], vec!["+0", "-0"], vec!["+0", "+1", "-1", "-0"], vec!["+0", "+1", "+2", "-2", "-1", "-0"]];
    for (n, expected) in expected.into_iter().enumerate() {
        let mut bench = Bench { fails: Some(n), ..Bench::default() };
        let failure = do_steps(&STEPS, &mut bench).err().unwrap();
        assert_eq!((failure.errno, failure.message), (EIO, format!("{}: no room", STEPS[n].what)));
        assert_eq!(*bench.log.lock().unwrap(), expected, "step {n}");
        bench.panics = true;
        bench.log.lock().unwrap().clear();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(do_steps(&STEPS, &mut bench))));
        assert!(panicked.is_err());
        assert_eq!(*bench.log.lock().unwrap(), expected, "a panic at step {n}");
    }
}

#[test]
fn k5_7_what_was_done_is_undone_in_reverse_at_the_end() {
    let mut bench = Bench::default();
    let undo = do_steps(&STEPS, &mut bench).unwrap();
    assert_eq!(*bench.log.lock().unwrap(), ["+0", "+1", "+2", "+3"]);
    undo();
    assert_eq!(bench.log.lock().unwrap()[4..], ["-3", "-2", "-1", "-0"]);
}
