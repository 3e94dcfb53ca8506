#!/usr/bin/busybox sh
# Runs the themes that /themes lists. What they say goes to the second serial line, where it is parsed, and to the console.
export PATH=/usr/bin:/usr/sbin HOME=/ PERNET_SANDBOX_PATIENCE=4 RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
mount -t tmpfs -o mode=755 run /run
stty raw < /dev/ttyS1
for module in /modules/*; do
    insmod "$module"
done
ip link set lo up
# What newer kernels begin with: in a user namespace nobody may go beyond it.
echo 4194304 > /proc/sys/net/core/rmem_max
while read -r name binary; do
    echo "== begin $name" | tee /dev/ttyS1
    { "$binary" < /dev/null 2>&1; echo "== end $name $? at $(cut -d' ' -f1 /proc/uptime)"; } | tee /dev/ttyS1
done < /themes
echo "== done" | tee /dev/ttyS1
sleep 0.2
poweroff -f
