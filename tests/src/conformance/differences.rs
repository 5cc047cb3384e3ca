//! Where Caskade answers something else than Redis, known and meant: used by the comparison, and rendered into
//! `docs/commands.md`. What is in no row here is a failure of the test.

use super::reply::Reply;
use super::wire::Words;

/// A command and what both servers answered.
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
    /// The commands it is of; `*` for all.
    pub commands: &'static [&'static str],
    /// What differs.
    pub what: &'static str,
    /// Why it is right so.
    pub why: &'static str,
    fits: fn(&Exchange<'_>) -> bool,
}

impl Difference {
    /// Whether this is what makes the replies differ.
    pub fn explains(&self, exchange: &Exchange<'_>) -> bool {
        exchange.is(self.commands) && (self.fits)(exchange)
    }
}

/// Redis counts keys that are past their time until it comes across them.
fn counts_fewer(exchange: &Exchange<'_>) -> bool {
    match (exchange.theirs, exchange.ours) {
        (Reply::Integer(theirs), Reply::Integer(ours)) => ours < theirs,
        (Reply::Many(_, theirs), Reply::Many(_, ours)) => ours.iter().all(|key| theirs.contains(key)),
        _ => false,
    }
}

/// The errors are the same up to a byte that is no text.
fn differs_behind_text(exchange: &Exchange<'_>) -> bool {
    let (Some(theirs), Some(ours)) = (exchange.theirs.error(), exchange.ours.error()) else { return false };
    let replaced = char::REPLACEMENT_CHARACTER.to_string().into_bytes();
    let no_text = |rest: &[u8]| rest.starts_with(b"\0") || rest.starts_with(&replaced);
    let end = (0..ours.len()).find(|at| ours.get(*at..).is_some_and(no_text));
    end.is_some_and(|end| theirs.get(..end) == ours.get(..end))
}

/// Every known difference.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        commands: &["DEL", "UNLINK", "EXISTS", "TOUCH", "MGET", "MSET"],
        what: "keys of several slots are taken, where Redis in a cluster answers `CROSSSLOT`",
        why: "any node serves all keys; not atomic over several slots, nor are these of Redis's cluster clients",
        fits: |exchange| exchange.theirs.is_error("CROSSSLOT"),
    },
    Difference {
        commands: &["DBSIZE", "CLUSTER|COUNTKEYSINSLOT", "CLUSTER|GETKEYSINSLOT"],
        what: "keys that are past their time are not counted",
        why: "Redis counts them until it comes across them, sooner or later",
        fits: counts_fewer,
    },
    Difference {
        commands: &["SCAN"],
        what: "cursors, and which keys a page has",
        why: "each server walks in an order of its own; whole walks are compared",
        fits: |_| false,
    },
    Difference {
        commands: &["COMMAND|GETKEYSANDFLAGS"],
        what: "the flags of keys: read, written or removed, and no finer",
        why: "clients use the keys; nobody asks for the rest",
        fits: |exchange| exchange.theirs.same_type(exchange.ours),
    },
    Difference {
        commands: &["COMMAND|GETKEYS", "COMMAND|GETKEYSANDFLAGS"],
        what: "a command without arguments is looked at, too",
        why: "as Redis 7.2 does; Debian's 7.0 does not",
        fits: |exchange| exchange.theirs.is_error("ERR wrong number of arguments for 'command|getkeys"),
    },
    Difference {
        commands: &["CONFIG|GET"],
        what: "there are the node's own settings, and few of Redis's",
        why: "those that tools ask for are there, with what they come to",
        fits: |exchange| exchange.theirs.same_type(exchange.ours),
    },
    Difference {
        commands: &["OBJECT|IDLETIME"],
        what: "an error where the key is there",
        why: "no key is ever evicted, so that nothing counts how it is used",
        fits: |exchange| exchange.ours.error().is_some(),
    },
    Difference {
        commands: &["OBJECT|ENCODING"],
        what: "`embstr` or `int` also of a value that was made by changing another one, which Redis keeps otherwise",
        why: "values are bytes on disk; it is told how Redis would keep them if they were set",
        fits: |exchange| matches!(exchange.theirs, Reply::Bulk(text) if text == b"raw" || text == b"embstr"),
    },
    Difference {
        commands: &["BITCOUNT", "BITPOS", "GETEX"],
        what: "arguments that are wrong are refused also if the key is absent",
        why: "arguments are checked where the client is, before the key is looked at where that is",
        fits: |exchange| exchange.ours.error().is_some() && exchange.theirs.error().is_none(),
    },
    Difference {
        commands: &["BITFIELD", "BITFIELD_RO"],
        what: "an offset that does not fit 64 bits is refused",
        why: "Redis computes with what is left of it",
        fits: |exchange| exchange.ours.is_error("ERR bit offset") && exchange.theirs.error().is_none(),
    },
    Difference {
        commands: &["RESTORE"],
        what: "a dump that is no dump is refused first",
        why: "arguments are checked where the client is, before the key is looked at where that is",
        fits: |exchange| exchange.theirs.error().is_some() && exchange.ours.error().is_some(),
    },
    Difference {
        commands: &["SORT", "SORT_RO"],
        what: "STORE is refused",
        why: "there are no lists, sets or sorted sets: nothing can be sorted",
        fits: |exchange| exchange.ours.is_error("ERR STORE of SORT"),
    },
    Difference {
        commands: &["*"],
        what: "what a client sent is told whole and as text in errors",
        why: "Redis tells it up to its first zero byte, and bytes that are no text as they are",
        fits: differs_behind_text,
    },
    Difference {
        commands: &["AUTH", "HELLO", "FLUSHALL", "FLUSHDB"],
        what: "refused within a transaction, which is spoiled by it",
        why: "each command of a transaction is checked as that of one user; and all keys are not of one slot",
        fits: |exchange| exchange.ours.is_error("ERR Command not allowed inside a transaction"),
    },
    Difference {
        commands: &["EXEC"],
        what: "watched keys must be of the slot of the commands, too",
        why: "what is watched and what is written must be on one node to be compared and written as one",
        fits: |exchange| exchange.ours.is_error("CROSSSLOT"),
    },
    Difference {
        commands: &["COMMAND|GETKEYS", "COMMAND|GETKEYSANDFLAGS"],
        what: "a command whose arguments name no key is refused in other words",
        why: "an error either way",
        fits: |exchange| exchange.theirs.error().is_some(),
    },
    Difference {
        commands: &["CLIENT|TRACKING"],
        what: "`ON` is refused (never sent: Redis would go on to send what nobody asked for)",
        why: "a node does not tell clients of writes that other nodes take",
        fits: |_| false,
    },
    Difference {
        commands: &["SELECT", "CONFIG|SET", "CONFIG|REWRITE", "DEBUG"],
        what: "what cannot be changed is refused with a reason of its own",
        why: "another database, another setting or a settings file written by the node do not exist",
        fits: |_| false,
    },
];
