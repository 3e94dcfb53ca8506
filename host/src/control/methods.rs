//! The interface's methods: judge, ask the daemon, wait for its answer or for the client to go.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::select;
use varlink::VarlinkService;

use super::access::{Need, Peer};
use super::connection::{Connection, at};
use super::request::{
    Answer, ControlError, ErrorKind, LeaseId, MountAsk, NetnsAdd, Reply, Request, SockConnect, StoryKind,
};
use super::server::{Shared, after};
use super::sysctl::{Asker, Sets};
use super::wire::generated::{
    Call_Boot, Call_DevList, Call_DevShow, Call_FilesystemList, Call_Monitor, Call_Mount, Call_MountList,
    Call_NetnsAdd, Call_NetnsGet, Call_NetnsList, Call_NetnsRetry, Call_NetnsWait, Call_NetnsWaitGone, Call_PluginList,
    Call_Reload, Call_SockConnect, Call_SockList, Call_Status, Call_SysctlList, Call_SysctlRead, Call_SysctlWrite,
    Call_Why, VarlinkCallError, VarlinkInterface, new,
};
use super::wire::{MountEntry, Netns, NetnsState, Stories};

/// The service as one connection sees it.
pub(super) fn service(connection: Arc<Connection>, shared: Arc<Shared>) -> VarlinkService {
    let version = env!("CARGO_PKG_VERSION");
    let url = env!("CARGO_PKG_REPOSITORY");
    let methods = new(Box::new(Methods { connection, shared }));
    VarlinkService::new("pernetd", "pernetd", version, url, vec![Box::new(methods)])
}

struct Methods {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
}

/// Why a call has no answer.
enum Refusal {
    /// There is nobody to tell.
    ClientGone,
    Error(ControlError),
    /// The call must say `more`.
    ExpectedMore,
}

impl From<ControlError> for Refusal {
    fn from(e: ControlError) -> Refusal {
        Refusal::Error(e)
    }
}

impl Methods {
    fn judge(&self, need: Need, method: &str) -> Result<(), Refusal> {
        Ok(self.shared.judge(&self.connection.peer, need, method)?)
    }

