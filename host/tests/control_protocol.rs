//! The control door, with the real server and the real `pernetctl`, and a daemon of canned answers behind them.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod fake_daemon;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use fake_daemon::{FakeDaemon, PATIENCE, last_reload, netns, status, text, unavailable, wait_until};
use libtest_mimic::{Arguments, Trial};
use pernetd::config::ControlRead;
use pernetd::control::monitor::HookLine;
use pernetd::control::wire::{NetnsState, ReloadAction, ReloadResult, ReloadedPlugin};
use pernetd::control::{Limits, Request, SOCKET};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn main() -> ExitCode {
    // Another user can be had by root only.
    let root = rustix::process::geteuid().is_root();
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let trials = vec![
        trial("every_call_has_exactly_the_fields_of_the_contract", every_call_has_exactly_the_fields_of_the_contract),
        trial("tables_are_for_people", tables_are_for_people),
        trial("the_interface_describes_itself", the_interface_describes_itself),
        trial("exit_status_and_error_line", exit_status_and_error_line),
        trial("a_failed_namespace_is_a_failed_command", a_failed_namespace_is_a_failed_command),
        trial("a_failed_reload_is_a_failed_command", a_failed_reload_is_a_failed_command),
        trial("a_reader_that_has_seen_enough_is_no_error", a_reader_that_has_seen_enough_is_no_error),
        trial("garbage_is_told_so_and_closed", garbage_is_told_so_and_closed),
        trial("messages_are_taken_in_any_pieces", messages_are_taken_in_any_pieces),
        trial("a_message_has_a_bound", a_message_has_a_bound),
        trial("a_hundred_bad_clients_hinder_nobody", a_hundred_bad_clients_hinder_nobody),
        trial("beyond_the_cap_the_longest_idle_goes", beyond_the_cap_the_longest_idle_goes),
        trial("silence_ends", silence_ends),
        trial("unexpected_descriptors_are_closed", unexpected_descriptors_are_closed),
        trial("waiting_ends_when_the_client_goes", waiting_ends_when_the_client_goes),
        trial("waiting_ends_in_time_and_says_how_it_stands", waiting_ends_in_time_and_says_how_it_stands),
        trial("a_request_that_the_daemon_drops_is_answered", a_request_that_the_daemon_drops_is_answered),
        trial("going_is_watched_before_it_is_announced", going_is_watched_before_it_is_announced),
        trial("add_needs_more_and_one_descriptor", add_needs_more_and_one_descriptor),
        trial("connecting_needs_one_descriptor_and_hands_it_over", connecting_needs_one_descriptor_and_hands_it_over),
        trial("add_hands_over_the_namespace_and_answers_twice", add_hands_over_the_namespace_and_answers_twice),
        trial("the_connection_is_the_lease", the_connection_is_the_lease),
        trial("monitor_tells_every_hook_in_order", monitor_tells_every_hook_in_order),
        trial("a_slow_monitor_loses_lines_and_sees_it", a_slow_monitor_loses_lines_and_sees_it),
        trial("pernetctl_monitor_ends_well_on_an_interrupt", pernetctl_monitor_ends_well_on_an_interrupt),
        trial("sysctls_over_a_bare_connection", sysctls_over_a_bare_connection),
        trial("the_end_closes_everything_and_removes_the_socket", the_end_closes_everything_and_removes_the_socket),
        trial("others_read_as_configured_and_never_change", others_read_as_configured_and_never_change)
            .with_ignored_flag(!root),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The names of an object's fields, sorted.
#[track_caller]
fn fields(value: &Value) -> String {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names.join(" ")
}

fn call(method: &str, parameters: &Value) -> String {
    json!({ "method": format!("io.pernetd.{method}"), "parameters": parameters }).to_string()
}

fn call_more(method: &str, parameters: &Value) -> String {
    json!({ "method": format!("io.pernetd.{method}"), "parameters": parameters, "more": true }).to_string()
}

fn quick() -> Limits {
    Limits { half_message: Duration::from_millis(300), ..Limits::default() }
}

fn every_call_has_exactly_the_fields_of_the_contract() {
    let daemon = FakeDaemon::answering(Limits::default());
    let status = daemon.json(&["status"]);
    let of_status = "devices discovery facilities folders generation last_reload namespaces pinned plugins resyncs \
                     retired_generations state troubles version";
    assert_eq!(fields(&status), of_status);
    assert_eq!(fields(&status["namespaces"]), "degraded dying failed live setup");
    assert_eq!(fields(&status["plugins"]), "failed live refused");
    assert_eq!((&status["last_reload"], &status["state"]), (&Value::Null, &json!("running")));
    assert_eq!(fields(&serde_json::to_value(last_reload()).unwrap()), "error ok pause_us time");

    let of_netns = "cookie devices error generation name names nsid state subsystems";
    let list = daemon.json(&["netns", "list"]);
    assert_eq!(list.as_array().unwrap().iter().map(fields).collect::<Vec<_>>(), [of_netns; 3]);
    assert_eq!((&list[0]["nsid"], &list[0]["error"], &list[0]["state"]), (&Value::Null, &Value::Null, &json!("live")));
    assert_eq!(fields(&list[2]["error"]), "hook message plugin");
    for arguments in [&["netns", "wait", "blue"][..], &["netns", "wait", "--timeout", "5", "blue"]] {
        assert_eq!(fields(&daemon.json(arguments)), of_netns);
    }
    assert_eq!(fields(&daemon.json(&["netns", "retry", "blue"])), of_netns);

    let plugins = daemon.json(&["plugin", "list"]);
    assert_eq!(fields(&plugins[0]), "error file generation level name namespaces order sha256 state version");
    assert_eq!(fields(&plugins[0]["error"]), "hook message namespace");
    assert_eq!(plugins[0]["error"]["namespace"], Value::Null);

    assert_eq!(fields(&daemon.json(&["fs", "list"])[0]), "judges_access mounts name owner user");
    assert_eq!(fields(&daemon.json(&["mount"])[0]), "calls fs id netns options owner source target");

    let devices = daemon.json(&["dev", "list", "--netns", "@host"]);
    let of_list = "address alt_names ifindex kind mtu name netns owner reg_state stats up";
    assert_eq!(fields(&devices[0]), of_list);
    assert_eq!(devices[0]["stats"], Value::Null, "a list asks for no counters");
    assert_eq!((&devices[0]["netns"], &devices[0]["kind"]), (&json!("@host"), &Value::Null));
    assert_eq!(daemon.json(&["dev", "list"])[0]["netns"], "blue");

    let of_sysctl = "errno error key kind left_over mode netns plugin value";
    let sysctls = daemon.json(&["sysctl", "-a"]);
    assert_eq!(sysctls.as_array().unwrap().iter().map(fields).collect::<Vec<_>>(), [of_sysctl; 2]);
    assert_eq!((&sysctls[0]["value"], &sysctls[0]["mode"]), (&json!("3"), &json!(0o644)));
    assert_eq!(fields(&daemon.json(&["sysctl", "neighbour.count=4 5"])[0]), of_sysctl);

    let of_one = "address alt_names holders ifindex kind master mtu name netns owner plugin_counters plugin_stats \
                  reg_state serial stats up waiting";
    let device = daemon.json(&["dev", "show", "lo", "--netns", "@host"]);
    assert_eq!(fields(&device), of_one);
    let of_stats = "rx_bytes rx_dropped rx_errors rx_packets tx_bytes tx_dropped tx_errors tx_packets";
    assert_eq!(fields(&device["stats"]), of_stats);
    assert_eq!((&device["plugin_stats"], &device["master"]), (&Value::Null, &Value::Null));
    let own = daemon.json(&["dev", "show", "wire0"]);
    assert_eq!((fields(&own), fields(&own["holders"][0])), (of_one.into(), "plugin purpose".into()));
    assert_eq!((&own["waiting"], &own["owner"]), (&json!(true), &json!("wire")));
    assert_eq!(
        (&own["plugin_counters"], &device["plugin_counters"]),
        (&json!([{"name": "lost", "value": 3}]), &json!([]))
    );
    let several = daemon.json(&["dev", "show", "lo"]);
    assert_eq!(
        several.as_array().unwrap().iter().map(|d| d["netns"].clone()).collect::<Vec<_>>(),
        ["@host", "blue", "bad"]
    );

    let boot = daemon.json(&["boot"]);
    assert_eq!(fields(&boot), "initcalls initcalls_us ready_us setups time version");
    let of_initcall = "duration_us errno error level name prepare_start_us prepare_us result start_us";
    assert_eq!(boot["initcalls"].as_array().unwrap().iter().map(fields).collect::<Vec<_>>(), [of_initcall; 5]);
    let results: Vec<_> = boot["initcalls"].as_array().unwrap().iter().map(|call| call["result"].clone()).collect();
    assert_eq!(results, ["ok", "ok", "failed", "blacklisted", "refused"]);
    let of_setup = "cookie hooks left_off netns state time total_us";
    assert_eq!(boot["setups"].as_array().unwrap().iter().map(fields).collect::<Vec<_>>(), [of_setup; 2]);
    let setup = daemon.json(&["boot", "--netns", "bad"]);
    let of_hook = "device duration_us error hook plugin result start_us";
    assert_eq!((fields(&setup), fields(&setup["hooks"][1])), (of_setup.into(), of_hook.into()));
    assert_eq!((&setup["hooks"][1]["device"], &setup["hooks"][1]["result"]), (&json!("lo"), &json!("error")));
    let sockets = daemon.json(&["sock", "list", "--netns", "@host"]);
    assert_eq!(fields(&sockets[0]), "age_ms family ino netns owner protocol state type");
    assert_eq!((&sockets[0]["netns"], &sockets[0]["type"]), (&json!("@host"), &json!("raw")));
    assert_eq!(daemon.json(&["sock", "list"])[0]["netns"], "blue");

    assert_eq!(fields(&status["troubles"][0]), "count kind name remedy what");
    let stories = daemon.json(&["why", "bad"]);
    let of_story =
        "causes facts happenings kind left_off name netns next next_time parts remedies since state undone what";
    assert_eq!(stories.as_array().unwrap().iter().map(fields).collect::<Vec<_>>(), [of_story]);
    assert_eq!(fields(&stories[0]["causes"][0]), "duration_us errno hook netns place plugin time what");
    let of_happening = "count device duration_us errno error first hook netns plugin time what";
    assert_eq!(fields(&stories[0]["happenings"][0]), of_happening);
    assert_eq!(fields(&stories[0]["undone"][0]), of_happening);
    assert_eq!(fields(&stories[0]["parts"][0]), "acts count namespaces plugin why");
    assert_eq!(fields(&stories[0]["facts"][0]), "about time what");

    let reload = daemon.json(&["reload"]);
    assert_eq!(
        (fields(&reload), fields(&reload["plugins"][0])),
        ("generation ok plugins".into(), "action error name".into())
    );
}

fn tables_are_for_people() {
    let daemon = FakeDaemon::answering(Limits::default());
    let table = |arguments: &[&str]| text(&daemon.ctl(arguments).stdout);
    assert!(table(&["status"]).contains("2 live, 0 degraded, 1 failed"), "{}", table(&["status"]));
    let status = table(&["status"]);
    let lines: Vec<&str> = status.lines().collect();
    assert_eq!(lines[0], "2 things are wrong; pernetd is running");
    assert_eq!(lines[1], "! namespace bad failed: sysctl pernet.init: net.x: no such key");
    assert_eq!(lines[2], "  → pernetctl why bad");
    assert_eq!(lines[3], "! x is pinned by p pernet.exit, which has been running for 9 s");
    why_is_told(&table(&["why", "bad"]));
    let list = table(&["netns", "list"]);
    let lines: Vec<&str> = list.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("NAME") && lines[1].starts_with("@host") && lines[2].starts_with("blue"), "{list}");
    assert!(lines[3].ends_with("sysctl pernet.init: net.x: no such key"), "{list}");
    assert!(table(&["plugin", "list"]).contains("loopback"));
    assert!(table(&["dev", "list"]).contains("65536"));
    assert!(table(&["sock", "list"]).contains(" packet  raw   1544      1m 1s  open"), "{}", table(&["sock", "list"]));
    let shown = table(&["dev", "show", "wire0"]);
    for line in [
        "also             uplink, wan",
        "owner            wire",
        "state            unregistered, up; waiting for wire0 to become free",
        "held by          shaper for its queue",
        "received (wire)  13 packets, 840 bytes, 1 dropped, 0 errors",
        "lost (wire)      3",
    ] {
        assert!(shown.lines().any(|l| l.trim() == line), "{line}\n{shown}");
    }
    assert_eq!(table(&["dev", "show", "lo"]).split("\n\n").count(), 3, "one block per namespace");
    let boot = table(&["boot"]);
    assert!(
        boot.starts_with("2026-11-22T01:02:03.000004Z pernetd 0.1.0: 5 initcalls in 9.00 ms, ready after 12.3 ms\n")
    );
    for line in [
        "0      core    sock_init        2.00 ms  1.50 ms  -         ok",
        "2      subsys  plugin.a         2.00 ms  1.50 ms  900 µs    failed (EIO): cannot",
        "3      subsys  plugin.b         2.00 ms  -        900 µs    blacklisted by initcall_blacklist, /main.toml:3",
        "4      -       plugin.c         -        -        900 µs    refused: /x.so: no plugin <none> & \"nothing\"",
        "bad    failed  850 µs  3      loopback netdev.register lo 400 µs  loopback netdev.register lo: net.x: no such key",
    ] {
        assert!(boot.lines().any(|l| l.trim() == line), "{line}\n{boot}");
    }
    let setup = table(&["boot", "--netns", "bad"]);
    assert!(
        setup.starts_with("2026-11-22T01:02:03.000004Z bad: failed in 850 µs\n") && setup.ends_with("and 1 more\n")
    );
    assert!(
        setup.lines().any(|l| l.trim().ends_with("netdev.register  lo      10 µs  400 µs  error: net.x: no such key")),
        "{setup}"
    );
    assert!(table(&["reload"]).starts_with("reload done, generation 8\n"));
    assert!(table(&["--help"]).contains("Exit status: 0 done, 1 failed, 2 wrong usage, 3 the daemon"));
}

fn why_is_told(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("namespace bad is failed, since 2026-11-22 01:02:03.000 ("), "{text}");
    assert_eq!(lines[1], "  its setup failed");
    for block in [
        "because\n  pernet.init of plugin sysctl failed; 2026-11-22 01:02:03.000 (",
        "1.23 ms\n  ← the key net.x says so\n      /etc/pernetd/plugins.d/20-sysctl.toml:3:1\n",
        "undone\n  2026-11-22 01:02:03.000  the init of loopback was undone in bad, 1.23 ms",
        "next\n  it is tried again, 2026-11-22 01:02:03.000 (",
        "to do\n  correct it\n",
        "plugins\n  loopback: does not act, the setup was undone\n",
        "known\n  names  bad\n",
        "happened\n  (2 older ones are not kept)\n  2026-11-22 01:02:03.000  3 times since 2026-11-22 01:02:03.000: pernet.init of",
    ] {
        assert!(text.contains(block), "{block}\n--- is not in\n{text}");
    }
    assert!(text.contains("net.x: no such key (ENOENT)"), "{text}");
    assert!(text.ends_with("and 4 devices more of this name: ask for NETNS:NAME\n"));
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
}

