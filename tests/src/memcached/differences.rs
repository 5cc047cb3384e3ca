//! What is answered in another way than by memcached 1.6, each with commands that show it.

/// A known difference.
#[derive(Debug)]
pub struct Difference {
    /// What differs.
    pub about: &'static str,
    /// Commands; the answers to the last are compared. `{cas}` is the value the last `gets` told, `{700K}` and `{2M}` are
    /// so many bytes. None where it takes more than two servers and a command to show it.
    pub send: &'static [&'static str],
    /// How the answer begins here.
    pub caskade: &'static str,
    /// How memcached's begins.
    pub memcached: &'static str,
    /// Why it is so.
    pub why: &'static str,
}

const SET_A: &str = "set a 0 100 1\r\n5\r\n";
const MARKS: &str = "Records have no room for a stale mark or a win token. Told as if there were none, two clients could \
                     both recache, or none: so it is refused.";
const ACCESS: &str = "Reads write nothing, so the last access of a key is not known.";

/// All of them.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        about: "`touch`, `gat` and `mg` with T change the cas value",
        send: &[SET_A, "gets a\r\n", "touch a 0\r\n", "cas a 0 0 1 {cas}\r\n6\r\n"],
        caskade: "EXISTS",
        memcached: "STORED",
        why: "The cas value is the version of the record, and an expiry is kept in the record.",
    },
    Difference {
        about: "a value that is too large leaves the one before it",
        send: &["set a 0 0 3\r\nold\r\n", "set a 0 0 2097152\r\n{2M}\r\n", "get a\r\n"],
        caskade: "VALUE a 0 3",
        memcached: "END",
        why: "A cache may forget. What a store has acknowledged is not removed by a command that it refuses.",
    },
    Difference {
        about: "`append` and `prepend` to more than the largest value",
        send: &["set a 0 0 716800\r\n{700K}\r\n", "append a 0 0 716800\r\n{700K}\r\n"],
        caskade: "SERVER_ERROR object too large for cache",
        memcached: "NOT_STORED",
        why: "NOT_STORED says that the key is absent, which it is not.",
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
        why: "Counting and setting the expiry are two operations here, and would not be one step.",
    },
    Difference {
        about: "`ma` that makes an absent key (N) on a cas value (C)",
        send: &["ma none N0 C5\r\n"],
        caskade: "NF",
        memcached: "HD",
        why: "A cas value names a record that must be there; memcached looks at it only if one is.",
    },
    Difference {
        about: "`ma` on an empty value with another cas value",
        send: &["set a 0 0 0\r\n\r\n", "ma a C5\r\n"],
        caskade: "EX",
        memcached: "CLIENT_ERROR cannot increment or decrement non-numeric value",
        why: "The version is compared before the value is looked at, whatever it is.",
    },
    Difference {
        about: "quiet `ma` that makes a key",
        send: &["ma none N0 q\r\n"],
        caskade: "",
        memcached: "HD",
        why: "protocol.txt: q leaves out HD.",
    },
    Difference {
        about: "`ma` with an opaque that is too long",
        send: &[SET_A, "ma a O123456789012345678901234567890123\r\n", "get a\r\n"],
        caskade: "VALUE a 0 1\r\n5",
        memcached: "VALUE a 0 1\r\n6",
        why: "What is refused is not done.",
    },
    Difference {
        about: "`mg` with t before T, `ma` with t before N",
        send: &[SET_A, "mg a t T5000\r\n"],
        caskade: "HD t5000",
        memcached: "HD t",
        why: "The time left is told as it is after the command, on whichever side of T it is asked for.",
    },
    Difference {
        about: "flags of more than 32 bits",
        send: &["set a 4294967296 0 1\r\nx\r\n"],
        caskade: "CLIENT_ERROR bad command line format",
        memcached: "STORED",
        why: "memcached cuts them to 32 bits; later versions of it refuse them, too.",
    },
    Difference {
        about: "exptimes of more than 31 bits",
        send: &["set a 0 4294972296 1\r\nx\r\n", "mg a t\r\n"],
        caskade: "HD t",
        memcached: "HD t",
        why: "memcached cuts them to 32 bits; here they are times after the year 2038.",
    },
    Difference {
        about: "control characters in keys",
        send: &["get a\u{1}\r\n"],
        caskade: "CLIENT_ERROR bad command line format",
        memcached: "END",
        why: "protocol.txt does not allow them. Keys of any bytes travel in base64 (flag b), or as RESP.",
    },
    Difference {
        about: "keys in base64 that no encoder would write",
        send: &[SET_A, "mg Y-Q== b\r\n"],
        caskade: "CLIENT_ERROR error decoding key",
        memcached: "HD",
        why: "memcached leaves out what is no letter of base64: two texts would name one key.",
    },
    Difference {
        about: "flag k for a key that was stored in base64 and is asked for without, or the other way round",
        send: &["ms YQ== 1 b\r\nx\r\n", "mg a k\r\n"],
        caskade: "HD ka",
        memcached: "HD kYQ== b",
        why: "The key is told as it was asked for; how it travelled when it was stored is not kept.",
    },
    Difference {
        about: "what `me` tells",
        send: &[SET_A, "me a\r\n"],
        caskade: "ME a exp=100 cas=",
        memcached: "ME a exp=",
        why: "exp is the time left (memcached 1.6.18 tells it as a negative number); what is not known is left out: la, \
              fetch and cls.",
    },
    Difference {
        about: "`version`",
        send: &["version\r\n"],
        caskade: "VERSION 1.6.18-caskade-",
        memcached: "VERSION 1.6.",
        why: "The memcached whose protocol is spoken, and who speaks it.",
    },
    Difference {
        about: "`stats reset`, `stats detail`, `stats cachedump`, `stats conns`",
        send: &["stats reset\r\n"],
        caskade: "CLIENT_ERROR stats reset is not supported",
        memcached: "RESET",
        why: "The figures are shared with the other front ends, and nothing is counted by prefix.",
    },
    Difference {
        about: "commands on memcached's memory: `cache_memlimit`, `slabs`, `lru`, `lru_crawler`, `extstore`, `watch`",
        send: &["cache_memlimit 64\r\n"],
        caskade: "ERROR",
        memcached: "OK",
        why: "There are no slabs and no LRU: nothing is evicted.",
    },
    Difference {
        about: "`incr` and `decr` to fewer digits",
        send: &[],
        caskade: "the value is filled up with blanks",
        memcached: "not while an answer that has the value is not sent yet",
        why: "protocol.txt: the value is filled up.",
    },
    Difference {
        about: "`flush_all`",
        send: &[],
        caskade: "removes keys one by one: others may see some gone and others not yet. With a delay it is done by the node \
                  that was asked, if it still runs then",
        memcached: "hides all of them at one moment",
        why: "Keys are in many partitions on many nodes.",
    },
    Difference {
        about: "lines without end",
        send: &[],
        caskade: "`CLIENT_ERROR line too long`, and the connection closes: from 8 KiB on, from 1 MiB on for get, gets, gat \
                  and gats",
        memcached: "the connection closes: from 2 KiB on, never for get and gets",
        why: "Nothing is read without a bound.",
    },
    Difference {
        about: "failures of the cluster",
        send: &[],
        caskade: "`SERVER_ERROR` and the reason; for a write whether it was not done, or its outcome is not known",
        memcached: "a cache has none",
        why: "What cannot be read is no miss, and what may have been written is not told as refused.",
    },
];
