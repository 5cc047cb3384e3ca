//! `caskd`: one Caskade node.

use std::convert::Infallible;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::Context as _;
use caskade_node::config::{self, Loaded, LogFormat, ServerArgs, Settings};
use caskade_node::frontend::security::Security;
use caskade_node::machine;
use caskade_node::runtime::{BeginsAnew, Node};
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One node of a Caskade cluster: a Bitcask store, a share of the ring, and a possible coordinator.
#[derive(Parser)]
#[command(name = "caskd", version)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the settings this command line, the variables and the file come to, and where each is from.
    Config {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    // Whatever this process creates is its user's alone: data files have what ACLs protect.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let args = Args::parse();
    let Loaded { settings, warnings } = match config::load(&args.server, std::env::vars()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let mut text = String::from("caskd does not start; nothing was changed:\n");
            for problem in problems {
                text.push_str(&format!("  - {problem}\n"));
            }
            return fail(&text);
        }
    };
    if let Some(Command::Config { json }) = args.command {
        let text =
            if json { format!("{:#}\n", config::render_json(&settings)) } else { config::render(&settings) };
        // A reader that went away wants no more of it.
        let _ = std::io::stdout().write_all(text.as_bytes());
        return ExitCode::SUCCESS;
    }
    start_log(&settings);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match run(within_open_files(settings)) {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        // In the place of this process: whatever of it still held a port or the store is gone then.
        Ok(End::Anew) => {
            let error = std::process::Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
            fail(&format!(
                "caskd cannot start itself again ({error}); start it: it goes on where it stopped\n"
            ))
        }
        Err(error) => fail(&format!("caskd stops: {error:#}\n")),
    }
}

/// With as many client connections and open data files as the system's limit of open files allows.
fn within_open_files(mut settings: Settings) -> Settings {
    let files = machine::OpenFiles::ask(settings.max_clients.into(), settings.max_open_files);
    settings.max_open_files = settings.max_open_files.min(files.data_files);
    if let Ok(clients) = u32::try_from(files.clients)
        && clients < settings.max_clients
    {
        tracing::warn!(
            "the system allows {} open files, too few for max_clients = {}: {clients} clients are served at one time, {} data \
             files are kept open, and {} connections more are kept for operators. Raise the limit (ulimit -Hn, or \
             LimitNOFILE of the service), or lower max_clients",
            files.allowed,
            settings.max_clients,
            files.data_files,
            machine::OPERATOR_CONNECTIONS
        );
        settings.max_clients = clients;
    }
    settings
}

fn fail(text: &str) -> ExitCode {
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::FAILURE
}

fn start_log(settings: &Settings) {
    // The consensus library tells every message at `info`; a setting that names it still has the last word.
    let filter = tracing_subscriber::EnvFilter::new(format!("openraft=warn,{}", settings.log_level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Human => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

fn run(settings: Settings) -> anyhow::Result<End> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if settings.worker_threads > 0 {
        builder.worker_threads(settings.worker_threads as usize);
    }
    builder.enable_all().build().context("cannot start the threads of the node")?.block_on(serve(settings))
}

/// How a process of the node ended.
enum End {
    /// It was asked to stop.
    Stopped,
    /// The node is to be started again at once: it follows another topology log from now on.
    Anew,
}

async fn serve(settings: Settings) -> anyhow::Result<End> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let security = Security::from_settings(&settings)?;
    let listener = TcpListener::bind(settings.listen).await.with_context(|| {
        format!(
            "cannot listen for clients on {}: is a node running there already? Stop it, or choose another --listen",
            settings.listen
        )
    })?;
    let memcached = listen_for_memcached(&settings).await?;
    let node = tokio::select! {
        started = Node::start(settings, &listener) => match started {
            Err(error) if error.is::<BeginsAnew>() => {
                tracing::warn!("{error:#}");
                return Ok(End::Anew);
            }
            started => started?,
        },
        _ = terminate.recv() => return Ok(End::Stopped),
        _ = interrupt.recv() => return Ok(End::Stopped),
    };
    let (stop, stopping) = watch::channel(false);
    let mut front_ends = JoinSet::new();
    if let Some(tls) = &security.tls {
        front_ends.spawn(tls.clone().keep_fresh(stopping.clone()));
    }
    if let Some(memcached) = memcached {
        front_ends.spawn(node.clone().serve_memcached(memcached, security.clone(), stopping.clone()));
    }
    front_ends.spawn(node.clone().serve_clients(listener, security, stopping));
    let ready = tell_when_ready(&node);
    let refusal = tokio::select! {
        _ = terminate.recv() => {
            tracing::info!("SIGTERM: stopping");
            None
        }
        _ = interrupt.recv() => {
            tracing::info!("SIGINT: stopping");
            None
        }
        reason = node.refused() => Some(reason),
        never = ready => match never {},
    };
    // Clients are answered as long as the node can ask others for what it handed over.
    node.leave().await;
    stop.send_replace(true);
    while let Some(ended) = front_ends.join_next().await {
        ended.context("a front end ended abnormally")?;
    }
    node.stop().await;
    tracing::info!("stopped");
    match refusal {
        None => Ok(End::Stopped),
        Some(_) if node.begins_anew() => Ok(End::Anew),
        Some(reason) => Err(anyhow::anyhow!(reason)),
    }
}

/// The port for memcached clients, if there is to be one.
async fn listen_for_memcached(settings: &Settings) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = settings.memcached_listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen for memcached clients on {address}: does memcached or another node run there? Stop it, or \
             choose another --memcached-listen"
        )
    })?;
    tracing::info!("memcached clients are served on {}", listener.local_addr().unwrap_or(address));
    Ok(Some(listener))
}

/// Says on standard output that the node serves, once it does; never ends.
async fn tell_when_ready(node: &Node) -> Infallible {
    node.wait_until_serving().await;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", node.ready_line()).and_then(|()| stdout.flush()).ok();
    std::future::pending().await
}
