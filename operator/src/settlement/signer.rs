//! The keys: what each may sign, and where it is read from. Keys are never logged.

use std::path::{Path, PathBuf};

use alloy::{
    primitives::{Address, B256, Signature},
    signers::{SignerSync as _, local::PrivateKeySigner},
};

use crate::chain::config::KeyFiles;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("read {field} from {path}")]
    Read {
        /// The field of the chains file.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no key. What it holds is not repeated.
    #[error("{field}: {path} holds no private key: write 32 bytes as 64 hexadecimal digits")]
    Malformed {
        /// The field of the chains file.
        field: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Two duties share a key.
    #[error(
        "{one} and {other} are the same key: use one key for each, so that a stolen one does no more than it must"
    )]
    Shared {
        /// One field of the chains file.
        one: &'static str,
        /// Another.
        other: &'static str,
    },
}

/// Why a hash was not signed.
#[derive(Debug, thiserror::Error)]
#[error("sign with the key {address}")]
pub struct SignError {
    address: Address,
    #[source]
    source: alloy::signers::Error,
}

/// One private key.
#[derive(Clone)]
pub struct Key(PrivateKeySigner);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.address())
    }
}

impl Key {
    /// Reads the key of `field` from the file at `path`.
    pub fn read(field: &'static str, path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Read {
            field,
            path: path.to_owned(),
            source,
        })?;
        text.trim()
            .parse()
            .map(Self)
            .map_err(|_| KeyError::Malformed {
                field,
                path: path.to_owned(),
            })
    }

    /// The key's address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.0.address()
    }

    /// Signs a hash, such as an EIP-712 digest or a transaction's.
    pub fn sign(&self, hash: B256) -> Result<Signature, SignError> {
        self.0
            .sign_hash_sync(&hash)
            .map(alloy::signers::Signature::normalized_s)
            .map_err(|source| SignError {
                address: self.address(),
                source,
            })
    }
}

impl From<PrivateKeySigner> for Key {
    fn from(signer: PrivateKeySigner) -> Self {
        Self(signer)
    }
}

/// The keys of one chain.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Signs batches.
    pub lane: Key,
    /// Pays for gas.
    pub gas: Key,
    /// Signs slashes, if any are to be proposed.
    pub slash: Option<Key>,
}

impl Keys {
    /// Reads the keys from their files.
    pub fn read(files: &KeyFiles) -> Result<Self, KeyError> {
        let slash = files.slash.as_deref();
        let keys = Self {
            lane: Key::read("keys.laneSigner", &files.lane_signer)?,
            gas: Key::read("keys.gas", &files.gas)?,
            slash: slash
                .map(|path| Key::read("keys.slash", path))
                .transpose()?,
        };
        let lane = ("keys.laneSigner", keys.lane.address());
        let gas = ("keys.gas", keys.gas.address());
        let slash = keys.slash.as_ref();
        let slash = slash.map(|key| ("keys.slash", key.address()));
        for (one, other) in [
            (Some(lane), Some(gas)),
            (Some(lane), slash),
            (Some(gas), slash),
        ] {
            if let (Some(one), Some(other)) = (one, other)
                && one.1 == other.1
            {
                return Err(KeyError::Shared {
                    one: one.0,
                    other: other.0,
                });
            }
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    fn file(name: &str, text: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("gridstake-keys-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn files(lane: &str, gas: &str, slash: Option<&str>) -> KeyFiles {
        let name = |duty: &str, text: &str| {
            file(
                &format!(
                    "{duty}-{}",
                    text.len() * 7 + text.bytes().map(usize::from).sum::<usize>()
                ),
                text,
            )
        };
        KeyFiles {
            lane_signer: name("lane", lane),
            gas: name("gas", gas),
            slash: slash.map(|text| name("slash", text)),
        }
    }

    fn key(byte: u8) -> String {
        alloy::hex::encode([byte; 32])
    }

    #[test]
    fn keys_are_read_with_and_without_prefix_and_line_end() {
        let keys = Keys::read(&files(
            &format!("0x{}\n", key(1)),
            &key(2),
            Some(&format!("{}\n", key(3))),
        ))
        .unwrap();
        assert_eq!(
            keys.lane.address(),
            alloy::primitives::address!("1a642f0E3c3aF545E7AcBD38b07251B3990914F1")
        );
        let signature = keys.gas.sign(B256::repeat_byte(7)).unwrap();
        assert_eq!(
            signature
                .recover_address_from_prehash(&B256::repeat_byte(7))
                .unwrap(),
            keys.gas.address()
        );
        assert!(!format!("{keys:?}").contains("0101"));
    }

    #[test]
    fn a_file_without_a_key_is_named_and_not_repeated() {
        let secret = "not-a-key-but-secret";
        let refused = Keys::read(&files(secret, &key(2), None)).unwrap_err();
        let words = chain(&refused);
        assert!(
            words.contains("keys.laneSigner") && !words.contains(secret),
            "{words}"
        );
    }

    #[test]
    fn two_duties_never_share_a_key() {
        let refused = Keys::read(&files(&key(1), &key(1), None)).unwrap_err();
        assert!(matches!(
            refused,
            KeyError::Shared {
                one: "keys.laneSigner",
                other: "keys.gas"
            }
        ));
        let refused = Keys::read(&files(&key(1), &key(2), Some(&key(2)))).unwrap_err();
        assert!(matches!(
            refused,
            KeyError::Shared {
                other: "keys.slash",
                ..
            }
        ));
    }
}
