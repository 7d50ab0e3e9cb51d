//! Files of the archive: written once, durable before anything rests on them.

use std::{
    error::Error as StdError,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use alloy::primitives::B256;
use gridstake_ledger::archive;
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, local::LocalFileSystem,
    parse_url_opts, path::Path, prefix::PrefixStore,
};
use reqwest::Url;

/// Where an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder.
    Folder(PathBuf),
    /// A bucket of S3 or of Google Cloud Storage, and a prefix in it.
    Bucket(Url),
}

/// A text that names no archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no archive: write an absolute path, or file:// and an absolute path, or s3://bucket/prefix, or gs://bucket/prefix"
)]
pub struct LocationError(String);

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || LocationError(text.to_owned());
        if text.starts_with("s3://") || text.starts_with("gs://") {
            let url = Url::parse(text).map_err(|_| wrong())?;
            // A key has no place in an address, which is logged.
            let bare =
                url.username().is_empty() && url.password().is_none() && url.query().is_none();
            return if url.has_host() && bare {
                Ok(Self::Bucket(url))
            } else {
                Err(wrong())
            };
        }
        let path = text.strip_prefix("file://").unwrap_or(text);
        if path.starts_with('/') {
            Ok(Self::Folder(PathBuf::from(path)))
        } else {
            Err(wrong())
        }
    }
}

/// What the environment says about buckets: `AWS_…` and `GOOGLE_…`, as the clouds' own tools read them.
fn bucket_options() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter_map(|(name, value)| {
        let named = name.starts_with("AWS_") || name.starts_with("GOOGLE_");
        named.then(|| (name.to_ascii_lowercase(), value))
    })
}

/// Why the archive could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its folder cannot be made.
    #[error("make the folder of the archive")]
    Folder(#[source] std::io::Error),
    /// A request failed.
    #[error("{op} the archive")]
    Request {
        /// What was done.
        op: &'static str,
        /// What came of it.
        #[source]
        source: object_store::Error,
    },
    /// A file is there under this name, and is another one.
    #[error("{path} of the archive holds something else: it was changed after it was written")]
    Changed {
        /// The file.
        path: String,
    },
}

impl StoreError {
    /// A static word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Folder(_) => "open",
            Self::Request { .. } => "request",
            Self::Changed { .. } => "changed",
        }
    }

    /// What a person should read: without names of files, which differ from one try to the next.
    #[must_use]
    pub fn words(&self) -> String {
        let mut cause: &dyn StdError = self;
        while let Some(next) = cause.source() {
            cause = next;
        }
        match self {
            Self::Changed { .. } => self.to_string(),
            _ => format!("{self}: {cause}"),
        }
    }
}

/// The files of an archive. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Store {
    location: Location,
    bucket: Arc<OnceLock<Arc<dyn ObjectStore>>>,
}

impl Store {
    /// The files at `location`.
    #[must_use]
    pub fn new(location: Location) -> Self {
        Self {
            location,
            bucket: Arc::default(),
        }
    }

