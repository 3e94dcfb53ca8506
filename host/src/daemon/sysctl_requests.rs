//! Clients' questions about sysctls: which namespaces are meant, and how a connection's thread gets at their tables.

use std::fmt;
use std::sync::Arc;

use glob::Pattern;

use crate::config::{Selector, dotted};
use crate::control::sysctl::{Asker, Errno, SysctlSet};
use crate::control::{ControlError, ErrorKind, Reply, wire};
use crate::engine::{Credentials, CtlAccess, CtlFile, CtlFound, CtlNode, Failure, HOST, Net};

use super::Daemon;

/// More than anybody shall read of one sysctl at once.
const MOST: usize = 1 << 20;
/// As much as `cat` asks for.
const CHUNK: usize = 128 << 10;

/// A namespace for a connection's thread.
struct Tables(Arc<Net>);

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Daemon {
    /// A name is that namespace; a pattern is all that it matches, the host's own only where it begins with `@`.
    pub(super) fn sysctl_sets(&self, netns: Option<&str>, reply: Reply<Vec<Box<dyn SysctlSet>>>) {
        let boxed = |net: &Arc<Net>| Box::new(Tables(Arc::clone(net))) as Box<dyn SysctlSet>;
        let asked = netns.unwrap_or(HOST);
        if let Some(net) = self.by_name(asked) {
            return reply.send(Ok(vec![boxed(net)]));
        }
        if !asked.contains(['*', '?', '[']) {
            return reply.send(Err(ControlError::no_such_netns(asked)));
        }
        let sets = Pattern::new(asked).map(|glob| {
            let selector = Selector::new(vec![glob], Vec::new());
            let nets = self.in_order().into_iter().map(|(net, _)| net);
            nets.filter(|net| selector.selects(&net.names(), net.is_host)).map(|net| boxed(&net)).collect::<Vec<_>>()
        });
        let place = format!("namespaces {asked}");
        reply.send(match sets {
            Ok(sets) if sets.is_empty() => {
                let remedy = "see the names with `pernetctl netns list`; `*` does not match @host";
                Err(ControlError::new(ErrorKind::NotFound, place, "none is called so", remedy))
            }
            Ok(sets) => Ok(sets),
            Err(e) => Err(ControlError::new(ErrorKind::Invalid, place, e.msg, "correct the pattern")),
        });
    }
}

fn credentials(who: &Asker) -> Credentials {
    Credentials { uid: who.uid, gid: who.gid, privileged: who.privileged }
}

fn errno(failure: Failure) -> Errno {
    Errno { errno: failure.errno, message: failure.message }
}

impl Tables {
    fn open(&self, path: &str, who: &Credentials, access: CtlAccess) -> Result<CtlFile, Failure> {
        match self.0.sysctl().look(path)? {
            CtlFound::Entry(node) => CtlFile::open(node, who, access),
            CtlFound::Dir(_) => Err(Failure::new(libc::EISDIR, format!("{path} is a directory of sysctls"))),
        }
    }

    fn row(&self, node: &CtlNode) -> wire::Sysctl {
        wire::Sysctl {
            netns: self.0.name().to_string(),
            key: dotted(&node.path()),
            plugin: node.header().plugin().to_owned(),
            mode: node.entry().mode.into(),
            kind: node.entry().kind.as_str().to_owned(),
            value: None,
            left_over: None,
            errno: None,
            error: None,
        }
    }
}

impl SysctlSet for Tables {
    fn list(&self, path: &str) -> Vec<wire::Sysctl> {
        self.0.sysctl().below(path).iter().map(|node| self.row(node)).collect()
    }

    fn read(&self, path: &str, who: &Asker) -> Result<Vec<u8>, Errno> {
        let who = credentials(who);
        let read = || {
            let file = self.open(path, &who, CtlAccess::Read)?;
            let mut all = Vec::new();
            loop {
                let chunk = file.read(&who, CHUNK)?;
                let is_last = chunk.len() < CHUNK;
                all.extend(chunk);
                if is_last {
                    return Ok(all);
                }
                if all.len() > MOST {
                    return Err(Failure::new(libc::EFBIG, format!("{path} has more than {MOST} bytes")));
                }
            }
        };
        read().map_err(errno)
    }

    fn write(&self, path: &str, who: &Asker, bytes: &[u8]) -> Result<usize, Errno> {
        let who = credentials(who);
        let written = self.open(path, &who, CtlAccess::Write).and_then(|file| file.write(&who, bytes));
        written.map_err(errno)
    }
}
