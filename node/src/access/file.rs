//! The ACL file: one user per line, `user NAME RULE...`, in the format of ACL LIST. Empty lines and lines
//! that begin with `#` are ignored.
//!
//! Invariants: loading takes all users or none. Saving writes a new file of mode 0600 in the same folder,
//! syncs it, and renames it over the old one. Rejects a file with a wrong line, and files over 16 MiB.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::rules;
use super::user::User;

/// Longest file that is read or written, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Failure to load or save the file. The users in memory are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error(
        "cannot read the ACL file {path}: {cause}; the users are unchanged; to start without users, create \
         an empty file"
    )]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        cause: io::Error,
    },
    /// The file is too long.
    #[error("the ACL file {path} is longer than 16 MiB; the users are unchanged; shorten the file")]
    TooLong {
        /// Path of the file.
        path: PathBuf,
    },
    /// Lines of the file are wrong; the error lists all of them.
    #[error("{}; the users are unchanged; correct the file", .0.join("; "))]
    Lines(Vec<String>),
    /// The new file would be too long to be loaded.
    #[error(
        "the ACL file {path} would be longer than 16 MiB, and could not be loaded; it is unchanged, and the \
         present users exist until the node stops; give them fewer or shorter rules, then try again"
    )]
    WouldBeTooLong {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error(
        "cannot write the ACL file {path}: {cause}; it is unchanged, and the present users exist until the \
         node stops"
    )]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        cause: io::Error,
    },
}

/// Returns whether the line of `user` in an ACL file is parsed as an equal user. Other users are rejected.
pub(super) fn reads_back(user: &User) -> bool {
    parse_line(&user.line()).is_ok_and(|read| read == *user)
}

/// Reads all users of a file.
///
/// # Errors
/// The file is missing, unreadable or too long, or a line is wrong. A missing file does not count as an empty
/// one: a mistyped path must not open the node to everybody.
pub(super) fn load(path: &Path) -> Result<Vec<User>, FileError> {
    let read = |cause| FileError::Read { path: path.to_owned(), cause };
    let file = File::open(path).map_err(read)?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(read)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLong { path: path.to_owned() });
    }
    parse(&text, &path.display().to_string()).map_err(FileError::Lines)
}

/// Parses the lines of a file.
///
/// # Errors
/// A text for every wrong line.
fn parse(text: &[u8], name: &str) -> Result<Vec<User>, Vec<String>> {
    let (mut users, mut problems) = (Vec::<User>::new(), Vec::new());
    for (number, line) in (1_u32..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match parse_line(line) {
            Ok(user) if users.iter().any(|known| known.name == user.name) => {
                problems.push(format!("{name}:{number}: user '{}' is defined twice", user.name));
            }
            Ok(user) => users.push(user),
            Err(problem) => problems.push(format!("{name}:{number}: {problem}")),
        }
    }
    if problems.is_empty() { Ok(users) } else { Err(problems) }
}

fn parse_line(line: &[u8]) -> Result<User, String> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    if words.next() != Some(b"user".as_slice()) {
        return Err("a line must begin with 'user NAME'".to_owned());
    }
    let name = words.next().and_then(super::user_name).ok_or("a user needs a name")?;
    let mut user = User::new(name);
    rules::apply(&mut user, words).map_err(|error| error.to_string())?;
    Ok(user)
}

