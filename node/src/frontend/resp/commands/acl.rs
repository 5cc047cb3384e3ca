//! The ACL command: users, their rules, and the log of denials.

use caskade_api::password;

use super::auth::keys_of;
use super::context::{Context, Handled, Reply};
use super::errors::{integer, wrong_arity};
use crate::access::{Access, Asked, LogEntry, Refused, Selector, User, catalogue, categories};
use crate::frontend::resp::encoder::Encoder;
use crate::frontend::resp::now_ms;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;

/// Maximum and default number of bits of ACL GENPASS.
const GENPASS_BITS: (i64, i64) = (4096, 256);
/// Entries of ACL LOG without a count.
const LOG_COUNT: usize = 10;
const NO_FILE: &str = "ERR This node is not configured to use an ACL file. You may want to give it one with the setting \
     aclfile; without it, users created with ACL SETUSER exist only until the node stops.";

fn access<'a>(context: &Context<'a>) -> &'a Access {
    context.server.access()
}

fn error(text: impl std::fmt::Display) -> Refusal {
    format!("ERR {text}").into()
}

fn texts<T: AsRef<[u8]>>(to: &mut Encoder<'_>, items: &[T]) -> Handled {
    to.array(items.len());
    items.iter().for_each(|item| to.bulk(item.as_ref()));
    Ok(Reply::Written)
}

pub(super) fn cat(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    match args.len() {
        2 => texts(&mut context.to, &categories::NAMES),
        3 => {
            let asked = String::from_utf8_lossy(args.get(2)).into_owned();
            let category = categories::Categories::named(&asked)
                .ok_or_else(|| Refusal::from(format!("ERR Unknown category '{asked:.128}'")))?;
            let table = context.table;
            let served =
                |name: &str| table.by_name(name.split('|').next().unwrap_or_default().as_bytes()).is_some();
            let entries = catalogue::all().iter();
            let names: Vec<_> = entries
                .filter(|entry| entry.categories.meets(category) && served(entry.name))
                .map(|entry| entry.name)
                .collect();
            texts(&mut context.to, &names)
        }
        _ => Err(wrong_arity("acl|cat")),
    }
}

pub(super) fn setuser(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    access(context).set_user(args.get(2), args.from(3)).map_err(error)?;
    context.ok()
}

pub(super) fn deluser(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let mut deleted = 0;
    for name in args.from(2) {
        deleted += i64::from(access(context).delete_user(name).map_err(error)?);
    }
    context.to.integer(deleted);
    Ok(Reply::Written)
}

pub(super) fn getuser(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let user = access(context).user(args.get(2));
    let to = &mut context.to;
    match user {
        Some(user) => tell_user(to, &user),
        None => to.null(),
    }
    Ok(Reply::Written)
}

fn tell_user(to: &mut Encoder<'_>, user: &User) {
    to.map(6);
    to.name("flags");
    let flags = user.flags();
    to.set(flags.len());
    flags.iter().for_each(|flag| to.status(flag));
    to.name("passwords");
    let passwords = user.passwords();
    to.array(passwords.len());
    passwords.for_each(|password| to.bulk(password.as_bytes()));
    tell_selector(to, user.root());
    to.name("selectors");
    to.array(user.selectors().len());
    for selector in user.selectors() {
        to.map(3);
        tell_selector(to, selector);
    }
}

fn tell_selector(to: &mut Encoder<'_>, selector: &Selector) {
    to.name("commands");
    to.bulk(selector.commands_text().as_bytes());
    to.name("keys");
    to.bulk(&selector.keys_text());
    to.name("channels");
    to.bulk(&selector.channels_text());
}

pub(super) fn list(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let lines: Vec<_> = access(context).users().iter().map(|user| user.line()).collect();
    texts(&mut context.to, &lines)
}

pub(super) fn users(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let names: Vec<_> = access(context).users().iter().map(|user| user.name.clone()).collect();
    texts(&mut context.to, &names)
}

pub(super) fn whoami(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let name = context.client.session.user().name.clone();
    context.to.bulk(name.as_bytes());
    Ok(Reply::Written)
}

