//! Somebody who sends transactions by the kubectl plugin, with a key in a file.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{account::Account, chain::Chain, command::plugin};

/// An account with its key in a file, as a user has it.
pub struct PluginUser {
    /// The account.
    pub account: Account,
    folder: TempDir,
}

impl PluginUser {
    /// Puts the account's key into a file, which is gone with the user.
    pub fn of(account: Account) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for a key")?;
        let user = Self { account, folder };
        std::fs::write(user.file("key"), user.account.key()).context("write a key")?;
        Ok(user)
    }

    /// A file of the user's own.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the plugin with this user's key, and returns what it printed.
    pub async fn runs(&self, line: &str) -> Result<String> {
        let key_file = self.file("key");
        let key_file = key_file.to_string_lossy();
        let words: Vec<&str> = line.split(' ').chain(["--key-file", &key_file]).collect();
        let told = plugin(&words).await?;
        ensure!(told.status == 0, "{line}: {told:?}");
        Ok(told.printed)
    }

    /// The same of a command that sends: the first event that its transactions left.
    pub async fn sends(&self, chain: &Chain, line: &str) -> Result<Value> {
        // Which contracts, on which lane, is read from the cluster; its endpoint is not for this machine.
        let line = format!("{line} --rpc {} --yes -o json", chain.url);
        let told: Value = serde_json::from_str(&self.runs(&line).await?)?;
        told.pointer("/transactions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find_map(|transaction| transaction.pointer("/events/0").cloned())
            .with_context(|| format!("{line} left no event: {told}"))
    }
}