/// Replaces the file with one of these users.
///
/// # Errors
/// The new file would be too long, or could not be written. The file is unchanged.
pub(super) fn save<'u>(path: &Path, users: impl Iterator<Item = &'u User>) -> Result<(), FileError> {
    let mut text = Vec::new();
    for user in users {
        text.extend(user.line());
        text.push(b'\n');
    }
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::WouldBeTooLong { path: path.to_owned() });
    }
    replace(path, &text).map_err(|cause| FileError::Write { path: path.to_owned(), cause })
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = path.with_file_name(name);
    let written = write_new(&new, text).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // The unfinished file contains hashes of passwords.
        drop(std::fs::remove_file(&new));
        return written;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn saved_users_are_loaded_and_only_the_owner_can_read_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.acl");
        let mut user = User::new("alice");
        let rules = "on >p %R~a* ~b +@read -get +config|get (~z +set) &news";
        rules::apply(&mut user, rules.split(' ').map(str::as_bytes)).unwrap();
        save(&path, [&user, &User::everybody()].into_iter()).unwrap();
        assert_eq!(load(&path).unwrap(), [user, User::everybody()]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Generates rules, some of them slightly wrong.
    fn rule() -> impl Strategy<Value = String> {
        let glob = "[a-c*()%~&|#+]{0,4}";
        prop_oneof![
            4 => glob.prop_map(|glob| format!("~{glob}")),
            2 => ("%(R|W|RW|WR|r|w|)", glob).prop_map(|(sign, glob)| format!("{sign}~{glob}")),
            2 => glob.prop_map(|glob| format!("&{glob}")),
            3 => "[+-](get|set|config|config\\|get|config\\|GET|select|client\\|id|@read|@Write|@all)",
            2 => ("[+-](select|get|ping|config)", glob).prop_map(|(command, glob)| format!("{command}|{glob}")),
            2 => "(allkeys|resetkeys|allchannels|resetchannels|allcommands|nocommands|on|off|reset|clearselectors)",
            1 => "(nopass|resetpass|>[a-b()]{1,2}|<[a-b()]{1,2}|sanitize-payload|)",
            1 => "#[0-9a-f]{64}",
            1 => "[ -~]{0,6}",
        ]
    }

    /// Generates a selector, whole or split at its blanks, and sometimes with a parenthesis too many or too
    /// few.
    fn selector() -> impl Strategy<Value = Vec<String>> {
        let end = prop_oneof![8 => Just(")"), 1 => Just("))"), 1 => Just(""), 1 => Just(" )")];
        (proptest::collection::vec(rule(), 0..4), end, any::<bool>()).prop_map(|(rules, end, whole)| {
            let text = format!("({}{end}", rules.join(" "));
            if whole { vec![text] } else { text.split(' ').map(str::to_owned).collect() }
        })
    }

    fn rules_of_one_call() -> impl Strategy<Value = Vec<String>> {
        let one = prop_oneof![3 => rule().prop_map(|rule| vec![rule]), 2 => selector()];
        proptest::collection::vec(one, 0..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Rules that ACL SETUSER accepts are accepted by ACL LOAD, too, and define the same user.
        #[test]
        fn accepted_users_are_loaded_unchanged(calls in proptest::collection::vec(rules_of_one_call(), 1..4)) {
            let mut user = User::new("alice");
            for rules in calls {
                let mut changed = user.clone();
                if rules::apply(&mut changed, rules.iter().map(String::as_bytes)).is_ok() {
                    let line = changed.line();
                    prop_assert_eq!(parse_line(&line), Ok(changed.clone()), "{}", line.escape_ascii());
                    user = changed;
                }
            }
        }
    }

    #[test]
    fn a_user_at_the_bound_of_its_rules_is_loaded() {
        let patterns: Vec<String> = (0..4095).map(|number| format!("~{number}")).collect();
        let mut user = User::new("alice");
        rules::apply(&mut user, patterns.iter().map(String::as_bytes)).unwrap();
        assert!(rules::apply(&mut user.clone(), [b"~more".as_slice()]).is_err());
        assert!(reads_back(&user));
        // A selector is accepted up to a length at which its text in the file is still short enough to be
        // parsed.
        let accepted = (65_400..65_600).filter(|len| {
            let (mut user, selector) = (User::new("bob"), format!("(~{})", "k".repeat(*len)));
            rules::apply(&mut user, [selector.as_bytes()]).is_ok_and(|()| reads_back(&user))
        });
        let (accepted, refused) = (accepted.count(), |len: usize| {
            let selector = format!("(~{})", "k".repeat(len));
            rules::apply(&mut User::new("bob"), [selector.as_bytes()]).is_err()
        });
        assert!(
            (65_400..65_400 + accepted).all(|len| !refused(len)) && refused(65_400 + accepted),
            "{accepted}"
        );
    }

    #[test]
    fn a_file_that_could_not_be_loaded_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.acl");
        let users: Vec<User> = (0..300)
            .map(|number| {
                let mut user = User::new(&format!("user{number}"));
                rules::apply(&mut user, [format!("~{}", "k".repeat(60_000)).as_bytes()]).unwrap();
                user
            })
            .collect();
        assert!(matches!(save(&path, users.iter()), Err(FileError::WouldBeTooLong { .. })));
        assert!(!path.exists());
        save(&path, users.iter().take(200)).unwrap();
        assert_eq!(load(&path).unwrap().len(), 200);
    }

    #[test]
    fn every_wrong_line_is_reported() {
        let text = b"# users\n\nuser a on +get\nuser a on\nnobody\nuser b +nothing\nuser\n";
        let problems = parse(text, "f").unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[2].starts_with("f:6: ") && problems[2].contains("Unknown command"), "{problems:?}");
    }

    #[test]
    fn a_missing_file_is_not_an_empty_one() {
        assert!(matches!(load(Path::new("/nonexistent/users.acl")), Err(FileError::Read { .. })));
    }
}
