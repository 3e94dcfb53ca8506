//! How a namespace stands, and since when: what of its life is known besides its state.

use crate::engine::{Net, NetState};

use super::Daemon;
use super::past::{Moment, Past, many};

/// One namespace's.
pub(super) struct Standing {
    /// When it was taken under management.
    pub(super) born: Moment,
    pub(super) state: NetState,
    /// When it came to that.
    pub(super) since: Moment,
    /// Setups that have failed since it was live.
    pub(super) tries: u32,
}

impl Standing {
    pub(super) fn begin() -> Standing {
        let born = Moment::now();
        Standing { born, state: NetState::Setup, since: born, tries: 0 }
    }

    /// Looks at it, when nothing is under way there. `tried`: a setup has just ended.
    pub(super) fn look(&mut self, net: &Net, past: &mut Past, tried: bool) {
        let now = net.state();
        let troubled = matches!(now, NetState::Failed | NetState::Degraded);
        self.tries += u32::from(tried && troubled);
        if now == self.state || matches!(now, NetState::Setup) {
            return;
        }
        let was = std::mem::replace(&mut self.state, now);
        self.since = Moment::now();
        match now {
            NetState::Failed => past.said("it failed, and what had been done was undone"),
            NetState::Degraded => {
                let absent: Vec<String> = net.absent().iter().map(|error| error.plugin.to_string()).collect();
                past.said(format!("it is degraded: without {}", absent.join(", ")));
            }
            NetState::Live if was != NetState::Setup => {
                let tries = std::mem::take(&mut self.tries);
                past.said(format!("it is live again, after {} that failed", many(tries.into(), "try", "tries")));
            }
            _ => {}
        }
    }
}

impl Daemon {
    /// After an operation, which may have changed any of them.
    pub(super) fn look_at_all(&mut self) {
        for managed in self.nets.values_mut().filter(|managed| !managed.setting_up) {
            managed.standing.look(&managed.net, &mut managed.place.past(), false);
        }
    }
}
