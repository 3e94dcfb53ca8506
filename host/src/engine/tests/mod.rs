//! The engine, tested in memory: by rule, by property, by exhaustion.
//!
//! Tests named `k…` hold a rule of the kernel's; the number is the rule's in the project's list of them. What records,
//! fails and checks is in `recorder.rs`, once for all.

#![allow(clippy::unwrap_used)]

mod kernel;
mod knobs;
mod lab;
mod ndo;
mod recorder;
mod sock;
mod stream;

mod ctl_kind;
mod exhaustion;
mod family;
mod filesystem;
mod gate;
mod initcall;
mod model;
mod names;
mod netdev_change;
mod netdev_exhaustion;
mod netdev_model;
mod netdev_move;
mod netdev_names;
mod netdev_notifier;
mod netdev_observed;
mod netdev_predict;
mod netdev_register;
mod netdev_turns;
mod netdev_unregister;
mod notifier;
mod order;
mod pernet;
mod rtnl;
mod setup;
mod socket;
mod sockfs;
mod sysctl;