fn the_interface_describes_itself() {
    let daemon = FakeDaemon::answering(Limits::default());
    let mut client = daemon.connect();
    client.send(r#"{"method":"org.varlink.service.GetInfo"}"#);
    assert_eq!(client.receive()["parameters"]["interfaces"], json!(["org.varlink.service", "io.pernetd"]));
    client.send(r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.pernetd"}}"#);
    let text = client.receive()["parameters"]["description"].as_str().unwrap().to_owned();
    assert!(text.contains("method NetnsAdd(") && text.contains("# Every method judges"), "{text}");
    client.send(&call("Nonsense", &json!({})));
    assert_eq!(client.receive()["error"], "org.varlink.service.MethodNotFound");
    client.send(r#"{"method":"org.example.Call","parameters":{}}"#);
    assert_eq!(client.receive()["error"], "org.varlink.service.InterfaceNotFound");
}

fn exit_status_and_error_line() {
    let daemon = FakeDaemon::answering(Limits::default());
    let run = |arguments: &[&str]| {
        let output = daemon.ctl(arguments);
        (output.status.code(), text(&output.stderr))
    };
    assert_eq!(run(&["status"]), (Some(0), String::new()));
    assert_eq!(run(&["status", "--check"]), (Some(1), String::new()), "something is wrong");
    let line = "pernetctl: namespace none: there is no such namespace; see the names with `pernetctl netns list`\n";
    assert_eq!(run(&["netns", "retry", "none"]), (Some(1), line.to_owned()));
    let line =
        "pernetctl: device eth9: there is no such device in namespace blue; see the names with `pernetctl dev list`\n";
    assert_eq!(run(&["dev", "show", "eth9", "--netns", "blue"]), (Some(1), line.to_owned()));
    let line =
        "pernetctl: namespace @host: its first setup is not over; wait for it with `pernetctl netns wait @host`\n";
    assert_eq!(run(&["boot", "--netns", "@host"]), (Some(1), line.to_owned()));
    let (code, line) = run(&["dev", "show", "eth9"]);
    assert!(
        code == Some(1) && line.starts_with("pernetctl: device eth9: there is no such device in any managed"),
        "{line}"
    );
    for usage in [
        &["statsu"][..],
        &[],
        &["netns"],
        &["netns", "wait"],
        &["dev", "show"],
        &["netns", "wait", "--timeout", "soon", "x"],
    ] {
        assert_eq!(run(usage).0, Some(2), "{usage:?}");
    }
    assert_eq!(run(&["plugin", "info", "/no/such/file"]).0, Some(1));
    let nowhere = tempfile::tempdir().unwrap();
    let status = |command: &mut Command| {
        let output = command.arg("status").output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let mut elsewhere = Command::new(env!("CARGO_BIN_EXE_pernetctl"));
    let (code, line) = status(elsewhere.env("RUNTIME_DIRECTORY", nowhere.path()));
    assert_eq!((code, line.lines().count()), (Some(3), 1), "{line}");
    assert!(line.contains(&nowhere.path().display().to_string()) && line.contains("systemctl start pernetd"), "{line}");
    let mut by_environment = Command::new(env!("CARGO_BIN_EXE_pernetctl"));
    assert_eq!(status(by_environment.env("RUNTIME_DIRECTORY", daemon.path())).0, Some(0));
}

fn a_failed_namespace_is_a_failed_command() {
    let daemon = FakeDaemon::answering(Limits::default());
    for command in ["wait", "retry"] {
        let output = daemon.ctl(&["--json", "netns", command, "bad"]);
        assert_eq!(output.status.code(), Some(1));
        let line = text(&output.stderr);
        assert!(line.starts_with("pernetctl: namespace bad: sysctl pernet.init: net.x: no such key; "), "{line}");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["state"], "failed");
    }
}

fn a_failed_reload_is_a_failed_command() {
    let daemon = FakeDaemon::silent(Limits::default());
    let child = daemon.command(&["reload"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let Request::Reload { reply } = daemon.next() else { panic!("another request") };
    let error = Some("line one\nline two".to_owned());
    let failed = ReloadedPlugin { name: "p".into(), action: ReloadAction::failed, error };
    reply.send(Ok(ReloadResult { ok: false, generation: 7, plugins: vec![failed] }));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = "pernetctl: reload: plugin p: line one | line two; correct that and reload again; the old set runs on\n";
    assert_eq!(text(&output.stderr), line);

    let child = daemon.command(&["reload"]).stderr(Stdio::piped()).spawn().unwrap();
    let Request::Reload { reply } = daemon.next() else { panic!("another request") };
    reply.send(Err(unavailable()));
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stderr).as_str()),
        (Some(1), "pernetctl: pernetd: it is reloading; try again\n")
    );
}

fn a_reader_that_has_seen_enough_is_no_error() {
    let daemon = FakeDaemon::silent(Limits::default());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = daemon.command(&["netns", "list"]);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop((command, reader));
    let Request::NetnsList { reply, .. } = daemon.next() else { panic!("another request") };
    reply.send(Ok(vec![netns("blue", NetnsState::live); 5000]));
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

fn garbage_is_told_so_and_closed() {
    let daemon = FakeDaemon::answering(Limits::default());
    for garbage in ["", "GET / HTTP/1.1", "{", "[]", "42", r#"{"parameters":{}}"#, "\u{7f}\r\n"] {
        let mut client = daemon.connect();
        client.send(garbage);
        assert_eq!(client.receive()["error"], "org.varlink.service.InvalidParameter", "{garbage:?}");
        assert_eq!(client.receive(), Value::Null, "{garbage:?}");
    }
    let mut client = daemon.connect();
    client.send(&call("NetnsGet", &json!({ "name": 3 })));
    assert_eq!(client.receive()["error"], "org.varlink.service.InvalidParameter");
    let mut client = daemon.connect();
    client.0.get_ref().write_all(&[b'['; 10_000]).unwrap();
    client.send("");
    assert_eq!(client.receive()["error"], "org.varlink.service.InvalidParameter");
}

fn messages_are_taken_in_any_pieces() {
    let daemon = FakeDaemon::answering(Limits::default());
    let mut client = daemon.connect();
    let message = call("NetnsGet", &json!({ "name": "blue" })) + "\0";
    client.0.get_ref().write_all(message.repeat(3).as_bytes()).unwrap();
    for byte in message.as_bytes() {
        client.0.get_ref().write_all(&[*byte]).unwrap();
    }
    for _ in 0..4 {
        assert_eq!(client.receive()["parameters"]["namespace"]["name"], "blue");
    }
    // A call that wants no reply gets none.
    client.send(r#"{"method":"io.pernetd.Status","oneway":true}"#);
    client.send(&call("NetnsGet", &json!({ "name": "@host" })));
    assert_eq!(client.receive()["parameters"]["namespace"]["name"], "@host");
}

fn a_message_has_a_bound() {
    let daemon = FakeDaemon::answering(Limits::default());
    let mut client = daemon.connect();
    let writer = client.0.get_ref().try_clone().unwrap();
    // The server stops reading when it has had enough.
    let flood = std::thread::spawn(move || (&writer).write_all(&vec![b' '; 2 << 20]).is_err());
    assert_eq!(client.receive()["parameters"]["parameter"], "a message is at most 1048576 bytes");
    assert!(flood.join().unwrap());
    assert_eq!(daemon.ctl(&["status"]).status.code(), Some(0));
}

fn a_hundred_bad_clients_hinder_nobody() {
    let daemon = FakeDaemon::answering(quick());
    let silent: Vec<_> = (0..100).map(|_| daemon.connect()).collect();
    let mut half: Vec<_> = (0..100).map(|_| daemon.connect()).collect();
    let mut garbage: Vec<_> = (0..100).map(|_| daemon.connect()).collect();
    for (half, garbage) in half.iter_mut().zip(&mut garbage) {
        half.0.get_ref().write_all(br#"{"method":"io.pernetd.Sta"#).unwrap();
        garbage.send("\u{1}\u{2}");
    }
    for _ in 0..5 {
        assert_eq!(daemon.json(&["status"])["state"], "running");
    }
    for client in &mut garbage {
        assert_eq!(client.receive()["error"], "org.varlink.service.InvalidParameter");
    }
    for client in &mut half {
        assert_eq!(client.receive()["parameters"]["parameter"], "the rest of the message did not come in time");
        assert_eq!(client.receive(), Value::Null);
    }
    drop(silent);
    assert_eq!(daemon.json(&["status"])["state"], "running");
}

fn beyond_the_cap_the_longest_idle_goes() {
    let daemon = FakeDaemon::answering(Limits { connections: 8, ..Limits::default() });
    let mut clients: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send(&call("Status", &json!({})));
        client.receive();
    }
    // The first has spoken again since; which of the others was idle longest is for the server's clock to say.
    clients[0].send(&call("Status", &json!({})));
    clients[0].receive();
    assert_eq!(daemon.ctl(&["status"]).status.code(), Some(0));
    let closed = |client: &mut fake_daemon::Client| {
        client.0.get_ref().set_nonblocking(true).unwrap();
        let end = client.0.fill_buf().is_ok_and(<[u8]>::is_empty);
        client.0.get_ref().set_nonblocking(false).unwrap();
        end
    };
    wait_until("one of the others is closed", || clients[1..].iter_mut().map(closed).filter(|c| *c).count() == 1);
    clients[0].send(&call("Status", &json!({})));
    assert_eq!(clients[0].receive()["parameters"]["status"]["generation"], 7);
    let crowd: Vec<_> = (0..100).map(|_| daemon.connect()).collect();
    assert_eq!(daemon.ctl(&["status"]).status.code(), Some(0));
    drop(crowd);
}

fn silence_ends() {
    let daemon = FakeDaemon::answering(Limits { idle: Duration::from_millis(200), ..Limits::default() });
    assert_eq!(daemon.connect().receive(), Value::Null);
}

fn unexpected_descriptors_are_closed() {
    let daemon = FakeDaemon::answering(Limits::default());
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut client = daemon.connect();
    for count in [1, 4, 5, 60] {
        client.send_with(&call("Status", &json!({})), &vec![writer.as_fd(); count]);
        assert_eq!(client.receive()["parameters"]["status"]["generation"], 7);
    }
    let mut half = daemon.connect();
    half.send_with("{", &[writer.as_fd()]);
    half.receive();
    drop(writer);
    // The end comes only when nobody holds the other side any more.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    client.send(&call("Status", &json!({})));
    assert_eq!(client.receive()["parameters"]["status"]["generation"], 7);
}

fn waiting_ends_when_the_client_goes() {
    let daemon = FakeDaemon::silent(Limits::default());
    let mut client = daemon.connect();
    client.send(&call("NetnsWait", &json!({ "name": "x" })));
    let Request::NetnsWait { name, reply } = daemon.next() else { panic!("another request") };
    assert!(name == "x" && !reply.abandoned());
    drop(client);
    wait_until("the wait is abandoned", || reply.abandoned());
}

fn waiting_ends_in_time_and_says_how_it_stands() {
    let daemon = FakeDaemon::silent(Limits::default());
    let child = daemon.command(&["netns", "wait", "--timeout", "0", "x"]).stderr(Stdio::piped()).spawn().unwrap();
    let Request::NetnsWait { reply: waiting, .. } = daemon.next() else { panic!("another request") };
    let Request::NetnsGet { reply, .. } = daemon.next() else { panic!("another request") };
    reply.send(Ok(netns("x", NetnsState::setup)));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("pernetctl: namespace x: it is still setup after 0 s; wait longer"));
    wait_until("the wait is abandoned", || waiting.abandoned());
}

fn a_request_that_the_daemon_drops_is_answered() {
    let daemon = FakeDaemon::silent(Limits::default());
    let mut client = daemon.connect();
    client.send(&call("NetnsRetry", &json!({ "name": "x" })));
    drop(daemon.next());
    let reply = client.receive();
    assert_eq!(
        (&reply["error"], fields(&reply["parameters"])),
        (&json!("io.pernetd.Unavailable"), "remedy what where".into())
    );
}

fn going_is_watched_before_it_is_announced() {
    let daemon = FakeDaemon::silent(Limits::default());
    let mut client = daemon.connect();
    client.send(&call_more("NetnsWaitGone", &json!({ "name": "blue", "cookie": 4711 })));
    let Request::NetnsWaitGone { cookie: 4711, reply: gone, .. } = daemon.next() else { panic!("another request") };
    let Request::NetnsGet { reply, .. } = daemon.next() else { panic!("another request") };
    reply.send(Ok(netns("blue", NetnsState::live)));
    let now = client.receive();
    assert_eq!((&now["continues"], &now["parameters"]["namespace"]["state"]), (&json!(true), &json!("live")));
    gone.send(Ok(netns("blue", NetnsState::dying)));
    let last = client.receive();
    assert_eq!((&last["continues"], &last["parameters"]["namespace"]["state"]), (&Value::Null, &json!("dying")));
}

const ADD: &str = r#"{"method":"io.pernetd.NetnsAdd","more":true,"parameters":{"name":"new","path":"/run/netns/new"}}"#;

fn add_needs_more_and_one_descriptor() {
    let daemon = FakeDaemon::answering(Limits::default());
    let mut client = daemon.connect();
    client.send(ADD);
    let reply = client.receive();
    assert_eq!(reply["error"], "io.pernetd.Invalid");
    assert!(reply["parameters"]["what"].as_str().unwrap().starts_with("0 descriptors"), "{reply}");
    let netns = File::open("/proc/self/ns/net").unwrap();
    client.send_with(ADD, &[netns.as_fd(), netns.as_fd()]);
    assert!(client.receive()["parameters"]["what"].as_str().unwrap().starts_with("2 descriptors"));
    client.send_with(&ADD.replace("true", "false"), &[netns.as_fd()]);
    assert_eq!(client.receive()["error"], "org.varlink.service.ExpectedMore");
    client.send(&call("Monitor", &json!({})));
    assert_eq!(client.receive()["error"], "org.varlink.service.ExpectedMore");
}

fn connecting_needs_one_descriptor_and_hands_it_over() {
    let daemon = FakeDaemon::silent(Limits::default());
    let connect = call("SockConnect", &json!({ "netns": "blue", "family": "echo", "type": "stream" }));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut client = daemon.connect();
    for (descriptors, what) in [(&[][..], "0 descriptors"), (&[theirs.as_fd(), theirs.as_fd()], "2 descriptors")] {
        if descriptors.is_empty() {
            client.send(&connect);
        } else {
            client.send_with(&connect, descriptors);
        }
        let reply = client.receive();
        assert_eq!(reply["error"], "io.pernetd.Invalid");
        assert!(reply["parameters"]["what"].as_str().unwrap().starts_with(what), "{reply}");
    }
    client.send_with(&connect, &[theirs.as_fd()]);
    drop(theirs);
    let Request::SockConnect(ask) = daemon.next() else { panic!("another request") };
    assert_eq!((&*ask.netns, &*ask.family, &*ask.kind), ("blue", "echo", "stream"));
    // Who connects is the kernel's word, not the client's.
    assert_eq!(ask.uid, rustix::process::geteuid().as_raw());
    assert_eq!((ask.gid, ask.pid), (rustix::process::getegid().as_raw(), std::process::id()));
    ask.reply.send(Ok(()));
    assert_eq!(client.receive(), json!({}));
    UnixStream::from(ask.fd).write_all(b"hello").unwrap();
    let mut said = String::new();
    (&ours).read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello", "and nobody else has it");
}

fn add_hands_over_the_namespace_and_answers_twice() {
    let daemon = FakeDaemon::silent(Limits::default());
    let namespace = File::open("/proc/self/ns/net").unwrap();
    let mut client = daemon.connect();
    client.send_with(ADD, &[namespace.as_fd()]);
    let Request::NetnsAdd(add) = daemon.next() else { panic!("another request") };
    assert_eq!(File::from(add.ns).metadata().unwrap().ino(), namespace.metadata().unwrap().ino());
    assert_eq!((add.name.as_str(), add.path.to_str()), ("new", Some("/run/netns/new")));
    add.inits.send(Ok(netns("new", NetnsState::degraded)));
    let first = client.receive();
    assert_eq!((&first["continues"], &first["parameters"]["namespace"]["state"]), (&json!(true), &json!("degraded")));
    add.seen.send(Ok(netns("new", NetnsState::live)));
    let second = client.receive();
    assert_eq!((&second["continues"], &second["parameters"]["namespace"]["state"]), (&Value::Null, &json!("live")));

    client.send_with(ADD, &[namespace.as_fd()]);
    let Request::NetnsAdd(add) = daemon.next() else { panic!("another request") };
    add.inits.send(Ok(netns("new", NetnsState::failed)));
    assert_eq!(client.receive()["continues"], Value::Null);
    client.send_with(ADD, &[namespace.as_fd()]);
    let Request::NetnsAdd(add) = daemon.next() else { panic!("another request") };
    add.inits.send(Err(unavailable()));
    assert_eq!(client.receive()["error"], "io.pernetd.Unavailable");
    // These ended by themselves: once the next request is there, no lease can have been reported as given up.
    drop(client);
    daemon.connect().send(&call("Status", &json!({})));
    assert!(matches!(daemon.next(), Request::Status { .. }));
}

fn the_connection_is_the_lease() {
    let limits = Limits { lease: Duration::from_millis(200), ..Limits::default() };
    let namespace = File::open("/proc/self/ns/net").unwrap();
    for stage in ["during the inits", "before the name is seen", "never binds"] {
        let daemon = FakeDaemon::silent(if stage == "never binds" { limits.clone() } else { Limits::default() });
        let mut client = daemon.connect();
        client.send_with(ADD, &[namespace.as_fd()]);
        let Request::NetnsAdd(add) = daemon.next() else { panic!("another request") };
        if stage != "during the inits" {
            add.inits.send(Ok(netns("new", NetnsState::live)));
            assert_eq!(client.receive()["continues"], true);
        }
        if stage == "never binds" {
            assert_eq!(client.receive()["error"], "io.pernetd.TimedOut");
        } else {
            drop(client);
        }
        let Request::LeaseEnded { lease } = daemon.next() else { panic!("another request") };
        assert_eq!(lease, add.lease, "{stage}");
    }
}

fn line(duration_us: u64) -> HookLine<'static> {
    HookLine { plugin: "p", hook: "netdev.up", netns: "blue", device: Some("lo"), error: None, duration_us }
}

/// A listener; on return it listens.
fn listen(daemon: &FakeDaemon) -> fake_daemon::Client {
    let mut client = daemon.connect();
    client.send(&call_more("Monitor", &json!({})));
    // Only a line that arrives shows that the listener is there.
    client.0.get_ref().set_nonblocking(true).unwrap();
    wait_until("a line arrives", || {
        daemon.monitor.publish(line(0));
        client.0.fill_buf().is_ok()
    });
    client.0.get_ref().set_nonblocking(false).unwrap();
    client
}

fn monitor_tells_every_hook_in_order() {
    let daemon = FakeDaemon::answering(Limits::default());
    let mut client = listen(&daemon);
    for n in 1..=100 {
        daemon.monitor.publish(HookLine { error: (n == 100).then_some("no"), ..line(n) });
    }
    let mut seq = None;
    loop {
        let reply = client.receive();
        let hook = &reply["parameters"]["hook"];
        assert_eq!(reply["continues"], true);
        assert_eq!(fields(hook), "device duration_us error hook netns plugin result seq time");
        let now = hook["seq"].as_u64().unwrap();
        assert!(seq.is_none_or(|before| now == before + 1));
        seq = Some(now);
        if hook["duration_us"] == 100 {
            assert_eq!((&hook["result"], &hook["error"]), (&json!("error"), &json!("no")));
            let time = hook["time"].as_str().unwrap();
            assert!(time.len() == "2026-11-22T01:02:03.000004Z".len() && time.ends_with('Z'), "{time}");
            break;
        }
        assert_eq!((&hook["result"], &hook["error"], &hook["device"]), (&json!("ok"), &Value::Null, &json!("lo")));
    }
}

fn a_slow_monitor_loses_lines_and_sees_it() {
    let daemon = FakeDaemon::answering(Limits::default());
    let mut client = listen(&daemon);
    // More than the queue and the socket's buffer hold together; nobody waits for the one who does not read.
    for n in 1..=20_000 {
        daemon.monitor.publish(line(n));
    }
    let mut seqs = Vec::new();
    client.0.get_ref().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    while client.0.fill_buf().is_ok() {
        seqs.push(client.receive()["parameters"]["hook"]["seq"].as_u64().unwrap());
    }
    let read = seqs.len();
    assert!(read < 20_000, "nothing was lost");
    client.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.monitor.publish(line(20_001));
    seqs.push(client.receive()["parameters"]["hook"]["seq"].as_u64().unwrap());
    assert!(seqs.is_sorted() && seqs.windows(2).any(|w| w[1] > w[0] + 1), "a gap shows the loss");
}

fn pernetctl_monitor_ends_well_on_an_interrupt() {
    let daemon = FakeDaemon::answering(Limits::default());
    for json in [true, false] {
        let mut command = daemon.command(&["monitor"]);
        command.args(json.then_some("--json")).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        // Publishes until the first line shows that the listener is there.
        let (first, seen) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            lines.read_line(&mut text).unwrap();
            first.send(text).unwrap();
            std::io::copy(&mut lines, &mut std::io::sink()).unwrap();
        });
        let mut text = None;
        wait_until("the first line", || {
            daemon.monitor.publish(line(5));
            text = seen.try_recv().ok();
            text.is_some()
        });
        let text = text.unwrap();
        match json {
            true => assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["hook"], "netdev.up"),
            false => assert!(text.ends_with("Z blue dev lo p netdev.up ok (5 µs)\n"), "{text}"),
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), fake_daemon::text(&output.stderr).as_str()), (Some(0), ""));
        reader.join().unwrap();
    }
}

