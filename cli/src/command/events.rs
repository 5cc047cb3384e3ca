//! Prints the events of the cluster.

use std::collections::HashSet;
use std::time::Duration;

use caskade_api::Event;
use caskade_tui::units::{self, short};
use serde_json::Value;

use crate::args::EventsArgs;
use crate::client::{Addr, Client};
use crate::exit::Exit;
use crate::output::Output;

/// Interval of the requests with `--follow`.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// Prints the newest events. With `--follow`, prints later events too, one JSON or text line each, until it
/// is interrupted.
pub(crate) async fn run(addr: &Addr, args: &EventsArgs, out: &mut Output) -> anyhow::Result<Exit> {
    let mut client = Client::connect(addr).await?;
    let mut command = redis::cmd("CASK.EVENTS");
    command.arg(args.max);
    let mut seen: HashSet<String> = HashSet::new();
    loop {
        let json = client.question(&command).await?;
        if out.json && !args.follow {
            out.line(&json)?;
        } else {
            let answer: Vec<Value> = client.read(&json)?;
            let texts: Vec<String> = answer.iter().map(Value::to_string).collect();
            for text in texts.iter().filter(|text| !seen.contains(*text)) {
                if out.json { out.line(text)? } else { out.line(&line(&client.read(text)?))? }
            }
            seen = texts.into_iter().collect();
        }
        out.flush()?;
        if !args.follow {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

fn line(event: &Event) -> String {
    let Event { time_ms, epoch, severity, kind, node, message } = event;
    let who = if node.is_empty() { String::new() } else { format!("[{}] ", short(node)) };
    format!("{}  epoch {epoch:<5} {severity:<7} {kind:<11} {who}{message}", units::date_and_time(*time_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_line_names_time_epoch_severity_kind_and_node() {
        let event = Event {
            time_ms: 951_782_399_001,
            epoch: 12,
            severity: "warning".into(),
            kind: "failover".into(),
            node: "12D3KooWxxQ7vTnm".into(),
            message: "lease has run out".into(),
        };
        assert_eq!(
            line(&event),
            "2000-02-28 23:59:59.001  epoch 12    warning failover    [Q7vTnm] lease has run out"
        );
    }
}
