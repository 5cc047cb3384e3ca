//! Access control: passwords, ACL files, throttled guessing, protected mode, TLS.
//!
//! Uses `caskctl`, the Rust Redis client and, if it is installed, `redis-cli`.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use caskade_tests::{Finished, Permit, Program, binary, free_port, run, with_limit};
use redis::{AsyncConnectionConfig, RedisResult, Value};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(120);
const READY_MAX: Duration = Duration::from_secs(30);
/// Nodes check their certificate files every 2 s.
const RELOADED_MAX: Duration = Duration::from_secs(20);

/// One node whose ports and directory stay the same over restarts.
struct Lone {
    folder: tempfile::TempDir,
    flags: Vec<String>,
    port: u16,
    peer_port: u16,
    program: Option<Program>,
}

impl Lone {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "a secret, long enough to be one")?;
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { folder, flags: Vec::new(), port: free_port()?, peer_port: free_port()?, program: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn flag(&mut self, flag: &str, value: impl AsRef<Path>) {
        self.flags.push(format!("{flag}={}", value.as_ref().display()));
    }

    fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn command(&self, host: &str) -> Result<Command> {
        let mut command = Command::new(binary("caskd")?);
        command
            .arg("--data-dir")
            .arg(self.path("data"))
            .arg("--cluster-secret-file")
            .arg(self.path("secret"));
        command.args(["--listen", &format!("{host}:{}", self.port)]);
        command.args(["--peer-listen", &format!("127.0.0.1:{}", self.peer_port)]);
        command.args(&self.flags);
        Ok(command)
    }

    async fn start(&mut self, host: &str) -> Result<()> {
        let mut program = Program::start(self.command(host)?, &self.path("node"))?;
        program.wait_for_line(READY_MAX, |line| line.starts_with("ready")).await?;
        self.program = Some(program);
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        let mut program = self.program.take().context("the node does not run")?;
        program.signal(Signal::TERM)?;
        ensure!(program.wait(READY_MAX).await?.success());
        Ok(())
    }

    fn log(&self) -> String {
        self.program.as_ref().map(Program::output).unwrap_or_default()
    }

    /// Runs `caskctl` against this node.
    async fn caskctl(&self, args: &[&str]) -> Result<Finished> {
        let mut command = Command::new(binary("caskctl")?);
        run_in(command.args(["--addr", &self.addr()]).args(args).current_dir(self.folder.path())).await
    }

    async fn client(&self, login: &str) -> RedisResult<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://{login}{}/", self.addr()))?;
        // The node delays replies to wrong passwords.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(READY_MAX));
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}

async fn run_in(command: &mut Command) -> Result<Finished> {
    run(std::mem::replace(command, Command::new("true"))).await
}

/// Sends a command; an error reply is an error.
async fn ask(client: &mut redis::aio::MultiplexedConnection, words: &str) -> RedisResult<Value> {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap_or_default());
    for word in words {
        command.arg(word);
    }
    command.query_async(client).await
}

/// Sends a command that must fail, and returns its error.
async fn denial(client: &mut redis::aio::MultiplexedConnection, words: &str) -> Result<String> {
    match ask(client, words).await {
        Ok(answer) => bail!("{words} was answered with {answer:?}"),
        Err(error) => Ok(error.to_string()),
    }
}

