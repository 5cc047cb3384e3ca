//! How `caskctl` and `casktop` connect to a node that does not let everybody in: as whom, and with which certificates.
//!
//! A password on the command line can be read by others on the machine: better the variable, or `--askpass`.

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

/// What the command line says of it.
#[derive(Args, Clone, Default)]
pub struct LoginArgs {
    /// The user to log in as; without it, the default user.
    #[arg(long, global = true, env = "CASKADE_USER", value_name = "NAME")]
    user: Option<String>,
    /// Its password. Others on the machine can read a command line: better the variable, or --askpass.
    #[arg(long, global = true, env = "CASKADE_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pass: Option<String>,
    /// Ask for the password on the terminal.
    #[arg(long, global = true)]
    askpass: bool,
    /// Connect with TLS.
    #[arg(long, global = true)]
    tls: bool,
    /// The CA that signed the node's certificate [default: those the system trusts].
    #[arg(long = "cacert", global = true, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// A certificate to show to the node.
    #[arg(long = "cert", global = true, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of --cert.
    #[arg(long = "key", global = true, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

/// The same, with what is in the files.
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
    /// Reads the files, and the password if it is to be asked for.
    ///
    /// # Errors
    /// A file cannot be read, or flags do not fit together.
    pub fn read(&self) -> anyhow::Result<Login> {
        let password = if self.askpass { Some(ask_password()?) } else { self.pass.clone() };
        ensure!(
            self.user.is_none() || password.is_some(),
            "--user needs a password: --askpass or CASKADE_PASSWORD"
        );
        let own = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            (None, None) => None,
            _ => bail!("--cert and --key are of use together only"),
        };
        let ca = self.tls_ca.as_deref().map(read).transpose()?;
        ensure!(
            self.tls || (own.is_none() && ca.is_none()),
            "--cacert, --cert and --key are of use with --tls only"
        );
        let tls = self.tls.then_some(Tls { ca, own });
        Ok(Login { user: self.user.clone(), password, tls })
    }
}

impl Login {
    /// The password that was given.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Connects to the node at `host` and `port`, and logs in. A node that does not let in says why in its own words: the
    /// library, given the password, would keep them to itself.
    ///
    /// # Errors
    /// The certificates cannot be used, nobody answers, or the node does not let in.
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
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// Asks on the terminal, without showing what is typed.
fn ask_password() -> anyhow::Result<String> {
    let mut terminal = std::io::stderr();
    write!(terminal, "Password: ")
        .and_then(|()| terminal.flush())
        .context("there is no terminal to ask on")?;
    crossterm::terminal::enable_raw_mode()
        .context("there is no terminal to ask on; give CASKADE_PASSWORD")?;
    let typed = read_line();
    let restored = crossterm::terminal::disable_raw_mode();
    writeln!(terminal).ok();
    restored.context("the terminal cannot be set back")?;
    typed
}

fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    loop {
        let Event::Key(key) = event::read().context("the terminal is gone")? else { continue };
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
