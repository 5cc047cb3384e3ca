//! The form of every command of Redis that Caskade could have, and the rule that compares its replies.

use super::grammar::Piece::{self, *};

/// Rule that compares two replies. Errors are always compared byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Byte for byte.
    Exact,
    /// Byte for byte, except numbers of time left, which may differ slightly.
    Near,
    /// Arrays without an order: sorted, then byte for byte.
    Unordered,
    /// A page of SCAN: its keys are specific to the server; whole walks are compared after each sequence.
    Page,
    /// Whether the reply is null; the value itself is random or specific to the server.
    Presence,
    /// The type of the reply; its content is specific to the server.
    Type,
    /// A map: equal names, and values that are equal or, for some names, of equal type.
    Names,
}

/// One command or subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Name; `|` before a subcommand.
    pub name: &'static str,
    /// Arguments.
    pub form: &'static [Piece],
    /// Relative frequency in random sequences.
    pub weight: u32,
    /// Rule for its replies.
    pub rule: Rule,
}

const fn f(name: &'static str, weight: u32, rule: Rule, form: &'static [Piece]) -> Form {
    Form { name, form, weight, rule }
}

use Rule::{Exact, Names, Near, Page, Presence, Type, Unordered};

const EXPIRIES: Piece = Options(&[
    &[W("EX"), Seconds],
    &[W("PX"), Millis],
    &[W("EXAT"), UnixSeconds],
    &[W("PXAT"), UnixMillis],
    &[W("PERSIST")],
]);
const SET: &[Piece] = &[
    Key,
    Value,
    Options(&[
        &[W("NX")],
        &[W("XX")],
        &[W("GET")],
        &[W("KEEPTTL")],
        &[W("EX"), Seconds],
        &[W("PX"), Millis],
        &[W("EXAT"), UnixSeconds],
        &[W("PXAT"), UnixMillis],
    ]),
];
const LIMITS: Piece = Options(&[&[W("NX")], &[W("XX")], &[W("GT")], &[W("LT")]]);
const UNITS: Piece = Maybe(&[One(&[&[W("BYTE")], &[W("BIT")]])]);
const FIELDS: &[Piece] = &[
    Key,
    Repeat(&[One(&[
        &[W("GET"), BitType, FieldOffset],
        &[W("SET"), BitType, FieldOffset, Int],
        &[W("INCRBY"), BitType, FieldOffset, Int],
        &[W("OVERFLOW"), One(&[&[W("WRAP")], &[W("SAT")], &[W("FAIL")], &[Text]])],
    ])]),
];
const SORT: &[Piece] = &[
    Key,
    Options(&[
        &[W("ALPHA")],
        &[W("ASC")],
        &[W("DESC")],
        &[W("LIMIT"), Small, Small],
        &[W("BY"), W("nosort")],
    ]),
];

