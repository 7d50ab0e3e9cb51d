//! Remembers what was billed for the slices of this node, should the API server lose it: after it is restored from an
//! older backup, a slice that was sealed and perhaps paid is open again, and would be billed twice.
//!
//! One file a record in the state directory: what was stated about the slice, and the seal. A file is replaced as a
//! whole, made durable, and has the hash of its content in its first line. It is kept for 30 days after the slice's end.
//! Pure: [`Index`], [`encode`], [`decode`]; the edge is [`Keeper`].
//!
//! Only what bears a number is remembered. Nothing else can have been paid.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use alloy_primitives::keccak256;
use gridstake_crds::usage_record::{Evidence, Sealed};
use prometheus::{IntCounter, IntGauge};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{
    clock::wall_unix_ms,
    metrics::Metrics,
    outcome::{Outcomes, Task},
};

/// The folder's name in the state directory.
pub const FOLDER: &str = "seals";
/// Version of the format.
const VERSION: u32 = 1;
/// How long after the end of a slice its seal is remembered, in milliseconds: 30 days.
pub const REMEMBERED_MS: u64 = 30 * 24 * 3_600_000;
/// A slice of 32 checkpoints and 64 devices takes less; what is longer is none of ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// So many files may be waiting to be made durable.
const MOST_STAGED: usize = 512;

/// How a file is named.
const SUFFIX: &str = ".json";
/// How it is named until it is durable.
const NEXT: &str = ".json.next";
/// What is added to the name of a file that does not hold what was written.
const UNREADABLE: &str = ".unreadable";

/// How much is remembered at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Seals. A node with 8 members whose slices take an hour seals 5,760 in 30 days.
    pub count: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Bounds {
    /// What an agent keeps.
    pub const STANDARD: Self = Self {
        count: 8192,
        bytes: 128 << 20,
    };
}

/// What is kept in memory of a seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Begin of the slice, in Unix milliseconds.
    pub start_ms: u64,
    /// Its end.
    pub end_ms: u64,
    /// The hash that tells this seal from any other one.
    pub receipt_hash: String,
    /// The file's length.
    pub bytes: u64,
}

impl Entry {
    fn new(sealed: &Sealed, bytes: usize) -> Self {
        Self {
            start_ms: sealed.start_ms,
            end_ms: sealed.end_ms,
            receipt_hash: sealed.receipt_hash.clone(),
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        }
    }
}

/// Which seals are remembered, by record. Pure: whoever asks says what the wall clock shows.
#[derive(Clone, Debug)]
pub struct Index {
    entries: BTreeMap<String, Entry>,
    /// The same, the oldest first.
    by_end: BTreeSet<(u64, String)>,
    bytes: u64,
    bounds: Bounds,
    /// The newest that was forgotten for want of room ended then.
    crowded_out_ms: Option<u64>,
}

