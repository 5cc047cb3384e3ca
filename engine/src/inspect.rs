//! Inspection of a store that is not open, or of a snapshot: the content of its files, the dead part, and
//! damage.
//!
//! It changes nothing in the store: it cuts no torn tail, writes no hint, removes no leftover. It holds the
//! store's lock meanwhile, and so rejects the store of a running program. It reads files with the code of
//! [`Engine::open`](crate::Engine::open); with [`InspectOptions::verify`] it reads every data file as a
//! whole. Memory is bounded as when a store is opened, except that all keys of a file without a valid hint
//! file are held.

mod dump;
mod figures;
mod file;
mod place;
mod report;

use std::path::Path;
use std::sync::Arc;

pub use self::dump::{Dumped, DumpedRecord, dump, dump_on};
use self::figures::count;
use self::file::{FileRead, read_file};
use self::place::Place;
pub use self::report::{
    Damage, DamagedKey, DataFileKind, FileInspection, HintState, InspectError, InspectOptions, Inspection,
    RecordStats,
};
use crate::file_system::{FileSystem, RealFileSystem};
pub use crate::recovery::Quarantined;
use crate::recovery::in_parallel;

/// Inspects a store that is not open, or a snapshot.
pub fn inspect(path: &Path, options: &InspectOptions) -> Result<Inspection, InspectError> {
    inspect_on(&(Arc::new(RealFileSystem) as Arc<dyn FileSystem>), path, options)
}

/// Inspects a store like [`inspect`], on the given file system.
pub fn inspect_on(
    file_system: &Arc<dyn FileSystem>,
    path: &Path,
    options: &InspectOptions,
) -> Result<Inspection, InspectError> {
    let place = Place::open(&**file_system, path)?;
    let reads = read_files(&place, options)?;
    let mut inspection = Inspection {
        path: path.to_owned(),
        snapshot: place.snapshot,
        verified: options.verify,
        refusal: place.refusal.clone(),
        totals: RecordStats { batches: Some(0), ..RecordStats::default() },
        partitions_dropped: place.eras.iter().flatten().filter(|&&era| era > 0).count() as u64,
        leftovers: place.leftovers.clone(),
        ..Inspection::default()
    };
    let lost: Vec<Damage> =
        place.lost.iter().cloned().map(|stretch| Damage { stretch, keys: vec![] }).collect();
    let lost_total = lost.len() as u64;
    inspection.add_damage(lost, lost_total, true);
    let (figures, highest_version) = count(&place, &reads)?;
    inspection.highest_version = highest_version;
    for (read, figures) in reads.into_iter().zip(figures) {
        inspection.totals.add(&figures);
        let FileRead { known, kind, torn_bytes, hint, damage, damage_total, at_open, .. } = read;
        inspection.files.push(FileInspection {
            id: known.id,
            path: known.path,
            kind,
            records: figures,
            file_bytes: known.len,
            torn_bytes,
            hint,
            damaged: damage_total,
        });
        inspection.add_damage(damage, damage_total, at_open);
    }
    Ok(inspection)
}

fn read_files(place: &Place<'_>, options: &InspectOptions) -> Result<Vec<FileRead>, InspectError> {
    let reads = |id: u64| options.verify || place.active == Some(id) || !place.has_hint(id);
    let to_read = place.files.iter().filter(|file| reads(file.id)).map(|file| file.len).sum();
    options.progress.expect(to_read);
    let reads = in_parallel(place.files.len(), |index| {
        place.files.get(index).map(|known| read_file(place, known, options)).transpose()
    })?;
    Ok(reads.into_iter().flatten().collect())
}
