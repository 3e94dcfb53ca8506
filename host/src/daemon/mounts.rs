//! Users' mounts: asked for over the control socket, made by the client, served here.
//!
//! The client has made the mount already, attached nowhere, and sends the connection. If the type agrees, it is served
//! from here on, and the client is told when it answers; then he attaches it. Nobody keeps a lease: the kernel does. If
//! the client goes before, the mount that is attached nowhere goes with him, and the connection ends.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::control::wire::{self, Filesystem};
use crate::control::{ControlError, ErrorKind, MountAsk, Reply};
use crate::engine::{Failure, Mount, MountRequest, Net};
use crate::logging::catalog;

use super::filesystems::{self, Filesystems};
use super::{Daemon, Phase};

impl Daemon {
    pub(super) fn mount(&mut self, ask: MountAsk) {
        if self.phase == Phase::Stopping {
            return ask.reply.send(Err(ControlError::stopping()));
        }
        let net = match ask.netns.as_deref().map(|name| self.by_name(name).cloned().ok_or(name)) {
            Some(Err(name)) => return ask.reply.send(Err(ControlError::no_such_netns(name))),
            Some(Ok(net)) => Some(net),
            None => None,
        };
        // On a worker: the type's own code is asked, and may take its time.
        let filesystems = Arc::clone(&self.shared.filesystems);
        self.workers.run_anywhere(Box::new(move || carry_out(&filesystems, net.as_deref(), ask)));
    }

    pub(super) fn filesystem_list(&self, reply: Reply<Vec<Filesystem>>) {
        let types = &self.shared.filesystems.types;
        let mounts = types.mounts();
        let row = |fs: Arc<crate::engine::FileSystemType>| Filesystem {
            name: fs.name.to_string(),
            owner: fs.owner.to_string(),
            user: !fs.no_user,
            judges_access: fs.judges_access,
            mounts: mounts.iter().filter(|mount| Arc::ptr_eq(&mount.fs, &fs)).count() as u64,
        };
        reply.send(Ok(types.types().into_iter().map(row).collect()));
    }

    pub(super) fn mount_list(&self, reply: Reply<Vec<wire::MountEntry>>) {
        let mounts = self.shared.filesystems.types.mounts();
        reply.send(Ok(mounts.iter().filter(|mount| !mount.has_ended()).map(|mount| row(mount)).collect()));
    }
}

fn carry_out(filesystems: &Filesystems, net: Option<&Net>, ask: MountAsk) {
    let MountAsk { fs, source, target, options, device, reply, .. } = ask;
    let request = MountRequest { source, target, options, ..filesystems::request_for(net) };
    let mounted = filesystems.types.mount(&fs, request);
    let mounted = mounted.and_then(|mount| filesystems::is_there_still(net).map(|()| mount));
    let mount = match mounted {
        Ok(mount) => mount,
        Err(failure) => return reply.send(Err(refusal(&fs, &failure))),
    };
    let target = mount.request.target.clone();
    let shown = row(&mount);
    let (kept, known, connection) = (Arc::clone(&filesystems.kept), Arc::clone(&mount), device.try_clone());
    let place = format!("file system type {fs}");
    let ready = move |result: Result<(), String>| {
        let failed = |why| ControlError::new(ErrorKind::Failed, place, why, "see the daemon's log, and mount it again");
        if let (Ok(()), Ok(connection)) = (&result, connection) {
            kept.keep(&known, connection.as_fd());
        }
        reply.send(result.map(|()| shown).map_err(failed));
    };
    if let Err(error) = filesystems.fuse.serve(device, mount, Box::new(ready)) {
        tracing::warn!(
            message_id = catalog::MOUNT_DEAD,
            fs,
            target,
            errno = error.raw_os_error(),
            "the mount of {fs} on {target} cannot be served: {error}"
        );
    }
}

/// What the client is told of a mount that is refused.
fn refusal(fs: &str, failure: &Failure) -> ControlError {
    let (kind, remedy) = match failure.errno {
        libc::ENODEV => (ErrorKind::NotFound, "see the types with `pernetctl fs list`"),
        libc::EINVAL => {
            (ErrorKind::Invalid, "see the types with `pernetctl fs list`, and a type's options in its manual")
        }
        _ => (ErrorKind::Failed, "correct that and mount it again"),
    };
    ControlError::new(kind, format!("file system type {fs}"), filesystems::told(failure), remedy)
}

fn row(mount: &Mount) -> wire::MountEntry {
    let request = &mount.request;
    wire::MountEntry {
        id: mount.id,
        fs: mount.fs.name.to_string(),
        owner: mount.fs.owner.to_string(),
        netns: request.netns.as_ref().map(ToString::to_string),
        source: request.source.clone(),
        target: request.target.clone(),
        options: request.options.clone(),
        calls: mount.calls() as u64,
    }
}
