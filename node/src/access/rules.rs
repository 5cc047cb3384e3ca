//! Parsing and application of rules, as in ACL SETUSER and ACL files.
//!
//! A list of rules is applied as a whole or not at all: [`apply`] changes a copy of the user, which the
//! caller stores only after success.

use caskade_api::password::Secret;

use super::catalogue;
use super::categories::Categories;
use super::user::{CommandRule, KeyPattern, Named, Selector, User};

/// Maximum number of a user's passwords, patterns, rules for commands and selectors together.
const RULES_MAX: usize = 4096;
/// Longest rule, in bytes.
const RULE_BYTES_MAX: usize = 64 * 1024;

/// Error in a rule, with Redis's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The command or category does not exist.
    #[error("Unknown command or category name in ACL")]
    Unknown,
    /// The text is not a rule.
    #[error("Syntax error")]
    Syntax,
    /// The rule adds a pattern for keys although all keys are allowed.
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. \
         Try 'resetkeys' to start with an empty list of patterns"
    )]
    PatternAfterAllKeys,
    /// The rule adds a pattern for channels although all channels are allowed.
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any \
         effect. Try 'resetchannels' to start with an empty list of channels"
    )]
    PatternAfterAllChannels,
    /// The rule removes a password that the user does not have.
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    /// The text after `#` is not a hash.
    #[error(
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
    )]
    BadHash,
    /// The text after `#` is not an Argon2 hash, or a hash whose check would be too expensive.
    #[error("The Argon2 hash is not valid, or needs more than 64 MiB of memory, 16 passes or 8 lanes")]
    BadArgon2,
    /// The rule names an argument of a subcommand: `+config|get|x`.
    #[error("Allowing first-arg of a subcommand is not supported")]
    ArgumentOfSubcommand,
    /// The rule, or the user with it, exceeds a limit of this node.
    #[error("The user would have more than 4096 rules, or one of more than 64 KiB")]
    TooMany,
}

/// A rejected list of rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A rule is wrong.
    #[error("Error in ACL SETUSER modifier '{rule}': {cause}")]
    Rule {
        /// The rule as given, without its password.
        rule: String,
        /// The error.
        cause: RuleError,
    },
    /// A selector has no closing parenthesis.
    #[error("Unmatched parenthesis in acl selector starting at '{0}'.")]
    Unmatched(String),
}

/// Applies rules in their order.
///
/// # Errors
/// The first wrong rule. `user` is then partly changed, and the caller must drop it.
pub(super) fn apply<'r>(
    user: &mut User,
    rules: impl IntoIterator<Item = &'r [u8]>,
) -> Result<(), RulesError> {
    for rule in joined(rules)? {
        let applied =
            if rule.len() > RULE_BYTES_MAX { Err(RuleError::TooMany) } else { apply_one(user, &rule) };
        // The limit is checked after each rule, not before: the line of a user at the limit may end with
        // rules that add nothing, and must load.
        let checked =
            applied.and_then(|()| if weight(user) > RULES_MAX { Err(RuleError::TooMany) } else { Ok(()) });
        checked.map_err(|cause| RulesError::Rule { rule: shown(&rule), cause })?;
    }
    Ok(())
}

fn weight(user: &User) -> usize {
    let of = |selector: &Selector| selector.rules.len() + selector.keys.len() + selector.channels.len() + 1;
    user.secrets.len() + of(&user.root) + user.selectors.iter().map(of).sum::<usize>()
}

fn shown(rule: &[u8]) -> String {
    const SHOWN_MAX: usize = 256;
    // A password follows these signs.
    match rule.first() {
        Some(sign @ (b'>' | b'<')) => format!("{}***", char::from(*sign)),
        _ => String::from_utf8_lossy(rule.get(..SHOWN_MAX).unwrap_or(rule)).into_owned(),
    }
}

