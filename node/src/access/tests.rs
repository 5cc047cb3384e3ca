//! Rules as Redis parses and lists them, and the permissions that they grant.

use std::sync::Arc;

use super::catalogue::{self, Asked, KeyAccess};
use super::rules::apply;
use super::*;

fn user(rules: &str) -> User {
    let mut user = User::new("u");
    apply(&mut user, rules.split(' ').map(str::as_bytes)).unwrap();
    user
}

fn error(before: &str, rule: &str) -> String {
    let mut user = user(before);
    apply(&mut user, [rule.as_bytes()]).unwrap_err().to_string()
}

/// Checks whether `user` may run `command` on `keys`, with the access that the catalogue states.
fn may(user: &User, command: &str, argument: &str, keys: &[&str]) -> Result<(), Refused> {
    let asked = Asked::new(command, argument.as_bytes());
    let keys = keys.iter().enumerate().map(|(index, key)| (key.as_bytes(), asked.key_access(index)));
    user.may(&asked, keys)
}

fn runs(rules: &str, command: &str, argument: &str, keys: &[&str]) -> bool {
    may(&user(rules), command, argument, keys).is_ok()
}

fn line(rules: &str) -> String {
    String::from_utf8(user(rules).line()).unwrap()
}

#[test]
fn the_catalogue_is_in_order_and_subcommands_are_found() {
    assert!(catalogue::all().windows(2).all(|pair| pair[0].name < pair[1].name));
    let of_config: Vec<_> = catalogue::subcommands("config").iter().map(|entry| entry.name).collect();
    assert_eq!(of_config, ["config|get", "config|help", "config|resetstat", "config|rewrite", "config|set"]);
    assert!(catalogue::subcommands("get").is_empty() && catalogue::subcommands("c").is_empty());
    assert_eq!(Asked::new("config", b"GeT").full_name(), "config|get");
    assert_eq!(Asked::new("config", b"nothing").full_name(), "config");
    assert_eq!(Asked::new("get", b"config").full_name(), "get");
}

#[test]
fn a_command_that_is_not_in_the_catalogue_counts_as_dangerous() {
    assert!(runs("+@all allkeys", "unheard-of", "", &["k"]));
    assert!(!runs("+@all -@dangerous allkeys", "unheard-of", "", &["k"]));
    assert!(!runs("+@all %R~*", "unheard-of", "", &["k"]));
}

#[test]
fn the_last_rule_that_names_a_command_counts() {
    assert!(runs("+@all -@dangerous", "ping", "", &[]));
    assert!(!runs("+@all -@dangerous", "flushall", "", &[]));
    assert!(runs("+@all -@dangerous +flushall", "flushall", "", &[]));
    assert!(!runs("+flushall -@dangerous", "flushall", "", &[]));
    assert!(!runs("on", "get", "", &["k"]));
    assert!(!runs("+get nocommands", "get", "", &["k"]));
    assert!(runs("+@read allkeys", "get", "", &["k"]) && !runs("+@read allkeys", "set", "", &["k"]));
}

#[test]
fn subcommands_are_allowed_and_denied_by_themselves() {
    assert!(runs("+config|get", "config", "GET", &[]) && !runs("+config|get", "config", "set", &[]));
    assert!(
        !runs("+config -config|set", "config", "SET", &[])
            && runs("+config -config|set", "config", "get", &[])
    );
    assert!(runs("+@all -@admin", "config", "help", &[]), "HELP is not an administrative command");
    assert!(runs("+select|0", "select", "0", &[]) && !runs("+select|0", "select", "1", &[]));
}

#[test]
fn commands_to_log_in_are_never_denied() {
    for command in ["auth", "hello", "quit", "reset"] {
        assert!(runs("on", command, "", &[]), "{command}");
    }
}

#[test]
fn keys_are_allowed_by_pattern_and_access() {
    assert!(runs("+@all ~a* ~b", "mget", "", &["a1", "b"]));
    assert_eq!(may(&user("+@all ~a*"), "mget", "", &["a", "b"]), Err(Refused::Key(b"b".to_vec())));
    let reader = "+@all %R~r* %W~w*";
    assert!(runs(reader, "get", "", &["r"]) && !runs(reader, "get", "", &["w"]));
    assert!(runs(reader, "mset", "", &["w"]) && !runs(reader, "mset", "", &["r"]));
    assert!(!runs(reader, "incr", "", &["w"]), "INCR also returns the value");
    assert!(runs(reader, "exists", "", &["w"]) && runs(reader, "exists", "", &["r"]));
    assert!(runs(reader, "copy", "", &["r", "w"]) && !runs(reader, "copy", "", &["w", "r"]));
    assert!(runs("+@all %R~k %W~k", "incr", "", &["k"]), "%R and %W of one pattern allow both");
    assert!(!runs("+@all allkeys resetkeys", "get", "", &["k"]));
}

