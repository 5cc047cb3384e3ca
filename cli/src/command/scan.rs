//! Prints all keys as a stream: memory holds one answer at a time.

use redis::Cmd;

use crate::args::ScanArgs;
use crate::client::{Addr, Client};
use crate::exit::Exit;
use crate::output::{Output, json_bytes};

/// Prints keys until the node returns cursor 0 or the limit is reached.
///
/// A key can be printed twice while the cluster moves data, as SCAN permits.
pub(crate) async fn run(addr: &Addr, scan: &ScanArgs, out: &mut Output) -> anyhow::Result<Exit> {
    let mut client = Client::connect(addr).await?;
    let mut left = scan.limit.unwrap_or(u64::MAX);
    let mut cursor = "0".to_owned();
    while left > 0 {
        let (next, keys): (String, Vec<Vec<u8>>) = client.ask(&step(scan, &cursor)).await?;
        for key in keys {
            if left == 0 {
                break;
            }
            left -= 1;
            print_key(&key, out)?;
        }
        out.flush()?;
        if next == "0" {
            break;
        }
        cursor = next;
    }
    Ok(Exit::Done)
}

fn step(scan: &ScanArgs, cursor: &str) -> Cmd {
    let mut command = redis::cmd("SCAN");
    command.arg(cursor);
    if let Some(pattern) = &scan.pattern {
        command.arg("MATCH").arg(pattern.as_encoded_bytes());
    }
    command.arg("COUNT").arg(scan.count);
    command
}

fn print_key(key: &[u8], out: &mut Output) -> std::io::Result<()> {
    if out.json {
        return out.line(&json_bytes(key).to_string());
    }
    out.raw(key)?;
    out.raw(b"\n")
}
