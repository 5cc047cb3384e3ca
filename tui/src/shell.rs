//! The event loop: reads keys, signals and the clock, asks the nodes, draws.
//!
//! A task of its own asks the nodes, so that a slow node never blocks the screen.

use std::io::IsTerminal;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crossterm::event::{self, Event};
use ratatui::buffer::Buffer;
use ratatui::style::Color;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::login::Login;
use crate::model::{Model, Notice, Screen};
use crate::source::Source;
use crate::terminal::{self, Taken};
use crate::theme::Level;
use crate::update::{Effect, Message, update};
use crate::view;

/// Capacity of the queues; senders wait while a queue is full.
const QUEUE: usize = 64;
/// Interval at which ages are redrawn, in milliseconds.
const TICK_MS: u64 = 250;
/// Interval at which the keyboard thread checks whether the dashboard still runs, in milliseconds.
const KEYS_MS: u64 = 200;
/// Minimum interval between two rounds, in milliseconds.
const INTERVAL_MS_MIN: u64 = 100;

/// Nodes to ask, and what to show of them.
#[derive(Clone, Debug)]
pub struct Options {
    /// Client addresses of nodes, `HOST:PORT`; the first is asked first.
    pub addrs: Vec<String>,
    /// Milliseconds between two rounds of requests; at least 100.
    pub interval_ms: u64,
    /// The first screen.
    pub screen: Screen,
    /// For [`once`] and [`frame`]: number of rounds before the frame is drawn, so that its curves have a
    /// history.
    pub rounds: u32,
    /// Message shown in the last line for the first [`NOTICE_MS`](crate::model::NOTICE_MS) milliseconds.
    pub notice: Option<String>,
    /// The login to use.
    pub login: Login,
}

/// A future of this crate. Boxed, because a future is compiled in the crate that makes it an object or polls
/// it: so `caskctl` and `casktop` do not each compile the dashboard.
pub type Boxed<T> = Pin<Box<dyn Future<Output = anyhow::Result<T>>>>;

impl Default for Options {
    fn default() -> Self {
        Self {
            addrs: vec!["127.0.0.1:7900".to_owned()],
            interval_ms: 1000,
            screen: Screen::default(),
            rounds: 1,
            notice: None,
            login: Login::default(),
        }
    }
}

impl From<&str> for Options {
    /// Parses one address, or several separated by commas.
    fn from(addrs: &str) -> Self {
        let addrs =
            addrs.split(',').map(str::trim).filter(|addr| !addr.is_empty()).map(str::to_owned).collect();
        Self { addrs, ..Self::default() }
    }
}

impl Options {
    fn checked(mut self) -> anyhow::Result<Self> {
        if self.addrs.is_empty() {
            bail!("no node address; name one with --addr HOST:PORT");
        }
        self.interval_ms = self.interval_ms.max(INTERVAL_MS_MIN);
        Ok(self)
    }
}

/// Shows the dashboard until the operator leaves it or the process receives a stop signal.
///
/// # Errors
/// Standard input or output is not a terminal, or the terminal fails. A cluster that does not answer is not
/// an error: the dashboard shows the failure and asks again.
pub fn run(options: Options) -> Boxed<()> {
    Box::pin(show(options))
}

async fn show(options: Options) -> anyhow::Result<()> {
    let options = options.checked()?;
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("the dashboard needs a terminal; print one frame of text with --once");
    }
    // Install the handlers before taking the terminal: a signal must end the loop, which restores the
    // terminal.
    let mut signals = Signals::new().context("cannot install signal handlers")?;
    let mut taken = Taken::take().context("cannot set up the terminal")?;
    let (messages, mut inbox) = mpsc::channel(QUEUE);
    let (effects, effects_of_source) = mpsc::channel(QUEUE);
    let asking = tokio::spawn(ask(options.clone(), messages.clone(), effects_of_source));
    let reading = std::thread::spawn(move || read_keys(&messages));
    let start = Instant::now();
    let mut model = Model::new(options.interval_ms, options.screen);
    model.notice = options.notice.map(|text| Notice { level: Level::Good, text, at_ms: 0 });
    let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
    let result = loop {
        if let Err(error) = draw(&mut taken, &model) {
            break Err(error).context("cannot write to the terminal");
        }
        let message = tokio::select! {
            message = inbox.recv() => message.unwrap_or(Message::Tick),
            _ = tick.tick() => Message::Tick,
            () = signals.recv() => break Ok(()),
        };
        match update(&mut model, start.elapsed().as_millis() as u64, message) {
            Some(Effect::Quit) => break Ok(()),
            // A full queue means that a refresh is pending already.
            Some(effect) => drop(effects.try_send(effect)),
            None => {}
        }
        // A panic of another thread has restored the terminal already and printed its message.
        if reading.is_finished() || !terminal::is_taken() {
            break Err(anyhow::anyhow!("cannot read the terminal any more"));
        }
        if asking.is_finished() {
            break Err(anyhow::anyhow!("the task that asks the nodes ended; this is a bug of casktop"));
        }
    };
    asking.abort();
    result
}