    /// Puts a question to the daemon.
    fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Request) -> Answer<T> {
        let (reply, answer) = Reply::new();
        self.shared.request(question(reply));
        answer
    }

    /// Waits for an answer, until a deadline if there is one, and no longer than there is a client.
    fn wait<T>(&self, answer: &Answer<T>, deadline: Option<Instant>) -> Result<T, Refusal> {
        let answered = |r: Result<_, crossbeam_channel::RecvError>| r.unwrap_or_else(|_| Err(ControlError::stopping()));
        select! {
            recv(answer.receiver) -> r => Ok(answered(r)?),
            recv(self.connection.gone()) -> _ => Err(Refusal::ClientGone),
            recv(at(deadline)) -> _ => Err(timed_out().into()),
        }
    }

    /// A question that the daemon answers at once.
    fn read<T>(&self, method: &str, question: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        self.judge(Need::Read, method)?;
        self.wait(&self.ask(question), after(self.shared.limits.answer))
    }

    /// One that waits for hooks: they take the time they take, and the client goes when it has waited enough.
    fn change<T>(&self, method: &str, question: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        self.judge(Need::Change, method)?;
        self.wait(&self.ask(question), None)
    }

    /// Names the state that a namespace was left waiting in.
    fn still(&self, refusal: Refusal, name: &str, seconds: Option<u64>) -> Refusal {
        let (Refusal::Error(ControlError { kind: ErrorKind::TimedOut, .. }), Some(seconds)) = (&refusal, seconds)
        else {
            return refusal;
        };
        let name = name.to_owned();
        let place = format!("namespace {name}");
        let now = self.ask(|reply| Request::NetnsGet { name, count: true, reply });
        let state = match self.wait(&now, after(self.shared.limits.answer)) {
            Ok(netns) => format!("it is still {}", netns.state.as_str()),
            Err(_) => "it is not there".to_owned(),
        };
        let remedy = "wait longer with --timeout, and see `pernetctl status` for what holds it";
        ControlError::new(ErrorKind::TimedOut, place, format!("{state} after {seconds} s"), remedy).into()
    }

    fn netns_wait(&self, name: String, timeout: Option<u64>) -> Result<Netns, Refusal> {
        self.judge(Need::Read, "NetnsWait")?;
        let answer = self.ask(|reply| Request::NetnsWait { name: name.clone(), reply });
        self.wait(&answer, deadline(timeout)).map_err(|e| self.still(e, &name, timeout))
    }

    fn netns_wait_gone(
        &self,
        call: &mut dyn Call_NetnsWaitGone,
        (name, cookie, timeout): (String, u64, Option<u64>),
    ) -> Result<Netns, Refusal> {
        self.judge(Need::Read, "NetnsWaitGone")?;
        let answer = self.ask(|reply| Request::NetnsWaitGone { name: name.clone(), cookie, reply });
        if call.wants_more() {
            // The daemon takes requests in turn: once this second one is answered, the first one is watching.
            let now = self.ask(|reply| Request::NetnsGet { name: name.clone(), count: true, reply });
            let now = self.wait(&now, after(self.shared.limits.answer))?;
            call.set_continues(true);
            let sent = call.reply(now);
            call.set_continues(false);
            sent.map_err(|_| Refusal::ClientGone)?;
        }
        self.wait(&answer, deadline(timeout)).map_err(|e| self.still(e, &name, timeout))
    }

    /// The first reply when the inits are done or failed, the second when the name has been seen.
    fn netns_add(&self, call: &mut dyn Call_NetnsAdd, name: String, path: String) -> Result<Netns, Refusal> {
        self.judge(Need::Change, "NetnsAdd")?;
        if !call.wants_more() {
            return Err(Refusal::ExpectedMore);
        }
        let ns = self.descriptor(format!("namespace {name}"), "the namespace's one descriptor")?;
        let (inits, inits_done) = Reply::new();
        let (seen, name_seen) = Reply::new();
        let mut lease = Lease { shared: &self.shared, id: self.shared.new_lease(), ended: false };
        let path = PathBuf::from(path);
        self.shared.request(Request::NetnsAdd(NetnsAdd { name, path, ns, lease: lease.id, inits, seen }));
        let netns = match self.wait(&inits_done, None) {
            Err(Refusal::Error(e)) => {
                lease.ended = true;
                return Err(e.into());
            }
            other => other?,
        };
        if netns.state == NetnsState::failed {
            lease.ended = true;
            return Ok(netns);
        }
        call.set_continues(true);
        let sent = call.reply(netns);
        call.set_continues(false);
        sent.map_err(|_| Refusal::ClientGone)?;
        let netns = self.wait(&name_seen, after(self.shared.limits.lease))?;
        lease.ended = true;
        Ok(netns)
    }

    /// The one descriptor that came with the call.
    fn descriptor(&self, place: String, which: &str) -> Result<OwnedFd, Refusal> {
        let mut descriptors = self.connection.take_descriptors();
        match (descriptors.pop(), descriptors.is_empty()) {
            (Some(one), true) => Ok(one),
            (one, _) => {
                let what = format!("{} descriptors came with the call", descriptors.len() + usize::from(one.is_some()));
                let remedy = format!("send {which} in the same message (SCM_RIGHTS)");
                Err(ControlError::new(ErrorKind::Invalid, place, what, remedy).into())
            }
        }
    }

    fn sock_connect(&self, netns: String, family: String, kind: String) -> Result<(), Refusal> {
        self.judge(Need::Change, "SockConnect")?;
        let place = format!("protocol family {family} in namespace {netns}");
        let fd = self.descriptor(place, "the socket's one descriptor")?;
        let Peer { uid, gid, pid, .. } = self.connection.peer;
        let ask = self.ask(|reply| Request::SockConnect(SockConnect { netns, family, kind, uid, gid, pid, fd, reply }));
        self.wait(&ask, None)
    }

    /// The type's own code is asked, which takes the time that it takes.
    fn mount(
        &self,
        ask: impl FnOnce(std::os::fd::OwnedFd, Reply<MountEntry>) -> MountAsk,
        fs: &str,
    ) -> Result<MountEntry, Refusal> {
        self.judge(Need::Change, "Mount")?;
        let device = self.descriptor(format!("file system type {fs}"), "the one descriptor of /dev/fuse")?;
        self.wait(&self.ask(|reply| Request::Mount(ask(device, reply))), None)
    }

    /// The sysctls of the namespaces that are meant. What is asked of them then runs on this thread.
    fn sysctls(&self, need: Need, method: &str, netns: Option<String>) -> Result<(Sets, Asker), Refusal> {
        self.judge(need, method)?;
        let answer = self.ask(|reply| Request::Sysctls { netns: netns.clone(), reply });
        let sets = self.wait(&answer, after(self.shared.limits.answer))?;
        Ok((Sets { netns, sets }, Asker::of(&self.connection.peer)))
    }

    fn why(&self, name: String, kind: Option<&str>) -> Result<Stories, Refusal> {
        self.judge(Need::Read, "Why")?;
        let kind = kind.map(StoryKind::from_word).transpose()?;
        self.read("Why", |reply| Request::Why { name, kind, reply })
    }

    /// Lines until the client goes. A client that reads slowly only fills its own queue.
    fn monitor(&self, call: &mut dyn Call_Monitor) -> Result<(), Refusal> {
        self.judge(Need::Read, "Monitor")?;
        if !call.wants_more() {
            return Err(Refusal::ExpectedMore);
        }
        let subscription = self.shared.monitor.subscribe();
        // It may take lines as slowly as it likes; the time-out is for replies that somebody waits for.
        let _ = self.connection.stream.set_write_timeout(None);
        call.set_continues(true);
        loop {
            select! {
                recv(subscription.lines()) -> line => {
                    let hook = line.map_err(|_| Refusal::ClientGone)?;
                    call.reply((*hook).clone()).map_err(|_| Refusal::ClientGone)?;
                }
                recv(self.connection.gone()) -> _ => return Err(Refusal::ClientGone),
            }
        }
    }
}

