//! The commands of `caskctl`, one file per family.

pub(crate) mod bench;
pub(crate) mod cert;
pub(crate) mod cluster;
pub(crate) mod events;
pub(crate) mod hash_password;
pub(crate) mod keys;
pub(crate) mod partition;
pub(crate) mod plan;
pub(crate) mod playground;
pub(crate) mod scan;
pub(crate) mod store;
pub(crate) mod top;
