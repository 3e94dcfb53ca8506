//! Work that plugins hand to the daemon: `defer`, `defer_two` and `run_in`, from hooks and from threads of their own.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use machine::{Call, Machine, name_path, one};
use pernetd::linux::{ns, rtnetlink};
use sandbox::{netns_add, netns_del};

fn main() -> ExitCode {
    let trials = [
        one("defer from a hook runs after the unlock, before the next hook", deferred_in_a_hook),
        one("K2.6(1): what is deferred runs in order, each piece once", deferred_in_order),
        one("defer for another namespace runs there, once", deferred_elsewhere),
        one("defer_two acts on both, in cookie order", deferred_for_two),
        one("run_in: EDEADLK for what the hook holds or comes earlier, at once", run_in_from_a_hook),
        one("a thread of the plugin's own may run_in anywhere", own_thread),
        one("work for a namespace that goes first is dropped", too_late),
        one("an end that waits for a thread that waits for work is not held up", waiting_at_the_end),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// A `works` key with these.
fn works(works: &[&str]) -> String {
    format!("works = [{}]", works.join(", "))
}

fn start(m: &mut Machine, works: &str, names: &[&str]) {
    m.probe(10, "a", "", works);
    m.probe(20, "b", "", "");
    m.start();
    for name in names {
        netns_add(name);
        m.wait_state(name, "live");
    }
}

fn find(m: &Machine, hook: &str) -> Vec<Call> {
    m.calls().into_iter().filter(|c| c.hook == hook).collect()
}

fn inode(name: &str) -> String {
    format!("net:[{}]", std::fs::metadata(name_path(name)).unwrap().ino())
}

fn deferred_in_a_hook(mut m: Machine) {
    let work = "{ hook = \"pernet.init\", netns = \"blue\", ask = \"defer\", to = \"blue\" }";
    start(&mut m, &works(&[work]), &["blue"]);
    m.wait_call("a work.defer blue");
    let story: Vec<_> = m.trace().into_iter().skip(2).collect();
    assert_eq!(story, ["a init blue", "a plugin.defer blue 0", "a work.defer blue", "b init blue"]);
    assert_eq!(find(&m, "work.defer")[0].inside, inode("blue"));
    m.stop();
}

fn deferred_in_order(mut m: Machine) {
    // Neither in the order of their names nor in the reverse.
    let order = ["third", "first", "second", "again"];
    let piece = |tag: &&str| {
        format!("{{ hook = \"pernet.init\", netns = \"blue\", ask = \"defer\", to = \"blue\", tag = \"{tag}\" }}")
    };
    let pieces = order.each_ref().map(piece);
    start(&mut m, &works(&pieces.each_ref().map(String::as_str)), &["blue"]);
    let story: Vec<_> = m.trace().into_iter().skip(2).collect();
    let asked = order.map(|_| "a plugin.defer blue 0".to_owned());
    let ran = order.map(|tag| format!("a work.defer blue {tag}"));
    let expected = [&["a init blue".to_owned()], &asked[..], &ran[..], &["b init blue".to_owned()]].concat();
    assert_eq!(story, expected, "all after the unlock, before the next hook");
    m.stop();
    assert_eq!(find(&m, "work.defer").len(), order.len(), "each once");
}

fn deferred_elsewhere(mut m: Machine) {
    let work = "{ hook = \"pernet.init\", netns = \"green\", ask = \"defer\", to = \"blue\" }";
    start(&mut m, &works(&[work]), &["blue", "green"]);
    m.wait_call("a work.defer blue");
    assert_eq!(find(&m, "work.defer")[0].inside, inode("blue"));
    m.stop();
    assert_eq!(find(&m, "work.defer").len(), 1);
}

fn deferred_for_two(mut m: Machine) {
    let forth = "{ hook = \"pernet.init\", netns = \"red\", ask = \"defer_two\", to = \"blue\", and = \"green\" }";
    let back = "{ hook = \"pernet.init\", netns = \"red\", ask = \"defer_two\", to = \"green\", and = \"blue\" }";
    start(&mut m, &works(&[forth, back]), &["blue", "green", "red"]);
    m.wait_call("a work.defer_two blue green");
    m.wait_call("a work.defer_two green blue");
    let asked: Vec<_> = find(&m, "defer_two").into_iter().map(|c| c.errno.unwrap()).collect();
    assert_eq!(asked, [0, 0]);
    for call in find(&m, "work.defer_two") {
        assert_eq!(call.inside, inode(&call.netns), "inside the first that was named");
    }
    m.stop();
}

fn run_in_from_a_hook(mut m: Machine) {
    for name in ["blue", "green"] {
        netns_add(name);
    }
    // The order of locks is that of the cookies, which each processor deals out of its own stock.
    let cookie = |name: &str| machine::inside(name, || ns::current().unwrap().0);
    let (first, second) = if cookie("blue") < cookie("green") { ("blue", "green") } else { ("green", "blue") };
    let ask = |hook: &str, netns: &str, to: &str| {
        format!("{{ hook = \"{hook}\", netns = \"{netns}\", ask = \"run_in\", to = \"{to}\" }}")
    };
    let asked =
        [ask("netdev.up", first, first), ask("netdev.up", second, first), ask("netdev.changemtu", first, second)];
    start(&mut m, &format!("notifier = 0\n{}", works(&asked.each_ref().map(String::as_str))), &[]);
    for name in [first, second] {
        machine::inside(name, || rtnetlink::set_up(1).unwrap());
        m.wait_call(&format!("a plugin.run_in {name} {}", libc::EDEADLK));
    }
    assert!(find(&m, "work.run_in").is_empty(), "the refused work never runs");
    machine::inside(first, || rtnetlink::set_mtu(1, 1400).unwrap());
    m.wait_call(&format!("a plugin.run_in {first} 0"));
    let ran = find(&m, "work.run_in");
    assert_eq!(ran.len(), 1);
    assert_eq!((ran[0].netns.as_str(), &ran[0].inside), (second, &inode(second)));
    // The thread is back where its hook was.
    assert_eq!(find(&m, "run_in").last().unwrap().inside, inode(first));
    m.stop();
}

fn own_thread(mut m: Machine) {
    let earlier =
        "{ hook = \"netdev.register\", netns = \"green\", ask = \"run_in\", to = \"blue\", own_thread = true }";
    let own = "{ hook = \"pernet.init\", netns = \"green\", ask = \"run_in\", to = \"green\", own_thread = true }";
    start(&mut m, &format!("notifier = 0\n{}", works(&[earlier, own])), &["blue", "green"]);
    m.wait_call("a work.run_in blue");
    m.wait_call("a work.run_in green");
    for call in find(&m, "work.run_in") {
        assert_eq!(call.inside, inode(&call.netns));
    }
    m.wait_call("a plugin.run_in green 0");
    m.stop();
}

fn too_late(mut m: Machine) {
    let work = "{ hook = \"pernet.exit\", netns = \"green\", ask = \"defer\", to = \"blue\" }";
    start(&mut m, &works(&[work]), &["blue", "green"]);
    netns_del("blue");
    m.wait_gone("blue");
    netns_del("green");
    m.wait_gone("green");
    let asked = find(&m, "defer");
    assert_eq!(asked.len(), 1);
    assert_ne!(asked[0].errno, Some(0), "blue is gone");
    assert!(find(&m, "work.defer").is_empty());
    m.stop();
}

fn waiting_at_the_end(mut m: Machine) {
    let work = "{ hook = \"pernet.exit\", netns = \"blue\", ask = \"run_in\", to = \"green\", own_thread = true }";
    start(&mut m, &works(&[work]), &["blue", "green"]);
    // Its exit asks for work, which the reload holds back; its end waits for who asked.
    m.probe(10, "a", "", "label = \"new\"");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    let pause = m.status()["last_reload"]["pause_us"].as_u64().unwrap();
    assert!(pause < 5_000_000, "{pause} us");
    let asked = find(&m, "run_in");
    assert_eq!(asked.len(), 1);
    assert_ne!(asked[0].errno, Some(0));
    assert!(find(&m, "work.run_in").is_empty(), "no code of a plugin runs after its end");
    m.stop();
}
