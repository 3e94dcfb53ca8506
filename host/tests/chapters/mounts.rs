//! Mounts over a restart, by systemd's own store of descriptors, and from fstab.

use super::{chapter, install_and_enable, main_pid, netns_add};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;

pub(super) const CHAPTERS: [Chapter; 1] =
    [chapter("09-mounts", "Mounts live through a restart and a crash; fstab and the mount helper.", run)];

fn run(c: &Container) {
    install_and_enable(c);
    netns_add(c, "blue");
    by_hand(c);
    kept(c);
    fstab(c);
}

fn by_hand(c: &Container) {
    c.step("mounted by hand");
    c.ok("mkdir -p /mnt/pernetfs /mnt/blue");
    c.ok("pernetctl mount -t pernetfs /mnt/pernetfs");
    c.ok("pernetctl mount -t netctl --netns blue /mnt/blue");
    c.ok("test \"$(cat /mnt/pernetfs/namespaces/blue/state)\" = live");
    c.ok("ls /mnt/blue");
}

/// The mounts' numbers: whether they are the same ones.
const IDS: &str = "grep -E ' (/mnt/pernetfs|/mnt/blue) ' /proc/self/mountinfo | cut -d' ' -f1,3,5";

fn kept(c: &Container) {
    let before = c.ok(IDS);
    c.assert(before.lines().count() == 2, "two mounts are not there");
    c.assert_has(&c.ok("systemctl show -P NFileDescriptorStore pernetd"), &["2"]);
    c.step("restart");
    let pid = main_pid(c);
    c.ok("systemctl restart pernetd");
    c.ok("test \"$(cat /mnt/pernetfs/namespaces/blue/state)\" = live && ls /mnt/blue");
    c.step("a crash; who asks meanwhile waits");
    c.ok("systemctl kill --kill-whom=main --signal=KILL pernetd; cat /mnt/pernetfs/namespaces/blue/state");
    c.until("systemctl is-active pernetd");
    c.ok("test \"$(cat /mnt/pernetfs/namespaces/blue/state)\" = live && ls /mnt/blue");
    c.assert(main_pid(c) != pid, "it is the same process");
    c.assert(c.ok(IDS) == before, "they are other mounts");
    c.ok("pernetctl mount");
    c.step("unmounted, they are kept no more");
    c.ok("pernetctl umount /mnt/blue && umount /mnt/pernetfs");
    c.until("test \"$(systemctl show -P NFileDescriptorStore pernetd)\" = 0");
}

fn fstab(c: &Container) {
    c.step("a line of fstab, as the README has it");
    c.ok(
        "for type in pernetfs netctl; do test -e /sbin/mount.$type || ln -s /usr/bin/pernetctl /sbin/mount.$type; done",
    );
    c.ok("mkdir -p /run/pernetfs && \
          echo 'none /run/pernetfs pernetfs _netdev,nofail,x-systemd.requires=pernetd.service 0 0' >> /etc/fstab");
    c.ok("systemctl daemon-reload && systemctl start run-pernetfs.mount");
    c.ok("test \"$(cat /run/pernetfs/namespaces/blue/state)\" = live");
    c.ok("systemctl show -P Where,What,ActiveState run-pernetfs.mount");
    c.step("mount -t, and options");
    c.ok("mkdir -p /mnt/all && mount -t netctl -o ro none /mnt/all && ls /mnt/all && umount /mnt/all");
    let refused = c.fails("mount -t netctl -o netns=nowhere none /mnt/all");
    c.assert_has(&refused.stderr, &["nowhere"]);
    c.step("after a stop it answers no more, and can be unmounted");
    c.ok("umount /run/pernetfs && mount /run/pernetfs && systemctl stop pernetd.socket pernetd");
    c.until("! grep ' /run/pernetfs ' /proc/self/mountinfo || ! cat /run/pernetfs/namespaces/blue/state");
    c.ok("! grep -q ' /run/pernetfs ' /proc/self/mountinfo || umount /run/pernetfs");
}
