//! What comes to the ports for clients and is no client, or one too many: HTTP requests, probes of other protocols, more
//! connections than are allowed, and connections when no file is left for them. And what a node leaves for other users of
//! the machine to read: nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use caskade_tests::{
    Builder, Client, Cluster, Permit, Program, binary, eventually, with_cluster, with_limit,
};
use redis::{RedisResult, Value, cmd};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(120);
const READY_MAX: Duration = Duration::from_secs(30);
/// Within this the node must have closed a connection, or answered on it.
const CLOSED_MAX: Duration = Duration::from_secs(8);
/// Clients that may be served before one is turned away.
const SERVED_MAX: usize = 100;
const TOO_MANY: &str = "-ERR max number of clients reached\r\n";

/// Sends bytes and reads all that comes until the node closes the connection.
async fn conversation(addr: &str, sent: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    // A node that closes early resets the connection: what was read until then counts.
    drop(stream.write_all(sent).await);
    let mut told = Vec::new();
    let read = tokio::time::timeout(CLOSED_MAX, stream.read_to_end(&mut told)).await;
    ensure!(read.is_ok(), "{:?} to {addr}: still open after {CLOSED_MAX:?}", sent.escape_ascii().to_string());
    Ok(String::from_utf8_lossy(&told).into_owned())
}

async fn info(client: &mut Client, section: &str) -> Result<BTreeMap<String, String>> {
    let text: String = client.ask(cmd("INFO").arg(section)).await?;
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    Ok(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

async fn figure(client: &mut Client, section: &str, name: &str) -> Result<u64> {
    let fields = info(client, section).await?;
    Ok(fields.get(name).with_context(|| format!("INFO {section} has no {name}"))?.parse()?)
}

/// Requests as browsers and scripts send them. The body is what an attacker wants executed.
fn http_requests(body: &str) -> Vec<String> {
    let length = body.len();
    let with =
        |line: &str, headers: &str| format!("{line}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    vec![
        with("POST / HTTP/1.1", "Host: 127.0.0.1\r\nContent-Type: text/plain\r\n"),
        with("post / http", ""),
        with("PUT /x HTTP/1.1", "hOsT: here\r\n"),
        with("PUT /x HTTP/1.0", ""),
        with("OPTIONS * HTTP/1.1", "Host: here\r\n"),
        with("PATCH /x HTTP/1.0", ""),
        with("DELETE /x HTTP/1.1", ""),
        with("GET / HTTP/1.1", "Host: here\r\n"),
        with("GET / HTTP/1.0", ""),
        // Only the header gives it away.
        with("ECHO x", "Host: here\r\n"),
    ]
}

#[test]
fn http_requests_end_the_connection_and_nothing_of_their_bodies_is_executed() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let node = cluster.node(0)?;
        let (redis, memcached) = (node.addr(), node.memcached_addr());
        let (mut client, mut sent) = (node.client().await?, 0);
        for request in
            http_requests("SET evil 1\r\n*3\r\n$3\r\nSET\r\n$4\r\nevil\r\n$1\r\n1\r\nSET evil 1\r\n")
        {
            let told = conversation(&redis, request.as_bytes()).await?;
            ensure!(!told.contains("OK"), "{request}: {told}");
            sent += 1;
        }
        for request in http_requests("set evil 0 0 1\r\n1\r\nset evil 0 0 1\r\n1\r\n") {
            let told = conversation(&memcached, request.as_bytes()).await?;
            ensure!(!told.contains("STORED"), "{request}: {told}");
            sent += 1;
        }
        let evil: Option<String> = client.get("evil").await?;
        ensure!(evil.is_none() && client.ask::<u64>(&cmd("DBSIZE")).await? == 0, "something was written");
        ensure!(figure(&mut client, "stats", "caskade_http_requests_closed").await? == sent);

        // What stood before in the same input was asked for by commands, and is done and answered.
        let told = conversation(&redis, b"SET before 1\r\nGET before\r\nHost: x\r\nSET evil 1\r\n").await?;
        ensure!(["+OK\r\n$1\r\n1\r\n", ""].contains(&told.as_str()), "{told}");
        ensure!(client.get("before").await?.as_deref() == Some("1") && client.get("evil").await?.is_none());
        let told = conversation(&redis, b"MULTI\r\nSET evil 1\r\nPOST / HTTP/1.1\r\nEXEC\r\n").await?;
        ensure!(!told.contains("evil") && client.get("evil").await?.is_none(), "{told}");
        let lines = node.log().lines().filter(|line| line.contains("possible attack")).count();
        ensure!(lines == 1, "{lines} lines in the log: at most one a minute");
        // A value may look like anything.
        client.set("page", "POST / HTTP/1.1\r\nHost: x\r\n").await?;
        client.set("host:", "post").await
    });
}

