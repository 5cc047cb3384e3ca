//! Whole connections as a client sees them: replies in order, commands that see the effects of those before
//! them, Redis's texts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::frontend::limits::ClientLimits;
use crate::frontend::testing::{self, Memory, ask};

/// Serves a front end on a free port. It ends when the sender is dropped.
async fn serve(limits: ClientLimits) -> (TcpStream, SocketAddr, watch::Sender<bool>) {
    let (listener, addr) = testing::listen().await;
    let (stop, stopping) = watch::channel(false);
    let memory = Arc::new(Memory::of_values_to(limits.value_bytes_max));
    tokio::spawn(super::serve(memory, testing::context(limits), listener, stopping));
    (TcpStream::connect(addr).await.unwrap(), addr, stop)
}

fn limits() -> ClientLimits {
    ClientLimits {
        connections_max: 10.into(),
        pipeline_max: 8,
        value_bytes_max: 1 << 20,
        debug_commands: true,
        ..ClientLimits::default()
    }
}

#[tokio::test]
async fn commands_answer_as_in_redis() {
    let (mut stream, _, _stop) = serve(limits()).await;
    let cases = [
        ("PING\r\n", "+PONG\r\n"),
        ("ping hi\r\n", "$2\r\nhi\r\n"),
        ("ECHO a\r\n", "$1\r\na\r\n"),
        ("SET k v\r\n", "+OK\r\n"),
        ("GET k\r\n", "$1\r\nv\r\n"),
        ("SET k w NX\r\n", "$-1\r\n"),
        ("SET k w XX GET\r\n", "$1\r\nv\r\n"),
        ("SET k w XX NX\r\n", "-ERR syntax error\r\n"),
        ("SET k w EX 1 PX 1\r\n", "-ERR syntax error\r\n"),
        ("SET k w EX\r\n", "-ERR syntax error\r\n"),
        ("SET k w EX 0\r\n", "-ERR invalid expire time in 'set' command\r\n"),
        ("SET k w EX 9223372036854775807\r\n", "-ERR invalid expire time in 'set' command\r\n"),
        ("SET k w EX x\r\n", "-ERR value is not an integer or out of range\r\n"),
        ("SET k w PX 100000\r\n", "+OK\r\n"),
        ("TTL k\r\n", ":100\r\n"),
        ("SET k w KEEPTTL\r\n", "+OK\r\n"),
        ("TTL k\r\n", ":100\r\n"),
        ("PERSIST k\r\n", ":1\r\n"),
        ("PTTL k\r\n", ":-1\r\n"),
        ("TTL none\r\n", ":-2\r\n"),
        ("EXPIRE k 10 HUH\r\n", "-ERR Unsupported option HUH\r\n"),
        ("EXPIRE k -1\r\n", ":1\r\n"),
        ("EXISTS k k none\r\n", ":0\r\n"),
        ("INCR n\r\n", ":1\r\n"),
        ("DECRBY n 3\r\n", ":-2\r\n"),
        ("DECRBY n -9223372036854775808\r\n", "-ERR decrement would overflow\r\n"),
        ("SET s text\r\n", "+OK\r\n"),
        ("INCR s\r\n", "-ERR value is not an integer or out of range\r\n"),
        ("MSET a 1 a 2 b 3\r\n", "+OK\r\n"),
        ("MSET a 1 b\r\n", "-ERR wrong number of arguments for 'mset' command\r\n"),
        ("MGET a none b\r\n", "*3\r\n$1\r\n2\r\n$-1\r\n$1\r\n3\r\n"),
        ("DEL a a b none\r\n", ":2\r\n"),
        ("TYPE s\r\n", "+string\r\n"),
        ("DBSIZE\r\n", ":2\r\n"),
        ("SCAN 0 COUNT 1 MATCH n*\r\n", "*2\r\n$19\r\n8286623314361712640\r\n*1\r\n$1\r\nn\r\n"),
        ("SCAN x\r\n", "-ERR invalid cursor\r\n"),
        ("SELECT 0\r\n", "+OK\r\n"),
        ("SELECT 1\r\n", "-ERR SELECT is not allowed in cluster mode\r\n"),
        ("GET\r\n", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("FOO a b\r\n", "-ERR unknown command 'FOO', with args beginning with: 'a' 'b' \r\n"),
        ("CLIENT FOO\r\n", "-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n"),
        ("CLIENT SETNAME\r\n", "-ERR wrong number of arguments for 'client|setname' command\r\n"),
        ("CLIENT SETNAME me\r\n", "+OK\r\n"),
        ("CLIENT GETNAME\r\n", "$2\r\nme\r\n"),
        ("CLUSTER KEYSLOT {user1000}.following\r\n", ":3443\r\n"),
        ("DEBUG SLEEP 0\r\n", "+OK\r\n"),
        (
            "CONFIG REWRITE\r\n",
            "-ERR CONFIG REWRITE is refused: a node does not write its settings file; nothing was changed. \
             Edit the file by hand (`caskd config` prints all settings)\r\n",
        ),
        ("CONFIG GET sync\r\n", "*2\r\n$4\r\nsync\r\n$6\r\nalways\r\n"),
        ("COMMAND GETKEYS MSET a 1 b 2\r\n", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("HELLO 4\r\n", "-NOPROTO unsupported protocol version\r\n"),
        ("GET refused\r\n", "-TRYAGAIN no  primary\r\n"),
        ("SET slow-lost 1\r\n", "-UNKNOWN the outcome of this write is not known: "),
    ];
    for (request, expected) in cases {
        ask(&mut stream, request, expected).await;
    }
}

const NOPERM_KEY: &str = "-NOPERM No permissions to access a key\r\n";
/// Commands on users, rules and log-ins of one connection, with the beginnings of the replies.
const USERS: &[(&str, &str)] = &[
    (
        "AUTH x\r\n",
        "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n",
    ),
    ("AUTH default x\r\n", "+OK\r\n"),
    ("AUTH a b c\r\n", "-ERR syntax error\r\n"),
    ("ACL LIST\r\n", "*1\r\n$34\r\nuser default on nopass ~* &* +@all\r\n"),
    ("ACL SETUSER a on >p ~k* %R~r* +@read -get +set (+get ~g)\r\n", "+OK\r\n"),
    (
        "ACL SETUSER a +nothing\r\n",
        "-ERR Error in ACL SETUSER modifier '+nothing': Unknown command or category name in ACL\r\n",
    ),
    ("ACL USERS\r\n", "*2\r\n$1\r\na\r\n$7\r\ndefault\r\n"),
    ("ACL WHOAMI\r\n", "$7\r\ndefault\r\n"),
    ("ACL GETUSER nobody\r\n", "$-1\r\n"),
    ("ACL DRYRUN a del k\r\n", "$50\r\nUser a has no permissions to run the 'del' command\r\n"),
    ("ACL DRYRUN a set x v\r\n", "$47\r\nUser a has no permissions to access the 'x' key\r\n"),
    ("ACL DRYRUN a strlen k\r\n", "+OK\r\n"),
    ("ACL DRYRUN b get k\r\n", "-ERR User 'b' not found\r\n"),
    ("ACL DRYRUN a foo\r\n", "-ERR Command 'foo' not found\r\n"),
    (
        "ACL GENPASS 0\r\n",
        "-ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096\r\n",
    ),
    ("ACL CAT nothing\r\n", "-ERR Unknown category 'nothing'\r\n"),
    ("ACL DELUSER default\r\n", "-ERR The 'default' user cannot be removed\r\n"),
    ("ACL WHOAMI x\r\n", "-ERR wrong number of arguments for 'acl|whoami' command\r\n"),
    ("ACL FOO\r\n", "-ERR unknown subcommand 'FOO'. Try ACL HELP.\r\n"),
    ("AUTH a wrong\r\n", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
    ("ACL WHOAMI\r\n", "$7\r\ndefault\r\n"),
    ("AUTH a p\r\n", "+OK\r\n"),
    ("SET k1 v\r\n", "+OK\r\n"),
    ("SET k1 v GET\r\n", "$1\r\nv\r\n"),
    ("SET x v\r\n", NOPERM_KEY),
    ("SET r v\r\n", NOPERM_KEY),
    ("MGET k1 r\r\n", "*2\r\n$1\r\nv\r\n$-1\r\n"),
    ("MGET k1 x\r\n", NOPERM_KEY),
    ("GET g\r\n", "$-1\r\n"),
    ("DEL k1\r\n", "-NOPERM User a has no permissions to run the 'del' command\r\n"),
    ("ACL WHOAMI\r\n", "-NOPERM User a has no permissions to run the 'acl|whoami' command\r\n"),
    ("FOO\r\n", "-ERR unknown command 'FOO', with args beginning with: \r\n"),
    ("GET\r\n", "-ERR wrong number of arguments for 'get' command\r\n"),
    ("AUTH default x\r\n", "+OK\r\n"),
    ("ACL SETUSER default >q\r\n", "+OK\r\n"),
    ("GET k1\r\n", "$1\r\nv\r\n"),
];

/// Checks log-ins, rules and denials on successive connections to one node.
#[tokio::test]
async fn users_are_as_in_redis() {
    let (mut stream, addr, _stop) = serve(limits()).await;
    for (request, expected) in USERS {
        ask(&mut stream, request, expected).await;
    }
    let mut later = TcpStream::connect(addr).await.unwrap();
    for (request, expected) in [
        ("GET k1\r\n", "-NOAUTH Authentication required.\r\n"),
        (
            "HELLO 3\r\n",
            "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option",
        ),
    ] {
        ask(&mut later, request, expected).await;
    }
    let mut hello = TcpStream::connect(addr).await.unwrap();
    ask(
        &mut hello,
        "HELLO 3 AUTH a wrong\r\n",
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    )
    .await;
    ask(&mut hello, "HELLO 2 AUTH a p SETNAME me\r\n", "*14\r\n$6\r\nserver\r\n").await;
    ask(&mut stream, "ACL DELUSER a nobody\r\n", ":1\r\n").await;
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(5), hello.read_to_end(&mut rest)).await;
    cut.expect("the connection of a deleted user must end").unwrap();
    let mut logged = Vec::new();
    stream.write_all(b"ACL LOG 1\r\nQUIT\r\n").await.unwrap();
    stream.read_to_end(&mut logged).await.unwrap();
    let logged = String::from_utf8(logged).unwrap();
    assert!(
        logged.starts_with("*1\r\n*20\r\n$5\r\ncount\r\n:1\r\n$6\r\nreason\r\n$4\r\nauth\r\n"),
        "{logged}"
    );
    assert!(logged.contains("$5\r\nHELLO\r\n$8\r\nusername\r\n$1\r\na\r\n"), "{logged}");
}

#[tokio::test]
async fn client_kill_ends_the_connections_of_one_user() {
    let (mut operator, addr, _stop) = serve(limits()).await;
    ask(&mut operator, "ACL SETUSER alice on nopass ~* +@all\r\n", "+OK\r\n").await;
    ask(&mut operator, "CLIENT KILL USER alice\r\n", ":0\r\n").await;
    ask(&mut operator, "CLIENT KILL USER nobody\r\n", "-ERR No such user 'nobody'\r\n").await;
    let (mut one, mut two) =
        (TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap());
    for stream in [&mut one, &mut two] {
        ask(stream, "AUTH alice x\r\n", "+OK\r\n").await;
    }
    ask(&mut operator, "CLIENT KILL USER alice\r\n", ":2\r\n").await;
    for mut stream in [one, two] {
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 8])).await;
        assert_eq!(end.expect("the connection must end").unwrap(), 0);
    }
    ask(&mut operator, "PING\r\n", "+PONG\r\n").await;
}

