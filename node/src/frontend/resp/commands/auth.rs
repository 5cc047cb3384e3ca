//! Authentication and permissions: AUTH, HELLO, and the check before every command.

use std::sync::Arc;

use super::client::REDIS_VERSION;
use super::client_list::{describe, printable};
use super::command::Command;
use super::context::{Context, Handled, Reply};
use super::errors::{integer, syntax_error};
use crate::access::{Access, Asked, Denied, KeyAccess, Login, LoginError, Session};
use crate::frontend::resp::encoder::Protocol;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        denied.to_string().into()
    }
}

impl From<LoginError> for Refusal {
    fn from(error: LoginError) -> Self {
        error.to_string().into()
    }
}

/// Checks whether the client may run `command`, whose arity fits.
///
/// # Errors
/// NOAUTH or NOPERM; the command must not run.
pub(super) fn check(command: &Command, context: &Context<'_>, args: Args<'_>) -> Result<(), Refusal> {
    let (access, client) = (context.server.access(), &context.client);
    if access.is_free(&client.session) {
        return Ok(());
    }
    let asked = Asked::new(command.name, args.get(1));
    let keys = keys_of(command, &asked, args);
    access.check(&client.session, &asked, keys, || describe(context)).map_err(Refusal::from)
}

/// Returns the keys of a command, each with the command's access to it.
pub(super) fn keys_of<'a>(
    command: &Command,
    asked: &Asked<'_>,
    args: Args<'a>,
) -> impl Iterator<Item = (&'a [u8], KeyAccess)> + Clone {
    let only_writes =
        command.name == "set" && !args.from(3).any(|option| option.eq_ignore_ascii_case(b"get"));
    let accesses = [asked.key_access(0), asked.key_access(1)];
    let places: Vec<usize> = command.keys.of(args).collect();
    places.into_iter().enumerate().map(move |(number, place)| {
        let access = if number == 0 { accesses[0] } else { accesses[1] };
        (args.get(place), if only_writes { KeyAccess::Write } else { access })
    })
}

/// `AUTH [username] password`
pub(super) fn auth(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let peer = context.client.peer.ip();
    let login = match args.len() {
        2 if context.server.access().default_is_nopass() => {
            return Err("ERR AUTH <password> called without any password configured for the default user. \
                        Are you sure your configuration is correct?"
                .into());
        }
        2 => Login::default_user(args.get(1), peer, "AUTH", describe(context)),
        3 => login(context, args.get(1), args.get(2), "AUTH"),
        _ => return Err(syntax_error()),
    };
    log_in(context, login, |context, session| {
        context.client.session = session;
        context.ok()
    })
}

fn login(context: &Context<'_>, user: &[u8], password: &[u8], command: &'static str) -> Login {
    let (user, password) = (user.to_vec(), password.to_vec());
    Login { user, password, peer: context.client.peer.ip(), command, client: describe(context) }
}

/// Returns a reply that authenticates the client and then calls `then` with the new session.
fn log_in(
    context: &Context<'_>,
    login: Login,
    then: impl FnOnce(&mut Context<'_>, Session) -> Handled + Send + 'static,
) -> Handled {
    let access: Arc<Access> = Arc::clone(context.server.access());
    Ok(Reply::Then(Box::pin(async move {
        let outcome = access.authenticate(login).await;
        let go_on: Box<dyn FnOnce(&mut Context<'_>) -> Handled + Send> =
            Box::new(move |context: &mut Context<'_>| then(context, outcome?));
        go_on
    })))
}

/// Parsed arguments of HELLO.
struct Hello {
    protocol: Protocol,
    name: Option<String>,
    login: Option<Login>,
}

/// `HELLO [protover [AUTH username password] [SETNAME clientname]]`
pub(super) fn hello(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let Hello { protocol, name, login } = read_hello(context, args)?;
    if let Some(login) = login {
        return log_in(context, login, move |context, session| {
            context.client.session = session;
            greet(context, protocol, name)
        });
    }
    if !context.server.access().has_entered(&context.client.session) {
        return Err("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
                    <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP \
                    protocol version at the same time"
            .into());
    }
    greet(context, protocol, name)
}

fn read_hello(context: &Context<'_>, args: Args<'_>) -> Result<Hello, Refusal> {
    let mut hello = Hello { protocol: context.to.protocol, name: None, login: None };
    if args.len() > 1 {
        hello.protocol = match integer(args.get(1)) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => return Err("NOPROTO unsupported protocol version".into()),
            Err(_) => return Err("ERR Protocol version is not an integer or out of range".into()),
        };
    }
    let mut index = 2;
    while index < args.len() {
        let option = args.get(index);
        if option.eq_ignore_ascii_case(b"auth") && index + 2 < args.len() {
            hello.login = Some(login(context, args.get(index + 1), args.get(index + 2), "HELLO"));
            index += 3;
        } else if option.eq_ignore_ascii_case(b"setname") && index + 1 < args.len() {
            hello.name = Some(printable(args.get(index + 1), "Client names")?);
            index += 2;
        } else {
            return Err(
                format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option)).into()
            );
        }
    }
    Ok(hello)
}

fn greet(context: &mut Context<'_>, protocol: Protocol, name: Option<String>) -> Handled {
    if let Some(name) = name {
        context.client.name = name;
    }
    context.client.protocol = protocol;
    context.to.protocol = protocol;
    let (to, id) = (&mut context.to, context.client.id);
    to.map(7);
    to.name("server");
    to.name("redis");
    to.name("version");
    to.name(REDIS_VERSION);
    to.name("proto");
    to.integer(to.protocol.number());
    to.name("id");
    to.integer(i64::try_from(id).unwrap_or(i64::MAX));
    to.name("mode");
    to.name("cluster");
    to.name("role");
    to.name("master");
    to.name("modules");
    to.array(0);
    Ok(Reply::Written)
}
