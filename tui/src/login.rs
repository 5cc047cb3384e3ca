//! Login of `caskctl` and `casktop`: user, password and TLS certificates.
//!
//! Other users of the machine can read a password on the command line. Prefer the variable or `--askpass`.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _, RedisResult,
    TlsCertificates,
};

impl fmt::Debug for LoginArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginArgs").field("user", &self.user).field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// Login flags of the command line.
#[derive(Args, Clone, Default)]
pub struct LoginArgs {
    /// User to log in as [default: the default user].
    #[arg(long, global = true, env = "CASKADE_USER", value_name = "NAME")]
    user: Option<String>,
    /// Password of the user. Others on the machine can read a command line: prefer the variable or --askpass.
    #[arg(long, global = true, env = "CASKADE_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pass: Option<String>,
    /// Prompt for the password on the terminal.
    #[arg(long, global = true)]
    askpass: bool,
    /// Connect with TLS.
    #[arg(long, global = true)]
    tls: bool,
    /// File with the CA that signed the node's certificate [default: the CAs that the system trusts].
    #[arg(long = "cacert", global = true, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// File with a client certificate to present to the node.
    #[arg(long = "cert", global = true, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// File with the private key of --cert.
    #[arg(long = "key", global = true, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

/// Login with the contents of the certificate files.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    user: Option<String>,
    password: Option<String>,
    tls: Option<Tls>,
}

#[derive(Clone, Default, PartialEq, Eq)]
struct Tls {
    ca: Option<Vec<u8>>,
    /// Certificate and key.
    own: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl LoginArgs {
    /// Reads the files, and prompts for the password if `--askpass` was given.
    ///
    /// # Errors
    /// A file cannot be read, or flags contradict each other.
    pub fn read(&self) -> anyhow::Result<Login> {
        let password = if self.askpass { Some(ask_password()?) } else { self.pass.clone() };
        ensure!(
            self.user.is_none() || password.is_some(),
            "--user needs a password; use --askpass or CASKADE_PASSWORD"
        );
        let own = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            (None, None) => None,
            _ => bail!("--cert and --key must be given together"),
        };
        let ca = self.tls_ca.as_deref().map(read).transpose()?;
        ensure!(self.tls || (own.is_none() && ca.is_none()), "--cacert, --cert and --key need --tls");
        let tls = self.tls.then_some(Tls { ca, own });
        Ok(Login { user: self.user.clone(), password, tls })
    }
}

impl Login {
    /// Returns the password, if one was given.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Connects to the node at `host` and `port`, and logs in with AUTH. The client library does not get the
    /// password, because it would hide the node's error text.
    ///
    /// # Errors
    /// The certificates cannot be used, no node answers, or the node rejects the login.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let client = self.client(host, port)?;
        let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
        if let Some(password) = &self.password {
            let mut auth = redis::cmd("AUTH");
            auth.arg(self.user.as_slice()).arg(password);
            auth.exec_async(&mut connection).await?;
        }
        Ok(connection)
    }

    fn client(&self, host: &str, port: u16) -> RedisResult<redis::Client> {
        let host = host.to_owned();
        let Some(tls) = &self.tls else { return redis::Client::open(ConnectionAddr::Tcp(host, port)) };
        let addr = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
        let info = addr.into_connection_info()?;
        let client_tls =
            tls.own.clone().map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        redis::Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: tls.ca.clone() })
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Prompts on the terminal without echo.
fn ask_password() -> anyhow::Result<String> {
    let mut terminal = std::io::stderr();
    write!(terminal, "Password: ")
        .and_then(|()| terminal.flush())
        .context("no terminal for the password prompt; use CASKADE_PASSWORD")?;
    crossterm::terminal::enable_raw_mode()
        .context("no terminal for the password prompt; use CASKADE_PASSWORD")?;
    let typed = read_line();
    let restored = crossterm::terminal::disable_raw_mode();
    writeln!(terminal).ok();
    restored.context("cannot restore the terminal mode; run `reset`")?;
    typed
}

fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    loop {
        let Event::Key(key) = event::read().context("cannot read the terminal")? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Enter => return Ok(line),
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                bail!("no password was given")
            }
            KeyCode::Char(c) => line.push(c),
            KeyCode::Backspace => drop(line.pop()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_do_not_fit_together_are_refused() {
        let file = || Some(PathBuf::from("/nonexistent"));
        let user = LoginArgs { user: Some("u".to_owned()), ..LoginArgs::default() };
        let key_alone = LoginArgs { tls: true, tls_key: file(), ..LoginArgs::default() };
        for (args, expected) in [(user, "--askpass"), (key_alone, "together")] {
            let refused = args.read().unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        assert_eq!(LoginArgs::default().read().unwrap(), Login::default());
    }
}
