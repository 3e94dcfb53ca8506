//! Between discovery and the loop, on kernels without nsfs file handles: which namespace a name shows.
//!
//! There only entering can tell, and no source thread may enter; the loop must not wait either. So batches pass
//! through a thread with a seat, in order. Where handles exist discovery has identified every name itself, and this
//! stage is only a call.

use crossbeam_channel::{Sender, unbounded};

use super::Event;
use crate::discovery::{Batch, NamedNs, Observation};
use crate::linux::{ns, nsfs};

/// Where discovery sends its batches.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn stage(events: Sender<Event>) -> std::io::Result<Box<dyn Fn(Batch) + Send>> {
    if nsfs::available().is_ok() {
        return Ok(Box::new(move |batch| drop(events.send(Event::Names(batch)))));
    }
    let (to_thread, batches) = unbounded::<Batch>();
    std::thread::Builder::new().name("identify".into()).spawn(move || {
        if let Err(e) = ns::take_seat_here() {
            tracing::error!("cannot open the own network namespace: {e}; no namespace will be found");
        }
        for mut batch in batches {
            batch.0.iter_mut().for_each(identify);
            if events.send(Event::Names(batch)).is_err() {
                return;
            }
        }
    })?;
    Ok(Box::new(move |batch| drop(to_thread.send(batch))))
}

fn identify(observation: &mut Observation) {
    match observation {
        Observation::Name(named) => look(named),
        Observation::Snapshot(all) => all.iter_mut().for_each(look),
        Observation::NoName(_) => {}
    }
}

/// A name that is gone again stays without identity; the news of that is on its way.
fn look(named: &mut NamedNs) {
    if named.identity.is_none() {
        named.identity = ns::identify(&named.path).ok();
    }
}
