//! Frames of tun and tap devices, between the namespace and the plugin.
//!
//! Mirrors `ndo_start_xmit` and `netif_rx`. At a device's open the host gives a descriptor of each of its queues; from
//! then on frames pass between the kernel and the plugin alone, and nothing of them crosses to the host. Three rules:
//! nothing is allocated per frame once the pool is warm; nothing is unbounded; a plugin that blocks in
//! [`start_xmit`](crate::NetDeviceOps::start_xmit) blocks its own queue only.
//!
//! * [`Frame`] and [`Batch`]: bytes in the pool's memory, and their [`VnetHeader`];
//! * [`Datapath`]: where frames go in;
//! * [`Queue`]: where frames come out, in batches.
//!
//! A plugin that answers with what it gets:
//!
//! ```
#![doc = include_str!("../../examples/reflector.rs")]
//! ```

mod vnet;
mod pool;
mod frame;
mod segment;
mod counters;
mod starter;
mod port;
mod receive;
mod queue;

pub use frame::{Batch, Frame, Framing};
pub use port::Datapath;
pub use queue::Queue;
pub use vnet::VnetHeader;

pub(crate) use pool::Pool;
pub(crate) use starter::Starter;
