//! Who may what: a start by the socket, and a user who is nobody in particular.

use super::{chapter, install_and_enable, netns_add};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;

pub(super) const CHAPTERS: [Chapter; 2] = [
    chapter("12-socket", "Who asks starts the daemon, by the socket that systemd listens on.", socket),
    chapter("13-user", "An ordinary user reads as the configuration allows, and changes nothing.", user),
];

fn socket(c: &Container) {
    install_and_enable(c);
    netns_add(c, "blue");
    c.step("the service is stopped, its socket stays");
    c.ok("systemctl stop pernetd");
    c.fails("systemctl is-active pernetd");
    c.ok("systemctl is-active pernetd.socket");
    c.step("who asks starts it, and is answered");
    let blue = c.ok("pernetctl netns wait blue");
    c.assert_has(&blue, &["live"]);
    c.ok("systemctl is-active pernetd");
    c.step("who asks during a restart is answered, by the next one if need be");
    c.ok("systemctl restart --no-block pernetd; for n in $(seq 50); do pernetctl status >/dev/null; done 2>/root/turned-away");
    c.ok("cat /root/turned-away; test ! -s /root/turned-away");
    c.until("systemctl is-active pernetd");
}

const AS_USER: &str = "runuser -u visitor --";

fn user(c: &Container) {
    install_and_enable(c);
    netns_add(c, "blue");
    c.ok("useradd --create-home visitor");
    c.step("by default reading is root's");
    let refused = c.fails(&format!("{AS_USER} pernetctl status"));
    c.assert(refused.code == 1, "it is not a refusal");
    c.step("reading is opened to all");
    c.write("/etc/pernetd/pernetd.toml", "[control]\nread = \"all\"\n");
    c.ok("systemctl reload pernetd");
    let reads =
        ["status", "netns list", "plugin list", "dev list", "boot", "sock list", "fs list", "mount", "sysctl -a"];
    for read in reads {
        c.ok(&format!("{AS_USER} pernetctl {read}"));
    }
    c.step("changing is not");
    let before = c.ok("pernetctl netns list --json");
    let changes =
        ["reload", "netns add own", "netns del blue", "netns retry blue", "sysctl -w pernetd.log_level=debug"];
    for change in changes {
        let refused = c.fails(&format!("{AS_USER} pernetctl {change}"));
        c.assert(refused.code == 1 && !refused.stderr.is_empty(), &format!("it is not a refusal: {refused}"));
    }
    c.ok("mkdir /home/visitor/at && chown visitor /home/visitor/at");
    c.fails(&format!("{AS_USER} pernetctl mount -t pernetfs /home/visitor/at"));
    c.fails(&format!("{AS_USER} systemctl --no-ask-password reload pernetd"));
    c.assert(c.ok("pernetctl netns list --json") == before, "something has changed");
    c.step("a mount of root's shows a user what reading shows him");
    c.ok("mkdir -p /mnt/pernetfs && pernetctl mount -t pernetfs /mnt/pernetfs");
    c.run(&format!("{AS_USER} cat /mnt/pernetfs/namespaces/blue/state"));
    c.fails(&format!("{AS_USER} sh -c 'echo x > /mnt/pernetfs/namespaces/blue/state'"));
}
