//! SIGHUP: reads again the files that can change while the node runs, and logs the changes that need a
//! restart.
//!
//! Invariants: the settings, the certificates and the users are each adopted completely, or stay unchanged
//! with an error that has the reason. A failure of one does not prevent the others. A setting whose
//! configured value is unchanged keeps the value of CONFIG SET.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::Node;
use crate::config::{self, Loaded, ServerArgs, Settings};
use crate::frontend::security::Security;
use crate::logging::{Level, Log};
use crate::machine;

/// Settings that a running node adopts.
pub const RELOADED: [&str; 4] = ["client_idle_s", "log_file", "log_level", "max_clients"];

/// The sources of the settings, and the receivers of changes.
pub struct Reload {
    args: ServerArgs,
    log: Log,
    level: Option<Level>,
    security: OnceLock<Security>,
    node: OnceLock<Arc<Node>>,
    /// The settings of the last read.
    settings: Mutex<Settings>,
}

impl Reload {
    /// Creates the state of a process that was started with `args`, which resulted in `settings`.
    pub fn new(args: ServerArgs, settings: Settings, log: Log, level: Option<Level>) -> Arc<Self> {
        let settings = Mutex::new(settings);
        Arc::new(Self { args, log, level, security: OnceLock::new(), node: OnceLock::new(), settings })
    }

    /// Includes certificates and users in later reloads.
    pub fn set_security(&self, security: Security) {
        drop(self.security.set(security));
    }

    /// Makes later reloads change the settings of this node.
    pub fn set_node(&self, node: Arc<Node>) {
        drop(self.node.set(node));
    }

    /// Reads all files again. Blocks.
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
                    "SIGHUP: the new settings are not valid; the old ones stay in use"
                );
                // Open the log file again: it may have been rotated.
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
        tracing::info!(changed = applied.join(" "), "SIGHUP: adopted the changed settings");
        if !waiting.is_empty() {
            tracing::warn!(
                settings = waiting.join(" "),
                "SIGHUP: these settings have changed, but need a restart of the node"
            );
        }
        // Settings that need a restart are reported again at the next reload.
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
            tracing::error!(error, "SIGHUP: cannot change the level of the log; the old one stays");
        }
        // Open the log file again, even under the same name: it may have been moved.
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
            Ok(()) => tracing::info!("SIGHUP: adopted the users of the ACL file"),
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the ACL file is not valid; the users stay unchanged");
            }
        }
    }
    if let Some(tls) = &security.tls {
        match tls.reload() {
            Ok(changed) => tracing::info!(changed, "SIGHUP: adopted the certificates"),
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the certificates are not valid; the old ones stay in use");
            }
        }
    }
}

impl Node {
    /// Adopts the settings whose keys are in `changed`, as far as a running node can adopt them.
    fn take_settings(&self, settings: &Settings, changed: &[&'static str]) {
        self.client_limits.take_over(settings, |key| changed.contains(&key));
        self.shown_settings.store(Arc::new(settings.clone()));
    }
}