impl Index {
    /// An index that holds nothing.
    #[must_use]
    pub const fn new(bounds: Bounds) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_end: BTreeSet::new(),
            bytes: 0,
            bounds,
            crowded_out_ms: None,
        }
    }

    /// How many seals are remembered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether the seal of `record` is to be remembered at `now_ms`: it bears a number, is not known, and is not as old as
    /// what is forgotten.
    #[must_use]
    pub fn is_news(&self, record: &str, sealed: &Sealed, now_ms: u64) -> bool {
        let known = self.entries.get(record).map(|entry| &entry.receipt_hash);
        let is_full = self.entries.len() >= self.bounds.count;
        let oldest = self.by_end.first().filter(|_| is_full).map(|(end, _)| *end);
        sealed.job_no.is_some()
            && known != Some(&sealed.receipt_hash)
            && !is_over(sealed.end_ms, now_ms)
            && oldest.max(self.crowded_out_ms) < Some(sealed.end_ms)
    }

    /// Whether a seal is remembered of `record`, which is open and begins at `from_ms`, if it is not the first slice. Where
    /// the slice before it was sealed anew and ends elsewhere, what is remembered is of another one.
    #[must_use]
    pub fn holds(&self, record: &str, from_ms: Option<u64>, now_ms: u64) -> bool {
        self.entries.get(record).is_some_and(|entry| {
            !is_over(entry.end_ms, now_ms) && from_ms.is_none_or(|from| from == entry.start_ms)
        })
    }

    /// Takes in a seal, in the place of an older one of the record.
    pub fn insert(&mut self, record: &str, entry: Entry) {
        self.remove(record);
        self.bytes = self.bytes.saturating_add(entry.bytes);
        self.by_end.insert((entry.end_ms, record.to_owned()));
        self.entries.insert(record.to_owned(), entry);
    }

    /// Takes out the seal of `record`.
    pub fn remove(&mut self, record: &str) {
        if let Some(entry) = self.entries.remove(record) {
            self.bytes = self.bytes.saturating_sub(entry.bytes);
            self.by_end.remove(&(entry.end_ms, record.to_owned()));
        }
    }

    /// Takes out the oldest seal whose 30 days are over at `now_ms`, if there is one.
    pub fn take_outdated(&mut self, now_ms: u64) -> Option<String> {
        let (_, record) = self
            .by_end
            .first()
            .filter(|(end_ms, _)| is_over(*end_ms, now_ms))?
            .clone();
        self.remove(&record);
        Some(record)
    }

    /// Takes out the oldest seal, if there are too many.
    pub fn take_crowded_out(&mut self) -> Option<String> {
        let is_too_much = self.entries.len() > self.bounds.count || self.bytes > self.bounds.bytes;
        let (end_ms, record) = self.by_end.first().filter(|_| is_too_much)?.clone();
        self.remove(&record);
        self.crowded_out_ms = self.crowded_out_ms.max(Some(end_ms));
        Some(record)
    }
}

fn is_over(end_ms: u64, now_ms: u64) -> bool {
    now_ms >= end_ms.saturating_add(REMEMBERED_MS)
}

/// Why a seal is not remembered, or was not found again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or the folder cannot be read or written.
    #[error("{verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what was written.
    #[error(
        "read {path}: {what}; it is kept with {UNREADABLE} added to its name, and this seal is not remembered"
    )]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It cannot be told as JSON.
    #[error("encode the seal of UsageRecord {record}")]
    Encode {
        /// Whose.
        record: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The first line of a file; the evidence with the seal in it follows.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    version: u32,
    record: String,
    /// keccak256 of the rest.
    hash: String,
}

/// The file of `record`, whose `evidence` holds the seal.
///
/// # Errors
/// When it cannot be told as JSON.
pub fn encode(record: &str, evidence: &Evidence) -> Result<Vec<u8>, Error> {
    let encode = || {
        let body = serde_json::to_vec(evidence)?;
        let head = Head {
            version: VERSION,
            record: record.to_owned(),
            hash: keccak256(&body).to_string(),
        };
        let mut content = serde_json::to_vec(&head)?;
        content.push(b'\n');
        content.extend_from_slice(&body);
        Ok(content)
    };
    encode().map_err(|source| Error::Encode {
        record: record.to_owned(),
        source,
    })
}

/// The evidence and the seal in the file of `record`.
///
/// # Errors
/// When it does not hold what was written, in words.
pub fn decode(record: &str, content: &[u8]) -> Result<(Evidence, Sealed), String> {
    let end = content.iter().position(|byte| *byte == b'\n');
    let (head, body) = content.split_at(end.ok_or("it has no first line")?);
    let body = &body[1..];
    let head: Head = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    if head.version != VERSION {
        return Err(format!("its version is {} and not {VERSION}", head.version));
    }
    if head.record != record {
        return Err(format!("it is that of {}", head.record));
    }
    if keccak256(body).to_string() != head.hash {
        return Err("its hash is not that of its content".to_owned());
    }
    let evidence: Evidence = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let sealed = evidence.sealed.clone().ok_or("it holds no seal")?;
    Ok((evidence, sealed))
}

/// The folder of seals. All of it blocks.
#[derive(Clone, Debug)]
struct Folder(PathBuf);

impl Folder {
    fn path(&self, record: &str, suffix: &str) -> PathBuf {
        self.0.join(format!("{record}{suffix}"))
    }