pub(super) fn genpass(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (most, usual) = GENPASS_BITS;
    let bits = match args.len() {
        2 => usual,
        3 => integer(args.get(2))?,
        _ => return Err(wrong_arity("acl|genpass")),
    };
    if !(1..=most).contains(&bits) {
        return Err(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number \
                    up to 4096"
                .into(),
        );
    }
    context.to.bulk(password::generate(bits as usize).as_bytes());
    Ok(Reply::Written)
}

pub(super) fn load(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    if !access(context).has_file() {
        return Err(NO_FILE.into());
    }
    access(context).load().map_err(error)?;
    context.ok()
}

pub(super) fn save(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    if !access(context).has_file() {
        return Err(NO_FILE.into());
    }
    access(context).save().map_err(|cause| {
        tracing::error!(%cause, "ACL SAVE failed");
        error(cause)
    })?;
    context.ok()
}

pub(super) fn log(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let count = match args.len() {
        2 => LOG_COUNT,
        3 if args.get(2).eq_ignore_ascii_case(b"reset") => {
            access(context).clear_log();
            return context.ok();
        }
        // Redis treats a negative number as 0.
        3 => usize::try_from(integer(args.get(2))?).unwrap_or(0),
        _ => return Err(wrong_arity("acl|log")),
    };
    let entries = access(context).log(count);
    context.to.array(entries.len());
    let now_ms = now_ms();
    entries.iter().for_each(|entry| tell_entry(&mut context.to, entry, now_ms));
    Ok(Reply::Written)
}

fn tell_entry(to: &mut Encoder<'_>, entry: &LogEntry, now_ms: u64) {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let age_ms = now_ms.saturating_sub(entry.created_ms);
    to.map(10);
    to.name("count");
    to.integer(number(entry.count));
    to.name("reason");
    to.name(entry.reason.name());
    to.name("context");
    to.name("toplevel");
    to.name("object");
    to.bulk(&entry.object);
    to.name("username");
    to.name(&entry.username);
    to.name("age-seconds");
    to.name(&format!("{}.{:03}", age_ms / 1000, age_ms % 1000));
    to.name("client-info");
    to.name(entry.client.trim_end());
    to.name("entry-id");
    to.integer(number(entry.id));
    to.name("timestamp-created");
    to.integer(number(entry.created_ms));
    to.name("timestamp-last-updated");
    to.integer(number(entry.updated_ms));
}

/// `ACL DRYRUN username command [arg ...]`
pub(super) fn dryrun(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let shown = |index| String::from_utf8_lossy(args.get(index)).into_owned();
    let Some(user) = access(context).user(args.get(2)) else {
        return Err(format!("ERR User '{}' not found", shown(2)).into());
    };
    let asked_args = args.skip(3);
    let Some(command) = context.table.by_name(asked_args.get(0)) else {
        return Err(format!("ERR Command '{}' not found", shown(3)).into());
    };
    if !command.arity_fits(asked_args) {
        return Err(wrong_arity(command.name));
    }
    let asked = Asked::new(command.name, asked_args.get(1));
    match user.may(&asked, keys_of(command, &asked, asked_args)) {
        Ok(()) => return context.ok(),
        Err(Refused::Command) => {
            let text =
                format!("User {} has no permissions to run the '{}' command", user.name, asked.full_name());
            context.to.bulk(text.as_bytes());
        }
        Err(Refused::Key(key)) => {
            let key = String::from_utf8_lossy(&key);
            let text = format!("User {} has no permissions to access the '{key}' key", user.name);
            context.to.bulk(text.as_bytes());
        }
    }
    Ok(Reply::Written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::resp::commands::TABLE;

    /// Only users with all permissions may run a command that is not in the catalogue: add its row to
    /// `access/catalogue/table.rs`, with Redis's categories.
    #[test]
    fn every_command_has_its_categories() {
        let missing: Vec<_> = TABLE
            .commands
            .iter()
            .map(|command| command.name)
            .filter(|name| catalogue::find(name).is_none())
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn subcommands_of_acl_are_those_of_the_catalogue() {
        let known: Vec<_> =
            catalogue::subcommands("acl").iter().filter_map(|entry| entry.name.get(4..)).collect();
        assert_eq!(known, TABLE.subcommands_of("acl").map(|sub| sub.own_name()).collect::<Vec<_>>());
    }
}