#[test]
fn walks_that_return_values_need_all_keys() {
    assert!(runs("+@all allkeys", "cask.range", "", &[]) && !runs("+@all ~a*", "cask.range", "", &[]));
    assert!(!runs("+@all ~a*", "cask.prefix", "a", &[]) && runs("+@all ~a*", "scan", "", &[]));
}

#[test]
fn a_selector_allows_by_itself_only() {
    let rules = "+get ~r* (+set ~w*)";
    assert!(runs(rules, "get", "", &["r"]) && runs(rules, "set", "", &["w"]));
    assert!(!runs(rules, "set", "", &["r"]) && !runs(rules, "get", "", &["w"]));
    assert_eq!(
        may(&user(rules), "set", "", &["r"]),
        Err(Refused::Key(b"r".to_vec())),
        "the selector that allows the command decides the error"
    );
    assert_eq!(may(&user(rules), "del", "", &["r"]), Err(Refused::Command));
    assert!(!runs("+get ~r* (+set ~w*) clearselectors", "set", "", &["w"]));
}

#[test]
fn users_are_listed_as_in_redis() {
    assert_eq!(String::from_utf8(User::everybody().line()).unwrap(), "user default on nopass ~* &* +@all");
    assert_eq!(
        line(">x ~k* %R~r* +@read -get +config|get (+set ~z)"),
        "user u off #2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 ~k* %R~r* resetchannels \
         -@all +@read -get +config|get (~z resetchannels -@all +set)"
    );
    assert_eq!(line("+GET -get +Config|Get +config"), "user u off resetchannels -@all -get +config");
    assert_eq!(line("on nopass &a &b allkeys +@all"), "user u on nopass ~* resetchannels &a &b +@all");
    assert_eq!(line("on >x nopass reset"), "user u off resetchannels -@all");
}

#[test]
fn wrong_rules_are_rejected_with_the_texts_of_redis() {
    let cases = [
        ("on", "foo", "Syntax error"),
        ("on", "%X~a", "Syntax error"),
        ("on", "~a b", "Syntax error"),
        ("on", "+foo", "Unknown command or category name in ACL"),
        ("on", "+@foo", "Unknown command or category name in ACL"),
        ("on", "+config|nope", "Unknown command or category name in ACL"),
        ("on", "-select|0", "Unknown command or category name in ACL"),
        ("on", "+config|", "Syntax error"),
        ("on", "+config|get|x", "Allowing first-arg of a subcommand is not supported"),
        (
            "on",
            "!",
            "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters",
        ),
        (
            "on",
            "#12",
            "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters",
        ),
    ];
    for (before, rule, expected) in cases {
        assert_eq!(error(before, rule), format!("Error in ACL SETUSER modifier '{rule}': {expected}"));
    }
    assert!(error("allkeys", "~a").contains("Adding a pattern after the * pattern (or the 'allkeys' flag)"));
    assert!(error("allchannels", "&a").contains("'allchannels' flag"));
    assert!(
        error("on", "<secret").ends_with("does not exist") && !error("on", "<secret").contains("secret'")
    );
    assert!(error("on", "#$argon2id$v=19$m=9999999,t=2,p=1$c29tZXNhbHQ$Zm9v").contains("Argon2"));
    let unmatched = apply(&mut User::new("u"), [b"(+get".as_slice(), b"~a"]).unwrap_err();
    assert_eq!(unmatched.to_string(), "Unmatched parenthesis in acl selector starting at '(+get'.");
    let mut cut = User::new("u");
    apply(&mut cut, [b"(+get".as_slice(), b"~a)"]).unwrap();
    assert_eq!(cut.selectors.len(), 1);
}

#[test]
fn a_user_has_a_bound_of_rules() {
    let mut user = User::new("u");
    let rules: Vec<_> = (0..10_000).map(|number| format!("~{number}")).collect();
    let refused = apply(&mut user, rules.iter().map(String::as_bytes)).unwrap_err();
    assert!(refused.to_string().contains("4096"), "{refused}");
}

fn login(user: &str, password: &str) -> Login {
    Login {
        user: user.as_bytes().to_vec(),
        password: password.as_bytes().to_vec(),
        peer: "10.1.1.1".parse().unwrap(),
        command: "AUTH",
        client: String::new(),
    }
}

fn set(access: &Access, name: &str, rules: &str) {
    access.set_user(name.as_bytes(), rules.split(' ').map(str::as_bytes)).unwrap();
}

#[tokio::test]
async fn users_log_in_with_any_of_their_passwords_and_no_other() {
    let access = Access::open();
    let argon2 = Secret::argon2(b"slow").unwrap().text();
    set(&access, "a", &format!("on >one >two #{argon2}"));
    set(&access, "off", ">one");
    for password in ["one", "two", "slow"] {
        let session = access.authenticate(login("a", password)).await.unwrap();
        assert_eq!(session.user().name, "a");
    }
    for (user, password) in [("a", "three"), ("off", "one"), ("nobody", "one")] {
        assert_eq!(access.authenticate(login(user, password)).await.unwrap_err(), LoginError::Wrong);
    }
    assert_eq!(access.denials().auth, 3);
    assert_eq!(access.log(9).len(), 3);
    set(&access, "a", &format!("!{argon2} <one"));
    assert!(access.authenticate(login("a", "two")).await.is_ok());
    for password in ["one", "slow"] {
        assert!(access.authenticate(login("a", password)).await.is_err());
    }
}