fn sysctls_over_a_bare_connection() {
    let daemon = FakeDaemon::answering(Limits::default());
    let mut client = daemon.connect();
    let mut ask = |method: &str, parameters: Value| {
        client.send(&call(method, &parameters));
        let reply = client.receive();
        (reply["error"].as_str().unwrap_or_default().replace("io.pernetd.", ""), reply["parameters"].clone())
    };
    let values = |reply: &Value| -> Vec<String> {
        let rows = reply["sysctls"].as_array().unwrap().iter();
        let shown = |row: &Value, name: &str| row[name].as_str().unwrap_or("-").to_owned();
        rows.map(|row| ["netns", "key", "value", "left_over", "errno"].map(|name| shown(row, name)).join(" ")).collect()
    };
    let (_, all) = ask("SysctlRead", json!({}));
    assert_eq!(
        values(&all),
        ["@host neighbour.count 3 - -", "@host neighbour.secret 3 - -"],
        "not what nobody may read"
    );
    let (_, listed) = ask("SysctlList", json!({ "netns": "*", "key": "neighbour" }));
    assert_eq!(values(&listed).len(), 6);
    let (_, one) = ask("SysctlRead", json!({ "netns": "*", "key": "neighbour/count" }));
    assert_eq!(values(&one), ["blue neighbour.count 3 - -", "bad neighbour.count 3 - -"]);
    let (_, sink) = ask("SysctlRead", json!({ "key": "neighbour.sink" }));
    assert_eq!(values(&sink), ["@host neighbour.sink - - EACCES"], "asked for by name it is told");
    let write = |key: &str, value: &str| json!({ "key": key, "value": value });
    assert_eq!(values(&ask("SysctlWrite", write("neighbour.count", "5")).1), ["@host neighbour.count 5 - -"]);
    let (_, left) = ask("SysctlWrite", write("neighbour.count", "5 6 7"));
    assert_eq!(values(&left), ["@host neighbour.count 5 6 7 6 7 -"]);
    let (_, refused) = ask("SysctlWrite", write("neighbour.count", "nonsense"));
    assert_eq!(values(&refused), ["@host neighbour.count - - EINVAL"]);
    for (key, kind, part) in [
        ("neighbour.nope", "NotFound", "ENOENT: there is no such sysctl in namespace @host"),
        ("neighbour", "Invalid", "EISDIR: it is a directory of sysctls"),
        ("net.ipv4.ip_forward", "Invalid", "is a sysctl of the kernel's"),
        ("", "Invalid", "there is no key"),
    ] {
        let (error, told) = ask("SysctlWrite", write(key, "1"));
        assert_eq!(error, kind, "{key}: {told}");
        assert!(told["what"].as_str().unwrap().contains(part), "{key}: {told}");
    }
    assert_eq!(ask("SysctlRead", json!({ "netns": "nowhere" })).0, "NotFound");
    assert_eq!(ask("SysctlRead", json!({ "key": "neighbour.nope" })).0, "NotFound");
}