/// Joins the parts of selectors that were split at their blanks.
fn joined<'r>(rules: impl IntoIterator<Item = &'r [u8]>) -> Result<Vec<Vec<u8>>, RulesError> {
    let mut whole: Vec<Vec<u8>> = Vec::new();
    // The unfinished selector, and its first part, which the error names.
    let mut open: Option<(Vec<u8>, &[u8])> = None;
    for rule in rules {
        let (part, first) = match open.take() {
            Some((mut begun, first)) => {
                begun.push(b' ');
                begun.extend_from_slice(rule);
                (begun, first)
            }
            None => (rule.to_vec(), rule),
        };
        if part.first() == Some(&b'(') && rule.last() != Some(&b')') {
            open = Some((part, first));
        } else {
            whole.push(part);
        }
    }
    match open {
        Some((_, first)) => Err(RulesError::Unmatched(shown(first))),
        None => Ok(whole),
    }
}

fn apply_one(user: &mut User, rule: &[u8]) -> Result<(), RuleError> {
    let word = rule.to_ascii_lowercase();
    match word.as_slice() {
        // These have no effect here: RESTORE always checks values.
        b"" | b"sanitize-payload" | b"skip-sanitize-payload" => {}
        b"on" => user.enabled = true,
        b"off" => user.enabled = false,
        b"nopass" => {
            user.nopass = true;
            user.secrets.clear();
        }
        b"resetpass" => {
            user.nopass = false;
            user.secrets.clear();
        }
        b"clearselectors" => user.selectors.clear(),
        b"reset" => *user = User::new(&user.name),
        _ => return apply_sign(user, rule),
    }
    Ok(())
}

fn apply_sign(user: &mut User, rule: &[u8]) -> Result<(), RuleError> {
    let rest = rule.get(1..).unwrap_or_default();
    match rule.first() {
        Some(b'>') => add_secret(user, Secret::sha256(rest)),
        Some(b'#') => add_secret(user, read_hash(rest)?),
        Some(b'<') => return remove_secret(user, &Secret::sha256(rest)),
        Some(b'!') => return remove_secret(user, &read_hash(rest)?),
        Some(b'(') => {
            let inner = rest.strip_suffix(b")").ok_or(RuleError::Syntax)?;
            user.selectors.push(read_selector(inner)?);
        }
        _ => return user.root.apply(rule),
    }
    Ok(())
}

/// Parses the rules between the parentheses of a selector.
fn read_selector(inner: &[u8]) -> Result<Selector, RuleError> {
    let mut selector = Selector::default();
    for part in inner.split(|byte| *byte == b' ').filter(|part| !part.is_empty()) {
        // In the line of an ACL file, which is split at its blanks, this part would end the selector.
        if part.ends_with(b")") {
            return Err(RuleError::Syntax);
        }
        selector.apply(part)?;
    }
    // The selector's text in an ACL file may be longer than `inner`, and must not be too long to be parsed.
    if selector.text().len() + b"()".len() > RULE_BYTES_MAX {
        return Err(RuleError::TooMany);
    }
    Ok(selector)
}

fn read_hash(text: &[u8]) -> Result<Secret, RuleError> {
    let bad = if text.starts_with(b"$") { RuleError::BadArgon2 } else { RuleError::BadHash };
    Secret::parse(text).ok_or(bad)
}

fn add_secret(user: &mut User, secret: Secret) {
    if !user.secrets.contains(&secret) {
        user.secrets.push(secret);
    }
    user.nopass = false;
}

fn remove_secret(user: &mut User, secret: &Secret) -> Result<(), RuleError> {
    let place = user.secrets.iter().position(|known| known == secret).ok_or(RuleError::NoSuchPassword)?;
    user.secrets.remove(place);
    Ok(())
}

impl Selector {
    fn apply(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        match rule.to_ascii_lowercase().as_slice() {
            b"allkeys" | b"~*" => {
                self.all_keys = true;
                self.keys.clear();
            }
            b"resetkeys" => {
                self.all_keys = false;
                self.keys.clear();
            }
            b"allchannels" | b"&*" => {
                self.all_channels = true;
                self.channels.clear();
            }
            b"resetchannels" => {
                self.all_channels = false;
                self.channels.clear();
            }
            b"allcommands" | b"+@all" => self.set_base(true),
            b"nocommands" | b"-@all" => self.set_base(false),
            _ => return self.apply_sign(rule),
        }
        Ok(())
    }