#[tokio::test]
async fn an_address_that_guesses_is_refused_even_the_right_password_for_a_while() {
    let access = Access::open();
    set(&access, "a", "on >one");
    assert_eq!(access.authenticate(login("a", "x")).await.unwrap_err(), LoginError::Wrong);
    for _ in 1..10 {
        access.failed(login("a", "x"));
    }
    let refused = access.authenticate(login("a", "one")).await.unwrap_err();
    assert!(matches!(refused, LoginError::Throttled { seconds: 1..=10 }), "{refused}");
    let elsewhere = Login { peer: "10.1.1.2".parse().unwrap(), ..login("a", "one") };
    assert!(access.authenticate(elsewhere).await.is_ok());
    assert_eq!((access.denials().auth, access.denials().throttled), (10, 1));
}

#[test]
fn a_change_applies_to_open_sessions_and_a_deletion_ends_them() {
    let access = Access::open();
    set(&access, "a", "on nopass +get ~*");
    let session = Session::new(access.account(b"a").unwrap(), true);
    let get = Asked::new("get", b"k");
    let check = |session: &Session| {
        access.check(session, &get, [(b"k".as_slice(), KeyAccess::Read)].into_iter(), || "me".to_owned())
    };
    assert_eq!(check(&session), Ok(()));
    set(&access, "a", "-get");
    let denied = check(&session).unwrap_err().to_string();
    assert_eq!(denied, "NOPERM User a has no permissions to run the 'get' command");
    set(&access, "a", "+get resetkeys");
    assert_eq!(check(&session).unwrap_err().to_string(), "NOPERM No permissions to access a key");
    let reasons: Vec<_> = access.log(9).iter().map(|entry| (entry.reason, entry.client.clone())).collect();
    assert_eq!(reasons, [(Reason::Key, "me".to_owned()), (Reason::Command, "me".to_owned())]);
    let mut changes = access.changes();
    assert!(!session.has_ended() && access.delete_user(b"a").unwrap() && session.has_ended());
    assert!(changes.has_changed().unwrap() && *changes.borrow_and_update() == 1);
    assert!(!access.delete_user(b"a").unwrap() && access.delete_user(b"default").is_err());
}

#[test]
fn without_a_password_clients_from_other_machines_are_rejected() {
    let options = Options { protected: true, ..Options::default() };
    let (here, far) = ("127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
    let access = Access::new(options.clone()).unwrap();
    assert!(
        access.turns_away(far, false) && !access.turns_away(here, false) && !access.turns_away(far, true)
    );
    assert!(!access.turns_away("::ffff:127.0.0.1".parse().unwrap(), false));
    set(&access, "default", ">secret");
    assert!(!access.turns_away(far, false));
    let with_password = Access::new(Options { requirepass: "p".to_owned(), ..options }).unwrap();
    assert!(!with_password.turns_away(far, false));
    assert_eq!(access.denials().protected, 1);
}

#[test]
fn loading_the_file_ends_the_sessions_of_users_that_it_changes_or_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.acl");
    std::fs::write(&file, "user same on nopass +get\nuser other on nopass +get\nuser gone on nopass\n")
        .unwrap();
    let options = Options { requirepass: "p".to_owned(), file: Some(file.clone()), protected: true };
    let access = Access::new(options).unwrap();
    assert!(!access.default_is_nopass(), "requirepass applies: the file does not define the default user");
    let session = |name: &str| Session::new(access.account(name.as_bytes()).unwrap(), true);
    let sessions = ["same", "other", "gone", "default"].map(session);
    std::fs::write(&file, "user same on nopass +get\nuser other on nopass +set\nuser default on #bad\n")
        .unwrap();
    assert!(access.load().is_err() && access.users().len() == 4);
    std::fs::write(&file, "user same on nopass +get\nuser other on nopass +set\n").unwrap();
    access.load().unwrap();
    assert_eq!(sessions.map(|session| session.has_ended()), [false, true, true, false]);
    set(&access, "new", "on >x");
    access.save().unwrap();
    let again = Access::new(Options { file: Some(file), ..Options::default() }).unwrap();
    assert_eq!(again.users(), access.users());
    assert!(!again.default_is_nopass(), "the default user must be saved with the others");
}

#[test]
fn names_of_users_have_no_blanks() {
    let access = Access::open();
    for name in ["", "a b", "a\0", "a\n"] {
        assert_eq!(access.set_user(name.as_bytes(), []).unwrap_err(), ChangeError::Name);
    }
    assert!(access.set_user(&[0xff], []).is_err());
    assert!(Arc::ptr_eq(&access.default, &access.account(b"default").unwrap()));
}
