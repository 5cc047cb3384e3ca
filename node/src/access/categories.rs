//! Redis's categories of commands, as a set of bits.

/// One bit for each category, in the order of [`NAMES`].
pub(super) mod bits {
    pub(in crate::access) const KEY: u32 = 1 << 0;
    pub(in crate::access) const READ: u32 = 1 << 1;
    pub(in crate::access) const WRITE: u32 = 1 << 2;
    /// Sets, sorted sets and lists: the types that SORT sorts.
    pub(in crate::access) const TYPES: u32 = 0b111 << 3;
    pub(in crate::access) const STR: u32 = 1 << 7;
    pub(in crate::access) const BITS: u32 = 1 << 8;
    pub(in crate::access) const ADMIN: u32 = 1 << 13;
    pub(in crate::access) const FAST: u32 = 1 << 14;
    pub(in crate::access) const SLOW: u32 = 1 << 15;
    pub(in crate::access) const DANGER: u32 = 1 << 17;
    pub(in crate::access) const CONN: u32 = 1 << 18;
    pub(in crate::access) const TX: u32 = 1 << 19;
}

/// Names of the categories, in the order of ACL CAT. Categories of unsupported data types have no commands,
/// but rules may name them.
pub const NAMES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// A set of categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Categories(pub(super) u32);

impl Categories {
    /// Returns the set with only the category of this name; `None` if it is unknown.
    pub fn named(name: &str) -> Option<Self> {
        let place = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        Some(Self(1 << place))
    }

    /// Returns whether the two sets have a category in common.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Returns the names of the categories in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES
            .into_iter()
            .enumerate()
            .filter(move |(place, _)| self.0 & (1 << place) != 0)
            .map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_has_the_place_of_its_name() {
        let named = [
            (bits::KEY, "keyspace"),
            (bits::READ, "read"),
            (bits::WRITE, "write"),
            (bits::STR, "string"),
            (bits::BITS, "bitmap"),
            (bits::ADMIN, "admin"),
            (bits::FAST, "fast"),
            (bits::SLOW, "slow"),
            (bits::DANGER, "dangerous"),
            (bits::CONN, "connection"),
            (bits::TX, "transaction"),
        ];
        for (bit, name) in named {
            assert_eq!(Categories(bit).names().collect::<Vec<_>>(), [name]);
            assert_eq!(Categories::named(name), Some(Categories(bit)));
        }
        assert_eq!(Categories::named("nothing"), None);
    }
}