#[test]
fn probe_of_the_binary_protocol_is_closed_at_once() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let addr = cluster.node(0)?.memcached_addr();
        // A whole NOOP, and the first byte of one: a client that waits for its answer must not wait for ever.
        let noop = [&[0x80, 0x0a][..], &[0; 22]].concat();
        for probe in [&noop[..], &[0x80]] {
            ensure!(conversation(&addr, probe).await?.is_empty());
        }
        let told = conversation(&addr, b"set k 0 0 1\r\n\x80\r\nget k\r\nquit\r\n").await?;
        ensure!(told.starts_with("STORED\r\nVALUE k 0 1\r\n"), "a value may begin so: {told}");
        Ok(())
    });
}

#[test]
fn one_client_too_many_is_told_so_and_operators_still_get_in() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let node = cluster.node(0)?;
        let mut admin = node.client().await?;
        let mut filled = vec![node.client().await?, node.client().await?];
        let open = 1 + filled.len() as u64;
        eventually("the connections of the start are gone", CLOSED_MAX, async || {
            let now = figure(&mut admin, "clients", "connected_clients").await?;
            ensure!(now == open, "{now} connections");
            Ok(())
        })
        .await?;
        admin.ask::<()>(cmd("CONFIG").arg("SET").arg("maxclients").arg(open)).await?;
        let total = figure(&mut admin, "stats", "total_connections_received").await?;

        ensure!(conversation(&node.addr(), b"").await? == TOO_MANY, "one that waits");
        ensure!(conversation(&node.addr(), b"PING\r\nGET k\r\n").await? == format!("+PONG\r\n{TOO_MANY}"));
        ensure!(conversation(&node.addr(), b"SET k v\r\nSET k v\r\n").await? == TOO_MANY);
        let told = conversation(&node.memcached_addr(), b"set k 0 0 1\r\nv\r\n").await?;
        ensure!(told == "ERROR Too many open connections\r\n", "{told}");
        ensure!(admin.get("k").await?.is_none());
        ensure!(figure(&mut admin, "stats", "rejected_connections").await? == 4);
        ensure!(figure(&mut admin, "stats", "total_connections_received").await? == total, "none was served");

        // caskctl, and an operator who has typed a command of administration and takes a while until the next.
        let mut command = Command::new(binary("caskctl")?);
        command.args(["--addr", &node.addr(), "status"]);
        caskade_tests::run(command).await?.success().context("caskctl status while the node is full")?;
        let mut operator = node.client().await?;
        ensure!(figure(&mut operator, "clients", "maxclients").await? == open);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let list: String = operator.ask(cmd("CLIENT").arg("LIST")).await?;
        ensure!(list.lines().count() as u64 == open + 1, "{list}");
        let read: RedisResult<Value> = operator.ask(cmd("GET").arg("k")).await;
        ensure!(read.is_err_and(|error| error.to_string().contains("max number of clients")));

        // There is room again as soon as a client goes.
        filled.pop();
        eventually("a client is served again", CLOSED_MAX, async || {
            node.client().await?.get("k").await.map(drop)
        })
        .await
    });
}

/// A cluster of one node, not started, and its program under a limit of open files.
fn start_with_files(cluster: &Cluster, files: u64, prefix: &Path) -> Result<Program> {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]).arg(binary("caskd")?);
    command.args(cluster.node(0)?.command_line());
    Program::start(command, prefix)
}

#[test]
fn with_few_open_files_a_node_says_how_many_clients_that_leaves_and_serves_them() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let (cluster, folder) = (Builder::new(1).prepare()?, tempfile::tempdir()?);
        let mut program = start_with_files(&cluster, 200, &folder.path().join("node"))?;
        program.wait_for_line(READY_MAX, |line| line.starts_with("ready")).await?;
        let node = cluster.node(0)?;
        let mut admin = node.client().await?;
        let most = figure(&mut admin, "clients", "maxclients").await?;
        ensure!((50..150).contains(&most), "{most} clients of 200 files");
        let said =
            format!("the system allows 200 open files, too few for max_clients = 10000: {most} clients");
        ensure!(program.output().contains(&said), "{}", program.output());

        let mut clients = Vec::new();
        while figure(&mut admin, "clients", "connected_clients").await? < most {
            let mut client = node.client().await?;
            client.set(&format!("k{}", clients.len()), "v").await?;
            clients.push(client);
        }
        ensure!(conversation(&node.addr(), b"GET k\r\n").await? == TOO_MANY);
        let more: RedisResult<Value> =
            admin.ask(cmd("CONFIG").arg("SET").arg("maxclients").arg(10_000)).await;
        ensure!(more.is_err_and(|error| error.to_string().contains(&format!("try with {most}"))));
        for client in &mut clients {
            ensure!(client.get("k0").await?.as_deref() == Some("v"));
        }
        ensure!(!program.output().contains("no file is left"));
        Ok(())
    });
}

/// The open files of a process, by number.
fn open_files(pid: u32) -> Result<BTreeMap<u64, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // One that was closed meanwhile leads nowhere.
        if let Ok(path) = std::fs::read_link(entry.path()) {
            files.insert(entry.file_name().to_string_lossy().parse::<u64>()?, path);
        }
    }
    Ok(files)
}

