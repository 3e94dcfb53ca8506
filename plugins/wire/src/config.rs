//! The configuration as it is written. The shape is in the crate's own documentation; what is sound is `plan`.

use std::fmt;

use serde::Deserialize as Derive;
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::impair::Distribution;
use crate::unit::{Rate, Share, Time};

/// The `[config]` table.
#[derive(Debug, Default, Derive)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub(crate) cables: Vec<CableTable>,
}

#[derive(Debug, Derive)]
#[serde(deny_unknown_fields)]
pub(crate) struct CableTable {
    pub(crate) name: String,
    pub(crate) a: EndTable,
    pub(crate) b: EndTable,
    #[serde(default)]
    pub(crate) offloads: Offloads,
    pub(crate) queues: Option<u32>,
    pub(crate) both: Option<DirectionTable>,
    pub(crate) a_to_b: Option<DirectionTable>,
    pub(crate) b_to_a: Option<DirectionTable>,
    pub(crate) pcap: Option<String>,
    pub(crate) snaplen: Option<u32>,
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, Derive)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndTable {
    pub(crate) netns: String,
    pub(crate) device: String,
    pub(crate) address: Option<String>,
    pub(crate) mtu: Option<u32>,
    #[serde(default = "yes")]
    pub(crate) up: bool,
}

#[derive(Debug, Derive)]
#[serde(deny_unknown_fields)]
pub(crate) struct DirectionTable {
    pub(crate) delay: Option<Time>,
    pub(crate) jitter: Option<Time>,
    pub(crate) distribution: Option<DistributionWord>,
    pub(crate) loss: Option<Share>,
    pub(crate) duplicate: Option<Share>,
    pub(crate) reorder: Option<Share>,
    pub(crate) gap: Option<u32>,
    pub(crate) rate: Option<Rate>,
    pub(crate) limit: Option<u32>,
    pub(crate) pcap: Option<String>,
}

#[derive(Clone, Copy, Debug, Derive)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DistributionWord {
    Uniform,
    Normal,
}

impl From<DistributionWord> for Distribution {
    fn from(word: DistributionWord) -> Self {
        match word {
            DistributionWord::Uniform => Distribution::Uniform,
            DistributionWord::Normal => Distribution::Normal,
        }
    }
}

/// Whether the kernel may hand over several frames as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Offloads {
    /// Only where each frame is not dealt with on its own.
    #[default]
    Auto,
    On,
    Off,
}

fn yes() -> bool {
    true
}

impl<'de> Deserialize<'de> for Offloads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrBool;
        impl Visitor<'_> for AutoOrBool {
            type Value = Offloads;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", true or false")
            }

            fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<Offloads, E> {
                Ok(if is_on { Offloads::On } else { Offloads::Off })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Offloads, E> {
                match text {
                    "auto" => Ok(Offloads::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(AutoOrBool)
    }
}
