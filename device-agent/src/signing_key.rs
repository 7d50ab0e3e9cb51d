//! The key with which this node's agent signs its evidence: a secp256k1 key in a file of the state directory. It is made
//! once, when there is none; a file that cannot be used is never replaced, since the provider certified what is in it.
//! Then nothing is signed, the GpuNode says why, and it is tried again.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Signature};
use k256::{
    ecdsa::SigningKey as Secp256k1Key,
    elliptic_curve::zeroize::{Zeroize as _, Zeroizing},
};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, outcome::chain};

/// The key's file in the state directory: 64 hexadecimal digits.
pub const FILE: &str = "agent.key";

/// Bytes of a private key.
const KEY_BYTES: usize = 32;

/// Longer than any key file; what is longer is none.
const FILE_BYTES_MAX: u64 = 256;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory cannot be used.
    #[error("prepare the state directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("read the signing key {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("write the signing key {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("make a signing key")]
    Random(#[source] io::Error),
    /// The file is there and holds no key.
    #[error(
        "read the signing key {path}: it does not hold a secp256k1 key of 64 hexadecimal digits; restore it, or remove \
         it to have a new key made, which the provider must certify"
    )]
    Corrupt {
        /// Which.
        path: PathBuf,
    },
    /// Others may have read the key.
    #[error(
        "read the signing key {path}: its mode is {mode:o} and must be 600; if nobody else has read it, chmod it, else \
         remove it to have a new key made, which the provider must certify"
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Whether there is a key.
#[derive(Clone, Debug, Default)]
pub enum KeyState {
    /// It has not been looked for yet.
    #[default]
    Pending,
    /// There is.
    Ready(Arc<SigningKey>),
    /// There is none that can be used, for this reason.
    Unusable(String),
}

/// Loads the key, and tries again until there is one or `stop`.
pub async fn provide(directory: PathBuf, state: watch::Sender<KeyState>, stop: CancellationToken) {
    let mut backoff = Backoff::STANDARD;
    loop {
        // A few small files, once: no reason for another thread.
        match SigningKey::load_or_create(&directory) {
            Ok(key) => {
                tracing::info!(address = %key.address(), "the signing key is ready");
                state.send_replace(KeyState::Ready(Arc::new(key)));
                return;
            }
            Err(error) => {
                let text = chain(&error);
                state.send_if_modified(|state| {
                    let known = matches!(state, KeyState::Unusable(known) if *known == text);
                    if !known {
                        tracing::warn!(
                            error = text,
                            "no evidence can be signed; it is tried again"
                        );
                        *state = KeyState::Unusable(text);
                    }
                    !known
                });
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(backoff.after_failure()) => {}
        }
    }
}

/// This node's key.
pub struct SigningKey {
    key: Secp256k1Key,
    address: Address,
}

impl SigningKey {
    /// The key in `directory`. If there is no file, a key is made and kept there before it is used.
    ///
    /// # Errors
    /// When the directory or the file cannot be used; a file that is there is left as it is.
    pub fn load_or_create(directory: &Path) -> Result<Self, Error> {
        prepare(directory).map_err(|source| Error::Directory {
            path: directory.to_owned(),
            source,
        })?;
        let path = directory.join(FILE);
        match read(&path) {
            Ok(None) => {}
            Ok(Some(key)) => return Ok(key),
            Err(error) => return Err(error),
        }
        let key = Self::random()?;
        match write(directory, &path, &key) {
            Ok(()) => Ok(key),
            // Another agent on this node, such as the one that this one replaces, was faster: its key counts.
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => match read(&path)? {
                Some(key) => Ok(key),
                None => Err(Error::Write { path, source }),
            },
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    fn random() -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
        loop {
            let filled = getrandom(&mut bytes[..], GetRandomFlags::empty())
                .map_err(|error| Error::Random(error.into()))?;
            // All but one in 2^128 numbers are keys.
            if filled == KEY_BYTES
                && let Some(key) = Self::of(&bytes[..])
            {
                return Ok(key);
            }
        }
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let key = Secp256k1Key::from_slice(bytes).ok()?;
        let point = key.verifying_key().to_encoded_point(false);
        let address = Address::from_raw_public_key(point.as_bytes().get(1..)?);
        Some(Self { key, address })
    }

    /// The EVM address of the key.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// Signs a digest, with the signature's lower half of `s` as EVM contracts want it.
    ///
    /// # Errors
    /// For digests that nobody can find.
    pub fn sign(&self, digest: B256) -> Result<Signature, k256::ecdsa::Error> {
        let (signature, recovery) = self.key.sign_prehash_recoverable(digest.as_slice())?;
        Ok(Signature::from_bytes_and_parity(
            &signature.to_bytes(),
            recovery.is_y_odd(),
        ))
    }
}

/// The private part is shown nowhere.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The kubelet makes a hostPath folder with mode 755.
fn prepare(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mode = fs::metadata(directory)?.permissions().mode() & 0o7777;
    if mode != 0o700 {
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<SigningKey>, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(failed)?;
    let corrupt = || Error::Corrupt {
        path: path.to_owned(),
    };
    let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
    alloy_primitives::hex::decode_to_slice(text.trim_ascii(), &mut bytes[..])
        .map_err(|_| corrupt())?;
    SigningKey::of(&bytes[..]).map(Some).ok_or_else(corrupt)
}

/// Writes a whole file beside `path` and links it there, which fails if there is one.
fn write(directory: &Path, path: &Path, key: &SigningKey) -> io::Result<()> {
    let next = path.with_extension("key.next");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut bytes = key.key.to_bytes();
    let text = Zeroizing::new(alloy_primitives::hex::encode(bytes));
    bytes.zeroize();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    let linked = fs::hard_link(&next, path);
    fs::remove_file(&next)?;
    linked?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_used_again() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("gridstake");
        let first = SigningKey::load_or_create(&directory).unwrap();
        let second = SigningKey::load_or_create(&directory).unwrap();
        assert_eq!(first.address(), second.address());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join(FILE)), 0o600);
        let names: Vec<_> = fs::read_dir(&directory).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing else is left there");
    }

    #[test]
    fn two_nodes_have_two_keys() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let address = |dir: &Path| SigningKey::load_or_create(dir).unwrap().address();
        assert_ne!(address(a.path()), address(b.path()));
    }

    #[test]
    fn a_file_that_holds_no_key_is_named_and_left_as_it_is() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(FILE);
        for content in [
            String::new(),
            "not a key".to_owned(),
            "00".repeat(32),
            "ff".repeat(32),
            "ab".repeat(31),
            "ab".repeat(33),
        ] {
            fs::write(&path, &content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let error = SigningKey::load_or_create(state.path()).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{content}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let state = tempfile::tempdir().unwrap();
        SigningKey::load_or_create(state.path()).unwrap();
        let path = state.path().join(FILE);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = SigningKey::load_or_create(state.path()).unwrap_err();
        assert!(error.to_string().contains("its mode is 644"), "{error}");
    }

    #[test]
    fn the_address_is_that_of_the_public_key() {
        // The first account of the mnemonic "test test test … junk", which every EVM tool knows.
        let bytes = alloy_primitives::hex::decode(
            "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
        )
        .unwrap();
        let key = SigningKey::of(&bytes).unwrap();
        assert_eq!(
            key.address().to_string(),
            "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
        );
        let shown = format!("{key:?}");
        assert!(!shown.contains("ac0974"), "{shown}");
    }
}
