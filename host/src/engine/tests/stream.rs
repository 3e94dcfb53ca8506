//! The stream of link messages: one for all namespaces, in order, with fences; read late, or lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::recorder::{World, assert_home, see_fenced};
use crate::engine::*;

/// What waits in the socket.
pub(super) enum Message {
    /// A namespace's.
    Of(u64, LinkObservation),
    /// Our own, with its number.
    Fence(u64),
}

/// The socket: what was sent and not read yet.
#[derive(Default)]
pub(super) struct Stream {
    waiting: VecDeque<Message>,
    /// The number of the last fence that was sent, and of the last that was read.
    sent: u64,
    read: u64,
    /// Messages were lost since the last reading.
    overrun: bool,
}

impl Stream {
    pub(super) fn push(&mut self, message: Message) {
        self.waiting.push_back(message);
    }

    pub(super) fn fence(&mut self) -> u64 {
        self.sent += 1;
        self.waiting.push_back(Message::Fence(self.sent));
        self.sent
    }

    /// The number of the last fence.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// The next message, with the last fence that was read before it.
    fn next(&mut self) -> Option<(u64, u64, LinkObservation)> {
        loop {
            match self.waiting.pop_front()? {
                Message::Fence(number) => self.read = number,
                Message::Of(cookie, what) => return Some((cookie, self.read, what)),
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.iter().filter(|m| matches!(m, Message::Of(..))).count()
    }

    /// Nobody listens to that namespace any more.
    pub(super) fn forget(&mut self, cookie: u64) {
        self.waiting.retain(|message| !matches!(message, Message::Of(of, _) if *of == cookie));
    }

    /// Everything that waits is lost, and nobody knows what it was.
    pub(super) fn lose(&mut self) {
        self.waiting.clear();
        self.read = self.sent;
        self.overrun = true;
    }
}

impl Stream {
    /// One could not be taken in: the devices are to be listed again.
    pub(super) fn miss(&mut self) {
        self.overrun = true;
    }
}

impl World {
    /// The reader reads so many messages, and each is compared with the mirror of its namespace. After a loss every
    /// namespace is listed first.
    pub(super) fn deliver(self: &Arc<Self>, list: &PernetList, most: usize) -> Vec<HookError> {
        let mut errors = Vec::new();
        if std::mem::take(&mut self.kernel.state().stream.overrun) {
            errors.extend(self.resync(list));
        }
        for _ in 0..most {
            let Some((cookie, fence, what)) = self.kernel.state().stream.next() else { break };
            if let Some(net) = self.living(cookie) {
                errors.extend(see_fenced(Some(self), list, &net, fence, what));
            }
            if !self.arrivals_wait.load(Ordering::SeqCst) {
                errors.extend(self.arrive(list));
            }
        }
        errors
    }

    /// What another program moved is at home where it is now; or nowhere, where nobody manages that namespace.
    pub(super) fn arrive(self: &Arc<Self>, list: &PernetList) -> Vec<HookError> {
        let departed = std::mem::take(&mut *self.departed.lock().unwrap());
        let one = |departed: Departed| {
            let there = u64::try_from(departed.nsid).ok().and_then(|cookie| self.living(cookie));
            let errors = match there {
                Some(net) => arrived(&list.read().unwrap(), &net, departed),
                None => lost(departed),
            };
            assert_home();
            errors
        };
        departed.into_iter().flat_map(one).collect()
    }

    /// How many messages nobody has read yet.
    pub(super) fn waiting(&self) -> usize {
        self.kernel.state().stream.len()
    }

    /// Everything that waits, and what follows from it.
    pub(super) fn settle(self: &Arc<Self>, list: &PernetList) -> Vec<HookError> {
        let mut errors = Vec::new();
        loop {
            errors.extend(self.deliver(list, usize::MAX));
            errors.extend(self.arrive(list));
            let state = self.kernel.state();
            if state.stream.len() == 0 && !state.stream.overrun {
                return errors;
            }
        }
    }

    /// Lists every namespace that is listened to.
    fn resync(self: &Arc<Self>, list: &PernetList) -> Vec<HookError> {
        // Newer than whatever was done before the last fence was sent, read or not.
        let (sent, dumps) = {
            let state = self.kernel.state();
            let listened = state.spaces.iter().filter(|(_, space)| space.subscribed);
            let dumps: Vec<_> = listened.map(|(cookie, space)| (*cookie, space.list())).collect();
            (state.stream.sent, dumps)
        };
        let one = |(cookie, links): (u64, Vec<Link>)| {
            let net = self.living(cookie)?;
            Some(see_fenced(Some(self), list, &net, sent, LinkObservation::Dump(links)))
        };
        dumps.into_iter().filter_map(one).flatten().collect()
    }
}