    fn set_base(&mut self, all: bool) {
        self.all_commands = all;
        self.rules.clear();
    }

    fn apply_sign(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let rest = rule.get(1..).unwrap_or_default();
        match rule.first() {
            Some(b'~' | b'%') => self.add_pattern(rule),
            Some(b'&') if self.all_channels => Err(RuleError::PatternAfterAllChannels),
            Some(b'&') if has_blanks(rest) => Err(RuleError::Syntax),
            Some(b'&') => {
                if !self.channels.iter().any(|known| known == rest) {
                    self.channels.push(rest.to_vec());
                }
                Ok(())
            }
            Some(b'+') => self.add_rule(true, rest),
            Some(b'-') => self.add_rule(false, rest),
            _ => Err(RuleError::Syntax),
        }
    }

    fn add_pattern(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(RuleError::PatternAfterAllKeys);
        }
        let (reads, writes, pattern) = split_pattern(rule)?;
        match self.keys.iter_mut().find(|known| known.pattern == pattern) {
            Some(known) => {
                known.reads |= reads;
                known.writes |= writes;
            }
            None => self.keys.push(KeyPattern { reads, writes, pattern: pattern.to_vec() }),
        }
        // `%RW~*`, or `%R~*` with `%W~*`, allows all keys: stored in the form that the line of the user has.
        if self.keys.iter().any(|known| known.reads && known.writes && known.pattern == b"*") {
            self.all_keys = true;
            self.keys.clear();
        }
        Ok(())
    }

    fn add_rule(&mut self, allow: bool, text: &[u8]) -> Result<(), RuleError> {
        let text = std::str::from_utf8(text).map_err(|_| RuleError::Unknown)?.to_ascii_lowercase();
        let names = named(&text, allow)?;
        // A later rule for a command replaces earlier ones for it and for its subcommands.
        self.rules.retain(|known| {
            known.text.strip_prefix(&text).is_none_or(|rest| !rest.is_empty() && !rest.starts_with('|'))
        });
        self.rules.push(CommandRule { allow, text, names });
        Ok(())
    }
}

/// Splits `~pattern` or `%RW~pattern` into: allows reads, allows writes, pattern.
fn split_pattern(rule: &[u8]) -> Result<(bool, bool, &[u8]), RuleError> {
    let at = rule.iter().position(|byte| *byte == b'~').ok_or(RuleError::Syntax)?;
    let (signs, pattern) = (rule.get(..at).unwrap_or_default(), rule.get(at + 1..).unwrap_or_default());
    if has_blanks(pattern) {
        return Err(RuleError::Syntax);
    }
    match signs.to_ascii_lowercase().as_slice() {
        b"" | b"%rw" | b"%wr" => Ok((true, true, pattern)),
        b"%r" => Ok((true, false, pattern)),
        b"%w" => Ok((false, true, pattern)),
        _ => Err(RuleError::Syntax),
    }
}

fn has_blanks(text: &[u8]) -> bool {
    text.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0)
}

/// Returns the commands that a rule names. `text` is in lower case and without the sign.
fn named(text: &str, allow: bool) -> Result<Named, RuleError> {
    if let Some(category) = text.strip_prefix('@') {
        return Categories::named(category).map(Named::Category).ok_or(RuleError::Unknown);
    }
    let Some((command, argument)) = text.split_once('|') else {
        return catalogue::find(text).map(|_| Named::Command).ok_or(RuleError::Unknown);
    };
    catalogue::find(command).ok_or(RuleError::Unknown)?;
    if argument.contains('|') {
        return Err(if allow { RuleError::ArgumentOfSubcommand } else { RuleError::Unknown });
    }
    let has_subcommands = !catalogue::subcommands(command).is_empty();
    let known = catalogue::find(text).is_some();
    match (argument.is_empty(), has_subcommands) {
        (true, _) if allow => Err(RuleError::Syntax),
        (false, true) if known => Ok(Named::Argument(command.len())),
        // Redis's older form to allow a command with one first argument only, such as SELECT 0.
        (false, false) if allow && !has_blanks(argument.as_bytes()) => Ok(Named::Argument(command.len())),
        _ => Err(RuleError::Unknown),
    }
}