#[tokio::test]
async fn calls_are_counted_by_command() {
    let (mut stream, _, _stop) = serve(limits()).await;
    ask(
        &mut stream,
        "SET a x\r\nINCR a\r\nSET slow 1\r\nGET\r\nSET slow 2\r\n",
        "+OK\r\n-ERR value is not an integer",
    )
    .await;
    let rest = " or out of range\r\n+OK\r\n-ERR wrong number of arguments for 'get' command\r\n+OK\r\n";
    ask(&mut stream, "", rest).await;
    // CONFIG SET takes both names of a setting, and CONFIG GET returns the present value.
    ask(&mut stream, "CONFIG SET client_idle_s 9 maxclients 11\r\n", "+OK\r\n").await;
    ask(&mut stream, "CONFIG GET timeout\r\n", "*2\r\n$7\r\ntimeout\r\n$1\r\n9\r\n").await;
    stream.write_all(b"INFO commandstats\r\n").await.unwrap();
    let mut told = vec![0; 4096];
    let len = stream.read(&mut told).await.unwrap();
    let told = String::from_utf8_lossy(&told[..len]).into_owned();
    for (command, calls, ends) in [
        ("set", 3, "rejected_calls=0,failed_calls=0"),
        ("incr", 1, "rejected_calls=0,failed_calls=1"),
        ("get", 0, "rejected_calls=1,failed_calls=0"),
        ("config|set", 1, "rejected_calls=0,failed_calls=0"),
    ] {
        let begin = format!("cmdstat_{command}:calls={calls},usec=");
        let line = told.lines().find(|line| line.starts_with(&begin));
        assert!(line.is_some_and(|line| line.ends_with(ends)), "{told}");
    }
    ask(&mut stream, "CONFIG RESETSTAT\r\n", "+OK\r\n").await;
}

