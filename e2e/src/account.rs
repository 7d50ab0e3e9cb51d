//! Accounts of stories on the chain.

use alloy::{
    primitives::{Address, B256, keccak256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{Eip712Domain, SolStruct},
};
use anyhow::{Context as _, Result};

/// An account whose key follows from its name.
#[derive(Clone, Debug)]
pub struct Account {
    signer: PrivateKeySigner,
}

impl Account {
    /// The account of this name; another chain or another story that uses the name has the same one.
    pub fn named(name: &str) -> Result<Self> {
        Self::of_key(keccak256(format!("gridstake e2e {name}")))
    }

    /// The account of this private key.
    pub fn of_key(key: B256) -> Result<Self> {
        let signer = PrivateKeySigner::from_bytes(&key).context("make an account's key")?;
        Ok(Self { signer })
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// Its private key, as a key file holds it.
    #[must_use]
    pub fn key(&self) -> String {
        alloy::hex::encode(self.signer.to_bytes())
    }

    /// Its EIP-712 signature over `message`, as 65 bytes in hexadecimal.
    pub fn sign(&self, message: &impl SolStruct, domain: &Eip712Domain) -> Result<String> {
        let signature = self
            .signer
            .sign_hash_sync(&message.eip712_signing_hash(domain))
            .context("sign a message")?;
        Ok(format!("0x{}", alloy::hex::encode(signature.as_bytes())))
    }
}
