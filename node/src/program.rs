//! The program `caskd`: arguments, log, signals, the node, and the exit code.
//!
//! In the library and not in `main.rs`: the futures of the whole node are compiled in the crate that first
//! polls them, and would be compiled in each program that does.

use std::convert::Infallible;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{self, Loaded, LogFormat, ServerArgs, Settings};
use crate::frontend::security::Security;
use crate::logging::{self, Level, Log};
use crate::machine;
use crate::runtime::reload::Reload;
use crate::runtime::{Node, RestartRequired, note_last_words};
use crate::supervise::{EXIT_PART_ENDED, Part, PartEnded, Supervisor};

/// Time limit for the process to stop after a part of the node has ended.
const FORCED_END: Duration = Duration::from_secs(5);
/// Time limit for writing the queued log lines before the process exits.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// Target of the log lines of this module: the name of the program.
const LOG: &str = "caskd";

const AFTER_HELP: &str = "\
Signals:
  SIGTERM, SIGINT  hand over partitions to other nodes, answer the clients' open requests, and stop
  SIGHUP           reopen the log file; read the settings file, the ACL file and the certificates again;
                   client_idle_s, log_file, log_level and max_clients change at once; the log names the
                   settings that need a restart

Exit codes:
  0   stopped on request
  1   not started, or stopped for a reason that a restart alone does not remove: see standard error
  2   wrong arguments
  70  a part of the node ended unexpectedly: start it again";

/// One node of a Caskade cluster: a Bitcask store, a share of the ring, and a possible coordinator.
#[derive(Parser)]
#[command(name = "caskd", version, after_help = AFTER_HELP)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the effective settings of this command line, the variables and the file, with the source of
    /// each.
    Config {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs `caskd` with the arguments of this process; blocks until the node has stopped. Returns the exit code.
pub fn main() -> ExitCode {
    // Only this user may read the files that the process creates: data files hold the data that ACLs protect.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let args = Args::parse();
    let Loaded { settings, warnings } = match config::load(&args.server, std::env::vars()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let mut text = String::from("caskd does not start; nothing was changed:\n");
            for problem in problems {
                text.push_str(&format!("  - {problem}\n"));
            }
            return fail(&text, 1);
        }
    };
    if let Some(Command::Config { json }) = args.command {
        return print_settings(&settings, json);
    }
    let (log, level) = start_log(&settings);
    for warning in warnings {
        tracing::warn!(target: LOG, "{warning}");
    }
    let supervisor = Supervisor::default();
    supervisor.watch_panics();
    force_end(&supervisor);
    let logs_to_file = settings.log_file.is_some();
    let reload = Reload::new(args.server, settings.clone(), log.clone(), level);
    let ended = run(within_open_files(settings), &supervisor, reload);
    if let Err(error) = &ended
        && logs_to_file
    {
        // The log is a file: `fail` below prints the reason to standard error as well.
        tracing::error!(target: LOG, "caskd stops: {error:#}");
    }
    log.flush(FLUSH_MAX);
    match ended {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        // `exec` replaces this process, which releases every port and the store.
        Ok(End::Restart) => {
            let error = std::process::Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
            fail(
                &format!(
                    "caskd cannot start itself again ({error}); no data was changed; start it by hand\n"
                ),
                1,
            )
        }
        Err(error) => {
            let code = if error.is::<PartEnded>() { EXIT_PART_ENDED } else { 1 };
            fail(&format!("caskd stops: {error:#}\n"), code)
        }
    }
}

/// Ends the process at most [`FORCED_END`] after a part of the node has ended, even if other parts hang.
fn force_end(supervisor: &Supervisor) {
    let due = Arc::new(AtomicBool::new(false));
    let wait = {
        let due = Arc::clone(&due);
        move || {
            while !due.load(Ordering::Acquire) {
                thread::park();
            }
            thread::sleep(FORCED_END);
            std::process::exit(EXIT_PART_ENDED.into());
        }
    };
    match thread::Builder::new().name("forced-end".to_owned()).spawn(wait) {
        Ok(waits) => supervisor.on_end(move || {
            due.store(true, Ordering::Release);
            waits.thread().unpark();
        }),
        Err(error) => tracing::warn!(target: LOG,
            %error,
            "cannot start the thread that ends this process if a part of it hangs: it would have to be \
             killed by hand"
        ),
    }
}

/// Returns the settings with `max_clients` and `max_open_files` lowered to what the system's limit of open
/// files allows.
fn within_open_files(mut settings: Settings) -> Settings {
    let files = machine::OpenFiles::ask(settings.max_clients.into(), settings.max_open_files);
    settings.max_open_files = settings.max_open_files.min(files.data_files);
    if let Ok(clients) = u32::try_from(files.clients)
        && clients < settings.max_clients
    {
        tracing::warn!(target: LOG,
            "the system allows {} open files, too few for max_clients = {}: {clients} clients can connect at \
             one time, {} data files stay open, and {} more connections are reserved for operators. Raise \
             the limit (ulimit -Hn, or LimitNOFILE of the service), or lower max_clients",
            files.allowed,
            settings.max_clients,
            files.data_files,
            machine::OPERATOR_CONNECTIONS
        );
        settings.max_clients = clients;
    }
    settings
}

/// Prints the reason to standard error, waiting at most [`FLUSH_MAX`], and returns the exit code.
fn fail(text: &str, code: u8) -> ExitCode {
    let stderr = Log::start(LogFormat::Human);
    stderr.line(text.as_bytes());
    stderr.flush(FLUSH_MAX);
    ExitCode::from(code)
}