#[test]
fn users_of_the_acl_file_survive_a_restart_with_their_permissions() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let mut node = Lone::new()?;
        let file = node.path("users.acl");
        node.flag("--aclfile", &file);
        let missing = run(node.command("127.0.0.1")?).await?.refusal()?;
        ensure!(missing.contains("users.acl") && missing.contains("cannot read the ACL file"), "{missing}");
        std::fs::write(&file, "")?;
        node.flag("--requirepass", "the-password");
        node.start("127.0.0.1").await?;
        let mut stranger = node.client("").await?;
        ensure!(denial(&mut stranger, "GET k").await?.contains("Authentication required"));
        let mut admin = node.client(":the-password@").await?;
        for command in [
            "ACL SETUSER app on >app-password ~app:* %R~shared:* +@read +@write +@connection -@dangerous",
            "SET shared:x 1",
            "ACL SAVE",
        ] {
            ask(&mut admin, command).await.context(command)?;
        }
        ensure!(std::fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
        let saved = std::fs::read_to_string(&file)?;
        ensure!(saved.contains("user app on #") && !saved.contains("password"), "{saved}");
        node.stop().await?;
        node.start("127.0.0.1").await?;
        let mut app = node.client("app:app-password@").await?;
        for allowed in ["SET app:k v", "GET app:k", "GET shared:x", "DEL app:k", "PING"] {
            ask(&mut app, allowed).await.context(allowed)?;
        }
        for (denied, why) in [
            ("GET other", "No permissions to access a key"),
            ("SET shared:x 2", "No permissions to access a key"),
            ("CONFIG GET requirepass", "User app has no permissions to run the 'config|get' command"),
            ("CASK.STATUS", "User app has no permissions to run the 'cask.status' command"),
            ("ACL LIST", "User app has no permissions to run the 'acl|list' command"),
        ] {
            let told = denial(&mut app, denied).await?;
            ensure!(told.contains(why), "{denied}: {told}");
        }
        let mut admin = node.client(":the-password@").await?;
        let log = format!("{:?}", ask(&mut admin, "ACL LOG").await?);
        ensure!(log.contains("config|get") && log.contains("other") && log.contains("user=app"), "{log}");
        let shown = format!("{:?}", ask(&mut admin, "CONFIG GET *").await?);
        ensure!(shown.contains("aclfile") && !shown.contains("the-password"), "{shown}");
        ask(&mut admin, "ACL DELUSER app").await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        ensure!(ask(&mut app, "PING").await.is_err(), "the connection of a deleted user is closed");
        Ok(())
    });
}

#[test]
fn caskctl_logs_in_and_guesses_are_throttled() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let mut node = Lone::new()?;
        node.flag("--requirepass", "the-password");
        node.start("127.0.0.1").await?;
        let refused = node.caskctl(&["get", "k"]).await?.refusal()?;
        ensure!(refused.contains("Authentication required") && refused.contains("--askpass"), "{refused}");
        node.caskctl(&["--pass", "the-password", "set", "k", "v"]).await?.success()?;
        let hash = node.caskctl(&["--pass", "slow", "hash-password"]).await?.success()?;
        let mut admin = node.client(":the-password@").await?;
        ask(&mut admin, &format!("ACL SETUSER slow on {} allkeys +@all", hash.trim())).await?;
        let shown = node.caskctl(&["--user", "slow", "--pass", "slow", "get", "k"]).await?.success()?;
        ensure!(shown == "v", "{shown}");
        let mut guesses = Vec::new();
        // The node accepts about ten wrong guesses; during their delay the limit recovers by one or two.
        for _ in 0..20 {
            guesses.push(denial(&mut admin, "AUTH default wrong").await?);
            if guesses.last().is_some_and(|told| told.contains("Try again in")) {
                break;
            }
        }
        ensure!(
            guesses.iter().take(9).all(|told| told.contains("invalid username-password pair")),
            "{guesses:?}"
        );
        ensure!(guesses.last().is_some_and(|told| told.contains("Try again in")), "{guesses:?}");
        let refused = node.caskctl(&["--pass", "the-password", "get", "k"]).await?.refusal()?;
        ensure!(refused.contains("Try again in"), "the correct password is throttled too: {refused}");
        ask(&mut admin, "SET k still-here").await.context("a logged-in client stays logged in")?;
        let info = format!("{:?}", ask(&mut admin, "INFO stats").await?);
        ensure!(
            info.contains("acl_access_denied_auth:1") && !info.contains("caskade_auth_throttled:0"),
            "{info}"
        );
        Ok(())
    });
}

#[test]
fn clients_of_other_machines_are_rejected_until_a_password_is_set() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let Some(outside) = own_address()? else { return Ok(()) };
        let mut node = Lone::new()?;
        node.start("0.0.0.0").await?;
        let addr = format!("{outside}:{}", node.port);
        let mut told = String::new();
        TcpStream::connect(&addr).await?.read_to_string(&mut told).await?;
        ensure!(
            told.starts_with(
                "-DENIED Caskade is running in protected mode because protected mode is enabled"
            ),
            "{told}"
        );
        let mut here = node.client("").await?;
        ask(&mut here, "ACL SETUSER default >p").await?;
        let client = redis::Client::open(format!("redis://:p@{addr}/"))?;
        let mut there = client.get_multiplexed_async_connection().await?;
        ask(&mut there, "PING").await?;
        Ok(())
    });
}

