//! A whole cluster in one process: real nodes, on simulated machines, over a simulated network and a model of the
//! topology log, on virtual time, with everything that happens drawn from one seed.
//!
//! What runs is the code of `caskd`: data plane, leases, duties and engine. In its place stand [`machine`] (clock and
//! tasks), [`network`] (calls and gossip) and [`agreement`] (the consensus log). [`faults`] attack it, [`clients`] use
//! it and note what they are told, [`invariants`] and the [`history`] judge. [`run`](mod@run) is one seed.

pub mod agreement;
pub mod clients;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod machine;
pub mod network;
pub mod randomness;
pub mod run;
pub mod scale;
mod sides;
mod takeover;
pub mod world;