/// Returns one frame as text: the first screen, `width` by `height`, without colours or trailing blanks.
///
/// # Errors
/// No node answers; the message names each node and its error.
pub async fn once(options: Options, width: u16, height: u16) -> anyhow::Result<String> {
    Ok(view::text(&frame(options, width, height).await?))
}

/// Returns one frame with its colours, for [`crate::svg::render`].
///
/// # Errors
/// No node answers; the message names each node and its error.
pub fn frame(options: Options, width: u16, height: u16) -> Boxed<Buffer> {
    Box::pin(ask_and_draw(options, width, height))
}

async fn ask_and_draw(options: Options, width: u16, height: u16) -> anyhow::Result<Buffer> {
    let options = options.checked()?;
    let mut source = Source::new(options.addrs).with_login(options.login);
    let mut model = Model::new(options.interval_ms, options.screen);
    let start = Instant::now();
    for round in 0..options.rounds.max(1) {
        if round > 0 {
            tokio::time::sleep(Duration::from_millis(options.interval_ms)).await;
        }
        let polled = Message::Polled(Box::new(source.poll().await));
        update(&mut model, start.elapsed().as_millis() as u64, polled);
    }
    if model.snapshot.is_none() {
        let each: Vec<String> =
            model.failures.iter().map(|failure| format!("{} ({})", failure.addr, failure.error)).collect();
        bail!(
            "no node answers: {}; start a local cluster with `caskctl playground`, or name the client address \
             of a running node with --addr HOST:PORT",
            each.join(", ")
        );
    }
    Ok(view::buffer(&model, width, height))
}

/// Asks the nodes in rounds until the receiver of `messages` is dropped.
async fn ask(options: Options, messages: mpsc::Sender<Message>, mut effects: mpsc::Receiver<Effect>) {
    let mut source = Source::new(options.addrs).with_login(options.login);
    let interval = Duration::from_millis(options.interval_ms);
    loop {
        let begun = tokio::time::Instant::now();
        let round = source.poll().await;
        if messages.send(Message::Polled(Box::new(round))).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(begun + interval) => {}
            effect = effects.recv() => match effect {
                Some(Effect::OtherNode) => source.go_on(),
                Some(Effect::Refresh | Effect::Quit) => {}
                None => return,
            },
        }
    }
}

/// Reads keys until the receiver of `messages` is dropped. Runs on a thread of its own because reading the
/// terminal blocks.
fn read_keys(messages: &mpsc::Sender<Message>) {
    while !messages.is_closed() {
        let message = match event::poll(Duration::from_millis(KEYS_MS)) {
            Ok(false) => continue,
            Ok(true) => match event::read() {
                Ok(Event::Key(key)) => Message::Key(key),
                Ok(_) => Message::Tick,
                Err(_) => return,
            },
            Err(_) => return,
        };
        if messages.blocking_send(message).is_err() {
            return;
        }
    }
}

fn draw(taken: &mut Taken, model: &Model) -> std::io::Result<()> {
    let colors = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    taken.terminal.draw(|frame| {
        let area = frame.area();
        view::draw(model, area, frame.buffer_mut());
        if !colors {
            without_colors(frame.buffer_mut());
        }
    })?;
    Ok(())
}

fn without_colors(buf: &mut Buffer) {
    for cell in &mut buf.content {
        (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
    }
}

/// Receiver of SIGTERM, SIGINT and SIGHUP. They end the dashboard, restore the terminal and exit with
/// success.
struct Signals {
    all: [Signal; 3],
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let all = [
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ];
        Ok(Self { all })
    }

    async fn recv(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.all;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