    /// All that can be read, and what hindered. Files that hold something else are set aside.
    fn load(&self) -> (Vec<(String, Entry)>, Vec<Error>) {
        let (mut found, mut hindered) = (Vec::new(), Vec::new());
        match self.records() {
            Ok(records) => {
                for record in records {
                    match self.read(&record) {
                        Ok(Some((_, sealed, bytes))) => {
                            found.push((record, Entry::new(&sealed, bytes)));
                        }
                        Ok(None) => {}
                        Err(error) => hindered.push(error),
                    }
                }
            }
            Err(source) => hindered.push(Error::File {
                verb: "list",
                path: self.0.clone(),
                source,
            }),
        }
        (found, hindered)
    }

    /// The records of which there is a file. What never became durable is removed.
    fn records(&self) -> io::Result<Vec<String>> {
        let listed = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut records = Vec::new();
        for file in listed {
            let Ok(name) = file?.file_name().into_string() else {
                continue;
            };
            if name.ends_with(NEXT) {
                fs::remove_file(self.0.join(name))?;
            } else if let Some(record) = name.strip_suffix(SUFFIX) {
                records.push(record.to_owned());
            }
        }
        Ok(records)
    }

    /// What the file of `record` holds, and its length. One that holds something else is set aside.
    fn read(&self, record: &str) -> Result<Option<(Evidence, Sealed, usize)>, Error> {
        let path = self.path(record, SUFFIX);
        let failed = |source| Error::File {
            verb: "read",
            path: path.clone(),
            source,
        };
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let read = if length > FILE_BYTES_MAX {
            Err(format!(
                "it has {length} bytes and not at most {FILE_BYTES_MAX}"
            ))
        } else {
            let content = fs::read(&path).map_err(failed)?;
            decode(record, &content).map(|(evidence, sealed)| (evidence, sealed, content.len()))
        };
        read.map(Some).map_err(|what| {
            let aside = self.path(record, &format!("{SUFFIX}{UNREADABLE}"));
            match fs::rename(&path, aside) {
                Ok(()) => Error::Content {
                    path: path.clone(),
                    what,
                },
                Err(source) => failed(source),
            }
        })
    }

    /// Writes the file of `record` beside the one that is there.
    fn stage(&self, record: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.path(record, NEXT);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.0)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(content)
        };
        write().map_err(|source| Error::File {
            verb: "write",
            path: path.clone(),
            source,
        })
    }

    /// Makes what was staged durable and puts it in its place; then removes `forgotten`.
    fn commit(&self, staged: &BTreeSet<String>, forgotten: &BTreeSet<String>) -> Result<(), Error> {
        let failed = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { verb, path, source }
        };
        for record in staged {
            let next = self.path(record, NEXT);
            let place = || {
                File::open(&next)?.sync_all()?;
                fs::rename(&next, self.path(record, SUFFIX))
            };
            match place() {
                // It is in its place since an earlier try.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                placed => placed.map_err(failed("write", &next))?,
            }
        }
        for record in forgotten {
            for path in [self.path(record, NEXT), self.path(record, SUFFIX)] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed.map_err(failed("remove", &path))?,
                }
            }
        }
        File::open(&self.0)
            .and_then(|folder| folder.sync_all())
            .map_err(failed("sync", &self.0))
    }
}

/// Remembers seals in the state directory. The disk may take its time: what blocks is done on another thread.
pub struct Keeper {
    folder: Folder,
    index: Index,
    /// Written and not durable yet.
    staged: BTreeSet<String>,
    /// Out of the index, and perhaps still on the disk. None of them is staged.
    forgotten: BTreeSet<String>,
    /// What was given back, and told.
    given_back: BTreeSet<String>,
    /// Whether it was told that there is no room.
    is_full: bool,
    outcomes: Outcomes,
    count: IntGauge,
    dropped: IntCounter,
}

impl Keeper {
    /// Remembers in `state_dir`, and begins with what is there. What cannot be read is told, and the rest is remembered.
    pub async fn open(state_dir: &Path, metrics: &Metrics) -> Self {
        Self::bounded(state_dir, metrics, Bounds::STANDARD).await
    }

