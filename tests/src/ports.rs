//! Free ports on loopback.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Result, bail};
use rand::Rng;

use crate::lock;

/// Below the range from which the system takes ports for outgoing connections: a port taken from within it could
/// go to some client between a node's stop and its restart.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A port that nobody listens on and that this process has not given out before.
///
/// # Errors
/// If a thousand guesses found none.
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
