//! `transaction`: what has become of a transaction whose answer was lost.

use alloy::primitives::TxHash;
use serde::Serialize;

use super::{args::TransactionArgs, chain::Chain, outcome, place};
use crate::{
    Told,
    error::PluginError,
    output::{Report, written},
};

/// What has become of a transaction.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Fate {
    /// The transaction.
    hash: TxHash,
    /// `Done`, `Failed`, `Waiting` or `Unknown`.
    state: &'static str,
    /// Its block.
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<u64>,
    /// What it did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<outcome::Fact>,
}

impl Report for Fate {
    fn text(&self) -> String {
        let hash = self.hash;
        let block = self.block.unwrap_or_default();
        let mut lines = vec![match self.state {
            "Done" => format!("{hash} is in block {block} and was carried out"),
            "Failed" => format!(
                "{hash} is in block {block} and failed: it cost its gas and changed nothing else"
            ),
            "Waiting" => format!(
                "{hash} is known and in no block yet: it may still be carried out; look again"
            ),
            _ => format!(
                "{hash} is not known to this endpoint: it may have been dropped, or not have reached it; repeat its command with the --nonce that was printed, so that only one of the two can be carried out"
            ),
        }];
        lines.extend(self.events.iter().map(|event| format!("  {}", event.words)));
        lines.join("\n")
    }
}

/// Looks for the transaction.
pub async fn run(args: &TransactionArgs) -> Result<Told, PluginError> {
    let chain = Chain::open(&place::find(&args.on).await?).await?;
    let hash = args.hash;
    let fate = match chain.receipt(hash).await? {
        Some(receipt) => {
            let logs: Vec<_> = receipt.logs().iter().map(|log| log.inner.clone()).collect();
            Fate {
                hash,
                state: if receipt.status() { "Done" } else { "Failed" },
                block: receipt.block_number,
                events: outcome::facts(&chain.contracts(), &chain.token, &logs),
            }
        }
        None => Fate {
            hash,
            state: if chain.knows(hash).await? {
                "Waiting"
            } else {
                "Unknown"
            },
            block: None,
            events: Vec::new(),
        },
    };
    Ok(Told {
        result: written(&fate, args.output)?,
        note: None,
    })
}
