//! `casktop`: shows a Caskade cluster in the terminal, or prints one frame of it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use caskade_tui::login::LoginArgs;
use caskade_tui::model::Screen;
use caskade_tui::{Options, svg, view};
use clap::Parser;

/// Terminal dashboard of a Caskade cluster.
#[derive(Parser)]
#[command(name = "casktop", version, after_help = EXAMPLES)]
struct Args {
    /// Client addresses of nodes, separated by commas; the first node that answers names the others.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "CASKADE_ADDR",
        value_delimiter = ',',
        default_value = "127.0.0.1:7900"
    )]
    addr: Vec<String>,
    /// Milliseconds between two rounds of requests.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    interval: u64,
    /// The first screen: overview, ring, tasks, events or node.
    #[arg(long, value_name = "NAME", default_value = "overview")]
    screen: Screen,
    /// Print one frame of plain text and exit; exit code 1 if no node answers.
    #[arg(long)]
    once: bool,
    /// Write one frame with its colours as an SVG file and exit; exit code 1 if no node answers.
    #[arg(long, value_name = "FILE", conflicts_with = "once")]
    svg: Option<PathBuf>,
    /// Columns and rows of that frame [default: the size of the terminal, else 120x40].
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Number of rounds of requests before that frame, so that its curves have a history.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=600))]
    rounds: u32,
    #[command(flatten)]
    login: LoginArgs,
}

const EXAMPLES: &str = "Examples:
  casktop --addr db1:7900,db2:7900
  casktop --once --screen ring --size 120x40";

/// Size of a frame in columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    width: u16,
    height: u16,
}

impl Size {
    const DEFAULT: Self = Self { width: 120, height: 40 };
    const MIN: Self = Self { width: 20, height: 10 };
    const MAX: Self = Self { width: 500, height: 200 };
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(['x', 'X']);
        let size = parts.and_then(|(width, height)| {
            Some(Self { width: width.parse().ok()?, height: height.parse().ok()? })
        });
        let within = |size: &Self| {
            (Self::MIN.width..=Self::MAX.width).contains(&size.width)
                && (Self::MIN.height..=Self::MAX.height).contains(&size.height)
        };
        size.filter(within).ok_or_else(|| {
            let (min, max) = (Self::MIN, Self::MAX);
            format!(
                "'{text}' is not a size; write columns x rows, such as 120x40, from {}x{} to {}x{}",
                min.width, min.height, max.width, max.height
            )
        })
    }
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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let options = Options {
        addrs: args.addr.clone(),
        interval_ms: args.interval,
        screen: args.screen,
        rounds: args.rounds,
        login: args.login.read()?,
        ..Options::default()
    };
    if !args.once && args.svg.is_none() {
        return runtime.block_on(caskade_tui::run(options));
    }
    let Size { width, height } = args.size.unwrap_or_else(size_of_terminal);
    let frame = runtime.block_on(caskade_tui::frame(options, width, height))?;
    match &args.svg {
        Some(file) => std::fs::write(file, svg::render(&frame))
            .with_context(|| format!("cannot write the picture {}", file.display())),
        None => print(&view::text(&frame)),
    }
}

fn size_of_terminal() -> Size {
    if !std::io::stdout().is_terminal() {
        return Size::DEFAULT;
    }
    // Leave one row for the shell prompt after the frame.
    crossterm::terminal::size().map_or(Size::DEFAULT, |(width, height)| Size {
        width: width.clamp(Size::MIN.width, Size::MAX.width),
        height: height.saturating_sub(1).clamp(Size::MIN.height, Size::MAX.height),
    })
}

/// Prints the text. A closed output pipe (`casktop --once | head`) is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the frame")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_columns_by_rows_within_bounds() {
        assert_eq!("80x24".parse(), Ok(Size { width: 80, height: 24 }));
        for text in ["", "80", "80x", "x24", "19x24", "80x9", "501x24", "80x201", "-1x5", "80x24x2"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["casktop", "--svg", "f.svg", "--size", "120x40"]).is_ok());
        assert!(Args::try_parse_from(["casktop", "--once", "--svg", "f.svg"]).is_err());
    }
}