    fn open(&self) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let failed = |source| StoreError::Request { op: "open", source };
        match &self.location {
            // Opened each time: a volume may come back.
            Location::Folder(folder) => {
                std::fs::create_dir_all(folder).map_err(StoreError::Folder)?;
                let files = LocalFileSystem::new_with_prefix(folder).map_err(failed)?;
                Ok(Arc::new(files.with_fsync(true)))
            }
            Location::Bucket(url) => {
                if let Some(bucket) = self.bucket.get() {
                    return Ok(bucket.clone());
                }
                let (bucket, prefix) = parse_url_opts(url, bucket_options()).map_err(failed)?;
                let bucket: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(bucket, prefix));
                Ok(self.bucket.get_or_init(|| bucket).clone())
            }
        }
    }

    /// Writes the file of a batch and names it in the index of its lane. Doing it twice is the same as doing it once.
    pub async fn write(&self, index: &str, file: Vec<u8>) -> Result<B256, StoreError> {
        let files = self.open()?;
        let address = archive::address(&file);
        let path = archive::object_path(address);
        if put(&files, &path, file, PutMode::Create).await? == Put::ThereAlready
            && !self.holds(address).await?
        {
            return Err(StoreError::Changed { path });
        }
        // The newest file of a batch counts: it may have been archived again with more certificates.
        self.point(index, address).await?;
        Ok(address)
    }

    /// Writes a file and names it in an index that can be written once; `None` if that names another one already.
    pub async fn write_once(&self, index: &str, file: Vec<u8>) -> Result<Option<B256>, StoreError> {
        let files = self.open()?;
        let address = archive::address(&file);
        put(
            &files,
            &archive::object_path(address),
            file,
            PutMode::Create,
        )
        .await?;
        let entry = archive::index_entry(address).into_bytes();
        if put(&files, index, entry.clone(), PutMode::Create).await? == Put::Written {
            return Ok(Some(address));
        }
        let there = self.read(index).await?;
        Ok((there.as_ref() == Some(&entry)).then_some(address))
    }

    /// Lets an index name this file.
    pub async fn point(&self, index: &str, address: B256) -> Result<(), StoreError> {
        let entry = archive::index_entry(address).into_bytes();
        put(&self.open()?, index, entry, PutMode::Overwrite).await?;
        Ok(())
    }

    /// Whether a file with this address is there; it is not read.
    pub async fn has(&self, address: B256) -> Result<bool, StoreError> {
        let path = Path::from(archive::object_path(address));
        match self.open()?.head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(StoreError::Request {
                op: "look into",
                source,
            }),
        }
    }

    /// Whether the file with this address is there and whole.
    pub async fn holds(&self, address: B256) -> Result<bool, StoreError> {
        let read = self.read(&archive::object_path(address)).await?;
        Ok(read.is_some_and(|file| archive::address(&file) == address))
    }

    /// The bytes at `path`; `None` if there are none.
    pub async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let failed = |source| StoreError::Request { op: "read", source };
        match self.open()?.get(&Path::from(path)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Written,
    ThereAlready,
}

