//! `docs/memcached.md`, made of the table of commands and that of differences.

use std::fmt::Write as _;

use super::differences::DIFFERENCES;

/// Commands, and what of them there is.
const COMMANDS: &[(&str, &str)] = &[
    ("`get`, `gets` KEY...", "as memcached"),
    ("`gat`, `gats` EXPTIME KEY...", "as memcached"),
    ("`set`, `add`, `replace`, `append`, `prepend` KEY FLAGS EXPTIME BYTES \\[noreply\\]", "as memcached"),
    (
        "`cas` KEY FLAGS EXPTIME BYTES CAS \\[noreply\\]",
        "as memcached; the cas value is the version of the record",
    ),
    ("`incr`, `decr` KEY DELTA \\[noreply\\]", "as memcached, blanks behind a shorter number included"),
    ("`touch` KEY EXPTIME \\[noreply\\]", "as memcached"),
    ("`delete` KEY \\[0\\] \\[noreply\\]", "as memcached"),
    ("`flush_all` \\[DELAY\\] \\[noreply\\]", "removes every key of the cluster, Redis's clients' too"),
    ("`mg` KEY FLAGS", "b c f k O q s t T u v"),
    ("`ms` KEY BYTES FLAGS", "b c C F k M O q T; modes E A P R S"),
    ("`md` KEY FLAGS", "b C k O q"),
    ("`ma` KEY FLAGS", "b c C D J k M N O q t v; modes I + D -"),
    ("`me` KEY \\[b\\]", "exp, cas and size"),
    ("`mn`", "as memcached"),
    ("`stats`", "memcached's names where there is such a figure; `curr_items` counts the cluster's keys"),
    ("`stats items`, `sizes`, `slabs`", "the number of keys; no sizes, no slabs"),
    ("`stats settings`", "limits under memcached's names, and the node's settings as `caskade_...`"),
    ("`verbosity` LEVEL", "accepted, without effect"),
    ("`version`, `quit`", "as memcached"),
    ("`shutdown`", "refused as memcached does where it is not enabled"),
];

const HEAD: &str = "# memcached

<!-- Made by a test: CASKADE_BLESS=1 cargo test --workspace --test memcached -->

A node that is given `--memcached-listen IP:PORT` speaks memcached's text protocol there, with its meta commands. Any node
answers for any key. The keys are those Redis clients see: what `set` stores, `GET` reads, and the other way round. Values
are durable and never evicted; flags and expiry are kept. The specification is memcached's `protocol.txt` and, where that is
silent, what memcached 1.6.18 does, error texts included.

A key has up to 250 bytes without blanks and control characters, a value up to `max_value_bytes`. An exptime of 0 is never,
up to 30 days it counts from now, more is a time of day, and a negative one is over at once. The binary protocol is not
spoken.

The port lets in whom that of Redis clients lets in: the same users, TLS and protected mode. Where a password is needed, the
first command of a connection is a `set` whose value is `user password`, as in memcached's own authentication file; its key
and flags do not matter. It answers `STORED`, or `CLIENT_ERROR authentication failure`.

## Commands

| command | what there is |
|---|---|
";

/// The document.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    for (command, what) in COMMANDS {
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {command} | {what} |");
    }
    text.push_str(
        "\n`tests/tests/memcached.rs` sends 60,000 random commands, text and meta, to a node and to a real memcached, and \
         compares the answers byte for byte.\n\n## Known differences\n\nEach is shown by a test that sends these commands \
         to both.\n\n| what | commands | here | memcached | why |\n|---|---|---|---|---|\n",
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
