//! The parts of a log of decisions, from an archive, in their order.

use alloy::primitives::B256;
use gridstake_ledger::archive::{
    self,
    decisions::{Event, Part, Unreadable, decode, newest_path},
};

use crate::verify::source::{Source, SourceError};

/// Something in the archive is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
}

/// Why the log cannot be walked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The archive cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no log of the cluster in it.
    #[error("--archive: there is no log of decisions of cluster {0} in it")]
    NoLog(String),
    /// There is no decision of this hash in the log.
    #[error("--decision: the log of cluster {cluster} has no decision {hash}")]
    NoDecision {
        /// The cluster.
        cluster: String,
        /// The decision.
        hash: B256,
    },
}

/// What is wanted of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Everything,
    /// What is needed to repeat this decision.
    Decision(B256),
}

/// The addresses of the parts that are needed, oldest first, beginning with a whole one unless the log's begin is not there any
/// more. The inner error is what is wrong.
///
/// # Errors
/// When the archive cannot be read, or what is wanted is not in it.
pub async fn find(
    source: &Source,
    cluster: &str,
    wanted: Wanted,
) -> Result<Result<Vec<B256>, Wrong>, LogError> {
    let newest = newest_path(cluster);
    let Some(entry) = source.read(&newest).await? else {
        return Err(LogError::NoLog(cluster.to_owned()));
    };
    let Some(address) = archive::read_index_entry(&entry) else {
        return Ok(Err(Wrong {
            file: newest,
            what: "it names no file".to_owned(),
        }));
    };
    let mut next = Some(address);
    let mut found: Vec<B256> = Vec::new();
    let mut writer: Option<String> = None;
    while let Some(address) = next {
        let part = match read(source, cluster, address).await? {
            Ok(part) => part,
            Err(wrong) => return Ok(Err(wrong)),
        };
        if let Wanted::Decision(hash) = wanted {
            let is_it =
                |(_, event): &_| matches!(event, Event::Decision(decided) if decided.hash == hash);
            if writer.is_none() && part.events.iter().any(is_it) {
                writer = Some(part.head.writer.clone());
            }
            if writer.as_ref() != Some(&part.head.writer) {
                next = part.head.before;
                continue;
            }
        }
        found.push(address);
        if writer.is_some() && part.head.whole {
            break;
        }
        next = part.head.before;
    }
    if let Wanted::Decision(hash) = wanted
        && writer.is_none()
    {
        return Err(LogError::NoDecision {
            cluster: cluster.to_owned(),
            hash,
        });
    }
    found.reverse();
    Ok(Ok(found))
}

/// The part with this address. The inner error is what is wrong with it.
///
/// # Errors
/// When the archive cannot be read.
pub async fn read(
    source: &Source,
    cluster: &str,
    address: B256,
) -> Result<Result<Part, Wrong>, SourceError> {
    let path = archive::object_path(address);
    let wrong = |what: String| {
        Ok(Err(Wrong {
            file: path.clone(),
            what,
        }))
    };
    let Some(file) = source.read(&path).await? else {
        return wrong("it is not there, and another part or the index names it".to_owned());
    };
    let decoded = decode(&file);
    // The line that was changed says more than the file's address.
    if let Err(error @ (Unreadable::Check { .. } | Unreadable::Line { .. })) = &decoded {
        return wrong(error.to_string());
    }
    if archive::address(&file) != address {
        return wrong("its content is not what its name vouches for".to_owned());
    }
    match decoded {
        Ok(part) if part.head.cluster == cluster => Ok(Ok(part)),
        Ok(part) => wrong(format!("it is of cluster {}", part.head.cluster)),
        Err(error) => wrong(error.to_string()),
    }
}
