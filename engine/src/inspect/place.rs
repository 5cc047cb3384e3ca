//! A directory under inspection: its valid files, and the missing ones.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use super::report::InspectError;
use crate::directory::{Listing, data_name, hint_name, list, lock, read_eras, read_ids};
use crate::error::{IoError, OpenError, SnapshotError};
use crate::file_system::FileSystem;
use crate::format::marker::{Listed, Marker};
use crate::format::{Era, Eras};
use crate::recovery::{Known, Quarantined, active_of, in_parallel, look_at, lost, lost_file, strays};
use crate::snapshot::read_marker;

/// A store's locked directory, or that of a snapshot, to which no process writes.
pub(super) struct Place<'a> {
    pub(super) file_system: &'a dyn FileSystem,
    pub(super) path: PathBuf,
    pub(super) snapshot: bool,
    /// The data files, by id.
    pub(super) files: Vec<Known>,
    /// Id of the file in which appends would continue.
    pub(super) active: Option<u64>,
    /// The eras by partition; `None` if they cannot be read.
    pub(super) eras: Option<Vec<Era>>,
    pub(super) refusal: Option<String>,
    pub(super) leftovers: Vec<String>,
    /// Files known to be missing.
    pub(super) lost: Vec<Quarantined>,
    hints: Vec<u64>,
    /// Releases the lock when it is dropped.
    _lock: Option<Box<dyn Debug + Send + Sync>>,
}

impl<'a> Place<'a> {
    pub(super) fn open(file_system: &'a dyn FileSystem, path: &Path) -> Result<Self, InspectError> {
        let listed = match read_marker(file_system, path)? {
            Some(Marker::Complete(listed)) => Some(listed),
            Some(Marker::Partial) => {
                let reason = "it was not completed".to_owned();
                return Err(SnapshotError::NotWhole { path: path.to_owned(), reason }.into());
            }
            None => None,
        };
        let lock = match &listed {
            Some(_) => None,
            None => Some(lock_store(file_system, path)?),
        };
        let (mut listing, mut leftovers) = list(file_system, path)?;
        if listed.is_none() {
            let strays = strays(file_system, path, &listing, read_ids(file_system, path));
            leftovers.extend(strays.data.iter().map(|&id| data_name(id)));
            leftovers.extend(strays.hints.iter().map(|&id| hint_name(id)));
            keep_only(&mut listing, |id| !strays.data.contains(&id) && !strays.hints.contains(&id));
        }
        let (eras, mut refusal) = match eras_of(file_system, path, &listing) {
            Ok(eras) => (Some(eras), None),
            Err(OpenError::Io(error)) => return Err(error.into()),
            Err(error) => (None, Some(error.to_string())),
        };
        let mut lost_files = Vec::new();
        if let Some(listed) = &listed {
            keep_only(&mut listing, |id| listed.binary_search_by_key(&id, |file| file.id).is_ok());
            lost_files = missing(path, &listing, listed);
        } else if let Some(eras) = &eras {
            let removed = |id: &&u64| eras.removed.contains(id);
            leftovers.extend(listing.data.iter().filter(removed).map(|&id| data_name(id)));
            leftovers.extend(listing.hints.iter().filter(removed).map(|&id| hint_name(id)));
            keep_only(&mut listing, |id| !eras.removed.contains(&id));
            lost_files.extend(lost(&listing).map(|id| lost_file(path.join(data_name(id)), id)));
        }
        let files = look_at_all(file_system, path, &listing)?;
        if let Some(listed) = &listed {
            lost_files.extend(of_another_length(&files, listed));
            refusal = refusal.or_else(|| lost_files.first().map(|first| first.reason.clone()));
        }
        let active = if listed.is_some() { None } else { active_of(&files) };
        Ok(Self {
            file_system,
            path: path.to_owned(),
            snapshot: listed.is_some(),
            files,
            active,
            eras: eras.map(|eras| eras.eras),
            refusal,
            leftovers,
            lost: lost_files,
            hints: listing.hints,
            _lock: lock,
        })
    }

    pub(super) fn has_hint(&self, id: u64) -> bool {
        self.hints.binary_search(&id).is_ok()
    }

    pub(super) fn hint_path(&self, id: u64) -> PathBuf {
        self.path.join(hint_name(id))
    }
}

/// Locks a directory that contains a store; checks this first, because locking creates a file.
fn lock_store(
    file_system: &dyn FileSystem,
    path: &Path,
) -> Result<Box<dyn Debug + Send + Sync>, InspectError> {
    let (listing, _) = list(file_system, path)?;
    let eras = crate::directory::eras_name();
    let has_eras = file_system.exists(&path.join(eras)).map_err(|e| IoError::new("look for", path, e))?;
    if listing.data.is_empty() && listing.hints.is_empty() && !has_eras {
        return Err(InspectError::NoStore { path: path.to_owned() });
    }
    Ok(lock(file_system, path)?)
}

fn eras_of(file_system: &dyn FileSystem, path: &Path, listing: &Listing) -> Result<Eras, OpenError> {
    match read_eras(file_system, path)? {
        Some(eras) => Ok(eras),
        None if listing.data.is_empty() => Ok(Eras::new()),
        None => Err(crate::directory::eras_missing(path)),
    }
}

fn keep_only(listing: &mut Listing, keep: impl Fn(u64) -> bool) {
    listing.data.retain(|&id| keep(id));
    listing.hints.retain(|&id| keep(id));
}

fn missing(path: &Path, listing: &Listing, listed: &[Listed]) -> Vec<Quarantined> {
    let is_missing = |file: &&Listed| listing.data.binary_search(&file.id).is_err();
    let quarantined = |file: &Listed| Quarantined {
        path: path.join(data_name(file.id)),
        file_id: file.id,
        offset: 0,
        bytes: file.len,
        reason: "the file is missing, but it belongs to the snapshot".to_owned(),
    };
    listed.iter().filter(is_missing).map(quarantined).collect()
}

fn of_another_length(files: &[Known], listed: &[Listed]) -> Vec<Quarantined> {
    let quarantined = |known: &Known| {
        let at = listed.binary_search_by_key(&known.id, |file| file.id).ok()?;
        let had = listed.get(at)?.len;
        let reason = format!("the file has {} bytes instead of {had} as in the snapshot", known.len);
        (had != known.len).then(|| known.quarantined(had.min(known.len), had.abs_diff(known.len), reason))
    };
    files.iter().filter_map(quarantined).collect()
}

fn look_at_all(
    file_system: &dyn FileSystem,
    path: &Path,
    listing: &Listing,
) -> Result<Vec<Known>, InspectError> {
    let files = in_parallel(listing.data.len(), |index| {
        let id = listing.data.get(index).copied();
        id.map(|id| look_at(file_system, path.join(data_name(id)), id)).transpose()
    })?;
    Ok(files.into_iter().flatten().collect())
}
