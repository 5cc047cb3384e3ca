//! Limit on the rate at which one address can guess passwords.
//!
//! Each address has a level. A failed log-in raises it by 1, and it falls by 1 every ten seconds. Above 3,
//! the reply to a failure is delayed, longer with each failure. Above 9, log-ins are rejected unchecked until
//! the level has fallen. So an address gets about ten guesses at once, and then six per minute. A successful
//! log-in does not change the level: a client that knows one password must not gain guesses of others.
//!
//! The first 64 bits of an IPv6 address count as the address, because one machine usually has all of its
//! lower 64 bits. The table is bounded: when it is full, the address with the lowest level is dropped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Level up to which replies to failures are not delayed.
const FREE: f64 = 3.0;
/// Level above which log-ins are rejected unchecked: one more failure would make it ten.
const TRIED_UP_TO: f64 = 9.0;
/// Time in which the level falls by 1.
const FORGIVEN_IN: Duration = Duration::from_secs(10);
/// Additional delay of the reply for each failure above `FREE`.
const DELAY_STEP: Duration = Duration::from_millis(250);
/// Maximum number of addresses in the table.
const ADDRESSES_MAX: usize = 4096;

/// Failed log-ins by address.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    levels: HashMap<IpAddr, (f64, Instant)>,
}

impl Throttle {
    /// Returns how long the address must wait until a log-in is checked; `None` if it need not wait.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let over = self.level(network(address), now) - TRIED_UP_TO;
        (over > 0.0).then(|| FORGIVEN_IN.mul_f64(over).max(Duration::from_secs(1)))
    }

    /// Counts a failure. Returns the delay of its reply.
    pub(super) fn failed(&mut self, address: IpAddr, now: Instant) -> Duration {
        let address = network(address);
        let level = self.level(address, now) + 1.0;
        if self.levels.len() >= ADDRESSES_MAX && !self.levels.contains_key(&address) {
            self.make_room(now);
        }
        self.levels.insert(address, (level, now));
        DELAY_STEP.mul_f64((level - FREE).clamp(0.0, TRIED_UP_TO))
    }

    fn level(&self, address: IpAddr, now: Instant) -> f64 {
        self.levels.get(&address).map_or(0.0, |&(level, then)| fallen(level, then, now))
    }

    /// Drops the addresses whose level has fallen to 0. If there are none, drops the address with the lowest
    /// level.
    fn make_room(&mut self, now: Instant) {
        self.levels.retain(|_, &mut (level, then)| fallen(level, then, now) > 0.0);
        if self.levels.len() >= ADDRESSES_MAX {
            let lowest = self
                .levels
                .iter()
                .min_by(|(_, a), (_, b)| fallen(a.0, a.1, now).total_cmp(&fallen(b.0, b.1, now)));
            if let Some(address) = lowest.map(|(address, _)| *address) {
                self.levels.remove(&address);
            }
        }
    }
}

fn fallen(level: f64, then: Instant, now: Instant) -> f64 {
    let by = now.saturating_duration_since(then).as_secs_f64() / FORGIVEN_IN.as_secs_f64();
    (level - by).max(0.0)
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn failures_are_delayed_then_refused_then_forgiven() {
        let (mut throttle, peer, now) = (Throttle::default(), address("10.0.0.1"), Instant::now());
        let delays: Vec<_> = (0..10).map(|_| throttle.failed(peer, now).as_millis()).collect();
        assert_eq!(delays, [0, 0, 0, 250, 500, 750, 1000, 1250, 1500, 1750]);
        assert!(throttle.wait(peer, now).is_some());
        assert!(throttle.wait(address("10.0.0.2"), now).is_none(), "other addresses must not wait");
        assert!(throttle.wait(peer, now + FORGIVEN_IN).is_none());
        throttle.failed(peer, now + FORGIVEN_IN);
        assert!(throttle.wait(peer, now + FORGIVEN_IN).is_some(), "the level must fall by 1 only");
        assert!(throttle.wait(peer, now + 12 * FORGIVEN_IN).is_none());
        assert_eq!(throttle.failed(peer, now + 12 * FORGIVEN_IN), Duration::ZERO);
    }

    #[test]
    fn neighbours_in_ipv6_are_one_address() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for host in 0..10 {
            throttle.failed(address(&format!("2001:db8::{host}")), now);
        }
        assert!(throttle.wait(address("2001:db8::ffff"), now).is_some());
        assert!(throttle.wait(address("2001:db8:0:1::1"), now).is_none());
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let worst = address("9.9.9.9");
        for _ in 0..10 {
            throttle.failed(worst, now);
        }
        for number in 0..2 * ADDRESSES_MAX as u32 {
            throttle.failed(IpAddr::V4(number.into()), now);
        }
        assert!(throttle.levels.len() <= ADDRESSES_MAX);
        assert!(throttle.wait(worst, now).is_some());
    }
}
