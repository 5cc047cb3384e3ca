//! Known and intended differences between the replies of Caskade and Redis. The comparison uses them, and
//! `docs/commands.md` is rendered from them. A difference that no row explains fails the test.

use super::reply::Reply;
use super::wire::Words;

/// A command and the replies of both servers.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// Name and arguments.
    pub words: &'a Words,
    /// The reply of Redis.
    pub theirs: &'a Reply,
    /// The reply of Caskade.
    pub ours: &'a Reply,
}

impl Exchange<'_> {
    fn is(&self, commands: &[&str]) -> bool {
        let word = |index: usize| {
            String::from_utf8_lossy(self.words.get(index).map_or(&[][..], Vec::as_slice)).to_ascii_uppercase()
        };
        let (name, with_subcommand) = (word(0), format!("{}|{}", word(0), word(1)));
        commands.contains(&"*")
            || commands.contains(&name.as_str())
            || commands.contains(&with_subcommand.as_str())
    }
}

/// One known difference.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Commands with this difference; `*` for all.
    pub commands: &'static [&'static str],
    /// The difference.
    pub what: &'static str,
    /// The reason.
    pub why: &'static str,
    fits: fn(&Exchange<'_>) -> bool,
}

impl Difference {
    /// Returns whether this difference explains the exchange.
    pub fn explains(&self, exchange: &Exchange<'_>) -> bool {
        exchange.is(self.commands) && (self.fits)(exchange)
    }
}

/// Caskade counts fewer keys, because Redis counts expired keys until it removes them.
fn counts_fewer(exchange: &Exchange<'_>) -> bool {
    match (exchange.theirs, exchange.ours) {
        (Reply::Integer(theirs), Reply::Integer(ours)) => ours < theirs,
        (Reply::Many(_, theirs), Reply::Many(_, ours)) => ours.iter().all(|key| theirs.contains(key)),
        _ => false,
    }
}

/// The errors are equal up to a byte that is not text.
fn differs_behind_text(exchange: &Exchange<'_>) -> bool {
    let (Some(theirs), Some(ours)) = (exchange.theirs.error(), exchange.ours.error()) else { return false };
    let replaced = char::REPLACEMENT_CHARACTER.to_string().into_bytes();
    let no_text = |rest: &[u8]| rest.starts_with(b"\0") || rest.starts_with(&replaced);
    let end = (0..ours.len()).find(|at| ours.get(*at..).is_some_and(no_text));
    end.is_some_and(|end| theirs.get(..end) == ours.get(..end))
}

/// All known differences.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        commands: &["DEL", "UNLINK", "EXISTS", "TOUCH", "MGET", "MSET"],
        what: "keys of several slots are accepted; Redis in a cluster answers `CROSSSLOT`",
        why: "any node serves all keys; the command is not atomic over several slots, as with Redis's \
              cluster clients",
        fits: |exchange| exchange.theirs.is_error("CROSSSLOT"),
    },
    Difference {
        commands: &["DBSIZE", "CLUSTER|COUNTKEYSINSLOT", "CLUSTER|GETKEYSINSLOT"],
        what: "expired keys are not counted",
        why: "Redis counts them until it removes them",
        fits: counts_fewer,
    },
    Difference {
        commands: &["SCAN"],
        what: "cursors, and the keys of a page",
        why: "each server has its own order; the test compares whole walks",
        fits: |_| false,
    },
    Difference {
        commands: &["COMMAND|GETKEYSANDFLAGS"],
        what: "the flags of keys say only whether keys are read, written or removed",
        why: "clients use only the keys",
        fits: |exchange| exchange.theirs.same_type(exchange.ours),
    },
    Difference {
        commands: &["COMMAND|GETKEYS", "COMMAND|GETKEYSANDFLAGS"],
        what: "a command without arguments is accepted",
        why: "as Redis 7.2 does; Debian's 7.0 does not",
        fits: |exchange| exchange.theirs.is_error("ERR wrong number of arguments for 'command|getkeys"),
    },
    Difference {
        commands: &["CONFIG|GET"],
        what: "returns the node's own settings and few of Redis's",
        why: "the settings that tools read exist, with the value that describes the node's behaviour",
        fits: |exchange| exchange.theirs.same_type(exchange.ours),
    },
    Difference {
        commands: &["OBJECT|IDLETIME"],
        what: "an error if the key exists",
        why: "no key is ever evicted, so that its use is not recorded",
        fits: |exchange| exchange.ours.error().is_some(),
    },
    Difference {
        commands: &["OBJECT|ENCODING"],
        what: "`embstr` or `int` also for a modified value, which Redis stores as `raw` or `embstr`",
        why: "values are bytes on disk; the answer is the encoding that Redis would use after SET",
        fits: |exchange| matches!(exchange.theirs, Reply::Bulk(text) if text == b"raw" || text == b"embstr"),
    },
    Difference {
        commands: &["BITCOUNT", "BITPOS", "GETEX"],
        what: "wrong arguments are rejected also if the key is absent",
        why: "the node of the client checks arguments before the primary reads the key",
        fits: |exchange| exchange.ours.error().is_some() && exchange.theirs.error().is_none(),
    },
    Difference {
        commands: &["BITFIELD", "BITFIELD_RO"],
        what: "an offset that does not fit into 64 bits is rejected",
        why: "Redis computes with the truncated offset",
        fits: |exchange| exchange.ours.is_error("ERR bit offset") && exchange.theirs.error().is_none(),
    },
    Difference {
        commands: &["RESTORE"],
        what: "an invalid dump is rejected before other errors",
        why: "the node of the client checks arguments before the primary reads the key",
        fits: |exchange| exchange.theirs.error().is_some() && exchange.ours.error().is_some(),
    },
    Difference {
        commands: &["SORT", "SORT_RO"],
        what: "STORE is rejected",
        why: "lists, sets and sorted sets do not exist, so that nothing can be sorted",
        fits: |exchange| exchange.ours.is_error("ERR STORE of SORT"),
    },
    Difference {
        commands: &["*"],
        what: "errors quote the client's bytes completely and as text",
        why: "Redis quotes up to the first zero byte, and copies bytes that are not text",
        fits: differs_behind_text,
    },
    Difference {
        commands: &["AUTH", "HELLO", "FLUSHALL", "FLUSHDB"],
        what: "rejected within a transaction, which then fails",
        why: "all commands of a transaction run as one user; FLUSHALL and FLUSHDB concern keys of all slots",
        fits: |exchange| exchange.ours.is_error("ERR Command not allowed inside a transaction"),
    },
    Difference {
        commands: &["EXEC"],
        what: "watched keys must be of the same slot as the commands",
        why: "watched and written keys must be on one node, so that they can be compared and written \
              atomically",
        fits: |exchange| exchange.ours.is_error("CROSSSLOT"),
    },
    Difference {
        commands: &["COMMAND|GETKEYS", "COMMAND|GETKEYSANDFLAGS"],
        what: "the error for a command whose arguments name no key has another text",
        why: "both servers answer an error",
        fits: |exchange| exchange.theirs.error().is_some(),
    },
    Difference {
        commands: &["CLIENT|TRACKING"],
        what: "`ON` is rejected (the test does not send it: Redis would then send messages out of order)",
        why: "a node does not notify clients of writes on other nodes",
        fits: |_| false,
    },
    Difference {
        commands: &["SELECT", "CONFIG|SET", "CONFIG|REWRITE", "DEBUG"],
        what: "a change that is impossible is rejected with another error text",
        why: "nodes have one database, do not write their settings file, and have other settings",
        fits: |_| false,
    },
];