fn the_end_closes_everything_and_removes_the_socket() {
    let mut daemon = FakeDaemon::silent(Limits::default());
    let mut idle = daemon.connect();
    let mut waiting = daemon.connect();
    waiting.send(&call("NetnsWait", &json!({ "name": "x" })));
    let _request = daemon.next();
    let monitor = daemon.command(&["monitor"]).stderr(Stdio::piped()).spawn().unwrap();
    daemon.server.take();
    assert_eq!((idle.receive(), waiting.receive()), (Value::Null, Value::Null));
    assert_eq!(monitor.wait_with_output().unwrap().status.code(), Some(3));
    assert!(!daemon.path().join(SOCKET).exists());
    assert_eq!(daemon.ctl(&["status"]).status.code(), Some(3));
}

fn others_read_as_configured_and_never_change() {
    const NOBODY: u32 = 65534;
    let daemon = FakeDaemon::answering(Limits::default());
    // The build's own folder may be closed to others.
    let ctl = daemon.path().join("pernetctl");
    fs::copy(env!("CARGO_BIN_EXE_pernetctl"), &ctl).unwrap();
    fs::set_permissions(&ctl, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |arguments: &[&str], gid: u32| {
        let mut command = Command::new(&ctl);
        command.arg("--runtime-dir").arg(daemon.path()).args(arguments).uid(NOBODY).gid(gid);
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let server = daemon.server.as_ref().unwrap();
    let reads: [&[&str]; 8] = [
        &["status"],
        &["why", "bad"],
        &["netns", "list"],
        &["netns", "wait", "blue"],
        &["plugin", "list"],
        &["dev", "list"],
        &["sock", "list"],
        &["monitor"],
    ];
    for arguments in reads {
        let (code, line) = run(arguments, NOBODY);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(line.contains("uid 65534 may not call it") && line.contains("control.read"), "{line}");
    }
    server.set_read(&ControlRead::Group("root".into())).unwrap();
    assert_eq!(run(&["status"], NOBODY).0, Some(1));
    assert_eq!(run(&["status"], 0).0, Some(0));
    server.set_read(&ControlRead::Group("no such group".into())).unwrap();
    assert_eq!(server.missing_group().as_deref(), Some("no such group"));
    assert_eq!(run(&["status"], 0).0, Some(1));
    server.set_read(&ControlRead::All).unwrap();
    for arguments in &reads[..7] {
        assert_eq!(run(arguments, NOBODY).0, Some(0), "{arguments:?}");
    }
    // What may be read of sysctls is said by their modes.
    let sysctl = |keys: &[&str], gid| run(&[&["sysctl"], keys].concat(), gid);
    assert_eq!(sysctl(&["neighbour.count"], NOBODY), (Some(0), String::new()));
    let (code, line) = sysctl(&["-a"], NOBODY);
    assert!(code == Some(1) && line.contains("@host:neighbour.secret: cannot be read: EACCES"), "{line}");
    assert_eq!(sysctl(&["-a"], 0), (Some(0), String::new()), "for root's group it has the bit");
    let asked =
        fake_daemon::sysctls::ASKED.lock().unwrap().iter().rev().find(|who| who.gid == NOBODY).copied().unwrap();
    assert_eq!((asked.uid, asked.privileged), (NOBODY, false));
    let connect = ["sock", "connect", "--netns", "blue", "echo"];
    for change in [&["reload"][..], &["netns", "retry", "blue"], &["sysctl", "neighbour.count=1"], &connect] {
        let (code, line) = run(change, NOBODY);
        assert_eq!(code, Some(1));
        assert!(line.contains("that is for root and the daemon's own user"), "{line}");
    }
    assert_eq!(status().generation, 7);
}