/// Returns an address of this machine that is not loopback. If none exists, prints `SKIPPED`.
#[expect(clippy::print_stderr, reason = "reports a skipped test")]
fn own_address() -> Result<Option<std::net::IpAddr>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Sends nothing: the system only chooses a source address.
    if socket.connect("192.0.2.1:9").is_err() {
        eprintln!("SKIPPED: this machine has no address besides loopback");
        return Ok(None);
    }
    Ok(Some(socket.local_addr()?.ip()).filter(|ip| !ip.is_loopback()))
}

async fn make_certificates(node: &Lone) -> Result<()> {
    node.caskctl(&["cert", "node", "--dir", "tls", "--name", "node", "--name", "127.0.0.1"])
        .await?
        .success()?;
    Ok(())
}

#[test]
fn tls_requires_client_certificates_and_new_server_certificates_are_loaded() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let mut node = Lone::new()?;
        node.caskctl(&["cert", "ca", "--dir", "tls"]).await?.success()?;
        make_certificates(&node).await?;
        node.caskctl(&["cert", "client", "--dir", "tls"]).await?.success()?;
        let again = node.caskctl(&["cert", "ca", "--dir", "tls"]).await?.refusal()?;
        ensure!(again.contains("exists already"), "{again}");
        for key in ["ca", "node", "client"] {
            let mode = std::fs::metadata(node.path(&format!("tls/{key}.key")))?.permissions().mode();
            ensure!(mode & 0o777 == 0o600, "{key}: {mode:o}");
        }
        for (flag, file) in [("--tls-cert", "node.crt"), ("--tls-key", "node.key"), ("--tls-ca", "ca.crt")] {
            let path = node.path("tls").join(file);
            node.flag(flag, path);
        }
        node.flag("--tls-auth-clients", "yes");
        node.start("127.0.0.1").await?;
        let ours = ["--tls", "--cacert", "tls/ca.crt", "--cert", "tls/client.crt", "--key", "tls/client.key"];
        node.caskctl(&[&ours[..], &["set", "k", "v"]].concat()).await?.success()?;
        let shown = node.caskctl(&[&ours[..], &["get", "k"]].concat()).await?.success()?;
        ensure!(shown == "v", "{shown}");
        redis_cli(&node, &ours).await?;
        node.caskctl(&["--tls", "--cacert", "tls/ca.crt", "ping"])
            .await?
            .refusal()
            .context("no certificate")?;
        node.caskctl(&["--tls", "ping"]).await?.refusal().context("a CA that the system does not trust")?;
        plaintext_is_refused(&node).await?;
        let info = node.caskctl(&[&ours[..], &["ping"]].concat()).await?.success()?;
        ensure!(info.contains("PONG"), "{info}");
        certificates_are_taken_over(&node, &ours).await
    });
}

async fn redis_cli(node: &Lone, ours: &[&str]) -> Result<()> {
    if Command::new("redis-cli").arg("--version").output().is_err() {
        return Ok(());
    }
    let mut command = Command::new("redis-cli");
    command
        .args(["-h", "127.0.0.1", "-p", &node.port.to_string()])
        .args(ours)
        .current_dir(node.folder.path());
    let said = run_in(command.args(["INFO", "stats"])).await?.success()?;
    ensure!(said.contains("caskade_tls_handshakes_failed:0"), "{said}");
    Ok(())
}

async fn plaintext_is_refused(node: &Lone) -> Result<()> {
    let mut plain = TcpStream::connect(node.addr()).await?;
    plain.write_all(b"SET k stolen\r\nGET k\r\n").await?;
    let mut told = Vec::new();
    // The node sends a TLS alert, or closes the connection.
    drop(tokio::time::timeout(Duration::from_secs(10), plain.read_to_end(&mut told)).await?);
    ensure!(!told.windows(2).any(|pair| pair == b"OK"), "{told:?}");
    let ours = ["--tls", "--cacert", "tls/ca.crt", "--cert", "tls/client.crt", "--key", "tls/client.key"];
    let shown = node.caskctl(&[&ours[..], &["get", "k"]].concat()).await?.success()?;
    ensure!(shown == "v", "{shown}");
    if Command::new("redis-cli").arg("--version").output().is_ok() {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &node.port.to_string()]).args(ours).current_dir(node.folder.path());
        let said = run_in(command.args(["INFO", "stats"])).await?.success()?;
        ensure!(!said.contains("caskade_tls_handshakes_failed:0"), "{said}");
    }
    Ok(())
}