/// All forms. The generator uses those that both servers have.
#[rustfmt::skip]
pub const FORMS: &[Form] = &[
    // Strings.
    f("APPEND", 4, Exact, &[Key, Value]),
    f("DECR", 3, Exact, &[Key]),
    f("DECRBY", 3, Exact, &[Key, Int]),
    f("GET", 10, Exact, &[Key]),
    f("GETDEL", 3, Exact, &[Key]),
    f("GETEX", 4, Exact, &[Key, EXPIRIES]),
    f("GETRANGE", 4, Exact, &[Key, Place, Place]),
    f("GETSET", 2, Exact, &[Key, Value]),
    f("INCR", 3, Exact, &[Key]),
    f("INCRBY", 3, Exact, &[Key, Int]),
    f("INCRBYFLOAT", 5, Exact, &[Key, Float]),
    f("LCS", 4, Exact, &[Key, Key, Options(&[&[W("LEN")], &[W("IDX")], &[W("MINMATCHLEN"), Small], &[W("WITHMATCHLEN")]])]),
    f("MGET", 4, Exact, &[Keys]),
    f("MSET", 4, Exact, &[Pairs]),
    f("MSETNX", 3, Exact, &[Pairs]),
    f("PSETEX", 2, Exact, &[Key, Millis, Value]),
    f("SET", 16, Exact, SET),
    f("SETEX", 2, Exact, &[Key, Seconds, Value]),
    f("SETNX", 2, Exact, &[Key, Value]),
    f("SETRANGE", 4, Exact, &[Key, Offset, Value]),
    f("STRLEN", 3, Exact, &[Key]),
    f("SUBSTR", 2, Exact, &[Key, Place, Place]),
    // Bits.
    f("BITCOUNT", 4, Exact, &[Key, Maybe(&[Place, Place, UNITS])]),
    f("BITFIELD", 6, Exact, FIELDS),
    f("BITFIELD_RO", 2, Exact, FIELDS),
    f("BITOP", 4, Exact, &[One(&[&[W("AND")], &[W("OR")], &[W("XOR")], &[W("NOT")]]), Key, Keys]),
    f("BITPOS", 4, Exact, &[Key, Bit, Maybe(&[Place, Maybe(&[Place, UNITS])])]),
    f("GETBIT", 3, Exact, &[Key, BitOffset]),
    f("SETBIT", 4, Exact, &[Key, BitOffset, Bit]),
    // Keys.
    f("COPY", 4, Exact, &[Key, Key, Options(&[&[W("REPLACE")], &[W("DB"), Small]])]),
    f("DEL", 4, Exact, &[Keys]),
    f("DUMP", 1, Presence, &[Key]),
    f("EXISTS", 3, Exact, &[Keys]),
    f("EXPIRE", 4, Exact, &[Key, Seconds, LIMITS]),
    f("EXPIREAT", 3, Exact, &[Key, UnixSeconds, LIMITS]),
    f("EXPIRETIME", 2, Near, &[Key]),
    f("KEYS", 1, Unordered, &[Pattern]),
    f("MOVE", 1, Exact, &[Key, Small]),
    f("OBJECT|ENCODING", 2, Exact, &[Key]),
    f("OBJECT|FREQ", 1, Exact, &[Key]),
    f("OBJECT|HELP", 1, Type, &[]),
    f("OBJECT|IDLETIME", 1, Near, &[Key]),
    f("OBJECT|REFCOUNT", 1, Presence, &[Key]),
    f("PERSIST", 3, Exact, &[Key]),
    f("PEXPIRE", 3, Exact, &[Key, Millis, LIMITS]),
    f("PEXPIREAT", 3, Exact, &[Key, UnixMillis, LIMITS]),
    f("PEXPIRETIME", 2, Near, &[Key]),
    f("PTTL", 2, Near, &[Key]),
    f("RANDOMKEY", 1, Presence, &[]),
    f("RENAME", 4, Exact, &[Key, Key]),
    f("RENAMENX", 4, Exact, &[Key, Key]),
    f("RESTORE", 1, Exact, &[Key, Int, Text, Options(&[&[W("REPLACE")], &[W("ABSTTL")], &[W("IDLETIME"), Int], &[W("FREQ"), Int]])]),
    f("SCAN", 2, Page, &[W("0"), W("COUNT"), W("1000"), Options(&[&[W("MATCH"), Pattern], &[W("TYPE"), One(&[&[W("string")], &[W("hash")], &[Text]])]])]),
    f("SORT", 1, Exact, SORT),
    f("SORT_RO", 1, Exact, SORT),
    f("TOUCH", 2, Exact, &[Keys]),
    f("TTL", 2, Near, &[Key]),
    f("TYPE", 2, Exact, &[Key]),
    f("UNLINK", 2, Exact, &[Keys]),
    f("WAIT", 1, Type, &[One(&[&[W("0")], &[Text]]), W("1")]),
    // Transactions; `sequence` also draws whole transactions.
    f("DISCARD", 1, Exact, &[]),
    f("EXEC", 1, Exact, &[]),
    f("MULTI", 1, Exact, &[]),
    f("UNWATCH", 1, Exact, &[]),
    // Connections.
    f("CLIENT", 1, Exact, &[Text, Maybe(&[Text])]),
    f("CLIENT|CACHING", 1, Exact, &[One(&[&[W("YES")], &[W("NO")], &[Text]])]),
    f("CLIENT|GETNAME", 2, Exact, &[]),
    f("CLIENT|GETREDIR", 1, Exact, &[]),
    f("CLIENT|HELP", 1, Type, &[]),
    f("CLIENT|ID", 1, Type, &[]),
    f("CLIENT|INFO", 1, Type, &[]),
    f("CLIENT|KILL", 1, Exact, &[One(&[&[W("ID"), One(&[&[W("999999999")], &[W("0")], &[W("-1")], &[W("abc")]])], &[W("ADDR"), W("1.2.3.4:5")], &[W("USER"), Text], &[W("TYPE"), One(&[&[W("pubsub")], &[W("master")], &[Text]])], &[W("1.2.3.4:5")], &[Text, Text], &[W("ID"), W("99999"), W("SKIPME"), One(&[&[W("yes")], &[Text]])]])]),
    f("CLIENT|LIST", 1, Type, &[Maybe(&[One(&[&[W("TYPE"), One(&[&[W("normal")], &[W("pubsub")], &[Text]])], &[W("ID"), Repeat(&[Int])], &[Text]])])]),
    f("CLIENT|NO-EVICT", 1, Exact, &[One(&[&[W("ON")], &[W("OFF")], &[Text]])]),
    f("CLIENT|NO-TOUCH", 1, Exact, &[One(&[&[W("ON")], &[W("OFF")], &[Text]])]),
    f("CLIENT|PAUSE", 1, Exact, &[One(&[&[W("0")], &[W("1")], &[W("-1")], &[W("abc")]]), Maybe(&[One(&[&[W("ALL")], &[W("WRITE")], &[Text]])])]),
    f("CLIENT|REPLY", 1, Exact, &[One(&[&[W("ON")], &[Text]])]),
    f("CLIENT|SETINFO", 1, Exact, &[One(&[&[W("LIB-NAME")], &[W("LIB-VER")], &[Text]]), Text]),
    f("CLIENT|SETNAME", 2, Exact, &[Text]),
    f("CLIENT|TRACKING", 1, Exact, &[One(&[&[W("OFF")], &[Text]])]),
    f("CLIENT|TRACKINGINFO", 1, Exact, &[]),
    f("CLIENT|UNBLOCK", 1, Exact, &[Int, Maybe(&[One(&[&[W("TIMEOUT")], &[W("ERROR")], &[Text]])])]),
    f("CLIENT|UNPAUSE", 1, Exact, &[]),
    f("ECHO", 2, Exact, &[Value]),
    f("HELLO", 2, Names, &[Maybe(&[One(&[&[W("2")], &[W("3")], &[Int]]), Maybe(&[W("SETNAME"), W("me")])])]),
    f("PING", 2, Exact, &[Maybe(&[Value])]),
    f("RESET", 1, Exact, &[]),
    f("SELECT", 1, Exact, &[Int]),
    // The server.
    f("COMMAND|COUNT", 1, Type, &[]),
    f("COMMAND|DOCS", 1, Type, &[W("GET")]),
    f("COMMAND|GETKEYS", 4, Exact, &[Command]),
    f("COMMAND|GETKEYSANDFLAGS", 1, Exact, &[Command]),
    f("COMMAND|HELP", 1, Type, &[]),
    f("COMMAND|INFO", 1, Type, &[Repeat(&[Command])]),
    f("COMMAND|LIST", 1, Type, &[Maybe(&[W("FILTERBY"), One(&[&[W("PATTERN"), Pattern], &[W("MODULE"), Text], &[W("ACLCAT"), Text], &[Text]])])]),
    f("CONFIG|GET", 1, Exact, &[One(&[&[W("maxmemory-policy")], &[W("timeout")], &[W("maxmemory")], &[W("save")], &[Text]])]),
    f("CONFIG|HELP", 1, Type, &[]),
    f("CONFIG|RESETSTAT", 1, Exact, &[]),
    f("CONFIG|SET", 1, Exact, &[Text, Text]),
    f("DBSIZE", 2, Exact, &[]),
    f("INFO", 1, Type, &[Maybe(&[One(&[&[W("server")], &[W("all")], &[W("clients")]])])]),
    f("LATENCY|DOCTOR", 1, Type, &[]),
    f("LATENCY|HELP", 1, Type, &[]),
    f("LATENCY|HISTORY", 1, Exact, &[Text]),
    f("LATENCY|LATEST", 1, Exact, &[]),
    f("LATENCY|RESET", 1, Exact, &[Maybe(&[Text])]),
    f("LOLWUT", 1, Type, &[]),
    f("MEMORY|DOCTOR", 1, Type, &[]),
    f("MEMORY|HELP", 1, Type, &[]),
    f("MEMORY|USAGE", 2, Presence, &[Key, Maybe(&[W("SAMPLES"), Int])]),
    f("SLOWLOG|GET", 1, Type, &[Maybe(&[Int])]),
    f("SLOWLOG|HELP", 1, Type, &[]),
    f("SLOWLOG|LEN", 1, Type, &[]),
    f("SLOWLOG|RESET", 1, Exact, &[]),
    f("TIME", 1, Type, &[]),
    // The cluster.
    f("ASKING", 1, Exact, &[]),
    f("CLUSTER|COUNTKEYSINSLOT", 2, Exact, &[One(&[&[W("15495")], &[W("3300")], &[Int]])]),
    f("CLUSTER|GETKEYSINSLOT", 2, Unordered, &[One(&[&[W("15495")], &[W("3300")], &[Int]]), One(&[&[W("1000")], &[W("0")], &[W("-1")], &[Text]])]),
    f("CLUSTER|HELP", 1, Type, &[]),
    f("CLUSTER|INFO", 1, Type, &[]),
    f("CLUSTER|KEYSLOT", 2, Exact, &[One(&[&[Key], &[Value]])]),
    f("CLUSTER|LINKS", 1, Type, &[]),
    f("CLUSTER|MYID", 1, Type, &[]),
    f("CLUSTER|NODES", 1, Type, &[]),
    f("CLUSTER|SHARDS", 1, Type, &[]),
    f("CLUSTER|SLOTS", 1, Type, &[]),
    f("READONLY", 1, Exact, &[]),
    f("READWRITE", 1, Exact, &[]),
];

/// Returns the form of a command, by its name in any case; for a subcommand, the form of the subcommand.
pub fn form_of(words: &[Vec<u8>]) -> Option<&'static Form> {
    let named = |name: &[u8]| FORMS.iter().find(|form| name.eq_ignore_ascii_case(form.name.as_bytes()));
    let first = words.first()?;
    let second = words.get(1).map(|second| [first, b"|".as_slice(), second].concat());
    second.as_deref().and_then(named).or_else(|| named(first))
}