/// Prints the settings. A closed pipe (`caskd config | head`) is no error.
fn print_settings(settings: &Settings, json: bool) -> ExitCode {
    let text = if json { format!("{:#}\n", config::render_json(settings)) } else { config::render(settings) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            fail(&format!("cannot write the settings to standard output: {error}\n"), 1)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Starts the log with the output, format and level of the settings. Returns no level if the filter is
/// invalid.
fn start_log(settings: &Settings) -> (Log, Option<Level>) {
    let log = Log::start(settings.log_format);
    if settings.log_file.is_some() {
        log.write_to(settings.log_file.clone());
    }
    match logging::install(&log, settings.log_format, &settings.log_level) {
        Ok(level) => (log, Some(level)),
        Err(error) => {
            log.line(format!("caskd logs nothing: {error}\n").as_bytes());
            (log, None)
        }
    }
}

fn run(settings: Settings, supervisor: &Supervisor, reload: Arc<Reload>) -> anyhow::Result<End> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if settings.worker_threads > 0 {
        builder.worker_threads(settings.worker_threads as usize);
    }
    let runtime = builder.enable_all().build().context("cannot start the threads of the node")?;
    let data_dir = settings.data_dir.clone();
    let ended = runtime.block_on(serve(settings, supervisor, reload));
    if let Err(error) = &ended
        && let Some(part) = error.downcast_ref()
    {
        // Write the note before the runtime is dropped: the drop waits for tasks, which may hang now.
        note_last_words(&data_dir, part);
    }
    ended
}

/// Reason for the end of the process.
enum End {
    /// A signal asked the process to stop.
    Stopped,
    /// The process must start again at once, because the node changed to another topology log.
    Restart,
}

/// Signals that ask the node to stop.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
        })
    }

    async fn wait(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(target: LOG, signal = name, "stopping");
    }
}

async fn serve(settings: Settings, supervisor: &Supervisor, reload: Arc<Reload>) -> anyhow::Result<End> {
    let mut stop_signals = StopSignals::new()?;
    let hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    tokio::spawn(supervisor.essential(Part::Reload, reload_at(hangup, Arc::clone(&reload))));
    let security = Security::from_settings(&settings)?;
    reload.set_security(security.clone());
    let listener = TcpListener::bind(settings.listen).await.with_context(|| {
        format!(
            "cannot listen for clients on {}: if another node uses this address, stop it, or choose another \
             --listen",
            settings.listen
        )
    })?;
    let memcached = listen_for_memcached(&settings).await?;
    let node = tokio::select! {
        started = Node::start(settings, &listener, supervisor) => match started {
            Err(error) if error.is::<RestartRequired>() => {
                tracing::warn!(target: LOG, "{error:#}");
                return Ok(End::Restart);
            }
            started => started?,
        },
        () = stop_signals.wait() => return Ok(End::Stopped),
    };
    reload.set_node(node.clone());
    let (stop, stopping) = watch::channel(false);
    let mut front_ends = JoinSet::new();
    if let Some(tls) = &security.tls {
        let fresh = tls.clone().keep_fresh(stopping.clone());
        front_ends.spawn(supervisor.essential_until(Part::Certificates, fresh));
    }
    if let Some(memcached) = memcached {
        let serve = node.clone().serve_memcached(memcached, security.clone(), stopping.clone());
        front_ends.spawn(supervisor.essential_until(Part::MemcachedClients, serve));
    }
    let serve = node.clone().serve_clients(listener, security, stopping);
    front_ends.spawn(supervisor.essential_until(Part::RedisClients, serve));
    let stopped = async {
        let refusal = tokio::select! {
            () = stop_signals.wait() => None,
            reason = node.refused() => Some(reason),
            never = tell_when_ready(&node) => match never {},
        };
        // Serve clients until `leave` is done: the node can still forward requests for partitions it handed
        // over.
        node.leave().await;
        stop.send_replace(true);
        while let Some(ended) = front_ends.join_next().await {
            ended.context("a front end ended abnormally")?;
        }
        node.stop().await;
        tracing::info!(target: LOG, "stopped");
        match refusal {
            None => Ok(End::Stopped),
            Some(_) if node.must_restart() => Ok(End::Restart),
            Some(reason) => Err(anyhow::anyhow!(reason)),
        }
    };
    tokio::select! {
        biased;
        ended = supervisor.ended() => {
            tracing::error!(target: LOG, "{ended}");
            node.end_at_once().await;
            Err(ended.into())
        }
        stopped = stopped => stopped,
    }
}

/// Reloads settings, ACL file and certificates at every SIGHUP; never returns.
async fn reload_at(mut hangup: Signal, reload: Arc<Reload>) {
    while hangup.recv().await.is_some() {
        let reload = Arc::clone(&reload);
        if let Err(error) = tokio::task::spawn_blocking(move || reload.reload()).await {
            tracing::error!(
                target: LOG,
                %error,
                "SIGHUP: the reload stopped before its end; send SIGHUP again"
            );
        }
    }
}

/// Opens the port for memcached clients, if the settings name one.
async fn listen_for_memcached(settings: &Settings) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = settings.memcached_listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen for memcached clients on {address}: if memcached or another node uses this \
             address, stop it, or choose another --memcached-listen"
        )
    })?;
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!(target: LOG, address = %bound, "listening for memcached clients");
    Ok(Some(listener))
}

/// Prints the ready line to standard output once the node serves; never returns.
async fn tell_when_ready(node: &Node) -> Infallible {
    node.wait_until_serving().await;
    let line = node.ready_line() + "\n";
    // A separate thread, which nothing waits for: standard output may be a pipe that nobody reads.
    let write = move || {
        let mut stdout = std::io::stdout();
        stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).ok();
    };
    if let Err(error) = thread::Builder::new().name("ready".to_owned()).spawn(write) {
        tracing::warn!(
            target: LOG,
            %error,
            "the node serves, but cannot start the thread that prints the ready line"
        );
    }
    std::future::pending().await
}
