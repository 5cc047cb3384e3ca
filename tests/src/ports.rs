//! Free ports on loopback.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Result, bail};
use rand::RngExt;

use crate::lock;

/// Below the range of ports for outgoing connections: a port of that range could be assigned to a client
/// between the stop and the restart of a node.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// Returns a port on which no process listens and that this process has not returned before.
///
/// # Errors
/// A thousand random ports were all taken.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = lock(&GIVEN);
    let given = given.get_or_insert_default();
    for _ in 0..1000 {
        let port = rand::rng().random_range(RANGE);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!("found no free port between {} and {}", RANGE.start, RANGE.end)
}
