//! `casktop`: shows a Caskade cluster in the terminal, or prints one frame of it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use caskade_tui::model::Screen;
use caskade_tui::{Options, svg, view};
use clap::Parser;

/// The terminal dashboard of a Caskade cluster.
#[derive(Parser)]
#[command(name = "casktop", version)]
struct Args {
    /// Nodes to ask, their RESP ports; more are found through the first that answers.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "CASKADE_ADDR",
        value_delimiter = ',',
        default_value = "127.0.0.1:7900"
    )]
    addr: Vec<String>,
    /// Milliseconds between two rounds of questions.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    interval: u64,
    /// The screen to begin with: overview, ring, tasks, events or node.
    #[arg(long, value_name = "NAME", default_value = "overview")]
    screen: Screen,
    /// Print one frame of plain text and exit; with 1 if no node answers.
    #[arg(long)]
    once: bool,
    /// Columns of that frame [default: the terminal's, else 120].
    #[arg(long, value_name = "COLUMNS", requires = "once", value_parser = clap::value_parser!(u16).range(20..=500))]
    width: Option<u16>,
    /// Rows of that frame [default: the terminal's, else 40].
    #[arg(long, value_name = "ROWS", requires = "once", value_parser = clap::value_parser!(u16).range(10..=200))]
    height: Option<u16>,
    /// Rounds to ask before that frame, so that its curves have a history.
    #[arg(long, value_name = "COUNT", requires = "once", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=600))]
    rounds: u32,
    /// Write that frame with its colours to an SVG file instead of printing it.
    #[arg(long, value_name = "FILE", requires = "once")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "casktop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let options = Options {
        addrs: args.addr.clone(),
        interval_ms: args.interval,
        screen: args.screen,
        rounds: args.rounds,
    };
    if !args.once {
        return runtime.block_on(caskade_tui::run(options));
    }
    let (width, height) = size(&args);
    let frame = runtime.block_on(caskade_tui::frame(options, width, height))?;
    match &args.svg {
        Some(file) => std::fs::write(file, svg::render(&frame))
            .with_context(|| format!("{} cannot be written", file.display())),
        None => print(&view::text(&frame)),
    }
}

fn size(args: &Args) -> (u16, u16) {
    let of_terminal = std::io::stdout()
        .is_terminal()
        .then(crossterm::terminal::size)
        .and_then(Result::ok);
    // A row is left for the prompt that follows.
    let (width, height) = of_terminal.map_or((120, 40), |(width, height)| {
        (width.max(20), height.saturating_sub(1).max(10))
    });
    (args.width.unwrap_or(width), args.height.unwrap_or(height))
}

/// Prints the text. A reader that has gone away (`casktop --once | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("the frame cannot be written")
        }
        _ => Ok(()),
    }
}