#[tokio::test]
async fn resp3_applies_from_hello_on() {
    let (mut stream, _, _stop) = serve(limits()).await;
    let greeting =
        "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$5\r\nproto\r\n:3\r\n";
    ask(&mut stream, "GET a\r\nHELLO 3\r\n", &format!("$-1\r\n{greeting}")).await;
    let rest = "$2\r\nid\r\n:1\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";
    ask(&mut stream, "GET a\r\n", &format!("{rest}_\r\n")).await;
}

#[tokio::test]
async fn a_pipeline_keeps_the_order_of_its_commands_and_each_sees_those_before_it() {
    let (mut stream, _, _stop) = serve(limits()).await;
    let (mut request, mut expected) = (String::new(), String::new());
    for number in 1..=100 {
        request.push_str(&format!("SET slow{} {number}\r\nGET slow{}\r\n", number % 3, number % 3));
        request.push_str(&format!("INCR slow-n\r\nPING {number}\r\nEXISTS slow-n fast\r\n"));
        let text = number.to_string();
        let bulk = format!("${}\r\n{text}\r\n", text.len());
        expected.push_str(&format!("+OK\r\n{bulk}:{number}\r\n{bulk}:1\r\n"));
    }
    ask(&mut stream, &format!("{request}DBSIZE\r\n"), &format!("{expected}:4\r\n")).await;
}

