//! K2.6: the RTNL and its todo.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use pernet_plugin_api::{ExitReason, NetCookie};

use super::recorder::*;
use crate::engine::*;

const LONG: Duration = Duration::from_secs(20);

fn rtnl(cookie: u64) -> Arc<Rtnl> {
    Arc::new(Rtnl::new(NetCookie(cookie)))
}

#[test]
fn k2_6_1_work_runs_after_the_unlock_in_order_and_may_take_the_lock_again() {
    let (lock, log) = (rtnl(1), Arc::new(Mutex::new(Vec::new())));
    let held = lock.lock().unwrap();
    for n in 0..2 {
        let (again, log) = (lock.clone(), log.clone());
        let work = move || {
            assert!(!again.held_by_me(), "unlocked before the work");
            let held = again.lock().unwrap();
            let inner = log.clone();
            again.defer(Box::new(move || inner.lock().unwrap().push(n + 10))).unwrap();
            log.lock().unwrap().push(n);
            drop(held);
        };
        lock.defer(Box::new(work)).unwrap();
    }
    assert!(log.lock().unwrap().is_empty());
    drop(held);
    assert_eq!(*log.lock().unwrap(), [0, 10, 1, 11]);
}

#[test]
fn k2_6_7_whichever_way_the_lock_is_given_up_what_was_left_runs() {
    let (a, b) = (rtnl(1), rtnl(2));
    let ran = Arc::new(AtomicUsize::new(0));
    let leave = |lock: &Rtnl| {
        let ran = ran.clone();
        let work = move || {
            ran.fetch_add(1, Ordering::SeqCst);
        };
        lock.defer(Box::new(work)).unwrap();
    };
    let held = a.lock().unwrap();
    leave(&a);
    drop(held);
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    let held = a.lock_within(LONG).unwrap();
    leave(&a);
    assert_eq!((held.unlock(), ran.load(Ordering::SeqCst)), (1, 2));
    let pair = lock_two(&a, &b).unwrap();
    leave(&a);
    leave(&b);
    drop(pair);
    assert_eq!(ran.load(Ordering::SeqCst), 4);
    // The proof of holding it gives nothing up.
    let held = a.lock().unwrap();
    leave(&a);
    {
        let _proof = a.assert_rtnl().unwrap();
    }
    assert_eq!((a.held_by_me(), ran.load(Ordering::SeqCst)), (true, 4));
    drop(held);
    assert_eq!((a.held_by_me(), ran.load(Ordering::SeqCst)), (false, 5));
}