/// Returns the answer to a client for which no file is left. Clients that are served before it take the files
/// that are free: those of numbers between others, and those that the node had open for a moment.
async fn turned_away(addr: &str, asked: &[u8], answer: &str, served: &mut Vec<TcpStream>) -> Result<String> {
    for _ in 0..SERVED_MAX {
        let mut stream = TcpStream::connect(addr).await?;
        drop(stream.write_all(asked).await);
        let mut told = Vec::new();
        let end = async {
            while told != answer.as_bytes() && stream.read_buf(&mut told).await.is_ok_and(|read| read > 0) {}
        };
        let ended = tokio::time::timeout(CLOSED_MAX, end).await;
        ensure!(ended.is_ok(), "{addr} neither answered nor closed within {CLOSED_MAX:?}");
        if told != answer.as_bytes() {
            return Ok(String::from_utf8_lossy(&told).into_owned());
        }
        served.push(stream);
    }
    bail!("{addr} served {SERVED_MAX} clients and turned none away")
}

/// Whether a process that may open files with numbers below this one has all of them open.
fn are_used_up(pid: u32, files: u64) -> Result<bool> {
    let open = open_files(pid)?;
    Ok((0..files).all(|number| open.contains_key(&number)))
}

#[test]
fn client_that_finds_no_file_left_is_told_so() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let (cluster, folder) = (Builder::new(1).prepare()?, tempfile::tempdir()?);
        let mut program = start_with_files(&cluster, 4000, &folder.path().join("node"))?;
        program.wait_for_line(READY_MAX, |line| line.starts_with("ready")).await?;
        let node = cluster.node(0)?;
        let mut client = node.client().await?;
        client.set("k", "v").await?;
        // The limit is above the numbers of the node's spare files: one with a higher number could be closed
        // without making room.
        let pid = Pid::from_raw(i32::try_from(program.id())?).context("a process has an id")?;
        let limit = |files| Rlimit { current: Some(files), maximum: Some(4000) };
        let id = program.id();
        let is_spare = |(_, path): &(u64, PathBuf)| path == Path::new("/dev/null");
        let mut spares = open_files(id)?.into_iter().filter(is_spare);
        let (last_spare, _) = spares.next_back().context("it has spare files")?;
        let files = last_spare + 1;
        prlimit(Some(pid), Resource::Nofile, limit(files))?;
        let mut served = Vec::new();
        for addr in [node.addr(), node.addr(), node.addr()] {
            ensure!(turned_away(&addr, b"PING\r\n", "+PONG\r\n", &mut served).await? == TOO_MANY);
            // Until the node has opened its spare file again, one is free, and the next client may have it.
            eventually("no file is free", CLOSED_MAX, async || {
                ensure!(are_used_up(id, files)?, "some are free");
                Ok(())
            })
            .await?;
        }
        let told = turned_away(&node.memcached_addr(), b"mn\r\n", "MN\r\n", &mut served).await?;
        ensure!(told == "ERROR Too many open connections\r\n", "{told}");
        ensure!(client.get("k").await?.as_deref() == Some("v"), "those who are there are served");
        ensure!(figure(&mut client, "stats", "rejected_connections").await? == 4);
        // A thread of its own writes the log.
        eventually("the log says so", CLOSED_MAX, async || {
            let lines = program.output().matches("no file is left for another").count();
            ensure!((1..=2).contains(&lines), "{lines} lines: at most one for each port and ten seconds");
            Ok(())
        })
        .await?;
        prlimit(Some(pid), Resource::Nofile, limit(4000))?;
        ensure!(node.client().await?.get("k").await?.as_deref() == Some("v"));
        Ok(())
    });
}

/// Everything within a directory that others than its owner may read, write or enter.
fn open_to_others(dir: &Path, found: &mut Vec<String>, seen: &mut usize) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let (path, meta) = (entry.path(), entry.metadata()?);
        let mode = meta.permissions().mode() & 0o777;
        *seen += 1;
        if mode & 0o077 != 0 {
            found.push(format!("{mode:o} {}", path.display()));
        }
        if meta.is_dir() {
            open_to_others(&path, found, seen)?;
        }
    }
    Ok(())
}

#[test]
fn other_users_of_the_machine_can_read_nothing_that_a_node_makes() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let data = cluster.node(0)?.data_dir();
        let mut client = cluster.node(0)?.client().await?;
        client.set("secret", "value").await?;
        let snapshot = data.with_file_name("snapshot");
        client.ask::<String>(cmd("CASK.SNAPSHOT").arg(snapshot.display().to_string())).await?;
        drop(client);
        cluster.node_mut(0)?.restart().await?;
        let (mut found, mut seen) = (Vec::new(), 0);
        open_to_others(&data, &mut found, &mut seen)?;
        open_to_others(&snapshot, &mut found, &mut seen)?;
        for dir in [&data, &snapshot] {
            let mode = std::fs::metadata(dir)?.permissions().mode() & 0o777;
            ensure!(mode == 0o700, "{mode:o} {}", dir.display());
        }
        ensure!(seen > 8 && found.is_empty(), "of {seen}: {found:?}");
        Ok(())
    });
}