/// Replaces the node's certificate by one of another CA. While certificate and key do not match, the node
/// logs that and keeps the old pair; when they match, it uses the new pair.
async fn certificates_are_taken_over(node: &Lone, ours: &[&str]) -> Result<()> {
    node.caskctl(&["cert", "ca", "--dir", "new"]).await?.success()?;
    node.caskctl(&["cert", "node", "--dir", "new", "--name", "127.0.0.1"]).await?.success()?;
    std::fs::copy(node.path("new/127.0.0.1.crt"), node.path("tls/node.crt"))?;
    wait_until("the mismatched pair is logged", || {
        node.log().contains("the new certificates cannot be used")
    })
    .await?;
    node.caskctl(&[ours, &["ping"]].concat())
        .await?
        .success()
        .context("the old certificate is still used")?;
    std::fs::copy(node.path("new/127.0.0.1.key"), node.path("tls/node.key"))?;
    wait_until("the new pair is logged", || node.log().contains("new certificates are used")).await?;
    node.caskctl(&[ours, &["ping"]].concat())
        .await?
        .refusal()
        .context("the old CA did not sign the new one")?;
    let mut newer = ours.to_vec();
    newer.splice(1..3, ["--cacert", "new/ca.crt"]);
    node.caskctl(&[&newer[..], &["ping"]].concat()).await?.success()?;
    Ok(())
}

async fn wait_until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let begun = std::time::Instant::now();
    while !holds() {
        ensure!(begun.elapsed() < RELOADED_MAX, "{what}: not within {RELOADED_MAX:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Sends a memcached command and reads the answer: one line, or for values all lines up to `END`.
async fn say(stream: &mut TcpStream, command: &str) -> Result<String> {
    stream.write_all(command.as_bytes()).await?;
    let mut said = Vec::new();
    while !(said.ends_with(b"\r\n") && (!said.starts_with(b"VALUE") || said.ends_with(b"END\r\n"))) {
        ensure!(stream.read_buf(&mut said).await? > 0, "the connection ended after {said:?}");
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn memcached_clients_log_in_first_and_have_the_permissions_of_their_user() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let mut node = Lone::new()?;
        let port = free_port()?;
        node.flag("--memcached-listen", format!("127.0.0.1:{port}"));
        node.flag("--requirepass", "of everybody");
        node.start("127.0.0.1").await?;
        let mut admin = node.client(":of%20everybody@").await?;
        ask(&mut admin, "ACL SETUSER cache on >pw %R~shared:* ~own:* +get +set").await?;

        let connect = || TcpStream::connect(("127.0.0.1", port));
        let mut stream = connect().await?;
        for command in ["get own:k\r\n", "delete own:k\r\n", "flush_all\r\n", "stats\r\n", "mn\r\n"] {
            ensure!(say(&mut stream, command).await? == "CLIENT_ERROR unauthenticated\r\n", "{command}");
        }
        let login = |who: &str| format!("set auth 0 0 {}\r\n{who}\r\n", who.len());
        let wrong = say(&mut stream, &login("cache wrong")).await?;
        ensure!(wrong == "CLIENT_ERROR authentication failure\r\n", "{wrong}");
        ensure!(say(&mut stream, &login("cache pw")).await? == "STORED\r\n");
        ensure!(
            say(&mut stream, "get auth\r\n").await?.starts_with("CLIENT_ERROR NOPERM"),
            "the login was stored as a value"
        );
        ensure!(say(&mut stream, "set own:k 0 0 1\r\nv\r\n").await? == "STORED\r\n");
        ensure!(say(&mut stream, "get own:k\r\n").await? == "VALUE own:k 0 1\r\nv\r\nEND\r\n");
        for command in [
            "set shared:k 0 0 1\r\nv\r\n",
            "get own:k other\r\n",
            "delete own:k\r\n",
            "flush_all\r\n",
            "mg other v\r\n",
        ] {
            let said = say(&mut stream, command).await?;
            ensure!(said.starts_with("CLIENT_ERROR NOPERM"), "{command}: {said}");
        }
        ensure!(say(&mut stream, "get shared:k\r\n").await? == "END\r\n");

        let mut default = connect().await?;
        ensure!(say(&mut default, &login("default of everybody")).await? == "STORED\r\n");
        ensure!(say(&mut default, "flush_all\r\n").await? == "OK\r\n");
        ask(&mut admin, "ACL DELUSER cache").await?;
        ensure!(say(&mut stream, "get own:k\r\n").await.is_err(), "the user of the connection was deleted");
        node.stop().await
    });
}
