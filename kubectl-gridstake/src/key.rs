//! The private key that signs. It is never printed.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use alloy::{
    primitives::{Address, B256, Signature},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{Eip712Domain, SolStruct},
};
use gridstake_ledger::{signature, typed};

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error(
        "--key-file: {path} cannot be read; it must hold a private key, 32 bytes as 64 hexadecimal digits"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no key. What it holds is not repeated.
    #[error("--key-file: {path} holds no private key: write 32 bytes as 64 hexadecimal digits")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// It does not sign.
    #[error("sign with the key of {address}")]
    Sign {
        /// The key's address.
        address: Address,
        /// What is wrong.
        #[source]
        source: alloy::signers::Error,
    },
}

/// One private key.
pub struct Key(PrivateKeySigner);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.address())
    }
}

impl Key {
    /// Reads the key from the file at `path`.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        text.trim()
            .parse()
            .map(Self)
            .map_err(|_| KeyError::Malformed {
                path: path.to_owned(),
            })
    }

    /// The key's address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.0.address()
    }

    /// Its signature over a hash, such as that of a transaction.
    pub fn sign_hash(&self, hash: B256) -> Result<Signature, KeyError> {
        self.0
            .sign_hash_sync(&hash)
            .map(Signature::normalized_s)
            .map_err(|source| KeyError::Sign {
                address: self.address(),
                source,
            })
    }

    /// Its signature over `message` for `domain`, as it is written into objects.
    pub fn sign(
        &self,
        message: &impl SolStruct,
        domain: &Eip712Domain,
    ) -> Result<String, KeyError> {
        self.sign_hash(typed::digest(message, domain))
            .map(|signed| signature::text(&signed))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alloy::primitives::address;

    use super::*;
    use crate::error::chain;

    /// The key of 32 bytes of this value.
    pub(crate) fn key(byte: u8) -> Key {
        Key(PrivateKeySigner::from_bytes(&B256::repeat_byte(byte)).unwrap())
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("gridstake-plugin-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_key_is_read_with_and_without_prefix_and_line_end() {
        let digits = "01".repeat(32);
        for (name, text) in [
            ("plain", digits.clone()),
            ("prefix", format!("0x{digits}")),
            ("line", format!("0x{digits}\n")),
        ] {
            let key = Key::read(&file(name, &text)).unwrap();
            assert_eq!(
                key.address(),
                address!("1a642f0E3c3aF545E7AcBD38b07251B3990914F1")
            );
            assert!(!format!("{key:?}").contains("0101"));
        }
    }

    #[test]
    fn a_file_without_a_key_is_named_and_not_repeated() {
        let secret = "not-a-key-but-secret";
        let words = chain(&Key::read(&file("secret", secret)).unwrap_err());
        assert!(
            words.starts_with("--key-file: ") && words.contains("64 hexadecimal digits"),
            "{words}"
        );
        assert!(!words.contains(secret), "{words}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_what_it_must_hold() {
        let words = chain(&Key::read(Path::new("/no/such/file")).unwrap_err());
        for expected in [
            "--key-file",
            "/no/such/file",
            "64 hexadecimal digits",
            "No such file",
        ] {
            assert!(words.contains(expected), "{words} lacks {expected}");
        }
    }
}
