//! The part that touches the world: reads keys, signals and the clock, asks the nodes, draws.
//!
//! Asking runs beside drawing, so that a slow node never holds up the screen.

use std::io::IsTerminal;
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

/// Messages that may wait; the senders wait when they are more.
const QUEUE: usize = 64;
/// How often ages are redrawn, in milliseconds.
const TICK_MS: u64 = 250;
/// How often the keyboard's thread looks whether it is still wanted, in milliseconds.
const KEYS_MS: u64 = 200;
/// The shortest interval between two rounds, in milliseconds.
const INTERVAL_MS_MIN: u64 = 100;

/// What to show, and of whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes to ask, `HOST:PORT` of their RESP port; the first is asked first.
    pub addrs: Vec<String>,
    /// Milliseconds between two rounds of questions; at least 100.
    pub interval_ms: u64,
    /// The screen to begin with.
    pub screen: Screen,
    /// For [`once`] and [`frame`]: rounds before the frame is drawn, so that its curves have a history.
    pub rounds: u32,
    /// Words for the operator, shown in the last line for the first seconds.
    pub notice: Option<String>,
    /// As whom to ask.
    pub login: Login,
}

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
    /// One address, or several with commas between them.
    fn from(addrs: &str) -> Self {
        let addrs =
            addrs.split(',').map(str::trim).filter(|addr| !addr.is_empty()).map(str::to_owned).collect();
        Self { addrs, ..Self::default() }
    }
}

impl Options {
    fn checked(mut self) -> anyhow::Result<Self> {
        if self.addrs.is_empty() {
            bail!("no address of a node was given; name one with --addr HOST:PORT");
        }
        self.interval_ms = self.interval_ms.max(INTERVAL_MS_MIN);
        Ok(self)
    }
}

/// Shows the dashboard until the operator leaves it or the process is told to stop.
///
/// # Errors
/// When the standard output is no terminal, or the terminal cannot be used. A cluster that does not answer is no
/// error: it is shown as such and asked again.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let options = options.checked()?;
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("the dashboard needs a terminal; for one frame of text use --once");
    }
    // Before the terminal is taken: from here on a signal ends the loop instead of the process.
    let mut signals = Signals::new().context("signals cannot be awaited")?;
    let mut taken = Taken::take().context("the terminal cannot be used")?;
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
            break Err(error).context("the terminal cannot be written to");
        }
        let message = tokio::select! {
            message = inbox.recv() => message.unwrap_or(Message::Tick),
            _ = tick.tick() => Message::Tick,
            () = signals.recv() => break Ok(()),
        };
        match update(&mut model, start.elapsed().as_millis() as u64, message) {
            Some(Effect::Quit) => break Ok(()),
            // A full queue means that a refresh is under way already.
            Some(effect) => drop(effects.try_send(effect)),
            None => {}
        }
        // A panic elsewhere has given the terminal back already, and said why.
        if reading.is_finished() || !terminal::is_taken() {
            break Err(anyhow::anyhow!("the terminal cannot be read any more"));
        }
        if asking.is_finished() {
            break Err(anyhow::anyhow!("asking the nodes ended unexpectedly; this is a fault of casktop"));
        }
    };
    asking.abort();
    result
}

/// One frame of text: the open screen, `width` by `height`, without colours or trailing blanks.
///
/// # Errors
/// When no node answers; the message names each and why.
pub async fn once(options: Options, width: u16, height: u16) -> anyhow::Result<String> {
    Ok(view::text(&frame(options, width, height).await?))
}

/// One frame with its colours, for [`crate::svg::render`].
///
/// # Errors
/// When no node answers; the message names each and why.
pub async fn frame(options: Options, width: u16, height: u16) -> anyhow::Result<Buffer> {
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
            "no node answers: {}. Start a cluster to look at with `caskctl playground`, or name the RESP port of a \
             running node with --addr HOST:PORT",
            each.join(", ")
        );
    }
    Ok(view::buffer(&model, width, height))
}

/// Asks in rounds until nobody listens.
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

/// Reads keys until nobody listens. A thread of its own: reading the terminal blocks.
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

/// The signals that mean "stop": the terminal is given back, then the process ends with success.
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