#[test]
fn work_for_a_lock_that_nobody_holds_comes_back() {
    let lock = rtnl(1);
    let Err(NotDeferred::NobodyHolds(work)) = lock.defer(Box::new(|| {})) else { panic!("nobody would run it") };
    work();
    // Another thread's lock will do: it runs what is left for it.
    let ran = Arc::new(AtomicUsize::new(0));
    let held = lock.lock().unwrap();
    let (theirs, counter) = (lock.clone(), ran.clone());
    let work: Work = Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    thread::spawn(move || theirs.defer(work).unwrap()).join().unwrap();
    drop(held);
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[test]
fn work_that_defers_itself_for_ever_is_refused_before_the_stack_ends() {
    fn again(lock: Arc<Rtnl>, ran: Arc<AtomicUsize>) {
        ran.fetch_add(1, Ordering::SeqCst);
        let _held = lock.lock().unwrap();
        let (next, counter) = (lock.clone(), ran);
        let _ = lock.defer(Box::new(move || again(next, counter)));
    }
    let (lock, ran) = (rtnl(1), Arc::new(AtomicUsize::new(0)));
    again(lock, ran.clone());
    assert!(ran.load(Ordering::SeqCst) < 100);
}

#[test]
fn what_can_never_be_had_is_edeadlk_at_once() {
    let (a, b) = (rtnl(1), rtnl(2));
    let held = b.lock().unwrap();
    assert_eq!(b.lock().err(), Some(LockError::Deadlock));
    assert_eq!(a.lock().err(), Some(LockError::Deadlock), "out of cookie order");
    assert_eq!(LockError::Deadlock.errno(), 35);
    drop(held);
    let first = a.lock().unwrap();
    let second = b.lock().unwrap();
    drop(first);
    assert_eq!(a.lock().err(), Some(LockError::Deadlock), "still out of order");
    drop(second);
    assert_eq!(lock_two(&a, &a).err(), Some(LockError::Deadlock));
    assert!(a.lock().is_ok(), "nothing stays locked after a refusal");
}

#[test]
fn a_wait_for_another_thread_ends_at_its_deadline() {
    let lock = rtnl(1);
    let (ready, is_ready) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let theirs = lock.clone();
    let holder = thread::spawn(move || {
        let held = theirs.lock().unwrap();
        ready.send(()).unwrap();
        released.recv_timeout(LONG).unwrap();
        drop(held);
    });
    is_ready.recv_timeout(LONG).unwrap();
    assert_eq!(lock.lock_within(Duration::ZERO).err(), Some(LockError::Timeout));
    assert!(!lock.held_by_me());
    release.send(()).unwrap();
    assert!(lock.lock_within(LONG).is_ok());
    holder.join().unwrap();
}

#[test]
fn two_nets_are_locked_in_cookie_order_whichever_way_they_are_named() {
    let (a, b) = (rtnl(1), rtnl(2));
    let rounds = Arc::new(AtomicUsize::new(0));
    let threads = [(a.clone(), b.clone()), (b.clone(), a.clone())].map(|(x, y)| {
        let rounds = rounds.clone();
        thread::spawn(move || {
            for _ in 0..1000 {
                let pair = lock_two(&x, &y).unwrap();
                assert!(x.held_by_me() && y.held_by_me());
                rounds.fetch_add(1, Ordering::SeqCst);
                drop(pair);
            }
        })
    });
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(rounds.load(Ordering::SeqCst), 2000);
    let pair = lock_two(&b, &a).unwrap();
    let (x, y, ran) = (a.clone(), b.clone(), rounds.clone());
    let work = move || {
        assert!(lock_two(&x, &y).is_ok(), "both are free when the work runs");
        ran.store(0, Ordering::SeqCst);
    };
    b.defer(Box::new(work)).unwrap();
    drop(pair);
    assert_eq!(rounds.load(Ordering::SeqCst), 0);
}

/// A plugin's work asks for its areas; it gets them only while a hook of the plugin is in force.
fn later(world: &Arc<World>, member: &Arc<Member>, net: &Arc<Net>, what: &'static str) -> Work {
    let (world, owner, net) = (world.clone(), member.owner.clone(), net.clone());
    Box::new(move || {
        let held = net.rtnl().lock().unwrap();
        let ran = net.with_areas(&held, &owner, |at| at.areas.len());
        world.note(format!("{what}: {ran:?}"));
    })
}

#[test]
fn a_hook_leaves_work_that_runs_after_it_and_not_after_the_plugins_exit() {
    let (world, list) = (World::new(), PernetList::new());
    let member = add(&list, world.plugin("a", 0).subsys(), &[]);
    let net = world.net(1, &["lo"]);
    for (call, what) in [("a.init0@1", "from init"), ("a.pre_exit0@1", "from pre_exit"), ("a.exit0@1", "from exit")] {
        let (worlds, member, nets) = (world.clone(), member.clone(), net.clone());
        world.at(call, move |net| net.rtnl().defer(later(&worlds, &member, &nets, what)).unwrap());
    }
    set_up(&list, &net);
    clean_up(&list, &net, ExitReason::Died);
    assert_eq!(
        world.take(),
        [
            "a.init0@1",
            "from init: Some(1)",
            "a.pre_exit0@1:Died",
            "from pre_exit: Some(1)",
            "a.exit0@1:Died",
            "from exit: None",
            "a.batch0@1:Died",
            "a.free0@1",
        ]
    );
}

#[test]
fn work_of_an_init_that_failed_finds_nothing() {
    let (world, list) = (World::new(), PernetList::new());
    let member = add(&list, world.plugin("a", 0).subsys(), &[]);
    let net = world.net(1, &["lo"]);
    let (worlds, members, nets) = (world.clone(), member, net.clone());
    world.at("a.init0@1", move |net| net.rtnl().defer(later(&worlds, &members, &nets, "work")).unwrap());
    world.fail("a.init0@1");
    set_up(&list, &net);
    assert_eq!(world.take(), ["a.init0@1", "work: None"]);
}

#[test]
fn work_that_ends_in_another_namespace_does_not_take_the_next_hook_there() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys().subsys(), &[]);
    world.at("a.init0@1", |net| net.rtnl().defer(Box::new(|| stray(77))).unwrap());
    set_up(&list, &world.net(1, &["lo"]));
    assert_eq!(world.take(), ["a.init0@1", "a.init1@1"]);
}
