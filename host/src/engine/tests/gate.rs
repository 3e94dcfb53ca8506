//! The gate of the list: admission, drain, deadline.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::recorder::*;
use crate::engine::*;

const LONG: Duration = Duration::from_secs(20);

/// Waits for a condition, with a deadline that fails loudly.
fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < end, "still not so: {what}");
        thread::yield_now();
    }
}

#[test]
fn a_writer_stops_admission_and_waits_for_who_was_admitted() {
    let list = PernetList::new();
    let (one, two) = (list.read().unwrap(), list.read().unwrap());
    let (done, is_done) = mpsc::channel();
    let (theirs, finish) = (list.clone(), mpsc::channel::<()>());
    let (finish, finished) = finish;
    let writer = thread::spawn(move || {
        let token = theirs.write(LONG).unwrap();
        done.send(()).unwrap();
        finished.recv_timeout(LONG).unwrap();
        drop(token);
    });
    until("admission is stopped", || list.read().is_none());
    drop(one);
    assert!(is_done.try_recv().is_err(), "one reader is still inside");
    drop(two);
    is_done.recv_timeout(LONG).unwrap();
    assert!(list.read().is_none(), "no admission while the writer works");
    finish.send(()).unwrap();
    writer.join().unwrap();
    assert!(list.read().is_some());
}

#[test]
fn a_writer_that_waits_too_long_gives_up_and_nothing_has_changed() {
    let list = PernetList::new();
    let reader = list.read().unwrap();
    assert_eq!(list.write(Duration::ZERO).err(), Some(Blocked { readers: 1 }));
    assert!(list.read().is_some(), "admission is open again");
    drop(reader);
    let token = list.write(Duration::ZERO).unwrap();
    assert_eq!(list.write(Duration::ZERO).err(), Some(Blocked { readers: 0 }));
    drop(token);
}

#[test]
fn a_token_keeps_the_list_of_its_admission_and_may_be_carried_to_another_thread() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    let token = list.read().unwrap();
    let net = world.net(1, &["lo"]);
    thread::spawn(move || drop(setup_net(&token, &net))).join().unwrap();
    assert_eq!(world.take(), ["a.init0@1"]);
    assert!(list.write(Duration::ZERO).is_ok(), "the token went with its job");
}

#[test]
fn readers_and_writers_in_a_crowd_never_meet() {
    let (list, inside) = (PernetList::new(), Arc::new(AtomicUsize::new(0)));
    const WRITER: usize = 1 << 20;
    thread::scope(|scope| {
        for n in 0..8 {
            let (list, inside) = (&list, &inside);
            scope.spawn(move || {
                for _ in 0..300 {
                    if n == 0 {
                        let token = list.write(LONG).unwrap();
                        assert_eq!(inside.fetch_add(WRITER, Ordering::SeqCst), 0);
                        inside.fetch_sub(WRITER, Ordering::SeqCst);
                        drop(token);
                    } else if let Some(token) = list.read() {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < WRITER);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(token);
                    } else {
                        thread::yield_now();
                    }
                }
            });
        }
    });
    assert!(list.read().is_some());
}
