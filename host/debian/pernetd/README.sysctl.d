Values of the sysctls of pernetd and its plugins: NAME.conf, in the format of sysctl.d(5), with the namespaces before the
key where not all are meant. There is an example in /usr/share/doc/pernetd/examples/sysctl.d; pernetd.toml(5) says more.

    systemctl reload pernetd

carries out what has changed. Other files, as this one, are not read.
