One file for each plugin that runs: NN-name.toml, where NN is its place in the order. Those that come with pernetd have
theirs in /usr/share/pernetd/plugins.d (package pernetd-plugins). To use one:

    cp /usr/share/pernetd/plugins.d/10-loopback.toml /etc/pernetd/plugins.d/
    systemctl reload pernetd

pernetd.toml(5) says what stands in such a file. Other files, as this one, are not read.