/// The answer that the next command waits for may arrive before the connection begins to wait for it.
#[tokio::test]
async fn a_pipeline_on_one_key_never_stalls() {
    let (mut stream, _, _stop) = serve(limits()).await;
    let request = "INCR slow-but-there\r\n".repeat(3);
    ask(&mut stream, &request, ":1\r\n:2\r\n:3\r\n").await;
}

#[tokio::test]
async fn a_command_of_many_keys_is_executed_in_steps() {
    let (mut stream, _, _stop) = serve(limits()).await;
    let keys: Vec<String> = (0..2000).map(|number| format!("slow{number}")).collect();
    let pairs: Vec<String> = keys.iter().map(|key| format!("{key} v")).collect();
    ask(&mut stream, &format!("MSET {}\r\n", pairs.join(" ")), "+OK\r\n").await;
    ask(&mut stream, &format!("EXISTS {}\r\n", keys.join(" ")), ":2000\r\n").await;
}

#[tokio::test]
async fn input_that_is_not_resp_gets_an_error_and_ends_the_connection() {
    let (mut stream, _, _stop) = serve(limits()).await;
    ask(&mut stream, "SET slow 1\r\n*x\r\n", "+OK\r\n-ERR Protocol error: invalid multibulk length\r\n")
        .await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn one_connection_too_many_gets_the_error() {
    let limits = ClientLimits { connections_max: 1.into(), ..limits() };
    let (mut first, addr, _stop) = serve(limits).await;
    ask(&mut first, "PING\r\n", "+PONG\r\n").await;
    let mut second = TcpStream::connect(addr).await.unwrap();
    ask(&mut second, "", "-ERR max number of clients reached\r\n").await;
    ask(&mut first, "PING\r\n", "+PONG\r\n").await;
}

#[tokio::test]
async fn a_stop_answers_the_commands_that_were_read_and_closes() {
    let (mut stream, _, stop) = serve(limits()).await;
    ask(&mut stream, "PING\r\n", "+PONG\r\n").await;
    stream.write_all(b"SET slow 1\r\nQUIT\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(stop);
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    assert!(["", "+OK\r\n+OK\r\n"].contains(&told.as_str()), "{told}");
}

/// Returns a SET of `len` bytes, and the same without the last byte of its value.
fn set_and_its_begin(key: &str, len: usize) -> (String, String) {
    let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${len}\r\n", key.len());
    (format!("{head}{}\r\n", "v".repeat(len)), format!("{head}{}", "v".repeat(len - 1)))
}

#[tokio::test]
async fn reply_over_the_limit_is_refused() {
    let (mut stream, _, _stop) = serve(limits()).await;
    ask(&mut stream, &set_and_its_begin("a", 1 << 20).0, "+OK\r\n").await;
    ask(&mut stream, &set_and_its_begin("slow", 1 << 20).0, "+OK\r\n").await;
    let refusal = "-ERR the reply would be longer than 17825792 bytes: ask for less at once\r\n";
    for key in [" a", " slow"] {
        ask(&mut stream, &format!("MGET{}\r\n", key.repeat(18)), refusal).await;
        ask(&mut stream, &format!("MGET{}\r\n", key.repeat(1200)), refusal).await;
        ask(&mut stream, &format!("MGET{} none\r\n", key.repeat(2)), "*3\r\n$1048576\r\nvvv").await;
        let mut rest = vec![0; "*3\r\n$1048576\r\n\r\n$1048576\r\n\r\n$-1\r\n".len() + (2 << 20) - 17];
        stream.read_exact(&mut rest).await.unwrap();
        ask(&mut stream, "PING\r\n", "+PONG\r\n").await;
    }
}

#[tokio::test]
async fn large_requests_have_a_bound_together_and_small_ones_are_served_beside_them() {
    let limits = ClientLimits { buffer_bytes_max: 3 << 20, ..limits() };
    let (mut first, addr, _stop) = serve(limits).await;
    let (whole, begin) = set_and_its_begin("a", 1 << 20);
    let mut open = Vec::new();
    let mut told = String::new();
    // Buffers grow by doubling: each holds from one MiB to two.
    while told.is_empty() && open.len() < 10 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        ask(&mut first, "PING\r\n", "+PONG\r\n").await;
        // A rejected connection gets the error and closes; the others wait for the rest of their value.
        let read = tokio::time::timeout(Duration::from_millis(500), stream.read_to_string(&mut told));
        match read.await {
            // A socket closed with unread bytes sends a reset, which may overtake the error.
            Ok(Ok(_) | Err(_)) => break,
            Err(_) => open.push(stream),
        }
    }
    assert!((1..4).contains(&open.len()), "{}", open.len());
    assert!(told.is_empty() || told.starts_with("-ERR out of memory"), "{told}");
    // The connections that were not rejected are served to the end, and free the memory.
    for mut stream in open {
        ask(&mut stream, "v\r\nPING\r\n", "+OK\r\n+PONG\r\n").await;
    }
    ask(&mut first, &whole, "+OK\r\n").await;
}

#[tokio::test]
async fn clients_that_have_not_logged_in_have_redis_smaller_limits() {
    let (mut stream, addr, _stop) = serve(limits()).await;
    ask(&mut stream, "ACL SETUSER default resetpass >pw\r\n", "+OK\r\n").await;
    for (request, reply) in [
        ("*11\r\n", "-ERR Protocol error: unauthenticated multibulk length\r\n"),
        ("*2\r\n$4\r\nAUTH\r\n$16385\r\n", "-ERR Protocol error: unauthenticated bulk length\r\n"),
    ] {
        let mut stranger = TcpStream::connect(addr).await.unwrap();
        ask(&mut stranger, request, reply).await;
        assert_eq!(stranger.read(&mut [0; 8]).await.unwrap(), 0);
    }
    // Commands that arrive in one piece with the log-in have the limits of logged-in clients.
    let mut friend = TcpStream::connect(addr).await.unwrap();
    let large = set_and_its_begin("a", 100_000).0;
    ask(&mut friend, &format!("AUTH pw\r\n{large}PING\r\n"), "+OK\r\n+OK\r\n+PONG\r\n").await;
}