    /// Remembers within `bounds`.
    pub async fn bounded(state_dir: &Path, metrics: &Metrics, bounds: Bounds) -> Self {
        let mut keeper = Self {
            folder: Folder(state_dir.join(FOLDER)),
            index: Index::new(bounds),
            staged: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            given_back: BTreeSet::new(),
            is_full: false,
            outcomes: Outcomes::new(Task::Seals, metrics),
            count: metrics.seals.clone(),
            dropped: metrics.seals_dropped.clone(),
        };
        let folder = keeper.folder.clone();
        // An error means that the runtime ends.
        if let Ok((found, hindered)) = spawn_blocking(move || folder.load()).await {
            for error in &hindered {
                keeper.outcomes.failure(error);
            }
            for (record, entry) in found {
                keeper.index.insert(&record, entry);
            }
        }
        keeper.make_durable(wall_unix_ms()).await;
        keeper
    }

    /// Notes the seal in `evidence`, if it is news. It is safe once [`Self::make_durable`] has returned.
    pub async fn note(&mut self, record: &str, evidence: Evidence, now_ms: u64) {
        let sealed = evidence.sealed.as_ref();
        let Some(sealed) = sealed.filter(|sealed| self.index.is_news(record, sealed, now_ms))
        else {
            return;
        };
        let content = match encode(record, &evidence) {
            Ok(content) => content,
            Err(error) => return self.outcomes.failure(&error),
        };
        let entry = Entry::new(sealed, content.len());
        let (folder, name) = (self.folder.clone(), record.to_owned());
        match spawn_blocking(move || folder.stage(&name, &content)).await {
            Ok(Ok(())) => {
                self.forgotten.remove(record);
                self.staged.insert(record.to_owned());
                self.index.insert(record, entry);
                self.make_room();
            }
            Ok(Err(error)) => self.outcomes.failure(&error),
            // The runtime ends.
            Err(_) => return,
        }
        // A long list does not fill the disk with what is forgotten again.
        if self.staged.len() + self.forgotten.len() >= MOST_STAGED {
            self.make_durable(now_ms).await;
        }
    }

    /// Makes durable what was noted, and forgets what is to be forgotten at `now_ms`. What fails is tried again the next
    /// time.
    pub async fn make_durable(&mut self, now_ms: u64) {
        while let Some(record) = self.index.take_outdated(now_ms) {
            self.forget(record);
        }
        self.make_room();
        self.count
            .set(i64::try_from(self.index.count()).unwrap_or(i64::MAX));
        if self.staged.is_empty() && self.forgotten.is_empty() {
            return;
        }
        let (staged, forgotten) = (self.staged.clone(), self.forgotten.clone());
        let folder = self.folder.clone();
        match spawn_blocking(move || folder.commit(&staged, &forgotten)).await {
            Ok(Ok(())) => {
                self.staged.clear();
                self.forgotten.clear();
                self.outcomes.success();
            }
            Ok(Err(error)) => self.outcomes.failure(&error),
            Err(_) => {}
        }
    }

    fn make_room(&mut self) {
        while let Some(record) = self.index.take_crowded_out() {
            self.forget(record);
            self.dropped.inc();
            if !self.is_full {
                self.is_full = true;
                let Bounds { count, bytes } = self.index.bounds;
                tracing::warn!(
                    count,
                    bytes,
                    "more was sealed on this node in 30 days than is remembered: the oldest seals are forgotten"
                );
            }
        }
    }

    fn forget(&mut self, record: String) {
        self.staged.remove(&record);
        self.given_back.remove(&record);
        self.forgotten.insert(record);
    }

    /// What was stated about `record`, which is open and begins at `from_ms`, when it was sealed, and the seal; `None` if
    /// none is remembered.
    pub async fn recall(
        &mut self,
        record: &str,
        from_ms: Option<u64>,
        now_ms: u64,
    ) -> Option<Evidence> {
        if !self.index.holds(record, from_ms, now_ms) {
            return None;
        }
        let (folder, name) = (self.folder.clone(), record.to_owned());
        let read = spawn_blocking(move || folder.read(&name)).await;
        // An error means that the runtime ends.
        let found = match read.ok()? {
            Ok(found) => found,
            Err(error) => {
                self.outcomes.failure(&error);
                None
            }
        };
        let Some((evidence, ..)) = found else {
            self.index.remove(record);
            return None;
        };
        if self.given_back.insert(record.to_owned()) {
            tracing::warn!(
                record,
                "the API server has lost the seal of a record that is open again: it is given back from memory"
            );
        }
        Some(evidence)
    }
}

#[cfg(test)]
mod tests;
