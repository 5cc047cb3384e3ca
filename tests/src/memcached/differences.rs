//! Known differences from memcached 1.6, each with commands that show it.

/// A known difference.
#[derive(Debug)]
pub struct Difference {
    /// The difference.
    pub about: &'static str,
    /// Commands; the test compares the answers to the last one. `{cas}` is the value from the last `gets`,
    /// `{700K}` and `{2M}` are values of this size. Empty if commands alone cannot show the difference.
    pub send: &'static [&'static str],
    /// Beginning of Caskade's answer.
    pub caskade: &'static str,
    /// Beginning of memcached's answer.
    pub memcached: &'static str,
    /// The reason.
    pub why: &'static str,
}

const SET_A: &str = "set a 0 100 1\r\n5\r\n";
const MARKS: &str = "Records cannot store a stale mark or a win token. Without them two clients could both recache, \
                     or none: the node rejects the flag.";
const ACCESS: &str = "Reads write nothing, so that the last access of a key is unknown.";

/// All known differences.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        about: "`touch`, `gat` and `mg` with T change the cas value",
        send: &[SET_A, "gets a\r\n", "touch a 0\r\n", "cas a 0 0 1 {cas}\r\n6\r\n"],
        caskade: "EXISTS",
        memcached: "STORED",
        why: "The cas value is the version of the record, and an expiry is kept in the record.",
    },
    Difference {
        about: "a value that is too large leaves the previous value",
        send: &["set a 0 0 3\r\nold\r\n", "set a 0 0 2097152\r\n{2M}\r\n", "get a\r\n"],
        caskade: "VALUE a 0 3",
        memcached: "END",
        why: "A cache may forget. A store must not remove an acknowledged value because of a command that \
              it rejects.",
    },
    Difference {
        about: "`append` and `prepend` to more than the largest value",
        send: &["set a 0 0 716800\r\n{700K}\r\n", "append a 0 0 716800\r\n{700K}\r\n"],
        caskade: "SERVER_ERROR object too large for cache",
        memcached: "NOT_STORED",
        why: "NOT_STORED means that the key is absent, but it exists.",
    },
    Difference {
        about: "flags I (invalidate) of `md` and `ms`",
        send: &[SET_A, "md a I\r\n"],
        caskade: "CLIENT_ERROR flags I, N of mg and R are not supported",
        memcached: "HD",
        why: MARKS,
    },
    Difference {
        about: "flag N (vivify) of `mg`",
        send: &["mg none N30 v\r\n"],
        caskade: "CLIENT_ERROR flags I, N of mg and R are not supported",
        memcached: "VA 0 W",
        why: MARKS,
    },
    Difference {
        about: "flag R (recache) of `mg`",
        send: &[SET_A, "mg a R30\r\n"],
        caskade: "CLIENT_ERROR flags I, N of mg and R are not supported",
        memcached: "HD",
        why: MARKS,
    },
    Difference {
        about: "flags h and l (hit before, last access) of `mg`",
        send: &[SET_A, "mg a h\r\n"],
        caskade: "CLIENT_ERROR flags h and l are not supported",
        memcached: "HD h0",
        why: ACCESS,
    },
    Difference {
        about: "flag T (time to live) of `ma`",
        send: &[SET_A, "ma a T100\r\n"],
        caskade: "CLIENT_ERROR flag T of ma is not supported",
        memcached: "HD",
        why: "Counting and setting the expiry are two operations in Caskade and would not be atomic.",
    },
    Difference {
        about: "`ma` that creates an absent key (N) with a cas value (C)",
        send: &["ma none N0 C5\r\n"],
        caskade: "NF",
        memcached: "HD",
        why: "A cas value names a record that must exist; memcached compares it only if a record exists.",
    },
    Difference {
        about: "`ma` on an empty value with another cas value",
        send: &["set a 0 0 0\r\n\r\n", "ma a C5\r\n"],
        caskade: "EX",
        memcached: "CLIENT_ERROR cannot increment or decrement non-numeric value",
        why: "The node compares the version before it reads the value.",
    },
    Difference {
        about: "quiet `ma` that creates a key",
        send: &["ma none N0 q\r\n"],
        caskade: "",
        memcached: "HD",
        why: "protocol.txt: q suppresses HD.",
    },
    Difference {
        about: "`ma` with an opaque that is too long",
        send: &[SET_A, "ma a O123456789012345678901234567890123\r\n", "get a\r\n"],
        caskade: "VALUE a 0 1\r\n5",
        memcached: "VALUE a 0 1\r\n6",
        why: "A rejected command has no effect.",
    },
    Difference {
        about: "`mg` with t before T, `ma` with t before N",
        send: &[SET_A, "mg a t T5000\r\n"],
        caskade: "HD t5000",
        memcached: "HD t",
        why: "The time left in the answer is that after the command, whether t stands before or after T.",
    },
    Difference {
        about: "flags of more than 32 bits",
        send: &["set a 4294967296 0 1\r\nx\r\n"],
        caskade: "CLIENT_ERROR bad command line format",
        memcached: "STORED",
        why: "memcached cuts them to 32 bits; its later versions reject them, too.",
    },
    Difference {
        about: "exptimes of more than 31 bits",
        send: &["set a 0 4294972296 1\r\nx\r\n", "mg a t\r\n"],
        caskade: "HD t",
        memcached: "HD t",
        why: "memcached cuts them to 32 bits; Caskade accepts times after the year 2038.",
    },
    Difference {
        about: "control characters in keys",
        send: &["get a\u{1}\r\n"],
        caskade: "CLIENT_ERROR bad command line format",
        memcached: "END",
        why: "protocol.txt does not allow them. Keys of arbitrary bytes can be sent in base64 (flag b) or \
              by RESP.",
    },
    Difference {
        about: "keys in base64 that no encoder writes",
        send: &[SET_A, "mg Y-Q== b\r\n"],
        caskade: "CLIENT_ERROR error decoding key",
        memcached: "HD",
        why: "memcached skips characters that are not base64: two texts would name one key.",
    },
    Difference {
        about: "flag k for a key that was stored with base64 and is read without, or the reverse",
        send: &["ms YQ== 1 b\r\nx\r\n", "mg a k\r\n"],
        caskade: "HD ka",
        memcached: "HD kYQ== b",
        why: "The answer has the form of the request; the form of the write is not stored.",
    },
    Difference {
        about: "the answer to `me`",
        send: &[SET_A, "me a\r\n"],
        caskade: "ME a exp=100 cas=",
        memcached: "ME a exp=",
        why: "exp is the time left (memcached 1.6.18 returns it as a negative number); la, fetch and cls are unknown \
              and omitted.",
    },
    Difference {
        about: "`version`",
        send: &["version\r\n"],
        caskade: "VERSION 1.6.18-caskade-",
        memcached: "VERSION 1.6.",
        why: "The memcached version whose protocol the node implements, and the version of the node.",
    },
    Difference {
        about: "`stats reset`, `stats detail`, `stats cachedump`, `stats conns`",
        send: &["stats reset\r\n"],
        caskade: "CLIENT_ERROR stats reset is not supported",
        memcached: "RESET",
        why: "The counters are shared with the other front ends, and the node has no counters by prefix.",
    },
    Difference {
        about: "commands on memcached's memory: `cache_memlimit`, `slabs`, `lru`, `lru_crawler`, \
                `extstore`, `watch`",
        send: &["cache_memlimit 64\r\n"],
        caskade: "ERROR",
        memcached: "OK",
        why: "Caskade has no slabs and no LRU: nothing is evicted.",
    },
    Difference {
        about: "`incr` and `decr` to fewer digits",
        send: &[],
        caskade: "the value is padded with blanks",
        memcached: "not while an answer with the value is unsent",
        why: "protocol.txt: the value is padded.",
    },
    Difference {
        about: "`flush_all`",
        send: &[],
        caskade: "removes keys one by one: other clients may see a part of them removed. With a delay the node that was \
                  asked executes it, if it still runs then",
        memcached: "hides all keys at one moment",
        why: "Keys are in many partitions on many nodes.",
    },
    Difference {
        about: "lines without end",
        send: &[],
        caskade: "`CLIENT_ERROR line too long`, and the node closes the connection: from 8 KiB on, from 1 MiB on for get, \
                  gets, gat and gats",
        memcached: "the connection closes: from 2 KiB on, never for get and gets",
        why: "Every input is bounded.",
    },
    Difference {
        about: "failures of the cluster",
        send: &[],
        caskade: "`SERVER_ERROR` and the reason; for a write, whether it was not executed or its outcome is \
                  unknown",
        memcached: "a cache has none",
        why: "An unreadable key is not a miss, and a write that may have been executed is not reported as \
              rejected.",
    },
];
