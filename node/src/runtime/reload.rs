//! SIGHUP: reads again what can be read again while the node runs, and says what needs a restart.
//!
//! Invariants: each of the settings, the certificates and the users is taken over whole or left as it was, with an
//! error that says why; a failure in one does not keep the others from being read. A setting whose configured value did
//! not change keeps what CONFIG SET made of it.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::Node;
use crate::config::{self, Loaded, ServerArgs, Settings};
use crate::frontend::security::Security;
use crate::logging::{Level, Log};
use crate::machine;

/// Settings that are taken over while the node runs.
pub const RELOADED: [&str; 4] = ["client_idle_s", "log_file", "log_level", "max_clients"];

/// What is read again, and where it was read from.
pub struct Reload {
    args: ServerArgs,
    log: Log,
    level: Option<Level>,
    security: OnceLock<Security>,
    node: OnceLock<Arc<Node>>,
    /// As they were read last.
    settings: Mutex<Settings>,
}

impl Reload {
    /// Creates one for a process that was started with `args`, which came to `settings`.
    pub fn new(args: ServerArgs, settings: Settings, log: Log, level: Option<Level>) -> Arc<Self> {
        let settings = Mutex::new(settings);
        Arc::new(Self { args, log, level, security: OnceLock::new(), node: OnceLock::new(), settings })
    }

    /// From now on certificates and users are read again, too.
    pub fn set_security(&self, security: Security) {
        drop(self.security.set(security));
    }

    /// From now on the settings of this node change.
    pub fn set_node(&self, node: Arc<Node>) {
        drop(self.node.set(node));
    }

    /// Reads everything again. Blocks: reads files.
    pub fn reload(&self) {
        self.reload_settings();
        if let Some(security) = self.security.get() {
            reload_security(security);
        }
    }

    fn reload_settings(&self) {
        let mut present = self.settings.lock();
        let loaded = match config::load(&self.args, std::env::vars()) {
            Ok(loaded) => loaded,
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                tracing::error!(
                    problems = problems.join("; "),
                    "SIGHUP: the settings cannot be used; the old ones stay"
                );
                // It may have been rotated all the same.
                return self.log.write_to(present.log_file.clone());
            }
        };
        let Loaded { settings: mut new, warnings } = loaded;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let changed = config::changed(&present, &new);
        if changed.contains(&"max_clients") {
            new.max_clients = allowed_clients(&new);
        }
        self.apply(&present, &new);
        let (applied, waiting): (Vec<_>, Vec<_>) =
            changed.iter().copied().partition(|key| RELOADED.contains(key));
        tracing::info!(changed = applied.join(" "), "SIGHUP: the settings are read again");
        if !waiting.is_empty() {
            tracing::warn!(
                settings = waiting.join(" "),
                "SIGHUP: these settings have changed, and stay as they are until the node is restarted"
            );
        }
        // What waits for a restart is named again the next time.
        present.log_level = new.log_level;
        present.log_file = new.log_file;
        present.max_clients = new.max_clients;
        present.client_idle_s = new.client_idle_s;
        if let Some(node) = self.node.get() {
            node.take_settings(&present, &applied);
        }
    }

    fn apply(&self, before: &Settings, new: &Settings) {
        if before.log_level != new.log_level
            && let Some(level) = &self.level
            && let Err(error) = level.set(&new.log_level)
        {
            tracing::error!(error, "SIGHUP: the level of the log cannot be changed; the old one stays");
        }
        // Opened anew also if it has the same name: it may have been moved away.
        self.log.write_to(new.log_file.clone());
    }
}

fn allowed_clients(settings: &Settings) -> u32 {
    let files = machine::OpenFiles::ask(settings.max_clients.into(), settings.max_open_files);
    u32::try_from(files.clients).unwrap_or(u32::MAX).min(settings.max_clients)
}

fn reload_security(security: &Security) {
    if security.access.has_file() {
        match security.access.load() {
            Ok(()) => tracing::info!("SIGHUP: the users of the ACL file are in use"),
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the ACL file cannot be used; the users stay as they were");
            }
        }
    }
    if let Some(tls) = &security.tls {
        match tls.reload() {
            Ok(changed) => tracing::info!(changed, "SIGHUP: the certificates are in use"),
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the certificates cannot be used; the old ones stay");
            }
        }
    }
}

impl Node {
    /// Takes over those of the settings that can change while it runs and did: their keys are in `changed`.
    fn take_settings(&self, settings: &Settings, changed: &[&'static str]) {
        self.client_limits.take_over(settings, |key| changed.contains(&key));
        self.shown_settings.store(Arc::new(settings.clone()));
    }
}
