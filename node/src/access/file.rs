//! The ACL file: one user a line, `user NAME RULE...`, as ACL LIST tells them. Empty lines and lines that begin
//! with `#` are passed over.
//!
//! It is read as a whole or not at all, and replaced as a whole: what is written goes to a new file of mode 0600 beside
//! it, is synced, and takes its name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::rules;
use super::user::User;

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why the file cannot be used. The users in memory are as they were.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error(
        "the ACL file {path} cannot be read: {cause}. The users are as they were. An empty file is a beginning"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is too long.
    #[error("the ACL file {path} is longer than 16 MiB. The users are as they were")]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
    /// Lines of it are wrong; all of them are told.
    #[error("{}. The users are as they were", .0.join(". "))]
    Lines(Vec<String>),
    /// It would be too long to be read again.
    #[error(
        "the ACL file {path} would be longer than 16 MiB, and could not be loaded; it is as it was, and the users hold until \
         the node stops; give them fewer or shorter rules, then try again"
    )]
    WouldBeTooLong {
        /// Which file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error(
        "the ACL file {path} cannot be written: {cause}. It is as it was; the users hold until the node stops"
    )]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// Whether the line of `user` in an ACL file makes an equal user: only such users are taken.
pub(super) fn reads_back(user: &User) -> bool {
    parse_line(&user.line()).is_ok_and(|read| read == *user)
}

/// Reads all users of a file.
///
/// # Errors
/// The file is not there or cannot be read, or a line of it is wrong. A file that is missing is no empty one: a path
/// that is mistyped must not open the node to everybody.
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

/// Reads the lines of a file; every wrong one is told.
fn parse(text: &[u8], name: &str) -> Result<Vec<User>, Vec<String>> {
    let (mut users, mut problems) = (Vec::<User>::new(), Vec::new());
    for (number, line) in (1_u32..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match parse_line(line) {
            Ok(user) if users.iter().any(|known| known.name == user.name) => {
                problems.push(format!("{name}:{number}: user '{}' is there twice", user.name));
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
        return Err("a line begins with 'user NAME'".to_owned());
    }
    let name = words.next().and_then(super::user_name).ok_or("a user needs a name")?;
    let mut user = User::new(name);
    rules::apply(&mut user, words).map_err(|error| error.to_string())?;
    Ok(user)
}

/// Writes all users in place of what the file was.
///
/// # Errors
/// The file is as it was.
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
        // What is left of it has hashes of passwords in it.
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
    fn what_is_saved_is_loaded_and_is_the_owners_only() {
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

    /// Most pieces are rules, some of them only nearly.
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

    /// A selector, whole or in pieces, and often with a parenthesis too many.
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

        /// Whatever ACL SETUSER takes, ACL LOAD takes, and it makes the same user of it.
        #[test]
        fn what_setuser_takes_is_loaded_as_it_was(calls in proptest::collection::vec(rules_of_one_call(), 1..4)) {
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
        // The longest selector that is taken is no longer in the file.
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
    fn every_wrong_line_is_told() {
        let text = b"# users\n\nuser a on +get\nuser a on\nnobody\nuser b +nothing\nuser\n";
        let problems = parse(text, "f").unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[2].starts_with("f:6: ") && problems[2].contains("Unknown command"), "{problems:?}");
    }

    #[test]
    fn a_file_that_is_not_there_is_no_empty_one() {
        assert!(matches!(load(Path::new("/nonexistent/users.acl")), Err(FileError::Read { .. })));
    }
}