/// Tells the daemon when the client of an add has gone, on whatever path that is noticed.
struct Lease<'a> {
    shared: &'a Shared,
    id: LeaseId,
    ended: bool,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.request(Request::LeaseEnded { lease: self.id });
        }
    }
}

fn deadline(seconds: Option<u64>) -> Option<Instant> {
    seconds.and_then(|s| after(Duration::from_secs(s)))
}

fn timed_out() -> ControlError {
    let remedy = "see `pernetctl status` and the daemon's log, and ask again";
    ControlError::new(ErrorKind::TimedOut, "pernetd", "there was no answer in time", remedy)
}

/// Answers with an error of the interface; a client that has gone ends the connection instead.
fn refuse(call: &mut dyn VarlinkCallError, refusal: Refusal) -> varlink::Result<()> {
    let ControlError { kind, what, place, remedy } = match refusal {
        Refusal::Error(e) => e,
        Refusal::ExpectedMore => {
            return call.reply_struct(varlink::Reply::error("org.varlink.service.ExpectedMore", None));
        }
        Refusal::ClientGone => return Err(varlink::ErrorKind::ConnectionClosed.into()),
    };
    match kind {
        ErrorKind::NotPermitted => call.reply_not_permitted(what, place, remedy),
        ErrorKind::NotFound => call.reply_not_found(what, place, remedy),
        ErrorKind::Invalid => call.reply_invalid(what, place, remedy),
        ErrorKind::TimedOut => call.reply_timed_out(what, place, remedy),
        ErrorKind::Unavailable => call.reply_unavailable(what, place, remedy),
        ErrorKind::Failed => call.reply_failed(what, place, remedy),
    }
}

impl VarlinkInterface for Methods {
    fn status(&self, call: &mut dyn Call_Status) -> varlink::Result<()> {
        match self.read("Status", |reply| Request::Status { reply }) {
            Ok(status) => call.reply(status),
            Err(e) => refuse(call, e),
        }
    }

    fn netns_list(&self, call: &mut dyn Call_NetnsList) -> varlink::Result<()> {
        match self.read("NetnsList", |reply| Request::NetnsList { count: true, reply }) {
            Ok(namespaces) => call.reply(namespaces),
            Err(e) => refuse(call, e),
        }
    }

    fn netns_get(&self, call: &mut dyn Call_NetnsGet, name: String) -> varlink::Result<()> {
        match self.read("NetnsGet", |reply| Request::NetnsGet { name, count: true, reply }) {
            Ok(netns) => call.reply(netns),
            Err(e) => refuse(call, e),
        }
    }

    fn netns_wait(&self, call: &mut dyn Call_NetnsWait, name: String, timeout: Option<u64>) -> varlink::Result<()> {
        match self.netns_wait(name, timeout) {
            Ok(netns) => call.reply(netns),
            Err(e) => refuse(call, e),
        }
    }

    fn netns_retry(&self, call: &mut dyn Call_NetnsRetry, name: String) -> varlink::Result<()> {
        match self.change("NetnsRetry", |reply| Request::NetnsRetry { name, reply }) {
            Ok(netns) => call.reply(netns),
            Err(e) => refuse(call, e),
        }
    }

    fn netns_add(&self, call: &mut dyn Call_NetnsAdd, name: String, path: String) -> varlink::Result<()> {
        match self.netns_add(call, name, path) {
            Ok(netns) => call.reply(netns),
            Err(e) => refuse(call, e),
        }
    }

    fn netns_wait_gone(
        &self,
        call: &mut dyn Call_NetnsWaitGone,
        name: String,
        cookie: u64,
        timeout: Option<u64>,
    ) -> varlink::Result<()> {
        match self.netns_wait_gone(call, (name, cookie, timeout)) {
            Ok(netns) => call.reply(netns),
            Err(e) => refuse(call, e),
        }
    }

    fn plugin_list(&self, call: &mut dyn Call_PluginList) -> varlink::Result<()> {
        match self.read("PluginList", |reply| Request::PluginList { reply }) {
            Ok(plugins) => call.reply(plugins),
            Err(e) => refuse(call, e),
        }
    }

