//! An open store with its background thread: what both doors hold.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::background::Background;
use crate::core::Core;
use crate::data_file::FileTable;
use crate::directory::Directory;
use crate::error::{AppendError, OpenError};
use crate::file_system::FileSystem;
use crate::keydir::Keydir;
use crate::log::Log;
use crate::merge::fit_file_limit;
use crate::merge::state::Merges;
use crate::options::Options;
use crate::recovery::{Recovered, Recovery, recover, set_strays_aside};
use crate::stripes::Embedded;

/// A store and its background thread. The thread ends before the store is dropped.
pub(crate) struct OpenStore {
    background: Background,
    pub(crate) core: Arc<Core>,
}

impl Deref for OpenStore {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl fmt::Debug for OpenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStore").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl OpenStore {
    /// Stops the background thread; flushes, syncs and closes the log.
    pub(crate) fn close(&self) -> Result<(), AppendError> {
        self.background.stop();
        self.log.close()
    }
}

/// Opens the store in `options.path` of this file system, or creates it. `replicated`: see
/// [`Core::replicated`].
pub(crate) fn open(
    file_system: Arc<dyn FileSystem>,
    options: Options,
    replicated: bool,
) -> Result<(Arc<OpenStore>, Recovery), OpenError> {
    options.validate().map_err(OpenError::Options)?;
    let (mut directory, mut listing) =
        Directory::open(file_system.clone(), &options.path, options.reserve_bytes)?;
    let strays = set_strays_aside(&mut directory, &mut listing);
    let eras = directory.load_eras(&mut listing)?;
    let keydir = Keydir::new(&eras.eras, options.index);
    let files = Arc::new(FileTable::new(file_system, &options));
    let Recovered { mut report, writer, highest_version, unreadable } =
        recover(&options, &directory, &listing, &files, &keydir)?;
    report.strays = strays;
    let directory = Arc::new(directory);
    let log = Log::start(&options, directory.clone(), writer)?;
    log.counters().records.store(report.records, Ordering::Relaxed);
    let core = Arc::new(Core {
        log,
        keydir,
        files,
        embedded: Embedded::new(highest_version.max(eras.version_floor)),
        eras: Mutex::new(eras),
        merges: Merges::new(unreadable),
        replicated,
        options,
        directory,
    });
    fit_file_limit(&core);
    let background = Background::start(&core)?;
    Ok((Arc::new(OpenStore { background, core }), report))
}