async fn put(
    files: &dyn ObjectStore,
    path: &str,
    bytes: Vec<u8>,
    mode: PutMode,
) -> Result<Put, StoreError> {
    let options = PutOptions::from(mode);
    match files
        .put_opts(&Path::from(path), PutPayload::from(bytes), options)
        .await
    {
        Ok(_) => Ok(Put::Written),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::ThereAlready),
        Err(source) => Err(StoreError::Request {
            op: "write to",
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("gridstake-archive-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    fn store(folder: &std::path::Path) -> Store {
        Store::new(folder.to_str().unwrap().parse().unwrap())
    }

    #[tokio::test]
    async fn a_file_is_found_by_its_address_and_by_the_index() {
        let store = store(&folder("found"));
        let address = store.write("lanes/x/1", b"file".to_vec()).await.unwrap();
        assert_eq!(
            store.write("lanes/x/1", b"file".to_vec()).await.unwrap(),
            address
        );
        assert!(store.holds(address).await.unwrap());
        let entry = store.read("lanes/x/1").await.unwrap().unwrap();
        assert_eq!(archive::read_index_entry(&entry), Some(address));
        assert_eq!(store.read("lanes/x/2").await.unwrap(), None);
        assert!(!store.holds(B256::ZERO).await.unwrap());
        assert!(store.has(address).await.unwrap() && !store.has(B256::ZERO).await.unwrap());
    }

    #[tokio::test]
    async fn a_file_that_was_changed_is_not_taken_for_the_one_that_was_written() {
        let folder = folder("changed");
        let store = store(&folder);
        let address = store.write("lanes/x/1", b"file".to_vec()).await.unwrap();
        std::fs::write(folder.join(archive::object_path(address)), b"life").unwrap();
        assert!(!store.holds(address).await.unwrap());
        let error = store
            .write("lanes/x/1", b"file".to_vec())
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Changed { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_archive_that_cannot_be_written_says_why_in_words_that_stay_the_same() {
        let folder = folder("file");
        std::fs::write(&folder, b"in the way").unwrap();
        let store = store(&folder);
        let words = |error: StoreError| error.words();
        let first = words(store.write("i", b"file".to_vec()).await.unwrap_err());
        assert!(
            first.contains("make the folder of the archive: "),
            "{first}"
        );
        assert_eq!(
            words(store.write("i", b"file".to_vec()).await.unwrap_err()),
            first
        );
        std::fs::remove_file(&folder).unwrap();
        assert!(store.write("i", b"file".to_vec()).await.is_ok());
    }

    #[tokio::test]
    async fn an_index_that_is_written_once_is_not_written_again() {
        only_once(&store(&folder("once"))).await;
    }

    async fn only_once(store: &Store) {
        let first = store.write_once("uptime/1", b"one".to_vec()).await.unwrap();
        assert_eq!(first, Some(archive::address(b"one")));
        // The answer to the first write was lost.
        let again = store.write_once("uptime/1", b"one".to_vec()).await.unwrap();
        assert_eq!(again, first);
        let other = store.write_once("uptime/1", b"two".to_vec()).await.unwrap();
        assert_eq!(other, None);
        let entry = store.read("uptime/1").await.unwrap().unwrap();
        assert_eq!(archive::read_index_entry(&entry), first);
        store
            .point("uptime/newest", archive::address(b"two"))
            .await
            .unwrap();
        store
            .point("uptime/newest", archive::address(b"one"))
            .await
            .unwrap();
        assert_eq!(store.read("uptime/newest").await.unwrap(), Some(entry));
    }

    /// `GRIDSTAKE_TEST_BUCKETS`: addresses of empty buckets, separated by spaces; the environment holds their keys.
    #[tokio::test]
    #[ignore = "long: operator/tests/buckets.sh runs it against servers of its own"]
    async fn a_bucket_holds_what_a_folder_does() {
        rustls::crypto::ring::default_provider()
            .install_default()
            .unwrap();
        let buckets = std::env::var("GRIDSTAKE_TEST_BUCKETS").unwrap();
        assert!(!buckets.trim().is_empty());
        for bucket in buckets.split_whitespace() {
            let store = Store::new(bucket.parse().unwrap());
            let address = store.write("lanes/x/1", b"file".to_vec()).await.unwrap();
            assert_eq!(
                store.write("lanes/x/1", b"file".to_vec()).await.unwrap(),
                address
            );
            assert!(store.holds(address).await.unwrap() && store.has(address).await.unwrap());
            assert!(
                !store.holds(B256::ZERO).await.unwrap() && !store.has(B256::ZERO).await.unwrap()
            );
            let entry = store.read("lanes/x/1").await.unwrap().unwrap();
            assert_eq!(archive::read_index_entry(&entry), Some(address));
            // A second version is indexed.
            let later = store.write("lanes/x/1", b"life".to_vec()).await.unwrap();
            let entry = store.read("lanes/x/1").await.unwrap().unwrap();
            assert_eq!(archive::read_index_entry(&entry), Some(later));
            only_once(&store).await;
            // Somebody puts something else in the place of a file.
            let path = Path::from(archive::object_path(address));
            let changed = PutPayload::from_static(b"changed");
            store.open().unwrap().put(&path, changed).await.unwrap();
            assert!(!store.holds(address).await.unwrap());
            let refused = store
                .write("lanes/x/1", b"file".to_vec())
                .await
                .unwrap_err();
            assert!(matches!(refused, StoreError::Changed { .. }), "{refused}");
        }
    }

    #[test]
    fn an_address_that_names_no_archive_is_refused_with_what_would() {
        let folder = Ok(Location::Folder("/a".into()));
        assert_eq!("/a".parse(), folder);
        assert_eq!("file:///a".parse(), folder);
        for bucket in ["s3://bucket", "gs://bucket/some/prefix"] {
            let expected = Location::Bucket(bucket.parse().unwrap());
            assert_eq!(bucket.parse(), Ok(expected));
        }
        for wrong in [
            "a",
            "s3://",
            "http://host/",
            "s3://key:secret@bucket",
            "s3://bucket?x=y",
            "",
        ] {
            let refused = wrong.parse::<Location>().unwrap_err().to_string();
            assert!(
                refused.contains("an absolute path") && refused.contains("s3://bucket"),
                "{refused}"
            );
        }
    }
}