    fn dev_list(&self, call: &mut dyn Call_DevList, netns: Option<String>) -> varlink::Result<()> {
        match self.read("DevList", |reply| Request::DevList { netns, reply }) {
            Ok(devices) => call.reply(devices),
            Err(e) => refuse(call, e),
        }
    }

    fn dev_show(&self, call: &mut dyn Call_DevShow, name: String, netns: Option<String>) -> varlink::Result<()> {
        match self.read("DevShow", |reply| Request::DevShow { name, netns, reply }) {
            Ok(devices) => call.reply(devices),
            Err(e) => refuse(call, e),
        }
    }

    fn boot(&self, call: &mut dyn Call_Boot, netns: Option<String>) -> varlink::Result<()> {
        match self.read("Boot", |reply| Request::Boot { netns, reply }) {
            Ok(boot) => call.reply(boot),
            Err(e) => refuse(call, e),
        }
    }

    fn why(&self, call: &mut dyn Call_Why, name: String, kind: Option<String>) -> varlink::Result<()> {
        match self.why(name, kind.as_deref()) {
            Ok(Stories { stories, more }) => call.reply(stories, more),
            Err(e) => refuse(call, e),
        }
    }

    fn monitor(&self, call: &mut dyn Call_Monitor) -> varlink::Result<()> {
        let Err(e) = self.monitor(call) else { return Ok(()) };
        refuse(call, e)
    }

    fn sock_list(&self, call: &mut dyn Call_SockList, netns: Option<String>) -> varlink::Result<()> {
        match self.read("SockList", |reply| Request::SockList { netns, reply }) {
            Ok(sockets) => call.reply(sockets),
            Err(e) => refuse(call, e),
        }
    }

    fn filesystem_list(&self, call: &mut dyn Call_FilesystemList) -> varlink::Result<()> {
        match self.read("FilesystemList", |reply| Request::FilesystemList { reply }) {
            Ok(filesystems) => call.reply(filesystems),
            Err(e) => refuse(call, e),
        }
    }

    fn sock_connect(
        &self,
        call: &mut dyn Call_SockConnect,
        netns: String,
        family: String,
        r#type: String,
    ) -> varlink::Result<()> {
        match self.sock_connect(netns, family, r#type) {
            Ok(()) => call.reply(),
            Err(e) => refuse(call, e),
        }
    }

    fn mount_list(&self, call: &mut dyn Call_MountList) -> varlink::Result<()> {
        match self.read("MountList", |reply| Request::MountList { reply }) {
            Ok(mounts) => call.reply(mounts),
            Err(e) => refuse(call, e),
        }
    }

    fn mount(
        &self,
        call: &mut dyn Call_Mount,
        fs: String,
        netns: Option<String>,
        source: String,
        target: String,
        options: String,
    ) -> varlink::Result<()> {
        let name = fs.clone();
        match self.mount(|device, reply| MountAsk { fs, netns, source, target, options, device, reply }, &name) {
            Ok(mount) => call.reply(mount),
            Err(e) => refuse(call, e),
        }
    }

    fn reload(&self, call: &mut dyn Call_Reload) -> varlink::Result<()> {
        match self.change("Reload", |reply| Request::Reload { reply }) {
            Ok(result) => call.reply(result),
            Err(e) => refuse(call, e),
        }
    }

    fn sysctl_list(
        &self,
        call: &mut dyn Call_SysctlList,
        netns: Option<String>,
        key: Option<String>,
    ) -> varlink::Result<()> {
        let sets = self.sysctls(Need::Read, "SysctlList", netns);
        match sets.and_then(|(sets, _)| Ok(sets.list(key.as_deref())?)) {
            Ok(sysctls) => call.reply(sysctls),
            Err(e) => refuse(call, e),
        }
    }

    fn sysctl_read(
        &self,
        call: &mut dyn Call_SysctlRead,
        netns: Option<String>,
        key: Option<String>,
    ) -> varlink::Result<()> {
        let sets = self.sysctls(Need::Read, "SysctlRead", netns);
        match sets.and_then(|(sets, who)| Ok(sets.read(key.as_deref(), &who)?)) {
            Ok(sysctls) => call.reply(sysctls),
            Err(e) => refuse(call, e),
        }
    }

    fn sysctl_write(
        &self,
        call: &mut dyn Call_SysctlWrite,
        netns: Option<String>,
        key: String,
        value: String,
    ) -> varlink::Result<()> {
        let sets = self.sysctls(Need::Change, "SysctlWrite", netns);
        match sets.and_then(|(sets, who)| Ok(sets.write(&key, &who, &value)?)) {
            Ok(sysctls) => call.reply(sysctls),
            Err(e) => refuse(call, e),
        }
    }
}
