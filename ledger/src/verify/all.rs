//! Many files on all cores.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use alloy_primitives::B256;

use super::{
    chain::ChainBatch,
    evidence::{Keys, Signatures},
    file::{self, File, FileError, Summary, Verified},
    lane,
};

/// A batch, and the file that the index names for it.
#[derive(Clone, Debug)]
pub struct Item {
    /// What the chain says about the batch.
    pub chain: ChainBatch,
    /// The file's name in findings.
    pub name: String,
    /// The file's address.
    pub address: B256,
}

/// Why a lane is not verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError<E: std::error::Error + 'static> {
    /// A file cannot be read.
    #[error("read the archive")]
    Load(#[source] E),
    /// Something is wrong with it.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A lane, or a part of it, that was verified.
#[derive(Clone, Debug)]
pub struct VerifiedLane {
    /// What its files say together.
    pub summary: Summary,
    /// Each file.
    pub files: Vec<Verified>,
}

/// Verifies the files of `items`, which are in ascending order, on so many threads; then what they say together. Of several
/// that are wrong the first one is told. `load` reads the file of an item.
pub fn verify<E, L>(
    items: &[Item],
    threads: usize,
    which: Signatures,
    load: L,
) -> Result<VerifiedLane, LaneError<E>>
where
    E: std::error::Error + Send + 'static,
    L: Fn(&Item) -> Result<Vec<u8>, E> + Sync,
{
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                let mut keys = Keys::default();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = one(item, which, &mut keys, &load);
                    let failed = result.is_err();
                    results
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push((index, result));
                    if failed {
                        // Those before it are being verified by others; those after it cannot come first.
                        next.store(items.len(), Ordering::Relaxed);
                        break;
                    }
                }
            });
        }
    });
    let mut results = results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    let mut lane = VerifiedLane {
        summary: Summary::default(),
        files: Vec::with_capacity(results.len()),
    };
    for (_, result) in results {
        let file = result?;
        lane.summary.add(&file.summary);
        lane.files.push(file);
    }
    lane::check(&lane.files).map_err(FileError::Wrong)?;
    Ok(lane)
}

fn one<E, L>(
    item: &Item,
    which: Signatures,
    keys: &mut Keys,
    load: &L,
) -> Result<Verified, LaneError<E>>
where
    E: std::error::Error + 'static,
    L: Fn(&Item) -> Result<Vec<u8>, E>,
{
    let bytes = load(item).map_err(LaneError::Load)?;
    let file = File {
        name: &item.name,
        bytes: &bytes,
        address: Some(item.address),
    };
    Ok(file::verify(file, &item.chain, which, keys)?)
}
