//! Where the archive's files are read from: a folder, or an HTTP address.

use std::{collections::HashMap, io, path::PathBuf, str::FromStr};

use alloy::primitives::B256;
use gridstake_ledger::archive;

use gridstake_endpoint::BodyError;

/// Why the archive could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such folder.
    #[error("--archive: {0} is no folder")]
    NoFolder(PathBuf),
    /// Neither a folder nor an address.
    #[error("--archive: {0:?} is neither a folder nor an http or https address")]
    Address(String),
    /// A file cannot be read.
    #[error("--archive: read {path}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// A file is not there.
    #[error("--archive: {path} is not there")]
    Missing {
        /// The file.
        path: String,
    },
    /// It is larger than any that was ever written.
    #[error("--archive: fetch {path}: the answer is larger than {MOST_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// The server does not give it.
    #[error("--archive: fetch {path}")]
    Http {
        /// The file.
        path: String,
        /// What came of it.
        #[source]
        source: reqwest::Error,
    },
}

/// The largest file that is fetched, in bytes: several times a full batch of 1,000 slices with all that their agents may have
/// signed.
const MOST_BYTES: usize = 256 << 20;

/// An archive that is read.
#[derive(Debug)]
pub enum Source {
    /// A folder.
    Folder(PathBuf),
    /// An HTTP address, and what was fetched from it.
    Http {
        /// It ends with a slash.
        base: reqwest::Url,
        /// The client.
        client: reqwest::Client,
        /// Files by their addresses.
        fetched: HashMap<B256, Vec<u8>>,
    },
}

impl Source {
    /// The archive that `text` names.
    pub fn open(text: &str) -> Result<Self, SourceError> {
        if text.starts_with("http://") || text.starts_with("https://") {
            let base = reqwest::Url::from_str(&format!("{}/", text.trim_end_matches('/')))
                .map_err(|_| SourceError::Address(text.to_owned()))?;
            let mut builder = reqwest::Client::builder();
            if base.scheme() == "http" {
                builder = builder.tls_certs_only([]);
            }
            let client = builder.build().map_err(|source| SourceError::Http {
                path: text.to_owned(),
                source,
            })?;
            return Ok(Self::Http {
                base,
                client,
                fetched: HashMap::new(),
            });
        }
        let path = text.strip_prefix("file://").unwrap_or(text);
        if path.contains("://") {
            return Err(SourceError::Address(text.to_owned()));
        }
        let folder = PathBuf::from(path);
        if folder.is_dir() {
            Ok(Self::Folder(folder))
        } else {
            Err(SourceError::NoFolder(folder))
        }
    }

    /// What stands at `path`; `None` if nothing does.
    pub async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        match self {
            Self::Folder(folder) => match std::fs::read(folder.join(path)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(SourceError::File {
                    path: path.to_owned(),
                    source,
                }),
            },
            Self::Http { base, client, .. } => {
                let failed = |source| SourceError::Http {
                    path: path.to_owned(),
                    source,
                };
                let url = base
                    .join(path)
                    .map_err(|_| SourceError::Address(path.to_owned()))?;
                let answer = client.get(url).send().await.map_err(failed)?;
                if answer.status() == reqwest::StatusCode::NOT_FOUND {
                    return Ok(None);
                }
                let answer = answer.error_for_status().map_err(failed)?;
                match gridstake_endpoint::read(answer, MOST_BYTES).await {
                    Ok(file) => Ok(Some(file)),
                    Err(BodyError::Http(source)) => Err(failed(source)),
                    Err(BodyError::TooLarge(_)) => Err(SourceError::TooLarge {
                        path: path.to_owned(),
                    }),
                }
            }
        }
    }

    /// Makes the file with this address ready for [`Source::load`].
    pub async fn prepare(&mut self, address: B256) -> Result<(), SourceError> {
        if matches!(self, Self::Folder(_)) {
            return Ok(());
        }
        let file = self.read(&archive::object_path(address)).await?;
        if let (Self::Http { fetched, .. }, Some(file)) = (self, file) {
            fetched.insert(address, file);
        }
        Ok(())
    }

    /// The file with this address, without waiting for a network.
    pub fn load(&self, address: B256) -> Result<Vec<u8>, SourceError> {
        let path = archive::object_path(address);
        match self {
            Self::Folder(folder) => {
                std::fs::read(folder.join(&path)).map_err(|source| match source.kind() {
                    io::ErrorKind::NotFound => SourceError::Missing { path },
                    _ => SourceError::File { path, source },
                })
            }
            Self::Http { fetched, .. } => fetched
                .get(&address)
                .cloned()
                .ok_or(SourceError::Missing { path }),
        }
    }
}
