//! From a file to a running subsystem: opened, trusted, understood, loaded, asked.
//!
//! Mirrors the kernel's module loader (`modinfo`, vermagic, Coming, Live, Going) for shared libraries. The steps, in
//! order, each with its own error in [`PluginError`]: [`trust`] judges who could have changed the file, [`mod@file`] reads
//! it once, [`note`] understands its metadata without running any of its code, [`load`] maps it by content and checks
//! its ABI, [`instance`] makes a plugin out of code and configuration, [`call`] calls it, [`host_api`] is what it may
//! call back. This is the only place with `dlopen` and foreign calls.
//!
//! Not here: which plugins there are, their order, and when to call them (configuration, engine, daemon).

mod error;
mod elf;
mod device_name;
mod gate;
mod inner;
mod mapping;
mod status;
pub mod trust;
pub mod note;
pub mod file;
pub mod load;
pub mod running;
mod call;
mod ndo;
mod family;
mod fs;
mod ctl;
pub mod instance;
pub mod host_api;
mod host_devices;
mod host_sysctl;
mod host_filesystem;
mod host_socket;

pub use device_name::DeviceName;
pub use elf::FormatError;
pub use error::PluginError;
pub use host_api::{HookRecord, HostServices, LogLine};
pub use host_devices::{ChangeNetdev, NetdevSnapshot};
pub use inner::InstanceRef;
pub use instance::{Instance, PluginState, Registered, RegisteredKind};
pub use load::{Code, ConfigRefusal};
pub use mapping::MapError;
pub use trust::Judge;
