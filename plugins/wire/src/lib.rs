//! Virtual cables.
#![forbid(unsafe_code)]
#![allow(dead_code)]

mod unit;
mod impair;
mod config;
mod plan;
mod queue;
mod pcap;
mod capture;
