//! What files tell, asked of the loop as a client asks it.

use std::time::Duration;

use crossbeam_channel::Sender;

use crate::control::wire::{Device, DeviceHolder, Filesystem, MountEntry, Netns, Plugin, Status};
use crate::control::{ErrorKind, Reply, Request};
use crate::engine::Failure;

use super::Event;

/// Who reads a file has had his answer long before; this is for the thread.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Ask {
    events: Sender<Event>,
}

impl Ask {
    pub(super) fn new(events: Sender<Event>) -> Ask {
        Ask { events }
    }

    fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Request) -> Result<T, Failure> {
        let (reply, answer) = Reply::new();
        let gone = || Failure::new(libc::EIO, "the daemon is stopping");
        self.events.send(Event::Request(question(reply))).map_err(|_| gone())?;
        match answer.receiver().recv_timeout(PATIENCE) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let errno = if error.kind == ErrorKind::NotFound { libc::ENOENT } else { libc::EIO };
                Err(Failure::new(errno, error.to_string()))
            }
            Err(error) if error.is_disconnected() => Err(gone()),
            Err(_) => Err(Failure::new(libc::EIO, "the daemon's loop did not answer")),
        }
    }

    pub(super) fn status(&self) -> Result<Status, Failure> {
        self.ask(|reply| Request::Status { reply })
    }

    pub(super) fn namespaces(&self) -> Result<Vec<Netns>, Failure> {
        self.ask(|reply| Request::NetnsList { count: false, reply })
    }

    /// Its devices are not counted: that may take a look into the kernel, and no file shows it.
    pub(super) fn namespace(&self, name: &str) -> Result<Netns, Failure> {
        self.ask(|reply| Request::NetnsGet { name: name.to_owned(), count: false, reply })
    }

    pub(super) fn devices(&self, netns: &str) -> Result<Vec<Device>, Failure> {
        self.ask(|reply| Request::DevList { netns: Some(netns.to_owned()), reply })
    }

    pub(super) fn holders(&self, netns: &str, device: &str, ifindex: u64) -> Result<Vec<DeviceHolder>, Failure> {
        let netns = Some(netns.to_owned());
        let shown = self.ask(|reply| Request::DevShow { name: device.to_owned(), netns, reply })?;
        Ok(shown.into_iter().filter(|device| device.ifindex == ifindex).flat_map(|device| device.holders).collect())
    }

    pub(super) fn plugins(&self) -> Result<Vec<Plugin>, Failure> {
        self.ask(|reply| Request::PluginList { reply })
    }

    pub(super) fn filesystems(&self) -> Result<Vec<Filesystem>, Failure> {
        self.ask(|reply| Request::FilesystemList { reply })
    }

    pub(super) fn mounts(&self) -> Result<Vec<MountEntry>, Failure> {
        self.ask(|reply| Request::MountList { reply })
    }
}
