//! Renders `docs/memcached.md` from the tables of commands and differences.

use std::fmt::Write as _;

use super::differences::DIFFERENCES;

/// Commands, and the supported part of each.
const COMMANDS: &[(&str, &str)] = &[
    ("`get`, `gets` KEY...", "as memcached"),
    ("`gat`, `gats` EXPTIME KEY...", "as memcached"),
    ("`set`, `add`, `replace`, `append`, `prepend` KEY FLAGS EXPTIME BYTES \\[noreply\\]", "as memcached"),
    (
        "`cas` KEY FLAGS EXPTIME BYTES CAS \\[noreply\\]",
        "as memcached; the cas value is the version of the record",
    ),
    ("`incr`, `decr` KEY DELTA \\[noreply\\]", "as memcached, including blanks after a shorter number"),
    ("`touch` KEY EXPTIME \\[noreply\\]", "as memcached"),
    ("`delete` KEY \\[0\\] \\[noreply\\]", "as memcached"),
    (
        "`flush_all` \\[DELAY\\] \\[noreply\\]",
        "removes every key of the cluster, including keys written by Redis clients",
    ),
    ("`mg` KEY FLAGS", "b c f k O q s t T u v"),
    ("`ms` KEY BYTES FLAGS", "b c C F k M O q T; modes E A P R S"),
    ("`md` KEY FLAGS", "b C k O q"),
    ("`ma` KEY FLAGS", "b c C D J k M N O q t v; modes I + D -"),
    ("`me` KEY \\[b\\]", "exp, cas and size"),
    ("`mn`", "as memcached"),
    (
        "`stats`",
        "memcached's names, where the node has the value; `curr_items` counts the keys of the cluster",
    ),
    ("`stats items`, `sizes`, `slabs`", "the number of keys; no sizes, no slabs"),
    ("`stats settings`", "limits under memcached's names, and the node's settings as `caskade_...`"),
    ("`verbosity` LEVEL", "accepted, without effect"),
    ("`version`, `quit`", "as memcached"),
    ("`shutdown`", "rejected, as by a memcached that has not enabled it"),
];

const HEAD: &str = "# memcached

<!-- Rendered by a test: CASKADE_BLESS=1 cargo test --workspace --test memcached -->

A node with `--memcached-listen IP:PORT` serves memcached's text protocol there, with its meta commands. Any node serves any
key. The keys are the same as for Redis clients: `GET` reads a value that `set` stored, and the reverse. Values are durable and
never evicted; flags and expiry are stored. The specification is memcached's `protocol.txt` and, where that is silent, the
behaviour of memcached 1.6.18, including its error texts.

A key has up to 250 bytes without blanks and control characters, a value up to `max_value_bytes`. An exptime of 0 means no
expiry, up to 30 days it counts from now, a larger one is a Unix time, and a negative one expires at once. The binary protocol
is not supported.

The port has the same access rules as the port of Redis clients: users, TLS and protected mode. If a password is required, the
first command of a connection must be a `set` whose value is `user password`, as with memcached's authentication file; its key
and flags are ignored. The node answers `STORED`, or `CLIENT_ERROR authentication failure`.

## Commands

| command | support |
|---|---|
";

/// Renders the document.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    for (command, what) in COMMANDS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {command} | {what} |");
    }
    text.push_str(
        "\n`tests/tests/memcached.rs` sends 60,000 random commands, text and meta, to a node and to a real memcached, and \
         compares the answers byte for byte.\n\n## Known differences\n\nA test sends these commands to both servers and \
         checks the answers.\n\n| what | commands | Caskade | memcached | why |\n|---|---|---|---|---|\n",
    );
    for known in DIFFERENCES {
        let commands: Vec<String> = known.send.iter().map(|command| code(command)).collect();
        let answers = if known.send.is_empty() {
            [known.caskade.to_owned(), known.memcached.to_owned()]
        } else {
            [code(known.caskade), code(known.memcached)]
        };
        let [ours, theirs] = answers;
        let _ = writeln!(
            text,
            "| {} | {} | {ours} | {theirs} | {} |",
            known.about,
            commands.join(" "),
            known.why
        );
    }
    text
}

fn code(text: &str) -> String {
    let shown = text.trim_end().replace("\r\n", "\\r\\n").escape_debug().to_string().replace("\\\\", "\\");
    if shown.is_empty() { "nothing".to_owned() } else { format!("`{shown}`") }
}
