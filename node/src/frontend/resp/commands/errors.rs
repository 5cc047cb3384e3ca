//! Redis's errors for wrong commands and arguments.

use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;
use crate::kv::parse_integer;

/// Returns the part of an argument that Redis shows in an error: at most `max` bytes, up to the first zero
/// byte.
fn shown(text: &[u8], max: usize) -> &[u8] {
    let text = text.get(..max).unwrap_or(text);
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Maximum bytes of one argument, and of all arguments together, that an error shows.
const SHOWN_MAX: usize = 128;

pub(super) fn unknown_command(args: Args<'_>) -> Refusal {
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(shown(args.get(0), SHOWN_MAX));
    text.extend_from_slice(b"', with args beginning with: ");
    let begin = text.len();
    for arg in args.from(1) {
        let used = text.len() - begin;
        if used >= SHOWN_MAX {
            break;
        }
        text.push(b'\'');
        text.extend_from_slice(shown(arg, SHOWN_MAX - used));
        text.extend_from_slice(b"' ");
    }
    Refusal(text.into())
}

pub(super) fn wrong_arity(name: &str) -> Refusal {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

pub(super) fn unknown_subcommand(args: Args<'_>) -> Refusal {
    refuse_subcommand("unknown subcommand", args)
}

/// Returns the error for a known subcommand with wrong arguments.
pub(super) fn wrong_subcommand(args: Args<'_>) -> Refusal {
    refuse_subcommand("unknown subcommand or wrong number of arguments for", args)
}

fn refuse_subcommand(what: &str, args: Args<'_>) -> Refusal {
    let name = args.get(0).to_ascii_uppercase();
    let parts: [&[u8]; 5] = [b"ERR ", what.as_bytes(), b" '", shown(args.get(1), SHOWN_MAX), b"'. Try "];
    Refusal([parts.concat(), name, b" HELP.".to_vec()].concat().into())
}

pub(super) fn cross_slot() -> Refusal {
    "CROSSSLOT Keys in request don't hash to the same slot".into()
}

pub(super) fn syntax_error() -> Refusal {
    "ERR syntax error".into()
}

fn not_an_integer() -> Refusal {
    "ERR value is not an integer or out of range".into()
}

pub(super) fn integer(text: &[u8]) -> Result<i64, Refusal> {
    parse_integer(text).ok_or_else(not_an_integer)
}
